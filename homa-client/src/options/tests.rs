use std::ffi::OsString;
use std::time::Duration;

use serde::Deserialize;

use super::*;
use crate::{Backend, BulkPort, Carrier, Config};

#[test]
fn a_uri_is_taken_apart() {
    for (text, host, port, path) in [
        ("homa://10.0.0.1:4000", "10.0.0.1", Some("4000"), ""),
        (
            "tcp+framed://node-1.example:1/",
            "node-1.example",
            Some("1"),
            "/",
        ),
        ("tcp+framed://[::1]:4000", "::1", Some("4000"), ""),
        ("tcp+framed://[fe80::1%eth0]", "fe80::1%eth0", None, ""),
        ("unix+framed:///run/a.sock", "", None, "/run/a.sock"),
        ("tcp+framed://a:", "a", None, ""),
    ] {
        let parts = UriParts::parse(text).unwrap();
        assert_eq!(
            (parts.host, parts.port, parts.path),
            (host, port, path),
            "{text}"
        );
        assert!(parts.query.is_empty());
    }
    let parts = UriParts::parse("homa://a:1?x=1&&y&z=2=3").unwrap();
    assert_eq!(parts.query, [("x", "1"), ("y", ""), ("z", "2=3")]);
}

#[test]
fn what_is_no_uri_is_refused_with_a_remedy() {
    for (text, named) in [
        ("", ["it has no `://`", "homa://10.0.0.1:4000"]),
        ("a b", ["it has a ' '", "homa://10.0.0.1:4000"]),
        ("homa://\u{e9}:1", ["it has a '\u{e9}'", "homa://"]),
        ("homa://me@a:1", ["user names", "homa://"]),
        ("homa://[::1:1", ["a bracket is not closed", "homa://"]),
        ("homa://[::1]1", ["only a port", "homa://"]),
        ("homa://::1:1", ["brackets around it", "homa://"]),
        ("homa://a*:1", ["its host has a '*'", "homa://"]),
        ("tcp+framed://:1", ["no host", "tcp+framed://10.0.0.1:4000"]),
        ("unix+framed://@", ["user names", "unix+framed:///run"]),
        ("homa://a:1#x", ["`#x`", "leave it out"]),
        ("homa://a:1?x=1&x=2", ["`x`", "twice"]),
    ] {
        let error = UriParts::parse(text).unwrap_err().to_string();
        assert!(
            named.iter().all(|named| error.contains(named)),
            "{text}: {error}"
        );
    }
}

#[test]
fn a_homa_uri_is_fit_for_its_role() {
    use Role::{Client, Server};
    assert!(HomaUri::has_scheme("HOMA+udp://"));
    assert!(!HomaUri::has_scheme("homa:4000") && !HomaUri::has_scheme("homa+tcp://a"));
    let uri = HomaUri::parse("HOMA+UDP://[::1]:4000/?engine=udp&x=1", Client).unwrap();
    assert_eq!(
        (uri.host, uri.port, uri.authority),
        ("::1", 4_000, "[::1]:4000")
    );
    assert_eq!(
        (uri.engine, &*uri.query),
        (Some(Engine::Udp), &[("x", "1")][..])
    );
    assert_eq!(HomaUri::parse("homa://0.0.0.0:0", Server).unwrap().port, 0);
    for (text, role, named) in [
        ("homa://", Client, "no host"),
        ("homa://a", Client, "a:4000"),
        ("homa://a:", Client, "a:4000"),
        ("homa://[::1]", Client, "[::1]:4000"),
        ("homa://a:0", Client, "1 to 65535"),
        ("homa://a:65536", Client, "1 to 65535"),
        ("homa://a:x", Client, "1 to 65535"),
        ("homa://a:32768", Server, "1 to 32767"),
        ("homa://a:1/x", Client, "a path"),
        ("homa://0.0.0.0:1", Client, "for listening only"),
        ("homa://[ff02::1]:1", Client, "a multicast address"),
        ("homa://a:1?engine=tcp", Client, "auto, udp, raw or kernel"),
        (
            "homa+udp://a:1?engine=raw",
            Client,
            "engine udp in its scheme",
        ),
    ] {
        let error = HomaUri::parse(text, role).unwrap_err().to_string();
        assert!(error.contains(named), "{text}: {error}");
    }
}

#[test]
fn the_engine_of_the_uri_chooses_backend_and_carrier() {
    use Backend::{Auto, Kernel, User};
    let config = |backend, carrier| {
        let mut config = Config::for_carrier(carrier);
        config.backend = backend;
        config
    };
    for (query, given, chosen) in [
        ("", (User, Carrier::Udp), (Auto, Carrier::Udp)),
        ("?engine=auto", (User, Carrier::Udp), (Auto, Carrier::Udp)),
        // What the configuration names stays.
        ("?engine=auto", (User, Carrier::Ip), (User, Carrier::Ip)),
        ("", (Kernel, Carrier::Udp), (Kernel, Carrier::Udp)),
        ("?engine=udp", (Kernel, Carrier::Ip), (User, Carrier::Udp)),
        ("?engine=raw", (User, Carrier::Udp), (User, Carrier::Ip)),
        (
            "?engine=kernel",
            (User, Carrier::Udp),
            (Kernel, Carrier::Udp),
        ),
    ] {
        let uri = format!("homa://a:1{query}");
        let engine = HomaUri::parse(&uri, Role::Client).unwrap().engine;
        let configured = engine
            .unwrap_or_default()
            .configure(config(given.0, given.1));
        assert_eq!(configured, config(chosen.0, chosen.1), "{query} {given:?}");
    }
}

#[test]
fn durations() {
    for (text, nanos) in [
        ("1ns", 1),
        ("2us", 2_000),
        ("2µs", 2_000),
        ("0.5ms", 500_000),
        (" 3 s ", 3_000_000_000),
        ("1.000000001s", 1_000_000_001),
        ("2h", 7_200_000_000_000),
    ] {
        assert_eq!(
            parse_duration(text),
            Some(Duration::from_nanos(nanos)),
            "{text}"
        );
    }
    for text in [
        "",
        "s",
        ".5s",
        "5.s",
        "1..2s",
        "-1s",
        "1e3s",
        "99999999999h",
        "1.0000000001s",
    ] {
        assert_eq!(parse_duration(text), None, "{text}");
    }
}

#[test]
fn options_reach_the_endpoint() {
    let options: HomaOptions = toml::from_str(
        "mtu = 9000\nbulk_port = 0\nnum_priorities = 4\nmax_incoming = 1000000\nshards = 3",
    )
    .unwrap();
    let mut config = Config {
        recv_buffer_bytes: 70_000,
        ..Config::default()
    };
    options.apply(&mut config);
    assert_eq!((config.mtu, config.shards), (Some(9_000), Some(3)));
    assert_eq!(config.bulk_port, BulkPort::Off);
    let protocol = &config.protocol;
    assert_eq!(
        (protocol.num_priorities, protocol.max_incoming),
        (4, 1_000_000)
    );
    // What is not set stays.
    assert_eq!(config.recv_buffer_bytes, 70_000);
    config.check().unwrap();
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Ours {
    uri: Option<String>,
    homa: HomaOptions,
}

impl Overlay for Ours {
    fn put(&mut self, other: Self) {
        self.uri = other.uri.or(self.uri.take());
        self.homa.put(other.homa);
    }

    fn homa(homa: HomaOptions) -> Self {
        Self {
            homa,
            ..Self::default()
        }
    }
}

#[test]
fn a_configuration_takes_its_variables_and_leaves_those_of_others() {
    let all = Variables::new("OURS_", &[fields::<Ours>(), &["uri", "theirs"]]);
    let read = |name: &str, value: &str| {
        let variables = [(OsString::from(name), OsString::from(value))];
        all.overlay(Ours::default(), variables.into_iter())
    };
    assert_eq!(read("OURS_URI", " a ").unwrap().uri.as_deref(), Some("a"));
    assert_eq!(read("OURS_MTU", "9000").unwrap().homa.mtu, Some(9_000));
    for (name, value) in [("OURS_THEIRS", "x"), ("OUR_URI", "x"), ("OURS_URI", " ")] {
        assert_eq!(read(name, value).unwrap(), Ours::default(), "{name}");
    }
    for (name, value, named) in [
        ("OURS_HOMA", "x", "unknown"),
        ("OURS_X", "x", "OURS_THEIRS, OURS_MTU"),
        ("OURS_MTU", "x", "not a whole number"),
    ] {
        let error = read(name, value).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(named), "{error}");
    }
}
