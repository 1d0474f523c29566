//! [`Net`]: a client's and a server's engine with a seeded, faulty network between them.

use std::collections::BTreeMap;
use std::time::Duration;

use homa_client::engine::wire::{Carrier, Packet};
use homa_client::engine::{Datagram, Event, RpcId, Settings, Socket, Time};

use crate::fixture::{Host, client_addr, message, packets, server_addr};

pub(crate) const CLIENT: usize = 0;
pub(crate) const SERVER: usize = 1;

/// What the network does to packets, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) loss: u64,
    pub(crate) double: u64,
    pub(crate) reorder: u64,
}

/// A small seeded generator (xorshift64*), so that every run of a test is the same.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Evenly from 0 to `limit` − 1.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % limit.max(1)
    }

    /// From 1 to `limit`, log-uniform: as many of 1 to 10 as of 10 to 100.
    pub(crate) fn log_uniform(&mut self, limit: u32) -> u32 {
        let unit = self.below(1 << 40) as f64 / (1u64 << 40) as f64;
        ((f64::from(limit) + 1.0).powf(unit) as u32).clamp(1, limit)
    }
}

pub(crate) struct Net {
    pub(crate) hosts: [Host; 2],
    pub(crate) now: Time,
    pub(crate) faults: Faults,
    pub(crate) random: Random,
    /// Decides what is lost besides, by the side that sends it.
    pub(crate) loses: fn(usize, &Packet) -> bool,
    wire: BTreeMap<(Time, u64), (usize, Datagram)>,
    sent: u64,
}

impl Net {
    pub(crate) fn new(carrier: Carrier, seed: u64) -> Self {
        Self::with(carrier, seed, |_| {})
    }

    pub(crate) fn with(carrier: Carrier, seed: u64, change: fn(&mut Settings)) -> Self {
        eprintln!("seed: {seed}");
        Self {
            hosts: [CLIENT, SERVER].map(|_| Host::with(carrier, change)),
            now: Time::from_nanos(1),
            faults: Faults::default(),
            random: Random::new(seed),
            loses: |_, _| false,
            wire: BTreeMap::new(),
            sent: 0,
        }
    }

    pub(crate) fn call(&mut self, len: u32) -> RpcId {
        self.hosts[CLIENT].now = self.now;
        self.hosts[CLIENT].start_call(len)
    }

    pub(crate) fn reply(&mut self, rpc: RpcId, len: u32) {
        let engine = &mut self.hosts[SERVER].engine;
        engine.send_reply(self.now, rpc, message(len)).unwrap();
    }

    pub(crate) fn event(&mut self, side: usize) -> Option<Event> {
        self.hosts[side].engine.poll_event(self.now)
    }

    fn flush(&mut self) {
        for side in [CLIENT, SERVER] {
            while let Some(transmit) = self.hosts[side].engine.poll_transmit(self.now, 64) {
                for data in packets(&transmit) {
                    let (_, packet) = Packet::parse(self.hosts[side].carrier, &data).unwrap();
                    if self.random.below(100) < self.faults.loss || (self.loses)(side, &packet) {
                        continue;
                    }
                    let datagram = Datagram {
                        from: [client_addr(), server_addr()][side],
                        local: None,
                        tos: transmit.tos,
                        socket: Socket::Main,
                        data,
                    };
                    let copies = 1 + u64::from(self.random.below(100) < self.faults.double);
                    for _ in 0..copies {
                        let mut at = self.now + Duration::from_micros(10);
                        if self.random.below(100) < self.faults.reorder {
                            // Far enough to be overtaken, by a retransmission too.
                            at += Duration::from_micros(self.random.below(15_000));
                        }
                        self.sent += 1;
                        self.wire
                            .insert((at, self.sent), (1 - side, datagram.clone()));
                    }
                }
            }
        }
    }

    /// Moves the clock to whatever happens next, at most to `until`, and lets it happen. Returns
    /// false if nothing happens before then.
    pub(crate) fn step(&mut self, until: Time) -> bool {
        self.flush();
        let arrival = self.wire.keys().next().map(|(at, _)| *at);
        let timers = self.hosts.each_ref().map(|host| {
            let timeout = host.engine.poll_timeout();
            timeout.map(|(at, _)| at)
        });
        let next = [arrival, timers[0], timers[1]].into_iter().flatten().min();
        let next = next.filter(|at| *at <= until);
        self.now = self.now.max(next.unwrap_or(until));
        while let Some(entry) = self.wire.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (side, datagram) = entry.remove();
            self.hosts[side].engine.handle_datagram(self.now, datagram);
        }
        for host in &mut self.hosts {
            host.now = self.now;
            if let Some((at, _)) = host.engine.poll_timeout()
                && at <= self.now
            {
                host.engine.handle_timeout(self.now);
            }
        }
        next.is_some()
    }

    /// Runs `count` calls of random sizes up to `most`, `window` at a time, answered with as many
    /// bytes as they have. Checks every byte, and that each is handed over once.
    pub(crate) fn run_calls(&mut self, count: usize, window: usize, most: u32) {
        let mut live = std::collections::HashMap::new();
        let mut ran = std::collections::HashSet::new();
        let (mut started, mut done) = (0, 0);
        let limit = self.now + Duration::from_secs(600);
        while done < count {
            while started < count && live.len() < window {
                let len = self.random.log_uniform(most);
                live.insert(self.call(len), len);
                started += 1;
            }
            while let Some(event) = self.event(SERVER) {
                let Event::Request {
                    rpc,
                    message,
                    charged,
                    ..
                } = event
                else {
                    panic!("{event:?}");
                };
                assert!(ran.insert(rpc.id()), "run twice");
                let len = message.len() as u32;
                crate::fixture::check_message(message, len);
                self.hosts[SERVER].engine.release(charged);
                self.reply(rpc, len);
            }
            while let Some(event) = self.event(CLIENT) {
                let Event::Response {
                    rpc,
                    message,
                    charged,
                    ..
                } = event
                else {
                    panic!("{event:?}");
                };
                crate::fixture::check_message(message, live.remove(&rpc).unwrap());
                self.hosts[CLIENT].engine.release(charged);
                done += 1;
            }
            self.step(limit);
            assert!(self.now < limit, "{done} of {count} calls are done");
        }
        assert_eq!(ran.len(), count);
    }
}
