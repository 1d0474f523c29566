//! [`Ids`]: which calls of one caller a process has seen.

use serde::{Deserialize, Serialize};

/// Numbers from here on are not believed, so that a wrong one cannot fill the memory.
const LIMIT: u64 = 1 << 30;

/// A set of numbers that are dense from 0 on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ids {
    words: Vec<u64>,
}

/// What adding a number to a set has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    New,
    Again,
    /// No run gets that far.
    Unbelievable,
}

impl Ids {
    pub(crate) fn add(&mut self, number: u64) -> Added {
        if number >= LIMIT {
            return Added::Unbelievable;
        }
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let before = self.words[word];
        self.words[word] |= bit;
        if before & bit == 0 {
            Added::New
        } else {
            Added::Again
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// How many are not below `first`.
    pub(crate) fn count_from(&self, first: u64) -> u64 {
        let numbers = first..self.words.len() as u64 * 64;
        let has = |number: &u64| self.words[(number / 64) as usize] >> (number % 64) & 1 == 1;
        numbers.filter(has).count() as u64
    }

    /// Adds all of `other`; returns how many were there already.
    pub(crate) fn add_all(&mut self, other: &Self) -> u64 {
        if other.words.len() > self.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        let mut again = 0;
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            again += u64::from((*word & more).count_ones());
            *word |= more;
        }
        again
    }

    /// How many are not in `other`.
    pub(crate) fn missing_from(&self, other: &Self) -> u64 {
        let others = other.words.iter().chain(std::iter::repeat(&0));
        self.words
            .iter()
            .zip(others)
            .map(|(word, other)| u64::from((word & !other).count_ones()))
            .sum()
    }
}

impl FromIterator<u64> for Ids {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut ids = Self::default();
        for number in numbers {
            ids.add(number);
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_new_once() {
        let mut ids = Ids::default();
        for number in [0, 63, 64, 1_000, LIMIT - 1] {
            assert_eq!(ids.add(number), Added::New);
            assert_eq!(ids.add(number), Added::Again);
        }
        assert_eq!(ids.len(), 5);
    }

    #[test]
    fn a_number_beyond_every_run_takes_no_memory() {
        let mut ids = Ids::default();
        assert_eq!(ids.add(LIMIT), Added::Unbelievable);
        assert_eq!(ids.add(u64::MAX), Added::Unbelievable);
        assert_eq!(ids, Ids::default());
    }

    #[test]
    fn sets_tell_what_they_share_and_what_they_lack() {
        let mut run: Ids = [1, 2, 300].into_iter().collect();
        let done: Ids = [2, 3, 4_000].into_iter().collect();
        assert_eq!(done.missing_from(&run), 2);
        assert_eq!(run.missing_from(&done), 2);
        assert_eq!(run.add_all(&done), 1, "2 is in both");
        assert_eq!((run.len(), done.missing_from(&run)), (5, 0));
        assert_eq!(
            [0, 4, 4_000, 4_001, 9_999].map(|first| run.count_from(first)),
            [5, 2, 1, 0, 0]
        );
    }
}
