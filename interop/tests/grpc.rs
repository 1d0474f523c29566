//! Runs the gRPC suite between real processes.

mod common;
#[allow(dead_code, reason = "each file of tests uses a part of it")]
#[path = "common/suite.rs"]
mod suite;

use std::process::{Command, Stdio};

use common::{ResultFile, homa_interop};
use serde_json::Value;
use suite::{Server, listed, read, refused};

/// gRPC's own cases that are not about somebody's cloud or caches.
const OFFICIAL: [&str; 26] = [
    "empty_unary",
    "large_unary",
    "client_compressed_unary",
    "server_compressed_unary",
    "client_streaming",
    "server_streaming",
    "client_compressed_streaming",
    "server_compressed_streaming",
    "ping_pong",
    "empty_stream",
    "custom_metadata",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
    "cancel_after_begin",
    "cancel_after_first_response",
    "timeout_on_sleeping_server",
    "concurrent_large_unary",
    "rpc_soak",
    "channel_soak",
    "long_lived_channel",
    "half_duplex",
    "pick_first_unary",
    "orca_per_rpc",
    "orca_oob",
];

/// Exit status of a check that could not run.
const SKIPPED: i32 = 77;

#[test]
fn the_list_has_all_official_cases() {
    let listed = listed("grpc");
    for case in OFFICIAL {
        assert!(listed.iter().any(|name| name == case), "{case}");
    }
}

#[test]
fn a_case_or_suite_that_does_not_exist_is_refused_with_those_that_do() {
    for command in [
        &["grpc", "--uri", "http://127.0.0.1:1"][..],
        &["matrix", "--transport", "tcp"],
    ] {
        let stderr = refused(&[command, &["--case", "ping"]].concat(), 1);
        assert!(
            stderr.contains("\"ping\"") && stderr.contains("all, empty_unary"),
            "{stderr}"
        );
    }
    let stderr = refused(&["matrix", "--suite", "rest"], 2);
    assert!(
        stderr.contains("'rest'") && stderr.contains("grpc"),
        "{stderr}"
    );
}

#[test]
fn bad_uris_and_faults_are_refused_by_name() {
    for command in ["serve", "grpc"] {
        for (uri, named) in [
            ("homa:4000", "homa:4000"),
            ("ftp://h:1", "ftp"),
            ("homa://h", "homa://h"),
            ("homa://h:1?engine=x", "`x`"),
            ("", "``"),
        ] {
            let stderr = refused(&[command, "--uri", uri], 1);
            assert!(stderr.contains(named), "{command} {uri}: {stderr}");
        }
        let uri = "http://127.0.0.1:0";
        let stderr = refused(&[command, "--uri", uri, "--loss", "5"], 1);
        assert!(
            stderr.contains(uri) && stderr.contains("--loss"),
            "{stderr}"
        );
    }
    for command in [
        &["serve", "--uri", "homa://127.0.0.1:0"][..],
        &["grpc", "--uri", "homa://127.0.0.1:1"],
        &["matrix"],
    ] {
        for option in ["--loss", "--reorder", "--duplicate"] {
            let stderr = refused(&[command, &[option, "101"]].concat(), 2);
            assert!(
                stderr.contains("101") && stderr.contains("0 to 100"),
                "{stderr}"
            );
        }
    }
    refused(&["serve"], 2);
    refused(&["grpc"], 2);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let uri = "homa://127.0.0.1:1?engine=udp";
    let stderr = refused(&["grpc", "--uri", uri], 1);
    assert!(stderr.contains(uri), "{stderr}");
}

#[test]
fn a_result_file_that_cannot_be_written_is_named_before_anything_runs() {
    for option in ["--json", "--html"] {
        let stderr = refused(&["matrix", option, "/proc/no/such/file"], 1);
        assert!(stderr.contains("/proc/no/such/file"), "{stderr}");
    }
}

#[test]
fn a_server_on_two_transports_counts_the_calls_of_both_until_it_is_told_to_end() {
    for signal in ["TERM", "INT"] {
        let file = ResultFile::new(&format!("serve-{signal}"));
        let uris = ["homa://127.0.0.1:0?engine=udp", "http://127.0.0.1:0"];
        let server = Server::start(&uris, &[], &["--json", file.path()]);
        assert!(server.uris[0].starts_with("homa") && server.uris[1].starts_with("http:"));
        for uri in &server.uris {
            let output = homa_interop(&["grpc", "--uri", uri, "--case", "large_unary"]);
            let stdout = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{stdout}");
            assert!(stdout.contains("passed: all of 1 cases"), "{stdout}");
        }
        let pid = server.child.id().to_string();
        let killed = Command::new("kill")
            .args([&format!("-{signal}"), &pid])
            .status();
        assert!(killed.expect("`kill` is there").success());
        server.ends_well();
        let counts = read(&file);
        assert_eq!(counts["methods"]["/grpc.testing.TestService/UnaryCall"], 2);
        assert_eq!(
            (&counts["numbered"], &counts["ran_again"]),
            (&2.into(), &0.into())
        );
    }
}

#[test]
fn a_server_ends_with_its_standard_input_if_it_shall() {
    let mut server = Server::start(&["http://127.0.0.1:0"], &[], &["--until-stdin-ends"]);
    drop(server.child.stdin.take());
    server.ends_well();
}

#[test]
fn a_case_that_fails_tells_why_and_fails_the_run() {
    let server = Server::start(&["http://127.0.0.1:0"], &[], &[]);
    let file = ResultFile::new("grpc-failed");
    let output = homa_interop(&[
        "grpc",
        "--uri",
        &server.uris[0],
        "--case=long_lived_channel",
        "--case=empty_unary",
        "--idle=60",
        "--timeout=0.5",
        "--json",
        file.path(),
    ]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    assert!(
        stdout.contains("FAILED: it did not end within 500ms")
            && stdout.contains("FAILED: 1 of 2 cases"),
        "{stdout}"
    );
    let summary = read(&file);
    assert_eq!(summary["passed"], false);
    // In the order of the list.
    assert_eq!(summary["cases"][0]["name"], "empty_unary");
    assert_eq!(summary["cases"][0]["passed"], true);
    assert_eq!(summary["cases"][1]["why"], "it did not end within 500ms");
}

#[test]
fn every_case_passes_over_tcp() {
    let (json, html) = (
        ResultFile::new("matrix-tcp"),
        ResultFile::new("matrix-html"),
    );
    let output = homa_interop(&[
        "matrix",
        "--suite=grpc",
        "--transport=tcp",
        "--quick",
        "--json",
        json.path(),
        "--html",
        html.path(),
    ]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}");
    assert!(
        output.stderr.is_empty(),
        "no progress bar where nobody sees it"
    );
    let matrix = read(&json);
    let column = &matrix["transports"][0];
    assert_eq!(
        (&matrix["passed"], &column["transport"]),
        (&true.into(), &"tcp".into())
    );
    let cases = column["cases"].as_array().expect("a list");
    let names: Vec<_> = cases
        .iter()
        .filter_map(|case| case["name"].as_str())
        .collect();
    assert_eq!(names, listed("grpc"));
    let page = std::fs::read_to_string(html.path()).expect("it was written");
    assert!(
        names
            .iter()
            .all(|name| page.contains(name) && stdout.contains(name))
    );
}

#[test]
fn every_case_passes_over_udp_pushed_and_pulled_and_runs_once() {
    let file = ResultFile::new("matrix-udp");
    let output = homa_interop(&[
        "matrix",
        "--transport=udp",
        "--transport=udp-pull",
        "--quick",
        "--json",
        file.path(),
    ]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}");
    let matrix = read(&file);
    for (at, transport) in ["udp", "udp-pull"].into_iter().enumerate() {
        let column = &matrix["transports"][at];
        assert_eq!(column["transport"], transport);
        assert_eq!(
            column["cases"].as_array().map(Vec::len),
            Some(listed("grpc").len())
        );
        ran_once(column);
    }
    let pulled = matrix["transports"][1]["uri"].as_str();
    assert!(pulled.is_some_and(|uri| uri.ends_with("&stream=pull")));
}

#[test]
fn every_case_passes_over_udp_through_a_bad_network_and_runs_once() {
    let file = ResultFile::new("matrix-faults");
    let output = homa_interop(&[
        "matrix",
        "--transport=udp",
        "--quick",
        "--loss=5",
        "--reorder=5",
        "--duplicate=5",
        "--json",
        file.path(),
    ]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}");
    let matrix = read(&file);
    assert!(
        matrix["faults"]
            .as_str()
            .is_some_and(|it| it.contains("loses 5 %"))
    );
    let column = &matrix["transports"][0];
    assert_eq!(
        column["cases"].as_array().map(Vec::len),
        Some(listed("grpc").len())
    );
    ran_once(column);
}

/// An answer that overtakes others must not end the call for them.
#[test]
fn long_responses_are_pulled_whole_through_a_bad_network() {
    for seed in ["--seed=1", "--seed=2", "--seed=3"] {
        let output = homa_interop(&[
            "matrix",
            "--transport=udp-pull",
            "--case=many_streams",
            "--case=large_message_down",
            "--quick",
            "--loss=5",
            "--reorder=5",
            "--duplicate=5",
            seed,
        ]);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{seed}: {stdout}");
    }
}

/// Whether the server of this column has seen many calls, and none of them twice.
#[track_caller]
fn ran_once(column: &Value) {
    let server = &column["server"];
    assert_eq!(server["ran_again"], 0, "{column}");
    assert!(server["numbered"].as_u64() > Some(100), "{column}");
}

#[test]
fn every_case_passes_over_raw_sockets_between_namespaces_that_are_removed_afterwards() {
    let namespaces = || {
        let entries = std::fs::read_dir("/run/netns")
            .into_iter()
            .flatten()
            .flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.collect::<Vec<_>>()
    };
    let child = Command::new(env!("CARGO_BIN_EXE_homa-interop"))
        .args(["matrix", "--transport=raw", "--quick"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let ours = format!("homa-interop-{}-", child.id());
    let output = child.wait_with_output().expect("our child");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let skipped = output.status.code() == Some(SKIPPED) && stdout.contains("raw       skipped: ");
    let all = listed("grpc").len();
    let passed =
        output.status.success() && stdout.contains(&format!("{all} of {all} cases passed"));
    assert!(skipped || passed, "{stdout}");
    assert!(!namespaces().iter().any(|name| name.starts_with(&ours)));
}

#[test]
fn what_cannot_run_here_is_skipped_with_the_reason() {
    let output = homa_interop(&["matrix", "--transport=kernel", "--loss=1"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(SKIPPED), "{stdout}");
    assert!(stdout.contains("kernel    skipped: "), "{stdout}");
}
