//! The module's system calls, one function for each, with the length fields and return values
//! that it wants. Nothing is retried, kept or interpreted.
//!
//! Errors are those of the system, as [`io::Error::raw_os_error`] tells them; the section named
//! at each function lists them.
#![allow(unsafe_code, reason = "system calls")]

use std::ffi::c_void;
use std::io::{self, IoSlice};
use std::mem::{MaybeUninit, size_of, zeroed};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};

use libc::{c_int, msghdr, sa_family_t, sockaddr_in, sockaddr_in6, socklen_t};

use crate::probe::Numbers;
use crate::{
    HOMAIOCFREEZE, IPPROTO_HOMA, SO_HOMA_RCVBUF, SO_HOMA_SERVER, homa_abort_args, homa_info,
    homa_rcvbuf_args, homa_recvmsg_args, homa_rpc_info, homa_sendmsg_args,
};

/// IP version of a socket. One of IPv6 reaches IPv4 peers too, as `::ffff:a.b.c.d` (A.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
}

impl Family {
    const fn number(self) -> c_int {
        match self {
            Self::V4 => libc::AF_INET,
            Self::V6 => libc::AF_INET6,
        }
    }
}

/// A new socket of this protocol number, closed when the process runs another program (A.1).
///
/// # Errors
/// `EPROTONOSUPPORT`: no module; `EADDRNOTAVAIL`: no port is left; `ENOMEM`; `EMFILE` and the like.
pub fn socket(family: Family, protocol: c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers. A result of 0 or above is a descriptor that nobody else owns.
    unsafe {
        let fd = done(libc::socket(family.number(), kind, protocol))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Gives the socket this port, 1 to 32,767, and makes it a server; 0 changes nothing (A.2).
///
/// # Errors
/// `EINVAL`: the port is above; `EADDRINUSE`; `ESHUTDOWN`; `ENOMEM`.
pub fn bind(socket: BorrowedFd<'_>, family: Family, port: u16) -> io::Result<()> {
    let any = match family {
        Family::V4 => SocketAddr::from(([0; 4], port)),
        Family::V6 => SocketAddr::from(([0u16; 8], port)),
    };
    let address = Address::of(any, family);
    // SAFETY: the pointer is to an address of that length.
    done(unsafe { libc::bind(socket.as_raw_fd(), address.pointer(), address.length) })?;
    Ok(())
}

/// Gives the socket its receive region, once (A.3).
///
/// # Safety
/// The kernel writes into these `length` bytes from now on: at once into the first 16, and in each
/// [`recvmsg`] into pages that the caller does not own. They must be mapped for writing as long as
/// the socket is open in any process, and nothing in them may be read or written but what
/// `recvmsg` has handed out.
///
/// # Errors
/// `EINVAL`: unaligned, too small, too large, or set before; `EFAULT`; `ENOMEM`.
pub unsafe fn set_rcvbuf(
    socket: BorrowedFd<'_>,
    start: NonNull<u8>,
    length: usize,
) -> io::Result<()> {
    let args = homa_rcvbuf_args {
        start: start.as_ptr() as u64,
        length: length as u64,
    };
    set_option(socket, SO_HOMA_RCVBUF, &args)
}

/// The receive region: zeros if there is none, else its length is a multiple of a bpage's (A.3).
///
/// # Errors
/// `ENOPROTOOPT` from modules before December 2024.
pub fn rcvbuf(socket: BorrowedFd<'_>) -> io::Result<homa_rcvbuf_args> {
    let mut args = homa_rcvbuf_args::default();
    get_option(socket, SO_HOMA_RCVBUF, &mut args)?;
    Ok(args)
}

/// Whether the socket takes requests. Switching that off also refuses packets of requests that it
/// has taken before (A.3).
///
/// # Errors
/// `ENOPROTOOPT` from modules before February 2025.
pub fn set_server(socket: BorrowedFd<'_>, accepts: bool) -> io::Result<()> {
    set_option(socket, SO_HOMA_SERVER, &c_int::from(accepts))
}

/// Whether the socket takes requests (A.3).
///
/// # Errors
/// As [`set_server`].
pub fn is_server(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut accepts: c_int = 0;
    get_option(socket, SO_HOMA_SERVER, &mut accepts)?;
    Ok(accepts != 0)
}

/// Sends a message: a request if `args.id` is 0, which becomes the id of the RPC; else the response
/// to that id (A.5). It has been copied when this returns.
///
/// `family` is the socket's; `flags` may be `MSG_DONTWAIT`.
///
/// # Errors
/// `EINVAL`: the message is empty or too long, has too many parts, or answers what is answered;
/// `EAGAIN`: the send limit is reached; `EINTR`; `ENOMEM`; `ESHUTDOWN`; `ENETUNREACH`,
/// `EHOSTUNREACH`, `EACCES`: there is no way to the peer.
pub fn sendmsg(
    socket: BorrowedFd<'_>,
    family: Family,
    to: SocketAddr,
    message: &[IoSlice<'_>],
    args: &mut homa_sendmsg_args,
    flags: c_int,
) -> io::Result<()> {
    let mut address = Address::of(to, family);
    // SAFETY: zeros are a header without anything in it.
    let mut header: msghdr = unsafe { zeroed() };
    header.msg_name = address.pointer_mut().cast();
    header.msg_namelen = address.length;
    // The kernel only reads the parts; `IoSlice` has the layout of `iovec`.
    header.msg_iov = message.as_ptr().cast_mut().cast();
    header.msg_iovlen = message.len() as _;
    header.msg_control = ptr::from_mut(args).cast();
    // Zero, or the socket layer takes the arguments for its own (A.5).
    header.msg_controllen = 0;
    // SAFETY: every pointer of the header is to what lives and has the length that it says; the
    // arguments are borrowed for writing.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &header, flags | libc::MSG_NOSIGNAL) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Receives a message: of any RPC that is not private if `args.id` is 0, else of that one; and gives
/// back the `args.num_bpages` first of `args.bpage_offsets` before it waits (A.6).
///
/// Returns its length and its sender. `args` tells the RPC and where in the region the message is;
/// after an error, too, which RPC has failed, and its cookie. `flags` may be `MSG_DONTWAIT`.
///
/// # Safety
/// The region must be as [`set_rcvbuf`] wants it. What is given back has been handed out by an
/// earlier call, is given back once, and is not read any more.
///
/// # Errors
/// Those of the RPC (A.10); `EAGAIN`; `EINTR`; `ESHUTDOWN`; `EINVAL`: the arguments are wrong, there
/// is no region, or no such private RPC.
pub unsafe fn recvmsg(
    socket: BorrowedFd<'_>,
    args: &mut homa_recvmsg_args,
    flags: c_int,
) -> io::Result<(usize, SocketAddr)> {
    let mut address = Address::unknown();
    // SAFETY: zeros are a header without anything in it.
    let mut header: msghdr = unsafe { zeroed() };
    header.msg_name = address.pointer_mut().cast();
    header.msg_namelen = address.length;
    header.msg_control = ptr::from_mut(args).cast();
    header.msg_controllen = size_of::<homa_recvmsg_args>() as _;
    // SAFETY: the pointers are to what lives and has the length that the header says, borrowed for
    // writing; that the region may be written is the caller's promise.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, flags) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    let from = address.get().ok_or(io::ErrorKind::InvalidData)?;
    Ok((length as usize, from))
}

/// The state of the socket, and as many of its RPCs as there is room for (A.9).
///
/// # Errors
/// `EINVAL`: the module has another number for it, or none; `ESHUTDOWN`; `ENOMEM`.
pub fn info(
    socket: BorrowedFd<'_>,
    numbers: Numbers,
    rpcs: &mut [homa_rpc_info],
) -> io::Result<homa_info> {
    let mut info = homa_info {
        rpc_info: rpcs.as_mut_ptr() as u64,
        rpc_info_length: size_of_val(rpcs) as u64,
        ..homa_info::default()
    };
    // SAFETY: both numbers are encoded for a `homa_info`, which is borrowed for writing, and so are
    // as many bytes of `rpcs` as it says; whatever is written there is a valid `homa_rpc_info`.
    done(unsafe { libc::ioctl(socket.as_raw_fd(), numbers.info(), &mut info) })?;
    Ok(info)
}

/// Ends a client RPC, or all of the socket if `id` is 0 (A.9): silently if `error` is 0, else
/// [`recvmsg`] returns it with that errno.
///
/// # Errors
/// `EINVAL`: there is no such RPC.
pub fn abort(socket: BorrowedFd<'_>, numbers: Numbers, id: u64, error: u32) -> io::Result<()> {
    let mut args = homa_abort_args {
        id,
        error,
        ..homa_abort_args::default()
    };
    // SAFETY: both numbers are encoded for a `homa_abort_args`, which is borrowed for writing.
    done(unsafe { libc::ioctl(socket.as_raw_fd(), numbers.abort(), &mut args) })?;
    Ok(())
}

/// Stops the kernel's time trace, for debugging (A.9).
///
/// # Errors
/// `EINVAL` from modules before 13 April 2026, and from the reduced build.
pub fn freeze(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the command takes no argument.
    done(unsafe { libc::ioctl(socket.as_raw_fd(), HOMAIOCFREEZE) })?;
    Ok(())
}

/// Ends all RPCs of the socket without telling their peers, and wakes whoever waits on it (A.11).
///
/// # Errors
/// None are known.
pub fn shutdown(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    done(unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) })?;
    Ok(())
}

fn done(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn set_option<T>(socket: BorrowedFd<'_>, option: c_int, value: &T) -> io::Result<()> {
    let value = ptr::from_ref(value).cast::<c_void>();
    let length = size_of::<T>() as socklen_t;
    // SAFETY: the pointer is to as many bytes.
    done(unsafe { libc::setsockopt(socket.as_raw_fd(), IPPROTO_HOMA, option, value, length) })?;
    Ok(())
}

/// `T` must be an integer or made of such.
fn get_option<T: Copy>(socket: BorrowedFd<'_>, option: c_int, value: &mut T) -> io::Result<()> {
    let value = ptr::from_mut(value).cast::<c_void>();
    let mut length = size_of::<T>() as socklen_t;
    let fd = socket.as_raw_fd();
    // SAFETY: the pointer is to as many bytes, borrowed for writing; any bytes are valid there.
    done(unsafe { libc::getsockopt(fd, IPPROTO_HOMA, option, value, &mut length) })?;
    Ok(())
}

/// A socket address as the system has it.
struct Address {
    storage: MaybeUninit<sockaddr_in6>,
    length: socklen_t,
}

impl Address {
    /// In the socket's family: of IPv6 sockets, IPv4 peers are v4-mapped.
    fn of(addr: SocketAddr, family: Family) -> Self {
        let mut storage = MaybeUninit::<sockaddr_in6>::zeroed();
        let length = match (addr, family) {
            (SocketAddr::V4(v4), Family::V4) => {
                let address = sockaddr_in {
                    sin_family: libc::AF_INET as sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                // SAFETY: the storage is longer than an IPv4 address, and as aligned.
                unsafe { storage.as_mut_ptr().cast::<sockaddr_in>().write(address) };
                size_of::<sockaddr_in>()
            }
            // An IPv6 peer of an IPv4 socket is refused by the module (`EAFNOSUPPORT`).
            (addr, _) => {
                let (ip, scope) = match addr {
                    SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
                    SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
                };
                storage.write(sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as sa_family_t,
                    sin6_port: addr.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: ip.octets(),
                    },
                    sin6_scope_id: scope,
                });
                size_of::<sockaddr_in6>()
            }
        };
        Self {
            storage,
            length: length as socklen_t,
        }
    }

    /// Room for one of either family.
    fn unknown() -> Self {
        Self {
            storage: MaybeUninit::zeroed(),
            length: size_of::<sockaddr_in6>() as socklen_t,
        }
    }

    fn pointer(&self) -> *const libc::sockaddr {
        self.storage.as_ptr().cast()
    }

    fn pointer_mut(&mut self) -> *mut libc::sockaddr {
        self.storage.as_mut_ptr().cast()
    }

    /// `None`: it has neither family.
    fn get(&self) -> Option<SocketAddr> {
        // SAFETY: all of the storage was zeroed and holds integers only, so that it can be read
        // as either kind of address, whatever the system wrote into it.
        let (v4, v6) = unsafe {
            (
                self.pointer().cast::<sockaddr_in>().read(),
                self.storage.assume_init(),
            )
        };
        match c_int::from(v4.sin_family) {
            libc::AF_INET => {
                let ip = v4.sin_addr.s_addr.to_ne_bytes().into();
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                let ip = v6.sin6_addr.s6_addr.into();
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_in_the_family_of_the_socket() {
        let v4: SocketAddr = "192.0.2.7:4000".parse().expect("an address");
        let v6: SocketAddr = "[2001:db8::7]:4000".parse().expect("an address");
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:4000".parse().expect("an address");
        for (addr, family, expected, length) in [
            (v4, Family::V4, v4, 16),
            (v4, Family::V6, mapped, 28),
            (v6, Family::V6, v6, 28),
        ] {
            let address = Address::of(addr, family);
            assert_eq!((address.get(), address.length), (Some(expected), length));
        }
        assert_eq!(Address::unknown().get(), None);
    }

    /// What the socket layer itself answers tells that the calls reach it as they should.
    #[test]
    fn sockets_of_other_protocols_refuse_homas_options_and_commands() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
        let fd = std::os::fd::AsFd::as_fd(&socket);
        let errno = |result: io::Result<()>| result.expect_err("no Homa").raw_os_error();
        // Level 146 is nobody's.
        assert!(errno(set_server(fd, true)).is_some());
        assert!(errno(rcvbuf(fd).map(drop)).is_some());
        let info = info(fd, Numbers::Of2026, &mut []).map(drop);
        assert_eq!(errno(info), Some(libc::ENOTTY));
        let abort = abort(fd, Numbers::Of2025, 2, 0);
        assert_eq!(errno(abort), Some(libc::ENOTTY));
    }

    #[test]
    fn a_message_to_a_udp_socket_arrives() {
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
        let to = receiver.local_addr().expect("bound");
        let parts = [IoSlice::new(b"he"), IoSlice::new(b"llo")];
        let mut args = homa_sendmsg_args::default();
        let fd = std::os::fd::AsFd::as_fd(&sender);
        sendmsg(fd, Family::V4, to, &parts, &mut args, 0).expect("it is sent");
        let mut buffer = [0; 16];
        let length = receiver.recv(&mut buffer).expect("it arrives");
        assert_eq!(&buffer[..length], b"hello");
    }
}
