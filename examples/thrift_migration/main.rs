//! From `TServer` and `TTcpChannel` to Homa: the lines that change, side by side.
//!
//! ```text
//! cargo run -p homa-examples --bin thrift_migration
//! ```

use std::error::Error;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use homa_examples::calculator::Calculator;
use homa_examples::calculator::idl::{
    CalculatorSyncClient, CalculatorSyncProcessor, Operation, TCalculatorSyncClient as _, Work,
};
use homa_examples::exit;
use thrift::protocol::{
    TBinaryInputProtocol, TBinaryInputProtocolFactory, TBinaryOutputProtocol,
    TBinaryOutputProtocolFactory, TInputProtocol, TOutputProtocol,
};
use thrift::server::TServer;
use thrift::transport::{
    TFramedReadTransport, TFramedReadTransportFactory, TFramedWriteTransport,
    TFramedWriteTransportFactory, TIoChannel, TTcpChannel,
};
use thrift_homa::{
    HomaReadTransportFactory, HomaServer, HomaTransport, HomaWriteTransportFactory, ServerHandle,
};

/// The same service before and after.
#[derive(Parser)]
#[command(after_help = "Example: thrift_migration")]
struct Cli {}

const WORKERS: usize = 4;

fn main() -> ExitCode {
    let Cli {} = Cli::parse();
    exit(run())
}

fn run() -> Result<(), Box<dyn Error>> {
    let addr = serve_before()?;
    calculate("before, framed TCP", client_before(addr)?)?;

    let server = serve_after()?;
    let addr = server.local_addr();
    calculate("after, Homa", client_after(addr)?)?;
    // `TServer` has no end.
    println!("{}", server.shutdown(Duration::from_secs(5)));
    Ok(())
}

/// The thrift crate's server: each worker has one connection, until its client closes it.
fn serve_before() -> Result<SocketAddr, Box<dyn Error>> {
    let mut server = TServer::new(
        TFramedReadTransportFactory::new(),
        TBinaryInputProtocolFactory::new(),
        TFramedWriteTransportFactory::new(),
        TBinaryOutputProtocolFactory::new(),
        CalculatorSyncProcessor::new(Calculator),
        WORKERS,
    );
    // It cannot tell which port it took.
    let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    std::thread::spawn(move || server.listen(addr));
    let began = Instant::now();
    while TcpStream::connect(addr).is_err() {
        if began.elapsed() > Duration::from_secs(5) {
            return Err("the server did not start".into());
        }
    }
    Ok(addr)
}

/// Ours, with the same six arguments: each worker takes one call after the other, of any client.
fn serve_after() -> thrift::Result<ServerHandle> {
    HomaServer::new(
        HomaReadTransportFactory,
        TBinaryInputProtocolFactory::new(),
        HomaWriteTransportFactory,
        TBinaryOutputProtocolFactory::new(),
        CalculatorSyncProcessor::new(Calculator),
        WORKERS,
    )
    .bind("127.0.0.1:0")?
    .spawn()
}

fn client_before(
    addr: SocketAddr,
) -> thrift::Result<CalculatorSyncClient<impl TInputProtocol, impl TOutputProtocol>> {
    let mut channel = TTcpChannel::new();
    channel.open(addr)?;
    let (read, write) = channel.split()?;
    let input = TBinaryInputProtocol::new(TFramedReadTransport::new(read), true);
    let output = TBinaryOutputProtocol::new(TFramedWriteTransport::new(write), true);
    Ok(CalculatorSyncClient::new(input, output))
}

/// No connection to open, and none to find broken.
fn client_after(
    addr: SocketAddr,
) -> thrift::Result<CalculatorSyncClient<impl TInputProtocol, impl TOutputProtocol>> {
    let (input, output) = HomaTransport::open(addr)?.protocols();
    Ok(CalculatorSyncClient::new(input, output))
}

/// Generated code stays as it is.
fn calculate<I: TInputProtocol, O: TOutputProtocol>(
    title: &str,
    mut client: CalculatorSyncClient<I, O>,
) -> thrift::Result<()> {
    let sum = client.calculate(Work::new(2, 3, Operation::ADD))?;
    println!("{title}: 2 + 3 = {sum}");
    Ok(())
}
