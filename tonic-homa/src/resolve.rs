//! From a host to its addresses.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::error::Error;

/// The addresses of a host, at least one. An address is its own and costs no look-up.
pub(crate) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.map_err(|source| Error::Resolve {
        host: host.into(),
        source,
    })?;
    let addresses: Vec<_> = found.collect();
    if addresses.is_empty() {
        Err(no_address(host))
    } else {
        Ok(addresses)
    }
}

pub(crate) fn no_address(host: &str) -> Error {
    let source = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    Error::Resolve {
        host: host.into(),
        source,
    }
}
