//! Servers that are killed, replaced, cut off or held up while streams are open.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::*;
use homa_client::BulkPort;
use tokio::net::UdpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_homa::transport::{Channel, Endpoint, Error, Listener, Server};

const SOON: Duration = Duration::from_secs(10);

/// A server on a runtime of its own, which can be killed.
struct Victim {
    runtime: Option<Runtime>,
    addr: SocketAddr,
    service: Service,
}

impl Victim {
    fn start(addr: &str) -> Self {
        Self::try_start(addr).unwrap()
    }

    /// On a thread of its own: one runtime cannot block inside of another.
    fn try_start(addr: &str) -> Result<Self, Error> {
        let start = || {
            let runtime = Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let service = Service::default();
            let uri = format!("homa://{addr}?engine=udp");
            let listener = runtime.block_on(Listener::bind_with(uri, plain()))?;
            let addr = listener.local_addr();
            let router = Server::builder().add_service(big(service.clone()));
            runtime.spawn(router.serve_on([listener]));
            Ok(Self {
                runtime: Some(runtime),
                addr,
                service,
            })
        };
        std::thread::scope(|scope| scope.spawn(start).join().unwrap())
    }

    /// The next one on a port, which is free once the runtime of the last one is gone.
    fn follow(addr: SocketAddr) -> Self {
        let began = Instant::now();
        loop {
            match Self::try_start(&addr.to_string()) {
                Ok(next) => return next,
                Err(error) => assert!(began.elapsed() < SOON, "{error}"),
            }
        }
    }

    fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    async fn client(&self) -> TestClient<Channel> {
        client_of(self.addr, "").await
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One socket is enough, and the way in between has no second one. Packets are those of a network,
/// not of loopback.
fn plain() -> homa_client::Config {
    let mut config = homa_client::Config::default();
    config.bulk_port = BulkPort::Off;
    config.mtu = Some(1500);
    config
}

async fn client_of(addr: SocketAddr, query: &str) -> TestClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("homa://{addr}{query}")).unwrap();
    big_client(endpoint.homa_config(plain()).connect().await.unwrap())
}

/// A stream on which nothing happens by itself.
struct Idle {
    requests: mpsc::Sender<CallRequest>,
    replies: Streaming<CallReply>,
}

async fn idle(client: &mut TestClient<Channel>) -> Idle {
    let (requests, body) = mpsc::channel(1);
    let replies = client.chat(ReceiverStream::new(body)).await.unwrap();
    Idle {
        requests,
        replies: replies.into_inner(),
    }
}

impl Idle {
    async fn says(&mut self, text: &str) {
        self.requests.send(ask(text)).await.unwrap();
        let reply = timeout(SOON, self.replies.message())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(reply.unwrap().text, text);
    }

    /// How it fails, and after how long.
    async fn fails(&mut self) -> (Status, Duration) {
        let began = Instant::now();
        let failed = timeout(SOON, self.replies.message()).await.unwrap();
        (failed.unwrap_err(), began.elapsed())
    }
}

#[tokio::test]
async fn a_killed_server_is_found_within_a_second() {
    for query in ["", "?stream=pull"] {
        let mut victim = Victim::start("127.0.0.1:0");
        let mut client = client_of(victim.addr, query).await;
        let mut streams = Vec::new();
        for _ in 0..10 {
            let mut stream = idle(&mut client).await;
            stream.says("alive").await;
            streams.push(stream);
        }
        victim.kill();
        for stream in &mut streams {
            let (status, after) = stream.fails().await;
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert!(after < Duration::from_secs(1), "{query} {after:?} {status}");
        }
        let status = client.call(ask("on")).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
}

#[tokio::test]
async fn a_restarted_server_does_not_know_the_old_streams() {
    let mut victim = Victim::start("127.0.0.1:0");
    let addr = victim.addr;
    let mut client = victim.client().await;
    let mut stream = idle(&mut client).await;
    stream.says("alive").await;
    victim.kill();
    let next = Victim::follow(addr);
    let (status, after) = stream.fails().await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(after < Duration::from_secs(1), "{after:?}");
    // The channel goes on with the new one.
    let began = Instant::now();
    while let Err(status) = client.call(ask("on")).await {
        assert!(began.elapsed() < SOON, "{status}");
    }
    let mut stream = idle(&mut client).await;
    stream.says("again").await;
    assert!(next.service.started() >= 2);
}

/// Forwards datagrams between one client and a server that has the same port on another address.
/// It can hold them up, or lose them.
struct Link {
    addr: SocketAddr,
    holds: Arc<AtomicBool>,
    loses: Arc<AtomicBool>,
    forwarded: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Link {
    async fn to(server: SocketAddr) -> Self {
        let addr = SocketAddr::new([127, 0, 0, 2].into(), server.port());
        let socket = UdpSocket::bind(addr).await.unwrap();
        let (holds, loses) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let forwarded = Arc::<AtomicU64>::default();
        let task = tokio::spawn({
            let (holds, loses, forwarded) = (holds.clone(), loses.clone(), forwarded.clone());
            async move {
                let mut client = None;
                let mut packet = vec![0; 70_000];
                loop {
                    let (len, from) = socket.recv_from(&mut packet).await.unwrap();
                    while holds.load(Ordering::SeqCst) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    let to = if from == server {
                        client
                    } else {
                        client = Some(from);
                        Some(server)
                    };
                    if let Some(to) = to
                        && !loses.load(Ordering::SeqCst)
                    {
                        socket.send_to(&packet[..len], to).await.unwrap();
                        forwarded.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
        });
        Self {
            addr,
            holds,
            loses,
            forwarded,
            task,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_host_is_found_within_three_seconds() {
    for query in ["", "?stream=pull"] {
        let victim = Victim::start("127.0.0.1:0");
        let link = Link::to(victim.addr).await;
        let mut client = client_of(link.addr, query).await;
        let mut stream = idle(&mut client).await;
        stream.says("alive").await;
        link.loses.store(true, Ordering::SeqCst);
        let (status, after) = stream.fails().await;
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(after < Duration::from_secs(3), "{query} {after:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_of_300_ms_loses_nothing() {
    for query in ["", "?stream=pull"] {
        let victim = Victim::start("127.0.0.1:0");
        let link = Link::to(victim.addr).await;
        let mut client = client_of(link.addr, query).await;
        let mut quiet = idle(&mut client).await;
        quiet.says("alive").await;
        let request = CallRequest {
            count: 3_000,
            reply_bytes: 1_000,
            ..ask("")
        };
        let mut busy = client.down(request).await.unwrap().into_inner();
        for number in 0..3_000 {
            if number % 1_000 == 500 {
                link.holds.store(true, Ordering::SeqCst);
                let holds = link.holds.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    holds.store(false, Ordering::SeqCst);
                });
            }
            let reply = timeout(SOON, busy.message()).await.unwrap().unwrap();
            assert_eq!(reply.unwrap().text, number.to_string());
        }
        assert!(busy.message().await.unwrap().is_none());
        quiet.says("still").await;
        assert_eq!(victim.service.started(), 2);
        assert!(link.forwarded.load(Ordering::SeqCst) > 1_000);
    }
}

#[tokio::test]
async fn a_client_that_is_gone_ends_its_handlers() {
    let victim = Victim::start("127.0.0.1:0");
    let addr = victim.addr;
    // A client with a runtime of its own, which is killed without a word.
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let opened = runtime.spawn(async move {
        let mut client = client_of(addr, "").await;
        let request = CallRequest {
            count: 1_000_000,
            pause: true,
            ..ask("")
        };
        let mut down = client.down(request).await.unwrap().into_inner();
        down.message().await.unwrap().unwrap();
        std::mem::forget(down);
    });
    opened.await.unwrap();
    assert_eq!(victim.service.running(), 1);
    runtime.shutdown_background();
    // The next piece finds nobody.
    eventually("the handler is gone", || victim.service.running() == 0).await;
}

/// Nothing of the client reaches the server but its answers to what is pushed.
#[tokio::test]
async fn a_stream_that_only_flows_down_is_not_given_up() {
    let victim = Victim::start("127.0.0.1:0");
    let mut client = victim.client().await;
    let request = CallRequest {
        count: 1_000_000,
        pause: true,
        ..ask("")
    };
    let mut down = client.down(request).await.unwrap().into_inner();
    let began = Instant::now();
    // A client is given up after 10 s.
    while began.elapsed() < Duration::from_secs(12) {
        let reply = timeout(SOON, down.message()).await.unwrap().unwrap();
        assert!(reply.is_some());
    }
}

#[tokio::test]
async fn a_failed_stream_that_nobody_reads_costs_nothing() {
    let mut victim = Victim::start("127.0.0.1:0");
    let endpoint = Endpoint::from_shared(format!("homa://{}", victim.addr)).unwrap();
    let channel = endpoint.homa_config(plain()).connect().await.unwrap();
    let mut client = big_client(channel.clone());
    let unread = idle(&mut client).await;
    victim.kill();
    let lost = || channel.call_counters().lost_peers == 1;
    within(SOON, "it is found", lost).await;
    let sent = || channel.monitor().unwrap().counters().unwrap().packets_sent;
    let before = sent();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(sent() - before < 20, "{} packets", sent() - before);
    assert_eq!(channel.call_counters().lost_peers, 1);
    drop(unread);
}

#[tokio::test]
async fn the_first_stream_after_a_restart_works() {
    let mut victim = Victim::start("127.0.0.1:0");
    let addr = victim.addr;
    let mut client = victim.client().await;
    client.call(ask("on")).await.unwrap();
    victim.kill();
    let next = Victim::follow(addr);
    let mut stream = idle(&mut client).await;
    stream.says("hello").await;
    assert_eq!(next.service.started(), 1);
}

/// Longer than what one message survives, shorter than what the client takes for the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_of_one_and_a_half_seconds_ends_streams_on_both_sides_or_on_none() {
    let victim = Victim::start("127.0.0.1:0");
    let link = Link::to(victim.addr).await;
    let mut client = client_of(link.addr, "").await;
    let mut quiet = idle(&mut client).await;
    quiet.says("alive").await;
    let request = CallRequest {
        count: 1_000_000,
        pause: true,
        ..ask("")
    };
    let mut busy = client.down(request).await.unwrap().into_inner();
    assert!(busy.message().await.unwrap().is_some());
    link.loses.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    link.loses.store(false, Ordering::SeqCst);
    // What was pushed meanwhile is lost, and the client hears of it.
    let status = loop {
        match timeout(SOON, busy.message()).await.unwrap() {
            Ok(reply) => assert!(reply.is_some(), "a clean end"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    within(SOON, "only the other stream is left", || {
        victim.service.running() == 1
    })
    .await;
    quiet.says("still").await;
}
