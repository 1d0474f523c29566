//! Benchmarks.

mod compare;
mod floor;
mod grpc;
mod load;
mod plan;
mod thrift;

use std::error::Error;

use clap::Subcommand;

pub(crate) use floor::serve_until_stdin_ends as serve_floor_until_stdin_ends;
pub(crate) use thrift::serve_until_stdin_ends as serve_thrift_until_stdin_ends;

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
    use plan::Suite as _;

    let rows = grpc::Grpc::ROWS.iter().chain(thrift::Thrift::ROWS);
    rows.map(|row| row.name)
}
