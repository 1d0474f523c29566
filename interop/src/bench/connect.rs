//! How benchmarks get at the servers that they call.

use std::net::{SocketAddr, ToSocketAddrs};

use homa_client::options::{HomaUri, Role, UriError, UriParts};
use homa_client::{BindError, Config};
use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TInputProtocol, TOutputProtocol,
};
use thrift::transport::{TFramedReadTransport, TFramedWriteTransport, TIoChannel, TTcpChannel};
use thrift_homa::{ClientOptions, HomaTransport};
use tonic_homa::transport::{self, Channel, Endpoint};

use crate::thrift::echo::EchoSyncClient;

/// Why there is nobody to call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("cannot connect to {uri}")]
    Tonic {
        uri: String,
        source: Box<transport::Error>,
    },
    #[error(transparent)]
    Uri(#[from] UriError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("`{uri}` has no address that could be called: {why}")]
    Resolve { uri: String, why: String },
    #[error("{stack} is called by a URI like {like}, not by `{uri}`")]
    Scheme {
        stack: &'static str,
        like: &'static str,
        uri: String,
    },
}

/// A channel of tonic: one HTTP/2 connection, or Homa.
pub(crate) async fn tonic(
    uri: &str,
    adjust: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Channel, ConnectError> {
    let connect = async {
        let endpoint = Endpoint::from_shared(uri.to_owned())?.tcp_nodelay(true);
        adjust(endpoint).connect().await
    };
    connect.await.map_err(|source| ConnectError::Tonic {
        uri: uri.to_owned(),
        source: source.into(),
    })
}

/// The address in a URI of Homa, and `config` with the engine that it names.
pub(crate) fn homa(uri: &str, config: Config) -> Result<(SocketAddr, Config), ConnectError> {
    let parsed = HomaUri::parse(uri, Role::Client)?;
    let addr = resolve(uri, parsed.host, parsed.port)?;
    Ok((addr, parsed.engine.unwrap_or_default().configure(config)))
}

/// The address in a URI of framed TCP.
pub(crate) fn framed_tcp(uri: &str) -> Result<SocketAddr, ConnectError> {
    let parsed = UriParts::parse(uri)?;
    let port = parsed.port.unwrap_or_default();
    let port = port.parse().map_err(|_| ConnectError::Resolve {
        uri: uri.to_owned(),
        why: format!("`{port}` is no port"),
    })?;
    resolve(uri, parsed.host, port)
}

fn resolve(uri: &str, host: &str, port: u16) -> Result<SocketAddr, ConnectError> {
    let failed = |why: String| ConnectError::Resolve {
        uri: uri.to_owned(),
        why,
    };
    let mut addrs = (host, port)
        .to_socket_addrs()
        .map_err(|error| failed(error.to_string()))?;
    addrs
        .next()
        .ok_or_else(|| failed("its name has none".to_owned()))
}

/// Where a Thrift service is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// Framed, each client on a connection of its own.
    Tcp(SocketAddr),
    Homa(SocketAddr, Box<Config>),
}

type BoxedInput = Box<dyn TInputProtocol + Send>;
type BoxedOutput = Box<dyn TOutputProtocol + Send>;
pub(crate) type ThriftClient = EchoSyncClient<BoxedInput, BoxedOutput>;

impl Place {
    /// A client for one thread.
    pub(crate) fn client(&self) -> thrift::Result<ThriftClient> {
        let (input, output): (BoxedInput, BoxedOutput) = match self {
            Self::Tcp(addr) => {
                let mut channel = TTcpChannel::new();
                channel.open(addr)?;
                let (read, write) = channel.split()?;
                let read = TFramedReadTransport::new(read);
                let write = TFramedWriteTransport::new(write);
                (
                    Box::new(TBinaryInputProtocol::new(read, true)),
                    Box::new(TBinaryOutputProtocol::new(write, true)),
                )
            }
            Self::Homa(addr, config) => {
                let mut options = ClientOptions::default();
                options.homa = Config::clone(config);
                let transport = HomaTransport::open_with(addr, options)?;
                let (input, output) = transport.protocols();
                (Box::new(input), Box::new(output))
            }
        };
        Ok(EchoSyncClient::new(input, output))
    }
}
