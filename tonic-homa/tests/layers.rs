//! Interceptors, layers, limits, connect info: what stands between transport and service.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::*;
use tonic::codegen::http;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptorLayer;
use tonic::{Code, Request, Status};
use tonic_homa::transport::Server;
use tower::ServiceBuilder;

#[derive(Clone)]
struct Stamp(&'static str);

impl Interceptor for Stamp {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if request.metadata().get("x-refuse").is_some() {
            return Err(Status::permission_denied("stamp refuses"));
        }
        request
            .metadata_mut()
            .append("x-stamp", self.0.parse().unwrap());
        Ok(request)
    }
}

#[tokio::test]
async fn interceptors_on_both_sides() {
    for scheme in BOTH {
        let service = Service::default();
        let stamped = TestServer::with_interceptor(service.clone(), Stamp("server"));
        let router = Server::builder().add_service(stamped);
        let host = serve_router(scheme, service, router).await;
        let channel = host.endpoint().connect().await.unwrap();
        let mut client = TestClient::with_interceptor(channel.clone(), Stamp("client"));
        let reply = client.call(ask("x")).await.unwrap();
        let stamps: Vec<_> = reply.metadata().get_all("x-stamp").iter().collect();
        assert_eq!(stamps, ["client", "server"], "{scheme}");

        let mut request = Request::new(ask("x"));
        request
            .metadata_mut()
            .insert("x-refuse", "1".parse().unwrap());
        let status = TestClient::new(channel).call(request).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::PermissionDenied, "stamp refuses")
        );
        assert_eq!(host.service.started(), 1);
    }
}

/// Counts the requests that pass.
#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>);

impl<S> tower::Layer<S> for Count {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            count: self.0.clone(),
        }
    }
}

#[derive(Clone)]
struct Counted<S> {
    inner: S,
    count: Arc<AtomicUsize>,
}

impl<S: tower::Service<http::Request<B>>, B> tower::Service<http::Request<B>> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> S::Future {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.inner.call(request)
    }
}

#[tokio::test]
async fn layers_on_both_sides() {
    for scheme in BOTH {
        let (inner, outer) = (Count::default(), Count::default());
        let service = Service::default();
        let router = Server::builder()
            .layer(outer.clone())
            .layer(InterceptorLayer::new(Stamp("layer")))
            .layer(inner.clone())
            .add_service(TestServer::new(service.clone()));
        let host = serve_future(scheme, service, |listener, stop| async move {
            router.serve_on_with_shutdown([listener], stop).await
        })
        .await;
        let mine = Count::default();
        let channel = ServiceBuilder::new()
            .layer(mine.clone())
            .service(host.endpoint().connect().await.unwrap());
        let mut client = TestClient::new(channel);
        let reply = client.call(ask("x")).await.unwrap();
        assert_eq!(
            reply.metadata().get("x-stamp").unwrap(),
            "layer",
            "{scheme}"
        );
        let mut request = Request::new(ask("x"));
        request
            .metadata_mut()
            .insert("x-refuse", "1".parse().unwrap());
        assert_eq!(
            client.call(request).await.unwrap_err().code(),
            Code::PermissionDenied
        );
        let counts = [&mine, &outer, &inner].map(|count| count.0.load(Ordering::SeqCst));
        // The first one added is the outermost.
        assert_eq!(counts, [2, 2, 1], "{scheme}");
    }
}

#[tokio::test]
async fn a_layer_that_fails_makes_a_status() {
    let service = Service::default();
    let router = Server::builder()
        .layer(tower::util::MapErrLayer::new(
            |never: std::convert::Infallible| match never {},
        ))
        .layer(tower::util::MapRequestLayer::new(
            |request: http::Request<tonic::body::Body>| request,
        ))
        .layer(FailLayer)
        .add_service(TestServer::new(service.clone()));
    let host = serve_future("homa", service, |listener, stop| async move {
        router.serve_on_with_shutdown([listener], stop).await
    })
    .await;
    let status = host.client().await.call(ask("x")).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::DataLoss, "as told")
    );
}

#[derive(Clone)]
struct FailLayer;

impl<S> tower::Layer<S> for FailLayer {
    type Service = Fail;

    fn layer(&self, _: S) -> Fail {
        Fail
    }
}

/// Answers a status as a response.
#[derive(Clone)]
struct Fail;

impl<B> tower::Service<http::Request<B>> for Fail {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<B>) -> Self::Future {
        std::future::ready(Ok(Status::data_loss("as told").into_http()))
    }
}

#[tokio::test]
async fn handlers_see_both_addresses() {
    for scheme in BOTH {
        let host = serve(scheme).await;
        let reply = host
            .client()
            .await
            .call(ask("x"))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(reply.local_addr, host.addr.to_string(), "{scheme}");
        let remote: std::net::SocketAddr = reply.remote_addr.parse().unwrap();
        assert!(remote.ip().is_loopback() && remote != host.addr, "{remote}");
    }
}

#[tokio::test]
async fn the_user_agent_reaches_the_server() {
    let host = serve("homa").await;
    let own = concat!("tonic-homa/", env!("CARGO_PKG_VERSION"));
    let plain = host
        .client()
        .await
        .call(ask("x"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(plain.user_agent, own);
    let endpoint = host.endpoint().user_agent("greeter/1").unwrap();
    let mut client = TestClient::new(endpoint.connect().await.unwrap());
    let named = client.call(ask("x")).await.unwrap().into_inner();
    assert_eq!(named.user_agent, format!("greeter/1 {own}"));
    let mut request = Request::new(ask("x"));
    request
        .metadata_mut()
        .insert("user-agent", "mine".parse().unwrap());
    let both = client.call(request).await.unwrap().into_inner();
    // tonic's client drops a caller's `user-agent` before a transport sees it, so either is fine.
    assert!(
        both.user_agent.ends_with(&format!("greeter/1 {own}")),
        "{both:?}"
    );
}

#[tokio::test]
async fn the_origin_is_what_servers_see() {
    for scheme in BOTH {
        let seen: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
        let log = seen.clone();
        let server = Server::builder().trace_fn(move |request| {
            log.lock().unwrap().push(request.uri().to_string());
            tracing::Span::none()
        });
        let host = serve_with(scheme, server).await;
        host.client().await.call(ask("x")).await.unwrap();
        let endpoint = host
            .endpoint()
            .origin("https://example.com".parse().unwrap());
        TestClient::new(endpoint.connect().await.unwrap())
            .call(ask("x"))
            .await
            .unwrap();
        let path = "/tonic_homa.test.v1.Test/Call";
        let expected = [
            format!("{}{path}", host.uri),
            format!("https://example.com{path}"),
        ];
        assert_eq!(*seen.lock().unwrap(), expected);
    }
}

#[tokio::test]
async fn a_channels_limits_hold() {
    for scheme in BOTH {
        let host = serve(scheme).await;
        let endpoint = host.endpoint().concurrency_limit(2);
        let client = TestClient::new(endpoint.connect().await.unwrap());
        let service = host.service.clone();
        let calls: Vec<_> = (0..6)
            .map(|_| {
                let (mut client, service) = (client.clone(), service.clone());
                tokio::spawn(async move {
                    let request = CallRequest {
                        delay_ms: 20,
                        ..ask("x")
                    };
                    client.call(request).await.unwrap();
                    assert!(service.running() <= 2);
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        let endpoint = host.endpoint().rate_limit(2, Duration::from_millis(100));
        let mut client = TestClient::new(endpoint.connect().await.unwrap());
        let start = Instant::now();
        for _ in 0..5 {
            client.call(ask("x")).await.unwrap();
        }
        let waited = start.elapsed();
        assert!(waited >= Duration::from_millis(150), "{scheme}: {waited:?}");
    }
}

#[tokio::test]
async fn a_rate_per_eternity_lets_its_calls_through_and_no_more() {
    for scheme in BOTH {
        let host = serve(scheme).await;
        let endpoint = host.endpoint().rate_limit(2, Duration::MAX);
        let mut client = TestClient::new(endpoint.connect().await.unwrap());
        for _ in 0..2 {
            client.call(ask("x")).await.unwrap();
        }
        let third = tokio::time::timeout(Duration::from_millis(50), client.call(ask("x"))).await;
        assert!(third.is_err(), "{scheme}: {third:?}");
    }
}

#[tokio::test]
async fn a_servers_limit_waits_or_sheds() {
    for (scheme, shed) in BOTH
        .into_iter()
        .flat_map(|scheme| [(scheme, false), (scheme, true)])
    {
        let server = Server::builder()
            .concurrency_limit_per_connection(2)
            .load_shed(shed);
        let host = serve_with(scheme, server).await;
        let client = host.client().await;
        let calls: Vec<_> = (0..4)
            .map(|_| {
                let mut client = client.clone();
                tokio::spawn(async move {
                    let request = CallRequest {
                        delay_ms: 150,
                        ..ask("x")
                    };
                    client.call(request).await
                })
            })
            .collect();
        let mut failed = 0;
        for call in calls {
            if let Err(status) = call.await.unwrap() {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                failed += 1;
            }
        }
        assert_eq!(failed, if shed { 2 } else { 0 }, "{scheme}");
    }
}
