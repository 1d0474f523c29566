//! The two processes of a column.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::Plan;
use super::transport::Transport;
use crate::child::{START_TIME, StartError};
use crate::ledger::Counts;
use crate::netns::Namespaces;
use crate::progress::Progress;
use crate::serve::LISTENING;
use crate::suite::Summary;

/// How long processes may take beyond what they are told to.
const PATIENCE: Duration = Duration::from_secs(20);

/// What went wrong with one of them.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProcessError {
    #[error("the server")]
    Start(#[from] StartError),
    #[error("the server said {0:?} instead of where it listens")]
    Unexpected(String),
    #[error("cannot start the client")]
    Client(#[source] io::Error),
    #[error("the {who} did not end within {limit:?}")]
    Silent { who: &'static str, limit: Duration },
    #[error("the {who} ended with {status} and no results; see its message above")]
    Ended {
        who: &'static str,
        status: ExitStatus,
    },
    #[error("the server ended with {0}")]
    Failed(ExitStatus),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The process that serves. It is stopped when this is dropped, and stops by itself when this
/// process dies, because both close its standard input.
#[derive(Debug)]
pub(super) struct Server {
    /// Host and port, or the path of its socket.
    pub(super) at: String,
    child: Child,
    stdin: ChildStdin,
    counts: PathBuf,
}

impl Server {
    /// Starts it and waits until it listens. It writes its counts below `folder`.
    pub(super) async fn start(
        plan: &Plan,
        transport: Transport,
        place: Option<&Namespaces>,
        folder: &Path,
    ) -> Result<Self, ProcessError> {
        let counts = folder.join("server.json");
        let mut command =
            this_program(place.map(|namespaces| (namespaces, 0))).map_err(StartError::Spawn)?;
        command
            .args(["serve", "--until-stdin-ends", plan.suite.serve_option()])
            .arg(transport.server_uri(folder))
            .arg("--json")
            .arg(&counts)
            .stdin(Stdio::piped());
        if transport.has_faults() {
            command.args(plan.faults.to_arguments());
        }
        let mut child = command.spawn().map_err(StartError::Spawn)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(StartError::Ended(None).into());
        };
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(START_TIME, lines.next_line()).await;
        let line = line.map_err(|_| StartError::Silent)??;
        let line = line.ok_or(StartError::Ended(None))?;
        let at = place_in(&line).ok_or_else(|| ProcessError::Unexpected(line.clone()))?;
        Ok(Self {
            at: at.to_owned(),
            child,
            stdin,
            counts,
        })
    }

    /// Stops it, and reads what it has counted.
    pub(super) async fn stop(mut self) -> Result<Counts, ProcessError> {
        drop(self.stdin);
        let status = ended(&mut self.child, "server", PATIENCE).await?;
        let counts: Counts = results(&self.counts, "server", status)?;
        // It says by its status that calls ran twice, which its counts tell better.
        if !status.success() && counts.ran_again == 0 {
            return Err(ProcessError::Failed(status));
        }
        Ok(counts)
    }
}

/// Host and port, or the path, in the line by which a server tells where it listens.
fn place_in(line: &str) -> Option<&str> {
    let (scheme, rest) = line.strip_prefix(LISTENING)?.split_once("://")?;
    let ends: &[char] = if scheme.starts_with("unix") {
        &['?']
    } else {
        &['/', '?']
    };
    rest.split(ends).next()
}

/// Runs the cases to their end, each of which moves `progress` on.
pub(super) async fn run_client(
    plan: &Plan,
    uri: &str,
    transport: Transport,
    place: Option<&Namespaces>,
    folder: &Path,
    progress: &Progress,
) -> Result<Summary, ProcessError> {
    let json = folder.join("client.json");
    let mut command =
        this_program(place.map(|namespaces| (namespaces, 1))).map_err(ProcessError::Client)?;
    command
        .args([plan.suite.name(), "--uri", uri, "--json"])
        .arg(&json)
        .arg(format!("--timeout={}", plan.case_limit.as_secs_f64()))
        .args(plan.cases.iter().map(|case| format!("--case={case}")))
        .args(plan.suite.load_arguments(plan.load))
        .stdin(Stdio::null());
    if transport.has_faults() {
        command.args(plan.faults.to_arguments());
    }
    let mut child = command.spawn().map_err(ProcessError::Client)?;
    if let Some(stdout) = child.stdout.take() {
        let cases = u32::try_from(plan.cases.len()).unwrap_or(u32::MAX);
        let limit = plan.case_limit * cases + PATIENCE;
        let lines = BufReader::new(stdout).lines();
        let read = timeout(limit, read(lines, progress)).await;
        read.map_err(|_| ProcessError::Silent {
            who: "client",
            limit,
        })??;
    }
    let status = ended(&mut child, "client", PATIENCE).await?;
    results(&json, "client", status)
}

/// A line for each case, and a last one.
async fn read(mut lines: Lines<BufReader<ChildStdout>>, progress: &Progress) -> io::Result<()> {
    while lines.next_line().await?.is_some() {
        progress.bar.inc(1);
    }
    Ok(())
}

/// This program once more, in one of two namespaces if there are any.
fn this_program(place: Option<(&Namespaces, usize)>) -> io::Result<Command> {
    let program = std::env::current_exe()?;
    let mut command = match place {
        None => Command::new(program),
        Some((namespaces, side)) => {
            // It becomes our program, so that killing it kills that.
            let [ip, arguments @ ..] = namespaces.enter(side);
            let mut command = Command::new(ip);
            command.args(arguments).arg(program);
            command
        }
    };
    command.stdout(Stdio::piped()).kill_on_drop(true);
    Ok(command)
}

async fn ended(
    child: &mut Child,
    who: &'static str,
    limit: Duration,
) -> Result<ExitStatus, ProcessError> {
    let status = timeout(limit, child.wait()).await;
    Ok(status.map_err(|_| ProcessError::Silent { who, limit })??)
}

fn results<T: DeserializeOwned>(
    path: &Path,
    who: &'static str,
    status: ExitStatus,
) -> Result<T, ProcessError> {
    let json = std::fs::read(path).unwrap_or_default();
    serde_json::from_slice(&json).map_err(|_| ProcessError::Ended { who, status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_s_line_tells_where_it_is_and_other_lines_do_not() {
        for line in [
            "listening on homa://127.0.0.1:4000",
            "listening on homa+raw://127.0.0.1:4000",
            "listening on http://127.0.0.1:4000/?engine=udp",
        ] {
            assert_eq!(place_in(line), Some("127.0.0.1:4000"), "{line}");
        }
        let line = "listening on unix+framed:///tmp/a/socket?protocol=compact";
        assert_eq!(place_in(line), Some("/tmp/a/socket"));
        for line in ["", "listening on port 80", "homa://127.0.0.1:4000"] {
            assert_eq!(place_in(line), None, "{line}");
        }
    }
}
