//! Parameters of the module: integers in the files of [`DIR`] (A.14).
//!
//! They exist in the initial network namespace only and hold for the whole machine. The reduced
//! build offered for inclusion in Linux has none of them.

use std::fs::File;
use std::io::{self, Read};
use std::num::ParseIntError;
use std::path::Path;

/// Directory of the files; a parameter's name is its file's.
pub const DIR: &str = "/proc/sys/net/homa";

/// Longest line of a parameter that is read: some integers.
const MAX_LINE: u64 = 64 * 1024;

/// One parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Name of the file, and of the sysctl after `net.homa.`.
    pub name: &'static str,
    /// Value after loading the module; several where the parameter is a list, none where the
    /// specification names no default.
    pub default: &'static [i32],
}

impl Parameter {
    /// Its present value, or values.
    ///
    /// # Errors
    /// `NotFound`: no module, or another network namespace, or the parameter is one of another
    /// build; `InvalidData`: there is something else than integers.
    pub fn read(&self) -> io::Result<Vec<i64>> {
        let mut text = String::new();
        File::open(Path::new(DIR).join(self.name))?
            .take(MAX_LINE)
            .read_to_string(&mut text)?;
        parse(&text).map_err(|error| {
            let name = self.name;
            let error = format!("{DIR}/{name}: {error}: \"{}\"", text.trim_end());
            io::Error::new(io::ErrorKind::InvalidData, error)
        })
    }
}

fn parse(text: &str) -> Result<Vec<i64>, ParseIntError> {
    text.split_whitespace().map(str::parse).collect()
}

/// Bytes of a new message that are sent without grants.
pub const UNSCHED_BYTES: Parameter = Parameter {
    name: "unsched_bytes",
    default: &[40_000],
};
/// Bytes granted ahead per message; 0 means `max_incoming` / (active messages + 1).
pub const WINDOW: Parameter = Parameter {
    name: "window",
    default: &[0],
};
/// Bytes that all incoming messages together may have granted or unscheduled but not arrived.
pub const MAX_INCOMING: Parameter = Parameter {
    name: "max_incoming",
    default: &[400_000],
};
/// Messages that get grants at once, at most 8.
pub const MAX_OVERCOMMIT: Parameter = Parameter {
    name: "max_overcommit",
    default: &[8],
};
/// Extra bytes that a FIFO grant gives to the oldest message.
pub const FIFO_GRANT_INCREMENT: Parameter = Parameter {
    name: "fifo_grant_increment",
    default: &[50_000],
};
/// Thousandths of the bandwidth that go to FIFO grants, at most 500.
pub const GRANT_FIFO_FRACTION: Parameter = Parameter {
    name: "grant_fifo_fraction",
    default: &[50],
};
/// Statistics: most messages that wanted grants at once; may be reset.
pub const MAX_GRANTABLE_RPCS: Parameter = Parameter {
    name: "max_grantable_rpcs",
    default: &[0],
};
/// Priority levels in use; writing it raises `cutoff_version`.
pub const NUM_PRIORITIES: Parameter = Parameter {
    name: "num_priorities",
    default: &[8],
};
/// Value of the top three DSCP bits for each level.
pub const PRIORITY_MAP: Parameter = Parameter {
    name: "priority_map",
    default: &[0, 1, 2, 3, 4, 5, 6, 7],
};
/// Highest level for scheduled packets; derived, read-only.
pub const MAX_SCHED_PRIO: Parameter = Parameter {
    name: "max_sched_prio",
    default: &[3],
};
/// Largest message for each level; writing raises `cutoff_version`.
pub const UNSCHED_CUTOFFS: Parameter = Parameter {
    name: "unsched_cutoffs",
    default: &[0, 0, 0, 0, 1_000_000, 15_000, 2800, 200],
};
/// Version of `unsched_cutoffs`; read-only.
pub const CUTOFF_VERSION: Parameter = Parameter {
    name: "cutoff_version",
    default: &[1],
};
/// Ticks of silence before the first RESEND.
pub const RESEND_TICKS: Parameter = Parameter {
    name: "resend_ticks",
    default: &[5],
};
/// Ticks between RESENDs.
pub const RESEND_INTERVAL: Parameter = Parameter {
    name: "resend_interval",
    default: &[5],
};
/// Ticks of silence before an RPC is given up.
pub const TIMEOUT_TICKS: Parameter = Parameter {
    name: "timeout_ticks",
    default: &[100],
};
/// Not used by the module of July 2026.
pub const TIMEOUT_RESENDS: Parameter = Parameter {
    name: "timeout_resends",
    default: &[5],
};
/// Ticks from the last byte of a response to NEED_ACK.
pub const REQUEST_ACK_TICKS: Parameter = Parameter {
    name: "request_ack_ticks",
    default: &[2],
};
/// Speed of the uplink that pacer and FIFO grants assume.
pub const LINK_MBPS: Parameter = Parameter {
    name: "link_mbps",
    default: &[25_000],
};
/// Backlog that the pacer allows in the network card.
pub const MAX_NIC_EST_BACKLOG_USECS: Parameter = Parameter {
    name: "max_nic_est_backlog_usecs",
    default: &[5],
};
/// Second limit on the card's queue, with the queueing discipline only.
pub const MAX_NIC_QUEUE_USECS: Parameter = Parameter {
    name: "max_nic_queue_usecs",
    default: &[40],
};
/// Messages with this many bytes left, or fewer, are never throttled.
pub const DEFER_MIN_BYTES: Parameter = Parameter {
    name: "defer_min_bytes",
    default: &[1000],
};
/// Thousandths of the paced packets that come from the oldest message.
pub const PACER_FIFO_FRACTION: Parameter = Parameter {
    name: "pacer_fifo_fraction",
    default: &[50],
};
/// Percentage of the uplink for Homa when TCP is deferred too, with the queueing discipline only.
pub const HOMA_SHARE: Parameter = Parameter {
    name: "homa_share",
    default: &[50],
};
/// Percentage of the link that the queueing discipline aims at, 5 to 100.
pub const MAX_LINK_USAGE: Parameter = Parameter {
    name: "max_link_usage",
    default: &[99],
};
/// Value 2: do not throttle.
pub const FLAGS: Parameter = Parameter {
    name: "flags",
    default: &[0],
};
/// Bytes in a packet before segmentation; below the MTU means segmentation offload is off.
pub const MAX_GSO_SIZE: Parameter = Parameter {
    name: "max_gso_size",
    default: &[0],
};
/// Segment in software.
pub const GSO_FORCE_SOFTWARE: Parameter = Parameter {
    name: "gso_force_software",
    default: &[0],
};
/// New sockets send with IP protocol 6.
pub const HIJACK_TCP: Parameter = Parameter {
    name: "hijack_tcp",
    default: &[0],
};
/// Send memory of one socket.
pub const WMEM_MAX: Parameter = Parameter {
    name: "wmem_max",
    default: &[100_000_000],
};
/// How long a core may keep a bpage for small messages.
pub const BPAGE_LEASE_USECS: Parameter = Parameter {
    name: "bpage_lease_usecs",
    default: &[10_000],
};
/// How long `recvmsg` polls before it sleeps.
pub const POLL_USECS: Parameter = Parameter {
    name: "poll_usecs",
    default: &[50],
};
/// Load balancing among cores: how long a core counts as busy.
pub const BUSY_USECS: Parameter = Parameter {
    name: "busy_usecs",
    default: &[100],
};
/// Load balancing among cores: how long a core counts as busy with receive offload.
pub const GRO_BUSY_USECS: Parameter = Parameter {
    name: "gro_busy_usecs",
    default: &[5],
};
/// How arriving packets are steered, a sum of [`GRO_SAME_CORE`] and the values after it.
pub const GRO_POLICY: Parameter = Parameter {
    name: "gro_policy",
    default: &[0x72],
};
/// Packets in one batch of the receive offload.
pub const MAX_GRO_SKBS: Parameter = Parameter {
    name: "max_gro_skbs",
    default: &[20],
};
/// Steering by [`GRO_GEN3`]: four numbers for each core; no default.
pub const GEN3_SOFTIRQ_CORES: Parameter = Parameter {
    name: "gen3_softirq_cores",
    default: &[],
};
/// Packet buffers freed by one call of the reaper.
pub const REAP_LIMIT: Parameter = Parameter {
    name: "reap_limit",
    default: &[10],
};
/// Dead packet buffers before reaping becomes aggressive.
pub const DEAD_BUFFS_LIMIT: Parameter = Parameter {
    name: "dead_buffs_limit",
    default: &[5000],
};
/// Statistics: most dead packet buffers so far.
pub const MAX_DEAD_BUFFS: Parameter = Parameter {
    name: "max_dead_buffs",
    default: &[0],
};
/// Peers below which none is evicted.
pub const PEER_GC_THRESHOLD: Parameter = Parameter {
    name: "peer_gc_threshold",
    default: &[5000],
};
/// Peers that one network namespace should not exceed.
pub const PEER_NET_MAX: Parameter = Parameter {
    name: "peer_net_max",
    default: &[10_000],
};
/// Idle seconds before which a peer is never evicted.
pub const PEER_IDLE_SECS_MIN: Parameter = Parameter {
    name: "peer_idle_secs_min",
    default: &[10],
};
/// Idle seconds after which a peer normally is evicted.
pub const PEER_IDLE_SECS_MAX: Parameter = Parameter {
    name: "peer_idle_secs_max",
    default: &[120],
};
/// Pages of the transmit pool freed per second.
pub const SKB_PAGE_FREES_PER_SEC: Parameter = Parameter {
    name: "skb_page_frees_per_sec",
    default: &[1000],
};
/// Size that the transmit pool is not shrunk below.
pub const SKB_PAGE_POOL_MIN_KB: Parameter = Parameter {
    name: "skb_page_pool_min_kb",
    default: &[3000],
};
/// Reads 0; writing sets the id of the next RPC.
pub const NEXT_ID: Parameter = Parameter {
    name: "next_id",
    default: &[0],
};
/// Fault injection; without effect in the module of July 2026.
pub const ACCEPT_BITS: Parameter = Parameter {
    name: "accept_bits",
    default: &[0],
};
/// Fault injection; without effect in the module of July 2026.
pub const DROP_BITS: Parameter = Parameter {
    name: "drop_bits",
    default: &[0],
};
/// Debugging.
pub const ACTION: Parameter = Parameter {
    name: "action",
    default: &[0],
};
/// Debugging.
pub const FREEZE_TYPE: Parameter = Parameter {
    name: "freeze_type",
    default: &[0],
};
/// Debugging.
pub const TEMP: Parameter = Parameter {
    name: "temp",
    default: &[0],
};
/// Debugging.
pub const VERBOSE: Parameter = Parameter {
    name: "verbose",
    default: &[0],
};

/// All of the above.
pub const ALL: [Parameter; 52] = [
    UNSCHED_BYTES,
    WINDOW,
    MAX_INCOMING,
    MAX_OVERCOMMIT,
    FIFO_GRANT_INCREMENT,
    GRANT_FIFO_FRACTION,
    MAX_GRANTABLE_RPCS,
    NUM_PRIORITIES,
    PRIORITY_MAP,
    MAX_SCHED_PRIO,
    UNSCHED_CUTOFFS,
    CUTOFF_VERSION,
    RESEND_TICKS,
    RESEND_INTERVAL,
    TIMEOUT_TICKS,
    TIMEOUT_RESENDS,
    REQUEST_ACK_TICKS,
    LINK_MBPS,
    MAX_NIC_EST_BACKLOG_USECS,
    MAX_NIC_QUEUE_USECS,
    DEFER_MIN_BYTES,
    PACER_FIFO_FRACTION,
    HOMA_SHARE,
    MAX_LINK_USAGE,
    FLAGS,
    MAX_GSO_SIZE,
    GSO_FORCE_SOFTWARE,
    HIJACK_TCP,
    WMEM_MAX,
    BPAGE_LEASE_USECS,
    POLL_USECS,
    BUSY_USECS,
    GRO_BUSY_USECS,
    GRO_POLICY,
    MAX_GRO_SKBS,
    GEN3_SOFTIRQ_CORES,
    REAP_LIMIT,
    DEAD_BUFFS_LIMIT,
    MAX_DEAD_BUFFS,
    PEER_GC_THRESHOLD,
    PEER_NET_MAX,
    PEER_IDLE_SECS_MIN,
    PEER_IDLE_SECS_MAX,
    SKB_PAGE_FREES_PER_SEC,
    SKB_PAGE_POOL_MIN_KB,
    NEXT_ID,
    ACCEPT_BITS,
    DROP_BITS,
    ACTION,
    FREEZE_TYPE,
    TEMP,
    VERBOSE,
];

/// In [`GRO_POLICY`]: handle packets on the core that they arrived at.
pub const GRO_SAME_CORE: i32 = 2;
/// In [`GRO_POLICY`]: prefer idle cores.
pub const GRO_IDLE: i32 = 4;
/// In [`GRO_POLICY`]: take the next core.
pub const GRO_NEXT: i32 = 8;
/// In [`GRO_POLICY`]: the second generation of load balancing.
pub const GRO_GEN2: i32 = 0x10;
/// In [`GRO_POLICY`]: handle grants at once.
pub const GRO_FAST_GRANTS: i32 = 0x20;
/// In [`GRO_POLICY`]: handle short messages at once.
pub const GRO_SHORT_BYPASS: i32 = 0x40;
/// In [`GRO_POLICY`]: the third generation of load balancing.
pub const GRO_GEN3: i32 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_integers_between_spaces() {
        assert_eq!(parse("40000\n"), Ok(vec![40_000]));
        assert_eq!(parse("2147483647\t0 -1\n"), Ok(vec![2_147_483_647, 0, -1]));
        assert!(parse("4 x").is_err());
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let nothing = Parameter {
            name: "no_such_parameter",
            default: &[],
        };
        let error = nothing.read().expect_err("there is none");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
