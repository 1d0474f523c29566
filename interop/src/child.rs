//! A second process of this program that serves until its standard input ends.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

/// How long it may take to open its sockets.
pub(crate) const START_TIME: Duration = Duration::from_secs(10);

/// Why there is nobody to call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("cannot start the process that serves")]
    Spawn(#[source] io::Error),
    #[error("the serving process ended before it told where it serves; see its message above")]
    Ended(#[source] Option<serde_json::Error>),
    #[error("the serving process did not tell where it serves within {START_TIME:?}")]
    Silent,
}

/// The process, and where it serves. It is stopped when this is dropped, and stops by itself when
/// this process dies, because both close its standard input.
#[derive(Debug)]
pub(crate) struct Serving<T> {
    pub(crate) at: T,
    _child: Child,
}

impl<T: DeserializeOwned> Serving<T> {
    /// Starts this program with `arguments` and waits until it serves.
    pub(crate) async fn start(arguments: &[impl AsRef<OsStr>]) -> Result<Self, StartError> {
        let program = std::env::current_exe().map_err(StartError::Spawn)?;
        let mut command = Command::new(program);
        command.args(arguments);
        Self::start_command(command).await
    }

    /// Starts this, which is or becomes this program, and waits until it serves.
    pub(crate) async fn start_command(mut command: Command) -> Result<Self, StartError> {
        let mut child = command
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
        let at = serde_json::from_str(&line).map_err(|error| StartError::Ended(Some(error)))?;
        Ok(Self { at, _child: child })
    }
}

impl<T> Serving<T> {
    /// The same process, with another view of where it serves.
    pub(crate) fn map<U>(self, view: impl FnOnce(T) -> U) -> Serving<U> {
        Serving {
            at: view(self.at),
            _child: self._child,
        }
    }
}

/// In the second process: says where it serves.
pub(crate) fn tell(at: &impl Serialize) -> io::Result<()> {
    let line = serde_json::to_string(at)?;
    writeln!(io::stdout(), "{line}")
}

/// In the second process: waits until it is to end.
pub(crate) async fn stdin_ends() {
    let mut stdin = tokio::io::stdin();
    let mut ignored = [0; 64];
    while matches!(stdin.read(&mut ignored).await, Ok(1..)) {}
}
