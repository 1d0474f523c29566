//! Requests and replies byte for byte, without a network.

#[allow(dead_code, reason = "the client in it belongs to the other test")]
mod common;

use std::sync::atomic::Ordering;

use common::Echo;
use thrift_homa::{Reply, process_message};

const LIMIT: usize = 1_000_000;

fn bytes(hex: &str) -> Vec<u8> {
    let hex: String = hex.split_whitespace().collect();
    let pairs = (0..hex.len()).step_by(2).map(|at| &hex[at..at + 2]);
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal"))
        .collect()
}

fn reply_to(request: &[u8]) -> Vec<u8> {
    match process_message(&Echo::default(), request, LIMIT) {
        Reply::Message(reply) => reply,
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
        assert_eq!(
            process_message(&service, &bytes(request), LIMIT),
            Reply::Oneway
        );
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
    let a_reply = reply_to(&bytes("80010002 00000004 70696e67 00000001 00"));
    assert_eq!(a_reply[0], 0xF2);
    assert!(a_reply.ends_with(b"a reply is not a request"));
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
fn a_reply_over_the_limit_is_an_exception_that_names_both() {
    // repeat(times = 1,000): 1,000 bytes and 27 around them.
    let request = bytes("80010001 00000006 726570656174 00000001 08 0001 000003e8 00");
    let size = reply_to(&request).len();
    let at = |limit| match process_message(&Echo::default(), &request, limit) {
        Reply::Message(reply) => reply,
        Reply::Oneway => panic!("not a oneway request"),
    };
    assert_eq!(at(size).len(), size);
    let text = String::from_utf8_lossy(&at(size - 1)).into_owned();
    assert!(
        text.contains(&format!("{size} bytes is over the limit of {}", size - 1)),
        "{text}"
    );
}

#[test]
fn truncated_and_changed_requests_always_get_a_reply_within_the_limit() {
    let valid = [
        bytes("80010001 00000004 6563686f 00000001 0b 0001 00000005 68656c6c6f 00"),
        bytes("82 21 01 04 6563686f 18 05 68656c6c6f 00"),
        bytes("00000004 6563686f 01 00000001 0b 0001 00000005 68656c6c6f 00"),
    ];
    let check = |request: &[u8]| {
        if let Reply::Message(reply) = process_message(&Echo::default(), request, LIMIT) {
            assert!((1..=LIMIT).contains(&reply.len()), "{request:02x?}");
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

#[test]
fn a_claim_of_a_huge_string_is_refused_without_the_memory() {
    let request = bytes("80010001 00000004 6563686f 00000001 0b 0001 7fffffff 00");
    let text = String::from_utf8_lossy(&reply_to(&request)).into_owned();
    assert!(text.contains("echo"), "an exception for the method: {text}");
}
