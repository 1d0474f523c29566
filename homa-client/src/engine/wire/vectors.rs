//! The packets of the protocol specification's test vectors, byte for byte.
//!
//! Vectors V1 to V10 were computed from the layouts of HomaModule `9edb958`; FREEZE is the
//! common header alone.

use super::*;

const CLIENT: Route = Route {
    source_port: 0x8001,
    dest_port: 4000,
    sender_id: 0x1000,
    incarnation: 0,
};
const SERVER: Route = Route {
    source_port: 4000,
    dest_port: 0x8001,
    sender_id: 0x1001,
    incarnation: 0,
};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// `hex` decodes to `packet` of `route`, and `packet` encodes to `hex` without its payload.
fn check(hex: &str, route: Route, packet: Packet) {
    check_on(Carrier::Udp, hex, route, packet);
}

fn check_on(carrier: Carrier, hex: &str, route: Route, packet: Packet) {
    let bytes = bytes(hex);
    let (common, parsed) = Packet::parse(carrier, &bytes).unwrap();
    assert_eq!(parsed, packet);
    assert_eq!(
        Route {
            source_port: common.source_port,
            dest_port: common.dest_port,
            sender_id: common.sender_id,
            incarnation: common.incarnation
        },
        route
    );
    let emitted = Header::emit(&route, &packet);
    assert_eq!(*emitted, bytes[..packet.kind().header_len()]);
}

#[test]
fn v1_and_v2_request_of_five_bytes() {
    let kernel = "80010fa0 00000000 00000010 e0060000 0000b97d 0000000000001000
        00000005 00000005 0000000000000000 0000 0000 00 000000 ffffffff 68656c6c6f";
    let ours = kernel.replace("ffffffff", "00000000");
    let data = Data {
        incoming: 5,
        ..Data::new(0, 5)
    };
    check_on(
        Carrier::Ip,
        kernel,
        CLIENT,
        Packet::Data(Data {
            segment_offset: u32::MAX,
            ..data
        }),
    );
    check(&ours, CLIENT, Packet::Data(data));

    let mut offsets = [kernel, &ours].map(|hex| match Packet::parse(Carrier::Ip, &bytes(hex)) {
        Ok((common, Packet::Data(data))) => (common.local_id(), data.offset()),
        other => panic!("{other:?}"),
    });
    assert_eq!(offsets[0], (0x1001, 0));
    offsets.reverse();
    assert_eq!(offsets[0], (0x1001, 0));
    assert_eq!(bytes(kernel).len() - DATA_HEADER_LEN, 5);
}

#[test]
fn v3_grant() {
    check(
        "0fa08001 00000000 00000011 50060000 0000b97d 0000000000001001 0003a980 00",
        SERVER,
        Packet::Grant(Grant {
            offset: 240_000,
            priority: 0,
            prove_port: 0,
            bulk_port: 0,
        }),
    );
}

#[test]
fn v4_resend_of_everything() {
    check(
        "80010fa0 00000000 00000012 50060000 0000b97d 0000000000001000 00000000 ffffffff 07",
        CLIENT,
        Packet::Resend(Resend {
            offset: 0,
            length: Resend::ALL,
            priority: 7,
        }),
    );
}

#[test]
fn v5_v6_v8_and_freeze_are_the_common_header_alone() {
    for (kind, packet) in [
        ("13", Packet::RpcUnknown(Unknown::default())),
        ("14", Packet::Busy),
        ("16", Packet::Freeze),
        ("17", Packet::NeedAck),
        ("20", Packet::NoSuchPort),
    ] {
        let hex = format!("0fa08001 00000000 000000{kind} 50060000 0000b97d 0000000000001001");
        check(&hex, SERVER, packet);
    }
}

#[test]
fn v7_cutoffs() {
    check(
        "0fa08001 00000000 00000015 50060000 0000b97d 0000000000001001
         00000000 00000000 00000000 00000000 000f4240 00003a98 00000af0 000000c8 0001",
        SERVER,
        Packet::Cutoffs(Cutoffs {
            lengths: [0, 0, 0, 0, 1_000_000, 15_000, 2800, 200],
            version: 1,
        }),
    );
}

#[test]
fn v9_ack_is_80_bytes_whatever_it_holds() {
    let hex = format!(
        "80010fa0 00000000 00000018 50060000 0000b97d 0000000000001000
         0002 0000000000000ffe 0fa0 0000000000000ffc 0fa1 {}",
        "00".repeat(30)
    );
    let entries = [(0xffe, 4000), (0xffc, 4001)].map(|(client_id, server_port)| AckEntry {
        client_id,
        server_port,
    });
    check(
        &hex,
        CLIENT,
        Packet::Ack(Ack {
            entries: entries.into_iter().collect(),
        }),
    );
}

#[test]
fn an_ack_with_a_wild_count_has_five_entries() {
    let mut packet = Header::emit(&CLIENT, &Packet::Ack(Ack::default())).to_vec();
    packet[28..30].copy_from_slice(&[0xff; 2]);
    packet[30..].fill(0x10);
    let Ok((_, Packet::Ack(ack))) = Packet::parse(Carrier::Udp, &packet) else {
        panic!()
    };
    assert_eq!(ack.entries.len(), MAX_ACKS);
}

#[test]
fn v10_retransmission() {
    check(
        "0fa08001 00000590 00000010 e0060000 0000b97d 0000000000001001
         000186a0 00009c40 0000000000000000 0000 0001 01 000000 00000590 aabb",
        SERVER,
        Packet::Data(Data {
            incoming: 40_000,
            cutoff_version: 1,
            retransmit: true,
            ..Data::new(1424, 100_000)
        }),
    );
}

#[test]
fn fields_of_the_udp_carrier() {
    let route = Route {
        incarnation: 0x00ab_cdef,
        ..CLIENT
    };
    check(
        "80010fa0 00000000 abcdef10 e0060000 0000b97d 0000000000001000
         00000005 00000005 0000000000000ffe 0fa0 0000 00 20 0000 00000000",
        route,
        Packet::Data(Data {
            incoming: 5,
            ack: Some(PendingAck {
                client_id: 0xffe,
                server_port: 4000,
            }),
            response_unscheduled_kib: 0x20,
            ..Data::new(0, 5)
        }),
    );
    check(
        "80010fa0 12345678 abcdef11 50060000 0000b97d 0000000000001000 0003a980 02",
        route,
        Packet::Grant(Grant {
            offset: 240_000,
            priority: 2,
            prove_port: 0x1234,
            bulk_port: 0x5678,
        }),
    );
    for (kind, packet) in [
        (
            "21",
            Packet::Cookie(Cookie {
                value: 0x0102_0304_0506_0708,
            }),
        ),
        (
            "22",
            Packet::CookieEcho(Cookie {
                value: 0x0102_0304_0506_0708,
            }),
        ),
    ] {
        let hex = format!(
            "80010fa0 00000000 abcdef{kind} 50060000 0000b97d 0000000000001000 0102030405060708"
        );
        check(&hex, route, packet);
    }
}

#[test]
fn short_or_foreign_packets_are_refused_with_the_reason() {
    for kind in Kind::ALL {
        let mut packet = vec![0; kind.header_len()];
        packet[11] = kind as u8;
        packet[13] = FLAGS;
        packet[18..20].copy_from_slice(&URGENT.to_be_bytes());
        // Message length, for DATA.
        if kind == Kind::Data {
            packet[31] = 1;
        }
        assert!(Packet::parse(Carrier::Udp, &packet).is_ok(), "{kind:?}");
        // Trailing bytes of control packets are ignored (statement 5).
        packet.push(0);
        assert!(Packet::parse(Carrier::Udp, &packet).is_ok(), "{kind:?}");
        packet.truncate(kind.header_len() - 1);
        assert_eq!(
            Packet::parse(Carrier::Udp, &packet),
            Err(DropReason::Short),
            "{kind:?}"
        );
    }
    let valid = Header::emit(&CLIENT, &Packet::Busy).to_vec();
    let with = |at: usize, byte: u8| {
        let mut packet = valid.clone();
        packet[at] = byte;
        Packet::parse(Carrier::Udp, &packet).map(|_| ())
    };
    assert_eq!(with(11, 0x0f), Err(DropReason::Kind));
    assert_eq!(with(11, 0x19), Err(DropReason::Kind));
    assert_eq!(with(11, 0x1f), Err(DropReason::Kind));
    assert_eq!(with(11, 0x23), Err(DropReason::Kind));
    assert_eq!(with(13, 0x02), Err(DropReason::Marker));
    assert_eq!(with(18, 0), Err(DropReason::Marker));
    assert_eq!(with(15, 1), Err(DropReason::Version));
    // doff and checksum are not read (statement 7).
    assert_eq!(with(12, 0xff), Ok(()));
    assert_eq!(with(16, 0xff), Ok(()));
    let empty = Header::emit(&CLIENT, &Packet::Data(Data::new(0, 0)));
    assert_eq!(Packet::parse(Carrier::Udp, &empty), Err(DropReason::Length));
}
