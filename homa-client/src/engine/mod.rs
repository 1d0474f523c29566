//! The Homa protocol, without IO: bytes and the time go in, bytes and events come out.
//!
//! An [`Engine`] is one endpoint: it holds the RPCs of any number of Homa ports towards any
//! number of peers. It has no clock, no socket and no thread, so that drivers, tests and
//! simulators run the very same protocol. Five verbs move it:
//!
//! * [`Engine::handle_datagram`]: a packet has arrived. [`Engine::handle_segment`] takes what
//!   another engine of the same process sent, without a copy.
//! * [`Engine::handle_timeout`]: the time announced by `poll_timeout` has come.
//! * [`Engine::poll_transmit`]: the next packets to send.
//! * [`Engine::poll_timeout`]: when to call `handle_timeout`.
//! * [`Engine::poll_event`]: what the application should know. Polling counts as reading:
//!   a response is acknowledged once its event was polled.
//!
//! After any other call, poll events and transmits until both return `None`; then sleep until
//! `poll_timeout` or the next datagram. A hostile packet is a counter, never an error.
//!
//! ```
//! use homa_client::engine::{Datagram, Engine, Event, Settings, Socket, Time};
//!
//! let client_addr = "10.0.0.1:7000".parse()?;
//! let server_addr = "10.0.0.2:4000".parse()?;
//! let mut client = Engine::new(Settings::default(), 1)?;
//! let mut server = Engine::new(Settings::default(), 2)?;
//! client.open_port(40_000, false);
//! server.open_port(4000, true);
//!
//! let now = Time::ZERO;
//! client.send_request(now, 40_000, server_addr, 4000, "ping".into(), 0).unwrap();
//! // The network: whatever one engine transmits is handed to the other.
//! while let Some(transmit) = client.poll_transmit(now, 64) {
//!     for segment in transmit.segments {
//!         let datagram = Datagram {
//!             from: client_addr,
//!             local: None,
//!             tos: transmit.tos,
//!             socket: Socket::Main,
//!             data: segment,
//!         };
//!         server.handle_segment(now, datagram);
//!     }
//! }
//! let Some(Event::Request { message, .. }) = server.poll_event(now) else { panic!() };
//! assert_eq!(message.into_bytes(), "ping");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod api;
mod arrival;
mod cutoffs;
mod deadlines;
mod diagnosis;
mod downlink;
mod finished;
mod front;
mod granter;
mod incast;
mod incoming;
mod outgoing;
mod pacer;
mod path;
mod peer;
mod pool;
mod priority;
mod proof;
mod questions;
mod receive;
mod rpc;
mod rtt_bytes;
mod settings;
mod silence;
mod srpt;
mod starved;
pub mod stats;
#[cfg(test)]
mod tests;
mod time;
mod transmit;
mod tuning;
pub mod wire;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustc_hash::FxHashMap;

pub use self::api::{Datagram, Event, Failure, SendError, Socket, Unreachable};
use self::deadlines::Deadlines;
pub use self::diagnosis::{IncomingInfo, OutgoingInfo, RpcInfo};
use self::downlink::Downlink;
use self::finished::Finished;
use self::granter::Granter;
use self::outgoing::{OutMessage, Payload};
use self::pacer::Pacer;
use self::peer::{PeerKey, PeerTable};
use self::pool::Pool;
use self::priority::Priorities;
pub use self::proof::ProveAddresses;
use self::proof::Unproven;
pub use self::rpc::RpcId;
use self::rpc::{Input, Rpc, RpcKey, RpcState, RpcTable, Silence};
use self::rtt_bytes::RttBytes;
pub use self::settings::{Loopback, Settings, Timers, UnschedCutoffs};
use self::srpt::{Rank, SendQueue};
use self::starved::StarvedQueue;
pub use self::stats::{Counters, DropReason};
pub use self::time::{Time, Wake};
use self::transmit::Control;
pub use self::transmit::{Segment, Transmit};
pub use self::tuning::Tuning;
use self::wire::{Carrier, DATA_HEADER_LEN, Packet, PendingAck};
use crate::{ConfigError, Message};

/// Deadlines are rounded up to this, so that one wake-up serves many RPCs.
const TIMER_STEP: Duration = Duration::from_millis(1);

/// One endpoint of the protocol; see the [module](self).
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    /// Names this life of the engine to its peers.
    incarnation: u32,
    /// When this engine began to live.
    born: Time,
    next_id: u64,
    next_age: u64,
    ports: FxHashMap<u16, Port>,
    peers: PeerTable,
    rpcs: RpcTable,
    pool: Pool,
    /// Bytes of outgoing messages held.
    send_used: usize,
    granter: Granter,
    starved: StarvedQueue,
    /// RPCs whose senders are silent, longest first; some may have answered meanwhile.
    stalled: VecDeque<RpcKey>,
    /// Speed of the uplink, if it is known.
    link_mbps: Option<u32>,
    downlink: Downlink,
    rtt_bytes: RttBytes,
    pacer: Pacer,
    priorities: Priorities,
    finished: Finished,
    unproven: Unproven,
    deadlines: Deadlines,
    /// How much the silence clock is behind: what its driver was late, all in all.
    lateness: Duration,
    control: VecDeque<Control>,
    resending: VecDeque<RpcKey>,
    /// Whether repeated packets were first in the last look for something to send.
    resend_first: bool,
    sending: SendQueue,
    events: VecDeque<Pending>,
    counters: Counters,
}

#[derive(Clone, Copy, Debug)]
struct Port {
    accepts_requests: bool,
}

/// An event that waits to be polled, with the ack that is owed from then on.
#[derive(Debug)]
struct Pending {
    event: Event,
    ack: Option<(SocketAddr, Owed)>,
}

/// An ack that is owed: the RPC, and the route by which an ACK packet would go.
#[derive(Clone, Copy, Debug)]
struct Owed {
    ack: PendingAck,
    local_port: u16,
}

impl Engine {
    /// An engine without ports. `seed` makes its ids and its incarnation; draw it at random, or
    /// a restarted process may be taken for its predecessor.
    pub fn new(settings: Settings, seed: u64) -> Result<Self, ConfigError> {
        settings.check()?;
        let [first, second] = [1, 2].map(|step| scramble(seed.wrapping_add(step)));
        // What is paced leaves through a device.
        let packet = Payload::of(&settings).largest() as usize + DATA_HEADER_LEN;
        let mut engine = Self {
            incarnation: match settings.carrier {
                Carrier::Udp => (first as u32 & 0x00ff_ffff).max(1),
                Carrier::Ip => 0,
            },
            // Even, and far from both ends.
            next_id: (second >> 2 | 1 << 60) & !1,
            born: Time::ZERO,
            next_age: 0,
            ports: FxHashMap::default(),
            peers: PeerTable::new(settings.max_peers),
            rpcs: RpcTable::default(),
            pool: Pool::new(settings.pool_bytes),
            send_used: 0,
            granter: Granter::new(&settings),
            starved: StarvedQueue::new(),
            stalled: VecDeque::new(),
            link_mbps: None,
            downlink: Downlink::new(settings.timers),
            rtt_bytes: RttBytes::new(settings.unsched_bytes, settings.packet_payload),
            pacer: Pacer::new(packet, settings.max_backlog),
            priorities: Priorities::new(&settings),
            finished: Finished::new(settings.timers.remember),
            unproven: Unproven::new([3, 4].map(|step| scramble(seed.wrapping_add(step)))),
            deadlines: Deadlines::new(TIMER_STEP),
            lateness: Duration::ZERO,
            control: VecDeque::new(),
            resending: VecDeque::new(),
            resend_first: false,
            sending: SendQueue::new(settings.fifo_fraction),
            events: VecDeque::new(),
            counters: Counters::default(),
            settings,
        };
        engine.set_link(None);
        Ok(engine)
    }

    /// Says when the engine began to live, if that is not [`Time::ZERO`]: on a clock that ran
    /// before. From its age clients can tell whether a server has replaced another.
    pub fn set_born(&mut self, now: Time) {
        self.born = now;
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Opens a Homa port, or changes whether an open one accepts requests. One that does not is
    /// for clients, or finishes what it has accepted.
    pub fn open_port(&mut self, port: u16, accepts_requests: bool) {
        self.ports.insert(port, Port { accepts_requests });
    }

    /// Closes a Homa port. Its RPCs end; outgoing requests fail as closed.
    pub fn close_port(&mut self, now: Time, port: u16) {
        self.ports.remove(&port);
        let keys: Vec<RpcKey> = self
            .rpcs
            .iter()
            .filter(|(_, rpc)| rpc.local_port == port)
            .map(|(key, _)| key)
            .collect();
        for key in keys {
            self.fail(now, key, Failure::Closed);
        }
    }

    /// Starts an RPC: `message` goes from the open port `from_port` to the Homa port `to_port`
    /// of the endpoint `to`. `cookie` comes back with the event that ends it.
    pub fn send_request(
        &mut self,
        now: Time,
        from_port: u16,
        to: SocketAddr,
        to_port: u16,
        message: Message,
        cookie: u64,
    ) -> Result<RpcId, SendError> {
        let Settings {
            max_message_bytes,
            send_bytes,
            max_rpcs,
            max_rpcs_per_peer,
            ..
        } = self.settings;
        if !self.ports.contains_key(&from_port) {
            return Err(SendError::Closed { message });
        }
        if message.is_empty() || message.len() > max_message_bytes {
            return Err(SendError::BadSize {
                limit: max_message_bytes,
                message,
            });
        }
        let busy = |what, limit, message| {
            Err(SendError::Busy {
                what,
                limit,
                message,
            })
        };
        if !self.has_send_room(now, message.len()) {
            return busy("send_bytes", send_bytes, message);
        }
        if self.rpcs.len() >= max_rpcs {
            return busy("max_rpcs", max_rpcs, message);
        }
        let to = self.endpoint_of(to);
        let proven = !self.must_prove(to);
        let Some(peer) = self.peers.find_or_insert_ours(to, proven, now) else {
            return busy("max_peers", self.settings.max_peers, message);
        };
        if self.peers.get(peer).rpcs as usize >= max_rpcs_per_peer {
            return busy("max_rpcs_per_peer", max_rpcs_per_peer, message);
        }
        let id = self.next_id;
        self.next_id += 2;
        let route = NewRpc {
            id,
            peer,
            local_port: from_port,
            peer_port: to_port,
            local_ip: None,
        };
        let key = self.insert_rpc(now, route, RpcState::Calling, cookie);
        let loopback = self.rpcs.get(key).is_some_and(|rpc| rpc.loopback);
        let unscheduled = self.unsched_bytes(loopback);
        self.set_outgoing(now, key, message, unscheduled);
        Ok(RpcId { key, id })
    }

    /// Has the packets of a request leave from the address `local` of this host, for peers that
    /// take packets from no other. To be called before the first of them is polled.
    pub fn leave_from(&mut self, rpc: RpcId, local: IpAddr) {
        let key = self.rpcs.resolve(rpc);
        if let Some(found) = key.and_then(|key| self.rpcs.get_mut(key)) {
            found.local_ip = Some(local);
        }
    }

    /// Answers a request. If its RPC is gone (the client has cancelled it, say) the reply is
    /// dropped, and that is no error.
    pub fn send_reply(&mut self, now: Time, rpc: RpcId, message: Message) -> Result<(), SendError> {
        let limit = self.settings.max_message_bytes;
        if message.is_empty() || message.len() > limit {
            return Err(SendError::BadSize { limit, message });
        }
        let Some(key) = self.rpcs.resolve(rpc) else {
            return Ok(());
        };
        if !self.has_send_room(now, message.len()) {
            let limit = self.settings.send_bytes;
            return Err(SendError::Busy {
                what: "send_bytes",
                limit,
                message,
            });
        }
        let Some(found) = self.rpcs.get_mut(key) else {
            return Ok(());
        };
        let Some(state) = found.state.next(Input::Reply) else {
            return Ok(());
        };
        found.state = state;
        let asked = usize::from(found.response_unscheduled_kib) * 1024;
        let loopback = found.loopback;
        let mut unscheduled = self.unsched_bytes(loopback);
        if asked > 0 {
            unscheduled = unscheduled.min(asked.max(self.settings.packet_payload));
        }
        self.set_outgoing(now, key, message, unscheduled);
        Ok(())
    }

    /// Ends an RPC without a word to the peer, which finds out by itself. Returns whether it was
    /// live: if not, its last event has been queued already, and will still be polled.
    pub fn cancel(&mut self, now: Time, rpc: RpcId) -> bool {
        let Some(key) = self.rpcs.resolve(rpc) else {
            return false;
        };
        self.end(now, key, Remember::Yes);
        true
    }

    /// Gives back receive memory that an event has announced as charged.
    pub fn release(&mut self, bytes: usize) {
        self.pool.release(bytes);
        self.granter.touch();
    }

    /// The network or the local system says that `peer` cannot be reached. `quote` is the start of
    /// the packet that it refused, as far as it is known; it tells which request surely did not
    /// get there.
    pub fn handle_unreachable(
        &mut self,
        now: Time,
        peer: SocketAddr,
        reason: Unreachable,
        quote: &[u8],
    ) {
        let Some(found) = self.peers.find(self.endpoint_of(peer)) else {
            self.forget_bulk_port(peer);
            return;
        };
        // On IP protocol 146 a closed port is one of many behind the same address.
        let only_port = match (self.settings.carrier, reason) {
            (Carrier::Ip, Unreachable::Port) => match quote {
                [_, _, high, low, ..] => Some(u16::from_be_bytes([*high, *low])),
                _ => return,
            },
            _ => None,
        };
        let refused = match Packet::parse(self.settings.carrier, quote) {
            Ok((common, Packet::Data(data))) if !data.retransmit => Some(common.sender_id),
            _ => None,
        };
        let keys: Vec<RpcKey> = self
            .rpcs
            .iter()
            .filter(|(_, rpc)| rpc.peer == found)
            .filter(|(_, rpc)| only_port.is_none_or(|port| rpc.peer_port == port))
            .map(|(key, _)| key)
            .collect();
        for key in keys {
            let Some(rpc) = self.rpcs.get(key) else {
                continue;
            };
            let unsent = rpc
                .outgoing
                .as_ref()
                .is_none_or(|message| message.sent() == 0);
            let may_have_run = rpc.answered || !(unsent || refused == Some(rpc.id));
            self.fail(
                now,
                key,
                Failure::Unreachable {
                    reason,
                    may_have_run,
                },
            );
        }
    }

    /// Turns a request down that was handed over but surely not begun, like a closed port does.
    pub fn refuse(&mut self, now: Time, rpc: RpcId) {
        if let Some(key) = self.rpcs.resolve(rpc) {
            if self.settings.carrier == Carrier::Udp {
                self.send_control(key, &Packet::NoSuchPort, None);
            }
            self.end(now, key, Remember::Yes);
        }
    }

    /// A bulk port that refuses packets must not end the RPCs of its peer.
    fn forget_bulk_port(&mut self, addr: SocketAddr) {
        let peers: Vec<PeerKey> = self
            .rpcs
            .iter()
            .map(|(_, rpc)| rpc.peer)
            .filter(|peer| self.peers.get(*peer).bulk_addr() == addr)
            .collect();
        for peer in peers {
            self.peers.get_mut(peer).bulk_port = 0;
        }
    }

    /// The next thing the application should know.
    pub fn poll_event(&mut self, now: Time) -> Option<Event> {
        let Pending { event, ack } = self.events.pop_front()?;
        match &event {
            Event::Request { .. } => self.counters.requests_delivered += 1,
            Event::Response { .. } => self.counters.responses_delivered += 1,
            Event::Failed { .. } => {}
        }
        if let Some((peer, owed)) = ack {
            self.owe_ack(now, peer, owed);
        }
        Some(event)
    }

    /// When to call [`Engine::handle_timeout`], and why. The time may have passed already.
    pub fn poll_timeout(&self) -> Option<(Time, Wake)> {
        let [silence, reap, pace] = self.wake_times();
        let mut next = silence.map(|at| (at, Wake::Silence));
        for (at, wake) in [(reap, Wake::Reap), (pace, Wake::Pace)] {
            if let Some(at) = at
                && next.is_none_or(|(first, _)| at < first)
            {
                next = Some((at, wake));
            }
        }
        next
    }

    /// The next time of each kind, for a driver that cannot do all that there is to do.
    pub fn wakes(&self) -> impl Iterator<Item = (Time, Wake)> {
        let kinds = [Wake::Silence, Wake::Reap, Wake::Pace];
        let times = self.wake_times().into_iter().zip(kinds);
        times.filter_map(|(at, wake)| Some((at?, wake)))
    }

    fn wake_times(&self) -> [Option<Time>; 3] {
        [
            self.deadlines.first().map(|at| at + self.lateness),
            self.finished.next_expiry(),
            self.pacer.resumes_at(),
        ]
    }

    /// What tells peers apart: on IP protocol 146, the address alone.
    fn endpoint_of(&self, mut addr: SocketAddr) -> SocketAddr {
        if self.settings.carrier == Carrier::Ip {
            addr.set_port(0);
        }
        addr
    }

    /// The other side of an RPC as the application knows it: on IP protocol 146 with its Homa
    /// port.
    fn name_of(&self, rpc: &Rpc) -> SocketAddr {
        let mut addr = self.peers.get(rpc.peer).addr;
        if self.settings.carrier == Carrier::Ip {
            addr.set_port(rpc.peer_port);
        }
        addr
    }

    /// The silence clock: `now` less all the time by which the driver was late. It stops at a
    /// deadline that was not looked at in time, and not only when it is looked at: what is noted
    /// in between would lie ahead of the clock, by an hour after an hour's suspension.
    fn silence_clock(&self, now: Time) -> Time {
        let clock = now.minus(self.lateness);
        match self.deadlines.first() {
            Some(first) if clock.since(first) > silence::TIMER_SLACK => first,
            _ => clock,
        }
    }

    fn insert_rpc(&mut self, now: Time, new: NewRpc, state: RpcState, cookie: u64) -> RpcKey {
        let peer = self.peers.get_mut(new.peer);
        peer.rpcs += 1;
        peer.used = now;
        let incarnation = peer.incarnation;
        let age = self.next_age;
        self.next_age += 1;
        let clock = self.silence_clock(now);
        let addr = self.peers.get(new.peer).addr;
        self.rpcs.insert(Rpc {
            id: new.id,
            peer: new.peer,
            local_port: new.local_port,
            peer_port: new.peer_port,
            local_ip: new.local_ip,
            loopback: self.settings.loopback_for(addr.ip()).is_some(),
            state,
            started: now,
            started_clock: clock,
            age,
            cookie,
            incarnation,
            answered: false,
            asked: false,
            response_unscheduled_kib: 0,
            in_flight: 0,
            outgoing: None,
            incoming: None,
            stall_listed: false,
            starved: None,
            reserved: 0,
            send_rank: None,
            grant_rank: None,
            rank_stale: false,
            blocked: false,
            resending: false,
            silence: Silence {
                heard: clock,
                ..Silence::default()
            },
        })
    }

    fn set_outgoing(&mut self, now: Time, key: RpcKey, message: Message, unscheduled: usize) {
        self.send_used += message.len();
        let Some(peer) = self.rpcs.get(key).map(|rpc| rpc.peer) else {
            return;
        };
        let payload = self.payload_to(now, peer);
        let length = message.len();
        let unscheduled = self.admit_unscheduled(key, length.min(unscheduled), payload.unscheduled);
        if let Some(rpc) = self.rpcs.get_mut(key) {
            rpc.outgoing = Some(OutMessage::new(message, payload, unscheduled));
        }
        self.our_turn(now, key);
        self.enqueue(key);
    }

    /// Whether `len` more bytes may be held for sending. If not, replies make room whose clients
    /// have let the time of a NEED_ACK pass in silence: they are gone, or never were.
    fn has_send_room(&mut self, now: Time, len: usize) -> bool {
        let limit = self.settings.send_bytes;
        if self.send_used + len <= limit {
            return true;
        }
        let clock = self.silence_clock(now);
        let timers = self.settings.timers;
        let mut unacknowledged: Vec<(Time, RpcKey)> = self
            .rpcs
            .iter()
            .filter(|(_, rpc)| rpc.state == RpcState::Replying)
            .filter(|(_, rpc)| {
                let silence = clock.since(rpc.silence.heard);
                rpc.outgoing.as_ref().is_some_and(|message| {
                    message.all_sent() && silence >= timers.need_ack
                        || !message.ready() && silence >= timers.need_ack_max
                })
            })
            .map(|(key, rpc)| (rpc.silence.heard, key))
            .collect();
        unacknowledged.sort_unstable();
        for (_, key) in unacknowledged {
            // Some more than needed, so that this search is rare.
            if self.send_used + len <= limit - limit / 4 {
                break;
            }
            self.counters.replies_forgotten += 1;
            tracing::debug!(limit, "a reply is given up: send_bytes is reached");
            self.end(now, key, Remember::Yes);
        }
        self.send_used + len <= limit
    }

    /// Puts the RPC among those that have something to send, or takes it out.
    fn enqueue(&mut self, key: RpcKey) {
        let Some(rpc) = self.rpcs.get_mut(key) else {
            return;
        };
        let rank = rpc
            .outgoing
            .as_ref()
            .filter(|message| message.ready())
            .map(|message| Rank {
                remaining: message.remaining(),
                age: rpc.age,
                key,
            });
        if rank != rpc.send_rank {
            let length = rpc.outgoing.as_ref().map_or(0, OutMessage::length);
            self.sending.update(length, rpc.send_rank, rank);
            rpc.send_rank = rank;
        }
    }

    /// Ends an RPC; the application is told if it is a request of ours.
    fn fail(&mut self, now: Time, key: RpcKey, failure: Failure) {
        if matches!(failure, Failure::TimedOut(_)) {
            self.counters.timeouts += 1;
        }
        let Some(rpc) = self.rpcs.get(key) else {
            return;
        };
        let (id, cookie, peer) = (rpc.id, rpc.cookie, self.name_of(rpc));
        let is_client = rpc.is_client();
        self.end(now, key, Remember::No);
        tracing::debug!(id, %peer, ?failure, "RPC failed");
        if is_client {
            let event = Event::Failed {
                rpc: RpcId { key, id },
                cookie,
                peer,
                failure,
            };
            self.events.push_back(Pending { event, ack: None });
        }
    }

    /// Takes an RPC out of every table.
    fn end(&mut self, now: Time, key: RpcKey, remember: Remember) {
        let Some(mut rpc) = self.rpcs.remove(key) else {
            return;
        };
        let Self {
            rpcs, deadlines, ..
        } = self;
        deadlines.prune(|at, key| {
            rpcs.get(key)
                .is_some_and(|rpc| rpc.silence.armed == Some(at))
        });
        self.granter.remove(&mut rpc);
        if let Some(rank) = rpc.send_rank.take() {
            let length = rpc.outgoing.as_ref().map_or(0, OutMessage::length);
            self.sending.update(length, Some(rank), None);
            if self.sending.is_empty() {
                self.pacer.stop_waiting();
            }
        }
        if let Some(starved) = rpc.starved {
            self.unstarve(key, rpc.age, starved);
        }
        if rpc.reserved > 0 {
            self.pool.release(rpc.reserved as usize);
            self.granter.touch();
        }
        if let Some(message) = &rpc.incoming {
            self.pool.release(message.charged);
        }
        if let Some(message) = &rpc.outgoing {
            self.send_used -= message.length() as usize;
        }
        let peer = self.peers.get_mut(rpc.peer);
        peer.rpcs -= 1;
        peer.used = now;
        peer.unscheduled -= rpc.in_flight as usize;
        // A request that was never handed over may come again and run; one that was, may not.
        let ran = matches!(rpc.state, RpcState::InService | RpcState::Replying);
        if !rpc.is_client() && (ran || remember == Remember::Yes) {
            peer.newest_finished = peer.newest_finished.max(rpc.id);
            let hint = &mut peer.finished_at;
            self.finished
                .insert(hint, rpc.peer, rpc.peer_port, rpc.id, now);
        }
    }
}

/// Identity of an RPC that is about to be made.
#[derive(Clone, Copy, Debug)]
struct NewRpc {
    id: u64,
    peer: PeerKey,
    local_port: u16,
    peer_port: u16,
    local_ip: Option<IpAddr>,
}

/// Whether the id of a server RPC is remembered although its request was never handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remember {
    Yes,
    No,
}

/// SplitMix64's output function: spreads a seed over all bits.
fn scramble(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
