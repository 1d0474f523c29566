//! Deadlines, on both ends, and cancellation.

mod common;

use std::time::{Duration, Instant};

use common::*;
use tonic::{Code, Request};
use tonic_homa::transport::Server;

fn slow(delay_ms: u32) -> CallRequest {
    CallRequest {
        delay_ms,
        ..ask("slow")
    }
}

#[tokio::test]
async fn the_clients_timeout_ends_the_call_and_the_handler() {
    let host = serve("homa").await;
    let endpoint = host.endpoint().timeout(Duration::from_millis(100));
    let mut client = TestClient::new(endpoint.connect().await.unwrap());
    let start = Instant::now();
    let status = client.call(slow(5_000)).await.unwrap_err();
    let took = start.elapsed();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(
        took >= Duration::from_millis(95) && took < Duration::from_secs(2),
        "{took:?}"
    );
    let service = host.service.clone();
    eventually("the handler is gone", || service.running() == 0).await;
    assert_eq!((host.service.started(), host.service.finished()), (1, 0));
    assert_eq!(
        client.call(ask("on")).await.unwrap().into_inner().text,
        "on"
    );
}

#[tokio::test]
async fn both_timeouts_reach_the_server_as_the_lesser() {
    let host = serve("homa").await;
    for (endpoint, request, most) in [
        (Some(3), None, 3),
        (None, Some(2), 2),
        (Some(3), Some(2), 2),
        (Some(2), Some(3), 2),
    ] {
        let mut channel = host.endpoint();
        if let Some(seconds) = endpoint {
            channel = channel.timeout(Duration::from_secs(seconds));
        }
        let mut client = TestClient::new(channel.connect().await.unwrap());
        let mut message = Request::new(ask("x"));
        if let Some(seconds) = request {
            message.set_timeout(Duration::from_secs(seconds));
        }
        let timeout = client.call(message).await.unwrap().into_inner().timeout;
        let micros: u64 = timeout.strip_suffix('u').unwrap().parse().unwrap();
        let most = most * 1_000_000;
        assert!(micros <= most && micros > most - 1_000_000, "{timeout}");
    }
    let none = host
        .client()
        .await
        .call(ask("x"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(none.timeout, "");
}

#[tokio::test]
async fn the_servers_timeout_counts_as_well() {
    let server = Server::builder().timeout(Duration::from_millis(100));
    let host = serve_with("homa", server).await;
    let mut client = host.client().await;
    let status = client.call(slow(5_000)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert_eq!(
        client.call(ask("on")).await.unwrap().into_inner().text,
        "on"
    );
    assert_eq!(host.service.running(), 0);
}

#[tokio::test]
async fn the_server_enforces_the_clients_deadline_by_itself() {
    // A client that does not give up: only the server can end this.
    use bytes_of::open;
    let host = serve("homa").await;
    let client = homa_client::Client::bind(&homa_client::Config::default()).unwrap();
    let start = Instant::now();
    let reply = client
        .call(host.addr, open(slow(5_000), 100_000))
        .await
        .unwrap()
        .into_bytes();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(
        String::from_utf8_lossy(&reply).contains("deadline"),
        "{reply:?}"
    );
    // `grpc-status: 4` as a constant.
    assert!(reply.contains(&0x14), "{reply:?}");
}

mod bytes_of {
    use homa_client::Message;
    use prost::Message as _;
    use tonic_homa::frame::{Flight, Frame, Kind, Lengths};

    pub(super) fn open(request: super::CallRequest, deadline_us: u64) -> Message {
        let mut head = Vec::new();
        tonic_homa::metadata::encode_path(b"/tonic_homa.test.v1.Test/Call", &mut head).unwrap();
        let flight = Flight {
            start: true,
            end: true,
            ..Flight::default()
        };
        let kind = Kind::Open {
            flight,
            deadline_us,
            push: false,
        };
        let frame = Frame {
            epoch: 99,
            call: 1,
            going_away: false,
            kind,
        };
        let lengths = Lengths {
            head: head.len() as u32,
            ..Lengths::default()
        };
        let body = request.encode_to_vec();
        let prefix = (body.len() as u32).to_be_bytes();
        [&frame.emit(lengths)[..], &head, &[0], &prefix, &body]
            .concat()
            .into()
    }
}

#[tokio::test]
async fn waiting_for_a_limit_counts_as_well() {
    let host = serve("homa").await;
    let endpoint = host
        .endpoint()
        .concurrency_limit(1)
        .timeout(Duration::from_millis(300));
    let mut client = TestClient::new(endpoint.connect().await.unwrap());
    let mut first = client.clone();
    let first = tokio::spawn(async move { first.call(slow(5_000)).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let start = Instant::now();
    let mut request = Request::new(ask("waits"));
    request.set_timeout(Duration::from_millis(100));
    let status = client.call(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(
        start.elapsed() < Duration::from_millis(280),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(
        first.await.unwrap().unwrap_err().code(),
        Code::DeadlineExceeded
    );
    assert_eq!(host.service.started(), 1);
}

#[tokio::test]
async fn dropping_the_call_ends_the_handler() {
    let host = serve("homa").await;
    let mut client = host.client().await;
    let service = host.service.clone();
    for round in 1..=5 {
        let mut client = client.clone();
        let call = tokio::spawn(async move { client.call(slow(10_000)).await });
        eventually("the handler runs", || service.started() == round).await;
        call.abort();
        eventually("the handler is gone", || service.running() == 0).await;
    }
    assert_eq!(host.service.finished(), 0);
    assert_eq!(
        client.call(ask("on")).await.unwrap().into_inner().text,
        "on"
    );
}

#[tokio::test]
async fn a_cancellation_handle_ends_the_call_and_the_handler() {
    let host = serve("homa").await;
    let mut client = host.client().await;
    let mut request = Request::new(slow(10_000));
    let handle = request.cancellation_handle();
    let call = tokio::spawn(async move { client.call(request).await });
    let service = host.service.clone();
    eventually("the handler runs", || service.started() == 1).await;
    handle.cancel();
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Cancelled);
    eventually("the handler is gone", || service.running() == 0).await;
    assert_eq!(service.finished(), 0);
}
