//! No receive memory: DATA is dropped, nothing times out, and what is shortest is asked for first
//! when memory returns (statement 79).

use std::time::Duration;

use super::pair::{CLIENT, Pair, SERVER};
use crate::engine::wire::Kind;
use crate::engine::{DropReason, Event, RpcId, Settings};

const SECOND: Duration = Duration::from_secs(1);

/// Room for the four longest messages; starts may take half of it.
fn tight() -> Settings {
    Settings {
        pool_bytes: 4_000_000,
        unsched_windows: 0,
        ..Settings::default()
    }
}

/// The requests that the server gets until `time` has passed.
fn requests(pair: &mut Pair, time: Duration) -> Vec<(RpcId, usize, usize)> {
    let mut got = Vec::new();
    let until = pair.now + time;
    loop {
        while let Some(event) = pair.event(SERVER) {
            let Event::Request {
                rpc,
                message,
                charged,
                ..
            } = event
            else {
                panic!("{event:?}")
            };
            got.push((rpc, message.len(), charged));
        }
        if !pair.step(until) {
            return got;
        }
    }
}

/// Requests of 39,000 B that the application does not drop: all that starts may take.
fn fill(pair: &mut Pair) -> Vec<(RpcId, usize, usize)> {
    for number in 0..45 {
        pair.request(vec![1; 39_000].into(), number);
    }
    let held = requests(pair, SECOND / 100);
    assert_eq!(held.len(), 45);
    held
}

#[test]
fn the_shortest_is_asked_for_first_when_memory_returns() {
    let mut pair = Pair::new(1, tight());
    let held = fill(&mut pair);
    for length in [30_000, 10_000, 20_000, 39_000] {
        pair.request(vec![2; length].into(), 100);
    }
    // Longer than any timeout: they wait, and nobody gives up.
    assert!(requests(&mut pair, 5 * SECOND).is_empty());
    assert!(pair.event(CLIENT).is_none());
    assert!(pair.engines[SERVER].counters().dropped(DropReason::Pool) > 0);
    assert_eq!(pair.engines[SERVER].counters().sent(Kind::Resend), 0);

    let mut order = Vec::new();
    for (_, _, charged) in held {
        pair.engines[SERVER].release(charged);
        for (_, length, _) in requests(&mut pair, SECOND / 1000) {
            order.push(length);
        }
    }
    assert_eq!(order, [10_000, 20_000, 30_000, 39_000]);
    assert_eq!(pair.engines[SERVER].counters().sent(Kind::Resend), 4);
}

/// A client whose response finds no room keeps its server, and gets the response later.
#[test]
fn a_response_waits_for_memory_without_losing_its_server() {
    let mut pair = Pair::new(2, Settings::default());
    pair.engines[CLIENT] = crate::engine::Engine::new(tight(), 5).unwrap();
    pair.engines[CLIENT].open_port(super::pair::CLIENT_PORT, false);
    let mut held = Vec::new();
    for number in 0..60 {
        pair.request("give me much".into(), number);
        for (rpc, _, charged) in requests(&mut pair, SECOND / 1000) {
            pair.engines[SERVER].release(charged);
            pair.reply(rpc, vec![3; 39_000].into());
        }
        requests(&mut pair, SECOND / 1000);
        while let Some(event) = pair.event(CLIENT) {
            let Event::Response { charged, .. } = event else {
                panic!("{event:?}")
            };
            held.push(charged);
        }
    }
    assert!((40..60).contains(&held.len()), "{}", held.len());
    // Longer than a server waits for a client that is gone.
    requests(&mut pair, 15 * SECOND);
    assert!(pair.event(CLIENT).is_none());
    let mut done = held.len();
    for charged in held {
        pair.engines[CLIENT].release(charged);
        requests(&mut pair, SECOND / 1000);
        while let Some(event) = pair.event(CLIENT) {
            let Event::Response { charged, .. } = event else {
                panic!("{event:?}")
            };
            pair.engines[CLIENT].release(charged);
            done += 1;
        }
    }
    assert_eq!(done, 60);
    requests(&mut pair, 3 * SECOND);
    for engine in &pair.engines {
        assert_eq!(engine.counters().live_rpcs, 0);
        assert_eq!(engine.counters().pool_used, 0);
    }
}

/// Whoever vanishes while its request waits leaves nothing behind.
#[test]
fn a_client_that_vanishes_meanwhile_is_forgotten() {
    let mut pair = Pair::new(3, tight());
    let held = fill(&mut pair);
    for number in 0..20 {
        pair.request(vec![2; 30_000].into(), number);
    }
    requests(&mut pair, SECOND / 10);
    let live = |pair: &Pair| pair.engines[SERVER].counters().live_rpcs as usize;
    assert_eq!(live(&pair), held.len() + 20);
    pair.faults.loss = 100;
    requests(&mut pair, 2 * SECOND);
    assert_eq!(live(&pair), held.len());
    for (rpc, _, charged) in held {
        pair.engines[SERVER].release(charged);
        let now = pair.now;
        pair.engines[SERVER].cancel(now, rpc);
    }
    assert_eq!(pair.engines[SERVER].counters().pool_used, 0);
    assert!(pair.engines[SERVER].starved.is_empty());
}
