//! [`Socket`]: a socket of the module with its region, and whose the pages in it are.
//!
//! # Aliasing
//! The module writes into the region whenever it likes, from a thread's `recvmsg` on, so no
//! reference to the region as a whole exists: it is an address. `recvmsg` hands out ranges of bytes, to
//! which the module does not write until they are given back (A.6). Each becomes one [`Page`], which
//! is the only one to make `&[u8]` of it, and gives it back when it is dropped, so after the last such
//! reference: [`Bytes`] holds it. Several pages may be parts of one bpage, and the module may write to
//! other parts of it meanwhile; these are other bytes. The kernel's writes happen in system calls of
//! this process, and giving back goes through the mutex and such a call, so that no thread sees
//! bytes of a message before they were written, or after they were given away.
//!
//! # Giving back
//! Offsets that are given back wait for the next receive, which takes up to sixteen along. If nobody is
//! about to receive they are given back at once, since the module may be waiting for room: by a
//! receive of an RPC that cannot exist, which the module refuses after it has taken them (A.6).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use homa_sys::{
    HOMA_BPAGE_SIZE, HOMA_MAX_BPAGES, HOMA_SENDMSG_PRIVATE, homa_info, homa_recvmsg_args,
    homa_sendmsg_args,
};
use nix::libc;

use super::calls::Calls;
use super::region::Region;
use crate::message::Message;

/// Messages up to this length are copied: that takes less time than a system call to give a page
/// back, and a few bytes that are kept for long do not hold 64 KiB of the region.
const COPIED: usize = 4096;

/// Most parts of a message that one system call takes (`UIO_MAXIOV`).
const MAX_PARTS: usize = 1024;

/// An id that no client RPC has, as all of those are even (A.4).
const NO_RPC: u64 = 1;

/// Shared by whoever sends and receives, and by every page that is not given back.
#[derive(Debug)]
pub(super) struct Socket {
    // Before the region: it is closed before that is unmapped.
    calls: Box<dyn Calls>,
    region: Region,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    /// Offsets that the module can have back.
    returned: Vec<u32>,
    /// How many are about to receive, and will take some along.
    receiving: usize,
}

/// What a receive has brought.
#[derive(Debug)]
pub(super) enum Received {
    /// A request if the id is odd, else the response to the request with that cookie.
    Message {
        id: u64,
        cookie: u64,
        from: SocketAddr,
        message: Message,
    },
    /// This RPC of ours has failed, with that errno.
    Failed { cookie: u64, errno: i32 },
    /// There is nothing now.
    Nothing,
    /// The socket was shut down, or the RPC that was waited for has been ended.
    Closed,
}

/// For which RPC to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// Any that is not private.
    Shared,
    /// The private one with this id.
    Private(u64),
}

impl Socket {
    /// Takes a new socket, and gives it a region of this length.
    pub(super) fn new(calls: Box<dyn Calls>, region_bytes: usize) -> io::Result<Self> {
        let region = Region::map(region_bytes)?;
        // SAFETY: the region is new, and lives at least as long as the socket; see the head of
        // this file for what is read of it.
        unsafe { calls.set_region(&region)? };
        Ok(Self {
            calls,
            region,
            pages: Mutex::default(),
        })
    }

    pub(super) fn bind(&self, port: u16) -> io::Result<()> {
        self.calls.bind(port)
    }

    /// Sends a request. Returns its id.
    pub(super) fn request(
        &self,
        to: SocketAddr,
        message: &Message,
        cookie: u64,
        is_private: bool,
    ) -> io::Result<u64> {
        let mut args = homa_sendmsg_args {
            completion_cookie: cookie,
            flags: if is_private { HOMA_SENDMSG_PRIVATE } else { 0 },
            ..homa_sendmsg_args::default()
        };
        self.send(to, message, &mut args)?;
        Ok(args.id)
    }

    /// Sends the response to a request. If that is over, nothing happens.
    pub(super) fn respond(&self, to: SocketAddr, id: u64, message: &Message) -> io::Result<()> {
        let mut args = homa_sendmsg_args {
            id,
            ..homa_sendmsg_args::default()
        };
        self.send(to, message, &mut args)
    }

    fn send(
        &self,
        to: SocketAddr,
        message: &Message,
        args: &mut homa_sendmsg_args,
    ) -> io::Result<()> {
        if message.parts().len() > MAX_PARTS {
            let whole = message.clone().into_bytes();
            return self.calls.send(to, &[IoSlice::new(&whole)], args);
        }
        let parts: Vec<IoSlice<'_>> = message.parts().map(|part| IoSlice::new(part)).collect();
        self.calls.send(to, &parts, args)
    }

    /// Says that the caller is going to receive until there is [`Received::Nothing`]. Meanwhile
    /// pages that are dropped wait for it.
    pub(super) fn receiving(self: &Arc<Self>) -> Receiving<'_> {
        self.lock().receiving += 1;
        Receiving { socket: self }
    }

    /// Waits for a message. A signal does not end that.
    pub(super) fn wait(self: &Arc<Self>, of: Of) -> io::Result<Received> {
        self.receive(of, true)
    }

    /// What has come for this private RPC, if anything has.
    pub(super) fn look(self: &Arc<Self>, id: u64) -> io::Result<Received> {
        self.receive(Of::Private(id), false)
    }

    fn receive(self: &Arc<Self>, of: Of, waits: bool) -> io::Result<Received> {
        loop {
            let mut args = self.returned();
            if let Of::Private(id) = of {
                args.id = id;
            }
            // SAFETY: `self` keeps the region; `returned` are offsets of pages that have been
            // dropped, each once.
            let received = unsafe { self.calls.receive(&mut args, waits) };
            let error = match received {
                Ok((length, from)) => {
                    return Ok(Received::Message {
                        id: args.id,
                        cookie: args.completion_cookie,
                        from,
                        message: self.message(&args, length)?,
                    });
                }
                Err(error) => error,
            };
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            return match errno {
                libc::EINTR if args.id == 0 => continue,
                libc::EAGAIN => Ok(Received::Nothing),
                libc::ESHUTDOWN => Ok(Received::Closed),
                // A private RPC was ended while its receiver waited (A.6).
                libc::EINVAL if of != Of::Shared => Ok(Received::Closed),
                _ if args.id != 0 => Ok(Received::Failed {
                    cookie: args.completion_cookie,
                    errno,
                }),
                _ => Err(error),
            };
        }
    }

    /// Arguments of a receive that takes pages back.
    fn returned(&self) -> homa_recvmsg_args {
        let mut args = homa_recvmsg_args::default();
        let mut pages = self.lock();
        let from = pages.returned.len().saturating_sub(HOMA_MAX_BPAGES);
        for (slot, offset) in args
            .bpage_offsets
            .iter_mut()
            .zip(pages.returned.drain(from..))
        {
            *slot = offset;
            args.num_bpages += 1;
        }
        args
    }

    /// The message that a receive has brought.
    fn message(self: &Arc<Self>, args: &homa_recvmsg_args, length: usize) -> io::Result<Message> {
        let offsets = args.bpage_offsets.iter().take(args.num_bpages as usize);
        let mut left = length;
        let mut pages: VecDeque<Page> = VecDeque::new();
        for offset in offsets {
            let length = left.min(HOMA_BPAGE_SIZE);
            left -= length;
            pages.push_back(Page {
                socket: self.clone(),
                offset: *offset,
                length,
            });
        }
        // The module would have to be wrong, or another one than was asked for.
        if left > 0 || pages.iter().any(|page| !page.is_inside()) {
            let what = format!(
                "the homa module gave {} pages for a message of {length} bytes: is it one of \
                 another ABI?",
                args.num_bpages
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        if length <= COPIED
            && let [page] = pages.make_contiguous()
        {
            return Ok(Bytes::copy_from_slice(page.as_ref()).into());
        }
        Ok(pages.into_iter().map(Bytes::from_owner).collect())
    }

    /// A page is dropped.
    fn give_back(&self, offset: u32) {
        let mut pages = self.lock();
        pages.returned.push(offset);
        let is_full = pages.returned.len() >= HOMA_MAX_BPAGES;
        let flush = pages.receiving == 0 || is_full;
        drop(pages);
        if flush {
            self.flush();
        }
    }

    /// Gives the module back what waits for that, without receiving.
    fn flush(&self) {
        loop {
            let mut args = self.returned();
            if args.num_bpages == 0 {
                return;
            }
            args.id = NO_RPC;
            // SAFETY: as in `receive`.
            let refused = unsafe { self.calls.receive(&mut args, false) };
            debug_assert!(refused.is_err(), "no RPC has that id");
        }
    }

    /// Ends a client RPC; `Err` if it is over.
    pub(super) fn abort(&self, id: u64, error: u32) -> io::Result<()> {
        self.calls.abort(id, error)
    }

    pub(super) fn info(&self) -> io::Result<homa_info> {
        self.calls.info()
    }

    /// Ends everything; receivers get [`Received::Closed`].
    pub(super) fn shutdown(&self) {
        // It is not known to fail.
        let _ = self.calls.shutdown();
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.calls.fd()
    }
}

/// The right to receive without waiting; see [`Socket::receiving`].
#[derive(Debug)]
pub(super) struct Receiving<'a> {
    socket: &'a Arc<Socket>,
}

impl Receiving<'_> {
    pub(super) fn next(&self) -> io::Result<Received> {
        self.socket.receive(Of::Shared, false)
    }
}

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        let mut pages = self.socket.lock();
        pages.receiving -= 1;
        let flush = pages.receiving == 0 && !pages.returned.is_empty();
        drop(pages);
        if flush {
            self.socket.flush();
        }
    }
}

/// A range of the region that is ours until this is dropped.
struct Page {
    socket: Arc<Socket>,
    offset: u32,
    length: usize,
}

impl Page {
    fn is_inside(&self) -> bool {
        self.socket.region.at(self.offset, self.length).is_some()
    }
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        let Some(start) = self.socket.region.at(self.offset, self.length) else {
            return &[];
        };
        // SAFETY: these bytes are in the region, which was zeroed when it was mapped, and the
        // module does not write to them before this page is dropped: head of this file.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.length) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.socket.give_back(self.offset);
    }
}
