//! [`ClientConfig`] and [`ServerConfig`]: what an application reads from a TOML file or from the
//! environment, so that it changes its transport without being built again.
//!
//! ```toml
//! uri = "homa://10.0.0.1:4000"
//! timeout = "50ms"
//!
//! [homa]
//! mtu = 9000
//! ```
//!
//! Each key has an environment variable: `TONIC_HOMA_` and the key in capitals, such as
//! `TONIC_HOMA_TIMEOUT`; the keys of the table `[homa]` by their own name, such as
//! `TONIC_HOMA_MTU`. They are read by `from_env` and `with_env`.
//!
//! One of them counts without being asked for: `TONIC_HOMA_URI`, if it is set and not empty, takes
//! the place of `uri` wherever a configuration is *used*: in
//! [`Endpoint::from_config`](crate::transport::Endpoint::from_config) and
//! [`ServeAddr`](crate::transport::ServeAddr). Reading a file does not look at it, and neither
//! does an endpoint that is made of a URI, such as the generated `connect("homa://…")`. It is one
//! variable: in a process with several configurations, clients' and servers', all get its URI.

mod env;
mod value;

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

pub use homa_client::options::HomaOptions;
use homa_client::options::{Overlay, VariableError, Variables, duration};
use serde::Deserialize;

use crate::uri::{Engine, StreamMode, UriError};
use value::rate;

/// The environment variable that takes the place of `uri` in every configuration.
///
/// Read where a configuration is used ([`Endpoint::from_config`](crate::transport::Endpoint),
/// `connect(&config)`, `serve(&config)`, `effective_uri`) and by `from_env` on both sides, but not
/// where a URI is given, as in `connect("homa://…")`. There is one for the whole process: all of
/// its configurations, clients' and servers', then have the same URI.
pub const URI_VARIABLE: &str = "TONIC_HOMA_URI";

/// Settings of a client. Unknown keys are refused. The table of all keys is in `docs/tonic.md`.
///
/// Durations are strings of a number and a unit out of `ns`, `us`, `ms`, `s`, `min`, `h`, such
/// as `"50ms"` or `"1.5s"`.
///
/// ```
/// use tonic_homa::ClientConfig;
///
/// let config: ClientConfig = r#"
///     uri = "homa://10.0.0.1:4000"
///     timeout = "50ms"
/// "#
/// .parse()?;
/// assert_eq!(config.timeout, Some(std::time::Duration::from_millis(50)));
/// # Ok::<(), tonic_homa::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ClientConfig {
    /// Where the server is: `homa://host:port`, `http://host:port`, …. Needed here or in
    /// `TONIC_HOMA_URI`.
    pub uri: Option<String>,
    /// The TCP URI to step to where no server answers over Homa; see
    /// [`Endpoint`](crate::transport::Endpoint). One in the URI goes before it. Default: none.
    pub fallback: Option<String>,
    /// Longest time for one call, told to the server as well. Default: none.
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Longest time for `connect()`. Default: 5 s over Homa, tonic's (none) over TCP.
    #[serde(deserialize_with = "duration")]
    pub connect_timeout: Option<Duration>,
    /// Most calls of one channel in flight; more wait. At least 1. Default: no limit.
    pub concurrency_limit: Option<usize>,
    /// Most calls of one channel in each window of time, as `"100/1s"`; more wait. At least 1.
    /// Default: no limit.
    #[serde(deserialize_with = "rate")]
    pub rate_limit: Option<(u64, Duration)>,
    /// Put before this crate's own name in the `user-agent` header. Default: nothing.
    pub user_agent: Option<String>,
    /// What servers see as scheme and authority, as a URI. Default: those of `uri`.
    pub origin: Option<String>,
    /// Longest Homa message that is sent, with header and metadata, 1,000 to 1,000,000 bytes; longer
    /// calls go in several. No effect over TCP. Default: 1,000,000.
    pub max_message_bytes: Option<usize>,
    /// Longest metadata of one direction in encoded form, 1,000 to 500,000 bytes; more fails with
    /// `RESOURCE_EXHAUSTED`. No effect over TCP. Default: 65,536.
    pub max_metadata_bytes: Option<usize>,
    /// Bytes of bodies from one peer that are buffered, or may come without being asked for again,
    /// 65,536 to 4,294,967,296. Its streams share it, and each takes 65,536 at least. No effect over
    /// TCP. Default: 64 MiB.
    pub max_stream_buffer_bytes: Option<usize>,
    /// `"auto"`, `"udp"`, `"raw"` or `"kernel"`: what carries Homa. A value in the URI wins. No
    /// effect over TCP. Default: `"auto"`.
    pub engine: Option<Engine>,
    /// `"push"` or `"pull"`: how the messages of streaming calls come. A value in the URI wins. No
    /// effect over TCP. Default: `"push"`.
    pub stream: Option<StreamMode>,
    /// Settings of the Homa endpoint. No effect over TCP.
    pub homa: HomaOptions,
}

/// Settings of a server. Unknown keys are refused; durations as in [`ClientConfig`].
///
/// ```no_run
/// use tonic_homa::ServerConfig;
/// use tonic_homa::transport::Server;
///
/// # async fn run(routes: tonic::service::Routes) -> Result<(), tonic_homa::transport::Error> {
/// let config = ServerConfig::from_toml_file("server.toml")?;
/// Server::from_config(&config)?.add_routes(routes).serve(&config).await
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Where to listen: `homa://0.0.0.0:4000`, `http://0.0.0.0:4000`. Port 0 takes a free one.
    /// Needed here or in `TONIC_HOMA_URI`.
    pub uri: Option<String>,
    /// Longest time for one handler; a client's shorter deadline wins. Default: none.
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Most calls of one client in the handlers; more wait, or fail if `load_shed` is set. At
    /// least 1. Default: no limit.
    pub concurrency_limit_per_connection: Option<usize>,
    /// Most open calls of one client; more wait. At least 1. Default: no limit.
    pub max_concurrent_streams: Option<u32>,
    /// Answer `RESOURCE_EXHAUSTED` instead of waiting. Default: `false`.
    pub load_shed: Option<bool>,
    /// How long calls may go on after a shutdown was asked for. No effect over TCP, where tonic
    /// waits for ever. Default: 30 s.
    #[serde(deserialize_with = "duration")]
    pub shutdown_grace: Option<Duration>,
    /// As in [`ClientConfig`].
    pub max_message_bytes: Option<usize>,
    /// As in [`ClientConfig`].
    pub max_metadata_bytes: Option<usize>,
    /// As in [`ClientConfig`].
    pub max_stream_buffer_bytes: Option<usize>,
    /// As in [`ClientConfig`].
    pub engine: Option<Engine>,
    /// As in [`ClientConfig`].
    pub homa: HomaOptions,
}

macro_rules! sources {
    ($config:ident { $($key:ident),* $(,)? }) => {
        impl $config {
            /// Reads a TOML file.
            ///
            /// # Errors
            ///
            /// Names the file, and the line and key that are wrong.
            pub fn from_toml_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
                let path = path.as_ref();
                let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
                    path: path.into(),
                    source,
                })?;
                toml::from_str(&text).map_err(|source| ConfigError::Parse {
                    path: Some(path.into()),
                    source: Box::new(source),
                })
            }

            /// Reads the environment: one variable for each key, see
            /// [`with_env`](Self::with_env).
            ///
            /// # Errors
            ///
            /// Names the variable that is wrong, or unknown.
            pub fn from_env() -> Result<Self, ConfigError> {
                Self::default().with_env()
            }

            /// Puts what the environment says in the place of what this says. The variable of a
            /// key is `TONIC_HOMA_` and the key in capitals: `TONIC_HOMA_TIMEOUT=50ms`. Values
            /// are written as in TOML, without quotes; an empty one counts as not set.
            ///
            /// Variables that only the other side's configuration has are left to it.
            ///
            /// # Errors
            ///
            /// Names the variable that is wrong. One that begins with `TONIC_HOMA_` and belongs
            /// to no key of either side is refused with the list of known ones.
            pub fn with_env(self) -> Result<Self, ConfigError> {
                Ok(env::variables().overlay(self, std::env::vars_os())?)
            }

            /// The URI in use: `TONIC_HOMA_URI` if it is set, else `uri`.
            ///
            /// # Errors
            ///
            /// If there is neither.
            pub fn effective_uri(&self) -> Result<String, ConfigError> {
                let uri = Variables::read(URI_VARIABLE)?.or_else(|| self.uri.clone());
                uri.ok_or(ConfigError::NoUri)
            }
        }

        impl Overlay for $config {
            fn put(&mut self, other: Self) {
                let Self { $($key,)* homa } = other;
                $(self.$key = $key.or(self.$key.take());)*
                self.homa.put(homa);
            }

            fn homa(options: HomaOptions) -> Self {
                Self {
                    homa: options,
                    ..Self::default()
                }
            }
        }

        impl std::str::FromStr for $config {
            type Err = ConfigError;

            /// Reads TOML text.
            fn from_str(text: &str) -> Result<Self, ConfigError> {
                toml::from_str(text).map_err(|source| ConfigError::Parse {
                    path: None,
                    source: Box::new(source),
                })
            }
        }
    };
}

sources!(ClientConfig {
    uri,
    fallback,
    timeout,
    connect_timeout,
    concurrency_limit,
    rate_limit,
    user_agent,
    origin,
    max_message_bytes,
    max_metadata_bytes,
    max_stream_buffer_bytes,
    engine,
    stream,
});
sources!(ServerConfig {
    uri,
    timeout,
    concurrency_limit_per_connection,
    max_concurrent_streams,
    load_shed,
    shutdown_grace,
    max_message_bytes,
    max_metadata_bytes,
    max_stream_buffer_bytes,
    engine,
});

/// Why a configuration cannot be used.
///
/// ```
/// use tonic_homa::{ClientConfig, ConfigError};
///
/// let error = "timeuot = '50ms'".parse::<ClientConfig>().unwrap_err();
/// assert!(matches!(error, ConfigError::Parse { .. }));
/// assert!(error.to_string().contains("unknown field `timeuot`"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no TOML, has an unknown key or a value of the wrong type.
    #[error("{}: {source}", path.as_ref().map_or("configuration".into(), |path| path.display().to_string()))]
    Parse {
        /// The file, if it came from one.
        path: Option<PathBuf>,
        /// What is wrong, with line and column.
        source: Box<toml::de::Error>,
    },
    /// Neither the configuration nor the environment has a URI.
    #[error("no URI: set `uri` in the configuration, or the environment variable {URI_VARIABLE}")]
    NoUri,
    /// An environment variable is no text.
    #[error("the environment variable {variable} is not valid UTF-8")]
    NotUnicode {
        /// Its name.
        variable: String,
    },
    /// An environment variable has a value that its key cannot have.
    #[error("environment variable {variable}={value}: {reason}")]
    Variable {
        /// Its name.
        variable: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An environment variable looks like one of these and belongs to no key.
    #[error("unknown environment variable {variable}: known are {known}")]
    UnknownVariable {
        /// Its name.
        variable: String,
        /// The names of all.
        known: String,
    },
    /// A value is out of its range.
    #[error("{key} = {value} is out of range: {range}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// The value as given.
        value: String,
        /// What is allowed.
        range: &'static str,
    },
    /// A value that cannot be read as what it stands for.
    #[error("{key} = {value} cannot be used: {reason}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// The value as given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting of the Homa endpoint is out of its range.
    #[error("in [homa]: {0}")]
    Homa(#[from] homa_client::ConfigError),
    /// A value that means nothing, or not yet.
    #[error(transparent)]
    Value(#[from] UriError),
}

impl From<VariableError> for ConfigError {
    fn from(error: VariableError) -> Self {
        match error {
            VariableError::NotUnicode { variable } => Self::NotUnicode { variable },
            VariableError::Value {
                variable,
                value,
                reason,
            } => Self::Variable {
                variable,
                value,
                reason,
            },
            VariableError::Unknown { variable, known } => Self::UnknownVariable { variable, known },
        }
    }
}

pub(crate) const DEFAULT_MESSAGE_BYTES: usize = 1_000_000;
pub(crate) const MAX_MESSAGE_BYTES: std::ops::RangeInclusive<usize> = 1_000..=1_000_000;
pub(crate) const MAX_METADATA_BYTES: std::ops::RangeInclusive<usize> = 1_000..=500_000;

pub(crate) const DEFAULT_STREAM_BUFFER_BYTES: usize = 64 << 20;
pub(crate) const MAX_STREAM_BUFFER_BYTES: std::ops::RangeInclusive<usize> = 65_536..=1 << 32;

/// Checks a size against its range.
pub(crate) fn checked_size(
    key: &'static str,
    value: usize,
    range: &std::ops::RangeInclusive<usize>,
) -> Result<usize, ConfigError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let range = if *range == MAX_MESSAGE_BYTES {
        "1000 to 1000000 bytes, the longest Homa message"
    } else if *range == MAX_STREAM_BUFFER_BYTES {
        "65536 to 4294967296 bytes"
    } else {
        "1000 to 500000 bytes"
    };
    Err(ConfigError::OutOfRange {
        key,
        value: value.to_string(),
        range,
    })
}

/// Checks a limit of calls: 0 would let none through, for ever.
pub(crate) fn checked_limit(key: &'static str, value: usize) -> Result<usize, ConfigError> {
    match value {
        0 => Err(ConfigError::OutOfRange {
            key,
            value: "0".into(),
            range: "1 or more",
        }),
        _ => Ok(value),
    }
}

/// Checks an origin: both parts of it have to be there.
pub(crate) fn checked_origin(text: &str) -> Result<http::Uri, ConfigError> {
    let invalid = |reason: &dyn std::fmt::Display| ConfigError::Invalid {
        key: "origin",
        value: text.into(),
        reason: format!("{reason}, write for example http://service.example"),
    };
    let uri: http::Uri = text
        .parse()
        .map_err(|error: http::uri::InvalidUri| invalid(&error))?;
    match (uri.scheme(), uri.authority()) {
        (Some(_), Some(_)) => Ok(uri),
        _ => Err(invalid(&"it has no scheme or no authority")),
    }
}

#[cfg(test)]
mod tests;
