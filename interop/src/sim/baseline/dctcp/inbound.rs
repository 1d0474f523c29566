//! [`Inbound`]: the receiving end of a stream.

use super::Acknowledgment;
use crate::sim::node::HostId;
use crate::sim::time::{Instant, Span};

/// Segments that are acknowledged together (RFC 8257, section 3.2: delayed acknowledgments).
const ACKNOWLEDGE_EVERY: u32 = 2;

/// How long the first of them waits for the second. Linux waits 40 ms, and its senders' timeouts
/// are longer than that; as these are shorter here, so is this.
const ACKNOWLEDGE_AFTER: Span = Span::from_micros(1000);

/// The receiving end of a stream.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) from: HostId,
    /// The stream's port at its sender.
    pub(super) port: u32,
    /// All bytes before this one have arrived.
    pub(super) next: u64,
    /// What has arrived beyond that: first byte and the byte after the last one, in order.
    beyond: Vec<(u64, u64)>,
    /// Whether the last segment was marked.
    marked: bool,
    /// Segments that have arrived in order and have not been acknowledged.
    waiting: u32,
    acknowledge_at: Instant,
}

/// What a segment is answered with, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// For segments before it, which were marked and it was not, or the other way round.
    pub(super) before: Option<Acknowledgment>,
    pub(super) now: Option<Acknowledgment>,
}

impl Inbound {
    pub(super) fn new(from: HostId, port: u32) -> Self {
        Self {
            from,
            port,
            next: 0,
            beyond: Vec::new(),
            marked: false,
            waiting: 0,
            acknowledge_at: Instant::ZERO,
        }
    }

    /// Bytes `first` up to `end` have arrived.
    pub(super) fn receive(&mut self, now: Instant, first: u64, end: u64, marked: bool) -> Answer {
        let mut answer = Answer::default();
        // An acknowledgment says one thing about all the segments that it covers.
        if marked != self.marked && self.waiting > 0 {
            answer.before = Some(self.acknowledgment((0, 0)));
        }
        self.marked = marked;
        if first == self.next && self.beyond.is_empty() {
            self.next = end;
            self.waiting += 1;
            if self.waiting == 1 {
                self.acknowledge_at = now + ACKNOWLEDGE_AFTER;
            }
            if self.waiting >= ACKNOWLEDGE_EVERY {
                answer.now = Some(self.acknowledgment((0, 0)));
            }
        } else {
            // Out of order, a duplicate, or what was missing: the sender wants to know at once
            // (RFC 5681, section 4.2).
            let block = self.insert(first, end);
            answer.now = Some(self.acknowledgment(block));
        }
        answer
    }

    /// Bytes that have arrived, in order or not.
    pub(super) fn arrived_bytes(&self) -> u64 {
        let beyond = self.beyond.iter().map(|(first, end)| end - first);
        self.next + beyond.sum::<u64>()
    }

    /// When segments that wait are to be acknowledged.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.waiting > 0).then_some(self.acknowledge_at)
    }

    /// What acknowledges all that has arrived.
    pub(super) fn acknowledgment(&mut self, block: (u64, u64)) -> Acknowledgment {
        self.waiting = 0;
        Acknowledgment {
            next: self.next,
            block,
            marked: self.marked,
        }
    }

    /// Adds a piece; the block that it is in now, if that is not in order.
    fn insert(&mut self, first: u64, end: u64) -> (u64, u64) {
        let first = first.max(self.next);
        if first >= end {
            return (0, 0);
        }
        let from = self.beyond.partition_point(|block| block.1 < first);
        let to = self.beyond.partition_point(|block| block.0 <= end);
        let touched = &self.beyond[from..to];
        let block = (
            touched.first().map_or(first, |block| block.0.min(first)),
            touched.last().map_or(end, |block| block.1.max(end)),
        );
        self.beyond.splice(from..to, [block]);
        if block.0 > self.next {
            return block;
        }
        self.next = block.1;
        self.beyond.remove(0);
        (0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        Instant::from_nanos(micros * 1000)
    }

    fn says(next: u64, block: (u64, u64), marked: bool) -> Option<Acknowledgment> {
        Some(Acknowledgment {
            next,
            block,
            marked,
        })
    }

    #[test]
    fn every_second_segment_is_acknowledged_and_one_alone_after_a_millisecond() {
        let mut inbound = Inbound::new(0, 0);
        assert_eq!(inbound.deadline(), None);
        assert_eq!(inbound.receive(at(0), 0, 1000, false), Answer::default());
        let answer = inbound.receive(at(1), 1000, 2000, false);
        assert_eq!(
            (answer.before, answer.now),
            (None, says(2000, (0, 0), false))
        );
        assert_eq!(inbound.deadline(), None);
        assert_eq!(inbound.receive(at(2), 2000, 2001, false), Answer::default());
        assert_eq!(inbound.deadline(), Some(at(1002)));
        assert_eq!(
            Some(inbound.acknowledgment((0, 0))),
            says(2001, (0, 0), false)
        );
        assert_eq!(inbound.deadline(), None);
    }

    #[test]
    fn marked_and_other_segments_are_acknowledged_apart() {
        let mut inbound = Inbound::new(0, 0);
        inbound.receive(at(0), 0, 1000, false);
        let answer = inbound.receive(at(1), 1000, 2000, true);
        assert_eq!(answer.before, says(1000, (0, 0), false));
        assert_eq!(answer.now, None);
        let answer = inbound.receive(at(2), 2000, 3000, true);
        assert_eq!(
            (answer.before, answer.now),
            (None, says(3000, (0, 0), true))
        );
        // Nothing waits, so that only what the next ones say has changed.
        assert_eq!(inbound.receive(at(3), 3000, 4000, false), Answer::default());
    }

    #[test]
    fn pieces_out_of_order_are_told_at_once() {
        let mut inbound = Inbound::new(0, 0);
        let mut receive = |first, end| inbound.receive(at(0), first, end, false).now;
        assert_eq!(receive(2000, 3000), says(0, (2000, 3000), false));
        assert_eq!(receive(4000, 5000), says(0, (4000, 5000), false));
        assert_eq!(receive(3000, 4000), says(0, (2000, 5000), false));
        assert_eq!(receive(2000, 3000), says(0, (2000, 5000), false));
        assert_eq!(receive(6000, 7000), says(0, (6000, 7000), false));
        assert_eq!(receive(0, 1000), says(1000, (0, 0), false));
        assert_eq!(receive(1000, 2000), says(5000, (0, 0), false));
        assert_eq!(receive(1000, 2000), says(5000, (0, 0), false));
        assert_eq!(receive(5000, 6000), says(7000, (0, 0), false));
        // Everything is in order again.
        assert_eq!(receive(7000, 8000), None);
    }

    #[test]
    fn what_has_arrived_counts_once_in_order_or_not() {
        let mut inbound = Inbound::new(0, 0);
        for (first, end) in [(0, 1000), (3000, 4000), (2000, 3000), (3000, 4000)] {
            inbound.receive(at(0), first, end, false);
        }
        assert_eq!(inbound.arrived_bytes(), 3000);
    }
}
