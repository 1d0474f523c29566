//! `bench floor`: what Homa adds to the shortest way that a datagram and its answer can take.

use std::error::Error;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use homa_client::{BindError, CallError, Client, Config, Server};
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinError;
use tokio::time::timeout;

use crate::child::{self, Serving, StartError};
use crate::progress::Progress;
use crate::report::{self, Round, Side, Tail, rounded};
use crate::{latency, values};

/// Measures how much longer a Homa RPC takes than a bare datagram and its answer.
///
/// One RPC of `homa-client` is in flight, over UDP on loopback between two processes with tokio
/// on both sides; in turns with it, in the same processes and runtimes, one datagram of tokio's
/// `UdpSocket`. Figures are medians of the rounds, a ratio is Homa divided by the datagrams.
///
/// The ratio depends on what the processors do. Where each process has one to itself, which
/// sleeps while it waits, waking it takes most of the time of both. Where both share one, as on a
/// busy machine, only the work counts; `taskset -c 0` before the command shows that.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  homa-interop bench floor --workers 1 --json floor.json")]
pub(crate) struct Arguments {
    /// Bytes of each message and datagram, 1 to 1,400.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          default_value_t = 100,
          value_parser = clap::value_parser!(u16).range(1..=1_400))]
    bytes: u16,
    /// Threads of both runtimes; 1 is tokio's current-thread runtime. Default: tokio's default.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: Option<u16>,
    /// Rounds of each, at least 3.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          default_value_t = 7,
          value_parser = clap::value_parser!(u32).range(3..=1_000))]
    rounds: u32,
    /// Seconds of each round, 0.01 to 3600.
    #[arg(long, value_name = "S", allow_negative_numbers = true,
          default_value = "1", value_parser = values::parse_seconds)]
    seconds: Duration,
    /// Also fail if the ratio of the medians is above the goal of 1.6.
    #[arg(long)]
    enforce: bool,
    /// Write the results to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The most that the median of an RPC may be, in medians of a bare datagram and its answer.
const GOAL: f64 = 1.6;

/// Time for caches and clocks to settle before each round, or as long as the round if that is
/// shorter.
const WARM_UP: Duration = Duration::from_millis(100);

/// How long an answer may take. Loopback loses a datagram only if its receiver is not there.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest datagram of the benchmark.
const BUFFER: usize = 2048;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
enum FloorError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("a call failed")]
    Call(#[from] CallError),
    #[error("a datagram could not be sent or received")]
    Datagram(#[from] io::Error),
    #[error("no answer came within {PATIENCE:?}")]
    Silent,
    #[error("an answer differs from what was sent")]
    WrongBytes,
    #[error("a calling task ended early")]
    Task(#[from] JoinError),
    #[error("the median of Homa is {0} of the datagrams', the goal is at most {GOAL}")]
    Missed(f64),
}

/// Where the second process answers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Addresses {
    udp: SocketAddr,
    homa: SocketAddr,
}

/// The result.
#[derive(Clone, Debug, Serialize)]
struct Floor {
    bytes: u16,
    workers: Option<u16>,
    udp: Side,
    homa: Side,
    /// Homa divided by the datagrams.
    ratio_p50: f64,
    ratio_p99: Option<f64>,
    /// System calls of the client's endpoint per RPC.
    sends_per_rpc: f64,
    receives_per_rpc: f64,
}

/// Runs the benchmark.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    if let Some(path) = &arguments.json {
        report::check_writable(path)?;
    }
    let runtime = runtime(arguments.workers.map(usize::from))?;
    let floor = runtime.block_on(measure(arguments))?;
    write!(io::stdout(), "{}", floor.to_text())?;
    if let Some(path) = &arguments.json {
        report::write_json(path, &floor)?;
    }
    if arguments.enforce && floor.ratio_p50 > GOAL {
        return Err(FloorError::Missed(floor.ratio_p50).into());
    }
    Ok(())
}

/// The same for both processes.
fn runtime(workers: Option<usize>) -> io::Result<Runtime> {
    match workers {
        None => Builder::new_multi_thread().enable_all().build(),
        Some(1) => Builder::new_current_thread().enable_all().build(),
        Some(workers) => Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build(),
    }
}

async fn measure(arguments: &Arguments) -> Result<Floor, FloorError> {
    let workers = arguments.workers.map(|workers| workers.to_string());
    let mut command = vec!["serve-floor"];
    if let Some(workers) = &workers {
        command.extend(["--workers", workers]);
    }
    let server: Serving<Addresses> = Serving::start(&command).await?;
    let payload: Bytes = (0..arguments.bytes).map(|at| (at % 251) as u8).collect();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(server.at.udp).await?;
    let client = Client::bind(&Config::default())?;
    let mut udp = Caller::Udp(socket);
    let mut homa = Caller::Homa(client.clone(), server.at.homa);

    let warm_up = WARM_UP.min(arguments.seconds);
    let lasts = (warm_up + arguments.seconds) * arguments.rounds * 2;
    let progress = Progress::new(u64::from(arguments.rounds) * 2, lasts);
    let mut rounds: [Vec<Round>; 2] = Default::default();
    let mut calls = 0;
    for _ in 0..arguments.rounds {
        for (caller, rounds) in [&mut udp, &mut homa].into_iter().zip(&mut rounds) {
            // On a task, since the thread that blocks on a runtime is none of its workers.
            let taken = caller.take();
            let task = tokio::spawn(taken.round(payload.clone(), warm_up, arguments.seconds));
            let (back, latencies, all_calls) = task.await??;
            if matches!(back, Caller::Homa(..)) {
                calls += all_calls;
            }
            *caller = back;
            let rate = latencies.len() as f64 / arguments.seconds.as_secs_f64();
            let gbps = rate * f64::from(arguments.bytes) * 8.0 / 1e9;
            rounds.push(Round::of(&latencies, rate, gbps));
            progress.bar.inc(1);
        }
    }
    progress.bar.finish_and_clear();
    let counters = client.counters(server.at.homa);
    let [udp, homa] = rounds.map(|rounds| Side::of(&rounds, Tail::MedianOfRounds));
    Ok(Floor {
        bytes: arguments.bytes,
        workers: arguments.workers,
        ratio_p50: rounded(homa.p50_us / udp.p50_us),
        ratio_p99: homa
            .p99_us
            .zip(udp.p99_us)
            .map(|(homa, udp)| rounded(homa / udp)),
        sends_per_rpc: rounded(counters.sends as f64 / calls as f64),
        receives_per_rpc: rounded(counters.receives as f64 / calls as f64),
        udp,
        homa,
    })
}

/// Who sends and waits for the answer.
enum Caller {
    Udp(UdpSocket),
    Homa(Client, SocketAddr),
    /// On the task that makes the calls.
    Away,
}

impl Caller {
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Away)
    }

    /// One call after the other. Returns the latencies of those after the warm-up, and how many
    /// calls there were in all.
    async fn round(
        self,
        payload: Bytes,
        warm_up: Duration,
        measure: Duration,
    ) -> Result<(Self, Histogram<u64>, u64), FloorError> {
        let mut latencies = latency::empty_histogram();
        let mut calls = 0;
        let begin = Instant::now() + warm_up;
        let end = begin + measure;
        let mut buffer = [0; BUFFER];
        let calling = async {
            loop {
                let started = Instant::now();
                match &self {
                    Self::Udp(socket) => {
                        socket.send(&payload).await?;
                        let len = socket.recv(&mut buffer).await?;
                        if buffer[..len] != payload[..] {
                            return Err(FloorError::WrongBytes);
                        }
                    }
                    Self::Homa(client, to) => {
                        let response = client.call(*to, payload.clone().into()).await?;
                        if response != *payload {
                            return Err(FloorError::WrongBytes);
                        }
                    }
                    Self::Away => {}
                }
                let finished = Instant::now();
                calls += 1;
                if started >= begin {
                    latency::record(&mut latencies, finished - started);
                }
                if finished >= end {
                    return Ok(());
                }
            }
        };
        // One timer per round, not one per call, which would count.
        timeout(warm_up + measure + PATIENCE, calling)
            .await
            .map_err(|_| FloorError::Silent)??;
        Ok((self, latencies, calls))
    }
}

impl Floor {
    fn to_text(&self) -> String {
        let runtime = match self.workers {
            None => "tokio's default runtime".to_owned(),
            Some(1) => "tokio's current-thread runtime".to_owned(),
            Some(workers) => format!("{workers} workers"),
        };
        let us = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| format!("{us:.1}"));
        let ratio =
            |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |r| format!("{r:.2}"));
        let line = |name: &str, p50: String, p99: String| format!("{name:24}{p50:>10}{p99:>10}\n");
        [
            format!(
                "{} B there and back, one in flight, two processes, {runtime}, {} rounds\n",
                self.bytes,
                self.udp.rounds.len()
            ),
            line("", "p50 us".to_owned(), "p99 us".to_owned()),
            line("bare UDP", us(Some(self.udp.p50_us)), us(self.udp.p99_us)),
            line(
                "Homa over UDP",
                us(Some(self.homa.p50_us)),
                us(self.homa.p99_us),
            ),
            line("ratio", ratio(Some(self.ratio_p50)), ratio(self.ratio_p99)),
            format!(
                "the client's system calls per RPC: {:.2} that send, {:.2} that receive\n",
                self.sends_per_rpc, self.receives_per_rpc
            ),
            format!(
                "{}: the ratio of the medians is to be at most {GOAL}\n",
                if self.ratio_p50 <= GOAL {
                    "holds"
                } else {
                    "DOES NOT HOLD"
                }
            ),
        ]
        .concat()
    }
}

/// What the second process does.
pub(crate) fn serve_until_stdin_ends(workers: Option<usize>) -> Result<(), Box<dyn Error>> {
    let runtime = runtime(workers)?;
    let result = runtime.block_on(async {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), &Config::default())?;
        child::tell(&Addresses {
            udp: socket.local_addr()?,
            homa: server.local_addr(),
        })?;
        let udp = tokio::spawn(answer_datagrams(socket));
        let homa = tokio::spawn(answer_calls(server));
        tokio::select! {
            ended = udp => Ok(ended??),
            ended = homa => Ok(ended?),
            () = child::stdin_ends() => Ok(()),
        }
    });
    // A thread may still be reading standard input.
    runtime.shutdown_background();
    result
}

async fn answer_datagrams(socket: UdpSocket) -> io::Result<()> {
    let mut buffer = [0; BUFFER];
    loop {
        let (len, from) = socket.recv_from(&mut buffer).await?;
        socket.send_to(&buffer[..len], from).await?;
    }
}

async fn answer_calls(server: Server) {
    while let Some(request) = server.accept().await {
        let (message, responder) = request.into_parts();
        // A client that is gone needs no answer.
        let _ = responder.reply(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floor(udp_us: f64, homa_us: f64) -> Floor {
        let side = |us| {
            let round = Round {
                p50_us: us,
                p99_us: Some(2.0 * us),
                rate: 1.0,
                gbps: 1.0,
                samples: 1_000,
            };
            Side::of(&[round; 3], Tail::MedianOfRounds)
        };
        Floor {
            bytes: 100,
            workers: Some(1),
            udp: side(udp_us),
            homa: side(homa_us),
            ratio_p50: homa_us / udp_us,
            ratio_p99: None,
            sends_per_rpc: 1.0,
            receives_per_rpc: 1.0,
        }
    }

    #[test]
    fn the_goal_is_judged_in_the_text() {
        assert!(floor(10.0, 16.0).to_text().contains("\nholds: "));
        let missed = floor(10.0, 16.1).to_text();
        assert!(missed.contains("\nDOES NOT HOLD: "), "{missed}");
        assert!(
            missed.contains("1.61") && missed.contains("20.0"),
            "{missed}"
        );
    }

    #[test]
    fn both_processes_have_the_same_kind_of_runtime() {
        use tokio::runtime::RuntimeFlavor;
        let flavor = |workers| {
            runtime(workers)
                .expect("a runtime")
                .handle()
                .runtime_flavor()
        };
        assert_eq!(flavor(Some(1)), RuntimeFlavor::CurrentThread);
        assert_eq!(flavor(Some(2)), RuntimeFlavor::MultiThread);
        assert_eq!(flavor(None), RuntimeFlavor::MultiThread);
    }
}
