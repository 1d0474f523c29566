//! Who is granted how much, at which level, and what senders make of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::pair::{CLIENT, CLIENT_PORT, Pair, SERVER, SERVER_PORT, packets};
use crate::engine::wire::{Carrier, Data, Grant, Header, Kind, Packet, Route};
use crate::engine::{Datagram, Engine, Event, Loopback, Settings, Socket, Time, UnschedCutoffs};

const MS: Duration = Duration::from_millis(1);
const UNSCHEDULED: u32 = 10_000;
const MAX_INCOMING: usize = 120_000;

/// A GRANT as it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Granted {
    name: Name,
    offset: u32,
    level: u8,
}

/// A message: the number of its sender, and its own.
type Name = (u8, u64);

/// What a sender knows of a message.
#[derive(Debug)]
struct Sender {
    length: u32,
    granted: u32,
    sent: u32,
}

/// One engine that receives from many senders, of which it sees only packets.
struct Receiver {
    now: Time,
    engine: Engine,
    senders: BTreeMap<Name, Sender>,
    /// What the addresses of the senders begin with.
    network: [u8; 3],
}

impl Receiver {
    fn new(settings: Settings) -> Self {
        let mut engine = Engine::new(settings, 1).unwrap();
        engine.open_port(SERVER_PORT, true);
        Self {
            now: Time::from_nanos(1),
            engine,
            senders: BTreeMap::new(),
            network: [10, 0, 1],
        }
    }

    fn with_max_incoming() -> Settings {
        Settings {
            max_incoming: MAX_INCOMING,
            fifo_fraction: 0,
            min_grant: Some(1),
            ..Settings::default()
        }
    }

    /// A new message, of which the unscheduled part arrives at once.
    fn start(&mut self, name: Name, length: u32) {
        let sender = Sender {
            length,
            granted: UNSCHEDULED.min(length),
            sent: 0,
        };
        assert!(self.senders.insert(name, sender).is_none());
        self.deliver(name, UNSCHEDULED);
    }

    /// Up to `most` bytes that were granted arrive. Returns how many.
    fn deliver(&mut self, name: Name, most: u32) -> u32 {
        let sender = self.senders.get_mut(&name).unwrap();
        let bytes = (sender.granted - sender.sent).min(most);
        if bytes == 0 {
            return 0;
        }
        let data = Data {
            incoming: UNSCHEDULED.min(sender.length),
            cutoff_version: 1,
            ..Data::new(sender.sent, sender.length)
        };
        sender.sent += bytes;
        let route = Route {
            source_port: CLIENT_PORT,
            dest_port: SERVER_PORT,
            sender_id: 2 * name.1,
            incarnation: 1,
        };
        let [a, b, c] = self.network;
        let mut packet = BytesMut::from(&Header::emit(&route, &Packet::Data(data))[..]);
        packet.extend_from_slice(&vec![7; bytes as usize]);
        let datagram = Datagram {
            from: SocketAddr::from(([a, b, c, name.0], 7000)),
            local: None,
            tos: 0,
            socket: Socket::Main,
            data: packet.freeze(),
        };
        let dropped = self.engine.handle_datagram(self.now, datagram);
        assert_eq!(dropped, None, "{name:?}");
        while let Some(event) = self.engine.poll_event(self.now) {
            let Event::Request { rpc, charged, .. } = event else {
                panic!("{event:?}")
            };
            self.engine.release(charged);
            self.engine.cancel(self.now, rpc);
            self.senders.remove(&(name.0, rpc.id() / 2)).unwrap();
        }
        bytes
    }

    /// The GRANTs that leave now, in that order.
    fn grants(&mut self) -> Vec<Granted> {
        let mut grants = Vec::new();
        while let Some(transmit) = self.engine.poll_transmit(self.now, 64) {
            let SocketAddr::V4(to) = transmit.to else {
                panic!("{transmit:?}")
            };
            for packet in packets(&transmit) {
                let (common, packet) = Packet::parse(Carrier::Udp, &packet).unwrap();
                let Packet::Grant(grant) = packet else {
                    panic!("{packet:?}")
                };
                let name = (to.ip().octets()[3], common.sender_id / 2);
                let sender = self.senders.get_mut(&name).unwrap();
                sender.granted = sender.granted.max(grant.offset);
                grants.push(Granted {
                    name,
                    offset: grant.offset,
                    level: grant.priority,
                });
            }
        }
        grants
    }

    fn outstanding(&self) -> usize {
        let bytes = |sender: &Sender| (sender.granted - sender.sent) as usize;
        self.senders.values().map(bytes).sum()
    }
}

fn names(grants: &[Granted]) -> Vec<Name> {
    grants.iter().map(|grant| grant.name).collect()
}

#[test]
fn thousands_of_messages_of_one_peer_do_not_shut_the_others_out() {
    let mut receiver = Receiver::new(Receiver::with_max_incoming());
    for message in 1..=2000 {
        receiver.start((1, message), 20_000);
    }
    receiver.grants();
    receiver.start((2, 1), 900_000);
    receiver.start((3, 1), 800_000);
    for message in 1..=8 {
        receiver.deliver((1, message), 10_000);
    }
    let active = names(&receiver.grants());
    assert_eq!(active.len(), 8);
    assert!(
        active.contains(&(2, 1)) && active.contains(&(3, 1)),
        "{active:?}"
    );
}

#[test]
fn the_shortest_message_of_a_single_peer_gets_half() {
    let mut receiver = Receiver::new(Receiver::with_max_incoming());
    let offsets = |receiver: &mut Receiver| -> Vec<(Name, u32)> {
        let grants = receiver.grants();
        grants
            .iter()
            .map(|grant| (grant.name, grant.offset))
            .collect()
    };
    for message in 1..=4 {
        receiver.start((1, message), 500_000 - 1000 * message as u32);
    }
    assert_eq!(offsets(&mut receiver), [((1, 4), 70_000), ((1, 3), 70_000)]);
    // With another peer each of the five has a sixth, as long as there is something left.
    receiver.start((2, 1), 400_000);
    receiver.deliver((1, 4), 60_000);
    assert_eq!(
        offsets(&mut receiver),
        [((2, 1), 30_000), ((1, 4), 90_000), ((1, 2), 30_000)]
    );
}

/// Its packet is longer than all that may be granted here: the next grant begins where it ended.
#[test]
fn a_sender_that_rounds_up_beyond_the_limit_is_granted_more() {
    let mut receiver = Receiver::new(Settings {
        max_incoming: 30_000,
        ..Receiver::with_max_incoming()
    });
    receiver.start((1, 1), 200_000);
    assert_eq!(receiver.grants()[0].offset, 25_000);
    receiver.senders.get_mut(&(1, 1)).unwrap().granted = 70_000;
    receiver.deliver((1, 1), 60_000);
    assert_eq!(receiver.grants()[0].offset, 85_000);
}

#[test]
fn what_comes_on_loopback_has_limits_of_its_own() {
    let mut receiver = Receiver::new(Settings {
        loopback: Some(Loopback {
            packet_payload: 20_000,
            max_incoming: 400_000,
            unsched_bytes: None,
        }),
        ..Receiver::with_max_incoming()
    });
    receiver.network = [127, 0, 0];
    receiver.start((1, 1), 900_000);
    receiver.start((1, 2), 800_000);
    let grants = receiver.grants();
    assert_eq!(names(&grants), [(1, 2), (1, 1)]);
    assert!(grants.iter().all(|grant| grant.offset == 210_000));
    // It leaves the network's share alone.
    receiver.network = [10, 0, 1];
    receiver.start((2, 1), 900_000);
    let grants = receiver.grants();
    assert_eq!((grants[0].name, grants[0].offset), ((2, 1), 70_000));
    assert_eq!(grants.len(), 1);
}

/// Thirty peers send one message after the other that is shorter than the oldest. Returns the
/// latter's share of what was granted, in per mille, and the most that was outstanding.
fn share_of_the_oldest(settings: Settings, answers: bool) -> (u64, usize) {
    const OLDEST: Name = (100, 1);
    let mut receiver = Receiver::new(settings);
    receiver.start(OLDEST, 1_000_000);
    let (mut of_oldest, mut total, mut most) = (0, 0, 0);
    let mut next = 1;
    for peer in 1..=30 {
        receiver.start((peer, next), 100_000);
        next += 1;
    }
    while total < 12_000_000 {
        let before: BTreeMap<Name, u32> = receiver
            .senders
            .iter()
            .map(|(name, sender)| (*name, sender.granted))
            .collect();
        let grants = receiver.grants();
        most = most.max(receiver.outstanding());
        let mut granted = before;
        for grant in grants {
            let more = u64::from(grant.offset - granted[&grant.name]);
            granted.insert(grant.name, grant.offset);
            total += more;
            if grant.name == OLDEST {
                // Above all other scheduled packets, below all unscheduled ones.
                assert_eq!(grant.level, 3);
                of_oldest += more;
            }
        }
        let mut arrived = 0;
        for name in granted
            .into_keys()
            .filter(|name| answers || *name != OLDEST)
        {
            arrived += receiver.deliver(name, 1416);
            if name != OLDEST && !receiver.senders.contains_key(&name) {
                receiver.start((name.0, next), 100_000);
                next += 1;
            }
        }
        assert!(arrived > 0, "stalled after {total}");
    }
    (of_oldest * 1000 / total, most)
}

#[test]
fn the_oldest_message_gets_its_share() {
    for (fraction, expect) in [(50, 45..=55), (0, 0..=0), (20, 17..=23)] {
        let settings = Settings {
            max_incoming: MAX_INCOMING,
            fifo_fraction: fraction,
            ..Settings::default()
        };
        let (share, most) = share_of_the_oldest(settings, true);
        println!(
            "fifo_fraction {fraction}: {share} of 1,000 granted bytes, at most {most} outstanding"
        );
        assert!(expect.contains(&share), "{share}");
        assert!(most <= MAX_INCOMING + MAX_INCOMING / 8, "{most}");
    }
}

/// One whose sender is gone holds a bounded part, and the others go on.
#[test]
fn an_oldest_message_that_does_not_answer_is_passed_over() {
    let settings = Settings {
        max_incoming: MAX_INCOMING,
        ..Settings::default()
    };
    let (share, most) = share_of_the_oldest(settings, false);
    let window = MAX_INCOMING / 9;
    let bytes = share * 12_000;
    assert!(bytes <= (window + 2 * (MAX_INCOMING / 8)) as u64, "{bytes}");
    assert!(most <= MAX_INCOMING + MAX_INCOMING / 8, "{most}");
}

#[test]
fn the_shortest_needs_no_share_as_the_oldest() {
    let mut receiver = Receiver::new(Settings {
        max_incoming: MAX_INCOMING,
        ..Settings::default()
    });
    receiver.start((1, 1), 900_000);
    while !receiver.senders.is_empty() {
        for grant in receiver.grants() {
            assert_eq!(grant.level, 0);
        }
        assert!(receiver.deliver((1, 1), 1416) > 0);
    }
}

/// Waiting for bytes that were granted is not withholding; having granted all is not, either.
#[test]
fn it_withholds_grants_from_those_beyond_the_active_ones() {
    let mut receiver = Receiver::new(Settings {
        max_overcommit: 2,
        grant_window: Some(10_000),
        ..Receiver::with_max_incoming()
    });
    let mut withholds = |start: Option<Name>, deliver: Option<Name>| {
        if let Some(name) = start {
            receiver.start(name, 30_000);
        }
        if let Some(name) = deliver {
            receiver.deliver(name, 10_000);
        }
        let grants = receiver.grants();
        (grants.len(), receiver.engine.withholds_grants())
    };
    assert_eq!(withholds(None, None), (0, false));
    assert_eq!(withholds(Some((1, 1)), None), (1, false));
    assert_eq!(withholds(Some((2, 1)), None), (1, false));
    assert_eq!(withholds(Some((3, 1)), None), (0, true));
    // The last grant of the first makes room for the third at once.
    assert_eq!(withholds(None, Some((1, 1))), (2, false));
    assert_eq!(withholds(None, Some((2, 1))), (1, false));
}

#[test]
fn it_withholds_grants_for_want_of_room() {
    let mut receiver = Receiver::new(Settings {
        max_incoming: 15_000,
        grant_window: Some(10_000),
        ..Receiver::with_max_incoming()
    });
    receiver.start((1, 1), 30_000);
    receiver.grants();
    assert!(!receiver.engine.withholds_grants());
    receiver.start((2, 1), 40_000);
    assert_eq!(receiver.grants()[0].offset, 15_000);
    assert!(receiver.engine.withholds_grants());
    receiver.deliver((1, 1), 10_000);
    receiver.grants();
    receiver.deliver((1, 1), 10_000);
    assert_eq!(receiver.grants()[0].name, (2, 1));
    assert!(!receiver.engine.withholds_grants());
}

#[test]
fn windows_and_steps_can_be_set() {
    let first_grants = |grant_window, min_grant| {
        let mut receiver = Receiver::new(Settings {
            grant_window,
            min_grant,
            ..Receiver::with_max_incoming()
        });
        receiver.start((1, 1), 100_000);
        let mut offsets = vec![receiver.grants()[0].offset];
        while offsets.len() < 4 {
            receiver.deliver((1, 1), 1000);
            offsets.extend(receiver.grants().iter().map(|grant| grant.offset));
        }
        offsets
    };
    assert_eq!(
        first_grants(None, Some(1)),
        [70_000, 71_000, 72_000, 73_000]
    );
    assert_eq!(
        first_grants(None, Some(10_000)),
        [70_000, 80_000, 90_000, 100_000]
    );
    assert_eq!(
        first_grants(Some(20_000), Some(1)),
        [30_000, 31_000, 32_000, 33_000]
    );
    // Half a window by default; and a step longer than the window waits for all of it.
    assert_eq!(
        first_grants(Some(20_000), None),
        [30_000, 40_000, 50_000, 60_000]
    );
    assert_eq!(
        first_grants(Some(20_000), Some(90_000)),
        [30_000, 50_000, 70_000, 90_000]
    );
}

/// The TOS of each DATA packet that the client wants to send now, with its offset.
fn client_data(pair: &mut Pair) -> Vec<(u32, u8)> {
    let mut sent = Vec::new();
    while let Some(transmit) = pair.engines[CLIENT].poll_transmit(pair.now, 64) {
        for packet in packets(&transmit) {
            if let (_, Packet::Data(data)) = Packet::parse(Carrier::Udp, &packet).unwrap() {
                sent.push((data.offset(), transmit.tos >> 5));
            }
        }
    }
    sent
}

/// Levels of a 100,000 B request, by offset, that is granted whole at level 1. Its receiver has
/// announced the cutoffs of HomaModule.
fn levels_of_a_request(settings: Settings) -> Vec<(u32, u8)> {
    let mut pair = Pair::new(
        1,
        Settings {
            unsched_bytes: Some(20_000),
            unsched_cutoffs: UnschedCutoffs::Default,
            ..settings
        },
    );
    pair.request("first".into(), 0);
    while pair.step(pair.now + MS) {}
    let id = pair.request(vec![1; 100_000].into(), 0);
    let mut sent = client_data(&mut pair);
    let route = Route {
        source_port: SERVER_PORT,
        dest_port: CLIENT_PORT,
        sender_id: id.id() | 1,
        incarnation: 1,
    };
    let grant = Grant {
        offset: 100_000,
        priority: 1,
        prove_port: 0,
        bulk_port: 0,
    };
    let datagram = Datagram {
        from: Pair::addr(SERVER),
        local: None,
        tos: 0,
        socket: Socket::Main,
        data: Bytes::copy_from_slice(&Header::emit(&route, &Packet::Grant(grant))),
    };
    let now = pair.now;
    assert_eq!(pair.engines[CLIENT].handle_datagram(now, datagram), None);
    sent.extend(client_data(&mut pair));
    assert_eq!(sent.len(), 15 + 57);
    sent
}

#[test]
fn the_end_of_a_long_message_may_be_raised() {
    let plain = levels_of_a_request(Settings {
        boost_tail: false,
        ..Settings::default()
    });
    assert!(
        plain
            .iter()
            .all(|(at, level)| *level == if *at < 20_000 { 4 } else { 1 })
    );

    let boosted = levels_of_a_request(Settings {
        boost_tail: true,
        ..Settings::default()
    });
    for (at, level) in boosted {
        let expect = match 100_000 - at {
            // The last RTTbytes, as messages of that length.
            1..=200 => 7,
            201..=2800 => 6,
            2801..=15_000 => 5,
            15_001..=20_000 => 4,
            20_001..=80_000 => 1,
            _ => 4,
        };
        assert_eq!(level, expect, "at {at}");
    }
}

#[test]
fn unscheduled_levels_may_follow_what_remains() {
    let mut pair = Pair::new(
        1,
        Settings {
            unsched_by_remaining: true,
            unsched_cutoffs: UnschedCutoffs::Default,
            ..Settings::default()
        },
    );
    pair.request("first".into(), 0);
    while pair.step(pair.now + MS) {}
    pair.request(vec![1; 20_000].into(), 0);
    let sent = client_data(&mut pair);
    assert_eq!(sent.len(), 15);
    for (at, level) in sent {
        let expect = match 20_000 - at {
            1..=200 => 7,
            201..=2800 => 6,
            2801..=15_000 => 5,
            _ => 4,
        };
        assert_eq!(level, expect, "at {at}");
    }
}

/// Control packets at the highest level, DATA at any in use, with one level everything at 0.
#[test]
fn any_number_of_levels_is_kept() {
    for levels in 1..=8u8 {
        let mut pair = Pair::new(
            1,
            Settings {
                num_priorities: levels,
                ..Settings::default()
            },
        );
        for size in [100, 10_000, 300_000] {
            pair.request(vec![1; size].into(), 0);
        }
        let mut seen = 0;
        let until = pair.now + MS;
        loop {
            for side in [CLIENT, SERVER] {
                while let Some(transmit) = pair.engines[side].poll_transmit(pair.now, 64) {
                    let level = transmit.tos >> 5;
                    assert!(level < levels, "{level} of {levels}");
                    for packet in packets(&transmit) {
                        let control = packet[11] != Kind::Data as u8;
                        assert!(!control || level == levels - 1);
                        seen += 1;
                        pair.send(side, transmit.to, transmit.tos, packet);
                    }
                }
            }
            if !pair.step_quietly(until) {
                break;
            }
        }
        assert!(seen > 200, "{seen}");
        assert_eq!(pair.engines[SERVER].counters().requests_delivered, 0);
        let mut whole = 0;
        while pair.event(SERVER).is_some() {
            whole += 1;
        }
        assert_eq!(whole, 3);
    }
}

/// A server that gets short requests alone tells its clients to spread these over all levels.
#[test]
fn cutoffs_follow_the_sizes_that_arrive_and_are_announced() {
    let mut pair = Pair::new(1, Settings::default());
    let call = |pair: &mut Pair, number: u64| {
        let size = 1 + number % 1000;
        pair.request(vec![1; size as usize].into(), number);
        loop {
            if let Some(Event::Request { rpc, charged, .. }) = pair.event(SERVER) {
                pair.engines[SERVER].release(charged);
                pair.reply(rpc, "done".into());
            }
            if let Some(Event::Response { charged, .. }) = pair.event(CLIENT) {
                pair.engines[CLIENT].release(charged);
                return;
            }
            assert!(pair.step(pair.now + MS));
        }
    };
    for number in 0..1200 {
        call(&mut pair, number);
        pair.now += MS;
    }
    let tuning = pair.engines[SERVER].tuning();
    assert_eq!((tuning.cutoff_version, tuning.max_scheduled_level), (2, 0));
    assert!(
        tuning.cutoffs[1..].is_sorted_by(|low, high| low > high),
        "{tuning:?}"
    );
    let peer = pair.engines[CLIENT].peers.find(Pair::addr(SERVER)).unwrap();
    let known = pair.engines[CLIENT].peers.get(peer);
    assert_eq!(
        (known.cutoff_version, &known.cutoffs[1..]),
        (2, &tuning.cutoffs[1..])
    );
    // Once per table.
    assert_eq!(pair.engines[SERVER].counters().sent(Kind::Cutoffs), 2);
    // All of it leaves at level 4 by the kernel's table.
    for (size, level) in [(999, 1), (10, 7)] {
        pair.request(vec![1; size].into(), 0);
        assert_eq!(client_data(&mut pair), [(0, level)]);
    }
}

/// From the first packet to the first GRANT; what the handler takes does not count.
#[test]
fn rtt_bytes_follow_from_the_first_grant() {
    let mut pair = Pair::new(1, Settings::default());
    assert_eq!(pair.engines[CLIENT].tuning().unsched_bytes, 40_000);
    for engine in &mut pair.engines {
        engine.set_link(Some(10_000));
        assert_eq!(engine.tuning().unsched_bytes, 40_000);
    }
    pair.request(vec![1; 200_000].into(), 0);
    let rpc = loop {
        assert!(pair.step(pair.now + 100 * MS));
        if let Some(Event::Request { rpc, charged, .. }) = pair.event(SERVER) {
            pair.engines[SERVER].release(charged);
            break rpc;
        }
    };
    // Twice the delay of 10 µs; at 10 Gbit/s these are 25,000 bytes. The pacer lets the packets
    // that bring the first grant about leave within their own time.
    let tuning = pair.engines[CLIENT].tuning();
    let delay = tuning.grant_delay.unwrap();
    println!("{delay:?}: {} bytes", tuning.unsched_bytes);
    assert!((20..60).contains(&delay.as_micros()), "{delay:?}");
    assert_eq!(
        tuning.unsched_bytes as u128,
        (delay.as_nanos() * 10 / 8).min(60_000)
    );
    pair.now += 9 * MS;
    pair.reply(rpc, vec![2; 200_000].into());
    while pair.step(pair.now + MS) {}
    assert!(pair.event(CLIENT).is_some());
    let of_response = pair.engines[SERVER].tuning().grant_delay.unwrap();
    assert!(of_response < Duration::from_micros(60), "{of_response:?}");

    for engine in &mut pair.engines {
        engine.set_link(None);
        assert_eq!(engine.tuning().unsched_bytes, 40_000);
    }
}

#[test]
fn policy_settings_out_of_range_are_refused() {
    let refused = |change: fn(&mut Settings)| {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.check().unwrap_err().key
    };
    assert_eq!(refused(|s| s.fifo_fraction = 501), "fifo_fraction");
    assert_eq!(refused(|s| s.fifo_increment = Some(1)), "fifo_increment");
    assert_eq!(refused(|s| s.grant_window = Some(200_000)), "grant_window");
    assert_eq!(refused(|s| s.min_grant = Some(0)), "min_grant");
    let levels = refused(|s| s.scheduled_levels = Some(8));
    assert_eq!(levels, "scheduled_levels");
    let payload = refused(|s| s.scheduled_payload = Some(65_001));
    assert_eq!(payload, "scheduled_payload");
    // A window holds one packet at least.
    let window = refused(|s| {
        s.scheduled_payload = Some(9001);
        s.grant_window = Some(9000);
    });
    assert_eq!(window, "grant_window");
    assert_eq!(refused(|s| s.unsched_bytes = Some(0)), "unsched_bytes");
    assert_eq!(refused(|s| s.max_backlog = Duration::ZERO), "max_backlog");
    let table = |lengths| UnschedCutoffs::Fixed(lengths);
    let mut settings = Settings {
        unsched_cutoffs: table([0, 0, 0, 9, 8, 7, 6, 5]),
        ..Settings::default()
    };
    assert_eq!(settings.check().unwrap_err().key, "unsched_cutoffs");
    settings.unsched_cutoffs = table([0, 9, 9, 9, 8, 7, 6, 5]);
    settings.check().unwrap();
}
