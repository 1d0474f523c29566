//! [`Window`]: how many segments of a stream may be under way (DCTCP, RFC 8257).

use crate::sim::time::Span;

/// Segments that a new stream may send at once (RFC 6928).
const INITIAL: f64 = 10.0;

/// Neither marks nor losses make a window smaller; only a timeout does. As in Linux.
const LEAST: f64 = 2.0;

/// Weight of the last window in the estimate of how much is marked (RFC 8257, section 4.2: 1/16).
const GAIN: f64 = 1.0 / 16.0;

/// What an acknowledgment says about congestion.
#[derive(Clone, Copy, Debug)]
pub(super) struct Feedback {
    /// Segments that it is the first to tell of.
    pub(super) delivered: u32,
    /// Whether they were marked.
    pub(super) marked: bool,
    /// Segments that were under way before it.
    pub(super) in_flight: u32,
    /// All bytes of the stream before this one have arrived.
    pub(super) acknowledged: u64,
    /// All bytes before this one have been sent.
    pub(super) next: u64,
}

/// A congestion window, in segments. Windows count segments and not bytes, as in Linux.
#[derive(Clone, Debug)]
pub(super) struct Window {
    segments: f64,
    /// Slow start up to here.
    threshold: f64,
    /// Estimated share of the segments that are marked: RFC 8257's alpha.
    marked_share: f64,
    /// Segments that arrived in the current observation, and those of them that were marked.
    observed: u32,
    observed_marked: u32,
    /// The byte with whose acknowledgment the observation ends.
    observed_until: u64,
    /// The window has been reduced; until this byte is acknowledged, it changes no further.
    reduced_until: Option<u64>,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            segments: INITIAL,
            threshold: f64::INFINITY,
            // As if everything had been marked: who knows nothing reduces by half (RFC 8257, 4.2).
            marked_share: 1.0,
            observed: 0,
            observed_marked: 0,
            observed_until: 0,
            reduced_until: None,
        }
    }

    /// Whether another segment may be sent when so many are under way.
    pub(super) fn has_room(&self, in_flight: u32) -> bool {
        f64::from(in_flight) + 1.0 <= self.segments
    }

    pub(super) fn acknowledge(&mut self, feedback: Feedback) {
        let Feedback {
            delivered,
            marked,
            acknowledged,
            next,
            ..
        } = feedback;
        if self
            .reduced_until
            .is_some_and(|until| acknowledged >= until)
        {
            self.reduced_until = None;
        }
        self.observe(&feedback);
        if marked && delivered > 0 {
            self.reduce(1.0 - self.marked_share / 2.0, next);
        } else if self.reduced_until.is_none() && self.is_used(&feedback) {
            let per_segment = if self.segments < self.threshold {
                1.0
            } else {
                1.0 / self.segments
            };
            self.segments += f64::from(delivered) * per_segment;
        }
    }

    /// A segment was lost: half the window, as any TCP (RFC 8257, section 3.5).
    pub(super) fn lose(&mut self, next: u64) {
        self.reduce(0.5, next);
    }

    /// Nothing was heard for long: one segment, then slow start to half the window. Only the
    /// `first` of several timeouts in a row changes where that ends (RFC 5681, section 3.1).
    pub(super) fn time_out(&mut self, first: bool) {
        if first {
            self.threshold = (self.segments / 2.0).max(LEAST);
        }
        self.segments = 1.0;
        self.reduced_until = None;
    }

    /// Nothing has been sent for `idle`: what is known of the path ages, by half for each
    /// `timeout`, down to what a new stream begins with. As Linux does it
    /// (`tcp_slow_start_after_idle`).
    pub(super) fn restart(&mut self, idle: Span, timeout: Span) {
        let mut rest = idle;
        while rest > timeout && self.segments > INITIAL {
            self.threshold = self.threshold.max(self.segments * 0.75);
            self.segments = (self.segments / 2.0).max(INITIAL);
            rest = rest - timeout;
        }
    }

    /// Updates the estimate of how much is marked, once per window.
    fn observe(&mut self, feedback: &Feedback) {
        self.observed += feedback.delivered;
        if feedback.marked {
            self.observed_marked += feedback.delivered;
        }
        if feedback.acknowledged > self.observed_until && self.observed > 0 {
            let share = f64::from(self.observed_marked) / f64::from(self.observed);
            self.marked_share += GAIN * (share - self.marked_share);
            (self.observed, self.observed_marked) = (0, 0);
            self.observed_until = feedback.next;
        }
    }

    /// At most once for each window of data.
    fn reduce(&mut self, to: f64, next: u64) {
        if self.reduced_until.is_none() {
            self.segments = (self.segments * to).max(LEAST);
            self.threshold = self.segments;
            self.reduced_until = Some(next);
        }
    }

    /// Whether the stream sends as much as it may. One that does not learns nothing about more.
    fn is_used(&self, feedback: &Feedback) -> bool {
        let in_flight = f64::from(feedback.in_flight);
        if self.segments < self.threshold {
            2.0 * in_flight > self.segments
        } else {
            in_flight + 1.0 > self.segments
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window's worth of segments, 1000 bytes each, arrives in one acknowledgment.
    fn round(window: &mut Window, at: &mut u64, marked: bool) {
        let in_flight = window.segments as u32;
        let next = *at + u64::from(in_flight) * 1000;
        window.acknowledge(Feedback {
            delivered: in_flight,
            marked,
            in_flight,
            acknowledged: next,
            next: next + 1,
        });
        *at = next;
    }

    #[test]
    fn without_marks_it_doubles_and_above_the_threshold_grows_by_one() {
        let (mut window, mut at) = (Window::new(), 0);
        assert!(window.has_room(9) && !window.has_room(10));
        round(&mut window, &mut at, false);
        assert_eq!(window.segments, 20.0);
        window.threshold = 20.0;
        round(&mut window, &mut at, false);
        assert_eq!(window.segments, 21.0);
    }

    #[test]
    fn the_estimate_follows_the_marked_share_by_a_sixteenth() {
        let (mut window, mut at) = (Window::new(), 0);
        round(&mut window, &mut at, false);
        assert_eq!(window.marked_share, 15.0 / 16.0);
        round(&mut window, &mut at, false);
        assert_eq!(window.marked_share, 15.0 * 15.0 / 256.0);
        round(&mut window, &mut at, true);
        assert_eq!(
            window.marked_share,
            225.0 / 256.0 * 15.0 / 16.0 + 1.0 / 16.0
        );
    }

    #[test]
    fn marks_reduce_by_half_their_share_once_a_window() {
        let mut window = Window::new();
        window.marked_share = 0.5;
        window.observed_until = u64::MAX;
        let mut feedback = Feedback {
            delivered: 2,
            marked: true,
            in_flight: 10,
            acknowledged: 2000,
            next: 10_000,
        };
        window.acknowledge(feedback);
        assert_eq!(window.segments, 7.5);
        // The rest of the window: neither less nor more.
        feedback.acknowledged = 4000;
        window.acknowledge(feedback);
        feedback.marked = false;
        window.acknowledge(feedback);
        assert_eq!(window.segments, 7.5);
        // The window is over, and a mark is of the next one.
        feedback.acknowledged = 10_000;
        feedback.marked = true;
        window.acknowledge(feedback);
        assert_eq!(window.segments, 7.5 * 0.75);
        for _ in 0..20 {
            feedback.acknowledged += 1;
            feedback.next = feedback.acknowledged;
            window.acknowledge(feedback);
        }
        assert_eq!(window.segments, LEAST);
    }

    #[test]
    fn a_loss_costs_half_and_a_timeout_all_but_one_segment() {
        let mut window = Window::new();
        window.lose(10_000);
        window.lose(10_000);
        assert_eq!((window.segments, window.threshold), (5.0, 5.0));
        window.time_out(true);
        assert_eq!((window.segments, window.threshold), (1.0, 2.5));
        window.time_out(false);
        assert_eq!((window.segments, window.threshold), (1.0, 2.5));
    }

    #[test]
    fn a_stream_that_does_not_use_its_window_gets_no_larger_one() {
        let mut window = Window::new();
        window.acknowledge(Feedback {
            delivered: 2,
            marked: false,
            in_flight: 5,
            acknowledged: 2000,
            next: 5000,
        });
        assert_eq!(window.segments, 10.0);
    }

    #[test]
    fn idle_streams_fall_back_by_half_per_timeout_to_the_initial_window() {
        let timeout = Span::from_micros(10_000);
        let mut window = Window::new();
        window.segments = 64.0;
        window.threshold = 20.0;
        window.restart(timeout, timeout);
        assert_eq!(window.segments, 64.0);
        window.restart(Span::from_micros(20_001), timeout);
        assert_eq!((window.segments, window.threshold), (16.0, 48.0));
        window.restart(Span::from_micros(1_000_000), timeout);
        assert_eq!((window.segments, window.threshold), (10.0, 48.0));
    }
}
