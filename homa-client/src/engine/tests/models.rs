//! Messages that come and go, against models of an array each. Like the fuzz targets: a function
//! of bytes, replayed from the corpus beside this file and then on seeded bytes.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use super::Random;
use crate::Message;
use crate::engine::Time;
use crate::engine::incoming::InMessage;
use crate::engine::outgoing::{OutMessage, Payload};

const SEEDS: u64 = 500;
const MAX_LEN: usize = 600;

fn seeded(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let len = random.below(MAX_LEN as u64);
    (0..len).map(|_| random.next() as u8).collect()
}

/// The next number from 0 to `limit` − 1, or 0 at the end.
fn take(bytes: &mut &[u8], limit: u32) -> u32 {
    let (taken, rest) = bytes.split_at(bytes.len().min(2));
    *bytes = rest;
    taken
        .iter()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
        % limit.max(1)
}

/// A message of any length in pieces that may overlap and disagree: the first bytes win.
fn check_incoming(mut bytes: &[u8]) {
    let length = 1 + take(&mut bytes, 2000);
    let granted = take(&mut bytes, 3000);
    let mut message = InMessage::new(length, granted, 100);
    let mut model = vec![None; length as usize];
    let mut piece = 0u8;
    while !bytes.is_empty() {
        let start = take(&mut bytes, length);
        let end = (start + take(&mut bytes, 300)).min(length);
        piece = piece.wrapping_add(1);
        let mut fresh = 0;
        for byte in &mut model[start as usize..end as usize] {
            fresh += u32::from(byte.is_none());
            byte.get_or_insert(piece);
        }
        let payload = vec![piece; (end - start) as usize];
        assert_eq!(message.insert(start, payload.into()), fresh);
        let received = model.iter().filter(|byte| byte.is_some()).count() as u32;
        assert_eq!(message.received(), received);
        check_missing(&message, &model);
        if message.complete() {
            let bytes: Bytes = model.into_iter().map(Option::unwrap).collect();
            assert!(message.into_message().into_bytes() == bytes);
            return;
        }
    }
}

/// What is asked for is what the model lacks of the granted bytes, and of those before others.
fn check_missing(message: &InMessage, model: &[Option<u8>]) {
    if message.received() == 0 {
        return;
    }
    let last = model
        .iter()
        .rposition(Option::is_some)
        .map_or(0, |at| at + 1);
    let end = last.max(message.granted() as usize);
    let mut asked = vec![false; model.len()];
    for resend in message.missing(0, usize::MAX) {
        asked[resend.offset as usize..][..resend.length as usize].fill(true);
    }
    for (at, byte) in model.iter().enumerate() {
        assert_eq!(asked[at], byte.is_none() && at < end, "byte {at}");
    }
}

/// A message that is granted, sent and asked for again in any way.
fn check_outgoing(mut bytes: &[u8]) {
    let length = 1 + take(&mut bytes, 5000);
    let payload = 1 + take(&mut bytes, 200);
    let payload = Payload {
        unscheduled: payload,
        // Not from the bytes, so that the corpus keeps its meaning.
        scheduled: if length.is_multiple_of(2) {
            payload
        } else {
            1 + (payload + length) % 200
        },
    };
    let unscheduled = take(&mut bytes, 6000);
    let content: Vec<u8> = (0..length).map(|at| (at ^ (at >> 8)) as u8).collect();
    let parts = content.chunks(1 + take(&mut bytes, 700) as usize);
    let rope: Message = parts.map(Bytes::copy_from_slice).collect();
    let mut message = OutMessage::new(rope, payload, unscheduled);
    let mut granted = unscheduled.min(length);
    let mut packets: Vec<Range<u32>> = Vec::new();
    let mut shrunk = false;
    let mut now = Time::ZERO;
    // A packet that starts below a limit ends there, and all others begin anew.
    let unscheduled = unscheduled.min(length);
    let cut_at = |offset: u32| {
        let (base, limit, payload) = if offset < unscheduled {
            (0, unscheduled, payload.unscheduled)
        } else {
            (unscheduled, length, payload.scheduled)
        };
        let start = base + (offset - base) / payload * payload;
        start..limit.min(start + payload)
    };
    while !bytes.is_empty() {
        match take(&mut bytes, 8) {
            0 => {
                let offset = take(&mut bytes, 6000);
                granted = granted.max(offset.min(length));
                message.grant(offset);
            }
            1 => {
                let start = take(&mut bytes, 6000);
                let range = start..start.saturating_add(take(&mut bytes, 6000));
                message.answer(now, range, 0);
            }
            2 => message.replay(now, 0),
            3 => {
                let piece = 1 + take(&mut bytes, 300);
                shrunk |= piece < payload.largest();
                message.shrink_to(piece);
            }
            4 => now += Duration::from_micros(take(&mut bytes, 2000).into()),
            5 => {
                // However much was asked for, it is no more than all that was sent.
                for _ in 0..=packets.len() * payload.largest() as usize {
                    let Some(again) = message.next_resend() else {
                        break;
                    };
                    assert!(again.end <= message.sent());
                    let cut = cut_at(again.start);
                    if shrunk {
                        assert!(again.end <= cut.end);
                    } else {
                        assert_eq!(again, cut);
                    }
                    assert_eq!(message.bytes(again.clone()).0, bytes_of(&content, again));
                }
                assert_eq!(message.next_resend(), None);
            }
            _ => {
                let Some(packet) = message.next_packet() else {
                    assert!(message.sent() >= granted);
                    continue;
                };
                let sent = packets.last().map_or(0, |packet| packet.end);
                assert_eq!(packet.start, sent);
                assert!(packet.start < granted && packet.end <= cut_at(packet.start).end);
                assert!(shrunk || packet == cut_at(packet.start));
                assert_eq!(
                    message.bytes(packet.clone()).0,
                    bytes_of(&content, packet.clone())
                );
                packets.push(packet);
            }
        }
    }
}

fn bytes_of(content: &[u8], range: Range<u32>) -> &[u8] {
    &content[range.start as usize..range.end as usize]
}

#[test]
fn an_incoming_message_is_an_array() {
    bolero::check!().with_iterations(0).for_each(check_incoming);
    (0..SEEDS).for_each(|seed| check_incoming(&seeded(seed)));
}

#[test]
fn an_outgoing_message_is_cut_once_and_for_all() {
    bolero::check!().with_iterations(0).for_each(check_outgoing);
    (0..SEEDS).for_each(|seed| check_outgoing(&seeded(seed)));
}
