//! One round of driving an endpoint, by whoever does it: the driver or in its place the keeper, a
//! waiting thread or in its place the background thread.

use std::sync::{Arc, MutexGuard};

use super::company::Company;
use super::endpoint::Endpoint;
use super::link::{Look, Received};
use super::shard::Delivery;
use crate::engine::{Datagram, DropReason, Time};

/// Turns with something left in the sockets, after which timers run all the same.
const MAX_BUSY_TURNS: u32 = 64;

/// What the receiving thread carries from turn to turn.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    datagrams: Vec<Datagram>,
    /// The same, by shard; empty if there is only one.
    sorted: Vec<Vec<Datagram>>,
    /// To ports that are not open here.
    refused: Vec<Datagram>,
    /// Turns in a row that left something in the sockets.
    busy_turns: u32,
}

/// When the turn after this one comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Once the tasks that are ready have run, if there is [more](Turn::more) to do.
    Soon,
    /// Nobody knows.
    Unknown,
}

/// What a turn led to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// There is more to do at once.
    pub(super) more: bool,
    /// Somebody was woken.
    pub(super) delivered: bool,
    /// Somebody was woken who should not wait for more turns.
    pub(super) urgent: bool,
    /// What some send now waits for the next turn: there is more to do.
    pub(super) awaited: bool,
    /// Something was received, or a deadline had passed.
    pub(super) active: bool,
    /// When it was.
    pub(super) now: Time,
}

impl Endpoint {
    /// One round: short messages first, then one piece of the long ones, then what they lead to.
    /// `deliveries` is empty before and after.
    pub(super) fn turn(
        self: &Arc<Self>,
        mut receiving: MutexGuard<'_, Receiving>,
        look: Look,
        next: Next,
        deliveries: &mut Vec<Delivery>,
    ) -> Turn {
        let Receiving {
            datagrams,
            sorted,
            refused,
            busy_turns,
        } = &mut *receiving;
        let Received {
            truncated,
            more,
            errors_queued,
        } = self.link.recv_main(look, datagrams);
        let bulk = self.link.recv_bulk(look, datagrams);
        self.capture_received(datagrams);
        let received = !datagrams.is_empty() || truncated > 0;
        let drained = !more && !bulk;
        *busy_turns = if drained { 0 } else { *busy_turns + 1 };
        // What waits in the sockets is not silence; but a flood must not stop the clock.
        let timers = drained || *busy_turns > MAX_BUSY_TURNS;

        if errors_queued {
            self.drain_errors();
        }
        let refuses = self.link.answers_closed_ports();
        let mut live = false;
        let mut overdue = false;
        let mut awaited = false;
        self.sort(datagrams, sorted);
        let mut now = Time::ZERO;
        for (index, shard) in self.shards.iter().enumerate() {
            let mut state = shard.lock();
            // With the lock: for an engine, time does not go back.
            now = self.clock.now();
            let released = shard.take_released();
            if released > 0 {
                state.engine.release(released);
            }
            if index == 0 {
                (0..truncated).for_each(|_| state.engine.count_truncated());
            }
            let datagrams = sorted.get_mut(index).unwrap_or(&mut *datagrams);
            for datagram in datagrams.drain(..) {
                let kept = refuses.then(|| datagram.clone());
                let dropped = state.engine.handle_datagram(now, datagram);
                refused.extend(kept.filter(|_| dropped == Some(DropReason::Port)));
            }
            state.release_due(now);
            overdue |= state.is_overdue(now);
            let before = deliveries.len();
            self.collect(now, index, &mut state, deliveries);
            let woken = &deliveries[before..];
            let woken = woken.iter().filter(|woken| woken.is_urgent()).count();
            let company = Company::of(woken, now).filter(|_| next == Next::Soon);
            awaited |= company.is_some();
            state.company = company;
            live |= state.engine.live_rpcs() > 0;
        }
        if overdue && timers {
            self.handle_timeouts(deliveries);
        }
        for datagram in refused.drain(..) {
            self.link.refuse_port(now, &datagram);
        }
        drop(receiving);
        if self.has_drained() {
            deliveries.push(Delivery::Drained);
        }
        if live {
            self.wake_keeper();
        }

        // Without any lock: it runs whatever the application has registered to be woken.
        let delivered = !deliveries.is_empty();
        let urgent = deliveries.iter().any(Delivery::is_urgent);
        self.deliver(deliveries);
        let active = received || overdue || delivered;
        if active {
            self.stay_awake(now);
        }
        Turn {
            more: self.transmit_batches() || !drained || awaited,
            delivered,
            urgent,
            awaited,
            active,
            now,
        }
    }

    /// Moves the datagrams to those of their shards; a single one takes them as they are.
    fn sort(&self, datagrams: &mut Vec<Datagram>, sorted: &mut Vec<Vec<Datagram>>) {
        if self.shards.len() == 1 {
            return;
        }
        sorted.resize_with(self.shards.len(), Vec::new);
        for datagram in datagrams.drain(..) {
            sorted[self.shard_of(datagram.from)].push(datagram);
        }
    }

    fn handle_timeouts(self: &Arc<Self>, deliveries: &mut Vec<Delivery>) {
        // A peer that the network says is gone has not merely been silent.
        self.drain_errors();
        for (index, shard) in self.shards.iter().enumerate() {
            let mut state = shard.lock();
            let now = self.clock.now();
            if state.is_overdue(now) {
                state.engine.handle_timeout(now);
            }
            self.collect(now, index, &mut state, deliveries);
        }
    }

    /// Not to be called with a shard's lock.
    pub(super) fn drain_errors(&self) {
        let mut refused = Vec::new();
        self.link.drain_errors(&mut refused);
        self.refuse(refused);
    }

    /// Hands over what was collected; wakes callers, so not under a lock.
    fn deliver(&self, deliveries: &mut Vec<Delivery>) {
        for delivery in deliveries.drain(..) {
            match delivery {
                // A caller that is gone meanwhile has dropped its end.
                Delivery::Outcome(sender, outcome) => drop(sender.send(outcome)),
                Delivery::Then(then, outcome) => then(outcome),
                Delivery::Request(request) => self.accepts.push(request),
                Delivery::Drained => self.drained.notify_waiters(),
            }
        }
    }
}
