//! What no peer should send: it is counted and dropped, and other RPCs do not notice.

use homa_client::engine::wire::{
    Ack, Carrier, Cookie, Cutoffs, Data, Grant, HEADER_LEN, Kind, Packet, PendingAck, Resend,
    Unknown,
};
use homa_client::engine::{DropReason, Event};

use crate::fixture::*;
use crate::net::Random;

/// A host amid several RPCs: bad packets are about the first four, and the others have to
/// complete whatever happens.
struct Stage {
    host: Host,
    /// A call of ours, partly granted.
    calling: Remote,
    /// Another, whose response is arriving.
    receiving: Remote,
    /// Requests to us: one that is arriving, and one that is answered.
    arriving: Remote,
    replying: Remote,
    other_call: Remote,
    other_request: Remote,
}

impl Stage {
    fn new(carrier: Carrier) -> Self {
        let mut host = Host::new(carrier);
        let (calling, _) = host.call(100_000);
        let [receiving, other_call] = [(); 2].map(|()| {
            let (server, _) = host.call(1);
            host.hear_range(&server, 5000, 0..1400);
            server
        });
        let arriving = Remote::client(2);
        host.hear_range(&arriving, 100_000, 0..1400);
        let replying = Remote::client(4);
        host.serve(&replying, 1, 5000);
        let other_request = Remote::client(2).at(([10, 0, 0, 5], 7000));
        host.hear_range(&other_request, 5000, 0..1400);
        host.sent();
        Self {
            host,
            calling,
            receiving,
            arriving,
            replying,
            other_call,
            other_request,
        }
    }

    fn targets(&self) -> [Remote; 4] {
        [self.calling, self.receiving, self.arriving, self.replying]
    }

    /// Bad packets are dropped for this reason, and nothing is sent in answer.
    #[track_caller]
    fn check_dropped(&mut self, from: &Remote, bytes: Vec<u8>, reason: DropReason) {
        let before = (
            self.host.engine.snapshot(self.host.now),
            self.host.dropped(reason),
        );
        let dropped = self.host.hear_bytes(from.addr, bytes);
        assert_eq!(dropped, Some(reason));
        let after = (
            self.host.engine.snapshot(self.host.now),
            self.host.dropped(reason) - 1,
        );
        assert_eq!(after, before);
    }

    /// The RPCs that nothing was said about complete.
    #[track_caller]
    fn finish(mut self) {
        let host = &mut self.host;
        let counters = host.engine.counters();
        assert!(counters.pool_used <= host.engine.settings().pool_bytes as u64);
        host.sent();
        while host.event().is_some() {}
        host.hear_range(&self.other_call, 5000, 1400..5000);
        host.hear_range(&self.other_request, 5000, 1400..5000);
        let Some(Event::Response { message, .. }) = host.event() else {
            panic!()
        };
        check_message(message, 5000);
        let Some(Event::Request { rpc, message, .. }) = host.event() else {
            panic!()
        };
        check_message(message.clone(), 5000);
        host.engine.send_reply(host.now, rpc, message).unwrap();
        let sent = only(&host.sent(), Kind::Data);
        let ours: Vec<_> = sent
            .iter()
            .filter(|sent| sent.common.sender_id == rpc.id())
            .collect();
        assert_eq!(ours.len(), 4);
        for sent in ours {
            assert_eq!(sent.to.ip(), self.other_request.addr.ip());
            assert_eq!(sent.bytes[56..], pattern(sent.range()));
        }
    }
}

fn both_stages(test: impl Fn(Stage)) {
    both(|carrier| test(Stage::new(carrier)));
}

/// A valid packet of each kind that this carrier has.
fn one_of_each(carrier: Carrier) -> Vec<Packet> {
    let mut packets = vec![
        Packet::Data(data(1400, 100_000)),
        Packet::Grant(grant(50_000)),
        Packet::Resend(resend(0, 1400)),
        Packet::RpcUnknown(Unknown::default()),
        Packet::Busy,
        Packet::Cutoffs(Cutoffs {
            lengths: [u32::MAX, 8, 7, 6, 5, 4, 3, 2],
            version: 5,
        }),
        Packet::Freeze,
        Packet::NeedAck,
        Packet::Ack(Ack {
            entries: (1..=5)
                .map(|id| PendingAck {
                    client_id: id * 1000,
                    server_port: 1,
                })
                .collect(),
        }),
    ];
    if carrier == Carrier::Udp {
        packets.push(Packet::NoSuchPort);
        packets.push(Packet::Cookie(Cookie { value: 1 }));
        packets.push(Packet::CookieEcho(Cookie { value: 1 }));
    }
    packets
}

/// Place and size of the fields of a packet behind its type.
fn fields(kind: Kind) -> Vec<(usize, usize)> {
    let mut fields = vec![
        (0, 2),
        (2, 2),
        (4, 4),
        (8, 3),
        (12, 1),
        (13, 1),
        (14, 2),
        (16, 2),
        (18, 2),
    ];
    fields.push((20, 8));
    fields.extend(match kind {
        Kind::Data => vec![
            (28, 4),
            (32, 4),
            (36, 8),
            (44, 2),
            (46, 2),
            (48, 1),
            (49, 1),
            (52, 4),
        ],
        Kind::Grant => vec![(28, 4), (32, 1)],
        Kind::Resend => vec![(28, 4), (32, 4), (36, 1)],
        Kind::Cutoffs => (0..8)
            .map(|level| (28 + 4 * level, 4))
            .chain([(60, 2)])
            .collect(),
        Kind::Ack => (0..5)
            .flat_map(|entry| [(30 + 10 * entry, 8), (38 + 10 * entry, 2)])
            .chain([(28, 2)])
            .collect(),
        Kind::Cookie | Kind::CookieEcho => vec![(28, 8)],
        Kind::RpcUnknown | Kind::Busy | Kind::Freeze | Kind::NeedAck | Kind::NoSuchPort => vec![],
    });
    fields
}

#[test]
fn every_field_of_every_packet_at_its_extremes_harms_no_other_rpc() {
    both(|carrier| {
        for packet in one_of_each(carrier) {
            for (at, size) in fields(packet.kind()) {
                let most = u64::MAX >> (64 - 8 * size);
                for value in [0, 1, most / 2, most / 2 + 1, most - 1, most] {
                    let mut stage = Stage::new(carrier);
                    for remote in stage.targets() {
                        let mut bytes = remote.emit(&packet, &[0; 100]);
                        bytes[at..at + size].copy_from_slice(&value.to_be_bytes()[8 - size..]);
                        stage.host.hear_bytes(remote.addr, bytes);
                        stage.host.sent();
                    }
                    stage.finish();
                }
            }
        }
    });
}

#[test]
fn an_id_of_the_wrong_parity_names_no_rpc() {
    both(|carrier| {
        for packet in one_of_each(carrier) {
            let mut stage = Stage::new(carrier);
            for mut remote in stage.targets() {
                let before = stage.host.live();
                remote.route.sender_id ^= 1;
                let dropped = stage.host.hear(&remote, packet.clone());
                // RESEND and NEED_ACK are answered, that nothing is known; what frees or
                // configures may come about RPCs that have ended.
                match packet.kind() {
                    Kind::Resend | Kind::Cutoffs => assert_eq!(dropped, None),
                    Kind::NeedAck | Kind::Ack => {}
                    _ => assert!(dropped.is_some(), "{packet:?}"),
                }
                assert_eq!(stage.host.live(), before);
            }
            stage.finish();
        }
    });
}

#[test]
fn lengths_and_offsets_that_wrap_are_refused() {
    let part = |offset, length| Packet::Data(data(offset, length));
    let cases = [
        (part(u32::MAX - 1, 100_000), 100, DropReason::Offset),
        (part(u32::MAX - 99, 100_000), 100, DropReason::Offset),
        (part(1 << 31, 100_000), 1, DropReason::Offset),
        (part(100_000, 100_000), 0, DropReason::Offset),
        (part(99_999, 100_000), 2, DropReason::Offset),
        (part(0, u32::MAX), 100, DropReason::Length),
        (part(0, 1 << 31), 100, DropReason::Length),
        (part(u32::MAX - 1, u32::MAX), 1, DropReason::Length),
        (part(0, 0), 100, DropReason::Length),
    ];
    both_stages(|mut stage| {
        for (packet, len, reason) in &cases {
            for remote in [stage.arriving, Remote::client(1000)] {
                let bytes = remote.emit(packet, &vec![0; *len]);
                stage.check_dropped(&remote, bytes, *reason);
            }
        }
        stage.finish();
    });
}

#[test]
fn grants_that_go_backwards_change_nothing() {
    both_stages(|mut stage| {
        let call = stage.calling;
        stage.host.hear(&call, Packet::Grant(grant(60_000)));
        stage.host.sent();
        for offset in (0..60_000).rev().step_by(97) {
            stage.host.hear(&call, Packet::Grant(grant(offset)));
        }
        assert!(stage.host.sent().is_empty());
        assert_eq!(stage.host.outgoing(&call).unwrap()[2], 60_000);
        stage.finish();
    });
}

#[test]
fn a_flood_of_resends_gets_each_byte_once_in_a_millisecond() {
    both_stages(|mut stage| {
        let call = stage.calling;
        let repeated = stage.host.dropped(DropReason::Repeated);
        let mut bytes = 0;
        for _ in 0..1000 {
            stage
                .host
                .hear(&call, Packet::Resend(resend(0, Resend::ALL)));
            bytes += stage
                .host
                .sent()
                .iter()
                .map(|sent| sent.range().len())
                .sum::<usize>();
        }
        assert_eq!(bytes, 40_000);
        assert_eq!(stage.host.dropped(DropReason::Repeated) - repeated, 999);
        // Nor does it help to ask for other ranges each time.
        stage.host.wait(ms(2));
        let mut random = Random::new(1);
        let mut bytes = 0;
        for _ in 0..1000 {
            let [offset, length] = [(); 2].map(|()| random.below(40_000) as u32);
            stage
                .host
                .hear(&call, Packet::Resend(resend(offset, length)));
            let sent = only(&stage.host.sent(), Kind::Data);
            let again = sent.iter().filter(|sent| sent.data().retransmit);
            bytes += again.map(|sent| sent.range().len()).sum::<usize>();
        }
        // Asking beyond the grant raises it.
        let [_, sent, _] = stage.host.outgoing(&stage.calling).unwrap();
        assert!(bytes <= sent as usize, "{bytes}");
        stage.finish();
    });
}

#[test]
fn a_flood_of_rpc_unknown_gets_one_packet_of_the_request() {
    both_stages(|mut stage| {
        let mut bytes = 0;
        for _ in 0..1000 {
            let call = stage.calling;
            stage
                .host
                .hear(&call, Packet::RpcUnknown(Unknown::default()));
            bytes += stage
                .host
                .sent()
                .iter()
                .map(|sent| sent.range().len())
                .sum::<usize>();
        }
        assert!((1000..1500).contains(&bytes), "{bytes}");
        stage.finish();
    });
}

#[test]
fn cutoffs_that_are_not_monotonic_still_give_every_length_a_level() {
    let tables = [
        [0, u32::MAX, 0, u32::MAX, 0, u32::MAX, 0, u32::MAX],
        [7, 6, 5, 4, 3, 2, 1, 0],
        [0, 1, 2, 3, 4, 5, 6, 7],
        [u32::MAX; 8],
        [0; 8],
    ];
    both_stages(|mut stage| {
        for (version, lengths) in (1..).zip(tables) {
            let call = stage.calling;
            stage
                .host
                .hear(&call, Packet::Cutoffs(Cutoffs { lengths, version }));
            for len in [1u32, 5, 1000, 40_000] {
                let (server, sent) = stage.host.call(len);
                let best = (0..8usize)
                    .rev()
                    .find(|level| *level == 0 || lengths[*level] >= len);
                let sent = only(&sent, Kind::Data);
                assert!(
                    sent.iter()
                        .all(|sent| usize::from(sent.tos >> 5) == best.unwrap())
                );
                stage.host.hear_data(&server, data(0, 1), 1);
            }
        }
        stage.finish();
    });
}

#[test]
fn freeze_is_counted_and_ignored() {
    both_stages(|mut stage| {
        for remote in stage.targets() {
            let bytes = remote.emit(&Packet::Freeze, &[]);
            stage.check_dropped(&remote, bytes, DropReason::Freeze);
        }
        stage.finish();
    });
}

#[test]
fn truncated_packets_are_dropped_at_any_length() {
    both(|carrier| {
        for packet in one_of_each(carrier) {
            let mut stage = Stage::new(carrier);
            for remote in stage.targets() {
                let bytes = remote.emit(&packet, &[]);
                for len in 0..bytes.len().max(HEADER_LEN) {
                    stage.check_dropped(&remote, bytes[..len].to_vec(), DropReason::Short);
                }
            }
            assert!(stage.host.sent().is_empty());
            stage.finish();
        }
        let mut stage = Stage::new(carrier);
        stage.host.engine.count_truncated();
        assert_eq!(stage.host.dropped(DropReason::Truncated), 1);
        stage.finish();
    });
}

#[test]
fn the_largest_datagrams_are_taken_for_what_they_are() {
    both_stages(|mut stage| {
        let client = Remote::client(2000);
        // 64 KB of payload that is all of one message, as virtual devices deliver it.
        assert_eq!(stage.host.hear_data(&client, data(0, 64_080), 64_080), None);
        let Some(Event::Request { message, .. }) = stage.host.event() else {
            panic!()
        };
        check_message(message, 64_080);
        // The same behind control packets is nothing.
        for packet in [Packet::Busy, Packet::NeedAck, Packet::Grant(grant(0))] {
            let calling = stage.calling;
            let bytes = calling.emit(&packet, &vec![0xff; 64_080]);
            assert_eq!(stage.host.hear_bytes(calling.addr, bytes), None);
        }
        stage.finish();
    });
}

#[test]
fn what_a_sender_failed_to_segment_is_dropped_and_sent_again() {
    both_stages(|mut stage| {
        let client = Remote::client(2000);
        // The payload with a segment header of four bytes between each two packets.
        let mut payload = Vec::new();
        for start in (0..5000u32).step_by(1424) {
            if start > 0 {
                payload.extend_from_slice(&start.to_be_bytes());
            }
            payload.extend_from_slice(&pattern(start..(start + 1424).min(5000)));
        }
        assert_eq!(payload.len(), 5012);
        let bytes = client.emit(&Packet::Data(data(0, 5000)), &payload);
        stage.check_dropped(&client, bytes, DropReason::Offset);
        // The client asks, is told that nothing is known of it, and sends packets of one segment.
        stage
            .host
            .hear(&client, Packet::Resend(resend(0, Resend::ALL)));
        assert_eq!(kinds(&stage.host.sent()), [Kind::RpcUnknown]);
        stage.host.take_request(&client, 5000);
        stage.finish();
    });
}

#[test]
fn spoofed_sources_reach_no_rpc() {
    both(|carrier| {
        for packet in one_of_each(carrier) {
            let mut stage = Stage::new(carrier);
            let [outgoing, incoming] = [Host::outgoing, Host::incoming];
            let state = |stage: &Stage| {
                stage.targets().map(|target| {
                    (
                        outgoing(&stage.host, &target),
                        incoming(&stage.host, &target),
                    )
                })
            };
            let before = state(&stage);
            for remote in stage.targets() {
                let spoofed = remote.at(([10, 0, 66, 66], 7000));
                let dropped = stage.host.hear(&spoofed, packet.clone());
                // FREEZE and cookies are about no RPC.
                let about_none = matches!(packet.kind(), Kind::Freeze | Kind::CookieEcho);
                if remote.route.sender_id % 2 == 1 && !about_none {
                    assert_eq!(dropped, Some(DropReason::Source), "{packet:?}");
                }
                stage.host.sent();
                assert_eq!(state(&stage), before, "{packet:?}");
            }
            stage.finish();
        }
    });
}

#[test]
fn requests_beyond_the_limits_are_dropped_and_counted() {
    both(|carrier| {
        let mut host = Host::with(carrier, |settings| {
            settings.max_rpcs = 8;
            settings.max_rpcs_per_peer = 4;
            settings.max_peers = 3;
        });
        let new = |id, last| Remote::client(id).at(([10, 0, 3, last], 7000));
        let announce = |host: &mut Host, client: &Remote| host.hear_data(client, data(0, 2), 1);
        for id in 1..=4 {
            assert_eq!(announce(&mut host, &new(2 * id, 1)), None);
        }
        assert_eq!(announce(&mut host, &new(10, 1)), Some(DropReason::RpcLimit));
        assert_eq!(announce(&mut host, &new(2, 2)), None);
        assert_eq!(announce(&mut host, &new(2, 3)), None);
        assert_eq!(announce(&mut host, &new(2, 4)), Some(DropReason::PeerLimit));
        assert_eq!(announce(&mut host, &new(4, 2)), None);
        assert_eq!(announce(&mut host, &new(6, 2)), None);
        assert_eq!(announce(&mut host, &new(8, 2)), Some(DropReason::RpcLimit));
        // Those that were in time complete.
        let client = new(2, 3);
        host.hear_data(
            &client,
            Data {
                retransmit: true,
                ..data(1, 2)
            },
            1,
        );
        assert!(matches!(host.event(), Some(Event::Request { .. })));
    });
}

#[test]
fn a_flood_of_spoofed_requests_fills_no_more_than_the_pool() {
    both(|carrier| {
        let mut host = Host::with(carrier, |settings| {
            settings.max_message_bytes = 100_000;
            settings.pool_bytes = 1_000_000;
        });
        for number in 0..2000u32 {
            let [_, high, middle, low] = number.to_be_bytes();
            let client = Remote::client(2).at(([10, high + 9, middle, low], 7000));
            host.hear_data(&client, data(0, 100_000), 1000);
            host.sent();
            assert!(host.engine.counters().pool_used <= 1_000_000);
        }
        assert!(host.dropped(DropReason::Pool) > 1000);
        // A call of one packet gets through all the same.
        host.take_request(&Remote::client(2), 1000);
        // Nobody goes on with the others: they end by themselves.
        host.wait(2 * host.engine.settings().timers.timeout);
        assert!(host.live() <= 1);
    });
}

#[test]
fn grants_of_any_level_leave_at_one_of_ours() {
    both_stages(|mut stage| {
        for (offset, priority) in (45_000u32..).step_by(5000).zip([8, 9, 127, 128, 255]) {
            let call = stage.calling;
            stage.host.hear(
                &call,
                Packet::Grant(Grant {
                    priority,
                    ..grant(offset)
                }),
            );
            assert!(stage.host.sent().iter().all(|sent| sent.tos == 7 << 5));
        }
        stage.finish();
    });
}
