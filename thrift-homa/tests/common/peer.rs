//! A server of the tests' own, without anything of this crate: it sees requests byte for byte and
//! answers as it is told.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use homa_client::blocking::{Request, Server};
use homa_client::{Config, Message};
use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TCompactInputProtocol, TCompactOutputProtocol,
};
use thrift::server::TProcessor;

/// How long anything may take that is expected to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A server on loopback. It stops when this is dropped.
pub(crate) struct Peer {
    server: Arc<Server>,
    workers: Vec<JoinHandle<()>>,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Peer {
    /// Has `answer` take all requests, on two threads.
    pub(crate) fn start(config: &Config, answer: impl Fn(Request) + Send + Sync + 'static) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Arc::new(Server::bind(any, config).expect("a free port"));
        let seen: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let answer = Arc::new(answer);
        let worker = || {
            let (server, seen, answer) = (server.clone(), seen.clone(), answer.clone());
            std::thread::spawn(move || {
                while let Some(request) = server.accept() {
                    let bytes = request.message().clone().into_bytes().to_vec();
                    seen.lock().expect("no panic").push(bytes);
                    answer(request);
                }
            })
        };
        Self {
            workers: vec![worker(), worker()],
            server,
            seen,
        }
    }

    /// Answers each request with what `answer` makes of its bytes.
    pub(crate) fn replying(
        config: &Config,
        answer: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Self::start(config, move |request| {
            let (message, responder) = request.into_parts();
            let reply = answer(&message.into_bytes());
            responder.reply(reply.into()).expect("a valid reply");
        })
    }

    /// Executes the requests, with the thrift crate's own protocols.
    pub(crate) fn processing(
        config: &Config,
        processor: impl TProcessor + Send + Sync + 'static,
    ) -> Self {
        Self::replying(config, move |request| process(&processor, request))
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// The requests that have come so far.
    pub(crate) fn seen(&self) -> Vec<Vec<u8>> {
        self.seen.lock().expect("no panic").clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.server.stop();
        for worker in self.workers.drain(..) {
            let ended = worker.join();
            // Its message was printed by its own thread.
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "a worker panicked"
            );
        }
    }
}

/// The reply to a binary or compact request; 0xF1 if it has none.
pub(crate) fn process(processor: &dyn TProcessor, request: &[u8]) -> Vec<u8> {
    let mut reply = Vec::new();
    let processed = match request.first() {
        Some(0x82) => processor.process(
            &mut TCompactInputProtocol::new(request),
            &mut TCompactOutputProtocol::new(&mut reply),
        ),
        _ => processor.process(
            &mut TBinaryInputProtocol::new(request, true),
            &mut TBinaryOutputProtocol::new(&mut reply, true),
        ),
    };
    processed.expect("the service answers itself");
    if reply.is_empty() { vec![0xF1] } else { reply }
}

/// Bytes from their hexadecimal form.
pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    let hex: String = hex.split_whitespace().collect();
    let pairs = (0..hex.len()).step_by(2).map(|at| &hex[at..at + 2]);
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal"))
        .collect()
}

/// Looks again and again, for things that no call tells of.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// Settings of its own make an endpoint of its own: tests of one process share the others.
pub(crate) fn config(number: usize) -> Config {
    let mut config = Config::default();
    config.protocol.max_peers = 3_000 + number;
    config
}

/// RPCs of the clients with these settings that are under way.
pub(crate) fn live_rpcs(config: &Config, to: SocketAddr) -> u64 {
    let client = homa_client::blocking::Client::bind(config).expect("an endpoint");
    client.counters(to).protocol.live_rpcs
}

/// A reply to nobody in particular.
pub(crate) fn message(bytes: &[u8]) -> Message {
    bytes.to_vec().into()
}
