//! Bad input: a typed error or a status that says what and why.

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::*;
use homa_client::{BindError, CallError, Executed};
use tonic::Code;
use tonic_homa::transport::{
    Channel, Endpoint, Engine, Error, Listener, ServeAddr, Server, UriError,
};
use tonic_homa::{ClientConfig, ConfigError, ServerConfig, URI_VARIABLE};

/// Nothing listens on discard.
const NOBODY: &str = "homa://127.0.0.1:9";

#[tokio::test]
async fn uris_are_refused_before_anything_is_sent() {
    let refused = |uri: &'static str| match Endpoint::from_shared(uri) {
        Err(Error::Uri(error)) => error,
        other => panic!("{uri}: {other:?}"),
    };
    assert!(
        matches!(refused("tcp://a:1"), UriError::UnknownScheme { scheme, .. } if scheme == "tcp")
    );
    assert!(matches!(refused("a:1"), UriError::UnknownScheme { .. }));
    assert!(matches!(refused("homa://a"), UriError::MissingPort { .. }));
    assert!(matches!(refused("homa://a:1?x=1"), UriError::UnknownKey { key, .. } if key == "x"));
    assert!(matches!(
        refused("homa://a:1?fallback=x"),
        UriError::Fallback { fallback, .. } if fallback == "x"
    ));
    assert!(matches!(
        refused("homa://a:1?wire=grpc_homa"),
        UriError::Unsupported { key: "wire", .. }
    ));
    assert!(matches!(
        "homa://127.0.0.1:0?fallback=http://a:1".parse::<ServeAddr>(),
        Err(Error::Uri(UriError::ClientsOnly {
            key: "fallback",
            ..
        }))
    ));
    assert!(matches!(
        refused("homa+udp://a:1?engine=auto"),
        UriError::EngineConflict {
            scheme: Engine::Udp,
            query: Engine::Auto,
            ..
        }
    ));
    assert!(matches!(
        refused("homa://a:1#part"),
        UriError::Fragment { fragment, .. } if fragment == "part"
    ));
    assert!(matches!(
        refused("homa://0.0.0.0:4000"),
        UriError::NotCallable { host, .. } if host == "0.0.0.0"
    ));
    let error = refused("http://a b:1").to_string();
    assert!(error.contains("for example http://"), "{error}");
    assert!(matches!(
        "http://127.0.0.1:0#part".parse::<ServeAddr>(),
        Err(Error::Uri(UriError::Fragment { .. }))
    ));
    assert!(matches!(
        Endpoint::from_shared(vec![0xFF]),
        Err(Error::Uri(UriError::Invalid { .. }))
    ));
    // Through the generated client, too, and through `TryInto`.
    let error = TestClient::connect("homa://a").await.unwrap_err();
    assert!(
        matches!(error, Error::Uri(UriError::MissingPort { .. })),
        "{error}"
    );
    let error = Listener::bind("homa://127.0.0.1:40000").await.unwrap_err();
    assert!(
        matches!(error, Error::Uri(UriError::PortOutOfRange { .. })),
        "{error}"
    );
    let router = Server::builder().add_service(TestServer::new(Service::default()));
    let error = router.serve("gopher://127.0.0.1:1").await.unwrap_err();
    assert!(
        matches!(error, Error::Uri(UriError::UnknownScheme { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_uri_value_that_cannot_be_used_is_told_by_connect_or_the_first_call() {
    let endpoint = Channel::builder("homa://a".parse().unwrap());
    let error = endpoint.connect().await.unwrap_err();
    assert!(
        matches!(error, Error::Uri(UriError::MissingPort { .. })),
        "{error}"
    );
    let status = TestClient::new(endpoint.connect_lazy())
        .call(ask("x"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("no port"), "{status}");
}

#[test]
#[should_panic(expected = "no port")]
fn a_constant_that_cannot_be_used_panics() {
    let _ = Endpoint::from_static("homa://a");
}

#[tokio::test]
async fn a_peer_that_is_not_there_is_told_fast() {
    let start = Instant::now();
    let error = TestClient::connect(NOBODY).await.unwrap_err();
    let Error::Connect { addr, source } = error else {
        panic!("{error}")
    };
    assert_eq!(addr, SocketAddr::from(([127, 0, 0, 1], 9)));
    assert!(
        matches!(source, CallError::PeerUnreachable { .. }),
        "{source}"
    );

    let mut client = TestClient::new(Endpoint::from_static(NOBODY).connect_lazy());
    let status = client.call(ask("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let source = call_error(&status).unwrap();
    assert_eq!(source.executed(), Executed::No, "{source}");
    assert!(
        start.elapsed() < Duration::from_millis(800),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn connect_gives_up_in_time() {
    // A socket that never answers.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let uri = format!("homa://{}", silent.local_addr().unwrap());
    let start = Instant::now();
    let endpoint = Endpoint::from_shared(uri)
        .unwrap()
        .connect_timeout(Duration::from_millis(200));
    let error = endpoint.connect().await.unwrap_err();
    assert!(matches!(error, Error::ConnectTimeout { .. }), "{error}");
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(190) && took < Duration::from_secs(1),
        "{took:?}"
    );

    // Without a limit of its own, a call ends when Homa gives up.
    let status = TestClient::new(endpoint.connect_lazy())
        .call(ask("x"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(
        matches!(call_error(&status), Some(CallError::TimedOut { .. })),
        "{status}"
    );
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_name_without_address_is_told() {
    let endpoint = Endpoint::from_static("homa://no-such-host.invalid:4000");
    let error = endpoint.connect().await.unwrap_err();
    assert!(matches!(&error, Error::Resolve { host, .. } if host == "no-such-host.invalid"));
    let status = TestClient::new(endpoint.connect_lazy())
        .call(ask("x"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("no-such-host.invalid"),
        "{status}"
    );
}

#[tokio::test]
async fn an_address_in_use_is_told() {
    for scheme in BOTH {
        let host = serve(scheme).await;
        let error = Listener::bind(host.uri.as_str()).await.unwrap_err();
        assert!(
            error.to_string().ends_with("choose another port"),
            "{error}"
        );
        match error {
            Error::Bind(BindError::AddressInUse { addr }) => assert_eq!(addr, host.addr),
            Error::Listen { addr, .. } => assert_eq!(addr, host.addr),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn sizes_and_agents_out_of_range_are_refused() {
    let endpoint = || Endpoint::from_static(NOBODY);
    for error in [
        endpoint().max_message_bytes(1_000_001).unwrap_err(),
        endpoint().max_metadata_bytes(999).unwrap_err(),
        Server::builder().max_message_bytes(0).unwrap_err(),
        Server::builder()
            .max_metadata_bytes(usize::MAX)
            .unwrap_err(),
    ] {
        assert!(
            matches!(error, Error::Config(ConfigError::OutOfRange { .. })),
            "{error}"
        );
    }
    assert!(matches!(
        endpoint().user_agent("a\nb"),
        Err(Error::UserAgent)
    ));
}

/// One test for all that reads the environment: tests run in parallel and share it.
#[tokio::test]
async fn configuration_and_environment_choose_the_transport() {
    // Each case runs in a process of its own, with its own environment.
    let run_with = |case: &str, variables: &[(&str, &str)]| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "in_its_own_process",
            "--include-ignored",
            "--nocapture",
        ]);
        command.env("CASE", case).env_remove(URI_VARIABLE);
        command.envs(variables.iter().copied());
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{case}: {text}");
        let line = text
            .lines()
            .find_map(|line| line.split_once("SAYS "))
            .unwrap();
        line.1.to_owned()
    };
    let run = |case: &str, uri: Option<&str>| {
        let variables = uri.map(|uri| (URI_VARIABLE, uri));
        run_with(case, variables.as_slice())
    };
    assert_eq!(run("config", None), "homa://127.0.0.1:1/ Some(7ms)");
    assert_eq!(
        run("config", Some("http://127.0.0.1:2")),
        "http://127.0.0.1:2/ Some(7ms)"
    );
    assert_eq!(run("config", Some("  ")), "homa://127.0.0.1:1/ Some(7ms)");
    assert!(run("config", Some("ftp://a")).contains("`ftp`"));
    assert!(run("empty", None).contains(URI_VARIABLE));
    assert_eq!(
        run("empty", Some("homa://127.0.0.1:3")),
        "homa://127.0.0.1:3/ None"
    );
    assert_eq!(
        run("env", Some("homa://127.0.0.1:3")),
        "homa://127.0.0.1:3/ None"
    );
    assert!(run("env", None).contains(URI_VARIABLE));
    let set = [
        (URI_VARIABLE, "homa://127.0.0.1:3"),
        ("TONIC_HOMA_CONNECT_TIMEOUT", "9ms"),
    ];
    assert_eq!(run_with("env", &set), "homa://127.0.0.1:3/ Some(9ms)");
    // A file alone, or with what the environment says on top.
    assert_eq!(run_with("config", &set), "homa://127.0.0.1:3/ Some(7ms)");
    assert_eq!(run_with("both", &set), "homa://127.0.0.1:3/ Some(9ms)");
    let wrong = [set[0], ("TONIC_HOMA_CONECT_TIMEOUT", "9ms")];
    let refused = run_with("env", &wrong);
    let named = ["_CONECT_TIMEOUT", "_CONNECT_TIMEOUT", "_SHUTDOWN_GRACE"];
    assert!(named.iter().all(|name| refused.contains(name)), "{refused}");
    assert_eq!(
        run("shared", Some("http://127.0.0.1:2")),
        "homa://127.0.0.1:1/ None"
    );
    assert!(run("server", None).starts_with("homa://127.0.0.1:"));
    assert!(run("server", Some("http://127.0.0.1:0")).starts_with("http://127.0.0.1:"));
    assert!(run("server", Some("homa://127.0.0.1:50000")).contains("1 to 32767"));
}

/// Not a test by itself, see above.
#[tokio::test]
#[ignore = "a part of configuration_and_environment_choose_the_transport"]
async fn in_its_own_process() {
    let show = |endpoint: Result<Endpoint, Error>| match endpoint {
        Ok(endpoint) => format!("{} {:?}", endpoint.uri(), endpoint.get_connect_timeout()),
        Err(error) => error.to_string(),
    };
    let config: ClientConfig = "uri = 'homa://127.0.0.1:1'\nconnect_timeout = '7ms'"
        .parse()
        .unwrap();
    let says = match std::env::var("CASE").as_deref() {
        Ok("config") => show(Endpoint::from_config(&config)),
        Ok("empty") => show(Endpoint::from_config(&ClientConfig::default())),
        Ok("env") => show(Endpoint::from_env()),
        Ok("both") => show(Endpoint::from_config(&config.with_env().unwrap())),
        Ok("shared") => show(Endpoint::from_shared("homa://127.0.0.1:1")),
        Ok("server") => {
            let config: ServerConfig = "uri = 'homa://127.0.0.1:0'".parse().unwrap();
            match Listener::bind(&config).await {
                Ok(listener) => listener.uri(),
                Err(error) => error.to_string(),
            }
        }
        other => panic!("{other:?}"),
    };
    println!("SAYS {says}");
}

#[tokio::test]
async fn a_file_configures_both_sides() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let server_file = folder.join("server.toml");
    std::fs::write(
        &server_file,
        "uri = 'homa://127.0.0.1:0'\ntimeout = '100ms'",
    )
    .unwrap();
    let config = ServerConfig::from_toml_file(&server_file).unwrap();
    let service = Service::default();
    let router = Server::from_config(&config)
        .unwrap()
        .add_service(big(service.clone()));
    let addr = ServeAddr::try_from(&config).unwrap();
    let listener = Listener::bind(addr).await.unwrap();
    let client_file = folder.join("client.toml");
    std::fs::write(
        &client_file,
        format!(
            "uri = '{}'\nconcurrency_limit = 3\nuser_agent = 'file'\n",
            listener.uri()
        ),
    )
    .unwrap();
    let server = tokio::spawn(router.serve_on([listener]));
    let config = ClientConfig::from_toml_file(&client_file).unwrap();
    let mut client = TestClient::connect(&config).await.unwrap();
    let reply = client.call(ask("x")).await.unwrap().into_inner();
    assert!(reply.user_agent.starts_with("file "), "{reply:?}");
    let slow = CallRequest {
        delay_ms: 2_000,
        ..ask("")
    };
    assert_eq!(
        client.call(slow).await.unwrap_err().code(),
        Code::DeadlineExceeded
    );
    server.abort();

    std::fs::write(&client_file, "uri = 'homa://a:1'\ntimeuot = '1s'\n").unwrap();
    let error = ClientConfig::from_toml_file(&client_file)
        .unwrap_err()
        .to_string();
    for named in ["client.toml", "timeuot", "line 2", "timeout"] {
        assert!(error.contains(named), "{error}");
    }
    for (text, named) in [
        ("concurrency_limit = 0", "concurrency_limit = 0"),
        ("max_message_bytes = 2000000", "max_message_bytes = 2000000"),
        ("max_metadata_bytes = 5", "max_metadata_bytes = 5"),
        ("max_stream_buffer_bytes = 5", "max_stream_buffer_bytes = 5"),
        ("user_agent = \"a\\nb\"", "user agent"),
        ("origin = 'b'", "origin = b"),
        ("fallback = 'homa://a:1'", "fallback `homa://a:1`"),
        ("homa.mtu = 100", "mtu = 100"),
        ("homa.num_priorities = 9", "num_priorities = 9"),
    ] {
        let config: ClientConfig = format!("uri = 'homa://a:1'\n{text}").parse().unwrap();
        let error = Endpoint::from_config(&config).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    for (text, named) in [
        (
            "concurrency_limit_per_connection = 0",
            "concurrency_limit_per_connection = 0",
        ),
        ("max_concurrent_streams = 0", "max_concurrent_streams = 0"),
        ("homa.shards = 0", "shards = 0"),
        ("homa.busy_poll = '2ms'", "busy_poll = 2ms"),
    ] {
        let config: ServerConfig = text.parse().unwrap();
        let error = Server::from_config(&config).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[tokio::test]
async fn a_configurations_fallback_and_endpoint_options_are_used() {
    let host = serve("http").await;
    let text = format!("uri = '{NOBODY}'\nfallback = '{}'", host.uri);
    let config: ClientConfig = text.parse().unwrap();
    let channel = Endpoint::from_config(&config).unwrap().connect().await;
    let mut client = TestClient::new(channel.unwrap());
    assert!(!client.call(ask("x")).await.unwrap().into_inner().over_homa);

    // A port that is taken: only a server that asks for it notices.
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let text = "uri = 'homa+udp://127.0.0.1:0'";
    let config: ServerConfig = text.parse().unwrap();
    Listener::bind(&config).await.unwrap();
    let config: ServerConfig = format!("{text}\nhoma.bulk_port = {port}").parse().unwrap();
    let error = Listener::bind(&config).await.unwrap_err();
    assert!(matches!(error, Error::Bind(_)), "{error}");
}
