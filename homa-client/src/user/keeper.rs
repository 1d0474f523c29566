//! The keeper: a thread that drives endpoints whose own driver is kept from running.
//!
//! A driver is a task of the application's runtime. Where a handler blocks the runtime's only
//! thread, the endpoint would be silent, and after a second its peers would give up on it. So one
//! thread per process looks every 20 ms at the endpoints that have live RPCs, and does a turn in
//! place of each driver that has not run since it looked last. It sleeps while there are no RPCs.
//! Blocking endpoints have the background thread instead.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError, Weak};
use std::time::Duration;

use super::endpoint::{Endpoint, lock};
use super::link::Look;
use super::shard::{Delivery, Shard};
use super::turn::Next;

/// A driver that has not run for this long may be kept from it.
const PATIENCE: Duration = Duration::from_millis(20);

/// Between two rounds if the last one found something that a driver had not done.
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// Rounds without a live RPC, after which the thread sleeps until there is one.
const IDLE_ROUNDS: u32 = 50;

/// Turns for one endpoint in a round: others wait.
const MAX_TURNS: u32 = 64;

static KEEPER: Keeper = Keeper::new();

struct Keeper {
    /// Whether the thread goes its rounds. Changes with `watched` locked.
    awake: AtomicBool,
    watched: Mutex<Watched>,
    wake: Condvar,
}

struct Watched {
    endpoints: Vec<Weak<Endpoint>>,
    /// Whether there is a thread.
    running: bool,
}

/// Held by the thread. Turns wake what the application has registered, and that may panic: then
/// the next RPC starts another thread.
struct Running<'a>(&'a Keeper);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut watched = lock(&self.0.watched);
        watched.running = false;
        self.0.awake.store(false, Ordering::Release);
    }
}

/// Looks after this endpoint from now on.
pub(super) fn watch(endpoint: &Arc<Endpoint>) {
    let mut watched = lock(&KEEPER.watched);
    watched
        .endpoints
        .retain(|endpoint| endpoint.strong_count() > 0);
    watched.endpoints.push(Arc::downgrade(endpoint));
}

/// Has the thread go its rounds; to be called when an RPC has become live, after the endpoint was
/// locked for that. Costs one load while the thread is awake.
pub(super) fn wake() {
    // The keeper clears this before it locks each endpoint a last time to look for RPCs. So it
    // sees the RPC, or this sees that it is about to sleep.
    if !KEEPER.awake.load(Ordering::Acquire) {
        KEEPER.start();
    }
}

impl Keeper {
    const fn new() -> Self {
        Self {
            awake: AtomicBool::new(false),
            watched: Mutex::new(Watched {
                endpoints: Vec::new(),
                running: false,
            }),
            wake: Condvar::new(),
        }
    }

    #[cold]
    fn start(&'static self) {
        let mut watched = lock(&self.watched);
        if !watched.running {
            let thread = std::thread::Builder::new().name("homa-keeper".into());
            match thread.spawn(|| self.run()) {
                Ok(_) => watched.running = true,
                // The next RPC tries again; until then handlers must not block.
                Err(error) => return tracing::warn!(%error, "no thread for the keeper"),
            }
        }
        self.awake.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    fn run(&self) {
        let _running = Running(self);
        let mut deliveries = Vec::new();
        let mut idle_rounds = 0;
        loop {
            let Round { live, active } = self.round(&mut deliveries);
            idle_rounds = if live { 0 } else { idle_rounds + 1 };
            if idle_rounds < IDLE_ROUNDS {
                std::thread::sleep(if active { BUSY_PAUSE } else { PATIENCE });
                continue;
            }
            idle_rounds = 0;
            let mut watched = lock(&self.watched);
            self.awake.store(false, Ordering::Release);
            let live = |endpoint: &Weak<Endpoint>| {
                endpoint
                    .upgrade()
                    .is_some_and(|endpoint| endpoint.is_live())
            };
            if watched.endpoints.iter().any(live) {
                self.awake.store(true, Ordering::Release);
            }
            while !self.awake.load(Ordering::Acquire) {
                watched = self
                    .wake
                    .wait(watched)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn round(&self, deliveries: &mut Vec<Delivery>) -> Round {
        let endpoints = lock(&self.watched).endpoints.clone();
        let mut round = Round::default();
        for endpoint in endpoints {
            // One at a time: whoever closes an endpoint wants its port to be free then.
            let Some(endpoint) = endpoint.upgrade() else {
                continue;
            };
            if endpoint.is_driven() {
                round.live = true;
            } else if endpoint.is_live() {
                round.live = true;
                round.active |= endpoint.keep(deliveries);
            }
        }
        round
    }
}

/// What a round has found.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    /// Some endpoint has live RPCs, as far as was looked.
    live: bool,
    /// Some endpoint needed driving.
    active: bool,
}

impl Endpoint {
    /// Whether the driver has run lately.
    fn is_driven(&self) -> bool {
        let since = self.driven.load(Ordering::Acquire) + PATIENCE.as_nanos() as u64;
        self.clock.now().as_nanos() < since
    }

    fn is_live(&self) -> bool {
        self.shards
            .iter()
            .any(|shard| shard.lock().engine.live_rpcs() > 0)
    }

    fn is_stalled(&self) -> bool {
        let stalled = |shard: &Shard| !shard.lock().stalled.is_empty();
        self.shards.iter().any(stalled)
    }

    /// Does what its driver should have done. Returns whether there was anything.
    fn keep(self: &Arc<Self>, deliveries: &mut Vec<Delivery>) -> bool {
        let mut active = false;
        for _ in 0..MAX_TURNS {
            let receiving = match self.receiving.try_lock() {
                Ok(receiving) => receiving,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                // The driver is at it.
                Err(TryLockError::WouldBlock) => break,
            };
            let turn = self.turn(receiving, Look::Now, Next::Unknown, deliveries);
            // There is more also if something was sent for a caller, who told nobody.
            active |= turn.active || turn.more;
            if !turn.more {
                break;
            }
        }
        active |= self.is_stalled();
        if active {
            // It may sleep too long for what has happened, and not wait for room to send.
            self.nudge();
        }
        active
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::pin::pin;

    use super::*;
    use crate::config::Config;
    use crate::user::endpoint::Role;

    fn is_nudged(endpoint: &Endpoint) -> bool {
        pin!(endpoint.nudged.notified()).enable()
    }

    #[test]
    fn the_driver_hears_of_what_was_sent_in_its_place() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let endpoint = Endpoint::open(any, &Config::default(), Role::Client, None).unwrap();
        let endpoint = Arc::new(endpoint);
        let silent = std::net::UdpSocket::bind(any).unwrap();
        assert!(!endpoint.keep(&mut Vec::new()) && !is_nudged(&endpoint));

        // As if a caller had left it to the keeper, being at it.
        let to = silent.local_addr().unwrap();
        let mut state = endpoint.shards[0].lock();
        let (now, message) = (endpoint.clock.now(), "hello".into());
        let sent = state
            .engine
            .send_request(now, endpoint.port, to, to.port(), message, 0);
        sent.unwrap();
        state.missed = true;
        drop(state);
        assert!(!is_nudged(&endpoint));

        assert!(endpoint.keep(&mut Vec::new()) && is_nudged(&endpoint));
        assert_eq!(endpoint.counters().packets_sent, 1);
    }

    #[test]
    fn another_thread_can_follow_one_that_has_panicked() {
        static BROKEN: Keeper = Keeper::new();
        lock(&BROKEN.watched).running = true;
        BROKEN.awake.store(true, Ordering::Release);
        let thread = std::thread::spawn(|| {
            let _running = Running(&BROKEN);
            panic!("as a waker of the application may");
        });
        thread.join().unwrap_err();
        assert!(!lock(&BROKEN.watched).running);
        assert!(!BROKEN.awake.load(Ordering::Acquire));
    }
}
