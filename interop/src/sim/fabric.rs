//! [`Fabric`]: racks of hosts, a switch on each, and the spine switches between them.
//!
//! Switches store and forward. Each of their ports has a queue for each priority level, and sends
//! the first packet of the highest one that is not empty; a packet that is being sent is not
//! interrupted (SIGCOMM'18, section 5.2). The hosts' own links belong to the [world](super::world).

use super::link::{HOST_IN, HOST_OUT, SWITCH_OUT};
use super::node::{HostId, Packet};
use super::outcome::{Queue, Queues};
use super::setup::{Routing, Topology};
use super::time::{Instant, Span};

/// A packet in the fabric, by its place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Travelling(u32);

/// A port of a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortId(u32);

/// What the fabric asks to be called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// [`Fabric::arrived`]: the packet has reached the next switch or its host.
    Arrival(Travelling),
    /// [`Fabric::port_free`]: the port may send the next packet.
    PortFree(PortId),
}

/// The switches.
#[derive(Debug)]
pub(crate) struct Fabric<B> {
    hosts_per_rack: u32,
    racks: u32,
    spines: u32,
    routing: Routing,
    buffer_bytes: u64,
    mark_above: u64,
    loss: f64,
    random: fastrand::Rng,
    ports: Vec<Port>,
    table: Vec<Slot<B>>,
    free: Vec<u32>,
    /// What was counted since [`Fabric::start_measuring`].
    measured_from: Instant,
    pub(crate) hops: u64,
    pub(crate) dropped: u64,
}

#[derive(Debug)]
struct Slot<B> {
    packet: Option<Packet<B>>,
    /// Where it arrives next.
    at: Place,
    /// The next in its queue.
    next: u32,
}

/// Where a packet arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At the switch of its sender's rack.
    FirstTor,
    Spine(u32),
    /// At the switch of its receiver's rack.
    LastTor,
    Host,
}

/// No packet.
const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct Port {
    picos_per_byte: f64,
    /// From the end of sending to the arrival.
    delay: Span,
    busy_until: Instant,
    /// Levels whose queues are not empty.
    occupied: u8,
    heads: [u32; 8],
    tails: [u32; 8],
    waiting: Watched,
    sent_bytes: u64,
}

/// A number of bytes, with its integral over time and its maximum.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    bytes: u64,
    max: u64,
    since: Instant,
    /// In bytes times picoseconds.
    area: u128,
}

impl Watched {
    fn set(&mut self, now: Instant, bytes: u64) {
        self.area += u128::from(self.bytes) * u128::from(now.since(self.since).as_picos());
        self.since = now;
        self.bytes = bytes;
        self.max = self.max.max(bytes);
    }
}

impl Port {
    fn new(gbps: f64, delay: Span) -> Self {
        Self {
            picos_per_byte: 8000.0 / gbps,
            delay,
            busy_until: Instant::ZERO,
            occupied: 0,
            heads: [NONE; 8],
            tails: [NONE; 8],
            waiting: Watched::default(),
            sent_bytes: 0,
        }
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.occupied == 0 && self.busy_until <= now
    }
}

impl<B> Fabric<B> {
    pub(crate) fn new(topology: &Topology, mark_above: Option<u64>, seed: u64) -> Self {
        let Topology {
            racks,
            hosts_per_rack,
            spines,
            host_gbps,
            spine_gbps,
            routing,
            buffer_bytes,
            loss,
        } = *topology;
        let down = Port::new(host_gbps, SWITCH_OUT + HOST_IN);
        let between = Port::new(spine_gbps, SWITCH_OUT);
        let mut ports = vec![down; (racks * hosts_per_rack) as usize];
        ports.extend(std::iter::repeat_n(between, (2 * racks * spines) as usize));
        Self {
            hosts_per_rack,
            racks,
            spines,
            routing,
            buffer_bytes: buffer_bytes.unwrap_or(u64::MAX),
            mark_above: mark_above.unwrap_or(u64::MAX),
            loss,
            random: fastrand::Rng::with_seed(seed),
            ports,
            table: Vec::new(),
            free: Vec::new(),
            measured_from: Instant::ZERO,
            hops: 0,
            dropped: 0,
        }
    }

    /// A host's link has sent the last bit of `packet` at `at`. `then` takes what is to come.
    pub(crate) fn enter(
        &mut self,
        at: Instant,
        packet: Packet<B>,
        then: &mut impl FnMut(Instant, Step),
    ) {
        if packet.wire_bytes == 0 {
            let at = at + self.fixed_delay(packet.from, packet.to);
            let travelling = self.insert(packet, Place::Host);
            return then(at, Step::Arrival(travelling));
        }
        self.hops += 1;
        let travelling = self.insert(packet, Place::FirstTor);
        then(at + HOST_OUT, Step::Arrival(travelling));
    }

    /// The packet has arrived: at a switch, which sends it on, or at the host, which gets it.
    pub(crate) fn arrived(
        &mut self,
        now: Instant,
        travelling: Travelling,
        then: &mut impl FnMut(Instant, Step),
    ) -> Option<Packet<B>> {
        let slot = &self.table[travelling.0 as usize];
        let packet = slot.packet.as_ref()?;
        let (from, to) = (packet.from, packet.to);
        let (port, next) = match slot.at {
            Place::Host => return self.remove(travelling),
            Place::LastTor => (to, Place::Host),
            Place::FirstTor if self.rack_of(from) == self.rack_of(to) => (to, Place::Host),
            Place::FirstTor => {
                let spine = self.choose_spine(from, to);
                (self.up(self.rack_of(from), spine), Place::Spine(spine))
            }
            Place::Spine(spine) => (self.down(spine, self.rack_of(to)), Place::LastTor),
        };
        self.table[travelling.0 as usize].at = next;
        self.forward(now, travelling, PortId(port), then);
        None
    }

    /// The port has sent its packet: the next one's turn.
    pub(crate) fn port_free(
        &mut self,
        now: Instant,
        port: PortId,
        then: &mut impl FnMut(Instant, Step),
    ) {
        let state = &mut self.ports[port.0 as usize];
        if state.occupied == 0 {
            return;
        }
        let level = state.occupied.ilog2() as usize;
        let first = state.heads[level];
        let slot = &self.table[first as usize];
        state.heads[level] = slot.next;
        if slot.next == NONE {
            state.occupied &= !(1 << level);
        }
        let bytes = slot.packet.as_ref().map_or(0, |packet| packet.wire_bytes);
        let left = state.waiting.bytes - u64::from(bytes);
        state.waiting.set(now, left);
        let more = state.occupied != 0;
        let free_at = self.send(now, Travelling(first), bytes, port, then);
        if more {
            then(free_at, Step::PortFree(port));
        }
    }

    /// Whether the link to this host has nothing to send.
    pub(crate) fn is_idle_towards(&self, now: Instant, host: HostId) -> bool {
        self.ports[host as usize].is_idle(now)
    }

    /// From the end of sending at one host to the software of the other, on links that take no
    /// time.
    fn fixed_delay(&self, from: HostId, to: HostId) -> Span {
        let near = HOST_OUT + SWITCH_OUT + HOST_IN;
        if self.rack_of(from) == self.rack_of(to) {
            near
        } else {
            near + SWITCH_OUT + SWITCH_OUT
        }
    }

    pub(crate) fn rack_of(&self, host: HostId) -> u32 {
        host / self.hosts_per_rack
    }

    /// Forgets what was counted.
    pub(crate) fn start_measuring(&mut self, now: Instant) {
        self.measured_from = now;
        for port in &mut self.ports {
            port.sent_bytes = 0;
            let bytes = port.waiting.bytes;
            port.waiting = Watched {
                bytes,
                max: bytes,
                since: now,
                area: 0,
            };
        }
    }

    /// Queue lengths since then.
    pub(crate) fn queues(&self, now: Instant) -> Queues {
        let hosts = (self.racks * self.hosts_per_rack) as usize;
        let (down, between) = self.ports.split_at(hosts);
        let (up, back) = between.split_at((self.racks * self.spines) as usize);
        let time = now.since(self.measured_from).as_picos().max(1) as f64;
        let sum_up = |ports: &[Port]| {
            let mut queue = Queue::default();
            for port in ports {
                let mut waiting = port.waiting;
                waiting.set(now, waiting.bytes);
                queue.mean_bytes += waiting.area as f64 / time / ports.len() as f64;
                queue.max_bytes = queue.max_bytes.max(waiting.max);
            }
            queue
        };
        Queues {
            tor_to_spine: sum_up(up),
            spine_to_tor: sum_up(back),
            tor_to_host: sum_up(down),
        }
    }

    /// Bytes sent to hosts since then.
    pub(crate) fn bytes_to_hosts(&self) -> u64 {
        let hosts = (self.racks * self.hosts_per_rack) as usize;
        self.ports[..hosts].iter().map(|port| port.sent_bytes).sum()
    }

    fn up(&self, rack: u32, spine: u32) -> u32 {
        self.racks * self.hosts_per_rack + rack * self.spines + spine
    }

    fn down(&self, spine: u32, rack: u32) -> u32 {
        self.racks * (self.hosts_per_rack + self.spines) + rack * self.spines + spine
    }

    fn choose_spine(&mut self, from: HostId, to: HostId) -> u32 {
        match self.routing {
            Routing::Spray => self.random.u32(..self.spines),
            Routing::FlowHash => {
                // Any mixing will do; this one is Fibonacci hashing.
                let pair = u64::from(from) << 32 | u64::from(to);
                (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % self.spines
            }
        }
    }

    fn forward(
        &mut self,
        now: Instant,
        travelling: Travelling,
        port: PortId,
        then: &mut impl FnMut(Instant, Step),
    ) {
        let Some(packet) = &mut self.table[travelling.0 as usize].packet else {
            return;
        };
        let bytes = packet.wire_bytes;
        let level = usize::from(packet.level.min(7));
        let state = &mut self.ports[port.0 as usize];
        packet.marked |= state.waiting.bytes > self.mark_above;
        let lost = self.loss > 0.0 && self.random.f64() < self.loss;
        if lost || state.waiting.bytes + u64::from(bytes) > self.buffer_bytes {
            self.dropped += 1;
            self.remove(travelling);
            return;
        }
        if state.is_idle(now) {
            self.send(now, travelling, bytes, port, then);
            return;
        }
        if state.occupied == 0 {
            then(state.busy_until, Step::PortFree(port));
        }
        let waiting = state.waiting.bytes + u64::from(bytes);
        state.waiting.set(now, waiting);
        if state.occupied & 1 << level == 0 {
            state.occupied |= 1 << level;
            state.heads[level] = travelling.0;
        } else {
            self.table[state.tails[level] as usize].next = travelling.0;
        }
        state.tails[level] = travelling.0;
        self.table[travelling.0 as usize].next = NONE;
    }

    /// Returns when the port has sent it.
    fn send(
        &mut self,
        now: Instant,
        travelling: Travelling,
        bytes: u32,
        port: PortId,
        then: &mut impl FnMut(Instant, Step),
    ) -> Instant {
        self.hops += 1;
        let port = &mut self.ports[port.0 as usize];
        let time = Span::from_picos((f64::from(bytes) * port.picos_per_byte) as u64);
        port.busy_until = now + time;
        port.sent_bytes += u64::from(bytes);
        then(port.busy_until + port.delay, Step::Arrival(travelling));
        port.busy_until
    }

    fn insert(&mut self, packet: Packet<B>, at: Place) -> Travelling {
        let slot = Slot {
            packet: Some(packet),
            at,
            next: NONE,
        };
        match self.free.pop() {
            Some(place) => {
                self.table[place as usize] = slot;
                Travelling(place)
            }
            None => {
                self.table.push(slot);
                Travelling(self.table.len() as u32 - 1)
            }
        }
    }

    fn remove(&mut self, travelling: Travelling) -> Option<Packet<B>> {
        self.free.push(travelling.0);
        self.table[travelling.0 as usize].packet.take()
    }
}
