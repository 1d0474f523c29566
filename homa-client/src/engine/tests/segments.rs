//! Packets that are handed from engine to engine as they are.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::pair::{CLIENT, Pair, SERVER, packets};
use crate::engine::wire::{Carrier, DATA_HEADER_LEN, Packet};
use crate::engine::{Event, Settings};

fn sigcomm18() -> Settings {
    Settings {
        packet_payload: 1442,
        scheduled_payload: Some(1456),
        unsched_bytes: Some(9328),
        grant_window: Some(10_000),
        min_grant: Some(1),
        ..Settings::default()
    }
}

const FAR: Duration = Duration::from_secs(1);

/// What arrives in segments lies where its sender has it.
#[test]
fn the_payload_of_a_segment_is_never_copied() {
    let mut pair = Pair::new(1, Settings::default());
    let reply: Bytes = (0..300_000u32).map(|at| (at ^ (at >> 8)) as u8).collect();
    pair.request("ping".into(), 7);
    let until = pair.now + FAR;
    let response = loop {
        assert!(pair.step(until), "no response");
        if let Some(Event::Request { rpc, .. }) = pair.event(SERVER) {
            pair.reply(rpc, reply.clone().into());
        }
        if let Some(Event::Response { message, .. }) = pair.event(CLIENT) {
            break message;
        }
    };
    let mut at = reply.as_ptr();
    for part in response.parts() {
        assert_eq!(part.as_ptr(), at);
        at = at.wrapping_add(part.len());
    }
    assert_eq!(response, reply[..]);
}

/// The cuts of SIGCOMM'18's simulation, through a network that loses.
#[test]
fn scheduled_packets_have_a_size_of_their_own() {
    let mut pair = Pair::new(2, sigcomm18());
    let until = pair.now + FAR;
    pair.faults.loss = 20;
    pair.request(vec![7; 100_000].into(), 7);
    let mut sizes = BTreeMap::new();
    loop {
        while let Some(transmit) = pair.engines[CLIENT].poll_transmit(pair.now, 64) {
            for packet in packets(&transmit) {
                if let Ok((_, Packet::Data(data))) = Packet::parse(Carrier::Udp, &packet) {
                    let size = packet.len() - DATA_HEADER_LEN;
                    assert_eq!(*sizes.entry(data.offset()).or_insert(size), size);
                }
                pair.send(CLIENT, transmit.to, transmit.tos, packet);
            }
        }
        if let Some(Event::Request { message, .. }) = pair.event(SERVER) {
            assert_eq!(message.len(), 100_000);
            break;
        }
        assert!(pair.step(until), "no request");
    }
    assert!(pair.engines[CLIENT].counters().retransmitted > 0);
    let cuts = (0..9328).step_by(1442).chain((9328..100_000).step_by(1456));
    assert!(cuts.clone().eq(sizes.keys().copied()));
    for (start, end) in cuts.clone().zip(cuts.skip(1).chain([100_000])) {
        assert_eq!(sizes[&start], (end - start) as usize);
    }
}
