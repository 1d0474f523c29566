//! Apache [Thrift](thrift) over [Homa](homa_client).
//!
//! One call is one Homa RPC, and one Thrift message is one Homa message: the bytes that a framed
//! transport would put behind its four-byte length. There are no connections to open, to pool or
//! to find broken, and a call never waits behind the bytes of another.
//!
//! Clients use [`HomaTransport`] where they had `TTcpChannel` in a framed transport; generated
//! code stays as it is. Servers use [`HomaServer`] where they had `TServer`; it works one message
//! at a time, so that any number of clients share its workers.
//!
//! ```no_run
//! use thrift::protocol::{TBinaryInputProtocol, TBinaryOutputProtocol};
//! use thrift::transport::TIoChannel;
//! use thrift_homa::HomaTransport;
//!
//! # fn main() -> thrift::Result<()> {
//! let (read, write) = HomaTransport::open("10.0.0.1:4000")?.split()?;
//! let input = TBinaryInputProtocol::new(read, true);
//! let output = TBinaryOutputProtocol::new(write, true);
//! // let mut client = CalculatorSyncClient::new(input, output);
//! # drop((input, output));
//! # Ok(())
//! # }
//! ```
//!
//! Do not put a buffered transport between the two: it flushes in the middle of messages longer
//! than its buffer. A framed one works and wastes four bytes, if the server has one as well.
//!
//! Limits: messages up to 1,000,000 bytes; binary and compact protocol; no encryption. A server
//! answers what it does not understand, and accepts oneway messages, with a *control reply*, a
//! Homa message whose first byte no Thrift protocol begins with.
#![forbid(unsafe_code)]

mod control;
mod error;
#[allow(unused_macros, unused_imports, reason = "for the parts that come next")]
mod forward;
mod limits;
mod process;
#[allow(dead_code, reason = "for the parts that come next")]
mod protocol;
mod server;
mod transport;

pub use error::to_transport_error;
pub use limits::Limits;
pub use process::{Reply, process_message};
pub use protocol::{CustomProtocol, Protocol, UnknownProtocol};
pub use server::{HomaServer, ServerHandle};
pub use transport::HomaTransport;
