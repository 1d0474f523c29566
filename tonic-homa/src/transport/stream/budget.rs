//! [`Budget`]: the memory that the streams with one peer may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Credit that each direction of a call begins with; a first flight carries at most as much.
pub(crate) const START_CREDIT: u64 = 65_536;

/// Furthest that a credit is ahead of what was read.
pub(super) const MAX_WINDOW: u64 = 4 << 20;

/// How many peers may use up what they have at the same time: anybody can pretend to be many.
const ALL_PEERS: u64 = 16;

/// Body bytes that a peer may send without being asked again, and those of its bodies that nobody
/// has read yet, together.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    promised: AtomicU64,
    bodies: AtomicUsize,
    /// Of all peers together.
    total: Arc<AtomicU64>,
}

impl Budget {
    /// At least one body fits. `total` counts the bytes of all peers.
    pub(crate) fn new(limit: usize, total: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self {
            limit: (limit as u64).max(START_CREDIT),
            promised: AtomicU64::new(0),
            bodies: AtomicUsize::new(0),
            total,
        })
    }

    /// Room for one more body, whose first bytes come without being asked for. `None` if there is
    /// none.
    pub(crate) fn open(self: &Arc<Self>) -> Option<Share> {
        self.add(START_CREDIT, self.limit).then(|| {
            self.bodies.fetch_add(1, Ordering::Relaxed);
            Share {
                budget: Some(self.clone()),
                promised: START_CREDIT,
            }
        })
    }

    /// Bytes that are promised or buffered.
    #[cfg(test)]
    pub(crate) fn used(&self) -> u64 {
        self.promised.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64, limit: u64) -> bool {
        if !add_up_to(&self.promised, bytes, limit) {
            return false;
        }
        let added = add_up_to(&self.total, bytes, self.limit.saturating_mul(ALL_PEERS));
        if !added {
            self.promised.fetch_sub(bytes, Ordering::Relaxed);
        }
        added
    }
}

fn add_up_to(sum: &AtomicU64, bytes: u64, limit: u64) -> bool {
    let add = |sum: u64| sum.checked_add(bytes).filter(|sum| *sum <= limit);
    sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
        .is_ok()
}

/// The part of one body.
#[derive(Debug)]
pub(crate) struct Share {
    /// `None`: it never promises anything.
    budget: Option<Arc<Budget>>,
    promised: u64,
}

impl Share {
    /// For a body that is there already.
    pub(crate) fn nothing() -> Self {
        Self {
            budget: None,
            promised: 0,
        }
    }

    /// Promises `more` for the `read` bytes that were read, if there is room; at most as much always
    /// finds room. In one step: meanwhile nobody else gets what is given back.
    pub(super) fn renew(&mut self, read: u64, more: u64) -> bool {
        if more > read {
            return self.grow(more - read);
        }
        self.shrink(read - more);
        true
    }

    /// Promises more, if there is room. Half of the budget is kept for bodies that begin, so that a
    /// few long ones do not keep others out.
    fn grow(&mut self, bytes: u64) -> bool {
        let Some(budget) = &self.budget else {
            return false;
        };
        // Every body may have what it has begun with.
        let limit = if self.promised + bytes <= START_CREDIT {
            budget.limit
        } else {
            budget.limit / 2
        };
        let grown = budget.add(bytes, limit);
        if grown {
            self.promised += bytes;
        }
        grown
    }

    /// Some of it was read, or is not wanted any more.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.promised);
        self.promised -= bytes;
        if let Some(budget) = &self.budget {
            budget.promised.fetch_sub(bytes, Ordering::Relaxed);
            budget.total.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// The longest window that leaves as much to each of the other bodies.
    pub(super) fn fair_window(&self) -> u64 {
        let Some(budget) = &self.budget else {
            return START_CREDIT;
        };
        let bodies = budget.bodies.load(Ordering::Relaxed).max(1) as u64;
        (budget.limit / 2 / bodies).clamp(START_CREDIT, MAX_WINDOW)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink(self.promised);
        if let Some(budget) = &self.budget {
            budget.bodies.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_share_what_there_is_and_new_ones_find_room() {
        let budget = Budget::new(64 << 20, Arc::default());
        let mut greedy: Vec<_> = (0..20).map(|_| budget.open().unwrap()).collect();
        for share in &mut greedy {
            while share.grow(1 << 20) {}
        }
        assert!(budget.used() <= (32 << 20) && budget.used() > (30 << 20));
        let more: Vec<_> = std::iter::from_fn(|| budget.open()).collect();
        assert!(more.len() >= 500, "{}", more.len());
        assert!(budget.used() <= 64 << 20);
        assert_eq!(more[0].fair_window(), START_CREDIT);
        drop(more);
        drop(greedy);
        assert_eq!(budget.used(), 0);
        assert_eq!(budget.open().unwrap().fair_window(), MAX_WINDOW);
    }

    #[test]
    fn all_peers_together_have_a_bound_too() {
        let total = Arc::default();
        let budgets: Vec<_> = (0..40)
            .map(|_| Budget::new(1 << 20, Arc::clone(&total)))
            .collect();
        let all: Vec<_> = budgets
            .iter()
            .flat_map(|budget| std::iter::from_fn(|| budget.open()))
            .collect();
        assert_eq!(all.len(), 16 * 16);
        assert_eq!(total.load(Ordering::Relaxed), 16 << 20);
        drop(all);
        assert_eq!(total.load(Ordering::Relaxed), 0);
        assert!(budgets[39].open().is_some());
    }

    #[test]
    fn what_was_read_can_be_promised_again_however_full_it_is() {
        let budget = Budget::new(1 << 20, Arc::default());
        let mut all: Vec<_> = std::iter::from_fn(|| budget.open()).collect();
        assert_eq!(all.len(), 16);
        assert!(!all[0].grow(1));
        all[0].shrink(1_000);
        assert!(all[0].grow(1_000) && !all[0].grow(1));
    }
}
