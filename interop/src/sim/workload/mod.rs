//! [`Workload`]: how long messages are and how often they start.

mod cdf;
mod published;
mod sizes;
mod tables;

pub(crate) use cdf::CdfError;
pub(crate) use published::{P50P99, Published};
use sizes::Point;
pub(crate) use sizes::{MAX_BYTES, Sizes};

use super::link;
use super::setup::{Mode, Setup};
use super::time::Span;

/// Messages in the window of a user's own sizes: about as many as start in 20 ms of W1 or 50 ms
/// of W2 (SIGCOMM'18's network at 80 % load).
const ENOUGH_MESSAGES: f64 = 10e6;

/// The network and the load for which windows are meant.
const PAPER_HOSTS: f64 = 144.0;
const PAPER_LOAD: f64 = 0.8;
const PAPER_GBPS: f64 = 10.0;

/// What a run sends.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) sizes: Sizes,
    /// Whether `sizes` is the whole distribution behind the published curves; else it is a
    /// built-in table or a user's own.
    pub(crate) is_whole: bool,
    /// What is known of the workload; `None` if the sizes are a user's own.
    pub(crate) published: Option<&'static Published>,
    /// Share of the network load that messages are: the rest is headers, gaps and grants.
    pub(crate) payload_share: f64,
    /// Simulated time before messages are measured, if nothing else is said.
    pub(crate) warm_up: Span,
    /// How long messages that start are measured, if nothing else is said.
    pub(crate) window: Span,
}

impl Workload {
    /// The workload of a run.
    ///
    /// Sizes from a file are the named workload if their mean is within 1 % of the published one,
    /// and so many messages end at the axis of figure 10 as there. Otherwise they are a user's own.
    pub(crate) fn of(setup: &Setup) -> Result<Self, CdfError> {
        let published = setup.workload.published();
        Ok(match &setup.cdf {
            None => Self::named(Sizes::built_in(setup.workload), published, false),
            Some(path) => {
                let sizes = Sizes::read(path)?;
                if published.describes(&sizes) {
                    Self::named(sizes, published, true)
                } else {
                    Self::own(sizes)
                }
            }
        })
    }

    fn named(sizes: Sizes, published: &'static Published, is_whole: bool) -> Self {
        Self {
            sizes,
            is_whole,
            published: Some(published),
            payload_share: published.payload_share,
            warm_up: published.warm_up,
            window: published.window,
        }
    }

    /// RPCs of one kind: of two messages one is a request.
    pub(crate) fn of_rpcs(request_bytes: u32, response_bytes: u32) -> Self {
        let mut points = vec![
            Point {
                bytes: request_bytes.min(response_bytes),
                cumulative: 0.5,
            },
            Point {
                bytes: request_bytes.max(response_bytes),
                cumulative: 1.0,
            },
        ];
        points.dedup_by(|next, point| {
            let is_same = next.bytes == point.bytes;
            if is_same {
                point.cumulative = 1.0;
            }
            is_same
        });
        Self::own(Sizes::new(points, None))
    }

    /// With the share of payload that packets and grants of SIGCOMM'18's simulation leave; the
    /// published shares differ by less than 1 % from what this gives for their workloads. The
    /// window is 20 ms to 1 s, by the mean length, and the time before it a fifth of that.
    fn own(sizes: Sizes) -> Self {
        let mean_occupied: f64 = sizes
            .shares()
            .map(|(bytes, share)| link::occupied_by_message(bytes) as f64 * share)
            .sum();
        let payload_share = sizes.step_mean() / mean_occupied;
        let per_second = PAPER_HOSTS * PAPER_LOAD * payload_share * PAPER_GBPS * 1e9
            / (8.0 * sizes.mean_bytes());
        let window = (ENOUGH_MESSAGES / per_second).clamp(0.02, 1.0);
        Self {
            sizes,
            is_whole: false,
            published: None,
            payload_share,
            warm_up: Span::from_micros((window * 0.2e6) as u64),
            window: Span::from_micros((window * 1e6) as u64),
        }
    }

    /// Mean time between two messages of one host.
    ///
    /// `load` is the share of the host's link that is offered, headers, gaps and grants included
    /// (SIGCOMM'18's "network load"). In echo mode half of it is responses, as in HomaModule's
    /// `cp_vs_tcp`.
    pub(crate) fn mean_gap(&self, load: f64, host_gbps: f64, mode: Mode) -> Span {
        let bits = 8.0 * self.sizes.mean_bytes();
        let seconds = mode.ways() * bits / (load * self.payload_share * host_gbps * 1e9);
        Span::from_picos((seconds * 1e12).round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::setup::WorkloadName;
    use super::*;

    fn of(workload: WorkloadName) -> Workload {
        let setup = Setup {
            workload,
            ..Setup::default()
        };
        Workload::of(&setup).expect("built in")
    }

    #[test]
    fn load_counts_what_packets_occupy() {
        // 80 % of W3: 7.10 Gbit/s of messages of 2927 bytes.
        let gap = of(WorkloadName::W3).mean_gap(0.8, 10.0, Mode::OneWay);
        let gbps = 2927.35 * 8.0 / (gap.as_secs_f64() * 1e9);
        assert!((gbps - 7.096).abs() < 0.001, "{gbps}");
        let echo = of(WorkloadName::W3).mean_gap(0.8, 10.0, Mode::Echo);
        assert!((echo.as_secs_f64() / gap.as_secs_f64() - 2.0).abs() < 1e-6);
    }

    #[test]
    fn the_share_of_payload_is_the_published_one() {
        for name in WorkloadName::ALL {
            let named = of(name);
            let computed = Workload::own(named.sizes.clone()).payload_share;
            let off = computed / named.payload_share - 1.0;
            assert!(off.abs() < 0.01, "{name:?}: {computed}");
        }
    }

    #[test]
    fn own_sizes_get_a_window_by_their_mean() {
        let millis = |name| {
            let own = Workload::own(Sizes::built_in(name));
            (own.window.as_secs_f64() * 1e3).round()
        };
        assert_eq!(millis(WorkloadName::W1), 20.0);
        assert_eq!(millis(WorkloadName::W3), 229.0);
        assert_eq!(millis(WorkloadName::W5), 1000.0);
    }
}
