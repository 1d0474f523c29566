//! GRANT, RESEND, CUTOFFS, ACK and the cookies of the UDP carrier.

use arrayvec::ArrayVec;

use super::{Carrier, MAX_HEADER_LEN, PendingAck, put, u16_at, u32_at, u64_at};

/// Acks that one ACK packet holds besides that of its header.
pub const MAX_ACKS: usize = 5;

/// An entry of an ACK packet.
pub type AckEntry = PendingAck;

/// GRANT: the sender may transmit the bytes below `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// End of what may be sent.
    pub offset: u32,
    /// Priority level of the packets that follow.
    pub priority: u8,
    /// *UDP only:* a bulk port that the sender should prove with a BUSY sent there; 0 = none.
    pub prove_port: u16,
    /// *UDP only:* the port for first transmissions of scheduled DATA; 0 = the main port.
    pub bulk_port: u16,
}

impl Grant {
    pub(super) fn parse(carrier: Carrier, packet: &[u8]) -> Self {
        let port_at = |at| match carrier {
            Carrier::Udp => u16_at(packet, at),
            Carrier::Ip => 0,
        };
        Self {
            offset: u32_at(packet, 28),
            priority: packet[32],
            prove_port: port_at(4),
            bulk_port: port_at(6),
        }
    }

    pub(super) fn emit(&self, out: &mut [u8; MAX_HEADER_LEN]) {
        put(out, 4, &self.prove_port.to_be_bytes());
        put(out, 6, &self.bulk_port.to_be_bytes());
        put(out, 28, &self.offset.to_be_bytes());
        out[32] = self.priority;
    }
}

/// RESEND: send a range of the message again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resend {
    /// First byte wanted.
    pub offset: u32,
    /// Bytes wanted; [`Resend::ALL`] asks for everything sent so far.
    pub length: u32,
    /// Priority level of the packets sent in answer.
    pub priority: u8,
}

impl Resend {
    /// The length that means "I have nothing of it".
    pub const ALL: u32 = u32::MAX;

    pub(super) fn parse(packet: &[u8]) -> Self {
        Self {
            offset: u32_at(packet, 28),
            length: u32_at(packet, 32),
            priority: packet[36],
        }
    }

    pub(super) fn emit(&self, out: &mut [u8; MAX_HEADER_LEN]) {
        put(out, 28, &self.offset.to_be_bytes());
        put(out, 32, &self.length.to_be_bytes());
        out[36] = self.priority;
    }
}

/// RPC_UNKNOWN: whoever sends this does not know the RPC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unknown {
    /// *UDP only:* how long the sender's engine has lived, in milliseconds. A request that is older
    /// may have been run by its predecessor.
    pub age_ms: u32,
}

impl Unknown {
    pub(super) fn parse(carrier: Carrier, packet: &[u8]) -> Self {
        Self {
            age_ms: match carrier {
                Carrier::Udp => u32_at(packet, 4),
                Carrier::Ip => 0,
            },
        }
    }

    pub(super) fn emit(self, out: &mut [u8; MAX_HEADER_LEN]) {
        put(out, 4, &self.age_ms.to_be_bytes());
    }
}

/// CUTOFFS: the longest message that uses each priority level when unscheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutoffs {
    /// Entry i belongs to level i.
    pub lengths: [u32; 8],
    /// To be echoed in DATA to the sender of this packet.
    pub version: u16,
}

impl Cutoffs {
    pub(super) fn parse(packet: &[u8]) -> Self {
        Self {
            lengths: std::array::from_fn(|level| u32_at(packet, 28 + 4 * level)),
            version: u16_at(packet, 60),
        }
    }

    pub(super) fn emit(&self, out: &mut [u8; MAX_HEADER_LEN]) {
        for (level, length) in self.lengths.iter().enumerate() {
            put(out, 28 + 4 * level, &length.to_be_bytes());
        }
        put(out, 60, &self.version.to_be_bytes());
    }
}

/// ACK: besides the RPC of its header, the client has read these responses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// Up to five; entries with id 0 are left out.
    pub entries: ArrayVec<AckEntry, MAX_ACKS>,
}

impl Ack {
    pub(super) fn parse(packet: &[u8]) -> Self {
        // Larger counts are taken as 5, like the kernel does (statement 74).
        let count = usize::from(u16_at(packet, 28)).min(MAX_ACKS);
        let entries = (0..count)
            .map(|entry| 30 + 10 * entry)
            .map(|at| AckEntry {
                client_id: u64_at(packet, at),
                server_port: u16_at(packet, at + 8),
            })
            .filter(|entry| entry.client_id != 0)
            .collect();
        Self { entries }
    }

    pub(super) fn emit(&self, out: &mut [u8; MAX_HEADER_LEN]) {
        put(out, 28, &(self.entries.len() as u16).to_be_bytes());
        for (entry, at) in self.entries.iter().zip((30..).step_by(10)) {
            put(out, at, &entry.client_id.to_be_bytes());
            put(out, at + 8, &entry.server_port.to_be_bytes());
        }
    }
}

/// *UDP only:* a value that proves whoever returns it to receive at its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Opaque to whom it is sent to.
    pub value: u64,
}

impl Cookie {
    pub(super) fn parse(packet: &[u8]) -> Self {
        Self {
            value: u64_at(packet, 28),
        }
    }

    pub(super) fn emit(&self, out: &mut [u8; MAX_HEADER_LEN]) {
        put(out, 28, &self.value.to_be_bytes());
    }
}
