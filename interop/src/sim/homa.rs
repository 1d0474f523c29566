//! [`HomaHost`]: a host that runs the engine of `homa-client`.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use homa_client::engine::wire::{Carrier, Kind, Packet as Decoded};
use homa_client::engine::{Datagram, Engine, Event, Segment, SendError, Settings, Socket, Time};
use homa_client::{ConfigError, Message};

use super::ledger;
use super::link::{SCHEDULED_HEADER, SHORTEST, UNSCHEDULED_HEADER, occupied};
use super::node::{HostId, MessageId, Node, Packet, Report};
use super::setup::{Mode, Setup, Wire};
use super::time::Instant;
use super::workload::MAX_BYTES;

/// UDP port of all engines, and Homa ports of clients and servers.
const PORT: u16 = 4000;
const CLIENT: u16 = 40_000;

/// A host with one engine, whose clock is its own.
#[derive(Debug)]
pub(crate) struct HomaHost {
    engine: Engine,
    me: HostId,
    mode: Mode,
    wire: Wire,
    /// Length of the responses in echo mode; `None`: that of their requests.
    response_bytes: Option<usize>,
    /// The engine's time when the simulation began.
    clock: Duration,
    /// By host: the RPC id of its first message. Ids grow by two from there, so that a receiver
    /// can tell which message it has got.
    first_ids: Rc<[Cell<u64>]>,
}

impl HomaHost {
    /// The hosts of one simulation, which know each other already: each has had an RPC with every
    /// other, so that cutoffs are announced.
    pub(crate) fn all(setup: &Setup, settings: &Settings) -> Result<Vec<Self>, ConfigError> {
        let hosts = setup.topology.hosts();
        let link_mbps = (setup.topology.host_gbps * 1000.0).round() as u32;
        let first_ids: Rc<[Cell<u64>]> = (0..hosts).map(|_| Cell::new(0)).collect();
        let mut random = fastrand::Rng::with_seed(setup.seed);
        let mut all = Vec::new();
        for me in 0..hosts {
            let mut engine = Engine::new(settings.clone(), random.u64(..))?;
            engine.open_port(CLIENT, false);
            engine.open_port(PORT, true);
            engine.set_link(Some(link_mbps));
            let clock = Duration::from_nanos(random.u64(..1_000_000_000));
            engine.set_born(Time::ZERO + clock);
            all.push(Self {
                engine,
                me,
                mode: setup.mode,
                wire: setup.wire,
                response_bytes: None,
                clock,
                first_ids: first_ids.clone(),
            });
        }
        acquaint(&mut all);
        Ok(all)
    }

    /// Gives all responses in echo mode this length, of 1 byte or more.
    pub(crate) fn respond_with(&mut self, bytes: u32) {
        self.response_bytes = Some(bytes as usize);
    }

    fn time(&self, now: Instant) -> Time {
        Time::from_nanos(now.as_nanos()) + self.clock
    }

    /// Answers requests, and tells what has finished.
    fn poll_events(&mut self, time: Time, reports: &mut Vec<Report>) {
        while let Some(event) = self.engine.poll_event(time) {
            match event {
                Event::Request {
                    rpc,
                    peer,
                    message,
                    charged,
                    ..
                } => {
                    let bytes = message.len();
                    drop(message);
                    self.engine.release(charged);
                    let response = match self.mode {
                        Mode::OneWay => {
                            let from = host_of(peer);
                            reports.extend(self.message_of(from, rpc.id() ^ 1));
                            1
                        }
                        Mode::Echo => self.response_bytes.unwrap_or(bytes),
                    };
                    // The settings leave room for more than may be under way.
                    let _ = self.engine.send_reply(time, rpc, payload(response));
                }
                Event::Response {
                    cookie,
                    message,
                    charged,
                    ..
                } => {
                    drop(message);
                    self.engine.release(charged);
                    if self.mode == Mode::Echo && cookie != ACQUAINTANCE {
                        reports.push(Report::Finished(cookie));
                    }
                }
                Event::Failed { cookie, .. } => reports.push(Report::Failed(cookie)),
                _ => {}
            }
        }
    }

    /// Which message of `from` has this RPC id; `None`: it was no message of the workload.
    fn message_of(&self, from: HostId, id: u64) -> Option<Report> {
        let first = self.first_ids.get(from as usize)?.get();
        if first == 0 {
            return None;
        }
        let ordinal = id.checked_sub(first)? / 2;
        Some(Report::Finished(ledger::message_id(from, ordinal)))
    }

    /// Bytes on the wire.
    fn wire_bytes(&self, segment: &Segment) -> u32 {
        let real = occupied(segment.len() as u32);
        if self.wire == Wire::Real {
            return real;
        }
        let Ok((common, packet)) = Decoded::parse(Carrier::Udp, &segment.header) else {
            return real;
        };
        match (common.kind, packet) {
            (Kind::Cutoffs | Kind::Ack | Kind::NeedAck, _) => 0,
            (Kind::Data, _) if self.mode == Mode::OneWay && !common.from_client() => 0,
            (_, Decoded::Data(data)) => {
                let unscheduled = data.retransmit || data.offset() < data.incoming;
                let header = if unscheduled {
                    UNSCHEDULED_HEADER
                } else {
                    SCHEDULED_HEADER
                };
                occupied(segment.payload_len() as u32 + header)
            }
            _ => SHORTEST,
        }
    }
}

impl Node for HomaHost {
    type Body = Segment;

    fn start(
        &mut self,
        now: Instant,
        message: MessageId,
        to: HostId,
        bytes: u64,
    ) -> Result<(), &'static str> {
        let time = self.time(now);
        let request = payload(bytes as usize);
        let sent = self
            .engine
            .send_request(time, CLIENT, address_of(to), PORT, request, message);
        let id = match sent {
            Ok(rpc) => rpc.id(),
            Err(SendError::Busy { what, .. }) => return Err(what),
            Err(_) => return Err("max_message_bytes"),
        };
        let first = &self.first_ids[self.me as usize];
        if first.get() == 0 {
            let (_, ordinal) = ledger::parts_of(message);
            first.set(id - 2 * ordinal);
        }
        Ok(())
    }

    fn receive(&mut self, now: Instant, packet: Packet<Segment>, reports: &mut Vec<Report>) {
        let time = self.time(now);
        let datagram = Datagram {
            from: address_of(packet.from),
            local: None,
            tos: packet.level << 5,
            socket: Socket::Main,
            data: packet.body,
        };
        self.engine.handle_segment(time, datagram);
        self.poll_events(time, reports);
    }

    fn pull(&mut self, now: Instant) -> Option<Packet<Segment>> {
        let time = self.time(now);
        let mut transmit = self.engine.poll_transmit(time, 1)?;
        let body = transmit.segments.pop()?;
        Some(Packet {
            from: self.me,
            to: host_of(transmit.to),
            wire_bytes: self.wire_bytes(&body),
            level: transmit.tos >> 5,
            marked: false,
            body,
        })
    }

    fn next_wake(&self) -> Option<Instant> {
        let (at, _) = self.engine.poll_timeout()?;
        let since = at.since(Time::ZERO + self.clock);
        Some(Instant::from_nanos(since.as_nanos() as u64))
    }

    fn wake(&mut self, now: Instant, reports: &mut Vec<Report>) {
        let time = self.time(now);
        self.engine.handle_timeout(time);
        self.poll_events(time, reports);
    }

    fn withholds(&self) -> bool {
        self.engine.withholds_grants()
    }

    fn arrived_bytes(&self) -> u64 {
        let counters = self.engine.counters();
        // The response to a one-way message is no part of it, but one byte.
        let responses = match self.mode {
            Mode::OneWay => counters.responses_delivered,
            Mode::Echo => 0,
        };
        counters.bytes_received - responses
    }

    fn resends(&self) -> u64 {
        self.engine.counters().retransmitted
    }
}

/// The cookie of RPCs that belong to no message.
const ACQUAINTANCE: u64 = u64::MAX;

/// One RPC from everybody to everybody, in no time.
fn acquaint(hosts: &mut [HomaHost]) {
    let now = Instant::ZERO;
    let number = hosts.len() as HostId;
    let mut reports = Vec::new();
    for from in 0..number {
        for to in (0..number).filter(|to| *to != from) {
            let host = &mut hosts[from as usize];
            let time = host.time(now);
            // A refused one costs nothing but this acquaintance.
            let _ = host.engine.send_request(
                time,
                CLIENT,
                address_of(to),
                PORT,
                payload(1),
                ACQUAINTANCE,
            );
        }
        // Requests, responses, acks.
        let mut senders = vec![from];
        while let Some(sender) = senders.pop() {
            while let Some(packet) = hosts[sender as usize].pull(now) {
                let to = packet.to;
                hosts[to as usize].receive(now, packet, &mut reports);
                senders.push(to);
            }
        }
    }
}

/// A message of this length; all share the same zeros.
fn payload(bytes: usize) -> Message {
    static ZEROS: OnceLock<Bytes> = OnceLock::new();
    // A slice of what lives for ever costs no count of references.
    let zeros = ZEROS.get_or_init(|| Bytes::from_static(vec![0; MAX_BYTES as usize].leak()));
    Message::from(zeros.slice(..bytes))
}

fn address_of(host: HostId) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | host)), PORT)
}

fn host_of(addr: SocketAddr) -> HostId {
    match addr.ip() {
        IpAddr::V4(ip) => ip.to_bits() & 0x00ff_ffff,
        IpAddr::V6(_) => HostId::MAX,
    }
}
