//! [`Granter`]: decides which messages may be sent, and how far (`homa-protocol` C.9).

use std::collections::BTreeSet;

use arrayvec::ArrayVec;
use rustc_hash::FxHashMap;

use super::Settings;
use super::front::Front;
use super::incoming::InMessage;
use super::peer::PeerKey;
use super::pool::{Need, Pool};
use super::rpc::{Rpc, RpcKey, RpcTable};
use super::srpt::Rank;

/// Most that `max_overcommit` may be.
const MAX_ACTIVE: usize = 8;

/// A window is granted in this many steps at most, unless `min_grant` says otherwise.
const GRANT_STEPS: usize = 2;

/// The kernel's `fifo_grant_increment` is this part of its `max_incoming`.
const FIFO_PART: usize = 8;

/// Messages that do not answer their grants and are passed over in the search for the oldest.
const MAX_PASSED: usize = 8;

/// Grants to the messages with the fewest bytes to come, a few at a time.
#[derive(Debug)]
pub(super) struct Granter {
    limits: Limits,
    /// Messages that are not fully granted.
    waiting: Waiting,
    /// Bytes granted and not received, over all scheduled messages that come by each way.
    outstanding: Ways<usize>,
    /// What the oldest message has earned: a thousandth of a byte each.
    fifo_credits: u64,
    /// Messages of which more has arrived since they were ranked. Packets come in runs, ranks
    /// matter only when grants are decided.
    touched: Vec<RpcKey>,
    /// Whether anything has changed since the last round.
    changed: bool,
    /// Whether an active message got less than its window in that round.
    short: bool,
}

/// One for what comes through the network, one for what comes on loopback: neither waits for the
/// other.
type Ways<T> = [T; 2];

fn way(rpc: &Rpc) -> usize {
    rpc.loopback.into()
}

/// How far messages are granted ahead, in bytes.
#[derive(Clone, Copy, Debug)]
struct Limits {
    max_incoming: Ways<usize>,
    max_overcommit: usize,
    window: Option<usize>,
    min_grant: Option<usize>,
    /// In per mille.
    fifo_fraction: u64,
    fifo_increment: usize,
}

impl Limits {
    /// What one message may have outstanding while so many share what comes this way.
    fn window(&self, way: usize, shares: Ways<usize>) -> usize {
        self.window
            .unwrap_or(self.max_incoming[way] / (shares[way] + 1))
    }
}

/// A grant to be sent: its message and the new limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) key: RpcKey,
    pub(super) offset: u32,
    pub(super) share: Share,
}

/// The grants of one round: to the active messages, and to the oldest.
pub(super) type Decisions = ArrayVec<Decision, { MAX_ACTIVE + 1 }>;

/// Why a message is granted more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// It is one of the `active` ones, and at `rank` among them by remaining bytes.
    Active { rank: usize, active: usize },
    /// It is the oldest. Its packets go before all other scheduled ones; at the level that the
    /// kernel gives them, above most unscheduled ones, short messages pay for it.
    Oldest,
}

impl Granter {
    pub(super) fn new(settings: &Settings) -> Self {
        let increment = settings
            .fifo_increment
            .unwrap_or((settings.max_incoming / FIFO_PART).max(settings.longest_payload()));
        Self {
            limits: Limits {
                max_incoming: [
                    settings.max_incoming,
                    settings
                        .loopback
                        .map_or(settings.max_incoming, |loopback| loopback.max_incoming),
                ],
                max_overcommit: settings.max_overcommit,
                window: settings.grant_window,
                min_grant: settings.min_grant,
                fifo_fraction: settings.fifo_fraction.into(),
                fifo_increment: increment,
            },
            waiting: Waiting::default(),
            outstanding: [0; 2],
            fifo_credits: 0,
            touched: Vec::new(),
            changed: false,
            short: false,
        }
    }

    /// Messages that are not fully granted.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.by_age.len()
    }

    /// Whether a message waits that could be granted to, as of the last round.
    pub(super) fn withholds(&self) -> bool {
        self.short || self.waiting() > self.limits.max_overcommit
    }

    /// Bytes granted and not received.
    #[cfg(test)]
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.iter().sum()
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
        let outstanding = &mut self.outstanding[way(rpc)];
        *outstanding = (*outstanding + message.outstanding()).saturating_sub(before);
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
            .filter(|message| message.granted() < message.length() && !message.stalled)
            .map(|message| Rank {
                remaining: message.remaining(),
                age: rpc.age,
                key,
            });
        if rank != rpc.grant_rank {
            self.waiting.update(rpc.peer, rpc.grant_rank, rank);
            rpc.grant_rank = rank;
        }
    }

    /// The sender of this message does not answer: others get what it was granted, until it does.
    pub(super) fn stall(&mut self, key: RpcKey, rpc: &mut Rpc) {
        let way = way(rpc);
        let Some(message) = &mut rpc.incoming else {
            return;
        };
        let outstanding = &mut self.outstanding[way];
        *outstanding = outstanding.saturating_sub(message.outstanding());
        message.stalled = true;
        self.changed = true;
        self.rank(key, rpc);
    }

    /// The RPC has ended.
    pub(super) fn remove(&mut self, rpc: &mut Rpc) {
        if let Some(message) = &rpc.incoming {
            let outstanding = &mut self.outstanding[way(rpc)];
            *outstanding = outstanding.saturating_sub(message.outstanding());
            self.changed = true;
        }
        if let Some(rank) = rpc.grant_rank.take() {
            self.waiting.update(rpc.peer, Some(rank), None);
        }
    }

    /// Whether anything has changed since the last round.
    pub(super) fn is_due(&self) -> bool {
        self.changed
    }

    /// One round of grants.
    pub(super) fn decide(&mut self, rpcs: &mut RpcTable, pool: &mut Pool) -> Decisions {
        let mut decisions = Decisions::new();
        self.changed = false;
        while let Some(key) = self.touched.pop() {
            if let Some(rpc) = rpcs.get_mut(key).filter(|rpc| rpc.rank_stale) {
                self.rank(key, rpc);
            }
        }
        self.short = false;
        if self.waiting.by_age.is_empty() {
            return decisions;
        }
        let limits = self.limits;
        let active = self.waiting.active(limits.max_overcommit);
        let shares = shares(&active, rpcs);
        for (rank, entry) in active.iter().enumerate() {
            let Some(rpc) = rpcs.get(entry.key) else {
                continue;
            };
            let Some(message) = rpc.incoming.as_ref() else {
                continue;
            };
            let way = way(rpc);
            let window = limits.window(way, shares);
            let least = limits.min_grant.unwrap_or(window / GRANT_STEPS).min(window);
            let headroom = limits.max_incoming[way].saturating_sub(self.outstanding[way]);
            let base = base(message);
            let rest = (message.length() - base) as usize;
            let wanted = (message.received() as usize + window)
                .saturating_sub(base as usize)
                .min(rest);
            let more = wanted.min(headroom);
            self.short |= more < wanted;
            if more < least && more < rest {
                continue;
            }
            let share = Share::Active {
                rank,
                active: active.len(),
            };
            if let Some(decision) = self.grant(rpcs, pool, entry.key, more, share) {
                self.fifo_credits += more as u64 * limits.fifo_fraction;
                decisions.push(decision);
            }
        }
        if let Some(best) = active.first().filter(|_| !decisions.is_empty()) {
            decisions.extend(self.grant_to_oldest(rpcs, pool, best.key, shares));
        }
        decisions
    }

    /// A message that is never the shortest gets a share all the same: of every 1,000 bytes granted
    /// `fifo_fraction` go to the oldest, one increment at a time. The kernel does so by time, but a
    /// link's speed need not be known here.
    fn grant_to_oldest(
        &mut self,
        rpcs: &mut RpcTable,
        pool: &mut Pool,
        best: RpcKey,
        shares: Ways<usize>,
    ) -> Option<Decision> {
        let increment = self.limits.fifo_increment;
        let due = increment as u64 * 1000;
        if self.fifo_credits < due {
            return None;
        }
        // What could not be given away for long does not come all at once later.
        self.fifo_credits = self.fifo_credits.min(2 * due);
        // Whose sender does not answer holds no more than this; the others have its share.
        let (key, rest) = self.waiting.by_age().take(MAX_PASSED).find_map(|key| {
            let rpc = rpcs.get(key)?;
            let message = rpc.incoming.as_ref()?;
            let window = self.limits.window(way(rpc), shares);
            let rest = (message.length() - base(message)) as usize;
            (message.outstanding() < window + increment).then_some((key, rest))
        })?;
        if key == best {
            // It has all that it could get.
            self.fifo_credits = 0;
            return None;
        }
        let more = rest.min(increment);
        let decision = self.grant(rpcs, pool, key, more, Share::Oldest)?;
        self.fifo_credits -= more as u64 * (1000 - self.limits.fifo_fraction);
        Some(decision)
    }

    /// Grants `more` bytes, if there is memory for the whole message.
    fn grant(
        &mut self,
        rpcs: &mut RpcTable,
        pool: &mut Pool,
        key: RpcKey,
        more: usize,
        share: Share,
    ) -> Option<Decision> {
        let rpc = rpcs.get_mut(key)?;
        let way = way(rpc);
        let message = rpc.incoming.as_mut()?;
        if more == 0 {
            return None;
        }
        // All of it is reserved before the first grant: messages that hold a part each and
        // wait for the rest would wait for ever.
        let whole = message.reserve(message.length() as usize);
        let missing = whole.saturating_sub(message.charged);
        if !pool.charge(missing, Need::Rest) {
            self.short = true;
            return None;
        }
        message.charged += missing;
        let before = message.outstanding();
        message.grant(base(message) + more as u32);
        let outstanding = &mut self.outstanding[way];
        *outstanding = (*outstanding + message.outstanding()).saturating_sub(before);
        let offset = message.granted();
        // Its place among the active ones is free for another.
        self.changed |= offset == message.length();
        self.rank(key, rpc);
        Some(Decision { key, offset, share })
    }
}

/// Where the next grant begins. A sender rounds up to a packet, and its packets may be longer than
/// all that is granted here: what has come already needs no grant, and one for less would be the
/// last, since nothing would follow it.
fn base(message: &InMessage) -> u32 {
    message.granted().max(message.received())
}

/// How many share what comes by each way: the active messages. But those of one peer share its link,
/// too, where the shortest is best sent in one go.
fn shares(active: &[Rank], rpcs: &RpcTable) -> Ways<usize> {
    let mut peers: Ways<ArrayVec<PeerKey, MAX_ACTIVE>> = Default::default();
    let mut messages = [0; 2];
    for rpc in active.iter().filter_map(|entry| rpcs.get(entry.key)) {
        let way = way(rpc);
        messages[way] += 1;
        if !peers[way].contains(&rpc.peer) {
            peers[way].push(rpc.peer);
        }
    }
    [0, 1].map(|way| {
        if peers[way].len() == 1 {
            1
        } else {
            messages[way]
        }
    })
}

/// Messages that are not fully granted.
///
/// One queue per peer, and an order of the queues by their first entries: so thousands of waiting
/// messages of one peer cost no more than one when the active ones are chosen.
#[derive(Debug, Default)]
struct Waiting {
    peers: FxHashMap<PeerKey, Front<Rank, 2>>,
    /// The first of each peer's queue.
    heads: Front<(Rank, PeerKey), MAX_ACTIVE>,
    by_age: BTreeSet<(u64, RpcKey)>,
}

impl Waiting {
    /// A message of `peer` has moved from `old` to `new`; `None`: it does not wait.
    fn update(&mut self, peer: PeerKey, old: Option<Rank>, new: Option<Rank>) {
        let queue = self.peers.entry(peer).or_default();
        let head_before = queue.first();
        if let Some(old) = old {
            queue.remove(&old);
        }
        if let Some(new) = new {
            queue.insert(new);
        }
        let head = queue.first();
        if head.is_none() {
            self.peers.remove(&peer);
            if self.peers.is_empty() && self.peers.capacity() > 1024 {
                // A flood of peers must not leave its memory behind.
                self.peers.shrink_to(64);
            }
        }
        if head != head_before {
            if let Some(rank) = head_before {
                self.heads.remove(&(rank, peer));
            }
            if let Some(rank) = head {
                self.heads.insert((rank, peer));
            }
        }
        match (old, new) {
            (None, Some(new)) => {
                self.by_age.insert((new.age, new.key));
            }
            (Some(old), None) => {
                self.by_age.remove(&(old.age, old.key));
            }
            _ => {}
        }
    }

    /// The messages to grant to, fewest remaining bytes first: the best of each peer before the
    /// second of any, and so on. This is where the kernel's rules of admission and replacement
    /// lead to: a message competes with those of peers that have as many active ones.
    fn active(&self, most: usize) -> ArrayVec<Rank, MAX_ACTIVE> {
        let most = most.min(MAX_ACTIVE);
        let mut active: ArrayVec<Rank, MAX_ACTIVE> =
            self.heads.iter().take(most).map(|(rank, _)| rank).collect();
        // Heads are in order already.
        if active.len() == most || active.len() == self.by_age.len() {
            return active;
        }
        let mut others: ArrayVec<_, MAX_ACTIVE> = self
            .heads
            .iter()
            .filter_map(|(_, peer)| Some(self.peers.get(&peer)?.iter().skip(1)))
            .collect();
        while active.len() < most {
            let mut next: ArrayVec<Rank, MAX_ACTIVE> =
                others.iter_mut().filter_map(Iterator::next).collect();
            if next.is_empty() {
                break;
            }
            next.sort_unstable();
            active.extend(next.into_iter().take(most - active.len()));
        }
        active.sort_unstable();
        active
    }

    fn by_age(&self) -> impl Iterator<Item = RpcKey> {
        self.by_age.iter().map(|(_, key)| *key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::Random;

    fn rank(remaining: u32, age: u64) -> Rank {
        Rank {
            remaining,
            age,
            key: age as RpcKey,
        }
    }

    fn remaining(active: &[Rank]) -> Vec<u32> {
        active.iter().map(|rank| rank.remaining).collect()
    }

    #[test]
    fn distinct_peers_come_before_a_second_message_of_one() {
        let mut waiting = Waiting::default();
        for age in 0..100 {
            waiting.update(1, None, Some(rank(100 + age as u32, age)));
        }
        assert_eq!(
            remaining(&waiting.active(8)),
            [100, 101, 102, 103, 104, 105, 106, 107]
        );
        waiting.update(2, None, Some(rank(9000, 200)));
        waiting.update(3, None, Some(rank(8000, 201)));
        waiting.update(3, None, Some(rank(50, 202)));
        assert_eq!(
            remaining(&waiting.active(8)),
            [50, 100, 101, 102, 103, 104, 8000, 9000]
        );
        // One place: the best of all. Two: of another peer.
        assert_eq!(remaining(&waiting.active(1)), [50]);
        assert_eq!(remaining(&waiting.active(2)), [50, 100]);
        assert_eq!(remaining(&waiting.active(3)), [50, 100, 9000]);
        for peer in 10..20 {
            waiting.update(peer, None, Some(rank(1000 - peer, 300 + u64::from(peer))));
        }
        assert_eq!(
            remaining(&waiting.active(8)),
            [50, 100, 981, 982, 983, 984, 985, 986]
        );
    }

    /// The kernel's rules (C.9), followed one arrival at a time, lead to the same set.
    #[test]
    fn agrees_with_admission_and_replacement() {
        type Entry = (Rank, PeerKey);
        fn count(active: &[Entry], peer: PeerKey) -> usize {
            active.iter().filter(|(_, of)| *of == peer).count()
        }
        fn admit(active: &mut Vec<Entry>, new: Entry) {
            if active.len() < MAX_ACTIVE {
                return active.push(new);
            }
            let would_have = count(active, new.1) + 1;
            let load = |peer| count(active, peer) + usize::from(peer == new.1);
            let most = active.iter().map(|(_, peer)| load(*peer)).max().unwrap();
            let victim = *active
                .iter()
                .filter(|(_, peer)| load(*peer) == most)
                .max()
                .unwrap();
            if most > would_have || victim.0 > new.0 {
                active.retain(|entry| *entry != victim);
                active.push(new);
            }
        }
        let mut random = Random::new(1);
        for round in 0..300 {
            let mut waiting = Waiting::default();
            let mut all: Vec<Entry> = Vec::new();
            let mut kernel: Vec<Entry> = Vec::new();
            for age in 0..30 {
                let entry = (
                    rank(random.below(50) as u32, age),
                    random.below(1 + round % 12) as PeerKey,
                );
                all.push(entry);
                waiting.update(entry.1, None, Some(entry.0));
                // One that was turned away or replaced is looked at again.
                admit(&mut kernel, entry);
                loop {
                    let before = kernel.clone();
                    for entry in &all {
                        if !kernel.contains(entry) {
                            admit(&mut kernel, *entry);
                        }
                    }
                    if kernel == before {
                        break;
                    }
                }
                let mut expect: Vec<Rank> = kernel.iter().map(|(rank, _)| *rank).collect();
                expect.sort_unstable();
                assert_eq!(waiting.active(8)[..], expect[..], "round {round}, {age}");
            }
        }
    }

    /// With thousands of messages of one peer, a round looks at a few.
    #[test]
    fn entries_leave_nothing_behind() {
        let mut random = Random::new(2);
        let mut waiting = Waiting::default();
        let mut model: Vec<(PeerKey, Rank)> = Vec::new();
        for age in 0..5000 {
            let peer = random.below(40) as PeerKey;
            let new = rank(random.below(1000) as u32, age);
            waiting.update(peer, None, Some(new));
            model.push((peer, new));
            if random.percent(60) {
                let at = random.below(model.len() as u64) as usize;
                let (peer, old) = model[at];
                let moved = Rank {
                    remaining: old.remaining / 2,
                    ..old
                };
                waiting.update(peer, Some(old), Some(moved));
                model[at].1 = moved;
            }
            if random.percent(40) {
                let at = random.below(model.len() as u64) as usize;
                let (peer, old) = model.swap_remove(at);
                waiting.update(peer, Some(old), None);
            }
        }
        let oldest = model.iter().map(|(_, rank)| rank.age).min().unwrap();
        assert_eq!(waiting.by_age().next(), Some(oldest as RpcKey));
        let best = model.iter().map(|(_, rank)| *rank).min().unwrap();
        assert_eq!(waiting.active(8)[0], best);
        for (peer, old) in model {
            waiting.update(peer, Some(old), None);
        }
        assert!(waiting.peers.is_empty() && waiting.heads.is_empty() && waiting.by_age.is_empty());
    }
}
