//! [`Traffic`]: when calls start and how long they are: the same for every stack.

use crate::sim::{MAX_BYTES, Sizes, WorkloadName};

/// How long requests are.
#[derive(Clone, Debug)]
pub(crate) enum Lengths {
    Fixed(u32),
    /// As in a workload; longer ones have the length of the cap.
    Workload {
        sizes: Sizes,
        cap: u32,
    },
}

/// How often calls start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rate {
    CallsPerSecond(f64),
    /// What the requests carry, without what is added to them.
    Mbps(f64),
}

/// Open-loop Poisson arrivals. What comes is a pure function of this.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    lengths: Lengths,
    calls_per_s: f64,
    seed: u64,
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// When it is to be sent, in nanoseconds from the start.
    pub(crate) at_ns: u64,
    pub(crate) bytes: u32,
}

impl Lengths {
    pub(crate) fn of_workload(name: WorkloadName, cap: u32) -> Self {
        let sizes = Sizes::built_in(name);
        Self::Workload { sizes, cap }
    }

    /// The length that belongs to a number drawn from 0 to 1.
    fn draw(&self, uniform: f64) -> u32 {
        match self {
            Self::Fixed(bytes) => *bytes,
            Self::Workload { sizes, cap } => sizes.draw(uniform).clamp(1, *cap),
        }
    }

    fn mean(&self) -> f64 {
        match self {
            Self::Fixed(bytes) => f64::from(*bytes),
            Self::Workload { sizes, cap } => sizes
                .shares()
                .map(|(bytes, share)| f64::from(bytes.clamp(1, *cap)) * share)
                .sum(),
        }
    }

    /// None is longer.
    pub(crate) fn longest(&self) -> u32 {
        match self {
            Self::Fixed(bytes) => *bytes,
            Self::Workload { sizes, cap } => sizes.longest().clamp(1, *cap).min(MAX_BYTES),
        }
    }
}

impl Traffic {
    pub(crate) fn new(lengths: Lengths, rate: Rate, seed: u64) -> Self {
        let calls_per_s = match rate {
            Rate::CallsPerSecond(calls) => calls,
            Rate::Mbps(mbps) => mbps * 1e6 / (8.0 * lengths.mean()),
        };
        Self {
            lengths,
            calls_per_s,
            seed,
        }
    }

    pub(crate) fn mean_bytes(&self) -> f64 {
        self.lengths.mean()
    }

    pub(crate) fn calls_per_s(&self) -> f64 {
        self.calls_per_s
    }

    pub(crate) fn mbps(&self) -> f64 {
        self.calls_per_s * self.mean_bytes() * 8.0 / 1e6
    }

    /// The calls of the first `nanos` nanoseconds.
    pub(crate) fn arrivals(&self, nanos: u64) -> impl Iterator<Item = Arrival> + Send + 'static {
        // One generator for each, so that the lengths are the same at every rate.
        let mut seeds = fastrand::Rng::with_seed(self.seed);
        let (mut gaps, mut lengths) = (seeds.fork(), seeds.fork());
        let mean_gap = 1e9 / self.calls_per_s;
        let draw = self.lengths.clone();
        let mut at = 0.0;
        std::iter::repeat_with(move || {
            // Not the system's logarithm: the last bit of that differs between systems.
            at += -libm::log(1.0 - gaps.f64()) * mean_gap;
            Arrival {
                at_ns: at as u64,
                bytes: draw.draw(lengths.f64()),
            }
        })
        .take_while(move |arrival| arrival.at_ns < nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn w4(rate: Rate, seed: u64) -> Traffic {
        Traffic::new(Lengths::of_workload(WorkloadName::W4, 999_000), rate, seed)
    }

    #[test]
    fn the_same_seed_gives_the_same_calls_and_another_one_others() {
        let calls = |seed| -> Vec<_> { w4(Rate::Mbps(160.0), seed).arrivals(SECOND).collect() };
        assert_eq!(calls(1), calls(1));
        assert_ne!(calls(1), calls(2));
        // These figures change only with the generator: results from before are then not to be
        // compared with later ones call by call.
        let first: Vec<_> = calls(1).into_iter().take(3).collect();
        assert_eq!(first.len(), 3);
        assert!(first.windows(2).all(|pair| pair[0].at_ns <= pair[1].at_ns));
    }

    #[test]
    fn the_rate_changes_when_calls_start_and_not_how_long_they_are() {
        let lengths = |rate| -> Vec<_> {
            let arrivals = w4(rate, 7).arrivals(100 * SECOND);
            arrivals.take(1_000).map(|call| call.bytes).collect()
        };
        assert_eq!(
            lengths(Rate::CallsPerSecond(100.0)),
            lengths(Rate::CallsPerSecond(5_000.0))
        );
    }

    #[test]
    fn gaps_are_exponential_and_the_load_is_the_one_asked_for() {
        let traffic = w4(Rate::Mbps(160.0), 3);
        assert!((traffic.mbps() - 160.0).abs() < 1e-9);
        let nanos = 1_000 * SECOND;
        let calls: Vec<_> = traffic.arrivals(nanos).collect();
        let bits: f64 = calls.iter().map(|call| f64::from(call.bytes) * 8.0).sum();
        let mbps = bits / 1e6 / 1_000.0;
        assert!((mbps / 160.0 - 1.0).abs() < 0.02, "{mbps}");
        let gaps: Vec<f64> = calls
            .windows(2)
            .map(|pair| (pair[1].at_ns - pair[0].at_ns) as f64)
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let longer = gaps.iter().filter(|gap| **gap > mean).count();
        let share = longer as f64 / gaps.len() as f64;
        // 1/e of exponential gaps are longer than their mean.
        assert!((share - 0.3679).abs() < 0.01, "{share}");
    }

    #[test]
    fn lengths_end_at_the_cap_and_the_mean_counts_that() {
        let lengths = Lengths::of_workload(WorkloadName::W5, 100_000);
        assert_eq!(lengths.longest(), 100_000);
        assert_eq!(lengths.draw(1.0), 100_000);
        let uncapped = Lengths::of_workload(WorkloadName::W5, MAX_BYTES);
        assert!(lengths.mean() < 100_000.0 && uncapped.mean() > 1_000_000.0);
        let fixed = Traffic::new(Lengths::Fixed(100), Rate::Mbps(0.8), 1);
        assert_eq!((fixed.calls_per_s(), fixed.mean_bytes()), (1_000.0, 100.0));
    }
}
