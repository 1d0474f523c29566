use super::*;

fn homa(uri: &str, role: Role) -> Result<HomaTarget, UriError> {
    match Target::parse(uri, role)? {
        Target::Homa(target) => Ok(target),
        #[cfg(feature = "tcp")]
        Target::Tcp(uri) => panic!("{uri} is TCP"),
    }
}

#[test]
fn hosts_ports_and_options_are_read() {
    for (uri, host, port, engine) in [
        ("homa://10.0.0.1:4000", "10.0.0.1", 4_000, None),
        ("homa://node-1.example:1/", "node-1.example", 1, None),
        ("homa://[::1]:4000", "::1", 4_000, None),
        (
            "homa://a:65535?engine=auto",
            "a",
            65_535,
            Some(Engine::Auto),
        ),
        (
            "homa://a:1?wire=native&engine=udp",
            "a",
            1,
            Some(Engine::Udp),
        ),
        ("homa+udp://a:1", "a", 1, Some(Engine::Udp)),
        ("homa+udp://a:1?engine=udp", "a", 1, Some(Engine::Udp)),
        ("homa://a:1?engine=raw", "a", 1, Some(Engine::Raw)),
        ("homa+raw://a:1", "a", 1, Some(Engine::Raw)),
        ("HOMA://a:1", "a", 1, None),
    ] {
        let target = homa(uri, Role::Client).unwrap();
        assert_eq!(
            (&*target.host, target.port, target.engine),
            (host, port, engine),
            "{uri}"
        );
    }
    assert_eq!(
        homa("homa://[::1]:4000", Role::Client).unwrap().authority,
        "[::1]:4000"
    );
    assert_eq!(homa("homa://0.0.0.0:0", Role::Server).unwrap().port, 0);
    assert_eq!(
        homa("homa://0.0.0.0:32767", Role::Server).unwrap().port,
        32_767
    );
}

#[test]
fn what_cannot_be_used_is_refused_with_value_limit_and_remedy() {
    use Role::{Client, Server};
    for (uri, role, named) in [
        ("ftp://a:1", Client, ["`ftp`", "use homa://"]),
        ("homa:4000", Client, ["homa:4000", "use homa://"]),
        ("a:4000", Client, ["a:4000", "use homa://"]),
        ("", Client, ["``", "use homa://"]),
        ("homa://a", Client, ["no port", "a:4000"]),
        ("homa://a:", Client, ["no port", "a:4000"]),
        ("homa://[::1]", Server, ["no port", "[::1]:4000"]),
        ("homa://a:0", Client, ["port 0", "1 to 65535"]),
        ("homa://a:65536", Client, ["65536", "1 to 65535"]),
        ("homa://a:32768", Server, ["32768", "1 to 32767"]),
        (
            "homa://a:1?color=red",
            Client,
            [
                "`color`",
                "known are engine (auto, udp, raw, kernel), wire (native), stream (push, pull) and",
            ],
        ),
        (
            "homa://a:1?engine=udp&engine=udp",
            Client,
            ["`engine`", "twice"],
        ),
        (
            "homa://a:1?engine=",
            Client,
            ["``", "auto, udp, raw or kernel"],
        ),
        (
            "homa://a:1?wire=grpc_homa",
            Client,
            ["wire=grpc_homa", "wire=native"],
        ),
        ("homa://a:1?wire=auto", Client, ["wire=auto", "wire=native"]),
        ("homa://a:1?wire=x", Client, ["`x`", "native"]),
        ("homa://a:1?stream=no", Client, ["`no`", "push or pull"]),
        ("homa://a:1?stream=", Client, ["``", "push or pull"]),
        (
            "homa://a:1?stream=pull",
            Server,
            ["`stream`", "clients only"],
        ),
        (
            "homa://a:1?fallback=http://a:1",
            Server,
            ["`fallback`", "serve_on"],
        ),
        (
            "homa://a:1?fallback=homa://a:1",
            Client,
            ["homa://a:1", "http://10.0.0.1:4000"],
        ),
        ("homa://a:1?fallback=", Client, ["fallback ``", "http://"]),
        (
            "homa://a:1?fallback=%ff",
            Client,
            ["fallback `%ff`", "utf-8"],
        ),
        (
            "homa://a:1?fallback=https://a",
            Client,
            ["https://a", "TLS"],
        ),
        ("homa://a:1/path", Client, ["/path", "a path"]),
        ("homa://me@a:1", Client, ["me@a", "user names"]),
        ("homa://:1", Client, ["homa://:1", "homa://10.0.0.1:4000"]),
        ("homa://a b:1", Client, ["a b", "valid URI"]),
        ("homa://a:1#x", Client, ["`#x`", "leave it out"]),
        ("homa://a:1?wire=native#", Server, ["`#`", "leave it out"]),
        (
            "homa+udp://a:1?engine=auto",
            Client,
            ["engine udp in its scheme", "engine=auto"],
        ),
        (
            "homa+udp://a:1?engine=kernel",
            Client,
            ["engine udp in its scheme", "engine=kernel"],
        ),
        ("homa://0.0.0.0:1", Client, ["`0.0.0.0`", "listening"]),
        ("homa://[::]:1", Client, ["`::`", "listening"]),
        (
            "homa://[::ffff:0.0.0.0]:1",
            Client,
            ["0.0.0.0", "listening"],
        ),
        ("homa://224.0.0.1:1", Client, ["`224.0.0.1`", "multicast"]),
        ("homa://[ff02::1]:1", Client, ["`ff02::1`", "multicast"]),
        ("unix:/tmp/a", Server, ["unix:/tmp/a", "homa:// or http://"]),
        ("https://a", Client, ["https://a", "TLS"]),
        ("https://a", Server, ["https://a", "TLS"]),
    ] {
        let error = Target::parse(uri, role).unwrap_err().to_string();
        assert!(
            named.iter().all(|named| error.contains(named)),
            "{uri}: {error}"
        );
    }
}

#[test]
fn the_example_of_an_invalid_uri_has_its_scheme() {
    for (uri, shown) in [
        ("homa://a b:1", "homa://10.0.0.1:4000"),
        ("http://a b:1", "http://10.0.0.1:4000"),
        ("HTTP://a b:1", "http://10.0.0.1:4000"),
        ("unix:", "unix:/run/greeter.sock"),
        ("\u{fffd}", "homa://10.0.0.1:4000"),
    ] {
        let error = invalid(uri, "because").to_string();
        assert!(error.ends_with(&format!("for example {shown}")), "{error}");
    }
}

#[test]
fn tcp_is_left_to_tonic_or_refused() {
    for uri in ["http://a:1", "http://a", "unix:/tmp/a"] {
        match Target::parse(uri, Role::Client) {
            #[cfg(feature = "tcp")]
            Ok(Target::Tcp(_)) => {}
            #[cfg(not(feature = "tcp"))]
            Err(UriError::TcpDisabled { .. }) => {}
            other => panic!("{uri}: {other:?}"),
        }
    }
}

#[test]
fn stream_and_fallback_are_read() {
    let target = homa("homa://a:1", Role::Client).unwrap();
    assert_eq!((target.stream, target.fallback), (None, None));
    for (value, mode) in [("push", StreamMode::Push), ("pull", StreamMode::Pull)] {
        let target = homa(&format!("homa://a:1?stream={value}"), Role::Client).unwrap();
        assert_eq!(target.stream, Some(mode));
        assert_eq!(mode.to_string(), value);
    }
    #[cfg(feature = "tcp")]
    for (value, decoded) in [
        ("http://b:2", "http://b:2"),
        ("http%3A%2F%2Fb%3A2", "http://b:2"),
        ("http://b:2/a%26b", "http://b:2/a&b"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
    ] {
        let uri = format!("homa://a:1?engine=udp&fallback={value}&stream=pull");
        let target = homa(&uri, Role::Client).unwrap();
        assert_eq!(target.fallback.as_deref(), Some(decoded));
        assert_eq!(target.stream, Some(StreamMode::Pull));
    }
    #[cfg(not(feature = "tcp"))]
    assert!(matches!(
        homa("homa://a:1?fallback=http://b:2", Role::Client),
        Err(UriError::TcpDisabled { .. })
    ));
}
