//! Flow control: what a reader that does not read holds up, and what it does not.

mod common;

use std::time::{Duration, Instant};

use common::*;
use homa_client::engine::wire::Kind;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use tonic_homa::transport::{Channel, Server};

const SOON: Duration = Duration::from_secs(10);

/// A stream of replies of 1 KB each, more than any buffer holds.
async fn endless(client: &mut TestClient<Channel>) -> Streaming<CallReply> {
    let request = CallRequest {
        count: 1_000_000,
        reply_bytes: 1_000,
        ..ask("")
    };
    client.down(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_sender() {
    for mode in ["", "?stream=pull"] {
        let host = serve("homa").await;
        let mut client = host.client_at(mode).await;
        let mut replies = endless(&mut client).await;
        let mut taken = 0;
        // Until it stands still.
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if std::mem::replace(&mut taken, host.service.taken()) == host.service.taken() {
                break;
            }
        }
        // The first flight, what a message could have held, and a part of one more.
        assert!(taken < 1_300, "{mode}: {taken} replies of 1 KB were made");
        for _ in 0..5_000 {
            assert!(
                timeout(SOON, replies.message())
                    .await
                    .unwrap()
                    .unwrap()
                    .is_some()
            );
        }
        assert!(host.service.taken() > taken);
        drop(replies);
        eventually("the handler is gone", || host.service.running() == 0).await;
    }
}

#[tokio::test]
async fn a_handler_that_does_not_read_stops_the_client() {
    for mode in ["", "?stream=pull"] {
        let host = serve("homa").await;
        let mut client = host.client_at(mode).await;
        let (requests, body) = mpsc::channel(1);
        let mut slow = ask("");
        slow.delay_ms = 60_000;
        requests.send(slow).await.unwrap();
        let up = tokio::spawn(async move { client.up(ReceiverStream::new(body)).await });
        let mut sent = 0;
        let request = || CallRequest {
            payload: vec![1; 1_000],
            ..ask("")
        };
        while let Ok(taken) = timeout(Duration::from_millis(200), requests.send(request())).await {
            taken.unwrap();
            sent += 1;
            assert!(sent < 10_000, "{mode}: nothing stops it");
        }
        // The credit that it begins with, and what gathers meanwhile.
        assert!((60..300).contains(&sent), "{mode}: {sent} requests of 1 KB");
        up.abort();
        eventually("the handler is gone", || host.service.running() == 0).await;
        eventually("all is given back", || {
            host.calls.counters().stream_bytes == 0
        })
        .await;
    }
}

const STREAMS: usize = 1_000;

/// The default of `max_stream_buffer_bytes`.
const BOUND: u64 = 64 << 20;

/// A thousand streams whose replies nobody reads take no more than what is documented, and other
/// calls go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_slow_readers_take_bounded_memory_and_disturb_nobody() {
    let host = serve("homa").await;
    let channel = host.endpoint().connect().await.unwrap();
    let mut client = big_client(channel.clone());
    let before = resident_bytes();
    let mut unread = Vec::new();
    for _ in 0..STREAMS {
        unread.push(endless(&mut client).await);
    }
    // Every handler has made more than the credit of its stream lets through.
    eventually("all buffers are full", || {
        host.service.taken() >= STREAMS * 65
    })
    .await;
    let slowest = slowest_of_200(&mut client).await;
    let held = channel.call_counters().stream_bytes;
    println!(
        "{STREAMS} streams that the client does not read: {held} B buffered or promised, bound \
         {BOUND} B; client and server together grew by {} MiB; slowest of 200 other calls \
         {slowest:?}",
        resident_bytes().saturating_sub(before) >> 20
    );
    assert!((65_000_000..=BOUND).contains(&held));
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    // As many more as the bound leaves room for, and not one beyond.
    for _ in STREAMS..(BOUND / 65_536) as usize {
        unread.push(endless(&mut client).await);
    }
    let request = CallRequest {
        count: 1_000_000,
        reply_bytes: 1_000,
        ..ask("")
    };
    let status = client.down(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(
        status.message().contains("max_stream_buffer_bytes"),
        "{status}"
    );
    drop(unread);
    let given_back = || channel.call_counters().stream_bytes == 0;
    within(SOON, "all is given back", given_back).await;
    eventually("no handler is left", || host.service.running() == 0).await;
}

/// The same with handlers that do not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_slow_handlers_take_bounded_memory_and_disturb_nobody() {
    let host = serve("homa").await;
    let mut client = host.client().await;
    let before = resident_bytes();
    let mut held = Vec::new();
    for _ in 0..STREAMS {
        let (requests, body) = mpsc::channel(200);
        let mut slow = ask("");
        slow.delay_ms = 60_000;
        requests.send(slow).await.unwrap();
        for _ in 0..150 {
            let request = CallRequest {
                payload: vec![1; 1_000],
                ..ask("")
            };
            requests.send(request).await.unwrap();
        }
        let mut client = client.clone();
        let up = tokio::spawn(async move { client.up(ReceiverStream::new(body)).await });
        held.push((requests, up));
    }
    let all = || host.service.running() == STREAMS;
    within(SOON, "all handlers run", all).await;
    let slowest = slowest_of_200(&mut client).await;
    let promised = host.calls.counters().stream_bytes;
    println!(
        "{STREAMS} streams that the server does not read: {promised} B buffered or promised, \
         bound {BOUND} B; client and server together grew by {} MiB; slowest of 200 other calls \
         {slowest:?}",
        resident_bytes().saturating_sub(before) >> 20
    );
    assert!((65_000_000..=BOUND).contains(&promised));
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    for (_, up) in held {
        up.abort();
    }
    let given_back = || host.calls.counters().stream_bytes == 0;
    within(SOON, "all is given back", given_back).await;
}

async fn slowest_of_200(client: &mut TestClient<Channel>) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..200 {
        let began = Instant::now();
        let reply = timeout(SOON, client.call(ask("on")))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(reply.into_inner().text, "on");
        slowest = slowest.max(began.elapsed());
    }
    slowest
}

#[tokio::test]
async fn a_client_over_its_share_is_refused_before_anything_runs() {
    let server = Server::builder().max_stream_buffer_bytes(200_000).unwrap();
    let host = serve_with("homa", server).await;
    let client = host.client().await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let (requests, body) = mpsc::channel::<CallRequest>(1);
        let mut client = client.clone();
        let up = tokio::spawn(async move { client.up(ReceiverStream::new(body)).await });
        open.push((requests, up));
    }
    eventually("three run", || host.service.running() == 3).await;
    let (_requests, body) = mpsc::channel::<CallRequest>(1);
    let refused = client.clone().up(ReceiverStream::new(body)).await;
    let status = refused.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(
        status.message().contains("max_stream_buffer_bytes"),
        "{status}"
    );
    assert_eq!(
        (host.service.started(), host.calls.counters().refused_calls),
        (3, 1)
    );
    // Calls that need no stream are not concerned.
    client.clone().call(ask("on")).await.unwrap();
}

/// A thousand streams with headers and nothing to say cost next to nothing.
#[tokio::test]
async fn idle_streams_are_quiet() {
    const STREAMS: usize = 1_000;
    const WATCHED: Duration = Duration::from_secs(4);
    let listener = tonic_homa::transport::Listener::bind("homa://127.0.0.1:0")
        .await
        .unwrap();
    let (uri, server) = (listener.uri(), listener.monitor().unwrap());
    let router = Server::builder().add_service(big(Service::default()));
    tokio::spawn(router.serve_on([listener]));
    let endpoint = tonic_homa::transport::Endpoint::from_shared(uri).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let mut client = big_client(channel.clone());
    let mut idle = Vec::new();
    for _ in 0..STREAMS {
        let (requests, body) = mpsc::channel::<CallRequest>(1);
        let replies = client.chat(ReceiverStream::new(body)).await.unwrap();
        idle.push((requests, replies.into_inner()));
    }
    let client_side = channel.monitor().unwrap();
    let packets = || {
        let sides = [client_side.counters().unwrap(), server.counters().unwrap()];
        let sent = |kind| {
            sides
                .iter()
                .map(|side| side.protocol.sent(kind))
                .sum::<u64>()
        };
        Kind::ALL.into_iter().map(sent).sum::<u64>()
    };
    // What is left of their beginning.
    tokio::time::sleep(Duration::from_secs(2)).await;
    // On a machine that is busy with other things answers come late, and are asked for again.
    let mut least = f64::INFINITY;
    for _ in 0..3 {
        let before = packets();
        tokio::time::sleep(WATCHED).await;
        let rate = (packets() - before) as f64 / WATCHED.as_secs_f64();
        println!("{STREAMS} idle streams: {rate:.2} packets/s in all, both sides together");
        least = least.min(rate);
        if least <= 6.0 {
            break;
        }
    }
    assert!(least <= 6.0, "{least}");
    // And they are alive.
    for (requests, replies) in &mut idle {
        requests.send(ask("x")).await.unwrap();
        let reply = timeout(SOON, replies.message()).await.unwrap().unwrap();
        assert_eq!(reply.unwrap().text, "x");
    }
}

/// A client that pulls asks again when it was told that there is nothing yet, and no sooner.
#[tokio::test]
async fn idle_streams_that_are_pulled_ask_twenty_times_a_second() {
    let host = serve("homa").await;
    let endpoint = host.endpoint_at("?stream=pull");
    let channel = endpoint.connect().await.unwrap();
    let mut client = big_client(channel.clone());
    let (requests, body) = mpsc::channel::<CallRequest>(1);
    let chat = client.chat(ReceiverStream::new(body)).await.unwrap();
    let mut replies = chat.into_inner();
    let monitor = channel.monitor().unwrap();
    let sent = || monitor.counters().unwrap().protocol.sent(Kind::Data);
    for _ in 0..2 {
        let before = sent();
        assert!(
            timeout(Duration::from_secs(1), replies.message())
                .await
                .is_err()
        );
        let asked = sent() - before;
        assert!((5..=25).contains(&asked), "asked {asked} times in a second");
        requests.send(ask("x")).await.unwrap();
        let reply = timeout(SOON, replies.message()).await.unwrap().unwrap();
        assert_eq!(reply.unwrap().text, "x");
    }
}

/// Resident memory of this process.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}
