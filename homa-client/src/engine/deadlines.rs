//! [`Deadlines`]: when which RPC has to be looked at.

use std::collections::BTreeMap;
use std::time::Duration;

use super::rpc::RpcKey;
use super::time::Time;

/// Deadlines of RPCs on the silence clock.
///
/// Entries are not removed from the middle: an RPC that ended, or whose deadline has moved, is
/// found out when its entry comes up. Most RPCs end long before that, so moving a deadline must
/// cost nothing.
#[derive(Debug)]
pub(super) struct Deadlines {
    /// By time. As times are rounded, there are few of them, and many RPCs at each.
    entries: BTreeMap<Time, Vec<RpcKey>>,
    /// Deadlines are rounded up to multiples of this, so that one wake-up serves many.
    step: Duration,
}

impl Deadlines {
    pub(super) fn new(step: Duration) -> Self {
        Self {
            entries: BTreeMap::new(),
            step,
        }
    }

    /// Asks to look at `key` at `at`; returns the time at which that will be.
    pub(super) fn insert(&mut self, at: Time, key: RpcKey) -> Time {
        let at = at.round_up(self.step);
        self.entries.entry(at).or_default().push(key);
        at
    }

    pub(super) fn first(&self) -> Option<Time> {
        self.entries.first_key_value().map(|(at, _)| *at)
    }

    /// Drops the entries in front for which `is_live` is false, so that nobody wakes for them.
    pub(super) fn prune(&mut self, is_live: impl Fn(Time, RpcKey) -> bool) {
        while let Some(mut entry) = self.entries.first_entry() {
            let at = *entry.key();
            let keys = entry.get_mut();
            while keys.pop_if(|key| !is_live(at, *key)).is_some() {}
            if !keys.is_empty() {
                break;
            }
            entry.remove();
        }
    }

    /// The next RPC that is due at `now`, with the time at which it was.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<(Time, RpcKey)> {
        let mut entry = self.entries.first_entry()?;
        let at = *entry.key();
        if at > now {
            return None;
        }
        let key = entry.get_mut().pop();
        if entry.get().is_empty() {
            entry.remove();
        }
        key.map(|key| (at, key))
    }
}
