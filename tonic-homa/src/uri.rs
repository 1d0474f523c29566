//! URIs: which transport, which host, which options.

use std::fmt;

pub use homa_client::options::Engine;
pub(crate) use homa_client::options::Role;
use homa_client::options::{self, HomaUri};
use http::Uri;
use percent_encoding::percent_decode_str;

/// The keys that can be used.
const KNOWN_KEYS: &str = "engine (auto, udp, raw, kernel), wire (native), stream (push, pull) and \
                          fallback (an http: or unix: URI)";

/// Why a URI cannot be used.
///
/// ```
/// use tonic_homa::transport::{ServeAddr, UriError};
///
/// let error = "homa://0.0.0.0:40000".parse::<ServeAddr>().unwrap_err();
/// let tonic_homa::transport::Error::Uri(error) = error else { unreachable!() };
/// assert!(matches!(error, UriError::PortOutOfRange { ref port, .. } if port == "40000"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// It is no URI.
    #[error("`{uri}` is no valid URI ({reason}): write for example {}", example(.uri))]
    Invalid {
        /// The text as given.
        uri: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It has no scheme, or one that names no transport.
    #[error(
        "`{uri}` names no known transport: its scheme is `{scheme}`, use homa:// for Homa or \
         http:// for TCP"
    )]
    UnknownScheme {
        /// The URI as given.
        uri: String,
        /// Its scheme; empty if there is none.
        scheme: String,
    },
    /// TLS is asked for.
    #[error(
        "`{uri}` needs TLS, which is not supported: use http:// or homa:// where you trust the \
         network, or tonic's own transport"
    )]
    NoTls {
        /// The URI as given.
        uri: String,
    },
    /// A scheme that works on one side only.
    #[error("`{uri}` cannot be served: use homa:// or http:// with an address of this host")]
    NotServable {
        /// The URI as given.
        uri: String,
    },
    /// It has no port, and Homa has no default one.
    #[error("`{uri}` has no port: Homa has no default one, write for example {host}:4000")]
    MissingPort {
        /// The URI as given.
        uri: String,
        /// Its host.
        host: String,
    },
    /// The port is out of range for this role.
    #[error("port {port} in `{uri}` is out of range: {range}")]
    PortOutOfRange {
        /// The URI as given.
        uri: String,
        /// The port as given.
        port: String,
        /// What is allowed.
        range: &'static str,
    },
    /// An address that servers can listen on or groups can share, but nobody can be called by.
    #[error("`{uri}` cannot be called: `{host}` is {what}, use the address of one server")]
    NotCallable {
        /// The URI as given.
        uri: String,
        /// Its host.
        host: String,
        /// Which kind of address it is.
        what: &'static str,
    },
    /// A part after `#`.
    #[error("`#{fragment}` in `{uri}` has no meaning here: leave it out")]
    Fragment {
        /// The URI as given.
        uri: String,
        /// What follows the `#`.
        fragment: String,
    },
    /// The scheme and the query ask for different engines.
    #[error(
        "`{uri}` asks for engine {scheme} in its scheme and for engine={query}: use one of them"
    )]
    EngineConflict {
        /// The URI as given.
        uri: String,
        /// The engine of its scheme.
        scheme: Engine,
        /// The engine of its query.
        query: Engine,
    },
    /// A query key that means nothing.
    #[error("unknown key `{key}` in `{uri}`: known are {KNOWN_KEYS}")]
    UnknownKey {
        /// The URI as given.
        uri: String,
        /// The key.
        key: String,
    },
    /// A query key is given twice.
    #[error("key `{key}` is given twice in `{uri}`: give it once")]
    RepeatedKey {
        /// The URI as given.
        uri: String,
        /// The key.
        key: String,
    },
    /// A value that means nothing.
    #[error("`{value}` is no value of `{key}`: use {allowed}")]
    UnknownValue {
        /// The key, from a URI or a configuration.
        key: &'static str,
        /// The value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A fallback that calls cannot step to.
    #[error("fallback `{fallback}` cannot be used ({reason}): write for example {example}")]
    Fallback {
        /// The value, from a URI or a configuration.
        fallback: String,
        /// What is wrong with it.
        reason: String,
        /// What it could look like.
        example: &'static str,
    },
    /// A key that only clients can use.
    #[error("`{key}` in `{uri}` is for clients only: {remedy}")]
    ClientsOnly {
        /// The URI as given.
        uri: String,
        /// The key.
        key: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
    /// A value whose feature this version does not have.
    #[error("{key}={value} is not supported by this version: {remedy}")]
    Unsupported {
        /// The key, from a URI or a configuration.
        key: &'static str,
        /// The value.
        value: String,
        /// What to do instead.
        remedy: &'static str,
    },
    /// A TCP URI in a build without TCP.
    #[error("`{uri}` needs TCP, which this build leaves out: enable feature `tcp` of tonic-homa")]
    TcpDisabled {
        /// The URI as given.
        uri: String,
    },
}

impl From<options::UriError> for UriError {
    fn from(error: options::UriError) -> Self {
        use options::UriError as Shared;
        match error {
            Shared::Invalid { uri, reason } => Self::Invalid { uri, reason },
            Shared::MissingPort { uri, host } => Self::MissingPort { uri, host },
            Shared::PortOutOfRange { uri, port, range } => {
                Self::PortOutOfRange { uri, port, range }
            }
            Shared::NotCallable { uri, host, what } => Self::NotCallable { uri, host, what },
            Shared::Fragment { uri, fragment } => Self::Fragment { uri, fragment },
            Shared::EngineConflict { uri, scheme, query } => {
                Self::EngineConflict { uri, scheme, query }
            }
            Shared::RepeatedKey { uri, key } => Self::RepeatedKey { uri, key },
            Shared::UnknownValue {
                key,
                value,
                allowed,
            } => Self::UnknownValue {
                key,
                value,
                allowed,
            },
        }
    }
}

/// How the messages of streaming calls come to the client.
///
/// ```
/// use tonic_homa::transport::{Endpoint, StreamMode};
///
/// // The same as `stream = "pull"` in a configuration.
/// let endpoint = Endpoint::from_static("homa://10.0.0.1:4000?stream=pull");
/// assert_eq!(StreamMode::default(), StreamMode::Push);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamMode {
    /// The server sends them as they come, as far as the client's credit goes. The default.
    #[default]
    Push,
    /// The client asks for them. For clients behind a firewall or address translation that lets
    /// only answers through, which is not found out by itself. Clients whose calls the kernel module
    /// may carry do so without being told.
    Pull,
}

impl StreamMode {
    pub(crate) fn parse(value: &str) -> Result<Self, UriError> {
        match value {
            "push" => Ok(Self::Push),
            "pull" => Ok(Self::Pull),
            _ => Err(UriError::UnknownValue {
                key: "stream",
                value: value.into(),
                allowed: "push or pull",
            }),
        }
    }
}

impl fmt::Display for StreamMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Push => "push",
            Self::Pull => "pull",
        })
    }
}

/// A URI that is fit for its role.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Homa(HomaTarget),
    /// Left to tonic.
    #[cfg(feature = "tcp")]
    Tcp(String),
}

/// Where `homa:` points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HomaTarget {
    /// A name or an address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Host and port as written, for `:authority` and for messages.
    pub(crate) authority: String,
    /// `None` if the URI says nothing about it.
    pub(crate) engine: Option<Engine>,
    /// `None` if the URI says nothing about it.
    pub(crate) stream: Option<StreamMode>,
    /// The TCP URI to step to where no server answers over Homa.
    pub(crate) fallback: Option<String>,
    /// The whole URI.
    pub(crate) uri: Uri,
}

impl Target {
    pub(crate) fn parse(text: &str, role: Role) -> Result<Self, UriError> {
        if HomaUri::has_scheme(text) {
            return HomaTarget::parse(text, role).map(Self::Homa);
        }
        let (scheme, _) = text.split_once(':').unwrap_or(("", text));
        match scheme.to_ascii_lowercase().as_str() {
            "http" if text.contains("://") => Self::tcp(text),
            "https" => Err(UriError::NoTls { uri: text.into() }),
            "unix" if role == Role::Server => Err(UriError::NotServable { uri: text.into() }),
            "unix" => Self::tcp(text),
            _ => {
                let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
                Err(UriError::UnknownScheme {
                    uri: text.into(),
                    scheme: scheme.into(),
                })
            }
        }
    }

    #[cfg(feature = "tcp")]
    fn tcp(text: &str) -> Result<Self, UriError> {
        Ok(Self::Tcp(text.into()))
    }

    #[cfg(not(feature = "tcp"))]
    fn tcp(text: &str) -> Result<Self, UriError> {
        Err(UriError::TcpDisabled { uri: text.into() })
    }
}

impl HomaTarget {
    /// `config`, with what the URI asks for to carry messages.
    pub(crate) fn configure(&self, config: homa_client::Config) -> homa_client::Config {
        self.engine.unwrap_or_default().configure(config)
    }

    fn parse(text: &str, role: Role) -> Result<Self, UriError> {
        no_fragment(text)?;
        let uri: Uri = text
            .parse()
            .map_err(|error: http::uri::InvalidUri| invalid(text, error))?;
        let homa = HomaUri::parse(text, role)?;
        let mut target = Self {
            host: homa.host.into(),
            port: homa.port,
            authority: homa.authority.into(),
            engine: homa.engine,
            stream: None,
            fallback: None,
            uri,
        };
        for (key, value) in homa.query {
            target.set(text, role, key, value)?;
        }
        Ok(target)
    }

    fn set(&mut self, uri: &str, role: Role, key: &str, value: &str) -> Result<(), UriError> {
        match (key, value) {
            ("wire", "native") => {}
            ("wire", "grpc_homa" | "auto") => {
                return Err(UriError::Unsupported {
                    key: "wire",
                    value: value.into(),
                    remedy: "leave it out or use wire=native, and use this crate on both sides",
                });
            }
            ("wire", _) => {
                return Err(UriError::UnknownValue {
                    key: "wire",
                    value: value.into(),
                    allowed: "native",
                });
            }
            ("stream", _) if role == Role::Server => {
                return Err(UriError::ClientsOnly {
                    uri: uri.into(),
                    key: "stream",
                    remedy: "leave it out, servers do as each client asks",
                });
            }
            ("stream", _) => self.stream = Some(StreamMode::parse(value)?),
            ("fallback", _) if role == Role::Server => {
                return Err(UriError::ClientsOnly {
                    uri: uri.into(),
                    key: "fallback",
                    remedy: "leave it out, and serve on both URIs at once with `serve_on`",
                });
            }
            ("fallback", _) => {
                let decoded = percent_decode_str(value).decode_utf8();
                let decoded = decoded.map_err(|error| bad_fallback(value, error))?;
                self.fallback = Some(fallback(&decoded)?);
            }
            _ => {
                return Err(UriError::UnknownKey {
                    uri: uri.into(),
                    key: key.into(),
                });
            }
        }
        Ok(())
    }
}

/// Checks a fallback: TCP, and not one that has a fallback itself.
pub(crate) fn fallback(text: &str) -> Result<String, UriError> {
    match Target::parse(text, Role::Client) {
        #[cfg(feature = "tcp")]
        Ok(Target::Tcp(uri)) => Ok(uri),
        Ok(Target::Homa(_)) => Err(bad_fallback(text, "it is Homa again")),
        Err(error @ (UriError::NoTls { .. } | UriError::TcpDisabled { .. })) => Err(error),
        Err(error) => Err(bad_fallback(text, error)),
    }
}

fn bad_fallback(text: &str, reason: impl fmt::Display) -> UriError {
    UriError::Fallback {
        fallback: text.into(),
        reason: reason.to_string(),
        example: "http://10.0.0.1:4000",
    }
}

/// [`Uri`] drops what follows a `#` without a word.
pub(crate) fn no_fragment(uri: &str) -> Result<(), UriError> {
    match uri.split_once('#') {
        None => Ok(()),
        Some((_, fragment)) => Err(UriError::Fragment {
            uri: uri.into(),
            fragment: fragment.into(),
        }),
    }
}

/// What a URI like this one could look like.
fn example(uri: &str) -> &'static str {
    let (scheme, _) = uri.split_once(':').unwrap_or(("", uri));
    if scheme.eq_ignore_ascii_case("http") {
        "http://10.0.0.1:4000"
    } else if scheme.eq_ignore_ascii_case("unix") {
        "unix:/run/greeter.sock"
    } else {
        "homa://10.0.0.1:4000"
    }
}

fn invalid(uri: &str, reason: impl fmt::Display) -> UriError {
    UriError::Invalid {
        uri: uri.into(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests;
