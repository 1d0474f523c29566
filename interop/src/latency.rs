//! Latencies in histograms.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies are kept with this many significant digits.
const DIGITS: u8 = 3;
/// Longest latency that is kept exactly; longer ones count as this.
const LONGEST: Duration = Duration::from_secs(60);

/// An empty histogram of nanoseconds.
pub(crate) fn empty_histogram() -> Histogram<u64> {
    let longest = u64::try_from(LONGEST.as_nanos()).unwrap_or(u64::MAX);
    Histogram::new_with_bounds(1, longest, DIGITS).expect("the bounds are constants and in order")
}

/// Counts one.
pub(crate) fn record(histogram: &mut Histogram<u64>, took: Duration) {
    let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    histogram.saturating_record(nanos.max(1));
}

/// What a histogram holds: values, and how often each.
pub(crate) fn pairs(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    histogram
        .iter_recorded()
        .map(|step| (step.value_iterated_to(), step.count_at_value()))
        .collect()
}

/// Adds what [`pairs`] has given.
pub(crate) fn add_pairs(histogram: &mut Histogram<u64>, pairs: &[(u64, u64)]) {
    for &(value, count) in pairs {
        histogram.saturating_record_n(value, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_survives_the_way_between_processes() {
        let mut before = empty_histogram();
        for micros in (0..10_000).step_by(7) {
            record(&mut before, Duration::from_micros(micros * micros));
        }
        let mut after = empty_histogram();
        add_pairs(&mut after, &pairs(&before));
        assert_eq!(after.len(), before.len());
        for quantile in [0.01, 0.5, 0.99, 1.0] {
            assert_eq!(
                after.value_at_quantile(quantile),
                before.value_at_quantile(quantile)
            );
        }
    }
}
