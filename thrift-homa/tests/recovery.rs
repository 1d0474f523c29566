//! After any error the next call on the same client succeeds.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;
#[path = "common/peer.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod peer;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Echo, EchoClient};
use peer::{Peer, bytes, config, live_rpcs, process};
use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TInputProtocol, TMessageIdentifier, TMessageType,
    TOutputProtocol, TStructIdentifier, TType,
};
use thrift::{ProtocolErrorKind, TransportErrorKind};
use thrift_homa::{ClientOptions, HomaTransport, Protocol};

fn open(peer: &Peer, number: usize, protocol: Protocol) -> HomaTransport {
    let mut options = ClientOptions::default();
    options.homa = config(number);
    options.protocol = protocol;
    HomaTransport::open_with(peer.addr(), options).expect("an endpoint")
}

fn protocol_kind<T: std::fmt::Debug>(result: thrift::Result<T>) -> ProtocolErrorKind {
    match result {
        Err(thrift::Error::Protocol(error)) => error.kind,
        other => panic!("not a protocol error: {other:?}"),
    }
}

fn transport_kind<T: std::fmt::Debug>(result: thrift::Result<T>) -> TransportErrorKind {
    match result {
        Err(thrift::Error::Transport(error)) => error.kind,
        other => panic!("not a transport error: {other:?}"),
    }
}

/// Answers the first request only when it is told to, and that with another text.
fn late(number: usize) -> (Peer, Arc<Mutex<Option<homa_client::Request>>>) {
    let held = Arc::new(Mutex::new(None));
    let peer = {
        let (held, count) = (held.clone(), AtomicUsize::new(0));
        Peer::start(&config(number), move |request| {
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                *held.lock().expect("no panic") = Some(request);
                return;
            }
            let (message, responder) = request.into_parts();
            let reply = process(&Echo::default(), &message.into_bytes());
            responder.reply(reply.into()).expect("a valid reply");
        })
    };
    (peer, held)
}

fn after_a_timeout<I: TInputProtocol, O: TOutputProtocol>(
    number: usize,
    make: impl Fn(HomaTransport) -> EchoClient<I, O>,
) {
    let (peer, held) = late(number);
    let transport = open(&peer, number, Protocol::Binary);
    let mut client = make(transport.clone());
    transport.set_timeout(Some(Duration::from_millis(30)));
    assert_eq!(
        transport_kind(client.echo("first")),
        TransportErrorKind::TimedOut
    );
    transport.set_timeout(None);
    assert_eq!(live_rpcs(&config(number), peer.addr()), 0, "cancelled");
    // Its reply comes after all, before that of the next call.
    peer::until("it has come", || held.lock().expect("no panic").is_some());
    let request = held.lock().expect("no panic").take().expect("it is held");
    let reply = process(&Echo::default(), &request.message().clone().into_bytes());
    request.reply(reply.into()).expect("a valid reply");
    for text in ["second", "third"] {
        assert_eq!(client.echo(text).expect("its own reply"), text);
    }
}

#[test]
fn after_a_timeout_a_late_reply_is_not_given_to_the_next_call() {
    after_a_timeout(0, |transport| {
        let (input, output) = transport.protocols();
        EchoClient::new(input, output)
    });
    after_a_timeout(1, |transport| {
        let (read, write) = transport.into_halves();
        EchoClient::new(
            TBinaryInputProtocol::new(read, true),
            TBinaryOutputProtocol::new(write, true),
        )
    });
}

#[test]
fn after_a_message_that_was_too_long_or_given_up_half_way_nothing_of_it_is_left() {
    for protocol in [Protocol::Binary, Protocol::Compact] {
        let peer = Peer::processing(&config(2), Echo::default());
        let transport = open(&peer, 2, protocol);
        let (input, mut output) = transport.protocols();
        let header = TMessageIdentifier::new("half", TMessageType::Call, 1);
        output.write_message_begin(&header).expect("it fits");
        output.write_string("and no more").expect("it fits");
        let mut client = EchoClient::new(input, output);
        assert_eq!(
            transport_kind(client.echo(&"x".repeat(1_000_001))),
            TransportErrorKind::SizeLimit
        );
        assert_eq!(client.echo("whole").expect("an echo"), "whole");
        assert_eq!(peer.seen().len(), 1);
    }
}

#[test]
fn after_a_message_that_was_nested_too_deeply_the_next_is_not() {
    for protocol in [Protocol::Binary, Protocol::Compact] {
        let peer = Peer::processing(&config(3), Echo::default());
        let (input, mut output) = open(&peer, 3, protocol).protocols();
        let header = TMessageIdentifier::new("deep", TMessageType::Call, 1);
        for _ in 0..3 {
            output.write_message_begin(&header).expect("it fits");
            let mut nest = || {
                (0..100)
                    .try_for_each(|_| output.write_struct_begin(&TStructIdentifier::new("level")))
            };
            assert_eq!(protocol_kind(nest()), ProtocolErrorKind::DepthLimit);
        }
        let mut client = EchoClient::new(input, output);
        assert_eq!(client.echo("flat").expect("an echo"), "flat");
    }
}

#[test]
fn after_a_reply_that_cannot_be_decoded_the_next_is_read_from_its_start() {
    let echo = bytes("80010002 00000004 6563686f 00000001 0b 0000 00000003 6f6e65 00");
    let deep = [
        bytes("80010002 00000004 6563686f 00000001"),
        bytes("0c 0001").repeat(100),
    ]
    .concat();
    let answers = vec![
        // Truncated, random, nested, and a claim of 2 GB.
        echo[..20].to_vec(),
        b"\x80\x01\x00\x02nonsense".to_vec(),
        deep,
        bytes("80010002 00000004 6563686f 00000001 0b 0000 7fffffff 00"),
        vec![0x80],
    ];
    let count = answers.len();
    let left = Mutex::new(answers);
    let peer = Peer::replying(&config(4), move |request| {
        let answer = left.lock().expect("no panic").pop();
        answer.unwrap_or_else(|| process(&Echo::default(), request))
    });
    let (mut input, mut output) = open(&peer, 4, Protocol::Binary).protocols();
    for _ in 0..count {
        let header = TMessageIdentifier::new("echo", TMessageType::Call, 1);
        output.write_message_begin(&header).expect("it fits");
        output.write_byte(0).expect("it fits");
        output.flush().expect("it is sent");
        let read = input
            .read_message_begin()
            .and_then(|_| input.skip(TType::Struct));
        assert!(read.is_err());
    }
    let mut client = EchoClient::new(input, output);
    assert_eq!(client.echo("well").expect("an echo"), "well");
}
