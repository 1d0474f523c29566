//! What a soak does, and the words between its processes: one line of JSON each.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use homa_client::{Carrier, Config, Faults};
use serde::{Deserialize, Serialize};

use crate::ids::Ids;

/// Processes that call each other.
pub(crate) const NODES: usize = 4;

/// How long calls may go on once no new ones are made.
pub(crate) const FINISH_TIME: Duration = Duration::from_secs(30);

/// How long the tables may take to empty after the last call.
pub(crate) const SETTLE_TIME: Duration = Duration::from_secs(15);

/// Which user-space engine carries the RPCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Engine {
    /// UDP on loopback.
    Udp,
    /// IP protocol 146 through raw sockets, between two network namespaces. Needs root.
    Raw,
}

/// Faults made by each endpoint on everything it sends, in parts per million of the packets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FaultRates {
    pub(crate) loss_ppm: u32,
    pub(crate) reorder_ppm: u32,
    pub(crate) duplicate_ppm: u32,
    pub(crate) delay_ppm: u32,
    pub(crate) delay_us: u64,
}

/// What one process of a soak is told first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodePlan {
    /// Which process it is.
    pub(crate) index: usize,
    /// Where its server listens; port 0 is any.
    pub(crate) listen: SocketAddr,
    pub(crate) engine: Engine,
    pub(crate) seed: u64,
    pub(crate) in_flight: usize,
    pub(crate) workers: usize,
    /// Silence after which a call fails.
    pub(crate) timeout_ms: u64,
    /// Calls to make at most.
    pub(crate) calls: Option<u64>,
    pub(crate) faults: FaultRates,
    pub(crate) capture: Option<PathBuf>,
}

impl NodePlan {
    /// Settings of both endpoints of this process.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config::for_carrier(match self.engine {
            Engine::Udp => Carrier::Udp,
            Engine::Raw => Carrier::Ip,
        });
        config.protocol.timers.timeout = Duration::from_millis(self.timeout_ms);
        let rates = self.faults;
        let mut faults = Faults::default();
        // An endpoint adds one or nothing to it.
        faults.seed = self.seed.wrapping_add(2 * self.index as u64);
        faults.loss_ppm = rates.loss_ppm;
        faults.reorder_ppm = rates.reorder_ppm;
        faults.duplicate_ppm = rates.duplicate_ppm;
        faults.delay_ppm = rates.delay_ppm;
        faults.delay = Duration::from_micros(rates.delay_us);
        config.faults = Some(faults);
        config.capture.clone_from(&self.capture);
        config
    }
}

/// What a process is told after its plan. Closing its standard input ends it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Call these, by number of the process.
    Start { servers: Vec<(usize, SocketAddr)> },
    /// Make no new calls.
    Finish,
    /// Nobody calls any more: wait for the tables to empty, and report.
    Settle,
}

/// What a process says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    /// Its server is there.
    Listening { addr: SocketAddr },
    /// It cannot have its sockets; `lacking` if that is for lack of a capability.
    Failed { why: String, lacking: bool },
    /// Calls that have ended so far.
    Progress { calls: u64 },
    /// All of its calls have ended.
    Finished,
    /// What it saw.
    Report(Box<NodeReport>),
}

/// What one process has seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct NodeReport {
    /// Calls it has made.
    pub(crate) started: u64,
    /// Those that were answered with the right bytes.
    pub(crate) answered: Ids,
    /// By caller: the requests that ran here.
    pub(crate) run: Vec<Ids>,
    /// Requests that ran here more than once.
    pub(crate) run_twice: u64,
    /// Messages that were not what they should be.
    pub(crate) wrong: u64,
    /// Calls that ended with an error.
    pub(crate) failed: u64,
    /// Calls that had not ended after [`FINISH_TIME`].
    pub(crate) unfinished: u64,
    /// Replies that could not be handed over.
    pub(crate) replies_refused: u64,
    /// Bytes of the messages of calls that were answered, both ways.
    pub(crate) bytes: u64,
    /// From the start to the end of its last call.
    pub(crate) seconds: f64,
    /// Times in nanoseconds, and how many calls took as long.
    pub(crate) latencies: Vec<(u64, u64)>,
    /// The same, only of the longest messages.
    pub(crate) longest_latencies: Vec<(u64, u64)>,
    /// The first things that went wrong.
    pub(crate) notes: Vec<String>,
    /// Both of its endpoints together.
    pub(crate) counted: Counted,
}

/// Counters of endpoints, as sums.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub(crate) left_over: LeftOver,
    /// RPCs that ended because the peer was silent.
    pub(crate) timeouts: u64,
    pub(crate) resends: u64,
    /// DATA packets sent again.
    pub(crate) retransmitted: u64,
    pub(crate) packets_sent: u64,
    pub(crate) sends: u64,
    pub(crate) packets_received: u64,
    pub(crate) receives: u64,
    pub(crate) send_errors: u64,
    /// Lost because a socket's buffer was full.
    pub(crate) socket_buffer_drops: u64,
    /// Lost, doubled, overtaken and delayed on purpose.
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) delayed: u64,
    /// Replies given up because the send memory was full.
    pub(crate) replies_forgotten: u64,
    /// Ids of finished RPCs given up early.
    pub(crate) finished_forgotten: u64,
    /// Packets that a capture lacks.
    pub(crate) capture_missed: u64,
}

/// What tables and buffers hold when nothing is to be done any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeftOver {
    pub(crate) rpcs: u64,
    /// Bytes of receive memory.
    pub(crate) receive_bytes: u64,
    /// Bytes of messages that are not sent, or not acknowledged.
    pub(crate) send_bytes: u64,
    /// Entries of the queues for control packets, DATA, grants and receive memory.
    pub(crate) queued: u64,
}

impl LeftOver {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.rpcs += other.rpcs;
        self.receive_bytes += other.receive_bytes;
        self.send_bytes += other.send_bytes;
        self.queued += other.queued;
    }
}
