//! Nobody is sent more than three times what it sent before it has proven to receive there.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::pair::{CLIENT, CLIENT_PORT, Pair, SERVER, SERVER_PORT, packets};
use crate::engine::wire::{Carrier, Cookie, Data, Header, Kind, Packet, Resend, Route};
use crate::engine::{Datagram, DropReason, Engine, Event, ProveAddresses, Settings, Socket, Time};

const MS: Duration = Duration::from_millis(1);

fn strict() -> Settings {
    Settings {
        prove_addresses: ProveAddresses::Always,
        ..Settings::default()
    }
}

fn victim() -> SocketAddr {
    ([203, 0, 113, 5], 7000).into()
}

/// A server under attack, and the account of what its victim is sent.
struct Attack {
    server: Engine,
    now: Time,
    received: usize,
    sent: usize,
    cookies: Vec<Cookie>,
}

impl Attack {
    fn new(settings: Settings) -> Self {
        let mut server = Engine::new(settings, 1).unwrap();
        server.open_port(SERVER_PORT, true);
        Self {
            server,
            now: Time::from_nanos(1),
            received: 0,
            sent: 0,
            cookies: Vec::new(),
        }
    }

    fn packet(&mut self, id: u64, packet: &Packet, payload: &[u8]) -> Option<DropReason> {
        let route = Route {
            source_port: CLIENT_PORT,
            dest_port: SERVER_PORT,
            sender_id: id,
            incarnation: 5,
        };
        let mut data = Header::emit(&route, packet).to_vec();
        data.extend_from_slice(payload);
        self.received += data.len();
        let datagram = Datagram {
            from: victim(),
            local: None,
            tos: 0,
            socket: Socket::Main,
            data: data.into(),
        };
        let reason = self.server.handle_datagram(self.now, datagram);
        self.send();
        reason
    }

    /// Lets the server send, answering requests with `reply` bytes.
    fn send(&mut self) {
        while let Some(event) = self.server.poll_event(self.now) {
            if let Event::Request { rpc, charged, .. } = event {
                self.server.release(charged);
                let reply = Bytes::from(vec![1; 500_000]);
                self.server.send_reply(self.now, rpc, reply.into()).unwrap();
            }
        }
        while let Some(transmit) = self.server.poll_transmit(self.now, 64) {
            assert_eq!(transmit.to.ip(), victim().ip());
            for packet in packets(&transmit) {
                self.sent += packet.len();
                if let (_, Packet::Cookie(cookie)) = Packet::parse(Carrier::Udp, &packet).unwrap() {
                    self.cookies.push(cookie);
                }
            }
        }
    }

    /// Time passes, with all that the server does on its own.
    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some((at, _)) = self.server.poll_timeout()
            && at <= until
        {
            self.now = self.now.max(at);
            self.server.handle_timeout(self.now);
            self.send();
        }
        self.now = until;
    }
}

#[test]
fn a_forged_source_is_sent_three_times_what_it_sent() {
    let mut attack = Attack::new(strict());
    let resend = Packet::Resend(Resend {
        offset: 0,
        length: Resend::ALL,
        priority: 7,
    });
    for number in 0..200u64 {
        let data = Data {
            incoming: 100,
            ..Data::new(0, 100)
        };
        attack.packet(0x1000 + 2 * number, &Packet::Data(data), &[0; 100]);
        // What amplifies most: 37 bytes that ask for everything; acks and unknown RPCs as well.
        for _ in 0..3 {
            attack.packet(0x1000 + 2 * number, &resend, &[]);
            attack.packet(0x9_0000 + 2 * number, &resend, &[]);
            attack.packet(0x9_0001 + 2 * number, &Packet::NeedAck, &[]);
        }
        assert!(attack.sent <= 3 * attack.received);
        attack.wait(7 * MS);
        assert!(attack.sent <= 3 * attack.received);
    }
    attack.wait(Duration::from_secs(30));
    println!("received {} B, sent {} B", attack.received, attack.sent);
    assert!(attack.sent <= 3 * attack.received);
    assert!(attack.sent > attack.received, "nothing was sent at all");
    assert_eq!(attack.server.counters().live_rpcs, 0);
    // Asked for a proof now and then, not for each packet.
    assert!((1..=200).contains(&attack.cookies.len()));
}

#[test]
fn cookies_belong_to_an_address_and_grow_old() {
    let mut attack = Attack::new(strict());
    let data = Packet::Data(Data {
        incoming: 100,
        ..Data::new(0, 100)
    });
    attack.packet(0x1000, &data, &[0; 100]);
    let cookie = attack.cookies[0];
    let echo = |value: u64| Packet::CookieEcho(Cookie { value });
    assert_eq!(
        attack.packet(0x1000, &echo(cookie.value ^ 1), &[]),
        Some(DropReason::Cookie)
    );
    assert!(attack.sent < 1000);
    let mut other = Attack::new(Settings::default());
    assert_eq!(
        other.packet(0x1000, &echo(cookie.value), &[]),
        Some(DropReason::Cookie)
    );
    attack.wait(Duration::from_secs(121));
    assert_eq!(
        attack.packet(0x1000, &echo(cookie.value), &[]),
        Some(DropReason::Cookie)
    );
    // A fresh one opens the way.
    attack.packet(0x1002, &data, &[0; 100]);
    let fresh = attack.cookies[attack.cookies.len() - 1];
    assert_eq!(attack.packet(0x1002, &echo(fresh.value), &[]), None);
    assert!(attack.sent > 40_000, "{} B", attack.sent);
}

/// An honest client pays one round trip, once.
#[test]
fn an_honest_client_proves_itself_and_gets_everything() {
    let mut pair = Pair::new(1, strict());
    let mut took = Vec::new();
    for number in 0..2 {
        let start = pair.now;
        pair.request("give me much".into(), number);
        let until = pair.now + 1000 * MS;
        'rpc: loop {
            while let Some(event) = pair.event(SERVER) {
                let Event::Request { rpc, charged, .. } = event else {
                    panic!("{event:?}")
                };
                pair.engines[SERVER].release(charged);
                pair.reply(rpc, vec![9; 500_000].into());
            }
            if let Some(event) = pair.event(CLIENT) {
                let Event::Response {
                    message, charged, ..
                } = event
                else {
                    panic!("{event:?}")
                };
                assert_eq!(message.len(), 500_000);
                pair.engines[CLIENT].release(charged);
                break 'rpc;
            }
            assert!(pair.step(until), "stalled");
        }
        took.push(pair.now.since(start));
    }
    let echoes = pair.engines[CLIENT].counters().sent(Kind::CookieEcho);
    assert_eq!(echoes, 1);
    assert_eq!(took[0] - took[1], 2 * pair.delay, "{took:?}");
    // No timer was needed.
    assert_eq!(pair.engines[CLIENT].counters().sent(Kind::Resend), 0);
}
