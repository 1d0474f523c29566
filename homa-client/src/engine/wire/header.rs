//! The common header, 28 bytes in front of every packet.

use super::super::stats::DropReason;
use super::{Carrier, MAX_HEADER_LEN, array_at, put, u16_at, u32_at, u64_at};

/// Bytes of the common header.
pub const HEADER_LEN: usize = 28;

/// The TCP flags byte SYN+RST, by which a kernel recognises Homa packets that look like TCP.
pub const FLAGS: u8 = 0x06;

/// The value of the TCP urgent pointer that goes with [`FLAGS`].
pub const URGENT: u16 = 0xB97D;

/// *UDP only:* version of the UDP carrier's header, in the bytes of the TCP window.
pub const WIRE_VERSION: u16 = 0;

/// Packet types. 0x20 and above are local to our UDP carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// 0x10, sender to receiver of a message.
    Data = 0x10,
    /// 0x11, receiver to sender of a message.
    Grant = 0x11,
    /// 0x12, receiver to sender of a message.
    Resend = 0x12,
    /// 0x13, either way.
    RpcUnknown = 0x13,
    /// 0x14, sender to receiver of a message.
    Busy = 0x14,
    /// 0x15, receiver to sender of messages.
    Cutoffs = 0x15,
    /// 0x16, debugging.
    Freeze = 0x16,
    /// 0x17, server to client.
    NeedAck = 0x17,
    /// 0x18, client to server.
    Ack = 0x18,
    /// 0x20, *UDP only*.
    NoSuchPort = 0x20,
    /// 0x21, *UDP only*.
    Cookie = 0x21,
    /// 0x22, *UDP only*.
    CookieEcho = 0x22,
}

impl Kind {
    /// All kinds, in the order of the counters.
    pub const ALL: [Self; 12] = [
        Self::Data,
        Self::Grant,
        Self::Resend,
        Self::RpcUnknown,
        Self::Busy,
        Self::Cutoffs,
        Self::Freeze,
        Self::NeedAck,
        Self::Ack,
        Self::NoSuchPort,
        Self::Cookie,
        Self::CookieEcho,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        let index = match byte {
            0x20.. => byte - 0x20 + 9,
            _ => byte.wrapping_sub(0x10),
        };
        let kind = *Self::ALL.get(usize::from(index))?;
        (kind as u8 == byte).then_some(kind)
    }

    /// Its name in the protocol's papers and sources.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "DATA",
            Self::Grant => "GRANT",
            Self::Resend => "RESEND",
            Self::RpcUnknown => "RPC_UNKNOWN",
            Self::Busy => "BUSY",
            Self::Cutoffs => "CUTOFFS",
            Self::Freeze => "FREEZE",
            Self::NeedAck => "NEED_ACK",
            Self::Ack => "ACK",
            Self::NoSuchPort => "NO_SUCH_PORT",
            Self::Cookie => "COOKIE",
            Self::CookieEcho => "COOKIE_ECHO",
        }
    }

    /// Whether only our UDP carrier has it.
    fn is_local_to_udp(self) -> bool {
        self as u8 >= 0x20
    }

    /// Position in [`Kind::ALL`].
    pub fn index(self) -> usize {
        let byte = self as u8;
        usize::from(if byte < 0x20 {
            byte - 0x10
        } else {
            byte - 0x20 + 9
        })
    }

    /// Bytes that a packet of this kind has at least: it is dropped when it is shorter.
    pub fn header_len(self) -> usize {
        match self {
            Self::Data => super::DATA_HEADER_LEN,
            Self::Grant => 33,
            Self::Resend => 37,
            Self::Cutoffs => 62,
            Self::Ack => 80,
            Self::Cookie | Self::CookieEcho => 36,
            Self::RpcUnknown | Self::Busy | Self::Freeze | Self::NeedAck | Self::NoSuchPort => {
                HEADER_LEN
            }
        }
    }
}

/// The common header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Common {
    /// Homa port of the sender.
    pub source_port: u16,
    /// Homa port of the receiver, which selects its socket.
    pub dest_port: u16,
    /// DATA: offset of the packet in its message; 0 in others.
    pub sequence: u32,
    /// *UDP only:* 24 random bits that name one life of the sender's engine; 0 in packets of the
    /// kernel module.
    pub incarnation: u32,
    /// The packet's type.
    pub kind: Kind,
    /// RPC id as known by the sender: even from clients, odd from servers.
    pub sender_id: u64,
}

impl Common {
    /// Checks and parses what all packets of this carrier have in common. On IP protocol 146,
    /// everything that the kernel ignores is ignored here too (statement 7).
    pub fn parse(carrier: Carrier, packet: &[u8]) -> Result<Self, DropReason> {
        let packet: &[u8; HEADER_LEN] = packet.first_chunk().ok_or(DropReason::Short)?;
        let kind = Kind::from_byte(packet[11]).ok_or(DropReason::Kind)?;
        let mut incarnation = 0;
        match carrier {
            Carrier::Udp => {
                if packet[13] != FLAGS || u16_at(packet, 18) != URGENT {
                    return Err(DropReason::Marker);
                }
                if u16_at(packet, 14) != WIRE_VERSION {
                    return Err(DropReason::Version);
                }
                let [high, middle, low] = array_at(packet, 8);
                incarnation = u32::from_be_bytes([0, high, middle, low]);
            }
            Carrier::Ip if kind.is_local_to_udp() => return Err(DropReason::Kind),
            Carrier::Ip => {}
        }
        Ok(Self {
            source_port: u16_at(packet, 0),
            dest_port: u16_at(packet, 2),
            sequence: u32_at(packet, 4),
            incarnation,
            kind,
            sender_id: u64_at(packet, 20),
        })
    }

    /// The id by which the receiver knows the RPC.
    pub fn local_id(&self) -> u64 {
        self.sender_id ^ 1
    }

    /// Whether a client sent it, so that the receiver is the server.
    pub fn from_client(&self) -> bool {
        self.sender_id & 1 == 0
    }

    pub(super) fn emit(&self, out: &mut [u8; MAX_HEADER_LEN]) {
        // Count of 4-byte words as HomaModule sends it; no receiver reads it.
        let doff = if self.kind == Kind::Data { 14 } else { 5 };
        put(out, 0, &self.source_port.to_be_bytes());
        put(out, 2, &self.dest_port.to_be_bytes());
        put(out, 4, &self.sequence.to_be_bytes());
        put(out, 8, &self.incarnation.to_be_bytes()[1..]);
        out[11] = self.kind as u8;
        out[12] = doff << 4;
        out[13] = FLAGS;
        put(out, 14, &WIRE_VERSION.to_be_bytes());
        put(out, 18, &URGENT.to_be_bytes());
        put(out, 20, &self.sender_id.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_known_by_its_byte() {
        for byte in 0..=u8::MAX {
            let listed = Kind::ALL.into_iter().find(|kind| *kind as u8 == byte);
            assert_eq!(Kind::from_byte(byte), listed, "{byte}");
        }
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), index);
        }
    }
}
