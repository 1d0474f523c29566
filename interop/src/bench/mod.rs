//! Benchmarks.

mod compare;
mod floor;
mod load;
mod plan;

use std::error::Error;

use clap::Subcommand;

pub(crate) use floor::serve_until_stdin_ends as serve_floor_until_stdin_ends;

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

/// Names of the rows of `bench compare`.
#[cfg(test)]
pub(crate) fn row_names() -> impl Iterator<Item = &'static str> {
    plan::SCENARIOS.iter().map(|scenario| scenario.name)
}
