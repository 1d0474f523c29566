//! The two processes of a column, and a gateway if there is one between them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::Plan;
use super::foreign::Side;
use super::transport::Lane;
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
    #[error("the {who}")]
    Start {
        who: &'static str,
        source: StartError,
    },
    #[error("the {who} said {line:?} instead of where it listens")]
    Unexpected { who: &'static str, line: String },
    #[error("cannot start the client")]
    Client(#[source] io::Error),
    #[error("the {who} did not end within {limit:?}")]
    Silent { who: &'static str, limit: Duration },
    #[error("the {who} ended with {status} and no results; see its message above")]
    Ended {
        who: &'static str,
        status: ExitStatus,
    },
    #[error("the {who} ended with {status}; see its message above")]
    Failed {
        who: &'static str,
        status: ExitStatus,
    },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A process that listens. It is stopped when this is dropped, and stops by itself when this
/// process dies, because both close its standard input.
#[derive(Debug)]
struct Listening {
    who: &'static str,
    /// Host and port, or the path of its socket.
    at: String,
    child: Child,
    stdin: ChildStdin,
    /// Open until it ends, for its last words.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Listening {
    /// Starts it and waits until it listens.
    async fn start(who: &'static str, mut command: Command) -> Result<Self, ProcessError> {
        let cannot = |source| ProcessError::Start { who, source };
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let spawned = command.spawn().map_err(StartError::Spawn);
        let mut child = spawned.map_err(cannot)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(cannot(StartError::Ended(None)));
        };
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(START_TIME, lines.next_line()).await;
        let line = line.map_err(|_| cannot(StartError::Silent))??;
        let line = line.ok_or_else(|| cannot(StartError::Ended(None)))?;
        let Some(at) = place_in(&line).map(str::to_owned) else {
            return Err(ProcessError::Unexpected { who, line });
        };
        Ok(Self {
            who,
            at,
            child,
            stdin,
            _stdout: lines,
        })
    }

    async fn stop(mut self) -> Result<ExitStatus, ProcessError> {
        drop(self.stdin);
        ended(&mut self.child, self.who, PATIENCE).await
    }
}

/// The process that serves.
#[derive(Debug)]
pub(super) struct Server {
    process: Listening,
    counts: PathBuf,
}

impl Server {
    /// Starts it and waits until it listens. It writes its counts below `folder`.
    pub(super) async fn start(
        plan: &Plan,
        lane: Lane,
        place: Option<&Namespaces>,
        folder: &Path,
    ) -> Result<Self, ProcessError> {
        let counts = folder.join("server.json");
        let mut command = match lane.transport.foreign() {
            Some(foreign) if foreign.side == Side::Server => {
                foreign.command(&plan.python, folder)?
            }
            _ => {
                let mut command = this_program(place.map(|namespaces| (namespaces, 0)))?;
                command.arg("serve");
                command
            }
        };
        command
            .args(["--until-stdin-ends", plan.suite.serve_option()])
            .arg(lane.server_uri(folder))
            .arg("--json")
            .arg(&counts);
        if lane.transport.has_faults() {
            command.args(plan.faults.to_arguments());
        }
        let process = Listening::start("server", command).await?;
        Ok(Self { process, counts })
    }

    /// Host and port, or the path of its socket.
    pub(super) fn at(&self) -> &str {
        &self.process.at
    }

    /// Stops it, and reads what it has counted.
    pub(super) async fn stop(self) -> Result<Counts, ProcessError> {
        let who = self.process.who;
        let status = self.process.stop().await?;
        let counts: Counts = results(&self.counts, who, status)?;
        // It says by its status that calls ran twice, which its counts tell better.
        if !status.success() && counts.ran_again == 0 {
            return Err(ProcessError::Failed { who, status });
        }
        Ok(counts)
    }
}

/// The process between client and server where they are not on the same transport.
#[derive(Debug)]
pub(super) struct Gateway(Listening);

impl Gateway {
    /// Starts the one to a server, if there is to be one.
    pub(super) async fn start(
        lane: Lane,
        server: &Server,
        folder: &Path,
    ) -> Result<Option<Self>, ProcessError> {
        let (from, to) = (lane.transport.of_client(), lane.transport.of_server());
        if lane.transport.foreign().is_none() {
            return Ok(None);
        }
        let mut command = this_program(None)?;
        command
            .args(["gateway", "--until-stdin-ends", "--listen"])
            .arg(from.server_uri(folder))
            .arg("--to")
            .arg(to.client_uri(server.at()));
        Listening::start("gateway", command)
            .await
            .map(Self)
            .map(Some)
    }

    /// Host and port.
    pub(super) fn at(&self) -> &str {
        &self.0.at
    }

    /// Stops it, which has to leave no call behind.
    pub(super) async fn stop(self) -> Result<(), ProcessError> {
        let who = self.0.who;
        let status = self.0.stop().await?;
        if status.success() {
            return Ok(());
        }
        Err(ProcessError::Failed { who, status })
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

/// Runs these cases to their end, each of which moves `progress` on.
pub(super) async fn run_client(
    plan: &Plan,
    lane: Lane,
    cases: &[&str],
    uri: &str,
    place: Option<&Namespaces>,
    folder: &Path,
    progress: &Progress,
) -> Result<Summary, ProcessError> {
    let json = folder.join("client.json");
    let mut command = match lane.transport.foreign() {
        Some(foreign) if foreign.side == Side::Client => foreign.command(&plan.python, folder)?,
        _ => {
            let mut command = this_program(place.map(|namespaces| (namespaces, 1)))?;
            command.arg(plan.suite.name());
            command
        }
    };
    command
        .args(["--uri", uri, "--json"])
        .arg(&json)
        .arg(format!("--timeout={}", plan.case_limit.as_secs_f64()))
        .args(cases.iter().map(|case| format!("--case={case}")))
        .args(plan.suite.load_arguments(plan.load))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    if lane.transport.has_faults() {
        command.args(plan.faults.to_arguments());
    }
    let mut child = command.spawn().map_err(ProcessError::Client)?;
    if let Some(stdout) = child.stdout.take() {
        let count = u32::try_from(cases.len()).unwrap_or(u32::MAX);
        let limit = plan.case_limit * count + PATIENCE;
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
    Ok(match place {
        None => Command::new(program),
        Some((namespaces, side)) => {
            // It becomes our program, so that killing it kills that.
            let [ip, arguments @ ..] = namespaces.enter(side);
            let mut command = Command::new(ip);
            command.args(arguments).arg(program);
            command
        }
    })
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
