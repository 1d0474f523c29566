//! From calls to figures: tenths of the calls by their size, medians and tails of each.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::latency::empty_histogram;
use crate::report::{ccdf, median, p99_us, quantile_us, rounded};

/// Parts of equal numbers of calls that are looked at apart, the shortest calls first.
pub(super) const PARTS: usize = 10;

/// One call of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Call {
    // In this order they are sorted: by size, calls of a size by when they were to be sent.
    pub(super) bytes: u32,
    /// When it was to be sent, since the round began.
    pub(super) due_ns: u64,
    /// Which client has made it.
    pub(super) client: usize,
    /// How long it took from when it was to be sent.
    pub(super) took_ns: u64,
}

/// What one round saw of one tenth of its calls.
#[derive(Debug)]
pub(super) struct Part {
    longest_bytes: u32,
    latencies: Histogram<u64>,
}

/// One round of one stack.
#[derive(Debug)]
pub(super) struct Round {
    parts: Vec<Part>,
}

/// A round has fewer calls than it has parts.
#[derive(Debug, thiserror::Error)]
#[error(
    "{calls} calls were measured, of which no tenth can be told: measure for longer (--seconds) or \
     at more load (--load)"
)]
pub(super) struct TooFewCalls {
    calls: usize,
}

impl Round {
    pub(super) fn of(mut calls: Vec<Call>) -> Result<Self, TooFewCalls> {
        if calls.len() < PARTS {
            return Err(TooFewCalls { calls: calls.len() });
        }
        calls.sort_unstable();
        let from = |part: usize| calls.len() * part / PARTS;
        let parts = (0..PARTS).map(|part| {
            let calls = &calls[from(part)..from(part + 1)];
            let mut latencies = empty_histogram();
            for call in calls {
                latencies.saturating_record(call.took_ns.max(1));
            }
            Part {
                longest_bytes: calls.iter().map(|call| call.bytes).max().unwrap_or(0),
                latencies,
            }
        });
        Ok(Self {
            parts: parts.collect(),
        })
    }
}

/// What was due in a round: equal for both stacks.
pub(super) fn same_arrivals(one: &[Call], other: &[Call]) -> bool {
    let arrivals = |calls: &[Call]| {
        let mut arrivals: Vec<_> = calls
            .iter()
            .map(|call| (call.client, call.due_ns, call.bytes))
            .collect();
        arrivals.sort_unstable();
        arrivals
    };
    arrivals(one) == arrivals(other)
}

/// One stack's calls of a tenth, in all rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) samples: u64,
    /// The median of the rounds' medians.
    pub(crate) p50_us: f64,
    /// The median of the rounds' 99th percentiles if all have enough samples for one, else that of
    /// all rounds together; none if these are too few.
    pub(crate) p99_us: Option<f64>,
}

impl Figures {
    fn of(latencies: &[&Histogram<u64>]) -> Self {
        let all = pooled(latencies);
        let tails: Option<Vec<f64>> = latencies.iter().map(|round| p99_us(round)).collect();
        Self {
            samples: all.len(),
            p50_us: median(latencies.iter().map(|it| quantile_us(it, 0.5)).collect()),
            p99_us: tails.map_or_else(|| p99_us(&all), |tails| Some(median(tails))),
        }
    }
}

fn pooled(latencies: &[&Histogram<u64>]) -> Histogram<u64> {
    let mut all = empty_histogram();
    for latencies in latencies {
        all += *latencies;
    }
    all
}

/// One tenth of the calls, by size, on both stacks. A ratio is Homa divided by TCP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Decile {
    /// The longest call in it.
    pub(crate) up_to_bytes: u32,
    pub(crate) tcp: Figures,
    pub(crate) homa: Figures,
    pub(crate) ratio_p50: f64,
    pub(crate) ratio_p99: Option<f64>,
    /// All rounds together: microseconds, and the share of the calls that took at least so long.
    pub(crate) tcp_ccdf: Vec<(f64, f64)>,
    pub(crate) homa_ccdf: Vec<(f64, f64)>,
}

/// All tenths, the shortest calls first. Both stacks have had the same rounds.
pub(super) fn deciles(tcp: &[Round], homa: &[Round]) -> Vec<Decile> {
    let of_part = |part: usize| {
        let of_part = |rounds: &[Round]| -> Vec<Histogram<u64>> {
            let parts = rounds.iter().filter_map(|round| round.parts.get(part));
            parts.map(|part| part.latencies.clone()).collect()
        };
        let [tcp_rounds, homa_rounds] = [tcp, homa].map(of_part);
        let [tcp_rounds, homa_rounds]: [Vec<_>; 2] =
            [&tcp_rounds, &homa_rounds].map(|rounds| rounds.iter().collect());
        let (of_tcp, of_homa) = (Figures::of(&tcp_rounds), Figures::of(&homa_rounds));
        let longest = tcp.iter().chain(homa).filter_map(|it| it.parts.get(part));
        Decile {
            up_to_bytes: longest.map(|part| part.longest_bytes).max().unwrap_or(0),
            ratio_p50: rounded(of_homa.p50_us / of_tcp.p50_us),
            ratio_p99: of_homa
                .p99_us
                .zip(of_tcp.p99_us)
                .map(|(homa, tcp)| rounded(homa / tcp)),
            tcp: of_tcp,
            homa: of_homa,
            tcp_ccdf: ccdf(&pooled(&tcp_rounds)),
            homa_ccdf: ccdf(&pooled(&homa_rounds)),
        }
    };
    (0..PARTS).map(of_part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(bytes: u32, due_ns: u64, took_us: u64) -> Call {
        Call {
            bytes,
            due_ns,
            client: 0,
            took_ns: took_us * 1_000,
        }
    }

    /// A thousand calls for each tenth: of the first 1 B, of the second 2 B and so on.
    fn round(us: impl Fn(u32, u64) -> u64) -> Round {
        let calls = (1..=10).flat_map(|bytes| {
            let us = &us;
            (0..1_000).map(move |number| call(bytes, number, us(bytes, number)))
        });
        Round::of(calls.collect()).expect("enough")
    }

    #[test]
    fn each_tenth_has_its_own_figures_and_ratios() {
        let tcp = [0, 1, 2].map(|_| round(|bytes, number| u64::from(bytes) * 100 + number / 100));
        let homa = [0, 1, 2].map(|_| round(|bytes, number| u64::from(bytes) * 50 + number / 100));
        let deciles = deciles(&tcp, &homa);
        assert_eq!(deciles.len(), PARTS);
        for (decile, bytes) in deciles.iter().zip(1..) {
            assert_eq!(decile.up_to_bytes, bytes);
            assert_eq!((decile.tcp.samples, decile.homa.samples), (3_000, 3_000));
            let expected = (f64::from(bytes) * 50.0 + 4.0) / (f64::from(bytes) * 100.0 + 4.0);
            assert!(
                (decile.ratio_p50 - expected).abs() < 0.01,
                "{bytes}: {}",
                decile.ratio_p50
            );
            let expected = (f64::from(bytes) * 50.0 + 9.0) / (f64::from(bytes) * 100.0 + 9.0);
            let ratio = decile.ratio_p99.expect("enough samples");
            assert!((ratio - expected).abs() < 0.01, "{bytes}: {ratio}");
        }
    }

    #[test]
    fn calls_of_one_size_are_split_by_when_they_were_due() {
        let calls = (0..100).map(|number| call(7, number, number + 1)).rev();
        let round = Round::of(calls.collect()).expect("enough");
        let medians = round
            .parts
            .iter()
            .map(|part| quantile_us(&part.latencies, 1.0));
        let expected = (1..=10).map(|part| f64::from(part) * 10.0);
        for (median, expected) in medians.zip(expected) {
            assert!((median - expected).abs() < 0.1, "{median} {expected}");
        }
    }

    #[test]
    fn a_tail_is_the_rounds_median_or_that_of_all_together() {
        let of = |rounds: &[(u64, u64)]| {
            let rounds: Vec<_> = rounds
                .iter()
                .map(|&(samples, us)| {
                    let mut latencies = empty_histogram();
                    latencies
                        .record_n(us * 1_000, samples)
                        .expect("within the bounds");
                    latencies
                })
                .collect();
            Figures::of(&rounds.iter().collect::<Vec<_>>()).p99_us
        };
        let close = |us: Option<f64>, expected: f64| {
            us.is_some_and(|us| (us / expected - 1.0).abs() < 0.01)
        };
        assert!(close(of(&[(1_000, 10), (1_000, 20), (1_000, 90)]), 20.0));
        // The slow round is more than 1 % of all.
        assert!(close(of(&[(500, 10), (1_000, 20), (1_000, 90)]), 90.0));
        assert_eq!(of(&[(400, 10), (599, 20)]), None);
    }

    #[test]
    fn too_few_calls_are_told_with_the_remedy() {
        let error = Round::of(vec![call(1, 1, 1); 9]).expect_err("nine");
        let text = error.to_string();
        assert!(
            text.starts_with("9 calls") && text.contains("--seconds"),
            "{text}"
        );
    }

    #[test]
    fn arrivals_are_compared_by_client_time_and_size() {
        let calls = [call(7, 1, 5), call(8, 2, 5)];
        let slower = [call(8, 2, 9), call(7, 1, 9)];
        assert!(same_arrivals(&calls, &slower));
        assert!(!same_arrivals(&calls, &calls[..1]));
        assert!(!same_arrivals(&calls, &[call(7, 1, 5), call(8, 3, 5)]));
    }
}
