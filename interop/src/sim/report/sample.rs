//! Made-up outcomes for tests.

use crate::sim::outcome::{
    Backlog, Bucket, Comparison, Counts, Decile, IncastOutcome, IncastPoint, MaxLoadOutcome,
    Outcome, Probe, Queue, Queues, ScaleOutcome, ScalePoint, Throughput, Verdict,
};
use crate::sim::setup::{Mode, Setup, WorkloadName};

/// Sizes with P50 and P99 of Homa at 80 % load of W3, where the tenths of the messages end.
fn published() -> Vec<(u64, f64, f64)> {
    let published = WorkloadName::W3.published();
    let sizes = published.axis_bytes.iter().zip(&published.at_80);
    sizes
        .map(|(bytes, slowdown)| (u64::from(*bytes), slowdown.p50, slowdown.p99))
        .collect()
}

/// A run of W3 that is 2 % worse than Homa's published one, in twenty buckets.
pub(super) fn outcome(name: &str) -> Outcome {
    let tenths = published();
    let half = |at: usize| {
        let (upper_bytes, p50, p99) = tenths[at / 2];
        let lower = (at / 2).checked_sub(1).map_or(1, |below| tenths[below].0);
        // The first half of each tenth is shorter and the least bit faster.
        if at.is_multiple_of(2) {
            ((lower + upper_bytes) / 2, p50 * 0.995, p99 * 0.99)
        } else {
            (upper_bytes, p50, p99)
        }
    };
    let slowdown: Vec<Bucket> = (0..20)
        .map(|at| {
            let (upper_bytes, p50, p99) = half(at);
            Bucket {
                upper_bytes,
                count: 5_000 + 10 * at as u64,
                mean: 1.02 * p50,
                p50: 1.02 * p50,
                p99: 1.02 * p99,
                p999: 1.3 * p99,
                p99_by_host: 1.02 * p99,
                unfinished: 0,
            }
        })
        .collect();
    let decile = |upper_bytes, published_p99: f64, limit| Decile {
        upper_bytes,
        published_p99,
        p99_by_host: 1.02 * published_p99,
        p99: 1.05 * published_p99,
        ratio: 1.02,
        limit,
        ratio_together: 1.05,
    };
    let measured = slowdown.iter().map(|bucket| bucket.count).sum();
    Outcome {
        name: name.to_owned(),
        setup: Setup::default(),
        differs: Vec::new(),
        published_sizes: true,
        verdict: Verdict::Finished { at_us: 412_345.678 },
        slowdown,
        throughput: Throughput {
            is_measured: true,
            offered_gbps: 7.098,
            delivered_gbps: 7.091,
            downlink_gbps: 7.997,
        },
        backlog: Backlog {
            start_bytes: 12_000_000,
            end_bytes: 15_000_000,
            growth: 0.002,
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
            deciles: tenths
                .iter()
                .map(|(upper_bytes, _, p99)| decile(*upper_bytes, *p99, 1.15))
                .collect(),
            last: decile(5_114_695, 15.58, 1.3),
            holds: true,
        },
    }
}

/// The same at another load; `backlog_bytes` above 0 make it an overload.
pub(super) fn at_load(load: f64, backlog_bytes: u64) -> Outcome {
    let mut outcome = outcome(&format!("Homa load={load}"));
    outcome.setup.load = load;
    outcome.differs = vec![format!("load = {load}")];
    outcome.throughput.delivered_gbps = 8.87 * load;
    if backlog_bytes > 0 {
        outcome.verdict = Verdict::Overload {
            why: "the measured messages do not finish".to_owned(),
            at_us: 2e6,
            backlog_bytes,
            backlog_messages: 1_234,
        };
    }
    outcome
}

/// The same with another overcommitment.
pub(super) fn overcommit(degree: usize, load: f64) -> Outcome {
    let mut outcome = at_load(load, 0);
    outcome.name = format!("degree {degree} load={load}");
    outcome.setup.engine.max_overcommit = Some(degree);
    outcome
}

/// A search for the highest load of W4, which is 92 %.
pub(super) fn max_load(name: &str) -> MaxLoadOutcome {
    let setup = Setup {
        workload: WorkloadName::W4,
        load: 0.92,
        ..Setup::default()
    };
    let probe = |load: f64| Probe {
        load,
        is_carried: load < 0.925,
        offered_gbps: 8.98 * load,
        arrived_gbps: 8.98 * 0.924,
        error_gbps: 0.012,
        downlink_gbps: 9.271,
        wasted: 0.073,
        backlog_bytes: 55_123_456_789,
    };
    MaxLoadOutcome {
        name: name.to_owned(),
        differs: vec!["load = 0.92".to_owned(), "workload = \"w4\"".to_owned()],
        setup,
        published_sizes: true,
        settle_us: 24_000.0,
        window_us: 48_000.0,
        carried: Some(0.92),
        overload: Some(0.93),
        probes: [0.89, 0.92, 0.93].map(probe).to_vec(),
        published: Some(0.89),
    }
}

/// The same, of which the lowest load is an overload.
pub(super) fn nothing_carried(name: &str) -> MaxLoadOutcome {
    let mut outcome = max_load(name);
    outcome.probes.drain(..2);
    outcome.carried = None;
    outcome.setup.load = 0.93;
    outcome
}

/// An incast with 10 and 1,000 RPCs at a time.
pub(super) fn incast(name: &str, goodputs: [f64; 2]) -> IncastOutcome {
    let mut setup = Setup {
        mode: Mode::Echo,
        ..Setup::default()
    };
    setup.topology.racks = 1;
    setup.topology.buffer_bytes = Some(1_000_000);
    let point = |(concurrent, goodput_gbps): (u32, f64)| IncastPoint {
        concurrent,
        goodput_gbps,
        goodput_before_gbps: 0.9 * goodput_gbps,
        finished: 58_000,
        p50_us: 8.6 * f64::from(concurrent),
        p99_us: 13.0 * f64::from(concurrent),
        failed: 0,
        dropped: 12,
        dropped_before: 3_456,
        resends: 12,
        resends_before: 3_999,
        max_queue_bytes: 999_700,
    };
    IncastOutcome {
        name: name.to_owned(),
        setup,
        differs: vec!["topology.racks = 1".to_owned()],
        servers: 15,
        request_bytes: 100,
        response_bytes: 10_000,
        warm_up_us: 100_000.0,
        window_us: 500_000.0,
        points: [10, 1_000].into_iter().zip(goodputs).map(point).collect(),
    }
}

/// How the simulator grows from 16 to 1,024 hosts.
pub(super) fn scale(name: &str) -> ScaleOutcome {
    let point = |(hosts, run_s): (u32, f64)| ScalePoint {
        hosts,
        simulated_us: 5e6 / f64::from(hosts),
        set_up_s: 1e-6 * f64::from(hosts * hosts),
        run_s,
        events: 40_000_000,
        hops: 16_000_000,
        peak_bytes: 10_000_000 + 600 * u64::from(hosts * hosts),
    };
    ScaleOutcome {
        name: name.to_owned(),
        setup: Setup::default(),
        differs: Vec::new(),
        points: [(16, 8.0), (1_024, 16.0)].into_iter().map(point).collect(),
    }
}
