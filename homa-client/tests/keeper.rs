//! Handlers that block the only thread of their runtime: here blocking is the point.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use homa_client::engine::wire::Kind;
use homa_client::{Client, Config, EndpointCounters, Server, blocking};
use tokio::runtime::{Builder, Runtime};

/// Longer than the silence after which a client gives up.
const BLOCK: Duration = Duration::from_millis(1500);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A server on a runtime of one thread, which it blocks for [`BLOCK`] on each request. Tells when
/// it begins with one. Ends after `requests`, and returns what it has counted.
fn blocking_server(
    requests: usize,
) -> (SocketAddr, mpsc::Receiver<()>, JoinHandle<EndpointCounters>) {
    let (tell_addr, addr) = mpsc::channel();
    let (begin, begun) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        runtime().block_on(async {
            let server = Server::bind(([127, 0, 0, 1], 0).into(), &Config::default()).unwrap();
            tell_addr.send(server.local_addr()).unwrap();
            for _ in 0..requests {
                let request = server.accept().await.unwrap();
                begin.send(()).unwrap();
                std::thread::sleep(BLOCK);
                let (message, responder) = request.into_parts();
                responder.reply(message).unwrap();
            }
            assert!(server.shutdown(Duration::from_secs(5)).await);
            server.counters()
        })
    });
    (addr.recv().unwrap(), begun, thread)
}

#[test]
fn a_handler_that_blocks_its_runtime_keeps_its_clients() {
    let (addr, begun, server) = blocking_server(2);
    let client = blocking::Client::bind(&Config::default()).unwrap();
    let first = {
        let client = client.clone();
        std::thread::spawn(move || client.call(addr, "first".into()))
    };
    begun.recv().unwrap();
    // This one comes while nobody there reads, waits its turn, and then blocks again: twice the
    // limit in all.
    let start = Instant::now();
    let second = client.call(addr, "second".into()).unwrap();
    assert!(start.elapsed() > BLOCK);
    assert_eq!(second.into_bytes(), "second");
    assert_eq!(first.join().unwrap().unwrap().into_bytes(), "first");

    let counters = server.join().unwrap().protocol;
    assert!(counters.sent(Kind::Busy) > 0);
    assert_eq!(counters.timeouts, 0);
}

/// The keeper receives long messages, too, and sends grants.
#[test]
fn a_long_request_arrives_while_the_handler_blocks() {
    let (addr, begun, server) = blocking_server(2);
    let client = blocking::Client::bind(&Config::default()).unwrap();
    let first = {
        let client = client.clone();
        std::thread::spawn(move || client.call(addr, "first".into()))
    };
    begun.recv().unwrap();
    let long = client.call(addr, vec![7; 900_000].into()).unwrap();
    assert_eq!(long.len(), 900_000);
    first.join().unwrap().unwrap();
    let counters = server.join().unwrap();
    assert_eq!(counters.protocol.timeouts, 0);
}

/// Client and server share the thread that is blocked.
#[test]
fn a_client_on_the_blocked_thread_waits_as_well() {
    runtime().block_on(async {
        let server = Server::bind(([127, 0, 0, 1], 0).into(), &Config::default()).unwrap();
        let addr = server.local_addr();
        let serving = tokio::spawn(async move {
            let request = server.accept().await.unwrap();
            std::thread::sleep(BLOCK);
            request.reply("done".into()).unwrap();
            let drained = server.shutdown(Duration::from_secs(5)).await;
            (drained, server.counters().protocol)
        });
        let mut config = Config::default();
        // Settings of its own make an endpoint of its own.
        config.protocol.max_peers = 300;
        let client = Client::bind(&config).unwrap();
        let response = client.call(addr, "work".into()).await.unwrap();
        assert_eq!(response.into_bytes(), "done");
        assert_eq!(client.counters(addr).protocol.timeouts, 0);
        let (drained, counters) = serving.await.unwrap();
        assert!(drained);
        assert!(counters.sent(Kind::Busy) > 0);
    });
}
