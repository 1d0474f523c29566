//! Hosts and ports, and the addresses that they stand for.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::vec;

use crate::error::not_open;

/// A host, by name or address and without brackets, and a port, as URIs have them.
#[derive(Clone, Copy)]
pub(crate) struct HostPort<'a>(pub(crate) &'a str, pub(crate) u16);

impl ToSocketAddrs for HostPort<'_> {
    type Iter = vec::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        (self.0, self.1).to_socket_addrs()
    }
}

impl fmt::Display for HostPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(host, port) = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

/// As it is written, for errors that name whatever an address was made of.
impl fmt::Debug for HostPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first address that `named` resolves to. Errors of the system do not name it: it is shown as
/// `Debug` has it.
pub(crate) fn resolve(named: impl ToSocketAddrs + fmt::Debug) -> thrift::Result<SocketAddr> {
    let resolved = named.to_socket_addrs();
    let why = match resolved.map(|mut addrs| addrs.next()) {
        Ok(Some(addr)) => return Ok(addr),
        Ok(None) => "it has no address".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(not_open(format_args!(
        "{named:?} does not resolve: {why}; write host:port with a known name or an IP address"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::error_text;

    #[test]
    fn the_first_address_is_taken_and_what_has_none_is_named() {
        let addrs = ["127.0.0.1:2", "127.0.0.1:1"].map(|addr| addr.parse().unwrap());
        assert_eq!(resolve(&addrs[..]).unwrap(), addrs[0]);
        assert_eq!(resolve(HostPort("::1", 4)).unwrap().to_string(), "[::1]:4");
        let failed = |error: thrift::Result<SocketAddr>| error_text(&error.unwrap_err());
        let none: &[SocketAddr] = &[];
        assert!(failed(resolve(none)).starts_with("[] does not resolve: it has no address"));
        for text in [
            failed(resolve(HostPort("no.such.host.invalid", 1))),
            failed(resolve("no.such.host.invalid:1")),
        ] {
            assert!(text.contains("no.such.host.invalid"), "{text}");
        }
        assert!(failed(resolve("127.0.0.1")).contains("127.0.0.1"));
    }
}
