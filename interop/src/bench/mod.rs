//! Benchmarks.

mod baseline;
mod call;
mod compare;
mod connect;
mod cpu;
mod link;
mod load;
mod machine;
mod page;

use std::error::Error;
use std::process::ExitCode;

use clap::Subcommand;

pub(crate) use self::baseline::{
    ServerArguments as BaselineServerArguments,
    serve_until_stdin_ends as serve_baseline_until_stdin_ends,
};
#[cfg(test)]
pub(crate) use self::compare::row_names;
pub(crate) use self::cpu::CpuPerCall;
pub(crate) use self::link::{BurstArguments, burst_until_stdin_ends};

/// The benchmarks there are.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Compare(compare::Arguments),
    Load(Box<load::Arguments>),
    Baseline(baseline::Arguments),
    Link(link::Arguments),
    Page(page::Arguments),
}

/// Runs one of them.
pub(crate) fn run(bench: &Bench) -> Result<ExitCode, Box<dyn Error>> {
    match bench {
        Bench::Compare(arguments) => compare::run(arguments)?,
        Bench::Load(arguments) => load::run(arguments)?,
        Bench::Baseline(arguments) => baseline::run(arguments)?,
        Bench::Link(arguments) => return link::run(arguments),
        Bench::Page(arguments) => page::run(arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}
