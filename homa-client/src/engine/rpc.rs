//! RPCs: their identity, their states and the table that holds them.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use hashbrown::HashTable;
use rustc_hash::FxHashMap;
use slab::Slab;

use super::incoming::InMessage;
use super::outgoing::OutMessage;
use super::peer::PeerKey;
use super::srpt::Rank;
use super::starved::Starved;
use super::time::Time;

/// Names an RPC to the engine's owner, on either side. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RpcId {
    pub(super) key: RpcKey,
    pub(super) id: u64,
}

impl RpcId {
    /// The id as this side knows it: even for a client, odd for a server.
    pub fn id(self) -> u64 {
        self.id
    }
}

/// Place in the table. Places are used again; the id beside it tells.
pub(super) type RpcKey = u32;

/// Where an RPC stands. The kernel's OUTGOING and INCOMING are told apart by side, so that the
/// table needs no second input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RpcState {
    /// Client: no byte of the response has arrived (OUTGOING).
    Calling,
    /// Client: the response is arriving (INCOMING).
    Receiving,
    /// Server: the request is arriving (INCOMING).
    Arriving,
    /// Server: the application has the request (IN_SERVICE).
    InService,
    /// Server: the response is being sent, or waits for its ack (OUTGOING).
    Replying,
    /// Gone; it is removed from the table in the same step.
    Ended,
}

/// What moves an RPC from state to state. Besides, any RPC may end at any time: cancelled, timed
/// out or unreachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// DATA of its incoming message.
    Data,
    /// The incoming message is whole.
    Complete,
    /// The application answers.
    Reply,
    /// The client has acknowledged it, or does not know it any more.
    Forget,
}

impl RpcState {
    #[cfg(test)]
    pub(super) const ALL: [Self; 6] = [
        Self::Calling,
        Self::Receiving,
        Self::Arriving,
        Self::InService,
        Self::Replying,
        Self::Ended,
    ];

    /// Its name for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Calling => "calling",
            Self::Receiving => "receiving",
            Self::Arriving => "arriving",
            Self::InService => "in service",
            Self::Replying => "replying",
            Self::Ended => "ended",
        }
    }

    /// The state after `on`. `None`: it does not fit; the caller counts and drops the packet.
    pub(super) fn next(self, on: Input) -> Option<Self> {
        match (self, on) {
            (Self::Calling | Self::Receiving, Input::Data) => Some(Self::Receiving),
            (Self::Receiving, Input::Complete) => Some(Self::Ended),
            (Self::Arriving, Input::Data) => Some(Self::Arriving),
            (Self::Arriving, Input::Complete) => Some(Self::InService),
            (Self::InService, Input::Reply) => Some(Self::Replying),
            (Self::Arriving | Self::InService | Self::Replying, Input::Forget) => Some(Self::Ended),
            _ => None,
        }
    }
}

/// One RPC, on either side.
#[derive(Debug)]
pub(super) struct Rpc {
    pub(super) id: u64,
    pub(super) peer: PeerKey,
    pub(super) local_port: u16,
    pub(super) peer_port: u16,
    /// Local address that the request came to or leaves from, if known.
    pub(super) local_ip: Option<IpAddr>,
    /// Whether the peer has a loopback address.
    pub(super) loopback: bool,
    pub(super) state: RpcState,
    /// When it was made here.
    pub(super) started: Time,
    /// The same on the silence clock.
    pub(super) started_clock: Time,
    /// Number in the order of creation: the smaller, the older.
    pub(super) age: u64,
    /// The owner's own mark, handed back with events.
    pub(super) cookie: u64,
    /// The peer's incarnation when the request was first sent; 0: none was known.
    pub(super) incarnation: u32,
    /// Whether the peer has shown any sign of life about it, other than a refusal.
    pub(super) answered: bool,
    /// Whether the peer was asked about it again: from then on nobody can tell which of our
    /// packets a refusal answers.
    pub(super) asked: bool,
    /// From the request: longest unscheduled part of the response, in KiB; 0: no limit.
    pub(super) response_unscheduled_kib: u8,
    /// Bytes of its unscheduled part that count as in flight to the peer.
    pub(super) in_flight: u32,
    pub(super) outgoing: Option<OutMessage>,
    pub(super) incoming: Option<InMessage>,
    /// Whether it is among those that may lose their receive memory.
    pub(super) stall_listed: bool,
    /// Set while the incoming message waits for receive memory.
    pub(super) starved: Option<Starved>,
    /// Receive memory that is kept for its first packet.
    pub(super) reserved: u32,
    /// Place among the messages that have something to send, while they have.
    pub(super) send_rank: Option<Rank>,
    /// Place among the messages that wait for grants, while they do.
    pub(super) grant_rank: Option<Rank>,
    /// Whether more has arrived since that place was computed.
    pub(super) rank_stale: bool,
    /// Whether it is in the queue of what an unproven peer may not be sent yet.
    pub(super) blocked: bool,
    /// Whether it is queued to send ranges again.
    pub(super) resending: bool,
    pub(super) silence: Silence,
}

impl Rpc {
    pub(super) fn is_client(&self) -> bool {
        self.id & 1 == 0
    }

    /// Whether it is the peer's turn: neither have we bytes to send that it waits for, nor has
    /// all arrived that it was allowed to send (statements 53 and 54).
    pub(super) fn expects_bytes(&self) -> bool {
        if self.starved.is_some() {
            return false;
        }
        match (&self.incoming, &self.outgoing) {
            (Some(message), _) => message.expecting(),
            (None, Some(message)) => !message.ready(),
            (None, None) => true,
        }
    }
}

/// What the timers know of one RPC. All times are on the silence clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Silence {
    /// When DATA, GRANT or BUSY came last, or the RPC last had nothing to expect.
    pub(super) heard: Time,
    /// When the next RESEND or NEED_ACK is due.
    pub(super) next: Time,
    /// Wait that the last BUSY or NEED_ACK led to.
    pub(super) wait: std::time::Duration,
    /// Earliest entry of this RPC in the deadlines.
    pub(super) armed: Option<Time>,
}

/// All RPCs of an engine.
#[derive(Debug, Default)]
pub(super) struct RpcTable {
    rpcs: Slab<Rpc>,
    /// Ids that we drew ourselves.
    clients: FxHashMap<u64, RpcKey>,
    /// Ids that others choose, hence hashed with a secret.
    servers: HashTable<RpcKey>,
    secret: RandomState,
}

impl RpcTable {
    pub(super) fn len(&self) -> usize {
        self.rpcs.len()
    }

    pub(super) fn client_count(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn insert(&mut self, rpc: Rpc) -> RpcKey {
        let (id, peer, client) = (rpc.id, rpc.peer, rpc.is_client());
        let key = self.rpcs.insert(rpc) as RpcKey;
        let Self {
            rpcs,
            clients,
            servers,
            secret,
        } = self;
        if client {
            clients.insert(id, key);
        } else {
            let hash = |key: &RpcKey| {
                let rpc = &rpcs[*key as usize];
                hash_of(secret, rpc.peer, rpc.id)
            };
            servers.insert_unique(hash_of(secret, peer, id), key, hash);
        }
        key
    }

    #[inline]
    pub(super) fn remove(&mut self, key: RpcKey) -> Option<Rpc> {
        let rpc = self.rpcs.try_remove(key as usize)?;
        if rpc.is_client() {
            self.clients.remove(&rpc.id);
        } else {
            let hash = hash_of(&self.secret, rpc.peer, rpc.id);
            if let Ok(entry) = self.servers.find_entry(hash, |other| *other == key) {
                entry.remove();
            }
        }
        if self.rpcs.is_empty() && self.rpcs.capacity() > 1024 {
            // A flood of RPCs must not leave its memory behind.
            self.rpcs.shrink_to_fit();
            self.clients.shrink_to(64);
            self.servers = HashTable::new();
        }
        Some(rpc)
    }

    pub(super) fn find_client(&self, id: u64) -> Option<RpcKey> {
        self.clients.get(&id).copied()
    }

    pub(super) fn find_server(&self, peer: PeerKey, id: u64) -> Option<RpcKey> {
        let is_it = |key: &RpcKey| {
            self.get(*key)
                .is_some_and(|rpc| rpc.peer == peer && rpc.id == id)
        };
        let hash = hash_of(&self.secret, peer, id);
        self.servers.find(hash, is_it).copied()
    }

    pub(super) fn get(&self, key: RpcKey) -> Option<&Rpc> {
        self.rpcs.get(key as usize)
    }

    pub(super) fn get_mut(&mut self, key: RpcKey) -> Option<&mut Rpc> {
        self.rpcs.get_mut(key as usize)
    }

    /// The RPC that `rpc` names, unless it has ended.
    pub(super) fn resolve(&self, rpc: RpcId) -> Option<RpcKey> {
        self.get(rpc.key)
            .is_some_and(|found| found.id == rpc.id)
            .then_some(rpc.key)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Rpc> {
        self.rpcs.iter_mut().map(|(_, rpc)| rpc)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (RpcKey, &Rpc)> {
        self.rpcs.iter().map(|(key, rpc)| (key as RpcKey, rpc))
    }
}

/// In one piece: to a keyed hash, two short ones cost more than their bytes.
fn hash_of(secret: &RandomState, peer: PeerKey, id: u64) -> u64 {
    secret.hash_one(u128::from(peer) << 64 | u128::from(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table, drawn; a change of the protocol's states shows here in review.
    #[test]
    fn states_as_dot() {
        let mut dot = String::new();
        for state in RpcState::ALL {
            for input in [Input::Data, Input::Complete, Input::Reply, Input::Forget] {
                if let Some(next) = state.next(input) {
                    dot += &format!("{state:?} -> {next:?} [label={input:?}]\n");
                }
            }
        }
        assert_eq!(
            dot,
            "\
Calling -> Receiving [label=Data]
Receiving -> Receiving [label=Data]
Receiving -> Ended [label=Complete]
Arriving -> Arriving [label=Data]
Arriving -> InService [label=Complete]
Arriving -> Ended [label=Forget]
InService -> Replying [label=Reply]
InService -> Ended [label=Forget]
Replying -> Ended [label=Forget]
"
        );
    }
}
