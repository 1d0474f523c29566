//! One channel over several servers: spreading, moving, failing, coming back; and the step from
//! Homa to TCP.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::*;
use tonic::Code;
use tonic_homa::transport::channel::Change;
use tonic_homa::transport::{Channel, Endpoint, Error, Listener, Server};

/// A server at an address where one was before.
async fn serve_again(uri: &str, service: Service) -> tokio::task::JoinHandle<Result<(), Error>> {
    let listener = Listener::bind(uri).await.unwrap();
    let router = Server::builder().add_service(TestServer::new(service));
    tokio::spawn(router.serve_on([listener]))
}

#[tokio::test]
async fn calls_spread_over_servers_of_both_transports() {
    let hosts = [
        serve("homa").await,
        serve("http").await,
        serve("homa").await,
    ];
    let channel = Channel::balance_list(hosts.iter().map(TestHost::endpoint));
    let mut client = TestClient::new(channel);
    for _ in 0..60 {
        client.call(ask("x")).await.unwrap();
    }
    let started = hosts.each_ref().map(|host| host.service.started());
    assert_eq!(started.iter().sum::<usize>(), 60);
    assert!(started.iter().all(|calls| *calls >= 5), "{started:?}");
}

#[tokio::test]
async fn a_busy_server_gets_no_more_while_another_is_idle() {
    for scheme in BOTH {
        let hosts = [serve(scheme).await, serve(scheme).await];
        let channel = Channel::balance_list(hosts.iter().map(TestHost::endpoint));
        let mut slow = TestClient::new(channel.clone());
        let slow = tokio::spawn(async move {
            let request = CallRequest {
                delay_ms: 60_000,
                ..ask("")
            };
            slow.call(request).await
        });
        let running = || {
            hosts
                .iter()
                .map(|host| host.service.running())
                .sum::<usize>()
        };
        eventually("the slow call runs", || running() == 1).await;
        let mut client = TestClient::new(channel);
        for _ in 0..20 {
            client.call(ask("x")).await.unwrap();
        }
        let (busy, idle) = match hosts[0].service.running() {
            1 => (&hosts[0], &hosts[1]),
            _ => (&hosts[1], &hosts[0]),
        };
        let started = (busy.service.started(), idle.service.started());
        assert_eq!(started, (1, 20), "{scheme}");
        slow.abort();
    }
}

#[tokio::test]
async fn a_server_that_is_gone_is_put_aside_and_comes_back() {
    for scheme in BOTH {
        let stays = serve(scheme).await;
        let mut goes = serve(scheme).await;
        let (uri, seen) = (goes.uri.clone(), goes.service.started.clone());
        let channel = Channel::balance_list([stays.endpoint(), goes.endpoint()].into_iter());
        let mut client = TestClient::new(channel);
        for _ in 0..20 {
            client.call(ask("x")).await.unwrap();
        }
        assert!(goes.service.started() > 0, "{scheme}");
        goes.stop();
        goes.ended().await.unwrap();

        // The call that finds out goes to the other one, and none after it tries.
        let before = stays.service.started();
        for _ in 0..40 {
            client.call(ask("x")).await.unwrap();
        }
        assert_eq!(stays.service.started() - before, 40, "{scheme}");

        let again = Service {
            started: seen.clone(),
            ..Service::default()
        };
        let before = again.started();
        let server = serve_again(&uri, again.clone()).await;
        let calls = async {
            // Nothing fails any more: its return is for the probe to find out.
            while again.started() == before {
                client.call(ask("x")).await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(10), calls)
            .await
            .unwrap_or_else(|_| panic!("{scheme}: did not come back"));
        server.abort();
    }
}

#[tokio::test]
async fn a_call_that_may_have_run_is_not_repeated() {
    for scheme in BOTH {
        let hosts = [serve(scheme).await, serve(scheme).await];
        let channel = Channel::balance_list(hosts.iter().map(TestHost::endpoint));
        let mut client = TestClient::new(channel);
        let request = CallRequest {
            fail_code: Code::Unavailable as u32,
            ..ask("the handler says so")
        };
        let status = client.call(request).await.unwrap_err();
        assert_eq!(status.message(), "the handler says so", "{scheme}");
        let started = hosts.iter().map(|host| host.service.started());
        assert_eq!(started.sum::<usize>(), 1, "{scheme}");
    }
}

#[tokio::test]
async fn with_all_servers_gone_calls_fail() {
    for scheme in BOTH {
        let mut endpoints = Vec::new();
        for _ in 0..2 {
            let mut host = serve(scheme).await;
            endpoints.push(host.endpoint());
            host.stop();
            host.ended().await.unwrap();
        }
        let mut client = TestClient::new(Channel::balance_list(endpoints.into_iter()));
        for _ in 0..3 {
            let status = client.call(ask("x")).await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{scheme}: {status}");
        }
    }
}

#[tokio::test]
async fn changes_are_followed_while_calls_run() {
    let (first, second) = (serve("homa").await, serve("http").await);
    let (channel, changes) = Channel::balance_channel(4);
    let mut client = TestClient::new(channel);
    let mut early = client.clone();
    let early = tokio::spawn(async move { early.call(ask("early")).await });
    changes
        .send(Change::Insert(1, first.endpoint()))
        .await
        .unwrap();
    early.await.unwrap().unwrap();
    changes
        .send(Change::Insert(2, second.endpoint()))
        .await
        .unwrap();
    changes.send(Change::Remove(1)).await.unwrap();
    for _ in 0..10 {
        client.call(ask("x")).await.unwrap();
    }
    assert_eq!((first.service.started(), second.service.started()), (1, 10));
}

#[tokio::test]
async fn a_list_of_nothing_is_unavailable() {
    let channel = Channel::balance_list(std::iter::empty());
    let status = TestClient::new(channel).call(ask("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

#[tokio::test]
async fn a_call_waits_for_a_server_until_its_deadline() {
    let (channel, _changes) = Channel::balance_channel::<u8>(0);
    let mut request = tonic::Request::new(ask("x"));
    request.set_timeout(Duration::from_millis(20));
    let status = TestClient::new(channel).call(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

/// `homa:` with a fallback, at addresses of this host.
fn with_fallback(homa: SocketAddr, tcp: &str) -> Endpoint {
    Endpoint::from_shared(format!("homa://{homa}?fallback={tcp}"))
        .unwrap()
        .connect_timeout(Duration::from_secs(2))
}

/// An address at which nobody is.
async fn nobody() -> SocketAddr {
    let listener = Listener::bind("homa://127.0.0.1:0").await.unwrap();
    listener.local_addr()
}

#[tokio::test]
async fn a_fallback_is_taken_where_no_server_answers_over_homa() {
    let (homa, tcp) = (serve("homa").await, serve("http").await);
    let present = with_fallback(homa.addr, &tcp.uri);
    let absent = with_fallback(nobody().await, &tcp.uri);
    for (endpoint, over_homa) in [(present, true), (absent, false)] {
        for channel in [endpoint.connect().await.unwrap(), endpoint.connect_lazy()] {
            let mut client = TestClient::new(channel);
            for _ in 0..2 {
                let reply = client.call(ask("x")).await.unwrap().into_inner();
                assert_eq!(reply.over_homa, over_homa);
            }
        }
    }
}

#[tokio::test]
async fn a_channel_that_has_decided_stays() {
    let (mut homa, tcp) = (serve("homa").await, serve("http").await);
    let channel = with_fallback(homa.addr, &tcp.uri).connect().await.unwrap();
    homa.stop();
    homa.ended().await.unwrap();
    let status = TestClient::new(channel).call(ask("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(tcp.service.started(), 0);
}

#[tokio::test]
async fn with_no_server_on_either_side_the_next_call_asks_again() {
    let (homa, tcp) = (nobody().await, "http://127.0.0.1:1");
    let endpoint = with_fallback(homa, tcp);
    let error = endpoint.connect().await.unwrap_err();
    assert!(matches!(error, Error::Tcp(_)), "{error}");
    let mut client = TestClient::new(endpoint.connect_lazy());
    let status = client.call(ask("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let server = serve_again(&format!("homa://{homa}"), Service::default()).await;
    assert!(client.call(ask("x")).await.unwrap().into_inner().over_homa);
    server.abort();
}

#[tokio::test]
async fn the_first_calls_deadline_covers_the_decision() {
    // Takes datagrams and says nothing.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let endpoint = with_fallback(silent.local_addr().unwrap(), "http://127.0.0.1:1");
    let channel = endpoint.timeout(Duration::from_millis(50)).connect_lazy();
    let status = TestClient::new(channel).call(ask("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}
