//! Load reports, which come with a call or beside all of them.

use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;

use super::{Outcome, check_response, output_request};
use crate::case::{Failure, ensure};
use crate::grpc::LOAD_TRAILER;
use crate::grpc::context::Context;
use crate::grpc::proto::testing::{SimpleRequest, StreamingOutputCallRequest, TestOrcaReport};
use crate::grpc::proto::xds::data::orca::v3::OrcaLoadReport;
use crate::grpc::proto::xds::service::orca::v3::{Interval, OrcaLoadReportRequest};

/// Between two reports, in nanoseconds.
const EVERY: i32 = 20_000_000;

fn report(cpu: f64, memory: f64, costs: &[f64], util: f64) -> TestOrcaReport {
    let costs = costs.iter().map(|cost| ("cost".to_owned(), *cost));
    TestOrcaReport {
        cpu_utilization: cpu,
        memory_utilization: memory,
        request_cost: costs.collect(),
        utilization: [("util".to_owned(), util)].into(),
    }
}

pub(super) async fn orca_per_rpc(context: Context) -> Outcome {
    let wanted = report(0.8210, 0.5847, &[3_456.32], 0.30499);
    let request = SimpleRequest {
        orca_per_query_report: Some(wanted.clone()),
        ..SimpleRequest::default()
    };
    let response = context.tests().unary_call(request).await?;
    // tonic puts trailers there, too.
    let value = response.metadata().get_bin(LOAD_TRAILER);
    let value = value.map(MetadataValue::to_bytes);
    let Some(Ok(value)) = value else {
        return Err(Failure::new(format!("{LOAD_TRAILER} is {value:?}")));
    };
    let found = OrcaLoadReport::decode(value);
    let found = found.map_err(|error| Failure::new(format!("{LOAD_TRAILER}: {error}")))?;
    ensure!(
        found == wanted.into(),
        "another report than was asked for: {found:?}"
    );
    Ok(())
}

pub(super) async fn orca_oob(context: Context) -> Outcome {
    let request = OrcaLoadReportRequest {
        report_interval: Some(Interval {
            seconds: 0,
            nanos: EVERY,
        }),
        ..OrcaLoadReportRequest::default()
    };
    let reports = context.load_reports().stream_core_metrics(request).await?;
    let mut reports = reports.into_inner();

    let (requests, stream) = mpsc::channel(1);
    let mut stream = Some(ReceiverStream::new(stream));
    let mut responses = None;
    for wanted in [
        report(0.8210, 0.5847, &[], 0.30499),
        report(0.29309, 0.2, &[], 0.2039),
    ] {
        let request = StreamingOutputCallRequest {
            orca_oob_report: Some(wanted.clone()),
            ..output_request(&[1], 0)
        };
        let sent = requests.send(request).await;
        ensure!(sent.is_ok(), "the call takes no more requests");
        if let Some(stream) = stream.take() {
            let response = context.tests().full_duplex_call(stream).await?;
            responses = Some(response.into_inner());
        }
        if let Some(responses) = &mut responses {
            check_response(responses.message().await?, 1)?;
        }
        // Those before it may still be on their way.
        let wanted = OrcaLoadReport::from(wanted);
        loop {
            let found = reports.message().await?;
            let Some(found) = found else {
                return Err(Failure::new("the reports have ended"));
            };
            if found == wanted {
                break;
            }
        }
    }
    Ok(())
}
