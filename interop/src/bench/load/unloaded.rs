//! [`Unloaded`]: how long calls take when there are no others.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::task::JoinError;

use super::open::OpenError;
use super::stack::{Pattern, Target, ThreadCaller};
use crate::bench::call::CallFailed;
use crate::report::rounded;

/// Calls of each length are made for at least as long as is asked for, and at least so often.
const MIN_CALLS: usize = 20;

/// Calls of each length before those that are measured, which open connections and fill caches.
const WARM_UP_CALLS: usize = 10;

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
    /// Makes one call after the other, each length (rising) for `lasts`.
    pub(crate) async fn measure(
        target: &Target,
        lengths: &[u32],
        response_bytes: Option<u32>,
        lasts: Duration,
    ) -> Result<Self, OpenError> {
        let longest = lengths.last().copied().unwrap_or(1);
        let pattern = Pattern::new(longest);
        let mut points = Vec::with_capacity(lengths.len());
        for &bytes in lengths {
            let wanted = response_bytes.unwrap_or(bytes);
            let mut times = Vec::new();
            // Where the calls under load are made, too: tasks are with the runtime's workers.
            match target.clone() {
                Target::Tasks(mut caller) => {
                    let pattern = pattern.clone();
                    let calls = async move {
                        let mut clock = Clock::new(lasts);
                        while clock.goes_on(&times) {
                            let data = pattern.part(clock.calls, bytes);
                            let sent = Instant::now();
                            caller.call(data, wanted).await?;
                            clock.record(&mut times, sent);
                        }
                        Ok::<_, CallFailed>(times)
                    };
                    times = joined(tokio::spawn(calls).await, bytes)?;
                }
                Target::Threads(place) => {
                    let pattern = pattern.clone();
                    let calls = move || {
                        let mut caller = ThreadCaller::new(&place)?;
                        let mut clock = Clock::new(lasts);
                        while clock.goes_on(&times) {
                            let data = pattern.part(clock.calls, bytes);
                            let sent = Instant::now();
                            caller.call(&data, wanted)?;
                            clock.record(&mut times, sent);
                        }
                        Ok::<_, CallFailed>(times)
                    };
                    times = joined(tokio::task::spawn_blocking(calls).await, bytes)?;
                }
            }
            points.push(Point {
                bytes,
                samples: times.len(),
                p50_us: median_us(times),
            });
        }
        Ok(Self(points))
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

fn joined<T>(ended: Result<Result<T, CallFailed>, JoinError>, bytes: u32) -> Result<T, OpenError> {
    let ended = ended.map_err(|_| OpenError::Ended)?;
    ended.map_err(|source| OpenError::Alone { bytes, source })
}

/// How long one length is measured.
struct Clock {
    began: Instant,
    lasts: Duration,
    calls: usize,
}

impl Clock {
    fn new(lasts: Duration) -> Self {
        Self {
            began: Instant::now(),
            lasts,
            calls: 0,
        }
    }

    fn goes_on(&self, times: &[u64]) -> bool {
        times.len() < MIN_CALLS || self.began.elapsed() < self.lasts
    }

    fn record(&mut self, times: &mut Vec<u64>, sent: Instant) {
        self.calls += 1;
        if self.calls > WARM_UP_CALLS {
            times.push(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
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
    fn a_length_has_at_least_twenty_calls_whatever_they_take() {
        let mut clock = Clock::new(Duration::ZERO);
        let mut times = Vec::new();
        while clock.goes_on(&times) {
            clock.record(&mut times, Instant::now());
        }
        assert_eq!((times.len(), clock.calls), (20, 30));
        assert_eq!(median_us(vec![3_000, 1_000, 2_000]), 2.0);
    }
}
