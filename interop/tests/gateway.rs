//! `homa-interop gateway` between real processes.

mod common;
#[allow(dead_code, reason = "each file of tests uses a part of it")]
#[path = "common/suite.rs"]
mod suite;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{ChildStdout, Command};
use std::thread;
use std::time::{Duration, Instant};

use common::{ResultFile, homa_interop};
use serde_json::Value;
use suite::{Server, read, refused};

const HOMA: &str = "homa://127.0.0.1:0?engine=udp";
const FRAMED: &str = "tcp+framed://127.0.0.1:0";

/// Of the count of calls with an outcome.
fn outcome(metrics: &Value, name: &str) -> u64 {
    let outcomes = metrics["outcomes"].as_array().expect("a list");
    let found = outcomes.iter().find(|it| it["outcome"] == name);
    found.map_or(0, |it| it["calls"].as_u64().expect("a count"))
}

#[test]
fn the_whole_suite_passes_through_a_gateway_in_both_directions() {
    for (listen, to) in [(FRAMED, HOMA), (HOMA, FRAMED)] {
        let counted = ResultFile::new("gateway-server");
        let file = ResultFile::new("gateway");
        let ends = ["--until-stdin-ends", "--json"];
        let options = [&ends[..], &[counted.path()]].concat();
        let mut server = Server::start(&[], &[to], &options);
        let options = [&ends[..], &[file.path()]].concat();
        let mut gateway = Server::gateway(listen, &server.uris[0], &options);
        let scheme = listen.split(':').next().expect("it has one");
        assert!(gateway.uris[0].starts_with(scheme), "{}", gateway.uris[0]);
        for protocol in ["binary", "compact"] {
            let uri = format!("{}?protocol={protocol}", gateway.uris[0]);
            let output = homa_interop(&["thrift", "--uri", &uri, "--quick"]);
            let stdout = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{uri}: {stdout}");
        }
        drop(gateway.child.stdin.take());
        gateway.ends_well();
        drop(server.child.stdin.take());
        server.ends_well();
        let metrics = read(&file);
        assert!(outcome(&metrics, "reply") > 100, "{metrics}");
        assert!(outcome(&metrics, "oneway") > 10, "{metrics}");
        assert_eq!(outcome(&metrics, "unavailable"), 0, "{metrics}");
        assert_eq!(read(&counted)["ran_again"], 0);
    }
}

#[test]
fn it_tells_what_it_counts_and_ends_well_at_a_signal() {
    let server = Server::start(&[], &[HOMA], &[]);
    let mut gateway = Server::gateway(FRAMED, &server.uris[0], &["--metrics-every", "0.05"]);
    let output = homa_interop(&["thrift", "--uri", &gateway.uris[0], "--case", "ping"]);
    assert!(output.status.success());
    let mut calls = 0;
    while calls == 0 {
        let mut line = String::new();
        gateway.stdout.read_line(&mut line).expect("a line");
        let metrics: Value = serde_json::from_str(&line).expect("JSON");
        calls = metrics["calls"].as_u64().expect("a count");
        let methods = metrics["methods"].as_array().expect("a list");
        let is_ping = |it: &Value| it["name"].as_str().is_some_and(|it| it.ends_with("ping"));
        assert!(calls == 0 || methods.iter().any(is_ping), "{metrics}");
    }
    terminate(&gateway);
    let mut rest = String::new();
    gateway.stdout.read_to_string(&mut rest).expect("text");
    let last = rest.lines().last().expect("a line");
    let (counted, at_the_end) = last.split_once(" calls; ").expect(last);
    assert!(counted.parse::<u64>().expect(last) >= calls, "{last}");
    let none = "at the end 0 answered, 0 refused, 0 abandoned";
    assert_eq!(at_the_end, none);
    gateway.ends_well();
}

#[test]
fn a_reader_of_what_it_counts_that_goes_away_ends_nothing() {
    let file = ResultFile::new("gateway-unread");
    let server = Server::start(&[], &[HOMA], &[]);
    let options = ["--metrics-every", "0.01", "--json", file.path()];
    let mut gateway = Server::gateway(FRAMED, &server.uris[0], &options);
    let nothing = std::fs::File::open("/dev/null").expect("there is one");
    gateway.stdout = BufReader::new(ChildStdout::from(OwnedFd::from(nothing)));
    // Each is a process of its own: many lines that nobody reads.
    for _ in 0..3 {
        let output = homa_interop(&["thrift", "--uri", &gateway.uris[0], "--case", "ping"]);
        assert!(output.status.success());
    }
    terminate(&gateway);
    gateway.ends_well();
    assert!(outcome(&read(&file), "reply") >= 3);
}

fn terminate(gateway: &Server) {
    let pid = gateway.child.id().to_string();
    let killed = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(killed.expect("there is one").success());
}

/// A server that holds its reply until the gateway takes nothing new any more.
#[test]
fn what_it_counted_at_the_end_has_the_calls_that_end_after_it_was_told_to_stop() {
    const CALL: [u8; 21] = *b"\0\0\0\x11\x80\x01\0\x01\0\0\0\x04ping\0\0\0\x01\0";
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let to = format!("tcp+framed://{}", listener.local_addr().expect("bound"));
    let file = ResultFile::new("gateway-drain");
    let gateway = Server::gateway(FRAMED, &to, &["--json", file.path()]);
    let addr = gateway.uris[0].strip_prefix("tcp+framed://");
    let addr = addr.expect("as asked").to_owned();
    let mut client = TcpStream::connect(&addr).expect("it listens");
    client.write_all(&CALL).expect("it is sent");
    let (mut server, _) = listener.accept().expect("the gateway's");
    let mut request = CALL;
    server.read_exact(&mut request).expect("the call");
    assert_eq!(request, CALL);

    terminate(&gateway);
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(&addr).is_ok() {
        assert!(Instant::now() < deadline, "it still listens");
        thread::sleep(Duration::from_millis(5));
    }
    let mut reply = CALL;
    reply[7] = 2;
    server.write_all(&reply).expect("it is there");
    let mut passed_on = CALL;
    client.read_exact(&mut passed_on).expect("the reply");
    assert_eq!(passed_on, reply);
    gateway.ends_well();
    let metrics = read(&file);
    assert_eq!(
        (&metrics["calls"], &metrics["in_flight"]),
        (&1.into(), &0.into())
    );
    assert_eq!(outcome(&metrics, "reply"), 1, "{metrics}");
    assert_eq!(metrics["methods"][0]["calls"], 1, "{metrics}");
}

#[test]
fn what_it_cannot_do_is_refused_by_name() {
    for (listen, to, named) in [
        (FRAMED, "http://127.0.0.1:1", "http"),
        (
            "tcp+framed://0.0.0.0:1",
            "tcp+framed://127.0.0.1:1",
            "to itself",
        ),
        (FRAMED, "homa://127.0.0.1:0", "port"),
        (HOMA, "tcp+buffered://127.0.0.1:1", "tcp+framed://"),
        (
            "homa://127.0.0.1:40000",
            "tcp+framed://127.0.0.1:1",
            "32767",
        ),
        (
            FRAMED,
            "homa://no-such-host.invalid:1",
            "no-such-host.invalid",
        ),
    ] {
        let output = homa_interop(&["gateway", "--listen", listen, "--to", to]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty());
        assert!(stderr.contains(named), "{listen} {to}: {stderr}");
    }
    for option in ["--connections", "--max-connections"] {
        let zero = ["gateway", "--listen", FRAMED, "--to", HOMA, option, "0"];
        let stderr = refused(&zero, 2);
        assert!(stderr.contains(option), "{stderr}");
    }
}

#[test]
fn clients_beyond_the_limit_of_connections_are_closed() {
    let to = "homa://127.0.0.1:1";
    let gateway = Server::gateway(FRAMED, to, &["--max-connections", "1"]);
    let addr = gateway.uris[0].strip_prefix("tcp+framed://");
    let addr = addr.expect("as asked");
    let _first = TcpStream::connect(addr).expect("it listens");
    let mut second = TcpStream::connect(addr).expect("it listens");
    second
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a time");
    assert_eq!(second.read(&mut [0]).expect("its end"), 0);
}
