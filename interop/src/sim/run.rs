//! [`Prepared`]: a run whose set-up has been checked, and how it goes.

use std::path::Path;
use std::time::{Duration, Instant as Clock};

use homa_client::ConfigError;
use homa_client::engine::Settings;

use super::baseline::dctcp::Dctcp;
use super::baseline::oracle;
use super::check::SetupError;
use super::compare::Reference;
use super::curve::CurveError;
use super::experiment::ProcessError;
use super::fabric::Fabric;
use super::homa::HomaHost;
use super::ideal::Ideal;
use super::ledger::Sample;
use super::node::Node;
use super::outcome::{Backlog, Counts, Outcome, Throughput, Verdict};
use super::policy;
use super::report::KnownCurve;
use super::setup::{Setup, TransportName};
use super::slowdown::{self, Slowdowns};
use super::time::{Instant, Span};
use super::traffic::{Source, Traffic};
use super::workload::{CdfError, Workload};
use super::world::{AtWindow, Ended, First, Schedule, World};

/// Time after the window in which the measured messages have to finish: some windows, and some
/// times what the longest message takes on a link. Where packets are lost, also some times that an
/// engine waits before it asks for them again.
const PATIENCE_WINDOWS: u64 = 2;
const PATIENCE_MESSAGES: f64 = 10.0;
const PATIENCE_WITH_LOSS: Span = Span::from_micros(200_000);

/// Why a run cannot be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Cdf(#[from] CdfError),
    #[error(transparent)]
    Curve(#[from] CurveError),
    #[error(
        "the run \"{name}\": engine.{} = {} is out of range (of an engine: {}); leave it out, or \
         change what it depends on", error.key, error.value, error.range
    )]
    Engine { name: String, error: ConfigError },
    #[error(
        "the run \"{name}\": no message starts in the time in which they are measured; lengthen it \
         by window_us, or raise the load"
    )]
    NothingMeasured { name: String },
    /// The kind of experiment and the transports that it is made with.
    #[error("the run \"{name}\": {kind} is found out with transport = {with} only")]
    Transport {
        name: String,
        kind: &'static str,
        with: &'static str,
    },
    #[error("the run \"{name}\": {error}")]
    Setup { name: String, error: SetupError },
    #[error(
        "the run \"{name}\": kind.scale.hosts = {hosts} does not fill racks of {per_rack}; take a \
         multiple of topology.hosts_per_rack"
    )]
    Racks {
        name: String,
        hosts: u32,
        per_rack: u32,
    },
    #[error("the run \"{name}\" with {hosts} hosts, a process of its own")]
    Process {
        name: String,
        hosts: u32,
        #[source]
        error: ProcessError,
    },
    #[error(
        "the run \"{name}\": kind.incast has {servers} servers and a client, and the network \
         {hosts} hosts; take fewer servers or more hosts"
    )]
    Servers {
        name: String,
        servers: u32,
        hosts: u32,
    },
}

/// A run that has been checked.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) name: String,
    pub(crate) setup: Setup,
    pub(crate) workload: Workload,
    reference: Reference,
    pub(crate) settings: Settings,
    schedule: Schedule,
    /// What waits in the network from the start.
    first: Vec<First>,
}

/// How fast it went on this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speed {
    pub(crate) took: Duration,
    pub(crate) hops: u64,
    pub(crate) events: u64,
}

impl Prepared {
    /// Checks a set-up, whose values are within their ranges already, and reads its files.
    pub(crate) fn new(
        name: String,
        setup: Setup,
        reference: Option<&Path>,
    ) -> Result<Self, RunError> {
        let workload = Workload::of(&setup)?;
        let reference = Reference::find(&setup, &workload, reference)?;
        Self::of(name, setup, workload, reference)
    }

    /// With messages of another workload than the set-up's, of which nothing is published.
    pub(crate) fn with_own(
        name: String,
        setup: Setup,
        workload: Workload,
    ) -> Result<Self, RunError> {
        Self::of(name, setup, workload, Reference::None)
    }

    fn of(
        name: String,
        setup: Setup,
        workload: Workload,
        reference: Reference,
    ) -> Result<Self, RunError> {
        let settings = policy::settings(&setup, &workload).map_err(|error| RunError::Engine {
            name: name.clone(),
            error,
        })?;
        let start = Instant::ZERO + setup.warm_up_us.map_or(workload.warm_up, Span::from_micros);
        let window = setup.window_us.map_or(workload.window, Span::from_micros);
        let end = start + window;
        let longest = f64::from(workload.sizes.longest()) * 8000.0 / setup.topology.host_gbps;
        let patience = Span::from_picos(window.as_picos() * PATIENCE_WINDOWS)
            + Span::from_picos((PATIENCE_MESSAGES * longest) as u64)
            + match setup.topology.is_lossless() {
                true => Span::ZERO,
                false => PATIENCE_WITH_LOSS,
            };
        Ok(Self {
            name,
            setup,
            workload,
            reference,
            settings,
            schedule: Schedule {
                window: (start, end),
                deadline: Some(end + patience),
            },
            first: Vec::new(),
        })
    }

    /// The same at another time, and with messages that wait from the start.
    pub(crate) fn with(self, schedule: Schedule, first: Vec<First>) -> Self {
        Self {
            schedule,
            first,
            ..self
        }
    }

    /// The same at another load.
    pub(crate) fn at_load(&self, load: f64) -> Self {
        let mut run = self.clone();
        run.setup.load = load;
        run
    }

    /// When its window ends, in microseconds of simulated time: most of its work.
    pub(crate) fn length_us(&self) -> u64 {
        self.schedule.window.1.as_nanos() / 1000
    }

    /// The published curve that it is compared with.
    pub(crate) fn known_curve(&self) -> Option<KnownCurve<'_>> {
        Some(KnownCurve {
            workload: self.setup.workload,
            load: self.setup.load,
            curve: self.reference.curve()?,
        })
    }

    /// Runs it. `tick` is told the simulated time now and then.
    pub(crate) fn run(&self, tick: impl FnMut(Instant)) -> Result<(Outcome, Speed), RunError> {
        let began = Clock::now();
        let ideal = Ideal::new(&self.setup.topology, self.setup.mode);
        let edges = slowdown::edges(&self.workload, self.reference.edges().as_deref());
        let mut slowdowns = Slowdowns::new(edges);
        let mut record = |sample: Sample| {
            let ideal = ideal.time(sample.from, sample.to, sample.bytes);
            let slowdown = sample.took.as_secs_f64() / ideal.as_secs_f64();
            slowdowns.record(sample.to, sample.bytes, slowdown);
        };
        let ended = self.simulate(&mut record, tick)?;
        for sample in &ended.unfinished {
            // Younger than that it would count as faster than any can be.
            let least = ideal.time(sample.from, sample.to, sample.bytes);
            let slowdown = sample.took.max(least).as_secs_f64() / least.as_secs_f64();
            slowdowns.record_unfinished(sample.to, sample.bytes, slowdown);
        }
        if ended.measured == 0 {
            return Err(RunError::NothingMeasured {
                name: self.name.clone(),
            });
        }
        let speed = Speed {
            took: began.elapsed(),
            hops: ended.hops,
            events: ended.events,
        };
        Ok((self.outcome(&ended, slowdowns), speed))
    }

    /// Runs it; `record` gets every measured message that finishes.
    pub(crate) fn simulate(
        &self,
        record: &mut impl FnMut(Sample),
        tick: impl FnMut(Instant),
    ) -> Result<Ended, RunError> {
        let setup = &self.setup;
        match setup.transport {
            TransportName::Homa => {
                let nodes = self.homa_hosts()?;
                Ok(self.simulate_nodes(nodes, None, self.traffic(), record, tick))
            }
            TransportName::SrptOracle => {
                let Setup { topology, mode, .. } = setup;
                let schedule = self.schedule;
                Ok(oracle::run::run(
                    topology,
                    *mode,
                    self.traffic(),
                    schedule,
                    record,
                    tick,
                ))
            }
            TransportName::Dctcp => {
                let nodes = Dctcp::all(setup);
                let mark_above = Some(setup.dctcp.mark_above_bytes);
                Ok(self.simulate_nodes(nodes, mark_above, self.traffic(), record, tick))
            }
        }
    }

    /// The hosts, with an engine each.
    pub(crate) fn homa_hosts(&self) -> Result<Vec<HomaHost>, RunError> {
        HomaHost::all(&self.setup, &self.settings).map_err(|error| RunError::Engine {
            name: self.name.clone(),
            error,
        })
    }

    /// Runs these hosts, with messages from `source`.
    pub(crate) fn simulate_nodes<N: Node>(
        &self,
        nodes: Vec<N>,
        mark_above: Option<u64>,
        source: impl Source,
        record: &mut impl FnMut(Sample),
        tick: impl FnMut(Instant),
    ) -> Ended {
        let topology = &self.setup.topology;
        let fabric = Fabric::new(topology, mark_above, self.setup.seed);
        let gbps = topology.host_gbps;
        World::new(nodes, fabric, source, self.schedule, gbps).run(&self.first, record, tick)
    }

    fn traffic(&self) -> Traffic<impl Fn(f64) -> u32> {
        let Setup {
            load,
            mode,
            seed,
            ref topology,
            ..
        } = self.setup;
        let gap = self.workload.mean_gap(load, topology.host_gbps, mode);
        let draw = |uniform| self.workload.sizes.draw(uniform);
        Traffic::new(draw, gap, topology.hosts(), seed)
    }

    /// Payload that the load brings to each host on average, in Gbit/s.
    pub(crate) fn payload_gbps(&self) -> f64 {
        let Setup { load, mode, .. } = self.setup;
        let gap = self
            .workload
            .mean_gap(load, self.setup.topology.host_gbps, mode);
        mode.ways() * self.workload.sizes.step_mean() * 8.0 / gap.as_secs_f64() / 1e9
    }

    /// Gbit/s for each host, of so many bytes in the window.
    pub(crate) fn host_gbps(&self, window: &AtWindow, bytes: u64) -> f64 {
        let host_seconds = window.time.as_secs_f64() * f64::from(self.setup.topology.hosts());
        match host_seconds {
            0.0 => 0.0,
            time => bytes as f64 * 8.0 / time / 1e9,
        }
    }

    fn outcome(&self, ended: &Ended, slowdowns: Slowdowns) -> Outcome {
        let slowdown = slowdowns.into_buckets();
        let at_us = ended.at.as_micros_f64();
        let window = &ended.at_window;
        let gbps = |bytes| self.host_gbps(window, bytes);
        Outcome {
            name: self.name.clone(),
            setup: self.setup.clone(),
            differs: self.setup.differs(),
            published_sizes: self.workload.published.is_some(),
            verdict: match &ended.overload {
                None => Verdict::Finished { at_us },
                Some(why) => Verdict::Overload {
                    why: why.clone(),
                    at_us,
                    backlog_bytes: ended.started.bytes - ended.finished.bytes,
                    backlog_messages: ended.started.messages - ended.finished.messages,
                },
            },
            comparison: self.reference.compare(&slowdown),
            slowdown,
            throughput: Throughput {
                is_measured: window.time > Span::ZERO,
                offered_gbps: self.setup.mode.ways() * gbps(window.started_bytes),
                delivered_gbps: gbps(window.arrived()),
                downlink_gbps: gbps(window.bytes_to_hosts),
            },
            backlog: Backlog {
                start_bytes: window.backlog_bytes[0],
                end_bytes: window.backlog_bytes[1],
                growth: (window.backlog_bytes[1] as f64 - window.backlog_bytes[0] as f64)
                    / (window.started_bytes as f64).max(1.0),
            },
            queues: window.queues,
            wasted: window.wasted,
            bytes_by_priority: window.bytes_by_priority,
            counts: Counts {
                measured: ended.measured,
                unfinished: ended.unfinished.len() as u64,
                messages: ended.started.messages,
                packets: ended.packets,
                hops: ended.hops,
                events: ended.events,
                dropped: ended.dropped,
                resends: ended.resends,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two hosts, for as long as it takes.
    fn run(change: impl FnOnce(&mut Setup)) -> Result<Outcome, RunError> {
        let mut setup = Setup::default();
        setup.topology.racks = 1;
        setup.topology.hosts_per_rack = 2;
        setup.warm_up_us = Some(100);
        setup.window_us = Some(300);
        change(&mut setup);
        let prepared = Prepared::new("two".to_owned(), setup, None)?;
        prepared.run(|_| {}).map(|(outcome, _)| outcome)
    }

    #[test]
    fn hosts_that_pace_their_packets_come_to_an_end() {
        let unpaced = run(|_| {}).expect("it can be run");
        let paced = run(|setup| setup.engine.pacing = Some(true)).expect("it can be run");
        for outcome in [&unpaced, &paced] {
            assert!(matches!(outcome.verdict, Verdict::Finished { .. }));
            assert!(outcome.counts.measured > 100);
        }
        assert_eq!(unpaced.counts.measured, paced.counts.measured);
    }

    #[test]
    fn nothing_counts_as_faster_than_alone() {
        let outcome = run(|setup| setup.load = 0.99).expect("it can be run");
        let least = outcome
            .slowdown
            .iter()
            .map(|bucket| bucket.p50.min(bucket.mean));
        assert!(least.fold(f64::MAX, f64::min) >= 0.999, "{outcome:?}");
    }

    #[test]
    fn a_window_without_messages_is_an_error() {
        let error = run(|setup| setup.load = 1e-6).expect_err("there is none");
        assert!(error.to_string().contains("window_us"), "{error}");
    }
}
