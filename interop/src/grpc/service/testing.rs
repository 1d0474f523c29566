//! gRPC's own test services.

use std::sync::Arc;
use std::time::Duration;

use async_stream::try_stream;
use bytes::Bytes;
use tokio_stream::StreamExt;
use tonic::{Code, Extensions, Request, Response, Status, Streaming};

use super::Responses;
use super::load::{self, Loads};
use crate::grpc::MESSAGE_LIMIT;
use crate::grpc::marks::{Compress, Note};
use crate::grpc::proto::testing::test_service_server::TestService;
use crate::grpc::proto::testing::unimplemented_service_server::UnimplementedService;
use crate::grpc::proto::testing::{
    BoolValue, EchoStatus, Empty, Payload, ResponseParameters, SimpleRequest, SimpleResponse,
    StreamingInputCallRequest, StreamingInputCallResponse, StreamingOutputCallRequest,
    StreamingOutputCallResponse,
};

/// `TestService`.
#[derive(Debug)]
pub(super) struct Tester {
    /// Other in each process, so that clients can tell servers apart.
    id: String,
    loads: Arc<Loads>,
}

impl Tester {
    pub(super) fn new(loads: Arc<Loads>) -> Self {
        Self {
            id: format!("{:016x}", fastrand::u64(..)),
            loads,
        }
    }
}

#[tonic::async_trait]
impl TestService for Tester {
    type StreamingOutputCallStream = Responses<StreamingOutputCallResponse>;
    type FullDuplexCallStream = Responses<StreamingOutputCallResponse>;
    type HalfDuplexCallStream = Responses<StreamingOutputCallResponse>;

    async fn empty_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    async fn unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        let compressed = Compressed::of(request.extensions());
        let request = request.into_inner();
        compressed.check_next(request.expect_compressed)?;
        check_status(request.response_status)?;
        let mut response = Response::new(SimpleResponse {
            payload: Some(zeros(request.response_size)?),
            server_id: if request.fill_server_id {
                self.id.clone()
            } else {
                String::new()
            },
            ..SimpleResponse::default()
        });
        if request.response_compressed == Some(BoolValue { value: false }) {
            response.disable_compression();
        }
        if let Some(report) = request.orca_per_query_report {
            response.extensions_mut().insert(load::trailers(report));
        }
        Ok(response)
    }

    async fn cacheable_unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        self.unary_call(request).await
    }

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Self::StreamingOutputCallStream>, Status> {
        let request = request.into_inner();
        check_status(request.response_status)?;
        let compress = Compress::default();
        let marks = compress.clone();
        let responses = try_stream! {
            for parameters in request.response_parameters {
                yield respond(&parameters, &marks).await?;
            }
        };
        Ok(streamed(Box::pin(responses), compress))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let compressed = Compressed::of(request.extensions());
        let mut requests = request.into_inner();
        let mut size = 0;
        while let Some(request) = requests.message().await? {
            compressed.check_next(request.expect_compressed)?;
            size += request.payload.map_or(0, |payload| payload.body.len());
        }
        let aggregated_payload_size = i32::try_from(size)
            .map_err(|_| Status::out_of_range(format!("{size} bytes, more than 2^31")))?;
        Ok(Response::new(StreamingInputCallResponse {
            aggregated_payload_size,
        }))
    }

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Self::FullDuplexCallStream>, Status> {
        let mut requests = request.into_inner();
        let compress = Compress::default();
        let marks = compress.clone();
        // Headers leave with the first response, as from gRPC's other servers.
        let mut next = requests.message().await?;
        if let Some(first) = &mut next {
            check_status(first.response_status.take())?;
            if let Some(parameters) = first.response_parameters.first_mut() {
                wait(parameters).await?;
                parameters.interval_us = 0;
            }
        }
        let loads = Arc::clone(&self.loads);
        let responses = try_stream! {
            // Held to the end of the call.
            let mut reporting = None;
            while let Some(request) = next {
                check_status(request.response_status)?;
                if let Some(report) = request.orca_oob_report {
                    if reporting.is_none() {
                        reporting = Some(loads.take_turn().await);
                    }
                    loads.report(report);
                }
                for parameters in request.response_parameters {
                    yield respond(&parameters, &marks).await?;
                }
                next = requests.message().await?;
            }
        };
        Ok(streamed(Box::pin(responses), compress))
    }

    async fn half_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Self::HalfDuplexCallStream>, Status> {
        let mut requests = request.into_inner();
        let mut wanted = Vec::new();
        while let Some(request) = requests.try_next().await? {
            check_status(request.response_status)?;
            wanted.extend(request.response_parameters);
        }
        let compress = Compress::default();
        let marks = compress.clone();
        let responses = try_stream! {
            for parameters in wanted {
                yield respond(&parameters, &marks).await?;
            }
        };
        Ok(streamed(Box::pin(responses), compress))
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("no server implements this method"))
    }
}

/// `UnimplementedService`.
#[derive(Debug)]
pub(super) struct Unimplemented;

#[tonic::async_trait]
impl UnimplementedService for Unimplemented {
    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("no server implements this service"))
    }
}

/// Whether the messages of a request were compressed.
struct Compressed(Option<Note>);

impl Compressed {
    /// Without a note none can be: the call has no encoding.
    fn of(extensions: &Extensions) -> Self {
        Self(extensions.get::<Note>().cloned())
    }

    /// Compares the next message with what it says about itself.
    fn check_next(&self, expected: Option<BoolValue>) -> Result<(), Status> {
        let is = self.0.as_ref().and_then(|Note(marks)| marks.pop());
        let is = is.unwrap_or(false);
        match expected {
            Some(BoolValue { value }) if value != is => {
                let not = if is { "" } else { "not " };
                Err(Status::invalid_argument(format!(
                    "the message is {not}compressed, but expect_compressed is {value}"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// The status that was asked for, unless that is none or OK.
fn check_status(wanted: Option<EchoStatus>) -> Result<(), Status> {
    match wanted {
        Some(EchoStatus { code, message }) if code != 0 => {
            Err(Status::new(Code::from_i32(code), message))
        }
        _ => Ok(()),
    }
}

async fn respond(
    parameters: &ResponseParameters,
    Compress(marks): &Compress,
) -> Result<StreamingOutputCallResponse, Status> {
    wait(parameters).await?;
    let payload = Some(zeros(parameters.size)?);
    marks.push(parameters.compressed.is_none_or(|wanted| wanted.value));
    Ok(StreamingOutputCallResponse { payload })
}

async fn wait(parameters: &ResponseParameters) -> Result<(), Status> {
    let micros = u64::try_from(parameters.interval_us).map_err(|_| {
        Status::invalid_argument(format!(
            "interval_us is {}, expected 0 or more",
            parameters.interval_us
        ))
    })?;
    if micros > 0 {
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }
    Ok(())
}

fn zeros(size: i32) -> Result<Payload, Status> {
    let size = usize::try_from(size)
        .ok()
        .filter(|size| *size < MESSAGE_LIMIT)
        .ok_or_else(|| {
            Status::invalid_argument(format!(
                "a response of {size} bytes, expected 0 to {}",
                MESSAGE_LIMIT - 1
            ))
        })?;
    Ok(Payload {
        body: Bytes::from(vec![0; size]),
        ..Payload::default()
    })
}

fn streamed<T>(responses: Responses<T>, compress: Compress) -> Response<Responses<T>> {
    let mut response = Response::new(responses);
    response.extensions_mut().insert(compress);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_intervals_out_of_range_are_refused_with_the_range() {
        assert_eq!(zeros(3).expect("allowed").body, vec![0; 3]);
        for size in [-1, i32::MIN, i32::MAX] {
            let refused = zeros(size).expect_err("out of range");
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().contains(&size.to_string()), "{refused}");
        }
    }

    #[test]
    fn a_message_that_says_otherwise_of_itself_is_refused() {
        let says = |value| Some(BoolValue { value });
        let plain = Compressed(None);
        assert!(plain.check_next(says(false)).is_ok() && plain.check_next(None).is_ok());
        let refused = plain.check_next(says(true)).expect_err("it is plain");
        assert_eq!(refused.code(), Code::InvalidArgument);

        let note = Note::default();
        note.0.push(true);
        note.0.push(false);
        let mixed = Compressed(Some(note));
        assert!(mixed.check_next(says(true)).is_ok());
        assert!(mixed.check_next(says(true)).is_err(), "the second is plain");
    }

    #[test]
    fn a_status_is_sent_unless_it_is_ok() {
        let wanted = |code| {
            Some(EchoStatus {
                code,
                message: "why".to_owned(),
            })
        };
        assert!(check_status(wanted(0)).is_ok() && check_status(None).is_ok());
        let status = check_status(wanted(2)).expect_err("UNKNOWN");
        assert_eq!((status.code(), status.message()), (Code::Unknown, "why"));
    }
}
