//! What the suites of `bench compare` consist of: rows and claims.

use std::fmt;

use tokio::runtime::Handle;

use super::CompareError;
use super::closed::{Bulk, Kind, Load, Stack};
use crate::report::{Row, Verdict};

/// The rows of one RPC framework, and what they are measured on.
pub(super) trait Suite: Sized {
    type Stack: Stack;

    /// The framework.
    const WHAT: &'static str;

    /// The rows, in the order in which they are measured and printed.
    const ROWS: &'static [Scenario];

    /// What the README says about them.
    const CLAIMS: &'static [Claim];

    /// Starts the servers, in a process of their own that ends with this.
    async fn start() -> Result<Self, CompareError>;

    /// What the rows of a variant compare.
    fn sides(&self, variant: Variant) -> Sides<Self::Stack>;
}

/// What is compared.
#[derive(Clone, Debug)]
pub(super) struct Sides<S> {
    pub(super) tcp: S,
    pub(super) homa: S,
    /// On which the calls are made.
    pub(super) runtime: Handle,
    /// The process that serves both.
    pub(super) server: u32,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) load: Load,
    pub(crate) variant: Variant,
}

/// What is not at its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Defaults,
    /// TCP has HTTP/2 windows of 4 MiB.
    WideWindows,
    /// Homa has a `busy_poll` of 50 µs, on both sides.
    BusyPoll,
    /// One worker per process, on both stacks: tokio's current-thread runtime.
    OneWorker,
    /// Both of these.
    OneWorkerBusyPoll,
    /// All calls to the TCP server share one connection, which a gateway has.
    Gateway,
}

pub(super) const KB: usize = 1_000;

/// Name of the row whose median is a claim.
pub(super) const SHORT_ALONE: &str = "100 B, 1 in flight";
/// Name of the row whose tail is a claim.
pub(super) const SHORT_BEHIND_BULK: &str = "100 B behind 4 x 500 KB";

impl Scenario {
    pub(super) const fn with(self, variant: Variant) -> Self {
        Self { variant, ..self }
    }
}

pub(super) const fn plain(name: &'static str, bytes: usize, in_flight: usize) -> Scenario {
    Scenario {
        name,
        load: Load {
            kind: Kind::Call,
            bytes,
            in_flight,
            bulk: None,
        },
        variant: Variant::Defaults,
    }
}

/// One stream, which lasts for the whole round.
pub(super) const fn streamed(name: &'static str, kind: Kind, bytes: usize) -> Scenario {
    Scenario {
        name,
        load: Load {
            kind,
            bytes,
            in_flight: 1,
            bulk: None,
        },
        variant: Variant::Defaults,
    }
}

/// Exactly one 100 B call in flight, while 4 calls of 500 KB always are.
pub(super) const fn behind_bulk(name: &'static str) -> Scenario {
    let bulk = Some(Bulk {
        bytes: 500 * KB,
        in_flight: 4,
    });
    Scenario {
        name,
        load: Load {
            kind: Kind::Call,
            bytes: 100,
            in_flight: 1,
            bulk,
        },
        variant: Variant::Defaults,
    }
}

/// Something that the README says below its table about the results. Change both together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(super) row: &'static str,
    pub(super) what: &'static str,
    pub(super) ratio: fn(&Row) -> Option<f64>,
    pub(super) bound: Bound,
}

/// What a ratio is claimed to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(bound) => ratio <= bound,
            Self::AtLeast(bound) => ratio >= bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A fraction below a tenth is easier to read as one.
            Self::AtMost(bound) if *bound < 0.1 => write!(f, "at most 1/{:.0}", 1.0 / bound),
            Self::AtMost(bound) => write!(f, "at most {bound}"),
            Self::AtLeast(bound) => write!(f, "at least {bound}"),
        }
    }
}

impl Claim {
    /// Judges the claim, `None` if its row was not measured.
    pub(crate) fn judge(&self, rows: &[Row]) -> Option<Verdict> {
        let row = rows.iter().find(|row| row.name == self.row)?;
        let ratio = (self.ratio)(row);
        Some(Verdict {
            row: self.row.to_owned(),
            what: self.what.to_owned(),
            ratio,
            claimed: self.bound.to_string(),
            holds: ratio.is_some_and(|ratio| self.bound.holds(ratio)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::compare::grpc::Grpc;
    use crate::bench::compare::thrift::Thrift;
    use crate::report::{Round, Side, Tail};

    const CLAIM: Claim = Claim {
        row: SHORT_BEHIND_BULK,
        what: "p99",
        ratio: |row| row.ratio_p99,
        bound: Bound::AtMost(0.2),
    };

    fn row(name: &str, tcp_us: f64, homa_us: f64) -> Row {
        let side = |us: f64| {
            let round = Round {
                p50_us: us,
                p99_us: Some(us),
                rate: 1e6 / us,
                gbps: 1.0,
                samples: 1_000,
            };
            Side::of(&[round; 3], Tail::MedianOfRounds)
        };
        Row::new(name, side(tcp_us), side(homa_us))
    }

    fn check_names(rows: &[Scenario], claims: &[Claim]) {
        for (index, row) in rows.iter().enumerate() {
            assert!(rows[..index].iter().all(|other| other.name != row.name));
        }
        for claim in claims {
            assert!(rows.iter().any(|row| row.name == claim.row), "{claim:?}");
        }
    }

    #[test]
    fn every_claim_is_about_a_row_and_rows_have_names_of_their_own() {
        check_names(Grpc::ROWS, Grpc::CLAIMS);
        check_names(Thrift::ROWS, Thrift::CLAIMS);
    }

    #[test]
    fn a_claim_holds_up_to_its_bound_and_not_beyond() {
        let rate = Claim {
            ratio: |row| Some(row.ratio_rate),
            bound: Bound::AtLeast(1.5),
            ..CLAIM
        };
        let verdict = |claim: Claim, tcp, homa| {
            let rows = [row("other", 1.0, 9.0), row(claim.row, tcp, homa)];
            claim.judge(&rows).expect("the row is there")
        };
        for (claim, bound, holding, missing) in [
            (CLAIM, "at most 0.2", 200.0, 201.0),
            // Rates are the reciprocals.
            (rate, "at least 1.5", 666.6, 667.1),
        ] {
            let held = verdict(claim, 1_000.0, holding);
            assert!(held.holds && held.claimed == bound, "{held:?}");
            let missed = verdict(claim, 1_000.0, missing);
            assert!(!missed.holds, "{missed:?}");
        }
    }

    #[test]
    fn a_bound_of_less_than_a_tenth_is_told_as_a_fraction() {
        assert_eq!(Bound::AtMost(1.0 / 15.0).to_string(), "at most 1/15");
        assert_eq!(Bound::AtMost(0.1).to_string(), "at most 0.1");
    }

    #[test]
    fn a_claim_without_its_row_is_not_judged_and_without_its_figure_does_not_hold() {
        assert_eq!(CLAIM.judge(&[row("other", 1.0, 1.0)]), None);
        let mut row = row(SHORT_BEHIND_BULK, 1_000.0, 1.0);
        row.ratio_p99 = None;
        assert!(!CLAIM.judge(&[row]).expect("the row is there").holds);
    }
}
