//! [`ClientConfig`] and [`ServerConfig`]: what an application reads from a TOML file or from the
//! environment, so that it changes its transport without being built again.
//!
//! ```toml
//! uri = "homa://10.0.0.1:4000"
//! timeout = "50ms"
//! protocol = "compact"
//!
//! [homa]
//! mtu = 9000
//! ```
//!
//! Each key has an environment variable: `THRIFT_HOMA_` and the key in capitals, such as
//! `THRIFT_HOMA_TIMEOUT`; the keys of the table `[homa]` by their own name, such as
//! `THRIFT_HOMA_MTU`. They are read by `from_env` and `with_env`.
//!
//! One of them counts without being asked for: `THRIFT_HOMA_URI`, if it is set and not empty, takes
//! the place of `uri` wherever a configuration is *used*: in
//! [`Endpoint::from_config`](crate::Endpoint::from_config) and [`ServerConfig::serve`]. It is one
//! variable: in a process with several configurations, clients' and servers', all get its URI.

mod value;

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

pub use homa_client::options::HomaOptions;
use homa_client::options::{Engine, Overlay, VariableError, Variables, duration, fields};
use serde::Deserialize;
use thrift::server::TProcessor;

use crate::client::OnewayMode;
use crate::endpoint::Endpoint;
use crate::limits::Limits;
use crate::pieces::{BadPieces, PieceOptions};
use crate::protocol::Protocol;
use crate::server::{OnewayAck, QueuedAtShutdown, ServerHandle, ServerOptions};
use crate::uri::UriError;
pub(crate) use value::{Oneway, protocol};

/// The environment variable that takes the place of `uri` in every configuration.
///
/// Read where a configuration is used and by `from_env` on both sides, but not where a URI is given
/// as text. There is one for the whole process: all of its configurations, clients' and servers',
/// then have the same URI.
pub const URI_VARIABLE: &str = "THRIFT_HOMA_URI";

const PREFIX: &str = "THRIFT_HOMA_";

/// Settings of a client. Unknown keys are refused.
///
/// Durations are strings of a number and a unit out of `ns`, `us`, `ms`, `s`, `min`, `h`, such
/// as `"50ms"` or `"1.5s"`.
///
/// ```
/// use thrift_homa::{ClientConfig, Endpoint};
///
/// let config: ClientConfig = r#"
///     uri = "homa://10.0.0.1:4000"
///     timeout = "50ms"
///     service = "Calculator"
/// "#
/// .parse()?;
/// assert_eq!(config.timeout, Some(std::time::Duration::from_millis(50)));
/// let endpoint = Endpoint::from_config(&config)?;
/// # Ok::<(), thrift_homa::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ClientConfig {
    /// Where the server is: `homa://host:port`, `tcp+framed://host:port`, …, see [`Endpoint`]. What
    /// its query says goes before the other keys. Needed here or in `THRIFT_HOMA_URI`.
    pub uri: Option<String>,
    /// Longest time for one call, up to its whole reply. At least 1 ms. Default: none.
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Longest time to open a connection. At least 1 ms. No effect over Homa, which has none.
    /// Default: 5 s.
    #[serde(deserialize_with = "duration")]
    pub connect_timeout: Option<Duration>,
    /// Longest message that is sent or taken, 1,000 bytes at least; 1,000,000 at most over Homa,
    /// 104,857,600 over the others. Default: 1,000,000.
    pub max_message_bytes: Option<usize>,
    /// Longest message in bytes where those over `max_message_bytes` go in pieces, see
    /// [`PieceOptions`]; over the others they go as they are. At least `max_message_bytes`, 1 GiB at
    /// most. Client and server need it. Default: none do.
    pub pieces_up_to: Option<usize>,
    /// `"binary"` or `"compact"`. Default: `"binary"`.
    pub protocol: Option<Protocol>,
    /// Name of the service where the server has several (`TMultiplexedProcessor`). Default: none.
    pub service: Option<String>,
    /// `"detach"` or `"await_ack"`: whether a oneway call waits for the server to have taken it. No
    /// effect but over Homa. Default: `"detach"`.
    pub oneway: Option<OnewayMode>,
    /// `"auto"`, `"udp"`, `"raw"` or `"kernel"`: what carries Homa. A value in the URI wins. No
    /// effect over others. Default: `"auto"`.
    pub engine: Option<Engine>,
    /// Settings of the Homa endpoint. No effect over others.
    pub homa: HomaOptions,
}

/// Settings of a server. Unknown keys are refused; durations as in [`ClientConfig`].
///
/// ```no_run
/// use std::time::Duration;
/// use thrift::server::TProcessor;
/// use thrift_homa::ServerConfig;
///
/// # fn run(processor: impl TProcessor + Send + Sync + 'static) -> thrift::Result<()> {
/// let config = ServerConfig::from_toml_file("server.toml")?;
/// let server = config.serve(processor)?;
/// # drop(server);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Where to listen: `homa://0.0.0.0:4000`, `tcp+framed://0.0.0.0:4000`,
    /// `unix+framed:///run/calculator.sock`. Port 0 takes a free one. What its query says goes
    /// before the other keys. Needed here or in `THRIFT_HOMA_URI`.
    pub uri: Option<String>,
    /// Handlers that run at once, 1 to 65,536. Default: 4 for each processor, at least 8.
    pub workers: Option<usize>,
    /// Requests that wait for a worker; more are refused. Default: 10,000.
    pub queue: Option<usize>,
    /// `"binary"` or `"compact"`. Default: both, told by a message's first byte.
    pub protocol: Option<Protocol>,
    /// `"on_receipt"` or `"after_handler"`: when a oneway message is acknowledged. No effect but
    /// over Homa. Default: `"on_receipt"`.
    pub oneway: Option<OnewayAck>,
    /// Longest time for one call from its arrival on, waiting for a worker included; one that takes
    /// longer is answered by an exception. At least 1 ms. Default: none.
    #[serde(deserialize_with = "duration")]
    pub call_timeout: Option<Duration>,
    /// `"serve"` or `"refuse"`: what becomes of requests that wait when a shutdown begins. Default:
    /// `"serve"`.
    pub queued_at_shutdown: Option<QueuedAtShutdown>,
    /// Most connections at once, 1 to 65,536; more are closed. No effect over Homa, which has none.
    /// Default: 1,000.
    pub max_connections: Option<usize>,
    /// As in [`ClientConfig`].
    pub max_message_bytes: Option<usize>,
    /// As in [`ClientConfig`].
    pub pieces_up_to: Option<usize>,
    /// As in [`ClientConfig`].
    pub engine: Option<Engine>,
    /// As in [`ClientConfig`].
    pub homa: HomaOptions,
}

impl ServerConfig {
    /// Serves as this says: [`endpoint`](Self::endpoint) with [`options`](Self::options).
    ///
    /// # Errors
    ///
    /// `thrift::Error::User` holds the [`ConfigError`] or [`UriError`] of what cannot be used;
    /// `Transport` errors say why it cannot listen.
    pub fn serve<P>(&self, processor: P) -> thrift::Result<ServerHandle>
    where
        P: TProcessor + Send + Sync + 'static,
    {
        self.endpoint()?.serve(processor, self.options()?)
    }

    /// Where to serve: [`effective_uri`](Self::effective_uri).
    ///
    /// # Errors
    ///
    /// If there is no URI, or one that cannot be used.
    pub fn endpoint(&self) -> Result<Endpoint, ConfigError> {
        let mut endpoint: Endpoint = self.effective_uri()?.parse()?;
        endpoint.default_engine(self.engine);
        Ok(endpoint)
    }

    /// What this says about serving, but for what is in the URI. What has to do with threads is
    /// checked by the server.
    ///
    /// # Errors
    ///
    /// Names the key that is out of its range.
    pub fn options(&self) -> Result<ServerOptions, ConfigError> {
        // All of them are named, so that none is forgotten.
        let Self {
            uri: _,
            workers,
            queue,
            protocol,
            oneway,
            call_timeout,
            queued_at_shutdown,
            max_connections,
            max_message_bytes,
            pieces_up_to,
            engine: _,
            homa,
        } = self;
        let mut options = ServerOptions::default();
        if let Some(workers) = workers {
            options.workers = *workers;
        }
        if let Some(queue) = queue {
            options.queue = *queue;
        }
        if let Some(protocol) = protocol {
            options.protocol = Some(protocol.clone());
        }
        if let Some(oneway) = oneway {
            options.oneway = *oneway;
        }
        options.call_timeout = checked_time("call_timeout", *call_timeout, TIME)?;
        if let Some(queued) = queued_at_shutdown {
            options.queued_at_shutdown = *queued;
        }
        if let Some(connections) = max_connections {
            options.max_connections = *connections;
        }
        if let Some(bytes) = max_message_bytes {
            options.limits = limits(*bytes)?;
        }
        options.pieces = pieces(*pieces_up_to, &options.limits)?;
        homa.apply(&mut options.homa);
        options.homa.check()?;
        Ok(options)
    }
}

/// Longest message over TCP and unix sockets: the thrift crate's own default.
const MAX_MESSAGE_BYTES: usize = 100 << 20;

/// The limits for messages of so many bytes.
pub(crate) fn limits(bytes: usize) -> Result<Limits, ConfigError> {
    if (1_000..=MAX_MESSAGE_BYTES).contains(&bytes) {
        return Ok(Limits::for_messages(bytes));
    }
    Err(ConfigError::OutOfRange {
        key: "max_message_bytes",
        value: bytes.to_string(),
        range: "1000 to 104857600 bytes, 1000000 at most over Homa",
    })
}

/// What goes in pieces, beside these limits.
pub(crate) fn pieces(
    up_to: Option<usize>,
    limits: &Limits,
) -> Result<Option<PieceOptions>, ConfigError> {
    let Some(pieces) = up_to.map(PieceOptions::up_to) else {
        return Ok(None);
    };
    match pieces.check(limits) {
        Ok(()) => Ok(Some(pieces)),
        Err(BadPieces::BelowLimit {
            max_bytes,
            message_bytes,
        }) => Err(ConfigError::PiecesBelowLimit {
            pieces_up_to: max_bytes,
            max_message_bytes: message_bytes,
        }),
        // The memory follows from it.
        Err(BadPieces::OutOfRange { .. } | BadPieces::TooLittleMemory { .. }) => {
            Err(ConfigError::OutOfRange {
                key: "pieces_up_to",
                value: pieces.max_bytes.to_string(),
                range: "1 to 1073741824 bytes; leave it out for none",
            })
        }
    }
}

/// The range of times that have no limit by default.
pub(crate) const TIME: &str = "1ms or more; leave it out for no limit";

/// A call that has no time could never succeed.
pub(crate) fn checked_time(
    key: &'static str,
    time: Option<Duration>,
    range: &'static str,
) -> Result<Option<Duration>, ConfigError> {
    match time {
        Some(time) if time < Duration::from_millis(1) => Err(ConfigError::OutOfRange {
            key,
            value: format!("{time:?}"),
            range,
        }),
        time => Ok(time),
    }
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
            /// key is `THRIFT_HOMA_` and the key in capitals: `THRIFT_HOMA_TIMEOUT=50ms`. Values
            /// are written as in TOML, without quotes; an empty one counts as not set.
            ///
            /// Variables that only the other side's configuration has are left to it.
            ///
            /// # Errors
            ///
            /// Names the variable that is wrong. One that begins with `THRIFT_HOMA_` and belongs
            /// to no key of either side is refused with the list of known ones.
            pub fn with_env(self) -> Result<Self, ConfigError> {
                Ok(variables().overlay(self, std::env::vars_os())?)
            }

            /// The URI in use: `THRIFT_HOMA_URI` if it is set, else `uri`.
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
    timeout,
    connect_timeout,
    max_message_bytes,
    pieces_up_to,
    protocol,
    service,
    oneway,
    engine,
});
sources!(ServerConfig {
    uri,
    workers,
    queue,
    protocol,
    oneway,
    call_timeout,
    queued_at_shutdown,
    max_connections,
    max_message_bytes,
    pieces_up_to,
    engine,
});

/// The variables of both sides: neither refuses what only the other one knows.
fn variables() -> Variables {
    Variables::new(
        PREFIX,
        &[fields::<ClientConfig>(), fields::<ServerConfig>()],
    )
}

/// Why a configuration cannot be used.
///
/// ```
/// use thrift_homa::{ClientConfig, ConfigError};
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
    /// An environment variable that cannot be used.
    #[error(transparent)]
    Variable(#[from] VariableError),
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
    /// Pieces are for messages over `max_message_bytes`; this would lower that limit.
    #[error(
        "pieces_up_to = {pieces_up_to} is below max_message_bytes = {max_message_bytes}, which it \
         would lower: raise it, or set max_message_bytes to less"
    )]
    PiecesBelowLimit {
        /// `pieces_up_to`.
        pieces_up_to: usize,
        /// `max_message_bytes`, or its default.
        max_message_bytes: usize,
    },
    /// A setting of the Homa endpoint is out of its range.
    #[error("in [homa]: {0}")]
    Homa(#[from] homa_client::ConfigError),
    /// A URI that cannot be used.
    #[error(transparent)]
    Uri(#[from] UriError),
}

impl From<ConfigError> for thrift::Error {
    /// As an error of the user's, from which it can be had back.
    fn from(error: ConfigError) -> Self {
        Self::User(Box::new(error))
    }
}

#[cfg(test)]
mod tests;
