//! The background thread: looks after blocking endpoints while no thread waits on them.
//!
//! One per process. Acks, RESENDs, calls that nobody waits for and the last second of an endpoint
//! need no caller, and peers must not wait while all who could receive are busy with a request. A
//! thread that waits asks nothing of this one, which has the role only for the length of some
//! turns. It watches the sockets of an endpoint once nobody has led for [`GRACE`], and is woken
//! sooner only if there is something to do sooner: a loop of calls has it look every few
//! milliseconds, not once per call. To these endpoints it is what driver and keeper are to those
//! of runtimes.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use super::endpoint::{Endpoint, lock};
use super::lead::{Alarm, GRACE, Lead, NEVER, Plan, poll};
use super::shard::Delivery;
use crate::engine::Time;

static BACKGROUND: OnceLock<Arc<Background>> = OnceLock::new();

#[derive(Debug)]
struct Background {
    /// Endpoints that the thread does not know yet.
    arrived: Mutex<Vec<Ward>>,
    alarm: Alarm,
    /// Whether it was woken and has not looked since.
    nudged: AtomicBool,
}

/// Looks after this endpoint until it is closed, which happens a while after its last handle is
/// gone.
///
/// # Errors
/// There is no thread to be had.
pub(super) fn look_after(endpoint: Arc<Endpoint>, lead: Arc<Lead>) -> io::Result<()> {
    let background = start()?;
    lock(&background.arrived).push(Ward::new(endpoint, lead));
    nudge();
    Ok(())
}

/// Has the thread look at all endpoints.
pub(super) fn nudge() {
    if let Some(background) = BACKGROUND.get()
        && !background.nudged.swap(true, Ordering::SeqCst)
    {
        background.alarm.ring();
    }
}

fn start() -> io::Result<&'static Background> {
    static STARTING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = lock(&STARTING);
    if BACKGROUND.get().is_none() {
        let background = Arc::new(Background {
            arrived: Mutex::default(),
            alarm: Alarm::new()?,
            nudged: AtomicBool::new(false),
        });
        let its = background.clone();
        let thread = std::thread::Builder::new().name("homa".into());
        thread.spawn(move || its.run())?;
        let _ = BACKGROUND.set(background);
    }
    BACKGROUND
        .get()
        .map(|background| &**background)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

impl Background {
    fn run(&self) {
        let mut wards: Vec<Ward> = Vec::new();
        let mut deliveries = Vec::new();
        loop {
            wards.append(&mut lock(&self.arrived));
            wards.retain_mut(|ward| ward.look(&mut deliveries));
            let mut polled = vec![self.alarm.polled()];
            for ward in wards.iter().filter(|ward| ward.watched) {
                polled.extend(ward.endpoint.link.polled(ward.stalled));
            }
            let next = wards.iter().filter_map(|ward| ward.next).min();
            let wait = next.map(|next| next.saturating_duration_since(Instant::now()));
            let asked = poll(&mut polled, wait);

            let mut sockets = &polled[1..];
            let mut told = Vec::new();
            for ward in &wards {
                let link = &ward.endpoint.link;
                let count = if ward.watched {
                    link.polled(false).len()
                } else {
                    0
                };
                let (its, others) = sockets.split_at(count);
                told.push(asked && link.told(its).anything());
                sockets = others;
            }
            for (ward, told) in wards.iter_mut().zip(told) {
                ward.told = told;
            }
            // In this order: whoever finds it set counts on the look that follows.
            self.alarm.silence();
            self.nudged.swap(false, Ordering::SeqCst);
        }
    }
}

/// An endpoint that is looked after.
#[derive(Debug)]
struct Ward {
    endpoint: Arc<Endpoint>,
    lead: Arc<Lead>,
    /// How often a waiting thread had led at the last look.
    terms: u64,
    /// When it is closed; set once its last handle is gone.
    end: Option<Instant>,
    /// Whether its sockets are watched.
    watched: bool,
    /// Whether one of them was full.
    stalled: bool,
    /// Whether they have something.
    told: bool,
    /// When to look next, if nothing happens.
    next: Option<Instant>,
}

impl Ward {
    fn new(endpoint: Arc<Endpoint>, lead: Arc<Lead>) -> Self {
        Self {
            endpoint,
            lead,
            terms: 0,
            end: None,
            watched: false,
            stalled: false,
            told: false,
            next: None,
        }
    }

    /// Does what there is to do, and plans the next look. Returns whether there will be one.
    fn look(&mut self, deliveries: &mut Vec<Delivery>) -> bool {
        let (endpoint, lead) = (&self.endpoint, &self.lead);
        lead.stop_watching();
        let now = endpoint.clock.now();
        let overdue = endpoint.plan().next.is_some_and(|at| at <= now);
        if (std::mem::take(&mut self.told) || overdue || lead.has_nudge())
            && lead.stand_in(endpoint, deliveries)
        {
            self.next = Some(Instant::now());
            return true;
        }
        if endpoint.is_closing() {
            let linger = endpoint.linger;
            let end = *self.end.get_or_insert_with(|| Instant::now() + linger);
            if endpoint.owes_nothing() || Instant::now() >= end {
                endpoint.close();
                return false;
            }
        }
        self.next = self.end;
        self.watched = false;
        if lead.is_led() {
            // Whoever leaves the role vacant tells.
            return true;
        }
        let terms = lead.terms();
        self.watched = terms == self.terms;
        self.terms = terms;
        let Plan { next, stalled } = endpoint.plan();
        self.stalled = stalled;
        let grace = (!self.watched).then(|| endpoint.clock.now() + GRACE);
        let next = next.into_iter().chain(grace).min();
        lead.watch_until(next.map_or(NEVER, Time::as_nanos));
        let next = next.map(|next| endpoint.clock.instant(next));
        self.next = self.end.into_iter().chain(next).min();
        true
    }
}
