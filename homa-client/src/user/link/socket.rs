//! [`LinkSocket`]: a socket, and who waits for it.

use std::future::pending;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::task::Context;

use socket2::Socket;

use super::Look;
use super::watched::Watched;

/// Who waits for the sockets of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Waits {
    /// The runtime in which the link is opened.
    Runtime,
    /// Threads that ask the system themselves. No runtime wakes for the packets.
    Threads,
}

/// A socket of a link.
#[derive(Debug)]
pub(super) enum LinkSocket {
    Watched(Watched),
    Bare(Socket),
}

impl LinkSocket {
    pub(super) fn new(socket: Socket, waits: Waits) -> io::Result<Self> {
        Ok(match waits {
            Waits::Runtime => Self::Watched(Watched::new(socket)?),
            Waits::Threads => Self::Bare(socket),
        })
    }

    pub(super) fn socket(&self) -> &Socket {
        match self {
            Self::Watched(watched) => watched.socket(),
            Self::Bare(socket) => socket,
        }
    }

    /// Calls `read` if there may be something; "would block" says that there is not.
    pub(super) fn read<T>(
        &self,
        look: Look,
        read: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        match (self, look) {
            (Self::Watched(watched), Look::Polled) => watched.try_read(read),
            _ => read(),
        }
    }

    /// Sends at once, on any thread.
    pub(super) fn send_now<T>(&self, mut write: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        match self {
            Self::Watched(watched) => watched.send_now(write),
            Self::Bare(_) => write(),
        }
    }

    /// Whether something has arrived; if not, the task is woken when it has.
    pub(super) fn poll_recv_ready(&self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Watched(watched) => watched.poll_recv_ready(cx),
            Self::Bare(_) => false,
        }
    }

    /// Whether there is room to send; if not, the task is woken when there is.
    pub(super) fn poll_send_ready(&self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Watched(watched) => watched.poll_send_ready(cx),
            Self::Bare(_) => false,
        }
    }

    /// Waits until something is put into the error queue.
    pub(super) async fn errors(&self) {
        match self {
            Self::Watched(watched) => watched.errors().await,
            Self::Bare(_) => pending().await,
        }
    }
}

impl AsFd for LinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

impl AsRawFd for LinkSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket().as_raw_fd()
    }
}
