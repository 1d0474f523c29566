//! [`Outcome`]: what a run under load has found, for people and programs.

use serde::{Deserialize, Serialize};

use super::open::{Run, Sample};
use super::stack::StackName;
use super::unloaded::{Point, Unloaded};
use crate::bench::cpu::CpuPerCall;
use crate::bench::machine::Machine;
use crate::report::{MIN_IN_TAIL, MIN_SAMPLES_FOR_P99, rounded};
use crate::sim::WorkloadName;

/// What was asked for, with what follows from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) stack: StackName,
    pub(crate) uri: String,
    pub(crate) workload: Option<WorkloadName>,
    /// Of every request, or the most that one of a workload has.
    pub(crate) bytes: u32,
    pub(crate) response_bytes: Option<u32>,
    pub(crate) mean_bytes: f64,
    pub(crate) calls_per_s: f64,
    pub(crate) mbps: f64,
    pub(crate) seconds: f64,
    pub(crate) warm_up: f64,
    pub(crate) seed: u64,
    pub(crate) outstanding: u32,
    pub(crate) workers: Option<u16>,
    pub(crate) link_mbps: Option<u32>,
}

/// The result of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Tells it from other results.
    pub(crate) kind: Kind,
    pub(crate) machine: Machine,
    pub(crate) setup: Setup,
    pub(crate) samples: usize,
    /// Measured calls that ended per second until the last one did, and what their requests
    /// carried.
    pub(crate) calls_per_s: f64,
    pub(crate) mbps: f64,
    #[serde(flatten)]
    pub(crate) lag: Lag,
    pub(crate) all: Figures,
    /// The calls in ten parts of equal number, shortest first.
    pub(crate) tenths: Vec<Tenth>,
    pub(crate) unloaded: Vec<Point>,
    pub(crate) cpu_per_call: Option<CpuPerCall>,
    /// Microseconds, and the share of calls that took at least so long.
    pub(crate) ccdf: Vec<(f64, f64)>,
    /// The same of the shortest tenth.
    pub(crate) ccdf_shortest: Vec<(f64, f64)>,
    /// With `--raw` all calls, in the order in which they were meant to be sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) calls: Vec<Sample>,
}

/// What every result of `bench load` calls itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Load,
}

/// Calls that were not sent when they were meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Lag {
    /// As many as allowed were in flight.
    pub(crate) held: u64,
    /// The generator was late by more than a millisecond.
    pub(crate) late: u64,
    /// Both, of all measured calls.
    #[serde(rename = "lag")]
    pub(crate) share: f64,
}

/// Times of a group of calls.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// From when they were meant to be sent.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: Option<f64>,
    /// From when they were.
    pub(crate) sent_p50_us: f64,
    pub(crate) sent_p99_us: Option<f64>,
    /// The first times divided by the time of a call of the same length without others; unknown if
    /// that was not measured.
    pub(crate) slowdown_p50: Option<f64>,
    pub(crate) slowdown_p99: Option<f64>,
    pub(crate) mean_slowdown: Option<f64>,
}

/// One of ten parts of the calls.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tenth {
    pub(crate) longest_bytes: u32,
    pub(crate) median_bytes: u32,
    pub(crate) samples: usize,
    /// Of a call of the median length.
    pub(crate) unloaded_us: Option<f64>,
    #[serde(flatten)]
    pub(crate) figures: Figures,
}

impl Setup {
    /// Whether a run of the other makes the same calls.
    pub(crate) fn same_calls(&self, other: &Self) -> bool {
        let calls = |setup: &Self| Self {
            stack: StackName::HomaClient,
            uri: String::new(),
            outstanding: 0,
            workers: None,
            link_mbps: None,
            ..setup.clone()
        };
        calls(self) == calls(other)
    }
}

impl Lag {
    pub(crate) fn of(run: &Run) -> Self {
        let lagging = (run.held + run.late) as f64;
        Self {
            held: run.held,
            late: run.late,
            share: if run.samples.is_empty() {
                0.0
            } else {
                lagging / run.samples.len() as f64
            },
        }
    }
}

impl Outcome {
    /// Of a run with at least one sample.
    pub(crate) fn of(
        machine: Machine,
        setup: Setup,
        mut run: Run,
        unloaded: Option<&Unloaded>,
        raw: bool,
    ) -> Self {
        // By length; of equal ones those meant to be sent first, so that the parts are the same on
        // every stack.
        run.samples
            .sort_unstable_by_key(|sample| (sample.bytes, sample.intended_ns));
        let samples = &run.samples;
        let tenths = tenths(samples.len())
            .map(|part| tenth(&samples[part], unloaded))
            .collect();
        let first = tenths_of(samples, 0);
        let bytes: u64 = samples.iter().map(|sample| u64::from(sample.bytes)).sum();
        let until = samples.iter().map(|sample| sample.done_ns).max();
        let begin = (setup.warm_up * 1e9) as u64;
        let seconds = until.unwrap_or(0).saturating_sub(begin) as f64 / 1e9;
        let mut outcome = Self {
            kind: Kind::Load,
            machine,
            samples: samples.len(),
            calls_per_s: rounded(samples.len() as f64 / seconds),
            mbps: rounded(bytes as f64 * 8.0 / 1e6 / seconds),
            lag: Lag::of(&run),
            all: Figures::of(samples, unloaded),
            tenths,
            unloaded: unloaded.map_or_else(Vec::new, |known| known.points().to_vec()),
            cpu_per_call: run.cpu.per_call(samples.len() as u64),
            ccdf: ccdf(samples),
            ccdf_shortest: ccdf(first),
            calls: Vec::new(),
            setup,
        };
        if raw {
            run.samples
                .sort_unstable_by_key(|sample| sample.intended_ns);
            outcome.calls = run.samples;
        }
        outcome
    }
}

/// The places of ten equal parts, as far as there are so many.
fn tenths(count: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..10)
        .map(move |part| count * part / 10..count * (part + 1) / 10)
        .filter(|part| !part.is_empty())
}

fn tenths_of(samples: &[Sample], which: usize) -> &[Sample] {
    tenths(samples.len())
        .nth(which)
        .map_or(&[], |part| &samples[part])
}

/// Of these lengths, which are sorted: the shortest, the median of each tenth and the longest, each
/// once. At these the time without load is measured.
pub(crate) fn typical_lengths(sorted: &[u32]) -> Vec<u32> {
    let medians = tenths(sorted.len()).map(|part| sorted[usize::midpoint(part.start, part.end)]);
    let ends = sorted.first().into_iter().chain(sorted.last()).copied();
    let mut lengths: Vec<u32> = medians.chain(ends).collect();
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

/// Of samples sorted by length, of which there is at least one.
fn tenth(samples: &[Sample], unloaded: Option<&Unloaded>) -> Tenth {
    let bytes = |at: usize| samples.get(at).map_or(0, |sample| sample.bytes);
    let median_bytes = bytes(samples.len() / 2);
    Tenth {
        longest_bytes: bytes(samples.len() - 1),
        median_bytes,
        samples: samples.len(),
        unloaded_us: unloaded.map(|known| rounded(known.us(median_bytes))),
        figures: Figures::of(samples, unloaded),
    }
}

impl Sample {
    fn us(&self) -> f64 {
        self.done_ns.saturating_sub(self.intended_ns) as f64 / 1e3
    }

    fn sent_us(&self) -> f64 {
        self.done_ns.saturating_sub(self.sent_ns) as f64 / 1e3
    }
}

impl Figures {
    fn of(samples: &[Sample], unloaded: Option<&Unloaded>) -> Self {
        let sorted = |figure: &dyn Fn(&Sample) -> f64| {
            let mut values: Vec<f64> = samples.iter().map(figure).collect();
            values.sort_unstable_by(f64::total_cmp);
            values
        };
        let times = sorted(&Sample::us);
        let sent = sorted(&Sample::sent_us);
        let slowdowns =
            unloaded.map(|known| sorted(&|sample| sample.us() / known.us(sample.bytes)));
        let mean = |values: &Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        Self {
            p50_us: percentile(&times, 50),
            p99_us: p99(&times),
            sent_p50_us: percentile(&sent, 50),
            sent_p99_us: p99(&sent),
            slowdown_p50: slowdowns.as_ref().map(|values| percentile(values, 50)),
            slowdown_p99: slowdowns.as_deref().and_then(p99),
            mean_slowdown: slowdowns.as_ref().map(mean).map(rounded),
        }
    }
}

/// The value at `count * percent / 100` of the sorted ones, rounded down, as in HomaModule's
/// `cperf.py`.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted
        .get(sorted.len() * percent / 100)
        .map_or(f64::NAN, |value| rounded(*value))
}

fn p99(sorted: &[f64]) -> Option<f64> {
    (sorted.len() as u64 >= MIN_SAMPLES_FOR_P99).then(|| percentile(sorted, 99))
}

/// Points of the complementary distribution for each factor of ten.
const POINTS_PER_DECADE: i32 = 20;

fn ccdf(samples: &[Sample]) -> Vec<(f64, f64)> {
    let mut times: Vec<f64> = samples.iter().map(Sample::us).collect();
    times.sort_unstable_by(f64::total_cmp);
    let count = times.len() as f64;
    let least = (MIN_IN_TAIL as f64 / count).min(1.0);
    let shares = (0..).map(|step| 10f64.powf(-f64::from(step) / f64::from(POINTS_PER_DECADE)));
    shares
        .take_while(|share| *share >= least)
        .filter_map(|share| {
            let at = times.len() - (share * count).round() as usize;
            Some((rounded(*times.get(at)?), (share * 1e6).round() / 1e6))
        })
        .collect()
}

/// Outcomes for tests.
#[cfg(test)]
pub(crate) mod sample {
    use super::*;

    /// Calls of 1 to `count` bytes that take a microsecond for each and were sent 5 µs late.
    fn samples(count: u32) -> Vec<Sample> {
        let sample = |bytes| {
            let intended_ns = u64::from(bytes % 7) * 1_000_000_000 + u64::from(bytes) * 100;
            Sample {
                bytes,
                intended_ns,
                sent_ns: intended_ns + 5_000,
                done_ns: intended_ns + u64::from(bytes) * 1_000 + 5_000,
            }
        };
        (1..=count).rev().map(sample).collect()
    }

    pub(crate) fn outcome(count: u32, raw: bool) -> Outcome {
        let run = Run {
            samples: samples(count),
            held: 3,
            late: 7,
            ..Run::default()
        };
        Outcome::of(Machine::here(), setup(), run, None, raw)
    }

    fn setup() -> Setup {
        Setup {
            stack: StackName::TonicHoma,
            uri: "homa://127.0.0.1:4000".to_owned(),
            workload: Some(WorkloadName::W4),
            bytes: 999_000,
            response_bytes: Some(100),
            mean_bytes: 50.0,
            calls_per_s: 1_000.0,
            mbps: 0.4,
            seconds: 7.0,
            warm_up: 0.0,
            seed: 1,
            outstanding: 64,
            workers: None,
            link_mbps: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::sample::outcome;
    use super::*;

    #[test]
    fn tenths_hold_equally_many_calls_by_length_and_times_count_from_the_intended_one() {
        let outcome = outcome(20_000, false);
        assert_eq!(outcome.tenths.len(), 10);
        for (at, tenth) in (1..).zip(&outcome.tenths) {
            assert_eq!((tenth.samples, tenth.longest_bytes), (2_000, at * 2_000));
            let figures = &tenth.figures;
            let late = figures.p50_us - figures.sent_p50_us;
            assert!((late - 5.0).abs() < 1e-6, "{late}");
            assert!((figures.p50_us - f64::from(tenth.median_bytes) - 5.0).abs() < 2.0);
        }
        assert_eq!(outcome.lag.share, 0.0005);
        assert_eq!(outcome.samples, 20_000);
    }

    #[test]
    fn no_p99_is_told_of_fewer_than_a_thousand_calls() {
        let outcome = outcome(9_990, false);
        assert!(outcome.all.p99_us.is_some());
        assert!(outcome.tenths.iter().all(|it| it.figures.p99_us.is_none()));
        assert_eq!(outcome.all.slowdown_p50, None, "nothing to relate it to");
    }

    #[test]
    fn raw_calls_are_in_the_order_in_which_they_were_meant() {
        let calls = outcome(1_000, true).calls;
        assert_eq!(calls.len(), 1_000);
        assert!(
            calls
                .windows(2)
                .all(|pair| pair[0].intended_ns <= pair[1].intended_ns)
        );
    }

    #[test]
    fn a_complementary_distribution_begins_with_all_and_ends_with_ten() {
        let outcome = outcome(10_000, false);
        assert_eq!(outcome.ccdf.first(), Some(&(6.0, 1.0)));
        let (us, share) = outcome.ccdf.last().expect("there are some");
        assert_eq!((*us, *share), (9_996.0, 0.001));
        let falls = |pair: &[(f64, f64)]| pair[0].0 <= pair[1].0 && pair[0].1 > pair[1].1;
        assert!(outcome.ccdf.windows(2).all(falls));
        assert!(ccdf(&[]).is_empty());
    }

    #[test]
    fn the_lengths_that_are_measured_alone_are_few_and_reach_from_end_to_end() {
        let all: Vec<u32> = (1..=1_000).collect();
        let lengths = typical_lengths(&all);
        assert_eq!((lengths[0], lengths[11], lengths.len()), (1, 1_000, 12));
        assert_eq!(typical_lengths(&[100; 50]), [100]);
        assert_eq!(typical_lengths(&[3, 9]), [3, 9]);
        assert!(typical_lengths(&[]).is_empty());
    }

    #[test]
    fn an_outcome_survives_a_file() {
        for raw in [false, true] {
            let outcome = outcome(1_000, raw);
            let json = serde_json::to_string(&outcome).expect("plain data");
            assert!(json.contains("\"kind\":\"load\""), "{json}");
            let read: Outcome = serde_json::from_str(&json).expect("ours");
            assert_eq!(read, outcome);
        }
    }
}
