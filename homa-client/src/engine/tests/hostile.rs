//! Peers that cost little and could take much: others go on all the while.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::pair::{CLIENT, CLIENT_PORT, Pair, SERVER, SERVER_PORT, packets};
use crate::engine::wire::{Data, Grant, Header, Packet, Resend, Route};
use crate::engine::{
    Datagram, DropReason, Event, Failure, ProveAddresses, RpcId, Settings, Socket, Time,
};

const MS: Duration = Duration::from_millis(1);

fn foe(number: u32) -> SocketAddr {
    let [_, _, high, low] = number.to_be_bytes();
    ([10, 9, high, low], 7777).into()
}

/// The server gets this packet of a foe.
fn send(
    pair: &mut Pair,
    from: SocketAddr,
    id: u64,
    packet: &Packet,
    payload: usize,
) -> Option<DropReason> {
    let route = Route {
        source_port: 40_001,
        dest_port: SERVER_PORT,
        sender_id: id,
        incarnation: 5,
    };
    let mut data = Header::emit(&route, packet).to_vec();
    data.resize(data.len() + payload, 7);
    let datagram = Datagram {
        from,
        local: None,
        tos: 0,
        socket: Socket::Main,
        data: Bytes::from(data),
    };
    pair.engines[SERVER].handle_datagram(pair.now, datagram)
}

/// One byte of a message of `length`, of which `incoming` are said to come unasked.
fn announce(pair: &mut Pair, from: SocketAddr, length: u32, incoming: u32) {
    let data = Data {
        incoming,
        ..Data::new(0, length)
    };
    send(pair, from, 1000, &Packet::Data(data), 1);
}

/// Like [`Pair::step`], but what the server sends to foes vanishes.
fn step(pair: &mut Pair, until: Time) -> bool {
    for side in [CLIENT, SERVER] {
        while let Some(transmit) = pair.engines[side].poll_transmit(pair.now, 64) {
            if transmit.to.ip() == Pair::addr(1 - side).ip() {
                for packet in packets(&transmit) {
                    pair.send(side, transmit.to, transmit.tos, packet);
                }
            }
        }
    }
    pair.step_quietly(until)
}

/// The next request that the server hands over, and how long it took.
fn request(pair: &mut Pair, mut meanwhile: impl FnMut(&mut Pair)) -> (RpcId, Duration) {
    let start = pair.now;
    loop {
        meanwhile(pair);
        let until = pair.now + 4 * MS;
        loop {
            if let Some(event) = pair.event(SERVER) {
                let Event::Request { rpc, charged, .. } = event else {
                    panic!("{event:?}")
                };
                pair.engines[SERVER].release(charged);
                return (rpc, pair.now.since(start));
            }
            if !step(pair, until) {
                break;
            }
        }
        assert!(pair.now.since(start) < 2000 * MS, "nothing for 2 s");
    }
}

/// Eight messages may be active, and each may hold a window: but not while its sender is silent.
#[test]
fn senders_that_do_not_send_hold_up_nobody() {
    for busy in [false, true] {
        let mut pair = Pair::new(1, Settings::default());
        for number in 0..20 {
            announce(&mut pair, foe(number), 100_000, 1);
        }
        let soon = pair.now + 2 * MS;
        while step(&mut pair, soon) {}
        pair.request(vec![1; 500_000].into(), 1);
        let (_, took) = request(&mut pair, |pair| {
            for number in 0..20 {
                if busy {
                    send(pair, foe(number), 1000, &Packet::Busy, 0);
                }
            }
        });
        // Eight at a time are found out, by one unanswered RESEND.
        assert!(took < 35 * MS, "{took:?}");
    }
}

/// What a silent sender has got comes again when it wakes up.
#[test]
fn a_sender_that_was_silent_is_granted_again_when_it_goes_on() {
    let mut pair = Pair::new(2, Settings::default());
    pair.request(vec![1; 500_000].into(), 1);
    let soon = pair.now + Duration::from_micros(300);
    while pair.step(soon) {}
    pair.faults.loss = 100;
    let later = pair.now + 300 * MS;
    while pair.step(later) {}
    assert_eq!(pair.engines[SERVER].granter.outstanding(), 0);
    pair.faults.loss = 0;
    let (rpc, took) = request(&mut pair, |_| {});
    assert!(took < 15 * MS, "{took:?}");
    pair.reply(rpc, "done".into());
    assert_eq!(pair.engines[SERVER].granter.outstanding(), 0);
}

/// Memory that silent senders hold goes to those that send.
#[test]
fn announcements_do_not_keep_the_memory_of_others() {
    let mut pair = Pair::new(3, Settings::default());
    for number in 0..2000 {
        announce(&mut pair, foe(number), 1_000_000, 1_000_000);
    }
    let pool = pair.engines[SERVER].settings().pool_bytes as u64;
    assert!(pair.engines[SERVER].counters().pool_used <= pool / 2);
    let soon = pair.now + 15 * MS;
    while step(&mut pair, soon) {}
    for length in [3000, 39_000] {
        pair.request(vec![1; length].into(), 1);
        let (rpc, took) = request(&mut pair, |pair| {
            for number in 0..2000 {
                send(pair, foe(number), 1000, &Packet::Busy, 0);
            }
        });
        assert!(took < 15 * MS, "{length} B: {took:?}");
        pair.reply(rpc, "done".into());
    }
    // Once all are gone, so is what they held.
    let late = pair.now + 3000 * MS;
    while step(&mut pair, late) {
        while pair.event(CLIENT).is_some() {}
    }
    let counters = pair.engines[SERVER].counters();
    assert_eq!((counters.pool_used, counters.live_rpcs), (0, 0));
}

/// A reply that is asked for again and again takes its turns with the others, and the link's time.
#[test]
fn a_flood_of_resends_leaves_half_to_the_others() {
    let settings = Settings {
        link_mbps: Some(1000),
        ..Settings::default()
    };
    let mut pair = Pair::new(4, settings);
    announce(&mut pair, foe(1), 1, 1);
    let (to_foe, _) = request(&mut pair, |_| {});
    pair.reply(to_foe, vec![0; 1_000_000].into());
    let grant = Packet::Grant(Grant {
        offset: 1_000_000,
        priority: 0,
        prove_port: 0,
        bulk_port: 0,
    });
    send(&mut pair, foe(1), 1000, &grant, 0);
    let sent = pair.now + 100 * MS;
    while step(&mut pair, sent) {}
    pair.request("much, please".into(), 1);
    let (to_friend, _) = request(&mut pair, |_| {});
    pair.reply(to_friend, vec![0; 39_000].into());

    let all = Packet::Resend(Resend {
        offset: 0,
        length: 1_000_000,
        priority: 7,
    });
    let start = pair.now;
    let mut repeated = 0;
    let done = loop {
        send(&mut pair, foe(1), 1000, &all, 0);
        let tick = pair.now + MS;
        while pair.now < tick {
            while let Some(transmit) = pair.engines[SERVER].poll_transmit(pair.now, 64) {
                for packet in packets(&transmit) {
                    if transmit.to.ip() == foe(1).ip() {
                        repeated += packet.len();
                    } else {
                        pair.send(SERVER, transmit.to, transmit.tos, packet);
                    }
                }
            }
            step(&mut pair, tick);
        }
        if let Some(Event::Response { .. }) = pair.event(CLIENT) {
            break pair.now;
        }
        assert!(pair.now.since(start) < 1000 * MS, "nothing for a second");
    };
    let took = done.since(start);
    println!("39,000 B in {took:?} beside {repeated} B repeated");
    // Alone they take 0.4 ms of the link.
    assert!(took <= 2 * MS, "{took:?}");
    // 1 Gbit/s are 125,000 B in a millisecond.
    assert!(
        repeated <= 125_000 * (took.as_millis() as usize + 1),
        "{repeated}"
    );
}

/// Forged sources fill the table of peers; calls of our own find a place in it all the same.
#[test]
fn forged_sources_do_not_keep_us_from_calling() {
    let settings = Settings {
        max_peers: 100,
        ..Settings::default()
    };
    let mut pair = Pair::new(5, settings);
    for round in 0..5u64 {
        for number in 0..100 {
            let data = Data {
                incoming: 1,
                ..Data::new(0, 1)
            };
            let id = 1000 + 2 * round;
            send(&mut pair, foe(number), id, &Packet::Data(data), 0);
            send(
                &mut pair,
                foe(number),
                id,
                &Packet::Ack(Default::default()),
                0,
            );
        }
        let now = pair.now;
        pair.engines[SERVER].open_port(50_000, false);
        let called = pair.engines[SERVER].send_request(
            now,
            50_000,
            foe(9000 + round as u32),
            4000,
            "x".into(),
            0,
        );
        assert!(called.is_ok());
        pair.now += 1000 * MS;
    }
}

/// The work that a packet of an unproven peer makes does not grow with what waits for it.
#[test]
fn few_of_those_that_wait_for_a_proof_try_again_at_a_time() {
    let settings = Settings {
        prove_addresses: ProveAddresses::Always,
        ..Settings::default()
    };
    let mut pair = Pair::new(6, settings);
    for number in 0..500 {
        let data = Data {
            incoming: 1,
            ..Data::new(0, 1)
        };
        send(&mut pair, foe(1), 1000 + 2 * number, &Packet::Data(data), 1);
        let (rpc, _) = request(&mut pair, |_| {});
        pair.reply(rpc, vec![0; 25_000].into());
    }
    while pair.engines[SERVER].poll_transmit(pair.now, 64).is_some() {}
    assert_eq!(pair.engines[SERVER].counters().queued_sending, 0);
    send(&mut pair, foe(1), 4, &Packet::Busy, 0);
    let trying = pair.engines[SERVER].counters().queued_sending;
    assert!((1..=2).contains(&trying), "{trying}");
}

/// A client that did not run for longer than its server remembers must not have it run twice.
#[test]
fn a_request_of_a_client_that_was_suspended_is_not_repeated() {
    let mut pair = Pair::new(7, Settings::default());
    pair.request("once".into(), 1);
    let (rpc, _) = request(&mut pair, |_| {});
    // The reply is lost, and the client stopped for 25 s, in which its server gives up.
    pair.reply(rpc, "done".into());
    let mut now = pair.now;
    for _ in 0..25_000 {
        now += MS;
        while pair.engines[SERVER].poll_transmit(now, 64).is_some() {}
        if pair.engines[SERVER]
            .poll_timeout()
            .is_some_and(|(at, _)| at <= now)
        {
            pair.engines[SERVER].handle_timeout(now);
        }
    }
    pair.now = now;
    let until = now + 2000 * MS;
    let failure = loop {
        assert!(pair.event(SERVER).is_none(), "it runs again");
        if let Some(Event::Failed { failure, .. }) = pair.event(CLIENT) {
            break failure;
        }
        assert!(pair.step(until), "nothing for 2 s");
    };
    assert!(
        matches!(failure, Failure::TimedOut(time) if time >= 20_000 * MS),
        "{failure:?}"
    );
}

/// A server that was replaced long before the call, and lost its first packet, has not run it.
#[test]
fn a_server_that_was_replaced_while_idle_gets_the_request_again() {
    let mut pair = Pair::new(8, Settings::default());
    pair.request("first".into(), 1);
    let (rpc, _) = request(&mut pair, |_| {});
    pair.reply(rpc, "done".into());
    let soon = pair.now + 100 * MS;
    while pair.step(soon) {
        while pair.event(CLIENT).is_some() {}
    }
    let mut next = crate::engine::Engine::new(Settings::default(), 999).unwrap();
    next.set_born(pair.now);
    next.open_port(SERVER_PORT, true);
    pair.engines[SERVER] = next;
    pair.now += 5000 * MS;
    pair.engines[CLIENT]
        .send_request(
            pair.now,
            CLIENT_PORT,
            Pair::addr(SERVER),
            SERVER_PORT,
            "second".into(),
            2,
        )
        .unwrap();
    while pair.engines[CLIENT].poll_transmit(pair.now, 64).is_some() {}
    let (_, took) = request(&mut pair, |_| {});
    assert!(took < 15 * MS, "{took:?}");
}
