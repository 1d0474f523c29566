//! [`Faulty`]: loses, damages, doubles, reorders and delays packets between engine and link.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use smallvec::smallvec;

use crate::engine::{Segment, Time, Transmit};
use crate::faults::{Faults, MILLION};
use crate::stats::FaultCounters;

/// Packets that are delayed at a time.
const MAX_DELAYED: usize = 4096;

/// Later packets that may overtake a reordered one.
const MAX_OVERTAKING: u64 = 8;

/// How long a reordered packet waits for those that are to overtake it.
const OVERTAKING_TIME: Duration = Duration::from_millis(1);

/// What [`Faults`] asks for, done to one endpoint's packets.
#[derive(Debug)]
pub(super) struct Faulty {
    faults: Faults,
    random: fastrand::Rng,
    /// Packets seen so far.
    seen: u64,
    /// By the time they leave, and then by order.
    delayed: BTreeMap<(Time, u64), Transmit>,
    /// Each is gone after [`MAX_OVERTAKING`] more packets, so there are never more than that.
    reordered: Vec<Reordered>,
    counters: FaultCounters,
}

#[derive(Debug)]
struct Reordered {
    /// Leaves after this packet …
    after: u64,
    /// … or at this time.
    latest: Time,
    packet: Transmit,
}

impl Faulty {
    /// `stream` tells those apart that share a seed.
    pub(super) fn new(faults: Faults, stream: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(faults.seed.wrapping_add(stream)),
            faults,
            seen: 0,
            delayed: BTreeMap::new(),
            reordered: Vec::new(),
            counters: FaultCounters::default(),
        }
    }

    pub(super) fn counters(&self) -> FaultCounters {
        self.counters.clone()
    }

    /// Decides on each packet of `transmit`; what leaves now goes to `out`, one packet per
    /// transmit: the link puts together again what may leave in one system call.
    pub(super) fn pass(&mut self, now: Time, transmit: Transmit, out: &mut Vec<Transmit>) {
        let Transmit {
            to,
            local,
            tos,
            segments,
        } = transmit;
        for segment in segments {
            let packet = Transmit {
                to,
                local,
                tos,
                segments: smallvec![segment],
            };
            self.pass_one(now, packet, out);
            self.seen += 1;
            self.release_overtaken(out);
        }
    }

    fn pass_one(&mut self, now: Time, mut packet: Transmit, out: &mut Vec<Transmit>) {
        if self.hits(self.faults.loss_ppm) {
            self.counters.lost += 1;
            return;
        }
        if self.hits(self.faults.corrupt_ppm) {
            self.counters.corrupted += 1;
            for segment in &mut packet.segments {
                self.damage(segment);
            }
        }
        if self.hits(self.faults.duplicate_ppm) {
            self.counters.duplicated += 1;
            out.push(packet.clone());
        }
        if self.hits(self.faults.reorder_ppm) {
            self.counters.reordered += 1;
            self.reordered.push(Reordered {
                after: self.seen + self.random.u64(1..=MAX_OVERTAKING),
                latest: now + OVERTAKING_TIME,
                packet,
            });
        } else if self.hits(self.faults.delay_ppm) && self.delayed.len() < MAX_DELAYED {
            self.counters.delayed += 1;
            let longest = self.faults.delay.as_nanos() as u64;
            let delay = Duration::from_nanos(self.random.u64(0..=longest));
            self.delayed.insert((now + delay, self.seen), packet);
        } else {
            out.push(packet);
        }
    }

    fn hits(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.random.u32(0..MILLION) < ppm
    }

    fn damage(&mut self, segment: &mut Segment) {
        let header_len = segment.header.len();
        let len = if self.faults.corrupt_headers_only {
            header_len
        } else {
            segment.len()
        };
        // A copy: the payload is shared with the message.
        let mut payload = segment.slices().skip(1).collect::<Vec<_>>().concat();
        for _ in 0..self.random.u32(1..=8) {
            let at = self.random.usize(0..len);
            let bit = 1 << self.random.u32(0..8);
            match at.checked_sub(header_len) {
                None => segment.header.as_mut()[at] ^= bit,
                Some(at) => payload[at] ^= bit,
            }
        }
        segment.payload = Bytes::from(payload);
        segment.more.clear();
    }

    fn release_overtaken(&mut self, out: &mut Vec<Transmit>) {
        let seen = self.seen;
        let overtaken = |held: &mut Reordered| held.after < seen;
        out.extend(
            self.reordered
                .extract_if(.., overtaken)
                .map(|held| held.packet),
        );
    }

    /// Moves packets whose time has come to `out`, at most `most` of those that were delayed.
    pub(super) fn release_due(&mut self, now: Time, most: usize, out: &mut Vec<Transmit>) {
        let due = |held: &mut Reordered| held.latest <= now;
        out.extend(self.reordered.extract_if(.., due).map(|held| held.packet));
        for _ in 0..most {
            let Some(first) = self.delayed.first_entry() else {
                return;
            };
            if first.key().0 > now {
                return;
            }
            out.push(first.remove());
        }
    }

    /// When the next packet that is held leaves.
    pub(super) fn next_due(&self) -> Option<Time> {
        let delayed = self.delayed.keys().next().map(|(at, _)| *at);
        let reordered = self.reordered.iter().map(|held| held.latest).min();
        delayed.into_iter().chain(reordered).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::wire::{Data, Header, Packet, Route};

    const PACKETS: usize = 20_000;

    fn set(change: impl FnOnce(&mut Faults)) -> Faulty {
        let mut faults = Faults::default();
        change(&mut faults);
        faults.check().unwrap();
        Faulty::new(faults, 0)
    }

    /// A run of equal packets and a short one at its end; offsets number the packets.
    fn run(first: usize, len: usize) -> Transmit {
        let route = Route {
            source_port: 40_000,
            dest_port: 4000,
            sender_id: 2,
            incarnation: 1,
        };
        let segment = |at: usize| Segment {
            header: Header::emit(&route, &Packet::Data(Data::new(at as u32, 1_000_000))),
            payload: vec![0; if at + 1 == first + len { 10 } else { 100 }].into(),
            more: Vec::new(),
        };
        Transmit {
            to: ([127, 0, 0, 1], 4000).into(),
            local: None,
            tos: 0,
            segments: (first..first + len).map(segment).collect(),
        }
    }

    /// Everything that comes out, at once or late, as (time, whole packet).
    fn pass_all(faulty: &mut Faulty) -> Vec<(Time, Vec<u8>)> {
        let mut out = Vec::new();
        let mut passed = Vec::new();
        let mut note = |now, out: &mut Vec<Transmit>| {
            for transmit in out.drain(..) {
                let [segment] = &transmit.segments[..] else {
                    panic!("{} packets", transmit.segments.len());
                };
                passed.push((now, segment.slices().collect::<Vec<_>>().concat()));
            }
        };
        let mut now = Time::ZERO;
        for first in (0..PACKETS).step_by(20) {
            faulty.pass(now, run(first, 20), &mut out);
            note(now, &mut out);
        }
        while let Some(due) = faulty.next_due() {
            assert!(due > now, "nothing is due that was not released");
            now = due;
            faulty.release_due(now, usize::MAX, &mut out);
            assert!(!out.is_empty());
            note(now, &mut out);
        }
        passed
    }

    /// The packet's number, which [`run`] has put into its offset.
    fn number(packet: &[u8]) -> u32 {
        let (_, Packet::Data(data)) = Packet::parse(Default::default(), packet).unwrap() else {
            panic!("not DATA");
        };
        data.offset()
    }

    #[test]
    fn a_rate_is_met_packet_by_packet_and_repeats_with_its_seed() {
        let lose = |faults: &mut Faults| faults.loss_ppm = 50_000;
        let mut faulty = set(lose);
        let passed = pass_all(&mut faulty);
        let lost = PACKETS - passed.len();
        // 1,000 are expected, with a standard deviation of 31.
        assert!((850..1150).contains(&lost), "{lost} lost");
        assert_eq!(faulty.counters().lost, lost as u64);
        assert_eq!(pass_all(&mut set(lose)), passed);
        let other = |faults: &mut Faults| (faults.loss_ppm, faults.seed) = (50_000, 2);
        assert_ne!(pass_all(&mut set(other)), passed);
    }

    #[test]
    fn duplicates_are_equal() {
        let mut faulty = set(|faults| faults.duplicate_ppm = MILLION);
        let passed = pass_all(&mut faulty);
        assert_eq!(passed.len(), 2 * PACKETS);
        assert!(passed.chunks(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn damage_is_done_to_a_copy_and_where_it_is_wanted() {
        let clean: Vec<Vec<u8>> = pass_all(&mut set(|_| {}))
            .into_iter()
            .map(|(_, packet)| packet)
            .collect();
        for headers_only in [true, false] {
            let mut faulty = set(|faults| {
                faults.corrupt_ppm = MILLION;
                faults.corrupt_headers_only = headers_only;
            });
            let damaged = pass_all(&mut faulty);
            let mut payloads_hit = 0;
            for ((_, damaged), clean) in damaged.iter().zip(&clean) {
                assert_eq!(damaged.len(), clean.len());
                let header = crate::engine::wire::DATA_HEADER_LEN;
                payloads_hit += usize::from(damaged[header..] != clean[header..]);
            }
            assert_eq!(payloads_hit == 0, headers_only);
        }
        let message = Bytes::from(vec![7; 100]);
        let mut transmit = run(0, 1);
        transmit.segments[0].payload = message.clone();
        let mut faulty = set(|faults| faults.corrupt_ppm = MILLION);
        faulty.pass(Time::ZERO, transmit, &mut Vec::new());
        assert_eq!(message, vec![7; 100], "the message itself is whole");
    }

    #[test]
    fn reordered_packets_are_overtaken_by_at_most_eight() {
        let mut faulty = set(|faults| faults.reorder_ppm = 200_000);
        let passed = pass_all(&mut faulty);
        let numbers: Vec<u32> = passed.iter().map(|(_, packet)| number(packet)).collect();
        assert_eq!(numbers.len(), PACKETS);
        let late = |at: usize| {
            (0..at)
                .filter(|&before| numbers[before] > numbers[at])
                .count()
        };
        let overtaken: Vec<usize> = (0..2000).map(late).filter(|&count| count > 0).collect();
        assert!((250..550).contains(&overtaken.len()), "{}", overtaken.len());
        assert!(overtaken.iter().all(|&count| count <= 8));
    }

    #[test]
    fn a_reordered_packet_that_nobody_follows_leaves_after_a_while() {
        let mut faulty = set(|faults| faults.reorder_ppm = MILLION);
        let mut out = Vec::new();
        faulty.pass(Time::ZERO, run(0, 1), &mut out);
        assert!(out.is_empty());
        assert_eq!(faulty.next_due(), Some(Time::ZERO + OVERTAKING_TIME));
        faulty.release_due(Time::ZERO + OVERTAKING_TIME, 64, &mut out);
        assert_eq!((out.len(), faulty.next_due()), (1, None));
    }

    #[test]
    fn delays_have_a_limit_and_so_has_their_queue() {
        let longest = Duration::from_millis(30);
        let mut faulty = set(|faults| {
            faults.delay_ppm = MILLION;
            faults.delay = longest;
        });
        let passed = pass_all(&mut faulty);
        assert_eq!(passed.len(), PACKETS);
        assert_eq!(faulty.counters().delayed, MAX_DELAYED as u64);
        let at_once = passed.iter().filter(|(at, _)| *at == Time::ZERO).count();
        assert_eq!(at_once, PACKETS - MAX_DELAYED);
        let last = passed.last().unwrap().0;
        assert!(last > Time::ZERO + longest / 2 && last <= Time::ZERO + longest);
    }
}
