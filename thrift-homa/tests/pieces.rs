//! Messages over 1,000,000 bytes, between clients and servers that have agreed on them and others.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;
#[path = "common/peer.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod peer;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Echo, EchoClient};
use homa_client::{Config, Faults, Message, blocking};
use peer::{PATIENCE, Peer, config, process, until};
use thrift::protocol::{TInputProtocol, TOutputProtocol};
use thrift::server::TProcessor;
use thrift::{ApplicationErrorKind, TransportErrorKind};
use thrift_homa::{
    ClientOptions, Endpoint, HomaError, HomaInputProtocol, HomaOutputProtocol, HomaServer,
    HomaTransport, PieceOptions, RefusedPiece, ServerHandle,
};

type Client = EchoClient<HomaInputProtocol, HomaOutputProtocol>;

const MEGABYTES: usize = 1 << 20;

/// Counts what it executes.
#[derive(Clone, Default)]
struct Counting {
    service: Echo,
    runs: Arc<AtomicUsize>,
}

impl TProcessor for Counting {
    fn process(
        &self,
        input: &mut dyn TInputProtocol,
        output: &mut dyn TOutputProtocol,
    ) -> thrift::Result<()> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        self.service.process(input, output)
    }
}

fn serve(service: &Counting, config: &Config, pieces: Option<PieceOptions>) -> ServerHandle {
    let mut options = thrift_homa::ServerOptions::default();
    options.homa = config.clone();
    options.pieces = pieces;
    HomaServer::builder(service.clone())
        .options(options)
        .workers(4)
        .bind("127.0.0.1:0")
        .and_then(HomaServer::spawn)
        .expect("a server")
}

fn open(addr: std::net::SocketAddr, config: &Config, max_bytes: usize) -> HomaTransport {
    let mut options = ClientOptions::default();
    options.homa = config.clone();
    options.pieces = Some(PieceOptions::up_to(max_bytes));
    HomaTransport::open_with(addr, options).expect("an endpoint")
}

fn client(transport: &HomaTransport) -> Client {
    let (input, output) = transport.clone().protocols();
    EchoClient::new(input, output)
}

fn letters(len: usize) -> String {
    (0..len)
        .map(|at| char::from(b'a' + (at % 23) as u8))
        .collect()
}

fn application<T: std::fmt::Debug>(result: thrift::Result<T>) -> (ApplicationErrorKind, String) {
    match result {
        Err(thrift::Error::Application(error)) => (error.kind, error.message),
        other => panic!("not an exception: {other:?}"),
    }
}

fn size_limit<T: std::fmt::Debug>(result: thrift::Result<T>) -> String {
    match result {
        Err(thrift::Error::Transport(error)) => {
            assert_eq!(error.kind, TransportErrorKind::SizeLimit);
            error.message
        }
        other => panic!("not a transport error: {other:?}"),
    }
}

#[test]
fn messages_of_any_size_pass_both_ways_and_run_once() {
    let service = Counting::default();
    let pieces = Some(PieceOptions::up_to(8 * MEGABYTES));
    let server = serve(&service, &config(20), pieces);
    let transport = open(server.local_addr(), &config(20), 8 * MEGABYTES);
    let mut client = client(&transport);
    let around = 24;
    let sizes = [
        100,
        999_955,
        999_956,
        999_957,
        1_000_000,
        1_000_001,
        2 * 524_288 - 1,
        2 * 524_288,
        2 * 524_288 + 1,
        5_000_000,
        8 * MEGABYTES - 1,
    ];
    for (round, size) in sizes.into_iter().enumerate() {
        let text = letters(size - around);
        assert!(client.echo(&text).expect("an echo") == text, "{size}");
        assert_eq!(service.runs.load(Ordering::SeqCst), round + 1);
    }
    // A reply has as many bytes around it as its request here.
    let stats = transport.stats();
    assert_eq!((stats.requests, stats.replies), (11, 11));
    assert_eq!((stats.requests_in_pieces, stats.replies_in_pieces), (8, 6));
    let error = size_limit(client.echo(&letters(8 * MEGABYTES)));
    assert!(error.contains("up to 8388608 bytes"), "{error}");
    let (kind, error) = application(client.repeat(8 * MEGABYTES as i32));
    assert_eq!(kind, ApplicationErrorKind::InternalError);
    assert!(error.contains("limit of 8388608"), "{error}");
    assert_eq!(client.echo("and on").expect("an echo"), "and on");
    let pieces = server.stats().pieces;
    assert_eq!((pieces.requests, pieces.replies), (8, 6));
    assert_eq!(pieces.replies_fetched, 6);
    assert_eq!((pieces.transfers, pieces.reserved_bytes), (0, 0));
    assert!(server.shutdown(PATIENCE).is_clean());
}

#[test]
fn a_network_that_loses_and_doubles_and_reorders_packets_makes_no_difference() {
    let mut config = config(21);
    let mut faults = Faults::default();
    faults.loss_ppm = 20_000;
    faults.reorder_ppm = 20_000;
    faults.duplicate_ppm = 20_000;
    config.faults = Some(faults);
    let service = Counting::default();
    let pieces = Some(PieceOptions::up_to(4 * MEGABYTES));
    let server = serve(&service, &config, pieces);
    let transport = open(server.local_addr(), &config, 4 * MEGABYTES);
    std::thread::scope(|scope| {
        for number in 0..3 {
            let mut client = client(&transport);
            scope.spawn(move || {
                for round in 0..3 {
                    let text = letters(1_100_000 + 300_000 * round + number);
                    assert!(client.echo(&text).expect("an echo") == text);
                    client.zip().expect("it is sent");
                }
            });
        }
    });
    transport.close(PATIENCE).expect("all are accepted");
    // Oneway messages are accepted before their handlers run.
    until("all have run", || service.runs.load(Ordering::SeqCst) >= 18);
    assert_eq!(service.runs.load(Ordering::SeqCst), 18);
    let pieces = server.stats().pieces;
    assert_eq!((pieces.requests, pieces.replies_fetched), (9, 9));
    assert_eq!((pieces.transfers, pieces.expired), (0, 0));
    for why in [
        RefusedPiece::NoRoom,
        RefusedPiece::Unknown,
        RefusedPiece::Malformed,
        RefusedPiece::Incomplete,
    ] {
        assert_eq!(pieces.refused(why), 0, "{why:?}");
    }
}

#[test]
fn a_server_without_pieces_gets_bare_messages_and_long_ones_are_refused_by_its_setting() {
    let service = Counting::default();
    let server = serve(&service, &config(22), None);
    let transport = open(server.local_addr(), &config(22), 4 * MEGABYTES);
    let mut client = client(&transport);
    client.zip().expect("it is sent");
    for _ in 0..3 {
        assert_eq!(client.echo("short").expect("an echo"), "short");
    }
    let error = size_limit(client.echo(&letters(1_000_000)));
    assert!(error.contains("set ServerOptions::pieces"), "{error}");
    assert!(matches!(
        transport.last_error(),
        Some(HomaError::NoPieces { .. })
    ));
    let text = letters(999_900);
    assert!(client.echo(&text).expect("an echo") == text);
    until("all have run", || service.runs.load(Ordering::SeqCst) == 5);
    // It was asked once.
    let malformed = server.stats().of(thrift_homa::CallOutcome::Malformed);
    assert_eq!(malformed, 1);
}

#[test]
fn a_client_without_pieces_gets_exceptions_for_long_replies() {
    let service = Counting::default();
    let pieces = Some(PieceOptions::up_to(4 * MEGABYTES));
    let server = serve(&service, &config(23), pieces);
    let mut options = ClientOptions::default();
    options.homa = config(23);
    let transport = HomaTransport::open_with(server.local_addr(), options).expect("an endpoint");
    let mut plain = client(&transport);
    assert_eq!(plain.echo("short").expect("an echo"), "short");
    let (kind, error) = application(plain.repeat(1_000_000));
    assert_eq!(kind, ApplicationErrorKind::InternalError);
    assert!(error.contains("limit of 1000000"), "{error}");
    // And one that takes less than the server sends.
    let transport = open(server.local_addr(), &config(23), 2 * MEGABYTES);
    let mut modest = client(&transport);
    assert_eq!(modest.repeat(2_000_000).expect("it fits").len(), 2_000_000);
    let (kind, error) = application(modest.repeat(3_000_000));
    assert_eq!(kind, ApplicationErrorKind::InternalError);
    assert!(error.contains("limit of 2097152"), "{error}");
}

#[test]
fn the_servers_limit_holds_before_anything_is_sent() {
    let service = Counting::default();
    let pieces = Some(PieceOptions::up_to(2 * MEGABYTES));
    let server = serve(&service, &config(24), pieces);
    let transport = open(server.local_addr(), &config(24), 16 * MEGABYTES);
    let mut client = client(&transport);
    let error = size_limit(client.echo(&letters(2 * MEGABYTES)));
    assert!(error.contains("up to 2097152 bytes"), "{error}");
    assert_eq!(server.stats().pieces, thrift_homa::PieceStats::default());
    let text = letters(2_000_000);
    assert!(client.echo(&text).expect("an echo") == text);
    assert_eq!(service.runs.load(Ordering::SeqCst), 1);
}

/// A request of this kind by hand.
fn by_hand(kind: u8, transfer: u8, total: u64, index: u32, body: &[u8]) -> Message {
    let mut request = vec![0xF4, 1, kind, 0];
    request.extend_from_slice(&[transfer; 16]);
    request.extend_from_slice(&total.to_be_bytes());
    request.extend_from_slice(&u64::MAX.to_be_bytes());
    request.extend_from_slice(&500_000_u32.to_be_bytes());
    request.extend_from_slice(&index.to_be_bytes());
    request.extend_from_slice(body);
    request.into()
}

#[test]
fn a_server_whose_memory_is_used_up_says_so_and_works_on() {
    let service = Counting::default();
    let mut pieces = PieceOptions::up_to(2_000_000);
    pieces.memory_bytes_per_peer = 3_000_000;
    let server = serve(&service, &config(25), Some(pieces));
    let addr = server.local_addr();
    let raw = blocking::Client::bind(&config(25)).expect("an endpoint");
    let ask = |request| raw.call(addr, request).expect("an answer").into_bytes();
    let stored = [0xF4, 1, 2, 0];
    assert_eq!(ask(by_hand(3, 1, 2_000_000, 0, &[7; 500_000])), stored[..]);
    let transport = open(addr, &config(25), 2_000_000);
    let mut client = client(&transport);
    let (kind, error) = application(client.echo(&letters(1_500_000)));
    assert_eq!(kind, ApplicationErrorKind::InternalError);
    assert!(
        error.contains("no room for a message of 1500024 bytes"),
        "{error}"
    );
    assert_eq!(client.echo("short").expect("an echo"), "short");
    // Twice: the calls that were given up have left nothing.
    application(client.echo(&letters(1_500_000)));
    assert_eq!(ask(by_hand(6, 1, 0, 0, &[])), stored[..]);
    // Pieces of those calls may still be on the way.
    let text = letters(1_500_000);
    until("there is room", || {
        client.echo(&text).is_ok_and(|echo| echo == text)
    });
    assert!(server.stats().pieces.dropped >= 1);
    until("nothing is left", || {
        server.stats().pieces.reserved_bytes == 0
    });
}

#[test]
fn what_is_sent_by_hand_and_makes_no_sense_is_refused_by_kind() {
    let service = Counting::default();
    let pieces = Some(PieceOptions::up_to(2_000_000));
    let server = serve(&service, &config(26), pieces);
    let addr = server.local_addr();
    let raw = blocking::Client::bind(&config(26)).expect("an endpoint");
    let refused = |request: Message| {
        let answer = raw.call(addr, request).expect("an answer").into_bytes();
        assert_eq!(answer[..3], [0xF4, 1, 6], "{answer:?}");
        assert!(std::str::from_utf8(&answer[4..]).is_ok_and(|text| !text.is_empty()));
        answer[3]
    };
    let (too_long, unknown, malformed, incomplete, version) = (1, 3, 4, 5, 6);
    assert_eq!(refused(vec![0xF4].into()), malformed);
    assert_eq!(refused([&[0xF4, 2][..], &[0; 42]].concat().into()), version);
    assert_eq!(refused(by_hand(9, 1, 0, 0, &[])), malformed);
    assert_eq!(refused(by_hand(3, 1, u64::MAX, 0, &[7; 10])), too_long);
    assert_eq!(refused(by_hand(3, 1, 1_000_000, 5, &[7; 10])), malformed);
    assert_eq!(refused(by_hand(4, 1, 1_000_000, 0, &[])), unknown);
    assert_eq!(refused(by_hand(5, 1, 0, 0, &[])), unknown);
    raw.call(addr, by_hand(3, 2, 1_000_000, 0, &[7; 500_000]))
        .expect("it is kept");
    assert_eq!(
        refused(by_hand(3, 2, 1_000_000, 0, &[7; 500_000])),
        malformed
    );
    // From another port it is another client.
    let mut other = config(26);
    other.protocol.max_peers += 1_000;
    let other = blocking::Client::bind(&other).expect("an endpoint");
    let answer = other.call(addr, by_hand(4, 2, 1_000_000, 0, &[]));
    assert_eq!(
        answer.expect("an answer").into_bytes()[..4],
        [0xF4, 1, 6, unknown]
    );
    assert_eq!(refused(by_hand(4, 2, 1_000_000, 0, &[])), incomplete);
    assert_eq!(refused(by_hand(4, 2, 1_000_000, 0, &[])), unknown);
    assert_eq!(service.runs.load(Ordering::SeqCst), 0);
    let stats = server.stats().pieces;
    assert_eq!(stats.refused(RefusedPiece::Malformed), 4);
    assert_eq!(stats.refused(RefusedPiece::Unknown), 4);
    assert_eq!((stats.transfers, stats.reserved_bytes), (0, 0));
}

#[test]
fn what_is_no_thrift_request_is_refused_as_such_and_pieces_go_on() {
    let service = Counting::default();
    let pieces = Some(PieceOptions::up_to(2_000_000));
    let server = serve(&service, &config(27), pieces);
    let transport = open(server.local_addr(), &config(27), 2_000_000);
    let (mut read, mut write) = transport.clone().into_halves();
    write.write_all(b"[1,\"ping\",1,0,{}]").expect("it fits");
    write.flush().expect("it is sent");
    read.read(&mut [0; 8]).expect_err("JSON");
    assert!(matches!(
        transport.last_error(),
        Some(HomaError::NotUnderstood { .. })
    ));
    let text = letters(1_500_000);
    assert!(client(&transport).echo(&text).expect("an echo") == text);
}

/// It says welcome, and knows nothing of pieces afterwards: it was restarted without them.
#[test]
fn a_server_that_takes_no_pieces_any_more_gets_the_message_again_as_it_is() {
    let bare = Arc::new(AtomicUsize::new(0));
    let seen = bare.clone();
    let peer = Peer::replying(&config(28), move |request| match request {
        [0xF4, 1, 1, ..] => [
            &[0xF4, 1, 1, 0][..],
            &4_000_000_u64.to_be_bytes(),
            &500_000_u32.to_be_bytes(),
        ]
        .concat(),
        [0xF4, ..] => b"\xF2unknown protocol".to_vec(),
        request => {
            seen.fetch_add(1, Ordering::SeqCst);
            process(&Echo::default(), request)
        }
    });
    let transport = open(peer.addr(), &config(28), 4 * MEGABYTES);
    let mut first = client(&transport);
    assert_eq!(first.echo("short").expect("an echo"), "short");
    assert_eq!(first.echo("again").expect("an echo"), "again");
    assert_eq!(
        peer.seen().len(),
        4,
        "hello, an envelope, and two bare ones"
    );
    let transport = open(peer.addr(), &config(28), 4 * MEGABYTES);
    let mut second = client(&transport);
    let error = size_limit(second.echo(&letters(1_500_000)));
    assert!(error.contains("set ServerOptions::pieces"), "{error}");
    assert_eq!(second.echo("short").expect("an echo"), "short");
    assert_eq!(bare.load(Ordering::SeqCst), 3);
}

#[test]
fn a_server_that_lies_about_its_reply_is_not_believed() {
    let long = |total: u64, piece_bytes: u32| {
        let mut answer = vec![0xF4, 1, 3, 0];
        answer.extend_from_slice(&[9; 16]);
        answer.extend_from_slice(&total.to_be_bytes());
        answer.extend_from_slice(&piece_bytes.to_be_bytes());
        answer
    };
    let lies = vec![
        (long(u64::MAX, 500_000), "over the limit of 4194304"),
        (long(2_000_000, 1), "in pieces of a few bytes"),
        (long(2_000_000, 500_000), "another length than was told"),
        (vec![0xF4, 1, 2, 0], "makes no sense"),
        (vec![0xF4], "makes no sense"),
    ];
    let lie = Arc::new(Mutex::new(Vec::new()));
    let dropped = Arc::new(AtomicUsize::new(0));
    let peer = {
        let (lie, dropped) = (lie.clone(), dropped.clone());
        Peer::replying(&config(29), move |request| match request[2] {
            1 => [
                &[0xF4, 1, 1, 0][..],
                &4_000_000_u64.to_be_bytes(),
                &500_000_u32.to_be_bytes(),
            ]
            .concat(),
            2 => lie.lock().expect("no panic").clone(),
            5 => vec![0xF4, 1, 4, 0, 1, 2, 3],
            _ => {
                dropped.fetch_add(1, Ordering::SeqCst);
                vec![0xF4, 1, 2, 0]
            }
        })
    };
    let transport = open(peer.addr(), &config(29), 4 * MEGABYTES);
    let mut client = client(&transport);
    for (answer, expected) in lies {
        *lie.lock().expect("no panic") = answer;
        let error = match client.echo("what is true?") {
            Err(thrift::Error::Protocol(error)) => error.message,
            Err(thrift::Error::Transport(error)) => error.message,
            other => panic!("{other:?}"),
        };
        assert!(error.contains(expected), "{error}");
    }
    until("three transfers were given up", || {
        dropped.load(Ordering::SeqCst) == 3
    });
}

/// Answers late, so that its caller or its server gives up meanwhile.
#[derive(Clone, Default)]
struct Slow {
    started: Arc<AtomicBool>,
    go: Arc<AtomicBool>,
}

impl TProcessor for Slow {
    fn process(
        &self,
        input: &mut dyn TInputProtocol,
        output: &mut dyn TOutputProtocol,
    ) -> thrift::Result<()> {
        self.started.store(true, Ordering::SeqCst);
        until("it may go on", || self.go.load(Ordering::SeqCst));
        Echo::default().process(input, output)
    }
}

#[test]
fn a_long_reply_is_fetched_while_the_server_shuts_down() {
    let slow = Slow::default();
    let mut options = thrift_homa::ServerOptions::default();
    options.homa = config(30);
    options.pieces = Some(PieceOptions::up_to(4 * MEGABYTES));
    let server = HomaServer::builder(slow.clone())
        .options(options)
        .bind("127.0.0.1:0")
        .and_then(HomaServer::spawn)
        .expect("a server");
    let transport = open(server.local_addr(), &config(30), 4 * MEGABYTES);
    let text = letters(3_000_000);
    let caller = {
        let (mut client, text) = (client(&transport), text.clone());
        std::thread::spawn(move || client.echo(&text))
    };
    until("it runs", || slow.started.load(Ordering::SeqCst));
    let ending = std::thread::spawn(move || server.shutdown(PATIENCE));
    // What comes now is refused, though the endpoint is open.
    let other = open(transport.peer_addr(), &config(32), 4 * MEGABYTES);
    other.set_timeout(Some(Duration::from_millis(100)));
    let mut late = client(&other);
    until("it is refused", || match late.echo("late") {
        Err(thrift::Error::Application(error)) => error.message.contains("shutting down"),
        // It came before the end, and its handler waits.
        _ => false,
    });
    slow.go.store(true, Ordering::SeqCst);
    assert!(caller.join().expect("no panic").expect("an echo") == text);
    let report = ending.join().expect("no panic");
    assert!(
        report.abandoned.is_empty() && report.acknowledged,
        "{report}"
    );
}

#[test]
fn a_caller_that_gives_up_leaves_one_reply_at_most_on_the_server() {
    let slow = Slow::default();
    let mut options = thrift_homa::ServerOptions::default();
    options.homa = config(31);
    options.pieces = Some(PieceOptions::up_to(4 * MEGABYTES));
    let server = HomaServer::builder(slow.clone())
        .options(options)
        .bind("127.0.0.1:0")
        .and_then(HomaServer::spawn)
        .expect("a server");
    let transport = open(server.local_addr(), &config(31), 4 * MEGABYTES);
    let mut client = client(&transport);
    transport.set_timeout(Some(Duration::from_millis(300)));
    match client.echo(&letters(1_500_000)) {
        Err(thrift::Error::Transport(error)) => {
            assert_eq!(error.kind, TransportErrorKind::TimedOut);
        }
        other => panic!("{:?}", other.map(|text| text.len())),
    }
    slow.go.store(true, Ordering::SeqCst);
    transport.set_timeout(None);
    let text = letters(1_500_000);
    assert!(client.echo(&text).expect("an echo") == text);
    // The reply to the first, if it came to one, waits for nobody for 10 s at most.
    let pieces = server.stats().pieces;
    assert_eq!((pieces.requests, pieces.replies_fetched), (2, 1));
    assert!(pieces.transfers <= 1 && pieces.reserved_bytes <= 1_500_024);
}

#[test]
fn options_out_of_range_are_named() {
    let mut options = ClientOptions::default();
    options.pieces = Some(PieceOptions::up_to(0));
    let error = HomaTransport::open_with("127.0.0.1:4000", options).map(drop);
    match error {
        Err(thrift::Error::Transport(error)) => {
            assert!(error.message.contains("pieces.max_bytes = 0"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let server = HomaServer::builder(Echo::default())
        .pieces(PieceOptions::up_to(2 << 30))
        .bind("127.0.0.1:0");
    match server {
        Err(thrift::Error::Transport(error)) => {
            assert!(error.message.contains("pieces.max_bytes"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn pieces_shorter_than_whole_messages_are_refused_over_every_transport() {
    for uri in ["homa://127.0.0.1:0?engine=udp", "tcp+framed://127.0.0.1:0"] {
        let endpoint: Endpoint = uri.parse().expect(uri);
        let mut options = thrift_homa::ServerOptions::default();
        options.pieces = Some(PieceOptions::up_to(999_999));
        let refused = |error: thrift::Error| {
            let text = thrift_homa::error_text(&error);
            let named = [
                "pieces.max_bytes = 999999",
                "limits.message_bytes = 1000000",
            ];
            assert!(named.iter().all(|named| text.contains(named)), "{text}");
        };
        let server = endpoint.serve(Echo::default(), options.clone());
        refused(server.map(drop).expect_err(uri));
        options.pieces = None;
        let server = endpoint.serve(Echo::default(), options).expect(uri);
        let mut endpoint: Endpoint = server.uri().parse().expect(uri);
        endpoint.options_mut().pieces = Some(PieceOptions::up_to(999_999));
        refused(endpoint.client().map(drop).expect_err(uri));
    }
}
