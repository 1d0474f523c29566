//! [`Unloaded`]: how long calls take when there are no others.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::open::OpenError;
use super::stack::{Pattern, Target, TaskCaller, ThreadCaller};
use crate::bench::call::CallFailed;
use crate::bench::connect::Place;
use crate::report::rounded;

/// All lengths take turns so often: how quickly threads wake each other depends on where the system
/// has put them, and changes from time to time.
const TURNS: u32 = 5;

/// Calls of a turn are made for at least as long as is asked for, and at least so often.
const MIN_CALLS: usize = 5;

/// Calls of a turn before those that are measured, which open connections and fill caches.
const WARM_UP_CALLS: usize = 3;

/// The median time of one length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) bytes: u32,
    pub(crate) samples: usize,
    pub(crate) p50_us: f64,
}

/// Median times by length; rising, at least one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Unloaded(Vec<Point>);

impl Unloaded {
    /// Makes one call after the other, each length (rising) for `lasts` in all.
    pub(crate) async fn measure(
        target: &Target,
        lengths: &[u32],
        response_bytes: Option<u32>,
        lasts: Duration,
    ) -> Result<Self, OpenError> {
        let pattern = Pattern::new(lengths.last().copied().unwrap_or(1));
        let mut times = vec![Vec::new(); lengths.len()];
        for _ in 0..TURNS {
            for (&bytes, times) in lengths.iter().zip(&mut times) {
                let calls = Calls {
                    pattern: pattern.clone(),
                    bytes,
                    wanted: response_bytes.unwrap_or(bytes),
                    clock: Clock::new(lasts / TURNS),
                };
                times.extend(calls.make(target.clone()).await?);
            }
        }
        let points = lengths.iter().zip(times).map(|(&bytes, times)| Point {
            bytes,
            samples: times.len(),
            p50_us: median_us(times),
        });
        Ok(Self(points.collect()))
    }

    pub(crate) fn points(&self) -> &[Point] {
        &self.0
    }

    /// Of a call of any length: on the straight line between the two measured ones around it.
    pub(crate) fn us(&self, bytes: u32) -> f64 {
        let above = self.0.partition_point(|point| point.bytes < bytes);
        match (above.checked_sub(1).map(|at| self.0[at]), self.0.get(above)) {
            (Some(below), Some(above)) => {
                let part = f64::from(bytes - below.bytes) / f64::from(above.bytes - below.bytes);
                below.p50_us + part * (above.p50_us - below.p50_us)
            }
            (Some(only), None) => only.p50_us,
            (None, Some(only)) => only.p50_us,
            (None, None) => f64::NAN,
        }
    }
}

/// The calls of one length in one turn.
struct Calls {
    pattern: Pattern,
    bytes: u32,
    wanted: u32,
    clock: Clock,
}

impl Calls {
    /// Makes them where calls under load are made, too: tasks are with the runtime's workers.
    /// Returns what each took, in nanoseconds.
    async fn make(self, target: Target) -> Result<Vec<u64>, OpenError> {
        let bytes = self.bytes;
        let made = match target {
            Target::Tasks(caller) => tokio::spawn(self.make_in_task(caller)).await,
            Target::Threads(place) => {
                tokio::task::spawn_blocking(move || self.make_on_thread(&place)).await
            }
        };
        let made = made.map_err(|_| OpenError::Ended)?;
        made.map_err(|source| OpenError::Alone { bytes, source })
    }

    async fn make_in_task(mut self, mut caller: TaskCaller) -> Result<Vec<u64>, CallFailed> {
        while self.clock.goes_on() {
            let data = self.pattern.part(self.clock.calls, self.bytes);
            let sent = Instant::now();
            caller.call(data, self.wanted).await?;
            self.clock.record(sent);
        }
        Ok(self.clock.times)
    }

    fn make_on_thread(mut self, place: &Place) -> Result<Vec<u64>, CallFailed> {
        let mut caller = ThreadCaller::new(place)?;
        while self.clock.goes_on() {
            let data = self.pattern.part(self.clock.calls, self.bytes);
            let sent = Instant::now();
            caller.call(&data, self.wanted)?;
            self.clock.record(sent);
        }
        Ok(self.clock.times)
    }
}

/// How long a turn is.
struct Clock {
    began: Instant,
    lasts: Duration,
    calls: usize,
    times: Vec<u64>,
}

impl Clock {
    fn new(lasts: Duration) -> Self {
        Self {
            began: Instant::now(),
            lasts,
            calls: 0,
            times: Vec::new(),
        }
    }

    fn goes_on(&self) -> bool {
        self.times.len() < MIN_CALLS || self.began.elapsed() < self.lasts
    }

    fn record(&mut self, sent: Instant) {
        self.calls += 1;
        if self.calls > WARM_UP_CALLS {
            let nanos = sent.elapsed().as_nanos();
            self.times.push(u64::try_from(nanos).unwrap_or(u64::MAX));
        }
    }
}

fn median_us(mut nanos: Vec<u64>) -> f64 {
    let middle = nanos.len() / 2;
    if nanos.is_empty() {
        return f64::NAN;
    }
    let (_, median, _) = nanos.select_nth_unstable(middle);
    rounded(*median as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_in_between_are_on_a_straight_line_and_others_are_as_the_nearest() {
        let point = |bytes, p50_us| Point {
            bytes,
            samples: 20,
            p50_us,
        };
        let unloaded = Unloaded(vec![point(100, 10.0), point(300, 20.0), point(400, 100.0)]);
        for (bytes, us) in [
            (1, 10.0),
            (100, 10.0),
            (200, 15.0),
            (300, 20.0),
            (350, 60.0),
            (400, 100.0),
            (1_000, 100.0),
        ] {
            assert_eq!(unloaded.us(bytes), us, "{bytes}");
        }
    }

    #[test]
    fn a_turn_has_at_least_five_calls_whatever_they_take() {
        let mut clock = Clock::new(Duration::ZERO);
        while clock.goes_on() {
            clock.record(Instant::now());
        }
        assert_eq!((clock.times.len(), clock.calls), (5, 8));
        assert_eq!(median_us(vec![3_000, 1_000, 2_000]), 2.0);
    }
}
