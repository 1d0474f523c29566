//! The same code over every transport, which a URI or a configuration chooses.

#[allow(dead_code, reason = "each file of tests uses a part of it")]
mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Echo, EchoClient};
use socket2::{Domain, SockAddr, Socket, Type};
use thrift::protocol::{TInputProtocol, TOutputProtocol};
use thrift::server::{TMultiplexedProcessor, TProcessor};
use thrift::{ApplicationErrorKind, TransportErrorKind};
use thrift_homa::{
    BoxedInputProtocol, BoxedOutputProtocol, ClientConfig, Endpoint, ServerConfig, ServerHandle,
    ServerOptions, UriError,
};

const GRACE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(20);

type Client = EchoClient<BoxedInputProtocol, BoxedOutputProtocol>;

/// The service, with a gate in front that can be shut.
#[derive(Clone, Default)]
struct Gated {
    echo: Echo,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Gated {
    fn shut(&self, shut: bool) {
        *self.gate.0.lock().expect("nobody panics") = shut;
        self.gate.1.notify_all();
    }
}

impl TProcessor for Gated {
    fn process(
        &self,
        input: &mut dyn TInputProtocol,
        output: &mut dyn TOutputProtocol,
    ) -> thrift::Result<()> {
        let gate = self.gate.0.lock().expect("nobody panics");
        drop(self.gate.1.wait_while(gate, |shut| *shut));
        self.echo.process(input, output)
    }
}

/// Where servers listen, for each transport.
fn server_uris(folder: &Path) -> Vec<String> {
    vec![
        "homa://127.0.0.1:0?engine=udp".to_owned(),
        "tcp+framed://127.0.0.1:0".to_owned(),
        "tcp+buffered://127.0.0.1:0".to_owned(),
        format!("unix+framed://{}/socket", folder.display()),
    ]
}

/// What clients call, of a server that listens there.
fn client_uri(server_uri: &str, server: &ServerHandle) -> String {
    server_uri.replace("127.0.0.1:0", &server.local_addr().to_string())
}

fn client(uri: &str, timeout: Option<Duration>) -> Client {
    let mut endpoint: Endpoint = uri.parse().expect(uri);
    endpoint.options_mut().timeout = timeout;
    let (input, output) = endpoint.client().expect(uri);
    EchoClient::new(input, output)
}

fn transport_kind<T: std::fmt::Debug>(result: thrift::Result<T>) -> TransportErrorKind {
    match result {
        Err(thrift::Error::Transport(error)) => error.kind,
        other => panic!("not a transport error: {other:?}"),
    }
}

fn application_kind<T: std::fmt::Debug>(result: thrift::Result<T>) -> ApplicationErrorKind {
    match result {
        Err(thrift::Error::Application(error)) => error.kind,
        other => panic!("not an application error: {other:?}"),
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What every transport does alike.
fn all_goes_well(server_uri: &str, query: &str) {
    let service = Gated::default();
    let endpoint: Endpoint = server_uri.parse().expect(server_uri);
    let server = endpoint
        .serve(service.clone(), ServerOptions::default())
        .expect(server_uri);
    let uri = client_uri(server_uri, &server);
    let uri = format!("{uri}{}{query}", if uri.contains('?') { '&' } else { '?' });
    let uri = &*uri;
    let mut client = client(uri, Some(PATIENCE));
    assert_eq!(client.echo("first").expect(uri), "first");
    for size in [0, 1, 4_095, 4_096, 10_000, 999_000] {
        let text = "x".repeat(size);
        assert_eq!(client.echo(&text).expect(uri), text, "{uri}, {size}");
    }

    client.zip().expect(uri);
    assert_eq!(client.echo("after a oneway").expect(uri), "after a oneway");
    let zips = || service.echo.zips.load(Ordering::SeqCst);
    wait_until("the oneway is executed", || zips() == 1);

    // After each kind of failure, the same client goes on.
    let failed = client.call_by_name("nobody");
    assert_eq!(
        application_kind(failed),
        ApplicationErrorKind::UnknownMethod,
        "{uri}"
    );
    client.ping().expect(uri);
    let failed = client.call_by_name("boom");
    assert_eq!(
        application_kind(failed),
        ApplicationErrorKind::InternalError,
        "{uri}"
    );
    client.ping().expect(uri);
    let failed = client.echo(&"x".repeat(1_000_001));
    assert_eq!(
        transport_kind(failed),
        TransportErrorKind::SizeLimit,
        "{uri}"
    );
    client.ping().expect(uri);
    let failed = client.repeat(1_000_000);
    assert_eq!(
        application_kind(failed),
        ApplicationErrorKind::InternalError,
        "{uri}"
    );
    client.ping().expect(uri);

    // A late reply belongs to nobody.
    let mut hasty = self::client(uri, Some(Duration::from_millis(100)));
    hasty.ping().expect(uri);
    service.shut(true);
    assert_eq!(
        transport_kind(hasty.echo("late")),
        TransportErrorKind::TimedOut,
        "{uri}"
    );
    service.shut(false);
    for number in 0..50 {
        let text = number.to_string();
        // The server may still be slow.
        match hasty.echo(&text) {
            Ok(echoed) => assert_eq!(echoed, text, "{uri}"),
            failed => assert_eq!(
                transport_kind(failed),
                TransportErrorKind::TimedOut,
                "{uri}"
            ),
        }
    }

    // A oneway as the last act arrives.
    let mut brief = self::client(uri, None);
    brief.zip().expect(uri);
    drop(brief);
    wait_until("the last oneway is executed", || zips() == 2);

    let report = server.shutdown(GRACE);
    assert!(report.abandoned.is_empty(), "{uri}: {report:?}");
    assert_eq!(
        transport_kind(client.ping()),
        TransportErrorKind::NotOpen,
        "{uri}"
    );
    assert_eq!(
        transport_kind(client.ping()),
        TransportErrorKind::NotOpen,
        "{uri}"
    );
}

#[test]
fn the_same_code_does_the_same_over_every_transport_and_protocol() {
    let folder = tempfile::tempdir().expect("a folder");
    for server_uri in server_uris(folder.path()) {
        for protocol in ["binary", "compact"] {
            all_goes_well(&server_uri, &format!("protocol={protocol}"));
        }
    }
}

#[test]
fn configurations_alone_choose_the_transport() {
    let folder = tempfile::tempdir().expect("a folder");
    for server_uri in server_uris(folder.path()) {
        let file = folder.path().join("server.toml");
        let text = format!("uri = '{server_uri}'\nworkers = 2\nmax_message_bytes = 2000");
        std::fs::write(&file, text).expect("a file");
        let config = ServerConfig::from_toml_file(&file).expect("valid");
        let mut services = TMultiplexedProcessor::new();
        for (name, is_default) in [("One", true), ("Two", false)] {
            let echo = Box::new(Echo::default());
            services
                .register(name, echo, is_default)
                .expect("a new name");
        }
        let server = config.serve(services).expect(&server_uri);

        let uri = client_uri(&server_uri, &server);
        for service in [
            "",
            "service = 'One'",
            "service = 'Two'",
            "service = 'Three'",
        ] {
            let text = format!("uri = '{uri}'\ntimeout = '10s'\nprotocol = 'compact'\n{service}");
            let config: ClientConfig = text.parse().expect("valid");
            let endpoint = Endpoint::from_config(&config).expect(&uri);
            let (input, output) = endpoint.client().expect(&uri);
            let mut client = EchoClient::new(input, output);
            match client.echo("hello") {
                Ok(text) => assert_eq!(text, "hello", "{uri}, {service}"),
                Err(error) => {
                    assert!(service.contains("Three"), "{uri}, {service}: {error:?}");
                    assert!(format!("{error:?}").contains("Three"), "{error:?}");
                    continue;
                }
            }
            // The server's limit.
            let failed = client.echo(&"x".repeat(3_000));
            assert!(failed.is_err(), "{uri}");
            // Where nothing separates messages, the server has to hang up after that.
            if client.ping().is_err() {
                assert!(uri.starts_with("tcp+buffered"), "{uri}");
                client.ping().expect(&uri);
            }
        }
        let endpoint: Endpoint = uri.parse().expect(&uri);
        let (input, output) = endpoint.client_for_service("Two").expect(&uri);
        EchoClient::new(input, output).ping().expect(&uri);
        server.shutdown(GRACE);
    }
}

#[test]
fn long_messages_pass_over_every_transport_with_one_more_line_on_both_sides() {
    let folder = tempfile::tempdir().expect("a folder");
    let long = "long ".repeat(500_000);
    for server_uri in server_uris(folder.path()) {
        let line = "pieces_up_to = 4000000";
        let server = serve_with(&server_uri, line);
        let echoed = echo_with(&server_uri, &server, line, &long);
        assert!(echoed.expect(&server_uri) == long, "{server_uri}");
        assert!(echo_with(&server_uri, &server, "", &long).is_err());
        server.shutdown(GRACE);
        let server = serve_with(&server_uri, "");
        assert!(echo_with(&server_uri, &server, line, &long).is_err());
        server.shutdown(GRACE);
    }
}

/// Longer than what the thrift crate and its relatives take by default, 16,384,000 bytes.
#[test]
fn messages_of_20_megabytes_pass_over_streams_with_raised_limits_on_both_sides() {
    let folder = tempfile::tempdir().expect("a folder");
    let long = "twenty mb ".repeat(2_000_000);
    let line = "max_message_bytes = 30000000";
    for server_uri in &server_uris(folder.path())[1..] {
        let server = serve_with(server_uri, line);
        let echoed = echo_with(server_uri, &server, line, &long);
        assert!(echoed.expect(server_uri) == long, "{server_uri}");
        let refused = echo_with(server_uri, &server, "", &long);
        assert_eq!(transport_kind(refused), TransportErrorKind::SizeLimit);
        assert_eq!(server.stats().calls(), 1, "{server_uri}");
        server.shutdown(GRACE);
        let server = serve_with(server_uri, "");
        let refused = echo_with(server_uri, &server, line, &long);
        assert!(refused.is_err(), "{server_uri}");
        let short = echo_with(server_uri, &server, line, "short");
        assert_eq!(short.expect(server_uri), "short");
        server.shutdown(GRACE);
    }
}

/// A server of which the configuration has this line.
fn serve_with(server_uri: &str, line: &str) -> ServerHandle {
    let text = format!("uri = '{server_uri}'\n{line}");
    let config: ServerConfig = text.parse().expect("valid");
    config.serve(Echo::default()).expect(server_uri)
}

/// A call of a client of which the configuration has this line.
fn echo_with(
    server_uri: &str,
    server: &ServerHandle,
    line: &str,
    text: &str,
) -> thrift::Result<String> {
    let uri = client_uri(server_uri, server);
    let config: ClientConfig = format!("uri = '{uri}'\n{line}").parse().expect("valid");
    let endpoint = Endpoint::from_config(&config).expect(&uri);
    let (input, output) = endpoint.client().expect(&uri);
    EchoClient::new(input, output).echo(text)
}

#[test]
fn clients_need_nothing_but_the_uri_that_a_server_tells() {
    let folder = tempfile::tempdir().expect("a folder");
    for server_uri in server_uris(folder.path()) {
        for protocol in ["", "protocol=compact"] {
            let separator = if server_uri.contains('?') { '&' } else { '?' };
            let uri = format!("{server_uri}{separator}{protocol}");
            let endpoint: Endpoint = uri.parse().expect(&uri);
            let served = endpoint.serve(Echo::default(), ServerOptions::default());
            let server = served.expect(&uri);
            let told = server.uri();
            if server_uri.starts_with("homa") {
                assert!(told.starts_with("homa+udp://127.0.0.1:"), "{told}");
            }
            assert_eq!(told.contains("?protocol="), !protocol.is_empty(), "{told}");
            assert_eq!(client(&told, None).echo("hello").expect(&told), "hello");
            server.shutdown(GRACE);
        }
    }
}

#[test]
fn a_port_and_a_path_can_be_used_again_after_a_shutdown() {
    let folder = tempfile::tempdir().expect("a folder");
    for server_uri in server_uris(folder.path()) {
        let serve = |uri: &str| {
            let endpoint: Endpoint = uri.parse().expect(uri);
            endpoint.serve(Echo::default(), ServerOptions::default())
        };
        let server = serve(&server_uri).expect(&server_uri);
        let uri = client_uri(&server_uri, &server);
        let mut client = client(&uri, Some(PATIENCE));
        client.ping().expect(&uri);
        let taken = serve(&uri).map(drop);
        assert_eq!(transport_kind(taken), TransportErrorKind::NotOpen, "{uri}");
        server.shutdown(GRACE);
        let mut again = serve(&uri);
        // Homa keeps the port a moment longer, for replies that get lost.
        wait_until("the port is free", || {
            if again.is_err() {
                again = serve(&uri);
            }
            again.is_ok()
        });
        let server = again.expect(&uri);
        // Over connections, the first call finds out that the old one is gone.
        let _ = client.ping();
        client.ping().expect(&uri);
        drop(server);
    }
}

#[test]
fn a_socket_file_that_nobody_serves_is_replaced_and_any_other_file_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let uri = format!("unix+framed://{}", path.display());
    let endpoint: Endpoint = uri.parse().expect("valid");
    let serve = || endpoint.serve(Echo::default(), ServerOptions::default());
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    let server = serve().expect("the old socket is nobody's");
    client(&uri, None).ping().expect("served");
    server.shutdown(GRACE);
    assert!(!path.exists(), "it is removed at the end");
    std::fs::write(&path, "a file").expect("a file");
    assert_eq!(
        transport_kind(serve().map(drop)),
        TransportErrorKind::NotOpen
    );
    assert!(path.exists());
}

#[test]
fn what_cannot_be_connected_to_is_not_open_or_times_out() {
    let unused = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = unused.local_addr().expect("bound").port();
    drop(unused);
    let folder = tempfile::tempdir().expect("a folder");
    for uri in [
        format!("tcp+framed://127.0.0.1:{port}"),
        format!("tcp+buffered://127.0.0.1:{port}"),
        format!("unix+framed://{}/none", folder.path().display()),
        "tcp+framed://no.such.host.invalid:1".to_owned(),
    ] {
        let endpoint: Endpoint = uri.parse().expect("valid");
        let failed = endpoint.client().map(drop);
        assert_eq!(transport_kind(failed), TransportErrorKind::NotOpen, "{uri}");
    }

    // A socket that nobody accepts from, and whose queue is full.
    let path = folder.path().join("full");
    let full = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    full.bind(&SockAddr::unix(&path).expect("short"))
        .expect("a new path");
    full.listen(0).expect("bound");
    let _waiting = UnixStream::connect(&path).expect("there is room for one");
    let uri = format!("unix+framed://{}", path.display());
    let config: ClientConfig = format!("uri = '{uri}'\nconnect_timeout = '50ms'")
        .parse()
        .expect("valid");
    let endpoint = Endpoint::from_config(&config).expect("valid");
    let failed = endpoint.client().map(drop);
    assert_eq!(transport_kind(failed), TransportErrorKind::TimedOut);
}

#[test]
fn a_reply_over_the_limit_is_refused_unread_and_the_next_call_connects_again() {
    for (scheme, reply) in [
        // A gigabyte, as its length says.
        ("tcp+framed", vec![0x40, 0, 0, 0]),
        // A name of a gigabyte, and a good part of it.
        ("tcp+buffered", {
            let mut reply = vec![0x80, 1, 0, 2, 0x40, 0, 0, 0];
            reply.resize(2_000_000, b'x');
            reply
        }),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("bound");
        let server = thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().expect("a client");
                let _ = stream.read(&mut [0; 1_000]);
                // The client may hang up before all is written.
                let _ = stream.write_all(&reply);
                let _ = stream.read(&mut [0; 1_000]);
            }
        });
        let mut client = client(&format!("{scheme}://{addr}"), Some(PATIENCE));
        for _ in 0..2 {
            let failed = client.ping();
            assert!(
                matches!(
                    &failed,
                    Err(thrift::Error::Transport(error)) if error.kind == TransportErrorKind::SizeLimit
                ) || matches!(
                    &failed,
                    Err(thrift::Error::Protocol(error))
                        if error.kind == thrift::ProtocolErrorKind::SizeLimit
                ),
                "{scheme}: {failed:?}"
            );
        }
        drop(client);
        server.join().expect("two connections");
    }
}

#[test]
fn a_uri_of_the_wrong_side_is_an_error_that_can_be_had_back() {
    let endpoint: Endpoint = "homa://127.0.0.1:0".parse().expect("a server's");
    match endpoint.client().map(drop) {
        Err(thrift::Error::User(error)) => {
            let error = error.downcast::<UriError>().expect("of this type");
            assert!(error.to_string().contains("1 to 65535"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let endpoint: Endpoint = "tcp+framed://127.0.0.1:0?timeout_ms=5"
        .parse()
        .expect("a client's");
    let served = endpoint.serve(Echo::default(), ServerOptions::default());
    match served.map(drop) {
        Err(thrift::Error::User(error)) => {
            assert!(error.to_string().contains("`call_timeout`"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}
