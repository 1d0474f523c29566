//! The packets of the protocol: plain structs that cannot express nonsense, parsed from and
//! emitted to bytes.
//!
//! Layouts are those of HomaModule (`homa_wire.h` at `9edb958`): every integer is big-endian,
//! nothing is padded beyond what is listed. What the UDP carrier adds lives in fields that are
//! idle on IP protocol 146; each is marked here as *UDP only*.
//!
//! Parsing never panics: it returns a [`Drop`](super::stats::DropReason) reason for the counters.

mod control;
mod data;
mod header;
#[cfg(test)]
mod vectors;

pub use control::{Ack, AckEntry, Cookie, Cutoffs, Grant, MAX_ACKS, Resend, Unknown};
pub use data::{Data, PendingAck};
pub use header::{Common, FLAGS, HEADER_LEN, Kind, URGENT, WIRE_VERSION};

use std::net::IpAddr;

use super::stats::DropReason;

/// Room for the longest header, that of ACK.
pub const MAX_HEADER_LEN: usize = 80;

/// Bytes of the header of a DATA packet.
pub const DATA_HEADER_LEN: usize = 56;

/// What carries the packets. Two endpoints must share one to understand each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// One packet per UDP datagram, between user-space endpoints. Fields that are idle in the
    /// kernel's format carry what this needs.
    #[default]
    Udp,
    /// One packet per IP packet of protocol 146, as the kernel module sends and expects them.
    Ip,
}

impl Carrier {
    /// Payload bytes of a DATA packet to `ip` that fills an IP packet of `mtu` bytes
    /// (`homa-protocol` B.10).
    pub fn payload_for(self, ip: IpAddr, mtu: usize) -> usize {
        let ip_header = match ip.to_canonical() {
            IpAddr::V4(_) => 20,
            IpAddr::V6(_) => 40,
        };
        let udp_header = match self {
            Self::Udp => 8,
            Self::Ip => 0,
        };
        mtu.saturating_sub(ip_header + udp_header + DATA_HEADER_LEN)
    }
}

/// One packet of any kind, without the payload of DATA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A piece of a message.
    Data(Data),
    /// Permission to send more of a message.
    Grant(Grant),
    /// A request to send a range again.
    Resend(Resend),
    /// The sender of this packet does not know the RPC.
    RpcUnknown(Unknown),
    /// The sender is alive, but will not send now.
    Busy,
    /// Which message lengths use which priority.
    Cutoffs(Cutoffs),
    /// Stops a debug trace of the kernel; ignored here.
    Freeze,
    /// A server asks whether its response has arrived.
    NeedAck,
    /// The client has read these responses.
    Ack(Ack),
    /// *UDP only:* the endpoint has no socket with that Homa port.
    NoSuchPort,
    /// *UDP only:* prove that you receive at your address.
    Cookie(Cookie),
    /// *UDP only:* the proof.
    CookieEcho(Cookie),
}

impl Packet {
    /// Parses one packet as `carrier` brought it. Returns it with its common header and, for
    /// DATA, leaves the payload to the caller: it starts at [`DATA_HEADER_LEN`].
    pub fn parse(carrier: Carrier, packet: &[u8]) -> Result<(Common, Self), DropReason> {
        let common = Common::parse(carrier, packet)?;
        if packet.len() < common.kind.header_len() {
            return Err(DropReason::Short);
        }
        let body = match common.kind {
            Kind::Data => Self::Data(Data::parse(carrier, packet)?),
            Kind::Grant => Self::Grant(Grant::parse(carrier, packet)),
            Kind::Resend => Self::Resend(Resend::parse(packet)),
            Kind::RpcUnknown => Self::RpcUnknown(Unknown::parse(carrier, packet)),
            Kind::Busy => Self::Busy,
            Kind::Cutoffs => Self::Cutoffs(Cutoffs::parse(packet)),
            Kind::Freeze => Self::Freeze,
            Kind::NeedAck => Self::NeedAck,
            Kind::Ack => Self::Ack(Ack::parse(packet)),
            Kind::NoSuchPort => Self::NoSuchPort,
            Kind::Cookie => Self::Cookie(Cookie::parse(packet)),
            Kind::CookieEcho => Self::CookieEcho(Cookie::parse(packet)),
        };
        Ok((common, body))
    }

    /// What kind of packet it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Data(_) => Kind::Data,
            Self::Grant(_) => Kind::Grant,
            Self::Resend(_) => Kind::Resend,
            Self::RpcUnknown(_) => Kind::RpcUnknown,
            Self::Busy => Kind::Busy,
            Self::Cutoffs(_) => Kind::Cutoffs,
            Self::Freeze => Kind::Freeze,
            Self::NeedAck => Kind::NeedAck,
            Self::Ack(_) => Kind::Ack,
            Self::NoSuchPort => Kind::NoSuchPort,
            Self::Cookie(_) => Kind::Cookie,
            Self::CookieEcho(_) => Kind::CookieEcho,
        }
    }
}

/// The header of an outgoing packet, as bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; MAX_HEADER_LEN],
    len: u8,
}

impl AsMut<[u8]> for Header {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..usize::from(self.len)]
    }
}

impl Header {
    /// Encodes `packet` with the ports, id and incarnation of `route`.
    pub fn emit(route: &Route, packet: &Packet) -> Self {
        let kind = packet.kind();
        let mut header = Self {
            bytes: [0; MAX_HEADER_LEN],
            len: kind.header_len() as u8,
        };
        let out = &mut header.bytes;
        Common {
            source_port: route.source_port,
            dest_port: route.dest_port,
            sequence: 0,
            incarnation: route.incarnation,
            kind,
            sender_id: route.sender_id,
        }
        .emit(out);
        match packet {
            Packet::Data(data) => data.emit(out),
            Packet::Grant(grant) => grant.emit(out),
            Packet::Resend(resend) => resend.emit(out),
            Packet::Cutoffs(cutoffs) => cutoffs.emit(out),
            Packet::Ack(ack) => ack.emit(out),
            Packet::Cookie(cookie) | Packet::CookieEcho(cookie) => cookie.emit(out),
            Packet::RpcUnknown(unknown) => unknown.emit(out),
            Packet::Busy | Packet::Freeze | Packet::NeedAck | Packet::NoSuchPort => {}
        }
        header
    }
}

impl std::ops::Deref for Header {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", Packet::parse(Carrier::Udp, self))
    }
}

/// What every packet of one RPC in one direction has in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Homa port of the sender.
    pub source_port: u16,
    /// Homa port of the receiver.
    pub dest_port: u16,
    /// RPC id as known by the sender.
    pub sender_id: u64,
    /// *UDP only:* incarnation of the sender's engine; 0 means unknown.
    pub incarnation: u32,
}

fn u16_at(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array_at(packet, at))
}

fn u32_at(packet: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array_at(packet, at))
}

fn u64_at(packet: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array_at(packet, at))
}

/// Callers have checked the length against the kind's header.
fn array_at<const N: usize>(packet: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&packet[at..at + N]);
    bytes
}

fn put(out: &mut [u8; MAX_HEADER_LEN], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}
