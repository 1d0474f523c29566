//! The driver: receives, keeps time, and sends what callers could not send themselves.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

use super::endpoint::{AWAKE, Endpoint, LINGER, lock};
use super::link::Look;
use super::pace::PaceTimer;
use super::shard::Delivery;
use super::turn::Turn;
use crate::engine::Wake;

/// Sleeps are planned this far ahead when the engine has no deadline.
const IDLE: Duration = Duration::from_secs(3600);

/// Sleeps of the pacer that are shorter have a timer of their own.
const SHORT: Duration = Duration::from_millis(1);

/// Turns in a row without letting other tasks run. Each moves up to 64 KB in and out; yielding
/// after each would have the driver wander from thread to thread.
const MAX_TURNS: u32 = 8;

/// Runs until the last handle is gone and what is owed to others is done.
pub(super) async fn drive(closer: Closer) {
    let endpoint = &closer.0;
    let mut driver = Driver {
        endpoint,
        deliveries: Vec::new(),
        pace: None,
    };
    let mut sleep = pin!(sleep_until((Instant::now() + IDLE).into()));
    let mut nudged = pin!(endpoint.nudge.notified());
    let mut refused = pin!(endpoint.link.errors());
    let mut end = None;
    loop {
        let mut look = Look::Polled;
        let mut turns = 0;
        let more = loop {
            turns += 1;
            let Turn {
                more, delivered, ..
            } = driver.turn(look);
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
        let stalled = driver.stalled();
        let paced = driver.plan_sleep(sleep.as_mut(), end);
        poll_fn(|cx| {
            if nudged.as_mut().poll(cx).is_ready() {
                nudged.set(endpoint.nudge.notified());
                return Poll::Ready(());
            }
            if refused.as_mut().poll(cx).is_ready() {
                refused.set(endpoint.link.errors());
                endpoint.drain_errors();
                return Poll::Ready(());
            }
            let link = &endpoint.link;
            if link.poll_recv_ready(cx)
                || (stalled && link.poll_send_ready(cx))
                || sleep.as_mut().poll(cx).is_ready()
                || paced.is_some_and(|timer| timer.poll_expired(cx))
            {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
        endpoint.sleep_until.store(AWAKE, Ordering::Release);
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
    /// Used again from turn to turn.
    deliveries: Vec<Delivery>,
    /// For short sleeps; made when the first is wanted, `Err` if that failed.
    pace: Option<Result<PaceTimer, ()>>,
}

impl Driver<'_> {
    fn turn(&mut self, look: Look) -> Turn {
        let endpoint = self.endpoint;
        // The keeper holds it for one turn at most.
        let turn = endpoint.turn(lock(&endpoint.receiving), look, &mut self.deliveries);
        let now = endpoint.clock.now().as_nanos();
        endpoint.driven.store(now, Ordering::Release);
        turn
    }

    fn stalled(&self) -> bool {
        let mut shards = self.endpoint.shards.iter();
        shards.any(|shard| !shard.lock().stalled.is_empty())
    }

    /// Sets the timer to the engine's next deadline. Returns the other timer, if that is set.
    fn plan_sleep(
        &mut self,
        mut sleep: Pin<&mut Sleep>,
        end: Option<Instant>,
    ) -> Option<&PaceTimer> {
        let endpoint = self.endpoint;
        // A call that is started once a shard was looked at nudges, as long as nobody knows for
        // how long the sleep will be.
        endpoint.sleep_until.store(u64::MAX, Ordering::Release);
        let now = endpoint.clock.now();
        let mut paced = None;
        let mut until = end.unwrap_or_else(|| Instant::now() + IDLE);
        let shards = endpoint.shards.iter();
        let next = shards
            .filter_map(|shard| shard.lock().next_wake())
            .min_by_key(|(at, _)| *at);
        match next {
            Some((at, Wake::Pace)) if at.since(now) < SHORT => {
                paced = set_pace(&mut self.pace, at.since(now));
            }
            _ => {}
        }
        if let Some((at, _)) = next
            && paced.is_none()
        {
            until = until.min(endpoint.clock.instant(at));
        }
        // A timer that comes early only finds nothing to do, and moving it has a price.
        let planned = sleep.deadline().into_std();
        if planned > until || sleep.is_elapsed() {
            sleep.as_mut().reset(until.into());
        }
        let mut wakes = endpoint.clock.nanos(sleep.deadline().into_std());
        if let Some((at, _)) = next
            && paced.is_some()
        {
            wakes = wakes.min(at.as_nanos());
        }
        endpoint.sleep_until.store(wakes, Ordering::Release);
        paced
    }
}

/// A timer that expires after `wait`; the first call makes it.
fn set_pace(pace: &mut Option<Result<PaceTimer, ()>>, wait: Duration) -> Option<&PaceTimer> {
    let make = || {
        PaceTimer::new().map_err(|error| {
            tracing::warn!(%error, "no timer for pacing: packets leave up to a millisecond late");
        })
    };
    let timer = pace.get_or_insert_with(make).as_ref().ok()?;
    timer.set(wait).ok()?;
    Some(timer)
}
