//! [`Downlink`]: whether what does not come may wait in the network, behind what does.

use std::time::Duration;

use super::{Time, Timers};

/// Bytes that a port of a switch holds at most for one host. What has not come after the time that
/// the link takes for them does not wait there.
const SWITCH_BYTES: u64 = 8 << 20;

/// Where the link is full, packets of a low level wait in the switch for longer than `resend`. To
/// ask for them only adds to what waits: copies, which at their high level pass all others.
///
/// How full it is tells the payload since the older one of two marks. They follow each other at
/// least `resend` apart, so that it is that of once to twice this time, and more after a pause. It
/// is real time and not that of the silence clock, which stands still while the driver is late:
/// what has come in the meantime took the time that it took.
#[derive(Debug)]
pub(super) struct Downlink {
    timers: Timers,
    mbps: Option<u32>,
    bytes: u64,
    older: Mark,
    newer: Mark,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Time,
    bytes: u64,
}

impl Downlink {
    pub(super) fn new(timers: Timers) -> Self {
        let start = Mark {
            at: Time::ZERO,
            bytes: 0,
        };
        Self {
            timers,
            mbps: None,
            bytes: 0,
            older: start,
            newer: start,
        }
    }

    /// Takes the link's speed, if it is known.
    pub(super) fn set_speed(&mut self, mbps: Option<u32>) {
        self.mbps = mbps;
    }

    /// So much payload has come over the link, new or not, of whatever RPC: copies of what has come
    /// fill it too.
    #[inline]
    pub(super) fn count(&mut self, now: Time, bytes: usize) {
        self.bytes += bytes as u64;
        // Behind it: it was on the link before now.
        self.mark(now);
    }

    /// Whether a peer that has been silent for so long, at least `resend`, may have sent all the
    /// same. What it sent itself before its silence is less than half of the time looked at.
    pub(super) fn may_hold_back(&mut self, now: Time, silence: Duration) -> bool {
        let Some(mbps) = self.mbps else {
            return false;
        };
        silence < self.longest_queue(mbps) && self.is_half_full(now, mbps)
    }

    fn is_half_full(&mut self, now: Time, mbps: u32) -> bool {
        self.mark(now);
        let bits = u128::from(self.bytes - self.older.bytes) * 8;
        let nanos = now.since(self.older.at).as_nanos();
        // A bit per microsecond is a megabit per second.
        nanos > 0 && bits * 1_000 >= nanos * u128::from(mbps) / 2
    }

    /// How long bytes may wait behind others. Some questions must still fit into `timeout`.
    fn longest_queue(&self, mbps: u32) -> Duration {
        let drained = Duration::from_micros(SWITCH_BYTES * 8 / u64::from(mbps.max(1)));
        drained.min(self.timers.timeout / 3)
    }

    #[inline]
    fn mark(&mut self, now: Time) {
        if now.since(self.newer.at) >= self.timers.resend {
            self.older = self.newer;
            self.newer = Mark {
                at: now,
                bytes: self.bytes,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    struct Link {
        now: Time,
        downlink: Downlink,
    }

    impl Link {
        fn new() -> Self {
            let mut downlink = Downlink::new(Timers::UDP);
            downlink.set_speed(Some(200));
            Self {
                now: Time::from_nanos(1),
                downlink,
            }
        }

        /// So much comes in each of so many milliseconds.
        fn take(&mut self, bytes: usize, millis: u32) {
            for _ in 0..millis {
                self.now += MS;
                self.downlink.count(self.now, bytes);
            }
        }

        fn holds_back(&mut self, after_millis: u32) -> bool {
            let now = self.now + MS * after_millis;
            self.downlink.may_hold_back(now, 10 * MS)
        }
    }

    #[test]
    fn half_of_the_link_holds_others_back_and_less_does_not() {
        for (bytes, holds_back) in [(25_000, true), (12_600, true), (12_400, false), (0, false)] {
            let mut link = Link::new();
            link.take(bytes, 50);
            assert_eq!(link.holds_back(0), holds_back, "{bytes}");
        }
        let mut link = Link::new();
        link.take(25_000, 50);
        link.downlink.set_speed(None);
        assert!(!link.holds_back(0));
    }

    #[test]
    fn what_came_before_a_pause_says_nothing_after_it() {
        let mut link = Link::new();
        link.take(25_000, 50);
        assert!(link.holds_back(4));
        assert!(!link.holds_back(30));
        link.now += Duration::from_secs(3_600);
        assert!(!link.holds_back(0));
        link.take(25_000, 11);
        assert!(link.holds_back(0));
    }

    #[test]
    fn one_sender_that_had_all_of_the_link_does_not_excuse_its_own_silence() {
        for millis in 50..70 {
            let mut link = Link::new();
            link.take(24_000, millis);
            assert!(!link.holds_back(10), "{millis}");
        }
    }

    #[test]
    fn nothing_waits_for_longer_than_the_link_takes_for_what_a_switch_holds() {
        let longest = |timers, mbps| Downlink::new(timers).longest_queue(mbps).as_millis();
        let udp = |mbps| longest(Timers::UDP, mbps);
        assert_eq!([1, 200, 1_000, 10_000].map(udp), [333, 333, 67, 6]);
        assert_eq!(longest(Timers::IP, 200), 33);
    }
}
