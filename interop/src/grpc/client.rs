//! `grpc`: runs cases against a server.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::timeout;
use tonic::Code;
use tonic_homa::transport::{self, Endpoint};

use super::MESSAGE_LIMIT;
use super::cases::{CASES, Case};
use super::context::Context;
use crate::case::{self, Failure, Ran};
use crate::faults::FaultArguments;
use crate::suite::{self, Amount, CASE_LIMIT, Summary};
use crate::{report, values};

/// Runs cases of gRPC's interoperability suite, and of our own, against a server.
///
/// The server is one of `homa-interop serve`, or any of the suite's official ones, on which only
/// our own cases fail. Where the server counts runs, every case also fails if a call of it ran
/// more than once. The exit status is 0 if all cases passed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  homa-interop grpc --uri homa://127.0.0.1:4000 --case all --json out.json    # of `serve`")]
pub(crate) struct Arguments {
    /// The server: homa://HOST:PORT or http://HOST:PORT.
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
    load: Load,
    /// Write the results to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How much the larger cases do.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Load {
    #[command(flatten)]
    pub(crate) amount: Amount,
    /// Calls of rpc_soak and channels of channel_soak. [default: 100, quick: 5]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    soak_iterations: Option<u32>,
    /// Seconds that a call of a soak may take.
    #[arg(long, value_name = "S", allow_negative_numbers = true,
          default_value = "1", value_parser = values::parse_seconds)]
    soak_latency: Duration,
    /// Calls of a soak that may fail or take longer.
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 0
    )]
    soak_failures: u32,
    /// Seconds without calls in long_lived_channel. [default: 2, quick: 0.05]
    #[arg(long, value_name = "S", allow_negative_numbers = true,
          value_parser = values::parse_seconds)]
    idle: Option<Duration>,
    /// Bytes of the longest message of large_message_up and large_message_down, besides one of
    /// 5,000,000. [default: 67108864, quick: 8388608]
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u64).range(1..=(MESSAGE_LIMIT - 1_000) as u64))]
    large: Option<u64>,
}

impl Load {
    /// The same options for another process.
    pub(crate) fn to_arguments(self) -> Vec<String> {
        let mut arguments = self.amount.to_arguments();
        arguments.extend([
            format!("--soak-iterations={}", self.soak_iterations()),
            format!("--soak-latency={}", self.soak_latency().as_secs_f64()),
            format!("--soak-failures={}", self.soak_failures()),
            format!("--idle={}", self.idle().as_secs_f64()),
            format!("--large={}", self.large()),
        ]);
        arguments
    }

    pub(super) fn calls(&self) -> u32 {
        self.amount.calls()
    }

    pub(super) fn soak_iterations(&self) -> u32 {
        self.amount.or(self.soak_iterations, 100, 5)
    }

    pub(super) fn soak_latency(&self) -> Duration {
        self.soak_latency
    }

    pub(super) fn soak_failures(&self) -> u32 {
        self.soak_failures
    }

    pub(super) fn idle(&self) -> Duration {
        let (full, quick) = (Duration::from_secs(2), Duration::from_millis(50));
        self.amount.or(self.idle, full, quick)
    }

    pub(super) fn large(&self) -> u64 {
        self.amount.or(self.large, 64 << 20, 8 << 20)
    }
}

/// How long there may be no server.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Why no case was run.
#[derive(Debug, thiserror::Error)]
enum ClientError {
    #[error("cannot connect to {uri}")]
    Connect {
        uri: String,
        source: Box<transport::Error>,
    },
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
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
    let endpoint = Endpoint::from_shared(uri.clone())?
        .connect_timeout(CONNECT_LIMIT)
        .homa_config(arguments.faults.config());
    if let Some(path) = &arguments.json {
        report::check_writable(path)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let cases = runtime.block_on(run_cases(arguments, endpoint, uri.clone(), &cases))?;
    Summary::new(uri, cases).tell(arguments.json.as_deref())
}

async fn run_cases(
    arguments: &Arguments,
    endpoint: Endpoint,
    uri: String,
    cases: &[&Case],
) -> Result<Vec<Ran>, ClientError> {
    let context = Context::connect(endpoint, arguments.load).await;
    let context = context.map_err(|source| ClientError::Connect {
        uri,
        source: source.into(),
    })?;
    let run = async |case: &Case| run_case(case, &context, arguments.timeout).await;
    Ok(suite::run_cases(cases, run).await?)
}

async fn run_case(case: &Case, context: &Context, limit: Duration) -> Result<(), Failure> {
    let context = context.with_new_session();
    // On a task of its own: a case that panics fails alone, and one on a worker thread is woken
    // without another one.
    let mut running = tokio::spawn((case.run)(context.clone()));
    match timeout(limit, &mut running).await {
        Ok(Ok(outcome)) => outcome?,
        Ok(Err(panicked)) => return Err(Failure::new(panicked.to_string())),
        Err(_) => {
            running.abort();
            let _ = running.await;
            return Err(Failure::new(format!("it did not end within {limit:?}")));
        }
    }
    match context.runs().await {
        Ok(runs) => case::ensure!(
            runs.again == 0,
            "{} handlers were run for {} calls",
            runs.calls + runs.again,
            runs.calls
        ),
        // A server of others does not count.
        Err(status) if status.code() == Code::Unimplemented => {}
        Err(status) => return Err(Failure::from(status).during("asking how often calls ran")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_gets_the_same_load() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            load: Load,
        }
        let parse = |line: &[String]| {
            let line = [&["homa-interop".to_owned()], line].concat();
            <Line as clap::Parser>::try_parse_from(line)
                .expect("valid")
                .load
        };
        for given in [
            &[][..],
            &["--quick"],
            &["--quick", "--calls=7", "--idle=0.3"],
        ] {
            let given: Vec<_> = given.iter().map(|text| (*text).to_owned()).collect();
            let load = parse(&given);
            let line = load.to_arguments();
            assert_eq!(parse(&line).to_arguments(), line);
        }
        let quick = parse(&["--quick".to_owned()]);
        assert_eq!((quick.calls(), quick.soak_iterations()), (50, 5));
    }
}
