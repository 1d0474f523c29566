//! What the tests of the suites share.

#![allow(unreachable_pub, reason = "a module of several test crates")]

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{ResultFile, homa_interop};

/// How long a process may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server, and where it listens.
pub struct Server {
    pub child: Child,
    pub uris: Vec<String>,
    pub stdout: BufReader<ChildStdout>,
}

impl Server {
    /// Starts one that listens on these for gRPC and on those for Thrift.
    pub fn start(grpc: &[&str], thrift: &[&str], more: &[&str]) -> Self {
        let uris = [
            grpc.iter()
                .flat_map(|uri| ["--uri", uri])
                .collect::<Vec<_>>(),
            thrift.iter().flat_map(|uri| ["--thrift", uri]).collect(),
        ];
        let arguments = [&["serve"], &uris.concat()[..], more].concat();
        Self::run(&arguments, grpc.len() + thrift.len())
    }

    /// Starts a gateway.
    pub fn gateway(listen: &str, to: &str, more: &[&str]) -> Self {
        let arguments = ["gateway", "--listen", listen, "--to", to];
        Self::run(&[&arguments, more].concat(), 1)
    }

    /// Starts something that says where it listens, on so many URIs.
    fn run(arguments: &[&str], listens: usize) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_homa-interop"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let uris = (0..listens).map(|_| {
            let mut line = String::new();
            stdout.read_line(&mut line).expect("a line");
            let uri = line.trim_end().strip_prefix("listening on ").expect(&line);
            uri.to_owned()
        });
        let uris = uris.collect();
        Self {
            child,
            uris,
            stdout,
        }
    }

    pub fn ends_well(mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                assert!(status.success(), "{status}");
                return;
            }
            assert!(Instant::now() < deadline, "it still serves");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already if all is well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The results in a file.
pub fn read(file: &ResultFile) -> Value {
    let json = std::fs::read(file.path()).expect("it was written");
    serde_json::from_slice(&json).expect("JSON")
}

/// The names in the list of a suite's cases that the binary prints.
pub fn listed(suite: &str) -> Vec<String> {
    let output = homa_interop(&[suite, "--list"]);
    assert!(output.status.success());
    let stdout = String::from_utf8(output.stdout).expect("text");
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    stdout.lines().filter_map(name).collect()
}

/// Runs it, and returns what it said when it refused.
#[track_caller]
pub fn refused(arguments: &[&str], status: i32) -> String {
    let output = homa_interop(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        output.status.code(),
        Some(status),
        "{arguments:?}: {stderr}"
    );
    assert!(output.stdout.is_empty(), "{arguments:?} did something");
    stderr
}
