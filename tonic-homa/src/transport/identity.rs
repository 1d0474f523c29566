//! Which calls a server has seen: no call runs twice, however often its OPEN arrives, a CANCEL
//! finds its handler, and a piece of a body its stream.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use homa_client::{Message, Responder};

use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::stream::{Budget, Heard, START_CREDIT, Share, Stream};
use crate::frame::{Frame, Lengths};

/// How long an epoch is remembered after its last sign of life.
const REMEMBERED: Duration = Duration::from_secs(60);

/// How often epochs are looked through for old ones.
const SWEEP: Duration = Duration::from_secs(10);

/// Most epochs remembered; the longest silent ones go first.
const MAX_EPOCHS: usize = 8_192;

/// Most epochs of one host that have calls running.
const MAX_EPOCHS_OF_HOST: usize = MAX_EPOCHS / 4;

/// Most ranges of one epoch; its oldest gaps are closed first.
const MAX_RANGES: usize = 4_096;

/// Most ranges of all epochs, about 2 MiB.
const MAX_ALL_RANGES: usize = 131_072;

/// How long pieces are kept for a call that was not opened yet.
const EARLY: Duration = Duration::from_secs(1);

/// Pieces that are kept for calls that were not opened yet, at most.
const MAX_EARLY: usize = 1_024;

/// Their bytes, at most: they occupy the endpoint's memory.
const MAX_EARLY_BYTES: usize = 4 << 20;

/// The same from one host.
const MAX_EARLY_OF_CLIENT: usize = 256;

/// What a piece has beside its body, at most.
const HEADER_ROOM: u64 = 256;

/// How long the streams of a client go on that is not heard of. Clients that live say something
/// every second.
const SILENT: Duration = Duration::from_secs(10);

/// What one client may have at a time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    /// Calls in the handlers; a stream's handler has ended when its response begins.
    pub(super) handlers: Option<usize>,
    /// Calls that are open.
    pub(super) calls: Option<usize>,
}

/// Where the calls of one client wait for their turn.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) handlers: Option<Arc<Semaphore>>,
    pub(super) calls: Option<Arc<Semaphore>>,
}

impl Places {
    fn new(limits: Limits) -> Self {
        let places = |limit: usize| Arc::new(Semaphore::new(limit));
        Self {
            handlers: limits.handlers.map(places),
            calls: limits.calls.map(places),
        }
    }
}

/// Names a call: its client's address without the port, which may change, its epoch, its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CallKey {
    pub(super) client: IpAddr,
    pub(super) epoch: u64,
    pub(super) call: u64,
}

impl CallKey {
    fn of_epoch(self) -> EpochKey {
        EpochKey {
            client: self.client,
            epoch: self.epoch,
        }
    }
}

/// In one piece: to a keyed hash, many short ones cost more than their bytes.
impl Hash for CallKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [0; 32];
        bytes[..24].copy_from_slice(&self.of_epoch().bytes());
        bytes[24..].copy_from_slice(&self.call.to_le_bytes());
        state.write(&bytes);
    }
}

/// Names a life of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct EpochKey {
    client: IpAddr,
    epoch: u64,
}

impl EpochKey {
    fn bytes(self) -> [u8; 24] {
        let client = match self.client {
            IpAddr::V4(ip) => ip.to_bits().into(),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&client.to_le_bytes());
        bytes[16..].copy_from_slice(&self.epoch.to_le_bytes());
        bytes
    }
}

impl Hash for EpochKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.bytes());
    }
}

/// Why a call may not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It was seen before, or cancelled before it came.
    Duplicate,
    /// Too many epochs have calls running.
    Overloaded,
}

/// All calls that a server has seen.
///
/// Uses hash tables with random keys: clients choose the numbers.
#[derive(Debug)]
pub(super) struct Identities {
    limits: Limits,
    /// Bytes that the streams of one client may take.
    stream_bytes: usize,
    /// What those of all clients take.
    total: Arc<AtomicU64>,
    inner: Mutex<Inner>,
    /// Told when the last live call ends.
    idle: Notify,
    /// Told when there is something that has to be looked after.
    busy: Notify,
}

#[derive(Debug)]
struct Inner {
    epochs: HashMap<EpochKey, Epoch>,
    live: HashMap<CallKey, Live>,
    early: Vec<Early>,
    /// Live calls that are streams.
    streams: usize,
    /// No more calls will come.
    closed: bool,
    /// Of all epochs together.
    ranges: usize,
    swept: Instant,
}

#[derive(Debug)]
struct Live {
    task: Task,
    /// Where pieces of bodies go.
    stream: Option<Arc<Stream>>,
}

/// A piece of a body that has overtaken the OPEN of its call.
#[derive(Debug)]
pub(super) struct Early {
    pub(super) key: CallKey,
    pub(super) frame: Frame,
    pub(super) lengths: Lengths,
    pub(super) message: Message,
    pub(super) responder: Responder,
    until: Instant,
}

/// What a server knows of a call.
#[derive(Debug)]
pub(super) enum Found {
    Stream(Arc<Stream>),
    /// It has not come yet, or nobody remembers it.
    Unknown,
    /// It is over, or needs no more messages.
    Over,
}

/// What ends a live call.
#[derive(Debug)]
enum Task {
    /// It is about to be spawned.
    Starting,
    Running(AbortHandle),
    /// It is to be aborted, or is ending.
    Cancelled,
}

impl Task {
    /// The task to abort, if it is known and was not aborted before.
    fn cancel(&mut self) -> Option<AbortHandle> {
        match std::mem::replace(self, Self::Cancelled) {
            Self::Running(task) => Some(task),
            Self::Starting | Self::Cancelled => None,
        }
    }
}

#[derive(Debug)]
struct Epoch {
    seen: CallSet,
    live: usize,
    last: Instant,
    /// Told of what arrives as an answer, too.
    heard: Arc<Heard>,
    places: Places,
    /// Made for the first stream.
    budget: Option<Arc<Budget>>,
}

impl Identities {
    pub(super) fn new(limits: Limits, stream_bytes: usize, total: Arc<AtomicU64>) -> Self {
        let inner = Inner {
            epochs: HashMap::new(),
            live: HashMap::new(),
            early: Vec::new(),
            streams: 0,
            closed: false,
            ranges: 0,
            swept: Instant::now(),
        };
        Self {
            limits,
            stream_bytes,
            total,
            inner: Mutex::new(inner),
            idle: Notify::new(),
            busy: Notify::new(),
        }
    }

    /// Admits a call that is seen for the first time. Its task is told to [`Self::running`], and
    /// has to call [`Self::finish`] in the end. Returns the semaphore that the calls of its client
    /// share, if these are limited.
    pub(super) fn start(&self, key: CallKey) -> Result<Places, Refusal> {
        let mut inner = self.lock();
        let epoch = inner.mark(key, self.limits)?.ok_or(Refusal::Duplicate)?;
        epoch.live += 1;
        let places = epoch.places.clone();
        let live = Live {
            task: Task::Starting,
            stream: None,
        };
        inner.live.insert(key, live);
        Ok(places)
    }

    /// Room for the request body of a live call. `None` if its client has used up what it may.
    pub(super) fn share(&self, key: CallKey) -> Option<Share> {
        let mut inner = self.lock();
        let epoch = inner.epochs.get_mut(&key.of_epoch())?;
        let budget = epoch
            .budget
            .get_or_insert_with(|| Budget::new(self.stream_bytes, self.total.clone()))
            .clone();
        drop(inner);
        budget.open()
    }

    /// Has the pieces of a live call go to `stream`. Returns those that came before.
    pub(super) fn attach(&self, key: CallKey, stream: &Arc<Stream>) -> Vec<Early> {
        let mut inner = self.lock();
        let Inner {
            live,
            early,
            streams,
            ..
        } = &mut *inner;
        if let Some(live) = live.get_mut(&key)
            && live.stream.replace(stream.clone()).is_none()
        {
            *streams += 1;
        }
        let came = early.extract_if(.., |early| early.key == key).collect();
        drop(inner);
        self.busy.notify_one();
        came
    }

    /// What is known of a call. Also a sign of life of its client.
    pub(super) fn find(&self, key: CallKey) -> Found {
        let mut inner = self.lock();
        let Some(epoch) = inner.epochs.get_mut(&key.of_epoch()) else {
            return Found::Unknown;
        };
        epoch.last = Instant::now();
        let seen = epoch.seen.contains(key.call);
        match inner.live.get(&key).map(|live| &live.stream) {
            Some(Some(stream)) => Found::Stream(stream.clone()),
            None if !seen => Found::Unknown,
            Some(None) | None => Found::Over,
        }
    }

    /// What the answers of a client tell of, besides its requests.
    pub(super) fn heard_of(&self, key: CallKey) -> Arc<Heard> {
        let inner = self.lock();
        let epoch = inner.epochs.get(&key.of_epoch());
        epoch.map_or_else(Arc::default, |epoch| epoch.heard.clone())
    }

    /// A sign of life of a client.
    pub(super) fn heard(&self, client: IpAddr, epoch: u64) {
        if let Some(epoch) = self.lock().epochs.get_mut(&EpochKey { client, epoch }) {
            epoch.last = Instant::now();
        }
    }

    /// Keeps a piece for a call that was not opened yet, or gives it back.
    pub(super) fn keep_early(
        &self,
        key: CallKey,
        frame: Frame,
        lengths: Lengths,
        message: Message,
        responder: Responder,
    ) -> Result<(), Responder> {
        let mut inner = self.lock();
        let own = |early: &&Early| early.key.client == key.client;
        let bytes: usize = inner.early.iter().map(|early| early.message.len()).sum();
        let crowded = inner.closed
            || inner.early.len() >= MAX_EARLY
            || bytes + message.len() > MAX_EARLY_BYTES
            || inner.early.iter().filter(own).count() >= MAX_EARLY_OF_CLIENT;
        // No honest client sends more before it has heard of the call.
        if crowded || message.len() as u64 > START_CREDIT + HEADER_ROOM {
            return Err(responder);
        }
        inner.early.push(Early {
            key,
            frame,
            lengths,
            message,
            responder,
            until: Instant::now() + EARLY,
        });
        drop(inner);
        self.busy.notify_one();
        Ok(())
    }

    /// Waits until there is something to look after.
    pub(super) async fn busy(&self) {
        loop {
            let busy = {
                let inner = self.lock();
                inner.streams > 0 || !inner.early.is_empty()
            };
            if busy {
                return;
            }
            self.busy.notified().await;
        }
    }

    /// No more calls will come: returns the pieces that wait for one.
    pub(super) fn close(&self) -> Vec<Early> {
        let mut inner = self.lock();
        inner.closed = true;
        std::mem::take(&mut inner.early)
    }

    /// The streams of all calls.
    pub(super) fn streams(&self) -> Vec<Arc<Stream>> {
        let inner = self.lock();
        let streams = inner.live.values().filter_map(|live| live.stream.clone());
        streams.collect()
    }

    /// Pieces whose call did not come in time.
    pub(super) fn late(&self) -> Vec<Early> {
        let now = Instant::now();
        self.lock()
            .early
            .extract_if(.., |early| early.until <= now)
            .collect()
    }

    /// The streams of clients that are not heard of any more, and how many clients these are.
    pub(super) fn silent(&self) -> (Vec<(CallKey, Arc<Stream>)>, usize) {
        let now = Instant::now();
        let inner = self.lock();
        let is_silent = |key: &CallKey| {
            let epoch = inner.epochs.get(&key.of_epoch());
            epoch.is_none_or(|epoch| {
                now.saturating_duration_since(epoch.last) >= SILENT
                    && epoch.heard.at().elapsed() >= SILENT
            })
        };
        let silent: Vec<_> = inner
            .live
            .iter()
            .filter_map(|(key, live)| Some((*key, live.stream.clone()?)))
            .filter(|(key, _)| is_silent(key))
            .collect();
        let mut clients: Vec<_> = silent.iter().map(|(key, _)| key.of_epoch()).collect();
        clients.sort_unstable();
        clients.dedup();
        (silent, clients.len())
    }

    /// Tells the task of a call that was started. Not a part of [`Self::start`], because a
    /// runtime that is shutting down drops a new task, which then finishes, inside of `spawn`.
    pub(super) fn running(&self, key: CallKey, task: AbortHandle) {
        let cancelled = match self.lock().live.get_mut(&key).map(|live| &mut live.task) {
            // It has ended already.
            None => return,
            Some(state @ Task::Starting) => {
                *state = Task::Running(task);
                return;
            }
            Some(Task::Running(_) | Task::Cancelled) => task,
        };
        cancelled.abort();
    }

    /// Ends a call; one that has not come yet is refused when it does. Returns its stream.
    pub(super) fn cancel(&self, key: CallKey) -> Option<Arc<Stream>> {
        let mut inner = self.lock();
        let live = inner.live.get_mut(&key);
        let (task, stream) = match live {
            Some(live) => (Some(live.task.cancel()), live.stream.clone()),
            None => (None, None),
        };
        if task.is_none() && inner.mark(key, self.limits).is_err() {
            tracing::debug!("no room to remember a cancelled call");
        }
        // Aborting runs other people's code.
        drop(inner);
        if let Some(task) = task.flatten() {
            task.abort();
        }
        stream
    }

    /// Ends all calls.
    pub(super) fn cancel_all(&self) {
        let tasks: Vec<_> = self
            .lock()
            .live
            .values_mut()
            .filter_map(|live| live.task.cancel())
            .collect();
        for task in tasks {
            task.abort();
        }
    }

    /// Takes a call off the list of live ones.
    pub(super) fn finish(&self, key: CallKey) {
        let mut inner = self.lock();
        let Some(live) = inner.live.remove(&key) else {
            return;
        };
        if live.stream.is_some() {
            inner.streams -= 1;
        }
        if let Some(epoch) = inner.epochs.get_mut(&key.of_epoch()) {
            epoch.live = epoch.live.saturating_sub(1);
        }
        if inner.live.is_empty() {
            self.idle.notify_waiters();
        }
    }

    /// Waits until no call is live.
    pub(super) async fn idle(&self) {
        loop {
            let notified = self.idle.notified();
            if self.lock().live.is_empty() {
                return;
            }
            notified.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Marks a call as seen. Its epoch, or `None` if it was seen before.
    fn mark(&mut self, key: CallKey, limits: Limits) -> Result<Option<&mut Epoch>, Refusal> {
        let now = Instant::now();
        if now.duration_since(self.swept) >= SWEEP {
            self.sweep(now);
        }
        let id = key.of_epoch();
        let crowded = self.epochs.len() >= MAX_EPOCHS && !self.epochs.contains_key(&id);
        if crowded || self.ranges >= MAX_ALL_RANGES {
            self.make_room(id);
        }
        // With fewer epochs nobody is greedy. To find that out takes a look at all of them, which
        // those that are known are spared.
        if self.epochs.len() >= MAX_EPOCHS_OF_HOST
            && !self.epochs.contains_key(&id)
            && (self.epochs.len() >= MAX_EPOCHS || self.is_greedy(key.client))
        {
            return Err(Refusal::Overloaded);
        }
        let epoch = self.epochs.entry(id).or_insert_with(|| Epoch {
            seen: CallSet::default(),
            live: 0,
            last: now,
            heard: Arc::default(),
            places: Places::new(limits),
            budget: None,
        });
        epoch.last = now;
        let before = epoch.seen.ranges.len();
        let new = epoch.seen.insert(key.call);
        self.ranges = self.ranges + epoch.seen.ranges.len() - before;
        Ok(new.then_some(epoch))
    }

    /// Whether one host has so many epochs with calls running that others would be shut out.
    fn is_greedy(&self, client: IpAddr) -> bool {
        let busy = |(key, epoch): &(&EpochKey, &Epoch)| key.client == client && epoch.live > 0;
        self.epochs.iter().filter(busy).count() >= MAX_EPOCHS_OF_HOST
    }

    fn sweep(&mut self, now: Instant) {
        self.swept = now;
        self.epochs.retain(|_, epoch| {
            epoch.live > 0 || now.saturating_duration_since(epoch.last) < REMEMBERED
        });
        self.count_ranges();
    }

    /// Forgets the eighth of the epochs that was silent longest, so that this is rarely needed.
    fn make_room(&mut self, keep: EpochKey) {
        let mut silent: Vec<_> = self
            .epochs
            .iter()
            .filter(|(id, epoch)| epoch.live == 0 && **id != keep)
            .map(|(id, epoch)| (epoch.last, *id))
            .collect();
        let count = (self.epochs.len() / 8 + 1).min(silent.len());
        if count > 0 {
            silent.select_nth_unstable(count - 1);
        }
        for (_, id) in &silent[..count] {
            self.epochs.remove(id);
        }
        self.count_ranges();
        if self.ranges >= MAX_ALL_RANGES {
            // Only busy epochs are left: close their gaps.
            for epoch in self.epochs.values_mut() {
                epoch.seen.close_gaps(0);
            }
            self.count_ranges();
        }
    }

    fn count_ranges(&mut self) {
        self.ranges = self
            .epochs
            .values()
            .map(|epoch| epoch.seen.ranges.len())
            .sum();
    }
}

/// The calls of an epoch that were seen: all up to a mark, and ranges above it. A client numbers
/// its calls in order, so that there are few ranges, mostly none.
#[derive(Debug, Default)]
struct CallSet {
    /// Every call up to here counts as seen.
    up_to: u64,
    /// First and last of each range: in order, apart from each other and from `up_to`.
    ranges: Vec<(u64, u64)>,
}

impl CallSet {
    /// Whether `call` is new.
    fn insert(&mut self, call: u64) -> bool {
        if call <= self.up_to {
            return false;
        }
        let at = self.ranges.partition_point(|(_, last)| *last < call);
        if self.ranges.get(at).is_some_and(|(first, _)| *first <= call) {
            return false;
        }
        let after_mark = at == 0 && self.up_to + 1 == call;
        let after_range = at > 0 && self.ranges[at - 1].1 + 1 == call;
        let before_range = self
            .ranges
            .get(at)
            .is_some_and(|(first, _)| call.checked_add(1) == Some(*first));
        match (after_mark, after_range, before_range) {
            (true, _, true) => self.up_to = self.ranges.remove(0).1,
            (true, _, false) => self.up_to = call,
            (_, true, true) => self.ranges[at - 1].1 = self.ranges.remove(at).1,
            (_, true, false) => self.ranges[at - 1].1 = call,
            (_, false, true) => self.ranges[at].0 = call,
            (_, false, false) => self.ranges.insert(at, (call, call)),
        }
        if self.ranges.len() > MAX_RANGES {
            // Many at once: taking off the first of a long row is expensive.
            self.close_gaps(MAX_RANGES / 4 * 3);
        }
        true
    }

    /// Whether `call` was seen.
    fn contains(&self, call: u64) -> bool {
        let at = self.ranges.partition_point(|(_, last)| *last < call);
        call <= self.up_to || self.ranges.get(at).is_some_and(|(first, _)| *first <= call)
    }

    /// Raises the mark until only `left` ranges are left. Calls in the gaps below then count as
    /// seen: running none of them is safe, running one twice is not.
    fn close_gaps(&mut self, left: usize) {
        let excess = self.ranges.len().saturating_sub(left);
        if let Some((_, last)) = self.ranges.drain(..excess).next_back() {
            self.up_to = last;
        }
        if left == 0 {
            self.ranges.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn key(epoch: u64, call: u64) -> CallKey {
        CallKey {
            client: IpAddr::from([127, 0, 0, 1]),
            epoch,
            call,
        }
    }

    fn identities(limit: Option<usize>) -> Identities {
        let limits = Limits {
            handlers: limit,
            calls: None,
        };
        Identities::new(limits, 1 << 20, Arc::default())
    }

    #[test]
    fn a_call_set_is_a_set() {
        let mut random = 1_u64;
        let mut set = CallSet::default();
        let mut model = BTreeSet::new();
        for _ in 0..20_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let call = (random >> 33) % 3_000 + 1;
            assert_eq!(set.contains(call), model.contains(&call), "{call}");
            assert_eq!(set.insert(call), model.insert(call), "{call}");
            assert!(set.ranges.is_sorted());
            assert!(set.ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        }
        assert!(set.insert(u64::MAX) && set.insert(u64::MAX - 1) && !set.insert(u64::MAX));
        assert!(!set.insert(0));
    }

    #[test]
    fn calls_in_order_need_no_ranges() {
        let mut set = CallSet::default();
        assert!([1, 2, 4, 3, 5].into_iter().all(|call| set.insert(call)));
        assert_eq!((set.up_to, set.ranges.len()), (5, 0));
    }

    #[test]
    fn gaps_are_closed_from_below_when_there_are_too_many() {
        let mut set = CallSet::default();
        for call in 0..3 * MAX_RANGES as u64 {
            assert!(set.insert(10 + 2 * call));
            assert!(set.ranges.len() <= MAX_RANGES);
        }
        assert!(set.up_to > 0 && !set.insert(11) && !set.insert(10));
    }

    #[tokio::test]
    async fn a_call_starts_once_and_not_after_its_cancel() {
        let seen = identities(None);
        let duplicate = |key| matches!(seen.start(key), Err(Refusal::Duplicate));
        assert!(!duplicate(key(1, 1)) && duplicate(key(1, 1)) && !duplicate(key(2, 1)));
        seen.cancel(key(1, 2));
        assert!(duplicate(key(1, 2)));
        seen.finish(key(1, 1));
        assert!(duplicate(key(1, 1)));
    }

    #[tokio::test]
    async fn cancel_ends_the_task_whenever_it_comes() {
        let seen = identities(None);
        let spawn = || tokio::spawn(std::future::pending::<()>());
        // While the task runs, before it is known, and together with all others.
        for call in 1..=3 {
            let task = spawn();
            assert!(seen.start(key(1, call)).is_ok());
            if call == 2 {
                seen.cancel(key(1, call));
            }
            seen.running(key(1, call), task.abort_handle());
            match call {
                1 => drop(seen.cancel(key(1, call))),
                2 => {}
                _ => seen.cancel_all(),
            }
            assert!(task.await.unwrap_err().is_cancelled());
        }
        // A task that ended before it was told is not kept.
        assert!(seen.start(key(1, 4)).is_ok());
        seen.finish(key(1, 4));
        seen.running(key(1, 4), spawn().abort_handle());
        assert!(!seen.lock().live.contains_key(&key(1, 4)));
    }

    #[tokio::test(start_paused = true)]
    async fn silent_epochs_are_forgotten_and_their_number_is_bounded() {
        let seen = identities(Some(3));
        seen.cancel(key(1, 1));
        tokio::time::sleep(REMEMBERED + SWEEP).await;
        seen.cancel(key(2, 1));
        assert_eq!(seen.lock().epochs.len(), 1);
        for epoch in 0..3 * MAX_EPOCHS as u64 {
            seen.cancel(key(epoch, 7));
        }
        let inner = seen.lock();
        assert!(inner.epochs.len() <= MAX_EPOCHS && inner.ranges == inner.epochs.len());
    }

    #[tokio::test]
    async fn ranges_are_bounded_in_sum() {
        let seen = identities(None);
        for epoch in 1..100 {
            for call in 1..MAX_RANGES as u64 {
                seen.cancel(key(epoch, 2 * call));
            }
        }
        let inner = seen.lock();
        let sum: usize = inner
            .epochs
            .values()
            .map(|epoch| epoch.seen.ranges.len())
            .sum();
        assert!(
            sum == inner.ranges && sum <= MAX_ALL_RANGES,
            "{sum} {}",
            inner.ranges
        );
    }

    #[tokio::test]
    async fn idle_waits_for_the_last_call() {
        let seen = Arc::new(identities(None));
        assert!(seen.start(key(1, 1)).is_ok());
        let waiting = tokio::spawn({
            let seen = seen.clone();
            async move { seen.idle().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        seen.finish(key(1, 1));
        waiting.await.unwrap();
    }
}
