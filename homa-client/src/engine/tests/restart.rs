//! Either side is replaced by another process in the middle of its RPCs.

use std::time::Duration;

use super::behaviour::{client_event, run, server_request};
use super::pair::{CLIENT, CLIENT_PORT, Pair, SERVER, SERVER_PORT};
use crate::engine::wire::Kind;
use crate::engine::{Engine, Event, Failure, Settings};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_restarted_server_fails_the_call_instead_of_running_it_twice() {
    let mut pair = Pair::new(5, Settings::default());
    // The client gets to know the server's incarnation.
    pair.request("first".into(), 0);
    let rpc = server_request(&mut pair);
    pair.reply(rpc, "done".into());
    assert!(matches!(
        client_event(&mut pair, SECOND),
        Some(Event::Response { .. })
    ));

    pair.request("second".into(), 0);
    server_request(&mut pair);
    replace_server(&mut pair);
    let event = client_event(&mut pair, SECOND);
    assert!(
        matches!(
            event,
            Some(Event::Failed {
                failure: Failure::PeerRestarted,
                ..
            })
        ),
        "{event:?}"
    );
    assert!(pair.event(SERVER).is_none());
}

/// The same at first contact: whoever has said anything about the RPC is the one that may have run
/// it.
#[test]
fn a_server_that_restarts_after_its_first_sign_of_life_is_noticed() {
    let mut pair = Pair::new(13, Settings::default());
    pair.request("first".into(), 0);
    server_request(&mut pair);
    // It is asked, and says that it is busy.
    run(&mut pair, Duration::from_millis(15));
    assert_eq!(pair.engines[SERVER].counters().sent(Kind::Busy), 1);
    replace_server(&mut pair);
    let event = client_event(&mut pair, SECOND);
    assert!(
        matches!(
            event,
            Some(Event::Failed {
                failure: Failure::PeerRestarted,
                ..
            })
        ),
        "{event:?}"
    );
    assert!(pair.event(SERVER).is_none());
}

/// ... and when a part of the response has arrived already.
#[test]
fn a_restart_amid_a_response_is_noticed_at_once() {
    let mut pair = Pair::new(14, Settings::default());
    pair.request("first".into(), 0);
    let rpc = server_request(&mut pair);
    pair.reply(rpc, vec![1; 500_000].into());
    // The unscheduled part, and the first grant.
    let until = pair.now + Duration::from_micros(15);
    while pair.step(until) {}
    replace_server(&mut pair);
    let start = pair.now;
    let event = client_event(&mut pair, SECOND);
    assert!(
        matches!(
            event,
            Some(Event::Failed {
                failure: Failure::PeerRestarted,
                ..
            })
        ),
        "{event:?}"
    );
    assert!(pair.now.since(start) < Duration::from_millis(50));
}

/// Even one that never said a word: the new one is younger than the request.
#[test]
fn a_restart_at_first_contact_is_noticed_by_age() {
    let mut pair = Pair::new(16, Settings::default());
    pair.now += SECOND;
    pair.request("first".into(), 0);
    server_request(&mut pair);
    pair.now += SECOND / 10;
    replace_server(&mut pair);
    let event = client_event(&mut pair, SECOND);
    let restarted = Failure::PeerRestarted;
    assert!(
        matches!(&event, Some(Event::Failed { failure, .. }) if *failure == restarted),
        "{event:?}"
    );
    assert!(pair.event(SERVER).is_none());
}

/// One that was there all the time just never got it.
#[test]
fn a_lost_first_request_is_repeated_to_a_server_that_is_older() {
    let mut pair = Pair::new(17, Settings::default());
    pair.now += SECOND;
    replace_server(&mut pair);
    pair.now += SECOND / 100;
    pair.faults.loss = 100;
    pair.request("first".into(), 0);
    pair.flush();
    pair.faults.loss = 0;
    let rpc = server_request(&mut pair);
    pair.reply(rpc, "done".into());
    let event = client_event(&mut pair, SECOND);
    assert!(matches!(event, Some(Event::Response { .. })), "{event:?}");
}

fn replace_server(pair: &mut Pair) {
    let mut next = Engine::new(Settings::default(), 999).unwrap();
    next.open_port(SERVER_PORT, true);
    next.set_born(pair.now);
    pair.engines[SERVER] = next;
}

/// A client that comes back under the same address does not know the RPCs of its former life, and
/// says so: what the server holds for them is freed at once.
#[test]
fn a_client_that_restarts_frees_its_server() {
    let mut pair = Pair::new(20, Settings::default());
    for length in [100, 500_000] {
        // One that is still arriving, one in service, one answered and one half answered.
        pair.request(vec![1; 900_000].into(), 0);
        let held = pair.request("in service".into(), 1);
        let rpc = server_request(&mut pair);
        assert_eq!(rpc.id() ^ 1, held.id());
        pair.request("to be answered".into(), 2);
        let answered = server_request(&mut pair);
        pair.reply(answered, vec![2; length].into());
        pair.flush();

        let mut next = Engine::new(Settings::default(), 1000 + length as u64).unwrap();
        next.open_port(CLIENT_PORT, false);
        pair.engines[CLIENT] = next;
        run(&mut pair, SECOND + SECOND / 5);
        assert_eq!(
            pair.engines[SERVER].counters().live_rpcs,
            1,
            "only what the application has is left"
        );
        pair.reply(rpc, "too late".into());
        run(&mut pair, SECOND / 10);
        let counters = pair.engines[SERVER].counters();
        assert_eq!((counters.live_rpcs, counters.pool_used), (0, 0));
        assert!(pair.event(CLIENT).is_none());
    }
}
