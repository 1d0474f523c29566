//! [`Column`]: the cases over one transport.

use serde::Serialize;

use super::Plan;
use super::process::{self, ProcessError, Server};
use super::transport::Lane;
use crate::case::Ran;
use crate::ledger::Counts;
use crate::progress::Progress;
use crate::report;

/// What came of the cases over one transport.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Column {
    #[serde(flatten)]
    pub(super) lane: Lane,
    pub(super) uri: String,
    /// Why they were not run.
    pub(super) skipped: Option<String>,
    /// What went wrong besides the cases.
    pub(super) failed: Option<String>,
    pub(super) cases: Vec<Ran>,
    /// What the server has counted.
    pub(super) server: Option<Counts>,
}

impl Column {
    /// Runs them, each in the processes of this column. What moves on is `progress`.
    pub(super) async fn run(plan: &Plan, lane: Lane, progress: &Progress) -> Self {
        let transport = lane.transport;
        progress.bar.set_message(lane.name());
        let mut column = Self {
            lane,
            uri: String::new(),
            skipped: transport.why_missing(plan),
            failed: None,
            cases: Vec::new(),
            server: None,
        };
        if column.skipped.is_some() {
            return column;
        }
        // Declared first, so that they are removed after those who live in there.
        let place = match transport.namespaces() {
            Ok(place) => place,
            Err(error) if error.is_lack() => {
                column.skipped = Some(report::with_causes(&error));
                return column;
            }
            Err(error) => {
                column.failed = Some(report::with_causes(&error));
                return column;
            }
        };
        let ran = async {
            let folder = tempfile::tempdir()?;
            let server = Server::start(plan, transport, place.as_ref(), folder.path()).await?;
            column.uri = lane.client_uri(&server.at);
            let summary = process::run_client(
                plan,
                &column.uri,
                transport,
                place.as_ref(),
                folder.path(),
                progress,
            );
            column.cases = summary.await?.cases;
            let counts = server.stop().await?;
            if counts.ran_again > 0 {
                column.failed = Some(format!(
                    "of {} numbered calls {} ran again",
                    counts.numbered, counts.ran_again
                ));
            }
            column.server = Some(counts);
            Ok::<(), ProcessError>(())
        };
        if let Err(error) = ran.await {
            column.failed = Some(report::with_causes(&error));
        }
        column
    }

    /// Whether all that was run went well; `None` if nothing was.
    pub(super) fn passed(&self) -> Option<bool> {
        let all_passed = || self.failed.is_none() && self.cases.iter().all(|ran| ran.passed);
        self.skipped.is_none().then(all_passed)
    }

    /// Its head.
    pub(super) fn name(&self) -> String {
        self.lane.name()
    }

    /// The case of that name, if it was run.
    pub(super) fn case(&self, name: &str) -> Option<&Ran> {
        self.cases.iter().find(|ran| ran.name == name)
    }

    /// All of it in a line.
    pub(super) fn line(&self) -> String {
        let name = self.name();
        // The longest name beside this one.
        let width = match self.lane.protocol {
            None => "udp-pull".len(),
            Some(_) => "tcp-buffered/compact".len(),
        };
        if let Some(why) = &self.skipped {
            return format!("{name:width$}  skipped: {why}");
        }
        let (of, seconds) = (self.cases.len(), self.seconds());
        let passed = self.cases.iter().filter(|ran| ran.passed).count();
        let cases = format!("{passed} of {of} cases passed in {seconds:.1} s");
        match &self.failed {
            Some(why) => format!("{name:width$}  FAILED: {why}; {cases}"),
            None if passed < of => format!("{name:width$}  FAILED: {cases}"),
            None => format!("{name:width$}  {cases}"),
        }
    }

    fn seconds(&self) -> f64 {
        self.cases.iter().map(|ran| ran.seconds).sum()
    }
}
