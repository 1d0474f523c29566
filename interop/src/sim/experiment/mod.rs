//! [`Experiment`]: what a run of a plan finds out.

mod incast;
mod max_load;
mod scale;

use std::path::Path;

use super::outcome::{IncastOutcome, MaxLoadOutcome, Outcome, ScaleOutcome};
use super::plan::{Kind, Run};
use super::report::KnownCurve;
use super::run::{Prepared, RunError, Speed};
use incast::Incast;
use max_load::Search;
use scale::Scale;
pub(crate) use scale::{ProcessError, SIZE_SUBCOMMAND, run_size_from_stdin};

/// A run of a plan that has been checked.
#[derive(Debug)]
pub(crate) enum Experiment {
    Slowdown(Box<Prepared>),
    MaxLoad(Box<Search>),
    Incast(Box<Incast>),
    Scale(Box<Scale>),
}

/// What one has found.
#[derive(Debug)]
pub(crate) enum Finding {
    Slowdown(Box<Outcome>),
    MaxLoad(Box<MaxLoadOutcome>),
    Incast(Box<IncastOutcome>),
    Scale(Box<ScaleOutcome>),
}

impl Experiment {
    /// Checks a run, whose settings are within their ranges already, and reads its files.
    /// `reference` has published slowdowns.
    pub(crate) fn new(run: Run, reference: Option<&Path>) -> Result<Self, RunError> {
        let Run { name, kind, setup } = run;
        Ok(match &kind {
            Kind::MaxLoad(range) => Self::MaxLoad(Box::new(Search::new(name, setup, range)?)),
            Kind::Incast(what) => Self::Incast(Box::new(Incast::new(name, setup, what)?)),
            Kind::Scale(what) => Self::Scale(Box::new(Scale::new(name, setup, what)?)),
            Kind::Slowdown {} => Self::Slowdown(Box::new(Prepared::new(name, setup, reference)?)),
        })
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Slowdown(run) => &run.name,
            Self::MaxLoad(search) => search.name(),
            Self::Incast(incast) => incast.name(),
            Self::Scale(scale) => scale.name(),
        }
    }

    /// About how much simulated time it takes, in microseconds.
    pub(crate) fn length_us(&self) -> u64 {
        match self {
            Self::Slowdown(run) => run.length_us(),
            Self::MaxLoad(search) => search.length_us(),
            Self::Incast(incast) => incast.length_us(),
            Self::Scale(scale) => scale.length_us(),
        }
    }

    /// Whether it measures the machine, and wants it for itself.
    pub(crate) fn runs_alone(&self) -> bool {
        matches!(self, Self::Scale(_))
    }

    /// The published curve that it is compared with.
    pub(crate) fn known_curve(&self) -> Option<KnownCurve<'_>> {
        match self {
            Self::Slowdown(run) => run.known_curve(),
            Self::MaxLoad(_) | Self::Incast(_) | Self::Scale(_) => None,
        }
    }

    /// Runs it. `tick` is told now and then how much of its time has passed, in microseconds.
    pub(crate) fn run(&self, mut tick: impl FnMut(u64)) -> Result<(Finding, Speed), RunError> {
        Ok(match self {
            Self::Slowdown(run) => {
                let (outcome, speed) = run.run(|now| tick(now.as_nanos() / 1000))?;
                (Finding::Slowdown(Box::new(outcome)), speed)
            }
            Self::MaxLoad(search) => {
                let (outcome, speed) = search.run(tick)?;
                (Finding::MaxLoad(Box::new(outcome)), speed)
            }
            Self::Incast(incast) => {
                let (outcome, speed) = incast.run(tick)?;
                (Finding::Incast(Box::new(outcome)), speed)
            }
            Self::Scale(scale) => {
                let (outcome, speed) = scale.run(tick)?;
                (Finding::Scale(Box::new(outcome)), speed)
            }
        })
    }
}
