//! Incast control in both directions: what SIGCOMM'18 section 3.6 proposes, and the kernel module
//! lacks. Unscheduled bytes are the ones that no receiver has asked for.

use super::rpc::RpcKey;
use super::wire::Carrier;
use super::{Engine, Time, priority};

impl Engine {
    /// Bytes that a message may send unasked.
    pub(super) fn unsched_bytes(&self, loopback: bool) -> usize {
        let own = self.settings.loopback.filter(|_| loopback);
        let own = own.and_then(|settings| settings.unsched_bytes);
        self.rtt_bytes.bytes().max(own.unwrap_or(0))
    }

    /// How much of a message of which `wanted` bytes would be unscheduled may be: all of them, or
    /// its first packet if too much is in flight to that peer already.
    pub(super) fn admit_unscheduled(&mut self, key: RpcKey, wanted: usize, payload: u32) -> u32 {
        self.arrived(key);
        let Some(loopback) = self.rpcs.get(key).map(|rpc| rpc.loopback) else {
            return 0;
        };
        let limit = match self.settings.unsched_windows {
            0 => usize::MAX,
            windows => windows * self.unsched_bytes(loopback),
        };
        let Some(rpc) = self.rpcs.get_mut(key) else {
            return 0;
        };
        let peer = self.peers.get_mut(rpc.peer);
        let admitted = if peer.unscheduled.saturating_add(wanted) <= limit {
            wanted
        } else {
            wanted.min(payload as usize)
        };
        peer.unscheduled += admitted;
        rpc.in_flight = admitted as u32;
        rpc.in_flight
    }

    /// The peer has shown that it has got something of the message, or that it is not under way
    /// any more.
    pub(super) fn arrived(&mut self, key: RpcKey) {
        if let Some(rpc) = self.rpcs.get_mut(key).filter(|rpc| rpc.in_flight > 0) {
            self.peers.get_mut(rpc.peer).unscheduled -= rpc.in_flight as usize;
            rpc.in_flight = 0;
        }
    }

    /// The server does not know the request: its first packet goes again, and what was sent beyond
    /// that as it is granted. Where every packet of a long request is missing, most likely it waits
    /// behind others, and to send all of it again would add to what it waits for.
    pub(super) fn replay(&mut self, now: Time, key: RpcKey) {
        let Some(rpc) = self.rpcs.get(key) else {
            return;
        };
        let Some(message) = &rpc.outgoing else {
            return;
        };
        let cutoffs = &self.peers.get(rpc.peer).cutoffs;
        let priority =
            priority::unscheduled(cutoffs, self.settings.num_priorities, message.length());
        let packet = message.packet_at(0).end;
        self.admit_unscheduled(key, packet as usize, packet);
        if let Some(message) = self.rpcs.get_mut(key).and_then(|rpc| rpc.outgoing.as_mut()) {
            message.replay(now, priority);
        }
        self.enqueue_resend(key);
    }

    /// Unscheduled bytes in flight to all peers.
    #[cfg(test)]
    pub(super) fn unscheduled_in_flight(&self) -> usize {
        self.peers.iter().map(|peer| peer.unscheduled).sum()
    }

    /// Byte 49 of a request, in KiB; 0 sets no limit. With so many RPCs outstanding that the
    /// unscheduled parts of their responses could overflow our socket, each gets its share of
    /// half of the buffer.
    pub(super) fn response_limit(&self, loopback: bool) -> u8 {
        let budget = self.settings.main_buffer_bytes / 2;
        let outstanding = self.rpcs.client_count();
        let each = self.unsched_bytes(loopback);
        if self.settings.carrier == Carrier::Ip || outstanding * each <= budget {
            return 0;
        }
        (budget / outstanding / 1024).clamp(1, 255) as u8
    }
}
