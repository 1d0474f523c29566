use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use homa_client::options::fields;

use super::env;
use super::value::parse_rate;
use super::*;

fn overlay<C: Overlay>(
    config: C,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<C, ConfigError> {
    Ok(env::variables().overlay(config, variables)?)
}

#[test]
fn every_key_is_read() {
    let client: ClientConfig = r#"
        uri = "homa://a:1"
        timeout = "50ms"
        connect_timeout = "1.5s"
        concurrency_limit = 7
        rate_limit = "100/2s"
        user_agent = "me"
        origin = "http://b"
        fallback = "http://c:2"
        max_message_bytes = 500000
        max_metadata_bytes = 2000
        max_stream_buffer_bytes = 100000
        engine = "udp"
        stream = "pull"
        homa.mtu = 9000
    "#
    .parse()
    .unwrap();
    let expected = ClientConfig {
        uri: Some("homa://a:1".into()),
        timeout: Some(Duration::from_millis(50)),
        connect_timeout: Some(Duration::from_millis(1_500)),
        concurrency_limit: Some(7),
        user_agent: Some("me".into()),
        max_message_bytes: Some(500_000),
        max_metadata_bytes: Some(2_000),
        max_stream_buffer_bytes: Some(100_000),
        engine: Some(Engine::Udp),
        rate_limit: Some((100, Duration::from_secs(2))),
        origin: Some("http://b".into()),
        fallback: Some("http://c:2".into()),
        stream: Some(StreamMode::Pull),
        homa: toml::from_str("mtu = 9000").unwrap(),
    };
    assert_eq!(client, expected);
    let server: ServerConfig = r#"
        uri = "homa://0.0.0.0:0"
        timeout = "1min"
        concurrency_limit_per_connection = 9
        max_concurrent_streams = 8
        load_shed = true
        shutdown_grace = "2s"
        max_message_bytes = 1000
        max_metadata_bytes = 1000
        engine = "auto"
    "#
    .parse()
    .unwrap();
    assert_eq!(server.timeout, Some(Duration::from_secs(60)));
    assert_eq!(server.shutdown_grace, Some(Duration::from_secs(2)));
    assert_eq!(server.load_shed, Some(true));
    assert_eq!(server.max_concurrent_streams, Some(8));
    assert_eq!("".parse::<ServerConfig>().unwrap(), ServerConfig::default());
}

#[test]
fn unknown_keys_and_values_are_refused_by_name() {
    for (text, named) in [
        ("url = 'homa://a:1'", "unknown field `url`"),
        ("timeout = 5", "invalid type"),
        ("timeout = '5'", "`5` is no duration"),
        ("timeout = '5 fortnights'", "(ns, us, ms, s, min, h)"),
        ("engine = 'tcp'", "`tcp` is no value of `engine`"),
        ("concurrency_limit = -1", "concurrency_limit"),
        ("stream = 'both'", "`both` is no value of `stream`"),
        ("rate_limit = '100'", "`100` is no rate"),
        ("homa.mut = 9000", "unknown field `mut`"),
        ("homa.mtu = 90000", "mtu"),
        ("uri", "line 1"),
    ] {
        let error = text.parse::<ClientConfig>().unwrap_err().to_string();
        assert!(error.contains(named), "{text}: {error}");
    }
    let error = ServerConfig::from_toml_file("no/such.toml")
        .unwrap_err()
        .to_string();
    assert!(error.contains("no/such.toml"), "{error}");
}

#[test]
fn sizes_and_limits_have_bounds() {
    assert!(checked_size("max_message_bytes", 1_000_000, &MAX_MESSAGE_BYTES).is_ok());
    let error = checked_size("max_message_bytes", 1_000_001, &MAX_MESSAGE_BYTES).unwrap_err();
    assert!(
        error.to_string().contains("max_message_bytes = 1000001"),
        "{error}"
    );
    assert!(checked_limit("concurrency_limit", 0).is_err());
}

#[test]
fn rates() {
    let second = Duration::from_secs(1);
    assert_eq!(parse_rate("100/1s"), Some((100, second)));
    assert_eq!(parse_rate(" 1 / 1000 ms "), Some((1, second)));
    for text in [
        "", "100", "/1s", "100/", "0/1s", "1/0s", "-1/1s", "1/s", "1/1s/1s",
    ] {
        assert_eq!(parse_rate(text), None, "{text}");
    }
}

#[test]
fn an_origin_has_scheme_and_authority() {
    assert_eq!(checked_origin("http://b:1").unwrap(), "http://b:1");
    for text in ["b", "/b", "b:1", "http://", "a b"] {
        let error = checked_origin(text).unwrap_err().to_string();
        let all = [&format!("origin = {text}"), "http://service.example"];
        assert!(all.iter().all(|part| error.contains(*part)), "{error}");
    }
}

fn variables<'a>(
    variables: &'a [(&str, &str)],
) -> impl Iterator<Item = (OsString, OsString)> + use<'a> {
    variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
}

#[test]
fn every_key_has_a_variable_that_is_read_as_in_a_file() {
    let values = BTreeMap::from([
        ("uri", "homa://a:1"),
        ("fallback", "http://a:1"),
        ("timeout", "50ms"),
        ("connect_timeout", "1.5s"),
        ("rate_limit", "100/2s"),
        ("user_agent", "me too"),
        ("origin", "http://b"),
        ("load_shed", "true"),
        ("shutdown_grace", "2s"),
        ("busy_poll", "20us"),
        ("linger", "2s"),
        ("engine", "udp"),
        ("stream", "pull"),
        ("pacing", "false"),
        ("num_priorities", "4"),
        ("capture", "/a/b.pcap"),
    ]);
    // All others are numbers.
    let value = |key: &str| *values.get(key).unwrap_or(&"1001");
    let all = env::variables();
    let environment: Vec<_> = all.keys().map(|key| (all.name(key), value(key))).collect();
    let environment: Vec<_> = environment
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    // The same as TOML, where text has quotes.
    let toml = |keys: &[&str]| {
        let line = |key: &&&str| {
            let value = value(key);
            match value.parse::<toml::Value>() {
                Ok(toml::Value::Integer(_) | toml::Value::Boolean(_)) => {
                    format!("{key} = {value}\n")
                }
                _ => format!("{key} = '{value}'\n"),
            }
        };
        keys.iter()
            .filter(|key| **key != "homa")
            .map(|key| line(&key))
            .collect::<String>()
    };
    let homa = toml(fields::<HomaOptions>());

    let text = format!("{}[homa]\n{homa}", toml(fields::<ClientConfig>()));
    let client = overlay(ClientConfig::default(), variables(&environment)).unwrap();
    assert_eq!(client, text.parse().unwrap());
    let text = format!("{}[homa]\n{homa}", toml(fields::<ServerConfig>()));
    let server = overlay(ServerConfig::default(), variables(&environment)).unwrap();
    assert_eq!(server, text.parse().unwrap());
    // Nothing is left as it was.
    assert!(!format!("{client:?} {server:?}").contains("None"));
}

#[test]
fn the_environment_goes_before_a_file_and_leaves_the_rest() {
    let file: ClientConfig = "timeout = '1s'\nuser_agent = 'file'\n[homa]\nmtu = 9000\nshards = 2"
        .parse()
        .unwrap();
    let environment = [
        ("TONIC_HOMA_TIMEOUT", " 2s "),
        ("TONIC_HOMA_USER_AGENT", ""),
        ("TONIC_HOMA_MTU", "1400"),
        ("TONIC_HOMA_SHUTDOWN_GRACE", "for servers to judge"),
        ("TONIC_HOME", "not ours"),
    ];
    let config = overlay(file.clone(), variables(&environment)).unwrap();
    let expected = ClientConfig {
        timeout: Some(Duration::from_secs(2)),
        homa: toml::from_str("mtu = 1400\nshards = 2").unwrap(),
        ..file
    };
    assert_eq!(config, expected);
}

#[test]
fn variables_that_cannot_be_used_are_named() {
    for (name, value, named) in [
        ("TONIC_HOMA_TIMEOUT", "5", "`5` is no duration"),
        ("TONIC_HOMA_LOAD_SHED", "yes", "use true or false"),
        ("TONIC_HOMA_MTU", "70000", "70000"),
        ("TONIC_HOMA_MTU", "-1", "not a whole number"),
        ("TONIC_HOMA_ENGINE", "tcp", "auto, udp, raw or kernel"),
        ("TONIC_HOMA_TIMEUOT", "5s", "TONIC_HOMA_TIMEOUT"),
        ("TONIC_HOMA_timeout", "5s", "unknown"),
        ("TONIC_HOMA_HOMA", "5s", "unknown"),
        ("TONIC_HOMA_", "5s", "TONIC_HOMA_SHUTDOWN_GRACE"),
    ] {
        let error = overlay(ServerConfig::default(), variables(&[(name, value)])).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(name) && error.contains(named), "{error}");
    }
    let bytes = OsString::from_vec(vec![0xff]);
    let environment = [(OsString::from("TONIC_HOMA_URI"), bytes.clone())];
    let error = overlay(ClientConfig::default(), environment.into_iter()).unwrap_err();
    assert!(matches!(error, ConfigError::NotUnicode { .. }), "{error}");
    let environment = [(bytes.clone(), bytes)];
    assert!(overlay(ClientConfig::default(), environment.into_iter()).is_ok());
}

/// The rows of the table in the guide: key, variable, side.
fn documented() -> Vec<[String; 3]> {
    let text = include_str!("../../../docs/tonic.md");
    let section = text
        .split("\n## ")
        .find(|part| part.starts_with("Configuration"));
    section
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
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
    let keys = |top: &[&str]| {
        let homa = fields::<HomaOptions>()
            .iter()
            .map(|key| format!("homa.{key}"));
        let top = top
            .iter()
            .filter(|key| **key != "homa")
            .map(ToString::to_string);
        let mut keys: Vec<_> = top.chain(homa).collect();
        keys.sort();
        keys
    };
    assert_eq!(of(["client", "both"]), keys(fields::<ClientConfig>()));
    assert_eq!(of(["server", "both"]), keys(fields::<ServerConfig>()));
    let variables = env::variables();
    for [key, variable, _] in &rows {
        let key = key.strip_prefix("homa.").unwrap_or(key);
        assert_eq!(*variable, variables.name(key));
    }
    // One variable for one key.
    assert_eq!(variables.keys().count(), rows.len());
}
