//! Two or more engines, a fake clock and a seeded network between them.

mod amplification;
mod behaviour;
mod cutoffs;
mod diagnosis;
mod grants;
mod hostile;
mod incast;
mod loss;
mod models;
mod pacing;
mod pair;
mod path;
mod restart;
mod segments;
mod starved;

/// A small seeded generator (xorshift64*), so that every run of a test is the same.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(super::scramble(seed) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Evenly from 0 to `limit` − 1.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// True with probability `percent`/100.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// From 1 to `limit`, log-uniform: as many messages of 1 to 10 B as of 10 to 100 B.
    pub(crate) fn log_uniform(&mut self, limit: u64) -> u64 {
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        ((limit as f64 + 1.0).powf(unit) as u64).clamp(1, limit)
    }
}
