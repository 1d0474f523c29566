//! One Thrift service and one client on every transport; only the URI differs.
//!
//! ```text
//! cargo run -p homa-examples --bin thrift_calculator
//! cargo run -p homa-examples --bin thrift_calculator -- serve homa://127.0.0.1:4000
//! cargo run -p homa-examples --bin thrift_calculator -- call homa://127.0.0.1:4000 6 multiply 7
//! cargo run -p homa-examples --bin thrift_calculator -- serve tcp+framed://127.0.0.1:4000
//! ```

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use homa_examples::calculator::Calculator;
use homa_examples::calculator::idl::{
    CalculatorSyncClient, CalculatorSyncProcessor, Operation, TCalculatorSyncClient, Work,
};
use homa_examples::exit;
use thrift_homa::{Endpoint, ServerHandle, ServerOptions, error_text};

/// A calculator on every transport that Thrift has here.
#[derive(Parser)]
#[command(after_help = "Example: thrift_calculator call homa://127.0.0.1:4000 6 multiply 7")]
struct Cli {
    #[command(subcommand)]
    mode: Option<Mode>,
}

#[derive(Subcommand)]
enum Mode {
    /// Serves until Enter is pressed, or standard input ends.
    Serve { uri: Endpoint },
    /// Calls a server once.
    Call {
        uri: Endpoint,
        left: i64,
        operation: Name,
        right: i64,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    Add,
    Subtract,
    Multiply,
    Divide,
}

fn main() -> ExitCode {
    exit(run(Cli::parse()))
}

fn run(cli: Cli) -> Result<(), Box<dyn Error>> {
    match cli.mode {
        None => {
            for uri in [
                "homa://127.0.0.1:0",
                "tcp+framed://127.0.0.1:0",
                "tcp+buffered://127.0.0.1:0",
            ] {
                let server = serve(&uri.parse()?)?;
                let uri = server.uri();
                let product = call(&uri.parse()?, 6, Operation::MULTIPLY, 7)?;
                println!("{uri}: 6 * 7 = {product}");
                let error = call(&uri.parse()?, 1, Operation::DIVIDE, 0);
                let error = error.err().ok_or("a number divided by 0")?;
                println!("{uri}: 1 / 0: {}", error_text(&error));
            }
        }
        Some(Mode::Serve { uri }) => {
            let server = serve(&uri)?;
            println!("listening on {}", server.uri());
            std::io::stdin().read_line(&mut String::new())?;
            println!("{}", server.shutdown(Duration::from_secs(5)));
        }
        Some(Mode::Call {
            uri,
            left,
            operation,
            right,
        }) => {
            let operation = match operation {
                Name::Add => Operation::ADD,
                Name::Subtract => Operation::SUBTRACT,
                Name::Multiply => Operation::MULTIPLY,
                Name::Divide => Operation::DIVIDE,
            };
            println!("{}", call(&uri, left, operation, right)?);
        }
    }
    Ok(())
}

/// The processor is the generated one; it does not know what carries its calls.
fn serve(uri: &Endpoint) -> thrift::Result<ServerHandle> {
    uri.serve(
        CalculatorSyncProcessor::new(Calculator),
        ServerOptions::default(),
    )
}

/// So is the client.
fn call(uri: &Endpoint, left: i64, operation: Operation, right: i64) -> thrift::Result<i64> {
    let (input, output) = uri.client()?;
    let mut client = CalculatorSyncClient::new(input, output);
    client.calculate(Work::new(left, right, operation))
}
