//! Messages for which there was no receive memory (`homa-protocol` C.10, statement 79): their DATA
//! is dropped, their timers rest, and when memory returns the shortest is asked for again.

use std::collections::BTreeSet;

use super::incoming::InMessage;
use super::pool::Need;
use super::rpc::RpcKey;
use super::wire::{Packet, Resend};
use super::{Engine, Time};

/// What a message waits for that found no room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Starved {
    length: u32,
    /// What its first packet has to be charged.
    charge: u32,
}

/// Messages without memory, shortest first, the older first on ties.
pub(super) type StarvedQueue = BTreeSet<(u32, u64, RpcKey)>;

impl Engine {
    /// The first packet of this RPC's incoming message needs `charge`, which is not there.
    pub(super) fn starve(&mut self, key: RpcKey, length: u32, charge: usize) {
        if let Some(rpc) = self.rpcs.get_mut(key) {
            let charge = charge as u32;
            tracing::debug!(id = rpc.id, length, "no receive memory: the message waits");
            rpc.starved = Some(Starved { length, charge });
            self.starved.insert((length, rpc.age, key));
        }
    }

    /// The sender of this RPC's incoming message, if it owes bytes, is silent or says that it will
    /// not send.
    pub(super) fn stall(&mut self, key: RpcKey) {
        let Some(rpc) = self.rpcs.get_mut(key) else {
            return;
        };
        if !rpc.incoming.as_ref().is_some_and(InMessage::expecting) {
            return;
        }
        self.granter.stall(key, rpc);
        if !rpc.stall_listed {
            rpc.stall_listed = true;
            self.stalled.push_back(key);
        }
        // Those that have ended are left in it; a flood of them must not be.
        if self.stalled.len() > 2 * self.rpcs.len() + 64 {
            let listed = self.rpcs.iter().filter(|(_, rpc)| rpc.stall_listed);
            let mut by_silence: Vec<_> =
                listed.map(|(key, rpc)| (rpc.silence.heard, key)).collect();
            by_silence.sort_unstable();
            self.stalled = by_silence.into_iter().map(|(_, key)| key).collect();
        }
    }

    /// Charges the pool for the start of a message. If there is no room, messages whose senders are
    /// silent lose theirs, the longest silent first: they are asked for again later.
    pub(super) fn charge_start(&mut self, bytes: usize, need: Need) -> bool {
        while !self.pool.charge(bytes, need) {
            let Some(key) = self.stalled.pop_front() else {
                return false;
            };
            let Some(rpc) = self.rpcs.get_mut(key) else {
                continue;
            };
            rpc.stall_listed = false;
            if let Some(message) = rpc.incoming.take_if(|message| message.stalled) {
                self.pool.release(message.charged);
                let charge = message.first_charge();
                self.starve(key, message.length(), charge);
            }
        }
        true
    }

    /// Hands returned memory to those that wait for it.
    pub(super) fn feed_starved(&mut self, now: Time) {
        if !self.pool.take_returned() {
            return;
        }
        while let Some(first @ (length, _, key)) = self.starved.first().copied() {
            let Some(rpc) = self.rpcs.get_mut(key) else {
                self.starved.remove(&first);
                continue;
            };
            let charge = rpc.starved.map_or(0, |starved| starved.charge);
            let need = if length <= self.settings.packet_payload as u32 {
                Need::OnePacket
            } else {
                Need::Start
            };
            if !self.pool.charge(charge as usize, need) {
                return;
            }
            self.starved.remove(&first);
            rpc.starved = None;
            rpc.reserved = charge;
            let resend = Resend {
                offset: 0,
                length: Resend::ALL,
                priority: self.priorities.second(),
            };
            self.send_control(key, &Packet::Resend(resend), None);
            self.expect(now, key);
        }
    }

    /// Takes an RPC that ends out of the queue.
    pub(super) fn unstarve(&mut self, key: RpcKey, age: u64, starved: Starved) {
        self.starved.remove(&(starved.length, age, key));
    }
}
