//! Calls through a gateway, in both directions.

#[allow(dead_code, reason = "each file of tests uses a part of it")]
mod common;
#[allow(dead_code, reason = "each file of tests uses a part of it")]
#[path = "common/peer.rs"]
mod peer;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::{Echo, EchoClient};
use peer::until;
use thrift::ApplicationErrorKind;
use thrift_homa::gateway::{self, GatewayOptions};
use thrift_homa::{
    BoxedInputProtocol, BoxedOutputProtocol, CallOutcome, Endpoint, ServerHandle, ServerOptions,
};

const GRACE: Duration = Duration::from_secs(5);
const HOMA: &str = "homa://127.0.0.1:0?engine=udp";
const FRAMED: &str = "tcp+framed://127.0.0.1:0";

type Client = EchoClient<BoxedInputProtocol, BoxedOutputProtocol>;

fn endpoint(uri: &str) -> Endpoint {
    uri.parse().expect(uri)
}

fn client(uri: &str) -> Client {
    let (input, output) = endpoint(uri).client().expect(uri);
    EchoClient::new(input, output)
}

/// A server, and a gateway to it on another transport.
struct Both {
    service: Echo,
    server: ServerHandle,
    gateway: ServerHandle,
    uri: String,
}

impl Both {
    fn start(listen: &str, to: &str, options: GatewayOptions) -> Self {
        let service = Echo::default();
        let server = endpoint(to).serve(service.clone(), ServerOptions::default());
        let server = server.expect("a server");
        let to = endpoint(&server.uri());
        let gateway = gateway::serve(&endpoint(listen), &to, options).expect("a gateway");
        Self {
            service,
            server,
            uri: gateway.uri(),
            gateway,
        }
    }
}

fn failure(result: thrift::Result<String>) -> (ApplicationErrorKind, String) {
    match result {
        Err(thrift::Error::Application(error)) => (error.kind, error.message),
        other => panic!("no exception: {other:?}"),
    }
}

#[test]
fn calls_are_the_same_with_a_gateway_in_between() {
    for (listen, to) in [(FRAMED, HOMA), (HOMA, FRAMED), (HOMA, HOMA)] {
        let both = Both::start(listen, to, GatewayOptions::default());
        for protocol in ["binary", "compact"] {
            let uri = both.uri.split('?').next().expect("it has a start");
            let mut client = client(&format!("{uri}?protocol={protocol}"));
            client.ping().expect("a reply");
            for size in [0, 1, 1_400, 4_096, 65_536, 999_900] {
                let text = "x".repeat(size);
                assert!(client.echo(&text).expect("a reply") == text, "{size}");
            }
            let (kind, _) = failure(client.call_by_name("nope"));
            assert_eq!(kind, ApplicationErrorKind::UnknownMethod);
            let (kind, text) = failure(client.call_by_name("boom"));
            assert_eq!(kind, ApplicationErrorKind::InternalError);
            assert!(text.contains("panicked"), "{text}");
        }
        until("all are counted", || {
            both.gateway.stats().calls() == 18 && both.server.stats().calls() == 18
        });
        let stats = both.gateway.stats();
        assert_eq!(stats.of(CallOutcome::Reply), 14, "{listen} {to}");
        assert_eq!(stats.of(CallOutcome::Exception), 4, "{listen} {to}");
    }
}

/// No frame answers a oneway, so that the next reply is that of the next call.
#[test]
fn oneway_messages_are_passed_on_once_and_have_no_reply() {
    for (listen, to) in [(FRAMED, HOMA), (HOMA, FRAMED)] {
        let both = Both::start(listen, to, GatewayOptions::default());
        let mut client = client(&both.uri);
        for round in 0..10 {
            client.zip().expect("it is sent");
            let text = format!("round {round}");
            assert_eq!(client.echo(&text).expect("a reply"), text);
        }
        until("all are executed", || {
            both.service.zips.load(Ordering::SeqCst) == 10
        });
        until("all are counted", || {
            both.gateway.stats().of(CallOutcome::Oneway) == 10
        });
    }
}

#[test]
fn a_server_that_is_not_there_is_named_and_the_connection_goes_on() {
    for (listen, to) in [(FRAMED, HOMA), (HOMA, FRAMED)] {
        let server = endpoint(to).serve(Echo::default(), ServerOptions::default());
        let server = server.expect("a server");
        let (closed, to) = (server.local_addr(), server.uri());
        server.shutdown(GRACE);
        let gateway = gateway::serve(&endpoint(listen), &endpoint(&to), GatewayOptions::default())
            .expect("a gateway");
        let mut client = client(&gateway.uri());
        for _ in 0..2 {
            let (kind, text) = failure(client.echo("hello?"));
            assert_eq!(kind, ApplicationErrorKind::InternalError);
            assert!(text.contains(&closed.to_string()), "{text}");
        }
        // Calls are counted when they are answered.
        until("both are counted", || {
            gateway.stats().of(CallOutcome::Unavailable) == 2
        });
    }
}

#[test]
fn a_server_that_does_not_answer_ends_at_the_timeout_and_a_late_reply_is_not_taken_for_the_next() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let to = format!("tcp+framed://{}", silent.local_addr().expect("bound"));
    let mut options = GatewayOptions::default();
    options.timeout = Duration::from_millis(100);
    options.connections = 1;
    let gateway = gateway::serve(&endpoint(HOMA), &endpoint(&to), options).expect("a gateway");
    let mut client = client(&gateway.uri());
    let (kind, text) = failure(client.echo("first"));
    assert_eq!(kind, ApplicationErrorKind::InternalError);
    assert!(text.contains("no reply"), "{text}");
    assert!(text.contains("within 100ms"), "{text}");
    // The first connection is closed; the second answers what came on it.
    let (mut first, _) = silent.accept().expect("the gateway's");
    let reader = thread::spawn(move || {
        let (mut second, _) = silent.accept().expect("another one");
        let frame = echoed(frame(&mut second).expect("a request"));
        second.write_all(&frame).expect("it is there");
        second
    });
    assert_eq!(client.echo("second").expect("a reply"), "second");
    drop(reader.join().expect("no panic"));
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).expect("the end");
    assert!(rest.windows(5).any(|bytes| bytes == b"first"));
}

/// One frame, with its length.
fn frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut frame = vec![0; 4];
    stream.read_exact(&mut frame).ok()?;
    let size = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
    frame.resize(4 + size as usize, 0);
    stream.read_exact(&mut frame[4..]).expect("all of it");
    Some(frame)
}

/// The reply to `echo`, of which this is the frame.
fn echoed(mut frame: Vec<u8>) -> Vec<u8> {
    // The type of a message is its fourth byte, behind the four of the length: a reply.
    frame[7] = 2;
    // The argument has the number 1, the result 0.
    let name = frame.windows(4).position(|bytes| bytes == b"echo");
    frame[name.expect("its name") + 4 + 4 + 2] = 0;
    frame
}

/// An exception without fields, as the answer to a frame of `zip`, which has no arguments.
fn failed(mut frame: Vec<u8>) -> Vec<u8> {
    frame[7] = 3;
    frame
}

/// As `TServer` of the thrift crate does when the handler of a oneway message fails.
#[test]
fn an_answer_to_a_oneway_message_is_not_taken_for_that_to_the_next_call() {
    // It comes while nothing is under way, in front of the next reply, or in one piece with it.
    for with_the_reply in [false, true] {
        for in_one_piece in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let to = format!("tcp+framed://{}", listener.local_addr().expect("bound"));
            let (answered, was_answered) = mpsc::channel();
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("the gateway's");
                stream.set_nodelay(true).expect("an option");
                let mut kept = Vec::new();
                let mut oneways = 0;
                while let Some(frame) = frame(&mut stream) {
                    if frame[7] == 1 {
                        kept.extend(echoed(frame));
                    } else {
                        oneways += 1;
                        kept.extend(failed(frame));
                        if with_the_reply {
                            continue;
                        }
                    }
                    let pieces = if in_one_piece { kept.len() } else { 1 };
                    for piece in kept.chunks(pieces) {
                        stream.write_all(piece).expect("it is there");
                    }
                    kept.clear();
                    answered.send(()).expect("the test waits");
                }
                oneways
            });
            let mut options = GatewayOptions::default();
            options.connections = 1;
            let gateway = gateway::serve(&endpoint(HOMA), &endpoint(&to), options);
            let gateway = gateway.expect("a gateway");
            let mut client = client(&gateway.uri());
            for round in 0..10 {
                for number in 0..3 {
                    client.zip().expect("it is sent");
                    let passed_on = 3 * round + number + round + 1;
                    until("it is passed on", || gateway.stats().calls() == passed_on);
                    if !with_the_reply {
                        was_answered.recv().expect("an answer");
                    }
                }
                let text = format!("round {round}");
                assert_eq!(client.echo(&text).expect("a reply"), text);
                was_answered.recv().expect("the reply");
                until("it is counted", || {
                    gateway.stats().calls() == 4 * (round + 1)
                });
            }
            gateway.shutdown(GRACE);
            // All over one connection.
            assert_eq!(server.join().expect("no panic"), 30);
        }
    }
}

#[test]
fn a_reply_to_another_call_is_not_passed_on() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let to = format!("tcp+framed://{}", listener.local_addr().expect("bound"));
    let server = thread::spawn(move || {
        for is_wrong in [true, false] {
            let (mut stream, _) = listener.accept().expect("the gateway's");
            let mut reply = echoed(frame(&mut stream).expect("a request"));
            // The last byte of its number, behind the name.
            reply[4 + 4 + 4 + 4 + 3] += u8::from(is_wrong);
            stream.write_all(&reply).expect("it is there");
            // Until the gateway is done with it.
            assert!(is_wrong || frame(&mut stream).is_none());
        }
    });
    let gateway = gateway::serve(&endpoint(HOMA), &endpoint(&to), GatewayOptions::default());
    let gateway = gateway.expect("a gateway");
    let mut client = client(&gateway.uri());
    let (kind, text) = failure(client.echo("first"));
    assert_eq!(kind, ApplicationErrorKind::InternalError);
    assert!(text.contains("another call"), "{text}");
    assert_eq!(client.echo("second").expect("a reply"), "second");
    gateway.shutdown(GRACE);
    server.join().expect("no panic");
}

/// A connection that the server has closed while it was idle is not used.
#[test]
fn a_restarted_server_is_connected_to_again() {
    let service = Echo::default();
    let server = endpoint(FRAMED).serve(service.clone(), ServerOptions::default());
    let server = server.expect("a server");
    let addr = server.local_addr();
    let to = server.uri();
    let gateway = gateway::serve(&endpoint(HOMA), &endpoint(&to), GatewayOptions::default());
    let gateway = gateway.expect("a gateway");
    let mut client = client(&gateway.uri());
    assert_eq!(client.echo("before").expect("a reply"), "before");
    server.shutdown(GRACE);
    let began = Instant::now();
    let again = loop {
        let uri = format!("tcp+framed://{addr}");
        match endpoint(&uri).serve(service.clone(), ServerOptions::default()) {
            Ok(server) => break server,
            Err(error) => assert!(began.elapsed() < GRACE, "{error}"),
        }
    };
    assert_eq!(client.echo("after").expect("a reply"), "after");
    until("it is counted", || again.stats().calls() == 1);
}

#[test]
fn a_gateway_that_stops_ends_the_calls_under_way_first() {
    let service = common::Strings(|_: &str, text: &str| {
        thread::sleep(Duration::from_millis(200));
        Ok(Some(text.to_owned()))
    });
    let server = endpoint(HOMA).serve(service, ServerOptions::default());
    let server = server.expect("a server");
    let to = endpoint(&server.uri());
    let gateway = gateway::serve(&endpoint(FRAMED), &to, GatewayOptions::default());
    let gateway = gateway.expect("a gateway");
    let uri = gateway.uri();
    let calls: Vec<_> = (0..4)
        .map(|call| {
            let mut client = client(&uri);
            thread::spawn(move || client.call_with("slow", &call.to_string()))
        })
        .collect();
    until("all are under way", || gateway.stats().in_flight == 4);
    let report = gateway.shutdown(GRACE);
    assert_eq!((report.answered, report.stats.calls()), (4, 4), "{report}");
    for (number, call) in calls.into_iter().enumerate() {
        let reply = call.join().expect("no panic").expect("a reply");
        assert_eq!(reply, number.to_string());
    }
}

#[test]
fn messages_over_the_limit_are_refused_by_name() {
    let mut options = GatewayOptions::default();
    options.server.limits = thrift_homa::Limits::for_messages(10_000);
    for (listen, to) in [(FRAMED, HOMA), (HOMA, FRAMED)] {
        let both = Both::start(listen, to, options.clone());
        let mut client = client(&both.uri);
        let (kind, text) = failure(client.echo(&"x".repeat(20_000)));
        assert_eq!(kind, ApplicationErrorKind::InternalError);
        assert!(text.contains("10000 bytes"), "{text}");
        assert_eq!(client.echo("and on").expect("a reply"), "and on");
        let (kind, text) = failure(client.repeat(20_000));
        assert_eq!(kind, ApplicationErrorKind::InternalError);
        assert!(text.contains("10000"), "{text}");
        assert_eq!(client.echo("and on").expect("a reply"), "and on");
    }
}

#[test]
fn settings_that_cannot_work_are_named() {
    let refused = |listen: &str, to: &str, options| {
        let error = gateway::serve(&endpoint(listen), &endpoint(to), options);
        match error.expect_err("it cannot work") {
            thrift::Error::Transport(error) => error.message,
            other => panic!("not a transport error: {other:?}"),
        }
    };
    let changed = |change: fn(&mut GatewayOptions)| {
        let mut options = GatewayOptions::default();
        change(&mut options);
        options
    };
    let to = "homa://127.0.0.1:4000";
    let zero = changed(|options| options.timeout = Duration::ZERO);
    assert!(refused(FRAMED, to, zero).contains("timeout"));
    let none = changed(|options| options.connections = 0);
    assert!(refused(FRAMED, to, none).contains("connections"));
    let many = changed(|options| options.connections = 70_000);
    assert!(refused(FRAMED, to, many).contains("1 to 65536"));
    for query in ["service=Suite", "protocol=compact", "oneway=await_ack"] {
        let to = format!("{to}?{query}");
        let text = refused(FRAMED, &to, GatewayOptions::default());
        assert!(text.contains("as they are"), "{text}");
    }
    let buffered = "tcp+buffered://127.0.0.1:4000";
    let text = refused(HOMA, buffered, GatewayOptions::default());
    assert!(text.contains("tcp+framed://"), "{text}");
    // The first that no server can have.
    let text = refused(FRAMED, "homa://127.0.0.1:32768", GatewayOptions::default());
    assert!(
        text.contains(":32768") && text.contains("1 to 32767"),
        "{text}"
    );
}

/// What is no Thrift ends its connection, and nothing else.
#[test]
fn garbage_ends_its_own_connection_only() {
    let both = Both::start(FRAMED, HOMA, GatewayOptions::default());
    let mut client = client(&both.uri);
    client.ping().expect("a reply");
    let addr = both.gateway.local_addr();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xFF; 64],
        &[0, 0, 0, 3, 1, 2, 3],
    ] {
        let mut stream = TcpStream::connect(addr).expect("it listens");
        stream.write_all(garbage).expect("it is there");
        stream.set_read_timeout(Some(GRACE)).expect("a timeout");
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(ended.is_ok() && rest.is_empty(), "{ended:?} {rest:?}");
    }
    client.ping().expect("a reply");
    until("the calls are counted", || {
        both.gateway.stats().calls() >= 2
    });
    assert_eq!(both.server.stats().calls(), 2, "nothing else was passed on");
}
