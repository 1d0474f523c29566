//! The sockets of a UDP endpoint.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;

use arrayvec::ArrayVec;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::in6_pktinfo;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{
    ControlMessage, MsgFlags, SockaddrStorage, getsockopt, recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, SockAddr, Type};

use super::batch::{self, Content, Inlet, Marks, describe};
use super::options::{configure, takes_v4};
use super::{LinkCounters, Look, MAX_SOCKETS, Received, Refused, Sent, Waits, errors};
use crate::buffers::Buffers;
use crate::config::{BulkPort, Config};
use crate::engine::wire::Carrier;
use crate::engine::{Datagram, Segment, Socket, Transmit};
use crate::error::BindError;

/// Segments per send: `UDP_MAX_SEGMENTS` of older kernels.
const MAX_SEGMENTS: usize = 64;

/// Bytes per send, with room for the headers of the longest IP packet.
const MAX_SEND_BYTES: usize = 65_000;

/// The sockets of one endpoint. All sending is done on the main one, by any thread; receiving
/// by the driver alone.
#[derive(Debug)]
pub(in super::super) struct Udp {
    main: Inlet,
    bulk: Option<Inlet>,
    local: SocketAddr,
    buffers: Buffers,
    /// Whether one send may hold several segments; switched off when the system refuses.
    gso: AtomicBool,
    gro: bool,
    main_buffer: usize,
    bulk_buffer: usize,
    pub(super) counters: LinkCounters,
}

impl Udp {
    /// Opens the sockets; `addr` with port 0 takes any free port.
    pub(super) fn open(addr: SocketAddr, config: &Config, waits: Waits) -> Result<Self, BindError> {
        let (main, main_buffer) = socket(addr, config).map_err(failed(addr))?;
        let local = main.local_addr().map_err(failed(addr))?;
        let local = local.as_socket().unwrap_or(addr);
        let bulk_addr = match config.bulk_port {
            BulkPort::Off => None,
            BulkPort::Any => Some(SocketAddr::new(local.ip(), 0)),
            BulkPort::Fixed(port) => Some(SocketAddr::new(local.ip(), port)),
        };
        let bulk = bulk_addr
            .map(|addr| socket(addr, config).map_err(failed(addr)))
            .transpose()?;
        let (bulk, bulk_buffer) = bulk.unzip();
        let gro = bulk
            .as_ref()
            .is_some_and(|bulk| setsockopt(bulk, sockopt::UdpGroSegment, &true).is_ok());
        // A kernel that knows the option supports it, unless the device says otherwise later.
        let gso = getsockopt(&main, sockopt::UdpGsoSegment).is_ok();
        let inlet = |socket| Inlet::new(socket, local, Content::Udp, waits).map_err(failed(local));
        Ok(Self {
            main: inlet(main)?,
            bulk: bulk.map(inlet).transpose()?,
            local,
            buffers: Buffers::default(),
            gso: AtomicBool::new(gso),
            gro,
            main_buffer,
            bulk_buffer: bulk_buffer.unwrap_or(main_buffer),
            counters: LinkCounters::default(),
        })
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(super) fn bulk_port(&self) -> Option<u16> {
        let bulk = self.bulk.as_ref()?.socket.socket();
        Some(bulk.local_addr().ok()?.as_socket()?.port())
    }

    pub(super) fn gso(&self) -> bool {
        self.gso.load(Ordering::Relaxed)
    }

    pub(super) fn gro(&self) -> bool {
        self.gro
    }

    /// Sizes of the receive buffers: main, bulk.
    pub(super) fn recv_buffers(&self) -> (usize, usize) {
        (self.main_buffer, self.bulk_buffer)
    }

    /// Sends a batch. Transmits that fit together leave in one system call.
    pub(super) fn send(&self, batch: &[Transmit]) -> Sent {
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
                    errors::note(&self.main.socket, Carrier::Udp, &rest[0], &error, &mut sent);
                }
            }
            sent.done += group;
        }
        sent
    }

    fn send_group(&self, group: &[Transmit], sent: &mut Sent) -> io::Result<()> {
        // Extended, not collected: that would move the whole array, though one slot is used.
        let mut segments: ArrayVec<&Segment, MAX_SEGMENTS> = ArrayVec::new();
        let all = group.iter().flat_map(|transmit| &transmit.segments);
        segments.extend(all.take(MAX_SEGMENTS));
        let Some((head, tail)) = segments.split_first() else {
            return Ok(());
        };
        if self.gso() || tail.is_empty() {
            match self.send_segments(&group[0], &segments, sent) {
                Err(error) if !tail.is_empty() && refuses_gso(&error) => {
                    // If a single packet is refused as well, it is not for being one of several.
                    self.send_segments(&group[0], &[head], sent)?;
                    tracing::info!(%error, "segmentation offload is off: it is refused");
                    self.gso.store(false, Ordering::Relaxed);
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
        // Nor would these 8 KB have to be moved.
        let mut iov: ArrayVec<IoSlice<'_>, { Segment::MAX_SLICES * MAX_SEGMENTS }> =
            ArrayVec::new();
        let slices = segments.iter().flat_map(|segment| segment.slices());
        iov.extend(slices.map(IoSlice::new));
        let segment_size = segments[0].len() as u16;
        let marks = Marks::new(first.to.ip(), first.local, first.tos);
        let mut cmsgs = marks.cmsgs();
        if segments.len() > 1 {
            cmsgs.push(ControlMessage::UdpGsoSegments(&segment_size));
        }
        let to = SockaddrStorage::from(first.to);
        self.main.socket.send_now(|| {
            let fd = self.main.socket.as_raw_fd();
            let flags = MsgFlags::MSG_DONTWAIT;
            errors::past_stale(&mut sent.errors_queued, || {
                sendmsg(fd, &iov, &cmsgs, flags, Some(&to))
            })
        })?;
        sent.calls += 1;
        self.counters.sent(segments.len());
        Ok(())
    }

    pub(super) fn recv_main(&self, look: Look, into: &mut Vec<Datagram>) -> Received {
        batch::receive(&self.main, look, (&self.buffers, &self.counters), into)
    }

    /// Takes one datagram, or one run of segments, from the bulk socket. Returns whether there
    /// was one.
    pub(super) fn recv_bulk(&self, look: Look, into: &mut Vec<Datagram>) -> bool {
        let Some(bulk) = &self.bulk else { return false };
        let received = bulk.socket.read(look, || {
            let mut buffer = self.buffers.take();
            let mut cmsgs = cmsg_space!(i32, i32, u32, in6_pktinfo);
            let mut iov = [IoSliceMut::new(&mut buffer)];
            let fd = bulk.socket.as_raw_fd();
            let flags = MsgFlags::MSG_DONTWAIT;
            match recvmsg::<SockaddrStorage>(fd, &mut iov, Some(&mut cmsgs), flags) {
                Ok(message) => {
                    let described = describe(message.address, message.cmsgs());
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
        let Some(described) = described else {
            self.buffers.give_back(buffer);
            return true;
        };
        bulk.note(&described, &self.counters);
        let mut data = self.buffers.freeze(buffer, len);
        let segment = described.segment.unwrap_or(len).max(1);
        let before = into.len();
        while !data.is_empty() {
            let packet = data.split_to(segment.min(data.len()));
            into.push(described.datagram(Content::Udp, Socket::Bulk, packet));
        }
        self.counters.received(into.len() - before);
        true
    }

    /// Empties the error queues: what the network has said of destinations.
    pub(super) fn drain_errors(&self, refused: &mut Vec<Refused>) {
        errors::drain(&self.main.socket, Carrier::Udp, refused);
    }

    pub(super) async fn errors(&self) {
        // All sending is done on this one.
        self.main.socket.errors().await;
    }

    pub(super) fn poll_recv_ready(&self, cx: &mut Context<'_>) -> bool {
        self.main.socket.poll_recv_ready(cx)
            || self
                .bulk
                .as_ref()
                .is_some_and(|bulk| bulk.socket.poll_recv_ready(cx))
    }

    pub(super) fn poll_send_ready(&self, cx: &mut Context<'_>) -> bool {
        self.main.socket.poll_send_ready(cx)
    }

    /// Main, bulk.
    pub(super) fn polled(&self, stalled: bool) -> ArrayVec<PollFd<'_>, MAX_SOCKETS> {
        let mut main = PollFlags::POLLIN;
        main.set(PollFlags::POLLOUT, stalled);
        let main = PollFd::new(self.main.socket.as_fd(), main);
        let bulk = self.bulk.iter();
        let bulk = bulk.map(|bulk| PollFd::new(bulk.socket.as_fd(), PollFlags::POLLIN));
        std::iter::once(main).chain(bulk).collect()
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

/// Names the address: that of the second socket is another than was asked for.
fn failed(addr: SocketAddr) -> impl Fn(io::Error) -> BindError {
    move |source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::AddressInUse { addr },
        _ => BindError::Socket { addr, source },
    }
}

/// A socket with the options that we need, and the size of its receive buffer.
fn socket(addr: SocketAddr, config: &Config) -> io::Result<(socket2::Socket, usize)> {
    let socket = socket2::Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        // Both IP versions on the unspecified address, like TCP listeners.
        socket.set_only_v6(!takes_v4(addr.ip()))?;
    }
    configure(&socket, addr, config)?;
    socket.bind(&SockAddr::from(addr))?;
    let buffer = socket.recv_buffer_size()?;
    Ok((socket, buffer))
}

fn refuses_gso(error: &io::Error) -> bool {
    matches!(
        Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        Errno::EIO | Errno::EINVAL | Errno::EMSGSIZE | Errno::EOPNOTSUPP | Errno::ENOPROTOOPT
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

    #[tokio::test]
    async fn a_bulk_port_in_use_is_named_and_not_the_main_one() {
        let taken = std::net::UdpSocket::bind(SocketAddr::from(ANY)).unwrap();
        let taken = taken.local_addr().map(|addr| (addr, taken)).unwrap();
        let config = Config {
            bulk_port: BulkPort::Fixed(taken.0.port()),
            ..Config::default()
        };
        let named = |error| match error {
            BindError::AddressInUse { addr } => addr,
            other => panic!("{other}"),
        };
        let error = Udp::open(ANY.into(), &config, Waits::Runtime).unwrap_err();
        assert_eq!(named(error), taken.0);
        // No other main port would help.
        let error = crate::Server::bind(ANY.into(), &config).unwrap_err();
        assert_eq!(named(error), taken.0);
    }

    #[tokio::test]
    async fn an_error_does_not_hide_what_waits_behind_it() {
        let udp = Udp::open(ANY.into(), &Config::default(), Waits::Runtime).unwrap();
        let closed = {
            let socket = std::net::UdpSocket::bind(SocketAddr::from(ANY)).unwrap();
            socket.local_addr().unwrap()
        };
        let peer = std::net::UdpSocket::bind(SocketAddr::from(ANY)).unwrap();
        let fd = udp.main.socket.as_raw_fd();
        let to = SockaddrStorage::from(closed);
        sendmsg(fd, &[IoSlice::new(b"x")], &[], MsgFlags::empty(), Some(&to)).unwrap();
        udp.errors().await;
        peer.send_to(b"packet", udp.local()).unwrap();

        let mut into = Vec::new();
        let first = udp.recv_main(Look::Now, &mut into);
        assert!(first.errors_queued && into.is_empty());
        assert!(first.more, "the socket is not drained");
        while into.is_empty() {
            udp.recv_main(Look::Now, &mut into);
        }
        assert_eq!(&into[0].data[..], b"packet");
    }
}
