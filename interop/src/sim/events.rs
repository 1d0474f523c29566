//! [`Events`]: what happens next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::time::Instant;

/// Width of a bucket: 2^15 ps, 33 ns. A busy network of 144 hosts has some thirty events in it.
const BUCKET_BITS: u32 = 15;

/// Buckets of the ring: 537 µs ahead, beyond all delays but timers'.
const BUCKETS: usize = 1 << 14;

/// A queue of events by time; those of the same time in the order in which they were added.
///
/// Nearly all events lie a few microseconds ahead. They wait unsorted in a ring of buckets, and a
/// bucket is sorted when its time comes, so that an event costs no walk through a large heap.
#[derive(Debug)]
pub(crate) struct Events<E> {
    /// The bucket whose time it is, sorted, latest first.
    current: Vec<Entry<E>>,
    /// Its number, counted from time zero.
    number: u64,
    /// Those after it: number `n` is at `n % BUCKETS`.
    ring: Vec<Vec<Entry<E>>>,
    in_ring: usize,
    /// Beyond the ring.
    far: BinaryHeap<Reverse<Entry<E>>>,
    added: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry<E> {
    at: Instant,
    order: u64,
    event: E,
}

impl<E> Entry<E> {
    fn key(&self) -> (Instant, u64) {
        (self.at, self.order)
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl<E> Events<E> {
    pub(crate) fn new() -> Self {
        Self {
            current: Vec::new(),
            number: 0,
            ring: std::iter::repeat_with(Vec::new).take(BUCKETS).collect(),
            in_ring: 0,
            far: BinaryHeap::new(),
            added: 0,
        }
    }

    /// Adds an event; one whose time has passed comes next.
    pub(crate) fn push(&mut self, at: Instant, event: E) {
        let order = self.added;
        self.added += 1;
        let entry = Entry { at, order, event };
        let number = bucket_of(at);
        if number <= self.number {
            let place = self.current.partition_point(|other| *other > entry);
            self.current.insert(place, entry);
        } else if number < self.number + BUCKETS as u64 {
            self.ring[number as usize % BUCKETS].push(entry);
            self.in_ring += 1;
        } else {
            self.far.push(Reverse(entry));
        }
    }

    /// Takes the next event.
    pub(crate) fn pop(&mut self) -> Option<(Instant, E)> {
        while self.current.is_empty() {
            if self.in_ring == 0 {
                // Nothing for a while: straight to where there is something.
                let Reverse(first) = self.far.peek()?;
                self.number = bucket_of(first.at);
            } else {
                self.number += 1;
            }
            self.advance();
        }
        let entry = self.current.pop()?;
        Some((entry.at, entry.event))
    }

    /// Events added so far.
    pub(crate) fn added(&self) -> u64 {
        self.added
    }

    /// Opens the bucket at `number`.
    fn advance(&mut self) {
        while let Some(Reverse(entry)) = self.far.peek()
            && bucket_of(entry.at) < self.number + BUCKETS as u64
        {
            let Some(Reverse(entry)) = self.far.pop() else {
                break;
            };
            let number = bucket_of(entry.at);
            self.ring[number as usize % BUCKETS].push(entry);
            self.in_ring += 1;
        }
        // The emptied bucket keeps its memory for its next turn.
        let bucket = &mut self.ring[self.number as usize % BUCKETS];
        std::mem::swap(&mut self.current, bucket);
        self.in_ring -= self.current.len();
        self.current
            .sort_unstable_by_key(|entry| Reverse(entry.key()));
    }
}

fn bucket_of(at: Instant) -> u64 {
    at.as_picos() >> BUCKET_BITS
}

#[cfg(test)]
mod tests {
    use super::super::time::Span;
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_of_their_coming() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut events = Events::new();
        let mut expected = Vec::new();
        let mut now = Instant::ZERO;
        let mut popped = Vec::new();
        for number in 0..20_000u64 {
            // From the present bucket to far beyond the ring, with many of the same time.
            let ahead = 10u64.pow(random.u32(0..10)) * random.u64(0..5);
            let at = now + Span::from_picos(ahead);
            events.push(at, number);
            expected.push((at, number));
            if random.u32(0..3) > 0 {
                let (at, event) = events.pop().expect("one was just added");
                assert!(at >= now);
                now = at;
                popped.push((at, event));
            }
        }
        popped.extend(std::iter::from_fn(|| events.pop()));
        // Whatever is added lies ahead, so the order is that of all together.
        expected.sort();
        assert_eq!(popped, expected);
        assert_eq!(events.added(), 20_000);
        assert!(events.pop().is_none());
    }
}
