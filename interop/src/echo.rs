//! The service that benchmarks call, and the second process that serves it.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_stream::Iter;
use tonic::{Request, Response, Status, Streaming};
use tonic_homa::transport::{self, Listener, Server};

use crate::child::{self, Serving, StartError};
use proto::Payload;
use proto::echo_server::{Echo, EchoServer};

/// Generated from `proto/echo.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub(crate) mod proto {
    tonic::include_proto!("homa_interop.echo");
}

/// HTTP/2 window of the second TCP service, where tonic's default is 64 KiB.
pub(crate) const WINDOW: u32 = 4 << 20;

/// Homa that looks for packets for so long before it sleeps that messages which follow closely find
/// it awake.
pub(crate) fn busy() -> homa_client::Config {
    let mut config = homa_client::Config::default();
    config.busy_poll = Duration::from_micros(50);
    config
}

/// Where the service is to be had.
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
}

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("cannot listen on {uri}")]
    Listen {
        uri: &'static str,
        source: Box<transport::Error>,
    },
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
pub(crate) async fn start() -> Result<Serving<Uris>, StartError> {
    Serving::start(&["serve-echo"]).await
}

/// What the second process does.
pub(crate) fn serve_until_stdin_ends() -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        tokio::select! {
            served = serve() => served,
            () = child::stdin_ends() => Ok(()),
        }
    });
    // A thread may still be reading standard input.
    runtime.shutdown_background();
    result
}

async fn serve() -> Result<(), ServeError> {
    let tcp = listen("http://127.0.0.1:0").await?;
    let tcp_wide = listen("http://127.0.0.1:0").await?;
    let homa = listen("homa://127.0.0.1:0").await?;
    let busy_uri = "homa://127.0.0.1:0";
    let homa_busy = Listener::bind_with(busy_uri, busy()).await;
    let homa_busy = homa_busy.map_err(failed(busy_uri))?;
    let uris = Uris {
        tcp: tcp.uri(),
        tcp_wide: tcp_wide.uri(),
        homa: homa.uri(),
        homa_busy: homa_busy.uri(),
    };
    child::tell(&uris)?;

    let narrow = Server::builder().tcp_nodelay(true);
    let wide = narrow
        .clone()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    // Each on a task of its own, so that none is polled when only another has work.
    let mut servers = tokio::task::JoinSet::new();
    for (mut server, listener) in [
        (narrow.clone(), tcp),
        (wide, tcp_wide),
        (narrow.clone(), homa),
        (narrow, homa_busy),
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

async fn listen(uri: &'static str) -> Result<Listener, ServeError> {
    Listener::bind(uri).await.map_err(failed(uri))
}

fn failed(uri: &'static str) -> impl Fn(transport::Error) -> ServeError {
    move |source| ServeError::Listen {
        uri,
        source: source.into(),
    }
}

/// Answers with what it was sent.
#[derive(Debug)]
struct EchoService;

#[tonic::async_trait]
impl Echo for EchoService {
    type RepeatStream = Iter<Repeated>;
    type PingPongStream = Streaming<Payload>;

    async fn call(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn repeat(
        &self,
        request: Request<Payload>,
    ) -> Result<Response<Self::RepeatStream>, Status> {
        let repeated = Repeated(request.into_inner());
        Ok(Response::new(tokio_stream::iter(repeated)))
    }

    async fn ping_pong(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> Result<Response<Self::PingPongStream>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

/// The same message without end; its bytes are shared, not copied.
#[derive(Debug)]
struct Repeated(Payload);

impl Iterator for Repeated {
    type Item = Result<Payload, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(Ok(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_between_the_processes_reads_back_as_it_was_written() {
        let uris = Uris {
            tcp: "http://127.0.0.1:1".to_owned(),
            tcp_wide: "http://127.0.0.1:2".to_owned(),
            homa: "homa://127.0.0.1:3".to_owned(),
            homa_busy: "homa://127.0.0.1:4".to_owned(),
        };
        let line = serde_json::to_string(&uris).expect("plain data");
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Uris>(&line).expect("ours"), uris);
    }
}
