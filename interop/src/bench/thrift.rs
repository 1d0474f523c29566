//! The suite `thrift` of `bench compare`: Apache Thrift over framed TCP and over Homa.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thrift::protocol::{
    TBinaryInputProtocol, TBinaryInputProtocolFactory, TBinaryOutputProtocol,
    TBinaryOutputProtocolFactory, TInputProtocol, TOutputProtocol,
};
use thrift::server::TServer;
use thrift::transport::{
    TFramedReadTransport, TFramedReadTransportFactory, TFramedWriteTransport,
    TFramedWriteTransportFactory, TIoChannel, TTcpChannel,
};
use thrift_homa::gateway::{self, GatewayOptions};
use thrift_homa::{Endpoint, HomaServer, HomaTransport, UriError};

use super::compare::CompareError;
use super::load::{self, Kind, LoadError, Payload, Stack};
use super::plan::{
    Bound, Claim, KB, SHORT_ALONE, SHORT_BEHIND_BULK, Scenario, Sides, Suite, Variant, behind_bulk,
    plain,
};
use crate::child::{self, Serving};
use crate::thrift::echo::{
    EchoSyncClient, EchoSyncHandler, EchoSyncProcessor, TEchoSyncClient as _,
};

/// Name of the row whose rate is a claim.
const MANY_THREADS: &str = "100 B, 64 threads";
/// Name of the row whose tail is a claim, too.
const SHORT_BEHIND_SHARED: &str = "100 B behind 4 x 500 KB, one TCP connection";

/// Workers over Homa, which take one call at a time.
const HOMA_WORKERS: usize = 8;
/// Workers over TCP, each of which has one connection for as long as that is open. So many that
/// none has to wait.
const TCP_WORKERS: usize = 80;

/// Where rows are measured, and the process that serves them.
pub(super) struct Thrift {
    tcp: Place,
    homa: Place,
    shared: Place,
    _server: Serving<Addresses>,
}

/// Where the service is to be had.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Addresses {
    /// Framed, on TCP.
    tcp: SocketAddr,
    homa: SocketAddr,
    /// On Homa, but behind a gateway that has one connection to the one on TCP.
    shared: SocketAddr,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Tcp(SocketAddr),
    Homa(SocketAddr),
}

impl Suite for Thrift {
    type Stack = Place;

    const WHAT: &'static str = "Thrift";

    const ROWS: &'static [Scenario] = &[
        plain(SHORT_ALONE, 100, 1),
        plain(MANY_THREADS, 100, 64),
        plain("10 KB, 16 threads", 10 * KB, 16),
        plain("500 KB, 1 in flight", 500 * KB, 1),
        behind_bulk(SHORT_BEHIND_BULK),
        behind_bulk(SHORT_BEHIND_SHARED).with(Variant::Gateway),
    ];

    const CLAIMS: &'static [Claim] = &[
        Claim {
            row: SHORT_ALONE,
            what: "p50",
            ratio: |row| Some(row.ratio_p50),
            bound: Bound::AtMost(1.3),
        },
        Claim {
            row: MANY_THREADS,
            what: "calls/s",
            ratio: |row| Some(row.ratio_rate),
            bound: Bound::AtLeast(1.0),
        },
        Claim {
            row: SHORT_BEHIND_BULK,
            what: "p99",
            ratio: |row| row.ratio_p99,
            bound: Bound::AtMost(1.0),
        },
        Claim {
            row: SHORT_BEHIND_SHARED,
            what: "p99",
            ratio: |row| row.ratio_p99,
            bound: Bound::AtMost(0.1),
        },
    ];

    async fn start() -> Result<Self, CompareError> {
        let server = Serving::start(&["serve-thrift-echo"]).await?;
        let Addresses { tcp, homa, shared } = server.at;
        Ok(Self {
            tcp: Place::Tcp(tcp),
            homa: Place::Homa(homa),
            shared: Place::Homa(shared),
            _server: server,
        })
    }

    fn sides(&self, variant: Variant) -> Sides<'_, Place> {
        let tcp = match variant {
            Variant::Gateway => &self.shared,
            _ => &self.tcp,
        };
        let homa = &self.homa;
        Sides { tcp, homa }
    }
}

impl Place {
    fn client(self) -> thrift::Result<Client> {
        let (input, output): (BoxedInput, BoxedOutput) = match self {
            Self::Tcp(addr) => {
                let mut channel = TTcpChannel::new();
                channel.open(addr)?;
                let (read, write) = channel.split()?;
                let read = TFramedReadTransport::new(read);
                let write = TFramedWriteTransport::new(write);
                (
                    Box::new(TBinaryInputProtocol::new(read, true)),
                    Box::new(TBinaryOutputProtocol::new(write, true)),
                )
            }
            Self::Homa(addr) => {
                let (input, output) = HomaTransport::open(addr)?.protocols();
                (Box::new(input), Box::new(output))
            }
        };
        Ok(EchoSyncClient::new(input, output))
    }
}

impl Stack for Place {
    type Caller = Caller;

    fn caller(&self, _kind: Kind, payload: Payload) -> Result<Caller, LoadError> {
        let client = self.client()?;
        Ok(Caller { client, payload })
    }
}

type BoxedInput = Box<dyn TInputProtocol + Send>;
type BoxedOutput = Box<dyn TOutputProtocol + Send>;
type Client = EchoSyncClient<BoxedInput, BoxedOutput>;

/// A thread with a client of its own.
pub(crate) struct Caller {
    client: Client,
    payload: Payload,
}

impl load::Caller for Caller {
    const BLOCKS: bool = true;

    async fn exchange(&mut self) -> Result<(), LoadError> {
        let received = self.client.call(self.payload.bytes().to_vec())?;
        self.payload.check(&received)
    }
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("cannot serve")]
    Serve(#[from] thrift::Error),
    #[error("TServer did not listen within {START_TIME:?}")]
    Silent,
    #[error(transparent)]
    Uri(#[from] UriError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How long `TServer` may take until it listens.
const START_TIME: Duration = Duration::from_secs(5);

/// What the second process does.
pub(crate) fn serve_until_stdin_ends() -> Result<(), ServeError> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let tcp = serve_tcp(any)?;
    let homa = HomaServer::builder(processor())
        .workers(HOMA_WORKERS)
        .bind(any)?
        .spawn()?;
    let mut options = GatewayOptions::default();
    options.connections = 1;
    let listen: Endpoint = format!("homa://{any}").parse()?;
    let shared = gateway::serve(&listen, &format!("tcp+framed://{tcp}").parse()?, options)?;
    child::tell(&Addresses {
        tcp,
        homa: homa.local_addr(),
        shared: shared.local_addr(),
    })?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn processor() -> EchoSyncProcessor<EchoService> {
    EchoSyncProcessor::new(EchoService)
}

/// The thrift crate's own server, on a thread that lives as long as the process.
fn serve_tcp(any: SocketAddr) -> Result<SocketAddr, ServeError> {
    // It does not tell which port it took.
    let addr = TcpListener::bind(any)?.local_addr()?;
    let mut server = TServer::new(
        TFramedReadTransportFactory::new(),
        TBinaryInputProtocolFactory::new(),
        TFramedWriteTransportFactory::new(),
        TBinaryOutputProtocolFactory::new(),
        processor(),
        TCP_WORKERS,
    );
    std::thread::Builder::new().spawn(move || server.listen(addr))?;
    let began = Instant::now();
    while TcpStream::connect(addr).is_err() {
        if began.elapsed() > START_TIME {
            return Err(ServeError::Silent);
        }
        std::thread::yield_now();
    }
    Ok(addr)
}

/// Answers with what it was sent.
struct EchoService;

impl EchoSyncHandler for EchoService {
    fn handle_call(&self, data: Vec<u8>) -> thrift::Result<Vec<u8>> {
        Ok(data)
    }
}
