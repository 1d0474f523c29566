//! tonic's own channel and router over Homa, and over both bridges at once.

mod common;

use std::time::{Duration, Instant};

use common::*;
use tokio_stream::StreamExt;
use tonic::codegen::http;
use tonic::service::Interceptor;
use tonic::{Code, Request, Status};
use tonic_homa::bridge;
use tonic_homa::transport::{Endpoint, Listener, Server};

type TonicChannel = tonic::transport::Channel;

fn client(channel: TonicChannel) -> TestClient<TonicChannel> {
    TestClient::new(channel)
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX)
}

/// tonic's router behind a listener of ours.
async fn serve_bridged(scheme: &str, server: tonic::transport::Server) -> TestHost {
    let service = Service::default();
    let router = { server }.add_service(big(service.clone()));
    serve_future(scheme, service, |listener, stop| async move {
        bridge::server(router)
            .serve_on_with_shutdown([listener], stop)
            .await
    })
    .await
}

/// Which ends of a call are bridged.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bridged {
    Client,
    Server,
    Both,
}

const ENDS: [Bridged; 3] = [Bridged::Client, Bridged::Server, Bridged::Both];

async fn host(ends: Bridged, scheme: &str) -> TestHost {
    match ends {
        Bridged::Client => serve(scheme).await,
        _ => serve_bridged(scheme, tonic::transport::Server::builder()).await,
    }
}

/// Runs `$body` with a generated client on the kind of channel that these ends have.
macro_rules! with_client {
    ($ends:expr, $host:expr, |$client:ident| $body:expr) => {
        match $ends {
            Bridged::Server => {
                #[allow(unused_mut, reason = "some bodies clone it only")]
                let mut $client = $host.client().await;
                $body
            }
            _ => {
                #[allow(unused_mut, reason = "some bodies clone it only")]
                let mut $client = client(bridge::client($host.uri.clone()).await.unwrap());
                $body
            }
        }
    };
}

#[tokio::test]
async fn calls_of_all_sizes_pass() {
    for ends in ENDS {
        for scheme in BOTH {
            let host = host(ends, scheme).await;
            with_client!(ends, host, |client| {
                for size in [0, 1, 1_400, 65_536, 990_000] {
                    let request = CallRequest {
                        payload: vec![7; size],
                        ..ask("x")
                    };
                    let reply = client.call(request).await.unwrap().into_inner();
                    assert!(reply.payload.iter().all(|byte| *byte == 7));
                    assert_eq!(reply.payload.len(), size, "{ends:?} {scheme}");
                }
                if scheme == "http" {
                    let request = CallRequest {
                        payload: vec![7; 5_000_000],
                        ..ask("x")
                    };
                    let reply = client.call(request).await.unwrap().into_inner();
                    assert_eq!(reply.payload.len(), 5_000_000);
                }
            });
        }
    }
}

#[tokio::test]
async fn metadata_and_errors_pass() {
    for ends in ENDS {
        let host = host(ends, "homa").await;
        with_client!(ends, host, |client| {
            let mut request = Request::new(ask("x"));
            let metadata = request.metadata_mut();
            metadata.insert("x-text", "value".parse().unwrap());
            let bytes = tonic::metadata::MetadataValue::from_bytes(&[0, 255, 7]);
            metadata.insert_bin("x-more-bin", bytes.clone());
            let reply = client.call(request).await.unwrap();
            assert_eq!(reply.metadata().get("x-text").unwrap(), "value");
            assert_eq!(reply.metadata().get_bin("x-more-bin").unwrap(), bytes);
            let agent = reply.into_inner().user_agent;
            let both = agent.contains("tonic-homa/") && agent.contains("tonic/");
            assert_eq!(both, ends != Bridged::Server, "{agent}");

            let mut request = Request::new(CallRequest {
                fail_code: Code::Aborted as u32,
                payload: b"details".to_vec(),
                ..ask("why: \u{1f980}")
            });
            request
                .metadata_mut()
                .insert("x-text", "value".parse().unwrap());
            let status = client.call(request).await.unwrap_err();
            assert_eq!(
                (status.code(), status.message(), status.details()),
                (Code::Aborted, "why: \u{1f980}", &b"details"[..])
            );
            assert_eq!(status.metadata().get("x-text").unwrap(), "value");
        });
    }
}

#[tokio::test]
async fn a_handler_knows_its_client() {
    for scheme in BOTH {
        let host = host(Bridged::Both, scheme).await;
        let mut first = client(bridge::client(host.uri.clone()).await.unwrap());
        let reply = first.call(ask("x")).await.unwrap().into_inner();
        assert_eq!(reply.local_addr, host.addr.to_string(), "{scheme}");
        let remote: std::net::SocketAddr = reply.remote_addr.parse().unwrap();
        assert!(remote.ip().is_loopback() && remote != host.addr, "{remote}");
        let again = first.call(ask("x")).await.unwrap().into_inner();
        assert_eq!(again.remote_addr, reply.remote_addr);
    }
}

#[tokio::test]
async fn dropping_a_call_ends_its_handler() {
    for ends in ENDS {
        for scheme in BOTH {
            let host = host(ends, scheme).await;
            with_client!(ends, host, |client| {
                let mut calling = client.clone();
                let call = tokio::spawn(async move {
                    let request = CallRequest {
                        delay_ms: 60_000,
                        ..ask("x")
                    };
                    calling.call(request).await
                });
                eventually("the handler runs", || host.service.running() == 1).await;
                call.abort();
                eventually("the handler is gone", || host.service.running() == 0).await;
                assert_eq!(host.service.finished(), 0);
                client.call(ask("still there")).await.unwrap();
            });
        }
    }
}

#[tokio::test]
async fn deadlines_reach_the_handler() {
    for ends in ENDS {
        let host = host(ends, "homa").await;
        with_client!(ends, host, |client| {
            let mut request = Request::new(CallRequest {
                delay_ms: 60_000,
                ..ask("x")
            });
            request.set_timeout(Duration::from_millis(100));
            let start = Instant::now();
            let status = client.call(request).await.unwrap_err();
            // tonic's own ends call it otherwise, and either may be first.
            let codes = [Code::DeadlineExceeded, Code::Cancelled];
            assert!(codes.contains(&status.code()), "{ends:?}: {status}");
            assert!(start.elapsed() < Duration::from_secs(5));
            eventually("the handler is gone", || host.service.running() == 0).await;
        });
    }
}

#[tokio::test]
async fn a_server_that_is_gone_is_unavailable() {
    let mut host = host(Bridged::Both, "homa").await;
    let mut client = client(bridge::client(host.uri.clone()).await.unwrap());
    client.call(ask("x")).await.unwrap();
    host.stop();
    let uri = host.uri.clone();
    host.ended().await.unwrap();
    let status = client.call(ask("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(bridge::client(uri.clone()).await.is_err());
    let mut lazy = self::client(bridge::client_lazy(uri).unwrap());
    let status = lazy.call(ask("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(bridge::client("homa://nowhere").await.is_err());
}

#[tokio::test]
async fn open_calls_finish_when_a_bridged_router_stops() {
    let mut host = host(Bridged::Both, "homa").await;
    let mut client = client(bridge::client(host.uri.clone()).await.unwrap());
    let call = tokio::spawn(async move {
        let request = CallRequest {
            delay_ms: 300,
            ..ask("x")
        };
        client.call(request).await
    });
    let service = host.service.clone();
    eventually("the handler runs", || service.running() == 1).await;
    host.stop();
    host.ended().await.unwrap();
    call.await.unwrap().unwrap();
    assert_eq!(service.finished(), 1);
}

#[derive(Clone)]
struct Refuse;

impl Interceptor for Refuse {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        match request.metadata().get("x-refuse") {
            Some(_) => Err(Status::permission_denied("the layer refuses")),
            None => Ok(request),
        }
    }
}

#[tokio::test]
async fn what_the_router_was_built_with_holds() {
    let server = tonic::transport::Server::builder()
        .concurrency_limit_per_connection(2)
        .load_shed(true)
        .layer(tonic::service::interceptor::InterceptorLayer::new(Refuse));
    let service = Service::default();
    let router = { server }.add_service(big(service.clone()));
    let host = serve_future("homa", service, |listener, stop| async move {
        bridge::server(router)
            .settings(Server::builder().max_metadata_bytes(2_000)?)
            .serve_on_with_shutdown([listener], stop)
            .await
    })
    .await;
    let client = host.client().await;
    let mut request = Request::new(ask("x"));
    request
        .metadata_mut()
        .insert("x-refuse", "1".parse().unwrap());
    let status = client.clone().call(request).await.unwrap_err();
    assert_eq!(status.message(), "the layer refuses");

    let slow = CallRequest {
        delay_ms: 60_000,
        ..ask("x")
    };
    let slow: Vec<_> = (0..2)
        .map(|_| {
            let (mut client, slow) = (client.clone(), slow.clone());
            tokio::spawn(async move { client.call(slow).await })
        })
        .collect();
    eventually("both run", || host.service.running() == 2).await;
    let status = client.clone().call(ask("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    for slow in slow {
        slow.abort();
    }
    // The outer side's own limit.
    let mut request = Request::new(ask("x"));
    let long = "y".repeat(3_000).parse().unwrap();
    request.metadata_mut().insert("x-long", long);
    let status = client.clone().call(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
}

#[tokio::test]
async fn connections_that_the_router_closes_are_opened_again() {
    let server = tonic::transport::Server::builder().max_connection_age(Duration::from_millis(20));
    let host = serve_bridged("homa", server).await;
    let mut client = host.client().await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        client.call(ask("x")).await.unwrap();
    }
}

#[tokio::test]
async fn many_calls_share_the_pipe() {
    let host = host(Bridged::Both, "homa").await;
    let channel = bridge::client(host.uri.clone()).await.unwrap();
    let calls: Vec<_> = (0..500)
        .map(|number: u32| {
            let mut client = client(channel.clone());
            tokio::spawn(async move {
                let request = CallRequest {
                    payload: vec![1; 3_000],
                    delay_ms: number % 7,
                    ..ask(&number.to_string())
                };
                // Half of them are given up.
                let wait = Duration::from_millis(if number.is_multiple_of(2) { 1 } else { 60_000 });
                match tokio::time::timeout(wait, client.call(request)).await {
                    Ok(reply) => assert_eq!(reply.unwrap().into_inner().text, number.to_string()),
                    Err(_) => assert!(number.is_multiple_of(2)),
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    client(channel).call(ask("still there")).await.unwrap();
}

/// Streams over one transport; the sides that are bridged do not matter to what arrives.
async fn streams_pass(scheme: &str) {
    for ends in ENDS {
        let host = host(ends, scheme).await;
        with_client!(ends, host, |client| {
            let request = CallRequest {
                count: 5,
                pause: true,
                reply_bytes: 10,
                ..ask("")
            };
            let replies = client.down(request).await.unwrap().into_inner();
            let replies: Vec<_> = replies.map(|reply| reply.unwrap().text).collect().await;
            assert_eq!(replies, ["0", "1", "2", "3", "4"], "{ends:?}");

            let paused = tokio_stream::iter(["a", "b", "c"]).then(|text| async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                ask(text)
            });
            let reply = client.up(paused).await.unwrap().into_inner();
            assert_eq!(reply.text, "abc", "{ends:?}");

            // One goes up only after the one before has come down.
            let (up, requests) = tokio::sync::mpsc::unbounded_channel();
            let requests = tokio_stream::wrappers::UnboundedReceiverStream::new(requests);
            up.send(ask("0")).unwrap();
            let mut down = client.chat(requests).await.unwrap().into_inner();
            for number in 0..20 {
                let reply = down.message().await.unwrap().unwrap();
                assert_eq!(reply.text, number.to_string(), "{ends:?}");
                up.send(ask(&(number + 1).to_string())).unwrap();
            }
            drop(up);
            assert!(down.message().await.unwrap().is_some());
            assert!(down.message().await.unwrap().is_none());

            // A stream that nobody wants any more ends at the server.
            let request = CallRequest {
                count: u32::MAX,
                pause: true,
                ..ask("")
            };
            let mut replies = client.down(request).await.unwrap().into_inner();
            replies.message().await.unwrap().unwrap();
            drop(replies);
            let running = || host.service.running();
            eventually("the stream is gone", || running() == 0).await;
            client.call(ask("still there")).await.unwrap();
        });
    }
}

#[tokio::test]
async fn streams_of_every_kind_pass() {
    for scheme in STREAMS {
        streams_pass(scheme).await;
    }
}

#[tokio::test]
async fn a_balanced_channel_can_be_bridged() {
    let hosts = [serve("homa").await, serve("http").await];
    let channel =
        tonic_homa::transport::Channel::balance_list(hosts.iter().map(TestHost::endpoint));
    let mut client = client(bridge::channel(channel));
    for _ in 0..40 {
        client.call(ask("x")).await.unwrap();
    }
    assert!(hosts.iter().all(|host| host.service.started() > 0));
}

#[tokio::test]
async fn a_bridged_router_listens_by_itself() {
    let service = Service::default();
    let taken = Listener::bind("homa://127.0.0.1:0").await.unwrap();
    let uri = taken.uri();
    let router =
        || tonic::transport::Server::builder().add_service(TestServer::new(service.clone()));
    assert!(bridge::server(router()).serve(uri.clone()).await.is_err());
    drop(taken);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = bridge::server(router()).serve_with_shutdown(uri.clone(), async {
        let _ = stopped.await;
    });
    let serving = tokio::spawn(serving);
    let endpoint = Endpoint::from_shared(uri)
        .unwrap()
        .origin(http::Uri::from_static("http://x"));
    let channel = bridge::client_lazy(endpoint).unwrap();
    client(channel).call(ask("x")).await.unwrap();
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
}
