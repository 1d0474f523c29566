//! [`Ledger`]: which messages are under way, and how long the measured ones took.

use std::collections::VecDeque;

use super::node::{HostId, MessageId};
use super::time::{Instant, Span};

/// The share of the measured messages that has to finish.
const ENOUGH: f64 = 0.999;

/// Bits of a [`MessageId`] below those of the host that sends the message.
const ORDINAL_BITS: u32 = 40;

/// The `ordinal`th message that `from` sends.
pub(crate) fn message_id(from: HostId, ordinal: u64) -> MessageId {
    u64::from(from) << ORDINAL_BITS | ordinal
}

/// Its sender, and its number among the messages of that.
pub(crate) fn parts_of(message: MessageId) -> (HostId, u64) {
    let from = (message >> ORDINAL_BITS) as HostId;
    (from, message & ((1 << ORDINAL_BITS) - 1))
}

/// A message that is measured, and over or as old as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) from: HostId,
    pub(crate) to: HostId,
    pub(crate) bytes: u32,
    pub(crate) took: Span,
}

/// All messages that have started and not finished, with sums over all.
#[derive(Debug)]
pub(crate) struct Ledger {
    sources: Vec<Source>,
    /// Messages that start in this time are measured.
    window: (Instant, Instant),
    pub(crate) started: Total,
    pub(crate) finished: Total,
    pub(crate) failed: u64,
    /// Of the measured ones.
    pub(crate) measured_started: u64,
    pub(crate) measured_finished: u64,
}

/// Messages, and the bytes in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Total {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl Total {
    fn add(&mut self, bytes: u32) {
        self.messages += 1;
        self.bytes += u64::from(bytes);
    }
}

/// The messages of one sender: those before the oldest that is open are left out.
#[derive(Debug, Default)]
struct Source {
    first: u64,
    records: VecDeque<Record>,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    started: Instant,
    bytes: u32,
    to: HostId,
    open: bool,
}

impl Ledger {
    pub(crate) fn new(hosts: u32, window: (Instant, Instant)) -> Self {
        Self {
            sources: std::iter::repeat_with(Source::default)
                .take(hosts as usize)
                .collect(),
            window,
            started: Total::default(),
            finished: Total::default(),
            failed: 0,
            measured_started: 0,
            measured_finished: 0,
        }
    }

    /// A message starts.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        from: HostId,
        to: HostId,
        bytes: u32,
    ) -> MessageId {
        let source = &mut self.sources[from as usize];
        let ordinal = source.first + source.records.len() as u64;
        source.records.push_back(Record {
            started: now,
            bytes,
            to,
            open: true,
        });
        self.started.add(bytes);
        self.measured_started += u64::from(is_within(now, self.window));
        message_id(from, ordinal)
    }

    /// A message has finished: its sample, if it is measured. One that is not open is nothing.
    pub(crate) fn finish(&mut self, now: Instant, message: MessageId) -> Option<Sample> {
        let (from, record) = self.close(message)?;
        self.finished.add(record.bytes);
        if !is_within(record.started, self.window) {
            return None;
        }
        self.measured_finished += 1;
        Some(record.sample(from, now))
    }

    /// A message will not finish: it stays open, and counts at its age.
    pub(crate) fn fail(&mut self) {
        self.failed += 1;
    }

    /// Messages that have started and not finished.
    pub(crate) fn open(&self) -> u64 {
        self.started.messages - self.finished.messages
    }

    /// Their length.
    pub(crate) fn open_bytes(&self) -> u64 {
        self.started.bytes - self.finished.bytes
    }

    /// Whether as many of the measured messages have finished as a run waits for.
    pub(crate) fn has_enough(&self) -> bool {
        self.measured_finished as f64 >= ENOUGH * self.measured_started as f64
    }

    /// The measured messages that are open, at their age.
    pub(crate) fn unfinished(&self, now: Instant) -> impl Iterator<Item = Sample> {
        (0..).zip(&self.sources).flat_map(move |(from, source)| {
            let open = source.records.iter().filter(|record| record.open);
            open.filter(|record| is_within(record.started, self.window))
                .map(move |record| record.sample(from, now))
        })
    }

    fn close(&mut self, message: MessageId) -> Option<(HostId, Record)> {
        let (from, ordinal) = parts_of(message);
        let source = self.sources.get_mut(from as usize)?;
        let place = usize::try_from(ordinal.checked_sub(source.first)?).ok()?;
        let record = source.records.get_mut(place).filter(|record| record.open)?;
        record.open = false;
        let closed = *record;
        while source.records.front().is_some_and(|record| !record.open) {
            source.records.pop_front();
            source.first += 1;
        }
        Some((from, closed))
    }
}

impl Record {
    fn sample(&self, from: HostId, now: Instant) -> Sample {
        Sample {
            from,
            to: self.to,
            bytes: self.bytes,
            took: now.since(self.started),
        }
    }
}

fn is_within(at: Instant, (start, end): (Instant, Instant)) -> bool {
    start <= at && at < end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn messages_of_the_window_are_measured_and_others_only_counted() {
        let mut ledger = Ledger::new(3, (at(100), at(200)));
        let before = ledger.start(at(99), 1, 2, 10);
        let first = ledger.start(at(100), 1, 0, 20);
        let second = ledger.start(at(199), 1, 0, 30);
        let after = ledger.start(at(200), 2, 0, 40);
        assert_eq!(ledger.finish(at(300), before), None);
        let sample = ledger.finish(at(350), second).expect("it is measured");
        assert_eq!((sample.from, sample.to, sample.bytes), (1, 0, 30));
        assert_eq!(sample.took, Span::from_nanos(151));
        assert_eq!(ledger.finish(at(350), second), None, "only once");
        assert_eq!(ledger.finish(at(350), after), None);
        let open: Vec<_> = ledger.unfinished(at(400)).collect();
        assert_eq!(open.len(), 1);
        assert_eq!((open[0].bytes, open[0].took), (20, Span::from_nanos(300)));
        ledger.fail();
        assert_eq!((ledger.failed, ledger.open()), (1, 1));
        assert_eq!(ledger.unfinished(at(500)).count(), 1);
        assert!(ledger.finish(at(500), first).is_some());
        assert_eq!((ledger.measured_started, ledger.measured_finished), (2, 2));
        let total = |messages, bytes| Total { messages, bytes };
        assert_eq!(ledger.started, total(4, 100));
        assert_eq!(ledger.finished, total(4, 100));
        // Nothing that is over is kept.
        assert!(
            ledger
                .sources
                .iter()
                .all(|source| source.records.is_empty())
        );
        assert_eq!(ledger.finish(at(500), message_id(7, 0)), None);
    }
}
