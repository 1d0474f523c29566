//! Numbers of older modules (A.13).
//!
//! Three layouts of `homa_recvmsg_args` have the same size, so the kernel cannot notice that a
//! program uses the wrong one. A binding therefore asks first: if
//! [`HOMAIOCINFO`](crate::HOMAIOCINFO) or [`HOMAIOCINFO_2025`] is understood, the structures of
//! this crate are right, and the one that worked tells which family of numbers to go on with.

use libc::{Ioctl, c_int};

use crate::{homa_abort_args, homa_info};

/// Protocol number until 25 October 2024. Worth trying only to say "module too old".
pub const IPPROTO_HOMA_2022: c_int = 253;

/// Protocol number in the version described by the ATC paper of 2021.
pub const IPPROTO_HOMA_2021: c_int = 140;

/// `HOMAIOCINFO` from October 2025 to 13 April 2026.
pub const HOMAIOCINFO_2025: Ioctl = libc::_IOWR::<homa_info>(TYPE_2025, 1);
/// `HOMAIOCABORT` from October 2025 to 13 April 2026.
pub const HOMAIOCABORT_2025: Ioctl = libc::_IOWR::<homa_abort_args>(TYPE_2025, 2);
/// `HOMAIOCFREEZE` from October 2025 to 13 April 2026.
pub const HOMAIOCFREEZE_2025: Ioctl = libc::_IO(TYPE_2025, 3);

/// `HOMAIOCABORT` from December 2022 to October 2025; there was no `HOMAIOCINFO`.
pub const HOMAIOCABORT_2022: Ioctl = libc::_IOWR::<homa_abort_args>(TYPE_2022, 0xe3);
/// `HOMAIOCFREEZE` from December 2022 to October 2025.
pub const HOMAIOCFREEZE_2022: Ioctl = libc::_IO(TYPE_2022, 0xef);

/// `msg_controllen` that `recvmsg` wanted from December 2022 to October 2023.
pub const RECVMSG_ARGS_SIZE_2022: usize = 96;
/// `msg_controllen` that `recvmsg` wanted from October 2023 to 11 November 2024; since then 88.
pub const RECVMSG_ARGS_SIZE_2023: usize = 120;
/// Size of `homa_sendmsg_args` until 3 March 2025: an id and a cookie.
pub const SENDMSG_ARGS_SIZE_2022: usize = 16;

const TYPE_2025: u32 = b'h' as u32;
const TYPE_2022: u32 = 0x89;
