//! [`CallFailed`]: why a call of a benchmark gave nothing.

use homa_client::CallError;
use tonic::Status;

/// Why a call gave nothing, or not what it should have.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallFailed {
    #[error("a call failed")]
    Grpc(#[source] Box<Status>),
    #[error("a Thrift call failed")]
    Thrift(#[from] thrift::Error),
    #[error("an RPC failed")]
    Homa(#[from] CallError),
    #[error("the server ended a stream that only the client may end")]
    Ended,
    #[error(
        "a call of {sent} bytes was to be answered with {wanted} of its own, but {received} came, \
         or others"
    )]
    WrongBytes {
        sent: usize,
        wanted: usize,
        received: usize,
    },
}

impl From<Status> for CallFailed {
    fn from(status: Status) -> Self {
        Self::Grpc(Box::new(status))
    }
}
