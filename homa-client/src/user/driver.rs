//! The driver: receives, keeps time, and sends what callers could not send themselves.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

use super::endpoint::{Delivery, Endpoint, LINGER, State};
use super::link::{Look, Received};
use crate::engine::{Datagram, DropReason};

/// Sleeps are planned this far ahead when the engine has no deadline.
const IDLE: std::time::Duration = std::time::Duration::from_secs(3600);

/// Turns with something left in the sockets, after which timers run all the same.
const MAX_BUSY_TURNS: u32 = 64;

/// Turns in a row without letting other tasks run. Each moves up to 64 KB in and out; yielding
/// after each would have the driver wander from thread to thread.
const MAX_TURNS: u32 = 8;

/// Runs until the last handle is gone and what is owed to others is done.
pub(super) async fn drive(closer: Closer) {
    let endpoint = &closer.0;
    let mut driver = Driver {
        busy_turns: 0,
        endpoint,
        datagrams: Vec::new(),
        refused: Vec::new(),
        deliveries: Vec::new(),
    };
    let mut sleep = pin!(sleep_until((Instant::now() + IDLE).into()));
    let mut nudged = pin!(endpoint.nudge.notified());
    let mut end = None;
    loop {
        let mut look = Look::Polled;
        let mut turns = 0;
        let more = loop {
            turns += 1;
            let Turn { more, delivered } = driver.turn(look);
            // Whoever was woken may wait for this very thread.
            if !more || delivered || turns == MAX_TURNS {
                break more;
            }
            // While this goes on the runtime does not poll.
            look = Look::Now;
        };
        if more {
            tokio::task::yield_now().await;
            continue;
        }
        if endpoint.is_closing() {
            if endpoint.owes_nothing() {
                return;
            }
            let end = *end.get_or_insert_with(|| Instant::now() + LINGER);
            if Instant::now() >= end {
                return;
            }
        }
        driver.plan_sleep(sleep.as_mut(), end);
        let stalled = driver.stalled();
        poll_fn(|cx| {
            if nudged.as_mut().poll(cx).is_ready() {
                nudged.set(endpoint.nudge.notified());
                return Poll::Ready(());
            }
            let link = &endpoint.link;
            if link.poll_recv_ready(cx)
                || (stalled && link.poll_send_ready(cx))
                || sleep.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
        endpoint.sleep_until.store(0, Ordering::Release);
    }
}

/// Closes the endpoint when its driver ends, also because its runtime does, even before the first
/// turn.
pub(super) struct Closer(Arc<Endpoint>);

impl Closer {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self(endpoint)
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct Driver<'a> {
    endpoint: &'a Arc<Endpoint>,
    /// Turns in a row that left something in the sockets.
    busy_turns: u32,
    /// Used again from turn to turn.
    datagrams: Vec<Datagram>,
    /// To ports that are not open here.
    refused: Vec<Datagram>,
    deliveries: Vec<Delivery>,
}

/// What a turn led to.
struct Turn {
    /// There is more to do at once.
    more: bool,
    /// Somebody was woken.
    delivered: bool,
}

impl Driver<'_> {
    /// One round: short messages first, then one piece of the long ones, then what they lead to.
    fn turn(&mut self, look: Look) -> Turn {
        let endpoint = self.endpoint;
        let Received {
            truncated,
            more,
            errors_queued,
        } = endpoint.link.recv_main(look, &mut self.datagrams);
        let bulk = endpoint.link.recv_bulk(look, &mut self.datagrams);
        endpoint.capture_received(&self.datagrams);
        let drained = !more && !bulk;
        self.busy_turns = if drained { 0 } else { self.busy_turns + 1 };

        let refuses = endpoint.link.answers_closed_ports();
        let mut state = endpoint.lock();
        let now = endpoint.clock.now();
        let released = endpoint.take_released();
        if released > 0 {
            state.engine.release(released);
        }
        for _ in 0..truncated {
            state.engine.count_truncated();
        }
        for datagram in self.datagrams.drain(..) {
            let kept = refuses.then(|| datagram.clone());
            let dropped = state.engine.handle_datagram(now, datagram);
            self.refused
                .extend(kept.filter(|_| dropped == Some(DropReason::Port)));
        }
        if errors_queued {
            self.drain_errors(&mut state);
        }
        // What waits in the sockets is not silence; but a flood must not stop the clock.
        if (drained || self.busy_turns > MAX_BUSY_TURNS)
            && state
                .engine
                .poll_timeout(now)
                .is_some_and(|(at, _)| at <= now)
        {
            self.drain_errors(&mut state);
            state.engine.handle_timeout(now);
        }
        endpoint.collect(&mut state, &mut self.deliveries);
        drop(state);

        for datagram in self.refused.drain(..) {
            endpoint.link.refuse_port(now, &datagram);
        }
        let delivered = !self.deliveries.is_empty();
        endpoint.deliver(&mut self.deliveries);
        let more = endpoint.transmit_batch() || !drained;
        Turn { more, delivered }
    }

    fn drain_errors(&self, state: &mut State) {
        let mut refused = Vec::new();
        self.endpoint.link.drain_errors(&mut refused);
        self.endpoint.refuse(state, refused);
    }

    fn stalled(&self) -> bool {
        !self.endpoint.lock().stalled.is_empty()
    }

    /// Sets the timer to the engine's next deadline.
    fn plan_sleep(&self, mut sleep: std::pin::Pin<&mut Sleep>, end: Option<Instant>) {
        let endpoint = self.endpoint;
        // Under the lock, so that a call that is started meanwhile knows whether to nudge.
        let state = endpoint.lock();
        let next = state.next_wake(endpoint.clock.now());
        let mut until = match next {
            Some(at) => endpoint.clock.instant(at),
            None => Instant::now() + IDLE,
        };
        if let Some(end) = end {
            until = until.min(end);
        }
        // A timer that comes early only finds nothing to do, and moving it has a price.
        let planned = sleep.deadline().into_std();
        if planned > until || sleep.is_elapsed() {
            sleep.as_mut().reset(until.into());
        }
        let wakes = sleep.deadline().into_std();
        endpoint
            .sleep_until
            .store(endpoint.clock.nanos(wakes), Ordering::Release);
    }
}
