//! [`Column`]: the cases over one transport.

use serde::Serialize;

use super::Plan;
use super::process::{self, Gateway, ProcessError, Server};
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
    /// Those that cannot be run here, for lack of what the foreign library can do.
    pub(super) left_out: Vec<LeftOut>,
    /// The foreign library and its version.
    pub(super) peer: Option<String>,
    /// What the server has counted.
    pub(super) server: Option<Counts>,
}

/// A case that was not run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LeftOut {
    pub(super) name: &'static str,
    pub(super) why: &'static str,
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
            left_out: Vec::new(),
            peer: None,
            server: None,
        };
        let mut cases = plan.cases.clone();
        if let Some(foreign) = transport.foreign() {
            match foreign.library.find(&plan.python) {
                Ok(found) => column.peer = Some(found),
                Err(why) => column.skipped = Some(why),
            }
            cases.retain(|name| match foreign.why_not(name, lane.protocol) {
                None => true,
                Some(why) => {
                    column.left_out.push(LeftOut { name, why });
                    false
                }
            });
        }
        if cases.is_empty() {
            let why = "it can run none of the cases";
            column.skipped.get_or_insert_with(|| why.to_owned());
        }
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
            let server = Server::start(plan, lane, place.as_ref(), folder.path()).await?;
            let gateway = Gateway::start(lane, &server, folder.path()).await?;
            column.uri = lane.client_uri(gateway.as_ref().map_or(server.at(), Gateway::at));
            let summary = process::run_client(
                plan,
                lane,
                &cases,
                &column.uri,
                place.as_ref(),
                folder.path(),
                progress,
            );
            column.cases = summary.await?.cases;
            if let Some(gateway) = gateway {
                gateway.stop().await?;
            }
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

    /// Why the case of that name was left out, if it was.
    pub(super) fn left_out(&self, name: &str) -> Option<&LeftOut> {
        self.left_out.iter().find(|case| case.name == name)
    }

    /// All of it in a line.
    pub(super) fn line(&self) -> String {
        let name = self.name();
        // The longest name beside this one.
        let width = match self.lane.protocol {
            None => "udp-pull".len(),
            Some(_) => "thriftpy2-client/compact".len(),
        };
        if let Some(why) = &self.skipped {
            return format!("{name:width$}  skipped: {why}");
        }
        let (of, seconds) = (self.cases.len(), self.seconds());
        let passed = self.cases.iter().filter(|ran| ran.passed).count();
        let mut cases = format!("{passed} of {of} cases passed in {seconds:.1} s");
        if !self.left_out.is_empty() {
            cases += &format!(", {} skipped", self.left_out.len());
        }
        if let Some(peer) = &self.peer {
            cases += &format!(" ({peer})");
        }
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
