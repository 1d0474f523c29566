//! [`Pacer`]: keeps the queue in front of the link short, so that a short message that comes
//! later does not stand behind a long one (`homa-protocol` C.3).

use std::time::Duration;

use super::time::Time;

/// Bytes that each packet occupies on an Ethernet link besides the Homa packet: IP and UDP
/// headers, Ethernet header, CRC, preamble, gap and room for a VLAN tag.
pub(super) const OVERHEAD: u64 = 28 + 42;

/// The backlog of a sender that is never late: what the kernel's pacer allows.
const MIN_BACKLOG: Duration = Duration::from_micros(5);

/// Fractional bits of the cost of a byte.
const COST_BITS: u32 = 16;

/// Estimates when the link will have sent all that was handed over, and decides how much that may
/// be: enough to keep the link busy until a sender that waits has woken up, and no more.
#[derive(Debug)]
pub(super) struct Pacer {
    /// Nanoseconds per byte, with [`COST_BITS`] fractional bits; `None`: not paced.
    cost: Option<u64>,
    /// Length of a full Homa packet, which may always go once the link is idle.
    packet: usize,
    max_backlog: Duration,
    /// What may be handed over ahead of the link, as the link's time.
    backlog: Duration,
    idle_at: Time,
    /// When somebody who has to wait may go on.
    resumes_at: Option<Time>,
    /// How late those who waited went on, smoothed.
    latency: Duration,
    /// Most that ever was handed over ahead of the link at this speed.
    peak: Duration,
}

impl Pacer {
    /// `packet` is the length of a full Homa packet; the backlog is at most one of these and
    /// `max_backlog`.
    pub(super) fn new(packet: usize, max_backlog: Duration) -> Self {
        let mut pacer = Self {
            cost: None,
            packet,
            max_backlog,
            backlog: Duration::ZERO,
            idle_at: Time::ZERO,
            resumes_at: None,
            latency: Duration::ZERO,
            peak: Duration::ZERO,
        };
        pacer.set_speed(None);
        pacer
    }

    /// Paces by this speed; `None`: not at all.
    pub(super) fn set_speed(&mut self, mbps: Option<u32>) {
        let cost = mbps.map(|mbps| (8_000 << COST_BITS) / u64::from(mbps.max(1)));
        if cost != self.cost {
            self.cost = cost;
            self.idle_at = Time::ZERO;
            self.resumes_at = None;
            self.peak = Duration::ZERO;
        }
        self.decide();
    }

    fn decide(&mut self) {
        let wanted = (2 * self.latency).max(MIN_BACKLOG).min(self.max_backlog);
        // Counted beyond one packet: room appears when the first of the backlog has left, and from
        // then on the rest has to last. The larger of the two alone left a link of 200 Mbit/s
        // idle for a third of the time when its sender woke 0 to 60 µs late.
        self.backlog = wanted + self.wire_time(self.packet).unwrap_or_default();
    }

    /// When the one that had to wait may go on; the time may have passed.
    pub(super) fn resumes_at(&self) -> Option<Time> {
        self.resumes_at
    }

    /// When the next full packet fits into the backlog; `None`: now.
    fn wait_until(&self, now: Time) -> Option<Time> {
        let packet = self.wire_time(self.packet)?;
        let at = self.idle_at.minus(self.backlog.saturating_sub(packet));
        (at > now).then_some(at)
    }

    /// Whether a full packet may be handed over now. If not, the time from when it may until the
    /// next call is how late we wake.
    pub(super) fn may_send(&mut self, now: Time) -> bool {
        if let Some(at) = self.resumes_at.take_if(|at| *at <= now) {
            let late = now.since(at).min(self.max_backlog);
            self.latency = (self.latency * 7 + late) / 8;
            self.decide();
        }
        self.resumes_at = self.wait_until(now);
        self.resumes_at.is_none()
    }

    /// Nothing waits any more, so the next call is not a late one.
    pub(super) fn stop_waiting(&mut self) {
        self.resumes_at = None;
    }

    /// How many packets of `len` bytes may be handed over in one go, 1 to `most`.
    pub(super) fn burst(&self, now: Time, len: usize, most: usize) -> usize {
        let Some(per_packet) = self.wire_time(len) else {
            return most;
        };
        let room = self.backlog.saturating_sub(self.idle_at.since(now));
        let packets = room.as_nanos() / per_packet.as_nanos().max(1);
        usize::try_from(packets)
            .unwrap_or(usize::MAX)
            .clamp(1, most.max(1))
    }

    /// A packet of `len` bytes was handed over.
    pub(super) fn sent(&mut self, now: Time, len: usize) {
        if let Some(time) = self.wire_time(len) {
            self.idle_at = self.idle_at.max(now) + time;
            self.peak = self.peak.max(self.idle_at.since(now));
        }
    }

    /// How late those who waited go on.
    pub(super) fn latency(&self) -> Duration {
        self.latency
    }

    /// Bytes that may be handed over ahead of the link, headers and gaps included; `None`: any
    /// number.
    pub(super) fn backlog_bytes(&self) -> Option<u64> {
        self.cost.map(|cost| bytes_within(self.backlog, cost))
    }

    /// The most that was.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.cost.map_or(0, |cost| bytes_within(self.peak, cost))
    }

    /// How long the link takes for a packet of `len` bytes.
    fn wire_time(&self, len: usize) -> Option<Duration> {
        // 1 % more than computed, so that the estimate errs on the side of an empty queue.
        let nanos = |cost| (((len as u64 + OVERHEAD) * cost) >> COST_BITS) * 101 / 100;
        self.cost.map(|cost| Duration::from_nanos(nanos(cost)))
    }
}

/// What the link carries in that time.
fn bytes_within(time: Duration, cost: u64) -> u64 {
    let bytes = ((time.as_nanos() * 100) << COST_BITS).div_ceil(101 * u128::from(cost.max(1)));
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: usize = 1472;

    fn pacer(mbps: u32) -> Pacer {
        let mut pacer = Pacer::new(PACKET, Duration::from_millis(1));
        pacer.set_speed(Some(mbps));
        pacer
    }

    #[test]
    fn an_unknown_speed_does_not_pace() {
        let mut pacer = Pacer::new(PACKET, Duration::from_millis(1));
        for _ in 0..1000 {
            assert!(pacer.may_send(Time::ZERO));
            assert_eq!(pacer.burst(Time::ZERO, PACKET, 64), 64);
            pacer.sent(Time::ZERO, PACKET);
        }
        assert_eq!((pacer.backlog_bytes(), pacer.peak_bytes()), (None, 0));
    }

    /// 5 µs are 15 KB at 25 Gbit/s and nothing at 200 Mbit/s, where one packet goes at a time.
    #[test]
    fn the_backlog_is_one_packet_and_five_microseconds() {
        let fast = pacer(25_000);
        assert_eq!(fast.burst(Time::ZERO, PACKET, 64), 11);
        let bytes = fast.backlog_bytes().unwrap();
        assert!((16_900..=17_167).contains(&bytes), "{bytes}");

        let mut slow = pacer(200);
        let bytes = slow.backlog_bytes().unwrap();
        assert!((1660..=1667).contains(&bytes), "{bytes}");
        assert!(slow.may_send(Time::ZERO));
        assert_eq!(slow.burst(Time::ZERO, PACKET, 64), 1);
        slow.sent(Time::ZERO, PACKET);
        assert!(!slow.may_send(Time::ZERO));
        // 1,542 bytes on the wire, at 200 Mbit/s and 1 % more, less 5 µs.
        let at = slow.wait_until(Time::ZERO).unwrap();
        assert!((57_000..57_400).contains(&at.as_nanos()), "{at:?}");
        assert!(slow.may_send(at));
    }

    #[test]
    fn the_backlog_grows_with_the_lateness_up_to_its_limit() {
        let mut pacer = pacer(1000);
        let mut now = Time::ZERO;
        let mut run = |late: Duration| {
            for _ in 0..100 {
                while pacer.may_send(now) {
                    pacer.sent(now, PACKET);
                }
                now = pacer.wait_until(now).unwrap() + late;
            }
            let decided = pacer.backlog_bytes().unwrap();
            assert!(
                pacer.peak_bytes() <= decided,
                "{} > {decided}",
                pacer.peak_bytes()
            );
            (pacer.latency(), decided)
        };
        // One packet, and twice 100 µs at 1 Gbit/s: 25,000 bytes.
        let (latency, bytes) = run(Duration::from_micros(100));
        assert!(latency > Duration::from_micros(99), "{latency:?}");
        assert!((25_500..=26_542).contains(&bytes), "{bytes}");
        let (_, bytes) = run(Duration::from_millis(30));
        assert!((124_000..=126_542).contains(&bytes), "{bytes}");
    }

    /// An RPC that is cancelled while it waits leaves nobody who could be late.
    #[test]
    fn time_without_anything_to_send_is_not_lateness() {
        let mut pacer = pacer(200);
        pacer.sent(Time::ZERO, PACKET);
        assert!(!pacer.may_send(Time::ZERO));
        pacer.stop_waiting();
        assert!(pacer.may_send(Time::from_nanos(5_000_000_000)));
        assert_eq!(pacer.latency(), Duration::ZERO);
    }

    #[test]
    fn every_speed_in_range_is_paced() {
        for mbps in [1, 10_000_000] {
            let mut pacer = pacer(mbps);
            let start = pacer.backlog;
            assert!(start >= MIN_BACKLOG);
            for _ in 0..1_000_000 {
                if !pacer.may_send(Time::ZERO) {
                    break;
                }
                pacer.sent(Time::ZERO, PACKET);
            }
            assert!(pacer.wait_until(Time::ZERO).is_some(), "{mbps}");
        }
    }
}
