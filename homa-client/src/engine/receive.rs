//! What happens when a packet arrives (`homa-protocol` C.2 to C.8).

use std::net::SocketAddr;
use std::time::Duration;

use super::arrival::Arrival;
use super::incoming::InMessage;
use super::peer::{Bulk, PeerKey};
use super::pool::Need;
use super::priority::LevelRule;
use super::rpc::{Input, Rpc, RpcKey, RpcState};
use super::silence::questions_apart;
use super::wire::{
    Ack, Carrier, Common, Cutoffs, Data, Grant, Kind, Packet, PendingAck, Resend, Route, Unknown,
};
use super::{
    DropReason, Engine, Event, Failure, NewRpc, Owed, Pending, Remember, RpcId, Socket, Time,
    Unreachable,
};

/// CUTOFFS to one peer, and proofs of its bulk port, are sent at most this often.
const REPEAT_AFTER: Duration = Duration::from_millis(5);

/// An age may be this old when it is looked at: packets are delayed, and threads wake late.
const BORN_SLACK: Duration = Duration::from_millis(50);

/// RESENDs sent at once for the gaps of one message.
pub(super) const MAX_RESENDS: usize = 32;

impl Engine {
    /// Takes a packet that is well-formed.
    pub(super) fn receive(
        &mut self,
        now: Time,
        arrival: &mut Arrival,
        common: &Common,
        packet: &Packet,
    ) -> Result<(), DropReason> {
        self.counters.count_received(common.kind);
        if common.kind == Kind::Data && self.settings.loopback_for(arrival.from.ip()).is_none() {
            self.downlink.count(now, arrival.payload.len());
        }
        let peer = self.peers.find(arrival.from);
        self.credit(now, peer, arrival);
        if let Packet::CookieEcho(cookie) = packet {
            return self.receive_echo(now, peer, arrival.from, *cookie);
        }
        if common.kind == Kind::Freeze {
            return Err(DropReason::Freeze);
        }
        if common.sender_id <= 1 {
            return Err(DropReason::Id);
        }
        if !self.ports.contains_key(&common.dest_port) {
            return Err(self.refuse_port(arrival, common));
        }
        if let Some(peer) = peer {
            let peer = self.peers.get_mut(peer);
            peer.used = now;
            if common.incarnation != 0 {
                peer.incarnation = common.incarnation;
            }
        }
        let key = if common.from_client() {
            peer.and_then(|peer| self.find_server(peer, common.local_id()))
        } else {
            self.rpcs.find_client(common.local_id())
        };
        match key {
            Some(key) => self.receive_known(now, peer, key, arrival, common, packet),
            None => self.receive_unknown(now, peer, arrival, common, packet),
        }
    }

    /// Packets of one peer come in runs: mostly it is the same RPC as before.
    fn find_server(&mut self, peer: PeerKey, id: u64) -> Option<RpcKey> {
        let known = self.peers.get_mut(peer);
        let is_it = |rpc: &Rpc| rpc.id == id && rpc.peer == peer;
        if self.rpcs.get(known.recent).is_some_and(is_it) {
            return Some(known.recent);
        }
        let key = self.rpcs.find_server(peer, id)?;
        known.recent = key;
        Some(key)
    }

    /// A packet of an RPC that we have.
    fn receive_known(
        &mut self,
        now: Time,
        peer: Option<PeerKey>,
        key: RpcKey,
        arrival: &mut Arrival,
        common: &Common,
        packet: &Packet,
    ) -> Result<(), DropReason> {
        let clock = self.silence_clock(now);
        let timers = self.settings.timers;
        let Some(rpc) = self.rpcs.get_mut(key) else {
            return Err(DropReason::UnknownRpc);
        };
        // Clients accept packets only from the endpoint they sent to.
        let Some(peer) = peer.filter(|peer| *peer == rpc.peer) else {
            return Err(DropReason::Source);
        };
        if (rpc.peer_port, rpc.local_port) != (common.source_port, common.dest_port) {
            return Err(DropReason::Source);
        }
        // It knows a random id that went to its address alone.
        let proves = rpc.is_client() && !self.peers.get(peer).proven;
        // What is said of the peer itself says nothing of the RPC.
        rpc.answered |= !matches!(common.kind, Kind::NoSuchPort | Kind::Cutoffs);
        // Whoever has shown to know the RPC is the one that may have run it.
        if rpc.incarnation == 0 && common.kind != Kind::RpcUnknown {
            rpc.incarnation = common.incarnation;
        }
        let may_have_run = rpc.answered || rpc.asked;
        match common.kind {
            // Statement 55: these, and no others, show that the sender is at work.
            Kind::Data | Kind::Grant => {
                rpc.silence.heard = clock;
                rpc.silence.wait = timers.resend;
                if rpc.state != RpcState::Replying {
                    rpc.silence.next = clock + timers.resend;
                }
            }
            // To the bulk port it only proves the way there.
            Kind::Busy if arrival.socket == Socket::Main => {
                rpc.silence.heard = clock;
                if rpc.state != RpcState::Replying {
                    // A peer that says so need not be asked again so soon.
                    let apart = questions_apart(&timers, self.peers.get(peer).rpcs);
                    let wait = (rpc.silence.wait * 2).max(apart);
                    rpc.silence.wait = wait.min(timers.timeout / 3);
                    rpc.silence.next = clock + rpc.silence.wait;
                }
            }
            // A client that asks for its response is alive.
            Kind::Resend if rpc.state == RpcState::Replying || rpc.starved.is_some() => {
                rpc.silence.heard = clock;
            }
            _ => {}
        }
        // A repeated request says nothing of the response.
        let arrived = rpc.in_flight > 0 && (common.kind != Kind::Data || rpc.is_client());
        if arrived {
            self.arrived(key);
        }
        if proves {
            self.prove(peer);
        }
        match packet {
            Packet::Data(data) => {
                // Its piggybacked ack counts whether or not its payload is of use.
                let received = self.receive_data(now, peer, key, arrival, data);
                self.process_piggyback(now, peer, data);
                received
            }
            Packet::Grant(grant) => self.receive_grant(now, peer, key, *grant),
            Packet::Resend(resend) => self.receive_resend(now, key, *resend),
            Packet::RpcUnknown(unknown) => self.receive_rpc_unknown(now, key, common, *unknown),
            Packet::Busy if arrival.socket == Socket::Main => {
                // Who says that it will not send now needs no window until it does.
                self.stall(key);
                Ok(())
            }
            Packet::Busy => {
                let bulk = &mut self.peers.get_mut(peer).bulk;
                if *bulk == Bulk::Unproven {
                    tracing::debug!(peer = %arrival.from, "the peer reaches our bulk port");
                    *bulk = Bulk::Proven;
                }
                Ok(())
            }
            Packet::Cutoffs(cutoffs) => {
                self.apply_cutoffs(peer, cutoffs);
                Ok(())
            }
            Packet::NeedAck => self.receive_need_ack(now, key),
            Packet::Ack(ack) => {
                if !common.from_client() {
                    return Err(DropReason::State);
                }
                self.forget_server_rpc(now, key);
                self.process_ack(now, peer, ack);
                Ok(())
            }
            Packet::NoSuchPort => {
                let reason = Unreachable::HomaPort;
                self.fail(
                    now,
                    key,
                    Failure::Unreachable {
                        reason,
                        may_have_run,
                    },
                );
                Ok(())
            }
            // Only an endpoint that we really talk to gets its cookie back.
            Packet::Cookie(cookie) => {
                self.send_control(key, &Packet::CookieEcho(*cookie), None);
                Ok(())
            }
            Packet::CookieEcho(_) => Err(DropReason::State),
            Packet::Freeze => Err(DropReason::Freeze),
        }
    }

    /// A packet of an RPC that we do not have (`homa-protocol` C.8).
    fn receive_unknown(
        &mut self,
        now: Time,
        peer: Option<PeerKey>,
        arrival: &mut Arrival,
        common: &Common,
        packet: &Packet,
    ) -> Result<(), DropReason> {
        match packet {
            Packet::Data(data) => {
                let created = if common.from_client() {
                    self.receive_new_request(now, arrival, common, data)
                } else {
                    Err(DropReason::UnknownRpc)
                };
                if let Some(peer) = peer {
                    self.process_piggyback(now, peer, data);
                }
                created
            }
            Packet::Resend(_) => {
                // Without room for the request there is no use in asking for it again.
                let full = common.from_client() && self.is_full(peer);
                let answer = if full {
                    Packet::Busy
                } else {
                    let age = now.since(self.born).as_millis();
                    let age_ms = u32::try_from(age).unwrap_or(u32::MAX);
                    Packet::RpcUnknown(Unknown { age_ms })
                };
                self.answer(arrival, common, &answer);
                Ok(())
            }
            Packet::NeedAck if !common.from_client() => {
                let acks = peer.map(|peer| std::mem::take(&mut self.peers.get_mut(peer).acks));
                let ack = Ack {
                    entries: acks.unwrap_or_default(),
                };
                self.answer(arrival, common, &Packet::Ack(ack));
                Ok(())
            }
            Packet::Ack(ack) if common.from_client() => {
                let peer = peer.ok_or(DropReason::UnknownRpc)?;
                self.process_ack(now, peer, ack);
                Ok(())
            }
            Packet::Cutoffs(cutoffs) => {
                self.apply_cutoffs(peer.ok_or(DropReason::UnknownRpc)?, cutoffs);
                Ok(())
            }
            _ => Err(DropReason::UnknownRpc),
        }
    }

    /// Whether a new request of this peer would find no room.
    fn is_full(&self, peer: Option<PeerKey>) -> bool {
        let share = peer.map_or(0, |peer| self.peers.get(peer).rpcs as usize);
        self.rpcs.len() >= self.settings.max_rpcs || share >= self.settings.max_rpcs_per_peer
    }

    /// Nobody here has that Homa port, or it accepts no requests.
    fn refuse_port(&mut self, arrival: &Arrival, common: &Common) -> DropReason {
        // Never an answer to such an answer. On IP protocol 146 the answer is ICMP's, which is for
        // the driver to give: this port may be another process's.
        if common.kind != Kind::NoSuchPort && self.settings.carrier == Carrier::Udp {
            self.answer(arrival, common, &Packet::NoSuchPort);
        }
        DropReason::Port
    }

    fn receive_new_request(
        &mut self,
        now: Time,
        arrival: &mut Arrival,
        common: &Common,
        data: &Data,
    ) -> Result<(), DropReason> {
        if !self
            .ports
            .get(&common.dest_port)
            .is_some_and(|port| port.accepts_requests)
        {
            return Err(self.refuse_port(arrival, common));
        }
        self.check_range(arrival, data, data.message_length)?;
        if self.rpcs.len() >= self.settings.max_rpcs {
            return Err(DropReason::RpcLimit);
        }
        let proven = !self.must_prove(arrival.from);
        let peer = self
            .peers
            .find_or_insert(arrival.from, proven, now)
            .ok_or(DropReason::PeerLimit)?;
        let id = common.local_id();
        let known = self.peers.get_mut(peer);
        if id <= known.newest_finished && self.finished.contains(peer, common.source_port, id) {
            return Err(DropReason::Finished);
        }
        known.incarnation = common.incarnation;
        if known.rpcs as usize >= self.settings.max_rpcs_per_peer {
            return Err(DropReason::RpcLimit);
        }
        let new = NewRpc {
            id,
            peer,
            local_port: common.dest_port,
            peer_port: common.source_port,
            local_ip: arrival.local,
        };
        let key = self.insert_rpc(now, new, RpcState::Arriving, 0);
        if let Some(rpc) = self.rpcs.get_mut(key) {
            rpc.response_unscheduled_kib = data.response_unscheduled_kib;
        }
        let result = self.receive_data(now, peer, key, arrival, data);
        let starved = self.rpcs.get(key).is_some_and(|rpc| rpc.starved.is_some());
        if result.is_err() && !starved {
            self.end(now, key, Remember::No);
        }
        result
    }

    /// Whether the payload lies within its message, and the message within the limit.
    fn check_range(
        &self,
        arrival: &Arrival,
        data: &Data,
        message_length: u32,
    ) -> Result<(), DropReason> {
        if data.message_length as usize > self.settings.max_message_bytes {
            return Err(DropReason::Length);
        }
        let end = data.offset() as usize + arrival.payload.len();
        // An empty packet announces a message; it may do so at any offset within it.
        if data.offset() >= message_length || end > message_length as usize {
            return Err(DropReason::Offset);
        }
        Ok(())
    }

    fn receive_data(
        &mut self,
        now: Time,
        peer: PeerKey,
        key: RpcKey,
        arrival: &mut Arrival,
        data: &Data,
    ) -> Result<(), DropReason> {
        self.announce_cutoffs(now, peer, key, data.cutoff_version);
        let clock = self.silence_clock(now);
        let Some(rpc) = self.rpcs.get(key) else {
            return Err(DropReason::UnknownRpc);
        };
        // A request that was handed over already has come again.
        let state = rpc.state.next(Input::Data).ok_or(DropReason::Duplicate)?;
        let length = rpc
            .incoming
            .as_ref()
            .map_or(data.message_length, InMessage::length);
        self.check_range(arrival, data, length)?;

        let payload = std::mem::take(&mut arrival.payload);
        let need = if payload.len() == length as usize {
            Need::OnePacket
        } else {
            Need::Start
        };
        let Some(rpc) = self.rpcs.get_mut(key) else {
            return Err(DropReason::UnknownRpc);
        };
        rpc.state = state;
        let before = rpc.incoming.as_ref().map_or(0, InMessage::outstanding);
        if rpc.incoming.is_none() {
            // It is asked for when its turn comes.
            if rpc.starved.is_some() {
                return Err(DropReason::Pool);
            }
            let reserved = std::mem::take(&mut rpc.reserved) as usize;
            let mut message = InMessage::new(length, data.incoming, payload.len());
            // All that this packet needs as well, so that nothing below can fail half way.
            let charge = message.first_charge().max(message.reserve(payload.len()));
            if charge <= reserved {
                self.pool.release(reserved - charge);
            } else if !self.charge_start(charge - reserved, need) {
                self.pool.release(reserved);
                self.starve(key, length, charge);
                self.arm(key);
                return Err(DropReason::Pool);
            }
            message.charged = charge;
            if let Some(rpc) = self.rpcs.get_mut(key) {
                rpc.incoming = Some(message);
                rpc.silence.next = clock + self.settings.timers.resend;
            }
        }
        let Some(rpc) = self.rpcs.get_mut(key) else {
            return Err(DropReason::UnknownRpc);
        };
        let Some(message) = &mut rpc.incoming else {
            return Err(DropReason::State);
        };
        let more = message.uncharged_with(payload.len());
        if more > 0 {
            if !self.pool.charge(more, Need::Rest) {
                return Err(DropReason::Pool);
            }
            message.charged += more;
        }
        let empty = payload.is_empty();
        let fresh = message.insert(data.offset(), payload);
        self.counters.bytes_received += u64::from(fresh);
        // What was sent twice and arrives only now was lost on its first way.
        let lost_bulk = data.retransmit && fresh > 0 && message.is_scheduled(data.offset());
        message.stalled &= fresh == 0;
        let complete = message.complete();
        self.granter.update(key, rpc, before);
        self.arm(key);
        if arrival.socket == Socket::Bulk {
            self.peers.get_mut(peer).bulk_arrived();
        } else if lost_bulk {
            self.peers.get_mut(peer).bulk_lost(now);
        }
        if fresh == 0 && !empty {
            return Err(DropReason::Duplicate);
        }
        if complete {
            self.complete(now, key);
        }
        Ok(())
    }

    /// The incoming message is whole.
    fn complete(&mut self, now: Time, key: RpcKey) {
        let Some(rpc) = self.rpcs.get_mut(key) else {
            return;
        };
        let Some(state) = rpc.state.next(Input::Complete) else {
            return;
        };
        rpc.state = state;
        self.granter.remove(rpc);
        let Some(message) = rpc.incoming.take() else {
            return;
        };
        let rule = LevelRule::new(&self.settings, self.rtt_bytes.bytes());
        self.priorities
            .received(now, rule, message.length(), message.unscheduled());
        let charged = message.charged;
        let message = message.into_message();
        let id = RpcId { key, id: rpc.id };
        let peer = self.peers.get_mut(rpc.peer);
        peer.served = true;
        let addr = peer.addr;
        if state == RpcState::Ended {
            let owed = Owed {
                ack: PendingAck {
                    client_id: rpc.id,
                    server_port: rpc.peer_port,
                },
                local_port: rpc.local_port,
            };
            let event = Event::Response {
                rpc: id,
                cookie: rpc.cookie,
                message,
                charged,
            };
            self.events.push_back(Pending {
                event,
                ack: Some((addr, owed)),
            });
            self.end(now, key, Remember::No);
        } else {
            let (port, local, peer_port) = (rpc.local_port, rpc.local_ip, rpc.peer_port);
            let peer = self.rpcs.get(key).map_or(addr, |rpc| self.name_of(rpc));
            let event = Event::Request {
                rpc: id,
                port,
                peer,
                peer_port,
                local,
                message,
                charged,
            };
            self.events.push_back(Pending { event, ack: None });
        }
    }

    fn receive_grant(
        &mut self,
        now: Time,
        peer: PeerKey,
        key: RpcKey,
        grant: Grant,
    ) -> Result<(), DropReason> {
        let levels = self.settings.num_priorities;
        let Some(rpc) = self.rpcs.get_mut(key) else {
            return Err(DropReason::UnknownRpc);
        };
        if !matches!(rpc.state, RpcState::Calling | RpcState::Replying) {
            return Err(DropReason::State);
        }
        let Some(message) = &mut rpc.outgoing else {
            return Err(DropReason::State);
        };
        if let Some(sent) = message.first_sent.take() {
            self.rtt_bytes.granted(now, sent);
        }
        message.grant(grant.offset);
        // The latest GRANT decides, whatever its offset (statement 36).
        message.priority = grant.priority.min(levels - 1);
        let sender = self.peers.get_mut(peer);
        sender.bulk_port = grant.bulk_port;
        let proof_due = sender
            .proof_sent
            .is_none_or(|at| now.since(at) >= REPEAT_AFTER);
        if grant.prove_port != 0 && proof_due {
            sender.proof_sent = Some(now);
            self.send_control(key, &Packet::Busy, Some(grant.prove_port));
        }
        self.enqueue_resend(key);
        self.enqueue(key);
        Ok(())
    }

    /// Answers a RESEND (`homa-protocol` C.7). Its numbers are an attacker's.
    fn receive_resend(&mut self, now: Time, key: RpcKey, resend: Resend) -> Result<(), DropReason> {
        let priority = resend.priority.min(self.settings.num_priorities - 1);
        let Some(rpc) = self.rpcs.get_mut(key) else {
            return Err(DropReason::UnknownRpc);
        };
        if matches!(rpc.state, RpcState::Arriving | RpcState::InService) {
            self.send_control(key, &Packet::Busy, None);
            return Ok(());
        }
        let Some(message) = &mut rpc.outgoing else {
            return Err(DropReason::State);
        };
        let replying = rpc.state == RpcState::Replying;
        let sent = message.sent();
        let end = match resend.length {
            Resend::ALL => sent,
            length => resend.offset.saturating_add(length).min(message.length()),
        };
        let (mut times, mut again) = (0, false);
        if resend.offset < sent
            && let Some(asked) = message.asked_for(now, resend.offset, &self.settings.timers)
        {
            times = asked;
            again = message.answer(now, resend.offset..end, priority);
        }
        // Asking beyond the grant tells that a GRANT was lost.
        message.grant(end);
        if resend.offset >= sent {
            self.send_control(key, &Packet::Busy, None);
        }
        self.suspect_path(now, key, resend.offset, times);
        self.enqueue_resend(key);
        self.enqueue(key);
        // The server waits anew for the ack of what its client still lacks. To a client, being asked is no
        // sign that its response is on the way (statement 55).
        if replying {
            self.our_turn(now, key);
        }
        // What was asked for is on its way already, or waits there.
        if resend.offset < sent && !again {
            return Err(DropReason::Repeated);
        }
        Ok(())
    }

    fn receive_rpc_unknown(
        &mut self,
        now: Time,
        key: RpcKey,
        common: &Common,
        unknown: Unknown,
    ) -> Result<(), DropReason> {
        if common.from_client() {
            self.forget_server_rpc(now, key);
            return Ok(());
        }
        let Some(rpc) = self.rpcs.get_mut(key) else {
            return Err(DropReason::UnknownRpc);
        };
        let age = Duration::from_millis(u64::from(unknown.age_ms));
        let since = now.since(rpc.started);
        let another = match rpc.incarnation {
            // At first contact its age tells whether it can be the one that the request went to.
            0 => since > age + BORN_SLACK,
            // Or that it surely was in the other's place already when the request was made.
            known => known != common.incarnation && since >= age,
        };
        if common.incarnation != 0 && !another {
            rpc.incarnation = common.incarnation;
        }
        if common.incarnation != 0 && another {
            // Another life of the server answers: what the first did with it, nobody knows.
            self.fail(now, key, Failure::PeerRestarted);
            return Ok(());
        }
        // Who did not run for long may hear from a server that has run the request, found its
        // client silent, and forgotten both.
        let ours = self.silence_clock(now);
        let Some(rpc) = self.rpcs.get_mut(key) else {
            return Err(DropReason::UnknownRpc);
        };
        let suspended = now
            .since(rpc.started)
            .saturating_sub(ours.since(rpc.started_clock));
        if suspended >= self.settings.timers.give_up {
            self.fail(now, key, Failure::TimedOut(suspended));
            return Ok(());
        }
        if rpc.state != RpcState::Calling {
            return Err(DropReason::State);
        }
        let Some(message) = &mut rpc.outgoing else {
            return Err(DropReason::State);
        };
        let Some(times) = message.asked_for(now, 0, &self.settings.timers) else {
            return Err(DropReason::Repeated);
        };
        self.suspect_path(now, key, 0, times);
        self.replay(now, key);
        Ok(())
    }

    fn receive_need_ack(&mut self, now: Time, key: RpcKey) -> Result<(), DropReason> {
        let Some(rpc) = self.rpcs.get(key) else {
            return Err(DropReason::UnknownRpc);
        };
        if !rpc.is_client() {
            return Err(DropReason::State);
        }
        if rpc.starved.is_some() {
            // It is not gone, but can take nothing now.
            self.send_grant(now, key, 0, 0);
            return Ok(());
        }
        // The response is not complete: it may be waiting for a grant that was lost, and what
        // is missing is asked for.
        if let Some(message) = &rpc.incoming
            && message.granted() < message.length()
        {
            let offset = message.granted();
            self.send_grant(now, key, offset, 0);
        }
        self.request_missing(key);
        Ok(())
    }

    fn apply_cutoffs(&mut self, peer: PeerKey, cutoffs: &Cutoffs) {
        let peer = self.peers.get_mut(peer);
        peer.cutoffs = cutoffs.lengths;
        peer.cutoffs[0] = u32::MAX;
        peer.cutoff_version = cutoffs.version;
    }

    /// Sends our cutoffs to a peer that uses others.
    fn announce_cutoffs(&mut self, now: Time, peer: PeerKey, key: RpcKey, version: u16) {
        let cutoffs = self.priorities.cutoffs();
        let sender = self.peers.get_mut(peer);
        let due = sender
            .cutoffs_sent
            .is_none_or(|at| now.since(at) >= REPEAT_AFTER);
        if version != cutoffs.version && due {
            sender.cutoffs_sent = Some(now);
            self.send_control(key, &Packet::Cutoffs(cutoffs), None);
        }
    }

    fn process_piggyback(&mut self, now: Time, peer: PeerKey, data: &Data) {
        if let Some(ack) = data.ack {
            self.process_entry(now, peer, ack);
        }
    }

    fn process_ack(&mut self, now: Time, peer: PeerKey, ack: &Ack) {
        for entry in &ack.entries {
            self.process_entry(now, peer, *entry);
        }
    }

    /// The client at `peer` has read the response of this RPC. Repeats are harmless.
    fn process_entry(&mut self, now: Time, peer: PeerKey, entry: PendingAck) {
        if let Some(key) = self.rpcs.find_server(peer, entry.client_id | 1) {
            self.forget_server_rpc(now, key);
        }
    }

    fn forget_server_rpc(&mut self, now: Time, key: RpcKey) {
        if self
            .rpcs
            .get(key)
            .is_some_and(|rpc| rpc.state.next(Input::Forget).is_some())
        {
            self.end(now, key, Remember::Yes);
        }
    }

    /// The application has read a response: its server is owed an ack.
    pub(super) fn owe_ack(&mut self, now: Time, addr: SocketAddr, owed: Owed) {
        let Some(peer) = self.peers.find(addr) else {
            return;
        };
        let peer = self.peers.get_mut(peer);
        peer.used = now;
        if peer.acks.try_push(owed.ack).is_ok() {
            return;
        }
        // Full: this one goes in the header, the five that wait as entries (statement 71).
        let entries = std::mem::take(&mut peer.acks);
        let route = Route {
            source_port: owed.local_port,
            dest_port: owed.ack.server_port,
            sender_id: owed.ack.client_id,
            incarnation: self.incarnation,
        };
        self.push_control(addr, None, &route, &Packet::Ack(Ack { entries }));
    }

    /// Answers a packet of an RPC that is not in the table.
    fn answer(&mut self, arrival: &Arrival, common: &Common, packet: &Packet) {
        let route = Route {
            source_port: common.dest_port,
            dest_port: common.source_port,
            sender_id: common.local_id(),
            incarnation: self.incarnation,
        };
        let Arrival { from, local, .. } = *arrival;
        let peer = self.peers.find(from);
        let bytes = packet.kind().header_len();
        if self.is_proven(peer, from) || self.may_answer(from, local, &route, bytes) {
            self.push_control(from, local, &route, packet);
        }
    }
}
