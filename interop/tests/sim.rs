//! Runs the real binary with experiments that are small enough for a build without optimizations.

mod common;

use std::process::Output;

use common::{ResultFile, homa_interop};
use serde_json::Value;

/// Four hosts in a rack.
const SMALL: &str = "[defaults]\ntopology = { racks = 1, hosts_per_rack = 4 }\n";

/// Runs a plan, with files of this name. Returns the JSON, if it has been written.
fn simulate(name: &str, plan: &str) -> (Output, Option<Vec<u8>>) {
    let plan_file = ResultFile::new(&format!("{name}-plan"));
    let json_file = ResultFile::new(name);
    std::fs::write(plan_file.path(), plan).expect("it can be written");
    let output = homa_interop(&[
        "sim",
        "--plan",
        plan_file.path(),
        "--json",
        json_file.path(),
    ]);
    (output, std::fs::read(json_file.path()).ok())
}

fn parsed(json: Option<Vec<u8>>) -> Value {
    serde_json::from_slice(&json.expect("it was written")).expect("JSON")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_simulator_tells_how_it_grows_with_the_network() {
    let plan = format!(
        "{SMALL}warm_up_us = 50\nwindow_us = 300\n
        [[run]]\nname = \"growth\"\nkind.scale.hosts = [2, 8]\n"
    );
    let (output, json) = simulate("growth", &plan);
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.starts_with("growth: "), "{stderr}");
    let json = parsed(json);
    let points = json["points"].as_array().expect("a list");
    let hosts: Vec<_> = points.iter().map(|point| point["hosts"].as_u64()).collect();
    assert_eq!(hosts, [Some(2), Some(8)]);
    for point in points {
        assert!(point["run_s"].as_f64() > Some(0.0), "{point}");
        assert!(point["events"].as_u64() > point["hops"].as_u64(), "{point}");
        // This program alone has more than a megabyte, and so few hosts no gigabyte.
        let peak = point["peak_bytes"].as_u64().expect("a number");
        assert!((1 << 20..1 << 30).contains(&peak), "{point}");
    }
    let stdout = text(&output.stdout);
    assert!(stdout.contains("another run gives other times"), "{stdout}");
}

#[test]
fn the_same_seed_gives_the_same_bytes_whatever_runs_beside() {
    let plan = format!(
        "{SMALL}
        [[run]]\nname = \"limit\"\nkind.max-load = {{ from = 0.3, to = 0.5, step = 0.1 }}
        workload = \"w2\"\nwarm_up_us = 100\nwindow_us = 300\n
        [[run]]\nname = \"incast\"\nkind.incast = {{ concurrent = [1, 9], servers = 3 }}
        warm_up_us = 100\nwindow_us = 500\n
        [[run]]\nname = \"slowdown\"\nload = 0.5\nwarm_up_us = 100\nwindow_us = 300\n"
    );
    let run = || {
        let (output, json) = simulate("repeated", &plan);
        (text(&output.stdout), json)
    };
    let (stdout, json) = run();
    assert_eq!((stdout.clone(), json.clone()), run());
    let json = parsed(json);
    assert_eq!(json["max_loads"][0]["carried"], 0.5, "{json}");
    let goodput = &json["incasts"][0]["points"][1]["goodput_gbps"];
    assert!(goodput.as_f64() > Some(5.0), "{goodput}");
    assert_eq!(json["runs"][0]["name"], "slowdown");
    for title in ["\nMaximum load\n", "\nIncast\n"] {
        assert!(stdout.contains(title), "{stdout}");
    }
}

/// Who grants to one sender only wastes the time in which it sends to others.
#[test]
fn an_overload_says_so_and_how_much_is_behind() {
    let plan = format!(
        "{SMALL}
        [[run]]\nname = \"too much\"\nkind.max-load = {{ from = 0.95, to = 0.99 }}
        workload = \"w4\"\nengine.max_overcommit = 1\nwarm_up_us = 300\nwindow_us = 500\n"
    );
    let (output, json) = simulate("overload", &plan);
    assert_eq!(output.status.code(), Some(1));
    let stdout = text(&output.stdout);
    let overload = "overload: at 95 %, the lowest load tried, the backlog of ";
    assert!(stdout.contains(overload), "{stdout}");
    let json = parsed(json);
    assert_eq!(
        (&json["carried"], &json["overload"]),
        (&Value::Null, &Value::from(0.95))
    );
    assert!(json["probes"][0]["backlog_bytes"].as_u64() > Some(0));
}

#[test]
fn what_cannot_be_run_is_said_before_anything_runs() {
    for (run, words) in [
        (
            "kind.incast.servers = 4",
            "take fewer servers or more hosts",
        ),
        (
            "kind.scale.hosts = [6]",
            "take a multiple of topology.hosts_per_rack",
        ),
        ("kind.max-load.to = 1.5", "is out of range: 0 < from <= to"),
        (
            "kind = \"max-load\"\ntransport = \"srpt-oracle\"",
            "transport = \"homa\" or \"dctcp\" only",
        ),
    ] {
        let first = "[[run]]\nname = \"endless\"\nwindow_us = 60_000_000";
        let plan = format!("{SMALL}{first}\n[[run]]\nname = \"x\"\n{run}\n");
        let (output, json) = simulate("refused", &plan);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
        assert_eq!(json, None);
    }
}
