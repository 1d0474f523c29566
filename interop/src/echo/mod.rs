//! The services that benchmarks call, and the processes that serve them.

mod grpc;
pub(crate) mod homa;
pub(crate) mod thrift;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use homa_client::{BindError, Config};
use serde::{Deserialize, Serialize};
use tonic_homa::transport::{self, Listener, Server};

use crate::child::{self, Serving, StartError};
use crate::runtime::{self, MAX_WORKERS};
use grpc::EchoService;
use proto::Payload;
use proto::echo_server::EchoServer;

/// Generated from `proto/echo.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub(crate) mod proto {
    tonic::include_proto!("homa_interop.echo");
}

/// Longest response that a request can ask for.
pub(crate) const MAX_RESPONSE: usize = 4_000_000;

/// HTTP/2 window of the second TCP service, where tonic's default is 64 KiB.
pub(crate) const WINDOW: u32 = 4 << 20;

/// Homa that looks for packets for so long before it sleeps that messages which follow closely find
/// it awake.
pub(crate) fn busy(mut config: Config) -> Config {
    config.busy_poll = Duration::from_micros(50);
    config
}

/// What can be set on a process that serves.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Options {
    /// Where to listen. The first service on TCP and the first on Homa take this port, 0 is a free
    /// one; the others take free ones.
    #[arg(long, value_name = "IP:PORT", default_value = DEFAULT_LISTEN)]
    pub(crate) listen: SocketAddr,
    /// Threads of the runtime; 1 is tokio's current-thread runtime. Default: tokio's default.
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=MAX_WORKERS))]
    pub(crate) workers: Option<u16>,
    /// Homa's setting link_mbps. Default: not set.
    #[arg(long, value_name = "N")]
    pub(crate) link_mbps: Option<u32>,
}

const DEFAULT_LISTEN: &str = "127.0.0.1:0";

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            workers: None,
            link_mbps: None,
        }
    }
}

impl Options {
    /// As it is written on the command line.
    pub(crate) fn to_arguments(&self) -> Vec<String> {
        let numbers = [
            ("--workers", self.workers.map(u32::from)),
            ("--link-mbps", self.link_mbps),
        ];
        let numbers = numbers.into_iter().filter_map(|(name, value)| {
            let value = value?;
            Some(format!("{name}={value}"))
        });
        std::iter::once(format!("--listen={}", self.listen))
            .chain(numbers)
            .collect()
    }

    /// A free port of the same host.
    fn any(&self) -> SocketAddr {
        SocketAddr::new(self.listen.ip(), 0)
    }

    /// Of Homa endpoints.
    pub(crate) fn homa(&self) -> Config {
        let mut config = Config::default();
        config.protocol.link_mbps = self.link_mbps;
        config
    }
}

/// Where the services are to be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Uris {
    /// tonic over TCP at tonic's defaults.
    pub(crate) tcp: String,
    /// The same with HTTP/2 windows of [`WINDOW`] bytes.
    pub(crate) tcp_wide: String,
    /// tonic over Homa.
    pub(crate) homa: String,
    /// The same as [`busy`] says.
    pub(crate) homa_busy: String,
    /// `homa-client` alone, see [`homa`].
    pub(crate) homa_client: String,
    /// Who serves.
    pub(crate) pid: u32,
}

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("cannot listen on {uri}")]
    Listen {
        uri: String,
        source: Box<transport::Error>,
    },
    #[error("cannot listen on {addr}")]
    Bind { addr: SocketAddr, source: BindError },
    #[error("the server of {uri} stopped")]
    Stopped {
        uri: String,
        source: Box<transport::Error>,
    },
    #[error("a server panicked")]
    Panicked(#[source] tokio::task::JoinError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Starts the second process.
pub(crate) async fn start(options: &Options) -> Result<Serving<Uris>, StartError> {
    let mut command = vec!["serve-echo".to_owned()];
    command.extend(options.to_arguments());
    Serving::start(&command).await
}

/// What the second process does.
pub(crate) fn serve_until_stdin_ends(options: &Options) -> Result<(), ServeError> {
    let runtime = runtime::with_workers(options.workers)?;
    let result = runtime.block_on(async {
        let listening = Listening::start(options).await?;
        child::tell(&listening.uris())?;
        tokio::select! {
            served = listening.serve() => served,
            () = child::stdin_ends() => Ok(()),
        }
    });
    // A thread may still be reading standard input.
    runtime.shutdown_background();
    result
}

/// The services, before anybody calls them.
struct Listening {
    tcp: Listener,
    tcp_wide: Listener,
    homa: Listener,
    homa_busy: Listener,
    homa_client: homa_client::Server,
}

impl Listening {
    async fn start(options: &Options) -> Result<Self, ServeError> {
        let (first, any) = (options.listen, options.any());
        let tcp = listen("http", first, options.homa()).await?;
        let tcp_wide = listen("http", any, options.homa()).await?;
        let homa = listen("homa", first, options.homa()).await?;
        let homa_busy = listen("homa", any, busy(options.homa())).await?;
        let homa_client = homa_client::Server::bind(any, &options.homa())
            .map_err(|source| ServeError::Bind { addr: any, source })?;
        Ok(Self {
            tcp,
            tcp_wide,
            homa,
            homa_busy,
            homa_client,
        })
    }

    fn uris(&self) -> Uris {
        Uris {
            tcp: self.tcp.uri(),
            tcp_wide: self.tcp_wide.uri(),
            homa: self.homa.uri(),
            homa_busy: self.homa_busy.uri(),
            homa_client: format!("homa://{}", self.homa_client.local_addr()),
            pid: std::process::id(),
        }
    }

    async fn serve(self) -> Result<(), ServeError> {
        let narrow = Server::builder().tcp_nodelay(true);
        let wide = narrow
            .clone()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        // Each on a task of its own, so that none is polled when only another has work.
        let mut servers = tokio::task::JoinSet::new();
        servers.spawn(async move {
            homa::serve(self.homa_client).await;
            Ok(())
        });
        for (mut server, listener) in [
            (narrow.clone(), self.tcp),
            (wide, self.tcp_wide),
            (narrow.clone(), self.homa),
            (narrow, self.homa_busy),
        ] {
            let uri = listener.uri();
            servers.spawn(async move {
                let service = EchoServer::new(EchoService);
                let ended = server.add_service(service).serve_on([listener]).await;
                ended.map_err(|source| ServeError::Stopped {
                    uri,
                    source: source.into(),
                })
            });
        }
        match servers.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(panicked)) => Err(ServeError::Panicked(panicked)),
            None => Ok(()),
        }
    }
}

async fn listen(scheme: &str, addr: SocketAddr, homa: Config) -> Result<Listener, ServeError> {
    let uri = format!("{scheme}://{addr}");
    let listener = Listener::bind_with(uri.as_str(), homa).await;
    listener.map_err(|source| ServeError::Listen {
        uri,
        source: source.into(),
    })
}

impl From<Bytes> for Payload {
    fn from(data: Bytes) -> Self {
        Self {
            data,
            response_bytes: None,
        }
    }
}

/// The first `bytes` of `data`, or all of it and zeros; `None` if these were more than
/// [`MAX_RESPONSE`].
fn cut_or_pad(data: Bytes, bytes: usize) -> Option<Bytes> {
    if bytes <= data.len() {
        return Some(data.slice(..bytes));
    }
    if bytes > MAX_RESPONSE {
        return None;
    }
    let mut padded = BytesMut::with_capacity(bytes);
    padded.extend_from_slice(&data);
    padded.resize(bytes, 0);
    Some(padded.freeze())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn the_line_between_the_processes_reads_back_as_it_was_written() {
        let uris = Uris {
            tcp: "http://127.0.0.1:1".to_owned(),
            tcp_wide: "http://127.0.0.1:2".to_owned(),
            homa: "homa://127.0.0.1:3".to_owned(),
            homa_busy: "homa://127.0.0.1:4".to_owned(),
            homa_client: "homa://127.0.0.1:5".to_owned(),
            pid: 6,
        };
        let line = serde_json::to_string(&uris).expect("plain data");
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Uris>(&line).expect("ours"), uris);
    }

    #[test]
    fn options_reach_the_second_process_as_they_are() {
        #[derive(Parser)]
        struct Command {
            #[command(flatten)]
            options: Options,
        }
        let given = Options {
            listen: "[::1]:4000".parse().expect("an address"),
            workers: Some(1),
            link_mbps: Some(200),
        };
        for options in [given, Options::default()] {
            let arguments = options.to_arguments();
            let line = std::iter::once("serve-echo".to_owned()).chain(arguments);
            assert_eq!(Command::parse_from(line).options, options);
        }
    }

    #[test]
    fn responses_are_bounded() {
        let data = Bytes::from_static(b"abc");
        assert_eq!(cut_or_pad(data.clone(), 5).expect("short"), "abc\0\0");
        assert_eq!(cut_or_pad(data, MAX_RESPONSE + 1), None);
    }
}
