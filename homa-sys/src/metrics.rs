//! `/proc/net/homa_metrics`: names of its counters (A.15).
//!
//! The file is a snapshot taken when it is opened. A line holds a name, a decimal value and a
//! comment. `time_cycles` and `cpu_khz` come first, then for each CPU a line `core N` and that
//! core's counters, which have to be summed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

/// Longest file that is read: some hundred counters of each of some thousand cores.
const MAX_BYTES: u64 = 256 << 20;

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    sums: BTreeMap<String, u64>,
}

impl Metrics {
    /// The present counters.
    ///
    /// # Errors
    /// `NotFound`: no module, or another network namespace; `InvalidData`: the file is not what
    /// this module says.
    pub fn read() -> io::Result<Self> {
        let mut text = String::new();
        File::open(PATH)?
            .take(MAX_BYTES)
            .read_to_string(&mut text)?;
        Self::parse(&text).map_err(|line| {
            let error = format!("{PATH}, line {line}: no name and value");
            io::Error::new(io::ErrorKind::InvalidData, error)
        })
    }

    /// `Err`: the line that is no counter.
    fn parse(text: &str) -> Result<Self, usize> {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for (number, line) in (1usize..).zip(text.lines()) {
            let mut columns = line.split_whitespace();
            let Some(name) = columns.next() else { continue };
            let value: u64 = columns
                .next()
                .and_then(|value| value.parse().ok())
                .ok_or(number)?;
            // The lines that start the counters of a core are numbers of cores, not counters.
            if name == "core" {
                continue;
            }
            let sum = sums.entry(name.to_owned()).or_default();
            *sum = sum.wrapping_add(value);
        }
        Ok(Self { sums })
    }

    /// A counter, summed over all cores; `None`: this module has no such counter.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.sums.get(name).copied()
    }

    /// Packets of this [type](PACKET_TYPES) that were sent.
    pub fn sent(&self, packet: &str) -> Option<u64> {
        self.get(&format!("{PACKETS_SENT_PREFIX}{packet}"))
    }

    /// Packets of this [type](PACKET_TYPES) that were received.
    pub fn received(&self, packet: &str) -> Option<u64> {
        self.get(&format!("{PACKETS_RCVD_PREFIX}{packet}"))
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
time_cycles                              123456 Time when metrics were read
cpu_khz                                 2400000 Clock rate
core 0
packets_sent_DATA                            10 DATA packets sent
requests_received                             3 Requests
core 1
packets_sent_DATA                             5 DATA packets sent
requests_received                             4 Requests
";

    #[test]
    fn counters_are_summed_over_cores() {
        let metrics = Metrics::parse(TEXT).expect("right");
        assert_eq!(metrics.sent("DATA"), Some(15));
        assert_eq!(metrics.get("requests_received"), Some(7));
        assert_eq!(metrics.get(CPU_KHZ), Some(2_400_000));
        assert_eq!(
            (metrics.received("DATA"), metrics.get("core")),
            (None, None)
        );
    }

    #[test]
    fn a_line_without_a_value_is_named() {
        assert_eq!(Metrics::parse("a 1\n\nb x\n"), Err(3));
        assert_eq!(Metrics::parse("a\n"), Err(1));
    }
}
