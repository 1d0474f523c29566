//! [`Assembly`]: the pieces of a body, put in order.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use homa_client::Message;

/// Pieces that wait for one before them, at most. An honest sender has eight in flight.
const MAX_EARLY: usize = 64;

/// Parts that are shorter are copied together while nobody reads them: each would occupy a hundred
/// bytes and more beside its own.
const SHORT: usize = 1_024;

/// What has arrived of a body. Pieces come in any order, and more than once.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    /// In order, to be read next.
    ready: VecDeque<Bytes>,
    /// Short parts that follow.
    short: BytesMut,
    /// Body offset after these.
    next: u64,
    /// Pieces behind a gap, by offset. None overlaps or touches what is before it.
    early: BTreeMap<u64, Message>,
}

/// More gaps than any honest sender leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_EARLY} pieces of a body wait for one before them")]
pub(super) struct TooManyGaps;

impl Assembly {
    /// Takes the piece at `offset`. Where bytes were there already, these stay.
    pub(super) fn insert(&mut self, offset: u64, mut piece: Message) -> Result<(), TooManyGaps> {
        let mut at = offset;
        if at < self.next {
            at += skip(&mut piece, self.next - at);
        }
        while !piece.is_empty() {
            if let Some((start, early)) = self.early.range(..=at).next_back()
                && start + early.len() as u64 > at
            {
                let known = start + early.len() as u64 - at;
                at += skip(&mut piece, known);
                continue;
            }
            let gap = self.early.range(at..).next();
            let gap = gap.map_or(u64::MAX, |(start, _)| start - at);
            let part = piece.split_to(usize::try_from(gap).unwrap_or(usize::MAX));
            let len = part.len() as u64;
            if at == self.next {
                self.append(part);
            } else if self.early.len() < MAX_EARLY {
                self.early.insert(at, part);
            } else {
                return Err(TooManyGaps);
            }
            at += len;
        }
        while let Some(first) = self.early.first_entry()
            && *first.key() == self.next
        {
            let part = first.remove();
            self.append(part);
        }
        Ok(())
    }

    /// The next part in order.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let short = &mut self.short;
        let rest = || (!short.is_empty()).then(|| short.split().freeze());
        self.ready.pop_front().or_else(rest)
    }

    /// Body offset up to which all has arrived.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Forgets what nobody will read.
    pub(super) fn clear(&mut self) {
        self.ready.clear();
        self.short = BytesMut::new();
        self.early.clear();
    }

    fn append(&mut self, mut piece: Message) {
        self.next += piece.len() as u64;
        while let Some(part) = piece.pop_part() {
            let waits = !self.ready.is_empty() || !self.short.is_empty();
            if waits && part.len() < SHORT {
                self.short.extend_from_slice(&part);
                continue;
            }
            if !self.short.is_empty() {
                self.ready.push_back(self.short.split().freeze());
            }
            self.ready.push_back(part);
        }
    }
}

/// Drops up to `count` bytes, and tells how many.
fn skip(piece: &mut Message, count: u64) -> u64 {
    let count = usize::try_from(count).map_or(piece.len(), |count| count.min(piece.len()));
    drop(piece.split_to(count));
    count as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(assembly: &mut Assembly) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(part) = assembly.pop() {
            assert!(!part.is_empty());
            all.extend_from_slice(&part);
        }
        all
    }

    #[test]
    fn pieces_in_any_order_and_overlapping_become_the_body() {
        let body: Vec<u8> = (0..40_000_u32).map(|at| (at % 251) as u8).collect();
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let mut pieces = Vec::new();
            let mut at = 0;
            while at < body.len() {
                let len = random.usize(1..3_000).min(body.len() - at);
                let from = at.saturating_sub(random.usize(0..100));
                pieces.push((from, at + len));
                at += len;
            }
            pieces.extend_from_within(..pieces.len() / 3);
            // As far out of order as eight in flight can be, and more.
            for at in 0..pieces.len() {
                let other = (at + random.usize(0..16)).min(pieces.len() - 1);
                pieces.swap(at, other);
            }
            let mut assembly = Assembly::default();
            let mut all = Vec::new();
            for (from, to) in pieces {
                let piece = Message::from(body[from..to].to_vec());
                assembly.insert(from as u64, piece).unwrap();
                if random.bool() {
                    all.extend(read(&mut assembly));
                }
            }
            all.extend(read(&mut assembly));
            assert_eq!(assembly.next(), body.len() as u64);
            assert!(all == body);
        }
    }

    #[test]
    fn the_first_copy_wins() {
        let mut assembly = Assembly::default();
        for (offset, text) in [(2, "CD"), (0, "abcdef"), (1, "xxxxxxx"), (20, "zz")] {
            assembly.insert(offset, text.into()).unwrap();
        }
        assert_eq!(read(&mut assembly), b"abCDefxx");
        assert_eq!(assembly.next(), 8);
    }

    #[test]
    fn short_parts_are_kept_together_and_gaps_are_bounded() {
        let mut assembly = Assembly::default();
        for at in 0..10_000 {
            assembly.insert(at, "x".into()).unwrap();
        }
        // The first one was there to be read before anything waited.
        assert_eq!(assembly.ready.len(), 1);
        assert_eq!(read(&mut assembly).len(), 10_000);
        for gap in 0..MAX_EARLY as u64 {
            assembly.insert(20_000 + 2 * gap, "x".into()).unwrap();
        }
        assert_eq!(assembly.insert(90_000, "x".into()), Err(TooManyGaps));
        // What fits in order is always taken.
        assembly.insert(10_000, "x".into()).unwrap();
        assert_eq!(read(&mut assembly), b"x");
    }

    #[test]
    fn offsets_at_the_end_of_their_range_do_not_overflow() {
        let mut assembly = Assembly::default();
        assembly.insert(u64::MAX - 1, "x".into()).unwrap();
        assembly.insert(u64::MAX - 3, "abc".into()).unwrap();
        assert!(read(&mut assembly).is_empty());
    }
}
