//! [`Incast`]: one client with many RPCs at a time, whose servers answer all at once (SIGCOMM'18,
//! section 3.6 and figure 9).
//!
//! The client starts as many RPCs as are asked for in no time, spread evenly over the servers, and
//! another one whenever one has finished or failed. So their number stays, and the client's
//! downlink has as much to do as servers and switches let through.

use std::time::{Duration, Instant as Clock};

use crate::sim::ledger::Sample;
use crate::sim::node::HostId;
use crate::sim::outcome::{IncastOutcome, IncastPoint};
use crate::sim::plan;
use crate::sim::run::{Prepared, RunError, Speed};
use crate::sim::setup::{Mode, Setup, TransportName};
use crate::sim::time::{Instant, Span};
use crate::sim::traffic::Source;
use crate::sim::workload::Workload;
use crate::sim::world::Schedule;

/// Time before the measurement. What the burst at the start loses is asked for again after 10 ms,
/// and with thousands of RPCs that goes on for some rounds.
const WARM_UP: Span = Span::from_micros(100_000);

/// Time of the measurement: 600 MB of a link of 10 Gbit/s, which is the first response of each of
/// 10,000 RPCs of 10 KB and five more.
const WINDOW: Span = Span::from_micros(500_000);

/// The host that calls. Those after it are the servers.
const CLIENT: HostId = 0;

/// An incast that has been checked.
#[derive(Clone, Debug)]
pub(crate) struct Incast {
    run: Prepared,
    what: plan::Incast,
    schedule: Schedule,
}

impl Incast {
    pub(crate) fn new(
        name: String,
        mut setup: Setup,
        what: &plan::Incast,
    ) -> Result<Self, RunError> {
        if setup.transport != TransportName::Homa {
            return Err(RunError::Transport {
                name,
                kind: "incast",
                with: "\"homa\"",
            });
        }
        let hosts = setup.topology.hosts();
        if what.servers >= hosts {
            return Err(RunError::Servers {
                name,
                servers: what.servers,
                hosts,
            });
        }
        setup.mode = Mode::Echo;
        let start = Instant::ZERO + setup.warm_up_us.map_or(WARM_UP, Span::from_micros);
        let end = start + setup.window_us.map_or(WINDOW, Span::from_micros);
        let schedule = Schedule {
            window: (start, end),
            deadline: None,
        };
        let workload = Workload::of_rpcs(what.request_bytes, what.response_bytes);
        let run = Prepared::with_own(name, setup, workload)?;
        Ok(Self {
            run: run.with(schedule, Vec::new()),
            what: what.clone(),
            schedule,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.run.name
    }

    /// Simulated time of all points together, in microseconds.
    pub(crate) fn length_us(&self) -> u64 {
        self.what.concurrent.len() as u64 * self.run.length_us()
    }

    /// Runs all points. `tick` is told the simulated time of all together now and then, in
    /// microseconds.
    pub(crate) fn run(
        &self,
        mut tick: impl FnMut(u64),
    ) -> Result<(IncastOutcome, Speed), RunError> {
        let began = Clock::now();
        let mut speed = Speed {
            took: Duration::ZERO,
            hops: 0,
            events: 0,
        };
        let mut points = Vec::new();
        for concurrent in &self.what.concurrent {
            let before = points.len() as u64 * self.run.length_us();
            let tick = |now: Instant| tick(before + now.as_nanos() / 1000);
            points.push(self.point(*concurrent, &mut speed, tick)?);
        }
        speed.took = began.elapsed();
        let (start, end) = self.schedule.window;
        let setup = self.run.setup.clone();
        let outcome = IncastOutcome {
            name: self.run.name.clone(),
            differs: setup.differs(),
            setup,
            servers: self.what.servers,
            request_bytes: self.what.request_bytes,
            response_bytes: self.what.response_bytes,
            warm_up_us: start.as_micros_f64(),
            window_us: end.as_micros_f64() - start.as_micros_f64(),
            points,
        };
        Ok((outcome, speed))
    }

    fn point(
        &self,
        concurrent: u32,
        speed: &mut Speed,
        tick: impl FnMut(Instant),
    ) -> Result<IncastPoint, RunError> {
        let mut hosts = self.run.homa_hosts()?;
        for host in &mut hosts {
            host.respond_with(self.what.response_bytes);
        }
        let source = ClosedLoop {
            concurrent,
            started: 0,
            servers: self.what.servers,
            next: 0,
            request_bytes: self.what.request_bytes,
        };
        let mut took = Vec::new();
        let mut record = |sample: Sample| took.push(sample.took);
        let ended = self
            .run
            .simulate_nodes(hosts, None, source, &mut record, tick);
        speed.hops += ended.hops;
        speed.events += ended.events;
        took.sort_unstable();
        let quantile = |share: f64| {
            let place = (took.len() as f64 * share) as usize;
            let took = took.get(place.min(took.len().saturating_sub(1)));
            took.map_or(f64::NAN, |took| took.as_secs_f64() * 1e6)
        };
        let window = &ended.at_window;
        let arrived = ended.arrived_by_host.get(CLIENT as usize);
        let [before, within] = arrived.copied().unwrap_or_default();
        let warm_up = self.schedule.window.0.since(Instant::ZERO);
        let gbps = |bytes: u64, time: Span| match time {
            Span::ZERO => 0.0,
            time => bytes as f64 * 8.0 / time.as_secs_f64() / 1e9,
        };
        Ok(IncastPoint {
            concurrent,
            goodput_gbps: gbps(within, window.time),
            goodput_before_gbps: gbps(before, warm_up),
            finished: took.len() as u64,
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            failed: ended.failed,
            dropped: window.dropped,
            dropped_before: ended.dropped - window.dropped,
            resends: window.resends,
            resends_before: ended.resends - window.resends,
            // Only the client's link has more to carry than it can.
            max_queue_bytes: window.queues.tor_to_host.max_bytes,
        })
    }
}

/// The client's RPCs: as many as are asked for, and one for each that has ended.
#[derive(Debug)]
struct ClosedLoop {
    concurrent: u32,
    started: u32,
    servers: u32,
    /// The next of the servers, whose turns go round.
    next: u32,
    request_bytes: u32,
}

impl Source for ClosedLoop {
    const IS_CLOSED: bool = true;

    fn gap(&mut self, host: HostId) -> Option<Span> {
        if host != CLIENT || self.started == self.concurrent {
            return None;
        }
        self.started += 1;
        Some(Span::from_picos(1))
    }

    fn next(&mut self, _: HostId) -> (HostId, u32) {
        let server = CLIENT + 1 + self.next;
        self.next = (self.next + 1) % self.servers;
        (server, self.request_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(change: impl FnOnce(&mut Setup)) -> Setup {
        let mut setup = Setup {
            warm_up_us: Some(500),
            window_us: Some(2000),
            ..Setup::default()
        };
        setup.topology.racks = 1;
        setup.topology.hosts_per_rack = 4;
        change(&mut setup);
        setup
    }

    fn incast(setup: Setup, concurrent: &[u32]) -> Result<IncastOutcome, RunError> {
        let what = plan::Incast {
            concurrent: concurrent.to_vec(),
            servers: 3,
            ..plan::Incast::default()
        };
        let incast = Incast::new("small".to_owned(), setup, &what)?;
        Ok(incast.run(|_| ())?.0)
    }

    #[test]
    fn many_rpcs_fill_the_link_that_one_alone_does_not() {
        let outcome = incast(small(|_| ()), &[1, 20]).expect("it runs");
        let [one, many] = outcome.points[..] else {
            panic!("two points: {outcome:?}")
        };
        // 9.4 Gbit/s of a link's 10 are payload at best, if there are no grants.
        assert!((2.0..6.0).contains(&one.goodput_gbps), "{one:?}");
        assert!((8.5..9.5).contains(&many.goodput_gbps), "{many:?}");
        for point in [one, many] {
            let rate = f64::from(point.concurrent) / (point.p50_us * 1e-6);
            let goodput = rate * 10_000.0 * 8.0 / 1e9;
            assert!(
                (goodput / point.goodput_gbps - 1.0).abs() < 0.2,
                "{point:?}"
            );
            assert_eq!((point.failed, point.dropped, point.resends), (0, 0, 0));
        }
        assert!(many.p99_us > one.p99_us);
        assert_eq!(outcome.setup.mode, Mode::Echo);
    }

    #[test]
    fn without_control_the_first_burst_fills_the_queue_and_a_short_one_loses_packets() {
        let uncontrolled = |setup: &mut Setup| {
            setup.engine.unsched_windows = Some(0);
            setup.engine.main_buffer_bytes = Some(1 << 40);
        };
        let queue = |setup| {
            let outcome = incast(setup, &[50]).expect("it runs");
            outcome.points[0].max_queue_bytes
        };
        let burst = |setup: &mut Setup| setup.warm_up_us = Some(0);
        let controlled = small(burst);
        let [with, without] = [
            queue(controlled),
            queue(small(|setup| {
                burst(setup);
                uncontrolled(setup);
            })),
        ];
        assert!(with < without / 2, "{with} with control, {without} without");
        let bounded = small(|setup| {
            uncontrolled(setup);
            setup.topology.buffer_bytes = Some(100_000);
        });
        let point = incast(bounded, &[50]).expect("it runs").points[0];
        assert!(point.dropped_before > 100, "{point:?}");
        assert!(point.max_queue_bytes <= 100_000, "{point:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_outcome() {
        let run = || incast(small(|_| ()), &[7]).expect("it runs");
        assert_eq!(run(), run());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let too_few = small(|setup| setup.topology.hosts_per_rack = 3);
        assert_eq!(
            incast(too_few, &[1])
                .expect_err("three servers of three hosts")
                .to_string(),
            "the run \"small\": kind.incast has 3 servers and a client, and the network 3 hosts; \
             take fewer servers or more hosts"
        );
        let streams = small(|setup| setup.transport = TransportName::Dctcp);
        assert_eq!(
            incast(streams, &[1])
                .expect_err("streams have no response length")
                .to_string(),
            "the run \"small\": incast is found out with transport = \"homa\" only"
        );
    }
}
