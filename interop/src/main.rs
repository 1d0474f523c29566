//! `homa-interop`: measures Homa against TCP and checks that both do the same.

mod bench;
mod case;
mod child;
mod echo;
mod faults;
mod gateway;
mod grpc;
mod ids;
mod info;
mod kernel_check;
mod latency;
mod ledger;
mod matrix;
mod netns;
mod page;
mod progress;
mod report;
mod runtime;
mod serve;
mod sim;
mod soak;
mod suite;
mod table;
mod thrift;
mod values;
mod workload;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures and checks Homa against TCP.
///
/// Every subcommand exits with status 0 only if everything it checks holds, and has an example in
/// its own --help. Status 77 means that a check could not run here.
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
    Gateway(Box<gateway::Arguments>),
    Grpc(grpc::Arguments),
    KernelCheck(kernel_check::Arguments),
    Matrix(matrix::Arguments),
    Serve(serve::Arguments),
    Sim(Box<sim::Arguments>),
    Soak(soak::Arguments),
    Thrift(crate::thrift::Arguments),
    /// Runs the set-up of `sim` that standard input has, and prints what it took as a line of JSON.
    #[command(
        name = sim::SIZE_SUBCOMMAND,
        hide = true,
        after_help = "Example:\n  homa-interop sim-size < setup.json"
    )]
    SimSize,
    /// One of the processes of `soak`: takes its orders from standard input.
    #[command(hide = true, after_help = "Example:\n  homa-interop soak-node")]
    SoakNode,
    /// Keeps a processor busy until standard input ends.
    #[command(hide = true, after_help = "Example:\n  homa-interop busy")]
    Busy,
    /// Serves the echo services of the benchmarks until standard input ends.
    ///
    /// Prints the URIs it serves as one line of JSON.
    #[command(
        hide = true,
        after_help = "Example:\n  homa-interop serve-echo --listen 10.77.0.1:4000"
    )]
    ServeEcho(echo::Options),
    /// Serves the Thrift echo service of the benchmarks until standard input ends.
    ///
    /// Prints where it serves as one line of JSON.
    #[command(hide = true, after_help = "Example:\n  homa-interop serve-thrift-echo")]
    ServeThriftEcho(echo::thrift::Arguments),
    /// Answers what `bench baseline` sends until standard input ends.
    #[command(
        hide = true,
        after_help = "Example:\n  homa-interop serve-baseline --workers 1"
    )]
    ServeBaseline(bench::BaselineServerArguments),
    /// Makes calls to an echo service all at once, whenever a line of standard input says so.
    #[command(
        hide = true,
        after_help = "Example:\n  homa-interop link-burst --uri homa://10.77.0.1:4000 --calls 64 \
                      --bytes 100000 --response-bytes 100 --link-mbps 200"
    )]
    LinkBurst(bench::BurstArguments),
}

fn main() -> ExitCode {
    match run(&Arguments::parse().command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("homa-interop: {}", report::with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Bench { bench } => return bench::run(bench),
        Command::Info(arguments) => return info::run(arguments),
        Command::Gateway(arguments) => return gateway::run(arguments),
        Command::Grpc(arguments) => return grpc::run(arguments),
        Command::KernelCheck(arguments) => return kernel_check::run(arguments),
        Command::Matrix(arguments) => return matrix::run(arguments),
        Command::Serve(arguments) => return serve::run(arguments),
        Command::Sim(arguments) => return Ok(sim::run(arguments)),
        Command::Thrift(arguments) => return crate::thrift::run(arguments),
        Command::SimSize => sim::run_size_from_stdin()?,
        Command::Soak(arguments) => return soak::run(arguments),
        Command::SoakNode => soak::run_node_until_stdin_ends()?,
        Command::Busy => soak::run_busy_until_stdin_ends()?,
        Command::ServeEcho(options) => echo::serve_until_stdin_ends(options)?,
        Command::ServeThriftEcho(arguments) => echo::thrift::serve_until_stdin_ends(arguments)?,
        Command::LinkBurst(arguments) => bench::burst_until_stdin_ends(arguments)?,
        Command::ServeBaseline(arguments) => bench::serve_baseline_until_stdin_ends(arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}
