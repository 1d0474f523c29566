//! Streams between hosts with the simulator's own switches between them.

use super::*;
use crate::sim::events::Events;
use crate::sim::fabric::{Fabric, Step};
use crate::sim::setup::Topology;
use crate::sim::time::Span;

/// What happens in a [`Net`].
#[derive(Clone, Copy, Debug)]
enum Event {
    Start(HostId, HostId, MessageId, u64),
    LinkFree(HostId),
    Wake(HostId),
    Fabric(Step),
}

/// Hosts and switches that carry the messages of a test, and nothing else.
struct Net {
    now: Instant,
    hosts: Vec<Dctcp>,
    busy_until: Vec<Instant>,
    wakes_at: Vec<Option<Instant>>,
    fabric: Fabric<Body>,
    events: Events<Event>,
    /// Segments that begin with these bytes are lost when they are sent for the first time.
    lost: Vec<u64>,
    packets: Vec<Packet<Body>>,
    finished: Vec<(MessageId, f64)>,
}

impl Net {
    fn new(setup: &Setup) -> Self {
        let hosts = Dctcp::all(setup);
        Self {
            now: Instant::ZERO,
            busy_until: vec![Instant::ZERO; hosts.len()],
            wakes_at: vec![None; hosts.len()],
            hosts,
            fabric: Fabric::new(&setup.topology, Some(setup.dctcp.mark_above_bytes), 1),
            events: Events::new(),
            lost: Vec::new(),
            packets: Vec::new(),
            finished: Vec::new(),
        }
    }

    fn start(&mut self, micros: u64, from: HostId, to: HostId, message: MessageId, bytes: u64) {
        let at = Instant::from_nanos(micros * 1000);
        self.events.push(at, Event::Start(from, to, message, bytes));
    }

    /// Runs until all is over, a simulated second at most.
    fn run(&mut self) {
        self.run_until(1_000_000);
        assert!(self.events.pop().is_none(), "it does not end");
    }

    fn run_until(&mut self, micros: u64) {
        let end = Instant::from_nanos(micros * 1000);
        while self.now < end
            && let Some((at, event)) = self.events.pop()
        {
            self.now = at;
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.now;
        let mut reports = Vec::new();
        let host = match event {
            Event::Start(from, to, message, bytes) => {
                let started = self.hosts[from as usize].start(now, message, to, bytes);
                started.expect("there is room");
                from
            }
            Event::LinkFree(host) => host,
            Event::Wake(host) => {
                if self.wakes_at[host as usize]
                    .take_if(|at| *at <= now)
                    .is_none()
                {
                    return;
                }
                self.hosts[host as usize].wake(now, &mut reports);
                host
            }
            Event::Fabric(step) => {
                let events = &mut self.events;
                let mut then = |at, step| events.push(at, Event::Fabric(step));
                let arrived = match step {
                    Step::Arrival(packet) => self.fabric.arrived(now, packet, &mut then),
                    Step::PortFree(port) => {
                        self.fabric.port_free(now, port, &mut then);
                        None
                    }
                };
                let Some(packet) = arrived else { return };
                let host = packet.to;
                self.hosts[host as usize].receive(now, packet, &mut reports);
                host
            }
        };
        for report in reports {
            let Report::Finished(message) = report else {
                panic!("streams give up nothing");
            };
            self.finished.push((message, now.as_micros_f64()));
        }
        self.serve(host);
    }

    fn serve(&mut self, host: HostId) {
        let node = &mut self.hosts[host as usize];
        let busy_until = &mut self.busy_until[host as usize];
        if *busy_until <= self.now
            && let Some(packet) = node.pull(self.now)
        {
            // 10 Gbit/s.
            *busy_until = self.now + Span::from_picos(u64::from(packet.wire_bytes) * 800);
            self.events.push(*busy_until, Event::LinkFree(host));
            self.packets.push(packet.clone());
            let is_lost =
                |lost: &u64| matches!(packet.body, Body::Segment { first, .. } if first == *lost);
            if let Some(place) = self.lost.iter().position(is_lost) {
                self.lost.remove(place);
            } else {
                let events = &mut self.events;
                let mut then = |at, step| events.push(at, Event::Fabric(step));
                self.fabric.enter(*busy_until, packet, &mut then);
            }
        }
        let wakes_at = &mut self.wakes_at[host as usize];
        if let Some(at) = node.next_wake()
            && wakes_at.is_none_or(|before| at < before)
        {
            *wakes_at = Some(at);
            self.events.push(at, Event::Wake(host));
        }
    }

    /// When a message finished, in microseconds.
    fn end_of(&self, message: MessageId) -> f64 {
        let all: Vec<_> = self
            .finished
            .iter()
            .filter(|one| one.0 == message)
            .collect();
        assert_eq!(all.len(), 1, "message {message} finishes once");
        all[0].1
    }

    fn resends(&self) -> u64 {
        self.hosts.iter().map(Dctcp::resends).sum()
    }

    fn segments(&self) -> usize {
        let is_segment = |packet: &&Packet<Body>| matches!(packet.body, Body::Segment { .. });
        self.packets.iter().filter(is_segment).count()
    }
}

/// Hosts in one rack.
fn rack(hosts: u32) -> Setup {
    Setup {
        topology: Topology {
            racks: 1,
            hosts_per_rack: hosts,
            ..Topology::default()
        },
        ..Setup::default()
    }
}

#[track_caller]
fn assert_near(value: f64, expected: f64, tolerance: f64) {
    assert!(
        (value - expected).abs() <= tolerance,
        "{value}, not {expected}"
    );
}

#[test]
fn a_segment_takes_its_time_on_links_and_the_fixed_delays() {
    let mut net = Net::new(&rack(2));
    net.start(0, 0, 1, 0, 1460);
    net.start(100, 0, 1, 1, 1);
    net.run();
    // 1.75 µs, and 1538 or 84 bytes on two links.
    assert_near(net.end_of(0), 1.75 + 2.0 * 1.2304, 1e-6);
    assert_near(net.end_of(1), 100.0 + 1.75 + 2.0 * 0.0672, 1e-6);
    // Both were acknowledged together.
    assert_eq!(net.packets.len(), 3);
    assert_eq!(net.packets[2].wire_bytes, 84);
}

#[test]
fn a_long_message_fills_the_link() {
    let mut net = Net::new(&rack(2));
    let bytes = 10_000_000;
    net.start(0, 0, 1, 0, bytes);
    net.run();
    let on_link = bytes as f64 / 1460.0 * 1538.0 * 0.0008;
    assert_near(net.end_of(0), on_link, on_link * 0.001);
}

#[test]
fn two_senders_share_a_link_fairly_and_its_queue_stays_near_the_threshold() {
    let run = |mark_above_bytes| {
        let mut setup = rack(3);
        setup.dctcp.mark_above_bytes = mark_above_bytes;
        let mut net = Net::new(&setup);
        net.start(0, 0, 2, 0, 100_000_000);
        // The second comes when the first has the whole link.
        net.start(1000, 1, 2, 1, 100_000_000);
        let unsent = |net: &Net| [0, 1].map(|host: usize| net.hosts[host].outbound[0].unsent());
        // Some hundred round trips pass until both have the same.
        net.run_until(20_000);
        let before = unsent(&net);
        net.run_until(40_000);
        let after = unsent(&net);
        let sent = [0, 1].map(|host| (before[host] - after[host]) as f64);
        (sent, net.fabric.queues(net.now).tor_to_host.max_bytes)
    };
    let (sent, longest) = run(30_000);
    // 20 ms of the link.
    let half = 20_000.0 / 1.2304 * 1460.0 / 2.0;
    assert_near(sent[0], half, 0.05 * half);
    assert_near(sent[1], half, 0.05 * half);
    assert_near(sent[0] + sent[1], 2.0 * half, 0.005 * half);
    assert!((30_000..80_000).contains(&longest), "{longest}");
    let (_, unmarked) = run(u64::MAX);
    assert!(unmarked > 10 * longest, "{unmarked}");
}

#[test]
fn streams_of_a_host_take_turns() {
    let mut net = Net::new(&rack(4));
    net.start(0, 0, 1, 0, 5_000_000);
    net.start(0, 0, 2, 1, 5_000_000);
    net.start(1000, 0, 3, 2, 100);
    net.run();
    // The segment that is being sent goes first, and one of each of the others.
    let own = 1.75 + 2.0 * 0.1424;
    let end = net.end_of(2);
    assert!(end <= 1000.0 + 3.0 * 1.2304 + own, "{end}");
    assert_near(net.end_of(0), net.end_of(1), 3.0);
}

#[test]
fn short_messages_pass_long_ones_to_the_same_host_in_another_stream_of_the_pool() {
    let run = |connections| {
        let mut setup = rack(2);
        setup.dctcp.connections = connections;
        let mut net = Net::new(&setup);
        net.start(0, 0, 1, 0, 5_000_000);
        net.start(100, 0, 1, 1, 5_000_000);
        net.start(1000, 0, 1, 2, 100);
        net.run();
        net
    };
    let net = run(3);
    assert_eq!(net.hosts[0].outbound.len(), 3);
    assert!(net.end_of(2) < 1100.0);
    assert!(net.end_of(0) > 8000.0);
    // Two streams: it waits behind the message with the least left to send.
    let net = run(2);
    assert!(net.end_of(0) <= net.end_of(2) && net.end_of(2) < net.end_of(1));
    // One stream: it is the last.
    let net = run(1);
    assert!(net.end_of(0) < net.end_of(1) && net.end_of(1) <= net.end_of(2));
    assert_eq!(net.hosts[0].outbound.len(), 1);
}

#[test]
fn messages_that_wait_in_a_stream_share_segments() {
    let mut setup = rack(2);
    setup.dctcp.connections = 1;
    let mut net = Net::new(&setup);
    for message in 0..100 {
        net.start(0, 0, 1, message, 100);
    }
    net.run();
    assert_eq!(net.finished.len(), 100);
    assert!(net.finished.is_sorted_by(|one, next| one.0 < next.0));
    // The first alone, since the link was free, and 9900 bytes in full segments.
    assert_eq!(net.segments(), 1 + 7);
}

#[test]
fn a_response_comes_back_and_ends_the_message() {
    let mut setup = rack(2);
    setup.mode = Mode::Echo;
    let mut net = Net::new(&setup);
    net.start(0, 0, 1, 7, 1460);
    net.run();
    // The acknowledgment of the request waits, so that nothing is in the way of the response.
    assert_near(net.end_of(7), 2.0 * (1.75 + 2.0 * 1.2304), 1e-6);
}

#[test]
fn a_loss_is_found_by_what_arrives_after_it_and_one_at_the_end_by_a_timeout() {
    let end = |lost: &[u64]| {
        let mut net = Net::new(&rack(2));
        net.lost = lost.iter().map(|segment| segment * 1460).collect();
        net.start(0, 0, 1, 0, 20 * 1460);
        net.run();
        assert_eq!(net.resends(), lost.len() as u64);
        net.end_of(0)
    };
    let undisturbed = end(&[]);
    assert_near(undisturbed, 1.75 + 21.0 * 1.2304, 0.1);
    // A round trip later than the one that found it, and one more to be sure.
    let found = end(&[4]);
    assert!(
        (undisturbed..undisturbed + 20.0).contains(&found),
        "{found}"
    );
    assert_near(end(&[4, 6]), found, 3.0);
    // The one before waits for this one to be acknowledged together, and that acknowledgment
    // starts the timeout anew.
    assert_near(end(&[19]), 1000.0 + 10_000.0 + undisturbed, 10.0);
}

#[test]
fn everything_arrives_once_whatever_is_lost_and_the_same_way_each_time() {
    let run = || {
        let setup = Setup {
            topology: Topology {
                racks: 2,
                hosts_per_rack: 4,
                loss: 0.02,
                buffer_bytes: Some(20_000),
                ..Topology::default()
            },
            mode: Mode::Echo,
            ..Setup::default()
        };
        let mut net = Net::new(&setup);
        let mut random = fastrand::Rng::with_seed(1);
        for message in 0..400 {
            let from = random.u32(..8);
            let to = (from + 1 + random.u32(..7)) % 8;
            let bytes = [1, 100, 2000, 30_000, 300_000][random.usize(..5)];
            net.start(random.u64(..5000), from, to, message, bytes);
        }
        net.run();
        assert!(net.fabric.dropped > 500, "{}", net.fabric.dropped);
        assert!(net.resends() > 500, "{}", net.resends());
        for message in 0..400 {
            net.end_of(message);
        }
        for host in &net.hosts {
            assert!(host.outbound.iter().all(Outbound::is_idle));
            assert!(host.acknowledgments.is_empty() && host.turns.is_empty());
        }
        net.finished
    };
    assert_eq!(run(), run());
}

#[test]
fn packets_that_pass_each_other_are_hardly_ever_taken_for_lost() {
    let mut setup = Setup::default();
    setup.topology.racks = 3;
    let mut net = Net::new(&setup);
    let mut random = fastrand::Rng::with_seed(1);
    for message in 0..300 {
        let from = random.u32(..48);
        let to = (from + 16 + random.u32(..16)) % 48;
        net.start(random.u64(..500), from, to, message, 200_000);
    }
    net.run();
    assert_eq!(net.finished.len(), 300);
    let told_of_gaps = |packet: &&Packet<Body>| match packet.body {
        Body::Acknowledgment { told, .. } => told.block.0 < told.block.1,
        Body::Segment { .. } => false,
    };
    let gaps = net.packets.iter().filter(told_of_gaps).count();
    assert!(gaps > 300, "{gaps} of {}", net.packets.len());
    let resends = net.resends() as usize;
    assert!(resends * 1000 < net.segments(), "{resends}");
}

#[test]
fn a_host_that_is_asked_for_too_much_says_so() {
    let [mut host, _] = <[Dctcp; 2]>::try_from(Dctcp::all(&rack(2))).expect("two hosts");
    for message in 0..1 << 16 {
        assert_eq!(host.start(Instant::ZERO, message, 1, 1000), Ok(()));
    }
    assert!(host.start(Instant::ZERO, 1 << 16, 1, 1000).is_err());
}
