//! Streams of messages.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Outcome, check_response, ended, output_request, zeros};
use crate::case::{Failure, ensure};
use crate::grpc::content;
use crate::grpc::context::Context;
use crate::grpc::proto::testing::StreamingInputCallRequest;

/// Sizes of the official streams.
const REQUESTS: [usize; 4] = [27_182, 8, 1_828, 45_904];
const RESPONSES: [i32; 4] = [31_415, 9, 2_653, 58_979];

pub(super) async fn client_streaming(context: Context) -> Outcome {
    let requests = REQUESTS.map(|size| StreamingInputCallRequest {
        payload: zeros(size),
        ..StreamingInputCallRequest::default()
    });
    let requests = tokio_stream::iter(requests);
    let response = context.tests().streaming_input_call(requests).await?;
    let sum = response.into_inner().aggregated_payload_size;
    ensure!(sum == 74_922, "{sum} bytes arrived, expected 74,922");
    Ok(())
}

pub(super) async fn server_streaming(context: Context) -> Outcome {
    let request = output_request(&RESPONSES, 0);
    let response = context.tests().streaming_output_call(request).await?;
    let mut responses = response.into_inner();
    for size in RESPONSES {
        check_response(responses.message().await?, size)?;
    }
    ended(responses.message().await?)
}

pub(super) async fn ping_pong(context: Context) -> Outcome {
    let (requests, stream) = mpsc::channel(1);
    let send = |at: usize| {
        let request = output_request(&[RESPONSES[at]], REQUESTS[at]);
        requests
            .try_send(request)
            .map_err(|_| Failure::new("the call takes no more requests"))
    };
    send(0)?;
    let stream = ReceiverStream::new(stream);
    let mut responses = context.tests().full_duplex_call(stream).await?.into_inner();
    for (at, size) in RESPONSES.into_iter().enumerate() {
        check_response(responses.message().await?, size)?;
        if at + 1 < REQUESTS.len() {
            send(at + 1)?;
        }
    }
    drop(requests);
    ended(responses.message().await?)
}

pub(super) async fn half_duplex(context: Context) -> Outcome {
    let requests = REQUESTS.iter().zip(RESPONSES);
    let requests: Vec<_> = requests
        .map(|(size, response)| output_request(&[response], *size))
        .collect();
    let requests = tokio_stream::iter(requests);
    let mut responses = context
        .tests()
        .half_duplex_call(requests)
        .await?
        .into_inner();
    for size in RESPONSES {
        check_response(responses.message().await?, size)?;
    }
    ended(responses.message().await?)
}

pub(super) async fn empty_stream(context: Context) -> Outcome {
    let none = tokio_stream::empty();
    let mut responses = context.tests().full_duplex_call(none).await?.into_inner();
    ended(responses.message().await?)
}

pub(super) async fn server_speaks_first(context: Context) -> Outcome {
    let (pieces, stream) = mpsc::channel(1);
    let stream = ReceiverStream::new(stream);
    let mut responses = context.probe().greet(stream).await?.into_inner();
    let greeting = responses.message().await?;
    ensure!(
        greeting.is_some_and(|it| content::is_as_sent(&it)),
        "no greeting"
    );

    let piece = content::piece(0, 1, 1_000);
    let sent = pieces.send(piece.clone()).await;
    ensure!(sent.is_ok(), "the call takes no requests");
    ensure!(
        responses.message().await? == Some(piece),
        "no answer after the greeting"
    );
    drop(pieces);
    ended(responses.message().await?)
}
