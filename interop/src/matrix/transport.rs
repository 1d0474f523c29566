//! [`Transport`]: what carries the calls of one column.

use std::net::IpAddr;
use std::path::Path;

use serde::Serialize;

use super::Plan;
use super::foreign::{Foreign, Library, Side};
use crate::info;
use crate::netns::{Namespaces, NetnsError};

/// What carries the calls of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Transport {
    /// HTTP/2 over TCP: tonic's own (gRPC).
    Tcp,
    /// Homa's engine in user space over UDP.
    Udp,
    /// The same, with streams that the client asks for instead of having them pushed (gRPC).
    UdpPull,
    /// Homa's engine in user space on IP protocol 146 through raw sockets, between two network namespaces.
    Raw,
    /// The kernel module, between two network namespaces.
    Kernel,
    /// TCP, each message with its length in front (Thrift).
    TcpFramed,
    /// TCP, one message after the other (Thrift).
    TcpBuffered,
    /// A unix socket, framed (Thrift).
    UnixFramed,
    /// The client is Apache's Python library; a gateway passes its calls on to Homa (Thrift).
    PythonClient,
    /// The server is Apache's Python library; a gateway passes calls from Homa on to it (Thrift).
    PythonServer,
    /// As `python-client`, of the library `thriftpy2` (Thrift).
    Thriftpy2Client,
    /// As `python-server`, of the library `thriftpy2` (Thrift).
    Thriftpy2Server,
}

/// Homa's port where no other one can be in use.
const PORT: u16 = 4000;

impl Transport {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::UdpPull => "udp-pull",
            Self::Raw => "raw",
            Self::Kernel => "kernel",
            Self::TcpFramed => "tcp-framed",
            Self::TcpBuffered => "tcp-buffered",
            Self::UnixFramed => "unix-framed",
            Self::PythonClient => "python-client",
            Self::PythonServer => "python-server",
            Self::Thriftpy2Client => "thriftpy2-client",
            Self::Thriftpy2Server => "thriftpy2-server",
        }
    }

    /// Who takes the place of a client or a server of ours, if so.
    pub(super) fn foreign(self) -> Option<Foreign> {
        let (library, side) = match self {
            Self::PythonClient => (Library::Thrift, Side::Client),
            Self::PythonServer => (Library::Thrift, Side::Server),
            Self::Thriftpy2Client => (Library::Thriftpy2, Side::Client),
            Self::Thriftpy2Server => (Library::Thriftpy2, Side::Server),
            _ => return None,
        };
        Some(Foreign { library, side })
    }

    /// What the client is on: another one than the server if there is a gateway between them.
    pub(super) fn of_client(self) -> Self {
        match self.foreign().map(|foreign| foreign.side) {
            None => self,
            Some(Side::Client) => Self::TcpFramed,
            Some(Side::Server) => Self::Udp,
        }
    }

    /// What the server is on.
    pub(super) fn of_server(self) -> Self {
        match self.foreign().map(|foreign| foreign.side) {
            // Servers do as each client asks.
            None if self == Self::UdpPull => Self::Udp,
            None => self,
            Some(Side::Client) => Self::Udp,
            Some(Side::Server) => Self::TcpFramed,
        }
    }

    /// Why this host does not have it, if so.
    pub(super) fn why_missing(self, plan: &Plan) -> Option<String> {
        match self {
            Self::Tcp | Self::TcpFramed | Self::TcpBuffered | Self::UnixFramed => None,
            Self::Udp | Self::UdpPull => info::why_missing(info::Name::Udp),
            Self::PythonClient
            | Self::PythonServer
            | Self::Thriftpy2Client
            | Self::Thriftpy2Server => Self::Udp.why_missing(plan),
            Self::Raw => info::why_missing(info::Name::Raw),
            Self::Kernel => info::why_missing(info::Name::Kernel).or_else(|| {
                let why = "the module carries its packets itself, no faults can be made on them";
                plan.faults.any().then(|| why.to_owned())
            }),
        }
    }

    /// Whether its packets can be tampered with.
    pub(super) fn has_faults(self) -> bool {
        matches!(self, Self::Udp | Self::UdpPull | Self::Raw)
    }

    /// A network for server and client, if they need one of their own.
    pub(super) fn namespaces(self) -> Result<Option<Namespaces>, NetnsError> {
        match self {
            Self::Raw | Self::Kernel => Namespaces::create().map(Some),
            _ => Ok(None),
        }
    }

    /// Where the server listens. A path is below `folder`.
    pub(super) fn server_uri(self, folder: &Path) -> String {
        let transport = self.of_server();
        transport.client_uri(&match transport {
            Self::Raw | Self::Kernel => {
                let addr: IpAddr = Namespaces::addr(0);
                format!("{addr}:{PORT}")
            }
            Self::UnixFramed => folder.join("socket").to_string_lossy().into_owned(),
            _ => "127.0.0.1:0".to_owned(),
        })
    }

    /// What the client calls, at this host and port, or path.
    pub(super) fn client_uri(self, at: &str) -> String {
        match self {
            Self::Tcp => format!("http://{at}"),
            Self::UdpPull => format!("homa://{at}?engine=udp&stream=pull"),
            Self::Udp | Self::Raw | Self::Kernel => format!("homa://{at}?engine={}", self.name()),
            Self::TcpFramed => format!("tcp+framed://{at}"),
            Self::TcpBuffered => format!("tcp+buffered://{at}"),
            Self::UnixFramed => format!("unix+framed://{at}"),
            Self::PythonClient
            | Self::PythonServer
            | Self::Thriftpy2Client
            | Self::Thriftpy2Server => self.of_client().client_uri(at),
        }
    }
}

/// How the calls of a column are encoded, where a suite has a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Protocol {
    /// Thrift's binary protocol.
    Binary,
    /// Thrift's compact protocol.
    Compact,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Compact => "compact",
        }
    }
}

/// One column: a transport, and a protocol if there is a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Lane {
    pub(super) transport: Transport,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) protocol: Option<Protocol>,
}

impl Lane {
    pub(super) fn name(self) -> String {
        let transport = self.transport.name();
        match self.protocol {
            None => transport.to_owned(),
            Some(protocol) => format!("{transport}/{}", protocol.name()),
        }
    }

    /// Where the server listens. A path is below `folder`.
    pub(super) fn server_uri(self, folder: &Path) -> String {
        let uri = self.transport.server_uri(folder);
        match self.transport.foreign() {
            // Only ours tell protocols apart by themselves.
            Some(foreign) if foreign.side == Side::Server => self.with_protocol(uri),
            _ => uri,
        }
    }

    /// What the client calls, at this host and port, or path.
    pub(super) fn client_uri(self, at: &str) -> String {
        self.with_protocol(self.transport.client_uri(at))
    }

    fn with_protocol(self, uri: String) -> String {
        let Some(protocol) = self.protocol else {
            return uri;
        };
        let separator = if uri.contains('?') { '&' } else { '?' };
        format!("{uri}{separator}protocol={}", protocol.name())
    }
}

#[cfg(test)]
mod tests {
    use tonic_homa::transport::{Endpoint, ServeAddr};

    use super::*;
    use crate::matrix::Suite;

    #[test]
    fn every_uri_can_be_used() {
        let folder = Path::new("/tmp/folder");
        for transport in Suite::Grpc.transports() {
            let server = transport.server_uri(folder);
            assert!(server.parse::<ServeAddr>().is_ok(), "{server}");
            let client = transport.client_uri("127.0.0.1:4000");
            assert!(Endpoint::from_shared(client.clone()).is_ok(), "{client}");
        }
        for transport in Suite::Thrift.transports() {
            let server = transport.server_uri(folder);
            assert!(server.parse::<thrift_homa::Endpoint>().is_ok(), "{server}");
            let protocol = Some(Protocol::Compact);
            let lane = Lane {
                transport: *transport,
                protocol,
            };
            let at = match transport {
                Transport::UnixFramed => "/tmp/folder/socket",
                _ => "127.0.0.1:4000",
            };
            let client = lane.client_uri(at);
            let endpoint: thrift_homa::Endpoint = client.parse().expect(&client);
            let found = &endpoint.options().protocol;
            assert!(matches!(found, thrift_homa::Protocol::Compact), "{client}");
        }
    }
}
