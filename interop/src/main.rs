//! `homa-interop`: measures Homa against TCP and checks that both do the same.

mod bench;
mod echo;
mod info;
mod report;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures and checks Homa against TCP.
///
/// Every subcommand exits with status 0 only if everything it checks holds, and has an example in
/// its own --help.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "Example:\n  homa-interop bench compare --quick --json out.json"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Benchmarks.
    #[command(after_help = "Example:\n  homa-interop bench compare --quick")]
    Bench {
        #[command(subcommand)]
        bench: bench::Bench,
    },
    /// Prints what this host offers and which defaults follow from it.
    #[command(after_help = "Example:\n  homa-interop info")]
    Info(info::Arguments),
    /// Serves the echo service of the benchmarks until standard input ends.
    ///
    /// Prints the URIs it serves as one line of JSON.
    #[command(hide = true, after_help = "Example:\n  homa-interop serve")]
    Serve,
}

fn main() -> ExitCode {
    let result: Result<(), Box<dyn Error>> = match Arguments::parse().command {
        Command::Bench { bench } => bench::run(&bench),
        Command::Info(arguments) => info::run(&arguments),
        Command::Serve => echo::serve_until_stdin_ends().map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("homa-interop: {}", report::with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}
