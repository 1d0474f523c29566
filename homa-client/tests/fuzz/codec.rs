//! Parsing never panics, and is the inverse of encoding.

use homa_client::engine::wire::{
    Ack, Carrier, Cookie, Cutoffs, Data, Grant, Header, Kind, Packet, PendingAck, Resend, Route,
    Unknown,
};

use crate::source::{Source, fuzz};

/// A packet of any kind with any numbers that this carrier transports.
pub(crate) fn packet(source: &mut Source, carrier: Carrier) -> Packet {
    let udp = carrier == Carrier::Udp;
    let ack = |source: &mut Source| PendingAck {
        client_id: source.u64().max(1),
        server_port: source.u16(),
    };
    let kinds = if udp { Kind::ALL.len() } else { 9 };
    match Kind::ALL[source.below(kinds)] {
        Kind::Data => Packet::Data(Data {
            sequence: source.u32(),
            message_length: source.u32().max(1),
            incoming: source.u32(),
            ack: (source.u8() > 200).then(|| ack(source)),
            cutoff_version: source.u16(),
            retransmit: source.u8() > 128,
            response_unscheduled_kib: if udp { source.u8() } else { 0 },
            segment_offset: source.u32().min(if udp { u32::MAX - 1 } else { u32::MAX }),
        }),
        Kind::Grant => Packet::Grant(Grant {
            offset: source.u32(),
            priority: source.u8(),
            prove_port: if udp { source.u16() } else { 0 },
            bulk_port: if udp { source.u16() } else { 0 },
        }),
        Kind::Resend => Packet::Resend(Resend {
            offset: source.u32(),
            length: source.u32(),
            priority: source.u8(),
        }),
        Kind::RpcUnknown => Packet::RpcUnknown(Unknown {
            age_ms: if udp { source.u32() } else { 0 },
        }),
        Kind::Busy => Packet::Busy,
        Kind::Cutoffs => Packet::Cutoffs(Cutoffs {
            lengths: std::array::from_fn(|_| source.u32()),
            version: source.u16(),
        }),
        Kind::Freeze => Packet::Freeze,
        Kind::NeedAck => Packet::NeedAck,
        Kind::Ack => Packet::Ack(Ack {
            entries: (0..source.below(6)).map(|_| ack(source)).collect(),
        }),
        Kind::NoSuchPort => Packet::NoSuchPort,
        Kind::Cookie => Packet::Cookie(Cookie {
            value: source.u64(),
        }),
        Kind::CookieEcho => Packet::CookieEcho(Cookie {
            value: source.u64(),
        }),
    }
}

/// What a packet means comes back from its bytes.
fn check_emit(carrier: Carrier, route: &Route, packet: &Packet) {
    let header = Header::emit(route, packet);
    assert_eq!(header.len(), packet.kind().header_len());
    let (common, parsed) = Packet::parse(carrier, &header).unwrap();
    assert_eq!(parsed, *packet);
    let route_parsed = Route {
        source_port: common.source_port,
        dest_port: common.dest_port,
        sender_id: common.sender_id,
        incarnation: common.incarnation,
    };
    assert_eq!(route_parsed, *route);
}

fn any_bytes(mut source: Source) {
    let carrier = [Carrier::Udp, Carrier::Ip][source.below(2)];
    let mut bytes = source.take(usize::MAX).to_vec();
    // Most of a fuzzer's bytes are no kind at all; every other time they are made one.
    if let Some(kind) = bytes.get_mut(11)
        && *kind % 2 == 0
    {
        *kind = Kind::ALL[usize::from(*kind / 2) % Kind::ALL.len()] as u8;
    }
    if carrier == Carrier::Udp && bytes.len() > 19 && bytes[19] != 0 {
        bytes[13..20].copy_from_slice(&[6, 0, 0, 0, 0, 0xb9, 0x7d]);
    }
    if let Ok((common, packet)) = Packet::parse(carrier, &bytes) {
        let route = Route {
            source_port: common.source_port,
            dest_port: common.dest_port,
            sender_id: common.sender_id,
            incarnation: common.incarnation,
        };
        check_emit(carrier, &route, &packet);
    }
}

fn any_packet(mut source: Source) {
    let carrier = [Carrier::Udp, Carrier::Ip][source.below(2)];
    let route = Route {
        source_port: source.u16(),
        dest_port: source.u16(),
        sender_id: source.u64(),
        incarnation: match carrier {
            Carrier::Udp => source.u32() & 0x00ff_ffff,
            Carrier::Ip => 0,
        },
    };
    check_emit(carrier, &route, &packet(&mut source, carrier));
}

#[test]
fn bytes_that_parse_mean_what_they_encode_to() {
    fuzz!(any_bytes, 20_000, 200);
}

#[test]
fn packets_come_back_from_their_bytes() {
    fuzz!(any_packet, 20_000, 120);
}
