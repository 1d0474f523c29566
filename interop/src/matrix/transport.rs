//! [`Transport`]: what carries the calls of one column.

use std::net::IpAddr;

use serde::Serialize;

use super::Plan;
use crate::info;
use crate::netns::{Namespaces, NetnsError};

/// One column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Transport {
    /// HTTP/2 over TCP: tonic's own.
    Tcp,
    /// Homa's engine in user space over UDP.
    Udp,
    /// The same, with streams that the client asks for instead of having them pushed.
    UdpPull,
    /// Homa's engine in user space on IP protocol 146 through raw sockets, between two network namespaces.
    Raw,
    /// The kernel module, between two network namespaces.
    Kernel,
}

/// Homa's port where no other one can be in use.
const PORT: u16 = 4000;

impl Transport {
    pub(super) const ALL: [Self; 5] =
        [Self::Tcp, Self::Udp, Self::UdpPull, Self::Raw, Self::Kernel];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::UdpPull => "udp-pull",
            Self::Raw => "raw",
            Self::Kernel => "kernel",
        }
    }

    /// Why this host does not have it, if so.
    pub(super) fn why_missing(self, plan: &Plan) -> Option<String> {
        match self {
            Self::Tcp => None,
            Self::Udp | Self::UdpPull => info::why_missing(info::Name::Udp),
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
            Self::Tcp | Self::Udp | Self::UdpPull => Ok(None),
            Self::Raw | Self::Kernel => Namespaces::create().map(Some),
        }
    }

    /// Where the server listens.
    pub(super) fn server_uri(self) -> String {
        match self {
            // Servers do as each client asks.
            Self::UdpPull => Self::Udp.server_uri(),
            Self::Tcp | Self::Udp => self.client_uri("127.0.0.1:0"),
            Self::Raw | Self::Kernel => {
                let addr: IpAddr = Namespaces::addr(0);
                self.client_uri(&format!("{addr}:{PORT}"))
            }
        }
    }

    /// What the client calls, at this host and port.
    pub(super) fn client_uri(self, authority: &str) -> String {
        match self {
            Self::Tcp => format!("http://{authority}"),
            Self::UdpPull => format!("homa://{authority}?engine=udp&stream=pull"),
            Self::Udp | Self::Raw | Self::Kernel => {
                format!("homa://{authority}?engine={}", self.name())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic_homa::transport::{Endpoint, ServeAddr};

    use super::*;

    #[test]
    fn every_uri_can_be_used() {
        for transport in Transport::ALL {
            let server = transport.server_uri();
            assert!(server.parse::<ServeAddr>().is_ok(), "{server}");
            let client = transport.client_uri("127.0.0.1:4000");
            assert!(Endpoint::from_shared(client.clone()).is_ok(), "{client}");
        }
    }
}
