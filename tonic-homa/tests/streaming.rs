//! Streams of all kinds, over both transports and both ways in which pieces of responses come.

mod common;

use std::time::{Duration, Instant};

use common::*;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};
use tonic_homa::transport::{Channel, Endpoint, Listener, Server};

const SOON: Duration = Duration::from_secs(5);

/// Servers to be called in each of the ways that a URI can name.
async fn everywhere() -> Vec<(TestHost, &'static str)> {
    vec![
        (serve("homa").await, ""),
        (serve("homa").await, "?stream=pull"),
        (serve("http").await, ""),
    ]
}

fn paused(requests: Vec<CallRequest>) -> impl tokio_stream::Stream<Item = CallRequest> {
    tokio_stream::iter(requests).then(|request| async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        request
    })
}

async fn texts(stream: tonic::Streaming<CallReply>) -> Vec<String> {
    let replies = stream.map(|reply| reply.unwrap().text);
    timeout(SOON, replies.collect()).await.unwrap()
}

fn numbers(count: u32) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn slow_streams_arrive_in_order_and_end() {
    for (host, mode) in everywhere().await {
        let mut client = host.client_at(mode).await;
        let request = CallRequest {
            count: 5,
            pause: true,
            ..ask("")
        };
        let down = client.down(request).await.unwrap().into_inner();
        assert_eq!(texts(down).await, numbers(5), "{mode}");
        let up = client.up(paused(["a", "b", "c"].map(ask).into())).await;
        assert_eq!(up.unwrap().into_inner().text, "abc");
        let chat = client.chat(paused(["a", "b", "c"].map(ask).into())).await;
        assert_eq!(texts(chat.unwrap().into_inner()).await, ["a", "b", "c"]);
        assert_eq!(host.service.started(), 3);
    }
}

#[tokio::test]
async fn streams_that_are_ready_at_once_are_one_message_each_way() {
    for (host, mode) in everywhere().await {
        let mut client = host.client_at(mode).await;
        for count in [0, 1, 100] {
            let request = CallRequest {
                count,
                reply_bytes: 100,
                ..ask("")
            };
            let replies = client.down(request).await.unwrap().into_inner();
            assert_eq!(texts(replies).await, numbers(count), "{mode}");
        }
        let requests = ["a", "b", "c"].map(ask);
        let up = client.up(tokio_stream::iter(requests.clone())).await;
        assert_eq!(up.unwrap().into_inner().text, "abc");
        let chat = client.chat(tokio_stream::iter(requests)).await.unwrap();
        assert_eq!(texts(chat.into_inner()).await, ["a", "b", "c"]);
        if host.uri.starts_with("homa") {
            assert_eq!(host.calls.counters().streams, 0, "no piece was needed");
        }
    }
}

#[tokio::test]
async fn messages_alternate_for_as_long_as_both_like() {
    for (host, mode) in everywhere().await {
        let mut client = host.client_at(mode).await;
        let (ask_for, requests) = mpsc::channel(1);
        let chat = client.chat(ReceiverStream::new(requests)).await.unwrap();
        let mut replies = chat.into_inner();
        for round in 0..200 {
            let size = [0, 1, 1_400, 70_000][round % 4];
            let request = CallRequest {
                text: round.to_string(),
                payload: vec![1; size],
                reply_bytes: size as u32,
                ..CallRequest::default()
            };
            ask_for.send(request).await.unwrap();
            let reply = timeout(SOON, replies.message()).await.unwrap().unwrap();
            let reply = reply.unwrap();
            assert_eq!(reply.text, round.to_string(), "{mode}");
            assert_eq!(
                (reply.received_bytes, reply.payload.len()),
                (size as u32, size)
            );
        }
        drop(ask_for);
        assert!(
            timeout(SOON, replies.message())
                .await
                .unwrap()
                .unwrap()
                .is_none()
        );
    }
}

#[tokio::test]
async fn the_server_may_speak_first_and_headers_come_alone() {
    for (host, mode) in everywhere().await {
        let mut client = host.client_at(mode).await;
        // Nothing is ever sent on this one.
        let (silent, requests) = mpsc::channel::<CallRequest>(1);
        let mut request = Request::new(ReceiverStream::new(requests));
        request
            .metadata_mut()
            .insert("x-greeting", "1".parse().unwrap());
        let chat = timeout(SOON, client.chat(request)).await.unwrap().unwrap();
        let mut replies = chat.into_inner();
        let greeting = timeout(SOON, replies.message()).await.unwrap().unwrap();
        assert_eq!(greeting.unwrap().text, "hello", "{mode}");
        drop(silent);
        assert!(
            timeout(SOON, replies.message())
                .await
                .unwrap()
                .unwrap()
                .is_none()
        );

        let (silent, requests) = mpsc::channel::<CallRequest>(1);
        let mut request = Request::new(ReceiverStream::new(requests));
        request
            .metadata_mut()
            .insert("x-mark", "7".parse().unwrap());
        let chat = timeout(SOON, client.chat(request)).await.unwrap().unwrap();
        assert_eq!(chat.metadata().get("x-mark").unwrap(), "7");
        drop(silent);
        assert!(texts(chat.into_inner()).await.is_empty());
    }
}

#[tokio::test]
async fn long_streams_are_whole_and_in_order_both_ways() {
    for (host, mode) in everywhere().await {
        let mut client = host.client_at(mode).await;
        let request = CallRequest {
            count: 5_000,
            reply_bytes: 3_000,
            ..ask("")
        };
        let down = client.down(request).await.unwrap().into_inner();
        assert_eq!(texts(down).await, numbers(5_000), "{mode}");
        let requests = (0..5_000).map(|_| CallRequest {
            payload: vec![1; 3_000],
            ..ask("x")
        });
        let up = client.up(tokio_stream::iter(requests));
        let up = timeout(SOON, up).await.expect(mode).unwrap().into_inner();
        assert_eq!((up.text.len(), up.received_bytes), (5_000, 15_000_000));
    }
}

#[tokio::test]
async fn failures_come_after_what_was_sent_and_before_it_too() {
    for (host, mode) in everywhere().await {
        let mut client = host.client_at(mode).await;
        for count in [1, 300] {
            let request = CallRequest {
                count,
                reply_bytes: 1_000,
                fail_code: Code::DataLoss as u32,
                ..ask("lost")
            };
            let mut down = client.down(request).await.unwrap().into_inner();
            for _ in 0..count {
                assert!(down.message().await.unwrap().is_some());
            }
            let status = down.message().await.unwrap_err();
            assert_eq!((status.code(), status.message()), (Code::DataLoss, "lost"));
        }
        let mut failing = ask("no");
        failing.fail_code = Code::Aborted as u32;
        let chat = client
            .chat(paused(vec![ask("yes"), failing, ask("late")]))
            .await;
        let mut chat = chat.unwrap().into_inner();
        assert_eq!(chat.message().await.unwrap().unwrap().text, "yes");
        assert_eq!(chat.message().await.unwrap_err().code(), Code::Aborted);
        // Refused before a request was read, while more are on their way.
        let endless = tokio_stream::iter((0..).map(|_| CallRequest {
            payload: vec![1; 10_000],
            ..ask("")
        }));
        let mut request = Request::new(endless);
        request
            .metadata_mut()
            .insert("x-refused", "1".parse().unwrap());
        let status = timeout(SOON, client.up(request))
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::PermissionDenied, "as told")
        );
        assert_works(&mut client).await;
        eventually("no handler is left", || host.service.running() == 0).await;
    }
}

async fn assert_works(client: &mut TestClient<Channel>) {
    let reply = timeout(SOON, client.call(ask("on")))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(reply.into_inner().text, "on");
}

#[tokio::test]
async fn a_panic_in_a_stream_fails_that_stream() {
    for mode in ["", "?stream=pull"] {
        let host = serve("homa").await;
        let mut client = host.client_at(mode).await;
        let mut panics = ask("");
        panics.panic = true;
        let chat = client.chat(paused(vec![ask("a"), panics])).await.unwrap();
        let mut chat = chat.into_inner();
        assert_eq!(chat.message().await.unwrap().unwrap().text, "a");
        let status = timeout(SOON, chat.message()).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{mode} {status}");
        assert_works(&mut client).await;
    }
}

/// Dropped after the headers, after the first reply, and while the request goes on.
#[tokio::test]
async fn dropping_a_stream_ends_its_handler_at_once() {
    for (host, mode) in everywhere().await {
        let mut client = host.client_at(mode).await;
        for messages in [0, 1] {
            let request = CallRequest {
                count: 10_000,
                reply_bytes: 100,
                pause: true,
                ..ask("")
            };
            let mut down = client.down(request).await.unwrap().into_inner();
            for _ in 0..messages {
                down.message().await.unwrap().unwrap();
            }
            assert_eq!(host.service.running(), 1);
            drop(down);
            eventually("the handler is gone", || host.service.running() == 0).await;
        }
        let (held, requests) = mpsc::channel(4);
        held.send(ask("a")).await.unwrap();
        let up = {
            let mut client = client.clone();
            tokio::spawn(async move { client.up(ReceiverStream::new(requests)).await })
        };
        eventually("the handler runs", || host.service.running() == 1).await;
        up.abort();
        eventually("the handler is gone", || host.service.running() == 0).await;
        // tonic takes a cancelled stream for one that has ended.
        assert!(
            host.uri.starts_with("http") || !host.service.ends().contains(&"end".to_owned()),
            "{mode}: {:?}",
            host.service.ends()
        );
        assert_works(&mut client).await;
    }
}

#[tokio::test]
async fn a_cancellation_handle_ends_call_and_handler() {
    for mode in ["", "?stream=pull"] {
        let host = serve("homa").await;
        let mut client = host.client_at(mode).await;
        let (held, requests) = mpsc::channel(4);
        held.send(ask("a")).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(requests));
        let handle = request.cancellation_handle();
        let chat = client.chat(request).await.unwrap();
        let mut chat = chat.into_inner();
        assert_eq!(chat.message().await.unwrap().unwrap().text, "a");
        handle.cancel();
        let status = timeout(SOON, chat.message()).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Cancelled, "{mode}");
        eventually("the handler is gone", || host.service.running() == 0).await;
    }
}

#[tokio::test]
async fn the_deadline_covers_the_whole_stream_on_both_sides() {
    for mode in ["", "?stream=pull"] {
        let host = serve("homa").await;
        let mut client = host.client_at(mode).await;
        let mut request = Request::new(CallRequest {
            count: 10_000,
            pause: true,
            ..ask("")
        });
        request.set_timeout(Duration::from_millis(100));
        let began = Instant::now();
        let mut down = client.down(request).await.unwrap().into_inner();
        let status = loop {
            match timeout(SOON, down.message()).await.unwrap() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a clean end"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::DeadlineExceeded, "{mode} {status}");
        assert!(began.elapsed() < Duration::from_secs(1));
        eventually("the handler is gone", || host.service.running() == 0).await;

        // One that nobody reads is ended by the server.
        let mut request = Request::new(CallRequest {
            count: 10_000,
            pause: true,
            ..ask("")
        });
        request.set_timeout(Duration::from_millis(50));
        let unread = client.down(request).await.unwrap();
        eventually("the handler is gone", || host.service.running() == 0).await;
        drop(unread);

        // Before there are headers.
        let (_silent, requests) = mpsc::channel::<CallRequest>(1);
        let mut request = Request::new(ReceiverStream::new(requests));
        request.set_timeout(Duration::from_millis(50));
        let status = timeout(SOON, client.up(request))
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        eventually("the handler is gone", || host.service.running() == 0).await;
    }
}

#[tokio::test]
async fn compression_works_for_streams() {
    use tonic::codec::CompressionEncoding::Gzip;
    for mode in ["", "?stream=pull"] {
        let service = Service::default();
        let compressed = big(service.clone())
            .send_compressed(Gzip)
            .accept_compressed(Gzip);
        let router = tonic_homa::transport::Server::builder().add_service(compressed);
        let host = serve_router("homa", service, router).await;
        let client = host.client_at(mode).await;
        let mut client = client.send_compressed(Gzip).accept_compressed(Gzip);
        let request = CallRequest {
            count: 200,
            reply_bytes: 10_000,
            ..ask("")
        };
        let down = client.down(request).await.unwrap().into_inner();
        assert_eq!(texts(down).await, numbers(200));
        let chat = client
            .chat(paused(["a", "b"].map(ask).into()))
            .await
            .unwrap();
        assert_eq!(texts(chat.into_inner()).await, ["a", "b"]);
    }
}

#[tokio::test]
async fn many_streams_at_once_do_not_mix() {
    let host = serve("homa").await;
    let client = host.client().await;
    let tasks = (0..100).map(|at: u32| {
        let mut client = client.clone();
        tokio::spawn(async move {
            let asks = (0..20).map(|round| ask(&format!("{at}-{round}")));
            let chat = client.chat(paused(asks.collect())).await.unwrap();
            let expected: Vec<_> = (0..20).map(|round| format!("{at}-{round}")).collect();
            assert_eq!(texts(chat.into_inner()).await, expected);
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(host.service.started(), 100);
    eventually("all is given back", || {
        host.calls.counters().stream_bytes == 0
    })
    .await;
}

/// As over TCP, the limit of calls in the handlers does not count streams whose response has begun;
/// the limit of open calls does.
#[tokio::test]
async fn limits_tell_handlers_from_open_streams() {
    for scheme in BOTH {
        let handlers = Server::builder().concurrency_limit_per_connection(1);
        let host = serve_with(scheme, handlers).await;
        let mut client = host.client().await;
        let (requests, body) = mpsc::channel::<CallRequest>(1);
        let open = client.chat(ReceiverStream::new(body)).await.unwrap();
        assert_works(&mut client).await;
        drop((open, requests));

        let open_calls = Server::builder().max_concurrent_streams(1);
        let host = serve_with(scheme, open_calls).await;
        let mut client = host.client().await;
        let (requests, body) = mpsc::channel::<CallRequest>(1);
        let open = client.chat(ReceiverStream::new(body)).await.unwrap();
        let mut other = client.clone();
        let mut waits = tokio::spawn(async move { other.call(ask("late")).await });
        assert!(
            timeout(Duration::from_millis(100), &mut waits)
                .await
                .is_err()
        );
        drop((open, requests));
        let reply = timeout(SOON, waits).await.unwrap().unwrap().unwrap();
        assert_eq!(reply.into_inner().text, "late", "{scheme}");
    }
}

/// Head and tail fit into a message each, but not together.
#[tokio::test]
async fn metadata_that_needs_two_messages_ends_an_empty_body() {
    for mode in ["", "?stream=pull"] {
        let server = Server::builder().max_message_bytes(1_000).unwrap();
        let host = serve_with("homa", server).await;
        let mut client = host.client_at(mode).await;
        let (requests, body) = mpsc::channel(1);
        let mut request = Request::new(ReceiverStream::new(body));
        let long = "y".repeat(600);
        request
            .metadata_mut()
            .insert("x-long", long.parse().unwrap());
        let chat = client.chat(request).await.unwrap();
        assert_eq!(chat.metadata().get("x-long").unwrap(), long.as_str());
        let mut fails = ask(&"z".repeat(600));
        fails.fail_code = Code::Aborted as u32;
        requests.send(fails).await.unwrap();
        let failed = timeout(SOON, chat.into_inner().message()).await.unwrap();
        assert_eq!(failed.unwrap_err().code(), Code::Aborted, "{mode}");
    }
}

/// A server whose memory for what it sends is full answers when there is room again.
#[tokio::test]
async fn replies_wait_for_room() {
    let mut config = homa_client::Config::default();
    config.protocol.send_bytes = 1_000_000;
    let uri = "homa://127.0.0.1:0?engine=udp";
    let listener = Listener::bind_with(uri, config).await.unwrap();
    let endpoint = Endpoint::from_shared(listener.uri()).unwrap();
    let router = Server::builder().add_service(big(Service::default()));
    tokio::spawn(router.serve_on([listener]));
    let client = big_client(endpoint.connect().await.unwrap());
    let calls = (0..4).map(|_| {
        let mut client = client.clone();
        let request = CallRequest {
            reply_bytes: 600_000,
            ..ask("")
        };
        tokio::spawn(async move { client.call(request).await })
    });
    for call in calls.collect::<Vec<_>>() {
        let reply = timeout(SOON, call).await.unwrap().unwrap().unwrap();
        assert_eq!(reply.into_inner().payload.len(), 600_000);
    }
}
