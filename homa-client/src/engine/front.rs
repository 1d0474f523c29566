//! [`Front`]: a sorted set that is cheap to change near its front.

use std::collections::BTreeSet;

use arrayvec::ArrayVec;

/// A sorted set. Its first entries lie in an array, the others in a tree: where the shortest
/// message goes first, the same few entries move with every packet, however many wait behind them.
#[derive(Debug)]
pub(super) struct Front<T, const N: usize> {
    /// Sorted, and before all of `rest`. Empty only if both are.
    first: ArrayVec<T, N>,
    rest: BTreeSet<T>,
}

impl<T, const N: usize> Default for Front<T, N> {
    fn default() -> Self {
        Self {
            first: ArrayVec::new(),
            rest: BTreeSet::new(),
        }
    }
}

impl<T: Copy + Ord, const N: usize> Front<T, N> {
    pub(super) fn insert(&mut self, entry: T) {
        let at = self.first.partition_point(|other| *other < entry);
        if at == self.first.len() && (at == N || !self.rest.is_empty()) {
            self.rest.insert(entry);
            return;
        }
        if self.first.is_full()
            && let Some(last) = self.first.pop()
        {
            self.rest.insert(last);
        }
        self.first.insert(at, entry);
    }

    pub(super) fn remove(&mut self, entry: &T) {
        let Ok(at) = self.first.binary_search(entry) else {
            self.rest.remove(entry);
            return;
        };
        self.first.remove(at);
        if self.first.len() < N.div_ceil(2) {
            while !self.first.is_full()
                && let Some(next) = self.rest.pop_first()
            {
                self.first.push(next);
            }
        }
    }

    pub(super) fn first(&self) -> Option<T> {
        self.first.first().copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = T> {
        self.first.iter().chain(&self.rest).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.first.len() + self.rest.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::Random;

    fn check<const N: usize>(seed: u64) {
        let mut random = Random::new(seed);
        let mut front: Front<u64, N> = Front::default();
        let mut model = BTreeSet::new();
        // Grows, and shrinks until nothing is left.
        for share in [70, 50, 20, 0] {
            for _ in 0..500 {
                if random.percent(share) {
                    let entry = random.next();
                    front.insert(entry);
                    model.insert(entry);
                } else if let Some(entry) = model
                    .iter()
                    .nth(random.log_uniform(model.len().max(1) as u64) as usize - 1)
                    .copied()
                {
                    front.remove(&entry);
                    model.remove(&entry);
                }
                assert_eq!(front.first(), model.first().copied());
                assert_eq!(front.len(), model.len());
                assert_eq!(front.is_empty(), model.is_empty());
            }
            assert!(front.iter().eq(model.iter().copied()));
        }
        assert!(model.is_empty());
    }

    #[test]
    fn it_is_a_sorted_set() {
        for seed in 0..20 {
            check::<1>(seed);
            check::<2>(seed);
            check::<8>(seed);
        }
    }
}
