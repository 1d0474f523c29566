//! URIs: which transport, which server, which options.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use homa_client::options::{self, Engine, HomaUri, Role, UriParts};

use crate::addr::HostPort;
use crate::config::{Oneway, protocol};
use crate::protocol::Protocol;

/// The transports, for error messages.
const KNOWN_SCHEMES: &str =
    "homa://, tcp+framed://, tcp+buffered:// (all with host:port) and unix+framed:///path";

/// The keys that can be used, for error messages.
const KNOWN_KEYS: &str = "protocol (binary, compact), timeout_ms, service, oneway (detach, \
                          await_ack; on_receipt, after_handler) and engine (auto, udp, raw, \
                          kernel; Homa only)";

/// Longest path of a unix socket: what the system's address has room for, less its end.
const MAX_PATH: usize = 107;

/// Longest name of a service.
const MAX_SERVICE: usize = 256;

/// Why a URI cannot be used.
///
/// ```
/// use thrift_homa::{Endpoint, UriError};
///
/// let error = "homa://10.0.0.1:4000?color=red".parse::<Endpoint>().unwrap_err();
/// assert!(matches!(error, UriError::UnknownKey { ref key, .. } if key == "color"));
/// assert!(error.to_string().contains("known are protocol (binary, compact)"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// It is no URI, or its host, port or engine cannot be used.
    #[error(transparent)]
    Uri(#[from] options::UriError),
    /// It has no scheme, or one that names no transport.
    #[error("`{uri}` names no known transport: {}, use {KNOWN_SCHEMES}", its_scheme(.scheme))]
    UnknownScheme {
        /// The URI as given.
        uri: String,
        /// Its scheme; empty if there is none.
        scheme: String,
    },
    /// A query key that means nothing.
    #[error("unknown key `{key}` in `{uri}`: known are {KNOWN_KEYS}")]
    UnknownKey {
        /// The URI as given.
        uri: String,
        /// The key.
        key: String,
    },
    /// A value that is out of its range.
    #[error("{key}={value} is out of range: {range}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// The value as given.
        value: String,
        /// What is allowed.
        range: &'static str,
    },
    /// A key that means nothing over this transport or on this side.
    #[error("`{key}` in `{uri}` has no meaning {here}: {remedy}")]
    NotHere {
        /// The URI as given.
        uri: String,
        /// The key.
        key: &'static str,
        /// Where it has none.
        here: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
}

fn its_scheme(scheme: &str) -> String {
    match scheme {
        "" => "it has no scheme".to_owned(),
        scheme => format!("its scheme is `{scheme}`"),
    }
}

impl From<UriError> for thrift::Error {
    /// As an error of the user's, from which it can be had back.
    fn from(error: UriError) -> Self {
        Self::User(Box::new(error))
    }
}

/// A URI whose every part can be used, on one side at least.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// As written.
    pub(crate) uri: String,
    pub(crate) place: Place,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) service: Option<String>,
    pub(crate) oneway: Option<Oneway>,
}

/// Where the server is, or listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Homa {
        host: String,
        port: u16,
        engine: Option<Engine>,
    },
    Stream(StreamAddr),
}

/// Where a server is, or listens, that is reached over a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamAddr {
    Tcp {
        host: String,
        port: u16,
        /// Whether each message has its length in front.
        framed: bool,
    },
    /// Always framed.
    Unix(PathBuf),
}

impl StreamAddr {
    pub(crate) fn is_framed(&self) -> bool {
        match self {
            Self::Tcp { framed, .. } => *framed,
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for StreamAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } => HostPort(host, *port).fmt(f),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Target {
    /// Reads a URI. What only one side can use is left to [`check`](Self::check).
    pub(crate) fn parse(text: &str) -> Result<Self, UriError> {
        let text = text.trim();
        let (place, query) = Place::parse(text)?;
        let mut target = Self {
            uri: text.into(),
            place,
            protocol: None,
            timeout: None,
            service: None,
            oneway: None,
        };
        for (key, value) in query {
            target.set(key, value)?;
        }
        Ok(target)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), UriError> {
        match key {
            "protocol" => self.protocol = Some(protocol(value)?),
            "timeout_ms" => self.timeout = Some(milliseconds(value)?),
            "service" => self.service = Some(service(value)?),
            "oneway" => self.oneway = Some(value.parse()?),
            // Homa's own has been taken out.
            "engine" => {
                return Err(self.not_here(
                    "engine",
                    "over TCP or a unix socket",
                    "leave it out, or write homa:// for Homa",
                ));
            }
            _ => {
                return Err(UriError::UnknownKey {
                    uri: self.uri.clone(),
                    key: key.into(),
                });
            }
        }
        Ok(())
    }

    /// Whether this can be used on this side.
    pub(crate) fn check(&self, role: Role) -> Result<(), UriError> {
        match (&self.place, role) {
            (Place::Homa { .. }, _) => {
                HomaUri::parse(&self.uri, role)?;
            }
            (Place::Stream(StreamAddr::Tcp { host, port, .. }), Role::Client) => {
                tcp_client(&self.uri, host, *port)?;
            }
            (Place::Stream(_), _) => {}
        }
        match (role, self.oneway) {
            (Role::Client, Some(Oneway::Server(_))) => Err(self.not_here(
                "oneway",
                "for clients with this value",
                "use oneway=detach or oneway=await_ack",
            )),
            (Role::Server, Some(Oneway::Client(_))) => Err(self.not_here(
                "oneway",
                "for servers with this value",
                "use oneway=on_receipt or oneway=after_handler",
            )),
            (Role::Server, _) if self.timeout.is_some() => Err(self.not_here(
                "timeout_ms",
                "for servers",
                "leave it out, and limit calls with `call_timeout` of the configuration",
            )),
            (Role::Server, _) if self.service.is_some() => Err(self.not_here(
                "service",
                "for servers",
                "leave it out, and register services by name in a `TMultiplexedProcessor`",
            )),
            _ => Ok(()),
        }
    }

    fn not_here(&self, key: &'static str, here: &'static str, remedy: &'static str) -> UriError {
        UriError::NotHere {
            uri: self.uri.clone(),
            key,
            here,
            remedy,
        }
    }
}

type Query<'a> = Vec<(&'a str, &'a str)>;

impl Place {
    fn parse(text: &str) -> Result<(Self, Query<'_>), UriError> {
        if HomaUri::has_scheme(text) {
            let uri = homa(text)?;
            let place = Self::Homa {
                host: uri.host.into(),
                port: uri.port,
                engine: uri.engine,
            };
            return Ok((place, uri.query));
        }
        let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
        match scheme.to_ascii_lowercase().as_str() {
            "tcp+framed" => Self::tcp(text, true),
            "tcp+buffered" => Self::tcp(text, false),
            "unix+framed" => Self::unix(text),
            _ => Err(UriError::UnknownScheme {
                uri: text.into(),
                scheme: scheme.into(),
            }),
        }
    }

    fn tcp(text: &str, framed: bool) -> Result<(Self, Query<'_>), UriError> {
        let parts = UriParts::parse(text)?;
        if !matches!(parts.path, "" | "/") {
            return Err(invalid(text, "a path has no meaning here"));
        }
        if parts.host.is_empty() {
            return Err(invalid(text, "no host"));
        }
        let port = parts.port.ok_or_else(|| options::UriError::MissingPort {
            uri: text.into(),
            host: parts.authority.trim_end_matches(':').into(),
        })?;
        let port = port.parse().map_err(|_| out_of_range(text, port))?;
        let addr = StreamAddr::Tcp {
            host: parts.host.into(),
            port,
            framed,
        };
        Ok((Self::Stream(addr), parts.query))
    }

    fn unix(text: &str) -> Result<(Self, Query<'_>), UriError> {
        let parts = UriParts::parse(text)?;
        if !parts.authority.is_empty() {
            return Err(invalid(
                text,
                "a unix socket has no host: write three slashes and a path",
            ));
        }
        if parts.path.len() < 2 {
            return Err(invalid(text, "no path"));
        }
        if parts.path.len() > MAX_PATH {
            return Err(invalid(
                text,
                "its path is longer than the 107 bytes that unix sockets have room for",
            ));
        }
        let addr = StreamAddr::Unix(parts.path.into());
        Ok((Self::Stream(addr), parts.query))
    }
}

/// Of a client or of a server, whichever its address is for.
fn homa(text: &str) -> Result<HomaUri<'_>, options::UriError> {
    use options::UriError as Shared;
    match HomaUri::parse(text, Role::Client) {
        Err(Shared::NotCallable { .. }) => HomaUri::parse(text, Role::Server),
        Err(Shared::PortOutOfRange { port, .. }) if port == "0" => {
            HomaUri::parse(text, Role::Server)
        }
        parsed => parsed,
    }
}

fn tcp_client(uri: &str, host: &str, port: u16) -> Result<(), UriError> {
    let ip = host.parse::<IpAddr>().map(|ip| ip.to_canonical());
    if ip.is_ok_and(|ip| ip.is_multicast()) {
        return Err(options::UriError::NotCallable {
            uri: uri.into(),
            host: host.into(),
            what: "a multicast address",
        }
        .into());
    }
    match port {
        0 => Err(out_of_range(uri, "0")),
        _ => Ok(()),
    }
}

fn out_of_range(uri: &str, port: &str) -> UriError {
    let (uri, port) = (uri.into(), port.into());
    let range =
        "TCP servers use ports 1 to 65535, and 0 picks a free one; clients use the server's";
    options::UriError::PortOutOfRange { uri, port, range }.into()
}

fn milliseconds(value: &str) -> Result<Duration, UriError> {
    match value.parse::<u32>() {
        Ok(milliseconds) if milliseconds > 0 => Ok(Duration::from_millis(u64::from(milliseconds))),
        _ => Err(UriError::OutOfRange {
            key: "timeout_ms",
            value: value.into(),
            range: "1 to 4294967295 milliseconds; leave it out for no limit",
        }),
    }
}

/// The name of a multiplexed service: what stands before the colon of a method's name.
pub(crate) fn service(value: &str) -> Result<String, UriError> {
    if (1..=MAX_SERVICE).contains(&value.len()) && !value.contains(':') {
        return Ok(value.into());
    }
    Err(UriError::OutOfRange {
        key: "service",
        value: value.into(),
        range: "a name of 1 to 256 bytes without a colon",
    })
}

fn invalid(uri: &str, reason: &str) -> UriError {
    let (uri, reason) = (uri.into(), reason.into());
    options::UriError::Invalid { uri, reason }.into()
}

#[cfg(test)]
mod tests;
