//! [`Published`]: what SIGCOMM'18 used and found for its five workloads.

use super::super::outcome::Queue;
use super::super::setup::WorkloadName;
use super::super::time::Span;
use super::sizes::Sizes;

/// How far the mean of a distribution may be from the published one, as a share of it.
const MEAN_WITHIN: f64 = 0.01;

/// How far a distribution may be from the published one at the axis of figure 10, as a share of
/// the messages.
const SHARE_WITHIN: f64 = 0.005;

/// A workload of the Homa papers.
#[derive(Debug, PartialEq)]
pub(crate) struct Published {
    pub(crate) name: &'static str,
    /// Where its messages are from.
    pub(crate) description: &'static str,
    /// The mean length of messages, from which the simulations got the rate of messages (first
    /// lines of the files in HomaSimulation's `sizeDistributions/`).
    pub(crate) mean_bytes: f64,
    /// Bytes of messages by bytes on links, with headers, gaps and grants: the factors of
    /// `loadFactor` in `homaTransportConfig.ini`.
    pub(crate) payload_share: f64,
    /// The lowest of the eight levels, which are for scheduled packets; also the number of
    /// messages granted at once.
    pub(crate) scheduled_levels: u8,
    /// Time after which the number of messages in the network is steady: about the mean that the
    /// longest messages of any weight take at 80 % load. The published runs had none.
    pub(crate) warm_up: Span,
    /// The time of measuring. It is the least in which the tail is as good as its size: ten million
    /// messages of W1 to W3. The published runs took 1.2 to 3.75 s; W5 takes as long as its
    /// published run, since of so few messages the published tail depends on their number.
    pub(crate) window: Span,
    /// Lengths at the axis of figure 10, in bytes: the first buckets in whose measured messages,
    /// together with all shorter ones, 10 %, 20 % and so on are reached, and one near the end.
    pub(crate) axis_bytes: [u32; 10],
    /// Share of the messages that are not longer.
    pub(crate) axis_shares: [f64; 10],
    /// Slowdown of Homa in the buckets that end there, at 80 % load (figure 10, from the data
    /// behind it).
    pub(crate) at_80: [P50P99; 10],
    /// The same at 50 % load.
    pub(crate) at_50: [P50P99; 10],
    /// Figure 12.
    pub(crate) max_load: &'static [MaxLoad],
    /// Table 1, at 80 % load. It does not say which of its last two columns is W4's and which
    /// W5's; they may be exchanged here.
    pub(crate) queues: PublishedQueues,
}

/// Slowdown of the messages in a bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct P50P99 {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// Most that a transport carries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct MaxLoad {
    pub(crate) transport: &'static str,
    /// Per cent of the links that carry messages.
    pub(crate) payload_percent: u32,
    /// The same with headers, gaps and control packets.
    pub(crate) percent: u32,
}

/// Bytes that wait at the ports of switches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PublishedQueues {
    pub(crate) tor_to_spine: Queue,
    pub(crate) spine_to_tor: Queue,
    pub(crate) tor_to_host: Queue,
}

impl WorkloadName {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 5] = [Self::W1, Self::W2, Self::W3, Self::W4, Self::W5];

    /// What is known of it.
    pub(crate) fn published(self) -> &'static Published {
        match self {
            Self::W1 => &W1,
            Self::W2 => &W2,
            Self::W3 => &W3,
            Self::W4 => &W4,
            Self::W5 => &W5,
        }
    }
}

impl Published {
    /// Whether these sizes are the workload's, up to rounding.
    pub(crate) fn describes(&self, sizes: &Sizes) -> bool {
        (sizes.step_mean() / self.mean_bytes - 1.0).abs() <= MEAN_WITHIN
            && self
                .axis_bytes
                .iter()
                .zip(self.axis_shares)
                .all(|(bytes, share)| (sizes.share_up_to(*bytes) - share).abs() <= SHARE_WITHIN)
    }

    /// Slowdown of Homa at the axis of figure 10, where it is known for that load.
    pub(crate) fn slowdown_at(&self, load: f64) -> Option<&[P50P99; 10]> {
        if load == 0.8 {
            Some(&self.at_80)
        } else if load == 0.5 {
            Some(&self.at_50)
        } else {
            None
        }
    }
}

const fn slowdown(p50: f64, p99: f64) -> P50P99 {
    P50P99 { p50, p99 }
}

const fn max_load(transport: &'static str, payload_percent: u32, percent: u32) -> MaxLoad {
    MaxLoad {
        transport,
        payload_percent,
        percent,
    }
}

/// From the paper's unit.
const fn kilobytes(mean: f64, max: f64) -> Queue {
    Queue {
        mean_bytes: mean * 1000.0,
        max_bytes: (max * 1000.0) as u64,
    }
}

const W1: Published = Published {
    name: "W1",
    description: "Facebook's memcached servers",
    mean_bytes: 185.0,
    payload_share: 0.657,
    scheduled_levels: 1,
    warm_up: Span::from_micros(5000),
    window: Span::from_micros(20_000),
    axis_bytes: [2, 3, 5, 11, 28, 85, 167, 291, 508, 16_129],
    axis_shares: [
        0.18403, 0.27642, 0.304, 0.41757, 0.501994, 0.611746, 0.719213, 0.816685, 0.901944,
        0.999959,
    ],
    at_80: [
        slowdown(1.20, 1.84),
        slowdown(1.20, 1.86),
        slowdown(1.21, 1.88),
        slowdown(1.22, 1.89),
        slowdown(1.27, 2.01),
        slowdown(1.27, 2.00),
        slowdown(1.32, 2.13),
        slowdown(1.36, 2.31),
        slowdown(1.46, 2.86),
        slowdown(4.69, 11.69),
    ],
    at_50: [
        slowdown(1.10, 1.72),
        slowdown(1.10, 1.73),
        slowdown(1.11, 1.74),
        slowdown(1.11, 1.75),
        slowdown(1.13, 1.80),
        slowdown(1.13, 1.78),
        slowdown(1.14, 1.81),
        slowdown(1.13, 1.84),
        slowdown(1.13, 1.93),
        slowdown(1.91, 4.26),
    ],
    max_load: &[
        max_load("Homa", 60, 92),
        max_load("pFabric", 52, 75),
        max_load("pHost", 43, 71),
        max_load("PIAS", 57, 83),
    ],
    queues: PublishedQueues {
        tor_to_spine: kilobytes(0.7, 21.1),
        spine_to_tor: kilobytes(0.8, 22.4),
        tor_to_host: kilobytes(1.7, 58.7),
    },
};

const W2: Published = Published {
    name: "W2",
    description: "Google's search application",
    mean_bytes: 440.79,
    payload_share: 0.796,
    scheduled_levels: 3,
    warm_up: Span::from_micros(25_000),
    window: Span::from_micros(50_000),
    axis_bytes: [3, 34, 58, 171, 269, 320, 366, 427, 512, 262_144],
    axis_shares: [
        0.132306, 0.202751, 0.312693, 0.402771, 0.508496, 0.642464, 0.731776, 0.821088, 0.910401,
        0.999975,
    ],
    at_80: [
        slowdown(1.29, 1.99),
        slowdown(1.30, 2.00),
        slowdown(1.30, 2.00),
        slowdown(1.28, 1.93),
        slowdown(1.27, 1.90),
        slowdown(1.34, 2.09),
        slowdown(1.35, 2.14),
        slowdown(1.44, 2.47),
        slowdown(1.45, 2.60),
        slowdown(5.78, 15.82),
    ],
    at_50: [
        slowdown(1.14, 1.86),
        slowdown(1.15, 1.86),
        slowdown(1.15, 1.85),
        slowdown(1.14, 1.78),
        slowdown(1.13, 1.74),
        slowdown(1.14, 1.81),
        slowdown(1.14, 1.82),
        slowdown(1.16, 1.92),
        slowdown(1.15, 1.93),
        slowdown(2.08, 4.58),
    ],
    max_load: &[
        max_load("Homa", 72, 91),
        max_load("pFabric", 69, 85),
        max_load("pHost", 45, 58),
        max_load("PIAS", 69, 83),
    ],
    queues: PublishedQueues {
        tor_to_spine: kilobytes(1.0, 30.0),
        spine_to_tor: kilobytes(1.1, 34.1),
        tor_to_host: kilobytes(5.5, 93.0),
    },
};

const W3: Published = Published {
    name: "W3",
    description: "all applications of a Google data center",
    mean_bytes: 2927.35,
    payload_share: 0.887,
    scheduled_levels: 4,
    warm_up: Span::from_micros(50_000),
    window: Span::from_micros(200_000),
    axis_bytes: [36, 77, 110, 158, 268, 313, 402, 573, 1755, 5_114_695],
    axis_shares: [
        0.108913, 0.220705, 0.318856, 0.406446, 0.523994, 0.602272, 0.706643, 0.801695, 0.901252,
        0.999965,
    ],
    at_80: [
        slowdown(1.49, 2.21),
        slowdown(1.48, 2.17),
        slowdown(1.46, 2.14),
        slowdown(1.45, 2.10),
        slowdown(1.42, 2.02),
        slowdown(1.41, 1.99),
        slowdown(1.39, 1.94),
        slowdown(1.38, 2.00),
        slowdown(1.23, 1.68),
        slowdown(6.20, 15.58),
    ],
    at_50: [
        slowdown(1.27, 2.03),
        slowdown(1.26, 2.00),
        slowdown(1.26, 1.97),
        slowdown(1.25, 1.93),
        slowdown(1.23, 1.86),
        slowdown(1.22, 1.84),
        slowdown(1.21, 1.80),
        slowdown(1.20, 1.80),
        slowdown(1.11, 1.53),
        slowdown(2.44, 5.18),
    ],
    max_load: &[
        max_load("Homa", 80, 90),
        max_load("pFabric", 75, 84),
        max_load("pHost", 60, 65),
        max_load("PIAS", 78, 84),
    ],
    queues: PublishedQueues {
        tor_to_spine: kilobytes(1.6, 50.3),
        spine_to_tor: kilobytes(1.8, 57.1),
        tor_to_host: kilobytes(12.8, 117.9),
    },
};

const W4: Published = Published {
    name: "W4",
    description: "Facebook's Hadoop cluster",
    mean_bytes: 127_796.6,
    payload_share: 0.898,
    scheduled_levels: 7,
    warm_up: Span::from_micros(100_000),
    window: Span::from_micros(800_000),
    axis_bytes: [
        315, 376, 502, 561, 662, 960, 6387, 49_408, 120_373, 10_000_000,
    ],
    axis_shares: [
        0.1033, 0.2026, 0.30294, 0.40054, 0.50518, 0.60045, 0.70075, 0.80112, 0.90056, 1.0,
    ],
    at_80: [
        slowdown(1.42, 2.04),
        slowdown(1.40, 2.01),
        slowdown(1.37, 1.92),
        slowdown(1.36, 1.89),
        slowdown(1.34, 1.85),
        slowdown(1.29, 1.73),
        slowdown(1.18, 1.66),
        slowdown(1.30, 2.36),
        slowdown(1.34, 2.89),
        slowdown(5.92, 25.61),
    ],
    at_50: [
        slowdown(1.24, 1.89),
        slowdown(1.23, 1.85),
        slowdown(1.21, 1.78),
        slowdown(1.20, 1.75),
        slowdown(1.19, 1.70),
        slowdown(1.16, 1.62),
        slowdown(1.11, 1.53),
        slowdown(1.15, 2.02),
        slowdown(1.16, 2.30),
        slowdown(2.33, 6.94),
    ],
    max_load: &[
        max_load("Homa", 79, 89),
        max_load("pFabric", 80, 87),
        max_load("pHost", 69, 73),
        max_load("PIAS", 79, 85),
    ],
    queues: PublishedQueues {
        tor_to_spine: kilobytes(1.7, 82.7),
        spine_to_tor: kilobytes(1.7, 92.2),
        tor_to_host: kilobytes(17.3, 146.1),
    },
};

const W5: Published = Published {
    name: "W5",
    description: "web search, from the DCTCP paper",
    mean_bytes: 2_515_857.4,
    payload_share: 0.898,
    scheduled_levels: 7,
    warm_up: Span::from_micros(200_000),
    window: Span::from_micros(1_900_000),
    axis_bytes: [
        7210, 21_630, 28_840, 50_470, 70_658, 269_654, 1_058_428, 2_210_586, 11_537_442, 28_840_000,
    ],
    axis_shares: [
        0.125, 0.233333, 0.307143, 0.413, 0.504, 0.610112, 0.71006, 0.81, 0.910005, 1.0,
    ],
    at_80: [
        slowdown(1.16, 1.31),
        slowdown(1.23, 1.55),
        slowdown(1.24, 1.44),
        slowdown(1.25, 1.50),
        slowdown(1.26, 1.56),
        slowdown(1.26, 1.59),
        slowdown(1.30, 2.03),
        slowdown(1.41, 2.30),
        slowdown(2.42, 4.09),
        slowdown(7.66, 17.50),
    ],
    at_50: [
        slowdown(1.10, 1.26),
        slowdown(1.13, 1.37),
        slowdown(1.14, 1.26),
        slowdown(1.13, 1.30),
        slowdown(1.13, 1.34),
        slowdown(1.13, 1.37),
        slowdown(1.15, 1.71),
        slowdown(1.17, 1.90),
        slowdown(1.57, 2.71),
        slowdown(2.44, 5.45),
    ],
    max_load: &[
        max_load("Homa", 79, 87),
        max_load("pFabric", 81, 86),
        max_load("pHost", 69, 73),
        max_load("PIAS", 77, 81),
        max_load("NDP", 67, 73),
    ],
    queues: PublishedQueues {
        tor_to_spine: kilobytes(1.7, 93.6),
        spine_to_tor: kilobytes(1.6, 78.1),
        tor_to_host: kilobytes(17.3, 126.4),
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_sizes_keep_mean_deciles_and_tail() {
        // The 99th and 99.9th percentile and the longest message of the tables in HomaSimulation.
        let tails = [
            [1859, 4897, 4_979_091],
            [3151, 21_845, 3_529_904],
            [31_013, 356_516, 15_158_197],
            [3_430_822, 10_000_000, 10_000_000],
            [26_917_814, 28_840_000, 28_840_000],
        ];
        for (name, tail) in WorkloadName::ALL.into_iter().zip(tails) {
            let published = name.published();
            let sizes = Sizes::built_in(name);
            assert!(sizes.points().len() <= 40, "{name:?}");
            assert!(sizes.points().windows(2).all(
                |pair| pair[0].bytes < pair[1].bytes && pair[0].cumulative < pair[1].cumulative
            ));
            // W1's table ends in a formula, whose mean the simulations rounded.
            let off = sizes.step_mean() / published.mean_bytes - 1.0;
            assert!(off.abs() < 0.001, "{name:?}: {off}");
            assert!(published.describes(&sizes), "{name:?}");
            for bytes in published.axis_bytes {
                let is_point = sizes.points().iter().any(|point| point.bytes == bytes);
                assert!(is_point, "{name:?}: {bytes}");
            }
            assert_eq!(
                [sizes.draw(0.99), sizes.draw(0.999), sizes.longest()],
                tail,
                "{name:?}"
            );
        }
    }

    #[test]
    fn deciles_of_the_built_in_sizes_are_those_of_figure_10() {
        for name in WorkloadName::ALL {
            let sizes = Sizes::built_in(name);
            let axis = name.published().axis_bytes;
            for (index, bytes) in axis.into_iter().take(9).enumerate() {
                let decile = sizes.draw((index + 1) as f64 / 10.0);
                // Figure 10 names the ends of buckets, and those of W1 and W5 are wide.
                let before = index.checked_sub(1).map_or(0, |before| axis[before]);
                assert!(decile > before && decile <= bytes, "{name:?}: {decile}");
                if matches!(name, WorkloadName::W2 | WorkloadName::W3 | WorkloadName::W4) {
                    assert_eq!(decile, bytes, "{name:?}");
                }
            }
        }
    }

    #[test]
    fn no_workload_is_taken_for_another() {
        for name in WorkloadName::ALL {
            for other in WorkloadName::ALL {
                let describes = name.published().describes(&Sizes::built_in(other));
                assert_eq!(describes, name == other, "{name:?} {other:?}");
            }
        }
    }

    #[test]
    fn figures_are_known_for_two_loads() {
        let w4 = WorkloadName::W4.published();
        assert_eq!(w4.slowdown_at(0.8).expect("known")[9].p99, 25.61);
        assert_eq!(w4.slowdown_at(0.5).expect("known")[9].p99, 6.94);
        assert_eq!(w4.slowdown_at(0.7), None);
        assert_eq!(w4.queues.tor_to_host.max_bytes, 146_100);
    }
}
