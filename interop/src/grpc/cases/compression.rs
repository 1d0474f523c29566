//! Compressed messages, and plain ones beside them.

use tonic::codec::CompressionEncoding::Gzip;
use tonic::{Code, Request};

use super::{Outcome, check_payload, check_response, ended, failed_with, zeros};
use crate::case::ensure;
use crate::grpc::context::Context;
use crate::grpc::marks::{Compress, Note};
use crate::grpc::proto::testing::{
    BoolValue, ResponseParameters, SimpleRequest, StreamingInputCallRequest,
    StreamingOutputCallRequest,
};

const REQUEST: usize = 271_828;
const RESPONSE: i32 = 314_159;

fn flag(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

pub(super) async fn client_compressed_unary(context: Context) -> Outcome {
    let request = |expected| SimpleRequest {
        expect_compressed: flag(expected),
        response_size: RESPONSE,
        payload: zeros(REQUEST),
        ..SimpleRequest::default()
    };
    let mut plain = context.tests();
    let mut compressing = context.tests().send_compressed(Gzip);
    // Without this the others would show nothing.
    failed_with(plain.unary_call(request(true)).await, Code::InvalidArgument)?;
    for (client, compressed) in [(&mut compressing, true), (&mut plain, false)] {
        let response = client.unary_call(request(compressed)).await?.into_inner();
        check_payload(response.payload.as_ref(), RESPONSE)?;
    }
    Ok(())
}

pub(super) async fn server_compressed_unary(context: Context) -> Outcome {
    let mut tests = context.tests().accept_compressed(Gzip);
    for compressed in [true, false] {
        let note = Note::default();
        let mut request = Request::new(SimpleRequest {
            response_compressed: flag(compressed),
            response_size: RESPONSE,
            payload: zeros(REQUEST),
            ..SimpleRequest::default()
        });
        request.extensions_mut().insert(note.clone());
        let response = tests.unary_call(request).await?.into_inner();
        check_payload(response.payload.as_ref(), RESPONSE)?;
        check_marks(&note, &[compressed])?;
    }
    Ok(())
}

pub(super) async fn client_compressed_streaming(context: Context) -> Outcome {
    let message = |expected, size| StreamingInputCallRequest {
        expect_compressed: flag(expected),
        payload: zeros(size),
    };
    let mut plain = context.tests();
    let mut compressing = context.tests().send_compressed(Gzip);
    let lie = tokio_stream::iter([message(true, 27_182)]);
    let refused = plain.streaming_input_call(lie).await;
    failed_with(refused, Code::InvalidArgument)?;

    let messages = [message(true, 27_182), message(false, 45_904)];
    let compress = Compress::default();
    compress.0.push(true);
    compress.0.push(false);
    let mut request = Request::new(tokio_stream::iter(messages));
    request.extensions_mut().insert(compress);
    let response = compressing.streaming_input_call(request).await?;
    let sum = response.into_inner().aggregated_payload_size;
    ensure!(sum == 73_086, "{sum} bytes arrived, expected 73,086");
    Ok(())
}

pub(super) async fn server_compressed_streaming(context: Context) -> Outcome {
    const WANTED: [(bool, i32); 2] = [(true, 31_415), (false, 92_653)];
    let note = Note::default();
    let parameters = WANTED.map(|(compressed, size)| ResponseParameters {
        compressed: flag(compressed),
        size,
        ..ResponseParameters::default()
    });
    let mut request = Request::new(StreamingOutputCallRequest {
        response_parameters: parameters.into(),
        ..StreamingOutputCallRequest::default()
    });
    request.extensions_mut().insert(note.clone());
    let mut tests = context.tests().accept_compressed(Gzip);
    let mut responses = tests.streaming_output_call(request).await?.into_inner();
    for (_, size) in WANTED {
        check_response(responses.message().await?, size)?;
    }
    ended(responses.message().await?)?;
    check_marks(&note, &WANTED.map(|(compressed, _)| compressed))
}

/// Whether the messages that arrived were compressed as they should be.
fn check_marks(Note(marks): &Note, expected: &[bool]) -> Outcome {
    let marks: Vec<_> = std::iter::from_fn(|| marks.pop()).collect();
    ensure!(
        marks == expected,
        "compressed were {marks:?} of the messages, expected {expected:?}"
    );
    Ok(())
}
