//! [`BusyPoll`]: whether whoever receives looks for the next packet before it sleeps.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::engine::Time;

/// After so many looks in a row in which nothing came, looking does not help.
const IN_VAIN: u32 = 8;

/// Then nobody looks for so long. Who does after that and is disappointed once pauses again.
const PAUSE: Duration = Duration::from_millis(10);

/// [`Config::busy_poll`](crate::Config::busy_poll) at work.
///
/// To look on is worth a processor if the next packet comes meanwhile. Where both sides of a call
/// share a processor it cannot: it is sent when the one that looks has gone to sleep, and each
/// makes the other wait.
#[derive(Debug)]
pub(super) struct BusyPoll {
    /// How long to look; zero: never.
    time: Duration,
    /// Until when, on the endpoint's clock; 0: nobody looks.
    until: AtomicU64,
    /// Looks in a row that were over before anything came.
    in_vain: AtomicU32,
    paused_until: AtomicU64,
}

impl BusyPoll {
    pub(super) fn new(time: Duration) -> Self {
        Self {
            time,
            until: AtomicU64::new(0),
            in_vain: AtomicU32::new(0),
            paused_until: AtomicU64::new(0),
        }
    }

    /// Something has happened at `now`: more is likely to come soon.
    pub(super) fn heard(&self, now: Time) {
        if self.time.is_zero() {
            return;
        }
        let last = self.until.load(Ordering::Relaxed);
        if last != 0 {
            let in_vain = if now.as_nanos() <= last {
                0
            } else {
                self.in_vain.load(Ordering::Relaxed).saturating_add(1)
            };
            self.in_vain.store(in_vain, Ordering::Relaxed);
            if in_vain >= IN_VAIN {
                let paused = (now + PAUSE).as_nanos();
                self.paused_until.store(paused, Ordering::Relaxed);
            }
        }
        let looks = now.as_nanos() >= self.paused_until.load(Ordering::Relaxed);
        let until = if looks {
            (now + self.time).as_nanos()
        } else {
            0
        };
        self.until.store(until, Ordering::Relaxed);
    }

    /// Whether to look again instead of sleeping.
    pub(super) fn looks(&self, now: impl FnOnce() -> Time) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until != 0 && now().as_nanos() < until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_micros(50);

    /// Something comes so often, so long after the last.
    fn hear(busy: &BusyPoll, now: &mut Time, micros: u64, times: u32) {
        for _ in 0..times {
            *now += Duration::from_micros(micros);
            busy.heard(*now);
        }
    }

    fn looks(busy: &BusyPoll, now: Time) -> bool {
        busy.looks(|| now)
    }

    #[test]
    fn it_looks_for_its_time_and_not_without_one() {
        let mut now = Time::from_nanos(1);
        let busy = BusyPoll::new(LOOK);
        assert!(!looks(&busy, now));
        hear(&busy, &mut now, 10, 100);
        assert!(looks(&busy, now) && looks(&busy, now + LOOK / 2));
        assert!(!looks(&busy, now + LOOK));

        let never = BusyPoll::new(Duration::ZERO);
        hear(&never, &mut now, 10, 100);
        assert!(!looks(&never, now));
    }

    #[test]
    fn who_looks_in_vain_stops_and_tries_again_now_and_then() {
        let mut now = Time::from_nanos(1);
        let busy = BusyPoll::new(LOOK);
        hear(&busy, &mut now, 60, 8);
        assert!(looks(&busy, now));
        let start = now;
        let mut looked = 0;
        while now < start + 10 * PAUSE {
            hear(&busy, &mut now, 60, 1);
            looked += u32::from(looks(&busy, now));
        }
        assert!((9..=11).contains(&looked), "{looked}");

        // As soon as it helps it goes on.
        hear(&busy, &mut now, 10_000, 1);
        hear(&busy, &mut now, 20, 100);
        assert!(looks(&busy, now));
        hear(&busy, &mut now, 60, 7);
        assert!(looks(&busy, now));
    }
}
