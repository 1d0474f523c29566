//! What `bench compare` measures: its rows and its claims.

use super::load::{Bulk, Load};
use crate::report::Row;

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) load: Load,
    /// Whether the TCP side has 4 MiB HTTP/2 windows instead of tonic's defaults.
    pub(crate) wide_windows: bool,
}

const KB: usize = 1_000;

/// Name of the row whose median is a claim.
const SHORT_ALONE: &str = "100 B, 1 in flight";
/// Name of the row whose tail is a claim.
const SHORT_BEHIND_BULK: &str = "100 B behind 4 x 500 KB";

/// The rows, in the order in which they are measured and printed.
pub(crate) const SCENARIOS: [Scenario; 7] = [
    plain(SHORT_ALONE, 100, 1),
    plain("100 B, 64 in flight", 100, 64),
    plain("10 KB, 16 in flight", 10 * KB, 16),
    plain("500 KB, 1 in flight", 500 * KB, 1),
    plain("500 KB, 8 in flight", 500 * KB, 8),
    behind_bulk(SHORT_BEHIND_BULK, false),
    behind_bulk("100 B behind 4 x 500 KB, 4 MiB TCP windows", true),
];

const fn plain(name: &'static str, bytes: usize, in_flight: usize) -> Scenario {
    Scenario {
        name,
        load: Load {
            bytes,
            in_flight,
            bulk: None,
        },
        wide_windows: false,
    }
}

/// Exactly one 100 B call in flight, while 4 calls of 500 KB always are.
const fn behind_bulk(name: &'static str, wide_windows: bool) -> Scenario {
    let bulk = Some(Bulk {
        bytes: 500 * KB,
        in_flight: 4,
    });
    Scenario {
        name,
        load: Load {
            bytes: 100,
            in_flight: 1,
            bulk,
        },
        wide_windows,
    }
}

/// Something that the README says below its table about the results. Change both together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    row: &'static str,
    what: &'static str,
    ratio: fn(&Row) -> Option<f64>,
    at_most: f64,
}

/// All of the claims.
pub(crate) const CLAIMS: [Claim; 2] = [
    Claim {
        row: SHORT_ALONE,
        what: "p50",
        ratio: |row| Some(row.ratio_p50),
        at_most: 1.0,
    },
    Claim {
        row: SHORT_BEHIND_BULK,
        what: "p99",
        ratio: |row| row.ratio_p99,
        at_most: 0.2,
    },
];

/// How a claim fared.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) holds: bool,
    pub(crate) text: String,
}

impl Claim {
    /// Judges the claim, `None` if its row was not measured.
    pub(crate) fn judge(&self, rows: &[Row]) -> Option<Verdict> {
        let row = rows.iter().find(|row| row.name == self.row)?;
        let ratio = (self.ratio)(row);
        let holds = ratio.is_some_and(|ratio| ratio <= self.at_most);
        let measured = ratio.map_or_else(|| "unknown".to_owned(), |ratio| format!("{ratio:.2}"));
        let text = format!(
            "{}: {}: Homa/TCP at {} is {measured}, claimed is at most {}",
            if holds { "holds" } else { "DOES NOT HOLD" },
            self.row,
            self.what,
            self.at_most,
        );
        Some(Verdict { holds, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Round, Side, Tail};

    fn row(name: &str, tcp_us: f64, homa_us: f64) -> Row {
        let side = |us| {
            let round = Round {
                p50_us: us,
                p99_us: Some(us),
                rate: 1.0,
                gbps: 1.0,
                samples: 1_000,
            };
            Side::of(&[round; 3], Tail::MedianOfRounds)
        };
        Row::new(name, side(tcp_us), side(homa_us))
    }

    #[test]
    fn every_claim_is_about_a_row_and_rows_have_names_of_their_own() {
        for (index, scenario) in SCENARIOS.iter().enumerate() {
            assert!(
                SCENARIOS[..index]
                    .iter()
                    .all(|other| other.name != scenario.name)
            );
        }
        for claim in CLAIMS {
            assert!(
                SCENARIOS.iter().any(|scenario| scenario.name == claim.row),
                "{}",
                claim.row
            );
        }
    }

    #[test]
    fn a_claim_holds_up_to_its_bound_and_not_beyond() {
        let verdict = |tcp, homa| {
            let rows = [row("other", 1.0, 9.0), row(SHORT_BEHIND_BULK, tcp, homa)];
            CLAIMS[1].judge(&rows).expect("the row is there")
        };
        assert!(verdict(1_000.0, 200.0).holds);
        let missed = verdict(1_000.0, 201.0);
        assert!(
            !missed.holds && missed.text.starts_with("DOES NOT HOLD"),
            "{}",
            missed.text
        );
    }

    #[test]
    fn a_claim_without_its_row_is_not_judged_and_without_its_figure_does_not_hold() {
        assert_eq!(CLAIMS[0].judge(&[row("other", 1.0, 1.0)]), None);
        let mut row = row(SHORT_BEHIND_BULK, 1_000.0, 1.0);
        row.ratio_p99 = None;
        assert!(!CLAIMS[1].judge(&[row]).expect("the row is there").holds);
    }
}
