//! `bench link`: Homa and TCP on a slow link with priorities, emulated on this machine.

mod figures;
mod generator;
mod host;
mod incast;
mod judge;
mod page;
mod plan;
mod process;
mod rows;
mod run;
mod switch;
mod text;
mod topology;

use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs};

use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(crate) use self::incast::{BurstArguments, burst_until_stdin_ends};
pub(crate) use self::page::section;
pub(crate) use self::rows::Outcome;

use self::figures::TooFewCalls;
use self::generator::{Offered, ReadError};
use self::plan::{
    Disturbed, MAX_BYTES, Plan, QUEUE_BYTES, RESPONSE_BYTES, RowName, parse_load, parse_mbps,
};
use self::process::ProcessError;
use self::rows::LinkFacts;
use self::switch::SwitchError;
use self::topology::{CLIENTS, MTU, PRIORITIES, Port, TopologyError};
use super::load::MAX_LAG;
use crate::child::StartError;
use crate::progress::Progress;
use crate::report::Verdict;
use crate::{report, values};

/// Measures tonic over Homa and over TCP in turns on a congested link with priorities.
///
/// The link is made of network namespaces, a bridge and HTB queues, and removed at the end, also
/// after Ctrl-C: three clients and a server around a switch, whose ports are slow and have eight
/// queues, chosen by the top three bits of the TOS byte and served in strict order. Needs root,
/// `ip` and `tc`.
///
/// In each row the clients call at random times (Poisson), whatever becomes of earlier calls, with
/// requests of a workload's lengths, cut to 999,000 B, which makes messages of at most 1 MB, and
/// responses of 100 B. Both stacks get the same calls at the same times, in turns. A latency counts
/// from the time at which the call was to be sent. Calls are looked at in tenths by their length.
/// The last row is an incast: all clients make 64 calls of 100 KB at once, and what counts is the
/// time until the last one has ended.
///
/// Homa is told link_mbps, the speed of the links, and has its defaults otherwise; TCP has
/// TCP_NODELAY and one HTTP/2 connection for each client. A ratio is Homa divided by TCP; figures
/// are medians of the rounds, a p99 that of all calls together where rounds have fewer than 1,000.
///
/// A turn is refused in which processors are busy for more than 85 % of the time, or 1 % of the
/// calls are sent late: the figures would be the machine's and not the link's. It is taken again, up
/// to eight times, and how many were is told; after the ninth there are no figures for that row, and
/// the exit status is 1. The clients' generators run in real time, if `chrt` is
/// there, so that the stacks do not make them late. The exit status is 77 if it cannot run here,
/// which a line that begins with `skipped:` explains.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  homa-interop bench link --check --json link.json   # as root")]
pub(crate) struct Arguments {
    /// What is measured; may be given several times. Default: w3, w4, w5 and incast.
    #[arg(long, value_enum, value_name = "NAME")]
    workload: Vec<RowName>,
    /// Mbit/s from the switch to each host, 10 to 1000.
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value = "200",
          value_parser = parse_mbps)]
    mbps: u32,
    /// Share of the server's downlink that is offered, headers included, 0.01 to 0.95.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, default_value = "0.8",
          value_parser = parse_load)]
    load: f64,
    /// Rounds of each row and stack, 1 to 100. Default: 5.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Seconds of each round, 0.01 to 3600. Default: as many as it takes for 12,000 calls in all
    /// rounds, 8 to 60.
    #[arg(long, value_name = "S", allow_negative_numbers = true,
          value_parser = values::parse_seconds)]
    seconds: Option<Duration>,
    /// Some seconds for each row: 2 rounds of 1 s, of which most have no p99.
    #[arg(long)]
    quick: bool,
    /// Makes all that is random.
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 1
    )]
    seed: u64,
    /// Exit with status 1 if a claim about the results falls short.
    #[arg(long)]
    check: bool,
    /// Write the results to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Per cent of the time that processors may be busy.
    #[arg(long, hide = true, default_value = "85", value_parser = values::parse_percent)]
    most_busy: u32,
    /// Share of the calls that may be sent late.
    #[arg(long, hide = true, default_value_t = MAX_LAG)]
    max_lag: f64,
}

/// Exit status when it cannot run here, as test drivers of automake know it.
const SKIPPED: u8 = 77;

const ROUNDS: u32 = 5;
const WARM_UP: Duration = Duration::from_secs(2);
const QUICK_ROUNDS: u32 = 2;
const QUICK_SECONDS: Duration = Duration::from_secs(1);
const QUICK_WARM_UP: Duration = Duration::from_millis(500);

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error(transparent)]
    Switch(#[from] SwitchError),
    #[error("{what}")]
    Process { what: String, source: ProcessError },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Calls(#[from] TooFewCalls),
    #[error("{turn}: its calls were not those of the other stack, so the two cannot be compared")]
    Arrivals { turn: String },
    #[error(transparent)]
    Disturbed(#[from] Disturbed),
    #[error("interrupted; the link is removed")]
    Interrupted,
    #[error("{0} of the claims above fall short")]
    FallsShort(usize),
    #[error("nothing is known of {} of the rows, which were refused: {}", .0.len(), .0.join("; "))]
    Refused(Vec<String>),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl LinkError {
    fn is_lack(&self) -> bool {
        match self {
            Self::Topology(TopologyError::Netns(error))
            | Self::Switch(SwitchError::Netns(error)) => error.is_lack(),
            _ => false,
        }
    }
}

/// Runs the benchmark.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    if let Some(path) = &arguments.json {
        report::check_writable(path)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut results = Outcome::new(arguments.facts());
    let outcome = runtime.block_on(async {
        // Before anything is made, so that no signal can end this and leave it.
        let mut signals = [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ];
        tokio::select! {
            biased;
            () = any(&mut signals) => Err(LinkError::Interrupted),
            // Whatever it has made is removed when it is dropped.
            outcome = measure(arguments, &mut results) => outcome,
        }
    });
    if let Err(error) = &outcome
        && error.is_lack()
    {
        writeln!(io::stdout(), "skipped: {}", report::with_causes(error))?;
        return Ok(SKIPPED.into());
    }
    results.claims = judge::judge(arguments.mbps, &results.loads, results.incast.as_ref());
    if let Some(path) = &arguments.json {
        // What an earlier run has left there is worth more than nothing.
        if results.loads.is_empty() && results.incast.is_none() {
            let path = path.display();
            writeln!(io::stdout(), "{path} is not written: there are no results")?;
        } else {
            report::write_json(path, &results)?;
        }
    }
    outcome?;
    if !results.claims.is_empty() {
        write!(io::stdout(), "{}", Verdict::table(&results.claims).text())?;
    }
    if !results.refused.is_empty() {
        return Err(LinkError::Refused(results.refused).into());
    }
    let short = results.claims.iter().filter(|claim| !claim.holds).count();
    if arguments.check && short > 0 {
        return Err(LinkError::FallsShort(short).into());
    }
    Ok(ExitCode::SUCCESS)
}

async fn any(signals: &mut [Signal; 3]) {
    let [one, two, three] = signals;
    tokio::select! {
        _ = one.recv() => {}
        _ = two.recv() => {}
        _ = three.recv() => {}
    }
}

/// Adds each row to the results once it is there, so that what comes after it cannot lose it.
async fn measure(arguments: &Arguments, results: &mut Outcome) -> Result<(), LinkError> {
    let plan = arguments.plan();
    let rows = arguments.rows();
    let offered: Vec<Offered> = rows
        .iter()
        .filter_map(|row| row.workload())
        .map(|workload| Offered::of(workload, &plan))
        .collect();
    let has_incast = rows.contains(&RowName::Incast);
    let turns = u64::from(plan.rounds) * 2 * (offered.len() + usize::from(has_incast)) as u64;
    let lasts: Duration = offered
        .iter()
        .map(|row| (generator::LEAD + plan.warm_up + row.seconds(&plan)) * plan.rounds * 2)
        .sum();
    let folder = folder()?;
    let progress = Progress::new(turns, lasts);
    let (machine, link) = (results.machine.describe(), results.link.text());
    progress.print(&format!("{machine}\n{link}\n"))?;
    for offered in &offered {
        let row = run::load(&plan, offered, folder.path(), &progress).await;
        if let Some(row) = known(row, &mut results.refused, &progress)? {
            progress.print(&row.text())?;
            results.loads.push(row);
        }
    }
    if has_incast {
        let row = run::incast(&plan, &progress).await;
        results.incast = known(row, &mut results.refused, &progress)?;
    }
    if let Some(row) = &results.incast {
        progress.print(&row.text())?;
    }
    progress.bar.finish_and_clear();
    Ok(())
}

/// Where clients leave what they have measured. Its name tells whose it is, so that what one that
/// was killed has left can be told from what is in use.
fn folder() -> io::Result<TempDir> {
    const PREFIX: &str = "homa-interop-link-";
    let maker = |name: &OsStr| {
        let (pid, _) = name.to_str()?.strip_prefix(PREFIX)?.split_once('-')?;
        pid.parse::<u32>().ok()
    };
    for entry in fs::read_dir(env::temp_dir())?.flatten() {
        let maker = maker(&entry.file_name());
        if maker.is_some_and(|maker| matches!(fs::exists(format!("/proc/{maker}")), Ok(false))) {
            // It may be somebody else's: then it stays.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let prefix = format!("{PREFIX}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir()
}

/// A row, or nothing if the machine was too busy for it: others may be of lighter work.
fn known<T>(
    row: Result<T, LinkError>,
    refused: &mut Vec<String>,
    progress: &Progress,
) -> Result<Option<T>, LinkError> {
    match row {
        Ok(row) => Ok(Some(row)),
        Err(LinkError::Disturbed(why)) => {
            progress.print(&format!("refused: {why}\n"))?;
            refused.push(why.to_string());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Arguments {
    /// Each once.
    fn rows(&self) -> Vec<RowName> {
        let named = match &self.workload[..] {
            [] => &RowName::DEFAULT[..],
            named => named,
        };
        let mut rows = Vec::new();
        for row in named {
            if !rows.contains(row) {
                rows.push(*row);
            }
        }
        rows
    }

    fn plan(&self) -> Plan {
        let (rounds, seconds, warm_up) = match self.quick {
            true => (QUICK_ROUNDS, Some(QUICK_SECONDS), QUICK_WARM_UP),
            false => (ROUNDS, None, WARM_UP),
        };
        Plan {
            port: Port {
                mbps: self.mbps,
                queue_bytes: QUEUE_BYTES,
            },
            load: self.load,
            rounds: self.rounds.unwrap_or(rounds),
            seconds: self.seconds.or(seconds),
            warm_up,
            seed: self.seed,
            most_busy: f64::from(self.most_busy) / 1e6,
            max_lag: self.max_lag,
        }
    }

    fn facts(&self) -> LinkFacts {
        LinkFacts {
            mbps: self.mbps,
            priorities: PRIORITIES,
            queue_bytes: QUEUE_BYTES,
            mtu: MTU,
            clients: CLIENTS,
            homa_link_mbps: self.mbps,
            tcp_congestion_control: host::congestion_control(),
            tcp_priority: 0,
            max_bytes: MAX_BYTES,
            response_bytes: RESPONSE_BYTES,
            seed: self.seed,
        }
    }
}
