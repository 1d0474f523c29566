//! [`HomaError`]: why a call failed, before Thrift gives it one of its names.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use homa_client::CallError;

use crate::pieces::RefusedPiece;

/// Why a call failed. Through [`HomaTransport::protocols`](crate::HomaTransport) generated code gets
/// the Thrift error of the same meaning; through the halves it gets an IO error, in which Thrift
/// does not tell all apart. [`HomaTransport::last_error`](crate::HomaTransport) has it whole.
///
/// | | IO error of the halves | Thrift error |
/// |---|---|---|
/// | `TooLong` | `InvalidInput` | `Transport`/`SizeLimit` |
/// | `ReplyTooLong` | `InvalidData` | `Transport`/`SizeLimit` |
/// | `TimedOut` | `TimedOut` | `Transport`/`TimedOut` |
/// | `Call`: the server is silent, unreachable, or was restarted | `ConnectionReset` | `Transport`/`NotOpen` |
/// | `Call`: its address cannot be called; no endpoint here | `NotConnected` | `Transport`/`NotOpen` |
/// | `Call`: too many calls; the system failed | `Other` | `Transport`/`Unknown` |
/// | `NotUnderstood`, `UnknownControl` | `InvalidData` | `Protocol`/`InvalidData` |
/// | `NotAccepted` | `Other` | `Application`/`InternalError` |
/// | `TooManyOneways` | `Other` | `Transport`/`Unknown` |
/// | `NoPieces`; `Refused` as too long | `InvalidInput` | `Transport`/`SizeLimit` |
/// | `Refused` for want of room | `Other` | `Application`/`InternalError` |
/// | `Refused` otherwise, `BadPieces` | `InvalidData` | `Protocol`/`InvalidData` |
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomaError {
    /// The request is longer than one message may be; nothing was sent.
    #[error(
        "a Thrift message to this server holds up to {limit} bytes, this one has at least {size}: \
         use a tcp+framed:// URI for long ones, set pieces in the options of client and server, or \
         raise limits.message_bytes if that is below 1000000"
    )]
    TooLong {
        /// Bytes up to where it was noticed.
        size: usize,
        /// The most there may be.
        limit: usize,
    },
    /// The reply is longer than `limits.message_bytes`.
    #[error("the reply of {size} bytes is over the limit of {limit}: raise limits.message_bytes")]
    ReplyTooLong {
        /// Bytes of the reply.
        size: usize,
        /// `limits.message_bytes`.
        limit: usize,
    },
    /// No reply before the deadline. The request may have run.
    #[error(
        "no reply from {peer} within {timeout:?}; the request may have run{}",
        no_server(.peer)
    )]
    TimedOut {
        /// The server.
        peer: SocketAddr,
        /// The timeout at the flush.
        timeout: Duration,
    },
    /// The RPC failed.
    #[error("{}", told(.0))]
    Call(#[source] Arc<CallError>),
    /// The server did not understand the request, and executed nothing.
    #[error("the server did not understand the request: {text}")]
    NotUnderstood {
        /// What it says.
        text: String,
    },
    /// The server did not accept the request, and executed nothing.
    #[error("the server did not accept the request: {text}")]
    NotAccepted {
        /// What it says.
        text: String,
    },
    /// The server answered with something that this version does not know.
    #[error("the server sent a control reply of unknown kind {kind:#04x}")]
    UnknownControl {
        /// Its first byte.
        kind: u8,
    },
    /// Oneway messages wait for the server to accept them; nothing was sent.
    #[error("{waiting} oneway messages wait for {peer} to accept them: it is overloaded or silent")]
    TooManyOneways {
        /// The server.
        peer: SocketAddr,
        /// How many.
        waiting: usize,
    },
    /// The request is longer than one Homa message, and the server does not take pieces. Nothing was
    /// executed.
    #[error(
        "this message has {size} bytes, and the server takes up to {limit}: set ServerOptions::pieces \
         there, or use a tcp+framed:// URI"
    )]
    NoPieces {
        /// Bytes of the request.
        size: usize,
        /// Longest without pieces.
        limit: usize,
    },
    /// The server refused a message in pieces, or a piece. A request was not executed then; a reply
    /// is lost.
    #[error("the server refused a message in pieces: {text}")]
    Refused {
        /// Why, for programs.
        why: RefusedPiece,
        /// Why, in its words.
        text: String,
    },
    /// What the server answered about pieces makes no sense.
    #[error("the server broke the protocol of messages in pieces: {text}")]
    BadPieces {
        /// What is wrong.
        text: String,
    },
}

impl HomaError {
    /// The kind of IO error that the halves return.
    pub fn io_kind(&self) -> io::ErrorKind {
        match self {
            Self::TooLong { .. } | Self::NoPieces { .. } => io::ErrorKind::InvalidInput,
            Self::Refused { why, .. } => match why {
                RefusedPiece::TooLong => io::ErrorKind::InvalidInput,
                RefusedPiece::NoRoom => io::ErrorKind::Other,
                _ => io::ErrorKind::InvalidData,
            },
            Self::TimedOut { .. } => io::ErrorKind::TimedOut,
            Self::Call(error) => call_kind(error),
            Self::ReplyTooLong { .. }
            | Self::NotUnderstood { .. }
            | Self::UnknownControl { .. }
            | Self::BadPieces { .. } => io::ErrorKind::InvalidData,
            Self::NotAccepted { .. } | Self::TooManyOneways { .. } => io::ErrorKind::Other,
        }
    }
}

/// Ports of Homa servers end here.
pub(crate) const LAST_SERVER_PORT: u16 = 32_767;

/// What to look at where nobody answers on a port that no server can have.
fn no_server(peer: &SocketAddr) -> &'static str {
    if peer.port() > LAST_SERVER_PORT {
        "; is this its port? Homa servers have ports 1 to 32767"
    } else {
        ""
    }
}

/// What a failed call says.
fn told(error: &CallError) -> String {
    let text = error.to_string();
    let hint = match error {
        CallError::TimedOut { peer, .. } | CallError::PeerUnreachable { peer, .. } => {
            no_server(peer)
        }
        _ => "",
    };
    if hint.is_empty() {
        return text;
    }
    // One question is enough.
    let what = text.strip_suffix(": is the server running?");
    format!("{}{hint}", what.unwrap_or(&text))
}

/// The kind of IO error that says the same: of those that Thrift knows, where it has one.
pub(crate) fn call_kind(error: &CallError) -> io::ErrorKind {
    match error {
        CallError::BadSize { .. } => io::ErrorKind::InvalidInput,
        CallError::Busy { .. } | CallError::System { .. } => io::ErrorKind::Other,
        CallError::BadAddress { .. } | CallError::Closed | CallError::Bind(_) => {
            io::ErrorKind::NotConnected
        }
        _ => io::ErrorKind::ConnectionReset,
    }
}

impl From<CallError> for HomaError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::BadSize { size, limit, .. } => Self::TooLong { size, limit },
            error => Self::Call(Arc::new(error)),
        }
    }
}

impl From<HomaError> for io::Error {
    fn from(error: HomaError) -> Self {
        Self::new(error.io_kind(), error)
    }
}
