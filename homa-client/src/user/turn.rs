//! One round of driving an endpoint, by whoever does it: the driver, or in its place the keeper.

use std::sync::{Arc, MutexGuard};

use super::endpoint::{Delivery, Endpoint, State};
use super::keeper;
use super::link::{Look, Received};
use crate::engine::{Datagram, DropReason};

/// Turns with something left in the sockets, after which timers run all the same.
const MAX_BUSY_TURNS: u32 = 64;

/// What the receiving thread carries from turn to turn.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    datagrams: Vec<Datagram>,
    /// To ports that are not open here.
    refused: Vec<Datagram>,
    /// Turns in a row that left something in the sockets.
    busy_turns: u32,
}

/// What a turn led to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// There is more to do at once.
    pub(super) more: bool,
    /// Somebody was woken.
    pub(super) delivered: bool,
    /// Something was received, or a deadline had passed.
    pub(super) active: bool,
}

impl Endpoint {
    /// One round: short messages first, then one piece of the long ones, then what they lead to.
    /// `deliveries` is empty before and after.
    pub(super) fn turn(
        self: &Arc<Self>,
        mut receiving: MutexGuard<'_, Receiving>,
        look: Look,
        deliveries: &mut Vec<Delivery>,
    ) -> Turn {
        let Receiving {
            datagrams,
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

        let refuses = self.link.answers_closed_ports();
        let mut state = self.lock();
        let now = self.clock.now();
        let released = self.take_released();
        if released > 0 {
            state.engine.release(released);
        }
        for _ in 0..truncated {
            state.engine.count_truncated();
        }
        for datagram in datagrams.drain(..) {
            let kept = refuses.then(|| datagram.clone());
            let dropped = state.engine.handle_datagram(now, datagram);
            refused.extend(kept.filter(|_| dropped == Some(DropReason::Port)));
        }
        if errors_queued {
            self.drain_errors(&mut state);
        }
        let overdue = state
            .engine
            .poll_timeout(now)
            .is_some_and(|(at, _)| at <= now);
        // What waits in the sockets is not silence; but a flood must not stop the clock.
        if overdue && (drained || *busy_turns > MAX_BUSY_TURNS) {
            self.drain_errors(&mut state);
            state.engine.handle_timeout(now);
        }
        self.collect(&mut state, deliveries);
        if state.engine.live_rpcs() > 0 {
            keeper::wake();
        }
        drop(state);
        for datagram in refused.drain(..) {
            self.link.refuse_port(now, &datagram);
        }
        drop(receiving);

        // Without any lock: it runs whatever the application has registered to be woken.
        let delivered = !deliveries.is_empty();
        self.deliver(deliveries);
        Turn {
            more: self.transmit_batch() || !drained,
            delivered,
            active: received || overdue || delivered,
        }
    }

    fn drain_errors(&self, state: &mut State) {
        let mut refused = Vec::new();
        self.link.drain_errors(&mut refused);
        self.refuse(state, refused);
    }
}
