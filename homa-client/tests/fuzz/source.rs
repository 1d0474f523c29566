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

/// Up to `len` bytes that depend on the seed alone (SplitMix64).
pub(crate) fn seeded(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
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

    fn number(&mut self, len: usize) -> u64 {
        self.take(len)
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.number(1) as u8
    }

    pub(crate) fn u16(&mut self) -> u16 {
        self.number(2) as u16
    }

    /// Any number, but often one at the border of something.
    pub(crate) fn u32(&mut self) -> u32 {
        const BORDERS: [u32; 12] = [
            0,
            1,
            1399,
            1400,
            1416,
            40_000,
            99_999,
            100_000,
            1_000_000,
            1 << 31,
            u32::MAX - 1,
            u32::MAX,
        ];
        match self.u8() {
            choice @ 0..128 => BORDERS[usize::from(choice) % BORDERS.len()],
            128..192 => self.number(2) as u32,
            192.. => self.number(4) as u32,
        }
    }

    pub(crate) fn u64(&mut self) -> u64 {
        self.number(8)
    }

    /// From 0 to `limit` − 1.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        let number = if limit <= 256 {
            self.number(1)
        } else {
            self.number(4)
        };
        number as usize % limit.max(1)
    }
}
