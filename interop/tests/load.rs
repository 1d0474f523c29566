//! Runs `bench load` and the servers that it calls as processes.

mod common;

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{ResultFile, homa_interop};
use serde_json::Value;

const STACKS: [&str; 5] = [
    "homa-client",
    "tonic-homa",
    "tonic-tcp",
    "thrift-homa",
    "thrift-tcp",
];

/// A short run of a workload whose lag, which a busy machine makes, is not judged.
fn short(stack: &str, json: &ResultFile, more: &[&str]) -> Value {
    let arguments = [
        &[
            "bench",
            "load",
            "--stack",
            stack,
            "--workload=w3",
            "--calls-per-s=400",
            "--seconds=0.5",
            "--warm-up=0.1",
            "--response-bytes=100",
            "--max-lag=1000",
            "--json",
            json.path(),
        ],
        more,
    ]
    .concat();
    let output = homa_interop(&arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stack}: {stderr}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains(&format!("{stack}: W3")), "{stdout}");
    let json = std::fs::read(json.path()).expect("it was written");
    serde_json::from_slice(&json).expect("JSON")
}

#[test]
fn every_stack_is_sent_the_same_calls_at_the_same_times() {
    let file = ResultFile::new("load");
    let mut first = None;
    for stack in STACKS {
        let result = short(stack, &file, &["--raw", "--seed=7"]);
        assert_eq!(result["kind"], "load");
        assert_eq!(result["setup"]["stack"], stack);
        let calls = result["calls"].as_array().expect("a list");
        assert_eq!(result["samples"], calls.len());
        let number = |call: &Value, key: &str| call[key].as_u64().expect(key);
        for call in calls {
            let times = ["intended_ns", "sent_ns", "done_ns"].map(|key| number(call, key));
            assert!(times.is_sorted(), "{call}");
            assert!(times[0] >= 100_000_000, "warm-up calls are not told");
        }
        let meant: Vec<_> = calls
            .iter()
            .map(|call| (number(call, "bytes"), number(call, "intended_ns")))
            .collect();
        assert!(meant.len() > 100, "{}", meant.len());
        assert_eq!(
            *first.get_or_insert_with(|| meant.clone()),
            meant,
            "{stack}"
        );

        let tenths = result["tenths"].as_array().expect("a list");
        assert_eq!(tenths.len(), 10);
        for tenth in tenths {
            assert!(tenth["p50_us"].as_f64() > Some(0.0), "{tenth}");
            assert!(tenth["unloaded_us"].as_f64() > Some(0.0), "{tenth}");
            assert!(tenth["slowdown_p50"].as_f64() > Some(0.0), "{tenth}");
            assert!(tenth["p99_us"].is_null(), "too few samples: {tenth}");
        }
        for side in ["client", "server"] {
            let cpu = &result["cpu_per_call"][side];
            assert!(cpu["user_us"].is_number(), "{side} in {result}");
        }
    }
}

#[test]
fn a_page_shows_runs_of_two_stacks_and_a_run_makes_its_own() {
    let [homa, tcp, own, page] =
        ["homa", "tcp", "own", "page"].map(|name| ResultFile::new(&format!("load-{name}")));
    short("tonic-homa", &homa, &["--html", own.path()]);
    short("tonic-tcp", &tcp, &["--no-unloaded", "--workers=1"]);
    let arguments = [
        "bench",
        "page",
        homa.path(),
        tcp.path(),
        "--html",
        page.path(),
    ];
    let output = homa_interop(&arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let read = |file: &ResultFile| std::fs::read_to_string(file.path()).expect("a page");
    let (own, page) = (read(&own), read(&page));
    assert!(own.contains("slowdown by size") && own.contains("<svg"));
    for part in ["tonic-homa", "tonic-tcp", "latency of the shortest tenth"] {
        assert!(page.contains(part), "{part}");
    }
}

/// A server as `bench link` starts it; ends with its standard input.
struct Server {
    child: Child,
    at: Value,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_homa-interop"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut line).expect("a line");
        let at = serde_json::from_str(&line).expect("JSON");
        Self { child, at }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It is our child.
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_elsewhere_is_called_and_its_work_is_counted_if_its_process_is_known() {
    let server = Server::start(&["serve-echo", "--listen=127.0.0.1:0", "--workers=1"]);
    let pid = server.child.id().to_string();
    assert_eq!(server.at["pid"].to_string(), pid);
    let file = ResultFile::new("load-elsewhere");
    let uri = server.at["homa"].as_str().expect("a URI");
    let alone = short("tonic-homa", &file, &["--uri", uri]);
    assert!(alone["cpu_per_call"]["server"].is_null(), "{alone}");
    let uri = server.at["tcp"].as_str().expect("a URI");
    let both = short("tonic-tcp", &file, &["--uri", uri, "--server-pid", &pid]);
    assert!(both["cpu_per_call"]["server"].is_object(), "{both}");
}

#[test]
fn a_server_takes_the_port_that_it_is_told_and_names_one_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a socket");
    // Homa's servers have ports up to 32,767, but the one on TCP is the first to listen.
    let addr = taken.local_addr().expect("bound").to_string();
    for server in ["serve-echo", "serve-thrift-echo"] {
        let output = homa_interop(&[server, "--listen", &addr]);
        assert_eq!(output.status.code(), Some(1), "{server}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(&addr), "{stderr}");
        assert!(stderr.contains("in use"), "{stderr}");
    }
}

/// Runs it with these besides `--stack`, and returns what it said when it refused.
fn refused(stack: &str, more: &[&str], status: i32) -> String {
    let output = homa_interop(&[&["bench", "load", "--stack", stack], more].concat());
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{more:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{more:?} has results");
    stderr
}

#[test]
fn a_load_that_could_not_be_kept_up_is_refused_with_the_share_and_what_to_do() {
    let file = ResultFile::new("load-lags");
    let stderr = refused(
        "tonic-tcp",
        &[
            "--bytes=1000",
            "--calls-per-s=5000",
            "--outstanding=1",
            "--seconds=0.01",
            "--warm-up=0.01",
            "--no-unloaded",
            "--json",
            file.path(),
        ],
        1,
    );
    for part in [
        "% of the calls lag",
        "less than 1 %",
        "lower the load",
        "--outstanding",
    ] {
        assert!(stderr.contains(part), "{stderr}");
    }
    let written = std::fs::exists(file.path()).expect("readable");
    assert!(!written, "a run that is refused has no results");
}

/// Long messages at a rate that is out of reach would pile up, and the run take minutes, until it
/// is refused.
#[test]
fn a_load_that_is_far_too_much_ends_soon() {
    let start = Instant::now();
    let stderr = refused(
        "tonic-homa",
        &[
            "--bytes=3999999",
            "--calls-per-s=10000",
            "--seconds=1",
            "--no-unloaded",
        ],
        1,
    );
    for part in ["late", "134 in flight", "more than", "lower it"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{stderr}");
}

#[test]
fn a_load_that_makes_no_sense_is_refused_with_what_would() {
    let fixed = ["--bytes=100", "--calls-per-s=100"];
    for (stack, more, status, parts) in [
        (
            "tonic-tcp",
            &["--bytes=100", "--mbps=0"][..],
            2,
            &["above 0"][..],
        ),
        (
            "tonic-tcp",
            &["--bytes=100", "--calls-per-s=-1"],
            2,
            &["above 0"],
        ),
        (
            "tonic-tcp",
            &["--workload=w6", "--mbps=1"],
            2,
            &["w6", "w5"],
        ),
        ("tonic", &fixed, 2, &["tonic-homa"]),
        ("tonic-tcp", &["--bytes=100"], 2, &["--mbps"]),
        ("tonic-tcp", &["--mbps=1"], 2, &["--workload"]),
        ("tonic-tcp", &["--bytes=0", "--mbps=1"], 2, &["bytes"]),
        (
            "homa-client",
            &["--bytes=1000000", "--mbps=1"],
            1,
            &["1000000", "999996", "lower --bytes"],
        ),
        (
            "thrift-homa",
            &["--workload=w5", "--max-bytes=1000000", "--mbps=1"],
            1,
            &["thrift-homa takes at most 999000", "lower --max-bytes"],
        ),
        (
            "tonic-homa",
            &["--bytes=1", "--mbps=1", "--response-bytes=4000001"],
            1,
            &["a response", "4000000", "--response-bytes"],
        ),
        (
            "thrift-tcp",
            &["--bytes=1", "--mbps=1", "--outstanding=1001"],
            1,
            &["1001", "1000"],
        ),
        (
            "tonic-tcp",
            &[
                "--bytes=1",
                "--mbps=1",
                "--uri=http://127.0.0.1:1",
                "--server-pid=99999999",
            ],
            1,
            &["--server-pid 99999999"],
        ),
        (
            "thrift-tcp",
            &["--bytes=1", "--mbps=1", "--workers=2"],
            1,
            &["--workers"],
        ),
        (
            "tonic-tcp",
            &["--bytes=100", "--calls-per-s=1e7", "--seconds=10"],
            1,
            &["lower the rate"],
        ),
        (
            "tonic-tcp",
            &["--bytes=100", "--calls-per-s=0.001", "--seconds=0.01"],
            1,
            &["no call starts"],
        ),
        (
            "tonic-tcp",
            &[
                "--bytes=100",
                "--calls-per-s=100",
                "--start-at=1",
                "--no-unloaded",
            ],
            1,
            &["give a later time"],
        ),
        (
            "tonic-tcp",
            &["--bytes=100", "--mbps=1", "--uri=homa://127.0.0.1:4000"],
            1,
            &["tonic-tcp", "homa://127.0.0.1:4000", "http://"],
        ),
        (
            "thrift-tcp",
            &["--bytes=100", "--mbps=1", "--uri=tcp+framed://127.0.0.1:1"],
            1,
            &["efused"],
        ),
    ] {
        let stderr = refused(stack, more, status);
        for part in parts {
            assert!(stderr.contains(part), "{more:?}: {stderr}");
        }
    }
}
