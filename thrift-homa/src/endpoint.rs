//! [`Endpoint`]: a server by its URI, over whatever transport that names.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use homa_client::options::{Engine, Role};
use thrift::protocol::{TInputProtocol, TMultiplexedOutputProtocol, TOutputProtocol};
use thrift::server::TProcessor;

use crate::addr::HostPort;
use crate::client::{ClientOptions, HomaTransport, Undelivered};
use crate::config::{self, ClientConfig, ConfigError, Oneway};
use crate::connection;
use crate::error::not_open;
use crate::server::{HomaServer, ServerHandle, ServerOptions, Service};
use crate::uri::{self, Place, StreamAddr, Target, UriError};

/// What a generated client reads its replies from.
pub type BoxedInputProtocol = Box<dyn TInputProtocol + Send>;

/// What a generated client writes its calls to.
pub type BoxedOutputProtocol = Box<dyn TOutputProtocol + Send>;

/// Longest message over Homa, whatever a configuration says.
const MAX_HOMA_BYTES: usize = 1_000_000;

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The range of `connect_timeout`.
const CONNECT_TIME: &str = "1ms or more; leave it out for 5s";

/// A server by its URI: where it is or listens, and over what. The code of handlers and of callers
/// is the same over all of them.
///
/// | URI | transport |
/// |---|---|
/// | `homa://host:port` | Homa; servers have ports 1 to 32767 |
/// | `homa+udp://…`, `homa+raw://…`, `homa+kernel://…` | Homa with this [`Engine`] |
/// | `tcp+framed://host:port` | TCP, each message with its length in front (`TFramedTransport`) |
/// | `tcp+buffered://host:port` | TCP, one message after the other (`TBufferedTransport`) |
/// | `unix+framed:///path` | a unix socket, framed |
///
/// The query of each may have:
///
/// | key | values | who |
/// |---|---|---|
/// | `protocol` | `binary` (clients' default), `compact`; servers know both | both |
/// | `oneway` | `detach` (default), `await_ack`, see [`OnewayMode`](crate::OnewayMode) | client |
/// | `oneway` | `on_receipt` (default), `after_handler`, see [`OnewayAck`](crate::OnewayAck) | server |
/// | `timeout_ms` | 1 to 4294967295, for one call; default none | client |
/// | `service` | name of one of several services | client |
/// | `engine` | `auto` (default), `udp`, `raw`, `kernel`; Homa only | both |
///
/// More can be set in a [`ClientConfig`] or a [`ServerConfig`](crate::ServerConfig).
///
/// ```no_run
/// use thrift_homa::Endpoint;
///
/// # fn main() -> thrift::Result<()> {
/// let endpoint: Endpoint = "homa://10.0.0.1:4000?timeout_ms=50".parse()?;
/// let (input, output) = endpoint.client()?;
/// // let mut client = CalculatorSyncClient::new(input, output);
/// # drop((input, output));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Endpoint {
    target: Target,
    /// What the URI says is in it already.
    options: ClientOptions,
    service: Option<String>,
    connect_timeout: Duration,
}

impl Endpoint {
    /// As a client's configuration says; `THRIFT_HOMA_URI` goes before its `uri`, and the query of
    /// either before its other keys.
    ///
    /// # Errors
    ///
    /// Names the key that cannot be used, what is allowed, and what to write instead.
    pub fn from_config(config: &ClientConfig) -> Result<Self, ConfigError> {
        // All of them are named, so that none is forgotten.
        let ClientConfig {
            uri: _,
            timeout,
            connect_timeout,
            max_message_bytes,
            pieces_up_to,
            protocol,
            service,
            oneway,
            engine,
            homa,
        } = config;
        let target = Target::parse(&config.effective_uri()?)?;
        target.check(Role::Client)?;
        let mut options = ClientOptions {
            timeout: config::checked_time("timeout", *timeout, config::TIME)?,
            ..ClientOptions::default()
        };
        if let Some(bytes) = max_message_bytes {
            options.limits = config::limits(*bytes)?;
        }
        options.pieces = config::pieces(*pieces_up_to, &options.limits)?;
        if let Some(protocol) = protocol {
            options.protocol = protocol.clone();
        }
        if let Some(oneway) = oneway {
            options.oneway = *oneway;
        }
        homa.apply(&mut options.homa);
        options.homa.check()?;
        let service = service.as_deref().map(uri::service).transpose()?;
        let connect_timeout =
            config::checked_time("connect_timeout", *connect_timeout, CONNECT_TIME)?;
        let mut endpoint = Self::new(target, options);
        endpoint.default_engine(*engine);
        endpoint.service = endpoint.service.or(service);
        endpoint.connect_timeout = connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT);
        endpoint.bounded(endpoint.options.limits.message_bytes)?;
        Ok(endpoint)
    }

    /// From the environment alone: `THRIFT_HOMA_URI`, and what [`ClientConfig::from_env`] reads.
    ///
    /// # Errors
    ///
    /// As [`from_config`](Self::from_config).
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_config(&ClientConfig::from_env()?)
    }

    fn new(target: Target, mut options: ClientOptions) -> Self {
        if let Some(protocol) = &target.protocol {
            options.protocol = protocol.clone();
        }
        if let Some(Oneway::Client(mode)) = target.oneway {
            options.oneway = mode;
        }
        options.timeout = target.timeout.or(options.timeout);
        Self {
            service: target.service.clone(),
            target,
            options,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
        }
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// What its clients use. What the URI says is in there.
    pub fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// Changes what clients use that are made from now on. The engine that the URI names goes before
    /// the one in `homa`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use thrift_homa::Endpoint;
    ///
    /// let mut endpoint: Endpoint = "homa://10.0.0.1:4000".parse()?;
    /// endpoint.options_mut().timeout = Some(Duration::from_millis(50));
    /// # Ok::<(), thrift_homa::UriError>(())
    /// ```
    pub fn options_mut(&mut self) -> &mut ClientOptions {
        &mut self.options
    }

    /// The URI, as written.
    pub fn uri(&self) -> &str {
        &self.target.uri
    }

    /// Opens a transport there, of which any number of clients can be made, and which can be
    /// [closed](EndpointTransport::close) when they are done. Over Homa they share its counters; over
    /// TCP and unix sockets each has a connection of its own. This sends nothing.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use thrift_homa::Endpoint;
    ///
    /// # fn main() -> thrift::Result<()> {
    /// let transport = Endpoint::from_env()?.open()?;
    /// let (input, output) = transport.client()?;
    /// // let mut client = JournalSyncClient::new(input, output);
    /// // client.note("a oneway message")?;
    /// # drop((input, output));
    /// transport.close(Duration::from_secs(1))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `Transport/NotOpen` if, over Homa, the server's name does not resolve or no endpoint can be
    /// opened here, or if an option is out of its range; `User` with a [`UriError`] inside if the URI is
    /// for servers only.
    pub fn open(&self) -> thrift::Result<EndpointTransport> {
        self.target.check(Role::Client)?;
        self.bounded(self.options.limits.message_bytes)?;
        let mut options = self.options.clone();
        let way = match &self.target.place {
            Place::Homa { host, port, engine } => {
                options.homa = engine.unwrap_or_default().configure(options.homa);
                Way::Homa(HomaTransport::open_with(HostPort(host, *port), options)?)
            }
            Place::Stream(addr) => {
                // What goes in pieces over Homa goes as it is.
                if let Some(pieces) = &options.pieces {
                    pieces.check(&options.limits).map_err(not_open)?;
                    options.limits = pieces.extend(&options.limits);
                }
                Way::Stream {
                    server: addr.clone(),
                    options: Arc::new(options),
                    connect_timeout: self.connect_timeout,
                }
            }
        };
        let service = self.service.clone();
        Ok(EndpointTransport { way, service })
    }

    /// Input and output protocol for a generated client: those of a transport of its own. Make one
    /// pair for each thread. To close what they have sent, [`open`](Self::open) the transport.
    ///
    /// Over Homa this sends nothing. Over TCP and unix sockets it opens a connection, which is
    /// opened again by the next call after one that failed; a call ends within its timeout there as
    /// well, and errors have the same kinds.
    ///
    /// # Errors
    ///
    /// `Transport/NotOpen` or `Transport/TimedOut` if the server's name does not resolve or it cannot
    /// be connected to; `User` with a [`UriError`] inside if the URI is for servers only.
    pub fn client(&self) -> thrift::Result<(BoxedInputProtocol, BoxedOutputProtocol)> {
        self.open()?.client()
    }

    /// The same as [`client`](Self::client), for this one of the server's services
    /// (`TMultiplexedProcessor`), whatever the URI says about it.
    ///
    /// # Errors
    ///
    /// As `client`; and `User` with a [`UriError`] inside for a name that no service can have.
    pub fn client_for_service(
        &self,
        name: &str,
    ) -> thrift::Result<(BoxedInputProtocol, BoxedOutputProtocol)> {
        self.open()?.client_for_service(name)
    }

    /// Serves there. What the URI says goes before `options`.
    ///
    /// # Errors
    ///
    /// `Transport` errors say why it cannot listen; `User` has a [`UriError`] or a [`ConfigError`]
    /// inside if the URI is for clients only, or an option is out of its range.
    pub fn serve<P>(&self, processor: P, options: ServerOptions) -> thrift::Result<ServerHandle>
    where
        P: TProcessor + Send + Sync + 'static,
    {
        self.serve_service(Service::Processor(Arc::new(processor)), options)
    }

    pub(crate) fn serve_service(
        &self,
        service: Service,
        options: ServerOptions,
    ) -> thrift::Result<ServerHandle> {
        self.target.check(Role::Server)?;
        self.bounded(options.limits.message_bytes)?;
        let mut options = options;
        options.protocol = self.target.protocol.clone().or(options.protocol);
        if let Some(Oneway::Server(ack)) = self.target.oneway {
            options.oneway = ack;
        }
        match &self.target.place {
            Place::Homa { host, port, engine } => {
                options.homa = engine.unwrap_or_default().configure(options.homa);
                HomaServer::<()>::bind(service, options, HostPort(host, *port))?.spawn()
            }
            Place::Stream(addr) => {
                if let Some(pieces) = &options.pieces {
                    pieces.check(&options.limits).map_err(not_open)?;
                    options.limits = pieces.extend(&options.limits);
                }
                connection::serve(addr, service, options)
            }
        }
    }

    /// The engine where the URI names none.
    pub(crate) fn default_engine(&mut self, default: Option<Engine>) {
        if let Place::Homa { engine, .. } = &mut self.target.place {
            *engine = engine.or(default);
        }
    }

    /// Over Homa, messages have the length that it can carry.
    pub(crate) fn bounded(&self, bytes: usize) -> Result<(), ConfigError> {
        match self.target.place {
            Place::Homa { .. } if bytes > MAX_HOMA_BYTES => Err(ConfigError::OutOfRange {
                key: "max_message_bytes",
                value: bytes.to_string(),
                range: "at most 1000000 bytes over Homa; use tcp+framed:// for longer messages, or let \
                        them go in pieces (pieces_up_to)",
            }),
            _ => Ok(()),
        }
    }
}

/// The transport to one server, as [`Endpoint::open`] has opened it. A clone is the same transport.
#[derive(Clone, Debug)]
pub struct EndpointTransport {
    way: Way,
    service: Option<String>,
}

#[derive(Clone, Debug)]
enum Way {
    Homa(HomaTransport),
    Stream {
        server: StreamAddr,
        options: Arc<ClientOptions>,
        connect_timeout: Duration,
    },
}

impl EndpointTransport {
    /// Input and output protocol for a generated client, as [`Endpoint::client`] gives them. Make one
    /// pair for each thread.
    ///
    /// # Errors
    ///
    /// Over Homa none. Over TCP and unix sockets `Transport/NotOpen` or `Transport/TimedOut` if the
    /// server's name does not resolve or it cannot be connected to.
    pub fn client(&self) -> thrift::Result<(BoxedInputProtocol, BoxedOutputProtocol)> {
        let (input, output) = self.plain_client()?;
        Ok(match &self.service {
            Some(service) => (input, multiplexed(service, output)),
            None => (input, output),
        })
    }

    /// The same for this one of the server's services, whatever the URI says about it.
    ///
    /// # Errors
    ///
    /// As [`client`](Self::client); and `User` with a [`UriError`] inside for a name that no service
    /// can have.
    pub fn client_for_service(
        &self,
        name: &str,
    ) -> thrift::Result<(BoxedInputProtocol, BoxedOutputProtocol)> {
        let name = uri::service(name)?;
        let (input, output) = self.plain_client()?;
        Ok((input, multiplexed(&name, output)))
    }

    /// The transport over Homa, for its counters, its last error and a timeout that can be changed;
    /// `None` over TCP and unix sockets.
    pub fn homa(&self) -> Option<&HomaTransport> {
        match &self.way {
            Way::Homa(transport) => Some(transport),
            Way::Stream { .. } => None,
        }
    }

    /// Waits up to `within` until the server has accepted all oneway messages that the clients of this
    /// transport have sent, as [`HomaTransport::close`] does. Call this before the process ends, which
    /// ends the delivery of what is under way.
    ///
    /// Over TCP and unix sockets this succeeds at once: a oneway call has handed its message to the
    /// system before it returned, which delivers it also after the end of the process. Nobody learns
    /// there whether the server has taken it.
    ///
    /// # Errors
    ///
    /// [`Undelivered`]: how many were not accepted in time, and how many have failed since the
    /// transport was opened. The former go on being delivered while the process lives and the
    /// endpoint is open.
    pub fn close(self, within: Duration) -> Result<(), Undelivered> {
        match self.way {
            Way::Homa(transport) => transport.close(within),
            Way::Stream { .. } => Ok(()),
        }
    }

    fn plain_client(&self) -> thrift::Result<(BoxedInputProtocol, BoxedOutputProtocol)> {
        match &self.way {
            Way::Homa(transport) => {
                let (input, output) = transport.clone().protocols();
                Ok((Box::new(input), Box::new(output)))
            }
            Way::Stream {
                server,
                options,
                connect_timeout,
            } => {
                let (input, output) =
                    connection::connect(server.clone(), options, *connect_timeout)?;
                Ok((Box::new(input), Box::new(output)))
            }
        }
    }
}

fn multiplexed(service: &str, output: BoxedOutputProtocol) -> BoxedOutputProtocol {
    Box::new(TMultiplexedOutputProtocol::new(service, output))
}

impl FromStr for Endpoint {
    type Err = UriError;

    fn from_str(uri: &str) -> Result<Self, UriError> {
        Ok(Self::new(Target::parse(uri)?, ClientOptions::default()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.target.uri)
    }
}
