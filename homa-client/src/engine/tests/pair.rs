//! [`Pair`]: a client and a server engine, a fake clock and a faulty network.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::Random;
use crate::Message;
use crate::engine::wire::Kind;
use crate::engine::{Datagram, Engine, Event, RpcId, Segment, Settings, Socket, Time, Transmit};

pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;

/// The client's Homa port.
pub(super) const CLIENT_PORT: u16 = 40_000;
/// The server's, which is also its UDP port.
pub(super) const SERVER_PORT: u16 = 4000;

const MAIN_PORTS: [u16; 2] = [7000, SERVER_PORT];
const BULK_PORTS: [u16; 2] = [7001, 4001];

/// What the network does to packets, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    pub(super) loss: u64,
    pub(super) double: u64,
    pub(super) reorder: u64,
}

/// What has happened to the packets of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fate {
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) doubled: u64,
    pub(super) reordered: u64,
}

pub(super) struct Pair {
    pub(super) now: Time,
    pub(super) engines: [Engine; 2],
    pub(super) faults: Faults,
    pub(super) fates: [Fate; Kind::ALL.len()],
    pub(super) random: Random,
    /// Homa packets longer than this vanish.
    pub(super) longest: usize,
    /// The longest that has got through.
    pub(super) longest_seen: usize,
    /// One-way delay of the network.
    pub(super) delay: Duration,
    /// Packets under way, by arrival time and order of sending.
    wire: BTreeMap<(Time, u64), (usize, Datagram<Content>)>,
    sent: u64,
}

/// A packet in the network. The client's are joined as UDP would do it, and the server's go as its
/// engine gave them, so that both ways in are used.
#[derive(Clone)]
enum Content {
    Joined(Bytes),
    Apart(Segment),
}

impl Content {
    fn len(&self) -> usize {
        match self {
            Self::Joined(bytes) => bytes.len(),
            Self::Apart(segment) => segment.len(),
        }
    }

    fn header(&self) -> &[u8] {
        match self {
            Self::Joined(bytes) => bytes,
            Self::Apart(segment) => &segment.header,
        }
    }
}

impl Pair {
    pub(super) fn new(seed: u64, settings: Settings) -> Self {
        let engines = [CLIENT, SERVER].map(|side| {
            let settings = Settings {
                bulk_port: Some(BULK_PORTS[side]),
                ..settings.clone()
            };
            Engine::new(settings, seed * 2 + side as u64).unwrap()
        });
        let mut pair = Self {
            now: Time::from_nanos(1),
            engines,
            faults: Faults::default(),
            fates: Default::default(),
            random: Random::new(seed),
            longest: usize::MAX,
            longest_seen: 0,
            delay: Duration::from_micros(10),
            wire: BTreeMap::new(),
            sent: 0,
        };
        pair.engines[CLIENT].open_port(CLIENT_PORT, false);
        pair.engines[SERVER].open_port(SERVER_PORT, true);
        pair
    }

    pub(super) fn addr(side: usize) -> SocketAddr {
        ([10, 0, 0, 1 + side as u8], MAIN_PORTS[side]).into()
    }

    pub(super) fn request(&mut self, message: Message, cookie: u64) -> RpcId {
        self.engines[CLIENT]
            .send_request(
                self.now,
                CLIENT_PORT,
                Self::addr(SERVER),
                SERVER_PORT,
                message,
                cookie,
            )
            .unwrap()
    }

    /// Puts one packet from `from` on the wire, through its faults.
    pub(super) fn send(&mut self, from: usize, to: SocketAddr, tos: u8, data: Bytes) {
        self.carry(from, to, tos, Content::Joined(data));
    }

    fn carry(&mut self, from: usize, to: SocketAddr, tos: u8, data: Content) {
        let side = if to.ip() == Self::addr(CLIENT).ip() {
            CLIENT
        } else {
            SERVER
        };
        assert_ne!(side, from);
        let socket = match to.port() {
            port if port == MAIN_PORTS[side] => Socket::Main,
            port if port == BULK_PORTS[side] => Socket::Bulk,
            port => panic!("nobody has port {port}"),
        };
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| *kind as u8 == data.header()[11])
            .unwrap();
        let fate = &mut self.fates[kind.index()];
        let datagram = Datagram {
            from: Self::addr(from),
            local: None,
            tos,
            socket,
            data,
        };
        if self.random.percent(self.faults.loss) || datagram.data.len() > self.longest {
            fate.lost += 1;
            return;
        }
        self.longest_seen = self.longest_seen.max(datagram.data.len());
        fate.delivered += 1;
        let mut copies = 1;
        if self.random.percent(self.faults.double) {
            fate.doubled += 1;
            copies = 2;
        }
        for _ in 0..copies {
            let mut at = self.now + self.delay;
            if self.random.percent(self.faults.reorder) {
                fate.reordered += 1;
                // Far enough to be overtaken, by a retransmission too.
                at += Duration::from_micros(1 + self.random.below(15_000));
            }
            self.sent += 1;
            self.wire.insert((at, self.sent), (side, datagram.clone()));
        }
    }

    /// Sends all that the engines want to send now.
    pub(super) fn flush(&mut self) {
        for side in [CLIENT, SERVER] {
            while let Some(transmit) = self.engines[side].poll_transmit(self.now, 64) {
                let (to, tos) = (transmit.to, transmit.tos);
                if side == CLIENT {
                    for packet in packets(&transmit) {
                        self.send(side, to, tos, packet);
                    }
                } else {
                    for segment in transmit.segments {
                        self.carry(side, to, tos, Content::Apart(segment));
                    }
                }
            }
        }
    }

    /// Moves the clock to whatever happens next, at most to `until`, and lets it happen. Returns
    /// false if nothing happens before then.
    pub(super) fn step(&mut self, until: Time) -> bool {
        self.flush();
        self.step_quietly(until)
    }

    /// The same without sending first.
    pub(super) fn step_quietly(&mut self, until: Time) -> bool {
        let arrival = self.wire.keys().next().map(|(at, _)| *at);
        let timeout = self
            .engines
            .iter()
            .filter_map(|e| e.poll_timeout())
            .map(|(at, _)| at)
            .min();
        let next = [arrival, timeout]
            .into_iter()
            .flatten()
            .min()
            .filter(|at| *at <= until);
        self.now = self.now.max(next.unwrap_or(until));
        if next.is_none() {
            return false;
        }
        while let Some(entry) = self.wire.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (side, datagram) = entry.remove();
            self.hand_over(side, datagram);
        }
        for engine in &mut self.engines {
            if engine.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
                engine.handle_timeout(self.now);
            }
        }
        true
    }

    fn hand_over(&mut self, side: usize, datagram: Datagram<Content>) {
        let Datagram {
            from,
            local,
            tos,
            socket,
            data,
        } = datagram;
        match data {
            Content::Joined(data) => self.engines[side].handle_datagram(
                self.now,
                Datagram {
                    from,
                    local,
                    tos,
                    socket,
                    data,
                },
            ),
            Content::Apart(data) => self.engines[side].handle_segment(
                self.now,
                Datagram {
                    from,
                    local,
                    tos,
                    socket,
                    data,
                },
            ),
        };
    }

    pub(super) fn event(&mut self, side: usize) -> Option<Event> {
        self.engines[side].poll_event(self.now)
    }

    pub(super) fn reply(&mut self, rpc: RpcId, message: Message) {
        self.engines[SERVER]
            .send_reply(self.now, rpc, message)
            .unwrap();
    }
}

/// The packets of one transmit, as they would be on the wire.
pub(super) fn packets(transmit: &Transmit) -> Vec<Bytes> {
    let longest = transmit.segments[0].len();
    for (index, segment) in transmit.segments.iter().enumerate() {
        let last = index + 1 == transmit.segments.len();
        assert!(segment.len() == longest || last && segment.len() < longest);
    }
    transmit
        .segments
        .iter()
        .map(|segment| segment.slices().collect::<Vec<_>>().concat().into())
        .collect()
}
