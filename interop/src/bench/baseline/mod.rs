//! `bench baseline`: the shortest ways that a message and its answer can take, and what Homa adds.

mod pinger;
mod server;

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use homa_client::{BindError, CallError};
use serde::{Deserialize, Serialize};
use tokio::task::JoinError;

use self::pinger::Pinger;
use self::server::Addresses;
use super::cpu::{Meter, Used};
use super::machine::Machine;
use crate::child::{Serving, StartError};
use crate::progress::Progress;
use crate::report::{self, Round, Side, Tail, Verdict, rounded};
use crate::runtime::{self, MAX_WORKERS};
use crate::table::Table;
use crate::values;

pub(crate) use self::server::{Arguments as ServerArguments, serve_until_stdin_ends};

/// Measures how long a message and its answer take without any protocol above UDP and TCP, and how
/// much longer a Homa RPC does.
///
/// One message is in flight, on loopback between two processes: over UDP and over TCP, each with
/// threads that block, with tokio, and with threads that look for the answer all the time
/// (spinning); and as an RPC of `homa-client` with tokio. All take turns, in the same processes and
/// runtimes. Figures are medians of the rounds; the ratio is Homa divided by UDP with tokio.
///
/// The ratio depends on what the processors do. Where each process has one to itself, which
/// sleeps while it waits, waking it takes most of the time of both. Where both share one, as on a
/// busy machine, only the work counts; `taskset -c 0` before the command shows that. Spinning is
/// left out there, because neither side could go on before the other is interrupted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  homa-interop bench baseline --workers 1 --json baseline.json")]
pub(crate) struct Arguments {
    /// Bytes of each message, 1 to 1,400.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          default_value_t = 100,
          value_parser = clap::value_parser!(u16).range(1..=1_400))]
    bytes: u16,
    /// Threads of both runtimes, 1 to 64; 1 is tokio's current-thread runtime. Default: tokio's default.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u16).range(1..=MAX_WORKERS))]
    workers: Option<u16>,
    /// Rounds of each, 3 to 1000.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          default_value_t = 7,
          value_parser = clap::value_parser!(u32).range(3..=1_000))]
    rounds: u32,
    /// Seconds of each round, 0.01 to 3600.
    #[arg(long, value_name = "S", allow_negative_numbers = true,
          default_value = "0.5", value_parser = values::parse_seconds)]
    seconds: Duration,
    /// Also fail if the ratio of the medians is above the goal of 1.4.
    #[arg(long, alias = "enforce")]
    check: bool,
    /// Write the results to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The most that the median of an RPC may be, in medians of a bare datagram and its answer.
const GOAL: f64 = 1.4;

/// Time for caches and clocks to settle before each round, or as long as the round if that is
/// shorter.
const WARM_UP: Duration = Duration::from_millis(100);

/// How long an answer may take. Loopback loses a datagram only if its receiver is not there.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest message of the benchmark.
const BUFFER: usize = 2048;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
enum BaselineError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("{lane}")]
    Lane {
        lane: &'static str,
        source: Box<BaselineError>,
    },
    #[error("a call failed")]
    Call(#[from] CallError),
    #[error("a message could not be sent or received")]
    Message(#[from] io::Error),
    #[error("no answer came within {PATIENCE:?}")]
    Silent,
    #[error("an answer differs from what was sent")]
    WrongBytes,
    #[error("a calling task ended early")]
    Task(#[from] JoinError),
    #[error(
        "the median of Homa is {} of UDP's with tokio, the goal is at most {GOAL}",
        ratio.map_or_else(|| "an unknown part".to_owned(), |ratio| ratio.to_string())
    )]
    Missed { ratio: Option<f64> },
}

/// What carries a message, and how it is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Lane {
    SpinningUdp,
    SpinningTcp,
    BlockingUdp,
    BlockingTcp,
    TokioUdp,
    Homa,
    TokioTcp,
}

impl Lane {
    /// Those that are compared follow each other.
    const ALL: [Self; 7] = [
        Self::SpinningUdp,
        Self::SpinningTcp,
        Self::BlockingUdp,
        Self::BlockingTcp,
        Self::TokioUdp,
        Self::Homa,
        Self::TokioTcp,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::SpinningUdp => "UDP, spinning",
            Self::SpinningTcp => "TCP, spinning",
            Self::BlockingUdp => "UDP, blocking",
            Self::BlockingTcp => "TCP, blocking",
            Self::TokioUdp => "UDP, tokio",
            Self::Homa => "Homa over UDP, tokio",
            Self::TokioTcp => "TCP, tokio",
        }
    }

    fn spins(self) -> bool {
        matches!(self, Self::SpinningUdp | Self::SpinningTcp)
    }

    /// Those that can be measured on so many processors.
    fn on(cores: usize) -> impl Iterator<Item = Self> {
        let lanes = Self::ALL.into_iter();
        lanes.filter(move |lane| cores > 1 || !lane.spins())
    }
}

/// The result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Tells it from other results.
    pub(crate) kind: Kind,
    pub(crate) machine: Machine,
    bytes: u16,
    workers: Option<u16>,
    lanes: Vec<Measured>,
    /// Homa divided by UDP with tokio.
    ratio_p50: Option<f64>,
    ratio_p99: Option<f64>,
    /// System calls of the client's endpoint per RPC.
    sends_per_rpc: f64,
    receives_per_rpc: f64,
    pub(crate) claims: Vec<Verdict>,
}

/// What every result of `bench baseline` calls itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Baseline,
}

/// One lane.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Measured {
    lane: Lane,
    #[serde(flatten)]
    side: Side,
}

/// Runs the benchmark.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    if let Some(path) = &arguments.json {
        report::check_writable(path)?;
    }
    let runtime = runtime::with_workers(arguments.workers)?;
    let outcome = runtime.block_on(measure(arguments));
    // A thread may still be waiting for an answer.
    runtime.shutdown_background();
    let outcome = outcome?;
    write!(io::stdout(), "{}", outcome.text())?;
    if let Some(path) = &arguments.json {
        report::write_json(path, &outcome)?;
    }
    if arguments.check && outcome.claims.iter().any(|claim| !claim.holds) {
        let ratio = outcome.ratio_p50;
        return Err(BaselineError::Missed { ratio }.into());
    }
    Ok(())
}

async fn measure(arguments: &Arguments) -> Result<Outcome, BaselineError> {
    let machine = Machine::here();
    let mut command = vec!["serve-baseline".to_owned()];
    if let Some(workers) = arguments.workers {
        command.push(format!("--workers={workers}"));
    }
    let server: Serving<Addresses> = Serving::start(&command).await?;
    let payload: Bytes = (0..arguments.bytes).map(|at| (at % 251) as u8).collect();
    let mut lanes = Vec::new();
    for lane in Lane::on(machine.cores) {
        let pinger = Pinger::connect(lane, &server.at).await;
        lanes.push(Turns {
            lane,
            pinger: Some(pinger.map_err(|error| error.of(lane))?),
            rounds: Vec::new(),
            messages: 0,
            cpu: None,
        });
    }
    // An endpoint counts from its beginning, which other lanes have no part in.
    let homa = lanes.iter().find_map(|lane| match &lane.pinger {
        Some(Pinger::Homa(client, to)) => Some((client.clone(), *to)),
        _ => None,
    });

    let warm_up = WARM_UP.min(arguments.seconds);
    let steps = arguments.rounds * lanes.len() as u32;
    let progress = Progress::new(steps.into(), (warm_up + arguments.seconds) * steps);
    for _ in 0..arguments.rounds {
        for turns in &mut lanes {
            progress.bar.set_message(turns.lane.name());
            let took_turn = turns.round(&payload, warm_up, arguments.seconds, server.at.pid);
            took_turn.await.map_err(|error| error.of(turns.lane))?;
            progress.bar.inc(1);
        }
    }
    progress.bar.finish_and_clear();

    let rpcs = lanes.iter().find(|turns| turns.lane == Lane::Homa);
    let rpcs = rpcs.map_or(0, |turns| turns.messages) as f64;
    let counters = homa.map(|(client, to)| client.counters(to));
    let per_rpc = |count: Option<u64>| rounded(count.unwrap_or_default() as f64 / rpcs);
    let sends_per_rpc = per_rpc(counters.as_ref().map(|counters| counters.sends));
    let receives_per_rpc = per_rpc(counters.as_ref().map(|counters| counters.receives));
    let lanes = lanes.into_iter().map(Turns::into_measured).collect();
    let mut outcome = Outcome {
        kind: Kind::Baseline,
        machine,
        bytes: arguments.bytes,
        workers: arguments.workers,
        lanes,
        ratio_p50: None,
        ratio_p99: None,
        sends_per_rpc,
        receives_per_rpc,
        claims: Vec::new(),
    };
    outcome.judge();
    Ok(outcome)
}

impl BaselineError {
    fn of(self, lane: Lane) -> Self {
        Self::Lane {
            lane: lane.name(),
            source: Box::new(self),
        }
    }
}

/// A lane while it is measured.
struct Turns {
    lane: Lane,
    /// Away while it sends.
    pinger: Option<Pinger>,
    rounds: Vec<Round>,
    /// In all, those of warm-ups included.
    messages: u64,
    cpu: Option<Used>,
}

impl Turns {
    async fn round(
        &mut self,
        payload: &Bytes,
        warm_up: Duration,
        measure: Duration,
        server: u32,
    ) -> Result<(), BaselineError> {
        let Some(pinger) = self.pinger.take() else {
            return Ok(());
        };
        let meter = Meter::start(Some(server));
        let (pinger, pinged) = pinger.round(payload.clone(), warm_up, measure).await?;
        let used = meter.used();
        self.pinger = Some(pinger);
        self.messages += pinged.messages;
        self.cpu = Some(self.cpu.map_or(used, |before| before.and(used)));
        let rate = pinged.latencies.len() as f64 / measure.as_secs_f64();
        let gbps = rate * payload.len() as f64 * 8.0 / 1e9;
        self.rounds.push(Round::of(&pinged.latencies, rate, gbps));
        Ok(())
    }

    fn into_measured(self) -> Measured {
        Measured {
            lane: self.lane,
            side: Side {
                cpu_per_call: self.cpu.and_then(|cpu| cpu.per_call(self.messages)),
                ..Side::of(&self.rounds, Tail::MedianOfRounds)
            },
        }
    }
}

impl Outcome {
    fn side(&self, lane: Lane) -> Option<&Side> {
        let measured = self.lanes.iter().find(|measured| measured.lane == lane)?;
        Some(&measured.side)
    }

    /// Relates Homa to UDP with tokio.
    fn judge(&mut self) {
        let both = self.side(Lane::Homa).zip(self.side(Lane::TokioUdp));
        let ratio_p50 = both.map(|(homa, udp)| rounded(homa.p50_us / udp.p50_us));
        let ratio_p99 = both.and_then(|(homa, udp)| Some(rounded(homa.p99_us? / udp.p99_us?)));
        self.ratio_p50 = ratio_p50;
        self.ratio_p99 = ratio_p99;
        self.claims = vec![Verdict {
            row: format!("homa-client, {} B, 1 in flight", self.bytes),
            what: "p50 by UDP with tokio".to_owned(),
            ratio: self.ratio_p50,
            claimed: format!("at most {GOAL}"),
            holds: self.ratio_p50.is_some_and(|ratio| ratio <= GOAL),
        }];
    }

    /// A row for each lane.
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new([
            "",
            "p50 us",
            "p99 us",
            "CPU us, client",
            "server",
            "samples",
        ]);
        let us = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| format!("{us:.1}"));
        for Measured { lane, side } in &self.lanes {
            let cpu = side.cpu_per_call;
            table.row([
                lane.name().to_owned(),
                us(Some(side.p50_us)),
                us(side.p99_us),
                us(cpu.map(|cpu| cpu.client.us())),
                us(cpu.and_then(|cpu| Some(cpu.server?.us()))),
                side.samples.to_string(),
            ]);
        }
        table
    }

    /// What was measured.
    pub(crate) fn describe(&self) -> String {
        let rounds = self.lanes.first().map_or(0, |lane| lane.side.rounds.len());
        format!(
            "{} B there and back, one in flight, two processes, {}, {rounds} rounds",
            self.bytes,
            runtime::describe(self.workers)
        )
    }

    /// What Homa adds.
    pub(crate) fn describe_homa(&self) -> String {
        let ratio =
            |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |r| format!("{r:.2}"));
        format!(
            "Homa by UDP with tokio: p50 {}, p99 {}; the client's system calls per RPC: {:.2} that \
             send, {:.2} that receive",
            ratio(self.ratio_p50),
            ratio(self.ratio_p99),
            self.sends_per_rpc,
            self.receives_per_rpc
        )
    }

    fn text(&self) -> String {
        format!(
            "{}\n{}\n{}\n\n{}",
            self.describe(),
            self.table().text(),
            self.describe_homa(),
            Verdict::table(&self.claims).text()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(udp_us: f64, homa_us: f64) -> Outcome {
        let measured = |lane, us| {
            let round = Round {
                p50_us: us,
                p99_us: Some(2.0 * us),
                rate: 1.0,
                gbps: 1.0,
                samples: 1_000,
            };
            let side = Side::of(&[round; 3], Tail::MedianOfRounds);
            Measured { lane, side }
        };
        let mut outcome = Outcome {
            kind: Kind::Baseline,
            machine: Machine::here(),
            bytes: 100,
            workers: Some(1),
            lanes: vec![
                measured(Lane::TokioUdp, udp_us),
                measured(Lane::Homa, homa_us),
            ],
            ratio_p50: None,
            ratio_p99: None,
            sends_per_rpc: 1.0,
            receives_per_rpc: 1.0,
            claims: Vec::new(),
        };
        outcome.judge();
        outcome
    }

    #[test]
    fn the_goal_is_judged_in_the_text() {
        let reached = outcome(10.0, 14.0);
        assert!(reached.claims[0].holds, "{:?}", reached.claims);
        let missed = outcome(10.0, 14.1);
        assert!(!missed.claims[0].holds, "{:?}", missed.claims);
        let text = missed.text();
        assert!(text.contains("1.41") && text.contains("28.2"), "{text}");
        assert!(text.contains("FALLS SHORT"), "{text}");
    }

    #[test]
    fn on_one_processor_nothing_spins() {
        assert_eq!(Lane::on(2).count(), 7);
        assert!(Lane::on(1).all(|lane| !lane.spins()));
        assert_eq!(Lane::on(1).count(), 5);
    }
}
