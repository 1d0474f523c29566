//! [`HomaTransport`]: what a client program opens.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use homa_client::blocking::Client;
use thrift::transport::{
    ReadHalf, TIoChannel, TReadTransport, TReadTransportFactory, TWriteTransport,
    TWriteTransportFactory, WriteHalf,
};

use super::channel::Channel;
use super::detached::Undelivered;
use super::failure::HomaError;
use super::halves::{HomaReadTransport, HomaWriteTransport};
use super::link::{Link, TransportStats};
use super::options::ClientOptions;
use super::wrapper::{HomaInputProtocol, HomaOutputProtocol};
use crate::addr::resolve;
use crate::error::not_open;
use crate::pieces::client::Pieces;
use crate::protocol::Protocol;

/// A client's way to one server. Each message is one Homa RPC.
///
/// It holds no connection: opening one sends nothing, and all of a process share a socket. A
/// generated client takes the [`protocols`](HomaTransport::protocols) of one; for each further
/// client, say one per thread, clone it. A clone is independent: it shares the socket, the
/// settings and the counters, but not the message under way. Keep one to change the timeout, to
/// see the counters, and to [`close`](HomaTransport::close).
///
/// Sending begins at the flush that generated code does at a message's end, and reading waits for
/// the reply. After any error the same client can make the next call. Two messages are not ordered:
/// a call that follows a oneway message may run before it.
///
/// Reading blocks its thread: inside a tokio runtime, call the client in
/// `tokio::task::spawn_blocking`.
///
/// ```no_run
/// use std::time::Duration;
/// use thrift_homa::{ClientOptions, HomaTransport};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut options = ClientOptions::default();
/// options.timeout = Some(Duration::from_millis(100));
/// let transport = HomaTransport::open_with("10.0.0.1:4000", options)?;
/// let (input, output) = transport.clone().protocols();
/// // let mut client = CalculatorSyncClient::new(input, output);
/// // client.add(1, 2)?;
/// # drop((input, output));
/// transport.close(Duration::from_secs(1))?;
/// # Ok(())
/// # }
/// ```
pub struct HomaTransport {
    options: Arc<ClientOptions>,
    read: HomaReadTransport,
    write: HomaWriteTransport,
    channel: Arc<Channel>,
}

impl HomaTransport {
    /// A transport to the first address that `server` resolves to, with default settings.
    ///
    /// # Errors
    /// `Transport`/`NotOpen`: the name does not resolve, or no endpoint can be opened here.
    pub fn open(server: impl ToSocketAddrs + fmt::Debug) -> thrift::Result<Self> {
        Self::open_with(server, ClientOptions::default())
    }

    /// A transport to the first address that `server` resolves to.
    ///
    /// # Errors
    /// As [`HomaTransport::open`]; also for settings of `options.homa` that are out of range.
    pub fn open_with(
        server: impl ToSocketAddrs + fmt::Debug,
        mut options: ClientOptions,
    ) -> thrift::Result<Self> {
        let peer = resolve(server)?;
        let client = Client::bind(&options.homa).map_err(not_open)?;
        let whole = options.homa.protocol.max_message_bytes;
        let pieces = match options.pieces {
            None => None,
            Some(pieces) => {
                pieces.check(&options.limits).map_err(not_open)?;
                options.limits = pieces.extend(&options.limits);
                Some(Pieces::new(pieces, whole))
            }
        };
        let limit = match pieces {
            Some(_) => options.limits.message_bytes,
            None => options.limits.message_bytes.min(whole),
        };
        // Others begin as they like.
        let is_known = !matches!(options.protocol, Protocol::Custom(_));
        let link = Link::new(client, peer, (limit, pieces), options.timeout, is_known);
        Ok(Self::over(Arc::new(link), Arc::new(options)))
    }

    fn over(link: Arc<Link>, options: Arc<ClientOptions>) -> Self {
        Self::on(Arc::new(Channel::new(link)), options)
    }

    fn on(channel: Arc<Channel>, options: Arc<ClientOptions>) -> Self {
        Self {
            options,
            read: HomaReadTransport::new(channel.clone()),
            write: HomaWriteTransport::new(channel.clone()),
            channel,
        }
    }

    /// Protocols over this transport, of the kind that [`ClientOptions::protocol`] names: what
    /// generated clients take. They begin afresh with every message, whatever went wrong in the
    /// last one, and their errors have exact kinds ([`HomaError`]).
    pub fn protocols(self) -> (HomaInputProtocol, HomaOutputProtocol) {
        (
            HomaInputProtocol::new(self.channel.clone(), self.options.clone()),
            HomaOutputProtocol::new(self.channel, self.options),
        )
    }

    /// The halves, for protocols that you make yourself, of any version of the thrift crate. Prefer
    /// [`HomaTransport::protocols`]: the protocols of the thrift crate may be of no use after an
    /// error, and lose the kind of some.
    pub fn into_halves(self) -> (HomaReadTransport, HomaWriteTransport) {
        (self.read, self.write)
    }

    /// Sets the timeout of the calls that begin from now on, of clones as well. See
    /// [`ClientOptions::timeout`].
    pub fn set_timeout(&self, timeout: Option<Duration>) {
        self.channel.link().set_timeout(timeout);
    }

    /// The server.
    pub fn peer_addr(&self) -> SocketAddr {
        self.channel.link().peer()
    }

    /// The settings it was opened with.
    pub fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// What this transport and its clones have done so far.
    pub fn stats(&self) -> TransportStats {
        self.channel.link().stats()
    }

    /// The last error of a call through this transport or one of its clones, in full.
    pub fn last_error(&self) -> Option<HomaError> {
        self.channel.link().last_error()
    }

    /// Waits up to `within` until the server has accepted all oneway messages that were sent through
    /// this transport and its clones. Drop the clients that send before: of a client that is still
    /// there the last message may be missing. Call this before the process ends, which ends the
    /// delivery of what is under way.
    ///
    /// # Errors
    /// [`Undelivered`]: some were not accepted in time, or have failed since the transport was
    /// opened. The former go on being delivered while the endpoint is open.
    pub fn close(self, within: Duration) -> Result<(), Undelivered> {
        self.channel.detach();
        self.channel.link().close(within)
    }
}

/// Another, independent way to the same server.
impl Clone for HomaTransport {
    fn clone(&self) -> Self {
        Self::over(self.channel.link().clone(), self.options.clone())
    }
}

impl Read for HomaTransport {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.read.read(into)
    }
}

impl Write for HomaTransport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write.flush()
    }
}

/// For code that is generic over channels. Both halves share one message under way.
impl TIoChannel for HomaTransport {
    fn split(self) -> thrift::Result<(ReadHalf<Self>, WriteHalf<Self>)> {
        let mut other = Self::on(self.channel.clone(), self.options.clone());
        // What was written before goes on being written to.
        let mut this = self;
        std::mem::swap(&mut this.write, &mut other.write);
        Ok((ReadHalf::new(this), WriteHalf::new(other)))
    }
}

impl fmt::Debug for HomaTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HomaTransport")
            .field("peer", &self.peer_addr())
            .field("timeout", &self.channel.link().timeout())
            .finish_non_exhaustive()
    }
}

/// Makes the transport that reads from a channel: the channel itself, since one Homa message is one
/// Thrift message already. For the constructors that take such a factory, in place of those of
/// framed or buffered transports.
///
/// ```
/// use std::io::Read;
/// use thrift::transport::TReadTransportFactory;
/// use thrift_homa::HomaReadTransportFactory;
///
/// let mut transport = HomaReadTransportFactory::new().create(Box::new(&b"message"[..]));
/// let mut text = String::new();
/// transport.read_to_string(&mut text)?;
/// assert_eq!(text, "message");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct HomaReadTransportFactory;

impl HomaReadTransportFactory {
    /// A factory.
    pub const fn new() -> Self {
        Self
    }
}

impl TReadTransportFactory for HomaReadTransportFactory {
    fn create(&self, channel: Box<dyn Read + Send>) -> Box<dyn TReadTransport + Send> {
        Box::new(channel)
    }
}

/// Makes the transport that writes to a channel: the channel itself, see
/// [`HomaReadTransportFactory`].
///
/// ```
/// use thrift::transport::TWriteTransportFactory;
/// use thrift_homa::HomaWriteTransportFactory;
///
/// let mut transport = HomaWriteTransportFactory::new().create(Box::new(Vec::new()));
/// transport.write_all(b"message")?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct HomaWriteTransportFactory;

impl HomaWriteTransportFactory {
    /// A factory.
    pub const fn new() -> Self {
        Self
    }
}

impl TWriteTransportFactory for HomaWriteTransportFactory {
    fn create(&self, channel: Box<dyn Write + Send>) -> Box<dyn TWriteTransport + Send> {
        Box::new(channel)
    }
}
