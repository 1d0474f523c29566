//! Runs real soaks: processes, sockets, and what is left when they end.

mod common;
#[path = "common/process.rs"]
mod process;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{ResultFile, homa_interop};
use process::{children, runs, signal};

/// Exit status of a check that could not run.
const SKIPPED: i32 = 77;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn start(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_homa-interop"))
        .arg("soak")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs")
}

#[test]
fn a_short_soak_through_a_bad_network_loses_nothing() {
    let file = ResultFile::new("soak");
    let output = homa_interop(&[
        "soak",
        "--rpcs=2000",
        "--at-least=2000",
        "--seconds=20",
        "--loss=5",
        "--delay=1",
        "--json",
        file.path(),
    ]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}{stderr}");
    assert_eq!(stderr, "", "no progress bar where nobody sees it");
    assert!(
        stdout.contains("2,000") && stdout.contains("passed:"),
        "{stdout}"
    );

    let json = fs::read(file.path()).expect("it was written");
    let result: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(
        (&result["passed"], &result["rpcs"]),
        (&true.into(), &2000.into())
    );
    for zero in ["wrong", "lost", "run_twice"] {
        assert_eq!(result[zero], 0, "{zero}");
    }
    let counted = &result["counted"];
    for fault in [
        "lost",
        "reordered",
        "duplicated",
        "delayed",
        "resends",
        "retransmitted",
    ] {
        assert!(counted[fault].as_u64() > Some(0), "{fault}: {counted}");
    }
    // The 500th call of each process.
    assert_eq!(result["longest"]["samples"], 4);
    assert!(result["bytes"].as_u64() > Some(8_000_000));
}

#[test]
fn too_few_calls_fail_it_and_are_named() {
    let output = homa_interop(&["soak", "--rpcs=40", "--at-least=41", "--seconds=20"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    assert!(stdout.contains("FAILED: 40 RPCs of 41"), "{stdout}");
}

#[test]
fn why_a_process_failed_is_told() {
    let output = homa_interop(&["soak", "--seconds=600", "--capture=/nonexistent/x.pcap"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("process 0") && stderr.contains("/nonexistent/x.pcap"),
        "{stderr}"
    );
}

#[test]
fn its_processes_end_with_it_even_if_it_is_killed() {
    let mut soak = start(&["--seconds=600", "--busy=1"]);
    let mut processes = Vec::new();
    wait_until("four processes and a busy one", || {
        processes = children(soak.id());
        processes.len() == 5
    });
    soak.kill().expect("our child");
    soak.wait().expect("our child");
    for pid in processes {
        wait_until("the end of a process", || !runs(pid));
    }
}

#[test]
fn between_network_namespaces_it_leaves_none_behind() {
    let names = |pid: u32| [0, 1].map(|side| format!("/run/netns/homa-interop-{pid}-{side}"));
    let mut soak = start(&["--engine=raw", "--seconds=600"]);
    let pid = soak.id();
    let mut ended = None;
    wait_until("four processes", || {
        ended = soak.try_wait().expect("our child");
        ended.is_some() || children(pid).len() == 4
    });
    if let Some(status) = ended {
        let output = soak.wait_with_output().expect("our child");
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(status.code(), Some(SKIPPED), "{stdout}{stderr}");
        assert!(stdout.starts_with("skipped: "), "{stdout}");
        println!("{stdout}");
        return;
    }
    assert!(
        names(pid)
            .iter()
            .all(|name| fs::exists(name).is_ok_and(|there| there))
    );
    let processes = children(pid);
    signal("INT", pid);
    let output = soak.wait_with_output().expect("our child");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
    assert!(
        names(pid)
            .iter()
            .all(|name| fs::exists(name).is_ok_and(|there| !there))
    );
    for pid in processes {
        wait_until("the end of a process", || !runs(pid));
    }
}

#[test]
fn numbers_out_of_range_are_refused_with_the_range() {
    for (argument, value, range) in [
        ("--loss", "101", "0 to 100"),
        ("--loss", "-1", "0 to 100"),
        ("--seconds", "0", "0.01 to 3600"),
        ("--seconds", "-0.5", "0.01 to 3600"),
        ("--in-flight", "0", "1..=10000"),
        ("--in-flight", "-1", "1..=10000"),
        ("--engine", "tcp", "udp, raw"),
    ] {
        let output = homa_interop(&["soak", argument, value]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{argument} {value}");
        assert!(stderr.contains(range), "{argument} {value}: {stderr}");
    }
}
