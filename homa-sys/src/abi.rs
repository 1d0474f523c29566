//! Constants, structures and ioctl numbers of the current module.
#![allow(non_camel_case_types, reason = "these are the C header's names")]

use std::fmt;

use libc::{Ioctl, c_char, c_int, sa_family_t, sockaddr_in, sockaddr_in6, sockaddr_storage};

/// The sizes that the module was built with, on every machine with 64 bits; offsets are checked in
/// `tests/layout.rs`.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<homa_rcvbuf_args>() == 16);
    assert!(size_of::<homa_sendmsg_args>() == 24);
    assert!(size_of::<homa_recvmsg_args>() == 88);
    assert!(size_of::<homa_abort_args>() == 32);
    assert!(size_of::<homa_info>() == 136);
    assert!(size_of::<homa_rpc_info>() == 184);
    assert!(align_of::<homa_recvmsg_args>() == 8 && align_of::<homa_rpc_info>() == 8);
};

/// Protocol number of Homa, for `socket(2)`, for the level of its socket options, and on the wire
/// in IPv4's `protocol` and IPv6's `next header` (section 0, A.1).
///
/// Sockets are `socket(AF_INET or AF_INET6, SOCK_DGRAM, IPPROTO_HOMA)`. `EPROTONOSUPPORT` means
/// that no module provides the protocol.
pub const IPPROTO_HOMA: c_int = 146;

/// Longest message in either direction, in bytes; the shortest is 1 (section 0, A.5).
pub const HOMA_MAX_MESSAGE_LENGTH: usize = 1_000_000;

/// Bytes in one page of the receive region (section 0, A.6).
pub const HOMA_BPAGE_SIZE: usize = 1 << HOMA_BPAGE_SHIFT;

/// Base-2 logarithm of [`HOMA_BPAGE_SIZE`] (section 0).
pub const HOMA_BPAGE_SHIFT: u32 = 16;

/// Most bpages one message can occupy, and most that one `recvmsg` can return to the kernel
/// (section 0, A.6).
pub const HOMA_MAX_BPAGES: usize = HOMA_MAX_MESSAGE_LENGTH.div_ceil(HOMA_BPAGE_SIZE);

/// First port the kernel gives to sockets that were not bound; the last is 65,535. Ports from 1 up
/// to this one, exclusive, can be bound and make the socket a server (section 0, A.2).
pub const HOMA_MIN_DEFAULT_PORT: u16 = 0x8000;

/// Number of priority levels, 0 lowest (section 0, A.14).
pub const HOMA_MAX_PRIORITIES: usize = 8;

/// First RPC id given out after the module was loaded; each further one is larger by 2 (A.4).
///
/// A client's ids are even. The server sees the same id with bit 0 set; 0 is never valid.
pub const HOMA_FIRST_RPC_ID: u64 = 2;

/// Socket option, level [`IPPROTO_HOMA`]: the receive region, a [`homa_rcvbuf_args`]. It can be
/// set once per socket, and must be before the first request is sent or accepted (A.3).
pub const SO_HOMA_RCVBUF: c_int = 10;

/// Socket option, level [`IPPROTO_HOMA`]: an `int`, non-zero to accept incoming requests (A.3).
/// Binding a port switches it on.
pub const SO_HOMA_SERVER: c_int = 11;

/// The receive region must hold this many bytes on top of one bpage for each CPU that the kernel
/// considers possible (A.3).
pub const HOMA_RCVBUF_MIN_BASE: usize = 2_000_000;

/// Largest receive region: 4 GiB, because offsets into it are 32 bits wide (A.3).
pub const HOMA_RCVBUF_MAX: u64 = 1 << 32;

/// Bytes at the start of the receive region that the kernel overwrites when the region is set, to
/// see whether it is writable (A.3).
pub const HOMA_RCVBUF_CLOBBERED: usize = size_of::<homa_rcvbuf_args>();

/// Flag in [`homa_sendmsg_args::flags`]: only a `recvmsg` that names the RPC's id gets the
/// response (A.5, A.7).
pub const HOMA_SENDMSG_PRIVATE: u32 = 1;

/// All bits that [`homa_sendmsg_args::flags`] may have; any other is `EINVAL` (A.5).
pub const HOMA_SENDMSG_VALID_FLAGS: u32 = HOMA_SENDMSG_PRIVATE;

/// Bytes of [`homa_info::error_msg`], the terminating NUL included (A.9).
pub const HOMA_ERROR_MSG_SIZE: usize = 104;

/// [`homa_info::rpc_info_length`] must stay below this, because the kernel keeps it in a signed
/// 32-bit variable (A.9).
pub const HOMA_RPC_INFO_LENGTH_LIMIT: u64 = 1 << 31;

/// Flag in [`homa_rpc_info::flags`]: reception waits for space in the receive region (A.9).
pub const HOMA_RPC_BUF_STALL: u16 = 1;
/// Flag in [`homa_rpc_info::flags`]: sent with [`HOMA_SENDMSG_PRIVATE`] (A.9). The module of July
/// 2026 tests the wrong bit for it: do not rely on this flag.
pub const HOMA_RPC_PRIVATE: u16 = 2;
/// Flag in [`homa_rpc_info::flags`]: the incoming message is complete and waits for `recvmsg`
/// (A.9).
pub const HOMA_RPC_RX_READY: u16 = 4;
/// Flag in [`homa_rpc_info::flags`]: a thread is copying the incoming message (A.9).
pub const HOMA_RPC_RX_COPY: u16 = 8;

/// ioctl type byte of Homa's commands (A.9).
const IOC_TYPE: u32 = b'h' as u32;

/// ioctl: state of the socket, a [`homa_info`]; the only one that the reduced build offered for
/// inclusion in Linux has (A.9).
///
/// Errors: `EFAULT`, `ESHUTDOWN`, `ENOMEM`, and `EINVAL` from modules older than 13 April 2026,
/// for which there is [`legacy::HOMAIOCINFO_2025`](crate::legacy::HOMAIOCINFO_2025).
pub const HOMAIOCINFO: Ioctl = libc::_IOWR::<homa_info>(IOC_TYPE, 0x90);

/// ioctl: ends client RPCs, a [`homa_abort_args`] (A.9). Errors: `EFAULT`; `EINVAL` if a pad is
/// not zero or the id names no client RPC of the socket.
pub const HOMAIOCABORT: Ioctl = libc::_IOWR::<homa_abort_args>(IOC_TYPE, 0x91);

/// ioctl, for debugging: stops the kernel's time trace; it takes no argument (A.9).
pub const HOMAIOCFREEZE: Ioctl = libc::_IO(IOC_TYPE, 0x92);

/// Argument of [`SO_HOMA_RCVBUF`] (A.3).
///
/// Errors of `setsockopt`: `EINVAL` if the region is unaligned, too small, too large or already
/// set; `EFAULT` if it is not writable; `ENOMEM`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct homa_rcvbuf_args {
    /// Address of the region; aligned to a hardware page.
    pub start: u64,
    /// Bytes in the region, at least [`HOMA_RCVBUF_MIN_BASE`] and a bpage per possible CPU, at
    /// most [`HOMA_RCVBUF_MAX`]. What is left beyond a multiple of [`HOMA_BPAGE_SIZE`] is unused.
    pub length: u64,
}

/// What `msg_control` of `sendmsg` points to, with `msg_controllen` **0** (A.5).
///
/// `sendmsg` returns 0 on success, not a count of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct homa_sendmsg_args {
    /// In: 0 for a new request, or the odd id of the request that this message answers. Out: the
    /// id of the new request.
    pub id: u64,
    /// In, requests: handed back with the response. Must be 0 for a response.
    pub completion_cookie: u64,
    /// In: [`HOMA_SENDMSG_PRIVATE`] or 0.
    pub flags: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// What `msg_control` of `recvmsg` points to, with `msg_controllen` exactly 88; the length must be
/// set again before every call (A.6).
///
/// Byte `i` of the message is at
/// `region + bpage_offsets[i >> HOMA_BPAGE_SHIFT] + (i & (HOMA_BPAGE_SIZE - 1))`. The caller owns
/// the bpages until it passes their offsets back, each exactly once, in any later call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct homa_recvmsg_args {
    /// In: 0 for any message that is not private, or the id of the private RPC to wait for. Out:
    /// the id of the RPC; bit 0 tells a request (1) from a response (0).
    pub id: u64,
    /// Out: the cookie of the request; 0 for requests.
    pub completion_cookie: u64,
    /// In: how many offsets are returned to the kernel. Out: how many describe the message.
    pub num_bpages: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Offsets from the start of the receive region. All but the last of a message are multiples
    /// of [`HOMA_BPAGE_SIZE`]; the last may be any.
    pub bpage_offsets: [u32; HOMA_MAX_BPAGES],
}

/// Argument of [`HOMAIOCABORT`] (A.9). The server is not told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct homa_abort_args {
    /// A client RPC of the socket, or 0 for all of them.
    pub id: u64,
    /// 0 destroys the RPC silently; a positive errno makes `recvmsg` return the RPC with it.
    pub error: u32,
    /// Must be 0.
    pub _pad1: u32,
    /// Must be 0.
    pub _pad2: [u64; 2],
}

/// Argument of [`HOMAIOCINFO`] (A.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct homa_info {
    /// In: address of an array of [`homa_rpc_info`], or 0.
    pub rpc_info: u64,
    /// In: bytes available there, below [`HOMA_RPC_INFO_LENGTH_LIMIT`].
    pub rpc_info_length: u64,
    /// Out: unused bytes of the receive region.
    pub bpool_avail_bytes: u64,
    /// Out: the socket's port.
    pub port: u32,
    /// Out: active RPCs of the socket; may be more than were stored.
    pub num_rpcs: u32,
    /// Out: what the last error on this socket was, ended by NUL. Success does not clear it.
    pub error_msg: [c_char; HOMA_ERROR_MSG_SIZE],
}

impl Default for homa_info {
    fn default() -> Self {
        Self {
            rpc_info: 0,
            rpc_info_length: 0,
            bpool_avail_bytes: 0,
            port: 0,
            num_rpcs: 0,
            error_msg: [0; HOMA_ERROR_MSG_SIZE],
        }
    }
}

/// A peer's address as [`HOMAIOCINFO`] tells it, in the family of the *socket* (A.9).
///
/// An IPv4 peer of an `AF_INET6` socket is a v4-mapped `sockaddr_in6`. An IPv6 peer of an
/// `AF_INET` socket is a meaningless `sockaddr_in` (A.12).
#[derive(Clone, Copy)]
#[repr(C)]
pub union homa_sockaddr {
    /// The family, at the start of every variant.
    pub family: sa_family_t,
    /// On an `AF_INET` socket.
    pub in4: sockaddr_in,
    /// On an `AF_INET6` socket.
    pub in6: sockaddr_in6,
    /// Large enough for any family.
    pub storage: sockaddr_storage,
    /// The same memory as bytes; not in the C header, here so that it can be zeroed.
    pub bytes: [u8; size_of::<sockaddr_storage>()],
}

impl Default for homa_sockaddr {
    fn default() -> Self {
        Self {
            bytes: [0; size_of::<sockaddr_storage>()],
        }
    }
}

impl fmt::Debug for homa_sockaddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("homa_sockaddr").finish_non_exhaustive()
    }
}

/// One RPC, in the array that [`HOMAIOCINFO`] fills (A.9).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct homa_rpc_info {
    /// The RPC's id; odd where the socket is the server.
    pub id: u64,
    /// The other side.
    pub peer: homa_sockaddr,
    /// Cookie given to `sendmsg`.
    pub completion_cookie: u64,
    /// Bytes in the outgoing message, -1 while there is none.
    pub tx_length: i32,
    /// Bytes of it that were transmitted at least once.
    pub tx_sent: u32,
    /// Bytes of it that may be transmitted, unscheduled ones included.
    pub tx_granted: u32,
    /// Priority of its next scheduled bytes; reserved in the reduced build.
    pub tx_prio: u32,
    /// Bytes in the incoming message, -1 while that is unknown.
    pub rx_length: i32,
    /// Bytes of it that have not arrived.
    pub rx_remaining: u32,
    /// Gaps in what has arrived.
    pub rx_gaps: u32,
    /// Bytes in these gaps.
    pub rx_gap_bytes: u32,
    /// Bytes of it that the peer may transmit.
    pub rx_granted: u32,
    /// [`HOMA_RPC_BUF_STALL`], [`HOMA_RPC_PRIVATE`], [`HOMA_RPC_RX_READY`], [`HOMA_RPC_RX_COPY`].
    pub flags: u16,
    /// Fills the structure up to a multiple of 8.
    pub _pad: [u16; 1],
}
