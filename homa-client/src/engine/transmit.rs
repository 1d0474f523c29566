//! What leaves: control packets first, then what was asked for again, then messages in the order
//! of shortest remaining processing time (`homa-protocol` C.3).

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use smallvec::{SmallVec, smallvec};

use super::granter::Share;
use super::outgoing::OutMessage;
use super::priority::{self, LevelRule};
use super::rpc::{Rpc, RpcKey, RpcState};
use super::srpt::{DEFER_MIN, Turn};
use super::wire::{DATA_HEADER_LEN, Data, Grant, Header, Kind, Packet, Route};
use super::{Engine, Time};

/// Control packets that wait for the driver, at most. All of them are repeated when lost.
const MAX_CONTROL: usize = 8192;

/// Segments and bytes of one send with segmentation offload (Linux's `UDP_MAX_SEGMENTS` is 64 in
/// older kernels).
const MAX_SEGMENTS: usize = 64;
const MAX_SEND_BYTES: usize = 65_000;

/// Packets to one destination that may leave in one system call: all but the last have the same
/// length.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// Where they go.
    pub to: SocketAddr,
    /// The local address they leave from; `None`: the system's choice.
    pub local: Option<IpAddr>,
    /// Their IP TOS byte.
    pub tos: u8,
    /// The packets. One alone, as that of a short message, is held here.
    pub segments: SmallVec<[Segment; 1]>,
}

/// One packet.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its header.
    pub header: Header,
    /// The bytes that follow; shared with the message, not copied.
    pub payload: Bytes,
    /// The bytes that follow those: a long packet may cross parts of its message.
    pub more: Vec<Bytes>,
}

/// Parts of a message that one packet shares beyond the first; where it crosses more, they are
/// copied.
pub(super) const MAX_MORE: usize = 6;

impl Segment {
    /// Bytes of the whole packet.
    #[allow(clippy::len_without_is_empty, reason = "a packet is never empty")]
    pub fn len(&self) -> usize {
        self.header.len() + self.payload_len()
    }

    /// Bytes that follow the header.
    pub fn payload_len(&self) -> usize {
        self.payload.len() + self.more.iter().map(Bytes::len).sum::<usize>()
    }

    /// The most that [`Segment::slices`] gives.
    pub const MAX_SLICES: usize = 2 + MAX_MORE;

    /// What the packet consists of, in order; none of these is empty.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let payload = Some(&self.payload[..]).filter(|payload| !payload.is_empty());
        let more = self.more.iter().map(|more| &more[..]);
        [&self.header[..]].into_iter().chain(payload).chain(more)
    }

    /// What follows the header, in one part.
    pub fn into_payload(self) -> Bytes {
        if self.more.is_empty() {
            return self.payload;
        }
        [self.payload]
            .into_iter()
            .chain(self.more)
            .flatten()
            .collect()
    }
}

/// A control packet that waits to be sent.
#[derive(Debug)]
pub(super) struct Control {
    to: SocketAddr,
    local: Option<IpAddr>,
    kind: Kind,
    header: Header,
}

impl Engine {
    /// The next packets to send, at most `max_segments`; `None` when nothing may leave now.
    pub fn poll_transmit(&mut self, now: Time, max_segments: usize) -> Option<Transmit> {
        self.feed_starved(now);
        self.send_grants(now);
        let most = max_segments.clamp(1, MAX_SEGMENTS);
        if let Some(control) = self.next_control() {
            return Some(control);
        }
        let open = self.link_is_open(now);
        // By turns: neither a flood of RESENDs nor the messages of others may stop the other kind.
        self.resend_first = !self.resend_first;
        let transmit = if self.resend_first {
            self.next_resend(now, most, open)
                .or_else(|| self.next_data(now, most, open))
        } else {
            self.next_data(now, most, open)
                .or_else(|| self.next_resend(now, most, open))
        };
        // What may not leave has asked for a proof.
        transmit.or_else(|| self.next_control())
    }

    /// Whether the backlog in front of the link has room for a full packet.
    fn link_is_open(&mut self, now: Time) -> bool {
        if self.sending.is_empty() && self.resending.is_empty() {
            self.pacer.stop_waiting();
            return true;
        }
        self.pacer.may_send(now)
    }

    fn next_control(&mut self) -> Option<Transmit> {
        let Control {
            to,
            local,
            kind,
            header,
        } = self.control.pop_front()?;
        self.counters.count_sent(kind);
        let tos = self.settings.tos[usize::from(self.priorities.control())];
        let payload = Bytes::new();
        Some(Transmit {
            to,
            local,
            tos,
            segments: smallvec![Segment {
                header,
                payload,
                more: Vec::new(),
            }],
        })
    }

    /// Packets that a peer has asked for again, one run of each message in turn. They go to the
    /// main port.
    fn next_resend(&mut self, now: Time, most: usize, open: bool) -> Option<Transmit> {
        if !open {
            return None;
        }
        loop {
            let key = self.resending.pop_front()?;
            let transmit = self.resend_run(now, key, most);
            let more = self.rpcs.get(key).and_then(|rpc| rpc.outgoing.as_ref());
            if transmit.is_some() && more.is_some_and(|message| message.resend_end().is_some()) {
                self.resending.push_back(key);
            } else if let Some(rpc) = self.rpcs.get_mut(key) {
                rpc.resending = false;
            }
            if transmit.is_some() {
                return transmit;
            }
        }
    }

    fn resend_run(&mut self, now: Time, key: RpcKey, most: usize) -> Option<Transmit> {
        let message = self.rpcs.get(key)?.outgoing.as_ref()?;
        let start = message.resend_start()?;
        let most = self.admit(key, start, most)?;
        let rpc = self.rpcs.get_mut(key)?;
        let route = route(rpc, self.incarnation);
        let peer = self.peers.get(rpc.peer);
        let message = rpc.outgoing.as_mut()?;
        let tos = self.settings.tos[usize::from(message.resend_priority)];
        let mut transmit = Transmit {
            to: peer.addr,
            local: rpc.local_ip,
            tos,
            segments: SmallVec::new(),
        };
        let limit = message.packet_limit(start);
        let full = limit as usize;
        let most = most_packets(most, full);
        let most = self.pacer.burst(now, full + DATA_HEADER_LEN, most);
        while transmit.segments.len() < most {
            // Scheduled packets may be longer than unscheduled ones, and all of a run are equal.
            let start = message.resend_start();
            if start.is_some_and(|start| message.packet_limit(start) != limit) {
                break;
            }
            let end = message.resend_end();
            let Some(range) = message.next_resend() else {
                break;
            };
            let data = Data {
                incoming: end.unwrap_or(range.end),
                cutoff_version: peer.cutoff_version,
                retransmit: true,
                ..Data::new(range.start, message.length())
            };
            let short = range.len() < full;
            let (payload, more) = message.bytes(range);
            let segment = Segment {
                header: Header::emit(&route, &Packet::Data(data)),
                payload,
                more,
            };
            self.pacer.sent(now, segment.len());
            self.counters
                .count_data(message.resend_priority, segment.payload_len());
            self.counters.retransmitted += 1;
            transmit.segments.push(segment);
            if short {
                break;
            }
        }
        self.debit(key, &transmit);
        (!transmit.segments.is_empty()).then_some(transmit)
    }

    /// First transmissions: the message with the fewest bytes left goes first, with a share for
    /// the oldest.
    fn next_data(&mut self, now: Time, most: usize, open: bool) -> Option<Transmit> {
        let (turn, most) = loop {
            let turn = self.next_turn(open)?;
            let sent = self.rpcs.get(turn.key)?.outgoing.as_ref()?.sent();
            if let Some(most) = self.admit(turn.key, sent, most) {
                break (turn, most);
            }
        };
        let Turn { key, fifo, .. } = turn;
        let loopback = self.rpcs.get(key)?.loopback;
        let kib = self.response_limit(loopback);
        let network_unscheduled = self.rtt_bytes.bytes() as u32;
        let levels = Levels {
            rule: LevelRule::new(&self.settings, self.rtt_bytes.bytes()),
            number: self.settings.num_priorities,
        };
        let rpc = self.rpcs.get_mut(key)?;
        let route = route(rpc, self.incarnation);
        let is_client = rpc.is_client();
        let peer = self.peers.get_mut(rpc.peer);
        let message = rpc.outgoing.as_mut()?;
        let scheduled = message.sent() >= message.unscheduled();
        // What nobody would send unasked through a network does not delay short messages here.
        let is_bulk = scheduled || (loopback && message.length() > network_unscheduled);
        let level = levels.of_next(message, &peer.cutoffs);
        if message.sent() == 0 {
            message.first_sent = Some(now);
        }
        let full = message.packet_limit(message.sent()) as usize;
        let most = most_packets(fifo.map_or(most, |fifo| most.min(fifo)), full);
        let most = self.pacer.burst(now, full + DATA_HEADER_LEN, most);
        let mut transmit = Transmit {
            to: if is_bulk { peer.bulk_addr() } else { peer.addr },
            local: rpc.local_ip,
            tos: self.settings.tos[usize::from(level)],
            segments: SmallVec::with_capacity(most.min(packets_left(message, full))),
        };
        while transmit.segments.len() < most && levels.of_next(message, &peer.cutoffs) == level {
            let Some(range) = message.next_packet() else {
                break;
            };
            let data = Data {
                incoming: message.unscheduled(),
                // Newest first: older ones are the likelier to be asked for anyway.
                ack: peer.acks.pop(),
                cutoff_version: peer.cutoff_version,
                response_unscheduled_kib: if is_client { kib } else { 0 },
                ..Data::new(range.start, message.length())
            };
            let last = range.len() < full || range.end == message.unscheduled();
            let (payload, more) = message.bytes(range);
            let segment = Segment {
                header: Header::emit(&route, &Packet::Data(data)),
                payload,
                more,
            };
            self.pacer.sent(now, segment.len());
            self.counters.count_data(level, segment.payload_len());
            transmit.segments.push(segment);
            if last {
                break;
            }
        }
        self.debit(key, &transmit);
        self.sending.sent(turn, transmit.segments.len());
        self.enqueue(key);
        self.our_turn(now, key);
        (!transmit.segments.is_empty()).then_some(transmit)
    }

    /// Which message may send now. While the link's backlog is full only the short ones may.
    fn next_turn(&mut self, open: bool) -> Option<Turn> {
        if open {
            return self.sending.turn();
        }
        let is_short = |key| {
            let message = self.rpcs.get(key).and_then(|rpc| rpc.outgoing.as_ref());
            message.is_some_and(|message| message.length() < DEFER_MIN)
        };
        // Long messages near their ends may be in front of them, but hardly many.
        let key = self
            .sending
            .nearly_done()
            .take(8)
            .find_map(|rank| is_short(rank.key).then_some(rank.key))?;
        Some(Turn {
            key,
            fifo: None,
            short: true,
        })
    }

    fn send_grants(&mut self, now: Time) {
        if !self.granter.is_due() {
            return;
        }
        for decision in &self.granter.decide(&mut self.rpcs, &mut self.pool) {
            let priority = match decision.share {
                Share::Active { rank, active } => self.priorities.scheduled(rank, active),
                Share::Oldest => self.priorities.max_scheduled(),
            };
            self.send_grant(now, decision.key, decision.offset, priority);
            self.expect(now, decision.key);
        }
    }

    pub(super) fn send_grant(&mut self, now: Time, key: RpcKey, offset: u32, priority: u8) {
        let Some(rpc) = self.rpcs.get(key) else {
            return;
        };
        let peer = self.peers.get_mut(rpc.peer);
        let (prove_port, bulk_port) = peer.bulk_ports(self.settings.bulk_port, now);
        let grant = Grant {
            offset,
            priority,
            prove_port,
            bulk_port,
        };
        self.send_control(key, &Packet::Grant(grant), None);
    }

    /// Queues a control packet of this RPC, to the peer's main port or to `port`.
    pub(super) fn send_control(&mut self, key: RpcKey, packet: &Packet, port: Option<u16>) {
        let Some(rpc) = self.rpcs.get(key) else {
            return;
        };
        let route = route(rpc, self.incarnation);
        let (local, is_client) = (rpc.local_ip, rpc.is_client());
        let peer = self.peers.get(rpc.peer);
        let mut to = peer.addr;
        let bytes = packet.kind().header_len();
        if !peer.proven && !is_client && !self.may_answer(to, local, &route, bytes) {
            return;
        }
        if let Some(port) = port {
            to.set_port(port);
        }
        self.push_control(to, local, &route, packet);
    }

    pub(super) fn push_control(
        &mut self,
        to: SocketAddr,
        local: Option<IpAddr>,
        route: &Route,
        packet: &Packet,
    ) {
        if self.control.len() >= MAX_CONTROL {
            return;
        }
        let header = Header::emit(route, packet);
        self.control.push_back(Control {
            to,
            local,
            kind: packet.kind(),
            header,
        });
    }

    pub(super) fn enqueue_resend(&mut self, key: RpcKey) {
        let Some(rpc) = self.rpcs.get_mut(key) else {
            return;
        };
        let wanted = rpc
            .outgoing
            .as_ref()
            .is_some_and(|message| message.resend_end().is_some());
        if wanted && !rpc.resending {
            rpc.resending = true;
            self.resending.push_back(key);
        }
    }
}

pub(super) fn route(rpc: &Rpc, incarnation: u32) -> Route {
    debug_assert!(rpc.state != RpcState::Ended);
    Route {
        source_port: rpc.local_port,
        dest_port: rpc.peer_port,
        sender_id: rpc.id,
        incarnation,
    }
}

/// Chooses the priority levels of first transmissions.
struct Levels {
    rule: LevelRule,
    number: u8,
}

impl Levels {
    /// The level of the next packet of `message`, whose receiver has announced `cutoffs`.
    fn of_next(&self, message: &OutMessage, cutoffs: &[u32; 8]) -> u8 {
        let (sent, unscheduled) = (message.sent(), message.unscheduled());
        let Some(size) = self.rule.size(sent, unscheduled, message.length()) else {
            return message.priority;
        };
        let level = priority::unscheduled(cutoffs, self.number, size);
        if sent < unscheduled {
            level
        } else {
            message.priority.max(level)
        }
    }
}

/// How many packets with `payload` bytes each one send may hold.
fn most_packets(most: usize, payload: usize) -> usize {
    most.min(MAX_SEND_BYTES / (payload + DATA_HEADER_LEN))
        .max(1)
}

fn packets_left(message: &OutMessage, payload: usize) -> usize {
    (message.granted().saturating_sub(message.sent()) as usize).div_ceil(payload)
}
