//! What is claimed of the results, and how that fared.

use super::figures::Decile;
use super::rows::{IncastRow, LoadRow};
use crate::page::format;
use crate::report::Verdict;

/// Most that the 99th percentile of the shortest tenth of the calls may be, in those of TCP.
const SHORTEST: [(&str, f64); 3] = [("W3", 0.2), ("W4", 0.1), ("W5", 0.2)];

/// Most that the median and the 99th percentile of any tenth may be.
const ANY: f64 = 1.0;

/// Most that the completion time of an incast may be.
const INCAST: f64 = 1.0;

/// The claims about what was measured on a link of `mbps`.
pub(super) fn judge(mbps: u32, loads: &[LoadRow], incast: Option<&IncastRow>) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for row in loads {
        verdicts.extend(shortest(row));
        verdicts.push(every_decile(row, "p50", |decile| Some(decile.ratio_p50)));
        verdicts.push(every_decile(row, "p99", |decile| decile.ratio_p99));
    }
    verdicts.extend(incast.map(incast_verdict));
    for verdict in &mut verdicts {
        // A page may show those of several links.
        verdict.row = format!("{}, {mbps} Mbit/s", verdict.row);
    }
    verdicts
}

/// What a row is called.
pub(super) fn name(row: &LoadRow) -> String {
    format!("{} at {}", row.workload, format::percent(row.load))
}

/// Of a ratio, which may be unknown.
fn at_most(row: String, what: String, ratio: Option<f64>, bound: f64) -> Verdict {
    Verdict {
        row,
        what,
        ratio,
        claimed: format!("at most {bound}"),
        holds: ratio.is_some_and(|ratio| ratio <= bound),
    }
}

/// Not every workload has this claim.
fn shortest(row: &LoadRow) -> Option<Verdict> {
    let (_, bound) = SHORTEST.iter().find(|(name, _)| *name == row.workload)?;
    let ratio = row.deciles.first()?.ratio_p99;
    let what = "p99 of the shortest 10 % of calls".to_owned();
    Some(at_most(name(row), what, ratio, *bound))
}

/// Judged by the worst; unknown if any is.
fn every_decile(row: &LoadRow, figure: &str, ratio: fn(&Decile) -> Option<f64>) -> Verdict {
    let ratios: Option<Vec<f64>> = row.deciles.iter().map(ratio).collect();
    let numbered = ratios.into_iter().flatten().zip(1..);
    let worst = numbered.max_by(|one, other| one.0.total_cmp(&other.0));
    let what = match worst {
        Some((_, number)) => format!("{figure} of every size decile (worst: {number})"),
        None => format!("{figure} of every size decile"),
    };
    at_most(name(row), what, worst.map(|(ratio, _)| ratio), ANY)
}

fn incast_verdict(row: &IncastRow) -> Verdict {
    let counted = row.homa.rounds.iter().filter_map(|round| round.homa);
    let timeouts: u64 = counted.map(|counters| counters.timeouts).sum();
    let failed: u64 = row.homa.rounds.iter().map(|round| round.failed).sum();
    let verdict = at_most(
        row.name(),
        format!("completion time ({timeouts} timeouts, {failed} failed)"),
        Some(row.ratio),
        INCAST,
    );
    Verdict {
        claimed: format!("{}, no timeouts", verdict.claimed),
        holds: verdict.holds && timeouts == 0 && failed == 0,
        ..verdict
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::Figures;
    use super::super::rows::{HomaCounters, Incast, IncastSide};
    use super::*;

    fn decile(ratio_p50: f64, ratio_p99: Option<f64>) -> Decile {
        let figures = |ratio: f64, tail: Option<f64>| Figures {
            samples: 1_234,
            p50_us: ratio,
            p99_us: tail,
        };
        Decile {
            up_to_bytes: 1,
            tcp: figures(1.0, Some(1.0)),
            homa: figures(ratio_p50, ratio_p99),
            ratio_p50,
            ratio_p99,
            tcp_ccdf: Vec::new(),
            homa_ccdf: Vec::new(),
        }
    }

    fn row(workload: &str, deciles: Vec<Decile>) -> LoadRow {
        LoadRow {
            workload: workload.to_owned(),
            load: 0.8,
            payload_mbps: 1.0,
            calls_per_s: 1.0,
            seconds: 1.0,
            deciles,
            tcp: Vec::new(),
            homa: Vec::new(),
        }
    }

    fn passes(verdicts: &[Verdict]) -> Vec<bool> {
        verdicts.iter().map(|verdict| verdict.holds).collect()
    }

    #[test]
    fn the_shortest_tenth_and_the_worst_are_judged_up_to_their_bounds() {
        let of = |workload, shortest, worst| {
            let deciles = vec![decile(0.5, Some(shortest)), decile(worst, Some(worst))];
            judge(200, &[row(workload, deciles)], None)
        };
        assert_eq!(passes(&of("W4", 0.1, 1.0)), [true, true, true]);
        assert_eq!(passes(&of("W4", 0.101, 1.0)), [false, true, true]);
        assert_eq!(passes(&of("W3", 0.2, 1.001)), [true, false, false]);
        assert_eq!(passes(&of("W5", 0.201, 0.9)), [false, true, true]);
        let verdicts = of("W1", 0.9, 0.95);
        assert_eq!(
            passes(&verdicts),
            [true, true],
            "no claim about the shortest"
        );
        assert!(verdicts[0].what.ends_with("(worst: 2)"), "{verdicts:?}");
    }

    #[test]
    fn an_unknown_tail_falls_short() {
        let deciles = vec![decile(0.5, None), decile(0.5, Some(0.5))];
        let verdicts = judge(200, &[row("W4", deciles)], None);
        assert_eq!(passes(&verdicts), [false, true, false]);
        assert_eq!(verdicts[0].ratio, None);
        let table = Verdict::table(&verdicts).text();
        assert!(
            table.contains("unknown") && table.contains("FALLS SHORT"),
            "{table}"
        );
    }

    #[test]
    fn an_incast_falls_short_when_it_is_slower_or_calls_time_out_or_fail() {
        let incast = |ratio, timeouts, failed| {
            let side = |completion_ms, timeouts| IncastSide {
                completion_ms,
                rounds: vec![Incast {
                    completion_ms,
                    failed,
                    refused: 0,
                    busy: 0.5,
                    queues: Vec::new(),
                    tcp: None,
                    homa: Some(HomaCounters {
                        timeouts,
                        ..HomaCounters::default()
                    }),
                }],
            };
            let row = IncastRow {
                clients: 3,
                calls: 64,
                bytes: 100_000,
                least_ms: 768.0,
                tcp: side(1_000.0, 0),
                homa: side(ratio * 1_000.0, timeouts),
                ratio,
            };
            judge(200, &[], Some(&row))
        };
        assert_eq!(passes(&incast(1.0, 0, 0)), [true]);
        assert_eq!(passes(&incast(1.001, 0, 0)), [false]);
        assert_eq!(passes(&incast(0.9, 1, 0)), [false]);
        assert_eq!(passes(&incast(0.9, 0, 1)), [false]);
        let verdict = &incast(0.9, 1, 0)[0];
        assert_eq!(
            verdict.row,
            "incast of 3 hosts x 64 calls of 100 KB, 200 Mbit/s"
        );
        assert!(verdict.what.contains("1 timeouts"), "{verdict:?}");
    }
}
