//! Which priority level a packet gets (`homa-protocol` C.5).

use std::time::Duration;

use super::cutoffs::{Split, Traffic};
use super::outgoing::Payload;
use super::pacer;
use super::settings::{Settings, UnschedCutoffs};
use super::time::Time;
use super::wire::{Cutoffs, DATA_HEADER_LEN};

/// The longest messages of the kernel module, which uses this as "all of them".
const ALL_MESSAGES: u32 = 1_000_000;

/// The table is computed anew at most this often, ...
const INTERVAL: Duration = Duration::from_millis(500);

/// ... and from at least so many messages.
const MIN_MESSAGES: u32 = 1000;

/// What a packet occupies besides its payload: Homa's header, and those around it.
pub(super) const PACKET_OVERHEAD: u32 = DATA_HEADER_LEN as u32 + pacer::OVERHEAD as u32;

/// The table that a receiver announces: unscheduled levels by message length, the rest for
/// scheduled packets.
#[derive(Debug)]
pub(super) struct Priorities {
    split: Split,
    payload: Payload,
    cutoffs: Cutoffs,
    max_scheduled: u8,
    /// Longer than any message.
    all: u32,
    /// What has arrived, if the table is to follow it.
    traffic: Option<Box<Traffic>>,
}

impl Priorities {
    pub(super) fn new(settings: &Settings) -> Self {
        let split = Split::new(settings);
        let levels = split.levels();
        let longest = u32::try_from(settings.max_message_bytes).unwrap_or(u32::MAX);
        let all = longest.max(ALL_MESSAGES);
        let mut priorities = Self {
            split,
            payload: Payload::of(settings),
            cutoffs: Cutoffs {
                lengths: [0; 8],
                version: 1,
            },
            max_scheduled: 0,
            all,
            traffic: None,
        };
        match settings.unsched_cutoffs {
            UnschedCutoffs::Fixed(mut lengths) => {
                lengths[usize::from(levels)..].fill(0);
                for length in lengths.iter_mut().filter(|length| **length >= longest) {
                    *length = all;
                }
                priorities.use_table(lengths);
            }
            UnschedCutoffs::Default => priorities.use_table(split.default_table(all)),
            UnschedCutoffs::Learned => {
                priorities.use_table(split.default_table(all));
                // With two levels there is one of each kind, and nothing to choose.
                priorities.traffic = (levels > 2).then(Box::default);
            }
        }
        priorities
    }

    /// The highest level that takes every message is the lowest unscheduled one (C.5).
    fn use_table(&mut self, mut lengths: [u32; 8]) {
        let lowest = (1..8).rev().find(|level| lengths[*level] >= self.all);
        self.max_scheduled = lowest.unwrap_or(0).saturating_sub(1) as u8;
        // On the wire the kernel sends its INT_MAX; every receiver forces this entry anyway.
        lengths[0] = i32::MAX as u32;
        self.cutoffs.lengths = lengths;
    }

    /// A message of `length` bytes has arrived, of which the first `unscheduled` came unasked. Its
    /// sender is taken to choose levels by the same `rule`.
    pub(super) fn received(&mut self, now: Time, rule: LevelRule, length: u32, unscheduled: u32) {
        let Some(traffic) = &mut self.traffic else {
            return;
        };
        traffic.add(rule, self.payload, length, unscheduled);
        if traffic.fresh < MIN_MESSAGES || now.since(traffic.since) < INTERVAL {
            return;
        }
        let lengths = traffic.table(self.split, self.all);
        traffic.since = now;
        traffic.decay();
        if differ(&lengths, &self.cutoffs.lengths) {
            self.use_table(lengths);
            // 0 says that no table was ever received.
            self.cutoffs.version = self.cutoffs.version.checked_add(1).unwrap_or(1);
        }
    }

    /// What CUTOFFS announces.
    pub(super) fn cutoffs(&self) -> Cutoffs {
        self.cutoffs
    }

    /// The highest level for scheduled packets.
    pub(super) fn max_scheduled(&self) -> u8 {
        self.max_scheduled
    }

    /// Level of control packets and of ordinary RESENDs.
    pub(super) fn control(&self) -> u8 {
        self.split.levels() - 1
    }

    /// Level for what asks out of turn: one below the highest, if there are that many.
    pub(super) fn second(&self) -> u8 {
        self.split.levels().saturating_sub(2)
    }

    /// Level for the scheduled packets of the message at `rank` among `active` ones: with few
    /// messages the lowest levels, so that a shorter one that comes can be put above.
    pub(super) fn scheduled(&self, rank: usize, active: usize) -> u8 {
        let top = usize::from(self.max_scheduled);
        top.saturating_sub(rank + (top + 1).saturating_sub(active)) as u8
    }
}

/// Whether a new table is worth telling all peers: another number of unscheduled levels, or a
/// boundary that moves by a quarter.
fn differ(new: &[u32; 8], old: &[u32; 8]) -> bool {
    (1..8).any(|level| {
        let (new, old) = (new[level], old[level]);
        (new == 0) != (old == 0) || new.abs_diff(old) > old / 4
    })
}

/// By which size packets of first transmissions find their level.
#[derive(Clone, Copy, Debug)]
pub(super) struct LevelRule {
    by_remaining: bool,
    /// So many bytes at the end of a message are raised.
    tail: u32,
}

impl LevelRule {
    pub(super) fn new(settings: &Settings, rtt_bytes: usize) -> Self {
        Self {
            by_remaining: settings.unsched_by_remaining,
            tail: if settings.boost_tail {
                rtt_bytes as u32
            } else {
                0
            },
        }
    }

    /// The size that counts for the packet at `offset` of a message of `length` bytes, with which
    /// it has the level of unscheduled packets, or at least that level; `None`: it has the level
    /// that was granted.
    pub(super) fn size(self, offset: u32, unscheduled: u32, length: u32) -> Option<u32> {
        let remaining = length - offset;
        if offset >= unscheduled {
            (remaining <= self.tail).then_some(remaining)
        } else if self.by_remaining {
            Some(remaining)
        } else {
            Some(length)
        }
    }

    /// Tells of all bytes of a message the size that counts for them, and how many they are. With
    /// what their packets occupy besides: it is time on the link that levels share, and of short
    /// messages most is headers. Levels with equal payload make the tail of W2's longest tenth
    /// 1.4 times as long in the simulator.
    pub(super) fn shares(
        self,
        payload: Payload,
        length: u32,
        unscheduled: u32,
        mut tell: impl FnMut(Option<u32>, u32),
    ) {
        let unscheduled = unscheduled.min(length);
        let cut = |offset| payload.packet_at(offset, unscheduled, length).end;
        let mut offset = 0;
        while offset < length {
            let size = self.size(offset, unscheduled, length);
            let end = match size {
                Some(_) if offset < unscheduled && !self.by_remaining => unscheduled,
                Some(_) => cut(offset),
                // The first packet that begins within the tail is the one after this byte's.
                None => cut(length - self.tail - 1),
            };
            let full = if offset < unscheduled {
                payload.unscheduled
            } else {
                payload.scheduled
            };
            let packets = (end - offset).div_ceil(full);
            tell(size, end - offset + packets * PACKET_OVERHEAD);
            offset = end;
        }
    }
}

/// Level of the unscheduled packets of a message of `length` bytes, by the table of its receiver.
pub(super) fn unscheduled(cutoffs: &[u32; 8], levels: u8, length: u32) -> u8 {
    (1..levels)
        .rev()
        .find(|&level| cutoffs[usize::from(level)] >= length)
        .unwrap_or(0)
}

/// What is assumed of a receiver that has not announced its table: level 6 for everything
/// (statement 45).
pub(super) const UNKNOWN_CUTOFFS: [u32; 8] = [u32::MAX, 0, 0, 0, 0, 0, u32::MAX, 0];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::Random;

    fn by_length() -> LevelRule {
        let settings = Settings {
            boost_tail: false,
            ..Settings::default()
        };
        LevelRule::new(&settings, UNSCHEDULED as usize)
    }

    fn with_levels(num_priorities: u8) -> Priorities {
        Priorities::new(&Settings {
            num_priorities,
            ..Settings::default()
        })
    }

    #[test]
    fn the_defaults_are_the_kernels() {
        let priorities = with_levels(8);
        assert_eq!(
            priorities.cutoffs().lengths,
            [i32::MAX as u32, 0, 0, 0, 1_000_000, 15_000, 2800, 200]
        );
        assert_eq!(priorities.max_scheduled, 3);
        let level = |length| unscheduled(&priorities.cutoffs().lengths, 8, length);
        assert_eq!(
            [
                1, 200, 201, 2800, 2801, 15_000, 15_001, 1_000_000, 1_000_001
            ]
            .map(level),
            [7, 7, 6, 6, 5, 5, 4, 4, 0]
        );
    }

    #[test]
    fn scheduled_levels_start_from_the_bottom() {
        let priorities = with_levels(8);
        assert_eq!(priorities.scheduled(0, 1), 0);
        assert_eq!([0, 1].map(|rank| priorities.scheduled(rank, 2)), [1, 0]);
        assert_eq!(
            [0, 1, 2, 3, 4].map(|rank| priorities.scheduled(rank, 5)),
            [3, 2, 1, 0, 0]
        );
        assert_eq!(
            [8, 3, 2, 1].map(|levels| with_levels(levels).second()),
            [6, 1, 0, 0]
        );
    }

    #[test]
    fn any_number_of_levels_covers_every_length() {
        for levels in 1..=8 {
            let mut priorities = with_levels(levels);
            for learned in [false, true] {
                if learned {
                    learn(&mut priorities, &W3, 1);
                }
                let lengths = priorities.cutoffs().lengths;
                for length in [1, 200, 15_000, 1_000_000] {
                    assert!(unscheduled(&lengths, levels, length) < levels);
                }
                let long = unscheduled(&lengths, levels, 1_000_000);
                assert!(levels == 1 || long > priorities.max_scheduled, "{levels}");
                assert!(unscheduled(&lengths, levels, 1) >= long);
            }
        }
        assert_eq!(unscheduled(&UNKNOWN_CUTOFFS, 8, 5), 6);
    }

    #[test]
    fn fixed_cutoffs_split_the_levels_as_the_kernel_does() {
        let fixed = |lengths| {
            Priorities::new(&Settings {
                unsched_cutoffs: UnschedCutoffs::Fixed(lengths),
                num_priorities: 7,
                ..Settings::default()
            })
        };
        let mut priorities = fixed([0, 0, 0, 2_000_000, 9000, 800, 100, 50]);
        assert_eq!(priorities.max_scheduled, 2);
        assert_eq!(priorities.cutoffs.lengths[4..], [9000, 800, 100, 0]);
        learn(&mut priorities, &W1, 2);
        assert_eq!(priorities.cutoffs.version, 1, "fixed is fixed");
        // Nothing takes all: level 0 does, together with all that is scheduled.
        assert_eq!(fixed([0, 0, 0, 0, 9000, 800, 100, 50]).max_scheduled, 0);
    }

    /// Sizes of workloads W1, W3 and W5 at every twentieth of their messages, from the tables of
    /// HomaModule's `util/dist.cc`, up to 1,000,000.
    const W1: [u32; 20] = [
        8, 8, 8, 8, 8, 8, 10, 11, 14, 17, 39, 65, 95, 131, 175, 235, 306, 422, 618, 1210,
    ];
    const W3: [u32; 20] = [
        8, 32, 46, 70, 85, 96, 128, 146, 186, 228, 282, 296, 331, 375, 433, 512, 717, 1189, 2979,
        11196,
    ];
    const W5: [u32; 20] = [
        1430, 4290, 7150, 14700, 22050, 26460, 33810, 44100, 54390, 66150, 77910, 154350, 392490,
        784980, 1000000, 1000000, 1000000, 1000000, 1000000, 1000000,
    ];

    const UNSCHEDULED: u32 = 40_000;

    /// 20,000 messages in 20 s.
    fn learn(priorities: &mut Priorities, sizes: &[u32; 20], seed: u64) {
        let start = priorities.traffic.as_ref().map_or(Time::ZERO, |t| t.since);
        let mut random = Random::new(seed);
        for message in 0..20_000 {
            let size = sizes[random.below(20) as usize];
            let now = start + Duration::from_millis(message);
            priorities.received(now, by_length(), size, size.min(UNSCHEDULED));
        }
    }

    /// What the unscheduled parts occupy on each level, in per mille.
    fn shares(priorities: &Priorities, sizes: &[u32; 20]) -> [u64; 8] {
        let mut bytes = [0; 8];
        for size in sizes {
            let level = unscheduled(
                &priorities.cutoffs.lengths,
                priorities.split.levels(),
                *size,
            );
            let unscheduled = *size.min(&UNSCHEDULED);
            let headers = unscheduled.div_ceil(1416) * PACKET_OVERHEAD;
            bytes[usize::from(level)] += u64::from(unscheduled + headers);
        }
        let total: u64 = bytes.iter().sum();
        bytes.map(|bytes| bytes * 1000 / total)
    }

    #[test]
    fn short_messages_get_all_levels_but_one() {
        let mut priorities = with_levels(8);
        learn(&mut priorities, &W1, 3);
        let cutoffs = priorities.cutoffs();
        println!("W1: {cutoffs:?}, {:?}", shares(&priorities, &W1));
        assert_eq!(priorities.max_scheduled, 0);
        assert_eq!(cutoffs.lengths[1], 1_000_000);
        assert!(cutoffs.lengths[1..].is_sorted_by(|low, high| low >= high));
        // Six of the twenty sizes are of 8 bytes.
        assert!((8..20).contains(&cutoffs.lengths[7]), "{cutoffs:?}");
        // As even as twenty sizes can be.
        let shares = shares(&priorities, &W1);
        assert!(
            shares[6..].iter().all(|share| (70..250).contains(share)),
            "{shares:?}"
        );
    }

    #[test]
    fn long_messages_get_all_levels_but_one_for_what_is_scheduled() {
        let mut priorities = with_levels(8);
        learn(&mut priorities, &W5, 4);
        let cutoffs = priorities.cutoffs();
        println!("W5: {cutoffs:?}, {:?}", shares(&priorities, &W5));
        assert_eq!(priorities.max_scheduled, 6);
        assert_eq!(cutoffs.lengths[1..], [0, 0, 0, 0, 0, 0, 1_000_000]);
    }

    #[test]
    fn each_level_gets_an_equal_share() {
        let mut priorities = with_levels(8);
        // Evenly from 1 to 40,000 bytes: a third of the bytes is below 23,094, two below 32,660.
        let mut random = Random::new(5);
        for message in 0..20_000 {
            let size = random.below(40_000) as u32 + 1;
            // As much again is scheduled.
            let now = Time::ZERO + Duration::from_millis(message);
            priorities.received(now, by_length(), 2 * size, size);
        }
        assert_eq!(priorities.max_scheduled, 3);
        let boundaries = &priorities.cutoffs.lengths[5..];
        println!("{boundaries:?}");
        for (boundary, share) in boundaries.iter().zip([0.75f64, 0.5, 0.25]) {
            let exact = 80_000.0 * share.sqrt();
            let off = f64::from(*boundary) / exact;
            assert!((0.9..1.1).contains(&off), "{boundary}, not {exact}");
        }
    }

    /// New tables cost a packet per peer, so they come seldom, and only if they matter.
    #[test]
    fn the_table_follows_the_traffic_and_not_its_noise() {
        let mut priorities = with_levels(8);
        for message in 0..MIN_MESSAGES - 1 {
            priorities.received(Time::ZERO + INTERVAL, by_length(), 100 + message, 100);
        }
        assert_eq!(priorities.cutoffs().version, 1, "too few messages");
        for millis in 0..500 {
            let now = Time::ZERO + Duration::from_millis(millis);
            priorities.received(now, by_length(), 100, 100);
        }
        assert_eq!(priorities.cutoffs().version, 1, "too early");
        priorities.received(Time::ZERO + INTERVAL, by_length(), 100, 100);
        assert_eq!(priorities.cutoffs().version, 2);

        let mut priorities = with_levels(8);
        learn(&mut priorities, &W3, 6);
        let settled = priorities.cutoffs();
        learn(&mut priorities, &W3, 7);
        // Of 20 looks at 1,000 messages each, of which 50 hold two thirds of the bytes.
        let noise = priorities.cutoffs().version - settled.version;
        learn(&mut priorities, &W5, 8);
        let changed = priorities.cutoffs();
        assert_ne!(changed.lengths, settled.lengths);
        let changes = changed.version - settled.version - noise;
        println!("{noise} new tables for the same traffic, {changes} when it changed");
        assert!(noise <= 4 && (1..=8).contains(&changes));
        // W5 has 2,700 times the bytes of W1, which takes a while to forget.
        priorities.cutoffs.version = u16::MAX;
        learn(&mut priorities, &W1, 9);
        learn(&mut priorities, &W1, 10);
        assert!(
            (1..20).contains(&priorities.cutoffs().version),
            "0 is skipped"
        );
    }
}
