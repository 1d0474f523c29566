//! [`RoundTrip`]: how long acknowledgments take, and how long to wait for one (RFC 6298).

use crate::sim::time::Span;

/// A stream never times out earlier: what the DCTCP paper sets for its experiments with many
/// senders (SIGCOMM'10, section 4.2.3); Linux's default of 200 ms is for the Internet.
const LEAST_TIMEOUT: Span = Span::from_micros(10_000);

/// Estimates from the round trips of segments that were sent once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoundTrip {
    smoothed: Option<Span>,
    variation: Span,
    least: Option<Span>,
}

impl RoundTrip {
    pub(super) fn sample(&mut self, took: Span) {
        let Some(smoothed) = self.smoothed else {
            self.smoothed = Some(took);
            self.variation = Span::from_picos(took.as_picos() / 2);
            self.least = Some(took);
            return;
        };
        let off = smoothed.as_picos().abs_diff(took.as_picos());
        let mix = |old: Span, new: u64, part: u64| {
            Span::from_picos((old.as_picos() * (part - 1) + new) / part)
        };
        self.variation = mix(self.variation, off, 4);
        self.smoothed = Some(mix(smoothed, took.as_picos(), 8));
        self.least = self.least.min(Some(took));
    }

    /// The shortest so far.
    pub(super) fn least(&self) -> Span {
        self.least.unwrap_or_default()
    }

    /// How long to wait for an acknowledgment.
    pub(super) fn timeout(&self) -> Span {
        let smoothed = self.smoothed.unwrap_or_default();
        let variations = Span::from_picos(4 * self.variation.as_picos());
        LEAST_TIMEOUT.max(smoothed + variations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_follow_the_samples() {
        let micros = Span::from_micros;
        let mut round_trip = RoundTrip::default();
        assert_eq!(round_trip.timeout(), LEAST_TIMEOUT);
        round_trip.sample(micros(8000));
        assert_eq!(round_trip.timeout(), micros(8000 + 4 * 4000));
        round_trip.sample(micros(16_000));
        // Variation (3 x 4000 + 8000) / 4, mean (7 x 8000 + 16000) / 8.
        assert_eq!(round_trip.timeout(), micros(9000 + 4 * 5000));
        assert_eq!(round_trip.least(), micros(8000));
        round_trip.sample(micros(10));
        assert_eq!(round_trip.least(), micros(10));
        for _ in 0..100 {
            round_trip.sample(micros(10));
        }
        assert_eq!(round_trip.timeout(), LEAST_TIMEOUT);
    }
}
