//! [`Endpoint`]: where a channel leads and how it behaves.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Uri};
#[cfg(feature = "tcp")]
use hyper::rt::Executor;
use tokio::sync::Semaphore;

#[cfg(feature = "tcp")]
use super::BoxFuture;
use super::limit;
use crate::config::{self, ClientConfig, ConfigError};
use crate::error::Error;
use crate::metadata;
use crate::uri::{self, HomaTarget, Role, Target, UriError};

/// Makes [`Channel`](super::Channel)s. Its URI decides about the transport:
///
/// | URI | transport |
/// |---|---|
/// | `homa://host:port` | Homa; the port is mandatory |
/// | `http://…`, `unix:…` | tonic's own, without TLS (feature `tcp`) |
///
/// The host is a name, an IPv4 address or an IPv6 address in brackets. Names are resolved by
/// [`connect`](Self::connect) or the first call, and again after the server could not be reached.
/// A `homa:` URI may have options:
///
/// | key | values |
/// |---|---|
/// | `engine` | `auto` (default), `udp`, `raw`, `kernel`: see [`Engine`](crate::transport::Engine) |
/// | `wire` | `native` |
/// | `stream` | `push` (default), `pull`: see [`StreamMode`](crate::transport::StreamMode) |
/// | `fallback` | a TCP URI, see below |
///
/// Everything else is refused with an [`Error`] that names it.
///
/// # Fallback
///
/// There is never a silent step from Homa to TCP. With `homa://host:4000?fallback=http://host:4000`
/// it is asked for: if no server answers the probe of [`connect`](Self::connect) within
/// [`connect_timeout`](Self::connect_timeout), for whatever reason, or if this host cannot use
/// Homa at all, that is logged as a warning and the channel is one over TCP. A channel of
/// [`connect_lazy`](Self::connect_lazy) decides with its first call, which waits for the probe.
/// The decision is made once: a channel over TCP stays there, and one over Homa does not step
/// away when its server dies. Where TCP does not work either, nothing is decided, and the next
/// call asks again. Characters such as `&` and `#` in the value are written with percent signs
/// (`%26`, `%23`).
///
/// ```
/// use std::time::Duration;
/// use tonic_homa::transport::Endpoint;
///
/// let endpoint = Endpoint::from_shared("homa://10.0.0.1:4000")?
///     .timeout(Duration::from_millis(50))
///     .concurrency_limit(256)
///     .user_agent("greeter")?;
/// # Ok::<(), tonic_homa::transport::Error>(())
/// ```
#[derive(Clone)]
pub struct Endpoint {
    pub(super) kind: Kind,
    pub(super) settings: Settings,
    /// Leads to where the URI points, or to its fallback. With neither it is never connected, and
    /// only keeps what was set.
    #[cfg(feature = "tcp")]
    pub(super) tcp: tonic::transport::Endpoint,
}

#[derive(Clone)]
pub(super) enum Kind {
    Homa(HomaTarget),
    #[cfg(feature = "tcp")]
    Tcp,
    /// From an [`Uri`] that cannot be used; `connect` tells.
    Refused(Uri, UriError),
}

/// What is needed for Homa; the TCP endpoint has its own copies.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) timeout: Option<Duration>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) concurrency_limit: Option<usize>,
    pub(super) rate_limit: Option<(u64, Duration)>,
    pub(super) user_agent: Option<HeaderValue>,
    pub(super) origin: Option<Uri>,
    pub(super) max_message_bytes: usize,
    pub(super) max_metadata_bytes: usize,
    pub(super) max_stream_buffer_bytes: usize,
    pub(super) homa: homa_client::Config,
}

/// Applies a setting to tonic's endpoint as well.
macro_rules! also_on_tcp {
    ($self:ident.$name:ident($($value:expr),*)) => {
        #[cfg(feature = "tcp")]
        {
            $self.tcp = $self.tcp.$name($($value),*);
        }
    };
}

/// Setters that mean something to TCP or HTTP/2 only.
macro_rules! tcp_only {
    ($($(#[$doc:meta])* $name:ident($value:ident: $type:ty);)*) => {$(
        $(#[$doc])*
        ///
        /// No effect over Homa, which has neither connections nor HTTP/2.
        #[must_use]
        #[cfg_attr(not(feature = "tcp"), allow(unused_mut, reason = "for TCP only"))]
        pub fn $name(mut self, $value: $type) -> Self {
            also_on_tcp!(self.$name($value));
            #[cfg(not(feature = "tcp"))]
            let _ = $value;
            self
        }
    )*};
}

impl Endpoint {
    /// From anything that converts into an endpoint, such as a string; the generated
    /// `connect()` uses it.
    ///
    /// # Errors
    ///
    /// Those of the conversion.
    pub fn new<D>(dst: D) -> Result<Self, Error>
    where
        D: TryInto<Self>,
        D::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        dst.try_into()
            .map_err(|error| Error::from_boxed(error.into()))
    }

    /// From a constant.
    ///
    /// # Panics
    ///
    /// If the URI cannot be used.
    pub fn from_static(uri: &'static str) -> Self {
        match Self::parse(uri) {
            Ok(endpoint) => endpoint,
            Err(error) => panic!("{error}"),
        }
    }

    /// From text. Reads no environment.
    ///
    /// # Errors
    ///
    /// [`Error::Uri`] if the URI cannot be used.
    pub fn from_shared(uri: impl Into<Bytes>) -> Result<Self, Error> {
        let uri = uri.into();
        match std::str::from_utf8(&uri) {
            Ok(uri) => Self::parse(uri),
            Err(error) => Err(UriError::Invalid {
                uri: String::from_utf8_lossy(&uri).into_owned(),
                reason: error.to_string(),
            }
            .into()),
        }
    }

    /// From a configuration. `TONIC_HOMA_URI` takes the place of its `uri`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] or [`Error::Uri`] for what cannot be used.
    pub fn from_config(config: &ClientConfig) -> Result<Self, Error> {
        let mut target = Target::parse(&config.effective_uri()?, Role::Client)?;
        let mut homa = homa_client::Config::default();
        match &mut target {
            Target::Homa(target) => {
                target.engine = target.engine.or(config.engine);
                target.stream = target.stream.or(config.stream);
                if let (None, Some(uri)) = (&target.fallback, &config.fallback) {
                    target.fallback = Some(uri::fallback(uri)?);
                }
                config.homa.apply(&mut homa);
                let checked = target.configure(homa.clone()).check();
                checked.map_err(ConfigError::Homa)?;
            }
            #[cfg(feature = "tcp")]
            Target::Tcp(_) => {}
        }
        let mut endpoint = Self::to(target)?.homa_config(homa);
        if let Some(timeout) = config.timeout {
            endpoint = endpoint.timeout(timeout);
        }
        if let Some(timeout) = config.connect_timeout {
            endpoint = endpoint.connect_timeout(timeout);
        }
        if let Some(limit) = config.concurrency_limit {
            let limit = config::checked_limit("concurrency_limit", limit)?;
            endpoint = endpoint.concurrency_limit(limit);
        }
        if let Some((calls, per)) = config.rate_limit {
            endpoint = endpoint.rate_limit(calls, per);
        }
        if let Some(agent) = &config.user_agent {
            endpoint = endpoint.user_agent(agent.as_str())?;
        }
        if let Some(origin) = &config.origin {
            endpoint = endpoint.origin(config::checked_origin(origin)?);
        }
        if let Some(bytes) = config.max_message_bytes {
            endpoint = endpoint.max_message_bytes(bytes)?;
        }
        if let Some(bytes) = config.max_metadata_bytes {
            endpoint = endpoint.max_metadata_bytes(bytes)?;
        }
        if let Some(bytes) = config.max_stream_buffer_bytes {
            endpoint = endpoint.max_stream_buffer_bytes(bytes)?;
        }
        Ok(endpoint)
    }

    /// From the environment alone: `TONIC_HOMA_URI`, and what [`ClientConfig::from_env`] reads.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if there is no URI, or for another variable that cannot be used;
    /// [`Error::Uri`] for a URI that cannot be used.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_config(&ClientConfig::from_env()?)
    }

    /// Longest time for one call, from the call to its complete reply. Default: none.
    ///
    /// The least of this and the request's `grpc-timeout` counts. Over Homa both ends enforce it
    /// and the call fails with `DEADLINE_EXCEEDED`; over TCP tonic tells the server nothing of
    /// it, stops at the reply's headers and answers `CANCELLED`.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = Some(timeout);
        also_on_tcp!(self.timeout(timeout));
        self
    }

    /// Longest time for [`connect`](Self::connect). Default: 5 s over Homa, none over TCP.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = Some(timeout);
        also_on_tcp!(self.connect_timeout(timeout));
        self
    }

    /// Most calls of a channel and its clones in flight; more wait. 0 counts as 1. Default: no
    /// limit.
    #[must_use]
    pub fn concurrency_limit(mut self, limit: usize) -> Self {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        self.settings.concurrency_limit = Some(limit);
        also_on_tcp!(self.concurrency_limit(limit));
        self
    }

    /// Most calls of a channel and its clones in each window of `duration`; more wait. 0 counts
    /// as 1. Default: no limit.
    #[must_use]
    pub fn rate_limit(mut self, limit: u64, duration: Duration) -> Self {
        let limit = limit.max(1);
        let duration = duration.clamp(Duration::from_nanos(1), limit::LONGEST_WINDOW);
        self.settings.rate_limit = Some((limit, duration));
        also_on_tcp!(self.rate_limit(limit, duration));
        self
    }

    /// Put before this crate's own name in the `user-agent` header. Default: nothing.
    ///
    /// # Errors
    ///
    /// [`Error::UserAgent`] if it is no header value.
    pub fn user_agent<T: TryInto<HeaderValue>>(mut self, agent: T) -> Result<Self, Error> {
        let agent = agent.try_into().map_err(|_| Error::UserAgent)?;
        self.settings.user_agent = Some(agent.clone());
        #[cfg(feature = "tcp")]
        {
            self.tcp = self.tcp.user_agent(agent)?;
        }
        Ok(self)
    }

    /// What servers see as scheme and authority. Default: those of the URI.
    #[must_use]
    pub fn origin(mut self, origin: Uri) -> Self {
        self.settings.origin = Some(origin.clone());
        also_on_tcp!(self.origin(origin));
        self
    }

    /// Longest Homa message that is sent, with header and metadata. Longer requests go in several,
    /// so that this is no limit for gRPC's messages; that is `max_encoding_message_size` of the
    /// generated client. The metadata has to fit into one: see
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

    /// Longest metadata of one direction in encoded form; more fails with `RESOURCE_EXHAUSTED`,
    /// before anything is sent if it is the request's. So does what does not fit into one message of
    /// [`max_message_bytes`](Self::max_message_bytes). No effect over TCP. Default: 65,536.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] outside of 1,000 to 500,000 bytes.
    pub fn max_metadata_bytes(mut self, bytes: usize) -> Result<Self, Error> {
        self.settings.max_metadata_bytes =
            config::checked_size("max_metadata_bytes", bytes, &config::MAX_METADATA_BYTES)?;
        Ok(self)
    }

    /// Bytes of response bodies from one server that are buffered, or may come without being asked
    /// for again. Streams share it, and each takes 65,536 at least; one more fails with
    /// `RESOURCE_EXHAUSTED`. Channels to the same server share it, too: the first decides. No effect
    /// over TCP. Default: 67,108,864, enough for 1,024 streams.
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

    /// All settings of the Homa endpoint, for what has no setter here. Channels with equal
    /// settings share one endpoint. No effect over TCP.
    #[must_use]
    pub fn homa_config(mut self, config: homa_client::Config) -> Self {
        self.settings.homa = config;
        self
    }

    tcp_only! {
        /// `TCP_NODELAY`. Default: `true`.
        tcp_nodelay(enabled: bool);
        /// Idle time before TCP keepalive probes. Default: no keepalive.
        tcp_keepalive(idle: Option<Duration>);
        /// Time between TCP keepalive probes. Default: the system's.
        tcp_keepalive_interval(interval: Option<Duration>);
        /// TCP keepalive probes before the connection counts as dead. Default: the system's.
        tcp_keepalive_retries(retries: Option<u32>);
        /// HTTP/2 flow control window of a stream. Default: 65,535.
        initial_stream_window_size(bytes: impl Into<Option<u32>>);
        /// HTTP/2 flow control window of the connection. Default: 65,535.
        initial_connection_window_size(bytes: impl Into<Option<u32>>);
        /// Size of the queue before the connection's task. Default: 1,024.
        buffer_size(requests: impl Into<Option<usize>>);
        /// Interval of HTTP/2 PINGs. Default: none.
        http2_keep_alive_interval(interval: Duration);
        /// How long an HTTP/2 PING may stay unanswered. Default: hyper's.
        keep_alive_timeout(timeout: Duration);
        /// HTTP/2 PINGs without open streams, too. Default: hyper's.
        keep_alive_while_idle(enabled: bool);
        /// Adaptive HTTP/2 flow control. Default: hyper's.
        http2_adaptive_window(enabled: bool);
        /// Size of the HTTP/2 header table. Default: 4,096.
        http2_header_table_size(bytes: u32);
        /// Longest HTTP/2 header list. Default: hyper's. Over Homa see
        /// [`max_metadata_bytes`](Self::max_metadata_bytes).
        http2_max_header_list_size(bytes: u32);
        /// Most HTTP/2 streams that were reset and are remembered. Default: hyper's.
        http2_max_concurrent_reset_streams(streams: usize);
        /// How long a reset HTTP/2 stream is remembered. Default: hyper's.
        http2_reset_stream_duration(duration: Duration);
        /// Most HTTP/2 streams that may be reset for protocol errors before the connection is
        /// given up. Default: hyper's.
        http2_max_local_error_reset_streams(streams: impl Into<Option<usize>>);
        /// Largest HTTP/2 frame. Default: hyper's.
        max_frame_size(bytes: impl Into<Option<u32>>);
        /// Local IP address of the connection. Default: the system's choice.
        local_address(addr: Option<IpAddr>);
    }

    /// The URI.
    pub fn uri(&self) -> &Uri {
        match &self.kind {
            Kind::Homa(target) => &target.uri,
            #[cfg(feature = "tcp")]
            Kind::Tcp => self.tcp.uri(),
            Kind::Refused(uri, _) => uri,
        }
    }

    /// The [`connect_timeout`](Self::connect_timeout) if one was set.
    pub fn get_connect_timeout(&self) -> Option<Duration> {
        self.settings.connect_timeout
    }

    fn parse(uri: &str) -> Result<Self, Error> {
        Self::to(Target::parse(uri, Role::Client)?)
    }

    fn to(target: Target) -> Result<Self, Error> {
        match target {
            Target::Homa(target) => Self::to_homa(target),
            #[cfg(feature = "tcp")]
            Target::Tcp(uri) => Ok(Self {
                kind: Kind::Tcp,
                settings: Settings::default(),
                tcp: tcp_endpoint(&uri)?,
            }),
        }
    }

    fn to_homa(target: HomaTarget) -> Result<Self, Error> {
        Ok(Self {
            settings: Settings::default(),
            #[cfg(feature = "tcp")]
            tcp: match &target.fallback {
                Some(uri) => tcp_endpoint(uri)?,
                None => target.uri.clone().into(),
            },
            kind: Kind::Homa(target),
        })
    }

    fn refused(uri: Uri, error: UriError) -> Self {
        Self {
            settings: Settings::default(),
            #[cfg(feature = "tcp")]
            tcp: uri.clone().into(),
            kind: Kind::Refused(uri, error),
        }
    }
}

/// The setters that take or give types of hyper, and what can be asked of TCP.
#[cfg(feature = "tcp")]
impl Endpoint {
    /// What runs the tasks of a TCP connection. Default: `tokio::spawn`.
    ///
    /// No effect over Homa, where a channel has no task.
    #[must_use]
    pub fn executor<E>(mut self, executor: E) -> Self
    where
        E: Executor<BoxFuture> + Send + Sync + 'static,
    {
        self.tcp = self.tcp.executor(executor);
        self
    }

    /// What [`tcp_nodelay`](Self::tcp_nodelay) was set to.
    pub fn get_tcp_nodelay(&self) -> bool {
        self.tcp.get_tcp_nodelay()
    }

    /// What [`tcp_keepalive`](Self::tcp_keepalive) was set to.
    pub fn get_tcp_keepalive(&self) -> Option<Duration> {
        self.tcp.get_tcp_keepalive()
    }

    /// What [`tcp_keepalive_interval`](Self::tcp_keepalive_interval) was set to.
    pub fn get_tcp_keepalive_interval(&self) -> Option<Duration> {
        self.tcp.get_tcp_keepalive_interval()
    }

    /// What [`tcp_keepalive_retries`](Self::tcp_keepalive_retries) was set to.
    pub fn get_tcp_keepalive_retries(&self) -> Option<u32> {
        self.tcp.get_tcp_keepalive_retries()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: None,
            connect_timeout: None,
            concurrency_limit: None,
            rate_limit: None,
            user_agent: None,
            origin: None,
            max_message_bytes: config::DEFAULT_MESSAGE_BYTES,
            max_metadata_bytes: metadata::DEFAULT_LIMIT,
            max_stream_buffer_bytes: config::DEFAULT_STREAM_BUFFER_BYTES,
            homa: homa_client::Config::default(),
        }
    }
}

/// tonic's own endpoint, whose errors do not say which URI they mean.
#[cfg(feature = "tcp")]
fn tcp_endpoint(uri: &str) -> Result<tonic::transport::Endpoint, UriError> {
    tonic::transport::Endpoint::from_shared(uri.to_owned()).map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        UriError::Invalid {
            uri: uri.into(),
            reason: source.unwrap_or_else(|| error.to_string()),
        }
    })
}

impl From<Uri> for Endpoint {
    /// A URI that cannot be used is refused by [`connect`](Endpoint::connect), or by the first
    /// call.
    fn from(uri: Uri) -> Self {
        match Self::parse(&uri.to_string()) {
            Ok(endpoint) => endpoint,
            Err(Error::Uri(error)) => Self::refused(uri, error),
            Err(other) => {
                let error = UriError::Invalid {
                    uri: uri.to_string(),
                    reason: other.to_string(),
                };
                Self::refused(uri, error)
            }
        }
    }
}

impl TryFrom<Bytes> for Endpoint {
    type Error = Error;

    fn try_from(uri: Bytes) -> Result<Self, Error> {
        Self::from_shared(uri)
    }
}

impl TryFrom<String> for Endpoint {
    type Error = Error;

    fn try_from(uri: String) -> Result<Self, Error> {
        Self::parse(&uri)
    }
}

impl TryFrom<&'static str> for Endpoint {
    type Error = Error;

    fn try_from(uri: &'static str) -> Result<Self, Error> {
        Self::parse(uri)
    }
}

impl TryFrom<&ClientConfig> for Endpoint {
    type Error = Error;

    /// The same as [`Endpoint::from_config`].
    fn try_from(config: &ClientConfig) -> Result<Self, Error> {
        Self::from_config(config)
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(uri: &str) -> Result<Self, Error> {
        Self::parse(uri)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("uri", self.uri())
            .finish_non_exhaustive()
    }
}
