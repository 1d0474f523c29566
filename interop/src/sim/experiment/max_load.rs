//! [`Search`]: the highest load that a network carries (SIGCOMM'18, figure 12).
//!
//! A load is carried if a network in which every link has a backlog works it off at that load, or
//! at least does not add to it. So each probe starts with a backlog at every host, lets it settle,
//! and compares in a window the payload that arrives with what the load brings on average.
//!
//! Why not start empty, and look whether the backlog grows? Because it does at every load, for
//! seconds. What is offered to a link is a random walk; messages of W4 have up to 10 MB, so that at
//! 90 % load the queues of ideal links, too, need longer than a second to become as long as they
//! will. Until then there are hosts that nobody has anything for, and no load is an overload: W4 at
//! 96 % load stays within 1 % of what ideal links would carry of the same messages for 0.2 s, and
//! is too much in the end. With a backlog everywhere, every link that idles does so because of the
//! transport, and what arrives depends so little on chance that milliseconds are enough. For the
//! same reason it is compared with the average that the load offers, and not with the messages of
//! the window, whose sum varies by some per cent: what arrives does not follow them.
//!
//! The backlog consists of the longest messages, those with a tenth of all bytes. These are what
//! shortest-first transports leave in an overloaded network.
//!
//! The error of the found load is one step, as long as the standard error of what arrives is less
//! than that, which is told beside it.

use std::time::{Duration, Instant as Clock};

use crate::sim::node::HostId;
use crate::sim::outcome::{MaxLoadOutcome, Probe};
use crate::sim::plan;
use crate::sim::run::{Prepared, RunError, Speed};
use crate::sim::setup::{EngineSetup, Mode, Setup, Topology, TransportName, Wire};
use crate::sim::time::{Instant, Span};
use crate::sim::workload::Sizes;
use crate::sim::world::{Ended, First, PARTS, Schedule, max_open};

/// Share of all bytes that the messages have of which the backlog consists.
const LONGEST: f64 = 0.1;

/// Time to settle and to measure, by the time that a message of the backlog takes on the link.
const SETTLE_MESSAGES: u64 = 3;
const WINDOW_MESSAGES: u64 = 6;

/// At least so long, that the short messages of W1 and W2 do not make it a few round trips ...
const MIN_SETTLE: Span = Span::from_micros(500);
const MIN_WINDOW: Span = Span::from_micros(2000);

/// ... and at most so long: of W5, whose longest messages take 23 ms, a link carries a few at once.
const MAX_SETTLE: Span = Span::from_micros(40_000);
const MAX_WINDOW: Span = Span::from_micros(80_000);

/// Backlog of each host, by what its link carries until the window ends: so much that it runs out
/// nowhere, however unevenly the receivers are drawn.
const BACKLOG: f64 = 4.0;

/// And at least so many messages.
const MIN_BACKLOG: usize = 16;

/// Most bytes of a host's backlog; less than an engine holds for sending.
const MAX_BACKLOG_BYTES: f64 = 2e9;

/// Most messages of it: half of what may be under way. With sizes of some hundred bytes only it
/// runs out here and there, and the load that is found is a little below what the network carries.
fn max_backlog(hosts: u32) -> usize {
    (max_open(u64::from(hosts)) / u64::from(hosts) / 2) as usize
}

/// Probes that are made by the estimate of the one before; after these it is halved.
const BY_ESTIMATE: usize = 4;

/// Probes that a search usually takes.
const USUAL_PROBES: u64 = 3;

/// A search that has been checked.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    /// At any load.
    run: Prepared,
    schedule: Schedule,
    /// Rising, at least one.
    loads: Vec<f64>,
    published: Option<f64>,
}

impl Search {
    pub(crate) fn new(name: String, setup: Setup, range: &plan::MaxLoad) -> Result<Self, RunError> {
        if setup.transport == TransportName::SrptOracle {
            return Err(RunError::Transport {
                name,
                kind: "max-load",
                with: "\"homa\" or \"dctcp\"",
            });
        }
        let run = Prepared::new(name, setup, None)?;
        let backlog = Backlog::of(&run.workload.sizes);
        let Setup { topology, .. } = &run.setup;
        let message = backlog.mean_bytes * 8000.0 / topology.host_gbps;
        let time = |messages: u64, least: Span, most: Span| {
            Span::from_picos(message as u64 * messages).clamp(least, most)
        };
        let settle = time(SETTLE_MESSAGES, MIN_SETTLE, MAX_SETTLE);
        let window = time(WINDOW_MESSAGES, MIN_WINDOW, MAX_WINDOW);
        let start = Instant::ZERO + run.setup.warm_up_us.map_or(settle, Span::from_micros);
        let end = start + run.setup.window_us.map_or(window, Span::from_micros);
        let schedule = Schedule {
            window: (start, end),
            deadline: None,
        };
        let seconds = end.since(Instant::ZERO).as_secs_f64();
        let carried = seconds * topology.host_gbps * 1e9 / 8.0;
        let published = published(&run);
        let bytes = (BACKLOG * carried).min(MAX_BACKLOG_BYTES) as u64;
        let first = backlog.messages(topology.hosts(), bytes, run.setup.seed);
        Ok(Self {
            run: run.with(schedule, first),
            schedule,
            loads: loads(range),
            published,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.run.name
    }

    /// Simulated time of a usual search, in microseconds.
    pub(crate) fn length_us(&self) -> u64 {
        USUAL_PROBES * self.run.length_us()
    }

    /// Searches. `tick` is told the simulated time of all probes together now and then, in
    /// microseconds.
    pub(crate) fn run(
        &self,
        mut tick: impl FnMut(u64),
    ) -> Result<(MaxLoadOutcome, Speed), RunError> {
        let began = Clock::now();
        let mut speed = Speed {
            took: Duration::ZERO,
            hops: 0,
            events: 0,
        };
        let mut probes = Vec::new();
        let found = search(&self.loads, self.start(), |load| {
            let before = probes.len() as u64 * self.run.length_us();
            let run = self.run.at_load(load);
            let ended = run.simulate(&mut |_| (), |now| tick(before + now.as_nanos() / 1000))?;
            speed.hops += ended.hops;
            speed.events += ended.events;
            let probe = probe(&run, &ended);
            probes.push(probe);
            Ok::<Probe, RunError>(probe)
        })?;
        speed.took = began.elapsed();
        probes.sort_by(|a, b| a.load.total_cmp(&b.load));
        Ok((self.outcome(found, probes), speed))
    }

    /// The load to start with: the published one saves probes.
    fn start(&self) -> usize {
        let near = |load: f64| self.loads.partition_point(|other| *other < load - 1e-9);
        let middle = self.loads.len() / 2;
        let start = self.published.map_or(middle, near);
        start.min(self.loads.len() - 1)
    }

    fn outcome(&self, found: Found, probes: Vec<Probe>) -> MaxLoadOutcome {
        let (start, end) = self.schedule.window;
        let load_of = |place: usize| self.loads[place];
        let carried = found.carried.map(load_of);
        let mut setup = self.run.setup.clone();
        setup.load = carried.unwrap_or(self.loads[0]);
        MaxLoadOutcome {
            name: self.run.name.clone(),
            differs: setup.differs(),
            setup,
            published_sizes: self.run.workload.published.is_some(),
            settle_us: start.as_micros_f64(),
            window_us: end.as_micros_f64() - start.as_micros_f64(),
            carried,
            overload: found.overload.map(load_of),
            probes,
            published: self.published,
        }
    }
}

/// The messages of which the backlog consists.
#[derive(Debug)]
struct Backlog<'a> {
    sizes: &'a Sizes,
    /// Share of the messages that are as long.
    share: f64,
    mean_bytes: f64,
}

impl<'a> Backlog<'a> {
    fn of(sizes: &'a Sizes) -> Self {
        let all: Vec<(u32, f64)> = sizes.shares().collect();
        let (mut share, mut bytes) = (0.0, 0.0);
        for (length, messages) in all.into_iter().rev() {
            share += messages;
            bytes += f64::from(length) * messages;
            if bytes >= LONGEST * sizes.step_mean() {
                break;
            }
        }
        Self {
            sizes,
            share,
            mean_bytes: bytes / share,
        }
    }

    /// At least `bytes` from each host, and some messages at least, to others at random.
    fn messages(&self, hosts: u32, bytes: u64, seed: u64) -> Vec<First> {
        // Others than the seeds of traffic and switches, which draw the same numbers otherwise.
        let mut seeds = fastrand::Rng::with_seed(!seed);
        let mut messages = Vec::new();
        for from in 0..hosts {
            let mut random = seeds.fork();
            let (enough, most) = (
                messages.len() + MIN_BACKLOG,
                messages.len() + max_backlog(hosts),
            );
            let mut have = 0;
            while messages.len() < enough || have < bytes && messages.len() < most {
                let other: HostId = random.u32(..hosts - 1);
                let length = self.sizes.draw(1.0 - self.share * random.f64());
                have += u64::from(length);
                messages.push(First {
                    from,
                    to: other + u32::from(other >= from),
                    bytes: length,
                });
            }
        }
        messages
    }
}

fn probe(run: &Prepared, ended: &Ended) -> Probe {
    let window = &ended.at_window;
    let arrived_gbps = run.host_gbps(window, window.arrived());
    let offered_gbps = run.payload_gbps();
    let parts = window.arrived_bytes;
    let parts = parts.map(|bytes| run.host_gbps(window, bytes) * PARTS as f64);
    let squares = parts.iter().map(|part| (part - arrived_gbps).powi(2));
    let variance = squares.sum::<f64>() / (PARTS - 1) as f64;
    Probe {
        load: run.setup.load,
        is_carried: ended.overload.is_none() && arrived_gbps >= offered_gbps,
        offered_gbps,
        arrived_gbps,
        error_gbps: (variance / PARTS as f64).sqrt(),
        downlink_gbps: run.host_gbps(window, window.bytes_to_hosts),
        wasted: window.wasted,
        backlog_bytes: ended.started.bytes - ended.finished.bytes,
    }
}

/// Places in a list of loads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    /// The highest that is carried.
    carried: Option<usize>,
    /// The lowest that is an overload.
    overload: Option<usize>,
}

/// Finds the border between loads that are carried and others. Each probe estimates it, since with
/// a backlog about the same arrives at any load.
fn search<E>(
    loads: &[f64],
    start: usize,
    mut probe: impl FnMut(f64) -> Result<Probe, E>,
) -> Result<Found, E> {
    let mut found = Found::default();
    let mut next = start;
    for number in 1.. {
        let tried = probe(loads[next])?;
        if tried.is_carried {
            found.carried = Some(next);
        } else {
            found.overload = Some(next);
        }
        let low = found.carried.map_or(0, |carried| carried + 1);
        let high = found.overload.unwrap_or(loads.len());
        if low >= high {
            break;
        }
        let estimate = tried.load * tried.arrived_gbps / tried.offered_gbps;
        let at_estimate = loads.partition_point(|load| *load <= estimate);
        next = if number < BY_ESTIMATE {
            at_estimate.saturating_sub(1).clamp(low, high - 1)
        } else {
            (low + high - 1) / 2
        };
    }
    Ok(found)
}

/// From the lowest load to the highest.
fn loads(range: &plan::MaxLoad) -> Vec<f64> {
    let plan::MaxLoad { from, to, step } = range;
    let steps = ((to - from) / step + 1e-9) as u32;
    // Written without the rounding errors of sums.
    let exact = |load: f64| (load * 1e9).round() / 1e9;
    (0..=steps)
        .map(|number| exact(from + f64::from(number) * step))
        .collect()
}

/// What Homa carries in the published simulation, if this is its set-up.
fn published(run: &Prepared) -> Option<f64> {
    let setup = &run.setup;
    let is_published = setup.transport == TransportName::Homa
        && setup.mode == Mode::OneWay
        && setup.wire == Wire::Paper
        && setup.topology == Topology::default()
        && setup.engine == EngineSetup::default();
    let limits = run.workload.published?.max_load;
    let homa = limits.iter().find(|limit| limit.transport == "Homa")?;
    is_published.then_some(f64::from(homa.percent) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::setup::WorkloadName;

    fn probe_at(load: f64, arrives: f64) -> Probe {
        Probe {
            load,
            is_carried: arrives >= load,
            offered_gbps: load,
            arrived_gbps: arrives,
            error_gbps: 0.0,
            downlink_gbps: 0.0,
            wasted: 0.0,
            backlog_bytes: 0,
        }
    }

    #[test]
    fn the_border_is_found_from_everywhere_and_soon() {
        let loads = loads(&plan::MaxLoad {
            from: 0.5,
            to: 0.99,
            step: 0.01,
        });
        assert_eq!((loads.len(), loads[42]), (50, 0.92));
        let mut most = 0;
        for start in 0..loads.len() {
            for limit in 0..=loads.len() {
                let mut probes = 0;
                let found = search(&loads, start, |load| {
                    probes += 1;
                    // Somewhat between two steps.
                    Ok::<_, ()>(probe_at(load, 0.495 + 0.01 * limit as f64))
                });
                let expected = Found {
                    carried: limit.checked_sub(1),
                    overload: (limit < loads.len()).then_some(limit),
                };
                assert_eq!(found, Ok(expected), "from {start}");
                most = most.max(probes);
            }
        }
        assert_eq!(most, USUAL_PROBES);
    }

    #[test]
    fn estimates_that_are_always_wrong_end_all_the_same() {
        let loads: Vec<f64> = (0..100).map(|load| 0.01 * f64::from(load)).collect();
        let mut probes = 0;
        let found = search(&loads, 99, |load| {
            probes += 1;
            // Always a little too little or too much.
            let arrives = if load < 0.405 {
                load + 1e-6
            } else {
                load - 1e-6
            };
            Ok::<_, ()>(probe_at(load, arrives))
        });
        let expected = Found {
            carried: Some(40),
            overload: Some(41),
        };
        assert_eq!(found, Ok(expected));
        assert!(probes < 12, "{probes}");
    }

    #[test]
    fn every_host_has_enough_of_the_longest_messages_for_others() {
        let sizes = Sizes::built_in(WorkloadName::W4);
        let backlog = Backlog::of(&sizes);
        // All of a tenth of W4's bytes are in its longest messages.
        assert_eq!(backlog.mean_bytes, 1e7);
        let messages = backlog.messages(5, 195_000_000, 1);
        assert_eq!(messages.len(), 5 * 20);
        for (number, First { from, to, bytes }) in (0..).zip(&messages) {
            assert_eq!((*from, *bytes), (number / 20, 10_000_000));
            assert!(to != from && *to < 5);
        }
        let to_last = messages.iter().filter(|first| first.to == 4).count();
        assert!((10..30).contains(&to_last), "{to_last}");
        assert_eq!(backlog.messages(5, 1, 1).len(), 5 * MIN_BACKLOG);
    }

    fn small(change: impl FnOnce(&mut Setup)) -> Setup {
        let mut setup = Setup {
            workload: WorkloadName::W4,
            warm_up_us: Some(300),
            window_us: Some(1000),
            ..Setup::default()
        };
        setup.topology.racks = 1;
        setup.topology.hosts_per_rack = 8;
        change(&mut setup);
        setup
    }

    fn found(setup: Setup, range: &plan::MaxLoad) -> MaxLoadOutcome {
        let search = Search::new("small".to_owned(), setup, range).expect("it can be run");
        search.run(|_| ()).expect("it runs").0
    }

    /// With one message granted at a time, receivers compete for senders: of eight that choose at
    /// random, 1 - (1 - 1/8)^8 = 66 % are chosen.
    #[test]
    fn what_overcommitment_is_for_can_be_seen() {
        let range = plan::MaxLoad {
            from: 0.4,
            to: 1.0,
            step: 0.05,
        };
        let one = found(small(|setup| setup.engine.max_overcommit = Some(1)), &range);
        let many = found(small(|_| ()), &range);
        let [one_carried, many_carried] = [&one, &many].map(|found| found.carried);
        assert!(
            one_carried >= Some(0.5) && one_carried <= Some(0.75),
            "{one:?}"
        );
        assert!(many_carried >= Some(0.85), "{many:?}");
        let best = one.best().expect("a load is carried");
        assert!(best.wasted > 0.2, "{best:?}");
        assert!(best.error_gbps < 0.05 * best.arrived_gbps, "{best:?}");
        let overload = one.overload().expect("a load is not");
        assert_eq!(
            (Some(best.load), Some(overload.load)),
            (one.carried, one.overload)
        );
        assert!(overload.offered_gbps > overload.arrived_gbps && overload.backlog_bytes > 0);
        assert_eq!(one.holds(), None, "nobody has published that");
    }

    #[test]
    fn the_same_seed_gives_the_same_outcome_and_streams_are_searched_too() {
        let range = plan::MaxLoad {
            from: 0.2,
            to: 0.2,
            step: 0.1,
        };
        let setup = small(|setup| setup.transport = TransportName::Dctcp);
        let outcome = found(setup.clone(), &range);
        assert_eq!(outcome, found(setup, &range));
        assert_eq!((outcome.carried, outcome.overload), (Some(0.2), None));
    }

    #[test]
    fn the_oracle_has_no_packets_to_count() {
        let setup = small(|setup| setup.transport = TransportName::SrptOracle);
        let error = Search::new("ideal".to_owned(), setup, &plan::MaxLoad::default())
            .expect_err("it is refused");
        assert_eq!(
            error.to_string(),
            "the run \"ideal\": max-load is found out with transport = \"homa\" or \"dctcp\" only"
        );
    }
}
