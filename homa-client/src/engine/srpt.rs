//! [`SrptQueue`]: messages by the bytes they still need, fewest first.

use std::collections::BTreeSet;

use super::rpc::RpcKey;

/// Messages in the order of shortest remaining processing time; the older first on ties.
///
/// A heap can neither list its first k entries nor delete in the middle, so this is a tree.
#[derive(Debug, Default)]
pub(super) struct SrptQueue {
    entries: BTreeSet<Rank>,
}

/// Where a message stands. Whoever inserts it keeps it, to be able to remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Bytes that remain.
    pub(super) remaining: u32,
    /// Number of the RPC in the order of creation.
    pub(super) age: u64,
    /// The RPC.
    pub(super) key: RpcKey,
}

impl SrptQueue {
    pub(super) fn insert(&mut self, rank: Rank) {
        self.entries.insert(rank);
    }

    pub(super) fn remove(&mut self, rank: Rank) {
        self.entries.remove(&rank);
    }

    pub(super) fn first(&self) -> Option<Rank> {
        self.entries.first().copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Rank> {
        self.entries.iter().copied()
    }
}
