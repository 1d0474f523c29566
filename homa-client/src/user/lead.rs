//! [`Lead`]: threads that wait for blocking calls receive for each other.
//!
//! No runtime watches the sockets of a blocking endpoint. Of the threads that wait on it one
//! *leads*: it sleeps until a packet, a deadline or a nudge comes, and does turns. The others
//! *follow*: each sleeps until its own message has come or it is given the role. When the leader's
//! own message has come it wakes one follower to lead, or leaves the role vacant. The
//! [`background`] thread takes care of an endpoint whose role stays vacant.
//!
//! Why no wake-up is lost:
//!
//! * *The role.* It changes hands with the roster locked. Before a follower sleeps it looks at the
//!   roster and takes the role if that is vacant; whoever gives the role up passes it to a follower
//!   that was not woken. One that was woken goes round its loop and looks at the roster again. So
//!   while the role is vacant no follower sleeps without having been woken. Whoever leaves, with
//!   its message or without, either is in the roster or was given the role, and then passes it on;
//!   also when it panics.
//! * *Outcomes.* A waiter's waker sets `woken` and looks at where it rests, under one lock. The
//!   waiter clears `woken`, asks its future, and rests only if `woken` is still clear, under the
//!   same lock.
//! * *Requests.* A waiter for requests joins the roster before it looks at the queue. What is
//!   pushed later finds it there and wakes it, or finds it awake.
//! * *Deadlines.* Who plans to sleep says so (`sleep_until`, `watch_until` are "never") before it
//!   looks at each shard. Who brings a deadline nearer looks at the plan with the shard locked.
//!   So one of both sees the other. Who leaves the role vacant clears `led` before it looks at the
//!   shards, so that the background thread is told by it or by whoever locks a shard later.
//! * *Nudges.* `nudged` is set before `led` is read; the role is taken before `nudged` is looked
//!   at, and left before it is looked at a last time; all in one order. So somebody does a turn.

use std::collections::BTreeMap;
use std::future::Future;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use tokio::task::unconstrained;

use super::background;
use super::endpoint::{AWAKE, Endpoint, lock};
use super::link::{Look, MAX_SOCKETS};
use super::shard::Delivery;
use super::turn::Next;
use crate::engine::Time;

/// How long the role is vacant before the background thread watches the sockets. Calls that follow
/// closely do not wake it.
pub(super) const GRACE: Duration = Duration::from_millis(4);

/// Turns of a leader before it looks whether its own message has come.
const MAX_TURNS: u32 = 8;

/// Turns of one endpoint for which the background thread lets others wait.
const MAX_BACKGROUND_TURNS: u32 = 64;

/// "Will not look", for [`Lead::watch_until`], and "plans", for both.
pub(super) const NEVER: u64 = u64::MAX;

/// Who receives for an endpoint.
#[derive(Debug)]
pub(super) struct Lead {
    roster: Mutex<Roster>,
    /// Whether somebody has the role. Changes with the roster locked.
    led: AtomicBool,
    /// How often a waiting thread has taken the role.
    terms: AtomicU64,
    /// Whether somebody has asked for a turn that was not done yet.
    nudged: AtomicBool,
    /// Wakes the leader.
    alarm: Alarm,
    /// When the background thread will look by itself, in nanoseconds of the endpoint's clock.
    watch_until: AtomicU64,
}

/// Those who follow, oldest first. The newest are called on first: of those who wait for something of
/// their own they are likely to wait for the longest, so that the role changes hands less often; and
/// a worker that has just been busy has what it needs in its caches.
#[derive(Debug, Default)]
struct Roster {
    followers: BTreeMap<u64, Arc<Waiter>>,
    joined: u64,
}

/// A thread that waits.
#[derive(Debug)]
struct Waiter {
    lead: Arc<Lead>,
    wants: Wants,
    signal: Mutex<Signal>,
    changed: Condvar,
}

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// The next request, whoever takes it.
    Request,
    /// Something of its own.
    Own,
}

#[derive(Debug, Default)]
struct Signal {
    /// Its future has something new.
    woken: bool,
    /// It was given the role.
    promoted: bool,
    rest: Rest,
}

/// Where a waiting thread is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Rest {
    /// Running: it looks at the signal before it rests.
    #[default]
    Awake,
    /// Sleeping as a follower.
    Parked,
    /// Sleeping as the leader.
    Polling,
}

/// Waits on this thread until the future is ready; `None` when the deadline has passed, or if the
/// endpoint is not driven by its callers.
pub(crate) fn wait<F: Future>(
    endpoint: &Arc<Endpoint>,
    wants: Wants,
    future: F,
    deadline: Option<Instant>,
) -> Option<F::Output> {
    let waiter = Arc::new(Waiter {
        lead: endpoint.lead.clone()?,
        wants,
        signal: Mutex::default(),
        changed: Condvar::new(),
    });
    let waker = Waker::from(waiter.clone());
    let mut cx = Context::from_waker(&waker);
    // Inside a runtime, tokio has futures that were asked often wait until their task lets others
    // run. This thread does not.
    let mut future = pin!(unconstrained(future));
    let mut seat = None;
    loop {
        lock(&waiter.signal).woken = false;
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return Some(output);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return None;
        }
        match &mut seat {
            // It is asked once more, now that others know of this thread.
            None => seat = Some(Seat::take(endpoint, &waiter)),
            Some(seat) => seat.rest(deadline),
        }
    }
}

/// From so many bytes on, work on them takes longer than letting others run first.
const LONG_WORK: usize = 48 << 10;

/// A thread lets others run before it works on so many bytes of a message, if they are many: who
/// has just been woken, to receive for all or with a short message, should not wait for that.
pub(crate) fn make_way(bytes: usize) {
    if bytes >= LONG_WORK {
        thread::yield_now();
    }
}

/// The place of a waiting thread. Dropping it passes the role on.
struct Seat<'a> {
    endpoint: &'a Arc<Endpoint>,
    waiter: &'a Arc<Waiter>,
    role: Role,
    deliveries: Vec<Delivery>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Leader {
        /// Its last turn has left something to do at once.
        more: bool,
    },
    Follower {
        key: u64,
    },
}

impl<'a> Seat<'a> {
    fn take(endpoint: &'a Arc<Endpoint>, waiter: &'a Arc<Waiter>) -> Self {
        let lead = &waiter.lead;
        let mut roster = lock(&lead.roster);
        let role = if lead.begin_term() {
            Role::Leader { more: false }
        } else {
            roster.joined += 1;
            let key = roster.joined;
            roster.followers.insert(key, waiter.clone());
            Role::Follower { key }
        };
        drop(roster);
        Self {
            endpoint,
            waiter,
            role,
            deliveries: Vec::new(),
        }
    }

    /// Sleeps, at most until `deadline`, and does what there is to do then.
    fn rest(&mut self, deadline: Option<Instant>) {
        self.role = match self.role {
            Role::Leader { more } => Role::Leader {
                more: self.lead(more, deadline),
            },
            Role::Follower { key } => self.follow(key, deadline),
        };
    }

    fn follow(&self, key: u64, deadline: Option<Instant>) -> Role {
        let lead = &self.waiter.lead;
        {
            let mut roster = lock(&lead.roster);
            if lead.begin_term() {
                roster.followers.remove(&key);
                return Role::Leader { more: false };
            }
        }
        let mut signal = lock(&self.waiter.signal);
        signal.rest = Rest::Parked;
        while !signal.woken && !signal.promoted {
            let changed = &self.waiter.changed;
            let Some(deadline) = deadline else {
                signal = changed.wait(signal).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = changed.wait_timeout(signal, left);
            signal = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        signal.rest = Rest::Awake;
        if std::mem::take(&mut signal.promoted) {
            return Role::Leader { more: false };
        }
        Role::Follower { key }
    }

    /// Returns whether there is more to do at once.
    fn lead(&mut self, more: bool, deadline: Option<Instant>) -> bool {
        let lead = &self.waiter.lead;
        let mut look = if more || lead.take_nudge() {
            Look::Now
        } else {
            {
                let mut signal = lock(&self.waiter.signal);
                if signal.woken {
                    return false;
                }
                signal.rest = Rest::Polling;
            }
            let look = lead.sleep(self.endpoint, deadline);
            lock(&self.waiter.signal).rest = Rest::Awake;
            look
        };
        for _ in 0..MAX_TURNS {
            let receiving = lock(&self.endpoint.receiving);
            let deliveries = &mut self.deliveries;
            let turn = self
                .endpoint
                .turn(receiving, look, Next::Unknown, deliveries);
            if turn.delivered {
                // One of the requests is for this thread itself.
                let own = usize::from(self.waiter.wants == Wants::Request);
                lead.share_requests(self.endpoint.accepts.len().saturating_sub(own));
            }
            if !turn.more {
                return false;
            }
            if turn.delivered {
                break;
            }
            look = Look::Now;
        }
        true
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let lead = &self.waiter.lead;
        match self.role {
            Role::Leader { more } => {
                if more {
                    lead.nudged.store(true, Ordering::SeqCst);
                }
            }
            Role::Follower { key } => {
                if lock(&lead.roster).followers.remove(&key).is_some() {
                    return;
                }
                // It was given the role meanwhile.
            }
        }
        if lead.pass_on() && lead.is_watched_too_late(self.endpoint) {
            background::nudge();
        }
    }
}

impl Lead {
    pub(super) fn new() -> nix::Result<Self> {
        Ok(Self {
            roster: Mutex::default(),
            led: AtomicBool::new(false),
            terms: AtomicU64::new(0),
            nudged: AtomicBool::new(false),
            alarm: Alarm::new()?,
            watch_until: AtomicU64::new(NEVER),
        })
    }

    /// Asks for a turn, whoever does it.
    pub(super) fn nudge(&self) {
        if self.nudged.swap(true, Ordering::SeqCst) {
            return;
        }
        if self.led.load(Ordering::SeqCst) {
            self.alarm.ring();
        } else {
            background::nudge();
        }
    }

    fn take_nudge(&self) -> bool {
        self.nudged.load(Ordering::SeqCst) && self.nudged.swap(false, Ordering::SeqCst)
    }

    /// Until when nobody will look at the engine, if nothing happens; 0 if somebody is at it.
    pub(super) fn sleeps_until(&self, leader: &AtomicU64) -> u64 {
        if self.led.load(Ordering::SeqCst) {
            leader.load(Ordering::SeqCst)
        } else {
            self.watch_until.load(Ordering::SeqCst)
        }
    }

    /// There are requests for so many threads that wait for one.
    pub(super) fn share_requests(&self, count: usize) {
        if count == 0 {
            return;
        }
        let roster = lock(&self.roster);
        roster
            .followers
            .values()
            .rev()
            .filter(|waiter| waiter.wants == Wants::Request && !waiter.is_woken())
            .take(count)
            .for_each(|waiter| waiter.wake_by_ref());
    }

    /// Takes the role if it is vacant, for a thread that waits. With the roster locked.
    fn begin_term(&self) -> bool {
        let vacant = !self.led.swap(true, Ordering::SeqCst);
        if vacant {
            self.terms.fetch_add(1, Ordering::SeqCst);
        }
        vacant
    }

    /// Gives the role to a follower. Returns whether there was none, and it is vacant now.
    fn pass_on(&self) -> bool {
        let mut roster = lock(&self.roster);
        let mut newest_first = roster.followers.iter().rev();
        let next = newest_first
            .find(|(_, waiter)| !waiter.is_woken())
            .map(|(key, _)| *key);
        let Some(next) = next.and_then(|key| roster.followers.remove(&key)) else {
            self.led.store(false, Ordering::SeqCst);
            return true;
        };
        drop(roster);
        self.terms.fetch_add(1, Ordering::SeqCst);
        next.promote();
        false
    }

    /// Whether the background thread, which now has to, will look later than is good.
    fn is_watched_too_late(&self, endpoint: &Endpoint) -> bool {
        let until = self.watch_until.load(Ordering::SeqCst);
        if until == NEVER || self.nudged.load(Ordering::SeqCst) {
            return true;
        }
        let grace = (endpoint.clock.now() + GRACE).as_nanos();
        grace < until || endpoint.plan().next.is_some_and(|at| at.as_nanos() < until)
    }

    /// Sleeps as the leader until there is something to do, at most until `deadline`.
    fn sleep(&self, endpoint: &Endpoint, deadline: Option<Instant>) -> Look {
        endpoint.sleep_until.store(NEVER, Ordering::SeqCst);
        let Plan { next, stalled } = endpoint.plan();
        let deadline = deadline.map(|deadline| endpoint.clock.nanos(deadline));
        let until = next.map(Time::as_nanos).into_iter().chain(deadline).min();
        endpoint
            .sleep_until
            .store(until.unwrap_or(NEVER), Ordering::SeqCst);
        let mut polled: ArrayVec<PollFd<'_>, { MAX_SOCKETS + 1 }> =
            endpoint.link.polled(stalled).into_iter().collect();
        polled.push(self.alarm.polled());
        let asked = loop {
            let busy = endpoint.stays_awake();
            let now = endpoint.clock.now().as_nanos();
            let wait = until.map(|until| Duration::from_nanos(until.saturating_sub(now)));
            let over = !busy || wait == Some(Duration::ZERO);
            let asked = poll(&mut polled, if busy { Some(Duration::ZERO) } else { wait });
            if over || !asked || polled.iter().any(|socket| socket.any() != Some(false)) {
                break asked;
            }
        };
        endpoint.sleep_until.store(AWAKE, Ordering::SeqCst);
        let Some((alarm, sockets)) = polled.split_last().filter(|_| asked) else {
            return Look::Now;
        };
        if alarm.any() != Some(false) {
            // In this order: whoever finds it set counts on the turn that follows.
            self.alarm.silence();
            self.nudged.swap(false, Ordering::SeqCst);
            return Look::Now;
        }
        Look::Told(endpoint.link.told(sockets))
    }
}

/// What the background thread does for an endpoint.
impl Lead {
    /// Whether a waiting thread leads.
    pub(super) fn is_led(&self) -> bool {
        self.led.load(Ordering::SeqCst)
    }

    pub(super) fn terms(&self) -> u64 {
        self.terms.load(Ordering::SeqCst)
    }

    pub(super) fn has_nudge(&self) -> bool {
        self.nudged.load(Ordering::SeqCst)
    }

    /// The background thread is about to look: until it has said when it looks next, it is to be
    /// told of everything.
    pub(super) fn stop_watching(&self) {
        self.watch_until.store(NEVER, Ordering::SeqCst);
    }

    pub(super) fn watch_until(&self, until: u64) {
        self.watch_until.store(until, Ordering::SeqCst);
    }

    /// Does turns in place of a waiting thread, unless one leads. Returns whether there is more to
    /// do at once.
    pub(super) fn stand_in(
        &self,
        endpoint: &Arc<Endpoint>,
        deliveries: &mut Vec<Delivery>,
    ) -> bool {
        {
            let _roster = lock(&self.roster);
            if self.led.swap(true, Ordering::SeqCst) {
                return false;
            }
        }
        // Those who wait from now on follow.
        let substitute = Substitute(self);
        self.nudged.swap(false, Ordering::SeqCst);
        let mut more = true;
        for _ in 0..MAX_BACKGROUND_TURNS {
            let receiving = lock(&endpoint.receiving);
            let turn = endpoint.turn(receiving, Look::Now, Next::Unknown, deliveries);
            if turn.delivered {
                self.share_requests(endpoint.accepts.len());
            }
            more = turn.more;
            if !more || !lock(&self.roster).followers.is_empty() {
                break;
            }
        }
        if more {
            self.nudged.store(true, Ordering::SeqCst);
        }
        drop(substitute);
        more || self.has_nudge()
    }
}

/// The background thread in the role.
struct Substitute<'a>(&'a Lead);

impl Drop for Substitute<'_> {
    fn drop(&mut self) {
        self.0.pass_on();
    }
}

/// What the engines of an endpoint wait for.
pub(super) struct Plan {
    /// When there will be something to do, if nothing comes before.
    pub(super) next: Option<Time>,
    /// A socket was full.
    pub(super) stalled: bool,
}

impl Endpoint {
    pub(super) fn plan(&self) -> Plan {
        let mut plan = Plan {
            next: None,
            stalled: false,
        };
        for shard in &self.shards {
            let state = shard.lock();
            plan.stalled |= !state.stalled.is_empty();
            plan.next = plan.next.into_iter().chain(state.next_wake()).min();
        }
        plan
    }
}

impl Waiter {
    fn is_woken(&self) -> bool {
        lock(&self.signal).woken
    }

    fn promote(&self) {
        lock(&self.signal).promoted = true;
        self.changed.notify_one();
    }
}

impl Wake for Waiter {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut signal = lock(&self.signal);
        signal.woken = true;
        let rest = signal.rest;
        drop(signal);
        match rest {
            Rest::Awake => {}
            Rest::Parked => self.changed.notify_one(),
            Rest::Polling => self.lead.nudge(),
        }
    }
}

/// Wakes a thread that polls.
#[derive(Debug)]
pub(super) struct Alarm(EventFd);

impl Alarm {
    pub(super) fn new() -> nix::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        EventFd::from_flags(flags).map(Self)
    }

    pub(super) fn ring(&self) {
        // It fails only if it rings already.
        let _ = self.0.write(1);
    }

    pub(super) fn silence(&self) {
        // It fails only if it does not ring.
        let _ = self.0.read();
    }

    pub(super) fn polled(&self) -> PollFd<'_> {
        PollFd::new(self.0.as_fd(), PollFlags::POLLIN)
    }
}

/// How long to sleep if the system cannot wait for the sockets.
const BLIND_SLEEP: Duration = Duration::from_millis(1);

/// Waits for any of these, at most so long. Returns whether the system has looked at them.
pub(super) fn poll(polled: &mut [PollFd<'_>], wait: Option<Duration>) -> bool {
    match ppoll(polled, wait.map(TimeSpec::from_duration), None) {
        Ok(_) => true,
        Err(Errno::EINTR) => false,
        Err(error) => {
            tracing::warn!(%error, "cannot wait for sockets");
            std::thread::sleep(BLIND_SLEEP);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::SocketAddr;

    use super::*;
    use crate::Config;
    use crate::user::endpoint::{Handle, Role, random};

    /// No background thread looks after it: what waiting threads miss stays undone.
    fn alone(addr: SocketAddr, role: Role) -> Option<Handle> {
        let lead = Some(Arc::new(Lead::new().unwrap()));
        let endpoint = Endpoint::open(addr, &Config::default(), role, lead).ok()?;
        Some(Handle::new(Arc::new(endpoint)))
    }

    fn loopback(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn is_vacant(endpoint: &Endpoint) -> bool {
        let lead = endpoint.lead.as_ref().unwrap();
        !lead.is_led() && lock(&lead.roster).followers.is_empty()
    }

    /// Callers that end, begin, give up and take over, until all have their responses.
    #[test]
    fn the_role_is_never_lost() {
        const CALLERS: usize = 8;
        const CALLS: usize = 300;
        let free_port = || alone(loopback(10_000 + (random() % 22_000) as u16), Role::Server);
        let server = (0..64).find_map(|_| free_port()).unwrap();
        let client = alone(loopback(0), Role::Client).unwrap();
        let to = server.local_addr();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let next = || poll_fn(|_| server.accepts.poll_pop());
                    while let Some(request) = wait(&server, Wants::Request, next(), None).flatten()
                    {
                        let (message, responder) = request.into_parts();
                        responder.reply(message).unwrap();
                    }
                });
            }
            let callers = (0..CALLERS).map(|caller| {
                let client = &client;
                scope.spawn(move || {
                    for round in 0..CALLS {
                        let (ticket, response) = client.call(to, "hello".into()).unwrap();
                        let hasty = round % 10 == caller;
                        let patience = match hasty {
                            true => Duration::from_micros(10),
                            false => Duration::from_secs(20),
                        };
                        let deadline = Some(Instant::now() + patience);
                        match wait(client, Wants::Own, response, deadline) {
                            Some(outcome) => assert_eq!(outcome.unwrap().unwrap().len(), 5),
                            None => {
                                assert!(hasty, "its response did not come");
                                client.cancel_call(ticket);
                            }
                        }
                    }
                })
            });
            let callers: Vec<_> = callers.collect();
            let outcomes: Vec<_> = callers.into_iter().map(|caller| caller.join()).collect();
            server.stop();
            assert!(outcomes.iter().all(Result::is_ok));
        });
        assert!(is_vacant(&client) && is_vacant(&server));
    }

    /// What a leader sleeps through must not be a call of another thread.
    #[test]
    fn a_leader_wakes_for_what_is_due_sooner() {
        let endpoint = alone(loopback(0), Role::Client).unwrap();
        let lead = endpoint.lead.as_ref().unwrap();
        std::thread::scope(|scope| {
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let leader = scope.spawn(|| wait(&endpoint, Wants::Own, stopped, None));
            while endpoint.sleep_until.load(Ordering::SeqCst) != NEVER {
                std::thread::yield_now();
            }
            // Nobody answers there. The leader had no reason to wake before it was called.
            let silent = std::net::UdpSocket::bind(loopback(0)).unwrap();
            let to = silent.local_addr().unwrap();
            endpoint.call_detached(to, "hello".into()).unwrap();
            let begin = Instant::now();
            while endpoint.counters().protocol.timeouts == 0 {
                assert!(begin.elapsed() < Duration::from_secs(10), "it sleeps");
                std::thread::yield_now();
            }
            stop.send(()).unwrap();
            assert!(leader.join().unwrap().is_some());
        });
        assert!(!lead.is_led());
    }
}
