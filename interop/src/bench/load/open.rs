//! The open loop: each call is sent at its time, whatever has become of those before it.

use std::iter::{Enumerate, Peekable};
use std::num::NonZeroU64;
use std::ops::AddAssign;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;
use rustix::thread::{
    CpuSet, gettid, sched_getaffinity, sched_setaffinity, set_current_timer_slack,
};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{timeout, timeout_at};

use super::stack::{Pattern, Target, TaskCaller, ThreadCaller};
use super::traffic::Arrival;
use crate::bench::call::CallFailed;
use crate::bench::connect::Place;
use crate::bench::cpu::{Meter, Used};

/// A call that is handed over so much later than it was meant to be lags.
pub(crate) const LATE: Duration = Duration::from_millis(1);

/// How long calls may take after the last one was sent.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is sent, and to whom.
pub(crate) struct Plan {
    pub(crate) target: Target,
    /// When the first nanosecond of the arrivals is.
    pub(crate) start: Instant,
    /// Calls before this time are made but not measured.
    pub(crate) warm_up: Duration,
    /// How many bytes answer a request; `None`: as many as that has.
    pub(crate) response_bytes: Option<u32>,
    /// Most calls in flight.
    pub(crate) outstanding: u32,
    /// A call that is handed over so much later than it was meant to be ends the run: it would be
    /// refused.
    pub(crate) most_behind: Duration,
    /// About how many calls are measured.
    pub(crate) expected: usize,
    pub(crate) longest: u32,
    /// The process that serves, to see how much it works.
    pub(crate) server: Option<u32>,
}

/// One measured call. Times are nanoseconds from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) bytes: u32,
    /// When it was to be sent.
    pub(crate) intended_ns: u64,
    /// When the call was made.
    pub(crate) sent_ns: u64,
    /// When its response was there.
    pub(crate) done_ns: u64,
}

/// What has come of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// In the order in which they ended.
    pub(crate) samples: Vec<Sample>,
    /// Measured calls that waited until fewer than the most allowed were in flight.
    pub(crate) held: u64,
    /// Others that were handed over more than [`LATE`] late.
    pub(crate) late: u64,
    pub(crate) cpu: Used,
}

/// Why it did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("a call of {bytes} bytes, due {at:?} after the start")]
    Call {
        bytes: u32,
        at: Duration,
        source: CallFailed,
    },
    #[error("a call of {bytes} bytes, before the load")]
    Alone { bytes: u32, source: CallFailed },
    #[error("no client could be made")]
    Client(#[source] CallFailed),
    #[error(
        "{open} calls had no answer {PATIENCE:?} after the last one was sent: this load is more \
         than the server or the network carries; lower it"
    )]
    Unanswered { open: usize },
    #[error(
        "a call was sent {behind:.1?} late, {at:.1?} after the start, with {outstanding} in flight: \
         this load is more than the server or the network carries; lower it"
    )]
    Behind {
        behind: Duration,
        at: Duration,
        outstanding: u32,
    },
    #[error("cannot start a thread for each call in flight: lower --outstanding")]
    Thread(#[source] std::io::Error),
    #[error("a thread of the generator ended early")]
    Ended,
}

/// Makes the calls. Blocks, and must not be called on a thread of the runtime's own.
pub(crate) fn run(
    plan: Plan,
    arrivals: impl Iterator<Item = Arrival> + Send,
    runtime: Handle,
) -> Result<Run, OpenError> {
    let book = Arc::new(Book::new(&plan));
    match plan.target.clone() {
        Target::Tasks(caller) => {
            let tasks = Tasks {
                runtime,
                free: Arc::new(Semaphore::new(plan.outstanding as usize)),
                outstanding: plan.outstanding,
                caller,
                book,
            };
            generate(&plan, arrivals, tasks)
        }
        Target::Threads(place) => {
            let pool = Pool::start(&place, plan.outstanding as usize, book)?;
            generate(&plan, arrivals, pool)
        }
    }
}

/// Who makes the calls.
trait Callers {
    fn book(&self) -> &Arc<Book>;

    /// Has one of them make a call. Waits until less than the most allowed are in flight, and
    /// returns whether it had to.
    fn hand_over(&self, call: Call) -> Result<bool, OpenError>;

    /// Waits until all calls have ended, up to this time. Returns how many have not.
    fn finish(self, until: Instant) -> usize;
}

/// A call that is due.
#[derive(Clone, Copy, Debug)]
struct Call {
    arrival: Arrival,
    number: usize,
    is_measured: bool,
}

fn generate<C: Callers + Sync>(
    plan: &Plan,
    arrivals: impl Iterator<Item = Arrival> + Send,
    callers: C,
) -> Result<Run, OpenError> {
    let book = Arc::clone(callers.book());
    let schedule = Mutex::new(Schedule {
        arrivals: arrivals.enumerate().peekable(),
        meter: None,
    });
    let hand_out = |core| hand_out(plan, &schedule, &callers, core);
    let tally = std::thread::scope(|scope| {
        // It has the urgency of this thread.
        let (this, other) = places();
        let other = other.map(|core| scope.spawn(move || hand_out(Some(core))));
        let mut tally = hand_out(this);
        if let Some(other) = other {
            tally += other.join().map_err(|_| OpenError::Ended)?;
        }
        Ok(tally)
    })?;
    let patience = if book.has_failed() {
        Duration::ZERO
    } else {
        PATIENCE
    };
    let open = callers.finish(Instant::now() + patience);
    let meter = lock(&schedule).meter.take();
    let cpu = meter.map_or_else(Used::default, |meter| meter.used());
    let (samples, failed) = book.close();
    match failed {
        Some(failed) => Err(failed),
        None if open > 0 => Err(OpenError::Unanswered { open }),
        None if samples.len() != tally.measured => Err(OpenError::Ended),
        None => Ok(Run {
            samples,
            held: tally.held,
            late: tally.late,
            cpu,
        }),
    }
}

/// What is to be sent yet. Whoever wakes first hands over what is due.
struct Schedule<I: Iterator<Item = Arrival>> {
    arrivals: Peekable<Enumerate<I>>,
    /// Runs from the first call that is measured.
    meter: Option<Meter>,
}

/// Of the measured calls that one thread has handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    measured: usize,
    held: u64,
    late: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.measured += other.measured;
        self.held += other.held;
        self.late += other.late;
    }
}

/// Hands over calls at their times until all are, or one has failed.
fn hand_out<I: Iterator<Item = Arrival>>(
    plan: &Plan,
    schedule: &Mutex<Schedule<I>>,
    callers: &impl Callers,
    core: Option<usize>,
) -> Tally {
    if let Some(core) = core {
        let mut only = CpuSet::new();
        only.set(core);
        let _ = sched_setaffinity(None, &only);
    }
    let book = callers.book();
    let mut tally = Tally::default();
    loop {
        let Some((number, arrival)) = lock(schedule).arrivals.peek().copied() else {
            break;
        };
        let at = Duration::from_nanos(arrival.at_ns);
        let intended = plan.start + at;
        let now = Instant::now();
        if intended > now {
            std::thread::sleep(intended - now);
        }
        if book.has_failed() {
            break;
        }
        let is_measured = at >= plan.warm_up;
        {
            let mut schedule = lock(schedule);
            if schedule.arrivals.next_if(|next| next.0 == number).is_none() {
                // The other one has it.
                continue;
            }
            if is_measured && schedule.meter.is_none() {
                schedule.meter = Some(Meter::start(plan.server));
            }
        }
        let handed = callers.hand_over(Call {
            arrival,
            number,
            is_measured,
        });
        let was_held = match handed {
            Ok(was_held) => was_held,
            Err(error) => {
                book.fail(error);
                break;
            }
        };
        let behind = intended.elapsed();
        if is_measured {
            tally.measured += 1;
            if was_held {
                tally.held += 1;
            } else if behind > LATE {
                tally.late += 1;
            }
        }
        if behind > plan.most_behind {
            book.fail(OpenError::Behind {
                behind,
                at,
                outstanding: plan.outstanding,
            });
            break;
        }
    }
    tally
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets this thread wake when it wants to, and returns on which core it is to be, and another on
/// which a second one is.
///
/// By default Linux takes 50 µs more, to wake several threads at once, and has it wait for others
/// that are busy. Without the right to that, which is root's, more calls lag; and threads that
/// cannot go before others are better where the system puts them. With it there are two, since a
/// core may be out of reach for milliseconds: while it takes packets from a network device, or
/// while a hypervisor has it run something else.
fn places() -> (Option<usize>, Option<usize>) {
    let _ = set_current_timer_slack(NonZeroU64::new(1));
    // To Linux no process is the calling thread.
    let _ = setpriority_process(None, MOST_URGENT);
    if !go_real_time() {
        return (None, None);
    }
    let Ok(allowed) = sched_getaffinity(None) else {
        return (None, None);
    };
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    match (cores.next(), cores.next()) {
        (Some(one), Some(other)) => (Some(one), Some(other)),
        _ => (None, None),
    }
}

/// However nice, a thread may lose its core to one that it wakes, for up to a millisecond; in real
/// time it does not. Returns whether it is.
fn go_real_time() -> bool {
    // No safe call does it; `chrt` is of util-linux.
    let thread = gettid().as_raw_nonzero().to_string();
    Command::new("chrt")
        .args(["--fifo", "--pid", "1", &thread])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The nice value of threads that go before all others.
const MOST_URGENT: i32 = -20;

/// What all callers write into, and read from.
struct Book {
    start: Instant,
    pattern: Pattern,
    response_bytes: Option<u32>,
    pages: Mutex<Pages>,
    failed: AtomicBool,
}

#[derive(Default)]
struct Pages {
    samples: Vec<Sample>,
    /// The first call that failed, and why.
    failed: Option<OpenError>,
}

impl Book {
    fn new(plan: &Plan) -> Self {
        let pages = Pages {
            samples: Vec::with_capacity(plan.expected + plan.expected / 10),
            failed: None,
        };
        Self {
            start: plan.start,
            pattern: Pattern::new(plan.longest),
            response_bytes: plan.response_bytes,
            pages: Mutex::new(pages),
            failed: AtomicBool::new(false),
        }
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// What a call sends, and how many bytes are to come back.
    fn request(&self, call: Call) -> (bytes::Bytes, u32) {
        let bytes = call.arrival.bytes;
        let data = self.pattern.part(call.number, bytes);
        (data, self.response_bytes.unwrap_or(bytes))
    }

    /// A call has ended.
    fn enter(&self, call: Call, sent: Instant, ended: Result<(), CallFailed>) {
        let done = Instant::now();
        let since = |at: Instant| {
            let since = at.saturating_duration_since(self.start).as_nanos();
            u64::try_from(since).unwrap_or(u64::MAX)
        };
        let Arrival { at_ns, bytes } = call.arrival;
        match ended {
            Ok(()) if call.is_measured => self.pages().samples.push(Sample {
                bytes,
                intended_ns: at_ns,
                sent_ns: since(sent),
                done_ns: since(done),
            }),
            Ok(()) => {}
            Err(source) => self.fail(OpenError::Call {
                bytes,
                at: Duration::from_nanos(at_ns),
                source,
            }),
        }
    }

    fn fail(&self, error: OpenError) {
        self.pages().failed.get_or_insert(error);
        self.failed.store(true, Ordering::Relaxed);
    }

    /// What it holds.
    fn close(&self) -> (Vec<Sample>, Option<OpenError>) {
        let Pages { samples, failed } = std::mem::take(&mut *self.pages());
        (samples, failed)
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        lock(&self.pages)
    }
}

/// Each call is a task.
struct Tasks {
    runtime: Handle,
    /// A permit for each call that may be in flight.
    free: Arc<Semaphore>,
    outstanding: u32,
    caller: TaskCaller,
    book: Arc<Book>,
}

impl Callers for Tasks {
    fn book(&self) -> &Arc<Book> {
        &self.book
    }

    fn hand_over(&self, call: Call) -> Result<bool, OpenError> {
        let free = Arc::clone(&self.free);
        let (permit, was_held) = if let Ok(permit) = free.try_acquire_owned() {
            (permit, false)
        } else {
            let free = Arc::clone(&self.free).acquire_owned();
            let permit = self
                .runtime
                .block_on(async { timeout(PATIENCE, free).await });
            // Nobody closes the semaphore.
            let permit = permit.ok().and_then(Result::ok);
            let open = self.outstanding as usize;
            (permit.ok_or(OpenError::Unanswered { open })?, true)
        };
        let mut caller = self.caller.clone();
        let book = Arc::clone(&self.book);
        self.runtime.spawn(async move {
            let (data, wanted) = book.request(call);
            let sent = Instant::now();
            let ended = caller.call(data, wanted).await;
            book.enter(call, sent, ended);
            drop(permit);
        });
        Ok(was_held)
    }

    fn finish(self, until: Instant) -> usize {
        let all = self.free.acquire_many(self.outstanding);
        let ended = async { timeout_at(until.into(), all).await };
        match self.runtime.block_on(ended) {
            Ok(_) => 0,
            Err(_) => self.outstanding as usize - self.free.available_permits(),
        }
    }
}

/// Each call takes a thread out of a pool.
struct Pool {
    threads: Vec<mpsc::Sender<Call>>,
    idle: Arc<Idle>,
    book: Arc<Book>,
}

/// The threads without a call. The one that ended last is the next to call: its connection and
/// memory are the warmest.
#[derive(Default)]
struct Idle {
    threads: Mutex<Vec<usize>>,
    changed: Condvar,
}

impl Pool {
    fn start(place: &Place, count: usize, book: Arc<Book>) -> Result<Self, OpenError> {
        let idle = Arc::<Idle>::default();
        let mut threads = Vec::with_capacity(count);
        for number in 0..count {
            let mut caller = ThreadCaller::new(place).map_err(OpenError::Client)?;
            let (sender, calls) = mpsc::channel::<Call>();
            let (idle, book) = (Arc::clone(&idle), Arc::clone(&book));
            let thread = std::thread::Builder::new();
            let ended = thread.spawn(move || {
                for call in calls {
                    let (data, wanted) = book.request(call);
                    let sent = Instant::now();
                    let ended = caller.call(&data, wanted);
                    book.enter(call, sent, ended);
                    idle.put(number);
                }
            });
            // It ends with its channel.
            drop(ended.map_err(OpenError::Thread)?);
            threads.push(sender);
        }
        idle.threads().extend((0..count).rev());
        Ok(Self {
            threads,
            idle,
            book,
        })
    }
}

impl Callers for Pool {
    fn book(&self) -> &Arc<Book> {
        &self.book
    }

    fn hand_over(&self, call: Call) -> Result<bool, OpenError> {
        let open = self.threads.len();
        let (thread, was_held) = self.idle.take().ok_or(OpenError::Unanswered { open })?;
        let sender = self.threads.get(thread);
        let handed = sender.is_some_and(|sender| sender.send(call).is_ok());
        handed.then_some(was_held).ok_or(OpenError::Ended)
    }

    fn finish(self, until: Instant) -> usize {
        let all = self.threads.len();
        let left = until.saturating_duration_since(Instant::now());
        let waited = self
            .idle
            .changed
            .wait_timeout_while(self.idle.threads(), left, |idle| idle.len() < all);
        let (idle, _) = waited.unwrap_or_else(PoisonError::into_inner);
        all - idle.len()
    }
}

impl Idle {
    fn threads(&self) -> MutexGuard<'_, Vec<usize>> {
        lock(&self.threads)
    }

    fn put(&self, thread: usize) {
        self.threads().push(thread);
        self.changed.notify_one();
    }

    /// A thread, and whether it had to be waited for; `None` if none became idle.
    fn take(&self) -> Option<(usize, bool)> {
        let mut threads = self.threads();
        if let Some(thread) = threads.pop() {
            return Some((thread, false));
        }
        let waited = self
            .changed
            .wait_timeout_while(threads, PATIENCE, |idle| idle.is_empty());
        let (mut threads, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Some((threads.pop()?, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes what it is given. The call with this number has no free caller.
    struct Notes {
        book: Arc<Book>,
        numbers: Mutex<Vec<usize>>,
        fails: Option<usize>,
    }

    impl Callers for Notes {
        fn book(&self) -> &Arc<Book> {
            &self.book
        }

        fn hand_over(&self, call: Call) -> Result<bool, OpenError> {
            if self.fails == Some(call.number) {
                return Err(OpenError::Unanswered { open: 1 });
            }
            lock(&self.numbers).push(call.number);
            Ok(call.number.is_multiple_of(10))
        }

        fn finish(self, _: Instant) -> usize {
            0
        }
    }

    const CALLS: usize = 1_000;
    const APART: Duration = Duration::from_micros(20);

    /// Two threads hand over all calls, of which the first half is not measured.
    fn hand_out_by_two(fails: Option<usize>) -> (Notes, Tally) {
        let plan = Plan {
            target: Target::Threads(Place::Tcp(([127, 0, 0, 1], 1).into())),
            start: Instant::now(),
            warm_up: APART * (CALLS / 2) as u32,
            response_bytes: None,
            outstanding: 1,
            most_behind: Duration::MAX,
            expected: CALLS,
            longest: 1,
            server: None,
        };
        let arrivals = (0..CALLS as u64).map(|number| Arrival {
            at_ns: number * APART.as_nanos() as u64,
            bytes: 1,
        });
        let schedule = Mutex::new(Schedule {
            arrivals: arrivals.enumerate().peekable(),
            meter: None,
        });
        let notes = Notes {
            book: Arc::new(Book::new(&plan)),
            numbers: Mutex::default(),
            fails,
        };
        let mut tally = Tally::default();
        std::thread::scope(|scope| {
            let threads = [0, 1].map(|_| scope.spawn(|| hand_out(&plan, &schedule, &notes, None)));
            for thread in threads {
                tally += thread.join().expect("it does not panic");
            }
        });
        (notes, tally)
    }

    #[test]
    fn two_threads_hand_over_each_call_once() {
        let (notes, tally) = hand_out_by_two(None);
        let mut numbers = std::mem::take(&mut *lock(&notes.numbers));
        numbers.sort_unstable();
        assert_eq!(numbers, (0..CALLS).collect::<Vec<_>>());
        assert_eq!((tally.measured, tally.held), (CALLS / 2, CALLS as u64 / 20));
        assert!(!notes.book.has_failed());
    }

    #[test]
    fn both_end_when_one_cannot_hand_over() {
        let (notes, _) = hand_out_by_two(Some(100));
        let numbers = std::mem::take(&mut *lock(&notes.numbers));
        assert!(numbers.len() < CALLS && !numbers.contains(&100));
        let (_, failed) = notes.book.close();
        assert!(matches!(failed, Some(OpenError::Unanswered { open: 1 })));
    }
}
