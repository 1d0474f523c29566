//! Benchmarks.

mod call;
mod compare;
mod connect;
mod cpu;
mod floor;
mod machine;

use std::error::Error;

use clap::Subcommand;

#[cfg(test)]
pub(crate) use self::compare::row_names;
pub(crate) use self::cpu::CpuPerCall;
pub(crate) use self::floor::serve_until_stdin_ends as serve_floor_until_stdin_ends;

/// The benchmarks there are.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Compare(compare::Arguments),
    Floor(floor::Arguments),
}

/// Runs one of them.
pub(crate) fn run(bench: &Bench) -> Result<(), Box<dyn Error>> {
    match bench {
        Bench::Compare(arguments) => compare::run(arguments),
        Bench::Floor(arguments) => floor::run(arguments),
    }
}
