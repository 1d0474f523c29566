//! [`Pacer`]: keeps the queue in front of the link short, so that a short message that comes
//! later does not stand behind a long one (`homa-protocol` C.3).

use std::time::Duration;

use super::time::Time;

/// Bytes that each packet occupies on an Ethernet link besides the Homa packet: IP and UDP
/// headers, Ethernet header, CRC, preamble, gap and room for a VLAN tag.
const OVERHEAD: u64 = 28 + 42;

/// Estimates when the link will have sent all that was handed over.
#[derive(Debug)]
pub(super) struct Pacer {
    /// Nanoseconds per byte, with 8 fractional bits; `None`: not paced.
    cost: Option<u64>,
    max_backlog: Duration,
    idle_at: Time,
}

impl Pacer {
    pub(super) fn new(link_mbps: Option<u32>, max_backlog: Duration) -> Self {
        let cost = link_mbps.map(|mbps| (8_000 << 8) / u64::from(mbps.max(1)));
        Self {
            cost,
            max_backlog,
            idle_at: Time::ZERO,
        }
    }

    /// When the next packet may be handed over; `None`: now.
    pub(super) fn wait_until(&self, now: Time) -> Option<Time> {
        self.cost?;
        // With an idle link one packet always goes, however long it takes.
        let at = self.idle_at.minus(self.max_backlog);
        (at > now && self.idle_at > now).then_some(at)
    }

    /// How many packets of `len` bytes may be handed over in one go, at most `most`.
    pub(super) fn burst(&self, now: Time, len: usize, most: usize) -> usize {
        let Some(per_packet) = self.wire_time(len) else {
            return most;
        };
        let backlog = self.idle_at.since(now);
        let room = self.max_backlog.saturating_sub(backlog).as_nanos() as u64;
        ((room / per_packet.max(1)) as usize).clamp(1, most.max(1))
    }

    /// A packet of `len` bytes was handed over.
    pub(super) fn sent(&mut self, now: Time, len: usize) {
        if let Some(nanos) = self.wire_time(len) {
            self.idle_at = self.idle_at.max(now) + Duration::from_nanos(nanos);
        }
    }

    fn wire_time(&self, len: usize) -> Option<u64> {
        // 1 % more than computed, so that the estimate errs on the side of an empty queue.
        self.cost
            .map(|cost| (((len as u64 + OVERHEAD) * cost) >> 8) * 101 / 100)
    }
}
