//! [`Setup`]: everything that one run of the simulator can be told, with the defaults of
//! SIGCOMM'18's simulation.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One run. Every field can be set in a plan and, by the same name, on the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Setup {
    /// Built-in sizes, buckets and published curves.
    pub(crate) workload: WorkloadName,
    /// Sizes from this file instead of the built-in table.
    pub(crate) cdf: Option<PathBuf>,
    /// Share of the hosts' links that is offered, with headers, gaps and control packets; above
    /// 0, at most 1.
    pub(crate) load: f64,
    pub(crate) transport: TransportName,
    pub(crate) mode: Mode,
    pub(crate) wire: Wire,
    pub(crate) topology: Topology,
    pub(crate) engine: EngineSetup,
    pub(crate) dctcp: DctcpSetup,
    pub(crate) seed: u64,
    /// Simulated time before messages are measured; `None`: the workload's.
    pub(crate) warm_up_us: Option<u64>,
    /// Messages that start within this time after it are measured; `None`: the workload's.
    pub(crate) window_us: Option<u64>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            workload: WorkloadName::W3,
            cdf: None,
            load: 0.8,
            transport: TransportName::Homa,
            mode: Mode::OneWay,
            wire: Wire::Paper,
            topology: Topology::default(),
            engine: EngineSetup::default(),
            dctcp: DctcpSetup::default(),
            seed: 1,
            warm_up_us: None,
            window_us: None,
        }
    }
}

/// The workloads of the Homa papers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WorkloadName {
    /// Facebook's memcached servers.
    W1,
    /// Google's search application.
    W2,
    /// All applications of a Google data center.
    W3,
    /// Facebook's Hadoop cluster.
    W4,
    /// Web search, from the DCTCP paper.
    W5,
}

/// What carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TransportName {
    /// The engine of `homa-client`.
    Homa,
    /// A central scheduler that knows all messages at once.
    SrptOracle,
    /// Streams with fair sharing and DCTCP's congestion control.
    Dctcp,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// A request, measured until the receiver has it, as in SIGCOMM'18.
    OneWay,
    /// A request and a response of the same length, measured until the client has that, as in
    /// ATC'21.
    Echo,
}

impl Mode {
    /// How often the bytes of a message pass the network.
    pub(crate) const fn ways(self) -> f64 {
        match self {
            Self::OneWay => 1.0,
            Self::Echo => 2.0,
        }
    }
}

/// How many bytes a packet occupies on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Wire {
    /// As in SIGCOMM'18's simulation; the packets that it does not have occupy nothing.
    Paper,
    /// Our own headers, and every packet.
    Real,
}

/// Hosts, links and switches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Topology {
    pub(crate) racks: u32,
    pub(crate) hosts_per_rack: u32,
    /// Switches that connect the racks. With one rack they are not used.
    pub(crate) spines: u32,
    pub(crate) host_gbps: f64,
    pub(crate) spine_gbps: f64,
    pub(crate) routing: Routing,
    /// Bytes that wait at one switch port at most; `None`: any number.
    pub(crate) buffer_bytes: Option<u64>,
    /// Share of the packets that each switch port loses at random, 0 to 1.
    pub(crate) loss: f64,
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            racks: 9,
            hosts_per_rack: 16,
            spines: 4,
            host_gbps: 10.0,
            spine_gbps: 40.0,
            routing: Routing::Spray,
            buffer_bytes: None,
            loss: 0.0,
        }
    }
}

impl Topology {
    /// Whether every packet arrives.
    pub(crate) const fn is_lossless(&self) -> bool {
        self.loss == 0.0 && self.buffer_bytes.is_none()
    }

    /// Hosts of all racks.
    pub(crate) fn hosts(&self) -> u32 {
        self.racks * self.hosts_per_rack
    }
}

/// Which spine a packet passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Routing {
    /// Any, drawn for each packet.
    Spray,
    /// Always the same between two hosts.
    FlowHash,
}

/// Settings of the engines; what is `None` has the value that the simulated set-up gives it, or
/// else the engine's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EngineSetup {
    /// Priority levels, 1 to 8.
    pub(crate) num_priorities: Option<u8>,
    pub(crate) cutoffs: Option<Cutoffs>,
    /// The lowest levels, which are for scheduled packets; `None`: in proportion to bytes.
    pub(crate) scheduled_levels: Option<u8>,
    pub(crate) max_overcommit: Option<usize>,
    pub(crate) unsched_bytes: Option<usize>,
    pub(crate) unsched_windows: Option<usize>,
    pub(crate) max_incoming: Option<usize>,
    pub(crate) grant_window: Option<usize>,
    pub(crate) min_grant: Option<usize>,
    pub(crate) fifo_fraction: Option<u16>,
    pub(crate) fifo_increment: Option<usize>,
    pub(crate) boost_tail: Option<bool>,
    pub(crate) unsched_by_remaining: Option<bool>,
    pub(crate) pacing: Option<bool>,
    pub(crate) packet_payload: Option<usize>,
    pub(crate) scheduled_payload: Option<usize>,
    /// By which a client limits the unscheduled part of responses. Simulated hosts take all that
    /// arrives, whatever this is.
    pub(crate) main_buffer_bytes: Option<usize>,
    /// Silence before the first RESEND, and between unanswered ones.
    pub(crate) resend_us: Option<u64>,
}

/// How unscheduled levels are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cutoffs {
    /// The engine's rule, applied to the workload's distribution before anything is sent, as in
    /// SIGCOMM'18's simulation.
    Known,
    /// The engine learns them; that takes at least half a second.
    Learned,
    /// HomaModule's.
    Default,
}

/// Settings of [`TransportName::Dctcp`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DctcpSetup {
    /// Connections from one host to another at most, 1 to 64. With one, short messages wait behind
    /// long ones to the same host, which clients of RPC services avoid by pools of about this size.
    pub(crate) connections: u32,
    /// Switch ports with more bytes than this in their queue mark the packets that join it.
    ///
    /// The default is what a host's link carries in a round trip. The DCTCP paper asks for a
    /// seventh of that at least (SIGCOMM'10, section 3.4), and uses 65 packets, 97,500 bytes, for
    /// the bursts of real hosts (3.5). Hosts that are simulated send none: with 97,500 they carry
    /// no more, and messages of every size take longer, short ones of W4 at 80 % load five times
    /// in the 99th percentile.
    pub(crate) mark_above_bytes: u64,
}

impl Default for DctcpSetup {
    fn default() -> Self {
        Self {
            connections: 8,
            mark_above_bytes: 10_000,
        }
    }
}
