//! For code in which tonic's own types are hard-coded: a [`tonic::transport::Channel`] whose calls
//! go over Homa, and a finished [`tonic::transport::server::Router`] that is served on it. With
//! feature `bridge`.
//!
//! A generated client is generic over its channel, and a service does not know its server. So
//! this is for what cannot be changed: a library that takes or returns tonic's `Channel`, or a
//! function that hands out a `Router`.
//!
//! # What it costs
//!
//! Each bridged end speaks HTTP/2 with itself through a pipe in memory. On a machine with 2 cores a
//! short call takes some 50 to 80 µs more for each of them, so that with both ends bridged it is
//! slower than over TCP to a process next door; long messages are copied twice more. In HTTP/2 a
//! message and its end come one after the other, so that a bridged end waits for up to 2 ms for
//! the end of a body: a unary call stays one message each way, but a stream that pauses begins so
//! much later. What Homa does in the network stays: nothing waits there behind a long message.
//!
//! # What is lost
//!
//! * The [source](std::error::Error::source) of a status: whether a failed call may have run.
//! * On servers the extension [`HomaConnectInfo`](crate::transport::HomaConnectInfo);
//!   `remote_addr()` and `local_addr()` work.
//! * What HTTP/2 and tonic do otherwise comes back: a handler that reads a stream sees a false end
//!   of it just before it is dropped because the client went away; and the calls of one client
//!   share a flow control window, so that many streams which nobody reads can stop the others.
//!
//! # Examples
//!
//! ```no_run
//! # async fn run() -> Result<(), tonic_homa::transport::Error> {
//! let channel: tonic::transport::Channel =
//!     tonic_homa::bridge::client("homa://10.0.0.1:4000").await?;
//! # Ok(())
//! # }
//! ```
//!
//! ```no_run
//! # async fn run(
//! #     router: tonic::transport::server::Router,
//! # ) -> Result<(), tonic_homa::transport::Error> {
//! tonic_homa::bridge::server(router).serve("homa://0.0.0.0:4000").await
//! # }
//! ```

mod client;
mod gather;
mod server;

pub use client::{channel, client, client_lazy};
pub use server::{BridgedRouter, server};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes in the pipe between the two ends of a connection.
const PIPE: usize = 256 << 10;
/// What may be on its way within one stream, and on a connection. Not less than one message of
/// Homa, so that it fits at once.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Longer than any metadata that can be set as a limit here.
const HEADER_LIST: u32 = 1 << 20;
