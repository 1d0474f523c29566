//! [`Deadlines`]: when which RPC has to be looked at.

use std::collections::BTreeMap;
use std::time::Duration;

use super::rpc::RpcKey;
use super::time::Time;

/// A longer list is not kept.
const MAX_SPARE: usize = 64;

/// Deadlines of RPCs on the silence clock.
///
/// Entries are not removed from the middle: an RPC that ended, or whose deadline has moved, is
/// found out when its entry comes up. Most RPCs end long before that, so moving a deadline must
/// cost nothing.
#[derive(Debug)]
pub(super) struct Deadlines {
    /// By time. As times are rounded, there are few of them, and many RPCs at each.
    entries: BTreeMap<Time, Vec<RpcKey>>,
    /// The first of these times, which is asked for with every packet.
    first: Option<Time>,
    /// A list that was used up, for the next time: one RPC after the other needs no more.
    spare: Vec<RpcKey>,
    /// Deadlines are rounded up to multiples of this, so that one wake-up serves many.
    step: Duration,
}

impl Deadlines {
    pub(super) fn new(step: Duration) -> Self {
        Self {
            entries: BTreeMap::new(),
            first: None,
            spare: Vec::new(),
            step,
        }
    }

    /// Asks to look at `key` at `at`; returns the time at which that will be.
    pub(super) fn insert(&mut self, at: Time, key: RpcKey) -> Time {
        let at = at.round_up(self.step);
        self.entries
            .entry(at)
            .or_insert_with(|| std::mem::take(&mut self.spare))
            .push(key);
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
        at
    }

    pub(super) fn first(&self) -> Option<Time> {
        self.first
    }

    /// Drops the entries in front for which `is_live` is false, so that nobody wakes for them.
    pub(super) fn prune(&mut self, is_live: impl Fn(Time, RpcKey) -> bool) {
        while let Some(mut entry) = self.entries.first_entry() {
            let at = *entry.key();
            let keys = entry.get_mut();
            while keys.pop_if(|key| !is_live(at, *key)).is_some() {}
            if !keys.is_empty() {
                return;
            }
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some((_, keys)) = self.entries.pop_first()
            && keys.capacity() <= MAX_SPARE
        {
            self.spare = keys;
        }
        self.first = self.entries.first_key_value().map(|(at, _)| *at);
    }

    /// The next RPC that is due at `now`, with the time at which it was.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<(Time, RpcKey)> {
        let at = self.first.filter(|at| *at <= now)?;
        let keys = self.entries.get_mut(&at)?;
        let key = keys.pop()?;
        if keys.is_empty() {
            self.drop_first();
        }
        Some((at, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::Random;

    #[test]
    fn the_first_is_always_known() {
        let mut random = Random::new(1);
        let mut deadlines = Deadlines::new(Duration::from_millis(1));
        let mut model: BTreeMap<Time, usize> = BTreeMap::new();
        let mut due = 0;
        for share in [80, 50, 10] {
            for _ in 0..1000 {
                let millis = random.below(50);
                let at = Time::ZERO + Duration::from_millis(millis);
                if random.percent(share) {
                    *model.entry(deadlines.insert(at, 7)).or_default() += 1;
                } else if random.percent(90) {
                    if let Some((first, _)) = deadlines.pop_due(at) {
                        due += 1;
                        assert!(first <= at);
                        *model.get_mut(&first).unwrap() -= 1;
                    }
                } else {
                    deadlines.prune(|first, _| first > at);
                    model.retain(|first, _| *first > at);
                }
                model.retain(|_, keys| *keys > 0);
                assert_eq!(deadlines.first(), model.keys().next().copied());
            }
        }
        assert!(due > 300, "{due}");
    }
}
