//! [`Deadlines`]: when which RPC has to be looked at.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::rpc::RpcKey;
use super::time::Time;

/// Deadlines of RPCs on the silence clock.
///
/// Entries are not removed from the middle: an RPC that ended, or whose deadline has moved, is
/// found out when its entry comes up. Most RPCs end long before that, so moving a deadline must cost nothing.
#[derive(Debug)]
pub(super) struct Deadlines {
    entries: BinaryHeap<Reverse<(Time, RpcKey)>>,
    /// Deadlines are rounded up to multiples of this, so that one wake-up serves many.
    step: Duration,
}

impl Deadlines {
    pub(super) fn new(step: Duration) -> Self {
        Self {
            entries: BinaryHeap::new(),
            step,
        }
    }

    /// Asks to look at `key` at `at`; returns the time at which that will be.
    pub(super) fn insert(&mut self, at: Time, key: RpcKey) -> Time {
        let at = at.round_up(self.step);
        self.entries.push(Reverse((at, key)));
        at
    }

    pub(super) fn first(&self) -> Option<Time> {
        self.entries.peek().map(|Reverse((at, _))| *at)
    }

    /// Drops the entries in front for which `is_live` is false, so that nobody wakes for them.
    pub(super) fn prune(&mut self, is_live: impl Fn(Time, RpcKey) -> bool) {
        while let Some(Reverse((at, key))) = self.entries.peek()
            && !is_live(*at, *key)
        {
            self.entries.pop();
        }
    }

    /// The next RPC that is due at `now`, with the time at which it was.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<(Time, RpcKey)> {
        if self.first()? > now {
            return None;
        }
        let Reverse(entry) = self.entries.pop()?;
        if self.entries.is_empty() && self.entries.capacity() > 1024 {
            // A flood of RPCs must not leave its memory behind.
            self.entries.shrink_to(64);
        }
        Some(entry)
    }
}
