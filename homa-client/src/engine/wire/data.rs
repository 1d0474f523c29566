//! DATA: a piece of a message.

use super::super::stats::DropReason;
use super::{Carrier, DATA_HEADER_LEN, MAX_HEADER_LEN, put, u16_at, u32_at, u64_at};

/// The header of a DATA packet.
///
/// Both offset fields of the wire are kept: a kernel sends `seg.offset` = 0xFFFFFFFF and the
/// offset in `sequence`; only [`Data::new`] sets them equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    /// Common header's `sequence`.
    pub sequence: u32,
    /// Bytes of the whole message.
    pub message_length: u32,
    /// The sender will send at least this many bytes without further grants.
    pub incoming: u32,
    /// Piggybacked ack of another RPC.
    pub ack: Option<PendingAck>,
    /// Version of the last CUTOFFS received from the destination; 0 = none.
    pub cutoff_version: u16,
    /// Sent because of a RESEND.
    pub retransmit: bool,
    /// *UDP only*, in requests: the response's unscheduled part in KiB; 0 sets no limit.
    pub response_unscheduled_kib: u8,
    /// Offset of the payload in the message, or 0xFFFFFFFF: `sequence` has it. The latter is
    /// refused on the UDP carrier, where no segmentation hardware knows DATA.
    pub segment_offset: u32,
}

/// An ack as a packet carries it: RPC and the server's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingAck {
    /// Even id of a completed RPC, never 0.
    pub client_id: u64,
    /// Homa port of the server that answered it.
    pub server_port: u16,
}

impl Data {
    /// A packet whose payload belongs at `offset`; the rest of the fields is empty.
    pub fn new(offset: u32, message_length: u32) -> Self {
        Self {
            sequence: offset,
            segment_offset: offset,
            message_length,
            incoming: 0,
            ack: None,
            cutoff_version: 0,
            retransmit: false,
            response_unscheduled_kib: 0,
        }
    }

    /// Where the payload belongs (statements 11 and 12).
    pub fn offset(&self) -> u32 {
        if self.segment_offset == u32::MAX {
            self.sequence
        } else {
            self.segment_offset
        }
    }

    pub(super) fn parse(carrier: Carrier, packet: &[u8]) -> Result<Self, DropReason> {
        let packet: &[u8; DATA_HEADER_LEN] = packet.first_chunk().ok_or(DropReason::Short)?;
        let message_length = u32_at(packet, 28);
        if message_length == 0 {
            return Err(DropReason::Length);
        }
        let segment_offset = u32_at(packet, DATA_HEADER_LEN - 4);
        // Only kernels let `sequence` stand for it, and none sends by UDP.
        if carrier == Carrier::Udp && segment_offset == u32::MAX {
            return Err(DropReason::Offset);
        }
        let client_id = u64_at(packet, 36);
        Ok(Self {
            sequence: u32_at(packet, 4),
            message_length,
            incoming: u32_at(packet, 32),
            ack: (client_id != 0).then(|| PendingAck {
                client_id,
                server_port: u16_at(packet, 44),
            }),
            cutoff_version: u16_at(packet, 46),
            retransmit: packet[48] != 0,
            response_unscheduled_kib: match carrier {
                Carrier::Udp => packet[49],
                Carrier::Ip => 0,
            },
            segment_offset,
        })
    }

    pub(super) fn emit(&self, out: &mut [u8; MAX_HEADER_LEN]) {
        put(out, 4, &self.sequence.to_be_bytes());
        put(out, 28, &self.message_length.to_be_bytes());
        put(out, 32, &self.incoming.to_be_bytes());
        if let Some(ack) = self.ack {
            put(out, 36, &ack.client_id.to_be_bytes());
            put(out, 44, &ack.server_port.to_be_bytes());
        }
        put(out, 46, &self.cutoff_version.to_be_bytes());
        out[48] = u8::from(self.retransmit);
        out[49] = self.response_unscheduled_kib;
        put(out, 52, &self.segment_offset.to_be_bytes());
    }
}
