//! URIs that name a server, and what carries its calls.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::{Backend, Carrier, Config};

/// Ports of Homa servers end here; the ones above belong to clients.
const LAST_SERVER_PORT: u16 = 32_767;

/// Why a URI cannot be used, as far as all adapters agree.
///
/// It lists every reason there is, so that an adapter can have an error of its own for each.
///
/// ```
/// use homa_client::options::{HomaUri, Role, UriError};
///
/// let error = HomaUri::parse("homa://0.0.0.0:40000", Role::Server).unwrap_err();
/// assert!(matches!(error, UriError::PortOutOfRange { ref port, .. } if port == "40000"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// It is no URI.
    #[error("`{uri}` is no valid URI ({reason}): write for example {}", example(.uri))]
    Invalid {
        /// The text as given.
        uri: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It has no port, and Homa has no default one.
    #[error("`{uri}` has no port: there is no default one, write for example {host}:4000")]
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
}

/// Which Homa implementation carries the calls.
///
/// Both sides of a call need the same carrier: UDP, or IP protocol 146.
///
/// ```
/// use homa_client::options::{Engine, HomaUri, Role};
///
/// // In the URI, or as `engine = "udp"` in a configuration.
/// let uri = HomaUri::parse("homa://10.0.0.1:4000?engine=udp", Role::Client)?;
/// assert_eq!(uri.engine, Some(Engine::Udp));
/// assert_eq!(Engine::Udp.to_string(), "udp");
/// # Ok::<(), homa_client::options::UriError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Engine {
    /// The best one that both hosts have. The default. Where the kernel module is loaded, servers
    /// of all addresses listen through it, too, and clients call those that answer there through
    /// it; else this is UDP, unless the settings of the endpoint name another carrier or backend.
    #[default]
    Auto,
    /// The user-space engine over UDP: needs neither a kernel module nor privileges.
    Udp,
    /// The user-space engine on IP protocol 146, which the kernel module uses: needs the
    /// capability CAP_NET_RAW, and that the module is not loaded on this host.
    Raw,
    /// The kernel module, on IP protocol 146: has to be loaded.
    Kernel,
}

impl Engine {
    /// The engine that an endpoint with these settings uses.
    pub fn of(config: &Config) -> Self {
        match (config.backend, config.protocol.carrier) {
            (Backend::Kernel, _) => Self::Kernel,
            (Backend::Auto, _) => Self::Auto,
            (Backend::User, Carrier::Udp) => Self::Udp,
            (Backend::User, Carrier::Ip) => Self::Raw,
        }
    }

    /// `config`, with what this asks for to carry messages.
    #[must_use]
    pub fn configure(self, mut config: Config) -> Config {
        let (backend, carrier) = match self {
            Self::Auto => match (config.backend, config.protocol.carrier) {
                (Backend::User, Carrier::Udp) => (Backend::Auto, Carrier::Udp),
                named => named,
            },
            Self::Udp => (Backend::User, Carrier::Udp),
            Self::Raw => (Backend::User, Carrier::Ip),
            Self::Kernel => (Backend::Kernel, config.protocol.carrier),
        };
        config.backend = backend;
        config.with_carrier(carrier)
    }
}

impl FromStr for Engine {
    type Err = UriError;

    fn from_str(value: &str) -> Result<Self, UriError> {
        match value {
            "auto" => Ok(Self::Auto),
            "udp" => Ok(Self::Udp),
            "raw" => Ok(Self::Raw),
            "kernel" => Ok(Self::Kernel),
            _ => Err(UriError::UnknownValue {
                key: "engine",
                value: value.into(),
                allowed: "auto, udp, raw or kernel",
            }),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Udp => "udp",
            Self::Raw => "raw",
            Self::Kernel => "kernel",
        })
    }
}

/// Who uses a URI: the rules for ports and addresses differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Who calls.
    Client,
    /// Who is called.
    Server,
}

/// Where a `homa:` URI points to: `homa://host:port?engine=udp`, or `homa+udp://host:port`.
///
/// ```
/// use homa_client::options::{HomaUri, Role};
///
/// let uri = HomaUri::parse("homa://[::1]:4000?color=red", Role::Client)?;
/// assert_eq!((uri.host, uri.port, uri.authority), ("::1", 4_000, "[::1]:4000"));
/// // Other keys are the caller's to know or to refuse.
/// assert_eq!(uri.query, [("color", "red")]);
/// # Ok::<(), homa_client::options::UriError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HomaUri<'a> {
    /// A name or an address, without brackets.
    pub host: &'a str,
    /// The port; for servers 0 means any free one.
    pub port: u16,
    /// Host and port as written.
    pub authority: &'a str,
    /// `None` if the URI says nothing about it.
    pub engine: Option<Engine>,
    /// What else the query has, each key once.
    pub query: Vec<(&'a str, &'a str)>,
}

impl<'a> HomaUri<'a> {
    /// Whether this is a URI whose scheme is one of Homa's: `homa`, or `homa+` and an engine.
    pub fn has_scheme(text: &str) -> bool {
        let schemes = ["homa", "homa+udp", "homa+raw", "homa+kernel"];
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        scheme.is_some_and(|scheme| {
            schemes
                .iter()
                .any(|known| known.eq_ignore_ascii_case(scheme))
        })
    }

    /// Reads a URI for which [`has_scheme`](Self::has_scheme) holds.
    ///
    /// # Errors
    ///
    /// Names the part that cannot be used, what is allowed, and what to write instead. Servers have
    /// ports up to 32,767; clients have to name the address of one server.
    pub fn parse(text: &'a str, role: Role) -> Result<Self, UriError> {
        let UriParts {
            scheme,
            host,
            port,
            authority,
            path,
            mut query,
        } = UriParts::parse(text)?;
        if !matches!(path, "" | "/") {
            return Err(invalid(
                text,
                "a path has no meaning here: calls bring their own",
            ));
        }
        let port = parse_port(text, authority, port, role)?;
        if role == Role::Client {
            callable(text, host)?;
        }
        let scheme = scheme.split_once('+').map(|(_, engine)| engine);
        let mut engine = scheme
            .map(|scheme| scheme.to_ascii_lowercase().parse())
            .transpose()?;
        if let Some(at) = query.iter().position(|(key, _)| *key == "engine") {
            let query = query.remove(at).1.parse()?;
            if let Some(scheme) = engine.replace(query)
                && scheme != query
            {
                return Err(UriError::EngineConflict {
                    uri: text.into(),
                    scheme,
                    query,
                });
            }
        }
        Ok(Self {
            host,
            port,
            authority,
            engine,
            query,
        })
    }
}

/// A URI taken apart, for transports other than Homa beside it. [`HomaUri`] is one.
///
/// ```
/// use homa_client::options::UriParts;
///
/// let parts = UriParts::parse("tcp+framed://10.0.0.1:4000/?service=Calc")?;
/// assert_eq!((parts.scheme, parts.host, parts.port), ("tcp+framed", "10.0.0.1", Some("4000")));
/// assert_eq!((parts.path, parts.query), ("/", vec![("service", "Calc")]));
/// # Ok::<(), homa_client::options::UriError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UriParts<'a> {
    /// What stands before `://`.
    pub scheme: &'a str,
    /// A name or an address, without brackets. Empty if there is none and no port either.
    pub host: &'a str,
    /// What follows the colon behind the host, if that is not empty.
    pub port: Option<&'a str>,
    /// Host and port as written.
    pub authority: &'a str,
    /// From the slash on.
    pub path: &'a str,
    /// Pairs of key and value, each key once.
    pub query: Vec<(&'a str, &'a str)>,
}

impl<'a> UriParts<'a> {
    /// Takes it apart.
    ///
    /// # Errors
    ///
    /// If it has no `://`, a character that no URI has, a user name, a fragment, or a key twice; or
    /// if it has a port and no host.
    pub fn parse(text: &'a str) -> Result<Self, UriError> {
        if let Some((_, fragment)) = text.split_once('#') {
            return Err(UriError::Fragment {
                uri: text.into(),
                fragment: fragment.into(),
            });
        }
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(invalid(text, format_args!("it has a {bad:?}")));
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| invalid(text, "it has no `://`"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = host_and_port(text, authority)?;
        Ok(Self {
            scheme,
            host,
            port,
            authority,
            path,
            query: pairs(text, query)?,
        })
    }
}

fn host_and_port<'a>(
    uri: &str,
    authority: &'a str,
) -> Result<(&'a str, Option<&'a str>), UriError> {
    if authority.contains('@') {
        return Err(invalid(uri, "user names have no meaning here"));
    }
    let (host, rest) = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed
            .split_once(']')
            .ok_or_else(|| invalid(uri, "a bracket is not closed"))?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match rest.strip_prefix(':') {
        None if !rest.is_empty() => return Err(invalid(uri, "only a port follows the host")),
        None | Some("") => None,
        Some(port) if port.contains(':') => {
            return Err(invalid(uri, "an IPv6 address has brackets around it"));
        }
        some => some,
    };
    let in_brackets = authority.starts_with('[');
    let part_of_host =
        |c: char| c.is_ascii_alphanumeric() || "-._~%".contains(c) || (in_brackets && c == ':');
    if let Some(bad) = host.chars().find(|c| !part_of_host(*c)) {
        return Err(invalid(uri, format_args!("its host has a {bad:?}")));
    }
    if host.is_empty() && !authority.is_empty() {
        return Err(invalid(uri, "no host"));
    }
    Ok((host, port))
}

fn pairs<'a>(uri: &str, query: &'a str) -> Result<Vec<(&'a str, &'a str)>, UriError> {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if pairs.iter().any(|(seen, _)| *seen == key) {
            return Err(UriError::RepeatedKey {
                uri: uri.into(),
                key: key.into(),
            });
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

fn parse_port(uri: &str, authority: &str, port: Option<&str>, role: Role) -> Result<u16, UriError> {
    if authority.is_empty() {
        return Err(invalid(uri, "no host"));
    }
    let port = port.ok_or_else(|| UriError::MissingPort {
        uri: uri.into(),
        host: authority.trim_end_matches(':').into(),
    })?;
    let range = match role {
        Role::Server => "Homa servers use ports 1 to 32767, and 0 picks a free one",
        Role::Client => "use the server's, 1 to 65535",
    };
    match (port.parse(), role) {
        (Ok(port), Role::Server) if port <= LAST_SERVER_PORT => Ok(port),
        (Ok(port), Role::Client) if port != 0 => Ok(port),
        _ => Err(UriError::PortOutOfRange {
            uri: uri.into(),
            port: port.into(),
            range,
        }),
    }
}

/// Refuses addresses that no server can have. Names are looked up later.
fn callable(uri: &str, host: &str) -> Result<(), UriError> {
    let what = match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(ip) if ip.is_unspecified() => "for listening only",
        Ok(ip) if ip.is_multicast() => "a multicast address",
        _ => return Ok(()),
    };
    Err(UriError::NotCallable {
        uri: uri.into(),
        host: host.into(),
        what,
    })
}

/// What a URI like this one could look like.
fn example(uri: &str) -> String {
    let scheme = uri.split_once("://").map_or("", |(scheme, _)| scheme);
    let part_of_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    match scheme {
        "" => "homa://10.0.0.1:4000".into(),
        _ if !scheme.chars().all(part_of_scheme) => "homa://10.0.0.1:4000".into(),
        _ if scheme.starts_with("unix") => format!("{scheme}:///run/service.sock"),
        _ => format!("{scheme}://10.0.0.1:4000"),
    }
}

fn invalid(uri: &str, reason: impl fmt::Display) -> UriError {
    UriError::Invalid {
        uri: uri.into(),
        reason: reason.to_string(),
    }
}
