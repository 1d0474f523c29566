//! Blocking handles: who waits receives for all, and the background thread where nobody waits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use homa_client::engine::wire::Kind;
use homa_client::{CallError, Client, Config, Faults, Message, Server, blocking};

/// Settings of its own make an endpoint of its own: tests of one process share the others.
fn config(number: usize) -> Config {
    let mut config = Config::default();
    config.protocol.max_peers = 2000 + number;
    config
}

fn localhost() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// Answers with what came, on `threads` threads, until it is shut down.
fn echo(config: &Config, threads: usize) -> (Arc<blocking::Server>, Vec<JoinHandle<usize>>) {
    let server = Arc::new(blocking::Server::bind(localhost(), config).unwrap());
    let serve = || {
        let server = server.clone();
        thread::spawn(move || {
            let mut served = 0;
            while let Some(request) = server.accept() {
                served += 1;
                let (message, responder) = request.into_parts();
                responder.reply(message).unwrap();
            }
            served
        })
    };
    let threads = (0..threads).map(|_| serve()).collect();
    (server, threads)
}

/// Different for each call and each byte of it.
fn body(caller: usize, round: usize) -> Vec<u8> {
    let mut random = random_words((caller * 1_000_003 + round) as u64);
    let len = match random() % 20 {
        0 => 1 + random() % 60_000,
        1..5 => 1 + random() % 5_000,
        _ => 1 + random() % 200,
    };
    (0..len).map(|_| random() as u8).collect()
}

/// A small generator that repeats with its seed (SplitMix64).
fn random_words(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

fn call_and_check(client: &blocking::Client, to: SocketAddr, caller: usize, round: usize) {
    let body = body(caller, round);
    let response = client.call(to, body.clone().into()).unwrap();
    assert!(response.into_bytes() == body, "caller {caller}, {round}");
}

/// Many threads on one client and four on one server; the role changes hands all the time. A
/// wake-up that is lost shows as a call that does not end.
#[test]
fn many_callers_share_one_endpoint() {
    const CALLERS: usize = 16;
    const CALLS: usize = 400;
    let (server, workers) = echo(&config(0), 4);
    let addr = server.local_addr();
    let client = blocking::Client::bind(&config(0)).unwrap();
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let client = &client;
            scope.spawn(move || {
                (0..CALLS).for_each(|round| call_and_check(client, addr, caller, round));
            });
        }
    });
    assert_eq!(client.counters(addr).protocol.live_rpcs, 0);
    assert!(server.shutdown(Duration::from_secs(10)));
    let served: Vec<usize> = workers
        .into_iter()
        .map(|worker| worker.join().unwrap())
        .collect();
    assert_eq!(served.iter().sum::<usize>(), CALLERS * CALLS);
    assert!(served.iter().all(|&served| served > 0), "{served:?}");
}

/// The same through a network that loses packets, where time matters: RESENDs have to leave on
/// time, whoever sleeps.
#[test]
fn many_callers_and_a_network_that_loses_packets() {
    const CALLERS: usize = 8;
    const CALLS: usize = 150;
    let mut config = config(1);
    let mut faults = Faults::default();
    faults.loss_ppm = 20_000;
    faults.reorder_ppm = 10_000;
    config.faults = Some(faults);
    let (server, workers) = echo(&config, 4);
    let addr = server.local_addr();
    let client = blocking::Client::bind(&config).unwrap();
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let client = &client;
            scope.spawn(move || {
                (0..CALLS).for_each(|round| call_and_check(client, addr, caller, round));
            });
        }
    });
    assert!(client.counters(addr).faults.lost > 0);
    assert!(server.shutdown(Duration::from_secs(10)));
    let served: usize = workers
        .into_iter()
        .map(|worker| worker.join().unwrap())
        .sum();
    // Exactly once, whatever was lost.
    assert_eq!(served, CALLERS * CALLS);
}

/// Threads that begin, make few calls, give up on some of them, and end.
#[test]
fn callers_come_and_go() {
    const CALLERS: usize = 200;
    let server = Arc::new(blocking::Server::bind(localhost(), &config(2)).unwrap());
    let addr = server.local_addr();
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let server = server.clone();
            thread::spawn(move || {
                while let Some(request) = server.accept() {
                    let (message, responder) = request.into_parts();
                    // Those are never answered.
                    if message != *b"never".as_slice() {
                        responder.reply(message).unwrap();
                    }
                }
            })
        })
        .collect();
    let client = blocking::Client::bind(&config(2)).unwrap();
    let given_up = AtomicUsize::new(0);
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (client, given_up) = (&client, &given_up);
            scope.spawn(move || {
                for round in 0..caller % 7 {
                    call_and_check(client, addr, caller, round);
                }
                if caller % 3 == 0 {
                    // Whoever leads must give the role up in time, too.
                    let patience = Duration::from_micros(100 * caller as u64);
                    let outcome = client.call_timeout(addr, "never".into(), patience);
                    assert!(outcome.unwrap().is_none());
                    given_up.fetch_add(1, Ordering::Relaxed);
                }
                call_and_check(client, addr, caller, 7);
            });
        }
    });
    assert_eq!(given_up.into_inner(), CALLERS.div_ceil(3));
    assert_eq!(client.counters(addr).protocol.live_rpcs, 0);
    assert!(server.shutdown(Duration::from_secs(10)));
    for worker in workers {
        worker.join().unwrap();
    }
}

/// A lone caller keeps time while it waits: it asks for the response until that comes, longer than
/// the silence after which it would give up on a server that is gone.
#[test]
fn a_lone_caller_keeps_time() {
    let server = blocking::Server::bind(localhost(), &config(3)).unwrap();
    let addr = server.local_addr();
    let serving = thread::spawn(move || {
        let request = server.accept().unwrap();
        thread::sleep(Duration::from_millis(1300));
        request.reply("slow".into()).unwrap();
        server.shutdown(Duration::from_secs(5))
    });
    let client = blocking::Client::bind(&config(3)).unwrap();
    let response = client.call(addr, "please".into()).unwrap();
    assert_eq!(response.into_bytes(), "slow");
    // Each answer doubles the wait for the next.
    let resends = client.counters(addr).protocol.sent(Kind::Resend);
    assert!((4..20).contains(&resends), "{resends}");
    assert!(serving.join().unwrap());
}

/// Nobody ever waits on the client: all of it is the background thread's, and the server is not
/// left waiting for acks.
#[test]
fn detached_calls_need_nobody_who_waits() {
    let mut config = config(4);
    let mut faults = Faults::default();
    faults.loss_ppm = 50_000;
    config.faults = Some(faults);
    let (server, workers) = echo(&config, 2);
    let addr = server.local_addr();
    let client = blocking::Client::bind(&config).unwrap();
    for round in 0..100 {
        client.call_detached(addr, body(0, round).into()).unwrap();
    }
    // Unscheduled bytes and grants, all without a caller.
    client.call_detached(addr, vec![7; 500_000].into()).unwrap();
    let all = |count: u64| count == 101;
    until(|| all(client.counters(addr).protocol.responses_delivered));
    // Its last second is for the acks that servers ask for.
    drop(client);
    assert!(server.shutdown(Duration::from_secs(10)));
    let served: usize = workers
        .into_iter()
        .map(|worker| worker.join().unwrap())
        .sum();
    assert_eq!(served, 101);
}

/// Looks again and again, for things that no call tells of.
fn until(mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < patience, "it does not become true");
        thread::yield_now();
    }
}

/// The only thread that accepts is busy; what else comes is received all the same.
#[test]
fn a_busy_server_receives() {
    let server = blocking::Server::bind(localhost(), &config(5)).unwrap();
    let addr = server.local_addr();
    let client = blocking::Client::bind(&config(5)).unwrap();
    let first = {
        let client = client.clone();
        thread::spawn(move || client.call(addr, "first".into()))
    };
    let busy = server.accept().unwrap();
    let second = {
        let client = client.clone();
        thread::spawn(move || client.call(addr, vec![7; 900_000].into()))
    };
    until(|| server.counters().protocol.requests_delivered == 2);
    busy.reply("done".into()).unwrap();
    assert_eq!(first.join().unwrap().unwrap().into_bytes(), "done");
    server.accept().unwrap().reply("done".into()).unwrap();
    assert_eq!(second.join().unwrap().unwrap().into_bytes(), "done");
    assert_eq!(server.counters().protocol.timeouts, 0);
}

/// Inside a runtime it only blocks the thread, however many calls a task makes.
#[tokio::test]
async fn it_works_inside_a_runtime() {
    let (server, workers) = echo(&config(6), 1);
    let addr = server.local_addr();
    let client = blocking::Client::bind(&config(6)).unwrap();
    for _ in 0..500 {
        assert_eq!(client.call(addr, "hello".into()).unwrap().len(), 5);
    }
    // Not the same endpoint as an asynchronous client with equal settings.
    let other = Client::bind(&config(6)).unwrap();
    assert_eq!(other.call(addr, "hello".into()).await.unwrap().len(), 5);
    assert_eq!(client.counters(addr).protocol.responses_delivered, 500);
    // Not on this thread, which the asynchronous client needs for its acks.
    let drained = tokio::task::spawn_blocking(move || server.shutdown(Duration::from_secs(10)));
    assert!(drained.await.unwrap());
    for worker in workers {
        assert_eq!(worker.join().unwrap(), 501);
    }
}

#[test]
fn a_deadline_holds_for_leader_and_followers() {
    let server = Server::bind(localhost(), &config(7));
    assert!(server.is_err(), "no runtime here");
    let server = blocking::Server::bind(localhost(), &config(7)).unwrap();
    let addr = server.local_addr();
    let client = blocking::Client::bind(&config(7)).unwrap();
    let start = Instant::now();
    thread::scope(|scope| {
        for waits in [30, 60, 90, 30, 60, 90] {
            let client = &client;
            scope.spawn(move || {
                let patience = Duration::from_millis(waits);
                let outcome = client.call_timeout(addr, Message::from("x"), patience);
                assert!(outcome.unwrap().is_none());
                assert!(start.elapsed() >= patience);
            });
        }
    });
    // Far less than what the protocol would wait.
    assert!(start.elapsed() < Duration::from_millis(900));
    assert_eq!(client.counters(addr).protocol.live_rpcs, 0);
}

#[test]
fn shutdown_wakes_all_who_accept_and_frees_the_port() {
    for threads in [1, 4] {
        let (server, workers) = echo(&config(8), threads);
        let addr = server.local_addr();
        assert!(server.shutdown(Duration::from_secs(5)));
        for worker in workers {
            assert_eq!(worker.join().unwrap(), 0);
        }
        drop(server);
        until(|| blocking::Server::bind(addr, &config(8)).is_ok());
    }
    // And one that merely stops.
    let (server, workers) = echo(&config(8), 4);
    server.stop();
    for worker in workers {
        assert_eq!(worker.join().unwrap(), 0);
    }
}

#[test]
fn a_dropped_server_refuses_and_a_dropped_client_says_goodbye() {
    let (server, workers) = echo(&config(9), 1);
    let addr = server.local_addr();
    let client = blocking::Client::bind(&config(9)).unwrap();
    call_and_check(&client, addr, 0, 0);
    drop(client);
    // The server's port is its own until the acknowledgement has come or was given up.
    assert!(server.shutdown(Duration::from_secs(5)));
    workers.into_iter().for_each(|worker| {
        worker.join().unwrap();
    });
    drop(server);
    let client = blocking::Client::bind(&config(9)).unwrap();
    let error = client.call(addr, "anybody?".into()).unwrap_err();
    assert!(
        matches!(error, CallError::PeerUnreachable { .. }),
        "{error:?}"
    );
}

/// Without a thread for each.
#[test]
fn many_calls_of_one_thread_are_under_way_at_once() {
    let (server, workers) = echo(&config(10), 2);
    let addr = server.local_addr();
    let client = blocking::Client::bind(&config(10)).unwrap();
    let start = |round| client.start(addr, body(1, round).into()).unwrap();
    let mut calls: Vec<_> = (0..200).map(|round| (round, start(round))).collect();
    // The last ones first: what has come for others meanwhile is kept for them.
    while let Some((round, call)) = calls.pop() {
        let response = call.wait(None).unwrap().unwrap();
        assert!(response.into_bytes() == body(1, round), "{round}");
    }
    assert_eq!(client.counters(addr).protocol.live_rpcs, 0);
    assert!(server.shutdown(Duration::from_secs(10)));
    for worker in workers {
        worker.join().unwrap();
    }
}

#[test]
fn a_started_call_is_looked_at_without_ending_it_and_cancelled_when_it_is_dropped() {
    let server = blocking::Server::bind(localhost(), &config(11)).unwrap();
    let addr = server.local_addr();
    let client = blocking::Client::bind(&config(11)).unwrap();
    let live = || client.counters(addr).protocol.live_rpcs;
    let mut call = client.start(addr, "question".into()).unwrap();
    let request = server.accept().unwrap();
    assert!(call.try_wait().is_none());
    let soon = Instant::now() + Duration::from_millis(20);
    assert!(call.wait_until(soon).is_none());
    assert!(Instant::now() >= soon);
    assert_eq!(live(), 1);
    request.reply("answer".into()).unwrap();
    // Nobody waits: the background thread receives.
    let mut outcome = None;
    until(|| {
        outcome = call.try_wait();
        outcome.is_some()
    });
    assert_eq!(outcome.unwrap().unwrap().into_bytes(), "answer");
    assert!(matches!(call.try_wait(), Some(Err(CallError::Closed))));
    let again = call.wait(None);
    assert!(matches!(again, Err(CallError::Closed)), "{again:?}");

    let dropped = client.start(addr, "nobody cares".into()).unwrap();
    assert_eq!(live(), 1);
    drop(dropped);
    assert_eq!(live(), 0);

    // A response that has come is there after the deadline, too.
    let call = client.start(addr, "question".into()).unwrap();
    // Whether the one that was dropped was sent depends on who was sending then.
    let is_asked = |request: &blocking::Request| *request.message() == *b"question".as_slice();
    let mut request = server.accept().unwrap();
    while !is_asked(&request) {
        request = server.accept().unwrap();
    }
    request.reply("answer".into()).unwrap();
    until(|| client.counters(addr).protocol.responses_delivered == 2);
    let response = call.wait(Some(Instant::now())).unwrap();
    assert_eq!(response.unwrap().into_bytes(), "answer");
}

/// The last act of a client, through a network that loses packets.
#[test]
fn detached_calls_arrive_after_the_client_is_gone() {
    let mut config = config(12);
    let mut faults = Faults::default();
    faults.loss_ppm = 100_000;
    config.faults = Some(faults);
    config.linger = Duration::from_secs(30);
    let server = blocking::Server::bind(localhost(), &config).unwrap();
    let addr = server.local_addr();
    let client = blocking::Client::bind(&config).unwrap();
    for round in 0..50 {
        client.start(addr, body(2, round).into()).unwrap().detach();
    }
    let long = client.start(addr, vec![7; 300_000].into()).unwrap();
    long.detach();
    drop(client);
    let mut bytes: Vec<_> = (0..51)
        .map(|_| {
            let (message, responder) = server.accept().unwrap().into_parts();
            responder.reply("done".into()).unwrap();
            message.into_bytes()
        })
        .collect();
    let mut sent: Vec<_> = (0..50).map(|round| body(2, round)).collect();
    sent.push(vec![7; 300_000]);
    bytes.sort_unstable();
    sent.sort_unstable();
    assert!(bytes == sent);
    assert_eq!(server.counters().protocol.requests_delivered, 51);
}

#[test]
fn an_endpoint_is_open_for_as_long_as_it_lingers() {
    let server = blocking::Server::bind(localhost(), &config(13)).unwrap();
    let addr = server.local_addr();
    let port_of_client = |linger| {
        let mut config = config(13);
        config.linger = linger;
        let client = blocking::Client::bind(&config).unwrap();
        client.start(addr, "hello".into()).unwrap().detach();
        server.accept().unwrap().peer().port()
    };
    let long = port_of_client(Duration::from_secs(60));
    let none = port_of_client(Duration::ZERO);
    let is_free = |port| std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok();
    until(|| is_free(none));
    assert!(!is_free(long));

    let mut config = config(13);
    config.linger = Duration::from_millis(60_001);
    let error = blocking::Client::bind(&config).unwrap_err().to_string();
    assert_eq!(
        error,
        "linger = 60.001s is out of range: 0 to 60s, default 1s"
    );
}

#[test]
fn beyond_the_bound_requests_go_to_the_handler_at_once_and_those_that_wait_are_kept() {
    let config = config(14);
    let server = blocking::Server::bind(localhost(), &config).unwrap();
    let refused = Arc::new(AtomicUsize::new(0));
    let count = refused.clone();
    let handler = move |request: blocking::Request| {
        count.fetch_add(1, Ordering::SeqCst);
        request.reply("too many".into()).unwrap();
    };
    server.refuse_beyond(2, Arc::new(handler));
    let addr = server.local_addr();
    let client = blocking::Client::bind(&config).unwrap();
    let call = || client.call(addr, "one".into()).unwrap().into_bytes();
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..2).map(|_| scope.spawn(call)).collect();
        until(|| server.waiting() == 2);
        for further in 1..=3 {
            assert_eq!(call(), "too many");
            assert_eq!(refused.load(Ordering::SeqCst), further);
        }
        assert_eq!(server.waiting(), 2);
        // One place is free again.
        let before = Instant::now();
        let first = server.try_accept().unwrap();
        assert!(first.received_at() < before, "it came before it was taken");
        let third = scope.spawn(call);
        until(|| server.waiting() == 2);
        first.reply("served".into()).unwrap();
        while let Some(request) = server.try_accept() {
            request.reply("served".into()).unwrap();
        }
        for caller in waiting.into_iter().chain([third]) {
            assert_eq!(caller.join().unwrap(), "served");
        }
    });
    assert_eq!(refused.load(Ordering::SeqCst), 3);
}
