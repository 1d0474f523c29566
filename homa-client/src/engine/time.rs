//! Time as the engine counts it: an argument, never a clock.

use std::ops::{Add, AddAssign};
use std::time::Duration;

/// Nanoseconds since some moment that the engine's driver chose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The driver's zero.
    pub const ZERO: Self = Self(0);

    /// The moment `nanos` nanoseconds after zero.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since zero.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`; zero if that is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment `by` before this one, not before zero.
    pub(super) fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(by)))
    }

    /// The first multiple of `step` that is not earlier.
    pub(super) fn round_up(self, step: Duration) -> Self {
        Self(
            self.0
                .div_ceil(nanos(step).max(1))
                .saturating_mul(nanos(step).max(1)),
        )
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(nanos(by)))
    }
}

impl AddAssign<Duration> for Time {
    fn add_assign(&mut self, by: Duration) {
        *self = *self + by;
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Why the engine wants to be called at a certain time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wake {
    /// An RPC has been silent for too long, or a response waits for its ack.
    Silence,
    /// Something that was kept for a while can be forgotten.
    Reap,
    /// The link has drained enough for the next packet.
    Pace,
}
