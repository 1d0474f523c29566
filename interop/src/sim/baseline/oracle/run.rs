//! [`run`]: the oracle in the place of a [world](crate::sim::world).

use super::{Finish, Job, Oracle};
use crate::sim::events::Events;
use crate::sim::ideal::Ideal;
use crate::sim::ledger::{Ledger, Sample};
use crate::sim::link;
use crate::sim::node::HostId;
use crate::sim::setup::{Mode, Topology};
use crate::sim::time::{Instant, Span};
use crate::sim::traffic::Source;
use crate::sim::world::{AtWindow, Ended, Schedule};

/// How often it is told what time it is.
const TICK_EVERY: Span = Span::from_micros(100);

/// Runs the oracle with the messages that hosts with a transport would get.
///
/// A message occupies links with the packets of SIGCOMM'18's simulation, all of them unscheduled,
/// as in the authors' script; alone, it takes its ideal time, so that its slowdown is then 1. There
/// are no packets, hops, queues and priorities to count, and no loss. `sample` gets each measured
/// message that finishes.
pub(crate) fn run<S: Source>(
    topology: &Topology,
    mode: Mode,
    mut traffic: S,
    schedule: Schedule,
    mut sample: impl FnMut(Sample),
    mut tick: impl FnMut(Instant),
) -> Ended {
    let hosts = topology.hosts();
    let one_way = Ideal::new(topology, Mode::OneWay);
    let picos_per_byte = 8000.0 / topology.host_gbps;
    let mut ledger = Ledger::new(hosts, schedule.window);
    let mut oracle = Oracle::new(hosts, mode);
    let mut arrivals: Events<HostId> = Events::new();
    let await_message = |arrivals: &mut Events<HostId>, traffic: &mut S, now, host| {
        if let Some(gap) = traffic.gap(host) {
            arrivals.push(now + gap, host);
        }
    };
    for host in 0..hosts {
        await_message(&mut arrivals, &mut traffic, Instant::ZERO, host);
    }
    let mut window = Window::new(schedule);
    let mut finished = Vec::new();
    let mut overload = None;
    let mut now = Instant::ZERO;
    let mut next_tick = now;
    while let Some((at, from)) = arrivals.pop() {
        now = at;
        if now >= next_tick {
            tick(now);
            next_tick = now + TICK_EVERY;
        }
        oracle.advance(now, &mut finished);
        for Finish { message, at } in finished.drain(..) {
            if let Some(measured) = ledger.finish(at, message) {
                sample(measured);
            }
        }
        window.pass(now, &ledger, oracle.served());
        match schedule.is_over(now, &ledger) {
            Ok(true) => break,
            Ok(false) => {}
            Err(why) => {
                overload = Some(why);
                break;
            }
        }
        await_message(&mut arrivals, &mut traffic, now, from);
        let (to, bytes) = traffic.next(from);
        let message = ledger.start(now, from, to, bytes);
        let occupied = link::occupied_by_unscheduled(bytes) as f64 * picos_per_byte;
        let job = Job {
            message,
            from,
            to,
            bytes: bytes.into(),
            occupies: Span::from_picos(occupied.round() as u64),
            alone: one_way.time(from, to, bytes),
        };
        if let Err(what) = oracle.start(now, job) {
            overload = Some(format!("{what} is full"));
            break;
        }
    }
    window.counted.bytes_to_hosts = (window.served.as_picos() as f64 / picos_per_byte) as u64;
    Ended {
        at: now,
        overload,
        started: ledger.started,
        finished: ledger.finished,
        failed: 0,
        measured: ledger.measured_started,
        unfinished: ledger.unfinished(now).collect(),
        at_window: window.counted,
        arrived_by_host: Vec::new(),
        hops: 0,
        dropped: 0,
        resends: 0,
        events: oracle.services(),
        packets: 0,
    }
}

/// Counts what happens between the window's start and its end.
struct Window {
    schedule: Schedule,
    phase: Phase,
    /// All of a message arrives when it is finished, as there are no packets.
    counted: AtWindow,
    finished_bytes: u64,
    /// Time in which links were busy, over all hosts.
    served: Span,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Before,
    Within,
    After,
}

impl Window {
    fn new(schedule: Schedule) -> Self {
        Self {
            schedule,
            phase: Phase::Before,
            counted: AtWindow::default(),
            finished_bytes: 0,
            served: Span::ZERO,
        }
    }

    /// Time has passed until `now`.
    fn pass(&mut self, now: Instant, ledger: &Ledger, served: Span) {
        let (start, end) = self.schedule.window;
        let counted = &mut self.counted;
        if self.phase == Phase::Before && now >= start {
            self.phase = Phase::Within;
            counted.started_bytes = ledger.started.bytes;
            counted.backlog_bytes[0] = ledger.open_bytes();
            self.finished_bytes = ledger.finished.bytes;
            self.served = served;
        }
        if self.phase == Phase::Within && now >= end {
            self.phase = Phase::After;
            counted.time = end.since(start);
            counted.started_bytes = ledger.started.bytes - counted.started_bytes;
            counted.backlog_bytes[1] = ledger.open_bytes();
            counted.arrived_bytes[0] = ledger.finished.bytes - self.finished_bytes;
            self.served = served - self.served;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::traffic::Traffic;

    const BYTES: u32 = 1442;

    /// Runs four hosts at a share of what their links can carry: the samples, and how it ended.
    fn run_at(load: f64) -> (Vec<Sample>, Ended) {
        let topology = Topology {
            racks: 2,
            hosts_per_rack: 2,
            ..Topology::default()
        };
        // 1538 bytes on the link.
        let gap = Span::from_picos((1538.0 * 800.0 / load) as u64);
        let traffic = Traffic::new(|_| BYTES, gap, 4, 1);
        let millis = |millis: u64| Instant::from_nanos(millis * 1_000_000);
        let schedule = Schedule {
            window: (millis(1), millis(11)),
            deadline: Some(millis(20)),
        };
        let mut samples = Vec::new();
        let record = |sample| samples.push(sample);
        let ended = run(&topology, Mode::OneWay, traffic, schedule, record, |_| ());
        (samples, ended)
    }

    #[test]
    fn messages_take_their_ideal_time_when_they_are_alone_and_more_under_load() {
        let ideal = Ideal::new(
            &Topology {
                hosts_per_rack: 2,
                ..Topology::default()
            },
            Mode::OneWay,
        );
        let alone = |sample: &&Sample| sample.took == ideal.time(sample.from, sample.to, BYTES);
        let shares = [0.01, 0.5, 0.8].map(|load| {
            let (samples, ended) = run_at(load);
            assert_eq!(ended.overload, None);
            assert_eq!(
                ended.measured as usize,
                samples.len() + ended.unfinished.len()
            );
            let started = ended.at_window.started_bytes as f64;
            let expected = load * 4.0 * 0.01 * 10e9 / 8.0 * f64::from(BYTES) / 1538.0;
            assert!(
                (started / expected - 1.0).abs() < 0.2,
                "{started} of {expected}"
            );
            let busy = ended.at_window.bytes_to_hosts as f64;
            let occupied = ended.at_window.arrived() as f64 * 1538.0 / f64::from(BYTES);
            assert!((busy / occupied - 1.0).abs() < 1e-6, "{busy} of {occupied}");
            samples.iter().filter(alone).count() as f64 / samples.len() as f64
        });
        // Messages of one length, served in the order in which they start: whoever finds both its
        // links idle is alone.
        assert!(shares[0] > 0.97, "{shares:?}");
        assert!((0.2..0.4).contains(&shares[1]), "{shares:?}");
        assert!(shares[2] < 0.1, "{shares:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_samples() {
        assert_eq!(run_at(0.8).0, run_at(0.8).0);
    }

    #[test]
    fn more_than_the_links_carry_is_an_overload() {
        let (_, ended) = run_at(3.0);
        assert!(ended.overload.is_some());
        assert!(ended.finished.bytes < ended.started.bytes);
    }
}
