use super::*;
use crate::client::OnewayMode;
use crate::server::OnewayAck;

fn place(uri: &str) -> Place {
    Target::parse(uri).unwrap().place
}

#[test]
fn every_form_is_read() {
    for (uri, host, port, engine) in [
        ("homa://10.0.0.1:4000", "10.0.0.1", 4_000, None),
        ("homa://[::1]:4000/", "::1", 4_000, None),
        ("HOMA+UDP://a:1", "a", 1, Some(Engine::Udp)),
        ("homa://a:1?engine=raw", "a", 1, Some(Engine::Raw)),
        ("homa+kernel://a:65535", "a", 65_535, Some(Engine::Kernel)),
        ("homa://0.0.0.0:0", "0.0.0.0", 0, None),
    ] {
        let (host, expected) = (host.into(), uri);
        assert_eq!(place(uri), Place::Homa { host, port, engine }, "{expected}");
    }
    for (uri, host, port, framed) in [
        ("tcp+framed://10.0.0.1:4000", "10.0.0.1", 4_000, true),
        (
            "tcp+buffered://node-1.example:1/",
            "node-1.example",
            1,
            false,
        ),
        ("TCP+Framed://[::]:0", "::", 0, true),
    ] {
        let host = host.into();
        let addr = StreamAddr::Tcp { host, port, framed };
        assert_eq!(place(uri), Place::Stream(addr), "{uri}");
    }
    let addr = StreamAddr::Unix("/run/a.sock".into());
    assert!(addr.is_framed());
    assert_eq!(place("unix+framed:///run/a.sock"), Place::Stream(addr));
}

#[test]
fn every_key_is_read_over_every_transport() {
    for uri in [
        "homa://a:1",
        "tcp+framed://a:1",
        "tcp+buffered://a:1",
        "unix+framed:///a",
    ] {
        let all = "protocol=compact&timeout_ms=50&service=Calc&oneway=await_ack";
        let target = Target::parse(&format!(" {uri}?{all} ")).unwrap();
        assert!(matches!(target.protocol, Some(Protocol::Compact)));
        assert_eq!(target.timeout, Some(Duration::from_millis(50)));
        assert_eq!(target.service.as_deref(), Some("Calc"));
        assert_eq!(target.oneway, Some(Oneway::Client(OnewayMode::AwaitAck)));
        assert!(target.check(Role::Client).is_ok());
        let target = Target::parse(&format!("{uri}?protocol=binary&oneway=after_handler"));
        let target = target.unwrap();
        assert!(matches!(target.protocol, Some(Protocol::Binary)));
        assert_eq!(target.oneway, Some(Oneway::Server(OnewayAck::AfterHandler)));
        assert!(target.check(Role::Server).is_ok());
        let target = Target::parse(uri).unwrap();
        assert!(target.protocol.is_none() && target.oneway.is_none());
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_value_limit_and_remedy() {
    for (uri, named) in [
        ("", ["it has no scheme", "homa://, tcp+framed://"]),
        ("a:4000", ["`a:4000`", "it has no scheme, use homa://"]),
        ("homa:4000", ["homa:4000", "homa://"]),
        ("tcp://a:1", ["`tcp`", "tcp+framed://, tcp+buffered://"]),
        ("homa://a", ["no port", "a:4000"]),
        ("homa://a:65536", ["65536", "1 to 65535"]),
        ("homa://0.0.0.0:40000", ["40000", "1 to 32767"]),
        ("homa://a:1/x", ["/x", "a path"]),
        ("homa+udp://a:1?engine=raw", ["engine udp", "engine=raw"]),
        ("homa://a:1#x", ["`#x`", "leave it out"]),
        ("tcp+framed://a", ["no port", "a:4000"]),
        ("tcp+framed://a:x", ["port x", "1 to 65535"]),
        ("tcp+framed://a:65536", ["65536", "1 to 65535"]),
        (
            "tcp+framed://a:1/x",
            ["a path", "tcp+framed://10.0.0.1:4000"],
        ),
        ("tcp+framed:///x", ["a path", "tcp+framed://10.0.0.1:4000"]),
        ("tcp+framed://", ["no host", "tcp+framed://10.0.0.1:4000"]),
        ("tcp+framed://a:1?engine=udp", ["`engine`", "homa://"]),
        ("unix+framed://a/b", ["no host", "three slashes"]),
        ("unix+framed://", ["no path", "unix+framed:///run"]),
        ("unix+framed:///", ["no path", "unix+framed:///run"]),
        (
            "homa://a:1?color=red",
            ["`color`", "protocol (binary, compact)"],
        ),
        ("homa://a:1?timeout=5", ["`timeout`", "timeout_ms"]),
        ("homa://a:1?service=a&service=b", ["`service`", "twice"]),
        ("homa://a:1?protocol=json", ["`json`", "binary or compact"]),
        ("homa://a:1?protocol=", ["``", "binary or compact"]),
        (
            "homa://a:1?timeout_ms=0",
            ["timeout_ms=0", "1 to 4294967295"],
        ),
        (
            "homa://a:1?timeout_ms=50ms",
            ["timeout_ms=50ms", "1 to 4294967295"],
        ),
        ("homa://a:1?service=", ["service=", "without a colon"]),
        ("homa://a:1?service=a:b", ["service=a:b", "without a colon"]),
        ("homa://a:1?oneway=yes", ["`yes`", "detach or await_ack"]),
        (
            "homa://a:1?engine=tcp",
            ["`tcp`", "auto, udp, raw or kernel"],
        ),
    ] {
        let error = Target::parse(uri).unwrap_err().to_string();
        assert!(
            named.iter().all(|named| error.contains(named)),
            "{uri}: {error}"
        );
    }
    let long = format!("unix+framed:///{}", "x".repeat(MAX_PATH));
    let error = Target::parse(&long).unwrap_err().to_string();
    assert!(error.contains("107 bytes"), "{error}");
}

#[test]
fn what_only_the_other_side_can_use_is_refused_when_it_is_used() {
    use Role::{Client, Server};
    for (uri, role, named) in [
        ("homa://0.0.0.0:1", Client, "for listening only"),
        ("homa://127.0.0.1:0", Client, "1 to 65535"),
        ("homa://127.0.0.1:40000", Server, "1 to 32767"),
        (
            "tcp+framed://127.0.0.1:0",
            Client,
            "clients use the server's",
        ),
        ("tcp+framed://224.0.0.1:1", Client, "a multicast address"),
        ("homa://a:1?oneway=on_receipt", Client, "oneway=await_ack"),
        ("homa://a:1?oneway=detach", Server, "oneway=after_handler"),
        ("tcp+framed://a:1?timeout_ms=5", Server, "`call_timeout`"),
        (
            "unix+framed:///a?service=b",
            Server,
            "`TMultiplexedProcessor`",
        ),
    ] {
        let target = Target::parse(uri).unwrap();
        let error = target.check(role).unwrap_err().to_string();
        assert!(error.contains(named), "{uri}: {error}");
        let other = if role == Client { Server } else { Client };
        let multicast = uri.contains("224");
        assert!(multicast || target.check(other).is_ok(), "{uri}");
    }
}
