//! [`World`]: the hosts, their links, the fabric between them, and the time.

use super::events::Events;
use super::fabric::{Fabric, Step};
use super::ledger::{self, Ledger, Sample, Total};
use super::node::{HostId, Node, Packet, Report};
use super::outcome::Queues;
use super::time::{Instant, Span};
use super::traffic::Source;

/// How often it is looked whether receivers waste their links.
const LOOK_EVERY: Span = Span::from_micros(10);

/// Messages under way in the whole network, at most; each takes 0.6 to 2 KB.
const MAX_OPEN: u64 = 1 << 22;

/// The same for each host, where messages start whether or not others finish. Of a network that
/// carries its load a host has some dozens; more of short ones would be an overload that takes
/// minutes to be found.
const MAX_OPEN_PER_HOST: u64 = 1 << 15;

/// Messages that may be under way in a network of so many hosts.
pub(crate) fn max_open(hosts: u64) -> u64 {
    MAX_OPEN.min(hosts * MAX_OPEN_PER_HOST)
}

/// The phases of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// When messages are measured that start.
    pub(crate) window: (Instant, Instant),
    /// When those of them that have not finished are an overload; `None`: the run ends with its
    /// window, whatever has finished.
    pub(crate) deadline: Option<Instant>,
}

impl Schedule {
    /// Whether a run is over; `Err`: why it is an overload then.
    pub(crate) fn is_over(&self, now: Instant, ledger: &Ledger) -> Result<bool, String> {
        let has_ended = now >= self.window.1;
        match self.deadline {
            _ if has_ended && ledger.has_enough() => Ok(true),
            Some(deadline) if now >= deadline => {
                Err("the measured messages do not finish".to_owned())
            }
            Some(_) => Ok(false),
            None => Ok(has_ended),
        }
    }
}

/// A message that starts with the run, before all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct First {
    pub(crate) from: HostId,
    pub(crate) to: HostId,
    pub(crate) bytes: u32,
}

/// How a run ended, and what was counted in its window.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) at: Instant,
    /// Why it is an overload, if it is one.
    pub(crate) overload: Option<String>,
    /// All that has started, and all that has finished.
    pub(crate) started: Total,
    pub(crate) finished: Total,
    pub(crate) failed: u64,
    pub(crate) measured: u64,
    /// Of the measured messages, those that did not finish, at their age.
    pub(crate) unfinished: Vec<Sample>,
    pub(crate) at_window: AtWindow,
    /// Payload that arrived at each host, before the window and in it; empty where there are no
    /// packets.
    pub(crate) arrived_by_host: Vec<[u64; 2]>,
    pub(crate) hops: u64,
    pub(crate) dropped: u64,
    pub(crate) events: u64,
    pub(crate) packets: u64,
    /// Packets that were sent again.
    pub(crate) resends: u64,
}

/// Parts of a window that are also counted one by one, to tell how much a sum is by chance.
pub(crate) const PARTS: usize = 10;

/// What is counted from the window's start to its end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AtWindow {
    pub(crate) time: Span,
    pub(crate) started_bytes: u64,
    /// Length of the messages under way, when it starts and when it ends.
    pub(crate) backlog_bytes: [u64; 2],
    /// Payload that has arrived, by parts of the window that are equally long.
    pub(crate) arrived_bytes: [u64; PARTS],
    pub(crate) bytes_to_hosts: u64,
    pub(crate) queues: Queues,
    /// Share of looks at a receiver that found its link idle and grants withheld.
    pub(crate) wasted: f64,
    pub(crate) bytes_by_priority: [u64; 8],
    pub(crate) dropped: u64,
    pub(crate) resends: u64,
}

impl AtWindow {
    /// Payload that has arrived in all of it.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived_bytes.iter().sum()
    }
}

/// One run.
#[derive(Debug)]
pub(crate) struct World<N: Node, S> {
    now: Instant,
    events: Events<Event>,
    fabric: Fabric<N::Body>,
    hosts: Vec<Host<N>>,
    source: S,
    ledger: Ledger,
    schedule: Schedule,
    max_open: u64,
    picos_per_byte: f64,
    counted: AtWindow,
    /// Payload that had arrived before the present part of the window.
    arrived_before: u64,
    /// Before the window and, when it has ended, in it.
    arrived_by_host: Vec<[u64; 2]>,
    looks: u64,
    packets: u64,
    /// Bytes that the hosts have sent, by level.
    sent: [u64; 8],
    reports: Vec<Report>,
}

#[derive(Debug)]
struct Host<N> {
    node: N,
    /// Until when its link is sending.
    busy_until: Instant,
    /// Whether an event will tell of that.
    waits_for_link: bool,
    /// When it will be woken.
    wakes_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Fabric(Step),
    /// The next message of a host starts.
    Message(HostId),
    /// One starts that follows another.
    Follow(HostId),
    LinkFree(HostId),
    Wake(HostId),
    Look,
    WindowStarts,
    PartEnds(usize),
    WindowEnds,
}

impl<N: Node, S: Source> World<N, S> {
    pub(crate) fn new(
        nodes: Vec<N>,
        fabric: Fabric<N::Body>,
        source: S,
        schedule: Schedule,
        host_gbps: f64,
    ) -> Self {
        let ledger = Ledger::new(nodes.len() as u32, schedule.window);
        let max_open = match S::IS_CLOSED {
            true => MAX_OPEN,
            false => max_open(nodes.len() as u64),
        };
        let hosts = nodes
            .into_iter()
            .map(|node| Host {
                node,
                busy_until: Instant::ZERO,
                waits_for_link: false,
                wakes_at: None,
            })
            .collect();
        Self {
            now: Instant::ZERO,
            events: Events::new(),
            fabric,
            hosts,
            source,
            ledger,
            schedule,
            max_open,
            picos_per_byte: 8000.0 / host_gbps,
            counted: AtWindow::default(),
            arrived_before: 0,
            arrived_by_host: Vec::new(),
            looks: 0,
            packets: 0,
            sent: [0; 8],
            reports: Vec::new(),
        }
    }

    /// Runs until its schedule says that it is over; `sample` gets each measured message that
    /// finishes. `tick` is told the time every [`LOOK_EVERY`].
    pub(crate) fn run(
        mut self,
        first: &[First],
        mut sample: impl FnMut(Sample),
        mut tick: impl FnMut(Instant),
    ) -> Ended {
        for host in 0..self.hosts.len() as HostId {
            self.await_message(host);
            self.arm(host);
        }
        let (start, end) = self.schedule.window;
        self.events.push(start, Event::WindowStarts);
        self.events.push(self.now, Event::Look);
        let part = end.since(start).as_picos() / PARTS as u64;
        for number in 0..PARTS - 1 {
            let after = Span::from_picos(part * (number as u64 + 1));
            self.events.push(start + after, Event::PartEnds(number));
        }
        self.events.push(end, Event::WindowEnds);
        let mut overload = self.start_all(first).err();
        while overload.is_none()
            && let Some((at, event)) = self.events.pop()
        {
            self.now = at;
            if matches!(event, Event::Look) {
                tick(at);
            }
            overload = self.handle(event).err();
            for report in self.reports.drain(..) {
                let message = match report {
                    Report::Finished(message) => {
                        if let Some(measured) = self.ledger.finish(at, message) {
                            sample(measured);
                        }
                        message
                    }
                    Report::Failed(message) => {
                        self.ledger.fail();
                        message
                    }
                };
                if S::IS_CLOSED {
                    let (host, _) = ledger::parts_of(message);
                    self.events.push(at, Event::Follow(host));
                }
            }
            if at < end {
                continue;
            }
            match self.schedule.is_over(at, &self.ledger) {
                Ok(true) => break,
                Ok(false) => {}
                Err(why) => overload = Some(why),
            }
        }
        // An overload can end a run in its window.
        if self.now < end && !self.arrived_by_host.is_empty() {
            self.end_window();
        }
        self.counted.wasted /= self.looks.max(1) as f64;
        Ended {
            at: self.now,
            overload,
            started: self.ledger.started,
            finished: self.ledger.finished,
            failed: self.ledger.failed,
            measured: self.ledger.measured_started,
            unfinished: self.ledger.unfinished(self.now).collect(),
            at_window: self.counted,
            resends: self.resends(),
            arrived_by_host: self.arrived_by_host,
            hops: self.fabric.hops,
            dropped: self.fabric.dropped,
            events: self.events.added(),
            packets: self.packets,
        }
    }

    fn start_all(&mut self, first: &[First]) -> Result<(), String> {
        for First { from, to, bytes } in first {
            self.start(*from, *to, *bytes)?;
        }
        Ok(())
    }

    /// A message starts now. `Err`: there is no room for it.
    fn start(&mut self, from: HostId, to: HostId, bytes: u32) -> Result<(), String> {
        if self.ledger.open() >= self.max_open {
            return Err(format!("{} messages are under way", self.max_open));
        }
        let message = self.ledger.start(self.now, from, to, bytes);
        let node = &mut self.hosts[from as usize].node;
        node.start(self.now, message, to, bytes.into())
            .map_err(|what| format!("{what} of host {from} is full"))?;
        self.serve(from);
        Ok(())
    }

    /// Sees to it that the host's next message starts when it is time.
    fn await_message(&mut self, host: HostId) {
        if let Some(gap) = self.source.gap(host) {
            self.events.push(self.now + gap, Event::Message(host));
        }
    }

    /// Payload that has arrived so far at each host.
    fn arrived(&self) -> impl Iterator<Item = u64> {
        let hosts = self.hosts.iter();
        hosts.map(|host| host.node.arrived_bytes())
    }

    /// Packets that have been sent again so far.
    fn resends(&self) -> u64 {
        self.hosts.iter().map(|host| host.node.resends()).sum()
    }

    fn start_window(&mut self) {
        self.fabric.start_measuring(self.now);
        self.counted = AtWindow {
            started_bytes: self.ledger.started.bytes,
            backlog_bytes: [self.ledger.open_bytes(), 0],
            bytes_by_priority: self.sent,
            dropped: self.fabric.dropped,
            resends: self.resends(),
            ..AtWindow::default()
        };
        self.arrived_by_host = self.arrived().map(|arrived| [arrived, 0]).collect();
        self.arrived_before = self.arrived().sum();
    }

    fn end_window(&mut self) {
        self.end_part(PARTS - 1);
        let arrived: Vec<u64> = self.arrived().collect();
        for (counted, arrived) in self.arrived_by_host.iter_mut().zip(arrived) {
            counted[1] = arrived - counted[0];
        }
        let resends = self.resends();
        let counted = &mut self.counted;
        counted.time = self.now.since(self.schedule.window.0);
        counted.started_bytes = self.ledger.started.bytes - counted.started_bytes;
        counted.backlog_bytes[1] = self.ledger.open_bytes();
        counted.dropped = self.fabric.dropped - counted.dropped;
        counted.resends = resends - counted.resends;
        counted.bytes_to_hosts = self.fabric.bytes_to_hosts();
        counted.queues = self.fabric.queues(self.now);
        for (counted, sent) in counted.bytes_by_priority.iter_mut().zip(self.sent) {
            *counted = sent - *counted;
        }
    }

    fn end_part(&mut self, number: usize) {
        let arrived = self.arrived().sum();
        self.counted.arrived_bytes[number] = arrived - self.arrived_before;
        self.arrived_before = arrived;
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        let now = self.now;
        match event {
            Event::Fabric(step) => self.handle_step(step),
            Event::Message(host) => {
                self.await_message(host);
                let (to, bytes) = self.source.next(host);
                self.start(host, to, bytes)?;
            }
            Event::Follow(host) => {
                let (to, bytes) = self.source.next(host);
                self.start(host, to, bytes)?;
            }
            Event::LinkFree(host) => {
                self.hosts[host as usize].waits_for_link = false;
                self.serve(host);
            }
            Event::Wake(host) => {
                let state = &mut self.hosts[host as usize];
                if state.wakes_at.take_if(|at| *at <= now).is_some() {
                    if state.node.next_wake().is_some_and(|at| at <= now) {
                        state.node.wake(now, &mut self.reports);
                    }
                    self.serve(host);
                }
            }
            Event::Look => {
                let (start, end) = self.schedule.window;
                if start <= now && now < end {
                    self.look();
                }
                self.events.push(now + LOOK_EVERY, Event::Look);
            }
            Event::WindowStarts => self.start_window(),
            Event::PartEnds(number) => self.end_part(number),
            Event::WindowEnds => self.end_window(),
        }
        Ok(())
    }

    fn handle_step(&mut self, step: Step) {
        let Self {
            now,
            events,
            fabric,
            hosts,
            reports,
            ..
        } = self;
        let mut then = |at, step| events.push(at, Event::Fabric(step));
        match step {
            Step::PortFree(port) => fabric.port_free(*now, port, &mut then),
            Step::Arrival(travelling) => {
                if let Some(packet) = fabric.arrived(*now, travelling, &mut then) {
                    let host = packet.to;
                    hosts[host as usize].node.receive(*now, packet, reports);
                    self.serve(host);
                }
            }
        }
    }

    /// Lets a host send as long as its link is free.
    fn serve(&mut self, host: HostId) {
        let state = &mut self.hosts[host as usize];
        while !state.waits_for_link {
            if state.busy_until > self.now {
                self.events.push(state.busy_until, Event::LinkFree(host));
                state.waits_for_link = true;
                break;
            }
            let Some(packet) = state.node.pull(self.now) else {
                break;
            };
            self.packets += 1;
            let Packet {
                wire_bytes, level, ..
            } = packet;
            let time = (f64::from(wire_bytes) * self.picos_per_byte) as u64;
            state.busy_until = self.now + Span::from_picos(time);
            self.sent[usize::from(level & 7)] += u64::from(wire_bytes);
            let events = &mut self.events;
            let mut then = |at, step| events.push(at, Event::Fabric(step));
            self.fabric.enter(state.busy_until, packet, &mut then);
        }
        self.arm(host);
    }

    /// Sees to it that the host is woken when it wants to be.
    fn arm(&mut self, host: HostId) {
        let now = self.now;
        let state = &mut self.hosts[host as usize];
        if let Some(at) = state.node.next_wake()
            && state.wakes_at.is_none_or(|before| at < before)
            // One that could send again is served when its link is free, and not before.
            && !(at <= now && state.waits_for_link)
        {
            let at = at.max(now);
            state.wakes_at = Some(at);
            self.events.push(at, Event::Wake(host));
        }
    }

    fn look(&mut self) {
        for (number, host) in (0..).zip(&self.hosts) {
            self.looks += 1;
            if self.fabric.is_idle_towards(self.now, number) && host.node.withholds() {
                self.counted.wasted += 1.0;
            }
        }
    }
}
