//! The echo service of Thrift, on Homa and on the thrift crate's own framed TCP.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thrift::protocol::{TBinaryInputProtocolFactory, TBinaryOutputProtocolFactory};
use thrift::server::TServer;
use thrift::transport::{TFramedReadTransportFactory, TFramedWriteTransportFactory};
use thrift::{ApplicationError, ApplicationErrorKind};
use thrift_homa::gateway::{self, GatewayOptions};
use thrift_homa::{Endpoint, HomaServer, UriError};

use super::{MAX_RESPONSE, Options};
use crate::child::{self, Serving, StartError};
use crate::thrift::echo::{EchoSyncHandler, EchoSyncProcessor};

/// Workers over Homa, which take one call at a time.
const HOMA_WORKERS: usize = 8;

/// How long `TServer` may take until it listens.
const START_TIME: Duration = Duration::from_secs(5);

/// What can be set on the process that serves.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Workers over TCP, each of which has one connection for as long as that is open. So many that
    /// none has to wait.
    #[arg(long, value_name = "N", default_value_t = 80)]
    connections: u16,
}

/// Where the service is to be had.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Addresses {
    /// Framed, on TCP.
    pub(crate) tcp: SocketAddr,
    pub(crate) homa: SocketAddr,
    /// On Homa, but behind a gateway that has one connection to the one on TCP.
    pub(crate) shared: SocketAddr,
    /// Who serves.
    pub(crate) pid: u32,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("cannot listen on {addr}{}", remedy(source))]
    Listen { addr: SocketAddr, source: io::Error },
    #[error("cannot serve")]
    Serve(#[from] thrift::Error),
    #[error("TServer did not listen within {START_TIME:?}")]
    Silent,
    #[error(transparent)]
    Uri(#[from] UriError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; stop the program that does, or choose another port",
        _ => "",
    }
}

/// Starts the second process.
pub(crate) async fn start(
    options: &Options,
    connections: u16,
) -> Result<Serving<Addresses>, StartError> {
    let mut command = vec!["serve-thrift-echo".to_owned()];
    command.extend(options.to_arguments());
    command.extend(["--connections".to_owned(), connections.to_string()]);
    Serving::start(&command).await
}

/// What the second process does.
pub(crate) fn serve_until_stdin_ends(arguments: &Arguments) -> Result<(), ServeError> {
    let options = &arguments.options;
    let any = options.any();
    let tcp = serve_tcp(options.listen, arguments.connections.into())?;
    let homa = HomaServer::builder(processor())
        .workers(HOMA_WORKERS)
        .homa(options.homa())
        .bind(options.listen)?
        .spawn()?;
    let mut gateway = GatewayOptions::default();
    gateway.connections = 1;
    let listen: Endpoint = format!("homa://{any}").parse()?;
    let shared = gateway::serve(&listen, &format!("tcp+framed://{tcp}").parse()?, gateway)?;
    child::tell(&Addresses {
        tcp,
        homa: homa.local_addr(),
        shared: shared.local_addr(),
        pid: std::process::id(),
    })?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn processor() -> EchoSyncProcessor<EchoService> {
    EchoSyncProcessor::new(EchoService)
}

/// The thrift crate's own server, on a thread that lives as long as the process.
fn serve_tcp(addr: SocketAddr, connections: usize) -> Result<SocketAddr, ServeError> {
    // It does not tell which port it took, nor before it serves whether it can.
    let addr = TcpListener::bind(addr)
        .and_then(|listener| listener.local_addr())
        .map_err(|source| ServeError::Listen { addr, source })?;
    let mut server = TServer::new(
        TFramedReadTransportFactory::new(),
        TBinaryInputProtocolFactory::new(),
        TFramedWriteTransportFactory::new(),
        TBinaryOutputProtocolFactory::new(),
        processor(),
        connections,
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

    fn handle_answer(&self, mut data: Vec<u8>, bytes: i32) -> thrift::Result<Vec<u8>> {
        let wanted = usize::try_from(bytes).ok();
        let wanted = wanted.filter(|bytes| *bytes <= MAX_RESPONSE);
        let wanted = wanted.ok_or_else(|| {
            let text = format!("bytes is {bytes}, which has to be 0 to {MAX_RESPONSE}");
            ApplicationError::new(ApplicationErrorKind::InternalError, text)
        })?;
        data.resize(wanted, 0);
        Ok(data)
    }
}
