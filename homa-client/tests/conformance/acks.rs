//! Statements 69 to 78: acks.

use homa_client::engine::DropReason;
use homa_client::engine::wire::{Ack, Carrier, Data, Kind, Packet, PendingAck};

use crate::fixture::*;

/// The ack that a client at another host owes for the RPC that `client` names.
fn entry(client: &Remote) -> PendingAck {
    PendingAck {
        client_id: client.route.sender_id,
        server_port: client.route.dest_port,
    }
}

fn ack(entries: &[PendingAck]) -> Packet {
    Packet::Ack(Ack {
        entries: entries.iter().copied().collect(),
    })
}

/// A host with `count` answered RPCs that wait for their acks.
fn answered(carrier: Carrier, count: u64) -> (Host, Vec<Remote>) {
    let mut host = Host::new(carrier);
    let clients: Vec<_> = (1..=count)
        .map(|number| Remote::client(number * 2))
        .collect();
    for client in &clients {
        host.serve(client, 1, 1);
    }
    (host, clients)
}

#[test]
fn e069_a_response_is_kept_until_acknowledged_or_its_client_is_long_gone() {
    both(|carrier| {
        let (mut host, clients) = answered(carrier, 1);
        let timers = host.engine.settings().timers;
        host.wait(2 * timers.timeout);
        host.hear(&clients[0], Packet::Resend(resend(0, u32::MAX)));
        assert_eq!(only(&host.sent(), Kind::Data).len(), 1);
        host.wait(timers.give_up + timers.need_ack_max);
        assert_eq!(host.live(), 0);
    });
}

#[test]
fn e070_a_response_is_acknowledged_by_piggyback_by_ack_or_when_asked() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        // With the next request.
        let done = host.finish_call();
        let (_, sent) = host.call(1);
        let sent = only(&sent, Kind::Data);
        let ours = PendingAck {
            client_id: done.route.sender_id ^ 1,
            server_port: SERVER_PORT,
        };
        assert_eq!(sent[0].data().ack, Some(ours));
        // When the server asks, with all others that are owed.
        let calls: Vec<_> = (0..3).map(|_| host.call(1).0).collect();
        for server in &calls {
            host.hear_data(server, data(0, 1), 1);
            assert!(host.event().is_some());
        }
        host.sent();
        host.hear(&calls[1], Packet::NeedAck);
        let sent = host.sent();
        assert_eq!(kinds(&sent), [Kind::Ack]);
        assert_eq!(sent[0].common.sender_id, calls[1].route.sender_id ^ 1);
        let Packet::Ack(ack) = &sent[0].packet else {
            panic!()
        };
        let owed = |call: &Remote| {
            ack.entries
                .iter()
                .any(|entry| entry.client_id == call.route.sender_id ^ 1)
        };
        assert!(owed(&calls[0]) && owed(&calls[2]));
        let (_, sent) = host.call(1);
        assert_eq!(only(&sent, Kind::Data)[0].data().ack, None);
        // Of its own, when too many are owed: e071.
    });
}

#[test]
fn e071_the_sixth_ack_for_a_host_sends_all() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        // All requests leave before the first response is read: nothing can piggyback.
        let calls: Vec<_> = (0..6).map(|_| host.call(1).0).collect();
        for (number, server) in calls.iter().enumerate() {
            assert_eq!(host.hear_data(server, data(0, 1), 1), None);
            assert!(host.event().is_some());
            let acks = only(&host.sent(), Kind::Ack);
            assert_eq!(acks.len(), usize::from(number == 5));
            let Some(sent) = acks.first() else { continue };
            let Packet::Ack(ack) = &sent.packet else {
                panic!()
            };
            assert_eq!(sent.common.sender_id, calls[5].route.sender_id ^ 1);
            let mut ids: Vec<_> = ack.entries.iter().map(|entry| entry.client_id).collect();
            ids.sort_unstable();
            let earlier: Vec<_> = calls[..5]
                .iter()
                .map(|call| call.route.sender_id ^ 1)
                .collect();
            assert_eq!(ids, earlier);
        }
        // Nothing is owed any more.
        let (_, sent) = host.call(1);
        assert_eq!(only(&sent, Kind::Data)[0].data().ack, None);
    });
}

#[test]
fn e072_a_data_packet_carries_one_ack_and_never_its_own() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let calls: Vec<_> = (0..4).map(|_| host.call(1).0).collect();
        for server in &calls {
            host.hear_data(server, data(0, 1), 1);
            host.event();
        }
        let (server, sent) = host.call(10_000);
        let sent = only(&sent, Kind::Data);
        let mut ids: Vec<_> = sent
            .iter()
            .filter_map(|sent| sent.data().ack)
            .inspect(|ack| assert_eq!(ack.server_port, SERVER_PORT))
            .map(|ack| ack.client_id)
            .collect();
        ids.sort_unstable();
        let owed: Vec<_> = calls.iter().map(|call| call.route.sender_id ^ 1).collect();
        assert_eq!(ids, owed);
        assert!(!ids.contains(&(server.route.sender_id ^ 1)));
    });
}

#[test]
fn e073_an_ack_frees_the_rpc_of_its_header_and_those_it_lists_on_any_port() {
    both(|carrier| {
        let (mut host, clients) = answered(carrier, 5);
        host.engine.open_port(4001, true);
        let mut elsewhere = Remote::client(100);
        elsewhere.route.dest_port = 4001;
        host.serve(&elsewhere, 1, 1);
        let unknown = Remote::client(998);
        let packet = ack(&[entry(&clients[1]), entry(&unknown), entry(&elsewhere)]);
        assert_eq!(host.hear(&clients[0], packet), None);
        assert_eq!(host.live(), 3);
        assert!(host.outgoing(&clients[0]).is_none() && host.outgoing(&elsewhere).is_none());
        // The RPC of the header may be gone already.
        host.hear(&clients[0], ack(&[entry(&clients[2])]));
        assert_eq!(host.live(), 2);
        // So do acks that come with DATA.
        let data = Data {
            ack: Some(entry(&clients[3])),
            ..data(0, 1)
        };
        host.hear_data(&Remote::client(200), data, 1);
        assert!(host.outgoing(&clients[3]).is_none());
    });
}

#[test]
fn e074_more_than_five_acks_are_five() {
    both(|carrier| {
        for count in [6u16, 255, u16::MAX] {
            let (mut host, clients) = answered(carrier, 6);
            let entries: Vec<_> = clients[..5].iter().map(entry).collect();
            let mut bytes = Remote::client(900).emit(&ack(&entries), &[0xff; 40]);
            bytes[28..30].copy_from_slice(&count.to_be_bytes());
            assert_eq!(host.hear_bytes(client_addr(), bytes), None);
            assert_eq!(host.live(), 1);
        }
    });
}

#[test]
fn e075_need_ack_is_answered_by_ack_unless_the_response_is_not_whole() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let (server, _) = host.call(1);
        host.hear_range(&server, 5000, 0..1400);
        host.hear(&server, Packet::NeedAck);
        let sent = host.sent();
        assert_eq!(resends(&sent), [(1400, 3600)]);
        assert!(only(&sent, Kind::Ack).is_empty());
        let mut unknown = server;
        unknown.route.sender_id += 1000;
        host.hear(&unknown, Packet::NeedAck);
        let sent = host.sent();
        assert_eq!(kinds(&sent), [Kind::Ack]);
        let common = sent[0].common;
        assert_eq!(common.sender_id, unknown.route.sender_id ^ 1);
        assert_eq!(
            (common.source_port, common.dest_port),
            (CLIENT_PORT, SERVER_PORT)
        );
        // A response that is whole but not read yet is acknowledged too.
        host.hear_range(&server, 5000, 1400..5000);
        host.hear(&server, Packet::NeedAck);
        assert_eq!(kinds(&only(&host.sent(), Kind::Ack)).len(), 1);
    });
}

#[test]
fn e076_need_ack_waits_and_is_repeated_at_growing_intervals() {
    both(|carrier| {
        let (mut host, _) = answered(carrier, 1);
        let timers = host.engine.settings().timers;
        let start = host.now;
        let asked = only(&host.wait(timers.give_up), Kind::NeedAck);
        let times: Vec<_> = asked.iter().map(|sent| sent.at.since(start)).collect();
        // Kernels ask after 2 ticks and then at every tick, without end.
        let first = if carrier == Carrier::Ip {
            ms(2)
        } else {
            ms(20)
        };
        assert!(times[0] >= first && times[0] <= first + ms(1), "{times:?}");
        let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(
            gaps.windows(2).all(|pair| pair[0] <= pair[1] + ms(1)),
            "{gaps:?}"
        );
        assert!(gaps[0] <= 2 * first + ms(1), "{gaps:?}");
        assert!(gaps[0] >= first && *gaps.last().unwrap() <= timers.need_ack_max + ms(1));
        assert!(times.len() > 9);
    });
}

#[test]
fn e077_an_ack_from_another_address_frees_nothing() {
    both(|carrier| {
        let (mut host, clients) = answered(carrier, 2);
        let stranger = clients[0].at(([10, 0, 0, 9], 7000));
        let foreign = Remote::client(900).at(stranger.addr);
        host.hear(&stranger, ack(&[entry(&clients[1])]));
        host.hear_data(&foreign, data(0, 1), 1);
        host.hear(&stranger, ack(&[entry(&clients[1])]));
        let data = Data {
            ack: Some(entry(&clients[0])),
            ..data(0, 2)
        };
        host.hear_data(&Remote::client(902).at(stranger.addr), data, 1);
        assert!(clients.iter().all(|client| host.outgoing(client).is_some()));
    });
}

#[test]
fn e078_the_same_ack_may_come_again() {
    both(|carrier| {
        let (mut host, clients) = answered(carrier, 3);
        for _ in 0..3 {
            let data = Data {
                ack: Some(entry(&clients[0])),
                ..data(0, 2)
            };
            host.hear_data(&Remote::client(900), data, 1);
            host.hear(&clients[1], ack(&[entry(&clients[0])]));
        }
        // The two are gone, one waits, and the request with the ack is there.
        assert_eq!(host.live(), 2);
        assert_eq!(host.dropped(DropReason::Finished), 0);
    });
}
