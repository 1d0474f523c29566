//! The cases: gRPC's own, by their official names, and ours.

mod compression;
mod ending;
mod flow;
mod load;
mod metadata;
mod soak;
mod streaming;
mod unary;

use std::pin::Pin;

use bytes::Bytes;
use tonic::{Code, Status};

use super::context::Context;
use super::proto::testing::{
    Payload, ResponseParameters, StreamingOutputCallRequest, StreamingOutputCallResponse,
};
use crate::case::{Failure, ensure};
use crate::suite;

/// One case.
pub(crate) type Case = suite::Case<fn(Context) -> Pin<Box<dyn Future<Output = Outcome> + Send>>>;

type Outcome = Result<(), Failure>;

macro_rules! cases {
    ($($module:ident::$name:ident: $summary:literal,)*) => {
        [$(Case {
            name: stringify!($name),
            summary: $summary,
            run: |context| Box::pin($module::$name(context)),
        },)*]
    };
}

/// All of them, gRPC's own first.
pub(crate) const CASES: &[Case] = &cases! {
    unary::empty_unary: "empty messages both ways",
    unary::large_unary: "271,828 bytes up and 314,159 down",
    unary::pick_first_unary: "all calls of a channel reach the same server",
    compression::client_compressed_unary: "a compressed request, a plain one, and one that lies",
    compression::server_compressed_unary: "a compressed response and a plain one",
    streaming::client_streaming: "four messages up, their sizes added up",
    compression::client_compressed_streaming: "a compressed message and a plain one up",
    streaming::server_streaming: "four messages down, in order",
    compression::server_compressed_streaming: "a compressed message and a plain one down",
    streaming::ping_pong: "four messages each way, in turns",
    streaming::half_duplex: "all requests before the first response",
    streaming::empty_stream: "the end of both directions and no message",
    metadata::custom_metadata: "ASCII metadata before, binary metadata after the messages",
    ending::status_code_and_message: "a status with a message, unary and streaming",
    ending::special_status_message: "a message with white space and Unicode beyond 16 bits",
    ending::unimplemented_method: "a method that nobody implements",
    ending::unimplemented_service: "a service that nobody implements, and one that nobody knows",
    ending::cancel_after_begin: "cancelled before the first message",
    ending::cancel_after_first_response: "cancelled in the middle of a conversation",
    ending::timeout_on_sleeping_server: "a deadline of 1 ms",
    load::orca_per_rpc: "a report of a call's load in its trailers",
    load::orca_oob: "reports of the server's load beside the calls",
    soak::concurrent_large_unary: "many large_unary at once",
    soak::rpc_soak: "one large_unary after the other on one channel",
    soak::channel_soak: "one large_unary after the other, each on a channel of its own",
    soak::long_lived_channel: "calls with idle time between them",
    streaming::server_speaks_first: "ours: headers and a message before the client sends any",
    flow::flow_control_down: "ours: a client that does not read stops the server",
    flow::flow_control_up: "ours: a server that does not read stops the client",
    flow::slow_consumer: "ours: a slow reader gets everything, and others do not wait",
    flow::many_streams: "ours: streams at the same time, each in its own order",
    unary::large_message_up: "ours: requests of 5 MB and more, every byte checked",
    unary::large_message_down: "ours: responses of 5 MB and more, every byte checked",
    ending::cancel_by_drop: "ours: a dropped call stops its handler",
    metadata::health: "ours: the health service knows what is served",
    soak::runs_once: "ours: of calls of each kind every one runs exactly once",
};

fn zeros(size: usize) -> Option<Payload> {
    Some(Payload {
        body: Bytes::from(vec![0; size]),
        ..Payload::default()
    })
}

/// A request for responses of these sizes, itself with `size` bytes.
fn output_request(sizes: &[i32], size: usize) -> StreamingOutputCallRequest {
    let parameters = |size: &i32| ResponseParameters {
        size: *size,
        ..ResponseParameters::default()
    };
    StreamingOutputCallRequest {
        response_parameters: sizes.iter().map(parameters).collect(),
        payload: zeros(size),
        ..StreamingOutputCallRequest::default()
    }
}

/// Whether it is the next of a stream and has as many zeros.
fn check_response(response: Option<StreamingOutputCallResponse>, size: i32) -> Outcome {
    let Some(response) = response else {
        return Err(Failure::new(format!("no response of {size} bytes")));
    };
    check_payload(response.payload.as_ref(), size)
}

fn check_payload(payload: Option<&Payload>, size: i32) -> Outcome {
    let body = payload.map_or(&[][..], |payload| &payload.body);
    ensure!(
        usize::try_from(size) == Ok(body.len()),
        "a response of {} bytes, expected {size}",
        body.len()
    );
    ensure!(
        body.iter().all(|byte| *byte == 0),
        "a response that is not all zeros"
    );
    Ok(())
}

/// Whether a call failed with this code.
fn failed_with<T>(result: Result<T, Status>, code: Code) -> Result<Status, Failure> {
    match result {
        Ok(_) => Err(Failure::new(format!("it succeeded, expected {code:?}"))),
        Err(status) if status.code() == code => Ok(status),
        Err(status) => Err(Failure::new(format!(
            "{:?} ({}), expected {code:?}",
            status.code(),
            status.message()
        ))),
    }
}

/// Whether a stream has ended.
fn ended<T>(message: Option<T>) -> Outcome {
    ensure!(message.is_none(), "a message after the last one");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::NAME_WIDTH;

    #[test]
    fn names_are_different_and_fit_their_column() {
        for (at, case) in CASES.iter().enumerate() {
            assert!(case.name.len() <= NAME_WIDTH, "{}", case.name);
            let others = &CASES[at + 1..];
            assert!(others.iter().all(|other| other.name != case.name));
        }
    }

    #[test]
    fn a_wrong_response_or_status_is_told() {
        let response = StreamingOutputCallResponse { payload: zeros(3) };
        assert!(check_response(Some(response.clone()), 3).is_ok());
        assert!(check_response(Some(response), 4).is_err());
        assert!(check_response(None, 0).is_err());
        let status = || Err::<(), _>(Status::aborted("why"));
        assert!(failed_with(status(), Code::Aborted).is_ok());
        let wrong = failed_with(status(), Code::Cancelled).expect_err("wrong code");
        assert_eq!(wrong.to_string(), "Aborted (why), expected Cancelled");
        assert!(failed_with(Ok(()), Code::Aborted).is_err());
    }
}
