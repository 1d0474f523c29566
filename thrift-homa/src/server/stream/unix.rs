//! Unix sockets that take connections: how one gets its path, keeps it, and gives it back.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::listen::cannot_listen;

/// How long another program may take to look at a path and to listen there.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest name of a socket.
const MAX_NAME: usize = 107;

/// Listens on a path that does not exist, or where a socket is that nobody serves any more and that
/// may be replaced.
pub(super) fn listen(path: &Path, replaces: bool) -> thrift::Result<(SocketPath, UnixListener)> {
    let listened = Turn::take(path).and_then(|_turn| {
        if replaces && matches!(Found::at(path), Ok(Found::Abandoned)) {
            // If that fails, listening says why.
            let _ = fs::remove_file(path);
        }
        let listener = UnixListener::bind(path)?;
        Ok((SocketPath::bound(path), listener))
    });
    listened.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::AddrInUse => Found::at(path).map(Found::why),
            io::ErrorKind::NotFound => Ok("its folder does not exist: make that first"),
            io::ErrorKind::TimedOut => {
                Ok("another program begins to listen there: stop that, or choose another path")
            }
            _ => Err(error),
        };
        match why {
            Ok(why) => cannot_listen(path.display(), why),
            Err(error) => cannot_listen(path.display(), error),
        }
    })
}

/// The path of a socket that was bound here. It is removed when this is dropped, unless it leads to
/// another socket by then.
///
/// The listener has to be open as long: another file could get the socket's number else.
#[derive(Debug)]
pub(crate) struct SocketPath {
    path: PathBuf,
    /// `None`: it was gone at once.
    socket: Option<FileId>,
}

impl SocketPath {
    fn bound(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            socket: FileId::of(path).ok(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, if it still leads to the socket that was bound.
    pub(super) fn remove(&self) {
        if self.socket.is_none() || FileId::of(&self.path).ok() != self.socket {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the socket's path stays");
        }
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        self.remove();
    }
}

/// What tells a file from all others that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    number: u64,
}

impl FileId {
    /// Of the file itself, where it is a link.
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&fs::symlink_metadata(path)?))
    }
}

impl From<&fs::Metadata> for FileId {
    fn from(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            number: metadata.ino(),
        }
    }
}

/// The right to look at a path and to listen there, until it is dropped. Of two programs that find
/// a socket of nobody one would remove that of the other; and a socket that is bound, but does not
/// listen yet, looks like one of nobody.
///
/// It is a name without a file, which is free again when its process ends, however that happens. It
/// is known in one network namespace only: programs in several, on one path, take no turns.
struct Turn {
    _name: Option<UnixDatagram>,
}

impl Turn {
    /// Waits for it. `TimedOut`: another program has it, for long.
    fn take(path: &Path) -> io::Result<Self> {
        let Ok(name) = Self::name(path) else {
            // Without a folder there is nothing to take turns at: listening says so.
            return Ok(Self { _name: None });
        };
        let began = Instant::now();
        loop {
            match UnixDatagram::bind_addr(&name) {
                Ok(socket) => {
                    return Ok(Self {
                        _name: Some(socket),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    if began.elapsed() > PATIENCE {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => {
                    // Some sandboxes have no such names. Servers can do without turns.
                    tracing::debug!(%error, path = %path.display(), "no turn to listen there");
                    return Ok(Self { _name: None });
                }
            }
        }
    }

    /// The same, however the path is written.
    fn name(path: &Path) -> io::Result<SocketAddr> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let folder = FileId::from(&fs::metadata(folder)?);
        let file = path.file_name().unwrap_or_default().as_bytes();
        let mut name = format!("thrift-homa/{:x}/{:x}/", folder.device, folder.number).into_bytes();
        // Files whose names end in the same 60 bytes, in one folder, share their turns.
        let room = MAX_NAME.saturating_sub(name.len());
        name.extend_from_slice(&file[file.len().saturating_sub(room)..]);
        SocketAddr::from_abstract_name(name)
    }
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
        let kind = fs::symlink_metadata(path)?.file_type();
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
    use std::os::unix::net::UnixStream;
    use std::sync::Barrier;

    use super::*;
    use crate::error::error_text;

    #[test]
    fn what_is_in_the_way_is_named_with_what_to_do_about_it() {
        let folder = tempfile::tempdir().unwrap();
        let [file, served, full, abandoned] =
            ["file", "served", "full", "abandoned"].map(|name| folder.path().join(name));
        fs::write(&file, "text").unwrap();
        let _served = UnixListener::bind(&served).unwrap();
        // Nobody accepts, and no more can wait for that.
        let queue = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        queue.bind(&SockAddr::unix(&full).unwrap()).unwrap();
        queue.listen(0).unwrap();
        let _waiting = UnixStream::connect(&full).unwrap();
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
            let error = listen(path, false).expect_err(named);
            let text = error_text(&error);
            let begin = format!("cannot listen on {}: ", path.display());
            assert!(text.starts_with(&begin) && text.contains(named), "{text}");
            let again = listen(path, true).is_ok();
            assert_eq!(again, path == abandoned, "{text}");
        }
        assert!(file.exists() && served.exists(), "nothing else is removed");
    }

    #[test]
    fn of_many_that_replace_an_abandoned_socket_one_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        for round in 0..50 {
            drop(UnixListener::bind(&path).unwrap());
            let all_start = Barrier::new(4);
            let start = || {
                all_start.wait();
                listen(&path, true)
            };
            let started: Vec<_> = thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
                threads.into_iter().map(|it| it.join().unwrap()).collect()
            });
            let (served, refused): (Vec<_>, Vec<_>) = started.into_iter().partition(Result::is_ok);
            assert_eq!(served.len(), 1, "round {round}");
            for error in refused {
                let text = error_text(&error.unwrap_err());
                assert!(text.contains("another program serves this"), "{text}");
            }
            UnixStream::connect(&path).expect("the one that got it listens");
            drop(served);
            assert!(!path.exists(), "it is given back");
        }
    }

    #[test]
    fn a_path_has_one_turn_however_it_is_written_and_every_path_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        let name = |folder: &Path, file: &str| {
            let name = Turn::name(&folder.join(file)).unwrap();
            name.as_abstract_name().unwrap().to_owned()
        };
        let this = name(folder.path(), "a");
        assert_eq!(name(&link, "a"), this);
        assert_ne!(name(folder.path(), "b"), this);
        assert_ne!(name(Path::new("/"), "a"), this);
        assert!(name(folder.path(), &"x".repeat(200)).len() <= MAX_NAME);
        assert!(Turn::name(&folder.path().join("none/a")).is_err());
        // Relative to where it runs.
        assert!(Turn::name(Path::new("a")).is_ok());
    }
}
