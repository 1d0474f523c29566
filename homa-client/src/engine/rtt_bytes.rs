//! [`RttBytes`]: how much of a message is sent without waiting for a grant.

use std::time::Duration;

use super::time::Time;

/// Where the link's speed or the delay of grants is unknown: HEAD's setting.
pub(super) const DEFAULT: usize = 40_000;

/// More than this gains little, and lets a few senders overflow a receiver's buffer.
pub(super) const MOST_UNSCHEDULED: usize = 60_000;

/// Seconds over which the shortest delay counts.
const SECONDS: usize = 10;

/// What the link carries from the first packet of a message to its first GRANT: a sender of that
/// much is never held up for want of the first grant. The delay is the shortest of the last 10 s,
/// since longer ones tell of queues and of receivers that had shorter messages to grant.
#[derive(Debug)]
pub(super) struct RttBytes {
    /// As set; `None`: measured.
    fixed: Option<usize>,
    /// Two packets.
    least: usize,
    mbps: Option<u32>,
    /// The shortest delay of each second of the last ten, with that second.
    delays: [Option<(u64, Duration)>; SECONDS],
    shortest: Option<Duration>,
    /// What follows.
    bytes: usize,
}

impl RttBytes {
    pub(super) fn new(fixed: Option<usize>, packet_payload: usize) -> Self {
        Self {
            fixed,
            least: 2 * packet_payload,
            mbps: None,
            delays: [None; SECONDS],
            shortest: None,
            bytes: fixed.unwrap_or(DEFAULT),
        }
    }

    pub(super) fn set_speed(&mut self, mbps: Option<u32>) {
        self.mbps = mbps;
        self.decide();
    }

    /// The first GRANT of a message has come, whose first packet left at `sent`. Without any, the
    /// last known delay stays.
    pub(super) fn granted(&mut self, now: Time, sent: Time) {
        let delay = now.since(sent);
        let second = now.as_nanos() / 1_000_000_000;
        let slot = &mut self.delays[second as usize % SECONDS];
        match slot {
            Some((of, shortest)) if *of == second => *shortest = delay.min(*shortest),
            _ => *slot = Some((second, delay)),
        }
        self.shortest = self
            .delays
            .iter()
            .flatten()
            .filter(|(of, _)| second.saturating_sub(*of) < SECONDS as u64)
            .map(|(_, delay)| *delay)
            .min();
        self.decide();
    }

    /// From the first packet of a message to its first GRANT.
    pub(super) fn grant_delay(&self) -> Option<Duration> {
        self.shortest
    }

    /// Bytes that a message may send unasked.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn decide(&mut self) {
        let measured = self.mbps.zip(self.shortest).map(|(mbps, delay)| {
            let bytes = delay.as_nanos() * u128::from(mbps) / 8000;
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            bytes.min(MOST_UNSCHEDULED).max(self.least)
        });
        self.bytes = self.fixed.or(measured).unwrap_or(DEFAULT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    fn sample(rtt: &mut RttBytes, millis: u64, micros: u64) {
        let sent = at(millis);
        rtt.granted(sent + Duration::from_micros(micros), sent);
    }

    #[test]
    fn it_is_the_shortest_delay_of_ten_seconds_times_the_speed() {
        let mut rtt = RttBytes::new(None, 1416);
        sample(&mut rtt, 0, 30);
        assert_eq!(rtt.bytes(), 40_000, "the speed is not known");
        rtt.set_speed(Some(10_000));
        assert_eq!(rtt.bytes(), 37_500);
        sample(&mut rtt, 500, 12);
        sample(&mut rtt, 600, 50);
        assert_eq!(rtt.bytes(), 15_000);
        sample(&mut rtt, 9_900, 20);
        assert_eq!(rtt.bytes(), 15_000);
        sample(&mut rtt, 10_100, 24);
        assert_eq!(rtt.bytes(), 25_000);
        // Nothing new for long: what is known stays, until there is something.
        assert_eq!(rtt.grant_delay(), Some(Duration::from_micros(20)));
        sample(&mut rtt, 60_000, 44);
        assert_eq!(rtt.bytes(), 55_000);
    }

    #[test]
    fn it_stays_within_its_limits() {
        let mut rtt = RttBytes::new(None, 1416);
        rtt.set_speed(Some(10_000));
        assert_eq!(rtt.bytes(), 40_000, "no delay is known");
        sample(&mut rtt, 0, 100_000);
        assert_eq!(rtt.bytes(), 60_000);
        sample(&mut rtt, 1, 0);
        assert_eq!(rtt.bytes(), 2832);
        let mut fixed = RttBytes::new(Some(5), 1416);
        fixed.set_speed(Some(10_000));
        sample(&mut fixed, 0, 30);
        assert_eq!(fixed.bytes(), 5);
    }
}
