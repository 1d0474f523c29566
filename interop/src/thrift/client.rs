//! `thrift`: runs cases against a server.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use thrift_homa::Endpoint;
use tokio::time::timeout;

use super::cases::{CASES, Case};
use super::context::{Context, describe};
use super::suite::TBaseSyncClient;
use crate::case::{self, Failure};
use crate::faults::FaultArguments;
use crate::suite::{self, Amount, CASE_LIMIT, Summary};
use crate::{report, values};

/// Runs cases of our Thrift suite against a server.
///
/// The server is one of `homa-interop serve --thrift URI`. The same cases run over every transport
/// and protocol that the URI names. The exit status is 0 if all cases passed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  homa-interop thrift --uri 'homa://127.0.0.1:4000?protocol=compact' --case all    # of `serve`")]
pub(crate) struct Arguments {
    /// The server: homa://HOST:PORT, tcp+framed://HOST:PORT, tcp+buffered://HOST:PORT or
    /// unix+framed:///PATH, each with ?protocol=binary or ?protocol=compact if need be.
    #[arg(long, value_name = "URI", required_unless_present = "list")]
    uri: Option<String>,
    /// The case to run, or `all`; may be given several times. [default: all]
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Print the names of the cases and what they check, and run none.
    #[arg(long)]
    list: bool,
    /// Seconds after which a case fails, 0.01 to 3600.
    #[arg(long, value_name = "S", allow_negative_numbers = true,
          default_value = CASE_LIMIT, value_parser = values::parse_seconds)]
    timeout: Duration,
    #[command(flatten)]
    faults: FaultArguments,
    #[command(flatten)]
    amount: Amount,
    /// Write the results to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// There is nobody to call.
#[derive(Debug, thiserror::Error)]
#[error("cannot call {uri}: {why}")]
struct NobodyError {
    uri: String,
    why: String,
}

/// Runs them.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    if arguments.list {
        suite::list(CASES)?;
        return Ok(ExitCode::SUCCESS);
    }
    let cases = case::chosen(CASES, |case| case.name, &arguments.case)?;
    let uri = arguments.uri.clone().unwrap_or_default();
    arguments.faults.check(&uri)?;
    let mut endpoint: Endpoint = uri.parse()?;
    endpoint.options_mut().homa = arguments.faults.config();
    if let Some(path) = &arguments.json {
        report::check_writable(path)?;
    }
    let ping = || {
        let mut first = endpoint.clone();
        first.options_mut().timeout.get_or_insert(arguments.timeout);
        Context::new(&first, arguments.amount)
            .suite()?
            .ping()
            .map_err(|error| Failure::new(describe(&error)))
    };
    ping().map_err(|why| NobodyError {
        uri: uri.clone(),
        why: why.to_string(),
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let run = async |case: &Case| {
        let context = Context::new(&endpoint, arguments.amount);
        run_case(case, context, arguments.timeout).await
    };
    let cases = runtime.block_on(suite::run_cases(&cases, run));
    // A case that did not end still has its thread.
    runtime.shutdown_background();
    Summary::new(uri, cases?).tell(arguments.json.as_deref())
}

async fn run_case(case: &Case, context: Context, limit: Duration) -> Result<(), Failure> {
    let run = case.run;
    match timeout(limit, tokio::task::spawn_blocking(move || run(&context))).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panicked)) => Err(Failure::new(panicked.to_string())),
        Err(_) => Err(Failure::new(format!("it did not end within {limit:?}"))),
    }
}
