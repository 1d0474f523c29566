//! Metadata, and what servers tell about themselves.

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{Outcome, check_payload, check_response, failed_with, output_request, zeros};
use crate::case::ensure;
use crate::grpc::context::Context;
use crate::grpc::proto::testing::SimpleRequest;

const INITIAL: &str = "x-grpc-test-echo-initial";
const INITIAL_VALUE: &str = "test_initial_metadata_value";
const TRAILING: &str = "x-grpc-test-echo-trailing-bin";
const TRAILING_VALUE: [u8; 3] = [0xab; 3];

const REQUEST: usize = 271_828;
const RESPONSE: i32 = 314_159;

pub(super) async fn custom_metadata(context: Context) -> Outcome {
    let mut tests = context.tests();
    let request = with_metadata(SimpleRequest {
        response_size: RESPONSE,
        payload: zeros(REQUEST),
        ..SimpleRequest::default()
    });
    let response = tests.unary_call(request).await?;
    // tonic puts both into one map here.
    check_initial(response.metadata())?;
    check_trailing(response.metadata())?;
    check_payload(response.into_inner().payload.as_ref(), RESPONSE)?;

    let requests = tokio_stream::iter([output_request(&[RESPONSE], REQUEST)]);
    let response = tests.full_duplex_call(with_metadata(requests)).await?;
    check_initial(response.metadata())?;
    let mut responses = response.into_inner();
    check_response(responses.message().await?, RESPONSE)?;
    let trailers = responses.trailers().await?.unwrap_or_default();
    check_trailing(&trailers)
}

fn with_metadata<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert(INITIAL, MetadataValue::from_static(INITIAL_VALUE));
    metadata.insert_bin(TRAILING, MetadataValue::from_bytes(&TRAILING_VALUE));
    request
}

fn check_initial(metadata: &MetadataMap) -> Outcome {
    let value = metadata.get(INITIAL);
    ensure!(
        value.is_some_and(|value| value == INITIAL_VALUE),
        "{INITIAL} came back as {value:?}"
    );
    Ok(())
}

fn check_trailing(metadata: &MetadataMap) -> Outcome {
    let value = metadata.get_bin(TRAILING).map(MetadataValue::to_bytes);
    let is_right = matches!(&value, Some(Ok(value)) if value[..] == TRAILING_VALUE);
    ensure!(is_right, "{TRAILING} came back as {value:?}");
    Ok(())
}

pub(super) async fn health(context: Context) -> Outcome {
    let mut health = context.health();
    for service in ["", "grpc.testing.TestService"] {
        let service = service.to_owned();
        let request = HealthCheckRequest { service };
        let response = health.check(request.clone()).await?.into_inner();
        let status = response.status();
        ensure!(
            status == ServingStatus::Serving,
            "{:?} is {status:?}",
            request.service
        );
    }
    let service = "grpc.testing.NoService".to_owned();
    let unknown = health.check(HealthCheckRequest { service }).await;
    failed_with(unknown, Code::NotFound)?;
    Ok(())
}
