//! `serve`: the servers that the suites call.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tonic_homa::transport::{self, Listener, Server};

use crate::faults::FaultArguments;
use crate::grpc::Services;
use crate::{child, report};

/// Serves what the cases of `grpc` call, on one or several URIs at once.
///
/// That are gRPC's `TestService` and `UnimplementedService`, a service of our own for what these
/// do not have, and the health service. One line for each URI tells where it listens, port 0
/// becomes a free port. It ends at Ctrl-C or SIGTERM, after the calls that are open, which have 5
/// seconds.
///
/// The exit status is 0 if every call ran once, as far as clients number them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  homa-interop serve --uri homa://127.0.0.1:4000 --uri http://127.0.0.1:4001")]
pub(crate) struct Arguments {
    /// Where to listen: homa://HOST:PORT or http://HOST:PORT; may be given several times.
    #[arg(long, value_name = "URI", required = true)]
    uri: Vec<String>,
    /// End with standard input, too.
    #[arg(long)]
    until_stdin_ends: bool,
    #[command(flatten)]
    faults: FaultArguments,
    /// Write to this file at the end what was called, and how often.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Before the URI in the line of each listener.
pub(crate) const LISTENING: &str = "listening on ";

/// How long open calls may go on at the end.
const GRACE: Duration = Duration::from_secs(5);

/// Why it does not serve any more.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("cannot listen on {uri}")]
    Listen {
        uri: String,
        source: Box<transport::Error>,
    },
    #[error("the server stopped")]
    Stopped(#[source] Box<transport::Error>),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves until it is told to stop.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    for uri in &arguments.uri {
        arguments.faults.check(uri)?;
    }
    if let Some(path) = &arguments.json {
        report::check_writable(path)?;
    }
    let services = Services::default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(serve(arguments, &services));
    // A thread may still be reading standard input.
    runtime.shutdown_background();
    served?;
    let counts = services.counts();
    if let Some(path) = &arguments.json {
        report::write_json(path, &counts)?;
    }
    if counts.ran_again > 0 {
        eprintln!(
            "FAILED: of {} numbered calls {} ran again",
            counts.numbered, counts.ran_again
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(arguments: &Arguments, services: &Services) -> Result<(), ServeError> {
    // Before anything listens, so that nobody who knows that it does can kill it with a signal.
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut listeners = Vec::new();
    for uri in &arguments.uri {
        let listener = Listener::bind_with(uri, arguments.faults.config()).await;
        listeners.push(listener.map_err(|source| ServeError::Listen {
            uri: uri.clone(),
            source: source.into(),
        })?);
    }
    for listener in &listeners {
        writeln!(io::stdout(), "{LISTENING}{}", listener.uri())?;
    }
    let stop = async {
        let stdin_ends = async {
            if arguments.until_stdin_ends {
                child::stdin_ends().await;
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
            () = stdin_ends => {}
        }
    };
    let server = Server::builder().tcp_nodelay(true).shutdown_grace(GRACE);
    let stopped = services.serve(server, listeners, stop).await;
    stopped.map_err(|error| ServeError::Stopped(error.into()))
}
