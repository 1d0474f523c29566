//! Fuzz targets: functions of bytes, replayed from the corpora in the `__fuzz__` folders beside them
//! and then on some seeded bytes, the same each time. That of the calls is with the streams.

mod frames;

/// Runs a target on its corpus, on what bolero draws (nothing, unless it is told to), and on seeded
/// inputs of up to `len` bytes.
macro_rules! fuzz {
    ($target:path, $seeds:expr, $len:expr) => {
        bolero::check!()
            .with_iterations(0)
            .with_max_len($len)
            .for_each(|bytes| $target($crate::fuzz::Source::new(bytes)));
        for seed in 0..$seeds {
            let bytes = $crate::fuzz::seeded(seed, $len);
            eprintln!("seed {seed}");
            $target($crate::fuzz::Source::new(&bytes));
        }
    };
}
pub(crate) use fuzz;

/// Up to `len` bytes that depend on the seed alone.
pub(crate) fn seeded(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..random.usize(..len)).map(|_| random.u8(..)).collect()
}

/// Bytes to decide by. When they are used up, every decision is 0.
#[derive(Debug)]
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
        self.number(1) as u8
    }

    /// True once in `times`, if the bytes are random.
    pub(crate) fn once_in(&mut self, times: u8) -> bool {
        self.u8() % times == times - 1
    }

    /// From 0 to `limit` − 1, which is at most 65,535.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        let len = if limit <= 256 { 1 } else { 2 };
        self.number(len) as usize % limit.max(1)
    }

    /// Any number, but often a small one, or one at the border of something.
    pub(crate) fn u64(&mut self) -> u64 {
        const BORDERS: [u64; 8] = [
            0,
            1,
            65_535,
            65_536,
            65_537,
            4 << 20,
            u64::MAX - 1,
            u64::MAX,
        ];
        match self.u8() {
            choice @ 0..96 => BORDERS[usize::from(choice) % BORDERS.len()],
            96..192 => self.number(2),
            192.. => self.number(8),
        }
    }

    fn number(&mut self, len: usize) -> u64 {
        self.take(len)
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}
