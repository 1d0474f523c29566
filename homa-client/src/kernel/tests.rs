//! The backend over a [`Machine`] that plays the module.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use homa_sys::{HOMA_BPAGE_SIZE, HOMA_MAX_MESSAGE_LENGTH};
use nix::libc;

use super::client::ClientHandle;
use super::fake::Machine;
use super::server::{PROBE, PROBE_ANSWER, ServerEndpoint};
use super::socket::{Of, Received, Socket};
use super::{open_client, open_server, region};
use crate::engine::{SendError, Unreachable};
use crate::error::{BindError, CallError, Executed};
use crate::message::Message;
use crate::user::registry::{self, Driven, current_runtime};

const PORT: u16 = 4000;

const LINGER: Duration = Duration::from_secs(1);

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn server(machine: &Machine, driven: &Driven) -> Arc<ServerEndpoint> {
    let calls = machine.socket();
    open_server(driven, calls, at(PORT), region::default_bytes(), LINGER).expect("the port is free")
}

fn client(machine: &Machine, driven: &Driven) -> ClientHandle {
    client_with(machine, driven, region::default_bytes())
}

fn client_lingering(machine: &Machine, linger: Duration) -> ClientHandle {
    let calls = machine.socket();
    open_client(&Driven::Callers, calls, region::default_bytes(), linger).expect("it opens")
}

fn client_with(machine: &Machine, driven: &Driven, region_bytes: usize) -> ClientHandle {
    open_client(driven, machine.socket(), region_bytes, LINGER).expect("it opens")
}

/// Answers every request with its own bytes, until the server is stopped.
fn echo(server: &Arc<ServerEndpoint>) -> tokio::task::JoinHandle<()> {
    let server = server.clone();
    tokio::spawn(async move {
        while let Some((message, reply)) = server.accept().await {
            reply.send(message).expect("an echo has the right length");
        }
    })
}

fn pattern(length: usize) -> Message {
    let bytes: Vec<u8> = (0..length).map(|place| (place * 7 % 251) as u8).collect();
    bytes.into()
}

async fn call(client: &ClientHandle, message: Message) -> Result<Message, CallError> {
    let (_, receiver) = client.call(at(PORT), message)?;
    receiver.await.expect("the driver runs")
}

fn call_blocking(
    client: &ClientHandle,
    to: SocketAddr,
    message: Message,
    deadline: Option<Instant>,
) -> Option<Result<Message, CallError>> {
    match client.call_private(to, message) {
        Ok(call) => call.wait(deadline),
        Err(error) => Some(Err(error)),
    }
}

fn available(client: &ClientHandle) -> u64 {
    client.info().expect("it is open").bpool_avail_bytes
}

/// Waits for what another thread or task does soon.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        thread::yield_now();
    }
}

#[tokio::test]
async fn e087_messages_of_all_lengths_pass_and_others_are_refused_before_the_call() {
    let machine = Machine::default();
    let driven = current_runtime().expect("one");
    let server = server(&machine, &driven);
    echo(&server);
    let client = client(&machine, &driven);
    let before = available(&client);
    for length in [
        1, 100, 4096, 4097, 65_535, 65_536, 65_537, 131_072, 999_999, 1_000_000,
    ] {
        let response = call(&client, pattern(length)).await.expect("an echo");
        assert_eq!(response.len(), length);
        assert_eq!(
            response.into_bytes(),
            pattern(length).into_bytes(),
            "{length}"
        );
    }
    assert_eq!(available(&client), before, "every page was given back");
    for length in [0, HOMA_MAX_MESSAGE_LENGTH + 1] {
        match call(&client, pattern(length)).await {
            Err(CallError::BadSize {
                size,
                limit,
                message,
            }) => {
                assert_eq!((size, limit), (length, HOMA_MAX_MESSAGE_LENGTH));
                assert_eq!(message.len(), length);
            }
            other => panic!("{other:?}"),
        }
    }
    let info = client.info().expect("it is open");
    assert_eq!(info.num_rpcs, 0);
}

#[tokio::test]
async fn a_message_of_many_small_parts_is_sent_whole() {
    let machine = Machine::default();
    let driven = current_runtime().expect("one");
    let server = server(&machine, &driven);
    echo(&server);
    let client = client(&machine, &driven);
    let message: Message = (0..3000).map(|_| Bytes::from_static(b"ab")).collect();
    let response = call(&client, message).await.expect("an echo");
    assert_eq!(response.into_bytes(), "ab".repeat(3000));
}

/// One region takes about 30 whole messages; those that are kept hold their pages.
#[tokio::test]
async fn e089_a_full_region_stalls_and_goes_on_when_messages_are_dropped() {
    let machine = Machine::default();
    let driven = current_runtime().expect("one");
    let server = server(&machine, &driven);
    echo(&server);
    let client = client_with(&machine, &driven, region::min_bytes());
    let before = available(&client);
    let mut kept = Vec::new();
    let mut waiting = loop {
        let (_, mut receiver) = client
            .call(at(PORT), pattern(1_000_000))
            .expect("it is sent");
        let response = tokio::time::timeout(Duration::from_millis(200), &mut receiver).await;
        match response {
            Ok(response) => kept.push(response.expect("the driver runs").expect("an echo")),
            Err(_) => break receiver,
        }
    };
    assert!(!kept.is_empty() && kept.len() < 40, "{}", kept.len());
    assert!(waiting.try_recv().is_err());
    // Any clone keeps the pages, whatever thread it is on.
    let part = kept.pop().expect("there is one").into_bytes();
    let other = thread::spawn(move || drop(part));
    other.join().expect("it is dropped");
    drop(kept);
    let response = waiting.await.expect("the driver runs").expect("an echo");
    assert_eq!(response, pattern(1_000_000).into_bytes()[..]);
    drop(response);
    assert_eq!(available(&client), before);
}

#[tokio::test]
async fn short_messages_that_are_kept_hold_no_pages() {
    let machine = Machine::default();
    let driven = current_runtime().expect("one");
    let server = server(&machine, &driven);
    echo(&server);
    let client = client(&machine, &driven);
    let before = available(&client);
    let mut kept = Vec::new();
    for _ in 0..100 {
        kept.push(call(&client, pattern(1000)).await.expect("an echo"));
    }
    assert_eq!(available(&client), before);
    assert!(
        kept.iter()
            .all(|message| *message == pattern(1000).into_bytes()[..])
    );
}

#[test]
fn pages_come_back_from_many_threads_each_once() {
    let machine = Machine::default();
    let server = server(&machine, &Driven::Callers);
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let server = server.clone();
            thread::spawn(move || {
                while let Some((message, reply)) = server.accept_blocking() {
                    reply.send(message).expect("the right length");
                }
            })
        })
        .collect();
    let client = client(&machine, &Driven::Callers);
    let before = available(&client);
    let calls = AtomicU32::new(0);
    thread::scope(|scope| {
        for thread in 0..4usize {
            let (client, calls) = (&client, &calls);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread as u64);
                let mut kept: Vec<Message> = Vec::new();
                for _ in 0..150 {
                    let length = random.usize(1..150_000);
                    let response = call_blocking(client, at(PORT), pattern(length), None);
                    let response = response.expect("no deadline").expect("an echo");
                    assert_eq!(response.len(), length);
                    kept.push(response);
                    if kept.len() > 8 {
                        let mut message = kept.swap_remove(random.usize(..kept.len()));
                        // What was kept is what had come, whatever has come since.
                        let expected = pattern(message.len());
                        let half = message.len() / 2;
                        assert_eq!(message, expected.clone().into_bytes()[..]);
                        message.advance(half);
                        assert_eq!(message, expected.into_bytes()[half..]);
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(calls.into_inner(), 600);
    assert_eq!(available(&client), before);
    assert_eq!(client.info().expect("open").num_rpcs, 0);
    assert!(server.shutdown_blocking(Duration::from_secs(1)));
    for worker in workers {
        worker.join().expect("it ends with the server");
    }
}

#[tokio::test]
async fn failures_are_those_of_the_module_by_name() {
    let machine = Machine::default();
    let driven = current_runtime().expect("one");
    let client = client(&machine, &driven);
    // Nobody listens.
    match call(&client, pattern(10)).await {
        Err(CallError::PeerUnreachable { peer, reason, .. }) => {
            assert_eq!((peer, reason), (at(PORT), Unreachable::HomaPort));
        }
        other => panic!("{other:?}"),
    }
    let server = server(&machine, &driven);
    for (errno, expected) in [
        (
            libc::ETIMEDOUT,
            "no sign of life from 127.0.0.1:4000 for 100ms",
        ),
        (libc::EPROTONOSUPPORT, "nothing there takes IP protocol 146"),
        (libc::EHOSTUNREACH, "no route to the host"),
        (
            libc::ENOMEM,
            "the system failed the call: Cannot allocate memory",
        ),
    ] {
        let (_, receiver) = client.call(at(PORT), pattern(10)).expect("it is sent");
        machine.fail_all(errno);
        let error = receiver
            .await
            .expect("the driver runs")
            .expect_err("it failed");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.executed(), Executed::Maybe);
    }
    drop(server);
    for addr in [at(0), ([0, 0, 0, 0], 1).into(), ([224, 0, 0, 1], 1).into()] {
        let refused = client.call(addr, pattern(1)).map(drop);
        assert!(matches!(refused, Err(CallError::BadAddress { .. })));
    }
}

#[tokio::test]
async fn the_send_limit_hands_the_message_back_and_calls_work_on_afterwards() {
    let machine = Machine::default();
    let driven = current_runtime().expect("one");
    let server = server(&machine, &driven);
    let client = client(&machine, &driven);
    machine.limit_sends(1);
    let (ticket, first) = client.call(at(PORT), pattern(1)).expect("there is room");
    match client.call(at(PORT), pattern(77)).map(drop) {
        Err(error @ CallError::Busy { .. }) => {
            assert_eq!(error.executed(), Executed::No);
            assert!(error.to_string().contains("wmem_max"), "{error}");
            let CallError::Busy { message, .. } = error else {
                return;
            };
            assert_eq!(message.len(), 77);
        }
        other => panic!("{other:?}"),
    }
    drop(first);
    client.cancel_call(ticket);
    machine.limit_sends(100);
    echo(&server);
    call(&client, pattern(77)).await.expect("an echo");
}

#[tokio::test]
async fn e093_a_call_that_is_dropped_vanishes() {
    let machine = Machine::default();
    let driven = current_runtime().expect("one");
    let server = server(&machine, &driven);
    let client = client(&machine, &driven);
    let (ticket, receiver) = client.call(at(PORT), pattern(5)).expect("it is sent");
    drop(receiver);
    client.cancel_call(ticket);
    assert_eq!(client.info().expect("open").num_rpcs, 0);
    // Its request runs all the same, and its response hurts nobody.
    let (message, reply) = server.accept().await.expect("it has arrived");
    reply.send(message).expect("the right length");
    drop(reply);
    echo(&server);
    call(&client, pattern(6)).await.expect("an echo");
    // A second time, after the response has come, it is nothing.
    client.cancel_call(ticket);
}

#[tokio::test]
async fn replies_of_wrong_lengths_can_be_tried_again() {
    let machine = Machine::default();
    let driven = current_runtime().expect("one");
    let server = server(&machine, &driven);
    let client = client(&machine, &driven);
    let (_, receiver) = client.call(at(PORT), pattern(5)).expect("it is sent");
    let (_, reply) = server.accept().await.expect("it has arrived");
    for length in [0, 1_000_001] {
        let refused = reply.send(pattern(length));
        let Err(SendError::BadSize { limit, message }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!((limit, message.len()), (1_000_000, length));
    }
    reply.send(pattern(9)).expect("the right length");
    let response = receiver
        .await
        .expect("the driver runs")
        .expect("a response");
    assert_eq!(response.len(), 9);
}

#[test]
fn a_blocking_call_ends_at_its_deadline_and_the_socket_works_on() {
    let machine = Machine::default();
    let server = server(&machine, &Driven::Callers);
    let client = client(&machine, &Driven::Callers);
    let deadline = Instant::now() + Duration::from_millis(20);
    let outcome = call_blocking(&client, at(PORT), pattern(3), Some(deadline));
    assert!(outcome.is_none() && Instant::now() >= deadline);
    assert_eq!(client.info().expect("open").num_rpcs, 0);
    let answering = server.clone();
    let worker = thread::spawn(move || {
        while let Some((message, reply)) = answering.accept_blocking() {
            reply.send(message).expect("the right length");
        }
    });
    let far = Some(Instant::now() + Duration::from_secs(60));
    let outcome = call_blocking(&client, at(PORT), pattern(4), far);
    assert_eq!(outcome.expect("in time").expect("an echo").len(), 4);
    server.stop();
    worker.join().expect("it ends");
}

#[test]
fn responses_that_nobody_waits_for_do_not_pile_up() {
    let machine = Machine::default();
    let server = server(&machine, &Driven::Callers);
    let answering = server.clone();
    let worker = thread::spawn(move || {
        while let Some((message, reply)) = answering.accept_blocking() {
            reply.send(message).expect("the right length");
        }
    });
    let client = client(&machine, &Driven::Callers);
    let before = available(&client);
    for _ in 0..10 {
        client
            .call_detached(at(PORT), pattern(10_000))
            .expect("it is sent");
    }
    eventually("all are taken, and their buffers returned", || {
        let answer = call_blocking(&client, at(PORT), pattern(3), None);
        answer.expect("no deadline").expect("an echo");
        client.info().expect("open").num_rpcs == 0 && available(&client) == before
    });
    server.stop();
    worker.join().expect("it ends");
}

#[test]
fn calls_that_were_left_to_themselves_are_collected_in_any_order() {
    let machine = Machine::default();
    let server = server(&machine, &Driven::Callers);
    let client = client_lingering(&machine, Duration::ZERO);
    let before = available(&client);
    let rpcs = || client.info().expect("open").num_rpcs;
    // The first is not answered, the others are.
    for length in 1..=20 {
        let call = client.call_private(at(PORT), pattern(10_000 * length));
        call.expect("it is sent").detach();
    }
    let first = server.accept_blocking().expect("it has arrived");
    for _ in 2..=20 {
        let (message, reply) = server.accept_blocking().expect("it has arrived");
        reply.send(message).expect("the right length");
    }
    eventually("all others are taken", || rpcs() == 1);
    assert_eq!(available(&client), before);
    // Its socket is shut down, since nobody else has it.
    assert_eq!(machine.clients(), 1);
    drop(client);
    eventually("it is closed", || machine.clients() == 0);
    drop(first);
}

#[test]
fn a_socket_lingers_for_requests_that_nobody_waits_for() {
    let machine = Machine::default();
    let server = server(&machine, &Driven::Callers);
    let client = client_lingering(&machine, Duration::from_secs(60));
    client.call_detached(at(PORT), pattern(5)).expect("sent");
    drop(client);
    let (message, reply) = server.accept_blocking().expect("it has arrived");
    assert_eq!(machine.clients(), 1);
    reply.send(message).expect("the right length");
    eventually("it is taken", || machine.live_rpcs() == 0);
}

#[test]
fn a_started_call_is_looked_at_without_ending_it_and_vanishes_when_it_is_dropped() {
    let machine = Machine::default();
    let server = server(&machine, &Driven::Callers);
    let client = client(&machine, &Driven::Callers);
    let rpcs = || client.info().expect("open").num_rpcs;
    let start = || client.call_private(at(PORT), pattern(7)).expect("sent");
    let mut call = start();
    let (message, reply) = server.accept_blocking().expect("it has arrived");
    assert!(call.wait_until(None).is_none());
    let soon = Instant::now() + Duration::from_millis(5);
    assert!(call.wait_until(Some(soon)).is_none() && Instant::now() >= soon);
    assert_eq!(rpcs(), 1);
    reply.send(message).expect("the right length");
    let late = Instant::now() + Duration::from_secs(20);
    let outcome = call.wait_until(Some(late)).expect("in time");
    assert_eq!(outcome.expect("an echo").len(), 7);
    assert!(matches!(
        call.wait_until(None),
        Some(Err(CallError::Closed))
    ));
    drop(start());
    assert_eq!(rpcs(), 0);
    // What has come is there after the deadline, too.
    let call = start();
    drop(server.accept_blocking().expect("that of the dropped one"));
    let (message, reply) = server.accept_blocking().expect("it has arrived");
    reply.send(message).expect("the right length");
    let outcome = call.wait(Some(Instant::now())).expect("it has come");
    assert_eq!(outcome.expect("an echo").len(), 7);
}

/// A server on UDP and on the module, and a client that calls it through the latter.
fn both(driven: &Driven) -> (crate::Server, ClientHandle) {
    let machine = Machine::default();
    let user = registry::server(driven, at(0), &crate::Config::default()).expect("a free port");
    let module = server(&machine, driven);
    let server = crate::Server::of_both(driven, user, module).expect("a thread");
    (server, client(&machine, driven))
}

#[test]
fn threads_that_wait_on_udp_get_requests_from_the_module() {
    let (server, client) = both(&Driven::Callers);
    thread::scope(|scope| {
        // One thread, so that it is the one that receives on UDP.
        scope.spawn(|| {
            for _ in 0..20 {
                let request = server.wait_accept().expect("not stopped");
                let (message, responder) = request.into_parts();
                responder.reply(message).expect("the right length");
            }
        });
        for length in 1..=20 {
            let late = Instant::now() + Duration::from_secs(20);
            let answer = call_blocking(&client, at(PORT), pattern(length), Some(late));
            let answer = answer.expect("in time").expect("an echo");
            assert_eq!(answer.len(), length);
        }
    });
    assert!(server.wait_shutdown(Duration::from_secs(5)));
    assert!(server.wait_accept().is_none());
}

#[tokio::test]
async fn a_server_with_both_carriers_takes_requests_from_either() {
    let driven = current_runtime().expect("one");
    let (server, module) = both(&driven);
    let server = Arc::new(server);
    let addr = server.local_addr();
    let serving = server.clone();
    let answers = tokio::spawn(async move {
        while let Some(request) = serving.accept().await {
            let (message, responder) = request.into_parts();
            responder.reply(message).expect("the right length");
        }
    });
    let udp = crate::Client::bind(&crate::Config::default()).expect("a client");
    for length in [1, 100_000] {
        let answer = udp.call(addr, pattern(length)).await.expect("an echo");
        assert_eq!(answer.len(), length);
        let answer = call(&module, pattern(length)).await.expect("an echo");
        assert_eq!(answer.len(), length);
    }
    assert!(server.shutdown(Duration::from_secs(5)).await);
    answers.await.expect("it ends");
}

#[test]
fn signals_interrupt_nothing() {
    let machine = Machine::default();
    let server = server(&machine, &Driven::Callers);
    let client = client(&machine, &Driven::Callers);
    machine.interrupt(5);
    let answering = server.clone();
    let worker = thread::spawn(move || {
        while let Some((message, reply)) = answering.accept_blocking() {
            reply.send(message).expect("the right length");
        }
    });
    for length in [1, 100_000] {
        let answer = call_blocking(&client, at(PORT), pattern(length), None);
        assert_eq!(answer.expect("no deadline").expect("an echo").len(), length);
    }
    server.stop();
    worker.join().expect("it ends");
}

#[test]
fn a_server_that_was_stopped_closes_with_its_last_answer() {
    let machine = Machine::default();
    let server = server(&machine, &Driven::Callers);
    let client = client(&machine, &Driven::Callers);
    let calling = client.clone();
    let caller = thread::spawn(move || call_blocking(&calling, at(PORT), pattern(5), None));
    let (message, reply) = server.accept_blocking().expect("it arrives");
    let waiting = server.clone();
    let waiter = thread::spawn(move || waiting.accept_blocking().is_none());
    server.stop();
    drop(server);
    reply.send(message).expect("the right length");
    drop(reply);
    let answer = caller.join().expect("no panic").expect("no deadline");
    assert_eq!(answer.expect("an echo").len(), 5);
    assert!(waiter.join().expect("no panic"));
}

#[tokio::test]
async fn requests_that_nobody_answers_do_not_hold_up_a_shutdown() {
    let machine = Machine::default();
    let driven = current_runtime().expect("one");
    let server = server(&machine, &driven);
    let client = client(&machine, &driven);
    let (_, dropped) = client.call(at(PORT), pattern(5)).expect("it is sent");
    drop(server.accept().await.expect("it has arrived"));
    let began = Instant::now();
    assert!(server.shutdown(Duration::from_secs(20)).await);
    assert!(began.elapsed() < Duration::from_secs(10));
    let outcome = dropped.await.expect("the driver runs");
    assert!(matches!(outcome, Err(CallError::PeerUnreachable { .. })));
}

#[tokio::test]
async fn what_waits_on_one_carrier_is_accepted_after_the_other_has_ended() {
    let driven = current_runtime().expect("one");
    // `accept` looks at both in any order.
    for _ in 0..20 {
        let (server, _) = both(&driven);
        let addr = server.local_addr();
        let udp = crate::Client::bind(&crate::Config::default()).expect("a client");
        let call = tokio::spawn(async move { udp.call(addr, pattern(3)).await });
        while server.counters().protocol.requests_delivered == 0 {
            tokio::task::yield_now().await;
        }
        server.stop();
        let request = server.accept().await.expect("it waits");
        request.reply(pattern(4)).expect("the right length");
        assert!(server.accept().await.is_none());
        let answer = call.await.expect("no panic").expect("an answer");
        assert_eq!(answer.len(), 4);
    }
}

#[tokio::test]
async fn e095_whoever_waits_is_told_when_a_server_stops() {
    let machine = Machine::default();
    let driven = current_runtime().expect("one");
    let server = server(&machine, &driven);
    let waits = {
        let server = server.clone();
        tokio::spawn(async move { server.accept().await.is_none() })
    };
    tokio::task::yield_now().await;
    server.stop();
    assert!(waits.await.expect("no panic"));
    assert!(server.accept().await.is_none());
    // The port is free again.
    let again = open_server(
        &driven,
        machine.socket(),
        at(PORT),
        region::default_bytes(),
        LINGER,
    );
    assert!(again.is_ok());
}

#[tokio::test]
async fn a_shutdown_waits_for_what_was_accepted() {
    let machine = Machine::default();
    let driven = current_runtime().expect("one");
    let server = server(&machine, &driven);
    let client = client(&machine, &driven);
    let (_, receiver) = client.call(at(PORT), pattern(5)).expect("it is sent");
    let (message, reply) = server.accept().await.expect("it has arrived");
    assert!(!server.shutdown(Duration::from_millis(1)).await);
    let ends = {
        let server = server.clone();
        tokio::spawn(async move { server.shutdown(Duration::from_secs(20)).await })
    };
    // What comes now finds nobody, and is told so at the end.
    let (_, late) = client.call(at(PORT), pattern(6)).expect("it is sent");
    reply.send(message).expect("the right length");
    drop(reply);
    receiver.await.expect("the driver runs").expect("an echo");
    assert!(ends.await.expect("no panic"));
    let late = late.await.expect("the driver runs");
    assert!(
        matches!(late, Err(CallError::PeerUnreachable { .. })),
        "{late:?}"
    );
}

#[tokio::test]
async fn a_probe_is_answered_below_the_application() {
    let machine = Machine::default();
    let driven = current_runtime().expect("one");
    let server = server(&machine, &driven);
    let seen = Arc::new(AtomicBool::new(false));
    let accepts = {
        let (server, seen) = (server.clone(), seen.clone());
        tokio::spawn(async move {
            while server.accept().await.is_some() {
                seen.store(true, Ordering::Release);
            }
        })
    };
    let client = client(&machine, &driven);
    let answer = call(&client, PROBE.to_vec().into())
        .await
        .expect("an answer");
    assert_eq!(answer, PROBE_ANSWER[..]);
    server.stop();
    accepts.await.expect("no panic");
    assert!(!seen.load(Ordering::Acquire));
}

/// What comes of a probe.
fn probed(driven: &Driven, client: &ClientHandle, to: SocketAddr) -> bool {
    let (told, answered) = std::sync::mpsc::channel();
    super::probe(driven, client, to, move |answered| {
        told.send(answered).expect("somebody waits");
    });
    answered
        .recv_timeout(Duration::from_secs(20))
        .expect("it ends")
}

#[test]
fn only_servers_of_ours_pass_a_probe() {
    let machine = Machine::default();
    let driven = Driven::Callers;
    let server = server(&machine, &driven);
    let accepting = server.clone();
    let worker = thread::spawn(move || accepting.accept_blocking().is_none());
    let client = client(&machine, &driven);
    assert!(probed(&driven, &client, at(PORT)));
    assert!(!probed(&driven, &client, at(PORT + 1)), "nobody is there");
    // One that returns whatever it gets.
    let echo = Socket::new(machine.socket(), region::default_bytes()).expect("it opens");
    echo.bind(PORT + 1).expect("it is free");
    let echo = Arc::new(echo);
    let echoing = echo.clone();
    let other = thread::spawn(move || match echoing.wait(Of::Shared) {
        Ok(Received::Message {
            id, from, message, ..
        }) => echoing.respond(from, id, &message).is_ok(),
        _ => false,
    });
    assert!(!probed(&driven, &client, at(PORT + 1)), "an echo");
    assert!(other.join().expect("no panic"));
    server.stop();
    assert!(worker.join().expect("no panic"));
}

#[tokio::test]
async fn the_last_handle_closes_the_socket_after_a_while() {
    let machine = Machine::default();
    let driven = current_runtime().expect("one");
    tokio::time::pause();
    let client = client(&machine, &driven);
    let endpoint = Arc::clone(&client);
    let second = client.clone();
    drop(client);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!endpoint.is_closed());
    drop(second);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(endpoint.is_closed());
    assert!(ClientHandle::join(endpoint).is_none());
}

#[test]
fn e090_ports_are_those_of_servers_and_free() {
    let machine = Machine::default();
    let open = |port| {
        open_server(
            &Driven::Callers,
            machine.socket(),
            at(port),
            64 << 20,
            LINGER,
        )
    };
    let first = open(PORT).expect("free");
    assert!(matches!(open(PORT), Err(BindError::AddressInUse { addr }) if addr == at(PORT)));
    let any = open(0).expect("there is a free one");
    assert!((10_000..32_000).contains(&any.local_addr().port()));
    drop(first);
    eventually("the port is free", || open(PORT).is_ok());
}

#[test]
fn a_region_that_is_too_small_is_refused_by_name() {
    let mut config = crate::Config {
        backend: crate::Backend::Kernel,
        ..crate::Config::default()
    };
    config.kernel_region_bytes = Some(HOMA_BPAGE_SIZE);
    let error = crate::blocking::Client::bind(&config)
        .expect_err("too small")
        .to_string();
    assert!(
        error.contains("kernel_region_bytes = 65536 is out of range"),
        "{error}"
    );
}

#[test]
fn without_the_module_it_says_so_and_what_to_do() {
    if homa_sys::probe::probe().is_ok() {
        println!("skipped: the module is loaded");
        return;
    }
    let config = crate::Config {
        backend: crate::Backend::Kernel,
        ..crate::Config::default()
    };
    let error = crate::blocking::Server::bind(at(PORT), &config).expect_err("none");
    assert!(matches!(error, BindError::NoModule(_)));
    assert!(
        error.to_string().contains("load the homa module"),
        "{error}"
    );
}
