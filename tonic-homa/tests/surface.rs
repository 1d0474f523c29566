//! Every name of tonic's `transport` module that this crate has as well, used in the same words
//! on both: a name, an argument or a result that drifts apart does not compile.
//!
//! Not here, because TLS is not there: `ClientTlsConfig`, `ServerTlsConfig`, `tls_config`,
//! `tls_config_with_verifier`, `Certificate`, `Identity` and `TlsConnectInfo`.

mod common;

use std::error::Error;
use std::time::Duration;

use common::*;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

type BoxError = Box<dyn Error + Send + Sync>;
type Probe = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// What runs the tasks of a connection.
#[derive(Clone)]
struct Spawn;

impl hyper::rt::Executor<Probe> for Spawn {
    fn execute(&self, task: Probe) {
        tokio::spawn(task);
    }
}

/// Byte streams inside of this process.
fn wire() -> (Connector, Incoming) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Connector(sender), Incoming(receiver))
}

#[derive(Clone)]
struct Connector(mpsc::UnboundedSender<DuplexStream>);

impl tower::Service<tonic::codegen::http::Uri> for Connector {
    type Response = hyper_util::rt::TokioIo<DuplexStream>;
    type Error = std::io::Error;
    type Future = std::future::Ready<std::io::Result<Self::Response>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: tonic::codegen::http::Uri) -> Self::Future {
        let (mine, theirs) = tokio::io::duplex(65_536);
        let sent = self.0.send(theirs);
        std::future::ready(match sent {
            Ok(()) => Ok(hyper_util::rt::TokioIo::new(mine)),
            Err(_) => Err(std::io::ErrorKind::ConnectionRefused.into()),
        })
    }
}

struct Incoming(mpsc::UnboundedReceiver<DuplexStream>);

impl tokio_stream::Stream for Incoming {
    type Item = std::io::Result<DuplexStream>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|stream| stream.map(Ok))
    }
}

macro_rules! surface {
    () => {
        use transport::channel::{Change, ResponseFuture};
        use transport::server::{Connected, Router, TcpConnectInfo, TcpIncoming, UdsConnectInfo};
        use transport::{Channel, Endpoint, Server, Uri};

        pub(super) fn endpoint(uri: &str) -> Result<Endpoint, BoxError> {
            let second = Some(Duration::from_secs(1));
            let endpoint = Endpoint::from_shared(uri.to_owned())?
                .user_agent("surface")?
                .origin(Uri::from_static("http://surface:1"))
                .timeout(Duration::from_secs(5))
                .connect_timeout(Duration::from_secs(5))
                .tcp_nodelay(true)
                .tcp_keepalive(second)
                .tcp_keepalive_interval(second)
                .tcp_keepalive_retries(Some(3))
                .concurrency_limit(100)
                .rate_limit(1_000, Duration::from_secs(1))
                .initial_stream_window_size(100_000)
                .initial_connection_window_size(Some(100_000))
                .buffer_size(100)
                .http2_keep_alive_interval(Duration::from_secs(10))
                .keep_alive_timeout(Duration::from_secs(10))
                .keep_alive_while_idle(true)
                .http2_adaptive_window(false)
                .http2_header_table_size(4_096)
                .http2_max_header_list_size(65_536)
                .http2_max_concurrent_reset_streams(10)
                .http2_reset_stream_duration(Duration::from_secs(1))
                .http2_max_local_error_reset_streams(100)
                .max_frame_size(65_536)
                .executor(Spawn)
                .local_address(None);
            let got = (
                endpoint.get_tcp_nodelay(),
                endpoint.get_connect_timeout(),
                endpoint.get_tcp_keepalive(),
                endpoint.get_tcp_keepalive_interval(),
                endpoint.get_tcp_keepalive_retries(),
                endpoint.uri().port_u16().is_some(),
            );
            let set = (
                true,
                Some(Duration::from_secs(5)),
                second,
                second,
                Some(3),
                true,
            );
            assert_eq!(got, set);
            Ok(endpoint)
        }

        pub(super) fn endpoints(uri: &'static str) -> Result<Vec<Endpoint>, BoxError> {
            Ok(vec![
                Endpoint::new(uri)?,
                Endpoint::from_static(uri),
                uri.parse()?,
                Endpoint::from(Uri::from_static(uri)),
                uri.to_owned().try_into()?,
                uri.try_into()?,
                bytes::Bytes::from_static(uri.as_bytes()).try_into()?,
                Channel::builder(Uri::from_static(uri)),
                Channel::from_static(uri),
                Channel::from_shared(uri)?,
            ])
        }

        /// A channel of every kind.
        pub(super) async fn channels(endpoint: Endpoint) -> Result<Vec<Channel>, BoxError> {
            let (named, changes) = Channel::balance_channel(8);
            changes
                .send(Change::Insert("first", endpoint.clone()))
                .await?;
            changes
                .send(Change::Insert("second", endpoint.clone()))
                .await?;
            changes.send(Change::Remove("second")).await?;
            let (executed, changes) = Channel::balance_channel_with_executor(8, Spawn);
            changes.send(Change::Insert(1, endpoint.clone())).await?;
            Ok(vec![
                endpoint.connect().await?,
                endpoint.connect_lazy(),
                Channel::balance_list([endpoint.clone(), endpoint].into_iter()),
                named,
                executed,
            ])
        }

        /// A channel of every kind that has byte streams of its own.
        pub(super) async fn connected(
            endpoint: Endpoint,
            connector: Connector,
        ) -> Result<Vec<Channel>, BoxError> {
            Ok(vec![
                endpoint.connect_with_connector(connector.clone()).await?,
                endpoint.connect_with_connector_lazy(connector.clone()),
                Channel::connect(connector.clone(), endpoint.clone()).await?,
                Channel::new(connector, endpoint),
            ])
        }

        pub(super) async fn call(channel: Channel) -> String {
            // The future has a name, for services that are made of a channel.
            fn same(future: ResponseFuture) -> ResponseFuture {
                future
            }
            let service = tower::service_fn(move |request| {
                let mut channel = channel.clone();
                async move {
                    std::future::poll_fn(|cx| tower::Service::poll_ready(&mut channel, cx))
                        .await
                        .map_err(BoxError::from)?;
                    same(tower::Service::call(&mut channel, request))
                        .await
                        .map_err(BoxError::from)
                }
            });
            let mut client = TestClient::new(service);
            client.call(ask("x")).await.unwrap().into_inner().user_agent
        }

        pub(super) fn server() -> Server {
            Server::builder()
                .concurrency_limit_per_connection(100)
                .load_shed(false)
                .timeout(Duration::from_secs(5))
                .initial_stream_window_size(100_000)
                .initial_connection_window_size(Some(100_000))
                .max_concurrent_streams(100)
                .max_connection_age(Duration::from_secs(100))
                .max_connection_age_grace(Duration::from_secs(100))
                .http2_keepalive_interval(None)
                .http2_keepalive_timeout(Some(Duration::from_secs(20)))
                .http2_adaptive_window(Some(false))
                .http2_max_pending_accept_reset_streams(Some(20))
                .http2_max_local_error_reset_streams(Some(100))
                .tcp_keepalive(None)
                .tcp_keepalive_interval(None)
                .tcp_keepalive_retries(None)
                .tcp_nodelay(true)
                .http2_max_header_list_size(65_536)
                .max_frame_size(65_536)
                .accept_http1(false)
                .trace_fn(|request| tracing::debug_span!("call", path = request.uri().path()))
        }

        pub(super) fn routers(service: Service) -> Vec<Router> {
            let add = || TestServer::new(service.clone());
            vec![
                server().add_service(add()),
                server().add_optional_service(Some(add())),
                server()
                    .add_optional_service(None::<TestServer<Service>>)
                    .add_service(add()),
                server()
                    .add_routes(tonic::service::Routes::new(add()))
                    .add_optional_service(None::<TestServer<Service>>),
            ]
        }

        /// Serves in every way that byte streams can be served.
        pub(super) async fn serve_incoming(
            way: usize,
            incoming: Incoming,
            stop: impl Future<Output = ()>,
        ) -> Result<(), BoxError> {
            let layered = server().layer(tower::layer::util::Identity::new());
            let routes = tonic::service::Routes::new(TestServer::new(Service::default()));
            match way {
                0 => {
                    let router = layered.clone().add_routes(routes);
                    router.serve_with_incoming(incoming).await?;
                }
                1 => {
                    let router = layered.clone().add_routes(routes);
                    router.serve_with_incoming_shutdown(incoming, stop).await?;
                }
                2 => {
                    let routes = routes.prepare();
                    layered.serve_with_incoming(routes, incoming).await?;
                }
                _ => {
                    let routes = routes.prepare();
                    layered
                        .serve_with_incoming_shutdown(routes, incoming, stop)
                        .await?;
                }
            }
            Ok(())
        }

        /// Binds an address that is in use, in every way that addresses can be served.
        pub(super) async fn serve_in_use(addr: std::net::SocketAddr) -> Vec<String> {
            let routes = || tonic::service::Routes::new(TestServer::new(Service::default()));
            let router = || server().add_routes(routes());
            let ready = || std::future::ready(());
            let outcomes = [
                router().serve(addr).await.map_err(BoxError::from),
                router()
                    .serve_with_shutdown(addr, ready())
                    .await
                    .map_err(BoxError::from),
                server()
                    .serve(addr, routes().prepare())
                    .await
                    .map_err(BoxError::from),
                server()
                    .serve_with_shutdown(addr, routes().prepare(), ready())
                    .await
                    .map_err(BoxError::from),
            ];
            outcomes
                .map(|outcome| outcome.unwrap_err().to_string())
                .into()
        }

        /// What is only there by name.
        pub(super) fn names() -> [&'static str; 6] {
            fn body<B: transport::Body>() -> &'static str {
                std::any::type_name::<B>()
            }
            fn connected<C: Connected>() -> &'static str {
                std::any::type_name::<C::ConnectInfo>()
            }
            [
                body::<tonic::body::Body>(),
                connected::<tokio::net::TcpStream>(),
                connected::<tokio::net::UnixStream>(),
                std::any::type_name::<(TcpConnectInfo, UdsConnectInfo)>(),
                std::any::type_name::<TcpIncoming>(),
                std::any::type_name::<Uri>(),
            ]
        }
    };
}

mod theirs {
    use tonic::transport;

    use super::*;

    surface!();
}

mod ours {
    use tonic_homa::transport;

    use super::*;

    surface!();
}

#[tokio::test]
async fn endpoints_and_channels() {
    for scheme in BOTH {
        let host = serve(scheme).await;
        assert_eq!(ours::endpoints(host.uri.clone().leak()).unwrap().len(), 10);
        let endpoint = ours::endpoint(&host.uri).unwrap();
        for channel in ours::channels(endpoint).await.unwrap() {
            let agent = ours::call(channel).await;
            assert!(agent.starts_with("surface "), "{scheme}: {agent}");
        }
        if scheme == "http" {
            assert_eq!(
                theirs::endpoints(host.uri.clone().leak()).unwrap().len(),
                10
            );
            let endpoint = theirs::endpoint(&host.uri).unwrap();
            for channel in theirs::channels(endpoint).await.unwrap() {
                let agent = theirs::call(channel).await;
                assert!(agent.starts_with("surface "), "{agent}");
            }
        }
    }
}

#[tokio::test]
async fn servers_and_byte_streams() {
    for way in 0..4 {
        let (to_ours, ours_incoming) = wire();
        let (to_theirs, theirs_incoming) = wire();
        let stop = std::future::pending;
        let servers = async {
            tokio::try_join!(
                ours::serve_incoming(way, ours_incoming, stop()),
                theirs::serve_incoming(way, theirs_incoming, stop()),
            )
        };
        let calls = async {
            let endpoint = ours::endpoint("http://anywhere:1").unwrap();
            for channel in ours::connected(endpoint, to_theirs).await.unwrap() {
                assert!(ours::call(channel).await.starts_with("surface "));
            }
            let endpoint = theirs::endpoint("http://anywhere:1").unwrap();
            for channel in theirs::connected(endpoint, to_ours).await.unwrap() {
                assert!(theirs::call(channel).await.starts_with("surface "));
            }
        };
        // The connectors are gone by then, which ends the servers that wait for no signal.
        tokio::select! {
            ended = servers => panic!("{ended:?}"),
            () = calls => {}
        }
    }
}

#[tokio::test]
async fn a_connector_is_refused_over_homa() {
    let (connector, _incoming) = wire();
    let endpoint = tonic_homa::transport::Endpoint::from_static("homa://127.0.0.1:1");
    let error = endpoint
        .connect_with_connector(connector.clone())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("homa://127.0.0.1:1") && error.contains("connect()"));
    for channel in [
        endpoint.connect_with_connector_lazy(connector.clone()),
        tonic_homa::transport::Channel::new(connector, endpoint),
    ] {
        let status = TestClient::new(channel).call(ask("x")).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    }
}

#[tokio::test]
async fn addresses_in_use_and_routers() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    assert_eq!(theirs::serve_in_use(addr).await.len(), 4);
    for error in ours::serve_in_use(addr).await {
        assert!(error.contains(&addr.to_string()), "{error}");
    }
    assert_eq!(theirs::routers(Service::default()).len(), 4);
    for router in ours::routers(Service::default()) {
        for scheme in BOTH {
            let host = serve_router(scheme, Service::default(), router.clone()).await;
            host.client().await.call(ask("x")).await.unwrap();
        }
    }
}

#[test]
fn types_that_are_tonics_own() {
    assert_eq!(ours::names(), theirs::names());
}
