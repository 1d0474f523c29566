//! [`Connection`]: one client's, shared by its thread and whoever ends it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use homa_client::Message;

use super::Framing;
use crate::process::Response;

/// How long a message may take to arrive once it has begun, and a reply to be taken. A connection
/// on which nothing is under way may be idle for ever.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Replies up to so many bytes are put together with their length and sent by one system call.
const SMALL: usize = 64 << 10;

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
    /// The buffer in which replies are put together. One reply at a time is written.
    writing: Mutex<Vec<u8>>,
    closed: AtomicBool,
}

impl Connection {
    pub(super) fn new(stream: Stream, framing: Framing) -> io::Result<Self> {
        let peer = match &stream {
            Stream::Tcp(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Some(stream.peer_addr()?)
            }
            Stream::Unix(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                None
            }
        };
        Ok(Self {
            stream,
            peer,
            framing,
            writing: Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    pub(super) fn is_tcp(&self) -> bool {
        matches!(self.stream, Stream::Tcp(_))
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
                if written.is_err() {
                    self.close();
                }
                written.is_ok()
            }
            // Other clients of this protocol know no control replies.
            Response::Accepted | Response::NotAccepted(_) | Response::Nothing => true,
            Response::NotUnderstood(why) => {
                tracing::debug!(why, "a connection is closed");
                self.close();
                true
            }
        }
    }

    fn write(&self, message: Message) -> io::Result<()> {
        let mut buffer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        buffer.clear();
        if self.framing == Framing::Framed {
            let length = u32::try_from(message.len()).map_err(io::Error::other)?;
            buffer.extend_from_slice(&length.to_be_bytes());
        }
        if message.len() <= SMALL {
            for part in message.parts() {
                buffer.extend_from_slice(part);
            }
            return self.write_all(&buffer);
        }
        self.write_all(&buffer)?;
        for part in message.parts() {
            self.write_all(part)?;
        }
        Ok(())
    }

    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => (&mut &*stream).write_all(bytes),
            Stream::Unix(stream) => (&mut &*stream).write_all(bytes),
        }
    }

    /// No more messages are read. What is under way on the other side is still answered.
    pub(super) fn end_reading(&self) {
        self.shutdown(Shutdown::Read);
    }

    pub(in crate::server) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.shutdown(Shutdown::Both);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn shutdown(&self, how: Shutdown) {
        // It fails where the other side has closed it.
        let _ = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(how),
            Stream::Unix(stream) => stream.shutdown(how),
        };
    }
}
