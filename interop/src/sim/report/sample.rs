//! Made-up outcomes for tests.

use crate::sim::outcome::{
    Bucket, Comparison, Counts, Decile, Outcome, Queue, Queues, Throughput, Verdict,
};
use crate::sim::setup::Setup;

/// P50 and P99 of Homa at 80 % load of W3, where the tenths of the messages end (SIGCOMM'18,
/// figure 10).
pub(super) const W3: [(u64, f64, f64); 10] = [
    (36, 1.49, 2.21),
    (77, 1.48, 2.17),
    (110, 1.46, 2.14),
    (158, 1.45, 2.10),
    (268, 1.42, 2.02),
    (313, 1.41, 1.99),
    (402, 1.39, 1.94),
    (573, 1.38, 2.00),
    (1_755, 1.23, 1.68),
    (5_114_695, 6.20, 15.58),
];

/// A run of W3 that is 2 % worse than Homa's published one, in twenty buckets.
pub(super) fn outcome(name: &str) -> Outcome {
    let published = |at: usize| {
        let (upper_bytes, p50, p99) = W3[at / 2];
        let below = at / 2;
        let lower = below.checked_sub(1).map_or(1, |below| W3[below].0);
        // The first half of each tenth is shorter and the least bit faster.
        if at.is_multiple_of(2) {
            ((lower + upper_bytes) / 2, p50 * 0.995, p99 * 0.99)
        } else {
            (upper_bytes, p50, p99)
        }
    };
    let slowdown: Vec<Bucket> = (0..20)
        .map(|at| {
            let (upper_bytes, p50, p99) = published(at);
            Bucket {
                upper_bytes,
                count: 5_000 + 10 * at as u64,
                mean: 1.02 * p50,
                p50: 1.02 * p50,
                p99: 1.02 * p99,
                p999: 1.3 * p99,
            }
        })
        .collect();
    let decile = |upper_bytes, published_p99: f64, limit| Decile {
        upper_bytes,
        published_p99,
        p99: 1.02 * published_p99,
        ratio: 1.02,
        limit,
    };
    let measured = slowdown.iter().map(|bucket| bucket.count).sum();
    Outcome {
        name: name.to_owned(),
        setup: Setup::default(),
        differs: Vec::new(),
        verdict: Verdict::Finished { at_us: 412_345.678 },
        slowdown,
        throughput: Throughput {
            offered_gbps: 7.098,
            delivered_gbps: 7.091,
            downlink_gbps: 7.997,
        },
        queues: Queues {
            tor_to_spine: Queue {
                mean_bytes: 1_590.0,
                max_bytes: 49_800,
            },
            spine_to_tor: Queue {
                mean_bytes: 1_820.0,
                max_bytes: 55_600,
            },
            tor_to_host: Queue {
                mean_bytes: 12_640.0,
                max_bytes: 116_900,
            },
        },
        wasted: 0.031,
        bytes_by_priority: [30, 12, 9, 6, 11, 11, 11, 10].map(|share| share * 123_456_789),
        counts: Counts {
            measured,
            unfinished: 3,
            messages: 2 * measured,
            packets: 1_234_567,
            hops: 4_567_890,
            events: 9_876_543,
            dropped: 0,
            resends: 0,
        },
        comparison: Comparison::Done {
            reference: "Homa, W3 at 80 %".to_owned(),
            deciles: W3
                .iter()
                .map(|(upper_bytes, _, p99)| decile(*upper_bytes, *p99, 1.15))
                .collect(),
            last: decile(5_114_695, 15.58, 1.3),
            holds: true,
        },
    }
}
