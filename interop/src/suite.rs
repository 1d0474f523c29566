//! What the clients of all suites do alike: list cases, run them one by one, tell what came of them.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::case::{Failure, NAME_WIDTH, Ran};
use crate::progress::Progress;
use crate::report;

/// Seconds that a case may take by default.
pub(crate) const CASE_LIMIT: &str = "30";

/// How much the larger cases do, whatever they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Amount {
    /// End within seconds: smaller numbers in place of the defaults.
    #[arg(long)]
    quick: bool,
    /// Calls of a case that makes many, at once or in a row. [default: 1000, quick: 50]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    calls: Option<u32>,
}

impl Amount {
    /// What was given, or else the default of a full or of a quick run.
    pub(crate) fn or<T>(self, given: Option<T>, full: T, quick: T) -> T {
        given.unwrap_or(if self.quick { quick } else { full })
    }

    pub(crate) fn calls(self) -> u32 {
        self.or(self.calls, 1_000, 50)
    }

    /// The same options for another process.
    pub(crate) fn to_arguments(self) -> Vec<String> {
        vec![format!("--calls={}", self.calls())]
    }
}

/// A case, whatever it takes to run it.
pub(crate) struct Case<F> {
    pub(crate) name: &'static str,
    /// What it checks, in a line.
    pub(crate) summary: &'static str,
    pub(crate) run: F,
}

/// Prints the names of the cases and what they check.
pub(crate) fn list<F>(cases: &[Case<F>]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for case in cases {
        writeln!(out, "{:NAME_WIDTH$} {}", case.name, case.summary)?;
    }
    Ok(())
}

/// Runs them with `run`, one after the other, and prints a line for each.
pub(crate) async fn run_cases<F>(
    cases: &[&Case<F>],
    run: impl AsyncFn(&Case<F>) -> Result<(), Failure>,
) -> io::Result<Vec<Ran>> {
    let progress = Progress::if_it_lasts(cases.len() as u64);
    let mut all = Vec::new();
    for case in cases {
        progress.bar.set_message(case.name);
        let began = Instant::now();
        let outcome = run(case).await;
        let ran = Ran::new(case.name, outcome, began.elapsed());
        progress.print(&ran.line())?;
        progress.bar.inc(1);
        all.push(ran);
    }
    progress.bar.finish_and_clear();
    Ok(all)
}

/// What `--json` has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) uri: String,
    pub(crate) passed: bool,
    pub(crate) cases: Vec<Ran>,
}

impl Summary {
    pub(crate) fn new(uri: String, cases: Vec<Ran>) -> Self {
        Self {
            uri,
            passed: cases.iter().all(|ran| ran.passed),
            cases,
        }
    }

    /// Prints the verdict, writes the file if there is to be one, and tells the exit status.
    pub(crate) fn tell(&self, json: Option<&Path>) -> Result<ExitCode, Box<dyn std::error::Error>> {
        if let Some(path) = json {
            report::write_json(path, self)?;
        }
        let of = self.cases.len();
        let failed = self.cases.iter().filter(|ran| !ran.passed).count();
        let (verdict, status) = if self.passed {
            (format!("passed: all of {of} cases"), ExitCode::SUCCESS)
        } else {
            (format!("FAILED: {failed} of {of} cases"), ExitCode::FAILURE)
        };
        writeln!(io::stdout(), "{verdict}")?;
        Ok(status)
    }
}
