//! What an engine's state occupies: bytes asked of the allocator, rounding and its own
//! book-keeping aside.
//!
//! ```console
//! $ cargo bench -p homa-client --bench memory
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use allocation_counter::measure;
use bytes::{Bytes, BytesMut};
use homa_client::engine::wire::{Ack, Data, Header, Packet, Route};
use homa_client::engine::{Datagram, Engine, Event, Settings, Socket, Time};

const PEERS: u32 = 100_000;
const RPCS: u32 = 10_000;
const CLIENT_PORT: u16 = 40_000;
const SERVER_PORT: u16 = 4000;

fn addr(number: u32) -> SocketAddr {
    let [_, high, middle, low] = number.to_be_bytes();
    ([10, high, middle, low], 7000).into()
}

fn hear(
    engine: &mut Engine,
    now: Time,
    from: SocketAddr,
    id: u64,
    packet: &Packet,
    payload: &[u8],
) {
    let client = id.is_multiple_of(2);
    let ports = [CLIENT_PORT, SERVER_PORT];
    let route = Route {
        source_port: ports[usize::from(!client)],
        dest_port: ports[usize::from(client)],
        sender_id: id,
        incarnation: 1,
    };
    let mut data = BytesMut::from(&Header::emit(&route, packet)[..]);
    data.extend_from_slice(payload);
    let dropped = engine.handle_datagram(
        now,
        Datagram {
            from,
            local: None,
            tos: 0,
            socket: Socket::Main,
            data: data.freeze(),
        },
    );
    assert_eq!(dropped, None);
}

fn data(length: u32) -> Packet {
    Packet::Data(Data {
        incoming: length,
        ..Data::new(0, length)
    })
}

fn engine() -> Engine {
    let mut settings = Settings::default();
    settings.max_peers = PEERS as usize;
    let mut engine = Engine::new(settings, 1).unwrap();
    engine.open_port(CLIENT_PORT, false);
    engine.open_port(SERVER_PORT, true);
    engine
}

/// Hands over the request that has come, and answers it with `reply`.
fn answer(engine: &mut Engine, now: Time, reply: &Bytes) {
    let Some(Event::Request { rpc, charged, .. }) = engine.poll_event(now) else {
        unreachable!("a whole request has come");
    };
    engine.release(charged);
    engine.send_reply(now, rpc, reply.clone().into()).unwrap();
    while engine.poll_transmit(now, 64).is_some() {}
}

/// A call from each of many peers, all over and forgotten.
fn idle_peers(reply: &Bytes) -> Engine {
    let mut engine = engine();
    let mut now = Time::ZERO;
    for number in 0..PEERS {
        now += Duration::from_micros(10);
        hear(&mut engine, now, addr(number), 2, &data(1), b"?");
        answer(&mut engine, now, reply);
        hear(
            &mut engine,
            now,
            addr(number),
            2,
            &Packet::Ack(Ack::default()),
            b"",
        );
    }
    for _ in 0..20 {
        now += Duration::from_secs(1);
        engine.handle_timeout(now);
    }
    let counters = engine.counters();
    assert_eq!((counters.live_peers, counters.live_rpcs), (PEERS.into(), 0));
    engine
}

/// Calls of ours that wait for their responses.
fn calling(request: &Bytes) -> Engine {
    let mut engine = engine();
    for number in 0..RPCS {
        let (now, to) = (Time::ZERO, addr(number % 1000));
        engine
            .send_request(now, CLIENT_PORT, to, SERVER_PORT, request.clone().into(), 0)
            .unwrap();
        while engine.poll_transmit(now, 64).is_some() {}
    }
    engine
}

/// Requests of which the first packet has come.
fn arriving(payload: &[u8]) -> Engine {
    let mut engine = engine();
    for number in 0..RPCS {
        let id = 2 * u64::from(number) + 2;
        hear(
            &mut engine,
            Time::ZERO,
            addr(number % 1000),
            id,
            &data(2000),
            payload,
        );
        while engine.poll_transmit(Time::ZERO, 64).is_some() {}
    }
    engine
}

/// Answered requests that wait for their acks.
fn replying(reply: &Bytes) -> Engine {
    let mut engine = engine();
    for number in 0..RPCS {
        let id = 2 * u64::from(number) + 2;
        hear(
            &mut engine,
            Time::ZERO,
            addr(number % 1000),
            id,
            &data(1),
            b"?",
        );
        answer(&mut engine, Time::ZERO, reply);
    }
    engine
}

/// Bytes that `make` leaves allocated.
fn bytes_of(make: impl FnOnce() -> Engine) -> i64 {
    let mut engine = None;
    let info = measure(|| engine = Some(make()));
    info.bytes_current
}

fn main() {
    let mut failed = false;
    let mut report = |what: &str, value: i64, goal: i64, unit: &str| {
        let verdict = if value <= goal { "ok" } else { "MISSED" };
        println!("{what:<42} {value:>10} {unit}   goal: at most {goal} {unit}   {verdict}");
        failed |= value > goal;
    };
    let payload = Bytes::from(vec![7; 1000]);
    let peers = bytes_of(|| idle_peers(&payload));
    report(
        "an idle peer, of 100,000",
        peers / i64::from(PEERS),
        512,
        "B",
    );
    report("100,000 idle peers", peers >> 10, 64 << 10, "KiB");
    let rpc = |bytes: i64, payload: i64| bytes / i64::from(RPCS) - payload;
    report(
        "a call that waits, beyond its payload",
        rpc(bytes_of(|| calling(&payload)), 0),
        1024,
        "B",
    );
    // The buffer with the packet is held as it came.
    let arrived = rpc(bytes_of(|| arriving(&payload)), 1000);
    report(
        "an arriving request, beyond its payload",
        arrived,
        1024,
        "B",
    );
    let replied = rpc(bytes_of(|| replying(&payload)), 0);
    report(
        "a reply that waits for its ack, likewise",
        replied,
        1024,
        "B",
    );
    if failed {
        std::process::exit(1);
    }
}
