//! The suite `grpc` of `bench compare`: tonic over TCP and over Homa.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tonic_homa::transport::{self, Channel, Endpoint};

use super::compare::CompareError;
use super::load::{self, Kind, LoadError, Stack};
use super::plan::{
    Bound, Claim, KB, SHORT_ALONE, SHORT_BEHIND_BULK, Scenario, Sides, Suite, Variant, behind_bulk,
    plain, streamed,
};
use crate::child::Serving;
use crate::echo::proto::Payload;
use crate::echo::proto::echo_client::EchoClient;
use crate::echo::{self, Uris, WINDOW};

/// Names of the rows whose rates are claims.
const SERVER_STREAM: &str = "server stream of 1 KB messages";
const BUSY_PING_PONG: &str = "ping-pong on one stream, busy_poll 50 us";

/// The channels that rows are measured on, and the process that serves them.
pub(super) struct Grpc {
    tcp: Channel,
    tcp_wide: Channel,
    homa: Channel,
    homa_busy: Channel,
    _server: Serving<Uris>,
}

impl Suite for Grpc {
    type Stack = Channel;

    const WHAT: &'static str = "tonic";

    const ROWS: &'static [Scenario] = &[
        plain(SHORT_ALONE, 100, 1),
        plain("100 B, 1 in flight, busy_poll 50 us", 100, 1).with(Variant::BusyPoll),
        plain("100 B, 64 in flight", 100, 64),
        plain("10 KB, 16 in flight", 10 * KB, 16),
        plain("500 KB, 1 in flight", 500 * KB, 1),
        plain("500 KB, 8 in flight", 500 * KB, 8),
        streamed(SERVER_STREAM, Kind::Streamed, KB),
        streamed("ping-pong on one stream, 100 B", Kind::PingPong, 100),
        streamed(BUSY_PING_PONG, Kind::PingPong, 100).with(Variant::BusyPoll),
        behind_bulk(SHORT_BEHIND_BULK),
        behind_bulk("100 B behind 4 x 500 KB, 4 MiB TCP windows").with(Variant::WideWindows),
    ];

    const CLAIMS: &'static [Claim] = &[
        Claim {
            row: SHORT_ALONE,
            what: "p50",
            ratio: |row| Some(row.ratio_p50),
            bound: Bound::AtMost(1.0),
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
            bound: Bound::AtMost(0.2),
        },
    ];

    async fn start() -> Result<Self, CompareError> {
        let server = echo::start().await?;
        let uris = &server.at;
        Ok(Self {
            tcp: connect(&uris.tcp, Variant::Defaults).await?,
            tcp_wide: connect(&uris.tcp_wide, Variant::WideWindows).await?,
            homa: connect(&uris.homa, Variant::Defaults).await?,
            homa_busy: connect(&uris.homa_busy, Variant::BusyPoll).await?,
            _server: server,
        })
    }

    fn sides(&self, variant: Variant) -> Sides<'_, Channel> {
        let (tcp, homa) = match variant {
            Variant::WideWindows => (&self.tcp_wide, &self.homa),
            Variant::BusyPoll => (&self.tcp, &self.homa_busy),
            Variant::Defaults | Variant::Gateway => (&self.tcp, &self.homa),
        };
        Sides { tcp, homa }
    }
}

async fn connect(uri: &str, variant: Variant) -> Result<Channel, CompareError> {
    let connect = async {
        let mut endpoint = Endpoint::from_shared(uri.to_owned())?.tcp_nodelay(true);
        match variant {
            Variant::WideWindows => {
                endpoint = endpoint
                    .initial_stream_window_size(WINDOW)
                    .initial_connection_window_size(WINDOW);
            }
            Variant::BusyPoll => endpoint = endpoint.homa_config(echo::busy()),
            Variant::Defaults | Variant::Gateway => {}
        }
        endpoint.connect().await
    };
    connect
        .await
        .map_err(|source: transport::Error| CompareError::Connect {
            uri: uri.to_owned(),
            source: source.into(),
        })
}

impl Stack for Channel {
    type Caller = Caller;

    fn caller(&self, kind: Kind, payload: load::Payload) -> Result<Caller, LoadError> {
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
    payload: load::Payload,
    stream: Option<Stream>,
}

/// A call that goes on until it is dropped.
struct Stream {
    pings: Option<mpsc::Sender<Payload>>,
    messages: Streaming<Payload>,
}

impl Caller {
    fn message(&self) -> Payload {
        Payload {
            data: self.payload.bytes().clone(),
        }
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

impl load::Caller for Caller {
    const BLOCKS: bool = false;

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
        self.payload.check(&received.data)
    }
}
