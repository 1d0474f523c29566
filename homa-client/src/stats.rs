//! [`EndpointCounters`]: what an endpoint has done; [`Monitor`]: a way to ask.

use std::ops::AddAssign;
use std::sync::{Arc, Weak};

use crate::engine::{Counters, RpcInfo};
use crate::user::endpoint::Endpoint;

/// Reads the counters of an endpoint without keeping it open, say for a metrics exporter. That of an
/// endpoint of the kernel module has none: the module counts in `/proc/net/homa_metrics`.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use homa_client::{Config, Server};
///
/// let server = Server::bind("127.0.0.1:0".parse()?, &Config::default())?;
/// let monitor = server.monitor();
/// assert_eq!(monitor.counters().unwrap().protocol.requests_delivered, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Monitor(Weak<Endpoint>);

impl Monitor {
    pub(crate) fn new(endpoint: &Arc<Endpoint>) -> Self {
        Self(Arc::downgrade(endpoint))
    }

    /// What the endpoint has counted so far; `None` once it is gone.
    pub fn counters(&self) -> Option<EndpointCounters> {
        Some(self.0.upgrade()?.counters())
    }

    /// The RPCs that are live on the endpoint; `None` once it is gone.
    pub fn rpcs(&self) -> Option<Vec<RpcInfo>> {
        Some(self.0.upgrade()?.snapshot())
    }
}

/// Counts since an endpoint was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointCounters {
    /// What the protocol engine has counted.
    pub protocol: Counters,
    /// System calls that sent packets.
    pub sends: u64,
    /// Those of `sends` that were made on the thread of a caller.
    pub inline_sends: u64,
    /// Packets they carried.
    pub packets_sent: u64,
    /// System calls that brought packets.
    pub receives: u64,
    /// Packets they brought.
    pub packets_received: u64,
    /// Packets lost because the main socket's receive buffer was full (`SO_RXQ_OVFL`).
    pub socket_buffer_drops: u64,
    /// Sends that the system or the network refused.
    pub send_errors: u64,
    /// What [`Faults`](crate::Faults) has done to packets, on purpose.
    pub faults: FaultCounters,
    /// Packets that are missing from the file `Config::capture`, because it could not be written
    /// fast enough, or not at all.
    pub capture_missed: u64,
    /// Receive buffer of the main socket, in bytes as the system accounts for them: a packet of
    /// 1,500 bytes takes up some 2,300.
    pub recv_buffer_bytes: u64,
    /// Whether one send may carry several packets (UDP GSO).
    pub gso: bool,
    /// Whether one receive may bring several packets of long messages (UDP GRO).
    pub gro: bool,
}

/// Packets that met a fate of [`Faults`](crate::Faults).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultCounters {
    /// Not sent.
    pub lost: u64,
    /// Sent with wrong bits.
    pub corrupted: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Overtaken by later ones.
    pub reordered: u64,
    /// Sent late.
    pub delayed: u64,
}

impl AddAssign for FaultCounters {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.corrupted += other.corrupted;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.delayed += other.delayed;
    }
}
