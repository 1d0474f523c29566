//! The suite `grpc` of `bench compare`: tonic over TCP and over Homa.

use std::thread;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tonic_homa::transport::{Channel, Endpoint};

use super::CompareError;
use super::closed::{self, Kind, Stack};
use super::plan::{
    Bound, Claim, KB, SHORT_ALONE, SHORT_BEHIND_BULK, Scenario, Sides, Suite, Variant, behind_bulk,
    plain, streamed,
};
use crate::bench::call::CallFailed;
use crate::bench::connect;
use crate::child::Serving;
use crate::echo::proto::Payload;
use crate::echo::proto::echo_client::EchoClient;
use crate::echo::{self, Options, Uris, WINDOW};
use crate::runtime;

/// Names of the rows about which there are claims.
const SHORT_ONE_WORKER: &str = "100 B, 1 in flight, one worker, busy_poll";
const MANY_SHORT: &str = "100 B, 64 in flight";
const MEDIUM: &str = "10 KB, 16 in flight";
const LONG_ALONE: &str = "500 KB, 1 in flight";
const LONG: &str = "500 KB, 8 in flight";
const SERVER_STREAM: &str = "server stream of 1 KB messages";
const BUSY_PING_PONG: &str = "ping-pong on one stream, busy_poll 50 us";
const BEHIND_BULK_ONE_WORKER: &str = "100 B behind 4 x 500 KB, one worker";

/// What rows are measured on.
pub(super) struct Grpc {
    /// tokio's default runtime on both sides.
    many: Pair,
    /// Its current-thread runtime on both sides.
    one: Pair,
    /// Drives the clients of `one`.
    worker: Worker,
}

/// The channels from one runtime to one process that serves.
struct Pair {
    tcp: Channel,
    tcp_wide: Channel,
    homa: Channel,
    homa_busy: Channel,
    server: Serving<Uris>,
}

impl Suite for Grpc {
    type Stack = Channel;

    const WHAT: &'static str = "tonic";

    const ROWS: &'static [Scenario] = &[
        plain(SHORT_ALONE, 100, 1),
        plain("100 B, 1 in flight, busy_poll 50 us", 100, 1).with(Variant::BusyPoll),
        plain(SHORT_ONE_WORKER, 100, 1).with(Variant::OneWorkerBusyPoll),
        plain(MANY_SHORT, 100, 64),
        plain(MEDIUM, 10 * KB, 16),
        plain(LONG_ALONE, 500 * KB, 1),
        plain(LONG, 500 * KB, 8),
        streamed(SERVER_STREAM, Kind::Streamed, KB),
        streamed("ping-pong on one stream, 100 B", Kind::PingPong, 100),
        streamed(BUSY_PING_PONG, Kind::PingPong, 100).with(Variant::BusyPoll),
        behind_bulk(SHORT_BEHIND_BULK),
        behind_bulk(BEHIND_BULK_ONE_WORKER).with(Variant::OneWorker),
        behind_bulk("100 B behind 4 x 500 KB, 4 MiB TCP windows").with(Variant::WideWindows),
    ];

    const CLAIMS: &'static [Claim] = &[
        Claim {
            row: SHORT_ALONE,
            what: "p50",
            ratio: |row| Some(row.ratio_p50),
            bound: Bound::AtMost(0.4),
        },
        Claim {
            row: SHORT_ALONE,
            what: "CPU per call",
            ratio: |row| row.ratio_cpu,
            bound: Bound::AtMost(0.5),
        },
        Claim {
            row: SHORT_ONE_WORKER,
            what: "p50",
            ratio: |row| Some(row.ratio_p50),
            bound: Bound::AtMost(0.3),
        },
        Claim {
            row: MANY_SHORT,
            what: "calls/s",
            ratio: |row| Some(row.ratio_rate),
            bound: Bound::AtLeast(2.5),
        },
        Claim {
            row: MEDIUM,
            what: "calls/s",
            ratio: |row| Some(row.ratio_rate),
            bound: Bound::AtLeast(2.0),
        },
        Claim {
            row: LONG_ALONE,
            what: "goodput",
            ratio: |row| Some(row.ratio_rate),
            bound: Bound::AtLeast(1.0),
        },
        Claim {
            row: LONG,
            what: "goodput",
            ratio: |row| Some(row.ratio_rate),
            bound: Bound::AtLeast(1.3),
        },
        Claim {
            row: SERVER_STREAM,
            what: "messages/s",
            ratio: |row| Some(row.ratio_rate),
            bound: Bound::AtLeast(1.0),
        },
        Claim {
            row: BUSY_PING_PONG,
            what: "messages/s",
            ratio: |row| Some(row.ratio_rate),
            bound: Bound::AtLeast(1.5),
        },
        Claim {
            row: SHORT_BEHIND_BULK,
            what: "p99",
            ratio: |row| row.ratio_p99,
            bound: Bound::AtMost(0.1),
        },
        Claim {
            row: BEHIND_BULK_ONE_WORKER,
            what: "p99",
            ratio: |row| row.ratio_p99,
            bound: Bound::AtMost(1.0 / 15.0),
        },
    ];

    async fn start() -> Result<Self, CompareError> {
        let many = Pair::connect(None).await?;
        let worker = Worker::start()?;
        // What connects drives the connection.
        let one = worker.handle.spawn(Pair::connect(Some(1)));
        let one = one.await.map_err(|_| CompareError::Worker)??;
        Ok(Self { many, one, worker })
    }

    fn sides(&self, variant: Variant) -> Sides<Channel> {
        let (pair, runtime) = match variant {
            Variant::OneWorker | Variant::OneWorkerBusyPoll => (&self.one, &self.worker.handle),
            _ => (&self.many, &Handle::current()),
        };
        let (tcp, homa) = match variant {
            Variant::WideWindows => (&pair.tcp_wide, &pair.homa),
            Variant::BusyPoll | Variant::OneWorkerBusyPoll => (&pair.tcp, &pair.homa_busy),
            Variant::Defaults | Variant::OneWorker | Variant::Gateway => (&pair.tcp, &pair.homa),
        };
        Sides {
            tcp: tcp.clone(),
            homa: homa.clone(),
            runtime: runtime.clone(),
            server: pair.server.at.pid,
        }
    }
}

impl Pair {
    async fn connect(workers: Option<u16>) -> Result<Self, CompareError> {
        let options = Options {
            workers,
            ..Options::default()
        };
        let server = echo::start(&options).await?;
        let uris = &server.at;
        let plain = |endpoint| endpoint;
        let wide = |endpoint: Endpoint| {
            endpoint
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
        };
        let busy = |endpoint: Endpoint| endpoint.homa_config(echo::busy(options.homa()));
        Ok(Self {
            tcp: connect::tonic(&uris.tcp, plain).await?,
            tcp_wide: connect::tonic(&uris.tcp_wide, wide).await?,
            homa: connect::tonic(&uris.homa, plain).await?,
            homa_busy: connect::tonic(&uris.homa_busy, busy).await?,
            server,
        })
    }
}

/// A thread that runs tokio's current-thread runtime. It ends with this.
struct Worker {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl Worker {
    fn start() -> Result<Self, CompareError> {
        let runtime = runtime::with_workers(Some(1)).map_err(CompareError::Runtime)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let name = "one-worker".to_owned();
        let run = move || {
            // It fails when the sender is dropped.
            let _ = runtime.block_on(stopped);
        };
        let thread = thread::Builder::new().name(name);
        thread.spawn(run).map_err(CompareError::Runtime)?;
        Ok(Self {
            handle,
            _stop: stop,
        })
    }
}

impl Stack for Channel {
    type Caller = Caller;

    fn caller(&self, kind: Kind, payload: closed::Payload) -> Result<Caller, CallFailed> {
        Ok(Caller {
            client: EchoClient::new(self.clone()),
            kind,
            payload,
            stream: None,
        })
    }
}

/// One call in flight, over and over, or one stream.
pub(crate) struct Caller {
    client: EchoClient<Channel>,
    kind: Kind,
    payload: closed::Payload,
    stream: Option<Stream>,
}

/// A call that goes on until it is dropped.
struct Stream {
    pings: Option<mpsc::Sender<Payload>>,
    messages: Streaming<Payload>,
}

impl Caller {
    fn message(&self) -> Payload {
        self.payload.bytes().clone().into()
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
}

impl closed::Caller for Caller {
    const BLOCKS: bool = false;

    async fn exchange(&mut self) -> Result<(), CallFailed> {
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
                message.ok_or(CallFailed::Ended)?
            }
        };
        self.payload.check(&received.data)
    }
}
