//! [`StackName`]: what can be put under load; [`Target`]: a server of it, and how it is called.

use std::net::SocketAddr;

use bytes::{Buf as _, Bytes};
use homa_client::{Client, Config};
use serde::{Deserialize, Serialize};
use tonic_homa::transport::Channel;

use crate::bench::call::CallFailed;
use crate::bench::connect::{self, ConnectError, Place, ThriftClient};
use crate::echo::homa::HEADER;
use crate::echo::proto::Payload;
use crate::echo::proto::echo_client::EchoClient;
use crate::echo::{self, MAX_RESPONSE};
use crate::thrift::echo::TEchoSyncClient as _;

/// What carries the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StackName {
    /// Homa without an RPC framework.
    HomaClient,
    /// tonic over Homa.
    TonicHoma,
    /// tonic over TCP: one HTTP/2 connection.
    TonicTcp,
    /// Thrift over Homa; each call in flight is a thread.
    ThriftHoma,
    /// Thrift over framed TCP; each call in flight is a thread with a connection of its own.
    ThriftTcp,
}

impl StackName {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HomaClient => "homa-client",
            Self::TonicHoma => "tonic-homa",
            Self::TonicTcp => "tonic-tcp",
            Self::ThriftHoma => "thrift-homa",
            Self::ThriftTcp => "thrift-tcp",
        }
    }

    /// Whether a call takes a thread.
    pub(crate) fn blocks(self) -> bool {
        matches!(self, Self::ThriftHoma | Self::ThriftTcp)
    }

    /// Most bytes that a request may carry, and a response: the limit of its messages by default,
    /// less what the framework adds.
    pub(crate) fn longest(self) -> usize {
        /// Name of the method, kinds and numbers of the fields.
        const THRIFT_ADDS: usize = 1_000;
        const HOMA: usize = 1_000_000;
        match self {
            Self::HomaClient => HOMA - HEADER,
            Self::ThriftHoma => HOMA - THRIFT_ADDS,
            // tonic decodes 4 MiB; of Thrift the limit is the benchmark's own.
            Self::TonicHoma | Self::TonicTcp | Self::ThriftTcp => MAX_RESPONSE,
        }
    }

    /// A URI by which it can be called.
    fn like(self) -> &'static str {
        match self {
            Self::HomaClient | Self::TonicHoma | Self::ThriftHoma => "homa://10.0.0.1:4000",
            Self::TonicTcp => "http://10.0.0.1:4001",
            Self::ThriftTcp => "tcp+framed://10.0.0.1:4001",
        }
    }

    /// Connects to its server at `uri`.
    pub(crate) async fn connect(self, uri: &str, homa: Config) -> Result<Target, ConnectError> {
        let scheme = uri.split_once("://").map_or("", |(scheme, _)| scheme);
        let (expected, _) = self.like().split_once("://").unwrap_or_default();
        // `homa+udp` names the engine, too.
        let is_homa = expected == "homa" && scheme.starts_with("homa+");
        if scheme != expected && !is_homa {
            return Err(ConnectError::Scheme {
                stack: self.name(),
                like: self.like(),
                uri: uri.to_owned(),
            });
        }
        Ok(match self {
            Self::HomaClient => {
                let (to, config) = connect::homa(uri, homa)?;
                Target::Tasks(TaskCaller::Homa(Client::bind(&config)?, to))
            }
            Self::TonicHoma | Self::TonicTcp => {
                let channel = connect::tonic(uri, |endpoint| endpoint.homa_config(homa));
                Target::Tasks(TaskCaller::Grpc(EchoClient::new(channel.await?)))
            }
            Self::ThriftHoma => {
                let (to, config) = connect::homa(uri, homa)?;
                Target::Threads(Place::Homa(to, Box::new(config)))
            }
            Self::ThriftTcp => Target::Threads(Place::Tcp(connect::framed_tcp(uri)?)),
        })
    }
}

/// A server of one stack, by how it can be called.
#[derive(Clone)]
pub(crate) enum Target {
    Tasks(TaskCaller),
    Threads(Place),
}

/// Calls from tasks. Clones share what they call through.
#[derive(Clone)]
pub(crate) enum TaskCaller {
    Homa(Client, SocketAddr),
    Grpc(EchoClient<Channel>),
}

/// Calls from a thread.
pub(crate) struct ThreadCaller(ThriftClient);

impl TaskCaller {
    /// Calls with `data` and waits for as many bytes of it as are wanted, or more.
    pub(crate) async fn call(&mut self, data: Bytes, wanted: u32) -> Result<(), CallFailed> {
        match self {
            Self::Homa(client, to) => {
                let request = echo::homa::request(data.clone(), wanted);
                let response = client.call(*to, request).await?;
                check(&data, wanted, response.remaining(), response.chunk())
            }
            Self::Grpc(client) => {
                let request = Payload {
                    data: data.clone(),
                    response_bytes: (wanted as usize != data.len()).then_some(wanted),
                };
                let response = client.call(request).await?.into_inner().data;
                check(&data, wanted, response.len(), &response)
            }
        }
    }
}

impl ThreadCaller {
    pub(crate) fn new(place: &Place) -> Result<Self, CallFailed> {
        Ok(Self(place.client()?))
    }

    /// As those of tasks.
    pub(crate) fn call(&mut self, data: &Bytes, wanted: u32) -> Result<(), CallFailed> {
        let response = if wanted as usize == data.len() {
            self.0.call(data.to_vec())?
        } else {
            // What is longer than an i32 is refused with the command line.
            let bytes = i32::try_from(wanted).unwrap_or(i32::MAX);
            self.0.answer(data.to_vec(), bytes)?
        };
        check(data, wanted, response.len(), &response)
    }
}

/// How much of a response is compared: enough to know whose it is.
const COMPARE: usize = 1_000;

/// Whether a response of so many bytes that begins with `first` answers `data`.
fn check(data: &[u8], wanted: u32, received: usize, first: &[u8]) -> Result<(), CallFailed> {
    let same = data.iter().zip(first).take(COMPARE);
    if received != wanted as usize || same.clone().any(|(sent, back)| sent != back) {
        return Err(CallFailed::WrongBytes {
            sent: data.len(),
            wanted: wanted as usize,
            received,
        });
    }
    Ok(())
}

/// What requests carry: parts of it that begin at different places, so that one which is answered
/// with another's bytes is noticed.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(Bytes);

/// After so many bytes it comes again.
const PERIOD: usize = 251;

impl Pattern {
    /// With parts of up to so many bytes.
    pub(crate) fn new(longest: u32) -> Self {
        let bytes = (0..longest as usize + PERIOD).map(|at| (at % PERIOD) as u8);
        Self(bytes.collect())
    }

    /// Of the call with this number.
    pub(crate) fn part(&self, number: usize, bytes: u32) -> Bytes {
        let from = number % PERIOD;
        self.0.slice(from..from + bytes as usize)
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for stack in StackName::value_variants() {
            let value = stack.to_possible_value().expect("none is hidden");
            assert_eq!(value.get_name(), stack.name());
            let json = serde_json::to_value(stack).expect("plain data");
            assert_eq!(json, stack.name());
        }
    }

    #[test]
    fn a_response_of_another_call_or_length_is_noticed() {
        let pattern = Pattern::new(100);
        let (one, other) = (pattern.part(1, 100), pattern.part(2, 100));
        assert!(check(&one, 100, 100, &one).is_ok());
        assert!(check(&one, 30, 30, &one[..30]).is_ok());
        assert!(check(&one, 200, 200, &one).is_ok());
        assert!(check(&one, 100, 100, &other).is_err());
        assert!(check(&one, 100, 99, &one[..99]).is_err());
    }

    #[tokio::test]
    async fn a_uri_of_another_stack_is_refused_with_one_that_fits() {
        for (stack, uri, like) in [
            (StackName::TonicTcp, "homa://127.0.0.1:1", "http://"),
            (StackName::TonicHoma, "http://127.0.0.1:1", "homa://"),
            (StackName::HomaClient, "127.0.0.1:1", "homa://"),
            (StackName::ThriftTcp, "http://127.0.0.1:1", "tcp+framed://"),
        ] {
            let error = stack.connect(uri, Config::default()).await;
            let error = error.err().expect(uri).to_string();
            assert!(error.contains(uri) && error.contains(like), "{error}");
        }
    }
}
