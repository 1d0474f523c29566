//! One message each way.

use super::{Outcome, check_payload, zeros};
use crate::case::{Failure, ensure};
use crate::grpc::content;
use crate::grpc::context::Context;
use crate::grpc::proto::probe::ProduceRequest;
use crate::grpc::proto::testing::{Empty, SimpleRequest};

/// Sizes of the official large messages.
const LARGE_REQUEST: usize = 271_828;
const LARGE_RESPONSE: i32 = 314_159;

/// More than fits into one Homa message, whatever limits are raised.
const FIVE_MEGABYTES: u64 = 5_000_000;

/// Calls that have to reach the same server.
const PICKS: usize = 10;

pub(super) async fn empty_unary(context: Context) -> Outcome {
    context.tests().empty_call(Empty {}).await?;
    Ok(())
}

pub(super) async fn large_unary(context: Context) -> Outcome {
    let request = SimpleRequest {
        response_size: LARGE_RESPONSE,
        payload: zeros(LARGE_REQUEST),
        ..SimpleRequest::default()
    };
    let response = context.tests().unary_call(request).await?.into_inner();
    check_payload(response.payload.as_ref(), LARGE_RESPONSE)
}

pub(super) async fn pick_first_unary(context: Context) -> Outcome {
    let mut tests = context.tests();
    let mut first = None;
    for _ in 0..PICKS {
        let request = SimpleRequest {
            fill_server_id: true,
            ..SimpleRequest::default()
        };
        let id = tests.unary_call(request).await?.into_inner().server_id;
        ensure!(!id.is_empty(), "the server does not name itself");
        let first = first.get_or_insert_with(|| id.clone());
        ensure!(*first == id, "calls reached servers {first} and {id}");
    }
    Ok(())
}

pub(super) async fn large_message_up(context: Context) -> Outcome {
    for (number, bytes) in (1..).zip([FIVE_MEGABYTES, context.load.large()]) {
        let len = usize::try_from(bytes).map_err(|error| Failure::new(error.to_string()))?;
        let piece = content::piece(0, number, len);
        let checked = context.probe().check(piece).await?.into_inner();
        ensure!(
            checked.bytes == bytes,
            "{} of {bytes} bytes arrived",
            checked.bytes
        );
        ensure!(checked.as_sent, "other bytes than were sent, of {bytes}");
    }
    Ok(())
}

pub(super) async fn large_message_down(context: Context) -> Outcome {
    for (number, bytes) in (1..).zip([FIVE_MEGABYTES, context.load.large()]) {
        let request = ProduceRequest { number, bytes };
        let piece = context.probe().produce(request).await?.into_inner();
        let len = piece.data.len();
        ensure!(len as u64 == bytes, "{len} of {bytes} bytes arrived");
        ensure!(
            piece.number == number && content::is_as_sent(&piece),
            "other bytes than were sent, of {bytes}"
        );
    }
    Ok(())
}
