//! `bench load`: one stack under an open load.

mod open;
mod outcome;
mod stack;
pub(super) mod text;
pub(super) mod traffic;
mod unloaded;

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use homa_client::Config;

use self::open::{LATE, OpenError, Plan, Run};
use self::outcome::{Lag, Setup, typical_lengths};
use self::stack::StackName;
use self::traffic::{Lengths, Rate, Traffic};
use self::unloaded::Unloaded;
use super::connect::ConnectError;
use super::machine::Machine;
use super::page::{self, Stored};
use crate::child::{self, Serving, StartError};
use crate::echo::{self, Options};
use crate::progress::Progress;
use crate::runtime::{self, MAX_WORKERS};
use crate::sim::WorkloadName;
use crate::{report, values};

#[cfg(test)]
pub(super) use self::outcome::sample;
pub(super) use self::outcome::{Figures, Outcome};

/// Puts one stack under load: calls start at random times, whatever became of those before them.
///
/// When calls start and how long they are depends on --seed, the sizes and the rate alone, so that
/// runs on different stacks make the same calls (Poisson arrivals; sizes of a workload of the Homa
/// papers, or one). Without --uri a second process serves, on loopback.
///
/// A latency counts from the time at which the call was meant to be sent; the one from when it was
/// sent is told beside it. A slowdown is a latency divided by the time of a call of the same size
/// alone, which is measured first: at the smallest and the largest size and the median one of each
/// tenth, with straight lines in between.
///
/// A call lags if at its time as many were in flight as --outstanding allows, or if the generator
/// handed it over more than 1 ms after its time. The generator has a thread of its own; as root,
/// with `chrt`, two that go before all others, on two cores. If 1 % of the measured calls or more
/// lag, the load was not the one asked for: there are no results then, and the exit status is 1. So
/// it is, at once, when the generator is a second behind, or 1 % of --seconds if that is more.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  homa-interop bench load --stack tonic-homa --workload w4 --mbps 500 --response-bytes 100
  homa-interop bench load --stack tonic-tcp --bytes 100 --calls-per-s 5000 --html load.html")]
pub(crate) struct Arguments {
    /// What carries the calls.
    #[arg(long, value_enum)]
    stack: StackName,
    /// The server, which has to be one of `serve-echo` or `serve-thrift-echo`. Default: one of its
    /// own.
    #[arg(long)]
    uri: Option<String>,
    #[command(flatten)]
    sizes: Sizes,
    /// Longest request of a workload; longer ones are cut to it.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          default_value_t = 999_000, conflicts_with = "bytes",
          value_parser = clap::value_parser!(u32).range(1..))]
    max_bytes: u32,
    /// Bytes of each response, in the same range. Default: as many as the request has.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    response_bytes: Option<u32>,
    #[command(flatten)]
    rate: RateArguments,
    /// Seconds in which calls start that are measured, 0.01 to 3600.
    #[arg(long, value_name = "S", allow_negative_numbers = true,
          default_value = "10", value_parser = values::parse_seconds)]
    seconds: Duration,
    /// Seconds before them in which calls are made and not measured, 0.01 to 3600.
    #[arg(long, value_name = "S", allow_negative_numbers = true,
          default_value = "1", value_parser = values::parse_seconds)]
    warm_up: Duration,
    /// Calls depend on this number.
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 1
    )]
    seed: u64,
    /// Most calls in flight, 1 to 100000; with Thrift these are threads, 1 to 1000. Default: 1000,
    /// or fewer if these had more than 1 GiB; 64 with Thrift.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    outstanding: Option<u32>,
    /// Threads of the runtimes of both sides, 1 to 64; 1 is tokio's current-thread runtime. Default:
    /// tokio's default. Not with Thrift.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u16).range(1..=MAX_WORKERS))]
    workers: Option<u16>,
    /// Homa's setting link_mbps, 1 to 10000000, on both sides if the server is its own. Default:
    /// not set.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    link_mbps: Option<u32>,
    /// When the warm-up begins, in nanoseconds since 1970, so that several processes can begin
    /// together. Default: as soon as all is ready.
    #[arg(long, value_name = "UNIX_NANOS")]
    start_at: Option<u64>,
    /// Do not measure calls alone first; there are no slowdowns then.
    #[arg(long)]
    no_unloaded: bool,
    /// Process that serves at --uri, whose work is counted.
    #[arg(long, value_name = "PID", requires = "uri")]
    server_pid: Option<u32>,
    /// Write a page with the results and plots to this file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the results to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Tell every call in it: bytes, and in nanoseconds from the start when it was meant to be
    /// sent, when it was, and when its response was there.
    #[arg(long, requires = "json")]
    raw: bool,
    /// Share of the calls that may lag.
    #[arg(long, hide = true, default_value_t = MAX_LAG)]
    max_lag: f64,
    /// End without results when standard input does, which is when who has started this is gone.
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Sizes {
    /// Sizes of requests: a workload of the Homa papers.
    #[arg(long, value_enum)]
    workload: Option<WorkloadName>,
    /// Bytes of each request, 1 to 4000000; to 999996 with homa-client, to 999000 with thrift-homa.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    bytes: Option<u32>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct RateArguments {
    /// Load in Mbit/s, above 0 and up to 10000000: what requests carry, without what is added to
    /// them.
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = values::parse_rate)]
    mbps: Option<f64>,
    /// Load in calls per second, above 0 and up to 10000000.
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = values::parse_rate)]
    calls_per_s: Option<f64>,
}

/// A run of which as many calls lag is refused.
pub(super) const MAX_LAG: f64 = 0.01;

/// Most calls of a run, which are all kept: 32 bytes each.
const MAX_CALLS: f64 = 5e6;

/// Most threads.
const MAX_THREADS: u32 = 1_000;

/// Calls in flight by default, and with stacks that need a thread for each.
const OUTSTANDING: u32 = 1_000;
const OUTSTANDING_THREADS: u32 = 64;

/// Bytes of requests and responses of as many calls, at most: both sides hold them.
const OUTSTANDING_BYTES: u64 = 1 << 30;

/// A run that is so far behind is not the load that was asked for, however long it was to be.
const HOPELESS: Duration = Duration::from_secs(1);

/// Time from when all is ready to the first call.
const LEAD: Duration = Duration::from_millis(20);

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{what} may have {bytes} bytes, but {stack} takes at most {longest}: lower {option}")]
    TooLong {
        what: &'static str,
        bytes: u32,
        stack: &'static str,
        longest: usize,
        option: &'static str,
    },
    #[error(
        "--outstanding {outstanding} is more threads than the {MAX_THREADS} that there may be: \
         {stack} needs one for each call in flight; lower it"
    )]
    TooManyThreads {
        outstanding: u32,
        stack: &'static str,
    },
    #[error("--server-pid {0}: there is no such process, so its work cannot be counted")]
    NoServer(u32),
    #[error("--workers is for stacks with a runtime, and {0} has none: leave it out")]
    NoRuntime(&'static str),
    #[error(
        "{calls:.0} calls are to start, but at most {MAX_CALLS} can be kept: lower the rate or \
         --seconds"
    )]
    TooManyCalls { calls: f64 },
    #[error("no call starts within {seconds:?} at {rate:.6} calls per second: give --seconds more")]
    NoCalls { seconds: Duration, rate: f64 },
    #[error("--start-at was {0:.1?} ago when all was ready: give a later time")]
    Missed(Duration),
    #[error("--start-at is more than an hour from now: it is in nanoseconds since 1970")]
    TooFar,
    #[error(
        "{:.2} % of the calls lag ({} of {samples} because {outstanding} were in flight, {} \
         because the generator was over {LATE:?} late), which has to be less than {max} %: {}",
        lag.share * 1e2, lag.held, lag.late, remedy(lag)
    )]
    Lags {
        lag: Lag,
        samples: usize,
        outstanding: u32,
        max: f64,
    },
    #[error("standard input has ended before the load")]
    Abandoned,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the generator of the load ended early")]
    Generator(#[from] tokio::task::JoinError),
}

/// What to do about calls that lag.
fn remedy(lag: &Lag) -> &'static str {
    if lag.held > lag.late {
        "lower the load, or raise --outstanding"
    } else {
        "lower the load, end what else runs on this machine, or raise --seconds if that was short"
    }
}

/// Runs the benchmark.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let checked = Checked::new(arguments)?;
    report::check_all_writable(arguments.json.iter().chain(&arguments.html))?;
    let runtime = runtime::with_workers(arguments.workers)?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = measure(arguments, checked) => outcome,
            () = child::stdin_ends(), if arguments.until_stdin_ends => Err(LoadError::Abandoned),
        }
    });
    // Threads and tasks of a run that has failed may still be calling.
    runtime.shutdown_background();
    let outcome = outcome?;
    write!(io::stdout(), "{}", text::outcome(&outcome))?;
    if let Some(path) = &arguments.json {
        if arguments.raw {
            report::write_json_compact(path, &outcome)?;
        } else {
            report::write_json(path, &outcome)?;
        }
    }
    if let Some(path) = &arguments.html {
        page::write(path, "Under load", &[Stored::Load(Box::new(outcome))])?;
    }
    Ok(())
}

/// What the command line asks for, which can be done.
struct Checked {
    traffic: Traffic,
    outstanding: u32,
    /// The lengths of the calls that are measured, sorted.
    lengths: Vec<u32>,
    longest: u32,
}

impl Checked {
    fn new(arguments: &Arguments) -> Result<Self, LoadError> {
        let stack = arguments.stack;
        if let Some(pid) = arguments.server_pid
            && !matches!(std::fs::exists(format!("/proc/{pid}")), Ok(true))
        {
            return Err(LoadError::NoServer(pid));
        }
        let (lengths, option) = match (arguments.sizes.bytes, arguments.sizes.workload) {
            (Some(bytes), _) => (Lengths::Fixed(bytes), "--bytes"),
            // Clap lets neither be missing.
            (None, workload) => {
                let workload = workload.unwrap_or(WorkloadName::W1);
                let lengths = Lengths::of_workload(workload, arguments.max_bytes);
                (lengths, "--max-bytes")
            }
        };
        let longest = lengths.longest();
        let too_long = |what, bytes: u32, option| {
            let limit = stack.longest();
            (bytes as usize > limit).then_some(LoadError::TooLong {
                what,
                bytes,
                stack: stack.name(),
                longest: limit,
                option,
            })
        };
        let response = arguments.response_bytes.unwrap_or(1);
        if let Some(error) = too_long("a request", longest, option)
            .or_else(|| too_long("a response", response, "--response-bytes"))
        {
            return Err(error);
        }
        let of_each = u64::from(longest) + u64::from(arguments.response_bytes.unwrap_or(longest));
        let most = u32::try_from(OUTSTANDING_BYTES / of_each).unwrap_or(u32::MAX);
        let outstanding = match stack.blocks() {
            true => OUTSTANDING_THREADS,
            false => OUTSTANDING.min(most),
        };
        let outstanding = arguments.outstanding.unwrap_or(outstanding);
        if stack.blocks() && outstanding > MAX_THREADS {
            let stack = stack.name();
            return Err(LoadError::TooManyThreads { outstanding, stack });
        }
        if stack.blocks() && arguments.workers.is_some() {
            return Err(LoadError::NoRuntime(stack.name()));
        }
        let rate = match (arguments.rate.mbps, arguments.rate.calls_per_s) {
            (Some(mbps), _) => Rate::Mbps(mbps),
            (None, calls) => Rate::CallsPerSecond(calls.unwrap_or_default()),
        };
        let traffic = Traffic::new(lengths, rate, arguments.seed);
        let seconds = arguments.warm_up + arguments.seconds;
        let calls = traffic.calls_per_s() * seconds.as_secs_f64();
        if calls > MAX_CALLS {
            return Err(LoadError::TooManyCalls { calls });
        }
        let warm_up = nanos(arguments.warm_up);
        let measured = traffic
            .arrivals(nanos(seconds))
            .filter(|call| call.at_ns >= warm_up);
        let mut lengths: Vec<u32> = measured.map(|call| call.bytes).collect();
        if lengths.is_empty() {
            return Err(LoadError::NoCalls {
                seconds: arguments.seconds,
                rate: traffic.calls_per_s(),
            });
        }
        lengths.sort_unstable();
        Ok(Self {
            traffic,
            outstanding,
            lengths,
            longest,
        })
    }
}

/// A server to call.
struct Called {
    uri: String,
    pid: Option<u32>,
    /// If it is one of its own: it ends with this.
    _own: Option<Serving<()>>,
}

/// Starts a server if none is given.
async fn server(arguments: &Arguments, outstanding: u32) -> Result<Called, LoadError> {
    if let Some(uri) = &arguments.uri {
        return Ok(Called {
            uri: uri.clone(),
            pid: arguments.server_pid,
            _own: None,
        });
    }
    let options = Options {
        workers: arguments.workers,
        link_mbps: arguments.link_mbps,
        ..Options::default()
    };
    let stack = arguments.stack;
    let (uri, pid, own) = if stack.blocks() {
        // A worker for each connection, those of the calls alone and of the gateway included.
        let connections = u16::try_from(outstanding + 8).unwrap_or(u16::MAX);
        let server = echo::thrift::start(&options, connections).await?;
        let at = &server.at;
        let uri = match stack {
            StackName::ThriftTcp => format!("tcp+framed://{}", at.tcp),
            _ => format!("homa://{}", at.homa),
        };
        (uri, at.pid, server.map(drop))
    } else {
        let server = echo::start(&options).await?;
        let uris = &server.at;
        let uri = match stack {
            StackName::HomaClient => &uris.homa_client,
            StackName::TonicTcp => &uris.tcp,
            _ => &uris.homa,
        };
        (uri.clone(), uris.pid, server.map(drop))
    };
    Ok(Called {
        uri,
        pid: Some(pid),
        _own: Some(own),
    })
}

async fn measure(arguments: &Arguments, checked: Checked) -> Result<Outcome, LoadError> {
    let machine = Machine::here();
    let Checked {
        traffic,
        outstanding,
        lengths,
        longest,
    } = checked;
    let called = server(arguments, outstanding).await?;
    let mut homa = Config::default();
    homa.protocol.link_mbps = arguments.link_mbps;
    let target = arguments.stack.connect(&called.uri, homa).await?;

    let typical = typical_lengths(&lengths);
    let alone = time_of_each_alone(arguments.seconds);
    let all = arguments.warm_up + arguments.seconds;
    let progress = Progress::new(all.as_secs(), all);
    let unloaded = if arguments.no_unloaded {
        None
    } else {
        progress.bar.set_message("calls alone");
        let response = arguments.response_bytes;
        Some(Unloaded::measure(&target, &typical, response, alone).await?)
    };

    let start = start(arguments.start_at)?;
    let plan = Plan {
        target,
        start,
        warm_up: arguments.warm_up,
        response_bytes: arguments.response_bytes,
        outstanding,
        most_behind: match arguments.max_lag < 1.0 {
            true => HOPELESS.max(arguments.seconds.mul_f64(arguments.max_lag.max(0.0))),
            false => Duration::MAX,
        },
        expected: lengths.len(),
        longest,
        server: called.pid,
    };
    progress.bar.set_message(arguments.stack.name());
    let run = under_load(plan, traffic.arrivals(nanos(all)), &progress).await?;
    progress.bar.finish_and_clear();

    let lag = Lag::of(&run);
    if lag.share >= arguments.max_lag {
        return Err(LoadError::Lags {
            lag,
            samples: run.samples.len(),
            outstanding,
            max: arguments.max_lag * 1e2,
        });
    }
    let setup = Setup {
        stack: arguments.stack,
        uri: called.uri,
        workload: arguments.sizes.workload,
        bytes: longest,
        response_bytes: arguments.response_bytes,
        mean_bytes: report::rounded(traffic.mean_bytes()),
        calls_per_s: report::rounded(traffic.calls_per_s()),
        mbps: report::rounded(traffic.mbps()),
        seconds: arguments.seconds.as_secs_f64(),
        warm_up: arguments.warm_up.as_secs_f64(),
        seed: arguments.seed,
        outstanding,
        workers: arguments.workers,
        link_mbps: arguments.link_mbps,
    };
    let raw = arguments.raw;
    Ok(Outcome::of(machine, setup, run, unloaded.as_ref(), raw))
}

/// Makes the calls on a thread, and moves the bar every second.
async fn under_load(
    plan: Plan,
    arrivals: impl Iterator<Item = traffic::Arrival> + Send + 'static,
    progress: &Progress,
) -> Result<Run, LoadError> {
    let runtime = tokio::runtime::Handle::current();
    let begin = plan.start;
    let calls = tokio::task::spawn_blocking(move || open::run(plan, arrivals, runtime));
    tokio::pin!(calls);
    let mut second = tokio::time::interval_at(begin.into(), Duration::from_secs(1));
    loop {
        tokio::select! {
            ended = &mut calls => return Ok(ended??),
            _ = second.tick(), if !progress.bar.is_hidden() => {
                progress.bar.set_position(begin.elapsed().as_secs());
            }
        }
    }
}

/// All of them together take at most as long as the load, though each at most 0.2 s.
fn time_of_each_alone(load: Duration) -> Duration {
    const LENGTHS: u32 = 12;
    (load / LENGTHS).min(Duration::from_millis(200))
}

/// When the warm-up begins.
fn start(at: Option<u64>) -> Result<Instant, LoadError> {
    const FAR: Duration = Duration::from_secs(3_600);
    let Some(nanos) = at else {
        return Ok(Instant::now() + LEAD);
    };
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = since_1970.unwrap_or_default();
    let at = Duration::from_nanos(nanos);
    match at.checked_sub(now) {
        None => Err(LoadError::Missed(now - at)),
        Some(wait) if wait > FAR => Err(LoadError::TooFar),
        Some(wait) => Ok(Instant::now() + wait),
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
