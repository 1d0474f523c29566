//! URIs: which transport, which host, which options.

use std::fmt;
use std::net::IpAddr;

use homa_client::{Backend, Carrier};
use http::Uri;

/// Ports of Homa servers end here; the ones above belong to clients.
const LAST_SERVER_PORT: u16 = 32_767;

/// The keys that can be used. `stream` and `fallback` are known too, but always refused.
const KNOWN_KEYS: &str = "engine (auto, udp, raw, kernel) and wire (native)";

/// Why a URI cannot be used.
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

/// Which Homa implementation carries the calls.
///
/// Both sides of a call need the same carrier: UDP, or IP protocol 146.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Engine {
    /// The best one that both hosts have. The default. Where the kernel module is loaded, servers
    /// of all addresses listen through it, too, and clients call those that answer there through it; else this
    /// is UDP, unless `homa_config` names another carrier or backend.
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
    pub(crate) fn parse(value: &str) -> Result<Self, UriError> {
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

    /// The engine that an endpoint with these settings uses.
    pub(crate) fn of(config: &homa_client::Config) -> Self {
        match (config.backend, config.protocol.carrier) {
            (Backend::Kernel, _) => Self::Kernel,
            (Backend::Auto, _) => Self::Auto,
            (Backend::User, Carrier::Udp) => Self::Udp,
            (Backend::User, Carrier::Ip) => Self::Raw,
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

/// Who uses the URI: the rules for ports and schemes differ.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
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
    /// The whole URI.
    pub(crate) uri: Uri,
}

impl Target {
    pub(crate) fn parse(text: &str, role: Role) -> Result<Self, UriError> {
        let (scheme, _) = text.split_once(':').unwrap_or(("", text));
        match scheme.to_ascii_lowercase().as_str() {
            "homa" | "homa+udp" | "homa+kernel" | "homa+raw" if text.contains("://") => {
                HomaTarget::parse(text, role).map(Self::Homa)
            }
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
    pub(crate) fn configure(&self, mut config: homa_client::Config) -> homa_client::Config {
        let (backend, carrier) = match self.engine {
            None | Some(Engine::Auto) => match (config.backend, config.protocol.carrier) {
                (Backend::User, Carrier::Udp) => (Backend::Auto, Carrier::Udp),
                named => named,
            },
            Some(Engine::Udp) => (Backend::User, Carrier::Udp),
            Some(Engine::Raw) => (Backend::User, Carrier::Ip),
            Some(Engine::Kernel) => (Backend::Kernel, config.protocol.carrier),
        };
        config.backend = backend;
        config.with_carrier(carrier)
    }

    fn parse(text: &str, role: Role) -> Result<Self, UriError> {
        no_fragment(text)?;
        let uri: Uri = text
            .parse()
            .map_err(|error: http::uri::InvalidUri| invalid(text, error))?;
        let authority = uri.authority().ok_or_else(|| invalid(text, "no host"))?;
        if authority.as_str().contains('@') {
            return Err(invalid(text, "user names have no meaning here"));
        }
        if !matches!(uri.path(), "" | "/") {
            return Err(invalid(
                text,
                "a path has no meaning here: calls bring their own",
            ));
        }
        let host = authority.host();
        if host.is_empty() {
            return Err(invalid(text, "no host"));
        }
        let port = port(text, host, authority.as_str(), role)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if role == Role::Client {
            callable(text, host)?;
        }
        let mut target = Self {
            host: host.into(),
            port,
            authority: authority.as_str().into(),
            engine: None,
            uri: uri.clone(),
        };
        if let Some((_, engine)) = uri.scheme_str().unwrap_or_default().split_once('+') {
            target.engine = Some(Engine::parse(engine)?);
        }
        let mut seen = Vec::new();
        for pair in uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
        {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if seen.contains(&key) {
                return Err(UriError::RepeatedKey {
                    uri: text.into(),
                    key: key.into(),
                });
            }
            seen.push(key);
            target.set(text, key, value)?;
        }
        Ok(target)
    }

    fn set(&mut self, uri: &str, key: &str, value: &str) -> Result<(), UriError> {
        match (key, value) {
            ("engine", _) => {
                let query = Engine::parse(value)?;
                // The query has no key twice, so that one which is set comes from the scheme.
                if let Some(scheme) = self.engine.replace(query)
                    && scheme != query
                {
                    return Err(UriError::EngineConflict {
                        uri: uri.into(),
                        scheme,
                        query,
                    });
                }
            }
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
            ("stream", _) => {
                return Err(UriError::Unsupported {
                    key: "stream",
                    value: value.into(),
                    remedy: "leave it out, and use an http:// URI for streaming calls",
                });
            }
            ("fallback", _) => {
                return Err(UriError::Unsupported {
                    key: "fallback",
                    value: value.into(),
                    remedy: "leave it out, and give the http:// URI itself where TCP is wanted",
                });
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

/// Reads the port by hand: [`http::Uri`] cannot tell a missing port from a bad one.
fn port(uri: &str, host: &str, authority: &str, role: Role) -> Result<u16, UriError> {
    let port = authority[host.len()..]
        .strip_prefix(':')
        .unwrap_or_default();
    if port.is_empty() {
        return Err(UriError::MissingPort {
            uri: uri.into(),
            host: host.into(),
        });
    }
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
mod tests {
    use super::*;

    fn homa(uri: &str, role: Role) -> Result<HomaTarget, UriError> {
        match Target::parse(uri, role)? {
            Target::Homa(target) => Ok(target),
            #[cfg(feature = "tcp")]
            Target::Tcp(uri) => panic!("{uri} is TCP"),
        }
    }

    #[test]
    fn hosts_ports_and_options_are_read() {
        for (uri, host, port, engine) in [
            ("homa://10.0.0.1:4000", "10.0.0.1", 4_000, None),
            ("homa://node-1.example:1/", "node-1.example", 1, None),
            ("homa://[::1]:4000", "::1", 4_000, None),
            (
                "homa://a:65535?engine=auto",
                "a",
                65_535,
                Some(Engine::Auto),
            ),
            (
                "homa://a:1?wire=native&engine=udp",
                "a",
                1,
                Some(Engine::Udp),
            ),
            ("homa+udp://a:1", "a", 1, Some(Engine::Udp)),
            ("homa+udp://a:1?engine=udp", "a", 1, Some(Engine::Udp)),
            ("homa://a:1?engine=raw", "a", 1, Some(Engine::Raw)),
            ("homa+raw://a:1", "a", 1, Some(Engine::Raw)),
            ("HOMA://a:1", "a", 1, None),
        ] {
            let target = homa(uri, Role::Client).unwrap();
            assert_eq!(
                (&*target.host, target.port, target.engine),
                (host, port, engine),
                "{uri}"
            );
        }
        assert_eq!(
            homa("homa://[::1]:4000", Role::Client).unwrap().authority,
            "[::1]:4000"
        );
        assert_eq!(homa("homa://0.0.0.0:0", Role::Server).unwrap().port, 0);
        assert_eq!(
            homa("homa://0.0.0.0:32767", Role::Server).unwrap().port,
            32_767
        );
    }

    #[test]
    fn the_engine_of_the_uri_chooses_backend_and_carrier() {
        use Backend::{Auto, Kernel, User};
        let config = |backend, carrier| {
            let mut config = homa_client::Config::for_carrier(carrier);
            config.backend = backend;
            config
        };
        for (query, given, chosen) in [
            ("", (User, Carrier::Udp), (Auto, Carrier::Udp)),
            ("?engine=auto", (User, Carrier::Udp), (Auto, Carrier::Udp)),
            // What the configuration names stays.
            ("?engine=auto", (User, Carrier::Ip), (User, Carrier::Ip)),
            ("", (Kernel, Carrier::Udp), (Kernel, Carrier::Udp)),
            ("?engine=udp", (Kernel, Carrier::Ip), (User, Carrier::Udp)),
            ("?engine=raw", (User, Carrier::Udp), (User, Carrier::Ip)),
            (
                "?engine=kernel",
                (User, Carrier::Udp),
                (Kernel, Carrier::Udp),
            ),
        ] {
            let target = homa(&format!("homa://a:1{query}"), Role::Client).unwrap();
            let configured = target.configure(config(given.0, given.1));
            assert_eq!(configured, config(chosen.0, chosen.1), "{query} {given:?}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_value_limit_and_remedy() {
        use Role::{Client, Server};
        for (uri, role, named) in [
            ("ftp://a:1", Client, ["`ftp`", "use homa://"]),
            ("homa:4000", Client, ["homa:4000", "use homa://"]),
            ("a:4000", Client, ["a:4000", "use homa://"]),
            ("", Client, ["``", "use homa://"]),
            ("homa://a", Client, ["no port", "a:4000"]),
            ("homa://a:", Client, ["no port", "a:4000"]),
            ("homa://[::1]", Server, ["no port", "[::1]:4000"]),
            ("homa://a:0", Client, ["port 0", "1 to 65535"]),
            ("homa://a:65536", Client, ["65536", "1 to 65535"]),
            ("homa://a:32768", Server, ["32768", "1 to 32767"]),
            (
                "homa://a:1?color=red",
                Client,
                [
                    "`color`",
                    "known are engine (auto, udp, raw, kernel) and wire (native)",
                ],
            ),
            (
                "homa://a:1?engine=udp&engine=udp",
                Client,
                ["`engine`", "twice"],
            ),
            (
                "homa://a:1?engine=",
                Client,
                ["``", "auto, udp, raw or kernel"],
            ),
            (
                "homa://a:1?wire=grpc_homa",
                Client,
                ["wire=grpc_homa", "wire=native"],
            ),
            ("homa://a:1?wire=auto", Client, ["wire=auto", "wire=native"]),
            ("homa://a:1?wire=x", Client, ["`x`", "native"]),
            ("homa://a:1?stream=push", Client, ["stream=push", "http://"]),
            (
                "homa://a:1?stream=no",
                Client,
                ["stream=no", "leave it out"],
            ),
            (
                "homa://a:1?fallback=http://a:1",
                Client,
                ["fallback=http://a:1", "http://"],
            ),
            ("homa://a:1/path", Client, ["/path", "a path"]),
            ("homa://me@a:1", Client, ["me@a", "user names"]),
            ("homa://:1", Client, ["homa://:1", "homa://10.0.0.1:4000"]),
            ("homa://a b:1", Client, ["a b", "valid URI"]),
            ("homa://a:1#x", Client, ["`#x`", "leave it out"]),
            ("homa://a:1?wire=native#", Server, ["`#`", "leave it out"]),
            (
                "homa+udp://a:1?engine=auto",
                Client,
                ["engine udp in its scheme", "engine=auto"],
            ),
            (
                "homa+udp://a:1?engine=kernel",
                Client,
                ["engine udp in its scheme", "engine=kernel"],
            ),
            ("homa://0.0.0.0:1", Client, ["`0.0.0.0`", "listening"]),
            ("homa://[::]:1", Client, ["`::`", "listening"]),
            (
                "homa://[::ffff:0.0.0.0]:1",
                Client,
                ["0.0.0.0", "listening"],
            ),
            ("homa://224.0.0.1:1", Client, ["`224.0.0.1`", "multicast"]),
            ("homa://[ff02::1]:1", Client, ["`ff02::1`", "multicast"]),
            ("unix:/tmp/a", Server, ["unix:/tmp/a", "homa:// or http://"]),
            ("https://a", Client, ["https://a", "TLS"]),
            ("https://a", Server, ["https://a", "TLS"]),
        ] {
            let error = Target::parse(uri, role).unwrap_err().to_string();
            assert!(
                named.iter().all(|named| error.contains(named)),
                "{uri}: {error}"
            );
        }
    }

    #[test]
    fn the_example_of_an_invalid_uri_has_its_scheme() {
        for (uri, shown) in [
            ("homa://a b:1", "homa://10.0.0.1:4000"),
            ("http://a b:1", "http://10.0.0.1:4000"),
            ("HTTP://a b:1", "http://10.0.0.1:4000"),
            ("unix:", "unix:/run/greeter.sock"),
            ("\u{fffd}", "homa://10.0.0.1:4000"),
        ] {
            let error = invalid(uri, "because").to_string();
            assert!(error.ends_with(&format!("for example {shown}")), "{error}");
        }
    }

    #[test]
    fn tcp_is_left_to_tonic_or_refused() {
        for uri in ["http://a:1", "http://a", "unix:/tmp/a"] {
            match Target::parse(uri, Role::Client) {
                #[cfg(feature = "tcp")]
                Ok(Target::Tcp(_)) => {}
                #[cfg(not(feature = "tcp"))]
                Err(UriError::TcpDisabled { .. }) => {}
                other => panic!("{uri}: {other:?}"),
            }
        }
    }
}
