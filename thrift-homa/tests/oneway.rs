//! Oneway messages: nobody waits for them, and they arrive all the same.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;
#[path = "common/peer.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod peer;

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Echo, EchoClient};
use homa_client::blocking::Request;
use homa_client::{Config, Faults};
use peer::{PATIENCE, Peer, bytes, config, live_rpcs, message, process, until};
use thrift::protocol::{TBinaryInputProtocol, TBinaryOutputProtocol};
use thrift::{ApplicationErrorKind, TransportErrorKind};
use thrift_homa::{
    ClientOptions, Endpoint, HomaInputProtocol, HomaOutputProtocol, HomaTransport, OnewayMode,
    ServerOptions, Undelivered,
};

type Client = EchoClient<HomaInputProtocol, HomaOutputProtocol>;

fn open(peer: &Peer, config: &Config, oneway: OnewayMode) -> HomaTransport {
    let mut options = ClientOptions::default();
    options.homa = config.clone();
    options.oneway = oneway;
    HomaTransport::open_with(peer.addr(), options).expect("an endpoint")
}

fn client(transport: &HomaTransport) -> Client {
    let (input, output) = transport.clone().protocols();
    EchoClient::new(input, output)
}

/// Keeps the requests until they are asked for.
fn holding(config: &Config) -> (Peer, Arc<Mutex<Vec<Request>>>) {
    let held: Arc<Mutex<Vec<Request>>> = Arc::default();
    let keep = held.clone();
    let peer = Peer::start(config, move |request| {
        keep.lock().expect("no panic").push(request);
    });
    (peer, held)
}

fn answer_all(held: &Mutex<Vec<Request>>) {
    for request in held.lock().expect("no panic").drain(..) {
        request.reply(message(&[0xF1])).expect("a valid reply");
    }
}

#[test]
fn a_oneway_returns_before_it_is_accepted() {
    let (peer, held) = holding(&config(0));
    let transport = open(&peer, &config(0), OnewayMode::Detach);
    let mut wrapped = client(&transport);
    let (read, write) = transport.clone().into_halves();
    let mut halves = EchoClient::new(
        TBinaryInputProtocol::new(read, true),
        TBinaryOutputProtocol::new(write, true),
    );
    for _ in 0..100 {
        wrapped.zip().expect("it is sent");
        halves.zip().expect("it is sent");
    }
    until("all have come", || {
        held.lock().expect("no panic").len() == 200
    });
    assert_eq!(transport.stats().oneways_accepted, 0);
    answer_all(&held);
    drop((wrapped, halves));
    transport.close(PATIENCE).expect("all are accepted");
    assert_eq!(live_rpcs(&config(0), peer.addr()), 0);
}

#[test]
fn many_oneways_and_the_calls_between_them_run_once_each() {
    let service = Echo::default();
    let peer = Peer::processing(&config(1), service.clone());
    let transport = open(&peer, &config(1), OnewayMode::Detach);
    let mut client = client(&transport);
    for round in 0..500 {
        for _ in 0..10 {
            client.zip().expect("it is sent");
        }
        let text = format!("round {round}");
        assert_eq!(client.echo(&text).expect("its own reply"), text);
    }
    transport.clone().close(PATIENCE).expect("all are accepted");
    assert_eq!(service.zips.load(Ordering::SeqCst), 5_000);
    let stats = transport.stats();
    assert_eq!((stats.oneways, stats.oneways_accepted), (5_000, 5_000));
    assert_eq!((stats.oneways_waiting, stats.requests), (0, 5_500));
    assert_eq!(live_rpcs(&config(1), peer.addr()), 0);
}

/// As over TCP, where the socket's buffer is full at some point.
#[test]
fn a_server_that_accepts_nothing_slows_its_clients_down_and_loses_nothing() {
    let (peer, held) = holding(&config(2));
    let transport = open(&peer, &config(2), OnewayMode::Detach);
    transport.set_timeout(Some(Duration::from_millis(100)));
    let mut client = client(&transport);
    let sent = (0..)
        .find(|_| client.zip().is_err())
        .expect("it is bounded");
    assert!((1_000..1_100).contains(&sent), "{sent}");
    let error = transport.last_error().expect("there was one").to_string();
    assert!(error.contains("wait for 127.0.0.1"), "{error}");
    until("all have come", || {
        held.lock().expect("no panic").len() == sent
    });
    // Whoever has time waits for room.
    transport.set_timeout(Some(PATIENCE));
    std::thread::scope(|scope| {
        let more = scope.spawn(|| client.zip());
        answer_all(&held);
        more.join().expect("no panic").expect("there is room again");
    });
    until("it has come", || held.lock().expect("no panic").len() == 1);
    answer_all(&held);
    drop(client);
    transport.close(PATIENCE).expect("all are accepted");
}

#[test]
fn closing_tells_of_what_was_not_accepted() {
    let (peer, held) = holding(&config(3));
    let transport = open(&peer, &config(3), OnewayMode::Detach);
    for _ in 0..3 {
        client(&transport).zip().expect("it is sent");
    }
    let began = Instant::now();
    let within = Duration::from_millis(30);
    let undelivered = transport.clone().close(within).expect_err("nobody accepts");
    assert!(began.elapsed() >= within);
    assert_eq!((undelivered.waiting, undelivered.failed), (3, 0));
    // They go on all the same.
    until("all have come", || {
        held.lock().expect("no panic").len() == 3
    });
    let request = held.lock().expect("no panic").pop().expect("one of them");
    request
        .reply(message(b"\xF3overloaded"))
        .expect("a valid reply");
    answer_all(&held);
    let undelivered = transport.clone().close(PATIENCE).expect_err("one failed");
    assert_eq!((undelivered.waiting, undelivered.failed), (0, 1));
    let text = undelivered.to_string();
    assert!(
        text.ends_with("did not accept the request: overloaded"),
        "{text}"
    );
    let stats = transport.stats();
    assert_eq!((stats.oneways_accepted, stats.oneways_failed), (2, 1));
}

#[test]
fn the_transport_of_an_endpoint_tells_of_what_its_clients_have_not_delivered() {
    let (peer, held) = holding(&config(7));
    let mut endpoint: Endpoint = format!("homa://{}?engine=udp", peer.addr())
        .parse()
        .expect("a URI");
    endpoint.options_mut().homa = config(7);
    let transport = endpoint.open().expect("an endpoint");
    for _ in 0..3 {
        let (input, output) = transport.client().expect("a client");
        EchoClient::new(input, output).zip().expect("it is sent");
    }
    let within = Duration::from_millis(30);
    let began = Instant::now();
    let undelivered = transport.clone().close(within).expect_err("nobody accepts");
    assert!(began.elapsed() >= within);
    assert_eq!((undelivered.waiting, undelivered.failed), (3, 0));
    let error = thrift::Error::from(undelivered);
    match error {
        thrift::Error::User(error) => assert!(error.is::<Undelivered>(), "{error}"),
        other => panic!("{other:?}"),
    }
    until("all have come", || {
        held.lock().expect("no panic").len() == 3
    });
    answer_all(&held);
    transport.clone().close(PATIENCE).expect("all are accepted");
    let stats = transport.homa().expect("it is over Homa").stats();
    assert_eq!((stats.oneways, stats.oneways_accepted), (3, 3));
}

#[test]
fn a_transport_over_connections_has_nothing_to_wait_for() {
    let service = Echo::default();
    let endpoint: Endpoint = "tcp+framed://127.0.0.1:0".parse().expect("a URI");
    let server = endpoint.serve(service.clone(), ServerOptions::default());
    let server = server.expect("a server");
    let endpoint: Endpoint = server.uri().parse().expect("a URI");
    let transport = endpoint.open().expect("a transport");
    for number in 1..=2 {
        let (input, output) = transport.client().expect("a connection");
        let mut client = EchoClient::new(input, output);
        client.zip().expect("it is sent");
        drop(client);
        transport.clone().close(Duration::ZERO).expect("a success");
        until("it has run", || {
            service.zips.load(Ordering::SeqCst) == number
        });
    }
    assert!(transport.homa().is_none());
}

#[test]
fn a_oneway_as_the_last_act_arrives_through_a_network_that_loses_packets() {
    let mut config = config(4);
    let mut faults = Faults::default();
    faults.loss_ppm = 100_000;
    config.faults = Some(faults);
    config.linger = Duration::from_secs(30);
    let service = Echo::default();
    let peer = Peer::processing(&config, service.clone());
    for round in 0..40 {
        let transport = open(&peer, &config, OnewayMode::Detach);
        if round % 2 == 0 {
            let (input, output) = transport.protocols();
            EchoClient::new(input, output).zip().expect("it is sent");
        } else {
            let (read, write) = transport.into_halves();
            let mut client = EchoClient::new(
                TBinaryInputProtocol::new(read, true),
                TBinaryOutputProtocol::new(write, true),
            );
            client.zip().expect("it is sent");
        }
    }
    until("all have run", || service.zips.load(Ordering::SeqCst) == 40);
    assert_eq!(peer.seen().len(), 40);
}

#[test]
fn who_awaits_the_ack_is_told_and_has_its_messages_in_order() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = order.clone();
    let peer = Peer::replying(&config(5), move |request| {
        let is_oneway = request[3] == 4;
        if is_oneway {
            std::thread::sleep(Duration::from_millis(5));
        }
        seen.lock().expect("no panic").push(is_oneway);
        process(&Echo::default(), request)
    });
    let transport = open(&peer, &config(5), OnewayMode::AwaitAck);
    let mut first = client(&transport);
    for _ in 0..5 {
        first.zip().expect("it is accepted");
        first.ping().expect("a reply");
    }
    let order = order.lock().expect("no panic").clone();
    assert_eq!(order, [true, false].repeat(5));
    assert_eq!(transport.stats().oneways, 0, "none is left to itself");

    let refusing = Peer::replying(&config(5), |request| match request[3] {
        4 => b"\xF3stopping".to_vec(),
        _ => process(&Echo::default(), request),
    });
    let mut second = client(&open(&refusing, &config(5), OnewayMode::AwaitAck));
    let exception = bytes(
        "80010003 00000003 7a6970 00000001
         0b 0001 00000004 66756c6c 08 0002 00000006 00",
    );
    let answering = Peer::replying(&config(5), move |_| exception.clone());
    let mut third = client(&open(&answering, &config(5), OnewayMode::AwaitAck));
    for (client, text) in [(&mut second, "stopping"), (&mut third, "full")] {
        match client.zip() {
            Err(thrift::Error::Application(error)) => {
                assert_eq!(error.kind, ApplicationErrorKind::InternalError);
                assert!(error.message.ends_with(text), "{}", error.message);
            }
            other => panic!("{other:?}"),
        }
    }
    second.ping().expect("it works on");

    let silent = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let mut options = ClientOptions::default();
    options.oneway = OnewayMode::AwaitAck;
    options.timeout = Some(Duration::from_millis(30));
    let addr = silent.local_addr().expect("bound");
    let transport = HomaTransport::open_with(addr, options).expect("an endpoint");
    match client(&transport).zip() {
        Err(thrift::Error::Transport(error)) => {
            assert_eq!(error.kind, TransportErrorKind::TimedOut);
        }
        other => panic!("{other:?}"),
    }
}

/// Packets are lost, overtaken and doubled both ways.
#[test]
fn a_handler_runs_once_for_each_call_and_each_oneway_whatever_happens_to_packets() {
    let mut config = config(6);
    let mut faults = Faults::default();
    faults.loss_ppm = 50_000;
    faults.reorder_ppm = 50_000;
    faults.duplicate_ppm = 50_000;
    config.faults = Some(faults);
    let peer = Peer::processing(&config, Echo::default());
    let transport = open(&peer, &config, OnewayMode::Detach);
    const CLIENTS: usize = 4;
    const ROUNDS: usize = 60;
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let mut client = client(&transport);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let text = format!("client {number}, round {round}");
                    let long = text.repeat(1 + (round % 5) * 200);
                    assert!(client.echo(&long).expect("its own reply") == long);
                    let oneway = format!("oneway {number}, {round}");
                    client.send_oneway(&oneway).expect("it is sent");
                }
            });
        }
    });
    transport.close(PATIENCE).expect("all are accepted");
    let mut runs: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for request in peer.seen() {
        *runs.entry(request).or_default() += 1;
    }
    assert_eq!(runs.len(), 2 * CLIENTS * ROUNDS);
    assert!(runs.values().all(|&count| count == 1));
    until("nothing is left of them", || {
        live_rpcs(&config, peer.addr()) == 0
    });
}
