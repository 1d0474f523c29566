//! [`StreamListener`]: a socket that takes connections, and why it is not to be had.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::unix::{self, SocketPath};
use crate::addr::HostPort;
use crate::error::not_open;

/// A socket that takes connections.
#[derive(Debug)]
pub(crate) enum StreamListener {
    Tcp(TcpListener),
    /// The path is dropped first, as it has to be.
    Unix(SocketPath, UnixListener),
}

impl StreamListener {
    pub(crate) fn tcp(addr: HostPort<'_>) -> thrift::Result<Self> {
        match TcpListener::bind(addr) {
            Ok(listener) => Ok(Self::Tcp(listener)),
            Err(error) => {
                let remedy = match error.kind() {
                    io::ErrorKind::AddrInUse => ": stop that program, or choose another port",
                    _ => "",
                };
                Err(cannot_listen(addr, format_args!("{error}{remedy}")))
            }
        }
    }

    /// Listens on a path that does not exist.
    pub(crate) fn unix(path: &Path) -> thrift::Result<Self> {
        let (path, listener) = unix::listen(path, false)?;
        Ok(Self::Unix(path, listener))
    }

    /// The same, and a socket there that nobody serves any more is replaced: a server that did not
    /// end well has left it.
    pub(crate) fn unix_again(path: &Path) -> thrift::Result<Self> {
        let (path, listener) = unix::listen(path, true)?;
        Ok(Self::Unix(path, listener))
    }
}

pub(super) fn cannot_listen(
    place: impl std::fmt::Display,
    why: impl std::fmt::Display,
) -> thrift::Error {
    not_open(format_args!("cannot listen on {place}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::error_text;

    #[test]
    fn a_port_that_is_taken_is_named_with_what_to_do_about_it() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = StreamListener::tcp(HostPort("127.0.0.1", port)).unwrap_err();
        let text = error_text(&error);
        let named = [&*format!("127.0.0.1:{port}"), "choose another port"];
        assert!(named.iter().all(|named| text.contains(named)), "{text}");
    }
}
