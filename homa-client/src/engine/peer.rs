//! Peers: what is known of each remote endpoint.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::Duration;

use arrayvec::ArrayVec;
use hashbrown::HashTable;
use slab::Slab;

use super::priority::UNKNOWN_CUTOFFS;
use super::rpc::RpcKey;
use super::time::Time;
use super::wire::{MAX_ACKS, PendingAck};

/// Place in the table of peers.
pub(super) type PeerKey = u32;

/// A peer that has completed an RPC is not evicted for a newcomer before it was idle for this long
/// (`homa-protocol` C.11).
const MIN_IDLE: Duration = Duration::from_secs(10);

/// A bulk port that lost packets is not used for this long.
const BULK_WITHDRAWN: Duration = Duration::from_secs(600);

/// It is given up after this many rounds of loss with no arrival in between, ...
const BULK_LOSSES: u8 = 3;

/// ... where losses this close together are one round.
const BULK_ROUND: Duration = Duration::from_millis(5);

/// One remote endpoint.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) addr: SocketAddr,
    /// Whether it receives at that address, as far as we ask for a proof.
    pub(super) proven: bool,
    /// Latest incarnation heard of; 0: none yet.
    pub(super) incarnation: u32,
    /// Responses read and not yet acknowledged, oldest first.
    pub(super) acks: ArrayVec<PendingAck, MAX_ACKS>,
    /// The peer's own table of priorities, for unscheduled packets sent to it.
    pub(super) cutoffs: [u32; 8],
    /// Its version; 0: never received.
    pub(super) cutoff_version: u16,
    /// When our table was sent to it last.
    pub(super) cutoffs_sent: Option<Time>,
    /// Payload per packet that the path takes, if less than usual, and until when that holds.
    pub(super) path: Option<(u32, Time)>,
    /// Bytes of the unscheduled parts sent to it of which it has shown nothing yet.
    pub(super) unscheduled: usize,
    /// Whether a message from it was ever handed over. One that only began RPCs may be made up.
    pub(super) served: bool,
    /// RPCs with it, on either side.
    pub(super) rpcs: u32,
    /// The RPC that was last looked for by its packets; it may have ended since.
    pub(super) recent: RpcKey,
    /// The highest id of its RPCs that has ended here. Clients draw rising ids, so that most new
    /// ones need not be looked for among those that have ended.
    pub(super) newest_finished: u64,
    /// Where its RPC that ended last is remembered, as far as it still is.
    pub(super) finished_at: u32,
    pub(super) used: Time,
    /// Our bulk socket as this peer reaches it.
    pub(super) bulk: Bulk,
    /// Rounds of loss on our bulk socket since anything arrived there, and when the last was.
    bulk_losses: u8,
    bulk_lost: Option<Time>,
    /// When we last sent a BUSY to prove the peer's bulk port.
    pub(super) proof_sent: Option<Time>,
    /// The peer's bulk port, for scheduled DATA to it; 0: its main port.
    pub(super) bulk_port: u16,
}

/// Whether a peer's packets reach our bulk socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bulk {
    /// Not known: grants ask for a proof.
    Unproven,
    /// One packet has arrived there: grants direct DATA to it.
    Proven,
    /// Packets sent there were lost: not asked again before this time.
    Withdrawn(Time),
}

impl Peer {
    fn new(addr: SocketAddr, proven: bool, now: Time) -> Self {
        Self {
            addr,
            proven,
            incarnation: 0,
            acks: ArrayVec::new(),
            cutoffs: UNKNOWN_CUTOFFS,
            cutoff_version: 0,
            cutoffs_sent: None,
            path: None,
            unscheduled: 0,
            served: false,
            rpcs: 0,
            recent: 0,
            newest_finished: 0,
            finished_at: 0,
            used: now,
            bulk: Bulk::Unproven,
            bulk_losses: 0,
            bulk_lost: None,
            proof_sent: None,
            bulk_port: 0,
        }
    }

    pub(super) fn bulk_addr(&self) -> SocketAddr {
        let mut addr = self.addr;
        if self.bulk_port != 0 {
            addr.set_port(self.bulk_port);
        }
        addr
    }

    /// Ports for a GRANT to this peer: the one to prove, and the one to use.
    pub(super) fn bulk_ports(&mut self, ours: Option<u16>, now: Time) -> (u16, u16) {
        if let Bulk::Withdrawn(until) = self.bulk
            && now >= until
        {
            self.bulk = Bulk::Unproven;
        }
        match (ours, self.bulk) {
            (Some(port), Bulk::Unproven) => (port, 0),
            (Some(port), Bulk::Proven) => (0, port),
            (Some(_), Bulk::Withdrawn(_)) | (None, _) => (0, 0),
        }
    }

    /// Something has arrived by our bulk socket.
    pub(super) fn bulk_arrived(&mut self) {
        self.bulk_losses = 0;
    }

    /// Bytes sent to our bulk socket had to be sent again. One such round may be an overflow, or
    /// a retransmission that overtook the original; several with nothing in between mean that
    /// nothing gets there any more.
    pub(super) fn bulk_lost(&mut self, now: Time) {
        let same_round = self.bulk_lost.is_some_and(|at| now.since(at) < BULK_ROUND);
        if same_round || self.bulk != Bulk::Proven {
            return;
        }
        self.bulk_lost = Some(now);
        self.bulk_losses += 1;
        if self.bulk_losses >= BULK_LOSSES {
            tracing::debug!(peer = %self.addr, "nothing arrives at our bulk port any more");
            self.bulk = Bulk::Withdrawn(now + BULK_WITHDRAWN);
            self.bulk_losses = 0;
        }
    }
}

/// All peers of an engine, up to a limit.
#[derive(Debug)]
pub(super) struct PeerTable {
    peers: Slab<Peer>,
    /// Places only: the addresses themselves lie with the rest that a packet needs of its peer.
    by_addr: HashTable<PeerKey>,
    /// What addresses, which others choose, are hashed with.
    secret: RandomState,
    /// The peer found last: packets come in runs.
    last: Option<(SocketAddr, PeerKey)>,
    limit: usize,
    /// Where the search for an idle peer goes on.
    hand: usize,
}

/// The hash of an address. It is looked up with every packet: one word is hashed for IPv4, and
/// three for IPv6, where the standard library's way takes seven.
fn hash_of(secret: &RandomState, addr: SocketAddr) -> u64 {
    let port = u64::from(addr.port());
    match addr {
        SocketAddr::V4(addr) => secret.hash_one(u64::from(addr.ip().to_bits()) << 16 | port),
        SocketAddr::V6(addr) => {
            let rest = u64::from(addr.scope_id()) << 16 | port;
            secret.hash_one((addr.ip().to_bits(), rest))
        }
    }
}

impl PeerTable {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            peers: Slab::new(),
            by_addr: HashTable::new(),
            secret: RandomState::new(),
            limit,
            last: None,
            hand: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(super) fn find(&mut self, addr: SocketAddr) -> Option<PeerKey> {
        if let Some((last, key)) = self.last
            && last == addr
        {
            return Some(key);
        }
        let is_it = |key: &PeerKey| self.get(*key).addr == addr;
        let key = *self.by_addr.find(hash_of(&self.secret, addr), is_it)?;
        self.last = Some((addr, key));
        Some(key)
    }

    /// Finds or creates the peer. `None`: the table is full of peers in use.
    pub(super) fn find_or_insert(
        &mut self,
        addr: SocketAddr,
        proven: bool,
        now: Time,
    ) -> Option<PeerKey> {
        if let Some(key) = self.find(addr) {
            return Some(key);
        }
        if self.peers.len() >= self.limit && !self.evict(now, 32, MIN_IDLE) {
            return None;
        }
        Some(self.insert(addr, proven, now))
    }

    /// The same for a call of our own: any peer without RPCs makes room, wherever it is.
    pub(super) fn find_or_insert_ours(
        &mut self,
        addr: SocketAddr,
        proven: bool,
        now: Time,
    ) -> Option<PeerKey> {
        if let Some(key) = self.find(addr) {
            return Some(key);
        }
        if self.peers.len() >= self.limit && !self.evict(now, self.peers.capacity(), Duration::ZERO)
        {
            return None;
        }
        Some(self.insert(addr, proven, now))
    }

    fn insert(&mut self, addr: SocketAddr, proven: bool, now: Time) -> PeerKey {
        let key = self.peers.insert(Peer::new(addr, proven, now)) as PeerKey;
        let Self {
            peers,
            by_addr,
            secret,
            ..
        } = self;
        let hash = |key: &PeerKey| hash_of(secret, peers[*key as usize].addr);
        by_addr.insert_unique(hash(&key), key, hash);
        key
    }

    /// Makes room by forgetting a peer without RPCs: its acks and cutoffs, which recover by
    /// themselves. Looks at no more than `looks`, since the table may be full of busy peers.
    fn evict(&mut self, now: Time, looks: usize, min_idle: Duration) -> bool {
        for _ in 0..looks {
            self.hand = (self.hand + 1) % self.peers.capacity().max(1);
            if let Some(peer) = self.peers.get(self.hand)
                && peer.rpcs == 0
                && (!peer.served || now.since(peer.used) >= min_idle)
            {
                let peer = self.peers.remove(self.hand);
                let hash = hash_of(&self.secret, peer.addr);
                let found = self
                    .by_addr
                    .find_entry(hash, |key| *key as usize == self.hand);
                if let Ok(entry) = found {
                    entry.remove();
                }
                self.last = None;
                return true;
            }
        }
        false
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().map(|(_, peer)| peer)
    }

    pub(super) fn get(&self, key: PeerKey) -> &Peer {
        &self.peers[key as usize]
    }

    pub(super) fn get_mut(&mut self, key: PeerKey) -> &mut Peer {
        &mut self.peers[key as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn a_bulk_port_is_given_up_after_losses_without_arrivals() {
        let ms = Duration::from_millis(1);
        let mut peer = Peer::new(addr(1), true, Time::ZERO);
        peer.bulk = Bulk::Proven;
        for round in 0..10 {
            peer.bulk_lost(Time::ZERO + 10 * round * ms);
            peer.bulk_arrived();
        }
        assert_eq!(peer.bulk_ports(Some(9), Time::ZERO), (0, 9));
        // One round, however many packets.
        let start = Time::ZERO + 200 * ms;
        for _ in 0..50 {
            peer.bulk_lost(start);
        }
        assert_eq!(peer.bulk_ports(Some(9), start), (0, 9));
        peer.bulk_lost(start + 10 * ms);
        peer.bulk_lost(start + 20 * ms);
        assert_eq!(peer.bulk_ports(Some(9), start + 30 * ms), (0, 0));
        let later = start + 20 * ms + BULK_WITHDRAWN;
        assert_eq!(peer.bulk_ports(Some(9), later), (9, 0));
    }

    #[test]
    fn a_full_table_forgets_idle_peers_only() {
        let mut table = PeerTable::new(2);
        let busy = table.find_or_insert(addr(1), true, Time::ZERO).unwrap();
        table.get_mut(busy).rpcs = 1;
        let idle = table.find_or_insert(addr(2), true, Time::ZERO).unwrap();
        table.get_mut(idle).served = true;
        assert_eq!(table.find_or_insert(addr(3), true, Time::ZERO), None);
        let later = Time::ZERO + MIN_IDLE;
        assert!(table.find_or_insert(addr(3), true, later).is_some());
        assert_eq!(
            (table.find(addr(1)), table.find(addr(2))),
            (Some(busy), None)
        );
        // One that has completed nothing gives way at once, and to a call of ours any idle one.
        let fourth = table.find_or_insert(addr(4), true, later).unwrap();
        table.get_mut(fourth).served = true;
        assert_eq!(table.find_or_insert(addr(5), true, later), None);
        assert!(table.find_or_insert_ours(addr(5), true, later).is_some());
        table.get_mut(fourth).rpcs = 1;
        assert_eq!(table.find_or_insert_ours(addr(6), true, later), None);
    }
}
