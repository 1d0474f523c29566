//! [`Granter`]: decides which messages may be sent, and how far (`homa-protocol` C.9).

use super::pool::{Need, Pool};
use super::rpc::{Rpc, RpcKey, RpcTable};
use super::srpt::{Rank, SrptQueue};

/// A window is granted in this many steps at most, so that its packets leave and arrive in
/// batches worth a system call. HEAD grants whatever has become free, however little.
const GRANT_STEPS: usize = 2;

/// Grants to the messages with the fewest bytes to come, a few at a time.
#[derive(Debug)]
pub(super) struct Granter {
    /// Messages that are not fully granted.
    waiting: SrptQueue,
    /// Bytes granted and not received, over all scheduled messages.
    outstanding: usize,
    max_incoming: usize,
    max_overcommit: usize,
    /// Messages of which more has arrived since they were ranked. Packets come in runs, ranks
    /// matter only when grants are decided.
    touched: Vec<RpcKey>,
    /// Whether anything has changed since the last round.
    changed: bool,
}

/// A grant to be sent: its message, the new limit, and the message's rank among the active ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decision {
    pub(super) key: RpcKey,
    pub(super) offset: u32,
    pub(super) rank: usize,
    pub(super) active: usize,
}

impl Granter {
    pub(super) fn new(max_incoming: usize, max_overcommit: usize) -> Self {
        Self {
            waiting: SrptQueue::default(),
            outstanding: 0,
            max_incoming,
            max_overcommit,
            touched: Vec::new(),
            changed: false,
        }
    }

    /// Bytes granted and not received.
    #[cfg(test)]
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Room may have appeared: memory was released, or the limits have changed.
    pub(super) fn touch(&mut self) {
        self.changed = true;
    }

    /// The incoming message of `rpc` is new, or more of it has arrived; `before` is what it had
    /// outstanding until then.
    pub(super) fn update(&mut self, key: RpcKey, rpc: &mut Rpc, before: usize) {
        let Some(message) = &rpc.incoming else { return };
        if !message.needs_grants() {
            return;
        }
        self.outstanding = (self.outstanding + message.outstanding()).saturating_sub(before);
        self.changed = true;
        if !rpc.rank_stale {
            rpc.rank_stale = true;
            self.touched.push(key);
        }
    }

    /// Puts a message where it belongs among those that wait for grants.
    fn rank(&mut self, key: RpcKey, rpc: &mut Rpc) {
        rpc.rank_stale = false;
        let rank = rpc
            .incoming
            .as_ref()
            .filter(|message| message.granted() < message.length())
            .map(|message| Rank {
                remaining: message.remaining(),
                age: rpc.age,
                key,
            });
        if rank != rpc.grant_rank {
            if let Some(old) = rpc.grant_rank {
                self.waiting.remove(old);
            }
            if let Some(new) = rank {
                self.waiting.insert(new);
            }
            rpc.grant_rank = rank;
        }
    }

    /// The RPC has ended.
    pub(super) fn remove(&mut self, rpc: &mut Rpc) {
        if let Some(message) = &rpc.incoming {
            self.outstanding = self.outstanding.saturating_sub(message.outstanding());
            self.changed = true;
        }
        if let Some(rank) = rpc.grant_rank.take() {
            self.waiting.remove(rank);
        }
    }

    /// One round of grants, if anything has changed since the last.
    pub(super) fn decide(&mut self, rpcs: &mut RpcTable, pool: &mut Pool) -> Vec<Decision> {
        if !std::mem::take(&mut self.changed) {
            return Vec::new();
        }
        while let Some(key) = self.touched.pop() {
            if let Some(rpc) = rpcs.get_mut(key).filter(|rpc| rpc.rank_stale) {
                self.rank(key, rpc);
            }
        }
        let active: Vec<Rank> = self.waiting.iter().take(self.max_overcommit).collect();
        let window = self.max_incoming / (active.len() + 1);
        let mut decisions = Vec::new();
        for (rank, entry) in active.iter().enumerate() {
            let Some(rpc) = rpcs.get_mut(entry.key) else {
                continue;
            };
            let Some(message) = &mut rpc.incoming else {
                continue;
            };
            let before = message.outstanding();
            let headroom = self.max_incoming.saturating_sub(self.outstanding);
            let target = (message.received() as usize + window)
                .min(message.granted() as usize + headroom)
                .min(message.length() as usize) as u32;
            let more = target.saturating_sub(message.granted());
            let rest = message.length() - message.granted();
            if more == 0 || (more as usize) < window / GRANT_STEPS && more < rest {
                continue;
            }
            // All of it is reserved before the first grant: messages that hold a part each and
            // wait for the rest would wait for ever.
            let whole = message.reserve(message.length() as usize);
            let missing = whole.saturating_sub(message.charged);
            if !pool.charge(missing, Need::Rest) {
                continue;
            }
            message.charged += missing;
            message.grant(target);
            decisions.push(Decision {
                key: entry.key,
                offset: message.granted(),
                rank,
                active: active.len(),
            });
            self.outstanding = (self.outstanding + message.outstanding()).saturating_sub(before);
            self.rank(entry.key, rpc);
        }
        decisions
    }
}
