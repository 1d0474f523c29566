//! Oneway calls: nobody waits for them, and still they arrive, or it is told that they did not.
//!
//! ```text
//! cargo run -p homa-examples --bin thrift_oneway
//! ```

use std::error::Error;
use std::net::UdpSocket;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use homa_examples::calculator::Journal;
use homa_examples::calculator::idl::{
    JournalSyncClient, JournalSyncHandler as _, JournalSyncProcessor, TJournalSyncClient as _,
};
use homa_examples::exit;
use thrift_homa::{ClientOptions, HomaServer, HomaTransport, OnewayAck, OnewayMode};

/// Oneway calls over Homa.
#[derive(Parser)]
#[command(after_help = "Example: thrift_oneway --lines 1000")]
struct Cli {
    /// How many lines to send.
    #[arg(long, default_value_t = 100)]
    lines: u32,
}

fn main() -> ExitCode {
    exit(run(&Cli::parse()))
}

fn run(cli: &Cli) -> Result<(), Box<dyn Error>> {
    let journal = Journal::default();
    let server = HomaServer::builder(JournalSyncProcessor::new(journal.clone()))
        .oneway_ack(OnewayAck::AfterHandler)
        .bind("127.0.0.1:0")?
        .spawn()?;
    let addr = server.local_addr();

    // By default a oneway call returns as soon as it is on its way.
    let transport = HomaTransport::open(addr)?;
    let (input, output) = transport.clone().protocols();
    let mut client = JournalSyncClient::new(input, output);
    let began = Instant::now();
    for line in 0..cli.lines {
        client.note(format!("line {line}"))?;
    }
    let sent = began.elapsed();
    // Whoever wants to know whether all have arrived asks, and waits for it.
    transport.close(Duration::from_secs(5))?;
    println!(
        "{} lines sent in {sent:?}, arrived and written after {:?}",
        journal.handle_lines()?.len(),
        began.elapsed()
    );

    // Calls are not ordered. Where order matters each waits until the server has answered, which
    // the option above makes it do after the handler.
    let mut options = ClientOptions::default();
    options.oneway = OnewayMode::AwaitAck;
    let (input, output) = HomaTransport::open_with(addr, options)?.protocols();
    let mut client = JournalSyncClient::new(input, output);
    client.note("the last line".to_owned())?;
    let last = client.lines()?.pop().ok_or("no lines")?;
    println!("in order: {last:?}");

    // A server that does not answer is told of.
    let silent = UdpSocket::bind("127.0.0.1:0")?;
    let transport = HomaTransport::open(silent.local_addr()?)?;
    let (input, output) = transport.clone().protocols();
    JournalSyncClient::new(input, output).note("lost".to_owned())?;
    match transport.close(Duration::from_millis(100)) {
        Err(undelivered) => println!("to nobody: {undelivered}"),
        Ok(()) => return Err("a line was delivered to nobody".into()),
    }
    server.shutdown(Duration::from_secs(5));
    Ok(())
}
