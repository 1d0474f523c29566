//! [`EndpointCounters`]: what an endpoint has done.

use crate::engine::Counters;

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
    /// Whether one send may carry several packets (UDP GSO).
    pub gso: bool,
    /// Whether one receive may bring several packets of long messages (UDP GRO).
    pub gro: bool,
}
