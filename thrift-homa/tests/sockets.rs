//! Clients and servers over real sockets.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{Echo, EchoClient};
use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TCompactInputProtocol, TCompactOutputProtocol,
};
use thrift::transport::{ReadHalf, TIoChannel, WriteHalf};
use thrift::{ApplicationErrorKind, TransportErrorKind};
use thrift_homa::{HomaServer, HomaTransport, ServerHandle};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const GRACE: Duration = Duration::from_secs(5);

fn serve(service: &Echo) -> ServerHandle {
    HomaServer::builder(service.clone())
        .workers(2)
        .bind(ANY)
        .expect("a free port")
        .spawn()
        .expect("threads")
}

type BinaryClient = EchoClient<
    TBinaryInputProtocol<ReadHalf<HomaTransport>>,
    TBinaryOutputProtocol<WriteHalf<HomaTransport>>,
>;

fn binary(transport: HomaTransport) -> BinaryClient {
    let (read, write) = transport.split().expect("it can be split");
    EchoClient::new(
        TBinaryInputProtocol::new(read, true),
        TBinaryOutputProtocol::new(write, true),
    )
}

fn connect(server: &ServerHandle) -> BinaryClient {
    binary(HomaTransport::open(server.local_addr()).expect("an endpoint"))
}

fn transport_kind(result: thrift::Result<String>) -> TransportErrorKind {
    match result {
        Err(thrift::Error::Transport(error)) => error.kind,
        other => panic!("not a transport error: {other:?}"),
    }
}

#[test]
fn calls_of_every_size_are_echoed_in_binary_and_compact() {
    let server = serve(&Echo::default());
    let mut client = connect(&server);
    let transport = HomaTransport::open(server.local_addr()).expect("an endpoint");
    let (read, write) = transport.split().expect("it can be split");
    let mut compact = EchoClient::new(
        TCompactInputProtocol::new(read),
        TCompactOutputProtocol::new(write),
    );
    client.ping().expect("a reply");
    for size in [0, 1, 1_399, 1_400, 4_095, 4_096, 4_097, 65_536, 999_900] {
        let text: String = (0..size)
            .map(|at| char::from(b'a' + (at % 23) as u8))
            .collect();
        assert!(
            client.echo(&text).expect("a reply") == text,
            "{size} bytes, binary"
        );
        assert!(
            compact.echo(&text).expect("a reply") == text,
            "{size} bytes, compact"
        );
    }
    let report = server.shutdown(GRACE);
    assert!(report.is_clean(), "{report}");
}

#[test]
fn exceptions_panics_and_long_replies_reach_the_caller_and_the_next_call_succeeds() {
    let server = serve(&Echo::default());
    let mut client = connect(&server);
    let mut kind = |result: fn(&mut BinaryClient) -> thrift::Result<String>| {
        let kind = match result(&mut client) {
            Err(thrift::Error::Application(error)) => error.kind,
            other => panic!("not an exception: {other:?}"),
        };
        assert_eq!(client.echo("and on").expect("a reply"), "and on");
        kind
    };
    assert_eq!(
        kind(|client| client.call_by_name("nope")),
        ApplicationErrorKind::UnknownMethod
    );
    assert_eq!(
        kind(|client| client.call_by_name("boom")),
        ApplicationErrorKind::InternalError
    );
    assert_eq!(
        kind(|client| client.repeat(1_000_000)),
        ApplicationErrorKind::InternalError
    );
    let report = server.shutdown(GRACE);
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_request_over_the_limit_is_refused_before_it_is_sent_and_the_next_call_succeeds() {
    let server = serve(&Echo::default());
    let mut client = connect(&server);
    match client.echo(&"x".repeat(1_000_000)) {
        Err(thrift::Error::Transport(error)) => {
            assert!(
                error.message.contains("up to 1000000 bytes"),
                "{}",
                error.message
            );
        }
        other => panic!("not a transport error: {:?}", other.map(|text| text.len())),
    }
    assert_eq!(client.echo("short").expect("a reply"), "short");
    let report = server.shutdown(GRACE);
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_oneway_returns_before_it_is_awaited_and_is_executed() {
    let service = Echo::default();
    let server = serve(&service);
    let mut client = connect(&server);
    for _ in 0..10 {
        client.zip().expect("it is accepted");
    }
    client.ping().expect("a reply");
    let deadline = Instant::now() + GRACE;
    while service.zips.load(Ordering::SeqCst) < 10 {
        assert!(
            Instant::now() < deadline,
            "{} of 10",
            service.zips.load(Ordering::SeqCst)
        );
        std::thread::yield_now();
    }
    let report = server.shutdown(GRACE);
    assert!(report.is_clean(), "{report}");
    assert_eq!(service.zips.load(Ordering::SeqCst), 10, "each ran once");
}

#[test]
fn many_clients_share_two_workers_and_each_gets_its_own_reply() {
    let server = serve(&Echo::default());
    std::thread::scope(|scope| {
        for client_number in 0..8 {
            let mut client = connect(&server);
            scope.spawn(move || {
                for call in 0..50 {
                    let text = format!("client {client_number}, call {call}");
                    assert_eq!(client.echo(&text).expect("a reply"), text);
                }
            });
        }
    });
    let report = server.shutdown(GRACE);
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_call_to_nobody_is_not_open_and_a_silent_peer_is_timed_out() {
    let nobody = {
        let socket = UdpSocket::bind(ANY).expect("a free port");
        socket.local_addr().expect("bound")
    };
    let mut client = binary(HomaTransport::open(nobody).expect("an endpoint"));
    assert_eq!(
        transport_kind(client.echo("hello?")),
        TransportErrorKind::NotOpen
    );

    let silent = UdpSocket::bind(ANY).expect("a free port");
    let addr = silent.local_addr().expect("bound");
    let transport = HomaTransport::open(addr).expect("an endpoint");
    transport.set_timeout(Some(Duration::from_millis(50)));
    let mut client = binary(transport);
    let began = Instant::now();
    assert_eq!(
        transport_kind(client.echo("hello?")),
        TransportErrorKind::TimedOut
    );
    assert!(began.elapsed() >= Duration::from_millis(50));
}

#[test]
fn after_a_shutdown_the_port_is_free_and_calls_fail() {
    let server = serve(&Echo::default());
    let addr = server.local_addr();
    let mut client = connect(&server);
    client.ping().expect("a reply");
    let report = server.shutdown(GRACE);
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        transport_kind(client.echo("hello?")),
        TransportErrorKind::NotOpen
    );
    // The socket is closed by the thread that drives it, a moment after its last handle.
    let deadline = Instant::now() + GRACE;
    let again = loop {
        match HomaServer::builder(Echo::default()).bind(addr) {
            Ok(server) => break server,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        std::thread::yield_now();
    };
    assert_eq!(again.local_addr(), addr);
}

#[test]
fn a_handle_dropped_inside_a_runtime_stops_the_server_and_does_not_panic() {
    let server = serve(&Echo::default());
    let addr = server.local_addr();
    let mut client = connect(&server);
    client.ping().expect("a reply");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(async move { drop(server) });
    assert_eq!(
        transport_kind(client.echo("hello?")),
        TransportErrorKind::NotOpen
    );
    // Once its workers have ended, the port is free.
    let deadline = Instant::now() + GRACE;
    while let Err(error) = HomaServer::builder(Echo::default()).bind(addr) {
        assert!(Instant::now() < deadline, "{error:?}");
        std::thread::yield_now();
    }
}

#[test]
fn an_address_in_use_is_named() {
    let server = serve(&Echo::default());
    let addr = server.local_addr();
    match HomaServer::builder(Echo::default()).bind(addr) {
        Err(thrift::Error::Transport(error)) => {
            assert_eq!(error.kind, TransportErrorKind::NotOpen);
            assert!(
                error.message.contains(&addr.to_string()),
                "{}",
                error.message
            );
        }
        other => panic!("two servers on one port: {other:?}"),
    }
}
