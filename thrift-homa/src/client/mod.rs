//! The client's side: from generated code to Homa RPCs.
//!
//! A [`Link`](link::Link) is the way to one server, shared by all clones of a transport. On it are
//! [`Channel`](channel::Channel)s, one for each generated client: the RPC under way. The
//! [`halves`] write to and read from a channel and know nothing of Thrift; the [`wrapper`] puts
//! Thrift's protocols over them, and its own names on errors. Oneway messages that nobody waits for
//! are kept by [`detached`].

mod channel;
mod detached;
mod failure;
mod halves;
pub(crate) mod link;
mod options;
mod transport;
mod wrapper;

pub use self::detached::Undelivered;
pub use self::failure::HomaError;
pub(crate) use self::failure::{LAST_SERVER_PORT, call_kind};
pub use self::halves::{HomaReadTransport, HomaWriteTransport};
pub use self::link::TransportStats;
pub use self::options::{ClientOptions, OnewayMode};
pub use self::transport::{HomaReadTransportFactory, HomaTransport, HomaWriteTransportFactory};
pub use self::wrapper::{HomaInputProtocol, HomaOutputProtocol};
