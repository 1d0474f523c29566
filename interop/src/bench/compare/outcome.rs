//! [`Outcome`]: what a comparison has found, for programs and pages.

use serde::{Deserialize, Serialize};

use crate::bench::machine::Machine;
use crate::report::{Row, Verdict};

/// The results of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Tells it from other results.
    pub(crate) kind: Kind,
    pub(crate) machine: Machine,
    /// The framework.
    pub(crate) suite: String,
    /// Of each row, and how long each was.
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) rows: Vec<Row>,
    pub(crate) claims: Vec<Verdict>,
}

/// What every result of `bench compare` calls itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Compare,
}
