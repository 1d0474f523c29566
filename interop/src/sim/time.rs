//! Simulated time, in picoseconds: a byte takes 800 of them at 10 Gbit/s, 200 at 40.

use std::ops::{Add, AddAssign, Sub};

/// A moment. Its zero is the start of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Instant(u64);

/// A span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Span(u64);

impl Instant {
    pub(crate) const ZERO: Self = Self(0);

    pub(crate) const fn from_nanos(nanos: u64) -> Self {
        Self(nanos * 1000)
    }

    pub(crate) const fn as_picos(self) -> u64 {
        self.0
    }

    /// Rounded down: a clock of nanoseconds has not ticked before.
    pub(crate) const fn as_nanos(self) -> u64 {
        self.0 / 1000
    }

    pub(crate) fn as_micros_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Time passed since `earlier`; zero if that is later.
    pub(crate) const fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Span {
    pub(crate) const ZERO: Self = Self(0);

    pub(crate) const fn from_picos(picos: u64) -> Self {
        Self(picos)
    }

    pub(crate) const fn from_nanos(nanos: u64) -> Self {
        Self(nanos * 1000)
    }

    pub(crate) const fn from_micros(micros: u64) -> Self {
        Self(micros * 1_000_000)
    }

    pub(crate) const fn as_picos(self) -> u64 {
        self.0
    }

    pub(crate) fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e12
    }
}

impl Add<Span> for Instant {
    type Output = Self;

    fn add(self, span: Span) -> Self {
        Self(self.0 + span.0)
    }
}

impl AddAssign<Span> for Instant {
    fn add_assign(&mut self, span: Span) {
        self.0 += span.0;
    }
}

impl Add for Span {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for Span {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}
