//! [`Endpoint`]: where a channel leads and how it behaves.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Uri};
use tokio::sync::Semaphore;

use super::Channel;
use super::call::HomaChannel;
use super::limit::{self, RateLimit};
use crate::config::{self, ClientConfig};
use crate::error::Error;
use crate::metadata;
use crate::uri::{HomaTarget, Role, Target, UriError};

/// For `connect()` over Homa where nothing is set: a datagram can be lost without anybody
/// noticing, so that there has to be some limit.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

const USER_AGENT: &str = concat!("tonic-homa/", env!("CARGO_PKG_VERSION"));

/// Makes [`Channel`]s. Its URI decides about the transport:
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
/// | `engine` | `auto` (default: UDP), `udp`, `raw` (IP protocol 146, needs CAP_NET_RAW) |
/// | `wire` | `native` |
///
/// Everything else is refused with an [`Error`] that names it. There is never a silent step from
/// Homa to TCP.
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
    kind: Kind,
    settings: Settings,
}

#[derive(Clone)]
enum Kind {
    Homa(HomaTarget),
    #[cfg(feature = "tcp")]
    Tcp(Box<tonic::transport::Endpoint>),
    /// From an [`Uri`] that cannot be used; `connect` tells.
    Refused(Uri, UriError),
}

/// What is needed for Homa; the TCP endpoint has its own copies.
#[derive(Clone)]
struct Settings {
    timeout: Option<Duration>,
    connect_timeout: Option<Duration>,
    concurrency_limit: Option<usize>,
    rate_limit: Option<(u64, Duration)>,
    user_agent: Option<HeaderValue>,
    origin: Option<Uri>,
    max_message_bytes: usize,
    max_metadata_bytes: usize,
    homa: homa_client::Config,
}

/// Applies a setting to tonic's endpoint, if this one is over TCP.
macro_rules! on_tcp {
    ($self:ident, $tcp:ident => $set:expr) => {{
        #[cfg(feature = "tcp")]
        let endpoint = match $self.kind {
            Kind::Tcp($tcp) => Self {
                kind: Kind::Tcp(Box::new($set)),
                ..$self
            },
            _ => $self,
        };
        #[cfg(not(feature = "tcp"))]
        let endpoint = $self;
        endpoint
    }};
}

/// Setters that mean something to TCP or HTTP/2 only.
macro_rules! tcp_only {
    ($($(#[$doc:meta])* $name:ident($value:ident: $type:ty);)*) => {$(
        $(#[$doc])*
        ///
        /// No effect over Homa, which has neither connections nor HTTP/2.
        #[must_use]
        pub fn $name(self, $value: $type) -> Self {
            #[cfg(not(feature = "tcp"))]
            let _ = $value;
            on_tcp!(self, tcp => tcp.$name($value))
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
        let mut endpoint = Self::parse(&config.effective_uri()?)?;
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
        if let Some(agent) = &config.user_agent {
            endpoint = endpoint.user_agent(agent.as_str())?;
        }
        if let Some(bytes) = config.max_message_bytes {
            endpoint = endpoint.max_message_bytes(bytes)?;
        }
        if let Some(bytes) = config.max_metadata_bytes {
            endpoint = endpoint.max_metadata_bytes(bytes)?;
        }
        if let (Kind::Homa(target), Some(engine)) = (&mut endpoint.kind, config.engine) {
            target.engine.get_or_insert(engine);
        }
        Ok(endpoint)
    }

    /// From `TONIC_HOMA_URI` alone.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if it is not set, [`Error::Uri`] if it cannot be used.
    pub fn from_env() -> Result<Self, Error> {
        Self::parse(&config::uri_from_env()?)
    }

    /// Longest time for one call, from the call to its complete reply. Default: none.
    ///
    /// The least of this and the request's `grpc-timeout` counts. Over Homa both ends enforce it
    /// and the call fails with `DEADLINE_EXCEEDED`; over TCP tonic tells the server nothing of
    /// it, stops at the reply's headers and answers `CANCELLED`.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = Some(timeout);
        on_tcp!(self, tcp => tcp.timeout(timeout))
    }

    /// Longest time for [`connect`](Self::connect). Default: 5 s over Homa, none over TCP.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = Some(timeout);
        on_tcp!(self, tcp => tcp.connect_timeout(timeout))
    }

    /// Most calls of a channel and its clones in flight; more wait. 0 counts as 1. Default: no
    /// limit.
    #[must_use]
    pub fn concurrency_limit(mut self, limit: usize) -> Self {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        self.settings.concurrency_limit = Some(limit);
        on_tcp!(self, tcp => tcp.concurrency_limit(limit))
    }

    /// Most calls of a channel and its clones in each window of `duration`; more wait. 0 counts
    /// as 1. Default: no limit.
    #[must_use]
    pub fn rate_limit(mut self, limit: u64, duration: Duration) -> Self {
        let limit = limit.max(1);
        let duration = duration.clamp(Duration::from_nanos(1), limit::LONGEST_WINDOW);
        self.settings.rate_limit = Some((limit, duration));
        on_tcp!(self, tcp => tcp.rate_limit(limit, duration))
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
        if let Kind::Tcp(tcp) = self.kind {
            self.kind = Kind::Tcp(Box::new(tcp.user_agent(agent)?));
        }
        Ok(self)
    }

    /// What servers see as scheme and authority. Default: those of the URI.
    #[must_use]
    pub fn origin(mut self, origin: Uri) -> Self {
        self.settings.origin = Some(origin.clone());
        on_tcp!(self, tcp => tcp.origin(origin))
    }

    /// Longest Homa message, with header and metadata: a call with a longer request fails with
    /// `RESOURCE_EXHAUSTED` before anything is sent, and one with a longer reply after it. No
    /// effect over TCP. Default: 1,000,000.
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
    /// before anything is sent if it is the request's. No effect over TCP. Default: 65,536.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] outside of 1,000 to 500,000 bytes.
    pub fn max_metadata_bytes(mut self, bytes: usize) -> Result<Self, Error> {
        self.settings.max_metadata_bytes =
            config::checked_size("max_metadata_bytes", bytes, &config::MAX_METADATA_BYTES)?;
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
        /// Largest HTTP/2 frame. Default: hyper's.
        max_frame_size(bytes: impl Into<Option<u32>>);
        /// Local IP address of the connection. Default: the system's choice.
        local_address(addr: Option<IpAddr>);
    }

    /// Makes a channel, and makes sure that a server is there: over Homa with one round trip.
    ///
    /// # Errors
    ///
    /// [`Error::Resolve`], [`Error::Connect`], [`Error::ConnectTimeout`] or
    /// [`Error::Handshake`] over Homa if no server of this protocol answers, [`Error::Bind`] if
    /// this host cannot open a Homa endpoint, [`Error::Tcp`] for all failures over TCP, and
    /// [`Error::Uri`] if the endpoint was made of a [`Uri`] that cannot be used.
    pub async fn connect(&self) -> Result<Channel, Error> {
        match &self.kind {
            Kind::Homa(target) => {
                let channel = self.homa_channel(target)?;
                channel.probe().await?;
                Ok(Channel::homa(channel))
            }
            #[cfg(feature = "tcp")]
            Kind::Tcp(tcp) => Ok(Channel::tcp(tcp.connect().await?)),
            Kind::Refused(_, error) => Err(error.clone().into()),
        }
    }

    /// Makes a channel and sends nothing: the first call finds out whether a server is there.
    ///
    /// An endpoint that was made of a [`Uri`] that cannot be used gives a channel whose calls
    /// fail with `INVALID_ARGUMENT` and the reason.
    pub fn connect_lazy(&self) -> Channel {
        match &self.kind {
            Kind::Homa(target) => match self.homa_channel(target) {
                Ok(channel) => Channel::homa(channel),
                Err(error) => Channel::refused(error.to_string()),
            },
            #[cfg(feature = "tcp")]
            Kind::Tcp(tcp) => Channel::tcp(tcp.connect_lazy()),
            Kind::Refused(_, error) => Channel::refused(error.to_string()),
        }
    }

    /// The URI.
    pub fn uri(&self) -> &Uri {
        match &self.kind {
            Kind::Homa(target) => &target.uri,
            #[cfg(feature = "tcp")]
            Kind::Tcp(tcp) => tcp.uri(),
            Kind::Refused(uri, _) => uri,
        }
    }

    /// The [`connect_timeout`](Self::connect_timeout) if one was set.
    pub fn get_connect_timeout(&self) -> Option<Duration> {
        self.settings.connect_timeout
    }

    fn parse(uri: &str) -> Result<Self, Error> {
        let kind = match Target::parse(uri, Role::Client)? {
            Target::Homa(target) => Kind::Homa(target),
            #[cfg(feature = "tcp")]
            Target::Tcp(uri) => {
                let reason = |error: tonic::transport::Error| {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    UriError::Invalid {
                        uri: uri.clone(),
                        reason: source.unwrap_or_else(|| error.to_string()),
                    }
                };
                let tcp = tonic::transport::Endpoint::from_shared(uri.clone()).map_err(reason)?;
                Kind::Tcp(Box::new(tcp))
            }
        };
        Ok(Self::with_kind(kind))
    }

    fn with_kind(kind: Kind) -> Self {
        let settings = Settings {
            timeout: None,
            connect_timeout: None,
            concurrency_limit: None,
            rate_limit: None,
            user_agent: None,
            origin: None,
            max_message_bytes: config::DEFAULT_MESSAGE_BYTES,
            max_metadata_bytes: metadata::DEFAULT_LIMIT,
            homa: homa_client::Config::default(),
        };
        Self { kind, settings }
    }

    fn homa_channel(&self, target: &HomaTarget) -> Result<HomaChannel, Error> {
        let Settings {
            origin, user_agent, ..
        } = &self.settings;
        let origin = origin.as_ref();
        let authority = origin
            .and_then(Uri::authority)
            .map(|authority| authority.as_str());
        let mut section = Vec::new();
        metadata::encode_origin(
            authority.unwrap_or(&target.authority).as_bytes(),
            origin.and_then(Uri::scheme_str).unwrap_or("homa"),
            &mut section,
        )
        .map_err(|error| UriError::Invalid {
            uri: target.uri.to_string(),
            reason: error.to_string(),
        })?;
        let user_agent = match user_agent {
            None => HeaderValue::from_static(USER_AGENT),
            Some(agent) => {
                let both = [agent.as_bytes(), b" ", USER_AGENT.as_bytes()].concat();
                HeaderValue::from_bytes(&both).map_err(|_| Error::UserAgent)?
            }
        };
        Ok(HomaChannel {
            target: target.clone(),
            config: target.configure(self.settings.homa.clone()),
            timeout: self.settings.timeout,
            connect_timeout: self
                .settings
                .connect_timeout
                .unwrap_or(DEFAULT_CONNECT_TIMEOUT),
            origin: section,
            user_agent,
            max_message_bytes: self
                .settings
                .max_message_bytes
                .min(self.settings.homa.protocol.max_message_bytes),
            max_metadata_bytes: self.settings.max_metadata_bytes,
            concurrency: self.settings.concurrency_limit.map(Semaphore::new),
            rate: self
                .settings
                .rate_limit
                .map(|(calls, per)| RateLimit::new(calls, per)),
            route: Mutex::new(None),
        })
    }
}

impl From<Uri> for Endpoint {
    /// A URI that cannot be used is refused by [`connect`](Endpoint::connect), or by the first
    /// call.
    fn from(uri: Uri) -> Self {
        match Self::parse(&uri.to_string()) {
            Ok(endpoint) => endpoint,
            Err(Error::Uri(error)) => Self::with_kind(Kind::Refused(uri, error)),
            Err(other) => {
                let error = UriError::Invalid {
                    uri: uri.to_string(),
                    reason: other.to_string(),
                };
                Self::with_kind(Kind::Refused(uri, error))
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
