//! [`StreamListener`]: a socket that takes connections, and why it is not to be had.

use std::io;
use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::addr::HostPort;
use crate::error::not_open;

/// A socket that takes connections.
#[derive(Debug)]
pub(crate) enum StreamListener {
    Tcp(TcpListener),
    /// With its path, which is removed when the server has stopped.
    Unix(UnixListener, PathBuf),
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
        match UnixListener::bind(path) {
            Ok(listener) => Ok(Self::Unix(listener, path.to_owned())),
            Err(error) => {
                let why = match error.kind() {
                    io::ErrorKind::AddrInUse => Found::at(path).map(Found::why),
                    io::ErrorKind::NotFound => Ok("its folder does not exist: make that first"),
                    _ => Err(error),
                };
                Err(match why {
                    Ok(why) => cannot_listen(path.display(), why),
                    Err(error) => cannot_listen(path.display(), error),
                })
            }
        }
    }

    /// The same, and a socket there that nobody serves any more is replaced: a server that did not
    /// end well has left it.
    pub(crate) fn unix_again(path: &Path) -> thrift::Result<Self> {
        if matches!(Found::at(path), Ok(Found::Abandoned)) {
            // If that fails, listening says why.
            let _ = std::fs::remove_file(path);
        }
        Self::unix(path)
    }
}

fn cannot_listen(place: impl std::fmt::Display, why: impl std::fmt::Display) -> thrift::Error {
    not_open(format_args!("cannot listen on {place}: {why}"))
}

/// What is found where a unix socket is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Folder,
    /// Anything but a folder or a socket.
    File,
    /// A socket on which somebody takes connections.
    Served,
    /// A socket of nobody.
    Abandoned,
}

impl Found {
    fn at(path: &Path) -> io::Result<Self> {
        let kind = std::fs::symlink_metadata(path)?.file_type();
        if kind.is_dir() {
            return Ok(Self::Folder);
        }
        if !kind.is_socket() {
            return Ok(Self::File);
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Who serves it may not accept just now.
        socket.set_nonblocking(true)?;
        match socket.connect(&SockAddr::unix(path)?) {
            Ok(()) => Ok(Self::Served),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Ok(Self::Served),
                io::ErrorKind::ConnectionRefused => Ok(Self::Abandoned),
                _ => Err(error),
            },
        }
    }

    /// Why nobody can listen there, and what to do.
    fn why(self) -> &'static str {
        match self {
            Self::Folder => "it is a folder: name a path in it",
            Self::File => "it is a file and no socket: choose another path, or remove it",
            Self::Served => "another program serves this socket: stop that, or choose another path",
            Self::Abandoned => {
                "nobody serves this socket any more: remove it, or listen through an Endpoint, \
                 which replaces it"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::error_text;

    #[test]
    fn what_is_in_the_way_is_named_with_what_to_do_about_it() {
        let folder = tempfile::tempdir().unwrap();
        let [file, served, full, abandoned] =
            ["file", "served", "full", "abandoned"].map(|name| folder.path().join(name));
        std::fs::write(&file, "text").unwrap();
        let _served = UnixListener::bind(&served).unwrap();
        // Nobody accepts, and no more can wait for that.
        let queue = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        queue.bind(&SockAddr::unix(&full).unwrap()).unwrap();
        queue.listen(0).unwrap();
        let _waiting = std::os::unix::net::UnixStream::connect(&full).unwrap();
        drop(UnixListener::bind(&abandoned).unwrap());
        let missing = folder.path().join("no/such");
        for (path, named) in [
            (folder.path(), "it is a folder: name a path in it"),
            (&file, "it is a file and no socket"),
            (&served, "another program serves this socket: stop that"),
            (&full, "another program serves this socket: stop that"),
            (&abandoned, "nobody serves this socket any more"),
            (&missing, "its folder does not exist"),
        ] {
            let error = StreamListener::unix(path).expect_err(named);
            let text = error_text(&error);
            let begin = format!("cannot listen on {}: ", path.display());
            assert!(text.starts_with(&begin) && text.contains(named), "{text}");
            let again = StreamListener::unix_again(path).is_ok();
            assert_eq!(again, path == abandoned, "{text}");
        }
        assert!(file.exists() && served.exists(), "nothing else is removed");
    }

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
