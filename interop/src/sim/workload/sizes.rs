//! [`Sizes`]: a distribution of message lengths.

use super::super::setup::WorkloadName;
use super::tables;

/// Longest message, in bytes: the engine's limit.
pub(crate) const MAX_BYTES: u32 = 32_000_000;

/// Equal parts of 0 to 1 for each of which [`Sizes`] knows the first point. Most draws then look
/// at one or two points.
const PARTS: usize = 4096;

/// A length, and the share of messages that are not longer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) bytes: u32,
    pub(crate) cumulative: f64,
}

/// A distribution of message lengths in steps, as in SIGCOMM'18's simulation: a message has
/// exactly the length of one of its points, and nothing in between.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    points: Vec<Point>,
    /// By part of 0 to 1: the first point that a draw from there can hit; and one for 1.
    first_of_part: Vec<u32>,
    mean_bytes: f64,
    step_mean: f64,
}

impl Sizes {
    /// The built-in table of a workload.
    pub(crate) fn built_in(name: WorkloadName) -> Self {
        let points = match name {
            WorkloadName::W1 => tables::W1,
            WorkloadName::W2 => tables::W2,
            WorkloadName::W3 => tables::W3,
            WorkloadName::W4 => tables::W4,
            WorkloadName::W5 => tables::W5,
        };
        Self::new(points.to_vec(), None)
    }

    /// `points` are at least one, rise, and end with a share of 1. `mean_bytes` is what the
    /// distribution's author computes rates from; `None`: the mean of the points.
    pub(super) fn new(points: Vec<Point>, mean_bytes: Option<f64>) -> Self {
        let first_of_part = (0..=PARTS)
            .map(|part| first_from(&points, part as f64 / PARTS as f64) as u32)
            .collect();
        let step_mean = shares(&points)
            .map(|(bytes, share)| f64::from(bytes) * share)
            .sum();
        Self {
            points,
            first_of_part,
            mean_bytes: mean_bytes.unwrap_or(step_mean),
            step_mean,
        }
    }

    /// The length that belongs to a number drawn from 0 to 1: that of the first point whose share
    /// is not below it.
    pub(crate) fn draw(&self, uniform: f64) -> u32 {
        let part = ((uniform * PARTS as f64) as usize).min(PARTS - 1);
        let first = self.first_of_part[part] as usize;
        let last = self.first_of_part[part + 1] as usize;
        self.points[first + first_from(&self.points[first..last], uniform)].bytes
    }

    /// Lengths, shortest first, each with the share of messages that have it.
    pub(crate) fn shares(&self) -> impl Iterator<Item = (u32, f64)> {
        shares(&self.points)
    }

    /// Lengths, shortest first, each with the share of messages that are not longer.
    pub(crate) fn points(&self) -> &[Point] {
        &self.points
    }

    /// The share of messages of this length or shorter.
    pub(crate) fn share_up_to(&self, bytes: u32) -> f64 {
        let above = self.points.partition_point(|point| point.bytes <= bytes);
        above
            .checked_sub(1)
            .map_or(0.0, |last| self.points[last].cumulative)
    }

    /// The longest message.
    pub(crate) fn longest(&self) -> u32 {
        self.points.last().map_or(0, |point| point.bytes)
    }

    /// The mean from which the rate of messages follows. Authors of distributions may give one
    /// that differs a little from that of the points.
    pub(crate) fn mean_bytes(&self) -> f64 {
        self.mean_bytes
    }

    /// The mean length of what is drawn.
    pub(crate) fn step_mean(&self) -> f64 {
        self.step_mean
    }
}

/// The first point that does not lie below; the number of points if all do.
fn first_from(points: &[Point], cumulative: f64) -> usize {
    points.partition_point(|point| point.cumulative < cumulative)
}

fn shares(points: &[Point]) -> impl Iterator<Item = (u32, f64)> {
    let mut below = 0.0;
    points.iter().map(move |point| {
        let share = point.cumulative - below;
        below = point.cumulative;
        (point.bytes, share)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_hit_the_first_point_that_is_not_below() {
        let point = |bytes, cumulative| Point { bytes, cumulative };
        let points = vec![
            point(10, 0.0),
            point(20, 0.25),
            point(21, 0.25),
            point(30, 0.250_001),
            point(40, 0.250_002),
            point(50, 1.0),
        ];
        let sizes = Sizes::new(points, None);
        assert_eq!(sizes.draw(0.0), 10);
        assert_eq!(sizes.draw(1e-9), 20);
        assert_eq!(sizes.draw(0.25), 20);
        assert_eq!(sizes.draw(0.250_000_5), 30);
        assert_eq!(sizes.draw(0.250_001_5), 40);
        assert_eq!(sizes.draw(0.250_002_5), 50);
        assert_eq!(sizes.draw(1.0), 50);
        assert!((sizes.step_mean() - (5.0 + 70e-6 + 50.0 * 0.749_998)).abs() < 1e-9);
        assert_eq!(sizes.share_up_to(9), 0.0);
        assert_eq!(sizes.share_up_to(39), 0.250_001);
        assert_eq!(sizes.share_up_to(60), 1.0);
    }

    #[test]
    fn every_part_of_the_draws_agrees_with_a_plain_search() {
        for name in WorkloadName::ALL {
            let sizes = Sizes::built_in(name);
            let mut random = fastrand::Rng::with_seed(1);
            for _ in 0..100_000 {
                let uniform = random.f64();
                let plain = sizes
                    .points()
                    .iter()
                    .find(|point| point.cumulative >= uniform)
                    .expect("the last is 1");
                assert_eq!(sizes.draw(uniform), plain.bytes, "{name:?} {uniform}");
            }
        }
    }

    #[test]
    fn the_mean_of_draws_is_that_of_the_points() {
        let sizes = Sizes::built_in(WorkloadName::W4);
        let mut random = fastrand::Rng::with_seed(4);
        let draws = 1_000_000;
        let sum: f64 = (0..draws)
            .map(|_| f64::from(sizes.draw(random.f64())))
            .sum();
        let off = sum / f64::from(draws) / sizes.step_mean() - 1.0;
        assert!(off.abs() < 0.01, "{off}");
    }
}
