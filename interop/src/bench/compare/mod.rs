//! `bench compare`: an RPC framework over TCP against the same over Homa.

mod closed;
mod grpc;
mod outcome;
mod plan;
mod thrift;

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use self::closed::{LoadError, Measured, Timing};
use self::grpc::Grpc;
use self::outcome::Kind;
use self::plan::{Scenario, Sides, Suite};
use self::thrift::Thrift;
use super::connect::ConnectError;
use super::cpu::Used;
use super::machine::Machine;
use super::page::{self, Stored};
use crate::child::StartError;
use crate::latency::empty_histogram;
use crate::progress::Progress;
use crate::report::{self, MIN_SAMPLES_FOR_P99, Round, Row, Side, Tail, Verdict};
use crate::{runtime, values};

pub(super) use self::outcome::Outcome;

/// Measures an RPC framework over TCP and over Homa in turns, in one run.
///
/// A second process serves an echo service over both. A ratio is Homa divided by TCP; Gbit/s
/// counts the payload of one direction, bulk calls included. Figures are medians of the rounds.
/// Rows of streams count messages: a latency of the server stream is the time from one message to
/// the next, one of ping-pong the way there and back.
///
/// With --suite thrift each caller is a thread, over TCP with a framed connection of its own to the
/// thrift crate's TServer, whose 80 workers serve one connection each; over Homa 8 workers serve
/// all callers.
///
/// A p99 needs 1,000 samples in each round; the rows behind bulk calls pool their rounds and run
/// until they have as many.
///
/// In rows of one worker both sides have tokio's current-thread runtime, over TCP as over Homa. CPU
/// per call is what the processors did for both processes in the measured time, divided by the
/// calls that ended in it, those of the load beside them included.
///
/// The exit status is 0 if every call of every row succeeded with the right bytes, and with --check
/// if no claim falls short.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  homa-interop bench compare --quick --json out.json")]
pub(crate) struct Arguments {
    /// What is measured.
    #[arg(long, value_enum, default_value_t = SuiteName::Grpc)]
    suite: SuiteName,
    /// End within about a minute and a half: 3 rounds of 0.8 s a row, instead of 5 of 3 s.
    #[arg(long)]
    quick: bool,
    /// Rounds of each row, 3 to 1000. Default: 5.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(3..=1000))]
    rounds: Option<u32>,
    /// Seconds of each round, 0.01 to 3600. Default: 3.
    #[arg(long, value_name = "S", allow_negative_numbers = true,
          value_parser = values::parse_seconds)]
    seconds: Option<Duration>,
    /// Measure only rows whose name contains this; may be given several times.
    #[arg(long, value_name = "TEXT")]
    row: Vec<String>,
    /// Also fail if one of the claims about the results falls short.
    #[arg(long, alias = "enforce")]
    check: bool,
    /// Write a page with the results and plots to this file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the results to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Samples that the rows behind bulk calls wait for.
    #[arg(long, hide = true, default_value_t = MIN_SAMPLES_FOR_P99)]
    tail_samples: u64,
}

/// The suites there are.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum SuiteName {
    /// tonic.
    Grpc,
    /// Apache Thrift.
    Thrift,
}

/// A round with `--quick`.
const QUICK: Duration = Duration::from_millis(800);
/// Time for connections, caches and windows to settle before each round, or as long as the round
/// if that is shorter.
const WARM_UP: Duration = Duration::from_millis(200);
/// How much longer than planned a round may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompareError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("cannot start the runtime of one worker")]
    Runtime(#[source] io::Error),
    #[error("the runtime of one worker ended early")]
    Worker,
    #[error("row \"{row}\", {stack}, round {round}")]
    Round {
        row: &'static str,
        stack: &'static str,
        round: u32,
        source: LoadError,
    },
    #[error("no row's name contains {wanted:?}; the rows are: {rows}")]
    NoSuchRow { wanted: String, rows: String },
    #[error("{0} of the claims above fall short")]
    Claims(usize),
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
}

/// Runs the benchmark.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    match arguments.suite {
        SuiteName::Grpc => run_suite::<Grpc>(arguments),
        SuiteName::Thrift => run_suite::<Thrift>(arguments),
    }
}

fn run_suite<S: Suite>(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let scenarios = chosen(S::ROWS, &arguments.row)?;
    report::check_all_writable(arguments.json.iter().chain(&arguments.html))?;
    let (rounds, seconds) = if arguments.quick {
        (3, QUICK)
    } else {
        (5, Duration::from_secs(3))
    };
    let plan = Plan {
        scenarios,
        rounds: arguments.rounds.unwrap_or(rounds),
        measure: arguments.seconds.unwrap_or(seconds),
        tail_samples: arguments.tail_samples,
    };
    let runtime = runtime::with_workers(None)?;
    let machine = Machine::here();
    let rows = runtime.block_on(measure::<S>(&plan));
    // Threads whose round has failed may still be calling.
    runtime.shutdown_background();
    let rows = rows?;
    let claims: Vec<Verdict> = S::CLAIMS
        .iter()
        .filter_map(|claim| claim.judge(&rows))
        .collect();
    let outcome = Outcome {
        kind: Kind::Compare,
        machine,
        suite: S::WHAT.to_owned(),
        rounds: plan.rounds,
        seconds: plan.measure.as_secs_f64(),
        rows,
        claims,
    };
    if let Some(path) = &arguments.json {
        report::write_json(path, &outcome)?;
    }
    let mut out = io::stdout().lock();
    write!(out, "\n{}", report::cpu_table(&outcome.rows).text()).map_err(CompareError::Output)?;
    if !outcome.claims.is_empty() {
        let table = Verdict::table(&outcome.claims);
        write!(out, "\n{}", table.text()).map_err(CompareError::Output)?;
    }
    let missed = outcome.claims.iter().filter(|verdict| !verdict.holds);
    let missed = missed.count();
    if let Some(path) = &arguments.html {
        let title = format!("{} over Homa and over TCP", S::WHAT);
        page::write(path, &title, &[Stored::Compare(Box::new(outcome))])?;
    }
    match missed {
        missed if arguments.check && missed > 0 => Err(CompareError::Claims(missed).into()),
        _ => Ok(()),
    }
}

/// The rows whose names contain one of `wanted`, all of them if that is empty.
fn chosen(rows: &[Scenario], wanted: &[String]) -> Result<Vec<Scenario>, CompareError> {
    let missing = wanted
        .iter()
        .find(|part| rows.iter().all(|row| !row.name.contains(part.as_str())));
    if let Some(part) = missing {
        let names: Vec<_> = rows.iter().map(|row| format!("{:?}", row.name)).collect();
        return Err(CompareError::NoSuchRow {
            wanted: part.clone(),
            rows: names.join(", "),
        });
    }
    let is_wanted = |row: &&Scenario| {
        wanted.is_empty() || wanted.iter().any(|part| row.name.contains(part.as_str()))
    };
    Ok(rows.iter().filter(is_wanted).copied().collect())
}

/// What is measured and for how long.
#[derive(Debug)]
struct Plan {
    scenarios: Vec<Scenario>,
    rounds: u32,
    measure: Duration,
    tail_samples: u64,
}

impl Plan {
    fn slots(&self) -> u32 {
        self.rounds * 2 * u32::try_from(self.scenarios.len()).unwrap_or(u32::MAX)
    }

    fn warm_up(&self) -> Duration {
        WARM_UP.min(self.measure)
    }

    /// At least how long it takes.
    fn lasts(&self) -> Duration {
        (self.warm_up() + self.measure) * self.slots()
    }

    fn timing(&self, scenario: &Scenario, server: u32) -> Timing {
        let min_samples = match scenario.load.bulk {
            Some(_) => self.tail_samples.div_ceil(u64::from(self.rounds)),
            None => 0,
        };
        let give_up = self.warm_up() + self.measure + PATIENCE;
        Timing {
            warm_up: self.warm_up(),
            measure: self.measure,
            min_samples,
            give_up,
            server: Some(server),
        }
    }
}

async fn measure<S: Suite>(plan: &Plan) -> Result<Vec<Row>, CompareError> {
    let suite = S::start().await?;
    let progress = Progress::new(plan.slots().into(), plan.lasts());
    progress.print(&describe(S::WHAT, plan))?;
    progress.print(&report::table_head())?;
    let mut rows = Vec::new();
    for scenario in &plan.scenarios {
        let row = measure_row(plan, scenario, &suite, &progress).await?;
        progress.print(&report::table_line(&row))?;
        rows.push(row);
    }
    progress.bar.finish_and_clear();
    Ok(rows)
}

async fn measure_row<S: Suite>(
    plan: &Plan,
    scenario: &Scenario,
    suite: &S,
    progress: &Progress,
) -> Result<Row, CompareError> {
    let Sides {
        tcp,
        homa,
        runtime,
        server,
    } = suite.sides(scenario.variant);
    let mut sides = [("TCP", tcp, Rounds::new()), ("Homa", homa, Rounds::new())];
    let timing = plan.timing(scenario, server);
    for round in 1..=plan.rounds {
        for (stack, transport, rounds) in &mut sides {
            progress
                .bar
                .set_message(format!("{}, {stack}", scenario.name));
            let transport = transport.clone();
            let load = scenario.load;
            let measured = async move { closed::run(&transport, &load, &timing).await };
            let measured = runtime.spawn(measured).await.map_err(LoadError::Task);
            let measured =
                measured
                    .and_then(|measured| measured)
                    .map_err(|source| CompareError::Round {
                        row: scenario.name,
                        stack,
                        round,
                        source,
                    })?;
            rounds.add(&measured);
            progress.bar.inc(1);
        }
    }
    let [tcp, homa] = sides.map(|(_, _, rounds)| rounds.into_side(scenario.load.bulk.is_some()));
    Ok(Row::new(scenario.name, tcp, homa))
}

/// The rounds of one stack in one row.
struct Rounds {
    rounds: Vec<Round>,
    pooled: hdrhistogram::Histogram<u64>,
    calls: u64,
    cpu: Option<Used>,
}

impl Rounds {
    fn new() -> Self {
        Self {
            rounds: Vec::new(),
            pooled: empty_histogram(),
            calls: 0,
            cpu: None,
        }
    }

    fn add(&mut self, measured: &Measured) {
        self.rounds
            .push(Round::of(&measured.latencies, measured.rate, measured.gbps));
        self.pooled += &measured.latencies;
        self.calls += measured.calls;
        self.cpu = Some(match self.cpu {
            Some(before) => before.and(measured.cpu),
            None => measured.cpu,
        });
    }

    fn into_side(self, pool: bool) -> Side {
        let tail = if pool {
            Tail::Pooled(report::p99_us(&self.pooled))
        } else {
            Tail::MedianOfRounds
        };
        Side {
            cpu_per_call: self.cpu.and_then(|cpu| cpu.per_call(self.calls)),
            ccdf: report::ccdf(&self.pooled),
            ..Side::of(&self.rounds, tail)
        }
    }
}

fn describe(what: &str, plan: &Plan) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{what} over TCP and over Homa, two processes on one machine ({cores} cores), \
         {} rounds of {:?} each",
        plan.rounds, plan.measure,
    )
}

/// Names of the rows of all suites.
#[cfg(test)]
pub(crate) fn row_names() -> impl Iterator<Item = &'static str> {
    let rows = Grpc::ROWS.iter().chain(Thrift::ROWS);
    rows.map(|row| row.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(nanos: impl IntoIterator<Item = u64>) -> Measured {
        let mut latencies = empty_histogram();
        for value in nanos {
            latencies.record(value).expect("within the bounds");
        }
        Measured {
            latencies,
            rate: 1.0,
            gbps: 1.0,
            calls: 1,
            cpu: Used::default(),
        }
    }

    #[test]
    fn the_rows_behind_bulk_calls_pool_their_rounds() {
        // Two rounds of 500 fast calls and one of 500 slow ones: the pooled tail is slow.
        let rounds =
            [10_000, 10_000, 90_000].map(|nanos| measured(std::iter::repeat_n(nanos, 500)));
        let side = |pool| {
            let mut all = Rounds::new();
            rounds.iter().for_each(|round| all.add(round));
            all.into_side(pool)
        };
        let p99 = side(true).p99_us.expect("1,500 samples together");
        assert!((89.0..=91.0).contains(&p99), "{p99}");
        assert_eq!(side(false).p99_us, None, "500 samples a round are too few");
        assert!(
            (9.9..=10.1).contains(&side(true).p50_us),
            "the median of the rounds"
        );
    }

    #[test]
    fn rounds_behind_bulk_calls_together_reach_the_samples_wanted() {
        let plan = |rounds| Plan {
            scenarios: Grpc::ROWS.to_vec(),
            rounds,
            measure: Duration::from_secs(1),
            tail_samples: 1_000,
        };
        for rounds in [3, 5, 7] {
            let plan = plan(rounds);
            for scenario in &plan.scenarios {
                let all = plan.timing(scenario, 1).min_samples * u64::from(rounds);
                match scenario.load.bulk {
                    Some(_) => assert!(all >= 1_000, "{rounds} rounds have {all}"),
                    None => assert_eq!(all, 0, "others are measured for a time"),
                }
            }
        }
    }

    #[test]
    fn rows_are_chosen_by_a_part_of_their_name_and_a_wrong_part_is_named() {
        let names = |wanted: &[&str]| {
            let wanted: Vec<_> = wanted.iter().map(|part| (*part).to_owned()).collect();
            chosen(Grpc::ROWS, &wanted)
                .map(|rows| rows.iter().map(|row| row.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).expect("all").len(), Grpc::ROWS.len());
        assert_eq!(names(&["10 KB"]).expect("one"), ["10 KB, 16 in flight"]);
        assert_eq!(names(&["500 KB, 8", "64"]).expect("two").len(), 2);
        let error = names(&["10 KB", "10 MB"]).expect_err("there is none");
        assert!(error.to_string().contains("\"10 MB\""), "{error}");
    }
}
