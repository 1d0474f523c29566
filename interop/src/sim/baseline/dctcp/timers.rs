//! [`Timers`]: when which streams of a host want to be called.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::sim::time::Instant;

/// An end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Outbound(u32),
    Inbound(u32),
}

/// Timers of streams. Deadlines move with every packet; so each end has at most one entry that
/// counts, at or before its deadline, and is asked for the real one when that time comes.
#[derive(Debug, Default)]
pub(super) struct Timers {
    entries: BinaryHeap<Reverse<(Instant, End)>>,
    outbound: Vec<Option<Instant>>,
    inbound: Vec<Option<Instant>>,
}

impl Timers {
    /// An end wants to be called at `deadline`, if at all.
    pub(super) fn set(&mut self, end: End, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        let entry = self.entry(end);
        if entry.is_none_or(|at| deadline < at) {
            *entry = Some(deadline);
            self.entries.push(Reverse((deadline, end)));
        }
    }

    /// At this time, or before any end is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.entries.peek().map(|&Reverse((at, _))| at)
    }

    /// An end that may be due by `now`. It has no entry any more.
    pub(super) fn pop(&mut self, now: Instant) -> Option<End> {
        loop {
            let &Reverse((at, end)) = self.entries.peek()?;
            if at > now {
                return None;
            }
            self.entries.pop();
            let entry = self.entry(end);
            if *entry == Some(at) {
                *entry = None;
                return Some(end);
            }
        }
    }

    fn entry(&mut self, end: End) -> &mut Option<Instant> {
        let (entries, place) = match end {
            End::Outbound(place) => (&mut self.outbound, place as usize),
            End::Inbound(place) => (&mut self.inbound, place as usize),
        };
        if entries.len() <= place {
            entries.resize(place + 1, None);
        }
        &mut entries[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_deadline_counts() {
        let at = Instant::from_nanos;
        let (one, other) = (End::Outbound(3), End::Inbound(3));
        let mut timers = Timers::default();
        timers.set(one, None);
        assert_eq!(timers.next(), None);
        timers.set(one, Some(at(50)));
        timers.set(one, Some(at(90)));
        timers.set(other, Some(at(70)));
        timers.set(one, Some(at(40)));
        assert_eq!(timers.next(), Some(at(40)));
        assert_eq!(timers.pop(at(39)), None);
        assert_eq!(timers.pop(at(60)), Some(one));
        // Once only, although it was set three times.
        assert_eq!(timers.pop(at(60)), None);
        assert_eq!(timers.pop(at(100)), Some(other));
        assert_eq!(timers.pop(at(100)), None);
        assert_eq!(timers.next(), None);
    }
}
