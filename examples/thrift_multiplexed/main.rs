//! Two services on one port: a multiplexed processor, and a client of each.
//!
//! ```text
//! cargo run -p homa-examples --bin thrift_multiplexed
//! cargo run -p homa-examples --bin thrift_multiplexed -- --uri tcp+framed://127.0.0.1:0
//! ```

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use homa_examples::calculator::idl::{
    CalculatorSyncClient, CalculatorSyncProcessor, JournalSyncClient, JournalSyncProcessor,
    Operation, TCalculatorSyncClient as _, TJournalSyncClient as _, Work,
};
use homa_examples::calculator::{Calculator, Journal};
use homa_examples::exit;
use thrift::server::TMultiplexedProcessor;
use thrift_homa::{Endpoint, ServerOptions, error_text};

/// Two Thrift services on one port.
#[derive(Parser)]
#[command(after_help = "Example: thrift_multiplexed --uri tcp+framed://127.0.0.1:0")]
struct Cli {
    /// Where to listen; port 0 is any free one.
    #[arg(long, default_value = "homa://127.0.0.1:0")]
    uri: Endpoint,
}

fn main() -> ExitCode {
    exit(run(&Cli::parse()))
}

fn run(cli: &Cli) -> Result<(), Box<dyn Error>> {
    let mut both = TMultiplexedProcessor::new();
    let calculator = CalculatorSyncProcessor::new(Calculator);
    // Calls that name no service are for this one.
    both.register("Calculator", Box::new(calculator), true)?;
    let journal = JournalSyncProcessor::new(Journal::default());
    both.register("Journal", Box::new(journal), false)?;
    let server = cli.uri.serve(both, ServerOptions::default())?;
    let uri: Endpoint = server.uri().parse()?;

    let (input, output) = uri.client_for_service("Calculator")?;
    let mut calculator = CalculatorSyncClient::new(input, output);
    let sum = calculator.calculate(Work::new(2, 3, Operation::ADD))?;

    let (input, output) = uri.client_for_service("Journal")?;
    let mut journal = JournalSyncClient::new(input, output);
    journal.note(format!("2 + 3 = {sum}"))?;
    // A oneway call and what follows it are two RPCs, of which the second may be faster.
    let lines = loop {
        let lines = journal.lines()?;
        if !lines.is_empty() {
            break lines;
        }
    };
    println!("the journal on {} has: {}", server.uri(), lines.join(", "));

    // One without a name goes to the default service, one with a wrong name nowhere.
    let (input, output) = uri.client()?;
    let difference =
        CalculatorSyncClient::new(input, output).calculate(Work::new(5, 3, Operation::SUBTRACT))?;
    println!("without a service's name: 5 - 3 = {difference}");
    let (input, output) = uri.client_for_service("Nobody")?;
    match JournalSyncClient::new(input, output).lines() {
        Err(error) => println!("with a wrong one: {}", error_text(&error)),
        Ok(lines) => return Err(format!("a service that is not there said {lines:?}").into()),
    }
    Ok(())
}
