//! [`Connection`]: one client's, shared by its thread and whoever ends it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use homa_client::Message;

use super::Framing;
use super::countdown::{Countdown, Patience, is_pause};
use crate::process::Response;

/// Replies up to so many bytes are put together with their length and sent by one system call.
const SMALL: usize = 64 << 10;

/// One system call is given so much at most: the timeout of a unix socket begins anew within longer
/// ones.
const CHUNK: usize = 64 << 10;

#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// One client's connection.
#[derive(Debug)]
pub(in crate::server) struct Connection {
    stream: Stream,
    peer: Option<SocketAddr>,
    framing: Framing,
    /// A connection on which nothing is under way may be idle for ever.
    patience: Patience,
    /// One reply at a time is written.
    writing: Mutex<Writing>,
    /// Whoever closes it first says why.
    end: OnceLock<End>,
}

/// What writing a reply takes.
#[derive(Debug)]
struct Writing {
    /// In which replies are put together.
    buffer: Vec<u8>,
    countdown: Countdown,
}

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// There was nothing more to be done on it, or the server could not go on.
    Done,
    /// Because of what came on it, or because a reply could not be written.
    Broken,
}

impl Connection {
    pub(super) fn new(stream: Stream, framing: Framing, patience: Patience) -> io::Result<Self> {
        let peer = match &stream {
            Stream::Tcp(stream) => Some(stream.peer_addr()?),
            Stream::Unix(_) => None,
        };
        let connection = Self {
            stream,
            peer,
            framing,
            patience,
            writing: Mutex::new(Writing {
                buffer: Vec::new(),
                countdown: Countdown::new(patience),
            }),
            end: OnceLock::new(),
        };
        connection.set_read_timeout(patience.least)?;
        connection.set_write_timeout(patience.least)?;
        Ok(connection)
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    pub(super) fn is_tcp(&self) -> bool {
        matches!(self.stream, Stream::Tcp(_))
    }

    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    pub(super) fn set_read_timeout(&self, time: Duration) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(time)),
            Stream::Unix(stream) => stream.set_read_timeout(Some(time)),
        }
    }

    fn set_write_timeout(&self, time: Duration) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_write_timeout(Some(time)),
            Stream::Unix(stream) => stream.set_write_timeout(Some(time)),
        }
    }

    pub(super) fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        match &self.stream {
            Stream::Tcp(stream) => (&mut &*stream).read(into),
            Stream::Unix(stream) => (&mut &*stream).read(into),
        }
    }

    /// Sends what there is to send; tells whether that went well.
    pub(in crate::server) fn reply(&self, response: Response) -> bool {
        match response {
            Response::Message(message) => {
                let written = self.write(message);
                if let Err(error) = &written {
                    self.break_off(&format!("a reply cannot be written: {error}"));
                }
                written.is_ok()
            }
            // Other clients of this protocol know no control replies.
            Response::Accepted | Response::NotAccepted(_) | Response::Nothing => true,
            Response::NotUnderstood(why) => {
                self.break_off(&why);
                true
            }
        }
    }

    fn write(&self, message: Message) -> io::Result<()> {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Writing { buffer, countdown } = &mut *writing;
        buffer.clear();
        if self.framing == Framing::Framed {
            let length = u32::try_from(message.len()).map_err(io::Error::other)?;
            buffer.extend_from_slice(&length.to_be_bytes());
        }
        let is_small = message.len() <= SMALL;
        if is_small {
            for part in message.parts() {
                buffer.extend_from_slice(part);
            }
        }
        countdown.rest(|time| self.set_write_timeout(time))?;
        countdown.start();
        self.write_all(buffer, countdown)?;
        if is_small {
            return Ok(());
        }
        for part in message.parts() {
            for chunk in part.chunks(CHUNK) {
                countdown.go_on(|left| self.set_write_timeout(left))?;
                self.write_all(chunk, countdown)?;
            }
        }
        Ok(())
    }

    fn write_all(&self, mut bytes: &[u8], countdown: &mut Countdown) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_some(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    countdown.moved(count);
                    bytes = &bytes[count..];
                    if bytes.is_empty() {
                        break;
                    }
                }
                Err(error) if is_pause(&error) => {}
                Err(error) => return Err(error),
            }
            countdown.go_on(|left| self.set_write_timeout(left))?;
        }
        Ok(())
    }

    fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.stream {
            Stream::Tcp(stream) => (&mut &*stream).write(bytes),
            Stream::Unix(stream) => (&mut &*stream).write(bytes),
        }
    }

    /// No more messages are read. What is under way on the other side is still answered.
    pub(super) fn end_reading(&self) {
        self.shutdown(Shutdown::Read);
    }

    pub(in crate::server) fn close(&self) {
        self.end(End::Done);
    }

    /// Closes it because of what came on it, or because a reply could not be written.
    pub(super) fn break_off(&self, why: &str) {
        tracing::debug!(why, "a connection is closed");
        self.end(End::Broken);
    }

    fn end(&self, end: End) {
        // It fails where somebody was faster.
        let _ = self.end.set(end);
        self.shutdown(Shutdown::Both);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.end.get().is_some()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.end.get() == Some(&End::Broken)
    }

    fn shutdown(&self, how: Shutdown) {
        // It fails where the other side has closed it.
        let _ = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(how),
            Stream::Unix(stream) => stream.shutdown(how),
        };
    }
}
