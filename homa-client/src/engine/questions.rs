//! [`Questions`]: which of a peer's questions for the same bytes are answered with these bytes.

use std::time::Duration;

use super::time::Time;

/// So many questions in a row for the same bytes are all answered: bytes are lost now and then,
/// and full-size packets may not get through (`path.rs`).
const ANSWERED_AT_ONCE: u8 = 3;

/// Rounds of RESENDs (or RPC_UNKNOWN) for one message.
///
/// Bytes that are asked for again and again wait in the network rather than being lost time after
/// time, and each copy makes the queue longer. With nothing to slow copies down, a link that was
/// full for a moment stays full: of copies, which are asked for because others wait behind them.
/// So from the fourth answer on, the time until the next one doubles. Asked every 10 ms, a sender
/// answers after 0, 10, 20, 40, 70, 130, 250, 480 and 930 ms.
///
/// A round asks for the gaps of a message in ascending order. It is the same question as the one
/// before if it does not begin further on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Questions {
    /// Where the latest round began.
    offset: u32,
    /// Answered rounds in a row that did not begin further on.
    times: u8,
    /// Whether the latest round is answered.
    answering: bool,
    /// When the latest round began.
    asked: Time,
    /// When the latest round that was answered began.
    answered: Time,
}

impl Questions {
    /// Somebody who asks every `interval` asks for what begins at `offset`. Returns how often in a
    /// row that has been answered, now included; `None` if it is not answered now.
    pub(super) fn asked_for(&mut self, now: Time, offset: u32, interval: Duration) -> Option<u8> {
        // Timers are late by turns.
        let apart = interval * 7 / 10;
        let another = self.times == 0 || now < self.asked || now.since(self.asked) >= apart;
        if !another {
            return self.answering.then_some(self.times);
        }
        if self.times == 0 || offset > self.offset {
            self.times = 1;
            self.answering = true;
        } else {
            let doubled = self.times.saturating_sub(ANSWERED_AT_ONCE - 1).min(16);
            let waited = now.since(self.answered) >= apart * (1 << doubled);
            self.answering = waited || now < self.answered;
            self.times = self.times.saturating_add(u8::from(self.answering));
        }
        self.offset = offset;
        self.asked = now;
        if self.answering {
            self.answered = now;
        }
        self.answering.then_some(self.times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(10);

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn the_same_question_is_answered_ever_more_rarely() {
        let mut questions = Questions::default();
        let answered: Vec<u64> = (0..100)
            .map(|round| round * 10)
            .filter(|millis| questions.asked_for(at(*millis), 500, INTERVAL).is_some())
            .collect();
        assert_eq!(answered, [0, 10, 20, 40, 70, 130, 250, 480, 930]);
    }

    #[test]
    fn who_gets_on_is_answered_at_once() {
        let mut questions = Questions::default();
        for round in 0..100 {
            let offset = 1000 + 500 * (round as u32 / 3);
            let times = questions.asked_for(at(round * 10), offset, INTERVAL);
            assert_eq!(times, Some(round as u8 % 3 + 1));
        }
        // It has forgotten what it had.
        assert_eq!(questions.asked_for(at(1_000), 0, INTERVAL), Some(2));
    }

    #[test]
    fn a_round_is_answered_as_a_whole_or_not_at_all() {
        let mut questions = Questions::default();
        for millis in [0, 10, 20, 30, 40, 50, 60, 70] {
            let first = questions.asked_for(at(millis), 500, INTERVAL);
            let gaps =
                [700, 900, 600].map(|offset| questions.asked_for(at(millis), offset, INTERVAL));
            assert_eq!(gaps, [first; 3], "{millis}");
            assert_eq!(
                first.is_some(),
                [0, 10, 20, 40, 70].contains(&millis),
                "{millis}"
            );
        }
    }

    #[test]
    fn a_clock_that_went_back_blocks_nothing_for_good() {
        let mut questions = Questions::default();
        assert_eq!(questions.asked_for(at(5_000), 0, INTERVAL), Some(1));
        assert_eq!(questions.asked_for(at(0), 0, INTERVAL), Some(2));
        assert_eq!(questions.asked_for(at(10), 0, INTERVAL), Some(3));
    }
}
