//! The sockets of an endpoint: batches in, batches out.

mod errors;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;

use arrayvec::ArrayVec;
use nix::sys::socket::SockaddrStorage;
use tokio::io::Interest;
use tokio::net::UdpSocket;

pub(super) use self::udp::Udp;
use crate::engine::Unreachable;

/// Datagrams taken from the main socket in one go.
pub(super) const MAIN_BATCH: usize = 32;

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

/// How to find out whether a socket has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Ask the runtime, which knows as of when it polled last. Costs nothing if there is nothing.
    Polled,
    /// Ask the system. Finds what has come since.
    Now,
}

impl Look {
    fn at<T>(self, socket: &UdpSocket, read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self {
            Self::Polled => socket.try_io(Interest::READABLE, read),
            Self::Now => read(),
        }
    }
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Transmits that are done with; the rest waits for room in the socket's buffer.
    pub(super) done: usize,
    /// System calls it took.
    pub(super) calls: u64,
    /// Whether there is something in the error queue.
    pub(super) errors_queued: bool,
    /// What the system refused at once.
    pub(super) refused: Vec<Refused>,
}

/// A packet that the network or the system refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) to: SocketAddr,
    pub(super) reason: Unreachable,
    /// Its first bytes, as far as they came back.
    pub(super) quote: ArrayVec<u8, QUOTE_LEN>,
}

/// Enough of a packet to know it by.
const QUOTE_LEN: usize = 64;

fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(std::net::SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id()).into())
}
