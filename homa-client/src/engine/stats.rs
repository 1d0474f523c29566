//! Counters: what the engine has done, and why it dropped what it dropped.

use std::ops::AddAssign;

use super::wire::Kind;

/// Why a packet was dropped. A hostile packet is a counter, never an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// Shorter than the header of its type.
    Short,
    /// Unknown packet type.
    Kind,
    /// Not marked as Homa: wrong flags or urgent pointer.
    Marker,
    /// Another version of the UDP carrier.
    Version,
    /// Cut by the socket, or unreadable: without a sender or, on IP protocol 146, not IP.
    Truncated,
    /// `message_length` is 0 or over the limit.
    Length,
    /// The payload does not fit into its message.
    Offset,
    /// The destination port is not open here.
    Port,
    /// Names an RPC that is not known here.
    UnknownRpc,
    /// Comes from another endpoint than the one the RPC belongs to.
    Source,
    /// Does not fit the state of its RPC.
    State,
    /// Repeats bytes that have arrived already.
    Duplicate,
    /// Asks again for bytes that were sent again just before, or often already.
    Repeated,
    /// Belongs to an RPC that has ended here.
    Finished,
    /// The table of RPCs, or the share of one peer, is full.
    RpcLimit,
    /// The table of peers is full.
    PeerLimit,
    /// The pool of receive memory is full.
    Pool,
    /// FREEZE: only stops debug traces, and those of a kernel.
    Freeze,
    /// An RPC id that can never be: 0 or 1.
    Id,
    /// A proof of address that is not ours, or is too old.
    Cookie,
}

impl DropReason {
    /// All reasons, in the order of the counters.
    pub const ALL: [Self; 20] = [
        Self::Short,
        Self::Kind,
        Self::Marker,
        Self::Version,
        Self::Truncated,
        Self::Length,
        Self::Offset,
        Self::Port,
        Self::UnknownRpc,
        Self::Source,
        Self::State,
        Self::Duplicate,
        Self::Repeated,
        Self::Finished,
        Self::RpcLimit,
        Self::PeerLimit,
        Self::Pool,
        Self::Freeze,
        Self::Id,
        Self::Cookie,
    ];

    /// Its name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Kind => "kind",
            Self::Marker => "marker",
            Self::Version => "version",
            Self::Truncated => "truncated",
            Self::Length => "length",
            Self::Offset => "offset",
            Self::Port => "port",
            Self::UnknownRpc => "unknown_rpc",
            Self::Source => "source",
            Self::State => "state",
            Self::Duplicate => "duplicate",
            Self::Repeated => "repeated",
            Self::Finished => "finished",
            Self::RpcLimit => "rpc_limit",
            Self::PeerLimit => "peer_limit",
            Self::Pool => "pool",
            Self::Freeze => "freeze",
            Self::Id => "id",
            Self::Cookie => "cookie",
        }
    }
}

/// What an engine has counted since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    sent: [u64; Kind::ALL.len()],
    received: [u64; Kind::ALL.len()],
    dropped: [u64; DropReason::ALL.len()],
    /// Payload bytes sent at each priority level, first and repeated transmissions.
    pub bytes_sent: [u64; 8],
    /// Payload bytes received, each once however often it was sent.
    pub bytes_received: u64,
    /// DATA packets sent again because of a RESEND or RPC_UNKNOWN.
    pub retransmitted: u64,
    /// RPCs that ended because the peer was silent for too long.
    pub timeouts: u64,
    /// Replies given up before they were acknowledged, because `send_bytes` was reached.
    pub replies_forgotten: u64,
    /// Requests handed to the application.
    pub requests_delivered: u64,
    /// Responses handed to the application.
    pub responses_delivered: u64,
    /// Bitmaps of finished RPCs given up early for lack of room.
    pub finished_forgotten: u64,
    /// Bytes of receive memory in use now.
    pub pool_used: u64,
    /// Bytes of outgoing messages held now.
    pub send_used: u64,
    /// Control packets that wait to be sent now.
    pub queued_control: u64,
    /// Messages that have something to send now, first transmissions and repeated ones.
    pub queued_sending: u64,
    /// Incoming messages that are not fully granted now.
    pub queued_granting: u64,
    /// Incoming messages that wait for receive memory now.
    pub queued_starved: u64,
    /// RPCs in the table now.
    pub live_rpcs: u64,
    /// Peers in the table now.
    pub live_peers: u64,
}

impl AddAssign<&Self> for Counters {
    /// Adds what another engine has counted.
    fn add_assign(&mut self, other: &Self) {
        // All by name: a new one must not be left out.
        let Self {
            sent,
            received,
            dropped,
            retransmitted,
            timeouts,
            replies_forgotten,
            requests_delivered,
            responses_delivered,
            finished_forgotten,
            bytes_sent,
            bytes_received,
            pool_used,
            send_used,
            queued_control,
            queued_sending,
            queued_granting,
            queued_starved,
            live_rpcs,
            live_peers,
        } = other;
        let pairs = |into: &mut [u64], from: &[u64]| {
            for (sum, more) in into.iter_mut().zip(from) {
                *sum += more;
            }
        };
        pairs(&mut self.sent, sent);
        pairs(&mut self.received, received);
        pairs(&mut self.dropped, dropped);
        pairs(&mut self.bytes_sent, bytes_sent);
        self.bytes_received += bytes_received;
        self.retransmitted += retransmitted;
        self.timeouts += timeouts;
        self.replies_forgotten += replies_forgotten;
        self.requests_delivered += requests_delivered;
        self.responses_delivered += responses_delivered;
        self.finished_forgotten += finished_forgotten;
        self.pool_used += pool_used;
        self.send_used += send_used;
        self.queued_control += queued_control;
        self.queued_sending += queued_sending;
        self.queued_granting += queued_granting;
        self.queued_starved += queued_starved;
        self.live_rpcs += live_rpcs;
        self.live_peers += live_peers;
    }
}

impl Counters {
    /// Packets of this kind handed out for sending.
    pub fn sent(&self, kind: Kind) -> u64 {
        self.sent[kind.index()]
    }

    /// Packets of this kind that arrived and could be parsed.
    pub fn received(&self, kind: Kind) -> u64 {
        self.received[kind.index()]
    }

    /// Packets dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Every number with its name, as a metrics exporter or a log wants them: `sent.DATA`,
    /// `dropped.port`, `bytes_sent.7`, `live_rpcs`, … All but the last eight only grow.
    pub fn rows(&self) -> Vec<(String, u64)> {
        let mut rows = Vec::new();
        for (way, counts) in [("sent", &self.sent), ("received", &self.received)] {
            for kind in Kind::ALL {
                rows.push((format!("{way}.{}", kind.name()), counts[kind.index()]));
            }
        }
        for reason in DropReason::ALL {
            rows.push((format!("dropped.{}", reason.name()), self.dropped(reason)));
        }
        for (level, bytes) in self.bytes_sent.iter().enumerate() {
            rows.push((format!("bytes_sent.{level}"), *bytes));
        }
        let others = [
            ("bytes_received", self.bytes_received),
            ("retransmitted", self.retransmitted),
            ("timeouts", self.timeouts),
            ("replies_forgotten", self.replies_forgotten),
            ("requests_delivered", self.requests_delivered),
            ("responses_delivered", self.responses_delivered),
            ("finished_forgotten", self.finished_forgotten),
            ("pool_used", self.pool_used),
            ("send_used", self.send_used),
            ("queued_control", self.queued_control),
            ("queued_sending", self.queued_sending),
            ("queued_granting", self.queued_granting),
            ("queued_starved", self.queued_starved),
            ("live_rpcs", self.live_rpcs),
            ("live_peers", self.live_peers),
        ];
        rows.extend(others.map(|(name, value)| (name.to_owned(), value)));
        rows
    }

    pub(super) fn count_data(&mut self, level: u8, payload: usize) {
        self.count_sent(Kind::Data);
        self.bytes_sent[usize::from(level & 7)] += payload as u64;
    }

    pub(super) fn count_sent(&mut self, kind: Kind) {
        self.sent[kind.index()] += 1;
    }

    pub(super) fn count_received(&mut self, kind: Kind) {
        self.received[kind.index()] += 1;
    }

    pub(super) fn count_drop(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }
}
