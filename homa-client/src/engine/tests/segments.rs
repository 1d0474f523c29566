//! Packets that are handed from engine to engine as they are.

use std::time::Duration;

use bytes::Bytes;

use super::pair::{CLIENT, Pair, SERVER};
use crate::engine::{Event, Settings};

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
