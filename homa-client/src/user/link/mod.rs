//! The sockets of an endpoint: batches in, batches out.

mod batch;
mod errors;
mod filter;
mod icmp;
mod options;
mod ports;
mod raw;
mod socket;
mod udp;
mod watched;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::Context;

use arrayvec::ArrayVec;
use nix::poll::{PollFd, PollFlags};

use self::raw::Raw;
pub(super) use self::socket::Waits;
use self::udp::Udp;
use crate::config::Config;
use crate::engine::wire::Carrier;
use crate::engine::{Datagram, Time, Transmit, Unreachable};
use crate::error::BindError;

/// Datagrams taken from one socket in one go.
const BATCH: usize = 32;

/// The sockets of one endpoint. Sending is done by any thread, receiving by one at a time.
#[derive(Debug)]
pub(super) enum Link {
    /// UDP: a main socket, and maybe one for bulk.
    Udp(Box<Udp>),
    /// IP protocol 146: a raw socket per IP version.
    Raw(Box<Raw>),
}

impl Link {
    /// Opens the sockets; in a runtime, if that is who waits for them. Port 0 takes any free UDP
    /// port, and on IP protocol 146 any free Homa port of a client.
    pub(super) fn open(addr: SocketAddr, config: &Config, waits: Waits) -> Result<Self, BindError> {
        Ok(match config.protocol.carrier {
            Carrier::Udp => Self::Udp(Box::new(Udp::open(addr, config, waits)?)),
            Carrier::Ip => Self::Raw(Box::new(Raw::open(addr, config, waits)?)),
        })
    }

    /// The local address, with the UDP port, or on IP protocol 146 with the Homa port.
    pub(super) fn local(&self) -> SocketAddr {
        match self {
            Self::Udp(udp) => udp.local(),
            Self::Raw(raw) => raw.local(),
        }
    }

    /// The Homa port: that of the address, but a client's is independent of its UDP port.
    pub(super) fn homa_port(&self, server: bool, random: u64) -> u16 {
        match self {
            Self::Udp(_) if !server => 0x8000 | random as u16,
            _ => self.local().port(),
        }
    }

    /// UDP port of the second socket, where there is one.
    pub(super) fn bulk_port(&self) -> Option<u16> {
        match self {
            Self::Udp(udp) => udp.bulk_port(),
            Self::Raw(_) => None,
        }
    }

    /// Whether one send may hold several packets.
    pub(super) fn gso(&self) -> bool {
        match self {
            Self::Udp(udp) => udp.gso(),
            Self::Raw(_) => false,
        }
    }

    /// Whether one receive may bring several packets.
    pub(super) fn gro(&self) -> bool {
        match self {
            Self::Udp(udp) => udp.gro(),
            Self::Raw(_) => false,
        }
    }

    /// Sizes of the receive buffers, as the system accounts for them: of the socket for short
    /// messages, and of that for long ones.
    pub(super) fn recv_buffers(&self) -> (usize, usize) {
        match self {
            Self::Udp(udp) => udp.recv_buffers(),
            Self::Raw(raw) => (raw.recv_buffer(), raw.recv_buffer()),
        }
    }

    pub(super) fn counters(&self) -> &LinkCounters {
        match self {
            Self::Udp(udp) => &udp.counters,
            Self::Raw(raw) => &raw.counters,
        }
    }

    /// Sends a batch.
    pub(super) fn send(&self, batch: &[Transmit]) -> Sent {
        match self {
            Self::Udp(udp) => udp.send(batch),
            Self::Raw(raw) => raw.send(batch),
        }
    }

    /// Takes one batch of packets from the sockets where short messages arrive.
    pub(super) fn recv_main(&self, look: Look, into: &mut Vec<Datagram>) -> Received {
        let told = match look {
            Look::Told(told) => told,
            Look::Polled | Look::Now => Told {
                main: true,
                ..Told::default()
            },
        };
        let mut received = Received::default();
        if told.main {
            received = self.recv_main_now(look, into);
        }
        received.errors_queued |= told.errors;
        received
    }

    fn recv_main_now(&self, look: Look, into: &mut Vec<Datagram>) -> Received {
        match self {
            Self::Udp(udp) => udp.recv_main(look, into),
            Self::Raw(raw) => raw.recv(look, into),
        }
    }

    /// Takes one datagram, or one run of segments, from the bulk socket. Returns whether there
    /// was one.
    pub(super) fn recv_bulk(&self, look: Look, into: &mut Vec<Datagram>) -> bool {
        match (self, look) {
            (Self::Raw(_), _) | (_, Look::Told(Told { bulk: false, .. })) => false,
            (Self::Udp(udp), _) => udp.recv_bulk(look, into),
        }
    }

    /// Empties the error queues: what the network has said of destinations.
    pub(super) fn drain_errors(&self, refused: &mut Vec<Refused>) {
        match self {
            Self::Udp(udp) => udp.drain_errors(refused),
            Self::Raw(raw) => raw.drain_errors(refused),
        }
    }

    /// Waits until there is something in the error queues.
    pub(super) async fn errors(&self) {
        match self {
            Self::Udp(udp) => udp.errors().await,
            Self::Raw(raw) => raw.errors().await,
        }
    }

    /// Whether something has arrived; if not, the task is woken when it has.
    pub(super) fn poll_recv_ready(&self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Udp(udp) => udp.poll_recv_ready(cx),
            Self::Raw(raw) => raw.poll_recv_ready(cx),
        }
    }

    /// Whether a socket that was full has room; if not, the task is woken when it has.
    pub(super) fn poll_send_ready(&self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Udp(udp) => udp.poll_send_ready(cx),
            Self::Raw(raw) => raw.poll_send_ready(cx),
        }
    }

    /// What a thread asks the system to wait for: the sockets in an order of their own, and where
    /// something is `stalled` those that are full.
    pub(super) fn polled(&self, stalled: bool) -> ArrayVec<PollFd<'_>, MAX_SOCKETS> {
        match self {
            Self::Udp(udp) => udp.polled(stalled),
            Self::Raw(raw) => raw.polled(stalled),
        }
    }

    /// What the system has said of [`Link::polled`].
    pub(super) fn told(&self, polled: &[PollFd<'_>]) -> Told {
        let is_bulk = |index| matches!(self, Self::Udp(_)) && index > 0;
        let mut told = Told::default();
        for (index, fd) in polled.iter().enumerate() {
            // Flags without a name are no reason not to look.
            let flags = fd.revents().unwrap_or(PollFlags::POLLIN);
            let readable = flags.intersects(!PollFlags::POLLOUT);
            told.main |= readable && !is_bulk(index);
            told.bulk |= readable && is_bulk(index);
            told.errors |= flags.contains(PollFlags::POLLERR);
            told.room |= flags.contains(PollFlags::POLLOUT);
        }
        told
    }

    /// Whether packets to ports that are not open here are answered by the link, being ICMP's
    /// business, and not by the engine.
    pub(super) fn answers_closed_ports(&self) -> bool {
        matches!(self, Self::Raw(_))
    }

    /// Tells the sender of `datagram` that its port is not open here, if that is for us to say.
    pub(super) fn refuse_port(&self, now: Time, datagram: &Datagram) {
        match self {
            Self::Udp(_) => {}
            Self::Raw(raw) => raw.refuse_port(now, datagram),
        }
    }
}

/// Counts of system calls and of what they carried.
#[derive(Debug, Default)]
pub(super) struct LinkCounters {
    pub(super) sends: AtomicU64,
    pub(super) packets_sent: AtomicU64,
    pub(super) receives: AtomicU64,
    pub(super) packets_received: AtomicU64,
    pub(super) socket_buffer_drops: AtomicU64,
    pub(super) send_errors: AtomicU64,
}

impl LinkCounters {
    fn sent(&self, packets: usize) {
        self.sends.fetch_add(1, Ordering::Relaxed);
        self.packets_sent
            .fetch_add(packets as u64, Ordering::Relaxed);
    }

    fn received(&self, packets: usize) {
        self.receives.fetch_add(1, Ordering::Relaxed);
        self.packets_received
            .fetch_add(packets as u64, Ordering::Relaxed);
    }

    /// A socket says how many packets it has lost since it was opened; `known` is what it said
    /// before.
    fn overflowed(&self, known: &AtomicU32, now: u32) {
        let more = now.wrapping_sub(known.swap(now, Ordering::Relaxed));
        self.socket_buffer_drops
            .fetch_add(more.into(), Ordering::Relaxed);
    }
}

/// How to find out whether a socket has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Ask the runtime, which knows as of when it polled last. Costs nothing if there is nothing.
    Polled,
    /// Ask the system. Finds what has come since.
    Now,
    /// The system has told already: ask only where there is something.
    Told(Told),
}

/// What the system says of the sockets of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// A socket where short messages arrive has something.
    main: bool,
    /// The bulk socket has something.
    bulk: bool,
    /// There is something in an error queue.
    errors: bool,
    /// A socket that was full has room.
    room: bool,
}

impl Told {
    pub(super) fn anything(self) -> bool {
        self != Self::default()
    }
}

/// Sockets of a link, at most.
pub(super) const MAX_SOCKETS: usize = 2;

/// What one look at the sockets brought, beside the packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// Packets that were cut and are of no use.
    pub(super) truncated: usize,
    /// Whether there may be more.
    pub(super) more: bool,
    /// Whether there is something in the error queue.
    pub(super) errors_queued: bool,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Transmits that are done with; the rest waits for room in the socket's buffer.
    pub(super) done: usize,
    /// Segments of the next transmit that are done with.
    pub(super) done_segments: usize,
    /// System calls it took.
    pub(super) calls: u64,
    /// Whether there is something in the error queue.
    pub(super) errors_queued: bool,
    /// What was refused.
    pub(super) refused: Vec<Refused>,
}

/// A packet that the network or the system refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) to: SocketAddr,
    pub(super) refusal: Refusal,
    /// Its first bytes, as far as they came back.
    pub(super) quote: ArrayVec<u8, QUOTE_LEN>,
}

impl Refused {
    fn of(transmit: &Transmit, refusal: Refusal) -> Self {
        let header = transmit.segments.first().map(|first| &first.header[..]);
        let quote = header.unwrap_or_default().iter().copied();
        Self {
            to: transmit.to,
            refusal,
            quote: quote.take(QUOTE_LEN).collect(),
        }
    }
}

/// Why a packet was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing gets there.
    Unreachable(Unreachable),
    /// The path takes IP packets of at most this many bytes.
    TooLong { mtu: usize },
}

/// Enough of a packet to know it by.
const QUOTE_LEN: usize = 64;
