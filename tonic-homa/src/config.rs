//! [`ClientConfig`] and [`ServerConfig`]: what an application reads from a TOML file, so that it
//! changes its transport without being built again.
//!
//! ```toml
//! uri = "homa://10.0.0.1:4000"
//! timeout = "50ms"
//! ```
//!
//! The environment variable `TONIC_HOMA_URI`, if it is set and not empty, takes the place of
//! `uri` wherever a configuration is *used*: in
//! [`Endpoint::from_config`](crate::transport::Endpoint::from_config) and
//! [`ServeAddr`](crate::transport::ServeAddr). Reading a file does not look at it, and neither
//! does an endpoint that is made of a URI, such as the generated `connect("homa://…")`. It is one
//! variable: in a process with several configurations, clients' and servers', all get its URI.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, io};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::uri::{Engine, UriError};

/// The environment variable that takes the place of `uri` in every configuration.
///
/// Read where a configuration is used ([`Endpoint::from_config`](crate::transport::Endpoint),
/// `connect(&config)`, `serve(&config)`, `effective_uri`) and by `from_env` on both sides, but not
/// where a URI is given, as in `connect("homa://…")`. There is one for the whole process: all of
/// its configurations, clients' and servers', then have the same URI.
pub const URI_VARIABLE: &str = "TONIC_HOMA_URI";

/// Settings of a client. Unknown keys are refused.
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
    /// Longest time for one call, told to the server as well. Default: none.
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Longest time for `connect()`. Default: 5 s over Homa, tonic's (none) over TCP.
    #[serde(deserialize_with = "duration")]
    pub connect_timeout: Option<Duration>,
    /// Most calls of one channel in flight; more wait. At least 1. Default: no limit.
    pub concurrency_limit: Option<usize>,
    /// Put before this crate's own name in the `user-agent` header. Default: nothing.
    pub user_agent: Option<String>,
    /// Longest Homa message with header and metadata, 1,000 to 1,000,000 bytes; a call with a
    /// longer request or reply fails with `RESOURCE_EXHAUSTED`. No effect over TCP. Default:
    /// 1,000,000.
    pub max_message_bytes: Option<usize>,
    /// Longest metadata of one direction in encoded form, 1,000 to 500,000 bytes; more fails with
    /// `RESOURCE_EXHAUSTED`. No effect over TCP. Default: 65,536.
    pub max_metadata_bytes: Option<usize>,
    /// `"auto"`, `"udp"` or `"raw"`: what carries Homa. A value in the URI wins. No effect over TCP.
    /// Default: `"auto"`.
    pub engine: Option<Engine>,
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
    /// Answer `RESOURCE_EXHAUSTED` instead of waiting. Default: `false`.
    pub load_shed: bool,
    /// How long calls may go on after a shutdown was asked for. No effect over TCP, where tonic
    /// waits for ever. Default: 30 s.
    #[serde(deserialize_with = "duration")]
    pub shutdown_grace: Option<Duration>,
    /// As in [`ClientConfig`].
    pub max_message_bytes: Option<usize>,
    /// As in [`ClientConfig`].
    pub max_metadata_bytes: Option<usize>,
    /// As in [`ClientConfig`].
    pub engine: Option<Engine>,
}

macro_rules! from_toml {
    ($config:ident) => {
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

            /// The URI in use: `TONIC_HOMA_URI` if it is set, else `uri`.
            ///
            /// # Errors
            ///
            /// If there is neither.
            pub fn effective_uri(&self) -> Result<String, ConfigError> {
                match (uri_from_env(), &self.uri) {
                    (Ok(uri), _) => Ok(uri),
                    (Err(ConfigError::NoUri), Some(uri)) => Ok(uri.clone()),
                    (Err(error), _) => Err(error),
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

from_toml!(ClientConfig);
from_toml!(ServerConfig);

/// Why a configuration cannot be used.
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
    /// The environment variable is no text.
    #[error("the environment variable {URI_VARIABLE} is not valid UTF-8")]
    NotUnicode,
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
    /// A value that means nothing, or not yet.
    #[error(transparent)]
    Value(#[from] UriError),
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

/// The value of [`URI_VARIABLE`].
pub(crate) fn uri_from_env() -> Result<String, ConfigError> {
    match env::var(URI_VARIABLE) {
        Ok(uri) if !uri.trim().is_empty() => Ok(uri.trim().into()),
        Ok(_) | Err(env::VarError::NotPresent) => Err(ConfigError::NoUri),
        Err(env::VarError::NotUnicode(_)) => Err(ConfigError::NotUnicode),
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map(Some).ok_or_else(|| {
        D::Error::custom(format!(
            "`{text}` is no duration: write a number and a unit (ns, us, ms, s, min, h), \
             such as \"50ms\""
        ))
    })
}

fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit_at);
    let nanos = match unit.trim_start() {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "min" => 60_000_000_000,
        "h" => 3_600_000_000_000_u64,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // Nothing below a nanosecond counts, and a longer fraction would overflow.
    if whole.is_empty() || fraction.len() > 9 || number.ends_with('.') {
        return None;
    }
    let mut total = whole.parse::<u64>().ok()?.checked_mul(nanos)?;
    if !fraction.is_empty() {
        let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        let part = fraction.parse::<u128>().ok()? * u128::from(nanos) / scale;
        total = total.checked_add(u64::try_from(part).ok()?)?;
    }
    Some(Duration::from_nanos(total))
}

impl<'de> Deserialize<'de> for Engine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read() {
        let client: ClientConfig = r#"
            uri = "homa://a:1"
            timeout = "50ms"
            connect_timeout = "1.5s"
            concurrency_limit = 7
            user_agent = "me"
            max_message_bytes = 500000
            max_metadata_bytes = 2000
            engine = "udp"
        "#
        .parse()
        .unwrap();
        let expected = ClientConfig {
            uri: Some("homa://a:1".into()),
            timeout: Some(Duration::from_millis(50)),
            connect_timeout: Some(Duration::from_millis(1_500)),
            concurrency_limit: Some(7),
            user_agent: Some("me".into()),
            max_message_bytes: Some(500_000),
            max_metadata_bytes: Some(2_000),
            engine: Some(Engine::Udp),
        };
        assert_eq!(client, expected);
        let server: ServerConfig = r#"
            uri = "homa://0.0.0.0:0"
            timeout = "1min"
            concurrency_limit_per_connection = 9
            load_shed = true
            shutdown_grace = "2s"
            max_message_bytes = 1000
            max_metadata_bytes = 1000
            engine = "auto"
        "#
        .parse()
        .unwrap();
        assert_eq!(server.timeout, Some(Duration::from_secs(60)));
        assert_eq!(server.shutdown_grace, Some(Duration::from_secs(2)));
        assert!(server.load_shed);
        assert_eq!("".parse::<ServerConfig>().unwrap(), ServerConfig::default());
    }

    #[test]
    fn unknown_keys_and_values_are_refused_by_name() {
        for (text, named) in [
            ("url = 'homa://a:1'", "unknown field `url`"),
            ("timeout = 5", "invalid type"),
            ("timeout = '5'", "`5` is no duration"),
            ("timeout = '5 fortnights'", "(ns, us, ms, s, min, h)"),
            ("engine = 'tcp'", "`tcp` is no value of `engine`"),
            ("concurrency_limit = -1", "concurrency_limit"),
            ("uri", "line 1"),
        ] {
            let error = text.parse::<ClientConfig>().unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
        let error = ServerConfig::from_toml_file("no/such.toml")
            .unwrap_err()
            .to_string();
        assert!(error.contains("no/such.toml"), "{error}");
    }

    #[test]
    fn durations() {
        for (text, nanos) in [
            ("1ns", 1),
            ("2us", 2_000),
            ("2µs", 2_000),
            ("0.5ms", 500_000),
            (" 3 s ", 3_000_000_000),
            ("1.000000001s", 1_000_000_001),
            ("2h", 7_200_000_000_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_nanos(nanos)),
                "{text}"
            );
        }
        for text in [
            "",
            "s",
            ".5s",
            "5.s",
            "1..2s",
            "-1s",
            "1e3s",
            "99999999999h",
            "1.0000000001s",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_and_limits_have_bounds() {
        assert!(checked_size("max_message_bytes", 1_000_000, &MAX_MESSAGE_BYTES).is_ok());
        let error = checked_size("max_message_bytes", 1_000_001, &MAX_MESSAGE_BYTES).unwrap_err();
        assert!(
            error.to_string().contains("max_message_bytes = 1000001"),
            "{error}"
        );
        assert!(checked_limit("concurrency_limit", 0).is_err());
    }
}
