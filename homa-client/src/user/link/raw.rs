//! The sockets of an endpoint on IP protocol 146: one per IP version, raw, for CAP_NET_RAW only.
//!
//! Every raw socket of a network namespace gets a copy of every packet of its protocol, whatever
//! the Homa port; what is not ours, the engine drops.

use std::cell::RefCell;
use std::future::{Future, pending, poll_fn};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use arrayvec::ArrayVec;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use socket2::{Domain, Protocol, SockAddr, Type};

use super::batch::{self, Content, Inlet, Marks};
use super::filter::Filter;
use super::icmp::Refuser;
use super::options::configure;
use super::ports::Port;
use super::{LinkCounters, Look, MAX_SOCKETS, Received, Refusal, Refused, Sent, Waits, errors};
use crate::buffers::Buffers;
use crate::config::Config;
use crate::engine::wire::Carrier;
use crate::engine::{Datagram, Segment, Time, Transmit, Unreachable};
use crate::error::BindError;

/// The number that IANA has assigned to Homa.
pub(super) const IPPROTO_HOMA: u8 = 146;

/// Only with the kernel module does this exist. It takes all packets of the protocol.
const MODULE: &str = "/proc/sys/net/homa";

/// Packets per system call.
const MAX_SEGMENTS: usize = 64;

/// The raw sockets of one endpoint.
#[derive(Debug)]
pub(in super::super) struct Raw {
    v4: Option<Way>,
    v6: Option<Way>,
    port: Port,
    refuser: Refuser,
    buffer: usize,
    buffers: Buffers,
    pub(super) counters: LinkCounters,
}

/// A socket of one IP version.
#[derive(Debug)]
struct Way {
    inlet: Inlet,
    /// Whether it had no room for the packet that is to leave next.
    full: AtomicBool,
    /// On while there are other sockets that packets may be for.
    filter: Filter,
}

impl Raw {
    /// Opens a socket per IP version that `addr` stands for; its port is the Homa port.
    pub(super) fn open(addr: SocketAddr, config: &Config, waits: Waits) -> Result<Self, BindError> {
        if Path::new(MODULE).exists() {
            return Err(BindError::ModuleLoaded);
        }
        let failed = |source: io::Error| {
            let errno = Errno::from_raw(source.raw_os_error().unwrap_or(0));
            match errno {
                Errno::EPERM | Errno::EACCES => BindError::NoCapability { source },
                _ => BindError::Socket { addr, source },
            }
        };
        let mapped = addr.is_ipv6();
        let v4_ip = match addr.ip() {
            IpAddr::V6(any) if any.is_unspecified() => Some(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(ip) => ip.to_ipv4_mapped(),
            IpAddr::V4(ip) => Some(ip),
        };
        let v6_ip = match addr.ip() {
            IpAddr::V6(ip) if ip.to_ipv4_mapped().is_none() => Some(addr),
            _ => None,
        };
        let v4 = v4_ip
            .map(|ip| Way::open((ip, 0).into(), Content::Ipv4 { mapped }, config, waits))
            .transpose()
            .map_err(failed)?;
        let v6 = v6_ip
            .map(|addr| Way::open(addr, Content::Ipv6, config, waits))
            .transpose()
            .map_err(failed)?;
        let (v4, v4_buffer) = v4.unzip();
        let (v6, v6_buffer) = v6.unzip();
        let refuser = Refuser::open(v4.is_some(), v6.is_some()).map_err(failed)?;
        Ok(Self {
            v4,
            v6,
            port: Port::take(addr)?,
            refuser,
            buffer: v4_buffer.into_iter().chain(v6_buffer).min().unwrap_or(0),
            buffers: Buffers::default(),
            counters: LinkCounters::default(),
        })
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.port.addr
    }

    /// Size of the smaller receive buffer.
    pub(super) fn recv_buffer(&self) -> usize {
        self.buffer
    }

    fn ways(&self) -> impl Iterator<Item = &Way> {
        self.v4.iter().chain(&self.v6)
    }

    fn way_to(&self, to: IpAddr) -> Option<&Way> {
        match to.to_canonical() {
            IpAddr::V4(_) => self.v4.as_ref(),
            IpAddr::V6(_) => self.v6.as_ref(),
        }
    }

    /// Sends a batch; packets that go the same way with the same marks leave in one system call.
    pub(super) fn send(&self, batch: &[Transmit]) -> Sent {
        let mut sent = Sent::default();
        while let Some(first) = batch.get(sent.done) {
            let rest = &batch[sent.done..];
            let Some(way) = self.way_to(first.to.ip()) else {
                self.give_up(first, &Errno::EAFNOSUPPORT.into(), &mut sent);
                let reason = Refusal::Unreachable(Unreachable::Address);
                sent.refused.push(Refused::of(first, reason));
                continue;
            };
            match self.send_run(way, rest, &mut sent) {
                Ok(packets) => {
                    way.full.store(false, Ordering::Relaxed);
                    advance(rest, packets, &mut sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    way.full.store(true, Ordering::Relaxed);
                    break;
                }
                Err(error) => {
                    self.give_up(first, &error, &mut sent);
                    let mark = sent.refused.len();
                    errors::note(&way.inlet.socket, Carrier::Ip, first, &error, &mut sent);
                    way.rename(&mut sent.refused[mark..]);
                }
            }
        }
        sent
    }

    fn give_up(&self, transmit: &Transmit, error: &io::Error, sent: &mut Sent) {
        self.counters.send_errors.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(to = %transmit.to, %error, "send failed");
        sent.done += 1;
        sent.done_segments = 0;
    }

    /// One system call; returns how many packets it took.
    fn send_run(&self, way: &Way, batch: &[Transmit], sent: &mut Sent) -> io::Result<usize> {
        let first = &batch[0];
        let mut iovs: ArrayVec<ArrayVec<IoSlice<'_>, { Segment::MAX_SLICES }>, MAX_SEGMENTS> =
            ArrayVec::new();
        let mut to: ArrayVec<Option<SockaddrStorage>, MAX_SEGMENTS> = ArrayVec::new();
        let mut skip = sent.done_segments;
        for transmit in batch {
            let same = (transmit.tos, transmit.local) == (first.tos, first.local)
                && way.takes(transmit.to.ip());
            if !same || iovs.is_full() {
                break;
            }
            let address = destination(transmit.to);
            for segment in transmit.segments.iter().skip(std::mem::take(&mut skip)) {
                if iovs.is_full() {
                    break;
                }
                iovs.push(iov(segment));
                to.push(Some(address));
            }
        }
        let local = first.local.map(|ip| ip.to_canonical());
        let marks = Marks::new(first.to.ip(), local, first.tos);
        let cmsgs = marks.cmsgs();
        let packets = way.inlet.socket.send_now(|| {
            errors::past_stale(&mut sent.errors_queued, || {
                send_packets(&way.inlet, &iovs, &to, &cmsgs)
            })
        })?;
        sent.calls += 1;
        self.counters.sent(packets);
        Ok(packets)
    }

    /// Takes a batch from each socket.
    pub(super) fn recv(&self, look: Look, into: &mut Vec<Datagram>) -> Received {
        let mut all = Received::default();
        for way in self.ways() {
            let one = batch::receive(&way.inlet, look, (&self.buffers, &self.counters), into);
            all.truncated += one.truncated;
            all.more |= one.more;
            all.errors_queued |= one.errors_queued;
        }
        all
    }

    pub(super) fn drain_errors(&self, refused: &mut Vec<Refused>) {
        for way in self.ways() {
            let mark = refused.len();
            errors::drain(&way.inlet.socket, Carrier::Ip, refused);
            way.rename(&mut refused[mark..]);
        }
    }

    pub(super) async fn errors(&self) {
        let (mut v4, mut v6) = (pin!(errors_of(&self.v4)), pin!(errors_of(&self.v6)));
        poll_fn(|cx| match v4.as_mut().poll(cx) {
            Poll::Pending => v6.as_mut().poll(cx),
            ready => ready,
        })
        .await;
    }

    pub(super) fn poll_recv_ready(&self, cx: &mut Context<'_>) -> bool {
        self.ways().any(|way| way.inlet.socket.poll_recv_ready(cx))
    }

    pub(super) fn poll_send_ready(&self, cx: &mut Context<'_>) -> bool {
        self.ways()
            .filter(|way| way.full.load(Ordering::Relaxed))
            .any(|way| way.inlet.socket.poll_send_ready(cx))
    }

    pub(super) fn polled(&self, stalled: bool) -> ArrayVec<PollFd<'_>, MAX_SOCKETS> {
        self.ways()
            .map(|way| {
                let mut flags = PollFlags::POLLIN;
                let full = stalled && way.full.load(Ordering::Relaxed);
                flags.set(PollFlags::POLLOUT, full);
                PollFd::new(way.inlet.socket.as_fd(), flags)
            })
            .collect()
    }

    /// Answers a packet to a port that is not open here, unless another process may own it.
    pub(super) fn refuse_port(&self, now: Time, datagram: &Datagram) {
        let bound = Some(self.local().ip()).filter(|ip| !ip.is_unspecified());
        let Some(local) = datagram.local.or(bound) else {
            return;
        };
        if let Some(alone) = self.refuser.refuse(now, datagram, local)
            && let Some(way) = self.way_to(local)
        {
            let ipv4 = way.inlet.content != Content::Ipv6;
            let port = self.local().port();
            way.filter
                .set(way.inlet.socket.socket(), ipv4, port, !alone);
        }
    }
}

impl Way {
    /// Returns the size of its receive buffer, too.
    fn open(
        addr: SocketAddr,
        content: Content,
        config: &Config,
        waits: Waits,
    ) -> io::Result<(Self, usize)> {
        let protocol = Protocol::from(i32::from(IPPROTO_HOMA));
        let socket = socket2::Socket::new(Domain::for_address(addr), Type::RAW, Some(protocol))?;
        configure(&socket, addr, config)?;
        socket.bind(&SockAddr::from(without_port(addr)))?;
        let buffer = socket.recv_buffer_size()?;
        let way = Self {
            inlet: Inlet::new(socket, addr, content, waits)?,
            full: AtomicBool::new(false),
            filter: Filter::default(),
        };
        Ok((way, buffer))
    }

    fn takes(&self, to: IpAddr) -> bool {
        to.to_canonical().is_ipv4() == (self.inlet.content != Content::Ipv6)
    }

    /// Names peers as the engine knows them.
    fn rename(&self, refused: &mut [Refused]) {
        if self.inlet.content == (Content::Ipv4 { mapped: true }) {
            for Refused { to, .. } in refused {
                if let IpAddr::V4(ip) = to.ip() {
                    to.set_ip(ip.to_ipv6_mapped().into());
                }
            }
        }
    }
}

async fn errors_of(way: &Option<Way>) {
    match way {
        Some(way) => way.inlet.socket.errors().await,
        None => pending().await,
    }
}

/// `packets` more of `batch` are done with.
fn advance(batch: &[Transmit], packets: usize, sent: &mut Sent) {
    let mut segments = sent.done_segments + packets;
    for transmit in batch {
        let Some(left) = segments.checked_sub(transmit.segments.len()) else {
            break;
        };
        segments = left;
        sent.done += 1;
    }
    sent.done_segments = segments;
}

/// Where a raw socket sends for a peer: it knows no ports, and IPv4 by its own name only.
pub(super) fn destination(to: SocketAddr) -> SockaddrStorage {
    match to.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, 0)).into(),
        IpAddr::V6(_) => without_port(to).into(),
    }
}

fn without_port(mut addr: SocketAddr) -> SocketAddr {
    addr.set_port(0);
    addr
}

fn iov(segment: &Segment) -> ArrayVec<IoSlice<'_>, { Segment::MAX_SLICES }> {
    segment.slices().map(IoSlice::new).collect()
}

type Headers = MultiHeaders<SockaddrStorage>;

thread_local! {
    /// Headers of `sendmmsg`, one kind per set of control messages, whose room must fit exactly:
    /// TOS alone, with an IPv4 source, with an IPv6 source.
    static HEADERS: RefCell<[Option<Headers>; 3]> = const { RefCell::new([const { None }; 3]) };
}

/// `sendmmsg`; returns how many packets were sent. An error is about the first.
fn send_packets(
    inlet: &Inlet,
    iovs: &[ArrayVec<IoSlice<'_>, { Segment::MAX_SLICES }>],
    to: &[Option<SockaddrStorage>],
    cmsgs: &[ControlMessage<'_>],
) -> nix::Result<usize> {
    let (kind, room) = match cmsgs.last() {
        Some(ControlMessage::Ipv4PacketInfo(_)) => (1, cmsg_space!(i32, in_pktinfo)),
        Some(ControlMessage::Ipv6PacketInfo(_)) => (2, cmsg_space!(i32, in6_pktinfo)),
        _ => (0, cmsg_space!(i32)),
    };
    HEADERS.with_borrow_mut(|headers| {
        let headers = headers[kind]
            .get_or_insert_with(|| MultiHeaders::preallocate(MAX_SEGMENTS, Some(room)));
        let fd = inlet.socket.as_raw_fd();
        let results = sendmmsg(fd, headers, iovs, to, cmsgs, MsgFlags::MSG_DONTWAIT)?;
        Ok(results.count())
    })
}
