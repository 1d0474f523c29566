//! Runs the real binary: two processes, sockets, the whole path.

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{ResultFile, homa_interop};

#[test]
fn a_short_comparison_measures_every_row_on_both_stacks() {
    check(
        "grpc",
        13,
        &[
            "at most 0.4",
            "at most 0.5",
            "at most 0.3",
            "at least 2.5",
            "at least 2",
            "at least 1",
            "at least 1.3",
            "at least 1.5",
            "at most 0.1",
            "at most 1/15",
        ],
    );
    check(
        "thrift",
        6,
        &["at most 0.1", "at most 1", "at most 1.3", "at least 1"],
    );
}

fn check(suite: &str, count: usize, claims: &[&str]) {
    let file = ResultFile::new(&format!("compare-{suite}"));
    let page = ResultFile::new(&format!("compare-{suite}-page"));
    let output = homa_interop(&[
        "bench",
        "compare",
        "--suite",
        suite,
        "--rounds=3",
        "--seconds=0.2",
        "--tail-samples=30",
        "--json",
        file.path(),
        "--html",
        page.path(),
    ]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr, "", "no progress bar where nobody sees it");

    let json = std::fs::read(file.path()).expect("it was written");
    let result: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(result["kind"], "compare");
    assert!(result["machine"]["cores"].as_u64() > Some(0), "{result}");
    let rows = result["rows"].as_array().expect("a list");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(rows.len(), count);
    for claimed in claims {
        let mut lines = stdout.lines();
        let is_judged = |line: &str| {
            let before = line.strip_suffix("pass");
            let before = before.or_else(|| line.strip_suffix("FALLS SHORT"));
            before.is_some_and(|before| before.trim_end().ends_with(&format!("  {claimed}")))
        };
        assert!(lines.any(is_judged), "{claimed} in {stdout}");
    }
    let page = std::fs::read_to_string(page.path()).expect("it was written");
    assert!(page.contains("Share that took at least so long"), "plots");
    for row in rows {
        let name = row["name"].as_str().expect("a name");
        assert!(stdout.contains(name), "{name} is missing in\n{stdout}");
        for side in ["tcp", "homa"] {
            let side = &row[side];
            assert!(side["p50_us"].as_f64() > Some(0.0), "{name}: {side}");
            assert!(side["rate"].as_f64() > Some(0.0), "{name}: {side}");
            let samples = side["samples"].as_u64().expect("a count");
            let rounds = side["rounds"].as_array().expect("a list");
            assert_eq!(rounds.len(), 3, "{name}");
            assert!(samples > 0, "{name}");
            let cpu = &side["cpu_per_call"];
            assert!(cpu["client"]["user_us"].is_number(), "{name}: {side}");
            assert!(cpu["server"]["system_us"].is_number(), "{name}: {side}");
            let behind_bulk = name.contains("behind");
            assert!(!behind_bulk || samples >= 30, "{name}: {samples}");
            if samples < 1_000 {
                assert!(
                    side["p99_us"].is_null(),
                    "{name}: {samples} samples are too few"
                );
            }
        }
        let ratio = |key: &str, figure: &str| {
            let expected = row["homa"][figure].as_f64()? / row["tcp"][figure].as_f64()?;
            Some((row[key].as_f64()? - expected).abs() < 0.001)
        };
        assert_eq!(ratio("ratio_p50", "p50_us"), Some(true), "{row}");
        assert_eq!(ratio("ratio_rate", "rate"), Some(true), "{row}");
    }
}

#[test]
fn a_claim_that_falls_short_fails_the_run_only_if_it_is_to_be_checked() {
    // No stack answers within a hundredth of a second a thousand times: p99 is unknown.
    let run = |more: &[&str]| {
        let arguments = [
            &["bench", "compare", "--row=one worker", "--rounds=3"],
            &["--seconds=0.01", "--tail-samples=1"][..],
            more,
        ];
        homa_interop(&arguments.concat())
    };
    let told = run(&[]);
    let stdout = String::from_utf8_lossy(&told.stdout);
    assert!(
        told.status.success() && stdout.contains("FALLS SHORT"),
        "{stdout}"
    );
    for check in ["--check", "--enforce"] {
        let failed = run(&[check]);
        assert_eq!(failed.status.code(), Some(1), "{check}");
        let stderr = String::from_utf8_lossy(&failed.stderr);
        assert!(stderr.contains("fall short"), "{stderr}");
    }
}

#[test]
fn a_short_baseline_measures_every_way_and_what_homa_adds() {
    let file = ResultFile::new("baseline");
    let output = homa_interop(&[
        "bench",
        "baseline",
        "--rounds=3",
        "--seconds=0.02",
        "--workers=1",
        "--json",
        file.path(),
    ]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let json = std::fs::read(file.path()).expect("it was written");
    let baseline: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    let lanes = baseline["lanes"].as_array().expect("a list");
    let p50 = |name: &str| {
        let lane = lanes.iter().find(|lane| lane["lane"] == name).expect(name);
        lane["p50_us"].as_f64().expect("measured")
    };
    for lane in [
        "blocking-udp",
        "blocking-tcp",
        "tokio-udp",
        "tokio-tcp",
        "homa",
    ] {
        assert!(p50(lane) > 0.0, "{lane}");
    }
    let spins = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    assert_eq!(lanes.len(), if spins { 7 } else { 5 });
    let ratio = baseline["ratio_p50"].as_f64().expect("measured");
    let expected = p50("homa") / p50("tokio-udp");
    assert!((ratio - expected).abs() < 0.01, "{baseline}");
    assert!(
        baseline["sends_per_rpc"].as_f64() >= Some(0.9),
        "{baseline}"
    );
    assert!(stdout.contains("at most 1.4"), "{stdout}");
}

#[test]
fn a_result_file_that_cannot_be_written_is_named_before_anything_is_measured() {
    let began = Instant::now();
    let output = homa_interop(&["bench", "compare", "--json", "/proc/no/such/file"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/proc/no/such/file"));
    assert!(output.stdout.is_empty(), "nothing was measured");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_row_that_does_not_exist_is_refused_with_those_that_do() {
    let output = homa_interop(&["bench", "compare", "--row", "3 MB"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("3 MB") && stderr.contains("10 KB, 16 in flight"),
        "{stderr}"
    );
}

#[test]
fn every_subcommand_has_help_with_an_example() {
    for command in [
        &[][..],
        &["bench"],
        &["bench", "compare"],
        &["bench", "load"],
        &["bench", "baseline"],
        &["bench", "link"],
        &["link-burst"],
        &["bench", "page"],
        &["info"],
        &["soak"],
        &["soak-node"],
        &["busy"],
        &["serve"],
        &["serve-echo"],
        &["grpc"],
        &["matrix"],
        &["serve-baseline"],
        &["serve-thrift-echo"],
    ] {
        let output = homa_interop(&[command, &["--help"]].concat());
        let help = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{command:?}");
        let example = [&["homa-interop"], command].concat().join(" ");
        let (_, examples) = help.split_once("Example").expect("it has one");
        assert!(examples.contains(&example), "{command:?}: {help}");
    }
}

#[test]
fn info_prints_and_writes_the_version() {
    let file = ResultFile::new("info");
    let output = homa_interop(&["info", "--json", file.path()]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains(env!("CARGO_PKG_VERSION")));
    let json = std::fs::read(file.path()).expect("it was written");
    let info: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_serving_process_ends_with_its_standard_input() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_homa-interop"))
        .arg("serve-echo")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let stdout = child.stdout.take().expect("piped");
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
    let uris: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert!(
        uris["homa"]
            .as_str()
            .is_some_and(|uri| uri.starts_with("homa://127.0.0.1:"))
    );
    drop(child.stdin.take());
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(status) = child.try_wait().expect("our child") {
            assert!(status.success());
            return;
        }
        if Instant::now() > deadline {
            child.kill().expect("our child");
            panic!("it still serves 10 s after its standard input was closed");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
