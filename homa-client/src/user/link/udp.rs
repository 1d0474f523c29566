//! The sockets of a UDP endpoint.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;
use bytes::Bytes;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, getsockopt,
    recvmmsg, recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, SockAddr, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::super::buffers::Buffers;
use super::errors::{self, unreachable_reason};
use super::{LinkCounters, Look, MAIN_BATCH, QUOTE_LEN, Refused, Sent, socket_addr};
use crate::config::{BulkPort, Config};
use crate::engine::{Datagram, Segment, Socket, Transmit, Unreachable};
use crate::error::BindError;

/// The longest packet taken from the main socket: a peer may use a larger MTU than we do.
const MAX_PACKET: usize = crate::config::MAX_MTU;

/// What the kernel charges a socket's buffer for a packet of ordinary size, header and all: a
/// buffer of 212,992 bytes holds 92 of them.
const PACKET_CHARGE: usize = 2315;

/// Segments per send: `UDP_MAX_SEGMENTS` of older kernels.
const MAX_SEGMENTS: usize = 64;

/// Bytes per send, with room for the headers of the longest IP packet.
const MAX_SEND_BYTES: usize = 65_000;

/// The sockets of one endpoint. All sending is done on the main one, by any thread; receiving
/// by the driver alone.
#[derive(Debug)]
pub(in super::super) struct Udp {
    main: UdpSocket,
    bulk: Option<UdpSocket>,
    local: SocketAddr,
    buffers: Buffers,
    /// Whether one send may hold several segments; switched off when the system refuses.
    gso: AtomicBool,
    gro: bool,
    main_buffer: usize,
    bulk_buffer: usize,
    pub(in super::super) counters: LinkCounters,
}

impl Udp {
    /// Opens the sockets; `addr` with port 0 takes any free port. Must be called in a runtime.
    pub(in super::super) fn open(addr: SocketAddr, config: &Config) -> Result<Self, BindError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::AddressInUse { addr },
            _ => BindError::Socket { addr, source },
        };
        let (main, main_buffer) = socket(addr, config).map_err(failed)?;
        let local = main.local_addr().map_err(failed)?;
        let bulk_addr = match config.bulk_port {
            BulkPort::Off => None,
            BulkPort::Any => Some(SocketAddr::new(local.ip(), 0)),
            BulkPort::Fixed(port) => Some(SocketAddr::new(local.ip(), port)),
        };
        let bulk = bulk_addr
            .map(|addr| socket(addr, config))
            .transpose()
            .map_err(failed)?;
        let (bulk, bulk_buffer) = bulk.unzip();
        let gro = bulk
            .as_ref()
            .is_some_and(|bulk| setsockopt(bulk, sockopt::UdpGroSegment, &true).is_ok());
        // A kernel that knows the option supports it, unless the device says otherwise later.
        let gso = getsockopt(&main, sockopt::UdpGsoSegment).is_ok();
        Ok(Self {
            main: UdpSocket::from_std(main).map_err(failed)?,
            bulk: bulk.map(UdpSocket::from_std).transpose().map_err(failed)?,
            local,
            buffers: Buffers::default(),
            gso: AtomicBool::new(gso),
            gro,
            main_buffer,
            bulk_buffer: bulk_buffer.unwrap_or(main_buffer),
            counters: LinkCounters::default(),
        })
    }

    pub(in super::super) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(in super::super) fn bulk_port(&self) -> Option<u16> {
        Some(self.bulk.as_ref()?.local_addr().ok()?.port())
    }

    pub(in super::super) fn gso(&self) -> bool {
        self.gso.load(Ordering::Relaxed)
    }

    pub(in super::super) fn gro(&self) -> bool {
        self.gro
    }

    /// Full-size packets that the sockets' buffers hold: main, bulk.
    pub(in super::super) fn buffered_packets(&self) -> (usize, usize) {
        (
            self.main_buffer / PACKET_CHARGE,
            self.bulk_buffer / PACKET_CHARGE,
        )
    }

    pub(in super::super) fn main(&self) -> &UdpSocket {
        &self.main
    }

    pub(in super::super) fn bulk(&self) -> Option<&UdpSocket> {
        self.bulk.as_ref()
    }

    /// Sends a batch. Transmits that fit together leave in one system call.
    pub(in super::super) fn send(&self, batch: &[Transmit]) -> Sent {
        let mut sent = Sent::default();
        while sent.done < batch.len() {
            let rest = &batch[sent.done..];
            let group = if self.gso() { group_len(rest) } else { 1 };
            match self.send_group(&rest[..group], &mut sent) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.counters.send_errors.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(to = %rest[0].to, %error, "send failed");
                    // "Connection refused" is always about an earlier packet.
                    if let Some(reason) = unreachable_reason(&error)
                        && reason != Unreachable::Port
                    {
                        let header = rest[0].segments[0].header.iter().copied();
                        let quote = header.take(QUOTE_LEN).collect();
                        sent.refused.push(Refused {
                            to: rest[0].to,
                            reason,
                            quote,
                        });
                    }
                }
            }
            sent.done += group;
        }
        sent
    }

    fn send_group(&self, group: &[Transmit], sent: &mut Sent) -> io::Result<()> {
        let segments: ArrayVec<&Segment, MAX_SEGMENTS> = group
            .iter()
            .flat_map(|transmit| &transmit.segments)
            .take(MAX_SEGMENTS)
            .collect();
        let Some((head, tail)) = segments.split_first() else {
            return Ok(());
        };
        if self.gso() || tail.is_empty() {
            match self.send_segments(&group[0], &segments, sent) {
                Err(error) if !tail.is_empty() && refuses_gso(&error) => {
                    // If a single packet is refused as well, it is not for being one of several.
                    self.send_segments(&group[0], &[head], sent)?;
                    // Segments may not exceed the device's MTU, single packets are fragmented:
                    // slow, but other destinations have other devices.
                    if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) {
                        tracing::debug!(to = %group[0].to, "packets exceed the MTU: lower `mtu`");
                    } else {
                        tracing::info!(%error, "segmentation offload is off: it is refused");
                        self.gso.store(false, Ordering::Relaxed);
                    }
                }
                result => return result,
            }
        } else {
            self.send_segments(&group[0], &[head], sent)?;
        }
        // A batch that stops half way is repeated from its start; the receiver drops doubles.
        tail.iter()
            .try_for_each(|segment| self.send_segments(&group[0], &[*segment], sent))
    }

    /// One system call.
    fn send_segments(
        &self,
        first: &Transmit,
        segments: &[&Segment],
        sent: &mut Sent,
    ) -> io::Result<()> {
        let mut iov: ArrayVec<IoSlice<'_>, { 2 * MAX_SEGMENTS }> = ArrayVec::new();
        for segment in segments {
            iov.push(IoSlice::new(&segment.header));
            if !segment.payload.is_empty() {
                iov.push(IoSlice::new(&segment.payload));
            }
        }
        let segment_size = segments[0].len() as u16;
        let tclass = i32::from(first.tos);
        let pktinfo4;
        let pktinfo6;
        let mut cmsgs: ArrayVec<ControlMessage<'_>, 3> = ArrayVec::new();
        if segments.len() > 1 {
            cmsgs.push(ControlMessage::UdpGsoSegments(&segment_size));
        }
        match first.to.ip().to_canonical() {
            IpAddr::V4(_) => cmsgs.push(ControlMessage::Ipv4Tos(&first.tos)),
            IpAddr::V6(_) => cmsgs.push(ControlMessage::Ipv6TClass(&tclass)),
        }
        match first.local {
            Some(IpAddr::V4(ip)) if self.local.is_ipv4() => {
                pktinfo4 = nix::libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: nix::libc::in_addr {
                        s_addr: u32::from(ip).to_be(),
                    },
                    ipi_addr: nix::libc::in_addr { s_addr: 0 },
                };
                cmsgs.push(ControlMessage::Ipv4PacketInfo(&pktinfo4));
            }
            Some(IpAddr::V6(ip)) => {
                pktinfo6 = nix::libc::in6_pktinfo {
                    ipi6_addr: nix::libc::in6_addr {
                        s6_addr: ip.octets(),
                    },
                    ipi6_ifindex: 0,
                };
                cmsgs.push(ControlMessage::Ipv6PacketInfo(&pktinfo6));
            }
            _ => {}
        }
        let to = SockaddrStorage::from(first.to);
        self.main.try_io(Interest::WRITABLE, || {
            let fd = self.main.as_raw_fd();
            let flags = MsgFlags::MSG_DONTWAIT;
            let mut result = sendmsg(fd, &iov, &cmsgs, flags, Some(&to));
            for _ in 0..3 {
                // The network's answer to an earlier packet, maybe of another peer, is reported
                // by the next call, whatever that is. It is in the error queue, too, and this
                // packet was not sent.
                let Err(Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH) = result
                else {
                    break;
                };
                sent.errors_queued = true;
                result = sendmsg(fd, &iov, &cmsgs, flags, Some(&to));
            }
            Ok(result?)
        })?;
        sent.calls += 1;
        self.counters.sends.fetch_add(1, Ordering::Relaxed);
        self.counters
            .packets_sent
            .fetch_add(segments.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Takes up to [`MAIN_BATCH`] datagrams from the main socket. Returns how many came, and how
    /// many more were cut and are of no use.
    pub(in super::super) fn recv_main(
        &self,
        look: Look,
        into: &mut Vec<Datagram>,
    ) -> (usize, usize) {
        MAIN_RX.with_borrow_mut(|rx| {
            let rx = rx.get_or_insert_with(MainRx::new);
            let (mut received, mut truncated) = (0, 0);
            let result = look.at(&self.main, || {
                (received, truncated) = rx.receive(&self.main, self, into)?;
                // A partial batch tells that the socket is empty: forget that it was readable,
                // which saves the call that would find nothing.
                if received + truncated < MAIN_BATCH {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(())
            });
            if received + truncated > 0 {
                self.counters.receives.fetch_add(1, Ordering::Relaxed);
                self.counters
                    .packets_received
                    .fetch_add(received as u64, Ordering::Relaxed);
            }
            if let Err(error) = result
                && error.kind() != io::ErrorKind::WouldBlock
            {
                tracing::debug!(%error, "receive failed");
            }
            (received, truncated)
        })
    }

    /// Takes one datagram, or one run of segments, from the bulk socket. Returns whether there
    /// was one.
    pub(in super::super) fn recv_bulk(&self, look: Look, into: &mut Vec<Datagram>) -> bool {
        let Some(bulk) = &self.bulk else { return false };
        let received = look.at(bulk, || {
            let mut buffer = self.buffers.take();
            let mut cmsgs = cmsg_space!(i32, i32, u32, nix::libc::in6_pktinfo);
            let mut iov = [IoSliceMut::new(&mut buffer)];
            let fd = bulk.as_raw_fd();
            let flags = MsgFlags::MSG_DONTWAIT;
            match recvmsg::<SockaddrStorage>(fd, &mut iov, Some(&mut cmsgs), flags) {
                Ok(message) => {
                    let described = self.describe(message.address, message.cmsgs());
                    let len = message.bytes;
                    Ok((buffer, len, described))
                }
                Err(error) => {
                    self.buffers.give_back(buffer);
                    Err(error.into())
                }
            }
        });
        let Ok((buffer, len, described)) = received else {
            return false;
        };
        let Some(Described {
            from,
            local,
            tos,
            segment,
        }) = described
        else {
            self.buffers.give_back(buffer);
            return true;
        };
        let mut data = self.buffers.freeze(buffer, len);
        self.counters.receives.fetch_add(1, Ordering::Relaxed);
        let segment = segment.unwrap_or(len).max(1);
        while !data.is_empty() {
            let packet = data.split_to(segment.min(data.len()));
            into.push(Datagram {
                from,
                local,
                tos,
                socket: Socket::Bulk,
                data: packet,
            });
            self.counters
                .packets_received
                .fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// Empties the error queues: what the network has said of destinations.
    pub(in super::super) fn drain_errors(&self, refused: &mut Vec<Refused>) {
        errors::drain(&self.main, refused);
    }

    /// Address and control messages of a received datagram.
    fn describe(
        &self,
        address: Option<SockaddrStorage>,
        cmsgs: nix::Result<nix::sys::socket::CmsgIterator<'_>>,
    ) -> Option<Described> {
        let from = socket_addr(&address?)?;
        let mut described = Described {
            from,
            local: None,
            tos: 0,
            segment: None,
        };
        for cmsg in cmsgs.into_iter().flatten() {
            match cmsg {
                ControlMessageOwned::Ipv4Tos(tos) => described.tos = tos,
                ControlMessageOwned::Ipv6TClass(tclass) => described.tos = tclass as u8,
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    let ip = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr));
                    described.local = Some(ip.into());
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    described.local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                ControlMessageOwned::UdpGroSegments(size) => {
                    described.segment = usize::try_from(size).ok().filter(|size| *size > 0);
                }
                ControlMessageOwned::RxqOvfl(drops) => {
                    self.counters
                        .socket_buffer_drops
                        .store(drops.into(), Ordering::Relaxed);
                }
                _ => {}
            }
        }
        Some(described)
    }
}

struct Described {
    from: SocketAddr,
    local: Option<IpAddr>,
    tos: u8,
    segment: Option<usize>,
}

thread_local! {
    /// Headers of `recvmmsg` cannot move between threads, tasks do: each thread has its own.
    static MAIN_RX: RefCell<Option<MainRx>> = const { RefCell::new(None) };
}

/// Where a batch from a main socket is received; what it held is copied out at its exact size.
struct MainRx {
    headers: MultiHeaders<SockaddrStorage>,
    buffers: Vec<Box<[u8]>>,
}

impl MainRx {
    fn new() -> Self {
        Self {
            headers: Self::headers(),
            buffers: (0..MAIN_BATCH)
                .map(|_| vec![0; MAX_PACKET].into_boxed_slice())
                .collect(),
        }
    }

    fn headers() -> MultiHeaders<SockaddrStorage> {
        let cmsgs = cmsg_space!(i32, i32, u32, nix::libc::in6_pktinfo, nix::libc::in_pktinfo);
        MultiHeaders::preallocate(MAIN_BATCH, Some(cmsgs))
    }

    fn receive(
        &mut self,
        socket: &UdpSocket,
        udp: &Udp,
        into: &mut Vec<Datagram>,
    ) -> io::Result<(usize, usize)> {
        let (mut received, mut truncated, mut renew) = (0, 0, false);
        let mut buffers = self.buffers.iter_mut();
        let mut iovs: [[IoSliceMut<'_>; 1]; MAIN_BATCH] = std::array::from_fn(|_| {
            [IoSliceMut::new(
                buffers.next().map_or(&mut [], |buffer| &mut buffer[..]),
            )]
        });
        let messages = recvmmsg(
            socket.as_raw_fd(),
            &mut self.headers,
            iovs.iter_mut(),
            MsgFlags::MSG_DONTWAIT,
            None,
        )?;
        for message in messages {
            renew |= message.flags.contains(MsgFlags::MSG_CTRUNC);
            if message.flags.contains(MsgFlags::MSG_TRUNC) {
                truncated += 1;
                continue;
            }
            let data = message
                .iovs()
                .next()
                .map(Bytes::copy_from_slice)
                .unwrap_or_default();
            match udp.describe(message.address, message.cmsgs()) {
                Some(Described {
                    from, local, tos, ..
                }) => {
                    received += 1;
                    into.push(Datagram {
                        from,
                        local,
                        tos,
                        socket: Socket::Main,
                        data,
                    });
                }
                None => truncated += 1,
            }
        }
        if renew {
            // The kernel leaves the length of what it wrote in the headers, which is all the
            // room that the next call has: control messages that came later did not fit.
            self.headers = Self::headers();
        }
        Ok((received, truncated))
    }
}

/// How many transmits at the front of `batch` fit into one send: same way, same size but for the
/// last.
fn group_len(batch: &[Transmit]) -> usize {
    let first = &batch[0];
    let size = first.segments[0].len();
    let mut segments = first.segments.len();
    let mut bytes: usize = first.segments.iter().map(Segment::len).sum();
    let mut len = 1;
    for pair in batch.windows(2) {
        let (previous, next) = (&pair[0], &pair[1]);
        segments += next.segments.len();
        bytes += next.segments.iter().map(Segment::len).sum::<usize>();
        let fits = (next.to, next.local, next.tos) == (first.to, first.local, first.tos)
            && previous
                .segments
                .last()
                .is_some_and(|last| last.len() == size)
            && next.segments[0].len() <= size
            && (next.segments.len() == 1 || next.segments[0].len() == size)
            && segments <= MAX_SEGMENTS
            && bytes <= MAX_SEND_BYTES;
        if !fits {
            break;
        }
        len += 1;
    }
    len
}

/// A non-blocking socket with the options that we need, and the size of its receive buffer.
fn socket(addr: SocketAddr, config: &Config) -> io::Result<(std::net::UdpSocket, usize)> {
    let socket = socket2::Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if addr.is_ipv6() {
        // Both IP versions on the unspecified address, like TCP listeners.
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    // What is possible without privilege; more, where that is permitted.
    if setsockopt(&socket, sockopt::RcvBufForce, &config.recv_buffer_bytes).is_err() {
        let _ = socket.set_recv_buffer_size(config.recv_buffer_bytes);
    }
    let _ = socket.set_send_buffer_size(config.recv_buffer_bytes);
    let best_effort = |result: nix::Result<()>, what: &str| {
        if let Err(error) = result {
            tracing::debug!(%addr, %error, "{what} is not available");
        }
    };
    best_effort(setsockopt(&socket, sockopt::RxqOvfl, &1), "SO_RXQ_OVFL");
    let both = addr.is_ipv6() && addr.ip().is_unspecified();
    if addr.is_ipv4() || both {
        best_effort(setsockopt(&socket, sockopt::IpRecvTos, &true), "IP_RECVTOS");
        best_effort(
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
            "IP_RECVERR",
        );
    }
    if addr.is_ipv4() && addr.ip().is_unspecified() {
        best_effort(
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true),
            "IP_PKTINFO",
        );
    }
    if addr.is_ipv6() {
        best_effort(
            setsockopt(&socket, sockopt::Ipv6RecvTClass, &true),
            "IPV6_RECVTCLASS",
        );
        best_effort(
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
            "IPV6_RECVERR",
        );
        best_effort(
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true),
            "IPV6_PKTINFO",
        );
    }
    socket.bind(&SockAddr::from(addr))?;
    let buffer = socket.recv_buffer_size()?;
    Ok((socket.into(), buffer))
}

fn refuses_gso(error: &io::Error) -> bool {
    matches!(
        Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        Errno::EIO | Errno::EINVAL | Errno::EMSGSIZE | Errno::EOPNOTSUPP | Errno::ENOPROTOOPT
    )
}
