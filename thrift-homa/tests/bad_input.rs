//! Bad input over a socket: always one well-formed reply, and the next call succeeds.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use common::{Echo, EchoClient};
use homa_client::{Config, blocking};
use thrift_homa::{CallOutcome, HomaServer, HomaTransport, Protocol};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const GRACE: Duration = Duration::from_secs(10);

#[test]
fn a_server_takes_what_its_protocol_says_by_the_first_byte() {
    let strict = b"\x80\x01\0\x01\0\0\0\x04ping\0\0\0\x01\0".as_slice();
    let old = b"\0\0\0\x04ping\x01\0\0\0\x01\0".as_slice();
    let compact = b"\x82\x21\x01\x04ping\0".as_slice();
    let raw = blocking::Client::bind(&Config::default()).expect("an endpoint");
    let cases = [
        (None, [true, true, true]),
        (Some(Protocol::Binary), [true, true, false]),
        (Some(Protocol::Compact), [false, false, true]),
    ];
    for (protocol, taken) in cases {
        let mut builder = HomaServer::builder(Echo::default());
        if let Some(protocol) = protocol.clone() {
            builder = builder.protocol(protocol);
        }
        let server = builder.bind(ANY).expect("a port").spawn().expect("threads");
        for (request, taken) in [strict, old, compact].into_iter().zip(taken) {
            let reply = raw
                .call(server.local_addr(), request.into())
                .expect("a reply");
            let reply = reply.into_bytes();
            if taken {
                assert_eq!(reply[0], request[0], "{protocol:?}");
            } else {
                assert_eq!(reply, b"\xF2unknown protocol".as_slice(), "{protocol:?}");
            }
        }
        for first in (1..=255).filter(|first| ![0x80, 0x82].contains(first)) {
            let request = vec![first, 1, 2, 3];
            let reply = raw
                .call(server.local_addr(), request.into())
                .expect("a reply");
            assert_eq!(reply.into_bytes()[0], 0xF2, "{first:#x}");
        }
        assert!(server.shutdown(GRACE).is_clean());
    }
}

/// Requests that somebody has cut, changed or made up, the same each time.
fn hostile(number: u64) -> Vec<u8> {
    let valid: [&[u8]; 4] = [
        b"\x80\x01\0\x01\0\0\0\x04echo\0\0\0\x01\x0b\0\x01\0\0\0\x05hello\0",
        b"\x82\x21\x01\x04echo\x18\x05hello\0",
        b"\0\0\0\x04echo\x01\0\0\0\x01\x0b\0\x01\0\0\0\x05hello\0",
        b"\x80\x01\0\x04\0\0\0\x03zip\0\0\0\x01\0",
    ];
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as usize % below
    };
    let mut request = valid[random(4)].to_vec();
    match random(5) {
        0 => request.truncate(1 + random(request.len() - 1)),
        1 => {
            let at = random(request.len());
            request[at] = random(256) as u8;
        }
        2 => {
            let at = random(request.len());
            request.splice(at..at, [0x7F, 0xFF, 0xFF, 0xFF]);
        }
        3 => {
            let deep = [b"\x0c\0\x01", b"\x0f\0\x01"][random(2)];
            request = b"\x80\x01\0\x01\0\0\0\x04skip\0\0\0\x01".to_vec();
            request.extend(deep.repeat(random(2_000)));
        }
        _ => request = (0..1 + random(200)).map(|_| random(256) as u8).collect(),
    }
    request
}

#[test]
fn whatever_comes_gets_one_reply_and_the_next_call_succeeds() {
    let server = HomaServer::builder(Echo::default()).workers(4);
    let server = server.bind(ANY).expect("a port").spawn().expect("threads");
    let raw = blocking::Client::bind(&Config::default()).expect("an endpoint");
    let transport = HomaTransport::open(server.local_addr()).expect("an endpoint");
    let (input, output) = transport.protocols();
    let mut client = EchoClient::new(input, output);
    for number in 0..2_000 {
        let request = hostile(number);
        let reply = raw.call(server.local_addr(), request.clone().into());
        let reply = reply.expect("a reply").into_bytes();
        let is_control = (0xF1..=0xF3).contains(&reply[0]);
        assert!(
            is_control || reply[0] == request[0],
            "{number}: {reply:02x?}"
        );
        if number % 10 == 0 {
            assert_eq!(client.echo("and on").expect("a reply"), "and on");
        }
    }
    let stats = server.stats();
    assert_eq!(stats.calls(), 2_200);
    assert!(stats.of(CallOutcome::Malformed) > 500, "{stats:?}");
    assert!(server.shutdown(GRACE).is_clean());
}
