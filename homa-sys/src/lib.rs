//! The raw ABI of [HomaModule](https://github.com/PlatformLab/HomaModule), the Linux kernel module
//! that implements the Homa transport: what a program passes to `socket`, `sendmsg`, `recvmsg`,
//! `setsockopt` and `ioctl`, and the files it finds below `/proc`.
//!
//! There is no logic here: nothing is retried, kept or interpreted. Names are those of the C header,
//! so that its documentation can be searched with them; each item cites the section of the
//! protocol specification that it was written from ("A.5" and so on).
//!
//! | Module | Holds |
//! |---|---|
//! | this one | what current modules understand (ioctl numbers since April 2026, structures since July 2025) |
//! | [`call`] | the system calls |
//! | [`mod@probe`] | whether the module is loaded, and which one |
//! | [`legacy`] | numbers of older modules, for telling which one is loaded |
//! | [`sysctl`] | the parameters below `/proc/sys/net/homa`, their defaults and values |
//! | [`metrics`] | the counters of `/proc/net/homa_metrics` |
//!
//! Every structure must be zeroed before use and its reserved fields left at zero; `Default` does
//! both. Structures are checked by size, alignment and offset in `tests/layout.rs`.
//!
//! ```
//! use homa_sys::{HOMA_SENDMSG_PRIVATE, homa_sendmsg_args};
//!
//! let request = homa_sendmsg_args { flags: HOMA_SENDMSG_PRIVATE, ..Default::default() };
//! assert_eq!(request.id, 0, "0 asks the kernel for a new request");
//! ```

mod abi;
pub mod call;
pub mod legacy;
pub mod metrics;
pub mod probe;
pub mod sysctl;

pub use abi::*;
