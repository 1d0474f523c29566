//! Runs the Thrift suite between real processes.

mod common;
#[allow(dead_code, reason = "each file of tests uses a part of it")]
#[path = "common/suite.rs"]
mod suite;

use common::{ResultFile, homa_interop};
use suite::{Server, listed, read, refused};

#[test]
fn a_case_transport_or_protocol_that_does_not_exist_is_refused_with_those_that_do() {
    for command in [
        &["thrift", "--uri", "homa://127.0.0.1:1"][..],
        &["matrix", "--suite", "thrift"],
    ] {
        let stderr = refused(&[command, &["--case", "pong"]].concat(), 1);
        assert!(
            stderr.contains("\"pong\"") && stderr.contains("all, ping"),
            "{stderr}"
        );
    }
    let stderr = refused(&["matrix", "--suite=thrift", "--transport=tcp"], 1);
    assert!(
        stderr.contains("no transport tcp") && stderr.contains("tcp-framed"),
        "{stderr}"
    );
    let stderr = refused(&["matrix", "--suite=grpc", "--protocol=compact"], 1);
    assert!(stderr.contains("no protocol compact"), "{stderr}");
}

#[test]
fn bad_uris_and_faults_are_refused_by_name() {
    for command in [["serve", "--thrift"], ["thrift", "--uri"]] {
        for (uri, named) in [
            ("http://127.0.0.1:1", "http"),
            ("homa://h", "homa://h"),
            ("tcp+framed://h:1?color=red", "`color`"),
            ("homa://h:1?protocol=json", "`json`"),
            ("", "``"),
        ] {
            let stderr = refused(&[command[0], command[1], uri], 1);
            assert!(stderr.contains(named), "{command:?} {uri}: {stderr}");
            if command[0] == "serve" {
                assert!(!stderr.contains("User"), "{stderr}");
            }
        }
        let uri = "tcp+framed://127.0.0.1:0";
        let stderr = refused(&[command[0], command[1], uri, "--loss", "5"], 1);
        assert!(
            stderr.contains(uri) && stderr.contains("--loss"),
            "{stderr}"
        );
    }
    refused(&["thrift"], 2);
}

#[test]
fn a_path_that_is_taken_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let [file, socket] = ["file", "socket"].map(|name| folder.path().join(name));
    std::fs::write(&file, "text").expect("a file");
    let _living = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    for (path, why) in [(&file, "it is a file"), (&socket, "another program serves")] {
        let uri = format!("unix+framed://{}", path.display());
        let to = ["--to", "homa://127.0.0.1:1"];
        for command in [
            &["serve", "--thrift", &uri][..],
            &["gateway", "--listen", &uri, to[0], to[1]],
        ] {
            let stderr = refused(command, 1);
            let named = [&*path.to_string_lossy(), why, "another path"];
            assert!(
                named.iter().all(|named| stderr.contains(named)),
                "{command:?}: {stderr}"
            );
        }
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    for uri in [
        "homa://127.0.0.1:1?engine=udp",
        "tcp+framed://127.0.0.1:1",
        "unix+framed:///no/such/socket",
    ] {
        let stderr = refused(&["thrift", "--uri", uri], 1);
        assert!(
            stderr.contains(uri) && stderr.contains("NotOpen"),
            "{stderr}"
        );
    }
}

#[test]
fn one_server_has_both_suites_and_counts_the_calls_of_all_transports() {
    let file = ResultFile::new("serve-thrift");
    let socket = format!("/tmp/homa-interop-{}.sock", std::process::id());
    let thrift = [
        "homa://127.0.0.1:0?engine=udp".to_owned(),
        "tcp+framed://127.0.0.1:0".to_owned(),
        "tcp+buffered://127.0.0.1:0".to_owned(),
        format!("unix+framed://{socket}"),
    ];
    let thrift: Vec<_> = thrift.iter().map(String::as_str).collect();
    let options = ["--until-stdin-ends", "--json", file.path()];
    let mut server = Server::start(&["http://127.0.0.1:0"], &thrift, &options);
    let uris = server.uris.clone();
    let output = homa_interop(&["grpc", "--uri", &uris[0], "--case", "large_unary"]);
    assert!(output.status.success());
    let mut clients = 0;
    for uri in &uris[1..] {
        for protocol in ["binary", "compact"] {
            let separator = if uri.contains('?') { '&' } else { '?' };
            let uri = format!("{uri}{separator}protocol={protocol}");
            let output = homa_interop(&[
                "thrift",
                "--uri",
                &uri,
                "--case=oneways_in_a_row",
                "--calls=7",
            ]);
            let stdout = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{uri}: {stdout}");
            assert!(stdout.contains("passed: all of 1 cases"), "{stdout}");
            clients += 1;
        }
    }
    drop(server.child.stdin.take());
    server.ends_well();
    assert!(!std::path::Path::new(&socket).exists(), "it is removed");
    let counts = read(&file);
    assert_eq!(counts["methods"]["Suite:note"], 7 * clients);
    assert_eq!(counts["methods"]["/grpc.testing.TestService/UnaryCall"], 1);
    assert_eq!(counts["ran_again"], 0);
}

#[test]
fn the_matrix_has_every_case_for_each_transport_and_protocol() {
    let (json, html) = (
        ResultFile::new("matrix-thrift"),
        ResultFile::new("matrix-thrift-html"),
    );
    let output = homa_interop(&[
        "matrix",
        "--suite=thrift",
        "--transport=tcp-framed",
        "--transport=unix-framed",
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
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let matrix = read(&json);
    assert_eq!(
        (&matrix["passed"], &matrix["suite"]),
        (&true.into(), &"thrift".into())
    );
    let columns = matrix["transports"].as_array().expect("a list");
    let lane = |column: &serde_json::Value| {
        let text = |key: &str| column[key].as_str().unwrap_or_default().to_owned();
        (text("transport"), text("protocol"))
    };
    let lanes: Vec<_> = columns.iter().map(lane).collect();
    let both =
        |transport: &str| ["binary", "compact"].map(|it| (transport.to_owned(), it.to_owned()));
    assert_eq!(lanes, [both("tcp-framed"), both("unix-framed")].concat());
    let page = std::fs::read_to_string(html.path()).expect("it was written");
    for column in columns {
        let cases = column["cases"].as_array().expect("a list");
        let names = cases.iter().filter_map(|case| case["name"].as_str());
        assert_eq!(names.collect::<Vec<_>>(), listed("thrift"));
    }
    for name in listed("thrift")
        .iter()
        .map(String::as_str)
        .chain(["tcp-framed/compact"])
    {
        assert!(page.contains(name) && stdout.contains(name), "{name}");
    }
}

#[test]
fn every_call_runs_once_over_a_bad_network() {
    let output = homa_interop(&[
        "matrix",
        "--suite=thrift",
        "--transport=udp",
        "--loss=5",
        "--reorder=5",
        "--duplicate=5",
        "--quick",
        "--case=runs_once",
        "--case=oneways_in_a_row",
        "--case=oneway_last_act",
        "--case=many_clients",
    ]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}");
    assert!(stdout.contains("loses 5 %"), "{stdout}");
}

/// All cases with them are run by `ci.sh`.
#[test]
fn a_foreign_client_and_server_do_as_ours_or_are_skipped_with_the_reason() {
    let file = ResultFile::new("matrix-foreign");
    let output = homa_interop(&[
        "matrix",
        "--suite=thrift",
        "--transport=python-client",
        "--transport=python-server",
        "--transport=thriftpy2-client",
        "--transport=thriftpy2-server",
        "--case=containers",
        "--case=longest_request",
        "--case=panicking_handler",
        "--case=oneway_fails",
        "--quick",
        "--json",
        file.path(),
    ]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let matrix = read(&file);
    let columns = matrix["transports"].as_array().expect("a list");
    assert_eq!(columns.len(), 8);
    let mut were_run = false;
    for column in columns {
        if let Some(why) = column["skipped"].as_str() {
            println!("skipped: {}: {why}", column["transport"]);
            assert!(stdout.contains(why), "{stdout}");
            continue;
        }
        were_run = true;
        let is_client = column["transport"]
            .as_str()
            .expect("a name")
            .ends_with("client");
        let cases = column["cases"].as_array().expect("a list");
        let left_out = column["left_out"].as_array().expect("a list");
        assert_eq!(cases.len(), if is_client { 4 } else { 3 }, "{column}");
        assert_eq!(cases.len() + left_out.len(), 4, "{column}");
        // They come to the server, whatever has passed them on.
        let oneways = &column["server"]["methods"]["Suite:note"];
        assert_eq!(oneways, 5, "{column}");
    }
    let expected = if were_run { 0 } else { 77 };
    assert_eq!(output.status.code(), Some(expected), "{stdout}");
}

#[test]
fn foreign_peers_without_their_libraries_are_skipped_and_not_counted_as_passed() {
    // The second one runs, and has no library.
    for python in ["/no/such/python", "/bin/false"] {
        let output = homa_interop(&[
            "matrix",
            "--suite=thrift",
            "--transport=python-client",
            "--transport=thriftpy2-server",
            "--case=ping",
            "--python",
            python,
        ]);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(77), "{stdout}");
        assert!(
            stdout.contains("skipped: ") && stdout.contains(python),
            "{stdout}"
        );
        assert!(stdout.contains("skipped: nothing could be run"), "{stdout}");
    }
}
