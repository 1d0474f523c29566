//! `serve`: the servers that the suites call.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thrift_homa::{Endpoint, ServerHandle, ServerOptions, error_text};
use tokio::signal::unix::{SignalKind, signal};
use tonic_homa::transport::{self, Listener, Server};

use crate::faults::FaultArguments;
use crate::grpc::Services;
use crate::ledger::Ledger;
use crate::{child, report};

/// Serves what the cases of `grpc` and `thrift` call, on one or several URIs at once.
///
/// For gRPC that are its `TestService` and `UnimplementedService`, a service of our own for what
/// these do not have, and the health service; for Thrift the services `Suite`, which is also found
/// without its name, and `Second`. Each URI is for one of the two. One line for each tells where it
/// listens, port 0 becomes a free port. It ends at Ctrl-C or SIGTERM, after the calls that are
/// open, which have 5 seconds.
///
/// The exit status is 0 if every call ran once, as far as clients number them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  homa-interop serve --uri homa://127.0.0.1:4000 --uri http://127.0.0.1:4001
  homa-interop serve --thrift homa://127.0.0.1:4002 --thrift tcp+framed://127.0.0.1:4003")]
pub(crate) struct Arguments {
    /// Where to listen for gRPC: homa://HOST:PORT or http://HOST:PORT; may be given several times.
    #[arg(long, value_name = "URI", required_unless_present = "thrift")]
    uri: Vec<String>,
    /// Where to listen for Thrift: homa://HOST:PORT, tcp+framed://HOST:PORT,
    /// tcp+buffered://HOST:PORT or unix+framed:///PATH; may be given several times.
    #[arg(long, value_name = "URI")]
    thrift: Vec<String>,
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
    #[error("cannot serve {uri}: {why}")]
    ServeThrift { uri: String, why: String },
    #[error("the server stopped")]
    Stopped(#[source] Box<transport::Error>),
    #[error("{0} Thrift calls were given up after {GRACE:?}")]
    Abandoned(usize),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves until it is told to stop.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    for uri in arguments.uri.iter().chain(&arguments.thrift) {
        arguments.faults.check(uri)?;
    }
    if let Some(path) = &arguments.json {
        report::check_writable(path)?;
    }
    let ledger = Arc::default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(serve(arguments, &ledger));
    // A thread may still be reading standard input.
    runtime.shutdown_background();
    served?;
    let counts = ledger.counts();
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

async fn serve(arguments: &Arguments, ledger: &Arc<Ledger>) -> Result<(), ServeError> {
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
    let thrift = arguments.thrift.iter();
    let thrift = thrift.map(|uri| serve_thrift(uri, &arguments.faults, ledger));
    let thrift: Vec<_> = thrift.collect::<Result<_, _>>()?;
    let uris = listeners.iter().map(|it| it.uri().to_string());
    for uri in uris.chain(thrift.iter().map(ServerHandle::uri)) {
        writeln!(io::stdout(), "{LISTENING}{uri}")?;
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
    if listeners.is_empty() {
        stop.await;
    } else {
        let server = Server::builder().tcp_nodelay(true).shutdown_grace(GRACE);
        let services = Services::new(Arc::clone(ledger));
        let stopped = services.serve(server, listeners, stop).await;
        stopped.map_err(|error| ServeError::Stopped(error.into()))?;
    }
    thrift.iter().for_each(ServerHandle::stop);
    let end = Instant::now() + GRACE;
    let mut abandoned = 0;
    for server in thrift {
        // This thread is done with everything else.
        let ended = server.shutdown(end.saturating_duration_since(Instant::now()));
        abandoned += ended.abandoned.len();
    }
    match abandoned {
        0 => Ok(()),
        _ => Err(ServeError::Abandoned(abandoned)),
    }
}

/// Starts a server for Thrift.
fn serve_thrift(
    uri: &str,
    faults: &FaultArguments,
    ledger: &Arc<Ledger>,
) -> Result<ServerHandle, ServeError> {
    let cannot = |error: thrift::Error| ServeError::ServeThrift {
        uri: uri.to_owned(),
        why: error_text(&error),
    };
    let serve = || {
        let endpoint: Endpoint = uri.parse()?;
        let mut options = ServerOptions::default();
        options.homa = faults.config();
        endpoint.serve(crate::thrift::processor(ledger)?, options)
    };
    serve().map_err(cannot)
}
