//! Homa: a message transport for data centers.
//!
//! An RPC is one request and one response of 1 to 1,000,000 bytes. There are no connections. The
//! receiver of long messages schedules their senders with grants, the shortest remaining message
//! goes first, so short calls do not wait behind long ones.
//!
//! * [`Client`] and [`Server`] work inside a tokio runtime, [`blocking`] has the same for
//!   threads. They carry Homa over UDP and need neither a kernel module nor privileges; or, where
//!   [`Config::for_carrier`] says so, on IP protocol 146, which needs the capability CAP_NET_RAW; or,
//!   where [`Config::backend`] says so, through the kernel module.
//! * [`engine`] is the protocol alone, without IO, for other drivers and simulators. It is all
//!   that is left without the feature `user`.
//! * `options`, with the feature `config`, reads `homa:` URIs and configurations for the adapters.
//!
//! Nothing is encrypted or authenticated: use it where you trust the network.
//!
//! The protocol is that of HomaModule (commit `9edb958`); the papers are *Homa: A
//! Receiver-Driven Low-Latency Transport Protocol Using Network Priorities* (SIGCOMM 2018) and
//! *A Linux Kernel Implementation of the Homa Transport Protocol* (USENIX ATC 2021).

#[cfg(feature = "user")]
pub mod blocking;
#[cfg(feature = "user")]
mod buffers;
#[cfg(feature = "user")]
mod charge;
#[cfg(feature = "user")]
mod client;
mod config;
#[cfg(feature = "user")]
mod devices;
pub mod engine;
#[cfg(feature = "user")]
mod error;
mod faults;
#[cfg(feature = "user")]
mod kernel;
mod message;
#[cfg(feature = "config")]
pub mod options;
#[cfg(feature = "user")]
mod push;
#[cfg(feature = "user")]
mod server;
#[cfg(feature = "user")]
#[doc(hidden)]
pub use kernel::check as kernel_check;
#[cfg(feature = "user")]
mod stats;
#[cfg(feature = "user")]
mod user;
#[cfg(feature = "user")]
mod writer;

#[cfg(feature = "user")]
pub use client::{Call, Client};
pub use config::{Backend, BulkPort, Config, ConfigError};
#[cfg(feature = "user")]
pub use devices::{NetworkDevice, network_devices, pacing_mbps};
pub use engine::Unreachable;
pub use engine::wire::Carrier;
#[cfg(feature = "user")]
pub use error::{BindError, CallError, Executed, ReplyError};
pub use faults::Faults;
pub use message::Message;
#[cfg(feature = "user")]
pub use push::Pusher;
#[cfg(feature = "user")]
pub use server::{Request, RequestHandler, Responder, Server, WaitingReply};
#[cfg(feature = "user")]
pub use stats::{EndpointCounters, FaultCounters, Monitor};
#[cfg(feature = "user")]
pub use writer::MessageWriter;
