//! [`OutMessage`]: a message that is being sent.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::questions::Questions;
use super::settings::{Settings, Timers};
use super::time::Time;
use super::transmit::MAX_MORE;
use crate::Message;

/// Ranges that wait to be sent again, per message. More are merged into one.
const MAX_RESEND_RANGES: usize = 64;

/// Shorter packets that cross parts of their message are copied: that costs no more than to keep
/// track of the parts.
const WORTH_SHARING: usize = 4096;

/// A peer that asks again within this time gets nothing: the answer is under way, and a RESEND
/// of 37 bytes can ask for a megabyte (`homa-protocol` D.4).
const RESEND_APART: Duration = Duration::from_millis(1);

/// A message that is being sent, kept whole until its RPC ends.
///
/// It is cut at multiples of `payload.unscheduled` below `unscheduled`, and beyond it at multiples
/// of `payload.scheduled` counted from there, with a cut exactly at `unscheduled`. A retransmission
/// uses the same cuts, since a kernel drops what overlaps partly with what it has (statement 19).
/// If the path turns out to take less, each of these packets goes in pieces of its own.
#[derive(Debug)]
pub(super) struct OutMessage {
    /// Its first part, mostly the only one.
    first: Bytes,
    /// The others with the offset at which each starts.
    rest: Vec<(u32, Bytes)>,
    length: u32,
    payload: Payload,
    /// Most bytes that one packet may hold; may be below `payload` once the path has shrunk.
    piece: u32,
    unscheduled: u32,
    granted: u32,
    sent: u32,
    /// The peer has forgotten what was sent; from here on it is repeated as grants come.
    replay: Option<u32>,
    questions: Questions,
    /// When its first packet left, until the first GRANT comes.
    pub(super) first_sent: Option<Time>,
    /// Level from the latest GRANT.
    pub(super) priority: u8,
    /// Ranges to send again: disjoint, ascending, ending at or below `sent`.
    resend: Vec<Range<u32>>,
    /// Level from the RESEND that asked for them.
    pub(super) resend_priority: u8,
    /// What was put there because the peer asked, and when, in the last [`RESEND_APART`].
    answered: Vec<(Range<u32>, Time)>,
}

/// Payload bytes of a full packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Payload {
    /// In the unscheduled part of a message.
    pub(super) unscheduled: u32,
    /// Beyond it.
    pub(super) scheduled: u32,
}

impl Payload {
    /// To this address.
    pub(super) fn to(ip: IpAddr, settings: &Settings) -> Self {
        settings.loopback_for(ip).map_or_else(
            || Self::of(settings),
            |loopback| Self {
                unscheduled: loopback.packet_payload as u32,
                scheduled: loopback.packet_payload as u32,
            },
        )
    }

    /// To others.
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            unscheduled: settings.packet_payload as u32,
            scheduled: settings
                .scheduled_payload
                .unwrap_or(settings.packet_payload) as u32,
        }
    }

    pub(super) fn largest(self) -> u32 {
        self.unscheduled.max(self.scheduled)
    }

    /// The packet with the byte at `offset` of a message, by the rule at [`OutMessage`].
    pub(super) fn packet_at(self, offset: u32, unscheduled: u32, length: u32) -> Range<u32> {
        let (base, limit, payload) = if offset < unscheduled {
            (0, unscheduled, self.unscheduled)
        } else {
            (unscheduled, length, self.scheduled)
        };
        let start = offset - (offset - base) % payload;
        start..(start + payload).min(limit)
    }

    pub(super) fn at_most(self, limit: u32) -> Self {
        Self {
            unscheduled: self.unscheduled.min(limit),
            scheduled: self.scheduled.min(limit),
        }
    }
}

impl OutMessage {
    /// The caller has checked that the length fits.
    pub(super) fn new(mut message: Message, payload: Payload, unscheduled: u32) -> Self {
        let length = message.len() as u32;
        let first = message.pop_part().unwrap_or_default();
        let mut start = first.len() as u32;
        let mut rest = Vec::with_capacity(message.parts().len());
        while let Some(part) = message.pop_part() {
            let len = part.len() as u32;
            rest.push((start, part));
            start += len;
        }
        let unscheduled = unscheduled.min(length);
        Self {
            first,
            rest,
            length,
            payload,
            piece: payload.largest(),
            unscheduled,
            granted: unscheduled,
            sent: 0,
            replay: None,
            questions: Questions::default(),
            first_sent: None,
            priority: 0,
            resend: Vec::new(),
            resend_priority: 0,
            answered: Vec::new(),
        }
    }

    pub(super) fn length(&self) -> u32 {
        self.length
    }

    pub(super) fn unscheduled(&self) -> u32 {
        self.unscheduled
    }

    /// First byte not yet handed out.
    pub(super) fn sent(&self) -> u32 {
        self.sent
    }

    pub(super) fn granted(&self) -> u32 {
        self.granted
    }

    pub(super) fn remaining(&self) -> u32 {
        self.length - self.sent
    }

    /// Whether the next packet may go.
    pub(super) fn ready(&self) -> bool {
        self.sent < self.granted
    }

    pub(super) fn all_sent(&self) -> bool {
        self.sent == self.length
    }

    /// Raises what may be sent; a smaller offset changes nothing (statement 34).
    pub(super) fn grant(&mut self, offset: u32) {
        self.granted = self.granted.max(offset.min(self.length));
        if let Some(from) = self.replay
            && offset > from
        {
            let end = offset.min(self.sent);
            self.resend(from..end, self.priority);
            self.replay = (end < self.sent).then_some(end);
        }
    }

    /// The peer knows nothing of the message: its first packet goes again, the rest of what was
    /// sent with the grants that follow.
    pub(super) fn replay(&mut self, now: Time, priority: u8) {
        if self.sent == 0 {
            return;
        }
        let end = self.packet_at(0).end.min(self.sent);
        self.answer(now, 0..end, priority);
        self.replay = (end < self.sent).then_some(end);
    }

    /// Most payload bytes of a packet at `offset` that leaves from now on.
    pub(super) fn packet_limit(&self, offset: u32) -> u32 {
        self.payload_at(offset).min(self.piece)
    }

    fn payload_at(&self, offset: u32) -> u32 {
        if offset < self.unscheduled {
            self.payload.unscheduled
        } else {
            self.payload.scheduled
        }
    }

    /// The path takes no more than `piece` bytes of payload.
    pub(super) fn shrink_to(&mut self, piece: u32) {
        self.piece = self.piece.min(piece);
    }

    /// Notes that the peer asks for what begins at `offset`; see [`Questions`].
    pub(super) fn asked_for(&mut self, now: Time, offset: u32, timers: &Timers) -> Option<u8> {
        self.questions.asked_for(now, offset, timers)
    }

    /// The packet with the byte at `offset`. On a path that takes less than such a packet, the
    /// piece of it that starts there: whoever asks for pieces knows exactly what it lacks, and a
    /// kernel drops what overlaps partly with what it has.
    pub(super) fn packet_at(&self, offset: u32) -> Range<u32> {
        let packet = self
            .payload
            .packet_at(offset, self.unscheduled, self.length);
        if self.in_pieces(offset) {
            offset..(offset + self.piece).min(packet.end)
        } else {
            packet
        }
    }

    fn in_pieces(&self, offset: u32) -> bool {
        self.piece < self.payload_at(offset)
    }

    /// The packets that a range touches, or where they go in pieces exactly what is asked for.
    fn packets_of(&self, range: Range<u32>) -> Range<u32> {
        let (first, last) = (range.start, range.end - 1);
        let start = if self.in_pieces(first) {
            first
        } else {
            self.packet_at(first).start
        };
        let end = if self.in_pieces(last) {
            range.end
        } else {
            self.packet_at(last).end
        };
        start..end
    }

    /// The next packet, marked as sent. A packet that starts below the grant goes whole.
    pub(super) fn next_packet(&mut self) -> Option<Range<u32>> {
        if !self.ready() {
            return None;
        }
        let range = self.packet_at(self.sent);
        self.sent = range.end;
        Some(range)
    }

    /// The peer asks for `range`: what was sent of it goes again, unless it has just done so.
    /// Returns whether anything goes.
    pub(super) fn answer(&mut self, now: Time, range: Range<u32>, priority: u8) -> bool {
        let end = range.end.min(self.sent);
        self.answered
            .retain(|(_, at)| *at <= now && now.since(*at) < RESEND_APART);
        if range.start >= end || self.answered.len() >= MAX_RESEND_RANGES {
            return false;
        }
        let mut due = vec![self.packets_of(range.start..end)];
        for (done, _) in &self.answered {
            let apart = |range: Range<u32>| {
                let before = range.start..range.end.min(done.start);
                let after = range.start.max(done.end)..range.end;
                [before, after]
            };
            due = due.into_iter().flat_map(apart).collect();
            due.retain(|range| !range.is_empty());
        }
        for range in &due {
            self.answered.push((range.clone(), now));
            self.resend(range.clone(), priority);
        }
        !due.is_empty()
    }

    /// Puts every packet that intersects `range` and was sent into the queue for resending.
    pub(super) fn resend(&mut self, range: Range<u32>, priority: u8) {
        let end = range.end.min(self.sent);
        if range.start >= end {
            return;
        }
        self.resend_priority = priority;
        let mut merged = self.packets_of(range.start..end);
        self.resend.retain(|other| {
            let apart = other.end < merged.start || merged.end < other.start;
            if !apart {
                merged = merged.start.min(other.start)..merged.end.max(other.end);
            }
            apart
        });
        let at = self
            .resend
            .partition_point(|other| other.start < merged.start);
        self.resend.insert(at, merged);
        if self.resend.len() > MAX_RESEND_RANGES {
            let end = self.resend[self.resend.len() - 1].end;
            self.resend.truncate(1);
            self.resend[0].end = end;
        }
    }

    /// The next packet to be sent again.
    pub(super) fn next_resend(&mut self) -> Option<Range<u32>> {
        let mut packet = self.packet_at(self.resend.first()?.start);
        let first = self.resend.first_mut()?;
        packet.end = packet.end.min(first.end);
        first.start = packet.end;
        if first.start >= first.end {
            self.resend.remove(0);
        }
        Some(packet)
    }

    /// Where the next packet to be sent again begins.
    pub(super) fn resend_start(&self) -> Option<u32> {
        self.resend.first().map(|range| range.start)
    }

    /// End of the range that is being sent again, for `incoming` of its packets.
    pub(super) fn resend_end(&self) -> Option<u32> {
        self.resend.first().map(|range| range.end)
    }

    /// The bytes of one packet, and more of them where they do not lie in one part of the rope.
    pub(super) fn bytes(&self, range: Range<u32>) -> (Bytes, Vec<Bytes>) {
        let at = self
            .rest
            .partition_point(|(start, _)| *start <= range.start);
        let (start, part) = match at.checked_sub(1) {
            Some(before) => (self.rest[before].0, &self.rest[before].1),
            None => (0, &self.first),
        };
        let from = (range.start - start) as usize;
        let len = range.len();
        if from + len <= part.len() {
            return (part.slice(from..from + len), Vec::new());
        }
        if len >= WORTH_SHARING {
            let rest = self.rest[at..]
                .iter()
                .take_while(|(start, _)| *start < range.end);
            if rest.clone().count() <= MAX_MORE {
                let more = |(start, part): &(u32, Bytes)| {
                    part.slice(..part.len().min((range.end - start) as usize))
                };
                return (part.slice(from..), rest.map(more).collect());
            }
        }
        let mut copy = BytesMut::with_capacity(len);
        copy.extend_from_slice(&part[from..]);
        for (_, part) in &self.rest[at..] {
            copy.extend_from_slice(&part[..part.len().min(len - copy.len())]);
            if copy.len() == len {
                break;
            }
        }
        (copy.freeze(), Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Payload = Payload {
        unscheduled: 10,
        scheduled: 10,
    };

    fn message(parts: &[usize]) -> OutMessage {
        let mut byte = 0u8;
        let message: Message = parts
            .iter()
            .map(|len| {
                (0..*len)
                    .map(|_| {
                        byte = byte.wrapping_add(1);
                        byte.wrapping_sub(1)
                    })
                    .collect::<Bytes>()
            })
            .collect();
        OutMessage::new(message, TEN, 25)
    }

    #[test]
    fn cuts_are_at_packets_and_at_the_unscheduled_limit() {
        let mut out = message(&[3, 50]);
        assert_eq!((out.length(), out.granted()), (53, 25));
        let packets: Vec<_> = std::iter::from_fn(|| out.next_packet()).collect();
        assert_eq!(packets, [0..10, 10..20, 20..25]);
        out.grant(20);
        assert_eq!(out.next_packet(), None);
        // A packet that starts below the grant is sent whole.
        out.grant(26);
        assert_eq!((out.next_packet(), out.next_packet()), (Some(25..35), None));
        out.grant(1000);
        assert_eq!(out.granted(), 53);
        let packets: Vec<_> = std::iter::from_fn(|| out.next_packet()).collect();
        assert_eq!(packets, [35..45, 45..53]);
        assert!(out.all_sent());
    }

    #[test]
    fn resends_use_the_original_cuts_and_stay_within_what_was_sent() {
        let mut out = message(&[53]);
        out.resend(0..u32::MAX, 7);
        assert_eq!(out.next_resend(), None);
        while out.next_packet().is_some() {}
        out.resend(21..22, 7);
        out.resend(3..11, 5);
        out.resend(24..u32::MAX, 6);
        assert_eq!(out.resend_end(), Some(25));
        let packets: Vec<_> = std::iter::from_fn(|| out.next_resend()).collect();
        assert_eq!(packets, [0..10, 10..20, 20..25]);
        out.grant(53);
        while out.next_packet().is_some() {}
        out.resend(5..6, 1);
        out.resend(50..51, 1);
        let packets: Vec<_> = std::iter::from_fn(|| out.next_resend()).collect();
        assert_eq!(packets, [0..10, 45..53]);
    }

    #[test]
    fn on_a_narrower_path_packets_go_in_pieces_within_the_original_cuts() {
        let mut out = message(&[53]);
        assert_eq!(out.next_packet(), Some(0..10));
        out.shrink_to(4);
        out.resend(0..10, 7);
        let again: Vec<_> = std::iter::from_fn(|| out.next_resend()).collect();
        assert_eq!(again, [0..4, 4..8, 8..10]);
        let first: Vec<_> = std::iter::from_fn(|| out.next_packet()).collect();
        assert_eq!(first, [10..14, 14..18, 18..20, 20..24, 24..25]);
        // A gap that a kernel reports is filled, and nothing around it.
        out.answer(Time::ZERO, 14..18, 7);
        out.shrink_to(3);
        let again: Vec<_> = std::iter::from_fn(|| out.next_resend()).collect();
        assert_eq!(again, [14..17, 17..18]);
        out.shrink_to(9);
        assert_eq!(
            out.packet_limit(52),
            3,
            "a path does not grow under a message"
        );
    }

    #[test]
    fn scheduled_packets_may_hold_more_than_unscheduled_ones() {
        let payload = Payload {
            unscheduled: 10,
            scheduled: 14,
        };
        let mut out = OutMessage::new(vec![0; 70].into(), payload, 25);
        out.grant(40);
        let packets: Vec<_> = std::iter::from_fn(|| out.next_packet()).collect();
        assert_eq!(packets, [0..10, 10..20, 20..25, 25..39, 39..53]);
        assert_eq!((out.packet_limit(24), out.packet_limit(25)), (10, 14));
        out.resend(24..40, 7);
        let again =
            |out: &mut OutMessage| -> Vec<_> { std::iter::from_fn(|| out.next_resend()).collect() };
        assert_eq!(again(&mut out), [20..25, 25..39, 39..53]);
        // A path between the two cuts the longer ones only.
        out.shrink_to(12);
        out.resend(24..40, 7);
        assert_eq!(again(&mut out), [20..25, 25..37, 37..39, 39..40]);
        out.grant(70);
        let packets: Vec<_> = std::iter::from_fn(|| out.next_packet()).collect();
        assert_eq!(packets, [53..65, 65..67, 67..70]);
        assert_eq!((out.packet_limit(24), out.packet_limit(25)), (10, 12));
    }

    #[test]
    fn a_peer_that_knows_nothing_gets_the_rest_again_as_it_grants() {
        let mut out = message(&[53]);
        out.grant(53);
        while out.next_packet().is_some() {}
        out.replay(Time::ZERO, 6);
        let packets =
            |out: &mut OutMessage| -> Vec<_> { std::iter::from_fn(|| out.next_resend()).collect() };
        let first = packets(&mut out);
        assert_eq!((first.len(), first[0].clone()), (1, 0..10));
        out.grant(10);
        assert_eq!(packets(&mut out), []);
        out.grant(40);
        assert_eq!(packets(&mut out), [10..20, 20..25, 25..35, 35..45]);
        out.grant(53);
        assert_eq!(packets(&mut out), [35..45, 45..53]);
        out.grant(53);
        assert_eq!(packets(&mut out), []);
    }

    #[test]
    fn what_was_asked_for_goes_once_in_a_millisecond() {
        let mut out = message(&[53]);
        out.grant(53);
        while out.next_packet().is_some() {}
        let mut asked = |micros, range| -> Vec<_> {
            let now = Time::ZERO + Duration::from_micros(micros);
            out.answer(now, range, 7);
            std::iter::from_fn(|| out.next_resend()).collect()
        };
        assert_eq!(asked(0, 12..22), [10..20, 20..25]);
        assert_eq!(asked(10, 12..22), []);
        assert_eq!(asked(20, 0..u32::MAX), [0..10, 25..35, 35..45, 45..53]);
        assert_eq!(asked(999, 0..53), []);
        assert_eq!(asked(1000, 0..53), [10..20, 20..25]);
        assert_eq!(asked(1020, 0..53), [0..10, 25..35, 35..45, 45..53]);
        // A clock that went back blocks nothing.
        assert_eq!(asked(0, 44..46), [35..45, 45..53]);
    }

    #[test]
    fn a_flood_of_resends_keeps_few_ranges() {
        let mut out = OutMessage::new(vec![0; 100_000].into(), TEN, 100_000);
        while out.next_packet().is_some() {}
        for offset in (0..100_000).step_by(30) {
            out.resend(offset..offset + 1, 0);
            out.answer(Time::ZERO, offset..offset + 1, 0);
            assert!(out.resend.len() <= MAX_RESEND_RANGES);
            assert!(out.answered.len() <= MAX_RESEND_RANGES);
        }
    }

    #[test]
    fn bytes_of_a_packet_may_span_parts() {
        let out = message(&[3, 4, 1, 50]);
        let expect: Vec<u8> = (0..58).collect();
        for range in [0..3u32, 0..10, 2..4, 3..7, 5..9, 57..58, 8..58] {
            let (bytes, more) = out.bytes(range.clone());
            assert!(more.is_empty());
            assert_eq!(
                bytes,
                expect[range.start as usize..range.end as usize],
                "{range:?}"
            );
        }
    }

    #[test]
    fn a_long_packet_shares_the_parts_it_crosses_if_they_are_few() {
        let few = message(&[3000, 1, 4000, 9000]);
        let many = message(&[700; 20]);
        for (out, len) in [(few, 16_001u32), (many, 14_000)] {
            let expect: Vec<u8> = (0..len).map(|at| at as u8).collect();
            for range in [0..5000, 2999..len, 10..4200, 10..len, 3001..8000] {
                let (bytes, more) = out.bytes(range.clone());
                assert!(more.len() <= MAX_MORE && more.iter().all(|more| !more.is_empty()));
                let joined = [vec![bytes], more].concat().concat();
                let expect = &expect[range.start as usize..range.end as usize];
                assert_eq!(joined, expect, "{range:?}");
            }
        }
        let out = message(&[3000, 1, 4000, 9000]);
        let (first, more) = out.bytes(10..4200);
        assert_eq!((first.len(), more.len()), (2990, 2));
        assert_eq!(more[1].as_ptr(), out.rest[1].1.as_ptr(), "shared");
    }
}
