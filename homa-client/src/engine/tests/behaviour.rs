//! One behaviour each: silence, restarts, limits and hostile packets.

use std::time::Duration;

use bytes::Bytes;

use super::Random;
use super::pair::{CLIENT, CLIENT_PORT, Faults, Pair, SERVER, SERVER_PORT};
use crate::Message;
use crate::engine::wire::{Cookie, Data, Header, Kind, Packet, Resend, Route, Unknown};
use crate::engine::{
    Datagram, DropReason, Engine, Event, Failure, SendError, Settings, Socket, Time, Unreachable,
};

const SECOND: Duration = Duration::from_secs(1);

/// Steps until the client has an event, at most `within`.
pub(super) fn client_event(pair: &mut Pair, within: Duration) -> Option<Event> {
    let until = pair.now + within;
    loop {
        if let Some(event) = pair.event(CLIENT) {
            return Some(event);
        }
        if !pair.step(until) {
            return None;
        }
    }
}

/// Steps until the server has a request.
pub(super) fn server_request(pair: &mut Pair) -> crate::engine::RpcId {
    loop {
        if let Some(Event::Request { rpc, charged, .. }) = pair.event(SERVER) {
            pair.engines[SERVER].release(charged);
            return rpc;
        }
        assert!(pair.step(pair.now + SECOND));
    }
}

pub(super) fn run(pair: &mut Pair, time: Duration) {
    let until = pair.now + time;
    while pair.step(until) {}
}

#[test]
fn a_silent_peer_is_asked_every_10_ms_and_given_up_after_a_second() {
    let mut pair = Pair::new(1, Settings::default());
    pair.faults = Faults {
        loss: 100,
        ..Faults::default()
    };
    let start = pair.now;
    pair.request("anyone?".into(), 7);
    let Some(Event::Failed {
        cookie: 7,
        failure: Failure::TimedOut(silence),
        ..
    }) = client_event(&mut pair, 2 * SECOND)
    else {
        panic!("no timeout");
    };
    assert!(silence >= SECOND, "{silence:?}");
    let took = pair.now.since(start);
    assert!(took < SECOND + Duration::from_millis(100), "{took:?}");
    let resends = pair.engines[CLIENT].counters().sent(Kind::Resend);
    assert!((90..=100).contains(&resends), "{resends} RESENDs");
}

/// What the driver is late is not the peer's silence.
#[test]
fn a_driver_that_was_stopped_does_not_time_out_its_peers() {
    let mut pair = Pair::new(2, Settings::default());
    let id = pair.request("slow".into(), 0);
    let rpc = server_request(&mut pair);
    // For three seconds nobody calls the engines; then what has arrived is handled first.
    let now = pair.now + 3 * SECOND;
    for engine in &mut pair.engines {
        engine.handle_timeout(now);
        assert!(engine.poll_event(now).is_none());
    }
    pair.now = now;
    pair.reply(rpc, "done".into());
    let Some(Event::Response { rpc, .. }) = client_event(&mut pair, SECOND) else {
        panic!()
    };
    assert_eq!(rpc, id);
}

/// A server that takes 10 s keeps its client, at a falling price (statement 65).
#[test]
fn a_slow_server_is_asked_ever_less_often() {
    let mut pair = Pair::new(3, Settings::default());
    pair.request("slow".into(), 0);
    let rpc = server_request(&mut pair);
    run(&mut pair, 10 * SECOND);
    let [resends, busies] = [(CLIENT, Kind::Resend), (SERVER, Kind::Busy)]
        .map(|(side, kind)| pair.engines[side].counters().sent(kind));
    assert_eq!(resends, busies);
    assert!(resends < 45, "{resends} RESENDs in 10 s");
    pair.reply(rpc, "done".into());
    assert!(matches!(
        client_event(&mut pair, SECOND),
        Some(Event::Response { .. })
    ));
}

#[test]
fn a_vanished_client_is_forgotten_within_ten_seconds() {
    let mut pair = Pair::new(4, Settings::default());
    for length in [100, 500_000] {
        pair.request(vec![1; length].into(), 0);
        let rpc = server_request(&mut pair);
        // The client is unplugged before the response can reach it.
        pair.flush();
        pair.faults.loss = 100;
        pair.reply(rpc, vec![2; length].into());
        run(&mut pair, 12 * SECOND);
        assert_eq!(
            pair.engines[SERVER].counters().live_rpcs,
            0,
            "{length} bytes"
        );
        let asked = pair.engines[SERVER].counters().sent(Kind::NeedAck);
        assert!(asked < 40, "{asked} NEED_ACKs");
        while pair.event(CLIENT).is_some() {}
        pair.faults.loss = 0;
    }
}

/// Replies to clients that never acknowledge are bounded in bytes, and those that do get theirs.
#[test]
fn replies_that_nobody_acknowledges_make_room() {
    let settings = Settings {
        send_bytes: 3_000_000,
        ..Settings::default()
    };
    let mut pair = Pair::new(15, settings);
    pair.engines[CLIENT] = Engine::new(Settings::default(), 5).unwrap();
    pair.engines[CLIENT].open_port(CLIENT_PORT, false);
    for number in 0..100 {
        pair.request("give me much".into(), number);
        let rpc = server_request(&mut pair);
        pair.faults.loss = 100;
        pair.reply(rpc, vec![1; 39_000].into());
        // The first have been silent for a second when the buffer is full.
        let until = pair.now + Duration::from_millis(20);
        while pair.step(until) {}
        pair.faults.loss = 0;
        assert!(pair.engines[SERVER].send_used <= 3_000_000);
    }
    assert!(pair.engines[SERVER].counters().replies_forgotten > 0);
    pair.request("short".into(), 1000);
    let rpc = server_request(&mut pair);
    pair.reply(rpc, "here".into());
    loop {
        let event = client_event(&mut pair, SECOND);
        if matches!(event, Some(Event::Response { cookie: 1000, .. })) {
            break;
        }
        assert!(event.is_some());
    }
}

/// Empty packets announce a message and count once.
#[test]
fn empty_packets_do_not_use_up_the_grants() {
    let mut pair = Pair::new(16, Settings::default());
    let route = Route {
        source_port: CLIENT_PORT,
        dest_port: SERVER_PORT,
        sender_id: 0x7000,
        incarnation: 1,
    };
    let announce = Data {
        incoming: 40_000,
        ..Data::new(0, 500_000)
    };
    for _ in 0..50 {
        let packet = Header::emit(&route, &Packet::Data(announce)).to_vec();
        pair.send(CLIENT, Pair::addr(SERVER), 0, packet.into());
    }
    pair.request(vec![1; 500_000].into(), 0);
    let rpc = server_request(&mut pair);
    pair.reply(rpc, "done".into());
    assert!(client_event(&mut pair, SECOND).is_some());
    run(&mut pair, 2 * SECOND);
    assert_eq!(pair.engines[SERVER].granter.outstanding(), 0);
}

#[test]
fn a_closed_homa_port_refuses_at_once() {
    let mut pair = Pair::new(6, Settings::default());
    let now = pair.now;
    pair.engines[SERVER].close_port(now, SERVER_PORT);
    pair.request("anyone?".into(), 0);
    let Some(Event::Failed { failure, .. }) = client_event(&mut pair, SECOND) else {
        panic!()
    };
    let reason = Unreachable::HomaPort;
    assert_eq!(
        failure,
        Failure::Unreachable {
            reason,
            may_have_run: false
        }
    );
    assert!(pair.now.since(now) < Duration::from_millis(1));
    // A client's port takes responses only.
    let route = Route {
        source_port: SERVER_PORT,
        dest_port: CLIENT_PORT,
        sender_id: 0x1000,
        incarnation: 1,
    };
    let request = Data {
        incoming: 4,
        ..Data::new(0, 4)
    };
    let mut packet = Header::emit(&route, &Packet::Data(request)).to_vec();
    packet.extend_from_slice(b"ping");
    pair.send(SERVER, Pair::addr(CLIENT), 0, packet.into());
    run(&mut pair, SECOND);
    assert_eq!(pair.engines[CLIENT].counters().dropped(DropReason::Port), 1);
    assert_eq!(pair.engines[CLIENT].counters().sent(Kind::NoSuchPort), 1);
}

#[test]
fn packets_from_elsewhere_do_not_touch_an_rpc() {
    let mut pair = Pair::new(7, Settings::default());
    let rpc = pair.request("mine".into(), 0);
    server_request(&mut pair);
    let route = Route {
        source_port: SERVER_PORT,
        dest_port: CLIENT_PORT,
        sender_id: rpc.id() | 1,
        incarnation: 1,
    };
    let now = pair.now;
    let unknown = Packet::RpcUnknown(Unknown::default());
    for packet in [unknown, Packet::NoSuchPort, Packet::Busy] {
        let data = Bytes::copy_from_slice(&Header::emit(&route, &packet));
        let datagram = Datagram {
            from: "10.0.0.9:4000".parse().unwrap(),
            local: None,
            tos: 0,
            socket: Socket::Main,
            data,
        };
        pair.engines[CLIENT].handle_datagram(now, datagram);
    }
    assert_eq!(
        pair.engines[CLIENT].counters().dropped(DropReason::Source),
        3
    );
    assert_eq!(pair.engines[CLIENT].counters().live_rpcs, 1);
}

/// A cookie is returned only to an endpoint that we have an RPC with.
#[test]
fn cookies_are_echoed_for_live_rpcs_only() {
    let mut pair = Pair::new(8, Settings::default());
    let rpc = pair.request("mine".into(), 0);
    server_request(&mut pair);
    for (id, echoes) in [(rpc.id() | 1, 1), (0x7001, 1)] {
        let route = Route {
            source_port: SERVER_PORT,
            dest_port: CLIENT_PORT,
            sender_id: id,
            incarnation: 1,
        };
        let cookie = Packet::Cookie(Cookie { value: 77 });
        let data = Bytes::copy_from_slice(&Header::emit(&route, &cookie));
        pair.send(SERVER, Pair::addr(CLIENT), 0, data);
        run(&mut pair, Duration::from_millis(1));
        assert_eq!(
            pair.engines[CLIENT].counters().sent(Kind::CookieEcho),
            echoes
        );
    }
}

#[test]
fn a_cancelled_call_is_forgotten_by_both_sides() {
    let mut pair = Pair::new(9, Settings::default());
    for length in [100, 500_000] {
        let id = pair.request(vec![1; length].into(), 0);
        let rpc = server_request(&mut pair);
        let now = pair.now;
        pair.engines[CLIENT].cancel(now, id);
        pair.reply(rpc, vec![2; length].into());
        // A response that waits for grants asks for its client after a second.
        run(&mut pair, 2 * SECOND);
        assert!(pair.event(CLIENT).is_none());
        for engine in &pair.engines {
            assert_eq!(engine.counters().live_rpcs, 0);
            assert_eq!(engine.counters().pool_used, 0);
        }
    }
}

/// When receive memory is short, DATA is dropped, nothing fails, and all completes once there is
/// room again (statement 79). Short messages get through all the while.
#[test]
fn a_full_pool_delays_long_messages_and_spares_short_ones() {
    // Room for one of these, and for the unscheduled parts of some more.
    const LONG: u64 = 60;
    let settings = Settings {
        pool_bytes: 4_000_000,
        unsched_windows: 0,
        ..Settings::default()
    };
    let mut pair = Pair::new(10, settings);
    for number in 0..LONG {
        pair.request(vec![1; 1_000_000].into(), number);
    }
    let mut held = Vec::new();
    let until = pair.now + 3 * SECOND;
    while pair.step(until) {
        while let Some(Event::Request { rpc, charged, .. }) = pair.event(SERVER) {
            held.push((rpc, charged));
        }
    }
    assert_eq!(
        held.len(),
        1,
        "the application holds what there is room for"
    );
    assert!(pair.engines[SERVER].counters().dropped(DropReason::Pool) > 0);

    pair.request("short".into(), 99);
    let rpc = server_request(&mut pair);
    pair.reply(rpc, "done".into());
    let event = client_event(&mut pair, SECOND);
    assert!(
        matches!(event, Some(Event::Response { cookie: 99, .. })),
        "{event:?}"
    );

    let mut done = 0;
    while done < LONG {
        for (rpc, charged) in held.drain(..) {
            pair.engines[SERVER].release(charged);
            pair.reply(rpc, "ok".into());
        }
        let until = pair.now + SECOND;
        assert!(pair.step(until), "stalled after {done}");
        while let Some(Event::Request { rpc, charged, .. }) = pair.event(SERVER) {
            held.push((rpc, charged));
        }
        while let Some(event) = pair.event(CLIENT) {
            let Event::Response { charged, .. } = event else {
                panic!("{event:?}")
            };
            pair.engines[CLIENT].release(charged);
            done += 1;
        }
    }
}

#[test]
fn full_tables_refuse_and_hand_the_message_back() {
    let settings = Settings {
        max_rpcs: 3,
        max_rpcs_per_peer: 2,
        ..Settings::default()
    };
    let mut engine = Engine::new(settings, 1).unwrap();
    engine.open_port(CLIENT_PORT, false);
    let mut send = |host: u8| {
        let to = ([10, 0, 0, host], 4000).into();
        engine.send_request(Time::ZERO, CLIENT_PORT, to, 4000, Message::from("x"), 0)
    };
    assert!(send(1).is_ok() && send(1).is_ok());
    let Err(SendError::Busy {
        what,
        limit: 2,
        message,
    }) = send(1)
    else {
        panic!()
    };
    assert_eq!((what, message.len()), ("max_rpcs_per_peer", 1));
    assert!(send(2).is_ok());
    assert!(matches!(
        send(3),
        Err(SendError::Busy {
            what: "max_rpcs",
            limit: 3,
            ..
        })
    ));
}

/// Statement 63, and worse: packets of every kind with every field at its extremes, or random,
/// for RPCs in every state. Nothing panics, nothing grows, and the RPCs that are left work.
#[test]
fn hostile_packets_are_counted_and_harmless() {
    let settings = Settings {
        max_rpcs: 60,
        max_rpcs_per_peer: 12,
        ..Settings::default()
    };
    let mut pair = Pair::new(11, settings);
    let mut random = Random::new(11);
    let mut held = Vec::new();
    for round in 0..60_000u32 {
        if round % 50 == 0 {
            let length = random.log_uniform(300_000) as usize;
            let to = Pair::addr(SERVER);
            let now = pair.now;
            let message = vec![3; length].into();
            drop(pair.engines[CLIENT].send_request(now, CLIENT_PORT, to, SERVER_PORT, message, 0));
        }
        if round % 5000 == 0 {
            flood_of_requests(&mut pair, u64::from(round));
        }
        let side = (random.next() & 1) as usize;
        let packet = hostile(&mut random, &pair, side);
        let datagram = Datagram {
            from: Pair::addr(1 - side),
            local: None,
            tos: 0,
            socket: if random.percent(50) {
                Socket::Main
            } else {
                Socket::Bulk
            },
            data: packet,
        };
        let now = pair.now;
        pair.engines[side].handle_datagram(now, datagram);
        if round % 20 == 0 {
            drain_carelessly(&mut pair, &mut random, &mut held);
        }
        for engine in &pair.engines {
            assert!(engine.rpcs.len() <= 60);
            assert!(engine.control.len() <= 20_000);
        }
    }
    let dropped = |reason| -> u64 {
        pair.engines
            .iter()
            .map(|engine| engine.counters().dropped(reason))
            .sum()
    };
    use DropReason::*;
    for reason in [
        Short, Kind, Marker, Version, Length, Offset, Port, UnknownRpc, Source, State, Duplicate,
        Finished, RpcLimit, Freeze, Id,
    ] {
        assert!(dropped(reason) > 0, "{reason:?} was never the reason");
    }
    // The dust settles, and a call works.
    for (rpc, charged) in held {
        pair.engines[SERVER].release(charged);
        pair.reply(rpc, "late".into());
    }
    for _ in 0..40 {
        let until = pair.now + SECOND;
        while step_blindly(&mut pair, until) {}
        while let Some(event) = pair.event(SERVER) {
            if let Event::Request { rpc, charged, .. } = event {
                pair.engines[SERVER].release(charged);
                pair.reply(rpc, "late".into());
            }
        }
        while let Some(event) = pair.event(CLIENT) {
            if let Event::Response { charged, .. } = event {
                pair.engines[CLIENT].release(charged);
            }
        }
    }
    for engine in &pair.engines {
        let counters = engine.counters();
        assert_eq!((counters.live_rpcs, counters.pool_used), (0, 0));
    }
    for engine in &pair.engines {
        assert_eq!(engine.granter.outstanding(), 0);
    }
    pair.request(vec![1; 300_000].into(), 1);
    let rpc = server_request(&mut pair);
    pair.reply(rpc, "yes".into());
    let event = client_event(&mut pair, SECOND);
    assert!(
        matches!(event, Some(Event::Response { cookie: 1, .. })),
        "{event:?}"
    );
}

/// The first packets of more requests than one peer may have.
fn flood_of_requests(pair: &mut Pair, first: u64) {
    for number in 0..20 {
        let route = Route {
            source_port: CLIENT_PORT,
            dest_port: SERVER_PORT,
            sender_id: 0x10_0000 + 2 * (first + number),
            incarnation: 1,
        };
        let mut packet = Header::emit(&route, &Packet::Data(Data::new(0, 5000))).to_vec();
        packet.resize(1000, 1);
        let datagram = Datagram {
            from: Pair::addr(CLIENT),
            local: None,
            tos: 0,
            socket: Socket::Main,
            data: packet.into(),
        };
        let now = pair.now;
        pair.engines[SERVER].handle_datagram(now, datagram);
    }
}

/// A packet that `side` should survive: a valid one of some live RPC with a few fields bent.
fn hostile(random: &mut Random, pair: &Pair, side: usize) -> Bytes {
    let any = Kind::ALL[random.below(Kind::ALL.len() as u64) as usize];
    let kind = if random.percent(40) { Kind::Data } else { any };
    let live: Vec<u64> = pair.engines[side]
        .rpcs
        .iter()
        .map(|(_, rpc)| rpc.id ^ 1)
        .collect();
    let id = if live.is_empty() || random.percent(30) {
        random.below(1 << 12)
    } else {
        live[random.below(live.len() as u64) as usize]
    };
    let ports = [CLIENT_PORT, SERVER_PORT];
    let route = Route {
        source_port: ports[1 - side],
        dest_port: ports[side],
        sender_id: id,
        incarnation: random.next() as u32 & 0xff_ffff,
    };
    let mut packet = Header::emit(&route, &Packet::Busy).to_vec();
    packet.resize(kind.header_len() + random.below(3) as usize * 700, 0);
    packet[11] = kind as u8;
    for byte in &mut packet[28..] {
        *byte = random.next() as u8;
    }
    if random.percent(70) {
        // Plausible numbers, so that more than the first check is reached.
        for at in [28, 32, 52] {
            if at + 4 <= packet.len() {
                let value = match random.below(6) {
                    0 => 0,
                    1 => u32::MAX,
                    2 => 1_000_000,
                    3 => i32::MAX as u32,
                    _ => random.log_uniform(400_000) as u32,
                };
                packet[at..at + 4].copy_from_slice(&value.to_be_bytes());
            }
        }
    }
    match random.below(12) {
        0 => packet.truncate(random.below(packet.len() as u64) as usize),
        1 => packet[random.below(28) as usize] ^= 1 << random.below(8),
        2 => packet[14] = 1,
        _ => {}
    }
    packet.into()
}

/// The engines' packets go nowhere in particular: this is about what comes in.
fn drain_carelessly(
    pair: &mut Pair,
    random: &mut Random,
    held: &mut Vec<(crate::engine::RpcId, usize)>,
) {
    pair.now += Duration::from_millis(random.below(20));
    let now = pair.now;
    for engine in &mut pair.engines {
        if random.percent(50) {
            engine.handle_timeout(now);
        }
        for _ in 0..random.below(200) {
            drop(engine.poll_transmit(now, 64));
        }
    }
    while let Some(event) = pair.event(SERVER) {
        if let Event::Request { rpc, charged, .. } = event {
            held.push((rpc, charged));
        }
    }
    if random.percent(50)
        && let Some((rpc, charged)) = held.pop()
    {
        pair.engines[SERVER].release(charged);
        pair.reply(rpc, vec![4; random.log_uniform(300_000) as usize].into());
    }
    while let Some(event) = pair.event(CLIENT) {
        if let Event::Response { charged, .. } = event {
            pair.engines[CLIENT].release(charged);
        }
    }
}

/// Like [`Pair::step`], for engines that were told lies about ports: such packets are lost.
fn step_blindly(pair: &mut Pair, until: Time) -> bool {
    for side in [CLIENT, SERVER] {
        while let Some(transmit) = pair.engines[side].poll_transmit(pair.now, 64) {
            if transmit.to == Pair::addr(1 - side) {
                for packet in super::pair::packets(&transmit) {
                    pair.send(side, transmit.to, transmit.tos, packet);
                }
            }
        }
    }
    pair.step_quietly(until)
}

#[test]
fn a_resend_for_everything_is_answered_once_per_packet() {
    let mut pair = Pair::new(12, Settings::default());
    let id = pair.request(vec![5; 30_000].into(), 0);
    server_request(&mut pair);
    let route = Route {
        source_port: SERVER_PORT,
        dest_port: CLIENT_PORT,
        sender_id: id.id() | 1,
        incarnation: 1,
    };
    let resend = Packet::Resend(Resend {
        offset: 0,
        length: Resend::ALL,
        priority: 200,
    });
    for _ in 0..100 {
        let data = Bytes::copy_from_slice(&Header::emit(&route, &resend));
        let now = pair.now;
        let datagram = Datagram {
            from: Pair::addr(SERVER),
            local: None,
            tos: 0,
            socket: Socket::Main,
            data,
        };
        pair.engines[CLIENT].handle_datagram(now, datagram);
    }
    pair.flush();
    assert_eq!(
        pair.engines[CLIENT].counters().retransmitted,
        30_000u64.div_ceil(1416)
    );
}
