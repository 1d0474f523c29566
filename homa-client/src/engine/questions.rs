//! [`Questions`]: which of a peer's questions for the same bytes are answered with these bytes.

use super::Timers;
use super::time::Time;

/// So many questions in a row for the same bytes are all answered: bytes are lost now and then,
/// and full-size packets may not get through (`path.rs`).
const ANSWERED_AT_ONCE: u8 = 3;

/// The longest time between two answers, as a part of `timeout`: at a loss of 40 % each way, 30
/// questions and answers are still enough.
const LONGEST: u32 = 32;

/// Rounds of RESENDs (or RPC_UNKNOWN) for one message.
///
/// Bytes that are asked for again and again wait in the network rather than being lost time after
/// time, and each copy makes the queue longer. With nothing to slow copies down, a link that was
/// full for a moment stays full: of copies, which are asked for because others wait behind them.
/// So from the fourth answer on, the time until the next one doubles, to a 32nd of `timeout` at
/// most. Asked every 10 ms, with a timeout of 1 s, a sender answers after 0, 10, 20, 40 and 70 ms
/// and every 40 ms from there. Where 10 questions or so are all that fit into `timeout`, as on IP
/// protocol 146, each is answered.
///
/// A round asks for the gaps of a message in ascending order. It is the same question as the one
/// before if it begins at the same byte.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Questions {
    /// Where the latest round began.
    offset: u32,
    /// Answered rounds in a row that began there.
    times: u8,
    /// Whether the latest round is answered.
    answering: bool,
    /// When the latest round began.
    asked: Time,
    /// When the latest round that was answered began.
    answered: Time,
}

impl Questions {
    /// The peer asks for what begins at `offset`. Returns how often in a row that has been
    /// answered, now included; `None` if it is not answered now.
    pub(super) fn asked_for(&mut self, now: Time, offset: u32, timers: &Timers) -> Option<u8> {
        // Timers are late by turns.
        let apart = timers.resend * 7 / 10;
        let first = self.times == 0 || now < self.asked || now.since(self.asked) >= apart;
        if !first {
            let times = if offset == self.offset { self.times } else { 1 };
            return self.answering.then_some(times);
        }
        self.asked = now;
        if self.times == 0 || offset != self.offset {
            self.offset = offset;
            self.times = 0;
            self.answering = true;
        } else {
            let doubled = self.times.saturating_sub(ANSWERED_AT_ONCE - 1).min(16);
            let wait = (apart * (1 << doubled)).min((timers.timeout / LONGEST).max(apart));
            self.answering = now < self.answered || now.since(self.answered) >= wait;
        }
        if self.answering {
            self.times = self.times.saturating_add(1);
            self.answered = now;
        }
        self.answering.then_some(self.times)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    fn answered(timers: &Timers) -> Vec<u64> {
        let mut questions = Questions::default();
        let interval = timers.resend.as_millis() as u64;
        (0..20)
            .map(|round| round * interval)
            .filter(|millis| questions.asked_for(at(*millis), 500, timers).is_some())
            .collect()
    }

    #[test]
    fn the_same_question_is_answered_more_rarely() {
        let expected = [0, 10, 20, 40, 70, 110, 150, 190];
        assert_eq!(answered(&Timers::UDP), expected);
        let all: Vec<u64> = (0..20).map(|round| round * 5).collect();
        assert_eq!(answered(&Timers::IP), all);
    }

    #[test]
    fn who_gets_on_is_answered_at_once() {
        let mut questions = Questions::default();
        for round in 0..100 {
            let offset = 1000 + 500 * (round as u32 / 3);
            let times = questions.asked_for(at(round * 10), offset, &Timers::UDP);
            assert_eq!(times, Some(round as u8 % 3 + 1));
        }
        // It has forgotten what it had.
        assert_eq!(questions.asked_for(at(1_000), 0, &Timers::UDP), Some(1));
    }

    #[test]
    fn a_round_is_answered_as_a_whole_or_not_at_all() {
        let mut questions = Questions::default();
        for millis in [0, 10, 20, 30, 40, 50, 60, 70] {
            let mut ask = |offset| questions.asked_for(at(millis), offset, &Timers::UDP);
            let first = ask(500);
            // Of the others nobody knows how often they were asked for.
            let others = [700, 900, 600].map(&mut ask);
            assert_eq!(others, [first.map(|_| 1); 3], "{millis}");
            let expected = [0, 10, 20, 40, 70].contains(&millis);
            assert_eq!(first.is_some(), expected, "{millis}");
        }
    }

    #[test]
    fn a_clock_that_went_back_blocks_nothing_for_good() {
        let mut questions = Questions::default();
        let mut ask = |millis| questions.asked_for(at(millis), 0, &Timers::UDP);
        assert_eq!(ask(5_000), Some(1));
        assert_eq!(ask(0), Some(2));
        assert_eq!(ask(10), Some(3));
    }
}
