//! The client against a server of the tests' own: what is sent, when, and what errors become.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;
#[path = "common/peer.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod peer;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Echo, EchoClient};
use homa_client::Config;
use peer::{Peer, bytes, config, live_rpcs, process, until};
use thrift::protocol::{
    TBinaryInputProtocol, TBinaryInputProtocolFactory, TBinaryOutputProtocol,
    TBinaryOutputProtocolFactory, TCompactInputProtocol, TCompactOutputProtocol,
    TMultiplexedOutputProtocol,
};
use thrift::server::TMultiplexedProcessor;
use thrift::transport::{
    TBufferedWriteTransport, TFramedReadTransport, TFramedWriteTransport, TIoChannel,
};
use thrift::{ApplicationErrorKind, ProtocolErrorKind, TransportErrorKind};
use thrift_homa::{
    ClientOptions, CustomProtocol, HomaError, HomaInputProtocol, HomaOutputProtocol, HomaTransport,
    OnewayMode, Protocol,
};

type Client = EchoClient<HomaInputProtocol, HomaOutputProtocol>;

fn options(config: &Config) -> ClientOptions {
    let mut options = ClientOptions::default();
    options.homa = config.clone();
    options
}

fn open(peer: &Peer, options: ClientOptions) -> HomaTransport {
    HomaTransport::open_with(peer.addr(), options).expect("an endpoint")
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

fn transport_kind<T: std::fmt::Debug>(result: thrift::Result<T>) -> (TransportErrorKind, String) {
    match result {
        Err(thrift::Error::Transport(error)) => (error.kind, error.message),
        other => panic!("not a transport error: {other:?}"),
    }
}

#[test]
fn messages_are_those_of_the_vectors_byte_for_byte() {
    for (protocol, requests) in [
        (
            Protocol::Binary,
            [
                "80010001 00000004 70696e67 00000001 00",
                "80010001 00000009 43616c633a70696e67 00000001 00",
                "80010004 00000003 7a6970 00000003 00",
            ],
        ),
        (
            Protocol::Compact,
            [
                "82 21 01 04 70696e67 00",
                "82 21 01 09 43616c633a70696e67 00",
                "82 81 03 03 7a6970 00",
            ],
        ),
    ] {
        let reply = match protocol {
            Protocol::Compact => bytes("82 41 01 04 70696e67 00"),
            _ => bytes("80010002 00000004 70696e67 00000001 00"),
        };
        let peer = Peer::replying(&config(0), move |request| match request {
            [0x80, 1, 0, 4, ..] | [0x82, 0x81, ..] => vec![0xF1],
            _ => reply.clone(),
        });
        let mut options = options(&config(0));
        options.protocol = protocol;
        options.oneway = OnewayMode::AwaitAck;
        let transport = open(&peer, options);
        client(&transport).ping().expect("a void reply");
        let (input, output) = transport.clone().protocols();
        let output = TMultiplexedOutputProtocol::new("Calc", output);
        EchoClient::new(input, output).ping().expect("a void reply");
        let mut third = client(&transport);
        third.zip().expect("accepted");
        third.zip().expect("accepted");
        third.zip().expect("accepted");
        let seen = peer.seen();
        assert_eq!(seen[..2], [bytes(requests[0]), bytes(requests[1])]);
        assert_eq!(seen[4], bytes(requests[2]));
        assert_eq!(seen.len(), 5);
    }
}

/// The message around an echo's text.
const AROUND: usize = 12 + 4 + 7 + 1;

#[test]
fn messages_of_every_size_pass_and_longer_ones_are_refused_before_sending() {
    let peer = Peer::processing(&config(1), Echo::default());
    let transport = open(&peer, options(&config(1)));
    let mut wrapped = client(&transport);
    let (read, write) = transport.clone().into_halves();
    let mut halves = EchoClient::new(
        TBinaryInputProtocol::new(read, true),
        TBinaryOutputProtocol::new(write, true),
    );
    let mut compact_options = options(&config(1));
    compact_options.protocol = Protocol::Compact;
    let mut compact = client(&open(&peer, compact_options));
    let mtu = 1_500;
    let packet = Config::default().protocol.packet_payload;
    for text in [0, 1, 23] {
        assert_eq!(wrapped.echo(&letters(text)).expect("an echo").len(), text);
    }
    for whole in [
        100,
        packet - 1,
        packet,
        packet + 1,
        mtu - 1,
        mtu,
        mtu + 1,
        4_095,
        4_096,
        4_097,
        65_535,
        65_536,
        65_537,
        999_999,
        1_000_000,
    ] {
        let text = letters(whole - AROUND);
        assert!(wrapped.echo(&text).expect("an echo") == text, "{whole}");
        assert_eq!(peer.seen().last().map(Vec::len), Some(whole));
        assert!(halves.echo(&text).expect("an echo") == text, "{whole}");
        assert_eq!(peer.seen().last().map(Vec::len), Some(whole));
        assert!(compact.echo(&text).expect("an echo") == text, "{whole}");
    }
    let before = peer.seen().len();
    let text = letters(1_000_001 - AROUND);
    let (kind, why) = transport_kind(wrapped.echo(&text));
    assert_eq!(kind, TransportErrorKind::SizeLimit);
    assert!(why.contains("up to 1000000 bytes"), "{why}");
    assert!(why.contains("tcp+framed://"), "{why}");
    assert_eq!(
        transport_kind(halves.echo(&text)).0,
        TransportErrorKind::Unknown
    );
    assert!(matches!(
        transport.last_error(),
        Some(HomaError::TooLong {
            size: 1_000_001,
            limit: 1_000_000
        })
    ));
    assert_eq!(wrapped.echo("short").expect("an echo"), "short");
    assert_eq!(halves.echo("short").expect("an echo"), "short");
    assert_eq!(peer.seen().len(), before + 2, "nothing of the long ones");
}

#[test]
fn a_call_is_one_rpc_and_an_empty_flush_is_none() {
    let peer = Peer::processing(&config(2), Echo::default());
    let transport = open(&peer, options(&config(2)));
    let mut client = client(&transport);
    let (mut read, mut write) = transport.clone().into_halves();
    for round in 1..=10 {
        client.echo(&letters(50_000)).expect("an echo");
        write.flush().expect("nothing to send");
        assert_eq!(peer.seen().len(), round);
    }
    // Before the first request, and after a reply, there is nothing to read.
    assert_eq!(read.read(&mut [0; 8]).expect("the end"), 0);
    write
        .write_all(&bytes("80010001 00000004 70696e67 00000001 00"))
        .and_then(|()| write.flush())
        .expect("it is sent");
    write.flush().expect("nothing more to send");
    let mut reply = Vec::new();
    read.read_to_end(&mut reply).expect("a reply");
    assert_eq!(reply, bytes("80010002 00000004 70696e67 00000001 00"));
    assert_eq!(read.read(&mut [0; 8]).expect("the end"), 0);
    assert_eq!(peer.seen().len(), 11);
    let stats = transport.stats();
    assert_eq!((stats.requests, stats.replies), (11, 11));
    assert_eq!((stats.oneways, stats.failures), (0, 0));
    let sent: usize = peer.seen().iter().map(Vec::len).sum();
    assert_eq!(stats.request_bytes, sent as u64);
}

#[test]
fn what_is_left_of_a_reply_is_gone_with_the_next_request() {
    let peer = Peer::replying(&config(3), |request| [request, b"and more"].concat());
    let (mut read, mut write) = open(&peer, options(&config(3))).into_halves();
    let mut start = [0; 5];
    for text in ["first", "other"] {
        write.write_all(text.as_bytes()).expect("it fits");
        write.flush().expect("it is sent");
        read.read_exact(&mut start).expect("a reply");
        assert_eq!(start, text.as_bytes());
    }
}

#[test]
fn a_flush_before_the_reply_was_read_gives_the_reply_of_the_second() {
    let peer = Peer::replying(&config(4), <[u8]>::to_vec);
    let (mut read, mut write) = open(&peer, options(&config(4))).into_halves();
    for text in ["first", "second", "third"] {
        write.write_all(text.as_bytes()).expect("it fits");
        write.flush().expect("it is sent");
    }
    let mut reply = String::new();
    read.read_to_string(&mut reply).expect("a reply");
    assert_eq!(reply, "third");
    until("all are over", || live_rpcs(&config(4), peer.addr()) == 0);
    assert_eq!(peer.seen().len(), 3);
}

#[test]
fn multiplexed_services_are_told_apart_and_their_errors_have_names() {
    let (calc, logger) = (Echo::default(), Echo::default());
    let mut services = TMultiplexedProcessor::new();
    let mut register = |name: &str, service: &Echo, is_default| {
        let processor = Box::new(service.clone());
        services
            .register(name, processor, is_default)
            .expect("a new name");
    };
    register("Calc", &calc, true);
    register("Logger", &logger, false);
    let services = Arc::new(services);
    let peer = {
        let services = services.clone();
        Peer::replying(&config(5), move |request| process(&*services, request))
    };
    let transport = open(&peer, options(&config(5)));
    let service = |name: &str| {
        let (input, output) = transport.clone().protocols();
        EchoClient::new(input, TMultiplexedOutputProtocol::new(name, output))
    };
    let (mut to_calc, mut to_logger) = (service("Calc"), service("Logger"));
    for round in 0..5 {
        let text = format!("round {round}");
        assert_eq!(to_calc.echo(&text).expect("an echo"), text);
        to_logger.zip().expect("it is sent");
    }
    client(&transport).zip().expect("the default service");
    until("all have run", || {
        logger.zips.load(Ordering::SeqCst) == 5 && calc.zips.load(Ordering::SeqCst) == 1
    });
    match to_logger.call_by_name("nope") {
        Err(thrift::Error::Application(error)) => {
            assert_eq!(error.kind, ApplicationErrorKind::UnknownMethod);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(to_logger.echo("and on").expect("an echo"), "and on");
}

#[test]
fn control_replies_have_the_kinds_of_the_table() {
    let control = Arc::new(Mutex::new(Vec::new()));
    let peer = {
        let control = control.clone();
        Peer::replying(&config(6), move |_| {
            control.lock().expect("no panic").clone()
        })
    };
    let transport = open(&peer, options(&config(6)));
    let mut wrapped = client(&transport);
    let (read, write) = transport.clone().into_halves();
    let mut halves = EchoClient::new(
        TBinaryInputProtocol::new(read, true),
        TBinaryOutputProtocol::new(write, true),
    );
    let mut answer = |reply: &[u8]| {
        *control.lock().expect("no panic") = reply.to_vec();
        let error = |result: thrift::Result<String>| match result {
            Err(error) => error,
            Ok(text) => panic!("{text}"),
        };
        (error(wrapped.echo("x")), error(halves.echo("x")))
    };
    let invalid = |error: thrift::Error, text: &str| match error {
        thrift::Error::Protocol(error) => {
            assert_eq!(error.kind, ProtocolErrorKind::InvalidData);
            assert!(error.message.ends_with(text), "{}", error.message);
        }
        other => panic!("{other:?}"),
    };
    let transport_error = |error: thrift::Error| match error {
        thrift::Error::Transport(error) => error.kind,
        other => panic!("{other:?}"),
    };
    let (wrapper, raw) = answer(b"\xF2no such protocol");
    invalid(wrapper, "no such protocol");
    assert_eq!(transport_error(raw), TransportErrorKind::Unknown);
    let (wrapper, raw) = answer(b"\xFAsomething new");
    invalid(wrapper, "unknown kind 0xfa");
    assert_eq!(transport_error(raw), TransportErrorKind::Unknown);
    let (wrapper, raw) = answer(b"\xF1");
    for error in [wrapper, raw] {
        assert_eq!(transport_error(error), TransportErrorKind::EndOfFile);
    }
    let (wrapper, _) = answer(b"\xF3busy");
    match wrapper {
        thrift::Error::Application(error) => {
            assert_eq!(error.kind, ApplicationErrorKind::InternalError);
            assert!(error.message.ends_with("busy"), "{}", error.message);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_cannot_be_reached_is_not_open_and_who_is_silent_times_out() {
    let nobody = {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        socket.local_addr().expect("bound")
    };
    let transport = HomaTransport::open_with(nobody, options(&config(7))).expect("an endpoint");
    let (kind, why) = transport_kind(client(&transport).ping());
    assert_eq!(kind, TransportErrorKind::NotOpen);
    // Most systems choose such ports, which no Homa server has.
    let hint = why.contains("Homa servers have ports 1 to 32767");
    assert_eq!(hint, nobody.port() > 32_767, "{why}");
    assert!(why.matches('?').count() <= 1, "{why}");
    let error = HomaTransport::open("no port").map(drop);
    let (kind, why) = transport_kind(error);
    assert_eq!(kind, TransportErrorKind::NotOpen);
    assert!(why.contains("does not resolve"), "{why}");
    let mut wrong = options(&config(7));
    wrong.homa.linger = Duration::from_secs(61);
    let (kind, why) = transport_kind(HomaTransport::open_with(nobody, wrong).map(drop));
    assert_eq!(kind, TransportErrorKind::NotOpen);
    assert!(why.contains("linger = 61s"), "{why}");

    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let addr = silent.local_addr().expect("bound");
    let mut options = options(&config(7));
    options.timeout = Some(Duration::from_millis(30));
    let transport = HomaTransport::open_with(addr, options).expect("an endpoint");
    let mut client = client(&transport);
    let (kind, why) = transport_kind(client.ping());
    assert_eq!(kind, TransportErrorKind::TimedOut);
    assert!(why.contains("within 30ms"), "{why}");
    // Of clones as well.
    transport.set_timeout(Some(Duration::from_millis(20)));
    let (kind, why) = transport_kind(client.ping());
    assert_eq!(kind, TransportErrorKind::TimedOut);
    assert!(why.contains("within 20ms"), "{why}");
    assert_eq!(transport.stats().timeouts, 2);
    assert_eq!(live_rpcs(&config(7), addr), 0, "they are cancelled");
}

#[test]
fn a_reply_over_the_clients_limit_is_refused_by_name() {
    let peer = Peer::processing(&config(8), Echo::default());
    let mut options = options(&config(8));
    options.limits = thrift_homa::Limits::for_messages(1_000);
    let transport = open(&peer, options);
    let mut client = client(&transport);
    assert_eq!(client.repeat(900).expect("it fits").len(), 900);
    let (kind, why) = transport_kind(client.repeat(1_000));
    assert_eq!(kind, TransportErrorKind::SizeLimit);
    assert!(
        why.contains("limit of 1000: raise limits.message_bytes"),
        "{why}"
    );
    let (kind, why) = transport_kind(client.echo(&letters(1_000)));
    assert_eq!(kind, TransportErrorKind::SizeLimit);
    assert!(why.contains("up to 1000 bytes"), "{why}");
    assert_eq!(client.repeat(900).expect("it fits").len(), 900);
}

#[test]
fn clones_are_independent_and_share_the_counters() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let peer = {
        let held = held.clone();
        Peer::start(&config(9), move |request| {
            held.lock().expect("no panic").push(request);
        })
    };
    let transport = open(&peer, options(&config(9)));
    let clones: Vec<_> = (0..4).map(|_| transport.clone().into_halves()).collect();
    let clones = clones.into_iter().zip(["a", "b", "c", "d"]);
    let waiting: Vec<_> = clones
        .map(|((mut read, mut write), text)| {
            write.write_all(text.as_bytes()).expect("it fits");
            write.flush().expect("it is sent");
            std::thread::spawn(move || {
                let mut reply = String::new();
                read.read_to_string(&mut reply).expect("a reply");
                assert_eq!(reply, format!("{text}!"));
            })
        })
        .collect();
    until("all have come", || {
        held.lock().expect("no panic").len() == 4
    });
    for request in held.lock().expect("no panic").drain(..).rev() {
        let (message, responder) = request.into_parts();
        let reply = [&message.into_bytes()[..], b"!"].concat();
        responder.reply(reply.into()).expect("a valid reply");
    }
    for thread in waiting {
        thread.join().expect("its own reply");
    }
    assert_eq!(transport.stats().replies, 4);
}

#[test]
fn a_channel_that_is_split_after_a_write_is_one_channel() {
    let peer = Peer::processing(&config(10), Echo::default());
    let mut channel = open(&peer, options(&config(10)));
    channel.write_all(&bytes("80010001 0000")).expect("it fits");
    let (mut read, mut write) = channel.split().expect("it can be split");
    write
        .write_all(&bytes("0004 70696e67 00000001 00"))
        .and_then(|()| write.flush())
        .expect("it is sent");
    let mut reply = Vec::new();
    read.read_to_end(&mut reply).expect("a reply");
    assert_eq!(reply, bytes("80010002 00000004 70696e67 00000001 00"));
}

#[test]
fn protocols_of_ones_own_and_framed_messages_work() {
    let peer = Peer::processing(&config(11), Echo::default());
    let mut options = options(&config(11));
    options.protocol = Protocol::Custom(CustomProtocol::new(
        Arc::new(TBinaryInputProtocolFactory::new()),
        Arc::new(TBinaryOutputProtocolFactory::new()),
    ));
    let transport = open(&peer, options);
    assert_eq!(client(&transport).echo("mine").expect("an echo"), "mine");

    let framed = Peer::replying(&config(11), |request| {
        let reply = process(&Echo::default(), &request[4..]);
        [&(reply.len() as u32).to_be_bytes()[..], &reply].concat()
    });
    let (read, write) = open(&framed, ClientOptions::default()).into_halves();
    let mut client = EchoClient::new(
        TCompactInputProtocol::new(TFramedReadTransport::new(read)),
        TCompactOutputProtocol::new(TFramedWriteTransport::new(write)),
    );
    let text = letters(20_000);
    assert!(client.echo(&text).expect("an echo") == text);
}

/// Counts warnings, and keeps the last.
#[derive(Clone, Default)]
struct Warnings {
    count: Arc<AtomicUsize>,
    last: Arc<Mutex<String>>,
}

impl tracing::field::Visit for Warnings {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            *self.last.lock().expect("no panic") = format!("{value:?}");
        }
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        self.count.fetch_add(1, Ordering::SeqCst);
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_buffered_transport_above_is_warned_of_once() {
    if !cfg!(debug_assertions) {
        println!("skipped: it warns in debug builds only");
        return;
    }
    let peer = Peer::replying(&config(12), |_| vec![0xF1]);
    let warnings = Warnings::default();
    let count = || warnings.count.load(Ordering::SeqCst);
    tracing::subscriber::with_default(warnings.clone(), || {
        let transport = open(&peer, options(&config(12)));
        let buffered = || {
            let (read, write) = transport.clone().into_halves();
            EchoClient::new(
                TBinaryInputProtocol::new(read, true),
                TBinaryOutputProtocol::new(TBufferedWriteTransport::new(write), true),
            )
        };
        // Shorter than the buffer it is whole.
        let _ = buffered().echo("short");
        assert_eq!(count(), 0);
        let _ = buffered().echo(&letters(10_000));
        assert_eq!(count(), 1);
        let _ = buffered().echo(&letters(10_000));
        assert_eq!(count(), 1, "once per transport");
        let text = warnings.last.lock().expect("no panic").clone();
        assert!(text.contains("buffered transport"), "{text}");
        let _ = client(&open(&peer, options(&config(12)))).echo(&letters(10_000));
        assert_eq!(count(), 1, "not without it");
    });
    assert_eq!(peer.seen().len(), 1 + 3 + 3 + 1, "4096, 4096 and a rest");
}
