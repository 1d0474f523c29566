//! `matrix`: all cases of a suite over all transports, between real processes.

mod column;
mod page;
mod process;
mod report;
mod transport;

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use self::column::Column;
use self::report::Matrix;
use self::transport::Transport;
use crate::case::{self, NoSuchCaseError};
use crate::faults::FaultArguments;
use crate::grpc;
use crate::progress::Progress;
use crate::report as file;
use crate::values;

/// Runs every case of a suite over every transport, between processes of this program.
///
/// For each transport one process serves and one calls. Over tcp, udp and udp-pull they meet on the
/// loopback device; over raw and kernel in two network namespaces, which this command makes and
/// removes with `ip netns` and for which it has to be root. What this host does not have is
/// printed as `skipped` with the reason, and counts as neither passed nor failed. Faults are made
/// over Homa only.
///
/// The exit status is 0 if every case that was run passed, every process ended well and no
/// handler ran twice for one call; 1 if not, and 77 if nothing could run here.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  homa-interop matrix --suite grpc --html matrix.html
  homa-interop matrix --suite grpc --transport udp --loss 5 --reorder 5 --duplicate 5")]
pub(crate) struct Arguments {
    /// Which cases.
    #[arg(long, value_enum, default_value_t = Suite::Grpc)]
    suite: Suite,
    /// What to run them over; may be given several times. [default: all]
    #[arg(long, value_enum, value_name = "TRANSPORT")]
    transport: Vec<Transport>,
    /// The case to run, or `all`; may be given several times. [default: all]
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Seconds after which a case fails, 0.01 to 3600.
    #[arg(long, value_name = "S", allow_negative_numbers = true,
          default_value = grpc::CASE_LIMIT, value_parser = values::parse_seconds)]
    timeout: Duration,
    #[command(flatten)]
    faults: FaultArguments,
    #[command(flatten)]
    load: grpc::Load,
    /// Write the results to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the results to this file as a page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Cases that belong together, and their subcommand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Suite {
    /// gRPC's interoperability suite, and ours for streams.
    Grpc,
}

impl Suite {
    /// The subcommand that runs it as a client.
    fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
        }
    }

    /// The names of the cases that are wanted.
    fn cases(self, wanted: &[String]) -> Result<Vec<&'static str>, NoSuchCaseError> {
        match self {
            Self::Grpc => {
                let cases = case::chosen(grpc::CASES, |case| case.name, wanted)?;
                Ok(cases.into_iter().map(|case| case.name).collect())
            }
        }
    }
}

/// What is the same for all transports.
#[derive(Debug)]
struct Plan {
    suite: Suite,
    cases: Vec<&'static str>,
    case_limit: Duration,
    faults: FaultArguments,
    load: grpc::Load,
}

/// Exit status when nothing could run, as test drivers of automake know it.
const SKIPPED: u8 = 77;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
enum MatrixError {
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let plan = Plan {
        suite: arguments.suite,
        cases: arguments.suite.cases(&arguments.case)?,
        case_limit: arguments.timeout,
        faults: arguments.faults,
        load: arguments.load,
    };
    for path in arguments.json.iter().chain(&arguments.html) {
        file::check_writable(path)?;
    }
    let mut transports = arguments.transport.clone();
    if transports.is_empty() {
        transports = Transport::ALL.into();
    }
    // In the order of the table, each once.
    transports.sort_unstable();
    transports.dedup();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let columns = runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => Err(MatrixError::Interrupted),
            _ = terminated.recv() => Err(MatrixError::Interrupted),
            // Processes and namespaces are gone when it is dropped.
            columns = run_columns(&plan, &transports) => Ok(columns?),
        }
    })?;
    let matrix = Matrix::new(&plan, columns);
    write!(io::stdout(), "{}", matrix.text())?;
    if let Some(path) = &arguments.json {
        file::write_json(path, &matrix)?;
    }
    if let Some(path) = &arguments.html {
        file::write_whole(path, page::page(&matrix).as_bytes())?;
    }
    Ok(match matrix.passed() {
        Some(true) => ExitCode::SUCCESS,
        Some(false) => ExitCode::FAILURE,
        None => SKIPPED.into(),
    })
}

async fn run_columns(plan: &Plan, transports: &[Transport]) -> io::Result<Vec<Column>> {
    let progress = Progress::if_it_lasts((plan.cases.len() * transports.len()) as u64);
    let mut columns = Vec::new();
    for (at, transport) in transports.iter().enumerate() {
        progress.bar.set_position((at * plan.cases.len()) as u64);
        let column = Column::run(plan, *transport, &progress).await;
        progress.print(&column.line())?;
        columns.push(column);
    }
    progress.bar.finish_and_clear();
    Ok(columns)
}
