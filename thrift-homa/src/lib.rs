//! Apache [Thrift](thrift) over [Homa](homa_client).
//!
//! One call is one Homa RPC, and one Thrift message is one Homa message: the bytes that a framed
//! transport would put behind its four-byte length. There are no connections to open, to pool or
//! to find broken, and a call never waits behind the bytes of another.
//!
//! Clients open a [`HomaTransport`] where they had a `TTcpChannel` in a framed transport, and give
//! its protocols to generated code, which stays as it is. Servers use [`HomaServer`] where they had
//! `TServer`; it works one message at a time, so that any number of clients share its workers.
//!
//! ```no_run
//! use thrift_homa::HomaTransport;
//!
//! # fn main() -> thrift::Result<()> {
//! let (input, output) = HomaTransport::open("10.0.0.1:4000")?.protocols();
//! // let mut client = CalculatorSyncClient::new(input, output);
//! # drop((input, output));
//! # Ok(())
//! # }
//! ```
//!
//! An [`Endpoint`] chooses the transport by a URI, which a [`ClientConfig`], a [`ServerConfig`] or
//! the environment may have: `homa://`, `tcp+framed://`, `tcp+buffered://` or `unix+framed://`, with
//! the same handlers and the same generated clients, the same limits and the same errors.
//!
//! ```no_run
//! use thrift_homa::{ClientConfig, Endpoint};
//!
//! # fn main() -> thrift::Result<()> {
//! let config = ClientConfig::from_toml_file("client.toml")?;
//! let (input, output) = Endpoint::from_config(&config)?.client()?;
//! # drop((input, output));
//! # Ok(())
//! # }
//! ```
//!
//! Protocols made elsewhere go over its [halves](HomaTransport::into_halves). Do not put a buffered
//! transport between: it flushes in the middle of messages longer than its buffer. A framed one
//! works and wastes four bytes, if the server has one as well.
//!
//! Limits: messages up to 1,000,000 bytes, unless client and server agree on [`PieceOptions`];
//! binary and compact protocol; no encryption. A server
//! answers what it does not understand, and accepts oneway messages, with a *control reply*, a
//! Homa message whose first byte no Thrift protocol begins with.
#![forbid(unsafe_code)]

mod addr;
mod bounded;
mod client;
mod config;
mod connection;
mod control;
mod endpoint;
mod error;
mod forward;
pub mod gateway;
mod limits;
mod pieces;
mod process;
mod protocol;
mod server;
mod uri;

pub use client::{
    ClientOptions, HomaError, HomaInputProtocol, HomaOutputProtocol, HomaReadTransport,
    HomaReadTransportFactory, HomaTransport, HomaWriteTransport, HomaWriteTransportFactory,
    OnewayMode, TransportStats, Undelivered,
};
pub use config::{ClientConfig, ConfigError, HomaOptions, ServerConfig, URI_VARIABLE};
pub use endpoint::{BoxedInputProtocol, BoxedOutputProtocol, Endpoint, EndpointTransport};
pub use error::{error_text, to_transport_error};
pub use homa_client::options::Engine;
pub use limits::Limits;
pub use pieces::{PieceOptions, PieceStats, RefusedPiece};
pub use process::{Reply, process_message};
pub use protocol::{CustomProtocol, Protocol, UnknownProtocol};
pub use server::{
    AbandonedCall, CallContext, CallMetrics, CallOutcome, CallRecord, CallTransport, Framing,
    HomaServer, MethodCounts, Observer, OnewayAck, QueuedAtShutdown, ServerBuilder, ServerHandle,
    ServerOptions, ServerStats, ShutdownReport, Stopper, call_context, serve_tcp, serve_unix,
};
pub use uri::UriError;
