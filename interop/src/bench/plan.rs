//! What `bench compare` measures: its rows and its claims.

use std::fmt;

use super::load::{Bulk, Kind, Load};
use crate::report::Row;

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
}

const KB: usize = 1_000;

/// Name of the row whose median is a claim.
const SHORT_ALONE: &str = "100 B, 1 in flight";
/// Names of the rows whose rates are claims.
const SERVER_STREAM: &str = "server stream of 1 KB messages";
const BUSY_PING_PONG: &str = "ping-pong on one stream, busy_poll 50 us";
/// Name of the row whose tail is a claim.
const SHORT_BEHIND_BULK: &str = "100 B behind 4 x 500 KB";

/// The rows, in the order in which they are measured and printed.
pub(crate) const SCENARIOS: [Scenario; 11] = [
    plain(SHORT_ALONE, 100, 1),
    plain("100 B, 1 in flight, busy_poll 50 us", 100, 1).with(Variant::BusyPoll),
    plain("100 B, 64 in flight", 100, 64),
    plain("10 KB, 16 in flight", 10 * KB, 16),
    plain("500 KB, 1 in flight", 500 * KB, 1),
    plain("500 KB, 8 in flight", 500 * KB, 8),
    streamed(SERVER_STREAM, Kind::Streamed, KB),
    streamed("ping-pong on one stream, 100 B", Kind::PingPong, 100),
    streamed(BUSY_PING_PONG, Kind::PingPong, 100).with(Variant::BusyPoll),
    behind_bulk(SHORT_BEHIND_BULK),
    behind_bulk("100 B behind 4 x 500 KB, 4 MiB TCP windows").with(Variant::WideWindows),
];

impl Scenario {
    const fn with(self, variant: Variant) -> Self {
        Self { variant, ..self }
    }
}

const fn plain(name: &'static str, bytes: usize, in_flight: usize) -> Scenario {
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
const fn streamed(name: &'static str, kind: Kind, bytes: usize) -> Scenario {
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
const fn behind_bulk(name: &'static str) -> Scenario {
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
    row: &'static str,
    what: &'static str,
    ratio: fn(&Row) -> Option<f64>,
    bound: Bound,
}

/// What a ratio is claimed to be.
#[derive(Clone, Copy, Debug)]
enum Bound {
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
            Self::AtMost(bound) => write!(f, "at most {bound}"),
            Self::AtLeast(bound) => write!(f, "at least {bound}"),
        }
    }
}

/// All of the claims.
pub(crate) const CLAIMS: [Claim; 4] = [
    Claim {
        row: SHORT_ALONE,
        what: "p50",
        ratio: |row| Some(row.ratio_p50),
        bound: Bound::AtMost(1.0),
    },
    Claim {
        row: SERVER_STREAM,
        what: "messages/s",
        ratio: |row| Some(row.ratio_rate),
        bound: Bound::AtLeast(1.0),
    },
    Claim {
        row: BUSY_PING_PONG,
        what: "messages/s",
        ratio: |row| Some(row.ratio_rate),
        bound: Bound::AtLeast(1.5),
    },
    Claim {
        row: SHORT_BEHIND_BULK,
        what: "p99",
        ratio: |row| row.ratio_p99,
        bound: Bound::AtMost(0.2),
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
        let holds = ratio.is_some_and(|ratio| self.bound.holds(ratio));
        let measured = ratio.map_or_else(|| "unknown".to_owned(), |ratio| format!("{ratio:.2}"));
        let text = format!(
            "{}: {}: Homa/TCP at {} is {measured}, claimed is {}",
            if holds { "holds" } else { "DOES NOT HOLD" },
            self.row,
            self.what,
            self.bound,
        );
        Some(Verdict { holds, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Round, Side, Tail};

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
        let verdict = |name, tcp, homa| {
            let rows = [row("other", 1.0, 9.0), row(name, tcp, homa)];
            let mut verdicts = CLAIMS.iter().filter_map(|claim| claim.judge(&rows));
            verdicts.next().expect("the row is there")
        };
        for (name, bound, holding, missing) in [
            (SHORT_BEHIND_BULK, "at most 0.2", 200.0, 201.0),
            // Rates are the reciprocals.
            (BUSY_PING_PONG, "at least 1.5", 666.6, 667.1),
            (SERVER_STREAM, "at least 1", 1_000.0, 1_001.0),
        ] {
            let held = verdict(name, 1_000.0, holding);
            assert!(held.holds && held.text.ends_with(bound), "{}", held.text);
            let missed = verdict(name, 1_000.0, missing);
            assert!(
                !missed.holds && missed.text.starts_with("DOES NOT HOLD"),
                "{}",
                missed.text
            );
        }
    }

    #[test]
    fn a_claim_without_its_row_is_not_judged_and_without_its_figure_does_not_hold() {
        assert_eq!(CLAIMS[0].judge(&[row("other", 1.0, 1.0)]), None);
        let mut row = row(SHORT_BEHIND_BULK, 1_000.0, 1.0);
        row.ratio_p99 = None;
        let rows = [row];
        let mut verdicts = CLAIMS.iter().filter_map(|claim| claim.judge(&rows));
        assert!(!verdicts.next().expect("the row is there").holds);
    }
}
