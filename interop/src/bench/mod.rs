//! Benchmarks.

mod compare;
mod load;
mod plan;

use std::error::Error;

use clap::Subcommand;

/// The benchmarks there are.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Compare(compare::Arguments),
}

/// Runs one of them.
pub(crate) fn run(bench: &Bench) -> Result<(), Box<dyn Error>> {
    match bench {
        Bench::Compare(arguments) => compare::run(arguments),
    }
}

/// Names of the rows of `bench compare`.
#[cfg(test)]
pub(crate) fn row_names() -> impl Iterator<Item = &'static str> {
    plan::SCENARIOS.iter().map(|scenario| scenario.name)
}
