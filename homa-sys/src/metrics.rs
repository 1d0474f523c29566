//! `/proc/net/homa_metrics`: names of its counters (A.15).
//!
//! The file is a snapshot taken when it is opened. A line holds a name, a decimal value and a
//! comment. `time_cycles` and `cpu_khz` come first, then for each CPU a line `core N` and that
//! core's counters, which have to be summed.

/// The file. It exists in the initial network namespace only.
pub const PATH: &str = "/proc/net/homa_metrics";

/// The debug trace that [`HOMAIOCFREEZE`](crate::HOMAIOCFREEZE) stops.
pub const TIMETRACE_PATH: &str = "/proc/timetrace";

/// Time stamp of the snapshot, in cycles.
pub const TIME_CYCLES: &str = "time_cycles";
/// Rate of the cycle counter.
pub const CPU_KHZ: &str = "cpu_khz";
/// Starts the name of a counter of packets sent; a [packet type](PACKET_TYPES) follows.
pub const PACKETS_SENT_PREFIX: &str = "packets_sent_";
/// Starts the name of a counter of packets received; a [packet type](PACKET_TYPES) follows.
pub const PACKETS_RCVD_PREFIX: &str = "packets_rcvd_";
/// The packet types by which packets are counted.
pub const PACKET_TYPES: [&str; 7] = [
    "DATA", "GRANT", "RESEND", "BUSY", "CUTOFFS", "NEED_ACK", "ACK",
];
/// Starts the name of a histogram bucket of message sizes; its upper bound in bytes follows.
pub const MSG_BYTES_PREFIX: &str = "msg_bytes_";

/// Counters that make good test oracles.
pub const COUNTERS: [&str; 19] = [
    "requests_received",
    "responses_received",
    "resent_packets",
    "resent_packets_used",
    "packet_discards",
    "resent_discards",
    "unknown_rpcs",
    "short_packets",
    "server_cant_create_rpcs",
    "server_rpcs_unknown",
    "rpc_timeouts",
    "buffer_alloc_failures",
    "dropped_data_no_bufs",
    "ack_overflows",
    "fifo_grant_bytes",
    "needy_grants",
    "gaps_created",
    "large_msg_count",
    "large_msg_bytes",
];

/// Bytes and packets sent at each priority level, lowest first.
pub const PRIORITY_COUNTERS: [[&str; 2]; 8] = [
    ["priority0_bytes", "priority0_packets"],
    ["priority1_bytes", "priority1_packets"],
    ["priority2_bytes", "priority2_packets"],
    ["priority3_bytes", "priority3_packets"],
    ["priority4_bytes", "priority4_packets"],
    ["priority5_bytes", "priority5_packets"],
    ["priority6_bytes", "priority6_packets"],
    ["priority7_bytes", "priority7_packets"],
];
