//! [`Dctcp`]: streams with fair sharing and DCTCP's congestion control.
//!
//! What it models: services that keep connections to each other open, over TCP as Linux has it
//! with `tcp_congestion_control = dctcp` (RFC 8257).
//!
//! * A pool of connections for each pair of hosts and direction, opened before time begins. A
//!   message takes one on which nothing waits to be sent. If there is none, another is opened, up
//!   to `dctcp.connections`; then it waits behind the messages of the one with least to send.
//! * Segments of up to 1,460 bytes, which occupy 78 bytes more on a link: TCP 20, IP 20, Ethernet
//!   38. Messages that wait in the same connection share segments. Every second segment is
//!   acknowledged, by 84 bytes; one that remains alone after 1 ms; and when a marked one follows
//!   one that is not, or the other way round, those before it at once.
//! * A host's connections take turns, segment by segment. All packets have one priority level.
//! * Switches mark packets that find more than `dctcp.mark_above_bytes` waiting at a port. Windows
//!   begin with 10 segments and slow start. They are reduced by half the estimated share of marks,
//!   at most once a round trip, and by half for every timeout's length (10 ms) in which a
//!   connection is idle, down to 10 segments.
//! * What is lost is found by RACK (RFC 8985), when a later segment has arrived and a round trip
//!   has passed, or by a timeout of at least 10 ms. Packets may pass each other.
//!
//! What it leaves out, and what makes real TCP slower: handshakes, the time of the hosts'
//! software, bursts by segmentation offload, full receive windows and send buffers, framing of
//! messages in a stream, Linux's timeouts of 200 ms at least. What makes it faster: tail loss
//! probes, undoing of spurious retransmissions, acknowledgments that ride on data.

mod inbound;
mod outbound;
mod round_trip;
mod streams;
#[cfg(test)]
mod tests;
mod timers;
mod window;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use self::inbound::{Answer, Inbound};
use self::outbound::{Outbound, Segment};
use self::streams::{Arrived, Streams};
use self::timers::{End, Timers};
use crate::sim::link;
use crate::sim::node::{HostId, MessageId, Node, Packet, Report};
use crate::sim::setup::{Mode, Setup};
use crate::sim::time::Instant;

/// Headers of IP and TCP, without options.
const TCP_IP: u32 = 40;

/// The one level that is used.
const LEVEL: u8 = 0;

/// A host whose messages are carried by streams.
#[derive(Debug)]
pub(crate) struct Dctcp {
    host: HostId,
    mode: Mode,
    /// Streams to one receiver at most.
    max_streams: usize,
    streams: Rc<RefCell<Streams>>,
    outbound: Vec<Outbound>,
    /// Places in `outbound`, by receiver.
    pools: Vec<Vec<u32>>,
    inbound: Vec<Inbound>,
    /// The streams that can send, in the order of their turns.
    turns: VecDeque<u32>,
    /// Whether a stream is in `turns`.
    has_turn: Vec<bool>,
    acknowledgments: VecDeque<Packet<Body>>,
    timers: Timers,
    resends: u64,
}

/// What packets carry.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body {
    /// Bytes `first` up to `end` of the stream with this port at the receiver.
    Segment { port: u32, first: u64, end: u64 },
    /// Of the stream with this port at its sender.
    Acknowledgment { port: u32, told: Acknowledgment },
}

/// What a receiver tells a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acknowledgment {
    /// All bytes before this one have arrived.
    next: u64,
    /// The first byte, and the one after the last, of what has arrived out of order around the
    /// segment that is acknowledged; twice the same if there is none.
    block: (u64, u64),
    /// Whether the segments that are acknowledged were marked.
    marked: bool,
}

impl Dctcp {
    /// All hosts of a network.
    pub(crate) fn all(setup: &Setup) -> Vec<Self> {
        let hosts = setup.topology.hosts();
        let streams = Rc::new(RefCell::new(Streams::new(hosts)));
        let host = |host| Self {
            host,
            mode: setup.mode,
            max_streams: setup.dctcp.connections as usize,
            streams: Rc::clone(&streams),
            outbound: Vec::new(),
            pools: vec![Vec::new(); hosts as usize],
            inbound: Vec::new(),
            turns: VecDeque::new(),
            has_turn: Vec::new(),
            acknowledgments: VecDeque::new(),
            timers: Timers::default(),
            resends: 0,
        };
        (0..hosts).map(host).collect()
    }

    fn write(&mut self, to: HostId, message: MessageId, is_response: bool, bytes: u64) {
        let place = self.connection(to);
        let stream = &mut self.outbound[place as usize];
        stream.write(bytes);
        let mut streams = self.streams.borrow_mut();
        streams.write(to, stream.port, message, is_response, bytes);
        drop(streams);
        self.offer_turn(place);
    }

    /// The connection that the next message to a host takes.
    fn connection(&mut self, to: HostId) -> u32 {
        let pool = &mut self.pools[to as usize];
        let unsent = |place: &u32| self.outbound[*place as usize].unsent();
        let best = pool.iter().copied().min_by_key(unsent);
        match best {
            Some(best) if pool.len() == self.max_streams || unsent(&best) == 0 => best,
            _ => {
                let place = self.outbound.len() as u32;
                let port = self.streams.borrow_mut().open(self.host, place, to);
                self.outbound.push(Outbound::new(to, port));
                self.has_turn.push(false);
                pool.push(place);
                place
            }
        }
    }

    /// Puts a stream that can send at the end of the row, if it is not in it.
    fn offer_turn(&mut self, place: u32) {
        let has_turn = &mut self.has_turn[place as usize];
        if !*has_turn && self.outbound[place as usize].can_send() {
            *has_turn = true;
            self.turns.push_back(place);
        }
    }

    fn receive_segment(&mut self, now: Instant, port: u32, bytes: (u64, u64), marked: bool) {
        while self.inbound.len() <= port as usize {
            let streams = self.streams.borrow();
            let (from, their_port) = streams.sender(self.host, self.inbound.len() as u32);
            self.inbound.push(Inbound::new(from, their_port));
        }
        let stream = &mut self.inbound[port as usize];
        let Answer { before, now: told } = stream.receive(now, bytes.0, bytes.1, marked);
        self.timers.set(End::Inbound(port), stream.deadline());
        for told in before.into_iter().chain(told) {
            self.acknowledge(port, told);
        }
    }

    /// Hands the messages over that have arrived in a stream.
    fn deliver(&mut self, port: u32, reports: &mut Vec<Report>) {
        let Inbound { from, next, .. } = self.inbound[port as usize];
        loop {
            let mut streams = self.streams.borrow_mut();
            let Some(arrived) = streams.read(self.host, port, next) else {
                break;
            };
            let Arrived {
                message,
                is_response,
                bytes,
            } = arrived;
            if self.mode == Mode::Echo && !is_response {
                drop(streams);
                self.write(from, message, true, bytes);
            } else {
                streams.finish(if is_response { self.host } else { from });
                reports.push(Report::Finished(message));
            }
        }
    }

    fn acknowledge(&mut self, port: u32, told: Acknowledgment) {
        let stream = &self.inbound[port as usize];
        let body = Body::Acknowledgment {
            port: stream.port,
            told,
        };
        let packet = self.packet(stream.from, 0, body);
        self.acknowledgments.push_back(packet);
    }

    fn packet(&self, to: HostId, payload: u32, body: Body) -> Packet<Body> {
        Packet {
            from: self.host,
            to,
            wire_bytes: link::SHORTEST.max(payload + TCP_IP + link::ETHERNET),
            level: LEVEL,
            marked: false,
            body,
        }
    }
}

impl Node for Dctcp {
    type Body = Body;

    fn start(
        &mut self,
        _: Instant,
        message: MessageId,
        to: HostId,
        bytes: u64,
    ) -> Result<(), &'static str> {
        if !self.streams.borrow_mut().begin(self.host) {
            return Err("the table of unfinished messages");
        }
        self.write(to, message, false, bytes);
        Ok(())
    }

    fn receive(&mut self, now: Instant, packet: Packet<Body>, reports: &mut Vec<Report>) {
        match packet.body {
            Body::Segment { port, first, end } => {
                self.receive_segment(now, port, (first, end), packet.marked);
                self.deliver(port, reports);
            }
            Body::Acknowledgment { port, told } => {
                let stream = &mut self.outbound[port as usize];
                stream.acknowledge(now, &told);
                self.timers.set(End::Outbound(port), stream.deadline());
                self.offer_turn(port);
            }
        }
    }

    fn pull(&mut self, now: Instant) -> Option<Packet<Body>> {
        if let Some(packet) = self.acknowledgments.pop_front() {
            return Some(packet);
        }
        while let Some(place) = self.turns.pop_front() {
            self.has_turn[place as usize] = false;
            let stream = &mut self.outbound[place as usize];
            if !stream.can_send() {
                continue;
            }
            let Segment { first, end, again } = stream.send(now);
            let (to, port) = (stream.to, stream.port);
            self.resends += u64::from(again);
            self.timers.set(End::Outbound(place), stream.deadline());
            self.offer_turn(place);
            let body = Body::Segment { port, first, end };
            return Some(self.packet(to, (end - first) as u32, body));
        }
        None
    }

    fn next_wake(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn wake(&mut self, now: Instant, _: &mut Vec<Report>) {
        while let Some(end) = self.timers.pop(now) {
            match end {
                End::Outbound(place) => {
                    let stream = &mut self.outbound[place as usize];
                    stream.expire(now);
                    self.timers.set(end, stream.deadline());
                    self.offer_turn(place);
                }
                End::Inbound(port) => {
                    let stream = &mut self.inbound[port as usize];
                    if stream.deadline().is_some_and(|at| at <= now) {
                        let told = stream.acknowledgment((0, 0));
                        self.acknowledge(port, told);
                    } else {
                        self.timers.set(end, stream.deadline());
                    }
                }
            }
        }
    }

    fn withholds(&self) -> bool {
        false
    }

    fn arrived_bytes(&self) -> u64 {
        self.inbound.iter().map(Inbound::arrived_bytes).sum()
    }

    fn resends(&self) -> u64 {
        self.resends
    }
}
