//! [`Company`]: what several tasks send who were woken together leaves together.
//!
//! Segmentation offload takes short packets of the same length to the same peer through the system
//! in one call, for a little more than the price of one. Tasks whose responses or requests came in
//! one turn of the driver tend to send next, one after the other. So their packets wait for each
//! other. The driver's next turn sends what is left: it comes as soon as the tasks that are ready have
//! run, on any worker of the runtime. A task that computes for long can keep it from coming, where there
//! is one worker only; then nobody waits for a while.

use std::time::Duration;

use crate::engine::Time;

/// Fewer tasks that were woken together send each for itself: what they save is not worth a wait.
const LEAST: usize = 4;

/// So many messages wait at most.
const MOST: usize = 16;

/// Who sends after this time does not wait, nor do those that do.
const LONGEST: Duration = Duration::from_micros(50);

/// Tasks that were woken in one turn, and are expected to send.
#[derive(Debug)]
pub(super) struct Company {
    expected: usize,
    waiting: usize,
    until: Time,
}

impl Company {
    /// Of tasks woken at `now`, if they are enough.
    pub(super) fn of(woken: usize, now: Time) -> Option<Self> {
        (woken >= LEAST).then(|| Self {
            expected: woken,
            waiting: 0,
            until: now + LONGEST,
        })
    }

    /// One of them has something to send. Returns whether it waits; otherwise all leave.
    pub(super) fn waits(&mut self, now: Time) -> bool {
        self.expected = self.expected.saturating_sub(1);
        self.waiting += 1;
        if self.expected > 0 && self.waiting < MOST && now < self.until {
            return true;
        }
        self.waiting = 0;
        self.until = now + LONGEST;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Time {
        Time::ZERO + Duration::from_micros(micros)
    }

    /// How many of `messages`, sent a microsecond after each other, leave with each other.
    fn sends(mut company: Company, messages: u32) -> Vec<u32> {
        let mut sends = Vec::new();
        let mut waiting = 0;
        for message in 0..messages {
            waiting += 1;
            if !company.waits(at(message.into())) {
                sends.push(std::mem::take(&mut waiting));
            }
        }
        sends
    }

    #[test]
    fn few_do_not_wait() {
        assert!((0..LEAST).all(|woken| Company::of(woken, at(0)).is_none()));
    }

    #[test]
    fn the_last_one_sends_for_all() {
        let company = Company::of(5, at(0)).unwrap();
        assert_eq!(sends(company, 5), [5]);
        let company = Company::of(40, at(0)).unwrap();
        assert_eq!(sends(company, 40), [16, 16, 8]);
    }

    #[test]
    fn those_who_were_not_expected_do_not_wait() {
        let company = Company::of(4, at(0)).unwrap();
        assert_eq!(sends(company, 6), [4, 1, 1]);
    }

    #[test]
    fn nobody_waits_for_a_slow_one() {
        let mut company = Company::of(10, at(0)).unwrap();
        assert!(company.waits(at(10)) && company.waits(at(49)));
        assert!(!company.waits(at(50)), "all three leave");
        assert!(company.waits(at(99)));
        assert!(!company.waits(at(100)));
    }
}
