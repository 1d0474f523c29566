//! The servers on TCP and unix sockets: the same handlers, limits, context, stop and report.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Echo, EchoClient, Gate, Strings, until};
use thrift::ApplicationErrorKind;
use thrift::protocol::{
    TBinaryInputProtocol, TBinaryInputProtocolFactory, TBinaryOutputProtocol,
    TBinaryOutputProtocolFactory, TCompactInputProtocol, TCompactOutputProtocol, TInputProtocol,
    TOutputProtocol,
};
use thrift::transport::{
    TBufferedReadTransport, TBufferedWriteTransport, TFramedReadTransport, TFramedWriteTransport,
};
use thrift_homa::{
    CallOutcome, CallTransport, CustomProtocol, Framing, Limits, Protocol, QueuedAtShutdown,
    ServerHandle, ServerOptions, call_context, serve_tcp, serve_unix,
};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const GRACE: Duration = Duration::from_secs(10);

type Client = EchoClient<Box<dyn TInputProtocol>, Box<dyn TOutputProtocol>>;

fn tcp(
    framing: Framing,
    service: impl thrift::server::TProcessor + Send + Sync + 'static,
    options: ServerOptions,
) -> ServerHandle {
    let listener = TcpListener::bind(ANY).expect("a free port");
    serve_tcp(listener, framing, service, options).expect("threads")
}

fn options(set: impl FnOnce(&mut ServerOptions)) -> ServerOptions {
    let mut options = ServerOptions::default();
    set(&mut options);
    options
}

fn connect(server: &ServerHandle) -> TcpStream {
    let stream = TcpStream::connect(server.local_addr()).expect("it listens");
    // Far more than anything here takes; a test that fails must not hang.
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).expect("a time");
    stream.set_nodelay(true).expect("an option");
    stream
}

fn client(server: &ServerHandle, framing: Framing, compact: bool) -> Client {
    let stream = connect(server);
    let read = stream.try_clone().expect("a second handle");
    over(read, stream, framing, compact)
}

fn over(
    read: impl Read + 'static,
    write: impl Write + 'static,
    framing: Framing,
    compact: bool,
) -> Client {
    let (read, write): (Box<dyn Read>, Box<dyn Write>) = match framing {
        Framing::Framed => (
            Box::new(TFramedReadTransport::new(read)),
            Box::new(TFramedWriteTransport::new(write)),
        ),
        Framing::Buffered => (
            Box::new(TBufferedReadTransport::new(read)),
            Box::new(TBufferedWriteTransport::new(write)),
        ),
    };
    if compact {
        EchoClient::new(
            Box::new(TCompactInputProtocol::new(read)),
            Box::new(TCompactOutputProtocol::new(write)),
        )
    } else {
        EchoClient::new(
            Box::new(TBinaryInputProtocol::new(read, true)),
            Box::new(TBinaryOutputProtocol::new(write, true)),
        )
    }
}

fn exception<T: std::fmt::Debug>(result: thrift::Result<T>) -> (ApplicationErrorKind, String) {
    match result {
        Err(thrift::Error::Application(error)) => (error.kind, error.message),
        other => panic!("not an exception: {other:?}"),
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes(), message].concat()
}

/// The next frame, or `None` at the end of the connection.
fn read_frame(mut stream: &TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame).expect("the whole frame");
    Some(frame)
}

fn is_closed(mut stream: &TcpStream) -> bool {
    // Reset, if it had not read everything.
    matches!(stream.read(&mut [0; 16]), Ok(0) | Err(_))
}

const PING: &[u8] = b"\x80\x01\0\x01\0\0\0\x04ping\0\0\0\x01\0";

#[test]
fn calls_of_every_kind_and_size_work_over_every_stream() {
    let directory = tempfile::tempdir().expect("a directory");
    for framing in [Framing::Framed, Framing::Buffered] {
        for compact in [false, true] {
            let service = Echo::default();
            let on_tcp = tcp(framing, service.clone(), ServerOptions::default());
            let path = directory.path().join(format!("{framing:?}-{compact}"));
            let unix = serve_unix(&path, framing, service.clone(), ServerOptions::default());
            let unix = unix.expect("a path that is free");
            assert_eq!(unix.unix_path(), Some(&*path));
            let stream = UnixStream::connect(&path).expect("it listens");
            let read = stream.try_clone().expect("a second handle");
            let clients = [
                client(&on_tcp, framing, compact),
                over(read, stream, framing, compact),
            ];
            for mut client in clients {
                client.ping().expect("a reply");
                for size in [0, 1, 4_095, 4_096, 8_192, 65_536, 500_000, 999_900] {
                    let text = "x".repeat(size);
                    assert!(client.echo(&text).expect("a reply") == text, "{size}");
                    client.zip().expect("it is sent");
                }
                let (kind, _) = exception(client.call_by_name("nope"));
                assert_eq!(kind, ApplicationErrorKind::UnknownMethod);
                let (kind, text) = exception(client.call_by_name("boom"));
                assert_eq!(kind, ApplicationErrorKind::InternalError, "{text}");
                let (kind, text) = exception(client.repeat(1_000_000));
                assert_eq!(kind, ApplicationErrorKind::InternalError, "{text}");
                assert_eq!(client.echo("and on").expect("a reply"), "and on");
            }
            assert_eq!(service.zips.load(std::sync::atomic::Ordering::SeqCst), 16);
            for server in [on_tcp, unix] {
                let report = server.shutdown(GRACE);
                assert!(report.is_clean(), "{report}");
            }
            assert!(!path.exists(), "the path is removed");
        }
    }
}

#[test]
fn handlers_learn_of_the_connection() {
    let contexts = Arc::new(Mutex::new(Vec::new()));
    let seen = contexts.clone();
    let service = Strings(move |_: &str, _: &str| {
        seen.lock()
            .unwrap()
            .push(call_context().expect("a handler"));
        Ok(None)
    });
    let server = tcp(Framing::Framed, service, ServerOptions::default());
    let stream = connect(&server);
    let local = stream.local_addr().expect("bound");
    let read = stream.try_clone().expect("a second handle");
    over(read, stream, Framing::Framed, false)
        .ping()
        .expect("a reply");
    let context = contexts.lock().unwrap().pop().expect("a call");
    assert_eq!(context.peer, Some(local));
    assert_eq!(context.transport, CallTransport::Tcp);
    assert_eq!((&*context.method, context.sequence), ("ping", 1));
    assert!(server.shutdown(GRACE).is_clean());
}

#[test]
fn what_is_too_long_is_refused_and_the_next_call_on_the_connection_succeeds() {
    let limits = options(|options| options.limits = Limits::for_messages(10_000));
    let server = tcp(Framing::Framed, Echo::default(), limits.clone());
    let mut client = client(&server, Framing::Framed, false);
    for size in [10_000, 100_000, 5_000_000] {
        let (kind, text) = exception(client.echo(&"x".repeat(size)));
        assert_eq!(kind, ApplicationErrorKind::InternalError, "{text}");
        assert!(text.contains("limit of 10000 bytes"), "{text}");
        assert_eq!(client.echo("short").expect("a reply"), "short");
    }
    assert_eq!(server.stats().of(CallOutcome::Oversize), 3);
    assert_eq!(server.stats().connections_broken, 0);
    assert!(server.shutdown(GRACE).is_clean());

    // Without frames nobody knows where it ends.
    let server = tcp(Framing::Buffered, Echo::default(), limits);
    let stream = connect(&server);
    let start = b"\x80\x01\0\x01\0\0\0\x04echo\0\0\0\x01\x0b\0\x01\0\0\x27\x10";
    (&stream).write_all(start).expect("it is sent");
    let _ = (&stream).write_all(&[b'x'; 10_000]);
    let mut reply = Vec::new();
    // The rest may be answered by a reset, which can overtake the reply.
    let read = (&stream).read_to_end(&mut reply);
    let text = String::from_utf8_lossy(&reply);
    assert!(
        text.contains("limit of 10000 bytes") || read.is_err(),
        "{text}"
    );
    until(|| server.stats().of(CallOutcome::Oversize) == 1);
    until(|| server.stats().connections == 0);
    assert!(server.shutdown(GRACE).is_clean());
}

#[test]
fn what_cannot_be_decoded_is_answered_and_what_is_no_message_closes_the_connection() {
    let server = tcp(Framing::Framed, Echo::default(), ServerOptions::default());
    // Bad arguments in a good frame: a protocol error, and on.
    let stream = connect(&server);
    let bad = b"\x80\x01\0\x01\0\0\0\x04echo\0\0\0\x01\x0b\0\x01\x7f\xff\xff\xff";
    for request in [bad.as_slice(), PING] {
        (&stream).write_all(&framed(request)).expect("it is sent");
    }
    let reply = read_frame(&stream).expect("a reply");
    assert!(
        reply.starts_with(b"\x80\x01\0\x03\0\0\0\x04echo"),
        "{reply:02x?}"
    );
    let reply = read_frame(&stream).expect("a reply");
    assert!(
        reply.starts_with(b"\x80\x01\0\x02\0\0\0\x04ping"),
        "{reply:02x?}"
    );
    // No protocol that we know.
    (&stream)
        .write_all(&framed(b"[1,\"ping\",1,0,{}]"))
        .expect("it is sent");
    assert!(is_closed(&stream));
    // Lengths that are none: gigabytes, negative, nothing, the start of an HTTP request.
    for length in [
        b"\x7f\xff\xff\xff",
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        b"GET ",
    ] {
        let stream = connect(&server);
        (&stream).write_all(length).expect("it is sent");
        assert!(is_closed(&stream), "{length:02x?}");
    }
    until(|| server.stats().connections_broken == 5);
    assert!(server.shutdown(GRACE).is_clean());

    let server = tcp(Framing::Buffered, Echo::default(), ServerOptions::default());
    let stream = connect(&server);
    (&stream).write_all(PING).expect("it is sent");
    (&stream).write_all(bad).expect("it is sent");
    let mut replies = Vec::new();
    (&stream).read_to_end(&mut replies).expect("it is closed");
    assert!(replies.starts_with(b"\x80\x01\0\x02\0\0\0\x04ping\0\0\0\x01\0"));
    assert!(replies[17..].starts_with(b"\x80\x01\0\x03\0\0\0\x04echo"));
    let stream = connect(&server);
    (&stream)
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .expect("it is sent");
    assert!(is_closed(&stream));
    // Nesting is bounded where the end of the message is looked for, too.
    let stream = connect(&server);
    let deep = [
        b"\x80\x01\0\x01\0\0\0\x04skip\0\0\0\x01".as_slice(),
        &b"\x0c\0\x01".repeat(100_000),
    ];
    let _ = (&stream).write_all(&deep.concat());
    until(|| server.stats().of(CallOutcome::Malformed) == 2);
    until(|| server.stats().connections == 0);
    assert!(server.shutdown(GRACE).is_clean());
}

#[test]
fn a_length_takes_no_memory_before_its_bytes_come() {
    let server = tcp(Framing::Framed, Echo::default(), ServerOptions::default());
    // Each claims a megabyte and sends a byte of it: 200 MB, were they believed.
    let liars: Vec<_> = (0..200)
        .map(|_| {
            let stream = connect(&server);
            (&stream)
                .write_all(b"\0\x0f\x42\x40\x80")
                .expect("it is sent");
            stream
        })
        .collect();
    until(|| server.stats().connections == 200);
    let mut client = client(&server, Framing::Framed, false);
    client.ping().expect("others are served");
    let kilobytes = |what: &str| -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").expect("a process");
        let line = status.lines().find(|line| line.starts_with(what));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number.expect(what).parse().expect("a number")
    };
    assert!(kilobytes("VmRSS:") < 150_000, "{} kB", kilobytes("VmRSS:"));
    drop(liars);
    until(|| server.stats().connections == 1);
    assert!(server.shutdown(GRACE).is_clean());
}

#[test]
fn clients_that_send_slowly_hold_up_no_worker() {
    for framing in [Framing::Framed, Framing::Buffered] {
        let one = options(|options| options.workers = 1);
        let server = tcp(framing, Echo::default(), one);
        let request = match framing {
            Framing::Framed => framed(PING),
            Framing::Buffered => PING.to_vec(),
        };
        let slow: Vec<_> = (0..20).map(|_| connect(&server)).collect();
        for byte in 0..request.len() - 1 {
            for mut stream in &slow {
                stream.write_all(&request[byte..=byte]).expect("it is sent");
            }
            let mut fast = client(&server, framing, false);
            fast.ping().expect("a reply");
        }
        for mut stream in &slow {
            let last = &request[request.len() - 1..];
            stream.write_all(last).expect("it is sent");
            let mut reply = vec![0; request.len()];
            stream.read_exact(&mut reply).expect("a reply");
        }
        drop(slow);
        assert!(server.shutdown(GRACE).is_clean());
    }
}

/// A service whose method `wait` waits for the gate.
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
fn workers_and_queue_bound_what_runs_and_waits_whatever_the_number_of_connections() {
    let gate = Gate::default();
    let bounds = options(|options| (options.workers, options.queue) = (2, 3));
    let server = tcp(Framing::Framed, gated(&gate), bounds);
    thread::scope(|scope| {
        let calls: Vec<_> = (0..5)
            .map(|_| {
                let stream = connect(&server);
                scope.spawn(move || {
                    let read = stream.try_clone().expect("a second handle");
                    over(read, stream, Framing::Framed, false).call_with("wait", "done")
                })
            })
            .collect();
        until(|| server.stats().queued == 3);
        assert_eq!((gate.inside(), server.stats().in_flight), (2, 2));
        let mut further = client(&server, Framing::Framed, false);
        let (kind, text) = exception(further.call_with("echo", "x"));
        assert_eq!(kind, ApplicationErrorKind::InternalError);
        assert!(
            text.starts_with("overloaded: 2 calls run and 3 wait"),
            "{text}"
        );
        gate.open();
        for call in calls {
            assert_eq!(call.join().expect("no panic").expect("a reply"), "done");
        }
        assert_eq!(further.call_with("echo", "next").expect("a reply"), "next");
    });
    assert_eq!(server.stats().peak_in_flight, 2);
    assert_eq!(server.stats().overloaded, 1);
    assert!(server.shutdown(GRACE).is_clean());
}

#[test]
fn connections_beyond_the_bound_are_closed_and_counted() {
    let bound = options(|options| options.max_connections = 3);
    let server = tcp(Framing::Framed, Echo::default(), bound);
    let kept: Vec<_> = (0..3).map(|_| connect(&server)).collect();
    until(|| server.stats().connections == 3);
    assert!(is_closed(&connect(&server)));
    assert_eq!(server.stats().connections_refused, 1);
    (&kept[0]).write_all(&framed(PING)).expect("it is sent");
    assert!(read_frame(&kept[0]).is_some());
    // One place is free again.
    kept[1].shutdown(Shutdown::Both).expect("it was open");
    until(|| server.stats().connections == 2);
    client(&server, Framing::Framed, false)
        .ping()
        .expect("a reply");
    assert!(server.shutdown(GRACE).is_clean());
}

#[test]
fn a_shutdown_ends_idle_connections_and_waits_for_calls() {
    let gate = Gate::default();
    let server = tcp(Framing::Framed, gated(&gate), ServerOptions::default());
    let addr = server.local_addr();
    let idle = connect(&server);
    thread::scope(|scope| {
        let mut client = client(&server, Framing::Framed, false);
        let stream = connect(&server);
        let read = stream.try_clone().expect("a second handle");
        let call = scope.spawn(move || {
            over(read, stream, Framing::Framed, false).call_with("wait", "answered")
        });
        gate.wait_for(1);
        let ending = scope.spawn(move || server.shutdown(GRACE));
        assert!(is_closed(&idle));
        // Some may still be answered, until the end of this connection has come.
        until(|| client.ping().is_err());
        assert!(!ending.is_finished());
        gate.open();
        assert_eq!(call.join().expect("no panic").expect("a reply"), "answered");
        let report = ending.join().expect("no panic");
        assert!(report.is_clean(), "{report}");
        assert!(report.answered >= 1, "{report}");
    });
    let refused = TcpStream::connect(addr).map_err(|error| error.kind());
    assert_eq!(refused.map(drop), Err(io::ErrorKind::ConnectionRefused));
    // The port is free.
    until(|| TcpListener::bind(addr).is_ok());
}

#[test]
fn a_shutdown_refuses_what_waits_or_abandons_what_runs() {
    let gate = Gate::default();
    let refusing = options(|options| {
        options.workers = 1;
        options.queued_at_shutdown = QueuedAtShutdown::Refuse;
    });
    let server = tcp(Framing::Framed, gated(&gate), refusing);
    thread::scope(|scope| {
        let calls: Vec<_> = (0..3)
            .map(|_| {
                let stream = connect(&server);
                scope.spawn(move || {
                    let read = stream.try_clone().expect("a second handle");
                    let mut client = over(read, stream, Framing::Framed, false);
                    exception(client.call_with("wait", ""))
                })
            })
            .collect();
        gate.wait_for(1);
        until(|| server.stats().queued == 2);
        let began = Instant::now();
        let report = server.shutdown(Duration::from_millis(50));
        assert!(began.elapsed() < GRACE);
        assert_eq!((report.answered, report.refused), (0, 2), "{report}");
        let methods: Vec<_> = report.abandoned.iter().map(|call| &*call.method).collect();
        assert_eq!(methods, ["wait"]);
        for call in calls {
            let (kind, text) = call.join().expect("no panic");
            assert_eq!(kind, ApplicationErrorKind::InternalError);
            let told = text == "shutting down" || text.contains("within its grace of 50 ms");
            assert!(told, "{text}");
        }
        gate.open();
    });
}

#[test]
fn a_call_that_takes_too_long_is_answered_and_its_connection_closed() {
    let gate = Gate::default();
    let timely = options(|options| options.call_timeout = Some(Duration::from_millis(40)));
    let server = tcp(Framing::Framed, gated(&gate), timely);
    let mut first = client(&server, Framing::Framed, false);
    let (kind, text) = exception(first.call_with("wait", ""));
    assert_eq!(kind, ApplicationErrorKind::InternalError);
    assert!(
        text.contains("has not returned within the limit of 40 ms"),
        "{text}"
    );
    // As long as the handler runs, nobody reads from it.
    first.ping().expect_err("it is closed");
    let mut next = client(&server, Framing::Framed, false);
    assert_eq!(next.call_with("echo", "next").expect("a reply"), "next");
    assert_eq!(server.stats().of(CallOutcome::Abandoned), 1);
    gate.open();
    assert!(server.shutdown(GRACE).is_clean());
}

#[test]
fn custom_protocols_work_over_streams() {
    for framing in [Framing::Framed, Framing::Buffered] {
        let custom = CustomProtocol::new(
            Arc::new(TBinaryInputProtocolFactory::new()),
            Arc::new(TBinaryOutputProtocolFactory::new()),
        );
        let protocol = options(|options| options.protocol = Some(Protocol::Custom(custom)));
        let server = tcp(framing, Echo::default(), protocol);
        let mut client = client(&server, framing, false);
        for _ in 0..3 {
            assert_eq!(client.echo("custom").expect("a reply"), "custom");
            let (kind, _) = exception(client.repeat(2_000_000));
            assert_eq!(kind, ApplicationErrorKind::InternalError);
        }
        assert!(server.shutdown(GRACE).is_clean());
    }
}

#[test]
fn a_path_that_exists_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("taken");
    std::fs::write(&path, "a file").expect("it can be written");
    match serve_unix(
        &path,
        Framing::Framed,
        Echo::default(),
        ServerOptions::default(),
    ) {
        Err(thrift::Error::Transport(error)) => {
            let named = path.display().to_string();
            assert!(error.message.contains(&named), "{}", error.message);
        }
        other => panic!("not a transport error: {other:?}"),
    }
}
