//! The driver: receives, keeps time, and sends what callers could not send themselves.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

use super::endpoint::{AWAKE, Endpoint, lock};
use super::link::Look;
use super::pace::PaceTimer;
use super::shard::{Delivery, NextWakes};
use super::turn::{Next, Turn};
use crate::engine::Time;

/// Sleeps are planned this far ahead when the engine has no deadline.
const IDLE: Duration = Duration::from_secs(3600);

/// Sleeps of the pacer that are shorter have a timer of their own.
const SHORT: Duration = Duration::from_millis(1);

/// Turns in a row without letting other tasks run. Each moves up to 64 KB in and out; yielding
/// after each would have the driver wander from thread to thread.
const MAX_TURNS: u32 = 8;

/// If the next turn comes later than this after tasks were woken together, one of them has kept the
/// thread: what the others had to send has waited for it.
const SLOW: Duration = Duration::from_millis(2);

/// For so long after that nobody waits for others.
const ALONE: Duration = Duration::from_millis(100);

/// A server's loop is woken, starts a task for each request, and that may start another one.
const STEPS: u32 = 3;

/// Runs until the last handle is gone and what is owed to others is done.
pub(super) async fn drive(closer: Closer) {
    let endpoint = &closer.0;
    let mut driver = Driver {
        endpoint,
        deliveries: Vec::new(),
        awaited: None,
        alone_until: Time::ZERO,
        pace: None,
    };
    let mut sleep = pin!(sleep_until((Instant::now() + IDLE).into()));
    let mut nudged = pin!(endpoint.nudged.notified());
    let mut refused = pin!(endpoint.link.errors());
    let mut end = None;
    let mut first = Look::Polled;
    loop {
        let mut look = std::mem::replace(&mut first, Look::Polled);
        let mut turns = 0;
        let (more, awaited) = loop {
            turns += 1;
            let Turn {
                more,
                urgent,
                awaited,
                ..
            } = driver.turn(look);
            // Whoever was woken may wait for this very thread.
            if !more || urgent || turns == MAX_TURNS {
                break (more, awaited);
            }
            // While this goes on the runtime does not poll.
            look = Look::Now;
        };
        if awaited {
            requeue().await;
            continue;
        }
        if more {
            tokio::task::yield_now().await;
            continue;
        }
        if endpoint.is_closing() {
            if endpoint.owes_nothing() {
                return;
            }
            let end = *end.get_or_insert_with(|| Instant::now() + endpoint.linger);
            if Instant::now() >= end {
                return;
            }
        }
        if endpoint.stays_awake() {
            // Others run between two looks, and whoever sends needs no nudge.
            first = Look::Now;
            tokio::task::yield_now().await;
            continue;
        }
        let Plan { stalled, paced } = driver.plan_sleep(sleep.as_mut(), end);
        poll_fn(|cx| {
            if nudged.as_mut().poll(cx).is_ready() {
                nudged.set(endpoint.nudged.notified());
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

/// Lets the tasks run that are ready, and those that they start in [`STEPS`], without waiting for what
/// the runtime hears from the system. Other than after `yield_now` another worker may take this task,
/// if this one is kept by one of those.
async fn requeue() {
    let mut left = STEPS;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
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
    /// When tasks were woken together, if that was in the last turn.
    awaited: Option<Time>,
    /// Until then nobody waits for others; zero if that is over.
    alone_until: Time,
    /// For short sleeps; made when the first is wanted, `Err` if that failed.
    pace: Option<Result<PaceTimer, ()>>,
}

impl Driver<'_> {
    fn turn(&mut self, look: Look) -> Turn {
        let endpoint = self.endpoint;
        let next = self.next();
        // The keeper holds it for one turn at most.
        let receiving = lock(&endpoint.receiving);
        let turn = endpoint.turn(receiving, look, next, &mut self.deliveries);
        self.awaited = turn.awaited.then_some(turn.now);
        endpoint
            .driven
            .store(turn.now.as_nanos(), Ordering::Release);
        turn
    }

    /// When the turn after this one comes, going by when this one did.
    fn next(&mut self) -> Next {
        if self.awaited.is_none() && self.alone_until == Time::ZERO {
            return Next::Soon;
        }
        let now = self.endpoint.clock.now();
        if let Some(awaited) = self.awaited
            && now.since(awaited) > SLOW
        {
            self.alone_until = now + ALONE;
        }
        if now < self.alone_until {
            return Next::Unknown;
        }
        self.alone_until = Time::ZERO;
        Next::Soon
    }

    /// Sets the timer to the engine's next deadline.
    fn plan_sleep(&mut self, mut sleep: Pin<&mut Sleep>, end: Option<Instant>) -> Plan<'_> {
        let endpoint = self.endpoint;
        // A call that is started once a shard was looked at nudges, as long as nobody knows for
        // how long the sleep will be.
        endpoint.sleep_until.store(u64::MAX, Ordering::Release);
        let mut stalled = false;
        let mut next = NextWakes::default();
        for shard in &endpoint.shards {
            let state = shard.lock();
            stalled |= !state.stalled.is_empty();
            next = next.or_sooner(state.next_wakes());
        }
        // Its own timer is set however soon another time comes: what wakes the runtime then may be
        // a millisecond late, and the link idle for as long.
        let wait = next.paced.map(|at| at.since(endpoint.clock.now()));
        let paced = wait
            .filter(|wait| *wait < SHORT)
            .and_then(|wait| set_pace(&mut self.pace, wait));
        let fine = next.paced.filter(|_| paced.is_some());
        let coarse = next.paced.filter(|_| fine.is_none());
        let deadline = next.other.into_iter().chain(coarse).min();
        let deadline = deadline.map(|at| endpoint.clock.instant(at));
        let until = deadline.into_iter().chain(end).min();
        // A timer that comes early only finds nothing to do, and moving it has a price.
        let planned = sleep.deadline().into_std();
        if sleep.is_elapsed() || until.is_some_and(|until| planned > until) {
            let until = until.unwrap_or_else(|| Instant::now() + IDLE);
            sleep.as_mut().reset(until.into());
        }
        let mut wakes = endpoint.clock.nanos(sleep.deadline().into_std());
        if let Some(at) = fine {
            wakes = wakes.min(at.as_nanos());
        }
        endpoint.sleep_until.store(wakes, Ordering::Release);
        Plan { stalled, paced }
    }
}

/// What ends a sleep, beside packets, nudges and the runtime's timer.
struct Plan<'a> {
    /// A socket that was full may have room.
    stalled: bool,
    /// The timer of the pacer is set.
    paced: Option<&'a PaceTimer>,
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::task::yield_now;

    use super::*;
    use crate::Config;
    use crate::user::endpoint::{Handle, Role};

    /// While the time of `busy_poll` runs it goes on without a plan to sleep, and others run.
    #[tokio::test]
    async fn a_driver_that_polls_busily_does_not_sleep_and_lets_others_run() {
        async fn turns() {
            for _ in 0..100 {
                yield_now().await;
            }
        }
        let sleeps = |endpoint: &Endpoint| endpoint.sleep_until.load(Ordering::SeqCst) != AWAKE;
        for (busy_poll, busy) in [(Duration::from_millis(1), true), (Duration::ZERO, false)] {
            let config = Config {
                busy_poll,
                ..Config::default()
            };
            let any = (Ipv4Addr::LOCALHOST, 0).into();
            let endpoint = Arc::new(Endpoint::open(any, &config, Role::Client, None).unwrap());
            let handle = Handle::new(endpoint.clone());
            endpoint.stay_awake(Time::from_nanos(u64::MAX / 2));
            let driver = tokio::spawn(drive(Closer::new(endpoint.clone())));
            turns().await;
            assert_eq!(sleeps(&endpoint), !busy);
            endpoint.stay_awake(Time::ZERO);
            tokio::time::sleep(2 * busy_poll).await;
            turns().await;
            assert!(sleeps(&endpoint));
            // Nor does it keep an endpoint that nobody uses from ending.
            endpoint.stay_awake(Time::from_nanos(u64::MAX / 2));
            drop(handle);
            driver.await.unwrap();
        }
    }
}
