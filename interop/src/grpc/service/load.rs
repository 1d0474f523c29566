//! What the server says about its load, which is what it is told to say.

use std::sync::Arc;
use std::time::Duration;

use async_stream::try_stream;
use prost::Message;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::{MissedTickBehavior, interval};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status};

use super::Responses;
use super::watch::MoreTrailers;
use crate::grpc::LOAD_TRAILER;
use crate::grpc::proto::testing::TestOrcaReport;
use crate::grpc::proto::xds::data::orca::v3::OrcaLoadReport;
use crate::grpc::proto::xds::service::orca::v3::open_rca_service_server::OpenRcaService;
use crate::grpc::proto::xds::service::orca::v3::{Interval, OrcaLoadReportRequest};

/// Between two reports, at least and if nothing else is asked for.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// The load of the whole server.
#[derive(Debug, Default)]
pub(super) struct Loads {
    latest: watch::Sender<OrcaLoadReport>,
    turn: Arc<Mutex<()>>,
}

impl Loads {
    /// Clients that report one after the other do not see the reports of others.
    pub(super) async fn take_turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    pub(super) fn report(&self, report: TestOrcaReport) {
        self.latest.send_replace(report.into());
    }
}

impl From<TestOrcaReport> for OrcaLoadReport {
    fn from(report: TestOrcaReport) -> Self {
        Self {
            cpu_utilization: report.cpu_utilization,
            mem_utilization: report.memory_utilization,
            request_cost: report.request_cost,
            utilization: report.utilization,
            ..Self::default()
        }
    }
}

/// The load of one call.
pub(super) fn trailers(report: TestOrcaReport) -> MoreTrailers {
    let report = OrcaLoadReport::from(report).encode_to_vec();
    let mut trailers = MetadataMap::new();
    trailers.insert_bin(LOAD_TRAILER, MetadataValue::from_bytes(&report));
    MoreTrailers(trailers.into_headers())
}

/// `OpenRcaService`.
#[derive(Debug)]
pub(super) struct OpenRca {
    loads: Arc<Loads>,
}

impl OpenRca {
    pub(super) fn new(loads: Arc<Loads>) -> Self {
        Self { loads }
    }
}

#[tonic::async_trait]
impl OpenRcaService for OpenRca {
    type StreamCoreMetricsStream = Responses<OrcaLoadReport>;

    async fn stream_core_metrics(
        &self,
        request: Request<OrcaLoadReportRequest>,
    ) -> Result<Response<Self::StreamCoreMetricsStream>, Status> {
        let every = checked_interval(request.into_inner().report_interval)?;
        let latest = self.loads.latest.subscribe();
        Ok(Response::new(Box::pin(try_stream! {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let report = latest.borrow().clone();
                yield report;
            }
        })))
    }
}

fn checked_interval(interval: Option<Interval>) -> Result<Duration, Status> {
    let Some(Interval { seconds, nanos }) = interval else {
        return Ok(DEFAULT_INTERVAL);
    };
    let checked = u64::try_from(seconds).ok().zip(u32::try_from(nanos).ok());
    let (seconds, nanos) = checked
        .filter(|(seconds, nanos)| *seconds <= 3_600 && *nanos < 1_000_000_000)
        .ok_or_else(|| {
            Status::invalid_argument(format!(
                "report_interval is {seconds} s and {nanos} ns, expected 0 to 3600 s"
            ))
        })?;
    Ok(Duration::new(seconds, nanos).max(SHORTEST_INTERVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_out_of_range_are_refused_and_short_ones_made_longer() {
        let checked = |seconds, nanos| checked_interval(Some(Interval { seconds, nanos }));
        assert_eq!(
            checked_interval(None).expect("the default"),
            DEFAULT_INTERVAL
        );
        assert_eq!(checked(0, 0).expect("allowed"), SHORTEST_INTERVAL);
        assert_eq!(checked(2, 5).expect("allowed"), Duration::new(2, 5));
        for (seconds, nanos) in [(-1, 0), (0, -1), (3_601, 0), (i64::MAX, 0), (0, i32::MAX)] {
            let refused = checked(seconds, nanos).expect_err("out of range");
            assert!(
                refused.message().contains(&seconds.to_string()),
                "{refused}"
            );
        }
    }
}
