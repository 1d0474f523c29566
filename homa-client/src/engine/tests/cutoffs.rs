//! Whether the levels of what is really sent have equal shares.

use std::time::Duration;

use super::pair::{CLIENT, Pair, SERVER, packets};
use crate::engine::wire::{Carrier, DATA_HEADER_LEN, Packet};
use crate::engine::{Event, Settings, UnschedCutoffs};

const SECOND: Duration = Duration::from_secs(1);

/// Sends a message of each length and returns the bytes that left on each level.
fn bytes_by_level(settings: Settings, lengths: impl Iterator<Item = usize>) -> [usize; 8] {
    let mut pair = Pair::new(3, settings);
    // From the first exchange the client knows the server's cutoffs.
    let mut bytes = [0; 8];
    for length in std::iter::once(1).chain(lengths) {
        let first = length == 1;
        pair.request(vec![7; length].into(), 0);
        let until = pair.now + SECOND;
        loop {
            while let Some(transmit) = pair.engines[CLIENT].poll_transmit(pair.now, 64) {
                for packet in packets(&transmit) {
                    let (_, parsed) = Packet::parse(Carrier::Udp, &packet).unwrap();
                    if matches!(parsed, Packet::Data(_)) && !first {
                        let level = usize::from(transmit.tos >> 5);
                        bytes[level] += packet.len() - DATA_HEADER_LEN;
                    }
                    pair.send(CLIENT, transmit.to, transmit.tos, packet);
                }
            }
            if let Some(Event::Request { rpc, charged, .. }) = pair.event(SERVER) {
                pair.engines[SERVER].release(charged);
                pair.reply(rpc, "ok".into());
            }
            if pair.event(CLIENT).is_some() {
                break;
            }
            assert!(pair.step(until), "no response");
        }
    }
    bytes
}

/// With each way of choosing levels, what is counted is what travels there.
#[test]
fn known_cutoffs_share_the_bytes_that_are_sent_equally() {
    let lengths = || (200..=60_000).step_by(200);
    for (unsched_by_remaining, boost_tail) in
        [(false, false), (true, false), (false, true), (true, true)]
    {
        let mut settings = Settings {
            packet_payload: 1442,
            scheduled_payload: Some(1456),
            unsched_bytes: Some(9328),
            scheduled_levels: Some(3),
            unsched_by_remaining,
            boost_tail,
            ..Settings::default()
        };
        let weighted = lengths().map(|length| (length, 1.0));
        settings.unsched_cutoffs = UnschedCutoffs::for_lengths(&settings, weighted).unwrap();
        let bytes = bytes_by_level(settings, lengths());
        println!("{unsched_by_remaining}, {boost_tail}: {bytes:?}");
        assert_eq!(bytes.iter().sum::<usize>(), lengths().sum::<usize>());
        let mean = bytes[3..].iter().sum::<usize>() / 5;
        for level in &bytes[3..] {
            // One length of 300 has up to 2 % of a level.
            assert!(level.abs_diff(mean) <= mean / 50, "{bytes:?}");
        }
        // Twice RTTbytes are on unscheduled levels where tails are raised.
        let share = 5 * mean * 100 / lengths().sum::<usize>();
        let expect = if boost_tail { 50..=56 } else { 25..=30 };
        assert!(expect.contains(&share), "{share} %");
    }
}
