//! [`InMessage`]: a message that is arriving.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::rtt_bytes::MOST_UNSCHEDULED;
use super::wire::Resend;
use crate::Message;

/// What holding one packet costs besides its payload: its header, which lies in the same
/// buffer, the buffer's own book-keeping and the entry here.
const PACKET_COST: usize = 192;

/// The first packet to arrive may be the short last one; whoever really sends less pays for each
/// packet as it comes.
const MIN_PACKET: usize = 256;

/// A message that is arriving, held as the packets it came in.
#[derive(Debug)]
pub(super) struct InMessage {
    length: u32,
    granted: u32,
    /// Payload bytes that its packets are taken to hold.
    packet: usize,
    /// Everything below the end of these packets has arrived.
    head: Message,
    /// Packets beyond a gap, disjoint.
    ahead: BTreeMap<u32, Bytes>,
    received: u32,
    /// What these packets occupy.
    cost: usize,
    /// What the pool has been charged for this message.
    pub(super) charged: usize,
    /// Its sender owes bytes and has not answered a RESEND for them. What was granted to it counts
    /// as lost until more arrives, or a few silent senders would hold up all others.
    pub(super) stalled: bool,
    /// Where the unscheduled part ends.
    unscheduled: u32,
}

impl InMessage {
    /// `incoming` is what the first packet to arrive announces (statement 37), and `packet` its
    /// payload bytes.
    pub(super) fn new(length: u32, incoming: u32, packet: usize) -> Self {
        let granted = incoming.min(length);
        Self {
            length,
            packet: packet.max(MIN_PACKET),
            granted,
            head: Message::new(),
            ahead: BTreeMap::new(),
            received: 0,
            cost: 0,
            charged: 0,
            stalled: false,
            unscheduled: granted,
        }
    }

    pub(super) fn length(&self) -> u32 {
        self.length
    }

    pub(super) fn granted(&self) -> u32 {
        self.granted
    }

    pub(super) fn received(&self) -> u32 {
        self.received
    }

    /// Everything below this has arrived.
    pub(super) fn contiguous(&self) -> u32 {
        self.head.len() as u32
    }

    pub(super) fn remaining(&self) -> u32 {
        self.length - self.received
    }

    pub(super) fn complete(&self) -> bool {
        self.received == self.length
    }

    /// Bytes that were granted and are still to come.
    pub(super) fn outstanding(&self) -> usize {
        if self.needs_grants() && !self.stalled {
            self.granted.saturating_sub(self.received) as usize
        } else {
            0
        }
    }

    /// Bytes that came unasked.
    pub(super) fn unscheduled(&self) -> u32 {
        self.unscheduled
    }

    /// Whether a part of it is sent only after grants.
    pub(super) fn needs_grants(&self) -> bool {
        self.unscheduled < self.length
    }

    /// Whether the byte at `offset` is in that part.
    pub(super) fn is_scheduled(&self, offset: u32) -> bool {
        offset >= self.unscheduled
    }

    /// Whether the sender owes us bytes.
    pub(super) fn expecting(&self) -> bool {
        self.received < self.granted
    }

    pub(super) fn grant(&mut self, offset: u32) {
        self.granted = self.granted.max(offset.min(self.length));
    }

    /// What the pool is charged for `bytes` of it, if its packets are like the first.
    pub(super) fn reserve(&self, bytes: usize) -> usize {
        bytes + bytes.div_ceil(self.packet) * PACKET_COST
    }

    /// What has to be charged before its first packet is kept. An announcement beyond what honest
    /// senders make is paid for as it arrives.
    pub(super) fn first_charge(&self) -> usize {
        self.reserve((self.unscheduled as usize).clamp(1, MOST_UNSCHEDULED))
    }

    /// What holding one more packet of `len` bytes would cost beyond what is charged already.
    /// Ordinary packets are covered by the reserve; tiny ones pay for themselves.
    pub(super) fn uncharged_with(&self, len: usize) -> usize {
        (self.cost + len + PACKET_COST).saturating_sub(self.charged)
    }

    /// Stores the payload that starts at `offset`; the caller has checked that it lies within the
    /// message. Bytes that are there already stay as they are. Returns the bytes that were new.
    pub(super) fn insert(&mut self, offset: u32, payload: Bytes) -> u32 {
        let end = offset + payload.len() as u32;
        let before = self.received;
        if offset == self.contiguous() && self.ahead.is_empty() {
            self.push_head(payload);
            return self.received - before;
        }
        // The parts of the payload that fall into gaps. A packet seldom touches more than one.
        let mut at = offset.max(self.contiguous());
        let mut pieces: Vec<Range<u32>> = Vec::new();
        if let Some((start, part)) = self.ahead.range(..=at).next_back() {
            at = at.max(start + part.len() as u32);
        }
        for (start, part) in self.ahead.range(at..end.max(at)) {
            if at < *start {
                pieces.push(at..*start);
            }
            at = start + part.len() as u32;
        }
        if at < end {
            pieces.push(at..end);
        }
        for piece in pieces {
            let mut bytes =
                payload.slice((piece.start - offset) as usize..(piece.end - offset) as usize);
            if bytes.len() * 2 < payload.len() {
                // Little of a long packet must not keep all of it in memory.
                bytes = Bytes::copy_from_slice(&bytes);
            }
            if piece.start == self.contiguous() {
                self.push_head(bytes);
            } else {
                self.received += bytes.len() as u32;
                self.cost += bytes.len() + PACKET_COST;
                self.ahead.insert(piece.start, bytes);
            }
        }
        while let Some(entry) = self.ahead.first_entry()
            && *entry.key() == self.head.len() as u32
        {
            self.head.push(entry.remove());
        }
        self.received - before
    }

    fn push_head(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.received += bytes.len() as u32;
        self.cost += bytes.len() + PACKET_COST;
        self.head.push(bytes);
    }

    /// The RESENDs for what is missing of the granted bytes: one per gap, then one for the rest
    /// (statement 52). Gaps beyond `most` are left for the next time.
    pub(super) fn missing(&self, priority: u8, most: usize) -> Vec<Resend> {
        if self.received == 0 {
            return vec![Resend {
                offset: 0,
                length: Resend::ALL,
                priority,
            }];
        }
        let mut at = self.contiguous();
        let mut gaps = Vec::new();
        for (start, part) in &self.ahead {
            if at < *start {
                gaps.push(at..*start);
            }
            at = start + part.len() as u32;
            if gaps.len() == most {
                break;
            }
        }
        if gaps.len() < most && at < self.granted {
            gaps.push(at..self.granted);
        }
        gaps.into_iter()
            .map(|gap| Resend {
                offset: gap.start,
                length: gap.len() as u32,
                priority,
            })
            .collect()
    }

    /// The whole message; to be called once it is complete.
    pub(super) fn into_message(self) -> Message {
        debug_assert!(self.received == self.length && self.ahead.is_empty());
        self.head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(range: Range<u32>) -> Bytes {
        range.map(|at| at as u8).collect()
    }

    fn check(message: InMessage) {
        assert!(message.complete());
        let length = message.length();
        assert_eq!(message.into_message().into_bytes(), bytes(0..length));
    }

    #[test]
    fn packets_of_any_size_in_any_order() {
        let mut reversed = InMessage::new(300, 300, 1416);
        for at in (0..300).rev() {
            assert_eq!(reversed.insert(at, bytes(at..at + 1)), 1);
        }
        check(reversed);

        let mut mixed = InMessage::new(100, 40, 1416);
        assert_eq!(mixed.insert(60, bytes(60..70)), 10);
        assert_eq!(mixed.insert(90, bytes(90..100)), 10);
        assert_eq!(mixed.insert(0, bytes(0..10)), 10);
        assert_eq!(
            mixed.missing(7, 10),
            [(10, 50), (70, 20)].map(|(offset, length)| Resend {
                offset,
                length,
                priority: 7
            })
        );
        // Overlaps on all sides, and nothing new at all.
        assert_eq!(mixed.insert(5, bytes(5..95)), 70);
        assert_eq!(mixed.insert(5, bytes(5..95)), 0);
        assert_eq!(mixed.insert(0, bytes(0..100)), 0);
        check(mixed);
    }

    #[test]
    fn the_first_bytes_win() {
        let mut message = InMessage::new(10, 10, 1416);
        message.insert(4, bytes(4..6));
        message.insert(0, Bytes::from_static(&[0, 1, 2, 3, 99, 99, 6, 7, 8, 9]));
        check(message);
    }

    #[test]
    fn only_granted_bytes_are_asked_for() {
        let mut message = InMessage::new(100, 40, 1416);
        assert_eq!(message.missing(3, 8)[0].length, Resend::ALL);
        message.insert(0, bytes(0..40));
        assert!(!message.expecting() && message.missing(3, 8).is_empty());
        message.grant(50);
        message.grant(45);
        assert_eq!(
            message.missing(3, 8),
            [Resend {
                offset: 40,
                length: 10,
                priority: 3
            }]
        );
        assert_eq!(message.outstanding(), 10);
    }
}
