//! The service that benchmarks call, and the second process that serves it.

use std::io::{self, Write};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tonic::{Request, Response, Status};
use tonic_homa::transport::{self, Listener, Server};

use proto::Payload;
use proto::echo_server::{Echo, EchoServer};

/// Generated from `proto/echo.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub(crate) mod proto {
    tonic::include_proto!("homa_interop.echo");
}

/// HTTP/2 window of the second TCP service, where tonic's default is 64 KiB.
pub(crate) const WINDOW: u32 = 4 << 20;

/// Where the service is to be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Uris {
    /// tonic over TCP at tonic's defaults.
    pub(crate) tcp: String,
    /// The same with HTTP/2 windows of [`WINDOW`] bytes.
    pub(crate) tcp_wide: String,
    /// tonic over Homa.
    pub(crate) homa: String,
}

/// How long the second process may take to open its sockets.
const START_TIME: Duration = Duration::from_secs(10);

/// Why there is no service to call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("cannot start the process that serves the echo service")]
    Spawn(#[source] io::Error),
    #[error("the serving process ended before it told where it serves; see its message above")]
    Ended(#[source] Option<serde_json::Error>),
    #[error("the serving process did not tell where it serves within {START_TIME:?}")]
    Silent,
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

/// The second process. It is stopped when this is dropped, and stops by itself when this process
/// dies, because both close its standard input.
#[derive(Debug)]
pub(crate) struct EchoProcess {
    uris: Uris,
    _child: Child,
}

impl EchoProcess {
    /// Starts it and waits until it serves.
    pub(crate) async fn start() -> Result<Self, StartError> {
        let program = std::env::current_exe().map_err(StartError::Spawn)?;
        let mut child = Command::new(program)
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(StartError::Spawn)?;
        let Some(stdout) = child.stdout.take() else {
            return Err(StartError::Ended(None));
        };
        let mut line = String::new();
        let mut stdout = BufReader::new(stdout);
        match tokio::time::timeout(START_TIME, stdout.read_line(&mut line)).await {
            Err(_) => return Err(StartError::Silent),
            Ok(Err(error)) => return Err(StartError::Spawn(error)),
            Ok(Ok(0)) => return Err(StartError::Ended(None)),
            Ok(Ok(_)) => {}
        }
        let uris = serde_json::from_str(&line).map_err(|error| StartError::Ended(Some(error)))?;
        Ok(Self {
            uris,
            _child: child,
        })
    }

    /// Where it serves.
    pub(crate) fn uris(&self) -> &Uris {
        &self.uris
    }
}

/// What the second process does.
pub(crate) fn serve_until_stdin_ends() -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        tokio::select! {
            served = serve() => served,
            () = stdin_ends() => Ok(()),
        }
    });
    // A thread may still be reading standard input.
    runtime.shutdown_background();
    result
}

async fn stdin_ends() {
    let mut stdin = tokio::io::stdin();
    let mut ignored = [0; 64];
    while matches!(stdin.read(&mut ignored).await, Ok(1..)) {}
}

async fn serve() -> Result<(), ServeError> {
    let tcp = listen("http://127.0.0.1:0").await?;
    let tcp_wide = listen("http://127.0.0.1:0").await?;
    let homa = listen("homa://127.0.0.1:0").await?;
    let uris = Uris {
        tcp: tcp.uri(),
        tcp_wide: tcp_wide.uri(),
        homa: homa.uri(),
    };
    let line = serde_json::to_string(&uris).map_err(io::Error::from)?;
    writeln!(io::stdout(), "{line}")?;

    let narrow = Server::builder().tcp_nodelay(true);
    let wide = narrow
        .clone()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    // Each on a task of its own, so that none is polled when only another has work.
    let mut servers = tokio::task::JoinSet::new();
    for (mut server, listener) in [(narrow.clone(), tcp), (wide, tcp_wide), (narrow, homa)] {
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
    Listener::bind(uri)
        .await
        .map_err(|source| ServeError::Listen {
            uri,
            source: source.into(),
        })
}

/// Answers with what it was sent.
#[derive(Debug)]
struct EchoService;

#[tonic::async_trait]
impl Echo for EchoService {
    async fn call(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        Ok(Response::new(request.into_inner()))
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
        };
        let line = serde_json::to_string(&uris).expect("plain data");
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Uris>(&line).expect("ours"), uris);
    }
}
