//! What crosses the engine's border: datagrams in, events, failures and snapshots out.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;

use super::rpc::RpcId;
use crate::Message;

/// A packet as it came from the network: `P` is [`Bytes`], or between engines of one process a
/// [`Segment`](super::Segment).
#[derive(Clone, Debug)]
pub struct Datagram<P = Bytes> {
    /// Address of its sender, with the UDP port; on IP protocol 146 the port does not count.
    pub from: SocketAddr,
    /// The local address it was sent to, where known; answers leave from it.
    pub local: Option<IpAddr>,
    /// Its IP TOS byte.
    pub tos: u8,
    /// Which of the endpoint's sockets it came by.
    pub socket: Socket,
    /// The packet.
    pub data: P,
}

/// The sockets of a UDP endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// Everything goes here, except …
    Main,
    /// … scheduled DATA, once the peer has proven that its packets arrive here.
    Bulk,
}

/// What the application should know.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A request is there, to be answered with [`Engine::send_reply`](super::Engine::send_reply).
    Request {
        /// Names the RPC.
        rpc: RpcId,
        /// The Homa port it was sent to.
        port: u16,
        /// Who sent it.
        peer: SocketAddr,
        /// The Homa port it was sent from, where its sender takes requests if it takes any.
        peer_port: u16,
        /// The local address it was sent to, where known.
        local: Option<IpAddr>,
        /// The request.
        message: Message,
        /// What has to be handed to [`Engine::release`](super::Engine::release) once the message is dropped.
        charged: usize,
    },
    /// The response of a request has arrived; the RPC is over.
    Response {
        /// Names the RPC.
        rpc: RpcId,
        /// The mark given to [`Engine::send_request`](super::Engine::send_request).
        cookie: u64,
        /// The response.
        message: Message,
        /// What has to be handed to [`Engine::release`](super::Engine::release) once the message is dropped.
        charged: usize,
    },
    /// A request failed; the RPC is over.
    Failed {
        /// Names the RPC.
        rpc: RpcId,
        /// The mark given to [`Engine::send_request`](super::Engine::send_request).
        cookie: u64,
        /// Whom it was sent to.
        peer: SocketAddr,
        /// Why.
        failure: Failure,
    },
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// Nothing was heard of the RPC for this long.
    TimedOut(Duration),
    /// The network, or the peer's endpoint, says that it cannot be delivered.
    Unreachable {
        /// What it says.
        reason: Unreachable,
        /// Whether the request may have been received, and may have run.
        may_have_run: bool,
    },
    /// The server's engine was replaced by another one meanwhile.
    PeerRestarted,
    /// The local port was closed.
    Closed,
}

/// Why a peer cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unreachable {
    /// No process listens on that UDP port.
    #[error("nothing listens on that port: is the server running?")]
    Port,
    /// A Homa endpoint is there, but the Homa port is not open in it.
    #[error("a Homa endpoint answers there, but that Homa port is not open")]
    HomaPort,
    /// The host has nobody who takes IP protocol 146: neither a kernel module nor an endpoint of
    /// ours. All RPCs with it end.
    #[error("nothing there takes IP protocol 146: is the server running?")]
    Protocol,
    /// There is no way to the host.
    #[error("no route to the host")]
    Host,
    /// There is no way to its network.
    #[error("no route to the network")]
    Network,
    /// The local system cannot send to such an address from here.
    #[error("the local system cannot send there: a link-local address needs its scope (%eth0)")]
    Address,
    /// A firewall or the local system refuses the packets.
    #[error("a firewall or the local system refuses it")]
    Refused,
}

/// Why a message was not taken for sending. It is handed back.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError {
    /// Empty, or longer than `max_message_bytes`.
    BadSize {
        /// The setting.
        limit: usize,
        /// The message.
        message: Message,
    },
    /// A table or buffer is full.
    Busy {
        /// The setting that is exhausted.
        what: &'static str,
        /// Its value.
        limit: usize,
        /// The message.
        message: Message,
    },
    /// The local port is not open.
    Closed {
        /// The message.
        message: Message,
    },
}
