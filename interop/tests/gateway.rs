//! `homa-interop gateway` between real processes.

mod common;
#[allow(dead_code, reason = "each file of tests uses a part of it")]
#[path = "common/suite.rs"]
mod suite;

use std::io::BufRead;
use std::process::Command;

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
    let pid = gateway.child.id().to_string();
    let killed = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(killed.expect("there is one").success());
    gateway.ends_well();
}

#[test]
fn what_it_cannot_do_is_refused_by_name() {
    for (listen, to, named) in [
        (FRAMED, "http://127.0.0.1:1", "http"),
        (FRAMED, "homa://127.0.0.1:0", "port"),
        (HOMA, "tcp+buffered://127.0.0.1:1", "tcp+framed://"),
        (
            "homa://127.0.0.1:40000",
            "tcp+framed://127.0.0.1:1",
            "32767",
        ),
        (FRAMED, "homa://no-such-host.invalid:1", "name"),
    ] {
        let output = homa_interop(&["gateway", "--listen", listen, "--to", to]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty());
        assert!(stderr.contains(named), "{listen} {to}: {stderr}");
    }
    let zero = [
        "gateway",
        "--listen",
        FRAMED,
        "--to",
        HOMA,
        "--connections",
        "0",
    ];
    refused(&zero, 2);
}
