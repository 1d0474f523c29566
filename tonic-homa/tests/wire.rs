//! The protocol seen from below: raw Homa messages against the server and the channel.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Buf;
use common::*;
use homa_client::{Client, Config, Message, Server};
use prost::Message as _;
use tonic::Code;
use tonic_homa::frame::{
    CancelReason, Flight, Frame, HEADER_LEN, Kind, Lengths, ResetReason, Sender,
};
use tonic_homa::metadata;
use tonic_homa::transport::{Endpoint, Error, ResetError};

const PATH: &[u8] = b"/tonic_homa.test.v1.Test/Call";

fn frame(epoch: u64, call: u64, kind: Kind) -> Vec<u8> {
    Frame {
        epoch,
        call,
        going_away: false,
        kind,
    }
    .emit(Lengths::default())
    .to_vec()
}

fn open(epoch: u64, call: u64, request: &CallRequest) -> Vec<u8> {
    let mut head = Vec::new();
    metadata::encode_path(PATH, &mut head).unwrap();
    let flight = Flight {
        start: true,
        end: true,
        ..Flight::default()
    };
    let kind = Kind::Open {
        flight,
        deadline_us: 0,
        push: false,
    };
    let frame = Frame {
        epoch,
        call,
        going_away: false,
        kind,
    };
    let lengths = Lengths {
        head: head.len() as u32,
        ..Lengths::default()
    };
    let body = request.encode_to_vec();
    let prefix = (body.len() as u32).to_be_bytes();
    [&frame.emit(lengths)[..], &head, &[0], &prefix, &body].concat()
}

/// Sends raw bytes and takes the answer's header apart.
async fn send(to: SocketAddr, bytes: Vec<u8>) -> (Frame, Vec<u8>) {
    let client = Client::bind(&Config::default()).unwrap();
    let answer = client
        .call(to, Message::from(bytes))
        .await
        .unwrap()
        .into_bytes();
    let (frame, lengths) = Frame::parse(&answer, answer.len(), Sender::ServerResponse).unwrap();
    assert_eq!(usize::from(lengths.header), HEADER_LEN);
    (frame, answer[HEADER_LEN..].to_vec())
}

async fn reset(to: SocketAddr, bytes: Vec<u8>) -> ResetReason {
    match send(to, bytes).await.0.kind {
        Kind::Reset { reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_duplicate_runs_once() {
    let host = serve("homa").await;
    let bytes = open(5, 1, &ask("x"));
    let (first, sections) = send(host.addr, bytes.clone()).await;
    assert!(matches!(first.kind, Kind::Reply { .. }), "{first:?}");
    assert_eq!((first.epoch, first.call), (5, 1));
    assert!(!sections.is_empty());
    assert_eq!(
        reset(host.addr, bytes.clone()).await,
        ResetReason::Duplicate
    );
    // Another epoch is another client.
    let (other, _) = send(host.addr, open(6, 1, &ask("x"))).await;
    assert!(matches!(other.kind, Kind::Reply { .. }), "{other:?}");
    assert_eq!(host.service.started(), 2);
    // While it runs, too.
    let slow = open(
        5,
        2,
        &CallRequest {
            delay_ms: 200,
            ..ask("x")
        },
    );
    let (running, duplicate) = tokio::join!(send(host.addr, slow.clone()), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        reset(host.addr, slow.clone()).await
    });
    assert!(matches!(running.0.kind, Kind::Reply { .. }));
    assert_eq!(duplicate, ResetReason::Duplicate);
    assert_eq!(host.service.started(), 3);
}

#[tokio::test]
async fn a_cancel_ends_its_call_also_if_it_comes_first() {
    let host = serve("homa").await;
    let cancel = frame(
        5,
        1,
        Kind::Cancel {
            reason: CancelReason::Cancelled,
        },
    );
    let (ack, _) = send(host.addr, cancel.clone()).await;
    assert_eq!(
        ack.kind,
        Kind::Ack {
            credit: 0,
            stop: false
        }
    );
    assert_eq!(
        reset(host.addr, open(5, 1, &ask("x"))).await,
        ResetReason::Duplicate
    );
    assert_eq!(host.service.started(), 0);

    let slow = open(
        5,
        2,
        &CallRequest {
            delay_ms: 10_000,
            ..ask("x")
        },
    );
    let (reason, _) = tokio::join!(reset(host.addr, slow), async {
        let service = host.service.clone();
        eventually("the handler runs", || service.started() == 1).await;
        send(
            host.addr,
            frame(
                5,
                2,
                Kind::Cancel {
                    reason: CancelReason::Cancelled,
                },
            ),
        )
        .await
    });
    assert_eq!(reason, ResetReason::Cancelled);
    assert_eq!((host.service.running(), host.service.finished()), (0, 0));
}

#[tokio::test]
async fn everything_that_is_no_call_gets_its_answer() {
    let host = serve("homa").await;
    let (pong, _) = send(host.addr, frame(5, 0, Kind::Ping { nonce: 42 })).await;
    let Kind::Pong {
        nonce: 42,
        server_epoch,
    } = pong.kind
    else {
        panic!("{pong:?}")
    };
    assert_ne!(server_epoch, 0);
    let flight = Flight {
        end: true,
        ..Flight::default()
    };
    for kind in [
        Kind::Data { flight, credit: 0 },
        Kind::Pull { from: 0, most: 1 },
        Kind::Window {
            credit: 1,
            stop: false,
        },
    ] {
        assert_eq!(
            reset(host.addr, frame(5, 1, kind)).await,
            ResetReason::UnknownCall
        );
    }
    let mut bytes = open(5, 1, &ask("x"));
    bytes[3] = b'2';
    assert_eq!(reset(host.addr, bytes).await, ResetReason::Version);
    // Not complete: a streamed request of a client that could.
    let mut bytes = open(5, 2, &ask("x"));
    bytes[7] &= !0x02;
    let (deferred, _) = send(host.addr, bytes).await;
    assert!(
        matches!(deferred.kind, Kind::Deferred { credit: 65_536, .. }),
        "{deferred:?}"
    );
}

#[tokio::test]
async fn garbage_is_refused_and_the_server_goes_on() {
    let host = serve("homa").await;
    let mut client = host.client().await;
    let mut random = 1_u64;
    let mut next = || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        random >> 33
    };
    for bytes in [
        vec![0],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xFF; 5_000],
    ] {
        assert_eq!(reset(host.addr, bytes).await, ResetReason::Protocol);
    }
    let mut bytes = open(5, 1, &ask("x"));
    // A path that is none.
    bytes[HEADER_LEN + 2] = b' ';
    assert_eq!(reset(host.addr, bytes).await, ResetReason::Protocol);
    for round in 0..500 {
        let mut bytes = if round % 2 == 0 {
            (0..next() % 200 + 1).map(|_| next() as u8).collect()
        } else {
            open(1_000 + round, 1, &ask("mutated"))
        };
        for _ in 0..=next() % 3 {
            let at = next() as usize % bytes.len();
            bytes[at] = next() as u8;
        }
        // Whatever it is, it is answered with a frame.
        send(host.addr, bytes).await;
        if round % 100 == 0 {
            assert_eq!(
                client.call(ask("on")).await.unwrap().into_inner().text,
                "on"
            );
        }
    }
}

/// A Homa server that answers every request with what `answer` makes of it.
async fn impostor(
    answer: impl Fn(Frame) -> Vec<u8> + Send + 'static,
) -> (Endpoint, Arc<AtomicUsize>) {
    let server = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0)), &Config::default()).unwrap();
    let endpoint = Endpoint::from_shared(format!("homa://{}", server.local_addr())).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Some(request) = server.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let len = request.message().len();
            let header = request.message().clone().copy_to_bytes(HEADER_LEN);
            let frame = Frame::parse(&header, len, Sender::ClientRequest).unwrap().0;
            request.reply(answer(frame).into()).unwrap();
        }
    });
    (endpoint, count)
}

fn reply(to: Frame, flight: Flight, head: &[u8], tail: &[u8], body: &[u8]) -> Vec<u8> {
    let kind = Kind::Reply {
        flight,
        server_epoch: Some(1),
    };
    let lengths = Lengths {
        head: head.len() as u32,
        tail: tail.len() as u32,
        ..Lengths::default()
    };
    [&Frame { kind, ..to }.emit(lengths)[..], head, tail, body].concat()
}

const COMPLETE: Flight = Flight {
    start: true,
    end: true,
    trailers: true,
    total: None,
    offset: 0,
};

#[tokio::test]
async fn a_unary_call_is_one_homa_rpc() {
    let (endpoint, count) =
        impostor(|to| reply(to, COMPLETE, &[0x02], &[0x10], &[0, 0, 0, 0, 0])).await;
    let mut client = TestClient::new(endpoint.connect_lazy());
    for calls in 1..=10 {
        client.call(ask("x")).await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), calls);
    }
}

#[tokio::test]
async fn a_peer_that_speaks_garbage_fails_its_calls() {
    let trailers_only = Flight {
        start: false,
        ..COMPLETE
    };
    type Answer = Box<dyn Fn(Frame) -> Vec<u8> + Send>;
    let cases: Vec<(Answer, Code, &str)> = vec![
        (
            Box::new(|_| b"garbage".to_vec()),
            Code::Internal,
            "malformed",
        ),
        (
            Box::new(|_| vec![0xFF; 10_000]),
            Code::Internal,
            "malformed",
        ),
        (
            Box::new(|to| {
                frame(
                    to.epoch,
                    to.call + 1,
                    Kind::Ack {
                        credit: 0,
                        stop: false,
                    },
                )
            }),
            Code::Internal,
            "another call",
        ),
        (
            Box::new(|to| {
                frame(
                    to.epoch,
                    to.call,
                    Kind::Ack {
                        credit: 0,
                        stop: false,
                    },
                )
            }),
            Code::Internal,
            "Ack",
        ),
        (
            Box::new(|to| frame(to.epoch, to.call, Kind::Ping { nonce: 1 })),
            Code::Internal,
            "malformed",
        ),
        (
            Box::new(|to| reply(to, COMPLETE, &[0xFE], &[0x10], b"")),
            Code::Internal,
            "0xfe",
        ),
        (
            Box::new(|to| reply(to, COMPLETE, &[0x02], &[], b"")),
            Code::Unknown,
            "grpc-status",
        ),
        (
            Box::new(move |to| reply(to, trailers_only, &[], &[0x10], b"body")),
            Code::Internal,
            "body",
        ),
        (
            Box::new(|to| {
                reply(
                    to,
                    Flight {
                        start: true,
                        ..Flight::default()
                    },
                    &[0x02],
                    &[],
                    b"",
                )
            }),
            Code::Unavailable,
            // The response goes on, and the server is asked whether it is there.
            "does not speak",
        ),
        (
            Box::new(|to| reply(to, COMPLETE, &[0x02], &[0x10], &[9; 9])),
            Code::Internal,
            "flag",
        ),
        (
            Box::new(|to| {
                [
                    frame(
                        to.epoch,
                        to.call,
                        Kind::Reset {
                            reason: ResetReason::Overloaded,
                        },
                    ),
                    b"busy".to_vec(),
                ]
                .concat()
            }),
            Code::ResourceExhausted,
            "busy",
        ),
        (
            Box::new(|_| {
                frame(
                    0,
                    0,
                    Kind::Reset {
                        reason: ResetReason::Protocol,
                    },
                )
            }),
            Code::Internal,
            "Protocol",
        ),
        // Details that are no base64 are dropped, and the rest of the status is kept.
        (
            Box::new(move |to| reply(to, trailers_only, &[], b"\x15\x49\x02!!\x48\x04gone", b"")),
            Code::NotFound,
            "gone",
        ),
    ];
    for (answer, code, named) in cases {
        let (endpoint, _) = impostor(answer).await;
        let status = TestClient::new(endpoint.connect_lazy())
            .call(ask("x"))
            .await
            .unwrap_err();
        assert_eq!(status.code(), code, "{named}: {status}");
        assert!(status.message().contains(named), "{named}: {status}");
    }
}

#[tokio::test]
async fn connect_tells_who_is_no_grpc_server() {
    let (endpoint, _) = impostor(|_| b"hello".to_vec()).await;
    let error = endpoint.connect().await.unwrap_err();
    assert!(matches!(error, Error::Handshake { .. }), "{error}");
    let (endpoint, _) = impostor(|to| {
        frame(
            to.epoch,
            0,
            Kind::Pong {
                nonce: 1,
                server_epoch: 1,
            },
        )
    })
    .await;
    let error = endpoint.connect().await.unwrap_err();
    assert!(matches!(error, Error::Handshake { .. }), "{error}");
}

#[tokio::test]
async fn a_reset_is_the_source_of_its_status() {
    let (endpoint, count) = impostor(|to| {
        frame(
            to.epoch,
            to.call,
            Kind::Reset {
                reason: ResetReason::Stopping,
            },
        )
    })
    .await;
    let status = TestClient::new(endpoint.connect_lazy())
        .call(ask("x"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let source = std::error::Error::source(&status).unwrap();
    assert_eq!(
        source.downcast_ref::<ResetError>().unwrap().reason,
        ResetReason::Stopping
    );
    // There is no other place to try.
    assert_eq!(count.load(Ordering::SeqCst), 1);
}
