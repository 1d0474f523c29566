//! [`Outcome`]: what one run has found, and what other experiments have. Times are simulated ones;
//! nothing here depends on the machine, so that the same seed gives the same bytes. Only
//! [`ScaleOutcome`] is about the machine.

use serde::{Deserialize, Serialize};

use super::setup::Setup;

/// What one run has found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Outcome {
    /// A name for plots and tables, from the plan.
    pub(crate) name: String,
    pub(crate) setup: Setup,
    /// Every setting that differs from its default, as `topology.racks = 2`.
    pub(crate) differs: Vec<String>,
    /// Whether the messages are those of the published workload, by all its sizes or by the
    /// built-in table; else their sizes are a user's own.
    pub(crate) published_sizes: bool,
    pub(crate) verdict: Verdict,
    /// Slowdown by size of message.
    pub(crate) slowdown: Vec<Bucket>,
    pub(crate) throughput: Throughput,
    pub(crate) backlog: Backlog,
    pub(crate) queues: Queues,
    /// Share of the receivers' links' time that they idle while their host withholds grants.
    pub(crate) wasted: f64,
    /// Bytes on the hosts' uplinks by priority level, lowest first.
    pub(crate) bytes_by_priority: [u64; 8],
    pub(crate) counts: Counts,
    pub(crate) comparison: Comparison,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(crate) enum Verdict {
    /// 99.9 % of the measured messages, or more, have finished.
    Finished {
        /// When, in simulated time from the start.
        at_us: f64,
    },
    /// The network does not carry what is offered.
    Overload {
        why: String,
        at_us: f64,
        /// Length of the messages that have not finished; in echo mode, of the requests.
        backlog_bytes: u64,
        backlog_messages: u64,
    },
}

/// Messages of similar size: above the bucket before, and up to `upper_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Bucket {
    pub(crate) upper_bytes: u64,
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    /// Mean over the receiving hosts of what is `p99` of their messages alone, weighted by their
    /// number: what was published for SIGCOMM'18. With a few messages for each host it is below
    /// `p99`.
    pub(crate) p99_by_host: f64,
    /// Of the messages, those that had not finished at the end. They count at their age, so that
    /// figures which depend on them are too low.
    pub(crate) unfinished: u64,
}

/// Averages over hosts, in the measured window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Throughput {
    /// False if the run ended before its window: all figures of that are 0 then.
    pub(crate) is_measured: bool,
    /// Payload of the messages that started, and in echo mode of their responses.
    pub(crate) offered_gbps: f64,
    /// Payload that arrived, of messages that have finished or not; the oracle's, which has no
    /// packets, of messages that finished.
    pub(crate) delivered_gbps: f64,
    /// What the hosts' downlinks were busy with, headers and gaps included.
    pub(crate) downlink_gbps: f64,
}

/// Length of the messages that have started and not finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Backlog {
    /// When the window starts, ...
    pub(crate) start_bytes: u64,
    /// ... and when it ends.
    pub(crate) end_bytes: u64,
    /// What it grows by, as a share of what is offered meanwhile; below 0 if it shrinks.
    pub(crate) growth: f64,
}

/// Bytes that wait at switch ports, the packet that is being sent left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Queues {
    pub(crate) tor_to_spine: Queue,
    pub(crate) spine_to_tor: Queue,
    pub(crate) tor_to_host: Queue,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Queue {
    /// Mean over time and ports.
    pub(crate) mean_bytes: f64,
    /// Most that ever waited at one port.
    pub(crate) max_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Counts {
    /// Messages that started in the measured window, ...
    pub(crate) measured: u64,
    /// ... and of these the ones that had not finished at the end, which count at their age.
    pub(crate) unfinished: u64,
    pub(crate) messages: u64,
    pub(crate) packets: u64,
    /// Packets times the links that they passed.
    pub(crate) hops: u64,
    pub(crate) events: u64,
    /// Packets dropped by full buffers, and lost by chance.
    pub(crate) dropped: u64,
    pub(crate) resends: u64,
}

/// The highest load that a network carries.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct MaxLoadOutcome {
    pub(crate) name: String,
    /// Its load is the highest that is carried, or else the lowest tried.
    pub(crate) setup: Setup,
    pub(crate) differs: Vec<String>,
    pub(crate) published_sizes: bool,
    /// Simulated time before it is looked how much arrives, and while it is.
    pub(crate) settle_us: f64,
    pub(crate) window_us: f64,
    /// The highest load that is carried; `None`: the lowest tried is an overload.
    pub(crate) carried: Option<f64>,
    /// The lowest that is an overload; `None`: the highest tried is carried.
    pub(crate) overload: Option<f64>,
    /// By load.
    pub(crate) probes: Vec<Probe>,
    /// The published one for such a set-up.
    pub(crate) published: Option<f64>,
}

impl MaxLoadOutcome {
    /// What was found at the highest load that is carried.
    pub(crate) fn best(&self) -> Option<&Probe> {
        self.probes.iter().rfind(|probe| probe.is_carried)
    }

    /// What was found at the lowest load that is an overload.
    pub(crate) fn overload(&self) -> Option<&Probe> {
        self.probes.iter().find(|probe| !probe.is_carried)
    }

    /// Whether as much is carried as is published; `None`: nothing is.
    pub(crate) fn holds(&self) -> Option<bool> {
        let published = self.published?;
        // The sums of steps have rounding errors.
        Some(self.carried.is_some_and(|load| load > published - 1e-9))
    }
}

/// What a network with a backlog does at some load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Probe {
    pub(crate) load: f64,
    /// At least as much arrives as is offered.
    #[serde(rename = "carried")]
    pub(crate) is_carried: bool,
    /// Payload that the load brings to each host on average.
    pub(crate) offered_gbps: f64,
    /// Payload that arrives at each host on average.
    pub(crate) arrived_gbps: f64,
    /// Standard error of that.
    pub(crate) error_gbps: f64,
    /// What the hosts' downlinks are busy with, headers and gaps included.
    pub(crate) downlink_gbps: f64,
    /// Share of the time that receivers' links idle while grants are withheld.
    pub(crate) wasted: f64,
    /// In messages that have not finished, at the end.
    pub(crate) backlog_bytes: u64,
}

/// What many servers that answer one client at once do to its link.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct IncastOutcome {
    pub(crate) name: String,
    pub(crate) setup: Setup,
    pub(crate) differs: Vec<String>,
    pub(crate) servers: u32,
    pub(crate) request_bytes: u32,
    pub(crate) response_bytes: u32,
    /// Simulated time before anything is measured, and while it is.
    pub(crate) warm_up_us: f64,
    pub(crate) window_us: f64,
    /// In the order of the plan.
    pub(crate) points: Vec<IncastPoint>,
}

/// An incast with so many RPCs at a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct IncastPoint {
    pub(crate) concurrent: u32,
    /// Payload of responses that arrives at the client, each byte once.
    pub(crate) goodput_gbps: f64,
    /// The same from the start of all RPCs to the window.
    pub(crate) goodput_before_gbps: f64,
    /// RPCs that started in the window and finished in it.
    pub(crate) finished: u64,
    /// Time that they took.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// RPCs that failed, from the start of the run on.
    pub(crate) failed: u64,
    /// Packets that switches dropped in the window, and before it.
    pub(crate) dropped: u64,
    pub(crate) dropped_before: u64,
    /// Packets of data that were sent again, likewise.
    pub(crate) resends: u64,
    pub(crate) resends_before: u64,
    /// Most that waited in front of the client's link, in the window.
    pub(crate) max_queue_bytes: u64,
}

/// How speed and memory of the simulator grow with the network. Depends on the machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ScaleOutcome {
    pub(crate) name: String,
    /// With another number of racks than any of the points.
    pub(crate) setup: Setup,
    pub(crate) differs: Vec<String>,
    /// In the order of the plan.
    pub(crate) points: Vec<ScalePoint>,
}

/// A network of some size, run in a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ScalePoint {
    pub(crate) hosts: u32,
    pub(crate) simulated_us: f64,
    /// Seconds until all hosts knew each other, and from there to the end.
    pub(crate) set_up_s: f64,
    pub(crate) run_s: f64,
    pub(crate) events: u64,
    /// Packets times the links that they passed.
    pub(crate) hops: u64,
    /// Most memory that the process had, in all.
    pub(crate) peak_bytes: u64,
}

impl ScalePoint {
    pub(crate) fn events_per_s(&self) -> f64 {
        self.events as f64 / self.run_s
    }

    pub(crate) fn hops_per_s(&self) -> f64 {
        self.hops as f64 / self.run_s
    }
}

/// How the slowdown compares with the published one.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(crate) enum Comparison {
    /// Nobody has published a curve for such a set-up.
    None,
    /// There is one, but it could not be compared with.
    Skipped { reason: String },
    Done {
        /// Where the published curve is from.
        reference: String,
        deciles: Vec<Decile>,
        /// The last bucket.
        last: Decile,
        /// Whether every decile, and the last bucket, is within its limit.
        holds: bool,
    },
}

/// A tenth of the messages, by size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Decile {
    pub(crate) upper_bytes: u64,
    /// Mean of the buckets' 99th percentiles, weighted by the published share of messages.
    pub(crate) published_p99: f64,
    /// The same of ours, for each bucket counted by host, as the published ones are, ...
    pub(crate) p99_by_host: f64,
    /// ... and over all hosts together.
    pub(crate) p99: f64,
    /// Ours by the published one, counted in the same way: by host.
    pub(crate) ratio: f64,
    /// Most that the ratio may be.
    pub(crate) limit: f64,
    /// Ours over all hosts together by the published one.
    pub(crate) ratio_together: f64,
}
