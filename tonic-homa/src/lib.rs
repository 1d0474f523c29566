//! [tonic](https://docs.rs/tonic)'s `transport` module again, over Homa: a gRPC service moves
//! from TCP to Homa and back by changing a URI.
//!
//! Homa is a message transport for data centers. There are no connections: one unary call is one
//! message each way, and the shortest remaining message goes first, so that short calls do not
//! wait behind long ones. It works over UDP, without privileges; with `engine=raw` in its URI on IP
//! protocol 146, which needs the capability CAP_NET_RAW on both sides.
//!
//! # From tonic to here
//!
//! Two lines change once: the import, and the build script's
//! `tonic_prost_build::compile_protos` becomes [`tonic_homa::build::compile_protos`](build).
//! After that only the URI decides:
//!
//! ```no_run
//! use tonic_homa::transport::{Channel, Endpoint, Server}; // not tonic::transport
//!
//! # async fn run(routes: tonic::service::Routes) -> Result<(), tonic_homa::transport::Error> {
//! // A server, over Homa; with "http://0.0.0.0:4000", over TCP.
//! Server::builder().add_routes(routes).serve("homa://0.0.0.0:4000").await?;
//!
//! // A client; generated clients have `connect("homa://10.0.0.1:4000")` as well.
//! let channel: Channel = Endpoint::from_static("homa://10.0.0.1:4000").connect().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Or a file or the environment decides, see [`ClientConfig`] and [`ServerConfig`]; the variable
//! `TONIC_HOMA_URI` goes before a file's `uri` in any case. `docs/tonic.md` in the repository is the
//! guide, with a table of all keys.
//!
//! # What works over `homa:`
//!
//! All four kinds of calls, messages of any length, metadata in both directions, binary values,
//! statuses with details, compression, deadlines that reach the server, cover the whole call and
//! fail with `DEADLINE_EXCEEDED` on both sides, cancellation by dropping the call, interceptors,
//! layers, limits, balancing, health, reflection, `remote_addr()`, and graceful shutdown. Errors of
//! the transport keep their source, which says whether the call may have run.
//!
//! # What does not
//!
//! There is no TLS over either transport: nothing is encrypted or authenticated. A step from Homa
//! to TCP is taken only where a URI asks for it with `fallback`.
//!
//! # Features
//!
//! | feature | default | what for |
//! |---|---|---|
//! | `tcp` | yes | `http://` URIs through tonic's own transport |
//! | `connect-info` | by `tcp` | `Request::remote_addr()` and `local_addr()` on servers |
//! | `bridge` | no | [`bridge`]: tonic's own `Channel` and `Router` over Homa |
//! | `build` | no | [`build`], for build scripts |
#![forbid(unsafe_code)]
#![cfg_attr(
    not(all(feature = "bridge", feature = "build")),
    allow(rustdoc::broken_intra_doc_links, reason = "links both")
)]

#[cfg(feature = "bridge")]
pub mod bridge;
#[cfg(feature = "build")]
pub mod build;
mod config;
mod deadline;
mod error;
pub mod frame;
#[cfg(test)]
mod fuzz;
pub mod metadata;
mod random;
mod resolve;
mod status;
pub mod transport;
mod uri;

pub use config::{ClientConfig, ConfigError, HomaOptions, ServerConfig, URI_VARIABLE};
