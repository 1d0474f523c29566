//! Which priority level a packet gets (`homa-protocol` C.5).

use super::wire::Cutoffs;

/// The longest messages of the kernel module, which uses this as "all of them".
const ALL_MESSAGES: u32 = 1_000_000;

/// The table that a receiver announces: unscheduled levels by message length, the rest for
/// scheduled packets.
#[derive(Clone, Debug)]
pub(super) struct Priorities {
    levels: u8,
    cutoffs: Cutoffs,
    max_scheduled: u8,
}

impl Priorities {
    /// HomaModule's defaults; with fewer levels, the upper half is for unscheduled packets and
    /// takes as many of the kernel's boundaries, from the longest down, as it has levels.
    pub(super) fn new(levels: u8) -> Self {
        let levels = levels.clamp(1, 8);
        let unscheduled = levels / 2;
        let mut lengths = [0; 8];
        // On the wire the kernel sends its INT_MAX; every receiver forces this entry anyway.
        lengths[0] = i32::MAX as u32;
        let boundaries = [ALL_MESSAGES, 15_000, 2800, 200].into_iter();
        for (level, boundary) in (levels - unscheduled..levels).zip(boundaries) {
            lengths[usize::from(level)] = boundary;
        }
        Self {
            levels,
            cutoffs: Cutoffs {
                lengths,
                version: 1,
            },
            max_scheduled: (levels - unscheduled).saturating_sub(1),
        }
    }

    /// What CUTOFFS announces.
    pub(super) fn cutoffs(&self) -> Cutoffs {
        self.cutoffs
    }

    /// Level of control packets and of ordinary RESENDs.
    pub(super) fn control(&self) -> u8 {
        self.levels - 1
    }

    /// Level for what asks again out of turn: one below the highest, if there are that many.
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

    #[test]
    fn the_defaults_are_the_kernels() {
        let priorities = Priorities::new(8);
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
        let priorities = Priorities::new(8);
        assert_eq!(priorities.scheduled(0, 1), 0);
        assert_eq!([0, 1].map(|rank| priorities.scheduled(rank, 2)), [1, 0]);
        assert_eq!(
            [0, 1, 2, 3, 4].map(|rank| priorities.scheduled(rank, 5)),
            [3, 2, 1, 0, 0]
        );
    }

    #[test]
    fn any_number_of_levels_covers_every_length() {
        for levels in 1..=8 {
            let priorities = Priorities::new(levels);
            let lengths = priorities.cutoffs().lengths;
            for length in [1, 200, 15_000, 1_000_000] {
                assert!(unscheduled(&lengths, levels, length) < levels);
            }
            let long = unscheduled(&lengths, levels, 1_000_000);
            assert!(levels == 1 || long > priorities.max_scheduled, "{levels}");
            assert!(unscheduled(&lengths, levels, 1) >= long);
        }
        assert_eq!(unscheduled(&UNKNOWN_CUTOFFS, 8, 5), 6);
    }
}
