//! [`Dial`]: how a connection is opened, within a time.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use thrift::{TransportError, TransportErrorKind};

use crate::uri::StreamAddr;

/// How a connection is opened.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    pub(super) server: StreamAddr,
    /// For all addresses of the server together.
    pub(super) timeout: Duration,
}

impl Dial {
    /// Opens a connection.
    pub(super) fn dial(&self) -> Result<Socket, TransportError> {
        let deadline = Instant::now() + self.timeout;
        let opened = match &self.server {
            StreamAddr::Tcp { host, port, .. } => tcp(host, *port, deadline),
            StreamAddr::Unix(path) => {
                SockAddr::unix(path).and_then(|path| unix(&path, self.timeout))
            }
        };
        opened.map_err(|error| match error.kind() {
            // A full backlog of a unix socket is the latter.
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => TransportError::new(
                TransportErrorKind::TimedOut,
                format!("no connection to {} within {:?}", self.server, self.timeout),
            ),
            _ => TransportError::new(
                TransportErrorKind::NotOpen,
                format!("cannot connect to {}: {error}", self.server),
            ),
        })
    }
}

fn tcp(host: &str, port: u16, deadline: Instant) -> io::Result<Socket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for addr in (host, port).to_socket_addrs()? {
        match tcp_to(addr, deadline) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn tcp_to(addr: SocketAddr, deadline: Instant) -> io::Result<Socket> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.connect_timeout(&addr.into(), left)?;
    // A request is written in one go; there is nothing to wait for.
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

fn unix(path: &SockAddr, timeout: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux bounds connect by this, too.
    socket.set_write_timeout(Some(timeout))?;
    socket.connect(path)?;
    socket.set_write_timeout(None)?;
    Ok(socket)
}
