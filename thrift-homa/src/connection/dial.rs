//! [`Dial`]: how a connection is opened, within a time.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use thrift::{TransportError, TransportErrorKind};

use crate::addr::HostPort;
use crate::uri::StreamAddr;

/// How a connection is opened.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    pub(super) server: StreamAddr,
    /// For all addresses of the server together.
    pub(super) timeout: Duration,
}

impl Dial {
    /// Until when one that is opened from now on has to be there. A time that the clock does not
    /// reach is no limit.
    pub(super) fn deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.timeout)
    }

    /// Opens a connection until the deadline: the end of the timeout, of which errors speak.
    pub(super) fn dial(&self, deadline: Option<Instant>) -> Result<Socket, TransportError> {
        let opened = match &self.server {
            StreamAddr::Tcp { host, port, .. } => tcp(HostPort(host, *port), deadline),
            StreamAddr::Unix(path) => SockAddr::unix(path).and_then(|path| unix(&path, deadline)),
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

fn tcp(server: HostPort<'_>, deadline: Option<Instant>) -> io::Result<Socket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for addr in server.to_socket_addrs()? {
        match tcp_to(addr, deadline) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn tcp_to(addr: SocketAddr, deadline: Option<Instant>) -> io::Result<Socket> {
    let left = time_left(deadline)?;
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    match left {
        Some(left) => socket.connect_timeout(&addr.into(), left)?,
        None => socket.connect(&addr.into())?,
    }
    // A request is written in one go; there is nothing to wait for.
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

fn unix(path: &SockAddr, deadline: Option<Instant>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux bounds connect by this, too.
    socket.set_write_timeout(time_left(deadline)?)?;
    socket.connect(path)?;
    socket.set_write_timeout(None)?;
    Ok(socket)
}

/// `None`: for ever.
fn time_left(deadline: Option<Instant>) -> io::Result<Option<Duration>> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    match left {
        Some(Duration::ZERO) => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_timeout_that_the_clock_does_not_reach_is_none_and_one_of_nothing_is_over() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _unix = UnixListener::bind(&path).unwrap();
        let tcp = StreamAddr::Tcp {
            host: "127.0.0.1".to_owned(),
            port: tcp.local_addr().unwrap().port(),
            framed: true,
        };
        for server in [tcp, StreamAddr::Unix(path)] {
            let dial = |timeout| {
                let server = server.clone();
                let dial = Dial { server, timeout };
                dial.dial(dial.deadline())
            };
            dial(Duration::MAX).unwrap();
            let error = dial(Duration::ZERO).unwrap_err();
            assert_eq!(error.kind, TransportErrorKind::TimedOut, "{error:?}");
        }
    }
}
