//! Runs every example as its reader would, and looks at what it prints.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Longer than any of them takes, by far.
const TIMEOUT: Duration = Duration::from_secs(60);

const BOTH: [&str; 2] = ["homa://127.0.0.1:0", "http://127.0.0.1:0"];

/// What became of a program.
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).kill_on_drop(true);
    // What the developer has set is not what is tested.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("TONIC_HOMA_") || name.starts_with("THRIFT_HOMA_") {
            command.env_remove(name);
        }
    }
    command
}

async fn output(mut command: Command) -> Ran {
    let ran = tokio::time::timeout(TIMEOUT, command.output()).await;
    let output = ran.expect("it does not end").unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Its output, if it succeeds.
async fn run(program: &str, args: &[&str]) -> String {
    let ran = output(command(program, args)).await;
    assert_eq!(ran.code, Some(0), "{args:?}: {}{}", ran.stdout, ran.stderr);
    ran.stdout
}

/// What it complains about, if it fails as told.
async fn fails(program: &str, args: &[&str]) -> String {
    let ran = output(command(program, args)).await;
    assert_eq!(ran.code, Some(1), "{args:?}: {}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
    ran.stderr
}

/// A server in a process of its own, and the URI that it prints.
async fn serve(mut command: Command) -> (Child, String) {
    let mut server = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(TIMEOUT, lines.next_line()).await;
    let line = line.expect("it prints nothing").unwrap().unwrap();
    let uri = line
        .split([' ', ','])
        .find(|word| word.contains("://"))
        .unwrap();
    (server, uri.to_owned())
}

#[track_caller]
fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

#[tokio::test]
async fn greeter() {
    let greeter = env!("CARGO_BIN_EXE_greeter");
    let out = run(greeter, &["demo", "--calls", "50"]).await;
    assert_contains(
        &out,
        &["Hello world", "homa://127.0.0.1:", "http://127.0.0.1:"],
    );
    for uri in BOTH {
        let (_server, uri) = serve(command(greeter, &["server", uri])).await;
        let out = run(greeter, &["client", &uri, "Ada", "--calls", "20"]).await;
        assert_contains(&out, &["Hello Ada", &uri]);
    }
}

#[tokio::test]
async fn route_guide() {
    let route_guide = env!("CARGO_BIN_EXE_route_guide");
    let told = [
        "  50.00, 8.27: Mainz\n",
        "  0.00, 0.00: nothing\n",
        "  Mainz\n  Loreley\n  Koblenz\n  Cologne\n\n",
        "  9 points, 9 of them with a name, 653 km",
        "  47.56, 7.59: the source is far up in the Alps\n  50.14, 7.73: mind the rock\n",
        "  47.56, 7.59: the locks open at six\n",
    ];
    for uri in BOTH {
        assert_contains(&run(route_guide, &["--uri", uri]).await, &told);
        let (_server, uri) = serve(command(route_guide, &["server", "--uri", uri])).await;
        let out = run(route_guide, &["client", "--uri", &uri]).await;
        assert_contains(&out, &told);
    }
    let told = fails(route_guide, &["--uri", "homa://127.0.0.1:40000"]).await;
    assert_contains(&told, &["40000", "ports 1 to 32767"]);
}

#[tokio::test]
async fn both_transports() {
    let out = run(env!("CARGO_BIN_EXE_both_transports"), &[]).await;
    assert_contains(
        &out,
        &[
            "both answered the same\n",
            "called 1 time over Homa, 1 time over TCP\n",
        ],
    );
}

#[tokio::test]
async fn config_switch() {
    let config_switch = env!("CARGO_BIN_EXE_config_switch");
    let out = run(config_switch, &[]).await;
    assert_contains(
        &out,
        &["homa://127.0.0.1:", "http://127.0.0.1:", "Hello Ada!\n"],
    );

    // The files as they are, and the environment, which goes before them.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config_switch");
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    for uri in BOTH {
        let mut server = command(config_switch, &["server", &file("server.toml")]);
        server.env("TONIC_HOMA_URI", uri);
        let (_server, uri) = serve(server).await;
        let mut client = command(config_switch, &["client", &file("client.toml")]);
        client.env("TONIC_HOMA_URI", &uri);
        let ran = output(client).await;
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(ran.stdout, format!("{uri}: Hello Ada!\n"));
    }
    let told = fails(config_switch, &["client", &file("nothing.toml")]).await;
    assert_contains(&told, &["cannot read", "nothing.toml", "No such file"]);
    let mut server = command(config_switch, &["server", &file("server.toml")]);
    server.env("TONIC_HOMA_TIMEOUT", "soon");
    let ran = output(server).await;
    assert_eq!(ran.code, Some(1));
    assert_contains(
        &ran.stderr,
        &["TONIC_HOMA_TIMEOUT", "soon", "such as \"50ms\""],
    );
}

#[tokio::test]
async fn health_reflection() {
    for uri in BOTH {
        let out = run(env!("CARGO_BIN_EXE_health_reflection"), &["--uri", uri]).await;
        let health = "  SERVING\n  NOT_SERVING\n  SERVING\n";
        assert_contains(&out, &[health, "  greeter.Greeter\n"]);
    }
}

#[tokio::test]
async fn balancing() {
    let balancing = env!("CARGO_BIN_EXE_balancing");
    let mixed = ["--uri", BOTH[0], "--uri", BOTH[1], "--uri", BOTH[0]];
    let over_tcp = ["--uri", BOTH[1], "--uri", BOTH[1], "--uri", BOTH[1]];
    for args in [&[][..], &mixed[..], &over_tcp[..]] {
        let out = run(balancing, args).await;
        let (before, after) = out.split_once("stopping ").unwrap();
        for (part, servers) in [(before, 3), (after, 2)] {
            assert_contains(part, &[": 0 calls failed\n"]);
            let calls: Vec<u32> = part
                .lines()
                .filter_map(|line| {
                    line.strip_suffix(" calls")?
                        .split(' ')
                        .next_back()?
                        .parse()
                        .ok()
                })
                .collect();
            assert_eq!(
                (calls.len(), calls.iter().sum::<u32>()),
                (servers, 60),
                "{out}"
            );
            assert!(calls.iter().all(|calls| *calls > 0), "{out}");
        }
    }
    let told = fails(balancing, &["--uri", BOTH[0]]).await;
    assert_contains(&told, &["--uri twice or more"]);
}

#[tokio::test]
async fn file_transfer() {
    let file_transfer = env!("CARGO_BIN_EXE_file_transfer");
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    std::fs::create_dir_all(path("served/taken")).unwrap();
    std::fs::write(path("taken"), "a folder has this name there").unwrap();
    let served = text(path("served"));
    for uri in BOTH {
        let out = run(file_transfer, &["demo", "--mib", "8", "--uri", uri]).await;
        assert_contains(
            &out,
            &["sent 8388608 bytes", "got 8388608 bytes", "at both ends"],
        );

        let (_server, uri) =
            serve(command(file_transfer, &["server", &served, "--uri", uri])).await;
        for (name, length) in [("empty", 0_usize), ("odd", 3_000_001)] {
            let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            std::fs::write(path(name), &content).unwrap();
            run(file_transfer, &["put", &text(path(name)), "--uri", &uri]).await;
            let back = text(path("back"));
            run(file_transfer, &["get", name, &back, "--uri", &uri]).await;
            assert!(
                std::fs::read(path("back")).unwrap() == content,
                "{uri}: {name}"
            );
        }
        let back = text(path("never"));
        let told = fails(file_transfer, &["get", "nothing", &back, "--uri", &uri]).await;
        assert_contains(&told, &["`nothing`", "No such file"]);
        let told = fails(file_transfer, &["put", &text(path("taken")), "--uri", &uri]).await;
        assert_contains(&told, &["cannot replace `taken`: it is no file"]);
        let told = fails(file_transfer, &["get", "../odd", &back, "--uri", &uri]).await;
        assert_contains(&told, &["`../odd` is no name of a file"]);
        assert!(!path("never").exists());
    }
    let bad = [
        (
            vec!["put".to_owned(), text(path("nothing"))],
            "nothing: No such file",
        ),
        (vec!["put".to_owned(), served.clone()], "it is no file"),
        (
            vec!["get".to_owned(), "odd".into(), served.clone()],
            "it is no file",
        ),
        (
            vec!["get".to_owned(), "odd".into(), text(path("a/b"))],
            "cannot write into",
        ),
        (
            vec!["server".to_owned(), text(path("odd"))],
            "it is no folder",
        ),
    ];
    for (args, told) in bad {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        assert_contains(&fails(file_transfer, &args).await, &[told]);
    }
}

#[tokio::test]
async fn thrift_calculator() {
    let calculator = env!("CARGO_BIN_EXE_thrift_calculator");
    let out = run(calculator, &[]).await;
    for scheme in ["homa://", "tcp+framed://", "tcp+buffered://"] {
        assert_contains(&out, &[scheme]);
    }
    assert_eq!(out.matches(": 6 * 7 = 42\n").count(), 3, "{out}");
    assert_eq!(out.matches("InvalidOperation").count(), 3, "{out}");
    for uri in ["homa://127.0.0.1:0", "tcp+framed://127.0.0.1:0"] {
        let mut server = command(calculator, &["serve", uri]);
        // It ends with its standard input.
        server.stdin(Stdio::piped());
        let (_server, uri) = serve(server).await;
        let out = run(calculator, &["call", &uri, "7", "subtract", "9"]).await;
        assert_eq!(out, "-2\n");
    }
    let told = fails(
        calculator,
        &["call", "tcp+framed://127.0.0.1:1", "1", "add", "1"],
    )
    .await;
    assert_contains(&told, &["127.0.0.1:1"]);
}

#[tokio::test]
async fn thrift_multiplexed() {
    let multiplexed = env!("CARGO_BIN_EXE_thrift_multiplexed");
    for uri in ["homa://127.0.0.1:0", "tcp+framed://127.0.0.1:0"] {
        let out = run(multiplexed, &["--uri", uri]).await;
        assert_contains(&out, &["2 + 3 = 5\n", "5 - 3 = 2\n", "with a wrong one: "]);
    }
}

#[tokio::test]
async fn thrift_oneway() {
    let out = run(env!("CARGO_BIN_EXE_thrift_oneway"), &["--lines", "50"]).await;
    assert_contains(
        &out,
        &[
            "50 lines sent",
            "in order: \"the last line\"\n",
            "to nobody: 1 ",
        ],
    );
}

#[tokio::test]
async fn thrift_migration() {
    let out = run(env!("CARGO_BIN_EXE_thrift_migration"), &[]).await;
    assert_contains(
        &out,
        &[
            "before, framed TCP: 2 + 3 = 5\n",
            "after, Homa: 2 + 3 = 5\n",
        ],
    );
}
