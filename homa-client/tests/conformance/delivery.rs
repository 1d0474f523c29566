//! Statements 23 to 31: requests, responses, delivery.

use homa_client::engine::wire::{Carrier, Cutoffs, Kind, Packet};
use homa_client::engine::{DropReason, Event, Failure, Unreachable};

use crate::fixture::*;

#[test]
fn e023_data_of_an_unknown_request_makes_an_rpc_unless_it_has_ended_here() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        for (number, offset) in [0, 1400, 39_999, 99_999].into_iter().enumerate() {
            let client = Remote::client(2 + 2 * number as u64);
            assert_eq!(host.hear_data(&client, data(offset, 100_000), 1), None);
            assert_eq!(host.live(), number + 1);
        }
        // Differs: an id that has ended here is remembered, so that a stray packet of it cannot
        // run it again. A kernel would.
        let client = Remote::client(100);
        host.serve(&client, 1, 1);
        host.hear(&client, Packet::Ack(Default::default()));
        assert_eq!(
            host.hear_data(&client, data(0, 1), 1),
            Some(DropReason::Finished)
        );
        host.wait(host.engine.settings().timers.remember + ms(1));
        assert_eq!(host.hear_data(&client, data(0, 1), 1), None);
    });
}

#[test]
fn e024_a_request_that_was_delivered_is_not_delivered_again() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let client = Remote::client(2);
        let rpc = host.take_request(&client, 100);
        let again = |host: &mut Host| {
            assert_eq!(
                host.hear_data(&client, data(0, 100), 100),
                Some(DropReason::Duplicate)
            );
            assert!(host.event().is_none());
        };
        again(&mut host);
        host.engine.send_reply(host.now, rpc, message(100)).unwrap();
        again(&mut host);
        host.sent();
        again(&mut host);
        assert_eq!(host.engine.counters().requests_delivered, 1);
    });
}

#[test]
fn e025_data_of_an_unknown_response_is_dropped_without_an_answer() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let mut server = Remote::server(host.start_call(1));
        host.sent();
        server.route.sender_id += 2;
        assert_eq!(
            host.hear_data(&server, data(0, 1), 1),
            Some(DropReason::UnknownRpc)
        );
        assert!(host.sent().is_empty());
    });
}

#[test]
fn e026_a_response_may_begin_before_its_request_is_sent() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let (server, _) = host.call(100_000);
        assert!(host.outgoing(&server).unwrap()[1] < 100_000);
        host.hear_range(&server, 5000, 0..1400);
        assert_eq!(host.incoming(&server), Some([5000, 1400, 5000]));
        host.hear_range(&server, 5000, 1400..5000);
        let Some(Event::Response {
            message, cookie, ..
        }) = host.event()
        else {
            panic!()
        };
        assert_eq!(cookie, 99);
        check_message(message, 5000);
        assert_eq!(host.live(), 0);
    });
}

#[test]
fn e027_a_response_after_a_local_abort_is_discarded_and_acknowledged_when_asked() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let rpc = host.start_call(1);
        let server = Remote::server(rpc);
        host.sent();
        assert!(host.engine.cancel(host.now, rpc));
        assert_eq!(
            host.hear_data(&server, data(0, 1), 1),
            Some(DropReason::UnknownRpc)
        );
        assert!(host.event().is_none() && host.sent().is_empty());
        host.hear(&server, Packet::NeedAck);
        let sent = host.sent();
        assert_eq!(kinds(&sent), [Kind::Ack]);
        assert_eq!(sent[0].common.sender_id, rpc.id());
    });
}

#[test]
fn e028_a_message_is_delivered_whole_and_once() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let client = Remote::client(2);
        host.hear_range(&client, 4200, 1400..4200);
        assert!(host.event().is_none());
        host.hear_data(&client, data(0, 4200), 1399);
        assert!(host.event().is_none());
        host.hear_data(&client, data(1399, 4200), 1);
        let Some(Event::Request { message, .. }) = host.event() else {
            panic!()
        };
        check_message(message, 4200);
        assert!(host.event().is_none());
    });
}

#[test]
fn e029_clients_with_the_same_id_and_port_are_kept_apart_by_address() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let first = Remote::client(2);
        let second = first.at(([10, 0, 0, 3], 7000));
        host.hear_range(&first, 3000, 0..1400);
        host.hear_range(&second, 2000, 0..1400);
        assert_eq!(host.live(), 2);
        host.hear_range(&second, 2000, 1400..2000);
        host.hear_range(&first, 3000, 1400..3000);
        for (client, len) in [(second, 2000), (first, 3000)] {
            let Some(Event::Request {
                rpc, message, peer, ..
            }) = host.event()
            else {
                panic!()
            };
            check_message(message, len);
            assert_eq!(peer.ip(), client.addr.ip());
            host.sent();
            host.engine.send_reply(host.now, rpc, "yes".into()).unwrap();
            let sent = host.sent();
            assert_eq!((sent.len(), sent[0].to.ip()), (1, client.addr.ip()));
        }
    });
}

/// What a client hears whose request went to a port that does not take it.
fn refused(host: &mut Host, client: &Remote) {
    assert_eq!(
        host.hear_data(client, data(0, 1), 1),
        Some(DropReason::Port)
    );
    let sent = host.sent();
    match host.carrier {
        // ICMP's answer is for the driver to give.
        Carrier::Ip => assert!(sent.is_empty()),
        Carrier::Udp => {
            assert_eq!(kinds(&sent), [Kind::NoSuchPort]);
            let common = sent[0].common;
            assert_eq!(common.sender_id, client.route.sender_id ^ 1);
            assert_eq!(common.source_port, client.route.dest_port);
            assert_eq!(common.dest_port, client.route.source_port);
        }
    }
    assert_eq!(host.live(), 0);
}

#[test]
fn e030_an_unknown_port_is_never_answered_by_rpc_unknown() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let mut client = Remote::client(2);
        client.route.dest_port = 4444;
        refused(&mut host, &client);
        host.hear(&client, Packet::Resend(resend(0, u32::MAX)));
        assert!(
            host.sent()
                .iter()
                .all(|sent| sent.kind() != Kind::RpcUnknown)
        );
    });
}

/// Who did not take a request has not run it; but a refusal may also answer a question about one
/// that was taken, has run, and is forgotten.
#[test]
fn e030_a_refusal_tells_whether_the_request_may_have_run() {
    let cutoffs = Cutoffs {
        lengths: [u32::MAX; 8],
        version: 3,
    };
    for (heard, waits, may_have_run) in [
        (None, false, false),
        (Some(Packet::Cutoffs(cutoffs)), false, false),
        (Some(Packet::Busy), false, true),
        (None, true, true),
    ] {
        let mut host = Host::new(Carrier::Udp);
        let (server, _) = host.call(1);
        if let Some(packet) = heard.clone() {
            assert_eq!(host.hear(&server, packet), None);
        }
        if waits {
            let asked = host.wait(host.engine.settings().timers.resend + ms(1));
            assert_eq!(kinds(&asked), [Kind::Resend]);
        }
        assert_eq!(host.hear(&server, Packet::NoSuchPort), None);
        let Some(Event::Failed { failure, .. }) = host.event() else {
            panic!()
        };
        let refused = Failure::Unreachable {
            reason: Unreachable::HomaPort,
            may_have_run,
        };
        assert_eq!(failure, refused, "{heard:?}, {waits}");
    }
}

#[test]
fn e031_a_client_port_takes_responses_but_no_requests() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let mut client = Remote::client(2);
        client.route.dest_port = CLIENT_PORT;
        refused(&mut host, &client);
        host.finish_call();
    });
}
