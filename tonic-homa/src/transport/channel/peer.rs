//! What a process knows about one server address: its epoch and how many calls it made there.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustc_hash::FxHashMap;

use crate::random;

/// One server address as all channels of this process see it. Servers keep the calls of an epoch
/// as ranges of numbers, so these have to come from one counter.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) addr: SocketAddr,
    /// Random, never 0. A new one after the last channel to the address was dropped: the server
    /// then knows nothing about it, which is all that an epoch promises.
    pub(super) epoch: u64,
    calls: AtomicU64,
}

impl Peer {
    /// The entry of `addr`, shared with the other channels to it.
    pub(super) fn of(addr: SocketAddr) -> Arc<Self> {
        static PEERS: Mutex<Option<FxHashMap<SocketAddr, Weak<Peer>>>> = Mutex::new(None);

        let mut peers = PEERS.lock().unwrap_or_else(PoisonError::into_inner);
        let peers = peers.get_or_insert_default();
        if let Some(peer) = peers.get(&addr).and_then(Weak::upgrade) {
            return peer;
        }
        peers.retain(|_, peer| peer.strong_count() > 0);
        let peer = Arc::new(Self {
            addr,
            epoch: random::nonzero(),
            calls: AtomicU64::new(0),
        });
        peers.insert(addr, Arc::downgrade(&peer));
        peer
    }

    /// The number of the next call, from 1.
    pub(super) fn next_call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_to_one_address_share_epoch_and_numbers() {
        let addr = SocketAddr::from(([192, 0, 2, 1], 4_000));
        let first = Peer::of(addr);
        let second = Peer::of(addr);
        assert_eq!(
            (first.epoch, first.next_call(), second.next_call()),
            (second.epoch, 1, 2)
        );
        let old = first.epoch;
        drop((first, second));
        let third = Peer::of(addr);
        assert_ne!(third.epoch, old);
        assert_eq!(third.next_call(), 1);
    }
}
