//! How calls end that do not succeed: statuses, cancelling, deadlines.

use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use super::{Outcome, check_response, failed_with, output_request};
use crate::case::{Failure, ensure};
use crate::grpc::content;
use crate::grpc::context::Context;
use crate::grpc::proto::probe::{TransferRequest, TransferState};
use crate::grpc::proto::testing::{
    EchoStatus, Empty, ResponseParameters, SimpleRequest, StreamingInputCallRequest,
    StreamingOutputCallRequest,
};

/// How long a handler may live on after its call was dropped.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Between two looks at what the server has counted.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(super) async fn status_code_and_message(context: Context) -> Outcome {
    let wanted = EchoStatus {
        code: Code::Unknown as i32,
        message: "test status message".to_owned(),
    };
    check_unary_status(&context, &wanted).await?;

    let requests = tokio_stream::iter([StreamingOutputCallRequest {
        response_status: Some(wanted.clone()),
        ..StreamingOutputCallRequest::default()
    }]);
    let result = match context.tests().full_duplex_call(requests).await {
        Ok(responses) => responses.into_inner().message().await,
        Err(status) => Err(status),
    };
    let status = failed_with(result, Code::Unknown)?;
    check_message(status.message(), &wanted)
}

pub(super) async fn special_status_message(context: Context) -> Outcome {
    let wanted = EchoStatus {
        code: Code::Unknown as i32,
        message: "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n".to_owned(),
    };
    check_unary_status(&context, &wanted).await
}

async fn check_unary_status(context: &Context, wanted: &EchoStatus) -> Outcome {
    let request = SimpleRequest {
        response_status: Some(wanted.clone()),
        ..SimpleRequest::default()
    };
    let result = context.tests().unary_call(request).await;
    let status = failed_with(result, Code::Unknown)?;
    check_message(status.message(), wanted)
}

fn check_message(message: &str, wanted: &EchoStatus) -> Outcome {
    let expected = &wanted.message;
    ensure!(
        message == expected,
        "the message is {message:?}, expected {expected:?}"
    );
    Ok(())
}

pub(super) async fn unimplemented_method(context: Context) -> Outcome {
    let result = context.tests().unimplemented_call(Empty {}).await;
    failed_with(result, Code::Unimplemented).map(drop)
}

pub(super) async fn unimplemented_service(context: Context) -> Outcome {
    let result = context.unimplemented().unimplemented_call(Empty {}).await;
    failed_with(result, Code::Unimplemented)?;

    let mut unknown = Grpc::new(context.numbered());
    unknown.ready().await?;
    let path = PathAndQuery::from_static("/grpc.testing.NoService/NoCall");
    let codec = ProstCodec::<Empty, Empty>::default();
    let result = unknown.unary(Request::new(Empty {}), path, codec).await;
    failed_with(result, Code::Unimplemented).map(drop)
}

pub(super) async fn cancel_after_begin(context: Context) -> Outcome {
    let (requests, stream) = mpsc::channel::<StreamingInputCallRequest>(1);
    let mut request = Request::new(ReceiverStream::new(stream));
    let handle = request.cancellation_handle();
    let mut tests = context.tests();
    let mut call = Box::pin(tests.streaming_input_call(request));
    // Headers leave when it is polled.
    tokio::select! {
        biased;
        ended = &mut call => {
            ended?;
            return Err(Failure::new("it ended before it was cancelled"));
        }
        () = tokio::task::yield_now() => {}
    }
    handle.cancel();
    failed_with(call.await, Code::Cancelled)?;
    drop(requests);
    Ok(())
}

pub(super) async fn cancel_after_first_response(context: Context) -> Outcome {
    let (requests, stream) = mpsc::channel(1);
    let sent = requests.send(output_request(&[31_415], 27_182)).await;
    ensure!(sent.is_ok(), "the call takes no requests");
    let mut request = Request::new(ReceiverStream::new(stream));
    let handle = request.cancellation_handle();
    let mut responses = context
        .tests()
        .full_duplex_call(request)
        .await?
        .into_inner();
    check_response(responses.message().await?, 31_415)?;
    handle.cancel();
    failed_with(responses.message().await, Code::Cancelled)?;
    drop(requests);
    Ok(())
}

pub(super) async fn timeout_on_sleeping_server(context: Context) -> Outcome {
    let (requests, stream) = mpsc::channel(1);
    let mut asleep = output_request(&[], 27_182);
    asleep.response_parameters = vec![ResponseParameters {
        size: 31_415,
        interval_us: 1_000_000,
        ..ResponseParameters::default()
    }];
    let sent = requests.send(asleep).await;
    ensure!(sent.is_ok(), "the call takes no requests");
    let mut request = Request::new(ReceiverStream::new(stream));
    request.set_timeout(Duration::from_millis(1));
    let result = match context.tests().full_duplex_call(request).await {
        Ok(responses) => responses.into_inner().message().await,
        Err(status) => Err(status),
    };
    match result {
        // What tonic itself says over TCP.
        Err(status)
            if !context.is_homa()
                && status.code() == Code::Cancelled
                && status.message() == "Timeout expired" =>
        {
            Ok(())
        }
        result => failed_with(result, Code::DeadlineExceeded).map(drop),
    }
}

pub(super) async fn cancel_by_drop(context: Context) -> Outcome {
    let key = fastrand::u64(..);
    let (pieces, stream) = mpsc::channel(1);
    let sent = pieces.send(content::piece(key, 0, 1_000)).await;
    ensure!(sent.is_ok(), "the call takes no pieces");
    let mut probe = context.probe();
    let mut call = Box::pin(async move { probe.drain(ReceiverStream::new(stream)).await });
    tokio::select! {
        ended = &mut call => {
            ended?;
            return Err(Failure::new("it ended before it was dropped"));
        }
        running = transfer_is(&context, key, TransferState::Running) => running?,
    }
    drop(call);
    transfer_is(&context, key, TransferState::Cancelled).await
}

/// Waits until the server says so of a transfer.
async fn transfer_is(context: &Context, key: u64, wanted: TransferState) -> Outcome {
    let mut probe = context.probe();
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let deadline = Instant::now() + STOP_LIMIT;
    loop {
        let state = probe
            .watch(TransferRequest { key })
            .await?
            .into_inner()
            .state();
        if state == wanted {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::new(format!(
                "the server still says {state:?} after {STOP_LIMIT:?}, expected {wanted:?}"
            )));
        }
        looks.tick().await;
    }
}
