//! Statements 79 to 83: buffers, limits, lifecycle.

use homa_client::engine::wire::{Ack, Carrier, Cutoffs, Kind, Packet};
use homa_client::engine::{DropReason, Event, Failure, SendError};
use homa_client::{Message, Unreachable};

use crate::fixture::*;

#[test]
fn e079_without_receive_memory_messages_wait_and_the_shortest_is_asked_for_first() {
    both(|carrier| {
        let mut host = Host::with(carrier, |settings| {
            settings.max_message_bytes = 100_000;
            settings.pool_bytes = 400_000;
        });
        // The application keeps what it has got.
        let mut kept = Vec::new();
        let mut id = 0;
        let mut announce = |host: &mut Host, length: u32| {
            id += 2;
            let client = Remote::client(id);
            (
                client,
                host.hear_data(&client, data(0, length), length.min(1400)),
            )
        };
        loop {
            let (client, dropped) = announce(&mut host, 39_000);
            if dropped.is_some() {
                assert_eq!(dropped, Some(DropReason::Pool));
                break;
            }
            host.hear_range(&client, 39_000, 1400..39_000);
            let Some(Event::Request { charged, .. }) = host.event() else {
                panic!()
            };
            kept.push(charged);
        }
        let waiting = [30_000, 20_000, 25_000].map(|length| {
            let (client, dropped) = announce(&mut host, length);
            assert_eq!(dropped, Some(DropReason::Pool));
            // Nothing is kept of it, however much comes.
            let again = host.hear_data(&client, data(1400, length), 1400);
            assert_eq!(again, Some(DropReason::Pool));
            client
        });
        host.sent();
        // Nobody gives up meanwhile: the clients ask, and hear that we are busy.
        for _ in 0..timeouts(&host).as_millis() / 50 {
            for client in &waiting {
                host.hear(client, Packet::Resend(resend(0, u32::MAX)));
            }
            assert_eq!(kinds(&host.wait(ms(50))), [Kind::Busy; 3]);
        }
        let mut asked = Vec::new();
        for charged in kept {
            host.engine.release(charged);
            for sent in only(&host.sent(), Kind::Resend) {
                assert_eq!(resends(std::slice::from_ref(&sent)), [(0, u32::MAX)]);
                asked.push(sent.common.sender_id ^ 1);
            }
        }
        let [long, short, middle] = waiting.map(|client| client.route.sender_id);
        assert_eq!(asked, [short, middle, long]);
        for (client, length) in waiting.iter().zip([30_000, 20_000, 25_000]) {
            host.take_request(client, length);
        }
    });
}

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
        // "Fragmentation needed" fails none: what was sent goes again, in smaller packets.
        let mut host = Host::new(carrier);
        let (server, first) = host.call(10_000);
        let now = host.now;
        host.engine.set_path_mtu(now, server.addr, 1000);
        let again = only(&host.sent(), Kind::Data);
        assert!(again.len() > first.len() && again.iter().all(|sent| sent.bytes.len() < 1000));
        assert_eq!(
            again.iter().map(|sent| sent.range().len()).sum::<usize>(),
            10_000
        );
        assert!(host.event().is_none() && host.live() == 1);
    });
}

#[test]
fn e083_what_is_known_of_a_peer_survives_the_failure_of_its_rpcs() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let [done, failing] = [(); 2].map(|()| host.call(1).0);
        let cutoffs = Cutoffs {
            lengths: [0; 8],
            version: 9,
        };
        host.hear(&failing, Packet::Cutoffs(cutoffs));
        host.hear_data(&done, data(0, 1), 1);
        assert!(matches!(host.event(), Some(Event::Response { .. })));
        host.wait(timeouts(&host));
        assert!(matches!(host.event(), Some(Event::Failed { .. })));
        let (_, sent) = host.call(1);
        let data = only(&sent, Kind::Data)[0].data();
        assert_eq!(data.cutoff_version, 9);
        assert_eq!(data.ack.unwrap().client_id, done.route.sender_id ^ 1);
    });
}
