//! [`Calls`]: what the backend asks of the module, so that tests can run it without one.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use homa_sys::call::{self, Family};
use homa_sys::probe::{self, Numbers, Unusable};
use homa_sys::{IPPROTO_HOMA, homa_info, homa_recvmsg_args, homa_sendmsg_args};

use super::region::Region;

/// One socket of the module. Errors are those of the system.
pub(super) trait Calls: Debug + Send + Sync {
    /// To wait for it.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Gives it its region.
    ///
    /// # Safety
    /// As [`call::set_rcvbuf`].
    unsafe fn set_region(&self, region: &Region) -> io::Result<()>;

    /// Makes it a server at this port.
    fn bind(&self, port: u16) -> io::Result<()>;

    /// Sends a request or response; `EAGAIN` if there is no room for it.
    fn send(
        &self,
        to: SocketAddr,
        message: &[IoSlice<'_>],
        args: &mut homa_sendmsg_args,
    ) -> io::Result<()>;

    /// Gives back pages, and receives; `waits`: until there is something.
    ///
    /// # Safety
    /// As [`call::recvmsg`].
    unsafe fn receive(
        &self,
        args: &mut homa_recvmsg_args,
        waits: bool,
    ) -> io::Result<(usize, SocketAddr)>;

    fn info(&self) -> io::Result<homa_info>;

    /// Ends a client RPC: silently, or with this errno.
    fn abort(&self, id: u64, error: u32) -> io::Result<()>;

    /// Ends all RPCs, and wakes whoever waits.
    fn shutdown(&self) -> io::Result<()>;
}

/// A socket of the module that is loaded.
#[derive(Debug)]
pub(super) struct Module {
    fd: OwnedFd,
    family: Family,
    numbers: Numbers,
}

impl Module {
    pub(super) fn open(family: Family) -> Result<Self, Unusable> {
        let numbers = probe::probe()?.numbers;
        Ok(Self {
            fd: call::socket(family, IPPROTO_HOMA).map_err(Unusable::Socket)?,
            family,
            numbers,
        })
    }
}

impl Calls for Module {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    unsafe fn set_region(&self, region: &Region) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { call::set_rcvbuf(self.fd(), region.start(), region.length()) }
    }

    fn bind(&self, port: u16) -> io::Result<()> {
        call::bind(self.fd(), self.family, port)
    }

    fn send(
        &self,
        to: SocketAddr,
        message: &[IoSlice<'_>],
        args: &mut homa_sendmsg_args,
    ) -> io::Result<()> {
        call::sendmsg(
            self.fd(),
            self.family,
            to,
            message,
            args,
            nix::libc::MSG_DONTWAIT,
        )
    }

    unsafe fn receive(
        &self,
        args: &mut homa_recvmsg_args,
        waits: bool,
    ) -> io::Result<(usize, SocketAddr)> {
        let flags = if waits { 0 } else { nix::libc::MSG_DONTWAIT };
        // SAFETY: the caller's promise.
        unsafe { call::recvmsg(self.fd(), args, flags) }
    }

    fn info(&self) -> io::Result<homa_info> {
        call::info(self.fd(), self.numbers, &mut [])
    }

    fn abort(&self, id: u64, error: u32) -> io::Result<()> {
        call::abort(self.fd(), self.numbers, id, error)
    }

    fn shutdown(&self) -> io::Result<()> {
        call::shutdown(self.fd())
    }
}
