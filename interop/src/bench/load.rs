//! The load of one row on one stack: closed loops of callers and streams, and what they saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tonic_homa::transport::Channel;

use crate::echo::proto::Payload;
use crate::echo::proto::echo_client::EchoClient;
use crate::latency::{self, empty_histogram};

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
}

/// Why a round gave no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("a call failed")]
    Call(#[source] Box<Status>),
    #[error("the server ended a stream that only the client may end")]
    Ended,
    #[error("a call of {sent} bytes was answered with {received} bytes that are not the same")]
    WrongBytes { sent: usize, received: usize },
    #[error("{samples} of {wanted} calls were measured after {waited:?}; giving up")]
    TooSlow {
        samples: u64,
        wanted: u64,
        waited: Duration,
    },
    #[error("a calling task ended early")]
    Task(#[from] tokio::task::JoinError),
}

impl From<Status> for LoadError {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(status))
    }
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
    /// Bytes of bulk calls that have finished since the round began.
    bulk_bytes: AtomicU64,
}

/// Puts `load` on `channel` for one round.
pub(crate) async fn run(
    channel: &Channel,
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
        bulk_bytes: AtomicU64::new(0),
    });
    let round = callers(channel, load, &shared);
    match tokio::time::timeout(timing.give_up, round).await {
        Ok(measured) => measured,
        Err(_) => Err(LoadError::TooSlow {
            samples: shared.samples.load(Ordering::Relaxed),
            wanted: timing.min_samples.max(1),
            waited: timing.give_up,
        }),
    }
}

async fn callers(
    channel: &Channel,
    load: &Load,
    shared: &Arc<Shared>,
) -> Result<Measured, LoadError> {
    // Dropping a set aborts its tasks, so nothing outlives a round that fails.
    let mut bulk = JoinSet::new();
    if let Some(Bulk { bytes, in_flight }) = load.bulk {
        for index in 0..in_flight {
            let caller = Caller::new(channel, Kind::Call, bytes, index);
            bulk.spawn(caller.keep_in_flight(shared.clone()));
        }
    }
    let mut measuring = JoinSet::new();
    for index in 0..load.in_flight {
        let caller = Caller::new(channel, load.kind, load.bytes, index);
        measuring.spawn(caller.measure(shared.clone()));
    }

    let mut latencies = empty_histogram();
    let mut calls = 0;
    let mut seconds: f64 = 0.0;
    let mut bulk_bytes = 0;
    loop {
        // A bulk call that fails ends the round at once, or it would go on without its load.
        let joined = tokio::select! {
            Some(failed) = bulk.join_next() => { failed??; continue }
            joined = measuring.join_next() => joined,
        };
        let Some(tally) = joined else { break };
        let tally = tally??;
        latencies += &tally.latencies;
        calls += tally.calls;
        seconds = seconds.max(tally.seconds);
        bulk_bytes = bulk_bytes.max(tally.bulk_bytes);
    }
    shared.stop_bulk.store(true, Ordering::Relaxed);
    while let Some(ended) = bulk.join_next().await {
        ended??;
    }

    let rate = calls as f64 / seconds;
    let payload = rate * load.bytes as f64 + bulk_bytes as f64 / seconds;
    Ok(Measured {
        latencies,
        rate,
        gbps: payload * 8.0 / 1e9,
    })
}

/// What one measuring caller saw.
#[derive(Debug)]
struct Tally {
    latencies: Histogram<u64>,
    /// Calls that finished inside the measured time.
    calls: u64,
    /// The measured time.
    seconds: f64,
    /// Bytes of bulk calls that finished inside it.
    bulk_bytes: u64,
}

/// One call in flight, over and over, or one stream.
struct Caller {
    client: EchoClient<Channel>,
    kind: Kind,
    payload: Bytes,
    stream: Option<Stream>,
    received: usize,
}

/// A call that goes on until it is dropped.
struct Stream {
    pings: Option<mpsc::Sender<Payload>>,
    messages: Streaming<Payload>,
}

impl Caller {
    /// The payload differs from those of other callers, so that a response given to the wrong
    /// caller is noticed.
    fn new(channel: &Channel, kind: Kind, bytes: usize, index: usize) -> Self {
        let payload = (0..bytes)
            .map(|at| (at / 251 + at + index * 83) as u8)
            .collect();
        Self {
            client: EchoClient::new(channel.clone()),
            kind,
            payload,
            stream: None,
            received: 0,
        }
    }

    fn message(&self) -> Payload {
        Payload {
            data: self.payload.clone(),
        }
    }

    /// Calls once, or has one message come by the stream, which the first one opens.
    async fn exchange(&mut self) -> Result<(), LoadError> {
        let received = match self.kind {
            Kind::Call => self.client.call(self.message()).await?.into_inner(),
            Kind::Streamed | Kind::PingPong => {
                let mut stream = match self.stream.take() {
                    Some(stream) => stream,
                    None => self.open().await?,
                };
                if let Some(pings) = &stream.pings {
                    // The call has ended if this fails, and tells why below.
                    let _ = pings.send(self.message()).await;
                }
                let message = stream.messages.message().await?;
                self.stream = Some(stream);
                message.ok_or(LoadError::Ended)?
            }
        };
        self.check(&received.data)
    }

    async fn open(&mut self) -> Result<Stream, Status> {
        let (pings, messages) = if let Kind::PingPong = self.kind {
            let (pings, requests) = mpsc::channel(1);
            let response = self.client.ping_pong(ReceiverStream::new(requests)).await?;
            (Some(pings), response)
        } else {
            (None, self.client.repeat(self.message()).await?)
        };
        Ok(Stream {
            pings,
            messages: messages.into_inner(),
        })
    }

    fn check(&mut self, received: &Bytes) -> Result<(), LoadError> {
        let compare = received.len() <= ALWAYS_COMPARE || self.received.is_multiple_of(16);
        self.received += 1;
        if received.len() != self.payload.len() || compare && *received != self.payload {
            let (sent, received) = (self.payload.len(), received.len());
            return Err(LoadError::WrongBytes { sent, received });
        }
        Ok(())
    }

    async fn measure(mut self, shared: Arc<Shared>) -> Result<Tally, LoadError> {
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
                let bulk_bytes = shared.bulk_bytes.load(Ordering::Relaxed);
                return Ok(Tally {
                    latencies,
                    calls,
                    seconds: (end - shared.begin).as_secs_f64(),
                    bulk_bytes: bulk_bytes - bulk_at_begin.unwrap_or(bulk_bytes),
                });
            }
            if started >= shared.begin && bulk_at_begin.is_none() {
                bulk_at_begin = Some(shared.bulk_bytes.load(Ordering::Relaxed));
            }
            self.exchange().await?;
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

    async fn keep_in_flight(mut self, shared: Arc<Shared>) -> Result<(), LoadError> {
        while !shared.stop_bulk.load(Ordering::Relaxed) {
            self.exchange().await?;
            shared
                .bulk_bytes
                .fetch_add(self.payload.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}
