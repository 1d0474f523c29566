//! [`ServeAddr`] and [`Listener`]: where a server listens.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use http::Uri;

use crate::config::{HomaOptions, ServerConfig};
use crate::error::Error;
use crate::resolve::resolve;
use crate::transport::counters::CallMonitor;
#[cfg(feature = "tcp")]
use crate::uri::no_fragment;
use crate::uri::{Engine, HomaTarget, Role, Target, UriError};

/// Where a server listens, and over what.
///
/// | made of | transport |
/// |---|---|
/// | a [`SocketAddr`] | TCP, as in tonic |
/// | `"homa://host:port"` | Homa; ports 1 to 32767, or 0 for a free one |
/// | `"http://host:port"` | TCP; port 80 if there is none |
/// | a [`ServerConfig`] | what its `uri` says, or `TONIC_HOMA_URI` in its place |
///
/// ```
/// use tonic_homa::transport::ServeAddr;
///
/// let addr: ServeAddr = "homa://0.0.0.0:4000".parse()?;
/// let refused = "homa://0.0.0.0:40000".parse::<ServeAddr>();
/// assert!(refused.unwrap_err().to_string().contains("ports 1 to 32767"));
/// # Ok::<(), tonic_homa::transport::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ServeAddr {
    kind: Kind,
    /// Of the configuration that it was made of.
    options: HomaOptions,
}

#[derive(Clone, Debug)]
enum Kind {
    Homa(HomaTarget),
    TcpAddr(SocketAddr),
    #[cfg(feature = "tcp")]
    TcpHost {
        host: String,
        port: u16,
    },
}

impl ServeAddr {
    /// From the environment alone: `TONIC_HOMA_URI`, and what else of
    /// [`ServerConfig::from_env`] concerns an address.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if there is no URI, or for another variable that cannot be used;
    /// [`Error::Uri`] for a URI that cannot be used.
    pub fn from_env() -> Result<Self, Error> {
        Self::try_from(&ServerConfig::from_env()?)
    }

    fn parse(uri: &str) -> Result<Self, UriError> {
        let kind = match Target::parse(uri, Role::Server)? {
            Target::Homa(target) => Kind::Homa(target),
            #[cfg(feature = "tcp")]
            Target::Tcp(uri) => tcp_host(&uri)?,
        };
        Ok(Self::of(kind))
    }

    fn of(kind: Kind) -> Self {
        Self {
            kind,
            options: HomaOptions::default(),
        }
    }
}

#[cfg(feature = "tcp")]
fn tcp_host(text: &str) -> Result<Kind, UriError> {
    let invalid = |reason: String| UriError::Invalid {
        uri: text.into(),
        reason,
    };
    no_fragment(text)?;
    let uri: Uri = text
        .parse()
        .map_err(|error: http::uri::InvalidUri| invalid(error.to_string()))?;
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(invalid("a path or query has no meaning here".into()));
    }
    let authority = uri.authority().ok_or_else(|| invalid("no host".into()))?;
    let host = authority.host();
    let port = match authority.as_str()[host.len()..].strip_prefix(':') {
        None | Some("") => 80,
        Some(port) => port.parse().map_err(|_| UriError::PortOutOfRange {
            uri: text.into(),
            port: port.into(),
            range: "TCP ports are 0 to 65535",
        })?,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').into();
    Ok(Kind::TcpHost { host, port })
}

impl From<SocketAddr> for ServeAddr {
    /// TCP, as in tonic.
    fn from(addr: SocketAddr) -> Self {
        Self::of(Kind::TcpAddr(addr))
    }
}

impl FromStr for ServeAddr {
    type Err = Error;

    fn from_str(uri: &str) -> Result<Self, Error> {
        Ok(Self::parse(uri)?)
    }
}

impl TryFrom<&str> for ServeAddr {
    type Error = Error;

    fn try_from(uri: &str) -> Result<Self, Error> {
        uri.parse()
    }
}

impl TryFrom<String> for ServeAddr {
    type Error = Error;

    fn try_from(uri: String) -> Result<Self, Error> {
        uri.parse()
    }
}

impl TryFrom<&String> for ServeAddr {
    type Error = Error;

    fn try_from(uri: &String) -> Result<Self, Error> {
        uri.parse()
    }
}

impl TryFrom<Uri> for ServeAddr {
    type Error = Error;

    fn try_from(uri: Uri) -> Result<Self, Error> {
        uri.to_string().parse()
    }
}

impl TryFrom<&ServerConfig> for ServeAddr {
    type Error = Error;

    /// `TONIC_HOMA_URI` takes the place of the configuration's `uri`.
    fn try_from(config: &ServerConfig) -> Result<Self, Error> {
        let mut addr: Self = config.effective_uri()?.parse()?;
        if let (Kind::Homa(target), Some(engine)) = (&mut addr.kind, config.engine) {
            target.engine.get_or_insert(engine);
        }
        addr.options = config.homa.clone();
        Ok(addr)
    }
}

/// A socket that is bound and has its address, before anything is served on it.
///
/// Clients' calls wait from the moment it is bound.
///
/// ```no_run
/// use tonic_homa::transport::{Listener, Server};
///
/// # async fn run(routes: tonic::service::Routes) -> Result<(), tonic_homa::transport::Error> {
/// let listener = Listener::bind("homa://127.0.0.1:0").await?;
/// println!("reach me at {}", listener.uri());
/// Server::builder().add_routes(routes).serve_on([listener]).await
/// # }
/// ```
pub struct Listener {
    pub(super) socket: Socket,
}

pub(super) enum Socket {
    Homa {
        server: homa_client::Server,
        max_message_bytes: usize,
        engine: Engine,
        monitor: CallMonitor,
    },
    #[cfg(feature = "tcp")]
    Tcp {
        incoming: tonic::transport::server::TcpIncoming,
        addr: SocketAddr,
    },
}

impl Listener {
    /// Binds at once. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// What the conversion into a [`ServeAddr`] refuses, [`Error::Resolve`] for a host without
    /// address, [`Error::Bind`] (Homa) or [`Error::Listen`] (TCP) if the address is in use or not
    /// of this host.
    pub async fn bind<A>(addr: A) -> Result<Self, Error>
    where
        A: TryInto<ServeAddr>,
        A::Error: Into<Error>,
    {
        Self::bind_with(addr, homa_client::Config::default()).await
    }

    /// The same, with settings for the Homa endpoint. They have no effect over TCP. Those of a
    /// [`ServerConfig`]'s table `[homa]` go before them.
    ///
    /// # Errors
    ///
    /// Those of [`bind`](Self::bind), and [`Error::Bind`] for settings out of their range.
    pub async fn bind_with<A>(addr: A, mut config: homa_client::Config) -> Result<Self, Error>
    where
        A: TryInto<ServeAddr>,
        A::Error: Into<Error>,
    {
        let ServeAddr { kind, options } = addr.try_into().map_err(Into::into)?;
        options.apply(&mut config);
        match kind {
            Kind::Homa(target) => {
                let config = target.configure(config);
                let max_message_bytes = config.protocol.max_message_bytes;
                let bind = |addr| Ok(homa_client::Server::bind(addr, &config)?);
                let server = first(resolve(&target.host, target.port).await?, bind)?;
                Ok(Self {
                    socket: Socket::Homa {
                        server,
                        max_message_bytes,
                        engine: Engine::of(&config),
                        monitor: CallMonitor::default(),
                    },
                })
            }
            #[cfg(feature = "tcp")]
            Kind::TcpAddr(addr) => Self::bind_tcp(addr),
            #[cfg(not(feature = "tcp"))]
            Kind::TcpAddr(addr) => Err(UriError::TcpDisabled {
                uri: addr.to_string(),
            }
            .into()),
            #[cfg(feature = "tcp")]
            Kind::TcpHost { host, port } => first(resolve(&host, port).await?, Self::bind_tcp),
        }
    }

    #[cfg(feature = "tcp")]
    fn bind_tcp(addr: SocketAddr) -> Result<Self, Error> {
        let listen = |source| Error::Listen { addr, source };
        let incoming = tonic::transport::server::TcpIncoming::bind(addr).map_err(listen)?;
        let addr = incoming.local_addr().map_err(listen)?;
        Ok(Self {
            socket: Socket::Tcp { incoming, addr },
        })
    }

    /// The address that is bound, with the port that was chosen if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        match &self.socket {
            Socket::Homa { server, .. } => server.local_addr(),
            #[cfg(feature = "tcp")]
            Socket::Tcp { addr, .. } => *addr,
        }
    }

    /// A way to read the counters of its Homa endpoint while it serves; `None` over TCP.
    pub fn monitor(&self) -> Option<homa_client::Monitor> {
        match &self.socket {
            Socket::Homa { server, .. } => Some(server.monitor()),
            #[cfg(feature = "tcp")]
            Socket::Tcp { .. } => None,
        }
    }

    /// A way to read the counters of its calls while it serves; those of TCP stay 0.
    pub fn call_monitor(&self) -> CallMonitor {
        match &self.socket {
            Socket::Homa { monitor, .. } => monitor.clone(),
            #[cfg(feature = "tcp")]
            Socket::Tcp { .. } => CallMonitor::default(),
        }
    }

    /// The URI by which clients reach it, if the address is one that they can use: one that is
    /// unspecified (`0.0.0.0`) stands as it is.
    pub fn uri(&self) -> String {
        let scheme = match &self.socket {
            Socket::Homa {
                engine: Engine::Raw,
                ..
            } => "homa+raw",
            Socket::Homa { .. } => "homa",
            #[cfg(feature = "tcp")]
            Socket::Tcp { .. } => "http",
        };
        format!("{scheme}://{}", self.local_addr())
    }
}

/// The first address that works, else the last error.
fn first<T>(
    addresses: Vec<SocketAddr>,
    mut bind: impl FnMut(SocketAddr) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut addresses = addresses.into_iter().peekable();
    loop {
        let Some(addr) = addresses.next() else {
            return Err(crate::resolve::no_address("the host"));
        };
        match bind(addr) {
            Ok(bound) => return Ok(bound),
            Err(error) if addresses.peek().is_none() => return Err(error),
            Err(error) => tracing::debug!(%addr, %error, "trying the host's next address"),
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("uri", &self.uri())
            .finish_non_exhaustive()
    }
}
