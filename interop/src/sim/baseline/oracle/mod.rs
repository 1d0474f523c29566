//! [`Oracle`]: an ideal shortest-remaining-processing-time scheduler.
//!
//! It knows all messages of all hosts at once and decides without delay. Whenever a message starts
//! or finishes, it goes through all of them, those with the least left to send first, and serves
//! each whose source's uplink and destination's downlink are both still free: at the full speed of
//! the links, until another takes its place. There are no packets: a message can be stopped
//! between any two bits, and costs nothing then. The links between the switches are never full.
//!
//! A message ends when it has been served, and the delays that it has anyway are added: its
//! duration is what it would be if it were alone, plus the time that it has not been served.
//!
//! This is the model of the authors' script (`GreedySRPTOracleScheduler.py` in
//! PlatformLab/HomaSimulation, commit `ab09ecb`), whose results were published with SIGCOMM'18's.
//! One thing is left out: the script rounds what is sent between two events to whole bytes, and
//! takes a message whose share rounds to nothing for interrupted, so that the rest of its packet
//! need not wait until a switch has all of it. With short messages and 144 hosts, events are so
//! near to each other that this shortens nearly every message: the published median of W1's
//! messages of 2 bytes is 0.966 times what they take alone.
//!
//! At 80 % load the 99th percentiles of W3 and W4 come within 7 % of the published ones in every
//! decile, those of W5 within 8 % in all but the last, whose few messages differ by more from one
//! stretch of time to the next. In W1 and W2, where the above counts, they are 2 to 19 % higher in
//! all deciles but W2's last two, which are 2 and 13 % lower.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::iter::repeat_with;

use slab::Slab;

use crate::sim::node::{HostId, MessageId};
use crate::sim::setup::Mode;
use crate::sim::time::{Instant, Span};

pub(crate) mod run;
#[cfg(test)]
mod tests;

/// Messages that may wait at once, over all hosts: about 200 MB of them. At 80 % load, 144 hosts
/// have 800 at most.
const MAX_WAITING: usize = 1 << 20;

/// A message as the oracle sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) message: MessageId,
    pub(crate) from: HostId,
    /// Another host than `from`.
    pub(crate) to: HostId,
    /// Its length, at least 1. What is left of it decides who is first.
    pub(crate) bytes: u64,
    /// Time that all its packets take on a host's link, more than 0. Its bytes spread evenly over
    /// it.
    pub(crate) occupies: Span,
    /// From start to end if nothing else is in the network.
    pub(crate) alone: Span,
}

/// A message that has been served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finish {
    pub(crate) message: MessageId,
    /// When it is complete at its receiver (in echo mode: its response at the client). It may be
    /// later than the moment at which this is reported.
    pub(crate) at: Instant,
}

/// The scheduler of a whole network.
#[derive(Debug)]
pub(crate) struct Oracle {
    mode: Mode,
    active: Slab<Active>,
    /// The hosts' uplinks, then their downlinks.
    ends: Vec<End>,
    /// What waits, by its two hosts: from `from` to `to` at `from * hosts + to`.
    pairs: Vec<BinaryHeap<Reverse<(Rank, usize)>>>,
    /// When the served messages will have been served. Entries of messages that were stopped since
    /// then stay, and are passed over: see [`Oracle::is_due`].
    due: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    /// Responses that will start, by time and place in `waiting_responses`.
    responses: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    waiting_responses: Slab<Job>,
    next_sequence: u64,
    max_waiting: usize,
    services: u64,
    served: Span,
}

/// A message that has not been served to its end.
#[derive(Debug)]
struct Active {
    job: Job,
    is_response: bool,
    started: Instant,
    /// Uplink and downlink, as places in `Oracle::ends`.
    ends: [usize; 2],
    served_since: Option<Instant>,
    /// Time that it still needs on the link, as of `served_since` if that is set.
    remaining: Span,
    /// As of the same moment.
    rank: Rank,
}

/// Who goes first: who has least left to send; of equals, who started first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// In parts of a byte, [`PARTS`] each.
    remaining: u64,
    sequence: u64,
}

/// Parts of a byte in a rank: enough that the order of two messages does not come from rounding,
/// and few enough for lengths up to 2^44 bytes.
const PARTS: u64 = 1 << 20;

/// An uplink or a downlink of a host.
#[derive(Debug, Default)]
struct End {
    serving: Option<usize>,
    /// The first of each pair that waits for this end. Those behind it need the same two ends and
    /// cannot be served before it, so that nobody has to go through all that wait.
    first: BTreeMap<Rank, usize>,
}

impl Oracle {
    pub(crate) fn new(hosts: u32, mode: Mode) -> Self {
        Self {
            mode,
            active: Slab::new(),
            ends: repeat_with(End::default).take(2 * hosts as usize).collect(),
            pairs: vec![BinaryHeap::new(); (hosts as usize).pow(2)],
            due: BinaryHeap::new(),
            responses: BinaryHeap::new(),
            waiting_responses: Slab::new(),
            next_sequence: 0,
            max_waiting: MAX_WAITING,
            services: 0,
            served: Span::ZERO,
        }
    }

    /// A message starts at `now`, up to which time has been [advanced](Self::advance). `Err`: more
    /// than a million wait already, and the run is an overload.
    pub(crate) fn start(&mut self, now: Instant, job: Job) -> Result<(), &'static str> {
        if self.active.len() + self.waiting_responses.len() >= self.max_waiting {
            return Err("the oracle's table of messages");
        }
        self.add(now, job, false);
        Ok(())
    }

    /// When something changes next, if no message starts before.
    pub(crate) fn next_event(&mut self) -> Option<Instant> {
        while let Some(&Reverse((at, sequence, slot))) = self.due.peek()
            && !self.is_due(at, sequence, slot)
        {
            self.due.pop();
        }
        let served = self.due.peek().map(|&Reverse((at, ..))| at);
        let response = self.responses.peek().map(|&Reverse((at, ..))| at);
        match (served, response) {
            (Some(served), Some(response)) => Some(served.min(response)),
            (one, other) => one.or(other),
        }
    }

    /// Lets time pass until `now`, and says which messages have been served by then.
    pub(crate) fn advance(&mut self, now: Instant, finished: &mut Vec<Finish>) {
        while let Some(at) = self.next_event().filter(|&at| at <= now) {
            // What ends makes room before what starts at the same moment looks for it.
            if let Some(&Reverse((due, _, slot))) = self.due.peek()
                && due == at
            {
                self.due.pop();
                self.end(at, slot, finished);
            } else if let Some(Reverse((_, _, place))) = self.responses.pop() {
                let response = self.waiting_responses.remove(place);
                self.add(at, response, true);
            }
        }
    }

    /// How often a message was begun to be served, or served on after it was stopped.
    pub(crate) fn services(&self) -> u64 {
        self.services
    }

    /// Time on the link of all messages that have been served to their end.
    pub(crate) fn served(&self) -> Span {
        self.served
    }

    fn add(&mut self, now: Instant, job: Job, is_response: bool) {
        let hosts = self.ends.len() / 2;
        let ends = [job.from as usize, hosts + job.to as usize];
        let sequence = self.next_sequence();
        let rank = Rank {
            remaining: job.bytes * PARTS,
            sequence,
        };
        let slot = self.active.insert(Active {
            job,
            is_response,
            started: now,
            ends,
            served_since: None,
            remaining: job.occupies,
            rank,
        });
        if ends.iter().all(|&end| self.would_yield(now, end, rank)) {
            let mut free = Vec::new();
            self.serve(now, slot, &mut free);
            self.fill(now, free);
        } else {
            self.wait(slot);
        }
    }

    /// A message has been served to its end.
    fn end(&mut self, now: Instant, slot: usize, finished: &mut Vec<Finish>) {
        let Active {
            job,
            is_response,
            started,
            ends,
            ..
        } = self.active.remove(slot);
        for end in ends {
            self.ends[end].serving = None;
        }
        self.fill(now, ends.to_vec());

        self.served = self.served + job.occupies;
        let not_served = now.since(started) - job.occupies;
        let at = started + not_served + job.alone;
        if self.mode == Mode::Echo && !is_response {
            let response = Job {
                from: job.to,
                to: job.from,
                ..job
            };
            let place = self.waiting_responses.insert(response);
            let sequence = self.next_sequence();
            // A message alone can be quicker than its bytes on the link, by a formula that leaves
            // headers out.
            self.responses.push(Reverse((at.max(now), sequence, place)));
        } else {
            finished.push(Finish {
                message: job.message,
                at,
            });
        }
    }

    /// Gives free ends to those that wait for them.
    ///
    /// Whoever waits does so because one of its ends serves a message that goes before it. So only
    /// messages at an end that has become free can be served now; the first of them may stop one
    /// that goes after it, whose other end becomes free in turn, and so on, always to later ones.
    fn fill(&mut self, now: Instant, mut free: Vec<usize>) {
        loop {
            free.retain(|&end| self.ends[end].serving.is_none());
            let first = free
                .iter()
                .filter_map(|&end| self.first_servable(now, end))
                .min();
            let Some((_, slot)) = first else { return };
            self.stop_waiting(slot);
            self.serve(now, slot, &mut free);
        }
    }

    /// The first that waits for `end` and whose other end would yield to it.
    fn first_servable(&self, now: Instant, end: usize) -> Option<(Rank, usize)> {
        self.ends[end].first.iter().find_map(|(&rank, &slot)| {
            let [up, down] = self.active[slot].ends;
            let other = if up == end { down } else { up };
            self.would_yield(now, other, rank).then_some((rank, slot))
        })
    }

    /// Whether an end is free, or serves a message that goes after one of this rank.
    fn would_yield(&self, now: Instant, end: usize, to: Rank) -> bool {
        self.ends[end].serving.is_none_or(|slot| {
            let served = &self.active[slot];
            // It goes earlier and earlier while it is served: the cheap look first.
            to < served.rank && to < served.now(now).1
        })
    }

    /// Serves a message that waits nowhere; whatever its ends serve is stopped, and the ends that
    /// become free by that are added to `free`.
    fn serve(&mut self, now: Instant, slot: usize, free: &mut Vec<usize>) {
        let ends = self.active[slot].ends;
        for end in ends {
            if let Some(stopped) = self.ends[end].serving {
                let active = &mut self.active[stopped];
                (active.remaining, active.rank) = active.now(now);
                active.served_since = None;
                for its_end in active.ends {
                    self.ends[its_end].serving = None;
                    free.push(its_end);
                }
                self.wait(stopped);
            }
        }
        for end in ends {
            self.ends[end].serving = Some(slot);
        }
        let active = &mut self.active[slot];
        active.served_since = Some(now);
        let due = now + active.remaining;
        self.services += 1;
        self.due.push(Reverse((due, active.rank.sequence, slot)));
    }

    fn wait(&mut self, slot: usize) {
        let Active { ends, rank, .. } = self.active[slot];
        let pair = self.pair(slot);
        let first = self.pairs[pair].peek().map(|&Reverse((first, _))| first);
        if first.is_none_or(|first| rank < first) {
            for end in ends {
                let firsts = &mut self.ends[end].first;
                first.and_then(|first| firsts.remove(&first));
                firsts.insert(rank, slot);
            }
        }
        self.pairs[pair].push(Reverse((rank, slot)));
    }

    /// The first of its pair waits no longer.
    fn stop_waiting(&mut self, slot: usize) {
        let Active { ends, rank, .. } = self.active[slot];
        let pair = self.pair(slot);
        self.pairs[pair].pop();
        let next = self.pairs[pair].peek();
        for end in ends {
            let firsts = &mut self.ends[end].first;
            firsts.remove(&rank);
            firsts.extend(next.map(|&Reverse(next)| next));
        }
    }

    /// Where those of the same two hosts wait.
    fn pair(&self, slot: usize) -> usize {
        let hosts = self.ends.len() / 2;
        let Job { from, to, .. } = self.active[slot].job;
        from as usize * hosts + to as usize
    }

    /// Whether an entry of `due` still holds: its message has not been stopped since.
    fn is_due(&self, at: Instant, sequence: u64, slot: usize) -> bool {
        self.active.get(slot).is_some_and(|active| {
            active.rank.sequence == sequence
                && active
                    .served_since
                    .is_some_and(|since| since + active.remaining == at)
        })
    }

    fn next_sequence(&mut self) -> u64 {
        self.next_sequence += 1;
        self.next_sequence
    }
}

impl Active {
    /// What remains at `now`: time on the link, and rank.
    fn now(&self, now: Instant) -> (Span, Rank) {
        let Some(since) = self.served_since else {
            return (self.remaining, self.rank);
        };
        let remaining = self.remaining - now.since(since);
        let parts = u128::from(self.job.bytes * PARTS) * u128::from(remaining.as_picos())
            / u128::from(self.job.occupies.as_picos());
        let rank = Rank {
            remaining: parts as u64,
            ..self.rank
        };
        (remaining, rank)
    }
}
