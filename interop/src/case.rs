//! Cases of a suite: how they are chosen, what comes of them, and how that is told.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::report::rounded;

/// Chooses every case.
pub(crate) const ALL: &str = "all";

/// Why a case failed.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }

    /// The same, after what was being done.
    pub(crate) fn during(self, what: &str) -> Self {
        Self(format!("{what}: {}", self.0))
    }
}

impl From<tonic::Status> for Failure {
    /// Of a call that should have succeeded.
    fn from(status: tonic::Status) -> Self {
        Self(format!("{:?}: {}", status.code(), status.message()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Ends a case with the reason that follows, unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err($crate::case::Failure::new(format!($($why)+)));
        }
    };
}
pub(crate) use ensure;

/// What came of one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ran {
    pub(crate) name: String,
    pub(crate) passed: bool,
    pub(crate) seconds: f64,
    /// Why it failed.
    pub(crate) why: Option<String>,
}

impl Ran {
    pub(crate) fn new(name: &str, outcome: Result<(), Failure>, took: Duration) -> Self {
        Self {
            name: name.to_owned(),
            passed: outcome.is_ok(),
            seconds: rounded(took.as_secs_f64()),
            why: outcome.err().map(|failure| failure.to_string()),
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let head = format!("{:NAME_WIDTH$} {:>8.3} s", self.name, self.seconds);
        match &self.why {
            None => format!("{head}  passed"),
            Some(why) => format!("{head}  FAILED: {why}"),
        }
    }
}

/// Width of the column of names: the longest one.
pub(crate) const NAME_WIDTH: usize = 28;

/// No case has that name.
#[derive(Debug, thiserror::Error)]
#[error("there is no case {wanted:?}; the cases are: {ALL}, {cases}")]
pub(crate) struct NoSuchCaseError {
    wanted: String,
    cases: String,
}

/// Those of `cases` whose names are in `wanted`, in their own order; all of them for [`ALL`] or
/// if nothing is wanted.
pub(crate) fn chosen<'a, T>(
    cases: &'a [T],
    name: impl Fn(&T) -> &str,
    wanted: &[String],
) -> Result<Vec<&'a T>, NoSuchCaseError> {
    let is_known = |wanted: &String| wanted == ALL || cases.iter().any(|case| name(case) == wanted);
    if let Some(unknown) = wanted.iter().find(|wanted| !is_known(wanted)) {
        let names: Vec<_> = cases.iter().map(&name).collect();
        return Err(NoSuchCaseError {
            wanted: unknown.clone(),
            cases: names.join(", "),
        });
    }
    let all = wanted.is_empty() || wanted.iter().any(|wanted| wanted == ALL);
    let is_wanted = |case: &&T| all || wanted.iter().any(|wanted| name(case) == wanted);
    Ok(cases.iter().filter(is_wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_chosen_by_their_whole_name_and_an_unknown_one_is_named() {
        let cases = ["empty", "empty_stream", "large"];
        let chosen = |wanted: &[&str]| {
            let wanted: Vec<_> = wanted.iter().map(|name| (*name).to_owned()).collect();
            chosen(&cases, |case| case, &wanted)
                .map(|cases| cases.into_iter().copied().collect::<Vec<_>>())
        };
        assert_eq!(chosen(&[]).expect("all"), cases);
        assert_eq!(chosen(&["large", "all"]).expect("all"), cases);
        assert_eq!(
            chosen(&["large", "empty"]).expect("two"),
            ["empty", "large"]
        );
        let error = chosen(&["empty", "larg"]).expect_err("unknown").to_string();
        assert!(
            error.contains("\"larg\"") && error.contains("all, empty, empty_stream, large"),
            "{error}"
        );
    }

    #[test]
    fn a_failed_case_tells_why() {
        let ensured = |holds: bool| {
            ensure!(holds, "it has {}", 3);
            Ok(())
        };
        let ran = |holds| Ran::new("large", ensured(holds), Duration::from_millis(1_500));
        assert!(ran(true).passed && ran(true).line().ends_with("1.500 s  passed"));
        let failed = ran(false);
        assert!(!failed.passed && failed.line().ends_with("FAILED: it has 3"));
    }
}
