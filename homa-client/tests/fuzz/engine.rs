//! One engine among hostile peers, with a driver that calls its verbs in any order at any time.
//! Nothing panics, nothing grows beyond its limit, every loop ends, and the call of a well-behaved
//! peer completes with the right bytes.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use homa_client::engine::wire::{Carrier, Header, Route};
use homa_client::engine::{
    Datagram, Engine, Event, ProveAddresses, RpcId, Settings, Socket, Time, Transmit,
};
use homa_client::{Message, Unreachable};

use crate::codec;
use crate::source::{Source, fuzz};

const CLIENT_PORT: u16 = 40_000;
const SERVER_PORT: u16 = 4000;

/// Packets that wait for the driver at most.
const MAX_CONTROL: u64 = 8192;

/// More calls of a verb than this in a row mean that a loop does not end.
const ENDLESS: usize = 50_000;

fn host_addr() -> SocketAddr {
    ([10, 0, 0, 1], SERVER_PORT).into()
}

fn friend_addr() -> SocketAddr {
    ([10, 0, 0, 2], 7000).into()
}

fn hostile_addr(number: usize) -> SocketAddr {
    ([10, 0, 9, number as u8 % 8], 7000 + (number as u16 / 8) % 2).into()
}

fn pattern(len: usize) -> Bytes {
    (0..len as u32).map(|at| (at ^ (at >> 8)) as u8).collect()
}

/// How the clock behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clock {
    /// It goes on steadily.
    Calm,
    /// It jumps ahead by up to an hour, as after a suspension.
    Jumps,
    /// It shows any time, earlier ones too.
    Wild,
}

struct Fuzz<'a> {
    source: Source<'a>,
    carrier: Carrier,
    clock: Clock,
    host: Engine,
    /// The host's time, and the latest it has seen.
    now: Time,
    latest: Time,
    friend: Engine,
    /// What the friend has asked, and how many of its calls have completed.
    asked: Bytes,
    completed: usize,
    failed: usize,
    /// What the host has sent to others than the friend, the latest few.
    seen: Vec<(SocketAddr, Bytes)>,
    /// RPCs that the host's application knows, and the memory it holds.
    rpcs: Vec<RpcId>,
    held: Vec<usize>,
}

fn any_run(mut source: Source) {
    let carrier = [Carrier::Udp, Carrier::Ip][source.below(2)];
    let clock = [Clock::Calm, Clock::Jumps, Clock::Calm, Clock::Wild][source.below(4)];
    let mut settings = Settings::for_carrier(carrier);
    settings.max_message_bytes = 100_000;
    settings.pool_bytes = 2_000_000;
    settings.send_bytes = 2_000_000;
    settings.max_rpcs = 400;
    settings.max_rpcs_per_peer = 16;
    settings.max_peers = 20;
    settings.bulk_port = Some(4001);
    if source.below(4) == 0 {
        settings.prove_addresses = ProveAddresses::Always;
    }
    if source.below(4) == 0 {
        settings.link_mbps = Some(1000);
        settings.pacing = true;
    }
    let mut host = Engine::new(settings, 1).unwrap();
    host.open_port(CLIENT_PORT, false);
    host.open_port(SERVER_PORT, true);
    let mut friend = Engine::new(Settings::for_carrier(carrier), 2).unwrap();
    friend.open_port(CLIENT_PORT, false);
    let asked = pattern(1 + source.below(100_000));
    let start = Time::ZERO + Duration::from_secs(10_000);
    let mut fuzz = Fuzz {
        source,
        carrier,
        clock,
        host,
        now: start,
        latest: start,
        friend,
        asked,
        completed: 0,
        failed: 0,
        seen: Vec::new(),
        rpcs: Vec::new(),
        held: Vec::new(),
    };
    fuzz.call();
    while !fuzz.source.is_empty() {
        fuzz.step();
        fuzz.exchange(1);
        fuzz.check();
    }
    fuzz.finish();
}

impl Fuzz<'_> {
    fn call(&mut self) {
        let message = self.asked.clone().into();
        let (now, to) = (self.latest, host_addr());
        self.friend
            .send_request(now, CLIENT_PORT, to, SERVER_PORT, message, 0)
            .unwrap();
    }

    /// One decision of the peers or of the driver.
    fn step(&mut self) {
        match self.source.below(16) {
            0..=4 => self.hear_packet(),
            5 => self.hear_bytes(),
            6 | 7 => self.hear_mutated(),
            8 => self.pass_time(),
            9 => self.host.handle_timeout(self.now),
            10 => self.drain(),
            11 => self.poll_event(),
            12 => self.start_call(),
            13 => self.act_on_rpc(),
            14 => self.act_on_peer(),
            _ => {
                if let Some(bytes) = self.held.pop() {
                    self.host.release(bytes);
                }
            }
        }
    }

    fn hear(&mut self, from: SocketAddr, bytes: Bytes) {
        let socket = if self.source.below(4) == 0 {
            Socket::Bulk
        } else {
            Socket::Main
        };
        let datagram = Datagram {
            from,
            local: None,
            tos: 0,
            socket,
            data: bytes,
        };
        self.host.handle_datagram(self.now, datagram);
    }

    /// A valid packet about some RPC.
    fn hear_packet(&mut self) {
        let packet = codec::packet(&mut self.source, self.carrier);
        let from = hostile_addr(self.source.below(16));
        let live = self.host.snapshot(self.now);
        let known = live
            .get(self.source.below(live.len()))
            .map(|rpc| rpc.id ^ 1);
        let sender_id = match (self.source.below(4), known) {
            (0..=1, Some(id)) => id,
            (3, _) => self.source.u64(),
            _ => self.source.below(64) as u64,
        };
        let mut ports = [CLIENT_PORT, SERVER_PORT];
        match self.source.below(8) {
            0 => ports[1] = self.source.u16(),
            _ if sender_id % 2 == 1 => ports.reverse(),
            _ => {}
        }
        let route = Route {
            source_port: ports[0],
            dest_port: ports[1],
            sender_id,
            incarnation: self.source.below(4) as u32,
        };
        let mut bytes = Header::emit(&route, &packet).to_vec();
        let payload = self.source.below(1500);
        bytes.resize(bytes.len() + payload, 0xaa);
        self.hear(from, bytes.into());
    }

    fn hear_bytes(&mut self) {
        let len = self.source.below(200);
        let bytes = self.source.take(len);
        let from = hostile_addr(self.source.below(16));
        self.hear(from, Bytes::copy_from_slice(bytes));
    }

    /// What the host has sent comes back, as if from the other side, with some bytes changed.
    fn hear_mutated(&mut self) {
        let at = self.source.below(self.seen.len());
        let Some((to, bytes)) = self.seen.get(at).cloned() else {
            return;
        };
        let mut bytes = bytes.to_vec();
        bytes.swap(0, 2);
        bytes.swap(1, 3);
        if self.source.below(4) > 0 {
            bytes[27] ^= 1;
        }
        for _ in 0..self.source.below(3) {
            let at = self.source.below(bytes.len().min(80));
            bytes[at] = self.source.u8();
        }
        bytes.truncate(bytes.len() - self.source.below(4));
        self.hear(to, bytes.into());
    }

    fn pass_time(&mut self) {
        let now = self.now.as_nanos();
        let hour = 3_600_000_000_000;
        let nanos = match self.clock {
            Clock::Calm => now + self.source.below(500_000) as u64,
            Clock::Jumps => now + ((self.source.u64() % hour) >> self.source.below(40)),
            Clock::Wild => self.source.u64() >> self.source.below(64),
        };
        self.now = Time::from_nanos(nanos);
        self.latest = self.latest.max(self.now);
    }

    fn poll_event(&mut self) {
        let Some(event) = self.host.poll_event(self.now) else {
            return;
        };
        match event {
            Event::Request {
                rpc,
                message,
                peer,
                charged,
                ..
            } if peer.ip() == friend_addr().ip() => {
                assert!(message == self.asked[..], "wrong bytes");
                self.host.release(charged);
                let sent = self.host.send_reply(self.now, rpc, message);
                if sent.is_err() {
                    // No room now: the friend asks again.
                    self.host.refuse(self.now, rpc);
                }
            }
            Event::Request { rpc, charged, .. } => {
                self.rpcs.push(rpc);
                self.held.push(charged);
            }
            Event::Response { charged, .. } => self.held.push(charged),
            Event::Failed { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn message(&mut self) -> Message {
        pattern(self.source.below(100_100)).into()
    }

    fn start_call(&mut self) {
        let message = self.message();
        let to = hostile_addr(self.source.below(16));
        let sent = self
            .host
            .send_request(self.now, CLIENT_PORT, to, SERVER_PORT, message, 7);
        self.rpcs.extend(sent.ok());
    }

    fn act_on_rpc(&mut self) {
        if self.rpcs.is_empty() {
            return;
        }
        let rpc = self.rpcs.swap_remove(self.source.below(self.rpcs.len()));
        match self.source.below(4) {
            0 | 1 => {
                let message = self.message();
                let _ = self.host.send_reply(self.now, rpc, message);
            }
            2 => {
                self.host.cancel(self.now, rpc);
            }
            _ => self.host.refuse(self.now, rpc),
        }
    }

    fn act_on_peer(&mut self) {
        let peer = hostile_addr(self.source.below(16));
        match self.source.below(6) {
            0 => self
                .host
                .set_path_mtu(self.now, peer, self.source.u32() as usize),
            1 => self.host.count_truncated(),
            2 => self.host.open_port(4002, self.source.below(2) == 0),
            3 => self.host.close_port(self.now, 4002),
            4 => self
                .host
                .set_link(Some(self.source.u32().clamp(1, 400_000))),
            _ => {
                let reasons = [Unreachable::Port, Unreachable::Protocol, Unreachable::Host];
                let reason = reasons[self.source.below(3)];
                let quote = self.source.take(40);
                self.host.handle_unreachable(self.now, peer, reason, quote);
            }
        }
    }

    /// Lets the host send all that it wants to; what is for the friend arrives.
    fn drain(&mut self) {
        for count in 0.. {
            assert!(count < ENDLESS, "poll_transmit does not end");
            let Some(transmit) = self.host.poll_transmit(self.now, 64) else {
                break;
            };
            for data in packets(&transmit) {
                if transmit.to.ip() == friend_addr().ip() {
                    let datagram = arrives(host_addr(), data);
                    self.friend.handle_datagram(self.latest, datagram);
                } else {
                    self.seen.push((transmit.to, data));
                }
            }
        }
        if self.seen.len() > 32 {
            self.seen.drain(..self.seen.len() - 32);
        }
    }

    /// Up to `most` batches of the friend arrive; it gets its answers as the host sends them.
    fn exchange(&mut self, most: usize) {
        for _ in 0..most {
            let Some(transmit) = self.friend.poll_transmit(self.latest, 4) else {
                break;
            };
            for data in packets(&transmit) {
                let datagram = arrives(friend_addr(), data);
                self.host.handle_datagram(self.now, datagram);
            }
        }
        while let Some(event) = self.friend.poll_event(self.latest) {
            match event {
                Event::Response {
                    message, charged, ..
                } => {
                    assert!(message == self.asked[..], "wrong bytes");
                    self.friend.release(charged);
                    self.completed += 1;
                }
                Event::Failed { .. } => self.failed += 1,
                other => panic!("{other:?}"),
            }
        }
    }

    fn check(&self) {
        let counters = self.host.counters();
        let settings = self.host.settings();
        assert!(counters.pool_used <= settings.pool_bytes as u64);
        assert!(counters.send_used <= settings.send_bytes as u64);
        assert!(counters.live_rpcs <= settings.max_rpcs as u64);
        assert!(counters.live_peers <= settings.max_peers as u64);
        assert!(counters.queued_control <= MAX_CONTROL);
        // Those that have ended since the last poll may still be in there.
        assert!(counters.queued_sending <= 2 * settings.max_rpcs as u64);
        assert!(counters.queued_granting <= counters.live_rpcs);
        assert!(counters.queued_starved <= counters.live_rpcs);
        assert_eq!(
            self.host.snapshot(self.now).len() as u64,
            counters.live_rpcs
        );
    }

    /// The hostile peers are done: the friend's call completes, and all else ends by itself.
    fn finish(mut self) {
        self.now = self.latest;
        if self.clock == Clock::Wild {
            // After a time that no clock shows there is nothing left to wait for.
            for _ in 0..3 {
                self.host.handle_timeout(self.now);
                self.drain();
            }
            return self.check();
        }
        let until = self.latest + Duration::from_secs(60);
        let before = self.completed;
        if self.clock == Clock::Jumps && before == 0 {
            // Its first call may have timed out.
            self.call();
        }
        for count in 0.. {
            assert!(count < ENDLESS, "time does not go on");
            self.exchange(usize::MAX);
            self.drain();
            self.exchange(usize::MAX);
            self.drain();
            for _ in 0..self.host.counters().live_rpcs + 10 {
                self.poll_event();
            }
            for bytes in std::mem::take(&mut self.held) {
                self.host.release(bytes);
            }
            for rpc in std::mem::take(&mut self.rpcs) {
                self.host.cancel(self.now, rpc);
            }
            self.exchange(usize::MAX);
            if self.completed > 0 {
                break;
            }
            let next = [&self.host, &self.friend].map(|engine| engine.poll_timeout());
            let next = next.into_iter().flatten().map(|(at, _)| at).min();
            // Queues may have more for the same moment.
            let next = next.map_or(self.now, |at| at.max(self.now)) + Duration::from_micros(10);
            assert!(next <= until, "the friend's call does not complete");
            (self.now, self.latest) = (next, next);
            for engine in [&mut self.host, &mut self.friend] {
                engine.handle_timeout(next);
            }
            self.check();
        }
        if self.clock == Clock::Calm {
            assert_eq!((self.completed, self.failed), (1, 0));
        }
        // Nobody goes on with anything: every table empties in the end.
        let end = self.now + Duration::from_secs(60);
        for count in 0.. {
            assert!(count < ENDLESS, "time does not go on");
            self.drain();
            self.exchange(usize::MAX);
            while let Some(event) = self.host.poll_event(self.now) {
                if let Event::Request { rpc, .. } = event {
                    self.host.cancel(self.now, rpc);
                }
            }
            let Some((at, _)) = self.host.poll_timeout().filter(|(at, _)| *at < end) else {
                break;
            };
            self.now = self.now.max(at);
            self.latest = self.now;
            self.host.handle_timeout(self.now);
        }
        self.check();
        let counters = self.host.counters();
        assert_eq!(counters.live_rpcs, 0, "{:?}", self.host.snapshot(self.now));
    }
}

fn arrives(from: SocketAddr, data: Bytes) -> Datagram {
    Datagram {
        from,
        local: None,
        tos: 0,
        socket: Socket::Main,
        data,
    }
}

fn packets(transmit: &Transmit) -> impl Iterator<Item = Bytes> {
    transmit
        .segments
        .iter()
        .map(|segment| segment.slices().collect::<Vec<_>>().concat().into())
}

#[test]
fn an_engine_among_hostile_peers_stays_within_bounds_and_serves_its_friend() {
    fuzz!(any_run, 400, 4000);
}
