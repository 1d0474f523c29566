//! Graceful shutdown.

mod common;

use std::time::{Duration, Instant};

use common::*;
use homa_client::Executed;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_homa::frame::ResetReason;
use tonic_homa::transport::{Channel, Endpoint, Listener, ResetError, Server};

#[tokio::test]
async fn open_calls_finish_and_new_ones_are_refused_as_not_run() {
    let mut host = serve("homa").await;
    let mut client = host.client().await;
    let mut open = client.clone();
    let open = tokio::spawn(async move {
        open.call(CallRequest {
            delay_ms: 400,
            ..ask("open")
        })
        .await
    });
    let service = host.service.clone();
    eventually("the handler runs", || service.started() == 1).await;
    host.stop();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let status = client.call(ask("new")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let source = std::error::Error::source(&status).unwrap();
    let reset = source.downcast_ref::<ResetError>().unwrap();
    assert_eq!(
        (reset.reason, reset.executed()),
        (ResetReason::Stopping, Executed::No)
    );
    assert_eq!(open.await.unwrap().unwrap().into_inner().text, "open");
    host.ended().await.unwrap();
    assert_eq!(service.started(), 1);
    let status = client.call(ask("nobody")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

#[tokio::test]
async fn calls_that_outlast_the_grace_are_answered_unavailable() {
    let server = Server::builder().shutdown_grace(Duration::from_millis(100));
    let mut host = serve_with("homa", server).await;
    let mut client = host.client().await;
    let call = tokio::spawn(async move {
        client
            .call(CallRequest {
                delay_ms: 30_000,
                ..ask("long")
            })
            .await
    });
    let service = host.service.clone();
    eventually("the handler runs", || service.started() == 1).await;
    let start = Instant::now();
    host.stop();
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("stopped"), "{status}");
    host.ended().await.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    assert_eq!((service.running(), service.finished()), (0, 0));
}

#[tokio::test]
async fn an_idle_server_stops_at_once() {
    for scheme in BOTH {
        let mut host = serve(scheme).await;
        let start = Instant::now();
        host.stop();
        host.ended().await.unwrap();
        assert!(
            start.elapsed() < Duration::from_millis(1_500),
            "{scheme} {:?}",
            start.elapsed()
        );
    }
}

/// An open stream whose requests are held back.
async fn chat(
    client: &mut TestClient<Channel>,
) -> (mpsc::Sender<CallRequest>, tonic::Streaming<CallReply>) {
    let (requests, body) = mpsc::channel(1);
    let replies = client.chat(ReceiverStream::new(body)).await.unwrap();
    (requests, replies.into_inner())
}

#[tokio::test]
async fn open_streams_go_on_while_the_server_stops() {
    for mode in ["", "?stream=pull"] {
        let mut host = serve("homa").await;
        let mut client = host.client_at(mode).await;
        let (requests, mut replies) = chat(&mut client).await;
        requests.send(ask("before")).await.unwrap();
        assert_eq!(replies.message().await.unwrap().unwrap().text, "before");
        let stopping = {
            host.stop();
            tokio::spawn(host.ended())
        };
        // Until the server refuses calls.
        let began = Instant::now();
        let status = loop {
            match client.call(ask("new")).await {
                Ok(_) => assert!(began.elapsed() < Duration::from_secs(5)),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        for text in ["still", "here"] {
            requests.send(ask(text)).await.unwrap();
            assert_eq!(
                replies.message().await.unwrap().unwrap().text,
                text,
                "{mode}"
            );
        }
        drop(requests);
        assert!(replies.message().await.unwrap().is_none());
        stopping.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn streams_that_outlast_the_grace_end_unavailable() {
    for mode in ["", "?stream=pull"] {
        let server = Server::builder().shutdown_grace(Duration::from_millis(100));
        let mut host = serve_with("homa", server).await;
        let mut client = host.client_at(mode).await;
        let (_requests, mut replies) = chat(&mut client).await;
        let service = host.service.clone();
        let start = Instant::now();
        host.stop();
        let status = replies.message().await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{mode} {status}");
        assert!(status.message().contains("stopped"), "{mode} {status}");
        assert!(start.elapsed() < Duration::from_secs(2));
        host.ended().await.unwrap();
        assert_eq!(service.running(), 0);
    }
}

/// As over TCP: whoever drops the future of a server has no server any more.
#[tokio::test]
async fn a_server_that_is_dropped_ends_its_calls_and_frees_its_port() {
    let listener = Listener::bind("homa://127.0.0.1:0?engine=udp")
        .await
        .unwrap();
    let (uri, service) = (listener.uri(), Service::default());
    let router = Server::builder().add_service(big(service.clone()));
    let serving = tokio::spawn(router.serve_on([listener]));
    let endpoint = Endpoint::from_shared(uri.clone()).unwrap();
    let mut client = big_client(endpoint.connect().await.unwrap());
    let (_requests, mut replies) = chat(&mut client).await;
    serving.abort();
    let failed = tokio::time::timeout(Duration::from_secs(5), replies.message()).await;
    assert_eq!(failed.unwrap().unwrap_err().code(), Code::Unavailable);
    eventually("the handler is gone", || service.running() == 0).await;
    let began = Instant::now();
    while let Err(error) = Listener::bind(uri.clone()).await {
        assert!(began.elapsed() < Duration::from_secs(5), "{error}");
        // Binding does not let the endpoint's own task run.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
