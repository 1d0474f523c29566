//! Which priority level a packet gets (`homa-protocol` C.5).

use std::time::Duration;

use super::settings::{Settings, UnschedCutoffs};
use super::time::Time;
use super::wire::Cutoffs;

/// The longest messages of the kernel module, which uses this as "all of them".
const ALL_MESSAGES: u32 = 1_000_000;

/// The table is computed anew at most this often, ...
const INTERVAL: Duration = Duration::from_millis(500);

/// ... and from at least so many messages.
const MIN_MESSAGES: u32 = 1000;

/// The table that a receiver announces: unscheduled levels by message length, the rest for
/// scheduled packets.
#[derive(Debug)]
pub(super) struct Priorities {
    levels: u8,
    cutoffs: Cutoffs,
    max_scheduled: u8,
    /// Longer than any message.
    all: u32,
    /// What has arrived, if the table is to follow it.
    traffic: Option<Box<Traffic>>,
}

impl Priorities {
    pub(super) fn new(settings: &Settings) -> Self {
        let levels = settings.num_priorities.clamp(1, 8);
        let longest = u32::try_from(settings.max_message_bytes).unwrap_or(u32::MAX);
        let all = longest.max(ALL_MESSAGES);
        let mut priorities = Self {
            levels,
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
            UnschedCutoffs::Default => priorities.use_table(default_table(levels, all)),
            UnschedCutoffs::Learned => {
                priorities.use_table(default_table(levels, all));
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

    /// A message of `length` bytes has arrived, of which the first `unscheduled` came unasked.
    pub(super) fn received(&mut self, now: Time, length: u32, unscheduled: u32) {
        let Some(traffic) = &mut self.traffic else {
            return;
        };
        traffic.add(length, unscheduled);
        if traffic.fresh < MIN_MESSAGES || now.since(traffic.since) < INTERVAL {
            return;
        }
        let lengths = traffic.table(self.levels, self.all);
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
        self.levels - 1
    }

    /// Level for what asks out of turn: one below the highest, if there are that many.
    pub(super) fn second(&self) -> u8 {
        self.levels.saturating_sub(2)
    }

    /// Level for the scheduled packets of the message at `rank` among `active` ones: with few
    /// messages the lowest levels, so that a shorter one that comes can be put above.
    pub(super) fn scheduled(&self, rank: usize, active: usize) -> u8 {
        let top = usize::from(self.max_scheduled);
        top.saturating_sub(rank + (top + 1).saturating_sub(active)) as u8
    }
}

/// HomaModule's defaults; with fewer levels, the upper half is for unscheduled packets and takes as
/// many of the kernel's boundaries, from the longest down, as it has levels.
fn default_table(levels: u8, all: u32) -> [u32; 8] {
    let mut lengths = [0; 8];
    let lowest = levels - levels / 2;
    for (level, boundary) in (lowest..levels).zip([all, 15_000, 2800, 200]) {
        lengths[usize::from(level)] = boundary;
    }
    lengths
}

/// Whether a new table is worth telling all peers: another number of unscheduled levels, or a
/// boundary that moves by a quarter.
fn differ(new: &[u32; 8], old: &[u32; 8]) -> bool {
    (1..8).any(|level| {
        let (new, old) = (new[level], old[level]);
        (new == 0) != (old == 0) || new.abs_diff(old) > old / 4
    })
}

/// Sub-ranges per doubling of the length, as a power of two: boundaries are exact to 6 %.
const STEP_BITS: u32 = 4;
const STEPS: u32 = 1 << STEP_BITS;

/// Ranges for the lengths up to 2^32.
const RANGES: usize = (STEPS * (33 - STEP_BITS)) as usize;

/// What has arrived counts by one in so many less after every look at the table: the last few
/// seconds decide, since 1,000 messages alone are a noisy sample of a few long ones.
const DECAY: u64 = 4;

/// Bytes that have arrived, by the length of their messages on a logarithmic scale.
#[derive(Debug)]
struct Traffic {
    unscheduled: [u64; RANGES],
    scheduled: u64,
    /// Messages since the last look.
    fresh: u32,
    /// When that was.
    since: Time,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            unscheduled: [0; RANGES],
            scheduled: 0,
            fresh: 0,
            since: Time::ZERO,
        }
    }
}

impl Traffic {
    fn add(&mut self, length: u32, unscheduled: u32) {
        let unscheduled = unscheduled.min(length);
        self.unscheduled[range_of(length)] += u64::from(unscheduled);
        self.scheduled += u64::from(length - unscheduled);
        self.fresh += 1;
    }

    fn decay(&mut self) {
        for bytes in &mut self.unscheduled {
            *bytes -= *bytes / DECAY;
        }
        self.scheduled -= self.scheduled / DECAY;
        self.fresh = 0;
    }

    /// The levels are split in proportion to bytes, at least one for each kind, and the unscheduled
    /// ones get equal shares of the unscheduled bytes (C.5).
    fn table(&self, levels: u8, all: u32) -> [u32; 8] {
        let unscheduled: u64 = self.unscheduled.iter().sum();
        let total = (unscheduled + self.scheduled).max(1);
        let share = (u64::from(levels) * unscheduled + total / 2) / total;
        let number = share.clamp(1, u64::from(levels) - 1);
        let mut lengths = [0; 8];
        let mut level = usize::from(levels);
        let (mut range, mut below) = (0, 0);
        for part in 1..number {
            let target = unscheduled * part / number;
            // Up to the end that comes nearest.
            while range < RANGES && below + self.unscheduled[range] / 2 < target {
                below += self.unscheduled[range];
                range += 1;
            }
            level -= 1;
            lengths[level] = range.checked_sub(1).map_or(0, last_of).min(all - 1);
        }
        lengths[level - 1] = all;
        lengths
    }
}

/// The range that messages of this length belong to. Short ones have a range for each length.
fn range_of(length: u32) -> usize {
    let doublings = (length | (STEPS - 1)).ilog2() + 1 - STEP_BITS;
    let in_doubling = if doublings == 0 {
        length
    } else {
        (length >> (doublings - 1)) - STEPS
    };
    (doublings * STEPS + in_doubling) as usize
}

/// The longest length in a range.
fn last_of(range: usize) -> u32 {
    let (doublings, step) = (range as u32 / STEPS, range as u32 % STEPS);
    if doublings == 0 {
        return step;
    }
    let end = u64::from(STEPS + step + 1) << (doublings - 1);
    (end - 1) as u32
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
            priorities.received(now, size, size.min(UNSCHEDULED));
        }
    }

    /// Bytes of the unscheduled parts on each level, in per mille.
    fn shares(priorities: &Priorities, sizes: &[u32; 20]) -> [u64; 8] {
        let mut bytes = [0; 8];
        for size in sizes {
            let level = unscheduled(&priorities.cutoffs.lengths, priorities.levels, *size);
            bytes[usize::from(level)] += u64::from(*size.min(&UNSCHEDULED));
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
        assert!((100..400).contains(&cutoffs.lengths[7]), "{cutoffs:?}");
        // As even as twenty sizes, of which one has 36 % of the bytes, can be.
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
            priorities.received(now, 2 * size, size);
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
            priorities.received(Time::ZERO + INTERVAL, 100 + message, 100);
        }
        assert_eq!(priorities.cutoffs().version, 1, "too few messages");
        for millis in 0..500 {
            let now = Time::ZERO + Duration::from_millis(millis);
            priorities.received(now, 100, 100);
        }
        assert_eq!(priorities.cutoffs().version, 1, "too early");
        priorities.received(Time::ZERO + INTERVAL, 100, 100);
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

    #[test]
    fn ranges_are_in_order_and_fine() {
        let mut range = 0;
        for length in (1..5000).chain([40_000, 1_000_000, 32_000_000, u32::MAX]) {
            let next = range_of(length);
            assert!(next >= range && next < RANGES, "{length}");
            range = next;
            let end = last_of(range);
            assert!(end >= length && range_of(end) == range, "{length}: {end}");
            assert!(end - length <= length / STEPS, "{length}: {end}");
        }
    }
}
