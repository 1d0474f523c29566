//! What Homa's errors are to Thrift.

use std::{fmt, io};

use homa_client::CallError;
use thrift::{
    ApplicationError, ApplicationErrorKind, ProtocolError, ProtocolErrorKind, TransportError,
    TransportErrorKind,
};

use crate::client::{HomaError, Undelivered, call_kind};
use crate::pieces::RefusedPiece;

/// The Thrift error that says the same as `error`, and whether it is worth trying again:
///
/// | Thrift | Homa |
/// |---|---|
/// | `NotOpen` | the peer cannot be reached, is silent or was restarted; its address cannot be called; the local endpoint is closed or cannot be opened |
/// | `SizeLimit` | the message is empty or too long |
/// | `Unknown` | anything else |
///
/// A [`HomaTransport`](crate::HomaTransport) does this for its callers, see [`HomaError`].
pub fn to_transport_error(error: &CallError) -> TransportError {
    TransportError::new(kind(error), error.to_string())
}

/// The Thrift error with the exact kind; see the table at [`HomaError`].
impl From<HomaError> for thrift::Error {
    fn from(error: HomaError) -> Self {
        let text = error.to_string();
        let transport = |kind| TransportError::new(kind, text.clone()).into();
        match error {
            HomaError::TooLong { .. }
            | HomaError::ReplyTooLong { .. }
            | HomaError::NoPieces { .. }
            | HomaError::Refused {
                why: RefusedPiece::TooLong,
                ..
            } => transport(TransportErrorKind::SizeLimit),
            HomaError::TimedOut { .. } => transport(TransportErrorKind::TimedOut),
            HomaError::Call(error) => transport(kind(&error)),
            HomaError::TooManyOneways { .. } => transport(TransportErrorKind::Unknown),
            HomaError::NotAccepted { .. }
            | HomaError::Refused {
                why: RefusedPiece::NoRoom,
                ..
            } => Self::Application(ApplicationError::new(
                ApplicationErrorKind::InternalError,
                text,
            )),
            HomaError::NotUnderstood { .. }
            | HomaError::UnknownControl { .. }
            | HomaError::Refused { .. }
            | HomaError::BadPieces { .. } => {
                ProtocolError::new(ProtocolErrorKind::InvalidData, text).into()
            }
        }
    }
}

impl From<Undelivered> for thrift::Error {
    /// As an error of the user's, from which it can be had back.
    fn from(error: Undelivered) -> Self {
        Self::User(Box::new(error))
    }
}

fn kind(error: &CallError) -> TransportErrorKind {
    match call_kind(error) {
        io::ErrorKind::InvalidInput => TransportErrorKind::SizeLimit,
        io::ErrorKind::Other => TransportErrorKind::Unknown,
        _ => TransportErrorKind::NotOpen,
    }
}

/// What cannot be opened here, and why.
pub(crate) fn not_open(why: impl fmt::Display) -> thrift::Error {
    TransportError::new(TransportErrorKind::NotOpen, why.to_string()).into()
}

/// What an error says. The `Display` of [`thrift::Error`] tells no more than its kind.
///
/// ```
/// use thrift::{TransportError, TransportErrorKind};
/// use thrift_homa::error_text;
///
/// let error = TransportError::new(TransportErrorKind::NotOpen, "no route to 10.0.0.1");
/// assert_eq!(error_text(&error.into()), "no route to 10.0.0.1");
/// ```
pub fn error_text(error: &thrift::Error) -> String {
    match error {
        thrift::Error::Transport(error) => error.message.clone(),
        thrift::Error::Protocol(error) => error.message.clone(),
        thrift::Error::Application(error) => error.message.clone(),
        thrift::Error::User(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use homa_client::{Executed, Message};

    use super::*;

    fn peer() -> SocketAddr {
        ([127, 0, 0, 1], 4_000).into()
    }

    /// The transport error that generated code sees through the wrapper, and through the halves.
    fn transport(error: HomaError) -> (TransportErrorKind, TransportErrorKind) {
        let kind = |error| match error {
            thrift::Error::Transport(error) => error.kind,
            other => panic!("{other:?}"),
        };
        let through_io = kind(io::Error::from(error.clone()).into());
        (kind(error.into()), through_io)
    }

    #[test]
    fn transport_errors_have_the_kinds_of_the_table() {
        use TransportErrorKind::{NotOpen, SizeLimit, TimedOut, Unknown};
        let peer = peer();
        let message = Message::new;
        let call = HomaError::from;
        let system = CallError::System {
            source: io::ErrorKind::OutOfMemory.into(),
            executed: Executed::Maybe,
        };
        let (size, limit) = (0, 1_000);
        let silence = Duration::from_secs(1);
        let what = "send_bytes";
        let cases = [
            (HomaError::TooLong { size, limit }, SizeLimit, Unknown),
            (HomaError::ReplyTooLong { size, limit }, SizeLimit, Unknown),
            (
                call(CallError::BadSize {
                    size,
                    limit,
                    message: message(),
                }),
                SizeLimit,
                Unknown,
            ),
            (
                HomaError::TimedOut {
                    peer,
                    timeout: silence,
                },
                TimedOut,
                TimedOut,
            ),
            (
                call(CallError::Busy {
                    what,
                    limit,
                    message: message(),
                }),
                Unknown,
                Unknown,
            ),
            (call(system), Unknown, Unknown),
            (call(CallError::BadAddress { addr: peer }), NotOpen, NotOpen),
            (
                call(CallError::TimedOut { peer, silence }),
                NotOpen,
                NotOpen,
            ),
            (call(CallError::PeerRestarted { peer }), NotOpen, NotOpen),
            (call(CallError::Closed), NotOpen, NotOpen),
            (
                HomaError::TooManyOneways { peer, waiting: 1 },
                Unknown,
                Unknown,
            ),
        ];
        for (error, wrapper, halves) in cases {
            let text = error.to_string();
            assert_eq!(transport(error), (wrapper, halves), "{text}");
        }
        let closed = to_transport_error(&CallError::Closed);
        assert_eq!(closed.kind, NotOpen);
    }

    #[test]
    fn control_replies_are_errors_of_the_protocol_or_of_the_application() {
        let text = || "why".to_owned();
        let not_understood = HomaError::NotUnderstood { text: text() };
        assert_eq!(not_understood.io_kind(), io::ErrorKind::InvalidData);
        for error in [not_understood, HomaError::UnknownControl { kind: 0xFA }] {
            match thrift::Error::from(error) {
                thrift::Error::Protocol(error) => {
                    assert_eq!(error.kind, ProtocolErrorKind::InvalidData);
                }
                other => panic!("{other:?}"),
            }
        }
        match thrift::Error::from(HomaError::NotAccepted { text: text() }) {
            thrift::Error::Application(error) => {
                assert_eq!(error.kind, ApplicationErrorKind::InternalError);
                assert!(error.message.ends_with(": why"), "{}", error.message);
            }
            other => panic!("{other:?}"),
        }
    }
}
