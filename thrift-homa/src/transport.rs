//! [`HomaTransport`]: the client's side.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes};
use homa_client::blocking::Client;
use homa_client::{Config, Message};
use thrift::transport::{ReadHalf, TIoChannel, WriteHalf};
use thrift::{TransportError, TransportErrorKind};

use crate::control::{self, Received};
use crate::error::{not_open, to_io_error};

/// A client's way to one server: what is written is gathered, `flush` makes one Homa RPC of it,
/// and its response is what can be read.
///
/// It holds no connection: opening one costs nothing on the network, and all of a process share a
/// socket. Use one for each generated client; clones, and the halves that
/// [`split`](TIoChannel::split) gives, share one message at a time. After an error the same
/// client can make the next call.
///
/// A flush returns when the response has come. For a oneway message that is when the server has
/// accepted it, before it is executed.
///
/// A flush blocks its thread: inside a tokio runtime, call it in `tokio::task::spawn_blocking`.
#[derive(Clone)]
pub struct HomaTransport {
    client: Client,
    peer: SocketAddr,
    max_message_bytes: usize,
    timeout: Option<Duration>,
    call: Arc<Mutex<Call>>,
}

/// The message being written and the response being read.
#[derive(Default)]
struct Call {
    request: Vec<u8>,
    response: Bytes,
}

impl HomaTransport {
    /// A transport to the first address that `server` resolves to, with default settings.
    pub fn open(server: impl ToSocketAddrs) -> thrift::Result<Self> {
        Self::open_with(server, &Config::default())
    }

    /// A transport to the first address that `server` resolves to.
    pub fn open_with(server: impl ToSocketAddrs, config: &Config) -> thrift::Result<Self> {
        let unresolved = |why: String| {
            thrift::Error::from(TransportError::new(TransportErrorKind::NotOpen, why))
        };
        let mut addrs = server
            .to_socket_addrs()
            .map_err(|error| unresolved(format!("the server's name does not resolve: {error}")))?;
        let peer = addrs
            .next()
            .ok_or_else(|| unresolved("the server's name resolves to no address".to_owned()))?;
        Ok(Self {
            client: Client::bind(config).map_err(not_open)?,
            peer,
            max_message_bytes: config.protocol.max_message_bytes,
            timeout: None,
            call: Arc::default(),
        })
    }

    /// Limits the time of each call, from its flush on. On expiry the call is cancelled and fails
    /// with `TimedOut`; the server may have executed it. Default: none, a call lasts as long as
    /// the server shows signs of life.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The server.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    fn call(&self) -> MutexGuard<'_, Call> {
        // Nothing can panic while it is held half changed.
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, request: Vec<u8>) -> io::Result<Message> {
        let request = Message::from(request);
        let Some(timeout) = self.timeout else {
            return self.client.call(self.peer, request).map_err(to_io_error);
        };
        let response = self
            .client
            .call_timeout(self.peer, request, timeout)
            .map_err(to_io_error)?;
        response.ok_or_else(|| {
            let text = format!("no response from {} within {timeout:?}", self.peer);
            io::Error::new(io::ErrorKind::TimedOut, text)
        })
    }
}

impl Write for HomaTransport {
    /// Fails if the message gets longer than one RPC can carry; nothing of it is sent then.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut call = self.call();
        let size = call.request.len().saturating_add(bytes.len());
        if size > self.max_message_bytes {
            call.request = Vec::new();
            let text = format!(
                "a Thrift message over Homa holds up to {} bytes, this one has at least {size}: \
                 use a TCP transport for it",
                self.max_message_bytes,
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        call.request.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    /// Sends what was written as one RPC and waits for its response. Does nothing if nothing was
    /// written.
    fn flush(&mut self) -> io::Result<()> {
        let request = {
            let mut call = self.call();
            if call.request.is_empty() {
                return Ok(());
            }
            // A new message: whatever was not read of the last response is of no use any more.
            call.response = Bytes::new();
            std::mem::take(&mut call.request)
        };
        // Copies a large response once, so that the many small reads that follow are plain.
        let response = self.send(request)?.into_bytes();
        match control::classify(&response) {
            Received::Message => self.call().response = response,
            Received::Nothing => {}
            Received::Refused(error) => return Err(error),
        }
        Ok(())
    }
}

impl Read for HomaTransport {
    /// Reads from the response. At its end it reports the end of the stream, it never waits.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut call = self.call();
        let count = into.len().min(call.response.len());
        call.response.copy_to_slice(&mut into[..count]);
        Ok(count)
    }
}

impl TIoChannel for HomaTransport {
    fn split(self) -> thrift::Result<(ReadHalf<Self>, WriteHalf<Self>)> {
        Ok((ReadHalf::new(self.clone()), WriteHalf::new(self)))
    }
}

impl fmt::Debug for HomaTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HomaTransport")
            .field("peer", &self.peer)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
