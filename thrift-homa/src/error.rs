//! What Homa's errors are to Thrift.

use std::io;

use homa_client::{BindError, CallError};
use thrift::{TransportError, TransportErrorKind};

/// The Thrift error that says the same as `error`, and whether it is worth trying again:
///
/// | Thrift | Homa |
/// |---|---|
/// | `NotOpen` | the peer cannot be reached, is silent or was restarted; its address cannot be called; the local endpoint is closed or cannot be opened |
/// | `SizeLimit` | the message is empty or too long |
/// | `Unknown` | anything else |
///
/// Through [`HomaTransport`](crate::HomaTransport) generated code sees the same kinds, save that
/// the thrift crate turns `SizeLimit` into `Unknown` on the way.
pub fn to_transport_error(error: &CallError) -> TransportError {
    TransportError::new(kinds(error).0, error.to_string())
}

/// The same as an IO error, of a kind that the thrift crate turns into the Thrift kind.
pub(crate) fn to_io_error(error: CallError) -> io::Error {
    io::Error::new(kinds(&error).1, error)
}

fn kinds(error: &CallError) -> (TransportErrorKind, io::ErrorKind) {
    match error {
        CallError::BadSize { .. } => (TransportErrorKind::SizeLimit, io::ErrorKind::InvalidInput),
        CallError::Busy { .. } => (TransportErrorKind::Unknown, io::ErrorKind::Other),
        CallError::BadAddress { .. } | CallError::Closed | CallError::Bind(_) => {
            (TransportErrorKind::NotOpen, io::ErrorKind::NotConnected)
        }
        _ => (TransportErrorKind::NotOpen, io::ErrorKind::ConnectionReset),
    }
}

/// A local endpoint that cannot be opened.
pub(crate) fn not_open(error: BindError) -> thrift::Error {
    TransportError::new(TransportErrorKind::NotOpen, error.to_string()).into()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use homa_client::Message;

    use super::*;

    #[test]
    fn generated_code_sees_the_kinds_of_the_table() {
        let peer = SocketAddr::from(([0, 0, 0, 0], 4_000));
        let (size, limit, message) = (0, 1_000, Message::from(Vec::new()));
        let too_long = CallError::BadSize {
            size,
            limit,
            message: message.clone(),
        };
        let what = "send_bytes";
        let busy = CallError::Busy {
            what,
            limit,
            message,
        };
        let silence = Duration::from_secs(1);
        let errors = [
            (too_long, TransportErrorKind::SizeLimit),
            (busy, TransportErrorKind::Unknown),
            (
                CallError::BadAddress { addr: peer },
                TransportErrorKind::NotOpen,
            ),
            (
                CallError::TimedOut { peer, silence },
                TransportErrorKind::NotOpen,
            ),
            (
                CallError::PeerRestarted { peer },
                TransportErrorKind::NotOpen,
            ),
            (CallError::Closed, TransportErrorKind::NotOpen),
        ];
        for (error, kind) in errors {
            assert_eq!(to_transport_error(&error).kind, kind, "{error}");
            let through_io = match kind {
                TransportErrorKind::SizeLimit => TransportErrorKind::Unknown,
                other => other,
            };
            match thrift::Error::from(to_io_error(error)) {
                thrift::Error::Transport(error) => assert_eq!(error.kind, through_io, "{error}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
