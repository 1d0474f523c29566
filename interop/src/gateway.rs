//! `gateway`: passes Thrift calls on between framed TCP and Homa.

use std::error::Error;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use thrift_homa::gateway::{self, GatewayOptions};
use thrift_homa::{CallMetrics, CallOutcome, Endpoint, Limits, ServerHandle, ServerStats};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use crate::serve::LISTENING;
use crate::{child, report, values};

/// Passes Thrift calls on, for programs in other languages: from framed TCP to a service on Homa, or
/// from clients on Homa to a service on framed TCP.
///
/// A line tells where it listens, port 0 becomes a free port. It ends at Ctrl-C or SIGTERM, after the
/// calls that are under way. Messages have up to 1,000,000 bytes.
///
/// A gateway that would call itself is refused. Two that call each other are not found out: each call
/// would go round until it times out.
///
/// The exit status is 0 if none of them had to be given up.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  homa-interop gateway --listen tcp+framed://127.0.0.1:9090 --to homa://10.0.0.1:4000
  homa-interop gateway --listen homa://0.0.0.0:4000 --to tcp+framed://127.0.0.1:9090")]
pub(crate) struct Arguments {
    /// Where to listen: tcp+framed://HOST:PORT, tcp+buffered://HOST:PORT, unix+framed:///PATH or
    /// homa://HOST:PORT.
    #[arg(long, value_name = "URI")]
    listen: Endpoint,
    /// Whom to call: homa://HOST:PORT, tcp+framed://HOST:PORT or unix+framed:///PATH.
    #[arg(long, value_name = "URI")]
    to: Endpoint,
    /// Calls that are passed on at once.
    #[arg(long, value_name = "N", default_value = "64")]
    workers: NonZeroUsize,
    /// Calls that wait for a worker; more are refused.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    queue: usize,
    /// Connections of clients that are not on Homa; more are closed.
    #[arg(long, value_name = "N", default_value_t = 1_000,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    max_connections: u32,
    /// Connections to a server that is not on Homa, with one call at a time each.
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    connections: u32,
    /// Seconds that the server may take for a call.
    #[arg(long, value_name = "S", default_value = "30", value_parser = values::parse_seconds)]
    timeout: Duration,
    /// Seconds that calls under way have at the end.
    #[arg(long, value_name = "S", default_value = "5", value_parser = values::parse_seconds)]
    grace: Duration,
    /// Bytes of the longest message in either direction.
    #[arg(long, value_name = "N", default_value_t = 1_000_000,
          value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    max_message_bytes: u32,
    /// Write what was counted to standard output every so many seconds, as a line of JSON.
    #[arg(long, value_name = "S", value_parser = values::parse_seconds)]
    metrics_every: Option<Duration>,
    /// Write what was counted to this file at the end, with the calls that were under way.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// End with standard input, too.
    #[arg(long)]
    until_stdin_ends: bool,
}

/// What was counted.
#[derive(Debug, Serialize)]
struct Metrics {
    /// Seconds since it was started.
    seconds: f64,
    calls: u64,
    in_flight: usize,
    queued: usize,
    bytes_in: u64,
    bytes_out: u64,
    connections: usize,
    connections_refused: u64,
    connections_broken: u64,
    /// Calls that came while the queue was full.
    overloaded: u64,
    undelivered: u64,
    outcomes: Vec<Count>,
    methods: Vec<Method>,
}

#[derive(Debug, Serialize)]
struct Count {
    outcome: &'static str,
    calls: u64,
}

#[derive(Debug, Serialize)]
struct Method {
    name: String,
    calls: u64,
    bytes_in: u64,
    bytes_out: u64,
    /// Of all calls together.
    latency_seconds: f64,
    /// The longest.
    max_latency_us: f64,
}

/// Passes calls on until it is told to stop.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    if let Some(path) = &arguments.json {
        report::check_writable(path)?;
    }
    let seen = Arc::new(CallMetrics::default());
    let mut options = GatewayOptions::default();
    options.server.workers = arguments.workers.get();
    options.server.queue = arguments.queue;
    options.server.max_connections = usize::try_from(arguments.max_connections)?;
    options.server.limits = Limits::for_messages(usize::try_from(arguments.max_message_bytes)?);
    options.server.observer = Some(seen.clone());
    options.connections = usize::try_from(arguments.connections)?;
    options.timeout = arguments.timeout;
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let read = |stats: &ServerStats| Metrics::read(stats, &seen, began);
    let gateway = runtime.block_on(pass_on(arguments, options, read))?;
    // A thread may still be reading standard input.
    runtime.shutdown_background();
    let ended = gateway.shutdown(arguments.grace);
    if let Some(path) = &arguments.json {
        report::write_json(path, &read(&ended.stats))?;
    }
    // Nobody may read it any more, which is no failure of the calls.
    let _ = writeln!(io::stdout(), "{ended}");
    if ended.is_clean() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("FAILED: calls were given up after {:?}", arguments.grace);
    Ok(ExitCode::FAILURE)
}

/// Returns the gateway when it is told to stop.
async fn pass_on(
    arguments: &Arguments,
    options: GatewayOptions,
    read: impl Fn(&ServerStats) -> Metrics,
) -> Result<ServerHandle, Box<dyn Error>> {
    // Before it listens, so that nobody who knows that it does can kill it with a signal.
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let gateway = gateway::serve(&arguments.listen, &arguments.to, options)?;
    writeln!(io::stdout(), "{LISTENING}{}", gateway.uri())?;
    let mut stdin_ends = pin!(async {
        if arguments.until_stdin_ends {
            child::stdin_ends().await;
        } else {
            std::future::pending().await
        }
    });
    let mut ticks = arguments.metrics_every.map(ticks);
    loop {
        let tick = async {
            match &mut ticks {
                Some(ticks) => ticks.tick().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminated.recv() => return Ok(gateway),
            _ = interrupted.recv() => return Ok(gateway),
            () = &mut stdin_ends => return Ok(gateway),
            _ = tick => {
                let line = serde_json::to_string(&read(&gateway.stats()))?;
                if let Err(error) = writeln!(io::stdout(), "{line}") {
                    // Clients of the gateway do not depend on who reads this.
                    ticks = None;
                    let _ = writeln!(io::stderr(), "no metrics from now on: {error}");
                }
            }
        }
    }
}

/// The first is one `every` from now.
fn ticks(every: Duration) -> Interval {
    let mut ticks = interval_at(tokio::time::Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

impl Metrics {
    fn read(stats: &ServerStats, seen: &CallMetrics, began: Instant) -> Self {
        let methods = seen.snapshot().into_iter().map(|(name, counts)| Method {
            name,
            calls: counts.calls(),
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
            latency_seconds: counts.total_latency.as_secs_f64(),
            max_latency_us: report::rounded(counts.max_latency.as_secs_f64() * 1e6),
        });
        let outcomes = CallOutcome::ALL.map(|outcome| Count {
            outcome: outcome.name(),
            calls: stats.of(outcome),
        });
        Self {
            seconds: report::rounded(began.elapsed().as_secs_f64()),
            calls: stats.calls(),
            in_flight: stats.in_flight,
            queued: stats.queued,
            bytes_in: stats.bytes_in,
            bytes_out: stats.bytes_out,
            connections: stats.connections,
            connections_refused: stats.connections_refused,
            connections_broken: stats.connections_broken,
            overloaded: stats.overloaded,
            undelivered: stats.undelivered,
            outcomes: outcomes.into_iter().filter(|it| it.calls > 0).collect(),
            methods: methods.collect(),
        }
    }
}
