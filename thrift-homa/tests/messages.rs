//! Requests and replies byte for byte, without a network.

#[allow(dead_code, reason = "the client in it belongs to the other test")]
mod common;

use std::sync::atomic::Ordering;

use common::Echo;
use thrift::ApplicationErrorKind;
use thrift::protocol::{
    TBinaryInputProtocol, TCompactInputProtocol, TInputProtocol, TMessageIdentifier, TMessageType,
    TOutputProtocol,
};
use thrift::server::{TMultiplexedProcessor, TProcessor, handle_process_result};
use thrift_homa::{Limits, Reply, process_message};

fn bytes(hex: &str) -> Vec<u8> {
    let hex: String = hex.split_whitespace().collect();
    let pairs = (0..hex.len()).step_by(2).map(|at| &hex[at..at + 2]);
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal"))
        .collect()
}

/// What an exception says, in whichever protocol.
fn exception(reply: &[u8]) -> (ApplicationErrorKind, String) {
    let mut input: Box<dyn TInputProtocol> = match reply[0] {
        0x82 => Box::new(TCompactInputProtocol::new(reply)),
        _ => Box::new(TBinaryInputProtocol::new(reply, false)),
    };
    let header = input.read_message_begin().expect("a message");
    assert_eq!(header.message_type, TMessageType::Exception, "{reply:02x?}");
    let error = thrift::Error::read_application_error_from_in_protocol(&mut input);
    let error = error.expect("an exception");
    (error.kind, error.message)
}

fn reply_to(request: &[u8]) -> Vec<u8> {
    reply_within(request, &Limits::default())
}

fn reply_within(request: &[u8], limits: &Limits) -> Vec<u8> {
    match process_message(&Echo::default(), request, limits) {
        Reply::Message(reply) => reply.into_bytes().to_vec(),
        Reply::Oneway => panic!("not a oneway request"),
    }
}

#[test]
fn calls_are_answered_in_the_protocol_they_came_in() {
    let cases = [
        (
            "strict binary",
            "80010001 00000004 70696e67 00000001 00",
            "80010002 00000004 70696e67 00000001 00",
        ),
        (
            "old binary",
            "00000004 70696e67 01 00000001 00",
            "00000004 70696e67 02 00000001 00",
        ),
        (
            "compact",
            "82 21 01 04 70696e67 00",
            "82 41 01 04 70696e67 00",
        ),
    ];
    for (name, request, reply) in cases {
        assert_eq!(reply_to(&bytes(request)), bytes(reply), "{name}");
    }
}

#[test]
fn an_unknown_method_is_an_exception_in_the_callers_protocol() {
    let cases = [
        (
            "80010001 00000004 6e6f7065 00000002 00",
            "80010003 00000004 6e6f7065 00000002
             0b 0001 0000000e 6e6f2073756368206d6574686f64 08 0002 00000001 00",
        ),
        (
            "82 21 02 04 6e6f7065 00",
            "82 61 02 04 6e6f7065 18 0e 6e6f2073756368206d6574686f64 15 02 00",
        ),
    ];
    for (request, reply) in cases {
        assert_eq!(reply_to(&bytes(request)), bytes(reply));
    }
}

#[test]
fn a_oneway_is_executed_and_has_no_reply() {
    for request in [
        "80010004 00000003 7a6970 00000003 00",
        "82 81 03 03 7a6970 00",
    ] {
        let service = Echo::default();
        let reply = process_message(&service, &bytes(request), &Limits::default());
        assert!(matches!(reply, Reply::Oneway), "{reply:?}");
        assert_eq!(service.zips.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn a_oneway_sent_as_a_call_gets_the_control_reply_for_no_reply() {
    assert_eq!(
        reply_to(&bytes("80010001 00000003 7a6970 00000003 00")),
        [0xF1]
    );
}

#[test]
fn what_is_no_request_is_refused_by_a_control_reply() {
    let unknown = bytes("f2 756e6b6e6f776e2070726f746f636f6c");
    assert_eq!(reply_to(b"[1,\"ping\",1,0,{}]"), unknown, "JSON");
    assert_eq!(reply_to(&[0x0F, 0xFF, 0, 0]), unknown, "THeader");
    assert_eq!(reply_to(&[]), unknown, "nothing");
    let refused = reply_to(&bytes("80020001 00000004 70696e67 00000001 00"));
    assert_eq!(refused[0], 0xF2, "another version: {refused:02x?}");
}

#[test]
fn what_has_a_header_is_refused_by_an_exception() {
    // A reply where a request belongs: InvalidMessageType.
    let refused = reply_to(&bytes("80010002 00000004 70696e67 00000001 00"));
    let (kind, text) = exception(&refused);
    assert_eq!(kind, ApplicationErrorKind::InvalidMessageType, "{text}");
    // Longer than this server takes, for a call and a oneway.
    let limits = Limits::for_messages(250);
    let long = [
        bytes("80010001 00000004 6563686f 00000001 0b 0001 00000100"),
        vec![b'x'; 257],
    ]
    .concat();
    let (kind, text) = exception(&reply_within(&long, &limits));
    assert_eq!(kind, ApplicationErrorKind::InternalError);
    assert!(text.contains("limit of 250 bytes"), "{text}");
    let oneway = [bytes("80010004 00000003 7a6970 00000003"), vec![0; 300]].concat();
    let refused = reply_within(&oneway, &limits);
    assert_eq!(refused[0], 0xF3, "{refused:02x?}");
    assert!(String::from_utf8_lossy(&refused).contains("limit of 250 bytes"));
}

#[test]
fn a_panic_is_an_exception_under_the_name_that_the_caller_checks() {
    let exception = "80010003 00000004 626f6f6d 00000007
        0b 0001 00000014 7468652068616e646c65722070616e69636b6564 08 0002 00000006 00";
    let plain = "80010001 00000004 626f6f6d 00000007 00";
    // A client of a multiplexed service knows the method without the service's name.
    let multiplexed = "80010001 00000009 4563686f3a626f6f6d 00000007 00";
    for request in [plain, multiplexed] {
        assert_eq!(reply_to(&bytes(request)), bytes(exception), "{request}");
    }
}

#[test]
fn a_reply_over_the_limit_is_an_exception_that_names_it_and_the_remedy() {
    // repeat(times = 1,000): 1,000 bytes and 27 around them.
    let request = bytes("80010001 00000006 726570656174 00000001 08 0001 000003e8 00");
    let size = reply_to(&request).len();
    let at = |limit| reply_within(&request, &Limits::for_messages(limit));
    assert_eq!(at(size).len(), size);
    let (kind, text) = exception(&at(size - 1));
    assert_eq!(kind, ApplicationErrorKind::InternalError);
    assert!(
        text.contains(&format!("limit of {} bytes", size - 1)),
        "{text}"
    );
    assert!(text.contains("use a TCP transport"), "{text}");
}

#[test]
fn arguments_that_make_no_sense_are_a_protocol_error_whatever_is_wrong_with_them() {
    let string = |length: &str| format!("80010001 00000004 6563686f 00000001 0b 0001 {length}");
    let deep = "0c 0001 ".repeat(70);
    let cases = [
        ("a string without its bytes", string("00000005 68656c")),
        ("a string of 2 GiB", string("7fffffff 00")),
        ("a string of negative length", string("ffffffff 00")),
        ("a string that is not UTF-8", string("00000001 ff 00")),
        (
            "no arguments at all",
            "80010001 00000004 6563686f 00000001".to_owned(),
        ),
        (
            "an unknown type",
            "80010001 00000004 6563686f 00000001 05 0001".to_owned(),
        ),
        (
            "structures too deep, which are skipped",
            format!("80010001 00000004 736b6970 00000001 {deep}"),
        ),
        (
            "a list of 2 billion",
            "80010001 00000004 736b6970 00000001 0f 0001 03 7fffffff".to_owned(),
        ),
        (
            "a map of more than there are bytes",
            "80010001 00000004 736b6970 00000001 0d 0001 0b0b 00001000".to_owned(),
        ),
        (
            "compact: a list of 4 billion",
            "82 21 01 04 736b6970 19 f3 ffffffff0f".to_owned(),
        ),
    ];
    for (what, request) in cases {
        let (kind, text) = exception(&reply_to(&bytes(&request)));
        assert_eq!(kind, ApplicationErrorKind::ProtocolError, "{what}: {text}");
        assert!(
            text.starts_with("the arguments cannot be decoded: "),
            "{what}: {text}"
        );
    }
    // Generated code finds a missing field when it has read everything.
    let (kind, text) = exception(&reply_to(&bytes(
        "80010001 00000007 6d697373696e67 00000001 00",
    )));
    assert_eq!(kind, ApplicationErrorKind::ProtocolError, "{text}");
    assert!(text.contains("missing required field text"), "{text}");
}

#[test]
fn what_a_handler_says_is_not_taken_for_a_protocol_error() {
    let (kind, text) = exception(&reply_to(&bytes("80010001 00000004 6661696c 00000001 00")));
    assert_eq!((kind, &*text), (ApplicationErrorKind::Unknown, "not today"));
}

#[test]
fn an_error_of_the_multiplexed_processor_comes_under_the_callers_name() {
    let mut services = TMultiplexedProcessor::new();
    services
        .register("Echo", Box::new(Echo::default()), false)
        .expect("the first of its name");
    let request = bytes("80010001 00000009 4e6f70653a70696e67 00000001 00");
    let Reply::Message(reply) = process_message(&services, &request, &Limits::default()) else {
        panic!("not a oneway request");
    };
    let reply = reply.into_bytes();
    assert!(reply.starts_with(&bytes("80010003 00000004 70696e67 00000001")));
    assert!(
        exception(&reply).1.contains("no processor found"),
        "{reply:?}"
    );
}

/// Fails in the middle of its reply, as generated code does for one that is nested too deep.
struct HalfWay;

impl TProcessor for HalfWay {
    fn process(
        &self,
        input: &mut dyn TInputProtocol,
        output: &mut dyn TOutputProtocol,
    ) -> thrift::Result<()> {
        let header = input.read_message_begin()?;
        let reply = TMessageIdentifier::new("half", TMessageType::Reply, header.sequence_number);
        output.write_message_begin(&reply)?;
        output.write_string("never to be seen")?;
        handle_process_result(&header, Err("it went wrong".into()), output)
    }
}

#[test]
fn an_exception_takes_the_place_of_a_reply_that_was_begun() {
    let request = bytes("80010001 00000004 68616c66 00000001 00");
    let Reply::Message(reply) = process_message(&HalfWay, &request, &Limits::default()) else {
        panic!("not a oneway request");
    };
    let reply = reply.into_bytes();
    assert!(!reply.windows(5).any(|window| window == b"never"));
    assert_eq!(exception(&reply).1, "it went wrong");
}

#[test]
fn truncated_and_changed_requests_always_get_a_reply_within_the_limit() {
    let valid = [
        bytes("80010001 00000004 6563686f 00000001 0b 0001 00000005 68656c6c6f 00"),
        bytes("82 21 01 04 6563686f 18 05 68656c6c6f 00"),
        bytes("00000004 6563686f 01 00000001 0b 0001 00000005 68656c6c6f 00"),
    ];
    let check = |request: &[u8]| {
        if let Reply::Message(reply) =
            process_message(&Echo::default(), request, &Limits::default())
        {
            assert!((1..=1_000_000).contains(&reply.len()), "{request:02x?}");
        }
    };
    for request in &valid {
        for end in 0..request.len() {
            check(&request[..end]);
        }
        for at in 0..request.len() {
            for value in [0x00, 0x01, 0x0C, 0x0F, 0x7F, 0x80, 0xFF] {
                let mut changed = request.clone();
                changed[at] = value;
                check(&changed);
            }
        }
    }
}
