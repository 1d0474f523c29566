//! What an engine tells of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use super::behaviour::{client_event, run, server_request};
use super::pair::{CLIENT, Pair, SERVER};
use crate::engine::{Event, Settings};

const SECOND: Duration = Duration::from_secs(1);

fn rows(pair: &Pair, side: usize) -> BTreeMap<String, u64> {
    let rows = pair.engines[side].counters().rows();
    let count = rows.len();
    let map: BTreeMap<_, _> = rows.into_iter().collect();
    assert_eq!(map.len(), count, "a name stands twice");
    map
}

#[test]
fn a_snapshot_shows_where_each_rpc_stands() {
    let mut pair = Pair::new(1, Settings::default());
    pair.request(vec![1; 300_000].into(), 0);
    let until = pair.now + Duration::from_micros(35);
    while pair.step(until) {}
    let [client] = &pair.engines[CLIENT].snapshot(pair.now)[..] else {
        panic!("one RPC")
    };
    let [server] = &pair.engines[SERVER].snapshot(pair.now)[..] else {
        panic!("one RPC")
    };
    assert_eq!((client.state, server.state), ("calling", "arriving"));
    assert_eq!(
        (client.id ^ 1, client.peer_port),
        (server.id, server.local_port)
    );
    assert!(client.age >= server.age && server.age > Duration::ZERO);
    let (out, into) = (client.outgoing.unwrap(), server.incoming.unwrap());
    assert_eq!((out.length, into.length), (300_000, 300_000));
    assert!(into.received <= out.sent && out.sent <= into.granted);
    assert_eq!(into.received, into.contiguous);
    assert_eq!(rows(&pair, SERVER)["queued_granting"], 1);

    server_request(&mut pair);
    run(&mut pair, SECOND / 10);
    let [client] = &pair.engines[CLIENT].snapshot(pair.now)[..] else {
        panic!("one RPC")
    };
    // Asked, and told that the server is at work: not silent since long.
    assert!(client.silence > Duration::ZERO && client.silence < SECOND / 10);
    assert_eq!(
        pair.engines[SERVER].snapshot(pair.now)[0].state,
        "in service"
    );
}

#[test]
fn bytes_are_counted_by_level_and_queues_are_empty_in_the_end() {
    let settings = Settings {
        boost_tail: false,
        ..Settings::default()
    };
    let mut pair = Pair::new(2, settings);
    for round in 0..2 {
        pair.request(vec![1; 100].into(), round);
        let rpc = server_request(&mut pair);
        pair.reply(rpc, vec![2; 100_000].into());
        let event = client_event(&mut pair, SECOND);
        let Some(Event::Response { charged, .. }) = event else {
            panic!("{event:?}")
        };
        pair.engines[CLIENT].release(charged);
    }
    run(&mut pair, SECOND);
    let [client, server] = [CLIENT, SERVER].map(|side| rows(&pair, side));
    // The first goes at level 6, before the server has told its table; then 100 B are level 7.
    assert_eq!((client["bytes_sent.6"], client["bytes_sent.7"]), (100, 100));
    // The unscheduled part of 100,000 B is level 4, the rest one of the lower ones.
    assert_eq!(server["bytes_sent.6"] + server["bytes_sent.4"], 80_000);
    let scheduled: u64 = (0..4)
        .map(|level| server[&format!("bytes_sent.{level}")])
        .sum();
    assert_eq!(scheduled, 120_000);
    assert_eq!(
        (server["bytes_received"], client["bytes_received"]),
        (200, 200_000)
    );
    assert_eq!(server["sent.GRANT"], 0);
    assert_eq!(client["sent.GRANT"], server["received.GRANT"]);
    for rows in [client, server] {
        for (name, value) in rows {
            if name.starts_with("queued") || name.ends_with("_used") || name == "live_rpcs" {
                assert_eq!(value, 0, "{name}");
            }
        }
    }
}
