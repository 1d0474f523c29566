//! Statements 1 to 10: framing and validation.

use homa_client::engine::DropReason;
use homa_client::engine::wire::{
    Ack, Carrier, Cutoffs, Grant, HEADER_LEN, Header, Kind, Packet, PendingAck, Resend, Route,
    Unknown,
};

use crate::fixture::*;

/// The vectors V1 to V10 of the specification, which follow the layouts of HomaModule `9edb958`.
const VECTORS: [&str; 9] = [
    "80010fa000000000 00000010e0060000 0000b97d 0000000000001000
     00000005 00000005 0000000000000000 0000 0000 00 000000 00000000 68656c6c6f",
    "0fa0800100000000 0000001150060000 0000b97d 0000000000001001 0003a980 00",
    "80010fa000000000 0000001250060000 0000b97d 0000000000001000 00000000 ffffffff 07",
    "0fa0800100000000 0000001350060000 0000b97d 0000000000001001",
    "0fa0800100000000 0000001450060000 0000b97d 0000000000001001",
    "0fa0800100000000 0000001550060000 0000b97d 0000000000001001
     00000000 00000000 00000000 00000000 000f4240 00003a98 00000af0 000000c8 0001",
    "0fa0800100000000 0000001750060000 0000b97d 0000000000001001",
    "80010fa000000000 0000001850060000 0000b97d 0000000000001000
     0002 0000000000000ffe 0fa0 0000000000000ffc 0fa1
     00000000000000000000 00000000000000000000 00000000000000000000",
    "0fa0800100000590 00000010e0060000 0000b97d 0000000000001001
     000186a0 00009c40 0000000000000000 0000 0001 01 000000 00000590 aabb",
];

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] * 16 + pair[1]) as u8)
        .collect()
}

#[test]
fn e001_vectors_are_decoded_and_encoded_byte_for_byte() {
    let ack = |client_id, server_port| PendingAck {
        client_id,
        server_port,
    };
    let expected = [
        Packet::Data(homa_client::engine::wire::Data {
            incoming: 5,
            ..data(0, 5)
        }),
        Packet::Grant(Grant {
            offset: 240_000,
            priority: 0,
            prove_port: 0,
            bulk_port: 0,
        }),
        Packet::Resend(Resend {
            offset: 0,
            length: Resend::ALL,
            priority: 7,
        }),
        Packet::RpcUnknown(Unknown::default()),
        Packet::Busy,
        Packet::Cutoffs(Cutoffs {
            lengths: [0, 0, 0, 0, 1_000_000, 15_000, 2_800, 200],
            version: 1,
        }),
        Packet::NeedAck,
        Packet::Ack(Ack {
            entries: [ack(0xffe, 4000), ack(0xffc, 4001)].into_iter().collect(),
        }),
        Packet::Data(homa_client::engine::wire::Data {
            cutoff_version: 1,
            retransmit: true,
            ..data(1424, 100_000)
        }),
    ];
    for (vector, packet) in VECTORS.into_iter().zip(expected) {
        let bytes = unhex(vector);
        for carrier in [Carrier::Udp, Carrier::Ip] {
            let (common, parsed) = Packet::parse(carrier, &bytes).unwrap();
            assert_eq!(parsed, packet);
            let route = Route {
                source_port: common.source_port,
                dest_port: common.dest_port,
                sender_id: common.sender_id,
                incarnation: 0,
            };
            assert_eq!(
                *Header::emit(&route, &packet),
                bytes[..packet.kind().header_len()]
            );
        }
    }
}

/// One valid packet of each kind of the protocol, from the server of a call.
fn one_of_each(remote: &Remote) -> Vec<(Kind, Vec<u8>)> {
    let cutoffs = Cutoffs {
        lengths: [0; 8],
        version: 9,
    };
    let resend = Resend {
        offset: 0,
        length: Resend::ALL,
        priority: 7,
    };
    [
        Packet::Data(data(0, 2)),
        Packet::Grant(grant(50_000)),
        Packet::Resend(resend),
        Packet::RpcUnknown(Unknown::default()),
        Packet::Busy,
        Packet::Cutoffs(cutoffs),
        Packet::Freeze,
        Packet::NeedAck,
        Packet::Ack(Ack::default()),
    ]
    .into_iter()
    .map(|packet| (packet.kind(), remote.emit(&packet, &[])))
    .collect()
}

/// Hands over what must be dropped, and sees that it changes nothing.
#[track_caller]
fn check_dropped(host: &mut Host, bytes: &[u8], reason: DropReason) {
    let (rpcs, events) = (host.engine.snapshot(host.now), host.event().is_some());
    assert_eq!(
        host.hear_bytes(server_addr(), bytes.to_vec()),
        Some(reason),
        "{bytes:02x?}"
    );
    assert_eq!(
        (host.engine.snapshot(host.now), host.event().is_some()),
        (rpcs, events)
    );
    assert!(host.sent().is_empty());
}

#[test]
fn e002_packets_shorter_than_the_common_header_are_dropped() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let (server, _) = host.call(100_000);
        for (_, bytes) in one_of_each(&server) {
            for len in 0..HEADER_LEN {
                check_dropped(&mut host, &bytes[..len], DropReason::Short);
            }
        }
    });
}

#[test]
fn e003_packets_shorter_than_the_header_of_their_type_are_dropped() {
    let header = [56, 33, 37, 28, 28, 62, 28, 28, 80];
    both(|carrier| {
        let mut host = Host::new(carrier);
        let (server, _) = host.call(100_000);
        for ((kind, bytes), header) in one_of_each(&server).into_iter().zip(header) {
            assert_eq!(bytes.len(), header, "{kind:?}");
            for len in HEADER_LEN..header {
                check_dropped(&mut host, &bytes[..len], DropReason::Short);
            }
        }
    });
}

#[test]
fn e004_other_types_are_dropped_silently() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let (server, _) = host.call(100_000);
        // Our UDP carrier has three types of its own.
        let local = if carrier == Carrier::Udp {
            0x20..0x23
        } else {
            0..0
        };
        for kind in (0..=255).filter(|kind| !(0x10..=0x18).contains(kind) && !local.contains(kind))
        {
            let mut bytes = server.emit(&Packet::Ack(Ack::default()), &[]);
            bytes[11] = kind;
            check_dropped(&mut host, &bytes, DropReason::Kind);
        }
    });
}

#[test]
fn e005_trailing_bytes_of_control_packets_are_ignored() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let (server, _) = host.call(100_000);
        let bytes = server.emit(&Packet::Grant(grant(50_000)), &[0xff; 100]);
        assert_eq!(host.hear_bytes(server.addr, bytes), None);
        assert_eq!(host.outgoing(&server).unwrap()[2], 50_000);
    });
}

#[test]
fn e006_acks_are_80_bytes_long_however_many_entries_they_have() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        for entries in [0, 3, 5] {
            for _ in 0..entries {
                host.finish_call();
            }
            host.sent();
            let stranger = Remote::server(host.start_call(1));
            host.engine.poll_transmit(host.now, 1);
            let mut unknown = stranger;
            unknown.route.sender_id += 1000;
            host.hear(&unknown, Packet::NeedAck);
            let acks = only(&host.sent(), Kind::Ack);
            assert_eq!((acks.len(), acks[0].bytes.len()), (1, 80));
        }
    });
}

#[test]
fn e007_what_a_kernel_ignores_is_ignored_on_ip() {
    // Reserved (8-10), doff (12), flags (13), window (14-15), checksum (16-17), urgent (18-19).
    let ignored = |carrier| match carrier {
        Carrier::Ip => vec![8, 9, 10, 12, 13, 14, 15, 16, 17, 18, 19],
        // Flags and urgent mark the UDP carrier, the window has its version.
        Carrier::Udp => vec![8, 9, 10, 12, 16, 17],
    };
    both(|carrier| {
        for at in 8..20 {
            if at == 11 {
                continue;
            }
            let mut host = Host::new(carrier);
            let mut bytes = Remote::client(2).emit(&Packet::Data(data(0, 5)), b"hello");
            bytes[at] ^= 0xff;
            let dropped = host.hear_bytes(client_addr(), bytes);
            let taken = dropped.is_none() && host.event().is_some();
            assert_eq!(
                taken,
                ignored(carrier).contains(&at),
                "byte {at}: {dropped:?}"
            );
        }
    });
}

#[test]
fn e008_each_side_sends_its_own_id_and_looks_up_the_others() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let rpc = host.start_call(10);
        assert_eq!(rpc.id() % 2, 0);
        assert!(
            host.sent()
                .iter()
                .all(|sent| sent.common.sender_id == rpc.id())
        );
        // The packet with the id as the server knows it is that of the call.
        let server = Remote::server(rpc);
        assert_eq!(server.route.sender_id, rpc.id() + 1);
        assert_eq!(host.hear_data(&server, data(0, 1), 1), None);
        assert!(host.event().is_some());

        let (rpc, sent) = host.serve(&Remote::client(0x1000), 1, 1);
        assert_eq!(rpc.id(), 0x1001);
        assert!(sent.iter().all(|sent| sent.common.sender_id == 0x1001));
    });
}

#[test]
fn e009_freeze_changes_nothing() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let (server, _) = host.call(100_000);
        let client = Remote::client(2);
        host.hear_range(&client, 100_000, 0..1400);
        host.sent();
        for remote in [server, client, Remote::client(4)] {
            let bytes = remote.emit(&Packet::Freeze, &[]);
            check_dropped(&mut host, &bytes, DropReason::Freeze);
        }
        // All goes on.
        host.hear(&server, Packet::Grant(grant(100_000)));
        assert_eq!(host.outgoing(&server).unwrap()[2], 100_000);
        host.hear_range(&client, 100_000, 1400..100_000);
        assert!(host.event().is_some());
        host.take_request(&Remote::client(4), 1);
    });
}

#[test]
fn e010_the_id_0_is_neither_drawn_nor_acknowledged() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        assert!((0..100).all(|_| host.start_call(1).id() > 1));
        let nobody = Remote::client(0);
        assert_eq!(host.hear_data(&nobody, data(0, 1), 1), Some(DropReason::Id));
        // An entry that is not used is no ack.
        let none = PendingAck {
            client_id: 0,
            server_port: SERVER_PORT,
        };
        let ack = Packet::Ack(Ack {
            entries: [none].into_iter().collect(),
        });
        let Ok((_, Packet::Ack(parsed))) = Packet::parse(carrier, &nobody.emit(&ack, &[])) else {
            panic!();
        };
        assert!(parsed.entries.is_empty());
    });
}
