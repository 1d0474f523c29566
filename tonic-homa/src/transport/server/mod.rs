//! The server side: [`Server`], [`Router`] and [`Listener`].

mod answer;
mod homa;
mod info;
mod listener;
mod serve;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum_core::response::IntoResponse;
use http::Request;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower_layer::{Identity, Stack};
use tower_service::Service;
use tracing::Span;

use crate::config::{self, ConfigError, ServerConfig};
use crate::error::Error;
use crate::metadata;
use crate::transport::identity::Limits;
pub use info::{HomaConnectInfo, Wire};
pub use listener::{Listener, ServeAddr};
#[cfg(feature = "connect-info")]
pub use tonic::transport::server::{Connected, TcpConnectInfo, TcpIncoming, UdsConnectInfo};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type TraceFn = Arc<dyn Fn(&Request<()>) -> Span + Send + Sync>;

const DEFAULT_SHUTDOWN_GRACE: Duration = Duration::from_secs(30);

/// Builds a server: limits and layers, then services, then where to listen.
///
/// ```no_run
/// use std::time::Duration;
/// use tonic_homa::transport::Server;
///
/// # async fn run(greeter: tonic::service::Routes) -> Result<(), tonic_homa::transport::Error> {
/// Server::builder()
///     .timeout(Duration::from_secs(1))
///     .add_routes(greeter)
///     .serve("homa://0.0.0.0:4000")
///     .await
/// # }
/// ```
///
/// Each request is one task. A handler that panics is answered with `INTERNAL`, and the others
/// go on.
#[derive(Clone)]
pub struct Server<L = Identity> {
    layers: L,
    settings: Settings,
    #[cfg(feature = "tcp")]
    tcp: TcpSettings,
}

/// What serving over Homa needs; tonic's server has its own copies.
#[derive(Clone)]
struct Settings {
    timeout: Option<Duration>,
    concurrency_limit: Option<usize>,
    max_concurrent_streams: Option<u32>,
    load_shed: bool,
    trace: Option<TraceFn>,
    shutdown_grace: Duration,
    max_message_bytes: usize,
    max_metadata_bytes: usize,
    max_stream_buffer_bytes: usize,
    homa: homa_client::Config,
}

impl Settings {
    fn limits(&self) -> Limits {
        let calls = self.max_concurrent_streams;
        Limits {
            handlers: self.concurrency_limit,
            calls: calls.and_then(|calls| usize::try_from(calls).ok()),
        }
    }
}

#[cfg(feature = "tcp")]
#[derive(Clone)]
struct TcpSettings {
    server: tonic::transport::Server,
    // tonic applies these only to listeners that it opens itself.
    nodelay: bool,
    keepalive: Option<Duration>,
    keepalive_interval: Option<Duration>,
    keepalive_retries: Option<u32>,
}

/// Setters that mean something to HTTP/2 only.
macro_rules! http2_only {
    ($($(#[$doc:meta])* $name:ident($value:ident: $type:ty);)*) => {$(
        $(#[$doc])*
        ///
        /// No effect over Homa, which has neither connections nor HTTP/2.
        #[must_use]
        #[cfg_attr(not(feature = "tcp"), allow(unused_mut, reason = "for TCP only"))]
        pub fn $name(mut self, $value: $type) -> Self {
            #[cfg(feature = "tcp")]
            {
                self.tcp.server = self.tcp.server.$name($value);
            }
            #[cfg(not(feature = "tcp"))]
            let _ = $value;
            self
        }
    )*};
}

/// Setters for TCP sockets only.
macro_rules! tcp_only {
    ($($(#[$doc:meta])* $name:ident => $field:ident($value:ident: $type:ty);)*) => {$(
        $(#[$doc])*
        ///
        /// No effect over Homa, which has no connections.
        #[must_use]
        #[cfg_attr(not(feature = "tcp"), allow(unused_mut, reason = "for TCP only"))]
        pub fn $name(mut self, $value: $type) -> Self {
            #[cfg(feature = "tcp")]
            {
                self.tcp.$field = $value;
            }
            #[cfg(not(feature = "tcp"))]
            let _ = $value;
            self
        }
    )*};
}

/// Applies a setting to tonic's server as well.
macro_rules! also_on_tcp {
    ($self:ident.$name:ident($($value:expr),*)) => {
        #[cfg(feature = "tcp")]
        {
            $self.tcp.server = $self.tcp.server.$name($($value),*);
        }
    };
}

impl Server {
    /// A server with defaults: no limits, no layers.
    pub fn builder() -> Self {
        Self::default()
    }

    /// A server from a configuration. Its `uri` is used by [`Router::serve`], given the same
    /// configuration.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for what cannot be used.
    pub fn from_config(config: &ServerConfig) -> Result<Self, Error> {
        let mut server = Self::builder().load_shed(config.load_shed.unwrap_or_default());
        config.homa.apply(&mut server.settings.homa);
        let checked = server.settings.homa.check();
        checked.map_err(ConfigError::Homa)?;
        if let Some(timeout) = config.timeout {
            server = server.timeout(timeout);
        }
        if let Some(limit) = config.concurrency_limit_per_connection {
            let limit = config::checked_limit("concurrency_limit_per_connection", limit)?;
            server = server.concurrency_limit_per_connection(limit);
        }
        if let Some(streams) = config.max_concurrent_streams {
            let key = "max_concurrent_streams";
            config::checked_limit(key, usize::try_from(streams).unwrap_or(usize::MAX))?;
            server = server.max_concurrent_streams(streams);
        }
        if let Some(grace) = config.shutdown_grace {
            server = server.shutdown_grace(grace);
        }
        if let Some(bytes) = config.max_message_bytes {
            server = server.max_message_bytes(bytes)?;
        }
        if let Some(bytes) = config.max_metadata_bytes {
            server = server.max_metadata_bytes(bytes)?;
        }
        if let Some(bytes) = config.max_stream_buffer_bytes {
            server = server.max_stream_buffer_bytes(bytes)?;
        }
        Ok(server)
    }
}

impl<L> Server<L> {
    /// Longest time for one handler. Default: none.
    ///
    /// The least of this and the client's deadline counts. Over Homa the call fails with
    /// `DEADLINE_EXCEEDED`, over TCP with tonic's `CANCELLED`.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = Some(timeout);
        also_on_tcp!(self.timeout(timeout));
        self
    }

    /// Most calls of one client in the handlers; more wait. 0 counts as 1. Default: no limit.
    ///
    /// As in tonic, a handler has ended when it has returned its response: streams that go on
    /// afterwards do not count; see [`max_concurrent_streams`](Self::max_concurrent_streams).
    /// A client is a TCP connection, or over Homa, which has no connections, a client process.
    #[must_use]
    pub fn concurrency_limit_per_connection(mut self, limit: usize) -> Self {
        let limit = limit.clamp(1, tokio::sync::Semaphore::MAX_PERMITS);
        self.settings.concurrency_limit = Some(limit);
        also_on_tcp!(self.concurrency_limit_per_connection(limit));
        self
    }

    /// Most open calls of one client; more wait. 0 counts as 1. Default: no limit.
    ///
    /// Over TCP these are HTTP/2 streams, and the client itself holds back what is too much. Over
    /// Homa the server does: calls over it wait there, and are never shed.
    #[must_use]
    pub fn max_concurrent_streams(mut self, streams: impl Into<Option<u32>>) -> Self {
        let streams = streams.into().map(|streams| streams.max(1));
        self.settings.max_concurrent_streams = streams;
        also_on_tcp!(self.max_concurrent_streams(streams));
        self
    }

    /// Whether calls over the limit are answered `RESOURCE_EXHAUSTED` instead of waiting.
    /// Default: `false`.
    #[must_use]
    pub fn load_shed(mut self, load_shed: bool) -> Self {
        self.settings.load_shed = load_shed;
        also_on_tcp!(self.load_shed(load_shed));
        self
    }

    /// Gives each request the span that `trace` makes for it. Default: none.
    #[must_use]
    pub fn trace_fn<F>(mut self, trace: F) -> Self
    where
        F: Fn(&Request<()>) -> Span + Send + Sync + 'static,
    {
        let trace: TraceFn = Arc::new(trace);
        self.settings.trace = Some(trace.clone());
        also_on_tcp!(self.trace_fn(move |request| trace(request)));
        self
    }

    /// How long open calls may go on after a shutdown was asked for; then they are answered
    /// `UNAVAILABLE`. No effect over TCP, where tonic waits for ever. Default: 30 s.
    #[must_use]
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.settings.shutdown_grace = grace;
        self
    }

    /// Longest Homa message that is sent, with header and metadata. Longer replies go in several,
    /// so that this is no limit for gRPC's messages; that is `max_encoding_message_size` of the
    /// generated server. The metadata has to fit into one: see
    /// [`max_metadata_bytes`](Self::max_metadata_bytes). No effect over TCP. Default: 1,000,000.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] outside of 1,000 to 1,000,000 bytes.
    pub fn max_message_bytes(mut self, bytes: usize) -> Result<Self, Error> {
        self.settings.max_message_bytes =
            config::checked_size("max_message_bytes", bytes, &config::MAX_MESSAGE_BYTES)?;
        Ok(self)
    }

    /// Longest metadata of one direction in encoded form; more becomes `RESOURCE_EXHAUSTED`, and so
    /// does what does not fit into one message of [`max_message_bytes`](Self::max_message_bytes). No
    /// effect over TCP. Default: 65,536.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] outside of 1,000 to 500,000 bytes.
    pub fn max_metadata_bytes(mut self, bytes: usize) -> Result<Self, Error> {
        self.settings.max_metadata_bytes =
            config::checked_size("max_metadata_bytes", bytes, &config::MAX_METADATA_BYTES)?;
        Ok(self)
    }

    /// Bytes of request bodies from one client that are buffered, or may come without being asked for
    /// again. Streams share it, and each takes 65,536 at least; a call over it fails with
    /// `RESOURCE_EXHAUSTED` and does not run. All clients together may take 16 times that. No effect
    /// over TCP. Default: 67,108,864, enough for
    /// 1,024 streams.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] outside of 65,536 to 4,294,967,296 bytes.
    pub fn max_stream_buffer_bytes(mut self, bytes: usize) -> Result<Self, Error> {
        self.settings.max_stream_buffer_bytes = config::checked_size(
            "max_stream_buffer_bytes",
            bytes,
            &config::MAX_STREAM_BUFFER_BYTES,
        )?;
        Ok(self)
    }

    /// All settings of the Homa endpoint, for what has no setter here. No effect over TCP, and
    /// none on a [`Listener`] that is bound already.
    #[must_use]
    pub fn homa_config(mut self, config: homa_client::Config) -> Self {
        self.settings.homa = config;
        self
    }

    http2_only! {
        /// HTTP/2 flow control window of a stream. Default: 65,535.
        initial_stream_window_size(bytes: impl Into<Option<u32>>);
        /// HTTP/2 flow control window of a connection. Default: 65,535.
        initial_connection_window_size(bytes: impl Into<Option<u32>>);
        /// Longest life of a connection. Default: no limit.
        max_connection_age(age: Duration);
        /// How long a connection may finish its calls after its longest life. Default: no limit.
        max_connection_age_grace(grace: Duration);
        /// Interval of HTTP/2 PINGs. Default: none.
        http2_keepalive_interval(interval: Option<Duration>);
        /// How long an HTTP/2 PING may stay unanswered. Default: 20 s.
        http2_keepalive_timeout(timeout: Option<Duration>);
        /// Adaptive HTTP/2 flow control. Default: `false`.
        http2_adaptive_window(enabled: Option<bool>);
        /// Most reset streams that wait for being accepted. Default: h2's.
        http2_max_pending_accept_reset_streams(streams: Option<usize>);
        /// Most HTTP/2 streams that may be reset for protocol errors before the connection is
        /// given up. Default: h2's.
        http2_max_local_error_reset_streams(streams: Option<usize>);
        /// Longest HTTP/2 header list. Default: hyper's. Over Homa see
        /// [`max_metadata_bytes`](Self::max_metadata_bytes).
        http2_max_header_list_size(bytes: impl Into<Option<u32>>);
        /// Largest HTTP/2 frame. Default: hyper's.
        max_frame_size(bytes: impl Into<Option<u32>>);
        /// Whether HTTP/1 is accepted as well. Default: `false`.
        accept_http1(enabled: bool);
    }

    tcp_only! {
        /// `TCP_NODELAY` on accepted connections. Default: `true`.
        tcp_nodelay => nodelay(enabled: bool);
        /// Idle time before TCP keepalive probes. Default: no keepalive.
        tcp_keepalive => keepalive(idle: Option<Duration>);
        /// Time between TCP keepalive probes. Default: the system's.
        tcp_keepalive_interval => keepalive_interval(interval: Option<Duration>);
        /// TCP keepalive probes before a connection counts as dead. Default: the system's.
        tcp_keepalive_retries => keepalive_retries(retries: Option<u32>);
    }

    /// Puts a [tower layer](tower_layer::Layer) around all services. The first one added is the outermost.
    pub fn layer<N>(self, layer: N) -> Server<Stack<N, L>> {
        Server {
            layers: Stack::new(layer, self.layers),
            settings: self.settings,
            #[cfg(feature = "tcp")]
            tcp: self.tcp,
        }
    }

    /// Adds a service, usually a generated `…Server`.
    pub fn add_service<S>(&mut self, service: S) -> Router<L>
    where
        S: Service<Request<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: IntoResponse,
        S::Future: Send + 'static,
        L: Clone,
    {
        self.add_routes(Routes::new(service))
    }

    /// Adds a service if there is one. Calls of an absent one are `UNIMPLEMENTED`.
    pub fn add_optional_service<S>(&mut self, service: Option<S>) -> Router<L>
    where
        S: Service<Request<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: IntoResponse,
        S::Future: Send + 'static,
        L: Clone,
    {
        self.add_routes(service.map(Routes::new).unwrap_or_default())
    }

    /// Serves a set of services that was put together elsewhere.
    pub fn add_routes(&mut self, routes: Routes) -> Router<L>
    where
        L: Clone,
    {
        Router {
            server: self.clone(),
            routes,
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            layers: Identity::new(),
            settings: Settings {
                timeout: None,
                concurrency_limit: None,
                max_concurrent_streams: None,
                load_shed: false,
                trace: None,
                shutdown_grace: DEFAULT_SHUTDOWN_GRACE,
                max_message_bytes: config::DEFAULT_MESSAGE_BYTES,
                max_metadata_bytes: metadata::DEFAULT_LIMIT,
                max_stream_buffer_bytes: config::DEFAULT_STREAM_BUFFER_BYTES,
                homa: homa_client::Config::default(),
            },
            #[cfg(feature = "tcp")]
            tcp: TcpSettings {
                server: tonic::transport::Server::builder(),
                nodelay: true,
                keepalive: None,
                keepalive_interval: None,
                keepalive_retries: None,
            },
        }
    }
}

impl<L> fmt::Debug for Server<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// A [`Server`] with its services.
///
/// ```no_run
/// use tonic_homa::transport::{Router, Server};
///
/// # async fn run(routes: tonic::service::Routes) -> Result<(), tonic_homa::transport::Error> {
/// let router: Router = Server::builder().add_routes(routes);
/// let signal = async { /* until the process is told to end */ };
/// router.serve_with_shutdown("homa://0.0.0.0:4000", signal).await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Router<L = Identity> {
    server: Server<L>,
    routes: Routes,
}

impl<L> Router<L> {
    /// Adds a service, usually a generated `…Server`.
    #[must_use]
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: IntoResponse,
        S::Future: Send + 'static,
    {
        self.routes = self.routes.add_service(service);
        self
    }

    /// Adds a service if there is one. Calls of an absent one are `UNIMPLEMENTED`.
    #[must_use]
    pub fn add_optional_service<S>(self, service: Option<S>) -> Self
    where
        S: Service<Request<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: IntoResponse,
        S::Future: Send + 'static,
    {
        match service {
            Some(service) => self.add_service(service),
            None => self,
        }
    }
}
