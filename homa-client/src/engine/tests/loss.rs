//! Every RPC completes, byte for byte and once, whatever the network does.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;

use super::pair::{CLIENT, CLIENT_PORT, Fate, Faults, Pair, SERVER, SERVER_PORT};
use crate::Message;
use crate::engine::wire::{Header, Kind, Packet, Route};
use crate::engine::{Event, RpcId, Settings, Time};

/// Bytes that tell from which message and place they come.
fn pattern(seed: u64, len: u64) -> Bytes {
    (0..len)
        .map(|at| (seed.wrapping_mul(0x9e37_79b9) >> 8 ^ at ^ at >> 8 ^ at >> 16) as u8)
        .collect()
}

/// A rope of a few parts, cut at odd places.
fn rope(seed: u64, len: u64) -> Message {
    let mut rest = pattern(seed, len);
    let mut message = Message::new();
    for cut in [7, 100, 5000] {
        if rest.len() > cut && !seed.is_multiple_of(3) {
            message.push(rest.split_to(cut));
        }
    }
    message.push(rest);
    message
}

struct Rpc {
    request: u64,
    response: u64,
    /// How long the server takes.
    think: Duration,
}

const SESSIONS: u64 = 20;
const RPCS_PER_SESSION: u64 = 50;
const IN_FLIGHT: usize = 32;

/// 1,000 RPCs of 1 to 1,000,000 B both ways through 10 % loss, doubling and reordering. New
/// engines from time to time, since CUTOFFS are sent at first contact only.
#[test]
fn every_rpc_completes_through_loss_doubling_and_reordering() {
    let mut fates = [Fate::default(); Kind::ALL.len()];
    let mut time = Duration::ZERO;
    for seed in 0..SESSIONS {
        let mut pair = Pair::new(seed, Settings::default());
        pair.faults = Faults {
            loss: 10,
            double: 8,
            reorder: 8,
        };
        session(&mut pair);
        time += pair.now.since(Time::ZERO);
        for (sum, fate) in fates.iter_mut().zip(pair.fates) {
            sum.delivered += fate.delivered;
            sum.lost += fate.lost;
            sum.doubled += fate.doubled;
            sum.reordered += fate.reordered;
        }
        settle(&mut pair);
    }
    println!(
        "{} RPCs took {time:?} of fake time",
        SESSIONS * RPCS_PER_SESSION
    );
    for kind in Kind::ALL {
        let fate = fates[kind.index()];
        println!("{kind:?}: {fate:?}");
        if (kind as u8) < 0x20 {
            assert!(
                fate.lost > 0 && fate.doubled > 0 && fate.reordered > 0,
                "{kind:?}: {fate:?}"
            );
        }
    }
    // What is asked for again is about what was lost or overtaken.
    let [data, resend] = [Kind::Data, Kind::Resend].map(|kind| fates[kind.index()]);
    assert!(resend.delivered < 3 * (data.lost + data.reordered));
}

/// Runs the RPCs of one session to their end, and checks every byte.
fn session(pair: &mut Pair) {
    let rpcs: Vec<Rpc> = (0..RPCS_PER_SESSION)
        .map(|number| Rpc {
            request: pair.random.log_uniform(1_000_000),
            response: pair.random.log_uniform(1_000_000),
            // Every eighth is slow enough to be asked for its response.
            think: Duration::from_micros(if number % 8 == 0 { 35_000 } else { number % 50 }),
        })
        .collect();
    let mut live: HashMap<u64, u64> = HashMap::new();
    let mut replies: BTreeMap<(Time, u64), RpcId> = BTreeMap::new();
    let mut executed: HashSet<u64> = HashSet::new();
    let mut done = 0;
    let mut started = 0;
    let limit = Time::ZERO + Duration::from_secs(60);
    while done < RPCS_PER_SESSION {
        while live.len() < IN_FLIGHT && started < RPCS_PER_SESSION {
            let rpc = pair.request(rope(started, rpcs[started as usize].request), started);
            live.insert(rpc.id(), started);
            started += 1;
            inject_freeze(pair);
        }
        let until = replies.keys().next().map_or(limit, |(at, _)| *at);
        assert!(
            pair.step(until) || until < limit,
            "stalled with {} RPCs",
            live.len()
        );
        while let Some(event) = pair.event(SERVER) {
            let Event::Request {
                rpc,
                message,
                charged,
                ..
            } = event
            else {
                panic!("{event:?}");
            };
            let number = live[&(rpc.id() ^ 1)];
            assert!(executed.insert(number), "RPC {number} ran twice");
            assert!(message.into_bytes() == pattern(number, rpcs[number as usize].request));
            pair.engines[SERVER].release(charged);
            replies.insert((pair.now + rpcs[number as usize].think, number), rpc);
        }
        while let Some(entry) = replies.first_entry() {
            let (at, number) = *entry.key();
            if at > pair.now {
                break;
            }
            let rpc = entry.remove();
            let response = rpcs[number as usize].response;
            pair.reply(rpc, rope(!number, response));
        }
        while let Some(event) = pair.event(CLIENT) {
            let Event::Response {
                rpc,
                cookie,
                message,
                charged,
            } = event
            else {
                panic!("{event:?}");
            };
            assert_eq!(live.remove(&rpc.id()), Some(cookie));
            let expect = pattern(!cookie, rpcs[cookie as usize].response);
            assert!(message.into_bytes() == expect);
            pair.engines[CLIENT].release(charged);
            done += 1;
        }
    }
}

/// All state goes, and in bounded time: acks are asked for until they come.
fn settle(pair: &mut Pair) {
    let settled = pair.now + Duration::from_secs(30);
    while pair.step(settled) {}
    for (side, engine) in pair.engines.iter().enumerate() {
        let counters = engine.counters();
        assert_eq!(
            (counters.live_rpcs, counters.pool_used),
            (0, 0),
            "side {side}"
        );
        assert_eq!(counters.timeouts, 0, "side {side}");
        assert_eq!(engine.send_used, 0, "side {side}");
    }
}

/// Nobody sends FREEZE but a debugging kernel.
fn inject_freeze(pair: &mut Pair) {
    let route = Route {
        source_port: CLIENT_PORT,
        dest_port: SERVER_PORT,
        sender_id: 0x1000,
        incarnation: 1,
    };
    let header = Header::emit(&route, &Packet::Freeze);
    pair.send(
        CLIENT,
        Pair::addr(SERVER),
        0,
        Bytes::copy_from_slice(&header),
    );
}

/// Without loss nothing is sent twice, and a short RPC is one packet each way.
#[test]
fn a_clean_network_sees_no_repetition() {
    let mut pair = Pair::new(2, Settings::default());
    for (number, length) in [100, 100, 40_000, 40_001, 1_000_000]
        .into_iter()
        .enumerate()
    {
        let before = pair.fates;
        pair.request(rope(number as u64, length), number as u64);
        let response = loop {
            assert!(pair.step(pair.now + Duration::from_secs(1)));
            if let Some(Event::Request {
                rpc,
                message,
                charged,
                ..
            }) = pair.event(SERVER)
            {
                pair.engines[SERVER].release(charged);
                pair.reply(rpc, message);
            }
            if let Some(Event::Response {
                message, charged, ..
            }) = pair.event(CLIENT)
            {
                pair.engines[CLIENT].release(charged);
                break message;
            }
        };
        assert!(response.into_bytes() == pattern(number as u64, length));
        if number == 1 {
            let data = Kind::Data.index();
            assert_eq!(pair.fates[data].delivered - before[data].delivered, 2);
        }
    }
    for engine in &pair.engines {
        let counters = engine.counters();
        assert_eq!(counters.retransmitted, 0);
        assert_eq!(counters.sent(Kind::Resend), 0);
        assert_eq!(counters.sent(Kind::Cutoffs), 1);
    }
    // Scheduled data has moved to the bulk sockets.
    for side in [CLIENT, SERVER] {
        let peer = pair.engines[side].peers.find(Pair::addr(1 - side)).unwrap();
        assert_ne!(pair.engines[side].peers.get(peer).bulk_port, 0);
    }
}
