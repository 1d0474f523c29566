//! The server on Homa: who waits, who is refused, what is told of calls, and how it ends.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Echo, EchoClient, Gate, Strings, until};
use homa_client::{Config, Faults, blocking};
use thrift::protocol::{
    TBinaryInputProtocolFactory, TBinaryOutputProtocolFactory, TCompactInputProtocol,
    TCompactOutputProtocol,
};
use thrift::transport::{
    TBufferedReadTransportFactory, TBufferedWriteTransportFactory, TFramedReadTransport,
    TFramedReadTransportFactory, TFramedWriteTransport, TFramedWriteTransportFactory,
};
use thrift::{ApplicationErrorKind, TransportErrorKind};
use thrift_homa::{
    CallContext, CallMetrics, CallOutcome, CallRecord, CallTransport, ClientOptions,
    HomaInputProtocol, HomaOutputProtocol, HomaServer, HomaTransport, Limits, Observer, OnewayAck,
    OnewayMode, QueuedAtShutdown, ServerHandle, call_context,
};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const GRACE: Duration = Duration::from_secs(10);

type Client = EchoClient<HomaInputProtocol, HomaOutputProtocol>;

fn connect(server: &ServerHandle) -> Client {
    connect_with(server, ClientOptions::default())
}

fn connect_with(server: &ServerHandle, options: ClientOptions) -> Client {
    let transport = HomaTransport::open_with(server.local_addr(), options).expect("an endpoint");
    let (input, output) = transport.protocols();
    EchoClient::new(input, output)
}

fn exception<T: std::fmt::Debug>(result: thrift::Result<T>) -> (ApplicationErrorKind, String) {
    match result {
        Err(thrift::Error::Application(error)) => (error.kind, error.message),
        other => panic!("not an exception: {other:?}"),
    }
}

/// A service whose method `wait` waits for the gate; all return their argument.
fn gated(gate: &Gate) -> Strings<impl Fn(&str, &str) -> thrift::Result<Option<String>> + use<>> {
    let gate = gate.clone();
    Strings(move |method: &str, text: &str| {
        if method == "wait" {
            gate.pass();
        }
        Ok(Some(text.to_owned()))
    })
}

#[test]
fn as_many_calls_run_at_once_as_there_are_workers_and_each_gets_its_own_reply() {
    const WORKERS: usize = 4;
    let (running, peak) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let most = peak.clone();
    // Nobody passes before all workers have a call.
    let meeting = Barrier::new(WORKERS);
    let service = Strings(move |method: &str, text: &str| {
        let now = running.fetch_add(1, Ordering::SeqCst) + 1;
        most.fetch_max(now, Ordering::SeqCst);
        if method == "meet" {
            meeting.wait();
        }
        running.fetch_sub(1, Ordering::SeqCst);
        Ok(Some(text.to_owned()))
    });
    let builder = HomaServer::builder(service).workers(WORKERS);
    let server = builder.bind(ANY).expect("a port").spawn().expect("threads");
    thread::scope(|scope| {
        for number in 0..2 * WORKERS {
            let mut client = connect(&server);
            scope.spawn(move || {
                let text = format!("client {number} meets");
                assert_eq!(client.call_with("meet", &text).expect("a reply"), text);
                for call in 0..100 {
                    let text = format!("client {number}, call {call}");
                    assert_eq!(client.call_with("echo", &text).expect("a reply"), text);
                }
            });
        }
    });
    assert_eq!(peak.load(Ordering::SeqCst), WORKERS);
    let stats = server.stats();
    assert_eq!(stats.peak_in_flight, WORKERS);
    assert_eq!((stats.in_flight, stats.queued), (0, 0));
    assert_eq!(stats.of(CallOutcome::Reply), 2 * WORKERS as u64 * 101);
    assert!(server.shutdown(GRACE).is_clean());
}

#[test]
fn a_slow_call_does_not_delay_others() {
    let gate = Gate::default();
    let builder = HomaServer::builder(gated(&gate)).workers(2);
    let server = builder.bind(ANY).expect("a port").spawn().expect("threads");
    thread::scope(|scope| {
        let mut slow = connect(&server);
        let slow = scope.spawn(move || slow.call_with("wait", "slow"));
        gate.wait_for(1);
        let mut fast = connect(&server);
        for _ in 0..50 {
            assert_eq!(fast.call_with("echo", "fast").expect("a reply"), "fast");
        }
        gate.open();
        assert_eq!(slow.join().expect("no panic").expect("a reply"), "slow");
    });
    assert!(server.shutdown(GRACE).is_clean());
}

#[test]
fn beyond_the_queue_callers_are_told_at_once_and_the_next_call_succeeds() {
    let gate = Gate::default();
    let server = HomaServer::builder(gated(&gate))
        .workers(1)
        .queue(1)
        .bind(ANY)
        .expect("a port")
        .spawn()
        .expect("threads");
    thread::scope(|scope| {
        let mut first = connect(&server);
        let first = scope.spawn(move || first.call_with("wait", "first"));
        gate.wait_for(1);
        let mut second = connect(&server);
        let second = scope.spawn(move || second.call_with("echo", "second"));
        until(|| server.stats().queued == 1);

        let mut third = connect(&server);
        let (kind, text) = exception(third.call_with("echo", "third"));
        assert_eq!(kind, ApplicationErrorKind::InternalError);
        assert!(
            text.starts_with("overloaded: 1 calls run and 1 wait"),
            "{text}"
        );
        // In the caller's own protocol.
        let transport = HomaTransport::open(server.local_addr()).expect("an endpoint");
        let (read, write) = transport.into_halves();
        let compact = (
            TCompactInputProtocol::new(read),
            TCompactOutputProtocol::new(write),
        );
        let mut compact = EchoClient::new(compact.0, compact.1);
        let (_, text) = exception(compact.call_with("echo", "compact"));
        assert!(text.starts_with("overloaded"), "{text}");
        // A oneway learns it by its control reply.
        let mut options = ClientOptions::default();
        options.oneway = OnewayMode::AwaitAck;
        let mut oneway = connect_with(&server, options);
        let (kind, text) = exception(oneway.send_with("echo", "oneway"));
        assert_eq!(kind, ApplicationErrorKind::InternalError);
        assert!(text.contains("overloaded"), "{text}");
        // What is no request is told so.
        let raw = blocking::Client::bind(&Config::default()).expect("an endpoint");
        let reply = raw.call(server.local_addr(), "{}".into()).expect("a reply");
        assert_eq!(reply.into_bytes(), b"\xF2unknown protocol".as_slice());

        gate.open();
        assert_eq!(first.join().expect("no panic").expect("a reply"), "first");
        assert_eq!(second.join().expect("no panic").expect("a reply"), "second");
        assert_eq!(third.call_with("echo", "again").expect("a reply"), "again");
    });
    let stats = server.stats();
    assert_eq!(stats.overloaded, 4);
    assert_eq!(stats.of(CallOutcome::Rejected), 3);
    assert_eq!(stats.of(CallOutcome::Malformed), 1);
    assert!(server.shutdown(GRACE).is_clean());
}

#[test]
fn a_call_that_waits_for_too_long_is_refused_and_one_that_runs_for_too_long_is_given_up() {
    let gate = Gate::default();
    let server = HomaServer::builder(gated(&gate))
        .workers(2)
        .call_timeout(Duration::from_millis(40))
        .bind(ANY)
        .expect("a port")
        .spawn()
        .expect("threads");
    thread::scope(|scope| {
        // Both handlers hang; both callers are told.
        let hang = |mut client: Client| {
            let (kind, text) = exception(client.call_with("wait", "hangs"));
            assert_eq!(kind, ApplicationErrorKind::InternalError);
            assert!(
                text.contains("has not returned within the limit of 40 ms"),
                "{text}"
            );
            client
        };
        let hanging: Vec<_> = (0..2)
            .map(|_| {
                let client = connect(&server);
                scope.spawn(move || hang(client))
            })
            .collect();
        gate.wait_for(2);
        let clients: Vec<_> = hanging
            .into_iter()
            .map(|client| client.join().expect("no panic"))
            .collect();
        // While the workers hang, a further call waits until it is too late for it.
        let mut late = connect(&server);
        let late = scope.spawn(move || {
            let (kind, text) = exception(late.call_with("echo", "late"));
            assert_eq!(kind, ApplicationErrorKind::InternalError);
            assert!(text.contains("the limit of a call is 40 ms"), "{text}");
            assert!(text.starts_with("waited "), "{text}");
        });
        until(|| server.stats().queued == 1);
        thread::sleep(Duration::from_millis(50));
        gate.open();
        late.join().expect("no panic");
        for mut client in clients {
            assert_eq!(client.call_with("echo", "next").expect("a reply"), "next");
        }
    });
    let stats = server.stats();
    assert_eq!(stats.of(CallOutcome::Abandoned), 2);
    assert_eq!(stats.of(CallOutcome::Rejected), 1);
    assert_eq!(
        stats.of(CallOutcome::Reply),
        2,
        "late replies count for nothing"
    );
    assert!(server.shutdown(GRACE).is_clean());
}

/// Starts as many calls of `wait`, with the argument "0" and so on; a thread for each.
fn start_calls<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    server: &ServerHandle,
    count: usize,
) -> Vec<thread::ScopedJoinHandle<'scope, thrift::Result<String>>> {
    (0..count)
        .map(|number| {
            let mut client = connect(server);
            scope.spawn(move || client.call_with("wait", &number.to_string()))
        })
        .collect()
}

#[test]
fn a_shutdown_serves_what_waits_frees_the_port_and_leaves_no_thread() {
    let gate = Gate::default();
    let alive = Arc::new(());
    let (passing, kept) = (gate.clone(), alive.clone());
    let service = Strings(move |_: &str, text: &str| {
        let _ = &kept;
        passing.pass();
        Ok(Some(text.to_owned()))
    });
    let builder = HomaServer::builder(service).workers(2);
    let server = builder.bind(ANY).expect("a port").spawn().expect("threads");
    let addr = server.local_addr();
    let transport = HomaTransport::open(addr).expect("an endpoint");
    let (input, output) = transport.clone().protocols();
    let mut client: Client = EchoClient::new(input, output);
    thread::scope(|scope| {
        let calls = start_calls(scope, &server, 6);
        gate.wait_for(2);
        until(|| server.stats().queued == 4);
        let ending = scope.spawn(move || server.shutdown(GRACE));
        // It does not end before they have; new ones are refused meanwhile.
        transport.set_timeout(Some(Duration::from_millis(20)));
        until(|| match client.call_with("wait", "new") {
            Err(thrift::Error::Transport(error)) => error.kind == TransportErrorKind::NotOpen,
            other => panic!("not a transport error: {other:?}"),
        });
        transport.set_timeout(None);
        assert!(!ending.is_finished());
        gate.open();
        for (number, call) in calls.into_iter().enumerate() {
            let reply = call.join().expect("no panic").expect("a reply");
            assert_eq!(reply, number.to_string());
        }
        let report = ending.join().expect("no panic");
        assert!(report.is_clean(), "{report}");
        assert!(report.answered >= 6, "{report}");
    });
    until(|| Arc::strong_count(&alive) == 1);
    match client.call_with("wait", "anybody?") {
        Err(thrift::Error::Transport(error)) => assert_eq!(error.kind, TransportErrorKind::NotOpen),
        other => panic!("not a transport error: {other:?}"),
    }
    until(|| HomaServer::builder(Echo::default()).bind(addr).is_ok());
}

#[test]
fn a_shutdown_refuses_what_waits_if_it_is_to() {
    let gate = Gate::default();
    let server = HomaServer::builder(gated(&gate))
        .workers(1)
        .queued_at_shutdown(QueuedAtShutdown::Refuse)
        .bind(ANY)
        .expect("a port")
        .spawn()
        .expect("threads");
    thread::scope(|scope| {
        let calls = start_calls(scope, &server, 4);
        gate.wait_for(1);
        until(|| server.stats().queued == 3);
        let ending = scope.spawn(move || server.shutdown(GRACE));
        // They are, while the other still runs.
        until(|| calls.iter().filter(|call| call.is_finished()).count() == 3);
        assert_eq!(gate.inside(), 1);
        gate.open();
        let (mut served, mut refused) = (0, 0);
        for call in calls {
            match call.join().expect("no panic") {
                Ok(_) => served += 1,
                Err(error) => {
                    let (kind, text) = exception::<()>(Err(error));
                    assert_eq!(kind, ApplicationErrorKind::InternalError);
                    assert_eq!(text, "shutting down");
                    refused += 1;
                }
            }
        }
        assert_eq!((served, refused), (1, 3));
        let report = ending.join().expect("no panic");
        assert_eq!((report.answered, report.refused), (1, 3), "{report}");
        assert!(
            report.abandoned.is_empty() && report.acknowledged,
            "{report}"
        );
    });
}

#[test]
fn a_handler_that_never_returns_is_reported_its_caller_told_and_the_port_freed() {
    let gate = Gate::default();
    let builder = HomaServer::builder(gated(&gate)).workers(1);
    let server = builder.bind(ANY).expect("a port").spawn().expect("threads");
    let addr = server.local_addr();
    thread::scope(|scope| {
        let calls = start_calls(scope, &server, 3);
        gate.wait_for(1);
        until(|| server.stats().queued == 2);
        let began = Instant::now();
        let report = server.shutdown(Duration::from_millis(50));
        assert!(began.elapsed() < GRACE, "it does not hang");
        assert_eq!((report.answered, report.refused), (0, 2), "{report}");
        let [call] = &report.abandoned[..] else {
            panic!("one hangs: {report}");
        };
        assert_eq!((&*call.method, call.answered), ("wait", false));
        assert!(call.peer.is_some() && call.running_for >= Duration::from_millis(50));
        assert!(!report.is_clean());
        let told = "3 calls; at the end 0 answered, 2 refused, 1 abandoned: wait after ";
        assert!(report.to_string().starts_with(told), "{report}");
        // Everybody has a reply, while the handler still runs.
        for call in calls {
            let (kind, text) = exception(call.join().expect("no panic"));
            assert_eq!(kind, ApplicationErrorKind::InternalError);
            let told = text == "shutting down" || text.contains("within its grace of 50 ms");
            assert!(told, "{text}");
        }
        assert_eq!(gate.inside(), 1);
        until(|| HomaServer::builder(Echo::default()).bind(addr).is_ok());
        gate.open();
    });
}

#[test]
fn a_oneway_that_never_returns_is_reported_as_answered() {
    let gate = Gate::default();
    let builder = HomaServer::builder(gated(&gate)).workers(1);
    let server = builder.bind(ANY).expect("a port").spawn().expect("threads");
    let mut client = connect(&server);
    client.send_with("wait", "").expect("it is sent");
    gate.wait_for(1);
    let report = server.shutdown(Duration::from_millis(20));
    assert_eq!(report.abandoned.len(), 1, "{report}");
    assert!(report.abandoned[0].answered);
    gate.open();
}

#[test]
fn a_handler_learns_who_calls_and_when_and_others_learn_nothing() {
    let contexts = Arc::new(Mutex::new(Vec::<Option<CallContext>>::new()));
    let seen = contexts.clone();
    let service = Strings(move |_: &str, text: &str| {
        let elsewhere = thread::spawn(call_context).join().expect("no panic");
        assert_eq!(elsewhere, None);
        seen.lock().unwrap().push(call_context());
        Ok(Some(text.to_owned()))
    });
    let server = HomaServer::builder(service)
        .call_timeout(Duration::from_secs(60))
        .bind(ANY)
        .expect("a port")
        .spawn()
        .expect("threads");
    let before = Instant::now();
    let mut client = connect(&server);
    client.call_with("first", "").expect("a reply");
    client.call_with("Service:second", "").expect("a reply");
    client.send_with("third", "").expect("it is sent");
    until(|| contexts.lock().unwrap().len() == 3);
    let contexts = contexts.lock().unwrap();
    let of = |method: &str| {
        let mut all = contexts.iter().flatten();
        all.find(|call| call.method == method)
            .expect(method)
            .clone()
    };
    for (sequence, method) in [(1, "first"), (2, "Service:second"), (3, "third")] {
        let call = of(method);
        assert_eq!(call.sequence, sequence);
        assert_eq!(call.transport, CallTransport::Homa);
        assert!(call.peer.is_some_and(|peer| peer.ip().is_loopback()));
        assert!(call.received_at > before && call.received_at < Instant::now());
        let timeout = Duration::from_secs(60);
        assert_eq!(call.deadline, Some(call.received_at + timeout));
    }
    assert_eq!(call_context(), None);
    assert!(server.shutdown(GRACE).is_clean());
}

/// Keeps what it is told.
#[derive(Default)]
struct Log {
    started: Mutex<Vec<String>>,
    finished: Mutex<Vec<(String, CallOutcome, usize, usize)>>,
    faulty: AtomicBool,
}

impl Observer for Log {
    fn started(&self, method: &str) {
        self.started.lock().unwrap().push(method.to_owned());
    }

    fn finished(&self, record: &CallRecord<'_>) {
        assert!(record.waited <= record.latency);
        self.finished.lock().unwrap().push((
            record.method.to_owned(),
            record.outcome,
            record.bytes_in,
            record.bytes_out,
        ));
        assert!(!self.faulty.load(Ordering::SeqCst), "a faulty observer");
    }
}

#[test]
fn every_outcome_is_observed_and_a_faulty_observer_harms_nobody() {
    let log = Arc::new(Log::default());
    let server = HomaServer::builder(Echo::default())
        .observer(log.clone())
        .limits(Limits::for_messages(10_000))
        .bind(ANY)
        .expect("a port")
        .spawn()
        .expect("threads");
    let mut client = connect(&server);
    client.ping().expect("a reply");
    client
        .call_by_name("nope")
        .expect_err("there is no such method");
    client.zip().expect("it is sent");
    client.call_by_name("boom").expect_err("it panics");
    client
        .call_with("echo", &"x".repeat(20_000))
        .expect_err("it is too long");
    client.repeat(20_000).expect_err("its reply is too long");
    let raw = blocking::Client::bind(&Config::default()).expect("an endpoint");
    raw.call(server.local_addr(), "junk".into())
        .expect("a reply");
    let of = |method: &str, outcome| {
        let finished = log.finished.lock().unwrap();
        let mut all = finished.iter();
        all.any(|call| call.0 == method && call.1 == outcome)
    };
    until(|| of("zip", CallOutcome::Oneway));
    until(|| of("ping", CallOutcome::Reply));
    until(|| of("nope", CallOutcome::Exception));
    until(|| of("boom", CallOutcome::Panic));
    until(|| of("echo", CallOutcome::Oversize));
    until(|| of("repeat", CallOutcome::Oversize));
    until(|| of("", CallOutcome::Malformed));
    let finished = log.finished.lock().unwrap().clone();
    let ping = finished.iter().find(|call| call.0 == "ping").unwrap();
    assert_eq!((ping.2, ping.3), (17, 17), "bytes in and out");
    let mut started = log.started.lock().unwrap().clone();
    started.sort_unstable();
    assert_eq!(started, ["boom", "nope", "ping", "repeat", "zip"]);

    log.faulty.store(true, Ordering::SeqCst);
    for _ in 0..20 {
        client.ping().expect("a reply");
    }
    log.faulty.store(false, Ordering::SeqCst);
    assert!(server.shutdown(GRACE).is_clean());
}

#[test]
fn metrics_count_by_method() {
    let metrics = Arc::new(CallMetrics::default());
    let builder = HomaServer::builder(Echo::default()).observer(metrics.clone());
    let server = builder.bind(ANY).expect("a port").spawn().expect("threads");
    let mut client = connect(&server);
    for _ in 0..10 {
        client.ping().expect("a reply");
        client.echo("hello").expect("a reply");
    }
    client
        .call_by_name("nope")
        .expect_err("there is no such method");
    // They are told after the replies have left.
    let told = || {
        metrics
            .snapshot()
            .iter()
            .map(|(_, of)| of.calls())
            .sum::<u64>()
    };
    until(|| told() == 21);
    let snapshot = metrics.snapshot();
    let names: Vec<_> = snapshot.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["echo", "other", "ping"]);
    assert_eq!(snapshot[0].1.of(CallOutcome::Reply), 10);
    assert_eq!(snapshot[1].1.of(CallOutcome::Exception), 1);
    assert_eq!(snapshot[2].1.bytes_in, 170);
    assert!(snapshot[2].1.max_latency <= snapshot[2].1.total_latency);
    assert!(server.shutdown(GRACE).is_clean());
}

#[test]
fn what_tserver_takes_makes_a_server_on_homa() {
    let server = HomaServer::new(
        TBufferedReadTransportFactory::new(),
        TBinaryInputProtocolFactory::new(),
        TBufferedWriteTransportFactory::new(),
        TBinaryOutputProtocolFactory::new(),
        Echo::default(),
        3,
    );
    let server = server.limits(Limits::for_messages(100_000));
    let server = server.bind(ANY).expect("a port").spawn().expect("threads");
    let mut client = connect(&server);
    let text = "x".repeat(50_000);
    assert_eq!(client.echo(&text).expect("a reply"), text);
    let (kind, text) = exception(client.repeat(200_000));
    assert_eq!(kind, ApplicationErrorKind::InternalError, "{text}");
    assert!(text.contains("limit of 100000 bytes"), "{text}");
    assert_eq!(
        exception(client.call_by_name("boom")).1,
        "the handler panicked"
    );
    client.zip().expect("it is sent");
    client.ping().expect("a reply");
    // Its protocol is the one that was asked for.
    let raw = blocking::Client::bind(&Config::default()).expect("an endpoint");
    let compact = b"\x82\x21\x01\x04ping\0".as_slice();
    let reply = raw
        .call(server.local_addr(), compact.into())
        .expect("a reply");
    assert_eq!(reply.into_bytes()[0], 0xF2);
    assert!(server.shutdown(GRACE).is_clean());

    let server = HomaServer::new(
        TFramedReadTransportFactory::new(),
        TBinaryInputProtocolFactory::new(),
        TFramedWriteTransportFactory::new(),
        TBinaryOutputProtocolFactory::new(),
        Echo::default(),
        3,
    );
    let server = server.bind(ANY).expect("a port").spawn().expect("threads");
    let transport = HomaTransport::open(server.local_addr()).expect("an endpoint");
    let (read, write) = transport.into_halves();
    let input = thrift::protocol::TBinaryInputProtocol::new(TFramedReadTransport::new(read), true);
    let output =
        thrift::protocol::TBinaryOutputProtocol::new(TFramedWriteTransport::new(write), true);
    let mut client = EchoClient::new(input, output);
    assert_eq!(client.echo("framed").expect("a reply"), "framed");
    assert_eq!(
        exception(client.call_by_name("nope")).0,
        ApplicationErrorKind::UnknownMethod
    );
    assert_eq!(
        exception(client.repeat(2_000_000)).0,
        ApplicationErrorKind::InternalError
    );
    assert_eq!(client.echo("and on").expect("a reply"), "and on");
    assert!(server.shutdown(GRACE).is_clean());
}

#[test]
fn oneways_are_acknowledged_before_or_after_their_handlers() {
    for ack in [OnewayAck::OnReceipt, OnewayAck::AfterHandler] {
        let gate = Gate::default();
        let builder = HomaServer::builder(gated(&gate)).workers(2).oneway_ack(ack);
        let server = builder.bind(ANY).expect("a port").spawn().expect("threads");
        let mut options = ClientOptions::default();
        options.oneway = OnewayMode::AwaitAck;
        let mut client = connect_with(&server, options);
        thread::scope(|scope| {
            let sending = scope.spawn(move || client.send_with("wait", ""));
            gate.wait_for(1);
            if ack == OnewayAck::OnReceipt {
                until(|| sending.is_finished());
                assert_eq!(gate.inside(), 1);
            } else {
                // A call gets through meanwhile; the oneway is not acknowledged by then.
                connect(&server).call_with("echo", "").expect("a reply");
                assert!(!sending.is_finished());
            }
            gate.open();
            sending.join().expect("no panic").expect("it is accepted");
        });
        assert!(server.shutdown(GRACE).is_clean());
    }
}

#[test]
fn a_handler_runs_once_per_call_on_a_bad_network_oneways_included() {
    let mut faults = Faults::default();
    faults.loss_ppm = 50_000;
    faults.reorder_ppm = 50_000;
    faults.duplicate_ppm = 50_000;
    let mut config = Config::default();
    config.faults = Some(faults);
    config.protocol.max_peers = 3_000;
    config.linger = Duration::from_secs(10);
    let runs = Arc::new(Mutex::new(
        std::collections::BTreeMap::<String, usize>::new(),
    ));
    let counted = runs.clone();
    let service = Strings(move |_: &str, text: &str| {
        *counted.lock().unwrap().entry(text.to_owned()).or_default() += 1;
        Ok(Some(text.to_owned()))
    });
    let builder = HomaServer::builder(service).homa(config.clone());
    let server = builder.bind(ANY).expect("a port").spawn().expect("threads");
    let mut options = ClientOptions::default();
    options.homa = config;
    let transport = HomaTransport::open_with(server.local_addr(), options).expect("an endpoint");
    thread::scope(|scope| {
        for number in 0..4 {
            let (input, output) = transport.clone().protocols();
            let mut client: Client = EchoClient::new(input, output);
            scope.spawn(move || {
                for call in 0..100 {
                    let text = format!("{number}.{call}");
                    assert_eq!(client.call_with("call", &text).expect("a reply"), text);
                    client
                        .send_with("oneway", &format!("oneway {text}"))
                        .expect("it is sent");
                }
            });
        }
    });
    until(|| runs.lock().unwrap().len() == 800);
    let stats = server.stats();
    server.shutdown(GRACE);
    assert_eq!(stats.of(CallOutcome::Reply), 400);
    let runs = runs.lock().unwrap();
    assert!(runs.values().all(|runs| *runs == 1), "{runs:?}");
}

#[test]
fn options_out_of_range_and_names_that_do_not_resolve_are_refused_by_name() {
    let refused = |builder: thrift_homa::ServerBuilder<Echo>, addr: &str| match builder.bind(addr) {
        Err(thrift::Error::Transport(error)) => {
            assert_eq!(error.kind, TransportErrorKind::NotOpen);
            error.message
        }
        other => panic!("not a transport error: {other:?}"),
    };
    let builder = || HomaServer::builder(Echo::default());
    let text = refused(builder().workers(0), "127.0.0.1:0");
    assert!(
        text.starts_with("workers = 0 is out of range: 1 to 65536"),
        "{text}"
    );
    let text = refused(builder().limits(Limits::for_messages(0)), "127.0.0.1:0");
    assert!(text.starts_with("limits.message_bytes = 0"), "{text}");
    let text = refused(builder(), "no.such.host.invalid:4000");
    let named = text.contains("no.such.host.invalid") && text.contains("does not resolve");
    assert!(named, "{text}");
    let text = refused(builder(), "127.0.0.1:40000");
    assert!(text.contains("40000"), "{text}");
}

#[test]
fn a_stopper_ends_a_server_that_somebody_waits_for() {
    let builder = HomaServer::builder(Echo::default());
    let server = builder.bind(ANY).expect("a port").spawn().expect("threads");
    connect(&server).ping().expect("a reply");
    let stopper = server.stopper();
    thread::scope(|scope| {
        let waiting = scope.spawn(move || server.wait());
        assert!(!waiting.is_finished());
        stopper.stop();
        let stats = waiting.join().expect("no panic");
        assert_eq!(stats.calls(), 1);
    });
    // Without effect, now that it is gone.
    stopper.stop();
}
