//! `soak`: four processes call each other through a bad network, and every byte is checked.

mod busy;
mod content;
mod node;
mod nodes;
mod plan;
mod verdict;

use std::error::Error;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout};

pub(crate) use busy::run_until_stdin_ends as run_busy_until_stdin_ends;
pub(crate) use node::run_until_stdin_ends as run_node_until_stdin_ends;

use self::busy::Busy;
use self::nodes::{Nodes, NodesError, START_TIME};
use self::plan::{
    Engine, FINISH_TIME, FaultRates, NODES, NodePlan, NodeReport, Order, SETTLE_TIME, Word,
};
use self::verdict::Summary;
use crate::netns::{Namespaces, NetnsError};
use crate::progress::Progress;
use crate::{report, values};

/// Four processes call each other through a bad network, and every byte and run is checked.
///
/// Each process is server and client of the others and keeps its RPCs in flight for the time
/// given. Requests and responses have sizes of workload W3, up to 1,000,000 bytes, drawn apart;
/// every 500th RPC has 1,000,000 bytes both ways. Every packet that an endpoint sends is lost,
/// overtaken or doubled at the given rates, before the system can put packets together.
///
/// At the end no new calls are made, those that are left have 30 s, and then all tables and
/// buffers have 15 s to empty. With `--engine raw` two processes are in each of two network
/// namespaces, which this command makes and removes with `ip netns`, and call the two in the
/// other one.
///
/// The exit status is 0 if nothing was wrong, lost, run twice or left over, 1 if something was,
/// and 77 if it could not run here, which a line that begins with `skipped:` explains.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  homa-interop soak --seconds 30 --loss 5 --json out.json\n\n\
                  Raw sockets, as root:\n  homa-interop soak --engine raw --loss 5"
)]
pub(crate) struct Arguments {
    /// Seconds in which calls are made, 0.01 to 3600.
    #[arg(long, value_name = "S", allow_negative_numbers = true,
          default_value = "30", value_parser = values::parse_seconds)]
    seconds: Duration,
    /// Packets that are lost, in percent.
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true,
          default_value = "1", value_parser = values::parse_percent)]
    loss: u32,
    /// Packets that up to eight later ones overtake, in percent.
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true,
          default_value = "1", value_parser = values::parse_percent)]
    reorder: u32,
    /// Packets that arrive twice, in percent.
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true,
          default_value = "1", value_parser = values::parse_percent)]
    duplicate: u32,
    /// Packets that are late, in percent.
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true,
          default_value = "0", value_parser = values::parse_percent)]
    delay: u32,
    /// By how much they are late at most, in milliseconds.
    #[arg(long, value_name = "MS", allow_negative_numbers = true,
          default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(0..=10_000))]
    longest_delay: u64,
    /// Milliseconds of silence after which a call fails. The default on IP protocol 146 would be
    /// 100, for kernels on the other side; on a busy machine a process may wait that long for a
    /// processor.
    #[arg(long, value_name = "MS", allow_negative_numbers = true, default_value_t = 1_000,
          value_parser = clap::value_parser!(u64).range(10..=60_000))]
    timeout: u64,
    /// What carries the packets.
    #[arg(long, value_enum, default_value_t = Engine::Udp)]
    engine: Engine,
    /// RPCs that each process keeps in flight.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// End after so many RPCs in all, even if there is time left.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    rpcs: Option<u64>,
    /// Fail if there were fewer RPCs in all.
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 1
    )]
    at_least: u64,
    /// Processes that do nothing but keep a processor busy beside it.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(0..=1_000))]
    busy: u32,
    /// Threads of each process's runtime.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Seed of sizes, contents and faults.
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 1
    )]
    seed: u64,
    /// Write the packets of the first process to this file, in pcap format.
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,
    /// Write the results to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Ports of the servers on IP protocol 146.
const RAW_PORTS: [u16; NODES] = [4000, 4001, 4002, 4003];

/// Exit status when a check could not run, as test drivers of automake know it.
const SKIPPED: u8 = 77;

/// How long processes may take beyond what they are told to, before they are given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
enum SoakError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Nodes(#[from] NodesError),
    #[error("cannot start a busy process")]
    Busy(#[source] io::Error),
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl SoakError {
    fn is_lack(&self) -> bool {
        match self {
            Self::Netns(error) => error.is_lack(),
            Self::Nodes(error) => error.is_lack(),
            _ => false,
        }
    }
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    if let Some(path) = &arguments.json {
        report::check_writable(path)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => Err(SoakError::Interrupted),
            _ = terminated.recv() => Err(SoakError::Interrupted),
            // Whatever it has made is removed when it is dropped.
            outcome = soak(arguments) => outcome,
        }
    });
    let reports = match outcome {
        Ok(reports) => reports,
        Err(error) if error.is_lack() => {
            println!("skipped: {}", report::with_causes(&error));
            return Ok(SKIPPED.into());
        }
        Err(error) => return Err(error.into()),
    };
    let summary = Summary::of(arguments, &reports);
    print!("{}", summary.to_text());
    if let Some(path) = &arguments.json {
        report::write_json(path, &summary)?;
    }
    Ok(if summary.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn soak(arguments: &Arguments) -> Result<Vec<NodeReport>, SoakError> {
    // Declared first, so that it is dropped after those who live in there.
    let namespaces = match arguments.engine {
        Engine::Udp => None,
        Engine::Raw => Some(Namespaces::create()?),
    };
    let mut nodes = Nodes::default();
    for index in 0..NODES {
        let place = namespaces
            .as_ref()
            .map(|namespaces| (namespaces, index % 2));
        nodes.start(&node_plan(arguments, index), place).await?;
    }
    let _busy = Busy::start(arguments.busy).map_err(SoakError::Busy)?;
    let mut addrs = Vec::new();
    for (index, word) in nodes.one_word_of_each(START_TIME).await? {
        match word {
            Word::Listening { addr } => addrs.push((index, addr)),
            other => return Err(NodesError::Unexpected(index, other.into()).into()),
        }
    }
    for index in 0..NODES {
        let is_callee = |callee: usize| match arguments.engine {
            Engine::Udp => callee != index,
            // Those on the other side of the link.
            Engine::Raw => callee % 2 != index % 2,
        };
        let servers = addrs.iter().copied().filter(|&(at, _)| is_callee(at));
        let servers = servers.collect();
        nodes.order(index, &Order::Start { servers }).await?;
    }
    let progress = Progress::new(
        u64::try_from(arguments.seconds.as_millis()).unwrap_or(u64::MAX),
        arguments.seconds,
    );
    let ended = run_calls(arguments, &mut nodes, &progress);
    let limit = arguments.seconds + FINISH_TIME + PATIENCE;
    timeout(limit, ended)
        .await
        .map_err(|_| NodesError::Silent(limit))??;
    progress.bar.finish_and_clear();
    for index in 0..NODES {
        nodes.order(index, &Order::Settle).await?;
    }
    let mut reports = Vec::new();
    for (index, word) in nodes.one_word_of_each(SETTLE_TIME + PATIENCE).await? {
        match word {
            Word::Report(report) => reports.push(*report),
            other => return Err(NodesError::Unexpected(index, other.into()).into()),
        }
    }
    Ok(reports)
}

fn node_plan(arguments: &Arguments, index: usize) -> NodePlan {
    let share = |rpcs: u64| {
        let index = index as u64;
        let nodes = NODES as u64;
        rpcs / nodes + u64::from(index < rpcs % nodes)
    };
    NodePlan {
        index,
        listen: match arguments.engine {
            Engine::Udp => (Ipv4Addr::LOCALHOST, 0).into(),
            // The system does not keep Homa ports of two processes apart.
            Engine::Raw => (Namespaces::addr(index % 2), RAW_PORTS[index]).into(),
        },
        engine: arguments.engine,
        seed: arguments.seed,
        in_flight: arguments.in_flight as usize,
        workers: arguments.workers as usize,
        calls: arguments.rpcs.map(share),
        timeout_ms: arguments.timeout,
        faults: fault_rates(arguments),
        capture: arguments.capture.clone().filter(|_| index == 0),
    }
}

fn fault_rates(arguments: &Arguments) -> FaultRates {
    FaultRates {
        loss_ppm: arguments.loss,
        reorder_ppm: arguments.reorder,
        duplicate_ppm: arguments.duplicate,
        delay_ppm: arguments.delay,
        delay_us: arguments.longest_delay * 1_000,
    }
}

/// Until each process says that its calls have ended; they are told to make no more in time.
async fn run_calls(
    arguments: &Arguments,
    nodes: &mut Nodes,
    progress: &Progress,
) -> Result<(), SoakError> {
    let began = Instant::now();
    let end = began + arguments.seconds;
    let mut calls = [0; NODES];
    let mut finished = [false; NODES];
    let mut told = false;
    while finished.contains(&false) {
        let (index, word) = tokio::select! {
            word = nodes.next_word() => word?,
            () = tokio::time::sleep_until(end), if !told => {
                told = true;
                for index in 0..NODES {
                    nodes.order(index, &Order::Finish).await?;
                }
                continue;
            }
        };
        match word {
            Word::Progress { calls: ended } => calls[index] = ended,
            Word::Finished => finished[index] = true,
            other => return Err(NodesError::Unexpected(index, other.into()).into()),
        }
        let passed = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        progress
            .bar
            .set_position(passed.min(progress.bar.length().unwrap_or(passed)));
        let total: u64 = calls.iter().sum();
        progress.bar.set_message(format!("{total} RPCs"));
    }
    Ok(())
}
