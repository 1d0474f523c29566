//! Statements 79 to 83: buffers, limits, lifecycle.

use homa_client::engine::wire::{Ack, Carrier, Cutoffs, Kind, Packet};
use homa_client::engine::{DropReason, Event, Failure, SendError};
use homa_client::{Message, Unreachable};

use crate::fixture::*;

#[test]
fn e080_a_full_send_memory_refuses_messages_until_some_are_acknowledged() {
    both(|carrier| {
        let mut host = Host::with(carrier, |settings| {
            settings.max_message_bytes = 100_000;
            settings.send_bytes = 200_000;
        });
        let (first, _) = host.call(100_000);
        let client = Remote::client(2);
        let rpc = host.take_request(&client, 1);
        host.engine
            .send_reply(host.now, rpc, message(100_000))
            .unwrap();
        let again = |host: &mut Host, message: Message| {
            let addr = server_addr();
            let sent =
                host.engine
                    .send_request(host.now, CLIENT_PORT, addr, SERVER_PORT, message, 0);
            match sent {
                Ok(_) => None,
                Err(SendError::Busy {
                    what,
                    limit,
                    message,
                }) => {
                    assert_eq!((what, limit), ("send_bytes", 200_000));
                    Some(message)
                }
                Err(other) => panic!("{other:?}"),
            }
        };
        // The message is handed back.
        let refused = again(&mut host, message(1)).unwrap();
        check_message(refused.clone(), 1);
        // A reply gives its room back once acknowledged, a request once answered.
        host.hear(&client, Packet::Ack(Ack::default()));
        let long = message(100_000);
        assert!(again(&mut host, long.clone()).is_none());
        let long = again(&mut host, long).unwrap();
        host.hear_data(&first, data(0, 1), 1);
        assert!(again(&mut host, long).is_none());
    });
}

#[test]
fn e081_a_closed_port_drops_its_rpcs_and_is_unknown_from_then_on() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let (server, _) = host.call(1);
        let client = Remote::client(2);
        host.take_request(&client, 1);
        host.sent();
        for port in [CLIENT_PORT, SERVER_PORT] {
            host.engine.close_port(host.now, port);
        }
        let Some(Event::Failed { failure, .. }) = host.event() else {
            panic!()
        };
        assert_eq!(failure, Failure::Closed);
        assert!(host.event().is_none() && host.live() == 0);
        for (remote, len) in [(server, 1), (client, 1)] {
            assert_eq!(
                host.hear_data(&remote, data(0, len), len),
                Some(DropReason::Port)
            );
        }
        let addr = server_addr();
        let sent = host
            .engine
            .send_request(host.now, CLIENT_PORT, addr, 1, message(1), 0);
        assert!(matches!(sent, Err(SendError::Closed { .. })));
        assert!(
            host.wait(timeouts(&host))
                .iter()
                .all(|sent| sent.kind() == Kind::NoSuchPort)
        );
    });
}

fn timeouts(host: &Host) -> std::time::Duration {
    2 * host.engine.settings().timers.timeout
}

#[test]
fn e082_icmp_fails_the_rpcs_it_is_about() {
    both(|carrier| {
        let fails = |reason, quote_of: usize| {
            let mut host = Host::new(carrier);
            let mut quotes = Vec::new();
            for (addr, port) in [
                (server_addr(), SERVER_PORT),
                (server_addr(), 4001),
                (([10, 0, 0, 9], SERVER_PORT).into(), SERVER_PORT),
            ] {
                let now = host.now;
                let request = host
                    .engine
                    .send_request(now, CLIENT_PORT, addr, port, message(1), 0);
                request.unwrap();
                quotes.push(host.sent().remove(0).bytes);
            }
            let (now, quote) = (host.now, &quotes[quote_of]);
            host.engine
                .handle_unreachable(now, server_addr(), reason, quote);
            let mut failed = 0;
            while let Some(event) = host.event() {
                let Event::Failed { failure, .. } = event else {
                    panic!()
                };
                assert!(
                    matches!(failure, Failure::Unreachable { reason: why, .. } if why == reason)
                );
                failed += 1;
            }
            assert_eq!(host.live(), 3 - failed);
            failed
        };
        // A UDP port stands for all Homa ports behind it.
        let port = if carrier == Carrier::Ip { 1 } else { 2 };
        assert_eq!(fails(Unreachable::Port, 1), port);
        assert_eq!(fails(Unreachable::Protocol, 0), 2);
        assert_eq!(fails(Unreachable::Host, 0), 2);
    });
}

#[test]
fn e083_what_is_known_of_a_peer_survives_the_failure_of_its_rpcs() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let done = host.finish_call();
        let (server, _) = host.call(1);
        let cutoffs = Cutoffs {
            lengths: [0; 8],
            version: 9,
        };
        host.hear(&server, Packet::Cutoffs(cutoffs));
        host.wait(timeouts(&host));
        assert!(matches!(host.event(), Some(Event::Failed { .. })));
        let done_again = host.finish_call();
        let (_, sent) = host.call(1);
        let sent = only(&sent, Kind::Data);
        assert_eq!(sent[0].data().cutoff_version, 9);
        assert_eq!(
            sent[0].data().ack.unwrap().client_id,
            done_again.route.sender_id ^ 1
        );
        assert_ne!(done.route.sender_id, done_again.route.sender_id);
    });
}
