//! [`Source`]: the decisions of one run, taken from a fuzzer's bytes.

/// Runs a target on its corpus, on what bolero draws (nothing, unless it is told to), and on
/// seeded inputs of up to `len` bytes.
macro_rules! fuzz {
    ($target:path, $seeds:expr, $len:expr) => {
        bolero::check!()
            .with_iterations(0)
            .with_max_len($len)
            .for_each(|bytes| $target($crate::source::Source::new(bytes)));
        for seed in 0..$seeds {
            let bytes = $crate::source::seeded(seed, $len);
            eprintln!("seed {seed}");
            $target($crate::source::Source::new(&bytes));
        }
    };
}
pub(crate) use fuzz;

/// Up to `len` bytes that depend on the seed alone (xorshift64*).
pub(crate) fn seeded(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    };
    let len = next() as usize % len;
    (0..len).map(|_| next() as u8).collect()
}

/// Bytes to decide by. When they are used up, every decision is 0.
pub(crate) struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    pub(crate) fn i64(&mut self) -> i64 {
        self.take(8)
            .iter()
            .fold(0, |number, byte| number << 8 | i64::from(*byte))
    }

    /// From 0 to `limit` − 1, for limits up to 256.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::from(self.u8()) % limit
    }

    /// Once in so many times.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }
}
