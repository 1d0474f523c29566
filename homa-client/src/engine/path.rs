//! How large packets to a peer may be. A path that takes less than the local device shows by
//! ICMP, by the local system's refusal, or only by full-size packets that vanish.

use std::net::SocketAddr;
use std::time::Duration;

use super::outgoing::Payload;
use super::peer::PeerKey;
use super::rpc::RpcKey;
use super::{Engine, Time};

/// Packets that every path is taken to carry: the least that IPv6 demands.
const SAFE_MTU: usize = 1280;

/// Whatever ICMP claims, packets do not get smaller than this; anybody may send ICMP.
const MIN_MTU: usize = 576;

/// A path may have changed after this long, and is tried again with full-size packets (the time
/// after which Linux forgets what it has learned).
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// Silence may have other reasons, so what it tells is tried again sooner: at 5 % loss one packet in
/// 8,000 is lost three times in a row.
const SUSPECT_FOR: Duration = Duration::from_secs(60);

/// This many times in a row the same packet is asked for when two resends of it were unanswered.
const VANISHED: u8 = 3;

impl Engine {
    /// The path to `peer` takes IP packets of at most `ip_mtu` bytes (at least 576 are used).
    /// Never fails an RPC (statement 82): what was sent and is not acknowledged goes again in
    /// smaller packets. Larger values than before are ignored until 10 minutes have passed.
    pub fn set_path_mtu(&mut self, now: Time, peer: SocketAddr, ip_mtu: usize) {
        let addr = self.endpoint_of(peer);
        // Its other port is reached by the same path.
        let by_bulk = |engine: &Self| {
            let peers = &engine.peers;
            let mut known = engine.rpcs.iter().map(|(_, rpc)| rpc.peer);
            known.find(|peer| peers.get(*peer).bulk_addr() == addr)
        };
        let Some(peer) = self.peers.find(addr).or_else(|| by_bulk(self)) else {
            return;
        };
        if !self.shrink_path(now, peer, ip_mtu.max(MIN_MTU), FORGET_AFTER) {
            return;
        }
        let keys: Vec<RpcKey> = self
            .rpcs
            .iter()
            .filter(|(_, rpc)| rpc.peer == peer)
            .map(|(key, _)| key)
            .collect();
        for key in keys {
            if let Some(message) = self.rpcs.get_mut(key).and_then(|rpc| rpc.outgoing.as_mut()) {
                let priority = message.priority;
                message.resend(0..message.sent(), priority);
                self.enqueue_resend(key);
            }
        }
    }

    /// The peer has asked `times` in a row for the packet at `offset`. If that is a large one,
    /// large ones may not get through.
    pub(super) fn suspect_path(&mut self, now: Time, key: RpcKey, offset: u32, times: u8) {
        let Some(rpc) = self.rpcs.get(key).filter(|_| times >= VANISHED) else {
            return;
        };
        let peer = rpc.peer;
        let safe = self.payload_at(peer, SAFE_MTU);
        let large = rpc
            .outgoing
            .as_ref()
            .is_some_and(|message| message.packet_at(offset).len() > safe);
        if large {
            self.shrink_path(now, peer, SAFE_MTU, SUSPECT_FOR);
        }
    }

    /// Payload per packet for a message to `peer` that starts now.
    pub(super) fn payload_to(&mut self, now: Time, peer: PeerKey) -> Payload {
        let peer = self.peers.get_mut(peer);
        let full = Payload::to(peer.addr.ip(), &self.settings);
        match peer.path {
            Some((payload, until)) if now < until => full.at_most(payload),
            _ => {
                peer.path = None;
                full
            }
        }
    }

    /// Returns whether the packets get smaller by that.
    fn shrink_path(&mut self, now: Time, peer: PeerKey, mtu: usize, time: Duration) -> bool {
        let payload = self.payload_at(peer, mtu) as u32;
        if payload >= self.payload_to(now, peer).largest() {
            return false;
        }
        let known = self.peers.get_mut(peer);
        known.path = Some((payload, now + time));
        tracing::debug!(peer = %known.addr, mtu, "the path takes smaller packets only");
        for rpc in self.rpcs.iter_mut().filter(|rpc| rpc.peer == peer) {
            if let Some(message) = &mut rpc.outgoing {
                message.shrink_to(payload);
            }
        }
        true
    }

    fn payload_at(&self, peer: PeerKey, mtu: usize) -> usize {
        let ip = self.peers.get(peer).addr.ip();
        self.settings.carrier.payload_for(ip, mtu)
    }
}
