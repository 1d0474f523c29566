//! What the tests of the binary share.

#![allow(unreachable_pub, reason = "a module of several test crates")]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Runs the binary to its end.
pub fn homa_interop(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_homa-interop"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

/// A file of this test's own, removed at its end.
pub struct ResultFile(PathBuf);

impl ResultFile {
    pub fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("homa-{}-{name}.json", std::process::id())))
    }

    pub fn path(&self) -> &str {
        self.0
            .to_str()
            .expect("a temporary directory with a plain name")
    }
}

impl Drop for ResultFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
