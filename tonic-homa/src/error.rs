//! [`Error`]: why an endpoint, a channel or a server could not be set up.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use homa_client::{BindError, CallError};

use crate::config::ConfigError;
use crate::uri::UriError;

/// Why an endpoint, a channel or a server could not be set up.
///
/// Calls fail with a [`tonic::Status`] instead, which keeps its source.
///
/// ```
/// use tonic_homa::transport::{Endpoint, Error, UriError};
///
/// let error = Endpoint::from_shared("homa://10.0.0.1").unwrap_err();
/// assert!(matches!(error, Error::Uri(UriError::MissingPort { .. })));
/// // What is wrong, and what to do.
/// assert!(error.to_string().ends_with("write for example 10.0.0.1:4000"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URI cannot be used.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A `user_agent` that is no valid header value.
    #[error("this user agent is no valid HTTP header value: use visible ASCII")]
    UserAgent,
    /// The host name has no address.
    #[error("cannot resolve `{host}`: {source}")]
    Resolve {
        /// The name as given.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// `connect()` got no answer to its probe.
    #[error("no gRPC server answers over Homa at {addr}: {source}")]
    Connect {
        /// The address that was probed.
        addr: SocketAddr,
        /// Why the probe failed.
        source: CallError,
    },
    /// `connect()` got no answer in time.
    #[error(
        "{target} did not answer within the connect timeout of {timeout:?}: \
         is it running, and does it listen on Homa?"
    )]
    ConnectTimeout {
        /// Host and port of the URI.
        target: String,
        /// The endpoint's `connect_timeout`.
        timeout: Duration,
    },
    /// What answered the probe of `connect()` is no server of this protocol.
    #[error("{addr} does not speak gRPC over Homa: {what}")]
    Handshake {
        /// The address that was probed.
        addr: SocketAddr,
        /// What was wrong with its answer.
        what: String,
    },
    /// A Homa endpoint cannot be opened on this host.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A TCP listener cannot be opened on this host.
    #[error("cannot listen on TCP {addr}: {source}{}", listen_remedy(source))]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// tonic's own transport failed; only for `http:` and `unix:` URIs.
    #[cfg(feature = "tcp")]
    #[error(transparent)]
    Tcp(#[from] tonic::transport::Error),
    /// A connector was given for a `homa:` URI.
    #[error(
        "`{uri}` goes over Homa, which has no byte streams for a connector to open: use \
         `connect()`, or an http:// URI with this connector"
    )]
    Connector {
        /// The endpoint's URI.
        uri: String,
    },
    /// The runtime on which the server's Homa endpoint was opened has ended.
    #[error("the server's Homa endpoint is closed: the runtime that it was opened on has ended")]
    Closed,
    /// A conversion into an endpoint or an address that is not this crate's failed.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

fn listen_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ": stop the program that listens there or choose another port",
        io::ErrorKind::PermissionDenied => ": choose a port from 1024 on",
        io::ErrorKind::AddrNotAvailable => ": choose an address of this host",
        _ => "",
    }
}

impl Error {
    /// Takes this crate's own error out of a box, so that its type is not lost on the way.
    pub(crate) fn from_boxed(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => *own,
            Err(other) => Self::Other(other),
        }
    }
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
