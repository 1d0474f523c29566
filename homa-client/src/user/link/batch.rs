//! Several packets per system call, and the control messages that come and go with them.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use arrayvec::ArrayVec;
use bytes::Bytes;
use nix::cmsg_space;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    CmsgIterator, ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage,
    recvmmsg,
};

use super::socket::LinkSocket;
use super::{BATCH, LinkCounters, Look, Received, Waits};
use crate::buffers::Buffers;
use crate::engine::{Datagram, Socket};
use crate::user::endpoint::lock;

/// A socket that packets come from.
#[derive(Debug)]
pub(super) struct Inlet {
    pub(super) socket: LinkSocket,
    pub(super) content: Content,
    /// Sockets with the same number get addresses and control messages of the same lengths.
    kind: usize,
    /// How many packets it has lost for lack of room, as it said last.
    overflowed: AtomicU32,
}

/// Numbers of [`Inlet::kind`].
const KINDS: usize = 8;

impl Inlet {
    /// `addr` is where `socket` is bound.
    pub(super) fn new(
        socket: socket2::Socket,
        addr: SocketAddr,
        content: Content,
        waits: Waits,
    ) -> io::Result<Self> {
        let bit = |bit: bool, at: u32| usize::from(bit) << at;
        let raw = content != Content::Udp;
        Ok(Self {
            socket: LinkSocket::new(socket, waits)?,
            content,
            kind: bit(addr.is_ipv6(), 0) | bit(addr.ip().is_unspecified(), 1) | bit(raw, 2),
            overflowed: AtomicU32::new(0),
        })
    }

    /// What the system told along with a packet, for the counters.
    pub(super) fn note(&self, described: &Described, counters: &LinkCounters) {
        if let Some(total) = described.overflowed {
            counters.overflowed(&self.overflowed, total);
        }
    }
}

/// What a socket hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Homa packets.
    Udp,
    /// IPv4 packets with their header. `mapped`: their addresses are told as IPv6 ones.
    Ipv4 { mapped: bool },
    /// What follows the IPv6 headers.
    Ipv6,
}

/// Where one batch of packets is received. Short ones are copied out at their exact size, a long
/// one keeps its buffer.
type Slots = Vec<Box<[u8]>>;
type Headers = MultiHeaders<SockaddrStorage>;

/// As many as there were threads that received at a time. Any thread that waits for a blocking
/// call may receive, and with buffers of their own many of them would hold much memory.
static SLOTS: Mutex<Vec<Slots>> = Mutex::new(Vec::new());

thread_local! {
    /// Headers of `recvmmsg` cannot move between threads, tasks do: each thread has its own. The
    /// kernel leaves the lengths of what it wrote in them, which is all the room that the next
    /// packet has; so there is one set per kind of socket.
    static HEADERS: RefCell<[Option<Headers>; KINDS]> =
        const { RefCell::new([const { None }; KINDS]) };
}

/// Takes up to [`BATCH`] packets.
pub(super) fn receive(
    inlet: &Inlet,
    look: Look,
    (buffers, counters): (&Buffers, &LinkCounters),
    into: &mut Vec<Datagram>,
) -> Received {
    let before = into.len();
    let mut came = 0;
    let result = inlet.socket.read(look, || {
        let mut slots = lock(&SLOTS).pop().unwrap_or_default();
        slots.resize_with(BATCH, || buffers.take());
        let result = receive_into(&mut slots, inlet, (buffers, counters), into);
        lock(&SLOTS).push(slots);
        came = result?;
        // A partial batch tells that the socket is empty: forget that it was readable, which saves
        // the call that would find nothing.
        if came < BATCH {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    });
    let received = into.len() - before;
    if came > 0 {
        counters.received(received);
    }
    let failed = result
        .err()
        .filter(|error| error.kind() != io::ErrorKind::WouldBlock);
    if let Some(error) = &failed {
        tracing::debug!(%error, "receive failed");
    }
    Received {
        truncated: came - received,
        // An error came in place of packets that may wait behind it.
        more: came == BATCH || failed.is_some(),
        errors_queued: failed.is_some(),
    }
}

/// One system call; returns how many packets it brought, also those that are of no use.
fn receive_into(
    slots: &mut Slots,
    inlet: &Inlet,
    (buffers, counters): (&Buffers, &LinkCounters),
    into: &mut Vec<Datagram>,
) -> io::Result<usize> {
    let mut long: ArrayVec<Long, BATCH> = ArrayVec::new();
    let came = HEADERS.with_borrow_mut(|all| {
        let headers = all[inlet.kind].get_or_insert_with(|| {
            let cmsgs = cmsg_space!(i32, i32, u32, in6_pktinfo, in_pktinfo);
            MultiHeaders::preallocate(BATCH, Some(cmsgs))
        });
        let mut slots = slots.iter_mut();
        let mut iovs: [[IoSliceMut<'_>; 1]; BATCH] = std::array::from_fn(|_| {
            [IoSliceMut::new(
                slots.next().map_or(&mut [], |slot| &mut slot[..]),
            )]
        });
        let fd = inlet.socket.as_raw_fd();
        let (mut came, mut cut) = (0, false);
        for message in recvmmsg(fd, headers, iovs.iter_mut(), MsgFlags::MSG_DONTWAIT, None)? {
            came += 1;
            cut |= message.flags.contains(MsgFlags::MSG_CTRUNC);
            let Some(described) = describe(message.address, message.cmsgs()) else {
                continue;
            };
            inlet.note(&described, counters);
            let whole = !message.flags.contains(MsgFlags::MSG_TRUNC);
            let received = message.iovs().next().unwrap_or_default();
            let Some(packet) = inlet.content.homa_packet(received).filter(|_| whole) else {
                continue;
            };
            let data = if Buffers::keeps(packet.len()) {
                long.push(Long {
                    slot: came - 1,
                    packet: received.len() - packet.len()..received.len(),
                    datagram: into.len(),
                });
                Bytes::new()
            } else {
                Bytes::copy_from_slice(packet)
            };
            into.push(described.datagram(inlet.content, Socket::Main, data));
        }
        if cut {
            // A socket that has lost packets tells more than it did before.
            all[inlet.kind] = None;
        }
        io::Result::Ok(came)
    })?;
    // By `drain`, or the whole array would be moved.
    for Long {
        slot,
        packet,
        datagram,
    } in long.drain(..)
    {
        let buffer = std::mem::replace(&mut slots[slot], buffers.take());
        into[datagram].data = buffers.freeze(buffer, packet.end).slice(packet);
    }
    Ok(came)
}

/// A packet that keeps its buffer.
struct Long {
    slot: usize,
    /// What part of the buffer it is.
    packet: Range<usize>,
    /// Which of the datagrams.
    datagram: usize,
}

impl Content {
    /// The Homa packet in what a socket handed over.
    fn homa_packet(self, packet: &[u8]) -> Option<&[u8]> {
        match self {
            Self::Udp | Self::Ipv6 => Some(packet),
            // The header's length, options included, in words of 4 bytes.
            Self::Ipv4 { .. } => packet.get(usize::from(packet.first()? & 0x0f) * 4..),
        }
    }
}

/// What the system tells of a packet.
pub(super) struct Described {
    from: SocketAddr,
    local: Option<IpAddr>,
    tos: u8,
    /// Length of the packets of which this is a run.
    pub(super) segment: Option<usize>,
    /// Packets that the socket has lost so far.
    overflowed: Option<u32>,
}

impl Described {
    pub(super) fn datagram(&self, content: Content, socket: Socket, data: Bytes) -> Datagram {
        let mapped = content == Content::Ipv4 { mapped: true };
        let name = |ip: IpAddr| match ip {
            IpAddr::V4(ip) if mapped => ip.to_ipv6_mapped().into(),
            _ => ip,
        };
        let mut from = self.from;
        from.set_ip(name(from.ip()));
        Datagram {
            from,
            local: self.local.map(name),
            tos: self.tos,
            socket,
            data,
        }
    }
}

/// Reads the address and the control messages of a received packet.
pub(super) fn describe(
    address: Option<SockaddrStorage>,
    cmsgs: nix::Result<CmsgIterator<'_>>,
) -> Option<Described> {
    let mut described = Described {
        from: socket_addr(&address?)?,
        local: None,
        tos: 0,
        segment: None,
        overflowed: None,
    };
    for cmsg in cmsgs.into_iter().flatten() {
        match cmsg {
            ControlMessageOwned::Ipv4Tos(tos) => described.tos = tos,
            ControlMessageOwned::Ipv6TClass(tclass) => described.tos = tclass as u8,
            // They differ for broadcasts, which nothing may be sent from.
            ControlMessageOwned::Ipv4PacketInfo(info)
                if info.ipi_spec_dst.s_addr == info.ipi_addr.s_addr =>
            {
                let ip = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                described.local = Some(ip.into());
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                described.local = Some(ip.into()).filter(|ip: &IpAddr| !ip.is_multicast());
            }
            ControlMessageOwned::UdpGroSegments(size) => {
                described.segment = usize::try_from(size).ok().filter(|size| *size > 0);
            }
            ControlMessageOwned::RxqOvfl(drops) => described.overflowed = Some(drops),
            _ => {}
        }
    }
    Some(described)
}

pub(super) fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id()).into())
}

/// What goes along with outgoing packets: their TOS byte, and the address they leave from.
pub(super) struct Marks {
    v4: bool,
    tos: u8,
    tclass: i32,
    from_v4: Option<in_pktinfo>,
    from_v6: Option<in6_pktinfo>,
}

impl Marks {
    pub(super) fn new(to: IpAddr, local: Option<IpAddr>, tos: u8) -> Self {
        let mut marks = Self {
            v4: to.to_canonical().is_ipv4(),
            tos,
            tclass: tos.into(),
            from_v4: None,
            from_v6: None,
        };
        match local {
            Some(IpAddr::V4(ip)) => {
                marks.from_v4 = Some(in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: in_addr {
                        s_addr: u32::from(ip).to_be(),
                    },
                    ipi_addr: in_addr { s_addr: 0 },
                });
            }
            Some(IpAddr::V6(ip)) => {
                marks.from_v6 = Some(in6_pktinfo {
                    ipi6_addr: in6_addr {
                        s6_addr: ip.octets(),
                    },
                    ipi6_ifindex: 0,
                });
            }
            None => {}
        }
        marks
    }

    /// At most two.
    pub(super) fn cmsgs(&self) -> ArrayVec<ControlMessage<'_>, 3> {
        let mut cmsgs = ArrayVec::new();
        cmsgs.push(if self.v4 {
            ControlMessage::Ipv4Tos(&self.tos)
        } else {
            ControlMessage::Ipv6TClass(&self.tclass)
        });
        let from_v4 = self.from_v4.as_ref().map(ControlMessage::Ipv4PacketInfo);
        cmsgs.extend(from_v4);
        let from_v6 = self.from_v6.as_ref().map(ControlMessage::Ipv6PacketInfo);
        cmsgs.extend(from_v6);
        cmsgs
    }
}
