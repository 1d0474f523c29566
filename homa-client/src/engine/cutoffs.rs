//! How the unscheduled levels are shared out: equal bytes on each (`homa-protocol` C.5). The bytes
//! are those that have arrived ([`Traffic`]), or those of lengths that are known beforehand.

use std::collections::BTreeMap;

use super::outgoing::Payload;
use super::priority::LevelRule;
use super::rtt_bytes;
use super::settings::{Settings, UnschedCutoffs};
use super::time::Time;
use crate::ConfigError;

impl UnschedCutoffs {
    /// The table at which [`UnschedCutoffs::Learned`] arrives where messages of these lengths
    /// come, each with its weight: a number or a share of messages. It is exact, whereas learned
    /// lengths are to 6 %. Everything else is taken from `settings`: peers have the same, and of a
    /// message `unsched_bytes` are unscheduled (40,000 where that is self-tuned).
    ///
    /// The error names what is out of range in `settings`, or a length that is not 1 to
    /// `max_message_bytes`, or weights that are negative, not finite or zero together.
    ///
    /// ```
    /// use homa_client::engine::{Settings, UnschedCutoffs};
    ///
    /// let mut settings = Settings::default();
    /// let lengths = [(100, 0.8), (1000, 0.1), (10_000, 0.1)];
    /// settings.unsched_cutoffs = UnschedCutoffs::for_lengths(&settings, lengths)?;
    /// # Ok::<(), homa_client::ConfigError>(())
    /// ```
    pub fn for_lengths(
        settings: &Settings,
        lengths: impl IntoIterator<Item = (usize, f64)>,
    ) -> Result<Self, ConfigError> {
        settings.check()?;
        let rtt_bytes = settings.unsched_bytes.unwrap_or(rtt_bytes::DEFAULT);
        let rule = LevelRule::new(settings, rtt_bytes);
        let payload = Payload::of(settings);
        let mut unscheduled: BTreeMap<u32, f64> = BTreeMap::new();
        let (mut scheduled, mut weights) = (0.0, 0.0);
        for (length, weight) in lengths {
            if length == 0 || length > settings.max_message_bytes {
                return Err(ConfigError {
                    key: "length",
                    value: length.to_string(),
                    range: "1 to max_message_bytes",
                });
            }
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(ConfigError {
                    key: "weight",
                    value: weight.to_string(),
                    range: "finite, and 0 or more",
                });
            }
            weights += weight;
            let unasked = length.min(rtt_bytes) as u32;
            rule.shares(payload, length as u32, unasked, |size, bytes| {
                let bytes = weight * f64::from(bytes);
                match size {
                    Some(size) => *unscheduled.entry(size).or_default() += bytes,
                    None => scheduled += bytes,
                }
            });
        }
        if weights == 0.0 {
            return Err(ConfigError {
                key: "lengths",
                value: "none".into(),
                range: "at least one length with a weight above 0",
            });
        }
        let by_size = unscheduled.iter().map(|(size, bytes)| (*size, *bytes));
        let split = Split::new(settings);
        let longest = settings.max_message_bytes as u32;
        let mut table = split.table(by_size, scheduled, longest);
        // Below the lowest unscheduled level, too, no entry may be smaller than the next.
        table
            .iter_mut()
            .take_while(|length| **length == 0)
            .for_each(|length| *length = longest);
        Ok(Self::Fixed(table))
    }
}

/// How many levels there are for each kind of packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    levels: u8,
    /// Those for scheduled packets; `None`: in proportion to bytes.
    scheduled: Option<u8>,
}

impl Split {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            levels: settings.num_priorities.clamp(1, 8),
            scheduled: settings.scheduled_levels,
        }
    }

    pub(super) fn levels(self) -> u8 {
        self.levels
    }

    /// The unscheduled levels, at least one for each kind, of so many bytes.
    fn unscheduled(self, unscheduled: f64, scheduled: f64) -> u8 {
        let wanted = match self.scheduled {
            Some(scheduled) => self.levels.saturating_sub(scheduled),
            None => {
                let share = unscheduled / (unscheduled + scheduled).max(f64::MIN_POSITIVE);
                (f64::from(self.levels) * share).round() as u8
            }
        };
        wanted.clamp(1, self.levels.max(2) - 1)
    }

    /// HomaModule's defaults, as many of the boundaries as there are unscheduled levels, from the
    /// longest down. Unless it is set, the lower half of the levels is for scheduled packets.
    pub(super) fn default_table(self, all: u32) -> [u32; 8] {
        let unscheduled = self.scheduled.map_or(self.levels / 2, |scheduled| {
            self.levels.saturating_sub(scheduled).max(1)
        });
        let lowest = self.levels - unscheduled;
        let mut lengths = [0; 8];
        for (level, boundary) in (lowest..self.levels).zip([all, 15_000, 2800, 200]) {
            lengths[usize::from(level)] = boundary;
        }
        lengths
    }

    /// The levels are split in proportion to bytes, at least one for each kind, and the unscheduled
    /// ones get equal shares of the bytes `by_size` (C.5). `all` is longer than any message.
    fn table(
        self,
        by_size: impl Iterator<Item = (u32, f64)> + Clone,
        scheduled: f64,
        all: u32,
    ) -> [u32; 8] {
        let unscheduled: f64 = by_size.clone().map(|(_, bytes)| bytes).sum();
        let number = self.unscheduled(unscheduled, scheduled);
        let mut lengths = [0; 8];
        let mut level = usize::from(self.levels);
        let mut by_size = by_size.peekable();
        let (mut longest, mut below) = (0, 0.0);
        for part in 1..number {
            let target = unscheduled * f64::from(part) / f64::from(number);
            // Up to the end that comes nearest.
            while let Some((size, bytes)) =
                by_size.next_if(|(_, bytes)| below + bytes / 2.0 < target)
            {
                below += bytes;
                longest = size;
            }
            level -= 1;
            lengths[level] = longest.min(all - 1);
        }
        lengths[level - 1] = all;
        lengths
    }
}

/// Sub-ranges per doubling of the length, as a power of two: boundaries are exact to 6 %.
const STEP_BITS: u32 = 4;
const STEPS: u32 = 1 << STEP_BITS;

/// Ranges for the lengths up to 2^32.
const RANGES: usize = (STEPS * (33 - STEP_BITS)) as usize;

/// What has arrived counts by one in so many less after every look at the table: the last few
/// seconds decide, since 1,000 messages alone are a noisy sample of a few long ones.
const DECAY: u64 = 4;

/// Bytes that have arrived, by the size that their level follows from, on a logarithmic scale.
#[derive(Debug)]
pub(super) struct Traffic {
    unscheduled: [u64; RANGES],
    scheduled: u64,
    /// Messages since the last look.
    pub(super) fresh: u32,
    /// When that was.
    pub(super) since: Time,
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
    /// A message has arrived.
    pub(super) fn add(&mut self, rule: LevelRule, payload: Payload, length: u32, unscheduled: u32) {
        rule.shares(payload, length, unscheduled, |size, bytes| match size {
            Some(size) => self.unscheduled[range_of(size)] += u64::from(bytes),
            None => self.scheduled += u64::from(bytes),
        });
        self.fresh += 1;
    }

    pub(super) fn decay(&mut self) {
        for bytes in &mut self.unscheduled {
            *bytes -= *bytes / DECAY;
        }
        self.scheduled -= self.scheduled / DECAY;
        self.fresh = 0;
    }

    pub(super) fn table(&self, split: Split, all: u32) -> [u32; 8] {
        let by_size = self.unscheduled.iter().enumerate();
        let by_size = by_size.map(|(range, bytes)| (last_of(range), *bytes as f64));
        split.table(by_size, self.scheduled as f64, all)
    }
}

/// The range that packets of this size belong to. Small ones have a range for each size.
fn range_of(length: u32) -> usize {
    let doublings = (length | (STEPS - 1)).ilog2() + 1 - STEP_BITS;
    let in_doubling = if doublings == 0 {
        length
    } else {
        (length >> (doublings - 1)) - STEPS
    };
    (doublings * STEPS + in_doubling) as usize
}

/// The largest size in a range.
fn last_of(range: usize) -> u32 {
    let (doublings, step) = (range as u32 / STEPS, range as u32 % STEPS);
    if doublings == 0 {
        return step;
    }
    let end = u64::from(STEPS + step + 1) << (doublings - 1);
    (end - 1) as u32
}

#[cfg(test)]
mod tests {
    use super::super::priority::PACKET_OVERHEAD;
    use super::*;

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

    fn fixed(settings: &Settings, lengths: &[(usize, f64)]) -> [u32; 8] {
        let table = UnschedCutoffs::for_lengths(settings, lengths.iter().copied()).unwrap();
        let UnschedCutoffs::Fixed(table) = table else {
            panic!("{table:?}")
        };
        let settings = Settings {
            unsched_cutoffs: UnschedCutoffs::Fixed(table),
            ..settings.clone()
        };
        settings.check().unwrap();
        table
    }

    /// Four sizes on four levels, which occupy the link for equal times: the boundaries are the
    /// sizes.
    #[test]
    fn known_lengths_make_an_exact_table() {
        let settings = Settings {
            scheduled_levels: Some(4),
            ..Settings::default()
        };
        let lengths = [(1001, 1), (77, 1), (10_010, 8), (1430, 2)].map(|(length, packets)| {
            let occupied = length + packets * PACKET_OVERHEAD as usize;
            (length, 1e6 / occupied as f64)
        });
        let all = 1_000_000;
        let expected = [all, all, all, all, all, 1430, 1001, 77];
        assert_eq!(fixed(&settings, &lengths), expected);
        // The order does not count, nor the unit of the weights.
        let mut scaled = lengths.map(|(length, weight)| (length, weight * 1e-9));
        scaled.reverse();
        assert_eq!(fixed(&settings, &scaled), expected);
    }

    /// Each length once, as learned and as known.
    #[test]
    fn what_is_learned_is_what_is_known_to_6_percent() {
        for (unsched_by_remaining, boost_tail) in [(false, false), (true, false), (true, true)] {
            let settings = Settings {
                unsched_by_remaining,
                boost_tail,
                unsched_bytes: Some(9328),
                scheduled_levels: Some(3),
                ..Settings::default()
            };
            let lengths = || (1..=300).map(|step| step * step);
            let mut traffic = Traffic::default();
            let rule = LevelRule::new(&settings, 9328);
            for length in lengths() {
                traffic.add(rule, Payload::of(&settings), length, 9328);
            }
            let learned = traffic.table(Split::new(&settings), 1_000_000);
            let weighted: Vec<_> = lengths().map(|length| (length as usize, 1.0)).collect();
            let known = fixed(&settings, &weighted);
            println!("learned {learned:?}, known {known:?}");
            for (learned, known) in learned[3..].iter().zip(&known[3..]) {
                assert!(*learned > 0);
                assert!(learned.abs_diff(*known) <= known / 16, "{learned}, {known}");
            }
        }
    }

    #[test]
    fn the_number_of_levels_follows_from_bytes_unless_it_is_set() {
        let levels = |scheduled_levels, num_priorities, length| {
            let settings = Settings {
                scheduled_levels,
                num_priorities,
                unsched_bytes: Some(10_000),
                boost_tail: false,
                ..Settings::default()
            };
            let table = fixed(&settings, &[(length, 1e-9)]);
            table.iter().rposition(|length| *length == 1_000_000)
        };
        assert_eq!(levels(None, 8, 10_000), Some(1));
        assert_eq!(levels(None, 8, 20_000), Some(4));
        assert_eq!(levels(None, 8, 900_000), Some(7));
        assert_eq!(levels(Some(3), 8, 900_000), Some(3));
        assert_eq!(levels(Some(6), 7, 10_000), Some(6));
        assert_eq!(levels(None, 2, 10_000), Some(1));
        assert_eq!(levels(None, 1, 10_000), Some(0));
    }

    #[test]
    fn a_distribution_that_is_none_is_refused() {
        let refused = |lengths: &[(usize, f64)]| {
            let lengths = lengths.iter().copied();
            let error = UnschedCutoffs::for_lengths(&Settings::default(), lengths);
            error.unwrap_err().key
        };
        assert_eq!(refused(&[]), "lengths");
        assert_eq!(refused(&[(10, 0.0)]), "lengths");
        assert_eq!(refused(&[(0, 1.0)]), "length");
        assert_eq!(refused(&[(10, 1.0), (1_000_001, 1.0)]), "length");
        assert_eq!(refused(&[(10, -1.0)]), "weight");
        assert_eq!(refused(&[(10, f64::NAN)]), "weight");
        assert_eq!(refused(&[(10, f64::INFINITY)]), "weight");
    }
}
