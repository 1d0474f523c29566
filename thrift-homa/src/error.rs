//! What Homa's errors are to Thrift.

use std::io;

use homa_client::{BindError, CallError};
use thrift::{TransportError, TransportErrorKind};

/// The Thrift error that says the same as `error`, and whether it is worth trying again:
///
/// | Thrift | Homa |
/// |---|---|
/// | `NotOpen` | the peer cannot be reached, is silent or was restarted; the local endpoint is closed or cannot be opened |
/// | `SizeLimit` | the message is empty or too long |
/// | `Unknown` | anything else |
///
/// Through [`HomaTransport`](crate::HomaTransport) generated code sees the same kinds, save that
/// the thrift crate turns `SizeLimit` into `Unknown` on the way.
pub fn to_transport_error(error: &CallError) -> TransportError {
    let kind = match error {
        CallError::BadSize { .. } => TransportErrorKind::SizeLimit,
        CallError::Busy { .. } | CallError::PeerMisbehaved { .. } => TransportErrorKind::Unknown,
        _ => TransportErrorKind::NotOpen,
    };
    TransportError::new(kind, error.to_string())
}

/// The kind of IO error that the thrift crate turns into the right kind of its own.
pub(crate) fn to_io_error(error: CallError) -> io::Error {
    let kind = match error {
        CallError::BadSize { .. } | CallError::BadAddress { .. } => io::ErrorKind::InvalidInput,
        CallError::Busy { .. } | CallError::PeerMisbehaved { .. } => io::ErrorKind::Other,
        CallError::Closed | CallError::Bind(_) => io::ErrorKind::NotConnected,
        _ => io::ErrorKind::ConnectionReset,
    };
    io::Error::new(kind, error)
}

/// A local endpoint that cannot be opened.
pub(crate) fn not_open(error: BindError) -> thrift::Error {
    TransportError::new(TransportErrorKind::NotOpen, error.to_string()).into()
}
