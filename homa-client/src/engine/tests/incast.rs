//! Unscheduled bytes in flight are bounded, in both directions.

use std::time::Duration;

use super::pair::{CLIENT, CLIENT_PORT, Pair, SERVER, SERVER_PORT, packets};
use crate::Message;
use crate::engine::wire::{Carrier, Header, Kind, Packet, Route, Unknown};
use crate::engine::{Engine, Event, Settings};

const MS: Duration = Duration::from_millis(1);

/// The `incoming` of every packet that the engine wants to send now, per RPC.
fn announced(pair: &mut Pair, side: usize) -> Vec<(u64, u32)> {
    let mut seen = Vec::new();
    while let Some(transmit) = pair.engines[side].poll_transmit(pair.now, 64) {
        for packet in packets(&transmit) {
            if let (common, Packet::Data(data)) = Packet::parse(Carrier::Udp, &packet).unwrap() {
                seen.push((common.sender_id, data.incoming));
            }
        }
    }
    seen.sort_unstable();
    seen.dedup();
    seen
}

fn drain(pair: &mut Pair, reply: usize) -> (usize, usize) {
    let (mut requests, mut responses) = (0, 0);
    let until = pair.now + 200 * MS;
    loop {
        while let Some(event) = pair.event(SERVER) {
            let Event::Request { rpc, charged, .. } = event else {
                panic!("{event:?}")
            };
            pair.engines[SERVER].release(charged);
            pair.reply(rpc, vec![7; reply].into());
            requests += 1;
        }
        while let Some(event) = pair.event(CLIENT) {
            let Event::Response { charged, .. } = event else {
                panic!("{event:?}")
            };
            pair.engines[CLIENT].release(charged);
            responses += 1;
        }
        if !pair.step(until) {
            return (requests, responses);
        }
    }
}

#[test]
fn a_sender_keeps_two_windows_of_unscheduled_bytes_in_flight() {
    let mut pair = Pair::new(1, Settings::default());
    for number in 0..10 {
        pair.request(Message::from(vec![1; 20_000]), number);
    }
    let sent = announced(&mut pair, CLIENT);
    // Four times 20,000 B are two windows of 40,000; the others announce one packet.
    let whole = sent
        .iter()
        .filter(|(_, incoming)| *incoming == 20_000)
        .count();
    let first_only = sent
        .iter()
        .filter(|(_, incoming)| *incoming == 1416)
        .count();
    assert_eq!((whole, first_only), (4, 6));

    // To another peer all is as if they were not there.
    let mut elsewhere = Pair::addr(SERVER);
    elsewhere.set_port(4999);
    pair.engines[CLIENT]
        .send_request(
            pair.now,
            CLIENT_PORT,
            elsewhere,
            4999,
            vec![1; 20_000].into(),
            99,
        )
        .unwrap();
    assert!(matches!(announced(&mut pair, CLIENT)[..], [(_, 20_000)]));
}

#[test]
fn what_was_held_back_is_granted_and_the_account_empties() {
    let mut pair = Pair::new(2, Settings::default());
    for round in 0..3 {
        for number in 0..30 {
            pair.request(Message::from(vec![1; 20_000]), number);
        }
        assert_eq!(drain(&mut pair, 20_000), (30, 30), "round {round}");
        for engine in &mut pair.engines {
            assert_eq!(engine.counters().live_rpcs, 0);
            assert_eq!(engine.unscheduled_in_flight(), 0);
        }
    }
    let [requests, responses] = [CLIENT, SERVER].map(|side| {
        let counters = pair.engines[side].counters();
        (counters.sent(Kind::Grant) > 0, counters.retransmitted)
    });
    assert_eq!((requests, responses), ((true, 0), (true, 0)));
}

/// A server that has forgotten many requests gets a packet of each, and the others as it grants.
#[test]
fn a_server_that_has_forgotten_all_is_not_flooded() {
    let mut pair = Pair::new(3, Settings::default());
    let ids: Vec<u64> = (0..10)
        .map(|number| pair.request(Message::from(vec![1; 20_000]), number).id())
        .collect();
    announced(&mut pair, CLIENT);
    pair.engines[SERVER] = Engine::new(Settings::default(), 77).unwrap();
    pair.engines[SERVER].open_port(SERVER_PORT, true);
    let incarnation = pair.engines[SERVER].incarnation;
    for id in &ids {
        let route = Route {
            source_port: SERVER_PORT,
            dest_port: CLIENT_PORT,
            sender_id: id | 1,
            incarnation,
        };
        let unknown = Header::emit(&route, &Packet::RpcUnknown(Unknown::default())).to_vec();
        pair.send(SERVER, Pair::addr(CLIENT), 0, unknown.into());
    }
    while pair.step_quietly(pair.now + MS / 2) {}
    let mut bytes = 0;
    while let Some(transmit) = pair.engines[CLIENT].poll_transmit(pair.now, 64) {
        bytes += transmit
            .segments
            .iter()
            .map(|segment| segment.payload_len())
            .sum::<usize>();
    }
    assert_eq!(bytes, 10 * 1416);
    assert_eq!(drain(&mut pair, 100).1, 10, "all complete in the end");
}

#[test]
fn without_the_limit_all_are_sent_at_once() {
    let settings = Settings {
        unsched_windows: 0,
        ..Settings::default()
    };
    let mut pair = Pair::new(4, settings);
    for number in 0..10 {
        pair.request(Message::from(vec![1; 20_000]), number);
    }
    let sent = announced(&mut pair, CLIENT);
    assert!(sent.iter().all(|(_, incoming)| *incoming == 20_000));
    assert_eq!(sent.len(), 10);
}
