//! Which [`Status`] a failure becomes, and the checks of one that came from the network.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use homa_client::{BindError, CallError, Executed};
use http::{HeaderMap, StatusCode};
use tonic::{Code, Status};

use crate::frame::ResetReason;

/// The server refused a call with a RESET frame. The source of a call's [`Status`].
///
/// ```
/// use std::error::Error;
/// use homa_client::{CallError, Executed};
/// use tonic_homa::transport::ResetError;
///
/// /// Whether a call that failed surely did not run.
/// fn can_be_repeated(status: &tonic::Status) -> bool {
///     let source = status.source();
///     let refused = source.and_then(|source| source.downcast_ref::<ResetError>());
///     let failed = source.and_then(|source| source.downcast_ref::<CallError>());
///     let executed = refused.map(ResetError::executed).or(failed.map(CallError::executed));
///     executed == Some(Executed::No)
/// }
/// assert!(!can_be_repeated(&tonic::Status::internal("from the handler")));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server refused the call: {reason:?}{}{text}", if text.is_empty() { "" } else { ", " })]
#[non_exhaustive]
pub struct ResetError {
    /// Why.
    pub reason: ResetReason,
    /// The server's own words; may be empty.
    pub text: String,
}

impl ResetError {
    /// Whether the handler may have run. After [`Executed::No`] the call can be repeated.
    pub fn executed(&self) -> Executed {
        match self.reason {
            ResetReason::Stopping | ResetReason::Overloaded | ResetReason::Version => Executed::No,
            _ => Executed::Maybe,
        }
    }

    pub(crate) fn into_status(self) -> Status {
        let code = match self.reason {
            ResetReason::UnknownCall | ResetReason::Stopping | ResetReason::Duplicate => {
                Code::Unavailable
            }
            ResetReason::Overloaded => Code::ResourceExhausted,
            ResetReason::Cancelled => Code::Cancelled,
            ResetReason::Protocol => Code::Internal,
            ResetReason::Version => Code::Unimplemented,
        };
        with_source(code, self)
    }
}

pub(crate) fn from_call_error(error: CallError) -> Status {
    with_source(code_of(&error), error)
}

fn code_of(error: &CallError) -> Code {
    match error {
        CallError::BadSize { .. } | CallError::Busy { .. } => Code::ResourceExhausted,
        CallError::BadAddress { .. } => Code::InvalidArgument,
        _ => Code::Unavailable,
    }
}

/// The other side of a call went away while that was open, so that it may have run. The source of
/// its [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the call was cut off: {what}")]
#[non_exhaustive]
pub struct PeerLost {
    /// Who was lost, and how that was noticed.
    pub what: String,
}

impl PeerLost {
    /// Whether the handler may have run.
    pub fn executed(&self) -> Executed {
        Executed::Maybe
    }
}

/// For a failure after a call has begun: what the error says of its own message is no news of the
/// call.
pub(crate) fn lost(error: CallError) -> Status {
    let code = code_of(&error);
    let what = error.to_string();
    with_source(code, PeerLost { what })
}

pub(crate) fn from_bind_error(error: BindError) -> Status {
    with_source(Code::Unavailable, error)
}

/// A status that says what `error` says and keeps it as its source.
pub(crate) fn with_source(
    code: Code,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Status {
    let mut status = Status::new(code, error.to_string());
    status.set_source(Arc::new(error));
    status
}

/// Whether the transport says that no handler saw the call.
pub(crate) fn surely_not_run(status: &Status) -> bool {
    let mut next = std::error::Error::source(status);
    while let Some(error) = next {
        let executed = error.downcast_ref().map(CallError::executed);
        let executed = executed.or(error.downcast_ref().map(ResetError::executed));
        if let Some(executed) = executed {
            return executed == Executed::No;
        }
        // tonic's own transport: there was no connection to send it on.
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        next = error.source();
    }
    false
}

pub(crate) fn deadline_exceeded(timeout: Duration) -> Status {
    Status::deadline_exceeded(format!("the deadline of {timeout:?} has passed"))
}

/// For metadata over the limit. `what` is "request", "reply", or the like.
pub(crate) fn metadata_too_long(what: &str, size: usize, limit: usize) -> Status {
    Status::resource_exhausted(format!(
        "the {what} metadata has {size} bytes, over the limit of {limit} bytes: shorten it, \
         or raise `max_metadata_bytes` on both sides"
    ))
}

/// For a frame or metadata that breaks the protocol.
pub(crate) fn malformed(
    what: &str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Status {
    let mut status = Status::internal(format!("{what}: {error}"));
    status.set_source(Arc::new(error));
    status
}

/// The status for an HTTP status without `grpc-status`, as the gRPC specification maps them.
pub(crate) fn from_http(status: StatusCode) -> Status {
    let code = match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    Status::new(
        code,
        format!("the service answered with HTTP status {status}"),
    )
}

/// Removes status details that are no base64: tonic would panic over them.
pub(crate) fn sanitize_details(headers: &mut HeaderMap) {
    /// As lenient as tonic is.
    const BASE64: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );

    let Some(details) = headers.get(Status::GRPC_STATUS_DETAILS) else {
        return;
    };
    if BASE64.decode(details.as_bytes()).is_err() {
        tracing::debug!(?details, "dropped status details that are no base64");
        headers.remove(Status::GRPC_STATUS_DETAILS);
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::net::SocketAddr;

    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_status_keeps_its_source() {
        let peer = SocketAddr::from(([127, 0, 0, 1], 4_000));
        let status = from_call_error(CallError::TimedOut {
            peer,
            silence: Duration::from_secs(1),
        });
        assert_eq!(status.code(), Code::Unavailable);
        let source = status
            .source()
            .unwrap()
            .downcast_ref::<CallError>()
            .unwrap();
        assert_eq!(source.executed(), Executed::Maybe);
    }

    #[test]
    fn an_address_that_cannot_be_called_is_the_callers_fault() {
        let addr = SocketAddr::from(([0, 0, 0, 0], 4_000));
        let status = from_call_error(CallError::BadAddress { addr });
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("0.0.0.0:4000"), "{status}");
    }

    #[test]
    fn resets_have_the_codes_of_the_protocol() {
        use ResetReason::*;
        for (reason, code, executed) in [
            (UnknownCall, Code::Unavailable, Executed::Maybe),
            (Stopping, Code::Unavailable, Executed::No),
            (Overloaded, Code::ResourceExhausted, Executed::No),
            (Duplicate, Code::Unavailable, Executed::Maybe),
            (Cancelled, Code::Cancelled, Executed::Maybe),
            (Protocol, Code::Internal, Executed::Maybe),
            (Version, Code::Unimplemented, Executed::No),
        ] {
            let error = ResetError {
                reason,
                text: "because".into(),
            };
            assert_eq!(error.executed(), executed);
            let status = error.into_status();
            assert_eq!(status.code(), code);
            assert!(status.message().contains("because"), "{status}");
        }
    }

    #[test]
    fn details_that_would_panic_tonic_are_dropped() {
        for (details, kept) in [
            ("AQID", true),
            ("AQI=", true),
            ("AQI", true),
            ("A", false),
            ("AQJ", false),
            ("!!!!", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", HeaderValue::from_static("5"));
            headers.insert("grpc-status-details-bin", HeaderValue::from_static(details));
            sanitize_details(&mut headers);
            assert_eq!(
                headers.contains_key("grpc-status-details-bin"),
                kept,
                "{details}"
            );
            // Does not panic.
            assert_eq!(
                Status::from_header_map(&headers).unwrap().code(),
                Code::NotFound
            );
        }
    }
}
