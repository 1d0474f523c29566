//! What an engine tells of itself: its counters, its queues and its live RPCs.

use std::net::SocketAddr;
use std::time::Duration;

use super::incoming::InMessage;
use super::outgoing::OutMessage;
use super::stats::Counters;
use super::{Engine, Time};

/// One live RPC, for diagnosis (`struct homa_rpc_info` of the kernel's ABI, as far as a
/// user-space engine has it).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RpcInfo {
    /// The id; odd: we are the server.
    pub id: u64,
    /// The other side.
    pub peer: SocketAddr,
    /// Its Homa port.
    pub peer_port: u16,
    /// Our Homa port.
    pub local_port: u16,
    /// Where it stands: `calling`, `receiving`, `arriving`, `in service`, `replying`; or
    /// `starved`, which is arriving or calling without receive memory.
    pub state: &'static str,
    /// How long it has been here.
    pub age: Duration,
    /// For how long its peer has been silent although it was its turn.
    pub silence: Duration,
    /// The message that goes out.
    pub outgoing: Option<OutgoingInfo>,
    /// The message that comes in.
    pub incoming: Option<IncomingInfo>,
}

/// How far an outgoing message has got; in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutgoingInfo {
    /// The whole message.
    pub length: u32,
    /// Handed to the network.
    pub sent: u32,
    /// May be sent.
    pub granted: u32,
    /// Level of its scheduled packets, from the latest GRANT.
    pub priority: u8,
}

/// How far an incoming message has got; in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IncomingInfo {
    /// The whole message.
    pub length: u32,
    /// Has arrived.
    pub received: u32,
    /// Its sender may send.
    pub granted: u32,
    /// Everything below this has arrived; the rest of `received` lies beyond gaps.
    pub contiguous: u32,
}

impl Engine {
    /// What has been counted, and how long the queues are.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        counters.pool_used = self.pool.used() as u64;
        counters.send_used = self.send_used as u64;
        counters.queued_control = self.control.len() as u64;
        counters.queued_sending = (self.sending.len() + self.resending.len()) as u64;
        counters.queued_granting = self.granter.waiting() as u64;
        counters.queued_starved = self.starved.len() as u64;
        counters.live_rpcs = self.rpcs.len() as u64;
        counters.live_peers = self.peers.len() as u64;
        counters.finished_forgotten = self.finished.forgotten;
        counters
    }

    /// RPCs in the table now, both roles; as [`Counters::live_rpcs`], but cheap.
    pub fn live_rpcs(&self) -> usize {
        self.rpcs.len()
    }

    /// Whether an incoming message waits for grants that it could have and does not get: more of
    /// them wait than [`Settings::max_overcommit`](super::Settings::max_overcommit) lets be active,
    /// or `max_incoming` or receive memory is used up. If the link idles meanwhile, its bandwidth is
    /// wasted (SIGCOMM'18, figure 13). As of the last [`Engine::poll_transmit`], and cheap. A
    /// message whose own window is out does not count: its sender may send.
    pub fn withholds_grants(&self) -> bool {
        self.granter.withholds()
    }

    /// RPCs that are live as a server on `port`: still arriving, being answered, or answered and
    /// not yet acknowledged.
    pub fn live_server_rpcs(&self, port: u16) -> usize {
        self.rpcs
            .iter()
            .filter(|(_, rpc)| !rpc.is_client() && rpc.local_port == port)
            .count()
    }

    /// All live RPCs.
    pub fn snapshot(&self, now: Time) -> Vec<RpcInfo> {
        let clock = self.silence_clock(now);
        self.rpcs
            .iter()
            .map(|(_, rpc)| RpcInfo {
                id: rpc.id,
                peer: self.name_of(rpc),
                peer_port: rpc.peer_port,
                local_port: rpc.local_port,
                state: if rpc.starved.is_some() {
                    "starved"
                } else {
                    rpc.state.name()
                },
                age: now.since(rpc.started),
                silence: if rpc.expects_bytes() {
                    clock.since(rpc.silence.heard)
                } else {
                    Duration::ZERO
                },
                outgoing: rpc.outgoing.as_ref().map(OutMessage::info),
                incoming: rpc.incoming.as_ref().map(InMessage::info),
            })
            .collect()
    }
}

impl OutMessage {
    fn info(&self) -> OutgoingInfo {
        OutgoingInfo {
            length: self.length(),
            sent: self.sent(),
            granted: self.granted(),
            priority: self.priority,
        }
    }
}

impl InMessage {
    fn info(&self) -> IncomingInfo {
        IncomingInfo {
            length: self.length(),
            received: self.received(),
            granted: self.granted(),
            contiguous: self.contiguous(),
        }
    }
}
