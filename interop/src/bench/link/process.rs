//! Processes of this program on the hosts of the link.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::incast::{BurstArguments, Done, Order, Word};
use crate::child::START_TIME;
use crate::netns::Namespace;

/// Most that is told of what a process has said about its failure.
const MOST_SAID: u64 = 4096;

/// What went wrong with a process.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProcessError {
    #[error("cannot start a process on a host of the link")]
    Spawn(#[source] io::Error),
    #[error("client {client} failed: {said}")]
    Failed { client: usize, said: String },
    #[error("client {client} did not end what it does within {limit:?}")]
    Silent { client: usize, limit: Duration },
    #[error("client {client} said what cannot be understood")]
    Nonsense {
        client: usize,
        source: serde_json::Error,
    },
}

/// This program on a host. `ip` becomes it, so that killing the one kills the other.
pub(super) fn command_in(host: &Namespace) -> io::Result<Command> {
    let [ip, arguments @ ..] = host.enter();
    let mut command = Command::new(ip);
    command.args(arguments).arg(std::env::current_exe()?);
    Ok(command)
}

/// A process that works for some time and ends. It is stopped when this is dropped, and stops by
/// itself when this process dies, because both close its standard input.
#[derive(Debug)]
pub(super) struct Worker {
    client: usize,
    child: Child,
    _stdin: Option<ChildStdin>,
}

impl Worker {
    pub(super) fn start(
        client: usize,
        host: &Namespace,
        arguments: &[String],
    ) -> Result<Self, ProcessError> {
        let mut child = command_in(host)
            .map_err(ProcessError::Spawn)?
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(ProcessError::Spawn)?;
        // Waiting for the process would close it.
        let stdin = child.stdin.take();
        Ok(Self {
            client,
            child,
            _stdin: stdin,
        })
    }

    /// Whether it has failed already.
    pub(super) async fn check(&mut self) -> Result<(), ProcessError> {
        match self.child.try_wait().map_err(ProcessError::Spawn)? {
            Some(status) if !status.success() => Err(self.failed(&status.to_string()).await),
            _ => Ok(()),
        }
    }

    /// Until it has ended.
    pub(super) async fn end(mut self, limit: Duration) -> Result<(), ProcessError> {
        let client = self.client;
        let ended = timeout(limit, self.child.wait()).await;
        let ended = ended.map_err(|_| ProcessError::Silent { client, limit })?;
        match ended.map_err(ProcessError::Spawn)? {
            status if status.success() => Ok(()),
            status => Err(self.failed(&status.to_string()).await),
        }
    }

    async fn failed(&mut self, status: &str) -> ProcessError {
        let mut said = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            // What it has said so far is there: it has ended.
            let _ = stderr.take(MOST_SAID).read_to_end(&mut said).await;
        }
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        ProcessError::Failed {
            client: self.client,
            said: if said.is_empty() {
                status.to_owned()
            } else {
                said
            },
        }
    }
}

/// A client of the incast. It is stopped when this is dropped, and stops by itself when this
/// process dies, because both close its standard input.
#[derive(Debug)]
pub(super) struct Burster {
    client: usize,
    stdin: ChildStdin,
    words: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Burster {
    /// Starts it and waits until it is connected.
    pub(super) async fn start(
        client: usize,
        host: &Namespace,
        arguments: &BurstArguments,
    ) -> Result<Self, ProcessError> {
        let mut child = command_in(host)
            .map_err(ProcessError::Spawn)?
            .arg("link-burst")
            .args(arguments.to_arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(ProcessError::Spawn)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(ended(client));
        };
        let mut burster = Self {
            client,
            stdin,
            words: BufReader::new(stdout).lines(),
            _child: child,
        };
        match burster.word(START_TIME).await? {
            Word::Ready => Ok(burster),
            Word::Done(_) => Err(out_of_turn(client)),
        }
    }

    pub(super) async fn order(&mut self, order: Order) -> Result<(), ProcessError> {
        let mut line = serde_json::to_vec(&order).map_err(|error| self.nonsense(error))?;
        line.push(b'\n');
        let written = self.stdin.write_all(&line).await;
        written.map_err(|_| ended(self.client))
    }

    /// Until its calls have ended.
    pub(super) async fn done(&mut self, limit: Duration) -> Result<Done, ProcessError> {
        match self.word(limit).await? {
            Word::Done(done) => Ok(done),
            Word::Ready => Err(out_of_turn(self.client)),
        }
    }

    /// The next thing it says.
    async fn word(&mut self, limit: Duration) -> Result<Word, ProcessError> {
        let client = self.client;
        match timeout(limit, self.words.next_line()).await {
            Err(_) => Err(ProcessError::Silent { client, limit }),
            Ok(Ok(Some(line))) => serde_json::from_str(&line).map_err(|error| self.nonsense(error)),
            Ok(_) => Err(ended(client)),
        }
    }

    fn nonsense(&self, source: serde_json::Error) -> ProcessError {
        ProcessError::Nonsense {
            client: self.client,
            source,
        }
    }
}

fn out_of_turn(client: usize) -> ProcessError {
    ProcessError::Failed {
        client,
        said: "it answered what it was not asked".to_owned(),
    }
}

fn ended(client: usize) -> ProcessError {
    ProcessError::Failed {
        client,
        said: "it ended early; see its message above".to_owned(),
    }
}
