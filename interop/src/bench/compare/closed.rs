//! The load of one row on one stack: closed loops of callers and streams, and what they saw.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use crate::bench::call::CallFailed;
use crate::bench::cpu::{Meter, Used};
use crate::latency::{self, empty_histogram};

/// A transport with a server behind it.
pub(crate) trait Stack: Clone + Send + Sync + 'static {
    type Caller: Caller;

    /// A caller of its own, which sends this payload.
    fn caller(&self, kind: Kind, payload: Payload) -> Result<Self::Caller, CallFailed>;
}

/// Keeps one call in flight, over and over, or has one stream.
pub(crate) trait Caller: Send + 'static {
    /// Whether each needs a thread of its own, since its calls block.
    const BLOCKS: bool;

    /// Calls once, or has one message come by the stream, which the first one opens.
    fn exchange(&mut self) -> impl Future<Output = Result<(), CallFailed>> + Send;
}

/// What is in flight while a row is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// What is measured.
    pub(crate) kind: Kind,
    /// Bytes in the payload of a measured call or message, each way.
    pub(crate) bytes: usize,
    /// Measured calls in flight, or streams.
    pub(crate) in_flight: usize,
    /// Calls that are always in flight beside them, on the same channel, and are not measured.
    pub(crate) bulk: Option<Bulk>,
}

/// What a sample is: one of these, and how long it took.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A unary call.
    Call,
    /// A message that the server streams, from the one before it on.
    Streamed,
    /// A message and its answer, on one stream in both directions.
    PingPong,
}

/// The calls that short ones have to get past.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bulk {
    pub(crate) bytes: usize,
    pub(crate) in_flight: usize,
}

/// How long a round lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// Calls or messages that start in this time are made but not measured.
    pub(crate) warm_up: Duration,
    /// Those that start in this time are measured.
    pub(crate) measure: Duration,
    /// A round goes on until it has this many samples.
    pub(crate) min_samples: u64,
    /// The round fails when it has not ended by then.
    pub(crate) give_up: Duration,
    /// The process that serves, to see how much it works.
    pub(crate) server: Option<u32>,
}

/// What one round saw.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Nanoseconds of each measured call or message.
    pub(crate) latencies: Histogram<u64>,
    /// Measured calls or messages finished per second.
    pub(crate) rate: f64,
    /// Payload carried in one direction, bulk included, in Gbit/s.
    pub(crate) gbps: f64,
    /// Calls or messages that finished in the measured time, bulk included.
    pub(crate) calls: u64,
    /// What the processes did in that time.
    pub(crate) cpu: Used,
}

/// Why a round gave no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Call(#[from] CallFailed),
    #[error("{samples} of {wanted} calls were measured after {waited:?}; giving up")]
    TooSlow {
        samples: u64,
        wanted: u64,
        waited: Duration,
    },
    #[error("a calling task ended early")]
    Task(#[from] tokio::task::JoinError),
}

/// Responses up to this size are compared in full, of longer ones every sixteenth.
const ALWAYS_COMPARE: usize = 16 * 1024;

/// What the callers of a round share.
#[derive(Debug)]
struct Shared {
    begin: Instant,
    end: Instant,
    min_samples: u64,
    samples: AtomicU64,
    stop_bulk: AtomicBool,
    /// Bulk calls that have finished since the round began.
    bulk_calls: AtomicU64,
}

/// Puts `load` on `stack` for one round.
pub(crate) async fn run<S: Stack>(
    stack: &S,
    load: &Load,
    timing: &Timing,
) -> Result<Measured, LoadError> {
    let begin = Instant::now() + timing.warm_up;
    let shared = Arc::new(Shared {
        begin,
        end: begin + timing.measure,
        min_samples: timing.min_samples,
        samples: AtomicU64::new(0),
        stop_bulk: AtomicBool::new(false),
        bulk_calls: AtomicU64::new(0),
    });
    let round = callers(stack, load, timing.server, &shared);
    match tokio::time::timeout(timing.give_up, round).await {
        Ok(measured) => measured,
        Err(_) => Err(LoadError::TooSlow {
            samples: shared.samples.load(Ordering::Relaxed),
            wanted: timing.min_samples.max(1),
            waited: timing.give_up,
        }),
    }
}

async fn callers<S: Stack>(
    stack: &S,
    load: &Load,
    server: Option<u32>,
    shared: &Arc<Shared>,
) -> Result<Measured, LoadError> {
    // Dropping a set aborts its tasks, so nothing outlives a round that fails; threads end with
    // their calls.
    let _stop = StopBulk(shared);
    let mut bulk = JoinSet::new();
    if let Some(Bulk { bytes, in_flight }) = load.bulk {
        for index in 0..in_flight {
            let payload = Payload::new(bytes, index);
            let calls = keep_in_flight(stack.caller(Kind::Call, payload)?, shared.clone());
            spawn::<S::Caller, _>(&mut bulk, calls);
        }
    }
    let mut measuring = JoinSet::new();
    for index in 0..load.in_flight {
        let caller = stack.caller(load.kind, Payload::new(load.bytes, index))?;
        spawn::<S::Caller, _>(&mut measuring, measure(caller, shared.clone()));
    }

    let begin = sleep_until(shared.begin.into());
    tokio::pin!(begin);
    let mut meter = None;
    let mut latencies = empty_histogram();
    let mut calls = 0;
    let mut seconds: f64 = 0.0;
    let mut bulk_calls = 0;
    loop {
        // A bulk call that fails ends the round at once, or it would go on without its load.
        let joined = tokio::select! {
            () = &mut begin, if meter.is_none() => {
                meter = Some(Meter::start(server));
                continue;
            }
            Some(failed) = bulk.join_next() => { failed??; continue }
            joined = measuring.join_next() => joined,
        };
        let Some(tally) = joined else { break };
        let tally = tally??;
        latencies += &tally.latencies;
        calls += tally.calls;
        seconds = seconds.max(tally.seconds);
        bulk_calls = bulk_calls.max(tally.bulk_calls);
    }
    let cpu = meter.map_or_else(Used::default, |meter| meter.used());
    shared.stop_bulk.store(true, Ordering::Relaxed);
    while let Some(ended) = bulk.join_next().await {
        ended??;
    }

    let rate = calls as f64 / seconds;
    let bulk_bytes = load.bulk.map_or(0, |bulk| bulk_calls * bulk.bytes as u64);
    let payload = rate * load.bytes as f64 + bulk_bytes as f64 / seconds;
    Ok(Measured {
        latencies,
        rate,
        gbps: payload * 8.0 / 1e9,
        calls: calls + bulk_calls,
        cpu,
    })
}

/// Ends the bulk calls when the round ends, also if it fails.
struct StopBulk<'a>(&'a Shared);

impl Drop for StopBulk<'_> {
    fn drop(&mut self) {
        self.0.stop_bulk.store(true, Ordering::Relaxed);
    }
}

/// What one measuring caller saw.
#[derive(Debug)]
struct Tally {
    latencies: Histogram<u64>,
    /// Calls that finished inside the measured time.
    calls: u64,
    /// The measured time.
    seconds: f64,
    /// Bulk calls that finished inside it.
    bulk_calls: u64,
}

/// What a caller sends, and has to get back.
#[derive(Debug)]
pub(crate) struct Payload {
    bytes: Bytes,
    received: usize,
}

impl Payload {
    /// It differs from those of other callers, so that a response given to the wrong caller is
    /// noticed.
    fn new(bytes: usize, index: usize) -> Self {
        let bytes = (0..bytes)
            .map(|at| (at / 251 + at + index * 83) as u8)
            .collect();
        Self { bytes, received: 0 }
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether this came back.
    pub(crate) fn check(&mut self, received: &[u8]) -> Result<(), CallFailed> {
        let compare = received.len() <= ALWAYS_COMPARE || self.received.is_multiple_of(16);
        self.received += 1;
        if received.len() != self.bytes.len() || compare && *received != self.bytes {
            let (sent, received) = (self.bytes.len(), received.len());
            return Err(CallFailed::WrongBytes {
                sent,
                wanted: sent,
                received,
            });
        }
        Ok(())
    }
}

/// Runs it as a task, or on a thread if its calls block.
fn spawn<C: Caller, T: Send + 'static>(
    set: &mut JoinSet<T>,
    calls: impl Future<Output = T> + Send + 'static,
) {
    if C::BLOCKS {
        let runtime = Handle::current();
        set.spawn_blocking(move || runtime.block_on(calls));
    } else {
        set.spawn(calls);
    }
}

async fn measure(mut caller: impl Caller, shared: Arc<Shared>) -> Result<Tally, LoadError> {
    let mut latencies = empty_histogram();
    let mut calls = 0;
    let mut bulk_at_begin = None;
    loop {
        let started = Instant::now();
        let enough = shared.samples.load(Ordering::Relaxed) >= shared.min_samples;
        if started >= shared.end && enough {
            // With a minimum of samples the measured time is as long as it took.
            let end = if shared.min_samples == 0 {
                shared.end
            } else {
                started
            };
            let bulk_calls = shared.bulk_calls.load(Ordering::Relaxed);
            return Ok(Tally {
                latencies,
                calls,
                seconds: (end - shared.begin).as_secs_f64(),
                bulk_calls: bulk_calls - bulk_at_begin.unwrap_or(bulk_calls),
            });
        }
        if started >= shared.begin && bulk_at_begin.is_none() {
            bulk_at_begin = Some(shared.bulk_calls.load(Ordering::Relaxed));
        }
        caller.exchange().await?;
        let finished = Instant::now();
        if started >= shared.begin {
            latency::record(&mut latencies, finished - started);
            shared.samples.fetch_add(1, Ordering::Relaxed);
        }
        let inside = finished < shared.end || shared.min_samples > 0;
        if finished >= shared.begin && inside {
            calls += 1;
        }
    }
}

/// Calls until it is told to stop.
async fn keep_in_flight(mut caller: impl Caller, shared: Arc<Shared>) -> Result<(), LoadError> {
    while !shared.stop_bulk.load(Ordering::Relaxed) {
        caller.exchange().await?;
        shared.bulk_calls.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
