use std::collections::BTreeMap;
use std::ffi::OsString;

use super::*;

#[test]
fn every_key_of_a_client_reaches_its_endpoint() {
    let config: ClientConfig = r#"
        uri = "homa://a:1"
        timeout = "50ms"
        connect_timeout = "1.5s"
        max_message_bytes = 500000
        pieces_up_to = 5000000
        protocol = "compact"
        service = "Calc"
        oneway = "await_ack"
        engine = "udp"
        homa.mtu = 9000
    "#
    .parse()
    .unwrap();
    let endpoint = format!("{:?}", Endpoint::from_config(&config).unwrap());
    for named in [
        "timeout: Some(50ms)",
        "connect_timeout: 1.5s",
        "message_bytes: 500000",
        "max_bytes: 5000000",
        "protocol: Compact",
        "service: Some(\"Calc\")",
        "oneway: AwaitAck",
        "engine: Some(Udp)",
        "mtu: Some(9000)",
    ] {
        assert!(endpoint.contains(named), "{named}: {endpoint}");
    }
}

#[test]
fn every_key_of_a_server_reaches_its_options() {
    let config: ServerConfig = r#"
        uri = "homa://0.0.0.0:0"
        workers = 3
        queue = 0
        protocol = "binary"
        oneway = "after_handler"
        call_timeout = "2s"
        queued_at_shutdown = "refuse"
        max_connections = 7
        max_message_bytes = 1000
        pieces_up_to = 2000000
        engine = "udp"
        homa.pool_bytes = 100000000
    "#
    .parse()
    .unwrap();
    let options = config.options().unwrap();
    assert_eq!((options.workers, options.queue), (3, 0));
    assert!(matches!(options.protocol, Some(Protocol::Binary)));
    assert_eq!(options.oneway, OnewayAck::AfterHandler);
    assert_eq!(options.call_timeout, Some(Duration::from_secs(2)));
    assert_eq!(options.queued_at_shutdown, QueuedAtShutdown::Refuse);
    assert_eq!(options.max_connections, 7);
    assert_eq!(options.limits.message_bytes, 1_000);
    assert_eq!(options.pieces, Some(PieceOptions::up_to(2_000_000)));
    assert_eq!(options.homa.protocol.pool_bytes, 100_000_000);
    let endpoint = format!("{:?}", config.endpoint().unwrap());
    assert!(endpoint.contains("engine: Some(Udp)"), "{endpoint}");
}

#[test]
fn the_query_goes_before_the_other_keys() {
    let config: ClientConfig = r#"
        uri = "homa://a:1?timeout_ms=7&protocol=binary&service=B&oneway=detach&engine=raw"
        timeout = "50ms"
        protocol = "compact"
        service = "A"
        oneway = "await_ack"
        engine = "udp"
    "#
    .parse()
    .unwrap();
    let endpoint = format!("{:?}", Endpoint::from_config(&config).unwrap());
    for named in [
        "timeout: Some(7ms)",
        "service: Some(\"B\")",
        "oneway: Detach",
        "protocol: Binary",
        "engine: Some(Raw)",
    ] {
        assert!(endpoint.contains(named), "{named}: {endpoint}");
    }
}

#[test]
fn unknown_keys_and_bad_values_are_refused_by_name() {
    for (text, named) in [
        ("url = 'homa://a:1'", "unknown field `url`"),
        ("workers = 1", "unknown field `workers`"),
        ("timeout = 5", "invalid type"),
        ("timeout = '5'", "`5` is no duration"),
        ("protocol = 'json'", "binary or compact"),
        ("oneway = 'on_receipt'", "detach or await_ack"),
        ("engine = 'tcp'", "auto, udp, raw or kernel"),
        ("homa.mut = 9000", "unknown field `mut`"),
        ("uri", "line 1"),
    ] {
        let error = text.parse::<ClientConfig>().unwrap_err().to_string();
        assert!(error.contains(named), "{text}: {error}");
    }
    for (text, named) in [
        ("timeout = '5s'", "unknown field `timeout`"),
        ("oneway = 'detach'", "on_receipt or after_handler"),
        ("queued_at_shutdown = 'drop'", "serve or refuse"),
        ("workers = -1", "workers"),
    ] {
        let error = text.parse::<ServerConfig>().unwrap_err().to_string();
        assert!(error.contains(named), "{text}: {error}");
    }
    let error = ServerConfig::from_toml_file("no/such.toml").unwrap_err();
    assert!(error.to_string().contains("no/such.toml"), "{error}");
}

#[test]
fn values_out_of_range_are_refused_with_key_limit_and_remedy() {
    for (text, named) in [
        ("", ["no URI", "THRIFT_HOMA_URI"]),
        ("uri = 'homa://a'", ["no port", "a:4000"]),
        ("timeout = '1us'", ["timeout = 1µs", "1ms or more"]),
        (
            "connect_timeout = '0s'",
            ["connect_timeout = 0ns", "1ms or more; leave it out for 5s"],
        ),
        ("service = 'a:b'", ["service=a:b", "without a colon"]),
        (
            "max_message_bytes = 999",
            ["max_message_bytes = 999", "1000 to"],
        ),
        (
            "max_message_bytes = 1000001",
            ["1000001", "use tcp+framed://"],
        ),
        (
            "pieces_up_to = 0",
            ["pieces_up_to = 0", "1 to 1073741824 bytes"],
        ),
        (
            "pieces_up_to = 999999",
            ["pieces_up_to = 999999", "max_message_bytes = 1000000"],
        ),
        ("homa.mtu = 9", ["in [homa]", "mtu"]),
    ] {
        let uri = if text.is_empty() || text.starts_with("uri") {
            ""
        } else {
            "uri = 'homa://a:1'\n"
        };
        let config: ClientConfig = format!("{uri}{text}").parse().unwrap();
        let error = Endpoint::from_config(&config).unwrap_err().to_string();
        assert!(
            named.iter().all(|named| error.contains(named)),
            "{text}: {error}"
        );
    }
    for (text, named) in [
        ("call_timeout = '0s'", ["call_timeout = 0ns", "1ms or more"]),
        ("max_message_bytes = 104857601", ["104857601", "104857600"]),
        (
            "pieces_up_to = 5000000\nmax_message_bytes = 6000000",
            ["pieces_up_to = 5000000", "max_message_bytes = 6000000"],
        ),
        ("homa.shards = 0", ["in [homa]", "shards"]),
    ] {
        let config: ServerConfig = text.parse().unwrap();
        let error = config.options().unwrap_err().to_string();
        assert!(
            named.iter().all(|named| error.contains(named)),
            "{text}: {error}"
        );
    }
    let processor = || thrift::server::TMultiplexedProcessor::new();
    for text in ["workers = 0", "max_connections = 0", "workers = 65537"] {
        for uri in ["homa://127.0.0.1:0?engine=udp", "tcp+framed://127.0.0.1:0"] {
            let config: ServerConfig = format!("uri = '{uri}'\n{text}").parse().unwrap();
            match config.serve(processor()).map(drop) {
                Err(thrift::Error::Transport(error)) => {
                    let all = [text, "1 to 65536"];
                    assert!(
                        all.iter().all(|part| error.message.contains(part)),
                        "{error:?}"
                    );
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }
    let config: ClientConfig = "uri = 'tcp+framed://a:1'\nmax_message_bytes = 104857600"
        .parse()
        .unwrap();
    assert!(Endpoint::from_config(&config).is_ok());
}

#[test]
fn every_key_has_a_variable_that_is_read_as_in_a_file() {
    let values = BTreeMap::from([
        ("uri", "homa://a:1"),
        ("timeout", "50ms"),
        ("connect_timeout", "1.5s"),
        ("call_timeout", "2s"),
        ("protocol", "compact"),
        ("service", "Calc"),
        ("queued_at_shutdown", "refuse"),
        ("busy_poll", "20us"),
        ("linger", "2s"),
        ("engine", "udp"),
        ("pacing", "false"),
        ("num_priorities", "4"),
        ("capture", "/a/b.pcap"),
    ]);
    // Both sides have a `oneway`, with values of their own.
    for oneway in ["await_ack", "after_handler"] {
        let value = |key: &str| match key {
            "oneway" => oneway,
            // All others are numbers.
            key => values.get(key).unwrap_or(&"1001"),
        };
        let all = variables();
        let environment = || {
            let variable = |key: &'static str| (all.name(key), value(key).to_owned());
            let environment = all.keys().map(variable);
            environment.map(|(name, value)| (OsString::from(name), OsString::from(value)))
        };
        let toml = |keys: &[&str]| {
            let line = |key: &&str| match value(key).parse::<toml::Value>() {
                Ok(toml::Value::Integer(_) | toml::Value::Boolean(_)) => {
                    format!("{key} = {}\n", value(key))
                }
                _ => format!("{key} = '{}'\n", value(key)),
            };
            let keys = keys.iter().filter(|key| **key != "homa");
            keys.map(line).collect::<String>()
        };
        let homa = toml(fields::<HomaOptions>());
        let (read, written) = if oneway == "await_ack" {
            let read = all.overlay(ClientConfig::default(), environment()).unwrap();
            let text = format!("{}[homa]\n{homa}", toml(fields::<ClientConfig>()));
            let written: ClientConfig = text.parse().unwrap();
            (format!("{read:?}"), format!("{written:?}"))
        } else {
            let read = all.overlay(ServerConfig::default(), environment()).unwrap();
            let text = format!("{}[homa]\n{homa}", toml(fields::<ServerConfig>()));
            let written: ServerConfig = text.parse().unwrap();
            (format!("{read:?}"), format!("{written:?}"))
        };
        assert_eq!(read, written);
        // Nothing is left as it was.
        assert!(!read.contains("None"), "{read}");
    }
}

#[test]
fn variables_that_cannot_be_used_are_named() {
    let all = variables();
    for (name, value, named) in [
        ("THRIFT_HOMA_TIMEOUT", "5", "`5` is no duration"),
        ("THRIFT_HOMA_MTU", "70000", "70000"),
        ("THRIFT_HOMA_PROTOCOL", "json", "binary or compact"),
        ("THRIFT_HOMA_TIMEUOT", "5s", "THRIFT_HOMA_TIMEOUT"),
        ("THRIFT_HOMA_HOMA", "5s", "unknown"),
    ] {
        let environment = [(OsString::from(name), OsString::from(value))];
        let read = all.overlay(ClientConfig::default(), environment.into_iter());
        let error = ConfigError::from(read.unwrap_err()).to_string();
        assert!(error.contains(name) && error.contains(named), "{error}");
    }
    // Those of servers are theirs.
    let environment = [(
        OsString::from("THRIFT_HOMA_WORKERS"),
        OsString::from("many"),
    )];
    assert!(
        all.overlay(ClientConfig::default(), environment.into_iter())
            .is_ok()
    );
}

/// The rows of the table in the guide: key, variable, side.
fn documented() -> Vec<[String; 3]> {
    let text = include_str!("../../../docs/thrift.md");
    let section = text
        .split("\n## ")
        .find(|part| part.starts_with("Configuration"));
    let rows = section
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 6, "{line}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{line}");
        [cells[0], cells[1], cells[2]].map(|cell| cell.trim_matches('`').to_owned())
    })
    .collect()
}

#[test]
fn the_guides_table_has_every_key_and_no_other() {
    let rows = documented();
    let of = |sides: [&str; 2]| {
        let rows = rows.iter().filter(|row| sides.contains(&row[2].as_str()));
        let mut keys: Vec<_> = rows.map(|row| row[0].clone()).collect();
        keys.sort();
        keys
    };
    let keys = |all: &[&str]| {
        let own = all.iter().filter(|key| **key != "homa");
        let mut keys: Vec<_> = own.map(ToString::to_string).collect();
        keys.sort();
        keys
    };
    assert_eq!(of(["client", "both"]), keys(fields::<ClientConfig>()));
    assert_eq!(of(["server", "both"]), keys(fields::<ServerConfig>()));
    for [key, variable, _] in &rows {
        assert_eq!(*variable, variables().name(key));
    }
}
