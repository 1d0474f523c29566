//! Paths that take less than the local device shows.

use std::time::Duration;

use super::pair::{CLIENT, Pair, SERVER};
use crate::Message;
use crate::engine::{Event, Settings};

const SECOND: Duration = Duration::from_secs(1);

/// The Homa packet in an IP packet of 1,280 bytes over UDP and IPv4.
const SAFE: usize = 1280 - 28;

/// One RPC with the same message both ways; returns what the client got.
fn echo(pair: &mut Pair, message: Vec<u8>) -> Vec<u8> {
    pair.request(message.into(), 0);
    let until = pair.now + 10 * SECOND;
    loop {
        if let Some(event) = pair.event(SERVER) {
            let Event::Request {
                rpc,
                message,
                charged,
                ..
            } = event
            else {
                panic!("{event:?}");
            };
            pair.engines[SERVER].release(charged);
            pair.reply(rpc, message);
        }
        if let Some(event) = pair.event(CLIENT) {
            let Event::Response {
                message, charged, ..
            } = event
            else {
                panic!("{event:?}");
            };
            pair.engines[CLIENT].release(charged);
            return message.into_bytes().to_vec();
        }
        assert!(pair.step(until), "stalled");
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

/// No ICMP at all: only the silence about full-size packets tells.
#[test]
fn full_size_packets_that_vanish_are_followed_by_smaller_ones() {
    for len in [1400, 30_000, 300_000] {
        let mut pair = Pair::new(1, Settings::default());
        pair.longest = SAFE;
        let start = pair.now;
        assert!(echo(&mut pair, pattern(len)) == pattern(len));
        let first = pair.now.since(start);
        assert!(first < SECOND / 2, "{len} B took {first:?}");
        // What was learned holds for the messages that follow.
        let start = pair.now;
        assert!(echo(&mut pair, pattern(len)) == pattern(len));
        assert!(pair.now.since(start) < Duration::from_millis(10));
        assert_eq!(pair.longest_seen, if len < SAFE { len + 56 } else { SAFE });
    }
}

#[test]
fn a_path_mtu_from_icmp_holds_for_ten_minutes() {
    let mut pair = Pair::new(2, Settings::default());
    pair.request(Message::from(pattern(200_000)), 0);
    pair.flush();
    // The packets meet a narrow link, and their sender is told so.
    pair.longest = 1000 - 28;
    let server = Pair::addr(SERVER);
    pair.engines[CLIENT].set_path_mtu(pair.now, server, 1000);
    pair.longest_seen = 0;
    let until = pair.now + Duration::from_millis(9);
    let got = loop {
        if let Some(Event::Request { message, .. }) = pair.event(SERVER) {
            break message.into_bytes();
        }
        assert!(pair.step(until), "waited for a RESEND");
    };
    assert!(got == pattern(200_000));
    assert!(pair.longest_seen <= pair.longest);

    // Nobody can make packets tiny, nor larger than ours.
    pair.longest = usize::MAX;
    pair.engines[SERVER].set_path_mtu(pair.now, Pair::addr(CLIENT), 9000);
    pair.engines[CLIENT].set_path_mtu(pair.now, server, 68);
    pair.longest_seen = 0;
    let ask = |pair: &mut Pair| {
        pair.longest_seen = 0;
        assert!(echo(pair, pattern(5000)) == pattern(5000));
        pair.longest_seen
    };
    // The response comes in packets of 1,500 bytes.
    assert_eq!(ask(&mut pair), 1500 - 28);
    pair.engines[SERVER].set_path_mtu(pair.now, Pair::addr(CLIENT), 68);
    assert_eq!(ask(&mut pair), 576 - 28);
    pair.now += 600 * SECOND;
    assert_eq!(ask(&mut pair), 1500 - 28);
}

/// ICMP names the port that the packet was sent to, which may be the one for bulk.
#[test]
fn what_is_said_of_the_bulk_port_is_true_of_the_path() {
    let mut pair = Pair::new(3, Settings::default());
    assert!(echo(&mut pair, pattern(200_000)) == pattern(200_000));
    pair.request(Message::from(pattern(200_000)), 0);
    pair.flush();
    pair.longest = 1000 - 28;
    let mut bulk = Pair::addr(SERVER);
    bulk.set_port(bulk.port() + 1);
    pair.engines[CLIENT].set_path_mtu(pair.now, bulk, 1000);
    let until = pair.now + Duration::from_millis(9);
    let got = loop {
        if let Some(Event::Request { message, .. }) = pair.event(SERVER) {
            break message.into_bytes();
        }
        assert!(pair.step(until), "waited for a RESEND");
    };
    assert!(got == pattern(200_000));
}
