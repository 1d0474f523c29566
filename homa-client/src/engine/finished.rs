//! [`Finished`]: the ids of RPCs that have ended here, so that a late or doubled packet of one
//! cannot make it run a second time.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use slab::Slab;

use super::peer::PeerKey;
use super::time::Time;

/// Ids per bitmap. A client draws every second number.
const IDS: u64 = 4096;

/// What one bitmap occupies, with its entry.
const BLOCK_BYTES: usize = 640;

/// All bitmaps together occupy at most this.
const MAX_BYTES: usize = 16 << 20;

/// Finished server RPCs, as bitmaps per peer and client port.
#[derive(Debug)]
pub(super) struct Finished {
    blocks: Slab<Block>,
    by_key: HashMap<BlockKey, u32>,
    /// Blocks in the order in which they may expire; looked at lazily.
    expiry: VecDeque<(Time, BlockKey)>,
    remember: Duration,
    /// Bitmaps given up before their time.
    pub(super) forgotten: u64,
}

type BlockKey = (PeerKey, u16, u64);

#[derive(Debug)]
struct Block {
    key: BlockKey,
    bits: Box<[u64; (IDS / 64) as usize]>,
    until: Time,
}

impl Finished {
    pub(super) fn new(remember: Duration) -> Self {
        Self {
            blocks: Slab::new(),
            by_key: HashMap::new(),
            expiry: VecDeque::new(),
            remember,
            forgotten: 0,
        }
    }

    pub(super) fn contains(&self, peer: PeerKey, port: u16, id: u64) -> bool {
        let (block, word, bit) = locate(id);
        let at = self.by_key.get(&(peer, port, block)).copied();
        let block = at.and_then(|at| self.blocks.get(at as usize));
        block.is_some_and(|block| block.bits[word] & bit != 0)
    }

    /// `hint` is where the last one of the same peer went, and is kept up to date.
    pub(super) fn insert(&mut self, hint: &mut u32, peer: PeerKey, port: u16, id: u64, now: Time) {
        let (block, word, bit) = locate(id);
        let key = (peer, port, block);
        let until = now + self.remember;
        let is_it = |at: u32| {
            self.blocks
                .get(at as usize)
                .is_some_and(|block| block.key == key)
        };
        if !is_it(*hint) {
            *hint = match self.by_key.get(&key) {
                Some(at) => *at,
                None => self.add(key, now),
            };
        }
        if let Some(block) = self.blocks.get_mut(*hint as usize) {
            block.bits[word] |= bit;
            block.until = until;
        }
    }

    fn add(&mut self, key: BlockKey, now: Time) -> u32 {
        self.expire(now);
        let until = now + self.remember;
        self.expiry.push_back((until, key));
        let at = self.blocks.insert(Block {
            key,
            bits: Box::new([0; (IDS / 64) as usize]),
            until,
        }) as u32;
        self.by_key.insert(key, at);
        at
    }

    /// When there may be something old to drop.
    pub(super) fn next_expiry(&self) -> Option<Time> {
        self.expiry.front().map(|(due, _)| *due)
    }

    /// Drops what is old, and makes room for one more block.
    pub(super) fn expire(&mut self, now: Time) {
        while let Some((due, key)) = self.expiry.front().copied() {
            let full = self.blocks.len() >= MAX_BYTES / BLOCK_BYTES;
            if due > now && !full {
                break;
            }
            self.expiry.pop_front();
            let Some(at) = self.by_key.get(&key).map(|at| *at as usize) else {
                continue;
            };
            let block_until = self.blocks[at].until;
            if block_until > now && !full {
                self.expiry.push_back((block_until, key));
            } else {
                self.forgotten += u64::from(block_until > now);
                self.by_key.remove(&key);
                self.blocks.remove(at);
            }
        }
        if self.blocks.is_empty() && self.blocks.capacity() > 1024 {
            self.blocks.shrink_to_fit();
            self.by_key.shrink_to(64);
            self.expiry.shrink_to(64);
        }
    }
}

fn locate(id: u64) -> (u64, usize, u64) {
    let number = id / 2;
    let at = number % IDS;
    (number / IDS, (at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_remembered_for_their_time_and_apart() {
        let mut finished = Finished::new(Duration::from_secs(10));
        let mut hint = 7;
        finished.insert(&mut hint, 1, 40_000, 9, Time::ZERO);
        assert!(finished.contains(1, 40_000, 9));
        assert!(
            finished.contains(1, 40_000, 8),
            "client and server ids name the same RPC"
        );
        for (peer, port, id) in [
            (2, 40_000, 9),
            (1, 40_001, 9),
            (1, 40_000, 11),
            (1, 40_000, 8201),
        ] {
            assert!(!finished.contains(peer, port, id));
        }
        let second = Duration::from_secs(1);
        finished.insert(&mut hint, 1, 40_000, 13, Time::ZERO + 9 * second);
        finished.expire(Time::ZERO + 11 * second);
        assert!(finished.contains(1, 40_000, 9), "its bitmap was used again");
        finished.expire(Time::ZERO + 19 * second);
        assert!(!finished.contains(1, 40_000, 9));
        assert_eq!((finished.expiry.len(), finished.forgotten), (0, 0));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let mut finished = Finished::new(Duration::from_secs(10));
        let mut hint = 7;
        let most = (MAX_BYTES / BLOCK_BYTES) as u64;
        for block in 0..most + 10 {
            finished.insert(&mut hint, 1, 1, block * 2 * IDS + 1, Time::ZERO);
        }
        assert_eq!(
            (finished.blocks.len() as u64, finished.forgotten),
            (most, 10)
        );
        assert!(!finished.contains(1, 1, 1));
        assert!(finished.contains(1, 1, (most + 9) * 2 * IDS + 1));
    }
}
