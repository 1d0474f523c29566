//! `matrix`: all cases of a suite over all transports, between real processes.

mod column;
mod foreign;
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
use self::transport::{Lane, Protocol, Transport};
use crate::case::{self, NoSuchCaseError};
use crate::faults::FaultArguments;
use crate::grpc;
use crate::progress::Progress;
use crate::report as file;
use crate::suite::CASE_LIMIT;
use crate::{thrift, values};

/// Runs every case of a suite over every transport, between processes of this program.
///
/// For each transport, and each protocol if the suite has several, one process serves and one
/// calls. Over raw and kernel they are in two network namespaces, which this command makes and
/// removes with `ip netns` and for which it has to be root; over others they meet on the loopback
/// device or on a unix socket. In place of one of them there can be a program in Python, with a
/// gateway before it. What this host does not have is printed as `skipped` with the
/// reason, and counts as neither passed nor failed. Faults are made over Homa only.
///
/// The exit status is 0 if every case that was run passed, every process ended well and no
/// handler ran twice for one call; 1 if not, and 77 if nothing could run here.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  homa-interop matrix --suite grpc --html matrix.html
  homa-interop matrix --suite thrift --quick
  homa-interop matrix --suite grpc --transport udp --loss 5 --reorder 5 --duplicate 5")]
pub(crate) struct Arguments {
    /// Which cases.
    #[arg(long, value_enum, default_value_t = Suite::Grpc)]
    suite: Suite,
    /// What to run them over; may be given several times. [default: all that the suite has]
    #[arg(long, value_enum, value_name = "TRANSPORT")]
    transport: Vec<Transport>,
    /// How calls are encoded; may be given several times. Thrift only. [default: all]
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    protocol: Vec<Protocol>,
    /// Runs the programs in Python. [default: what interop/foreign/setup.sh has made, else python3]
    #[arg(long, value_name = "PROGRAM")]
    python: Option<PathBuf>,
    /// The case to run, or `all`; may be given several times. [default: all]
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Seconds after which a case fails, 0.01 to 3600.
    #[arg(long, value_name = "S", allow_negative_numbers = true,
          default_value = CASE_LIMIT, value_parser = values::parse_seconds)]
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
    /// Ours for Thrift.
    Thrift,
}

impl Suite {
    /// The subcommand that runs it as a client.
    fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Thrift => "thrift",
        }
    }

    /// The option of `serve` that takes a URI for it.
    fn serve_option(self) -> &'static str {
        match self {
            Self::Grpc => "--uri",
            Self::Thrift => "--thrift",
        }
    }

    /// What it can run over, in the order of the columns.
    fn transports(self) -> &'static [Transport] {
        use Transport::{Kernel, Raw, Tcp, TcpBuffered, TcpFramed, Udp, UdpPull, UnixFramed};
        use Transport::{PythonClient, PythonServer, Thriftpy2Client, Thriftpy2Server};
        match self {
            Self::Grpc => &[Tcp, Udp, UdpPull, Raw, Kernel],
            Self::Thrift => &[
                Udp,
                Raw,
                Kernel,
                TcpFramed,
                TcpBuffered,
                UnixFramed,
                PythonClient,
                PythonServer,
                Thriftpy2Client,
                Thriftpy2Server,
            ],
        }
    }

    /// How its calls can be encoded, if there is a choice.
    fn protocols(self) -> &'static [Protocol] {
        match self {
            Self::Grpc => &[],
            Self::Thrift => &[Protocol::Binary, Protocol::Compact],
        }
    }

    /// The names of the cases that are wanted.
    fn cases(self, wanted: &[String]) -> Result<Vec<&'static str>, NoSuchCaseError> {
        Ok(match self {
            Self::Grpc => {
                let cases = case::chosen(grpc::CASES, |case| case.name, wanted)?;
                cases.into_iter().map(|case| case.name).collect()
            }
            Self::Thrift => {
                let cases = case::chosen(thrift::CASES, |case| case.name, wanted)?;
                cases.into_iter().map(|case| case.name).collect()
            }
        })
    }

    /// What its client is told about the load.
    fn load_arguments(self, load: grpc::Load) -> Vec<String> {
        match self {
            Self::Grpc => load.to_arguments(),
            Self::Thrift => load.amount.to_arguments(),
        }
    }

    /// The columns that are wanted, in the order of the table, each once.
    fn lanes(
        self,
        transports: &[Transport],
        protocols: &[Protocol],
    ) -> Result<Vec<Lane>, NotInSuiteError> {
        let transports = wanted(self, "transport", self.transports(), transports)?;
        let protocols = wanted(self, "protocol", self.protocols(), protocols)?;
        let of = |transport| {
            let lane = move |protocol| Lane {
                transport,
                protocol,
            };
            if protocols.is_empty() {
                return vec![lane(None)];
            }
            protocols.iter().map(|it| lane(Some(*it))).collect()
        };
        Ok(transports.into_iter().flat_map(of).collect())
    }
}

/// A suite does not have that.
#[derive(Debug, thiserror::Error)]
#[error("the suite {suite} has no {what} {value}: it has {known}")]
struct NotInSuiteError {
    suite: &'static str,
    what: &'static str,
    value: String,
    known: String,
}

/// Those of `known` that are wanted; all of them if none is.
fn wanted<T: Copy + PartialEq + clap::ValueEnum>(
    suite: Suite,
    what: &'static str,
    known: &[T],
    wanted: &[T],
) -> Result<Vec<T>, NotInSuiteError> {
    let name = |value: &T| {
        let value = value.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    };
    if let Some(unknown) = wanted.iter().find(|it| !known.contains(it)) {
        let names: Vec<_> = known.iter().map(name).collect();
        return Err(NotInSuiteError {
            suite: suite.name(),
            what,
            value: name(unknown),
            known: match names[..] {
                [] => "none to choose".to_owned(),
                _ => names.join(", "),
            },
        });
    }
    let is_wanted = |it: &&T| wanted.is_empty() || wanted.contains(it);
    Ok(known.iter().filter(is_wanted).copied().collect())
}

/// What is the same for all transports.
#[derive(Debug)]
struct Plan {
    suite: Suite,
    cases: Vec<&'static str>,
    case_limit: Duration,
    faults: FaultArguments,
    load: grpc::Load,
    python: PathBuf,
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
        python: arguments
            .python
            .clone()
            .unwrap_or_else(foreign::default_python),
    };
    let lanes = arguments
        .suite
        .lanes(&arguments.transport, &arguments.protocol)?;
    for path in arguments.json.iter().chain(&arguments.html) {
        file::check_writable(path)?;
    }
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
            columns = run_columns(&plan, &lanes) => Ok(columns?),
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

async fn run_columns(plan: &Plan, lanes: &[Lane]) -> io::Result<Vec<Column>> {
    let progress = Progress::if_it_lasts((plan.cases.len() * lanes.len()) as u64);
    let mut columns = Vec::new();
    for (at, lane) in lanes.iter().enumerate() {
        progress.bar.set_position((at * plan.cases.len()) as u64);
        let column = Column::run(plan, *lane, &progress).await;
        progress.print(&column.line())?;
        columns.push(column);
    }
    progress.bar.finish_and_clear();
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_has_its_transports_and_protocols_and_names_them() {
        let names = |suite: Suite, transports: &[Transport], protocols: &[Protocol]| {
            let lanes = suite.lanes(transports, protocols);
            lanes.map(|lanes| lanes.into_iter().map(Lane::name).collect::<Vec<_>>())
        };
        use Transport::{Raw, Tcp, Udp, UnixFramed};
        let all = names(Suite::Grpc, &[], &[]).expect("all");
        assert_eq!(all, ["tcp", "udp", "udp-pull", "raw", "kernel"]);
        assert_eq!(names(Suite::Thrift, &[], &[]).expect("all").len(), 20);
        let some = names(Suite::Thrift, &[UnixFramed, Udp, Udp], &[Protocol::Compact]);
        assert_eq!(some.expect("two"), ["udp/compact", "unix-framed/compact"]);
        let wrong = names(Suite::Thrift, &[Raw, Tcp], &[]).expect_err("none of its own");
        let text = "the suite thrift has no transport tcp: it has udp, raw, kernel, tcp-framed, \
                    tcp-buffered, unix-framed, python-client, python-server, thriftpy2-client, \
                    thriftpy2-server";
        assert_eq!(wrong.to_string(), text);
        let wrong = names(Suite::Grpc, &[], &[Protocol::Binary]).expect_err("it has none");
        assert!(
            wrong.to_string().ends_with("it has none to choose"),
            "{wrong}"
        );
    }
}
