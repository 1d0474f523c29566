//! Peers that break the protocol of streams: what they get, what is counted, and that nobody else
//! notices.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Buf;
use common::*;
use homa_client::{Client, Config, Message, Pusher, Request, RequestHandler, Responder};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_homa::frame::{
    CancelReason, Flight, Frame, HEADER_LEN, Kind, Lengths, ResetReason, Sender,
};
use tonic_homa::metadata;
use tonic_homa::transport::{CallCounters, Channel, Endpoint, Server};

const START_CREDIT: u64 = 65_536;

const NOTHING: Flight = Flight {
    start: false,
    end: false,
    trailers: false,
    total: None,
    offset: 0,
};

const START: Flight = Flight {
    start: true,
    ..NOTHING
};

/// A frame with its sections.
fn frame(
    (epoch, call): (u64, u64),
    kind: Kind,
    (head, tail): (&[u8], &[u8]),
    body: &[u8],
) -> Vec<u8> {
    let frame = Frame {
        epoch,
        call,
        going_away: false,
        kind,
    };
    let lengths = Lengths {
        head: head.len() as u32,
        tail: tail.len() as u32,
        ..Lengths::default()
    };
    [&frame.emit(lengths)[..], head, tail, body].concat()
}

fn bare(call: (u64, u64), kind: Kind) -> Vec<u8> {
    frame(call, kind, (&[], &[]), &[])
}

fn data(call: (u64, u64), flight: Flight, len: usize) -> Vec<u8> {
    let kind = Kind::Data { flight, credit: 0 };
    // Seen as a message of gRPC, it is a very long one.
    frame(
        call,
        kind,
        (&[], &[]),
        &[&[0, 0, 0xF0, 0, 0], &vec![0; len][..]].concat()[..len],
    )
}

fn at(offset: u64) -> Flight {
    Flight { offset, ..NOTHING }
}

fn open(call: (u64, u64), method: &str, flight: Flight, push: bool, body: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    let path = format!("/tonic_homa.test.v1.Test/{method}");
    metadata::encode_path(path.as_bytes(), &mut head).unwrap();
    let kind = Kind::Open {
        flight,
        deadline_us: 0,
        push,
    };
    frame(call, kind, (&head, &[]), body)
}

fn message(request: &CallRequest) -> Vec<u8> {
    let body = request.encode_to_vec();
    [&[0][..], &(body.len() as u32).to_be_bytes(), &body].concat()
}

/// A client that sends what it likes.
struct Raw {
    client: Client,
    to: SocketAddr,
}

impl Raw {
    fn new(host: &TestHost) -> Self {
        Self {
            client: Client::bind(&Config::default()).unwrap(),
            to: host.addr,
        }
    }

    async fn send(&self, bytes: Vec<u8>) -> Kind {
        let answer = self.client.call(self.to, bytes.into()).await.unwrap();
        let answer = answer.into_bytes();
        let parsed = Frame::parse(&answer, answer.len(), Sender::ServerResponse);
        parsed.unwrap().0.kind
    }

    async fn reset(&self, bytes: Vec<u8>) -> ResetReason {
        match self.send(bytes).await {
            Kind::Reset { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    /// Opens a call whose request goes on.
    async fn stream(&self, call: (u64, u64), total: Option<u64>) {
        let flight = Flight { total, ..START };
        let answer = self.send(open(call, "Up", flight, false, &[])).await;
        assert!(matches!(answer, Kind::Deferred { .. }), "{answer:?}");
    }
}

/// Nothing is left of hostile calls, and others are served.
async fn settled(host: &TestHost) {
    let client = host.client().await;
    let reply = client.clone().call(ask("on")).await.unwrap();
    assert_eq!(reply.into_inner().text, "on");
    let left = || (host.service.running(), host.calls.counters().stream_bytes);
    eventually("nothing is left", || left() == (0, 0)).await;
}

#[tokio::test]
async fn pieces_that_break_a_body_end_their_call_alone() {
    let host = serve("homa").await;
    let raw = Raw::new(&host);
    // Another client's stream goes on beside all of this.
    let (requests, body) = mpsc::channel(1);
    let mut friend = host.client().await;
    let up = tokio::spawn(async move { friend.up(ReceiverStream::new(body)).await });
    let end = |offset| Flight {
        end: true,
        ..at(offset)
    };
    let gaps = (0..=64).map(|gap| (at(10 + 2 * gap), 1)).collect();
    type Case = (Option<u64>, Vec<(Flight, usize)>);
    let cases: Vec<Case> = vec![
        (None, vec![(at(START_CREDIT), 1)]),
        (None, vec![(at(u64::MAX - 10), 10)]),
        (Some(10), vec![(at(5), 10)]),
        (None, vec![(end(20), 5), (end(30), 5)]),
        (None, vec![(at(50), 5), (end(20), 5)]),
        (None, gaps),
    ];
    for (number, (total, pieces)) in cases.into_iter().enumerate() {
        let call = (77, number as u64 + 1);
        raw.stream(call, total).await;
        let errors = host.calls.counters().protocol_errors;
        let (last, fine) = pieces.split_last().unwrap();
        for (flight, len) in fine {
            let answer = raw.send(data(call, *flight, *len)).await;
            assert!(matches!(answer, Kind::Ack { .. }), "{number}: {answer:?}");
        }
        let broken = data(call, last.0, last.1);
        assert_eq!(raw.reset(broken).await, ResetReason::Protocol, "{number}");
        assert_eq!(host.calls.counters().protocol_errors, errors + 1);
        let ends = || host.service.ends().len() == number + 1;
        eventually("its handler is told", ends).await;
        assert_eq!(host.service.ends()[number], "Internal");
    }
    requests.send(ask("unharmed")).await.unwrap();
    drop(requests);
    assert_eq!(up.await.unwrap().unwrap().into_inner().text, "unharmed");
    settled(&host).await;
}

#[tokio::test]
async fn frames_of_other_calls_reach_nobody() {
    let host = serve("homa").await;
    let raw = Raw::new(&host);
    raw.stream((5, 1), None).await;
    let window = Kind::Window {
        credit: 1,
        stop: true,
    };
    let cancel = Kind::Cancel {
        reason: CancelReason::Cancelled,
    };
    // Another epoch is another client, and call 2 was never opened.
    for call in [(6, 1), (5, 2)] {
        for kind in [window, Kind::Pull { from: 0, most: 1 }] {
            assert_eq!(raw.reset(bare(call, kind)).await, ResetReason::UnknownCall);
        }
        let start = Instant::now();
        assert_eq!(
            raw.reset(data(call, NOTHING, 9)).await,
            ResetReason::UnknownCall
        );
        let waited = start.elapsed();
        assert!(waited < Duration::from_millis(1_900), "{waited:?}");
        let answer = raw.send(bare(call, cancel)).await;
        assert!(matches!(answer, Kind::Ack { .. }), "{answer:?}");
    }
    let counters = host.calls.counters();
    assert_eq!((counters.unknown_calls, counters.early_pieces), (6, 2));
    assert_eq!((host.service.running(), counters.cancelled), (1, 2));
    raw.send(bare((5, 1), cancel)).await;
    settled(&host).await;
}

#[tokio::test]
async fn pieces_of_calls_that_never_come_are_kept_in_bounds() {
    let host = serve("homa").await;
    let raw = Arc::new(Raw::new(&host));
    let mut sent = tokio::task::JoinSet::new();
    for call in 1..=1_100 {
        let raw = raw.clone();
        sent.spawn(async move { raw.reset(data((5, call), NOTHING, 100)).await });
    }
    // Others go on while these are kept.
    host.client().await.call(ask("on")).await.unwrap();
    let start = Instant::now();
    while let Some(reason) = sent.join_next().await {
        assert_eq!(reason.unwrap(), ResetReason::UnknownCall);
    }
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    let counters = host.calls.counters();
    assert_eq!(counters.unknown_calls, 1_100);
    assert!((1..=1_024).contains(&counters.early_pieces), "{counters:?}");
    settled(&host).await;
}

#[tokio::test]
async fn a_replayed_open_of_a_stream_runs_nothing() {
    let host = serve("homa").await;
    let raw = Raw::new(&host);
    raw.stream((5, 1), None).await;
    let replay = || open((5, 1), "Up", START, false, &[]);
    assert_eq!(raw.reset(replay()).await, ResetReason::Duplicate);
    // The call that runs is not harmed.
    let end = Flight {
        end: true,
        ..NOTHING
    };
    let body = message(&ask("once"));
    let kind = Kind::Data {
        flight: end,
        credit: 0,
    };
    raw.send(frame((5, 1), kind, (&[], &[]), &body)).await;
    eventually("it has ended", || host.service.finished() == 1).await;
    assert_eq!(raw.reset(replay()).await, ResetReason::Duplicate);
    assert_eq!(host.calls.counters().duplicate_calls, 2);
    settled(&host).await;
    assert_eq!((host.service.started(), host.service.finished()), (2, 2));
}

#[tokio::test]
async fn questions_are_bounded_in_number_and_in_reach() {
    let host = serve("homa").await;
    let raw = Arc::new(Raw::new(&host));
    // A response without an end, of which there is always more.
    let endless = message(&CallRequest {
        count: u32::MAX,
        reply_bytes: 10_000,
        ..ask("")
    });
    let flight = Flight { end: true, ..START };
    let answer = raw
        .send(open((5, 1), "Down", flight, false, &endless))
        .await;
    assert!(matches!(answer, Kind::Reply { .. }), "{answer:?}");
    let taken = host.service.taken();
    for from in [1 << 24, u64::MAX] {
        let question = bare((5, 1), Kind::Pull { from, most: 1 });
        assert_eq!(raw.reset(question).await, ResetReason::Protocol);
    }
    let more = host.service.taken() - taken;
    assert!(more < 100, "{more} more replies were taken for it");
    assert_eq!(host.calls.counters().protocol_errors, 2);

    // And one that has nothing to say.
    raw.stream((5, 2), None).await;
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let raw = raw.clone();
        let question = bare((5, 2), Kind::Pull { from: 0, most: 1 });
        asked.spawn(async move { raw.send(question).await });
    }
    eventually("most are refused", || {
        host.calls.counters().protocol_errors > 2 + 100
    })
    .await;
    let cancel = Kind::Cancel {
        reason: CancelReason::Cancelled,
    };
    for call in [1, 2] {
        raw.send(bare((5, call), cancel)).await;
    }
    settled(&host).await;
}

#[tokio::test]
async fn metadata_and_headers_that_lie_are_refused() {
    let server = Server::builder().max_metadata_bytes(1_000).unwrap();
    let host = serve_with("homa", server).await;
    let raw = Raw::new(&host);
    let flight = Flight { end: true, ..START };
    let whole = |call| open((5, call), "Call", flight, false, &message(&ask("x")));
    let mut long = Vec::new();
    metadata::encode_path(&[b'a'; 1_100], &mut long).unwrap();
    let kind = Kind::Open {
        flight,
        deadline_us: 0,
        push: false,
    };
    let answer = raw.send(frame((5, 1), kind, (&long, &[]), &[])).await;
    assert!(matches!(answer, Kind::Reply { .. }), "{answer:?}");
    // An upper-case name, a line feed in a value, a length past the end, an entry that is none.
    let sections: [&[u8]; 4] = [
        b"\x80\x04X-Id\x011",
        b"\x80\x04x-id\x03a\nb",
        b"\x80\x04x-id\x7fa",
        b"\xfe",
    ];
    for (number, section) in sections.into_iter().enumerate() {
        let mut head = Vec::new();
        metadata::encode_path(b"/tonic_homa.test.v1.Test/Call", &mut head).unwrap();
        head.extend_from_slice(section);
        let open = frame((5, 2 + number as u64), kind, (&head, &[]), &[]);
        assert_eq!(raw.reset(open).await, ResetReason::Protocol, "{number}");
        assert_eq!(host.calls.counters().protocol_errors, number as u64 + 1);
    }
    let mut malformed = 0;
    for (at, value) in [(4, 0x7F), (4, 0x81), (5, 47), (40, 0xFF), (44, 0xFF)] {
        let mut bytes = whole(9);
        bytes[at] = value;
        assert_eq!(raw.reset(bytes).await, ResetReason::Protocol, "{at}");
        malformed += 1;
        assert_eq!(host.calls.counters().malformed_frames, malformed);
    }
    assert_eq!(host.service.started(), 0);
    settled(&host).await;
}

/// A flood of calls that are never finished, and then silence.
#[tokio::test]
async fn half_open_calls_take_bounded_memory_and_end_with_their_client() {
    const LIMIT: u64 = 1 << 20;
    let server = Server::builder().max_stream_buffer_bytes(LIMIT as usize);
    let host = serve_with("homa", server.unwrap()).await;
    let raw = Arc::new(Raw::new(&host));
    let mut opened = tokio::task::JoinSet::new();
    for call in 1..=500 {
        let raw = raw.clone();
        opened.spawn(async move { raw.send(open((5, call), "Up", START, false, &[])).await });
    }
    let mut deferred = 0;
    while let Some(answer) = opened.join_next().await {
        match answer.unwrap() {
            Kind::Deferred { .. } => deferred += 1,
            Kind::Reset { reason } => assert_eq!(reason, ResetReason::Overloaded),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(deferred, LIMIT / START_CREDIT);
    let counters = host.calls.counters();
    assert_eq!(counters.refused_calls, 500 - deferred);
    assert!(counters.stream_bytes <= LIMIT, "{counters:?}");
    // Another client has a share of its own.
    let body = tokio_stream::iter([ask("its"), ask("own")]);
    let reply = host.client().await.up(body).await.unwrap().into_inner();
    assert_eq!(reply.text, "itsown");
    assert_eq!(host.service.running() as u64, deferred);
    // From here on the hostile client says nothing.
    within(Duration::from_secs(13), "its handlers end", || {
        host.service.running() == 0
    })
    .await;
    assert_eq!(host.calls.counters().lost_peers, 1);
    settled(&host).await;
}

/// A server that answers as it is told, and hands out the way to push.
struct Impostor {
    channel: Channel,
    addr: SocketAddr,
    calls: mpsc::UnboundedReceiver<((u64, u64), Pusher)>,
}

impl Impostor {
    /// OPENs are answered with `opened`, everything else with `answer`.
    async fn at(ip: [u8; 4], opened: Kind, answer: fn(Frame) -> Vec<u8>) -> Self {
        let addr = SocketAddr::from((ip, 0));
        let server = homa_client::Server::bind(addr, &Config::default()).unwrap();
        let addr = server.local_addr();
        let (tell, calls) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(request) = server.accept().await {
                let (frame, _, responder) = header(request, Sender::ClientRequest);
                let bytes = if let Kind::Open { .. } = frame.kind {
                    let call = (frame.epoch, frame.call);
                    let _ = tell.send((call, responder.pusher().unwrap()));
                    let head: &[u8] = match opened {
                        Kind::Reply { .. } => &[0x02],
                        _ => &[],
                    };
                    self::frame(call, opened, (head, &[]), &[])
                } else {
                    answer(frame)
                };
                responder.reply(bytes.into()).unwrap();
            }
        });
        let endpoint = Endpoint::from_shared(format!("homa://{addr}")).unwrap();
        let channel = endpoint.connect_lazy();
        Self {
            channel,
            addr,
            calls,
        }
    }

    async fn begun() -> Self {
        let opened = Kind::Reply {
            flight: START,
            server_epoch: Some(1),
        };
        Self::at([127, 0, 0, 1], opened, polite).await
    }

    fn counters(&self) -> CallCounters {
        self.channel.call_counters()
    }
}

/// What an honest server would say.
fn polite(to: Frame) -> Vec<u8> {
    let kind = match to.kind {
        Kind::Ping { nonce } => Kind::Pong {
            nonce,
            server_epoch: 1,
        },
        _ => Kind::Ack {
            credit: 0,
            stop: false,
        },
    };
    bare((to.epoch, to.call), kind)
}

/// The frame, its body's length, and who to answer.
fn header(request: Request, sender: Sender) -> (Frame, usize, Responder) {
    let (mut message, responder) = request.into_parts();
    let len = message.len();
    let header = message.copy_to_bytes(HEADER_LEN);
    let (frame, lengths) = Frame::parse(&header, len, sender).unwrap();
    (frame, lengths.body, responder)
}

async fn push(pusher: &Pusher, bytes: Vec<u8>) -> Kind {
    let answer = pusher
        .call(Message::from(bytes))
        .await
        .unwrap()
        .into_bytes();
    let parsed = Frame::parse(&answer, answer.len(), Sender::ClientResponse);
    parsed.unwrap().0.kind
}

const PROTOCOL: Kind = Kind::Reset {
    reason: ResetReason::Protocol,
};

const UNKNOWN: Kind = Kind::Reset {
    reason: ResetReason::UnknownCall,
};

#[tokio::test]
async fn servers_that_break_a_body_fail_its_call() {
    let friend = serve("homa").await;
    let last = |offset, total| Flight {
        end: true,
        trailers: true,
        total,
        ..at(offset)
    };
    let told = Flight {
        total: Some(10),
        ..NOTHING
    };
    type Push<'a> = (Flight, usize, &'a [u8]);
    let long = [0x10; 70_000];
    let gaps: Vec<Push<'_>> = (0..=64).map(|gap| (at(10 + 2 * gap), 1, &[][..])).collect();
    let cases: Vec<(Vec<Push<'_>>, &str)> = vec![
        (vec![(at(START_CREDIT), 1, &[])], "credit"),
        (vec![(told, 5, &[]), (at(5), 6, &[])], "in a body of 10"),
        (
            vec![(told, 5, &[]), (last(5, None), 2, b"\x10")],
            "is said to have",
        ),
        (gaps, "gaps"),
        (vec![(last(0, None), 0, b"\xfe")], "0xfe"),
        (vec![(last(0, None), 0, b"\x80\x04X-Id\x011")], "name"),
        (vec![(last(0, None), 0, b"\x80\x04x-id\x03a\nb")], "value"),
        (vec![(last(0, None), 0, &long)], "max_metadata_bytes"),
    ];
    for (pushes, named) in cases {
        let mut server = Impostor::begun().await;
        let mut client = big_client(server.channel.clone());
        let mut replies = client.down(ask("")).await.unwrap().into_inner();
        let (call, pusher) = server.calls.recv().await.unwrap();
        let (broken, fine) = pushes.split_last().unwrap();
        let bytes = |(flight, len, tail): &Push<'_>| {
            let kind = Kind::Data {
                flight: *flight,
                credit: 0,
            };
            frame(
                call,
                kind,
                (&[], tail),
                &[&[0, 0, 0xF0][..], &vec![0; *len]].concat()[..*len],
            )
        };
        for piece in fine {
            let answer = push(&pusher, bytes(piece)).await;
            assert!(matches!(answer, Kind::Ack { .. }), "{named}: {answer:?}");
        }
        assert_eq!(push(&pusher, bytes(broken)).await, PROTOCOL, "{named}");
        let status = replies.message().await.unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{status}");
        assert!(status.message().contains(named), "{named}: {status}");
        assert_eq!(server.counters().protocol_errors, 1, "{named}");
        drop(replies);
        eventually("nothing is left", || server.counters().stream_bytes == 0).await;
        let reply = friend.client().await.call(ask("on")).await.unwrap();
        assert_eq!(reply.into_inner().text, "on");
    }
}

#[tokio::test]
async fn pushes_that_are_none_harm_no_call() {
    let mut server = Impostor::begun().await;
    let mut client = big_client(server.channel.clone());
    let mut replies = client.down(ask("")).await.unwrap().into_inner();
    let (call, pusher) = server.calls.recv().await.unwrap();
    for bytes in [
        b"GET / HTTP/1.1".to_vec(),
        vec![0xFF; 5_000],
        bare(call, Kind::Ping { nonce: 1 }),
        bare(call, Kind::Pull { from: 0, most: 1 }),
    ] {
        assert_eq!(push(&pusher, bytes).await, PROTOCOL);
    }
    // Neither another call nor another epoch is there.
    for other in [(call.0, call.1 + 1), (call.0 ^ 2, call.1)] {
        assert_eq!(push(&pusher, data(other, NOTHING, 9)).await, UNKNOWN);
    }
    assert_eq!(server.counters().unknown_calls, 1);
    // A credit that shrinks.
    let window = Kind::Window {
        credit: 9,
        stop: false,
    };
    let answer = push(&pusher, bare(call, window)).await;
    assert!(matches!(answer, Kind::Ack { .. }), "{answer:?}");
    assert_eq!(server.counters().shrunk_credits, 1);

    // A host that is not the server, though the client calls it as well.
    let opened = Kind::Reply {
        flight: START,
        server_epoch: Some(2),
    };
    let mut other = Impostor::at([127, 0, 0, 2], opened, polite).await;
    let mut elsewhere = big_client(other.channel.clone());
    let theirs = elsewhere.down(ask("")).await.unwrap().into_inner();
    let (_, intruder) = other.calls.recv().await.unwrap();
    assert_ne!(other.addr.ip(), server.addr.ip());
    let end = Flight {
        end: true,
        trailers: true,
        ..NOTHING
    };
    let kind = Kind::Data {
        flight: end,
        credit: 0,
    };
    let last = frame(call, kind, (&[], b"\x10"), &[]);
    assert_eq!(push(&intruder, last.clone()).await, UNKNOWN);
    assert_eq!(server.counters().foreign_frames, 1);

    // The call has noticed nothing of it, and the server's own word counts.
    let answer = push(&pusher, last).await;
    assert!(matches!(answer, Kind::Ack { .. }), "{answer:?}");
    assert!(replies.message().await.unwrap().is_none());
    drop((replies, theirs));
    for impostor in [server, other] {
        eventually("nothing is left", || impostor.counters().stream_bytes == 0).await;
    }
}

#[tokio::test]
async fn a_server_that_answers_a_piece_with_garbage_fails_the_call() {
    let opened = Kind::Deferred {
        credit: START_CREDIT,
        server_epoch: 1,
    };
    let answers: [fn(Frame) -> Vec<u8>; 3] = [
        |_| b"garbage".to_vec(),
        |to| bare((to.epoch, to.call), Kind::Ping { nonce: 1 }),
        |to| {
            let kind = Kind::Pong {
                nonce: 1,
                server_epoch: 1,
            };
            bare((to.epoch, to.call), kind)
        },
    ];
    for answer in answers {
        let mut server = Impostor::at([127, 0, 0, 1], opened, answer).await;
        let mut client = big_client(server.channel.clone());
        let (requests, body) = mpsc::channel(2);
        let up = tokio::spawn(async move { client.up(ReceiverStream::new(body)).await });
        requests.send(ask("opens the call")).await.unwrap();
        server.calls.recv().await.unwrap();
        requests.send(ask("is a piece")).await.unwrap();
        let status = up.await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{status}");
        assert_eq!(server.counters().malformed_frames, 1, "{status}");
        eventually("nothing is left", || server.counters().stream_bytes == 0).await;
    }
}

#[tokio::test]
async fn answers_to_an_open_that_are_none_are_counted() {
    let ack = Kind::Ack {
        credit: 0,
        stop: false,
    };
    // No frame that servers answer with, and one that answers something else.
    for (opened, expected) in [(Kind::Ping { nonce: 1 }, (1, 0)), (ack, (0, 1))] {
        let server = Impostor::at([127, 0, 0, 1], opened, polite).await;
        let status = big_client(server.channel.clone()).call(ask("x")).await;
        assert_eq!(status.unwrap_err().code(), Code::Internal);
        let counters = server.counters();
        let counted = (counters.malformed_frames, counters.protocol_errors);
        assert_eq!(counted, expected);
    }
}

/// A client that is pushed to, and takes back a credit that it gave.
#[tokio::test]
async fn a_credit_that_shrinks_changes_nothing() {
    let host = serve("homa").await;
    let (tell, mut pushes) = mpsc::unbounded_channel();
    let handler: RequestHandler = Arc::new(move |request| drop(tell.send(request)));
    let client = Client::bind_accepting(&Config::default(), handler).unwrap();
    let raw = Raw {
        client,
        to: host.addr,
    };
    let many = message(&CallRequest {
        count: 1_000,
        reply_bytes: 1_000,
        ..ask("")
    });
    let flight = Flight { end: true, ..START };
    let opened = open((5, 1), "Down", flight, true, &many);
    let reply = raw
        .client
        .call(raw.to, opened.into())
        .await
        .unwrap()
        .into_bytes();
    let parsed = Frame::parse(&reply, reply.len(), Sender::ServerResponse);
    let first = parsed.unwrap().1.body as u64;
    for (credit, shrunk) in [(10, 1), (2_000_000, 1), (1, 2)] {
        let window = Kind::Window {
            credit,
            stop: false,
        };
        let answer = raw.send(bare((5, 1), window)).await;
        assert!(matches!(answer, Kind::Ack { .. }), "{answer:?}");
        assert_eq!(host.calls.counters().shrunk_credits, shrunk);
    }
    // All of it comes, though every answer says less than before.
    let (mut received, mut total) = (0, None);
    while total != Some(received) {
        let request = pushes.recv().await.unwrap();
        let (frame, len, responder) = header(request, Sender::ServerRequest);
        let Kind::Data { flight, .. } = frame.kind else {
            panic!("{frame:?}")
        };
        received += len as u64;
        // What the OPEN was answered with comes on top.
        if flight.offset == first {
            received += first;
        }
        if flight.end {
            total = Some(flight.offset + len as u64);
        }
        let ack = Kind::Ack {
            credit: 1,
            stop: false,
        };
        responder.reply(bare((5, 1), ack).into()).unwrap();
    }
    let counted = || host.calls.counters().shrunk_credits > 2;
    eventually("the answers are counted", counted).await;
    settled(&host).await;
}
