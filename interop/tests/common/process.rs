//! Processes that tests look at and end.

use std::fs;
use std::process::Command;

/// Processes that this one has started.
pub(crate) fn children(of: u32) -> Vec<u32> {
    fs::read_to_string(format!("/proc/{of}/task/{of}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Whether a process runs; one that has ended and waits for its parent does not.
pub(crate) fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or("Z").starts_with('Z'))
}

pub(crate) fn signal(name: &str, pid: u32) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status()
        .expect("`kill` is there");
    assert!(status.success());
}
