//! Runs `bench link`: a real switch of namespaces and queues, real processes around it.
//!
//! Only one can be there at a time, since two would measure each other; so the tests take turns.

mod common;
#[path = "common/process.rs"]
mod process;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::{ResultFile, homa_interop};
use process::{children, runs, signal};

/// Exit status of a check that could not run.
const SKIPPED: i32 = 77;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A small run that nothing but its own failure ends: this machine may be as busy as it likes.
const SMALL: [&str; 6] = [
    "bench",
    "link",
    "--quick",
    "--rounds=1",
    "--max-lag=1.1",
    "--workload=w4",
];

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn start(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_homa-interop"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs")
}

/// Starts one that goes on for minutes and waits until its calls are made; `None`, with the reason
/// printed, if it cannot run here.
fn start_long() -> Option<Child> {
    let mut link = start(&[&SMALL[..], &["--seconds=600"]].concat());
    let pid = link.id();
    let mut ended = false;
    wait_until("a server and three clients", || {
        ended = link.try_wait().expect("our child").is_some();
        ended || children(pid).len() == 4
    });
    if !ended {
        assert_eq!(namespaces(pid).len(), 5, "a switch and four hosts");
        return Some(link);
    }
    let output = link.wait_with_output().expect("our child");
    assert!(cannot_run(&output), "{}", both(&output));
    None
}

/// Whether it says that it cannot run here, or that one of another test run is here.
fn cannot_run(output: &Output) -> bool {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let is_skipped = output.status.code() == Some(SKIPPED) && stdout.contains("skipped: ");
    let in_use = stderr.contains("another `bench link` runs");
    if is_skipped || in_use {
        println!("skipped: {stdout}{stderr}");
    }
    is_skipped || in_use
}

fn both(output: &Output) -> String {
    format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn namespaces(pid: u32) -> Vec<String> {
    let prefix = format!("homa-interop-{pid}-");
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return Vec::new();
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

/// Temporary folders of this process.
fn folders(pid: u32) -> usize {
    let prefix = format!("homa-interop-link-{pid}-");
    let entries = fs::read_dir(std::env::temp_dir()).expect("a folder");
    let names = entries.flatten().map(|entry| entry.file_name());
    names
        .filter(|name| name.to_str().is_some_and(|name| name.starts_with(&prefix)))
        .count()
}

#[test]
fn both_stacks_make_the_same_calls_over_the_link_and_it_is_removed() {
    let _turn = turn();
    let file = ResultFile::new("link");
    let arguments = ["--workload=incast", "--most-busy=100", "--json"];
    let link = start(&[&SMALL[..], &arguments, &[file.path()]].concat());
    let pid = link.id();
    let output = link.wait_with_output().expect("our child");
    assert_eq!(namespaces(pid), [""; 0]);
    if cannot_run(&output) {
        return;
    }
    assert!(output.status.success(), "{}", both(&output));
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        stdout.contains("link_mbps=200") && stdout.contains("8 queues"),
        "{stdout}"
    );

    let json = fs::read(file.path()).expect("it was written");
    let result: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(result["kind"], "link");
    let row = &result["loads"][0];
    let deciles = row["deciles"].as_array().expect("a list");
    assert_eq!((&row["workload"], deciles.len()), (&"W4".into(), 10));
    for decile in deciles {
        assert_eq!(decile["tcp"]["samples"], decile["homa"]["samples"]);
        assert!(decile["homa"]["p50_us"].as_f64() > Some(0.0), "{decile}");
        assert!(decile["tcp"]["p99_us"].is_null(), "too few samples");
    }
    // What Homa marks is in the queues of several priorities; what TCP sends is in one, and in the
    // highest is nothing but ARP.
    let packets = |stack: &str, priority: usize| {
        let queue = &row[stack][0]["queues"][priority];
        assert_eq!(queue["priority"], priority);
        queue["packets"].as_u64().expect("a count")
    };
    assert!(packets("tcp", 0) > 100, "{row}");
    for priority in 1..7 {
        assert_eq!(packets("tcp", priority), 0, "{row}");
    }
    assert!(
        (1..8).any(|priority| packets("homa", priority) > 100),
        "{row}"
    );
    for stack in ["tcp", "homa"] {
        let round = &row[stack][0];
        let used = round["used"].as_f64().expect("a share");
        // A busy machine gets little done in the second.
        assert!(used > 0.01 && used < 1.1, "{round}");
        assert!(
            round["cpu"]["server"]["user_us"].as_f64() >= Some(0.0),
            "{round}"
        );
        let incast = &result["incast"][stack];
        assert_eq!(incast["rounds"][0]["failed"], 0, "{incast}");
        // The requests alone take so long.
        assert!(incast["completion_ms"].as_f64() >= Some(768.0), "{incast}");
    }
    let claims = result["claims"].as_array().expect("a list");
    assert_eq!(claims.len(), 4);
    for claim in claims {
        let row = claim["row"].as_str().expect("a name");
        assert!(stdout.contains(row), "{row}: {stdout}");
    }
}

#[test]
fn it_is_removed_after_an_interrupt_and_another_one_is_refused_meanwhile() {
    let _turn = turn();
    let Some(link) = start_long() else { return };
    let pid = link.id();
    let processes = children(pid);

    let other = homa_interop(&SMALL);
    let stderr = String::from_utf8_lossy(&other.stderr);
    assert_eq!(other.status.code(), Some(1), "{stderr}");
    let remedy = format!("ip netns del homa-interop-{pid}-switch");
    assert!(stderr.contains(&remedy), "{stderr}");

    signal("INT", pid);
    let output = link.wait_with_output().expect("our child");
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("interrupted"), "{}", both(&output));
    assert_eq!(namespaces(pid), [""; 0]);
    for pid in processes {
        wait_until("the end of a process", || !runs(pid));
    }
}

#[test]
fn what_was_measured_before_an_interrupt_is_written() {
    let _turn = turn();
    let file = ResultFile::new("interrupted");
    let arguments = ["--workload=incast", "--most-busy=100", "--json"];
    let mut link = start(&[&SMALL[..], &arguments, &[file.path()]].concat());
    let pid = link.id();
    let stdout = BufReader::new(link.stdout.take().expect("piped"));
    let mut lines = stdout.lines().map(|line| line.expect("text"));
    let has_w4 = lines.any(|line| line.starts_with("W4 at"));
    if has_w4 {
        signal("INT", pid);
    }
    let rest: Vec<_> = lines.collect();
    let output = link.wait_with_output().expect("our child");
    if !has_w4 {
        let stderr = String::from_utf8_lossy(&output.stderr);
        println!("skipped: {stderr}");
        let is_skipped = output.status.code() == Some(SKIPPED);
        assert!(
            is_skipped || stderr.contains("another `bench link` runs"),
            "{stderr}"
        );
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{rest:?} {}", both(&output));
    assert_eq!(namespaces(pid), [""; 0]);
    let json = fs::read(file.path()).expect("it was written");
    let result: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(result["loads"][0]["workload"], "W4");
    assert!(result["incast"].is_null(), "{}", result["incast"]);
}

#[test]
fn one_that_was_killed_is_removed_by_the_next_and_busy_processors_refuse_it() {
    let _turn = turn();
    let Some(mut link) = start_long() else { return };
    let (pid, processes) = (link.id(), children(link.id()));
    link.kill().expect("our child");
    link.wait().expect("our child");
    assert_eq!(namespaces(pid).len(), 5);
    assert_eq!(folders(pid), 1);

    let file = ResultFile::new("refused");
    let busy = ["--most-busy=0", "--seconds=0.1", "--workload=incast"];
    let next = start(&[&SMALL[..], &busy, &["--json", file.path()]].concat());
    let next_pid = next.id();
    let output = next.wait_with_output().expect("our child");
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("nothing is known of 2 of the rows")
            && stderr.contains("processors were busy")
            && stderr.contains("end what else runs here"),
        "{stderr}"
    );
    // Nobody knows before whether the machine has more time then. Each row is tried.
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(stdout.matches("taken again: ").count(), 16, "{stdout}");
    assert_eq!(stdout.matches("refused: ").count(), 2, "{stdout}");
    assert!(fs::metadata(file.path()).is_err(), "there are no results");
    assert!(stdout.contains("is not written"), "{stdout}");
    assert_eq!(folders(pid) + folders(next_pid), 0);
    assert_eq!(namespaces(pid), [""; 0]);
    assert_eq!(namespaces(next_pid), [""; 0]);
    for pid in processes {
        wait_until("the end of a process", || !runs(pid));
    }
}

#[test]
fn without_root_or_the_commands_it_is_skipped_with_the_reason() {
    let _turn = turn();
    let mut as_nobody = Command::new(env!("CARGO_BIN_EXE_homa-interop"));
    as_nobody.args(SMALL);
    let is_root = fs::metadata("/proc/self").is_ok_and(|this| {
        use std::os::unix::fs::MetadataExt as _;
        this.uid() == 0
    });
    if is_root {
        as_nobody.uid(65_534).gid(65_534);
    }
    match as_nobody.output() {
        Ok(output) if both(&output).contains("another `bench link` runs") => {
            println!("skipped: {}", both(&output));
        }
        Ok(output) => {
            let stdout = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(SKIPPED), "{}", both(&output));
            assert!(
                stdout.contains("skipped: ") && stdout.contains("run this as root"),
                "{stdout}"
            );
        }
        Err(error) => println!("skipped: another user cannot run the binary here: {error}"),
    }

    let output = Command::new(env!("CARGO_BIN_EXE_homa-interop"))
        .args(SMALL)
        .env("PATH", "/nonexistent")
        .output()
        .expect("the binary runs");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(SKIPPED), "{}", both(&output));
    assert!(stdout.contains("skipped: the command `ip`"), "{stdout}");
}

#[test]
fn rates_of_nothing_and_absurd_ones_are_refused_with_the_range() {
    for (argument, value, range) in [
        ("--mbps", "0", "10 to 1000"),
        ("--mbps", "-200", "10 to 1000"),
        ("--mbps", "100000", "10 to 1000"),
        ("--load", "0", "0.01 to 0.95"),
        ("--load", "80", "0.01 to 0.95"),
        ("--rounds", "0", "1..=100"),
        ("--seconds", "0", "0.01 to 3600"),
        ("--workload", "w6", "w5, incast"),
    ] {
        let output = homa_interop(&["bench", "link", argument, value]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{argument} {value}");
        assert!(stderr.contains(range), "{argument} {value}: {stderr}");
    }
}

#[test]
fn a_result_file_that_cannot_be_written_is_named_before_anything_is_made() {
    let output = homa_interop(&["bench", "link", "--json", "/proc/no/such/file"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/proc/no/such/file"));
    assert!(output.stdout.is_empty(), "nothing was made");
}
