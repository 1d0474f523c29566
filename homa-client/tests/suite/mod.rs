//! What holds for every endpoint, on real sockets of the loopback device: the handles, their
//! errors, and what one RPC costs. The files that include this say which settings it is about.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::base_config;
use bytes::Bytes;
use homa_client::{
    BindError, CallError, Client, Config, Executed, Message, Server, Unreachable, blocking,
};

fn localhost(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// An echo server on a free port, running until the runtime ends.
fn echo(config: &Config) -> (Arc<Server>, SocketAddr) {
    let server = Arc::new(Server::bind(localhost(0), config).unwrap());
    let addr = server.local_addr();
    let accepting = server.clone();
    tokio::spawn(async move {
        while let Some(request) = accepting.accept().await {
            let (message, responder) = request.into_parts();
            tokio::spawn(async move { responder.reply(message).unwrap() });
        }
    });
    (server, addr)
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_size_comes_back_byte_for_byte() {
    let (_server, addr) = echo(&base_config());
    let client = Client::bind(&base_config()).unwrap();
    for len in [
        1, 100, 1416, 1417, 39_999, 40_000, 40_001, 65_536, 100_000, 1_000_000,
    ] {
        let body = pattern(len);
        let response = client.call(addr, body.clone().into()).await.unwrap();
        assert!(response.into_bytes() == body, "{len} bytes");
    }
}

#[tokio::test]
async fn receive_memory_counts_until_the_message_is_dropped_and_no_longer() {
    let (_server, addr) = echo(&base_config());
    let client = Client::bind(&base_config()).unwrap();
    let response = client.call(addr, pattern(100_000).into()).await.unwrap();
    let used = || client.counters(addr).protocol.pool_used;
    assert!(used() >= 100_000);
    drop(response);
    // The driver runs on this very thread: it has not noticed yet.
    assert_eq!(used(), 0);
}

#[tokio::test]
async fn peers_may_use_packets_of_different_sizes() {
    let mut jumbo = base_config();
    jumbo.mtu = Some(9000);
    for (ours, theirs) in [(&base_config(), &jumbo), (&jumbo, &base_config())] {
        let (_server, addr) = echo(theirs);
        let client = Client::bind(ours).unwrap();
        let body = pattern(200_000);
        let response = client.call(addr, body.clone().into()).await.unwrap();
        assert!(response.into_bytes() == body);
    }
}

#[tokio::test]
async fn ipv6_and_a_dual_stack_server() {
    let Ok(server) = Server::bind("[::]:0".parse().unwrap(), &base_config()) else {
        println!("skipped: no IPv6 here");
        return;
    };
    let port = server.local_addr().port();
    let server = Arc::new(server);
    let accepting = server.clone();
    tokio::spawn(async move {
        while let Some(request) = accepting.accept().await {
            let answer = format!("{} {:?}", request.peer().ip(), request.local_ip());
            request.reply(answer.into()).unwrap();
        }
    });
    let client = Client::bind(&base_config()).unwrap();
    for (host, expect) in [
        ("[::1]", "::1 Some(::1)"),
        ("127.0.0.1", "::ffff:127.0.0.1 Some(::ffff:127.0.0.1)"),
    ] {
        let to = format!("{host}:{port}").parse().unwrap();
        let response = client.call(to, "who am I".into()).await.unwrap();
        assert_eq!(response.into_bytes(), expect);
    }
}

/// Sockets of both IP versions that are read by the same thread do not confuse each other's
/// addresses: every call comes from the same peer and runs once.
#[tokio::test]
async fn both_ip_versions_on_one_thread() {
    let (v4, v4_addr) = echo(&base_config());
    let Ok(v6) = Server::bind("[::1]:0".parse().unwrap(), &base_config()) else {
        println!("skipped: no IPv6 here");
        return;
    };
    let client = Client::bind(&base_config()).unwrap();
    for _ in 0..20 {
        client.call(v4_addr, "four".into()).await.unwrap();
        let call = client.call(v6.local_addr(), "six".into());
        let request = v6.accept().await.unwrap();
        assert_eq!(request.peer().ip(), v6.local_addr().ip());
        request.reply("six".into()).unwrap();
        call.await.unwrap();
    }
    for counters in [v4.counters(), v6.counters()] {
        assert_eq!(counters.protocol.requests_delivered, 20);
        assert_eq!(counters.protocol.live_peers, 1);
    }
}

/// The data path: a long message leaves and arrives many packets at a time, a short one leaves
/// on its caller's thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_messages_are_batched_and_short_ones_leave_inline() {
    // As on a network.
    let mut config = base_config();
    config.mtu = Some(1500);
    let (server, addr) = echo(&config);
    // Settings of its own make an endpoint of its own.
    config.protocol.max_peers = 100;
    let client = Client::bind(&config).unwrap();
    // Proves the bulk ports.
    client.call(addr, pattern(500_000).into()).await.unwrap();

    let before = client.counters(addr);
    let server_before = server.counters();
    for _ in 0..20 {
        client.call(addr, pattern(500_000).into()).await.unwrap();
    }
    let counters = client.counters(addr);
    let server_counters = server.counters();
    if !(counters.gso && counters.gro) {
        println!("skipped: no segmentation offload on this system");
        return;
    }
    // Grants and acks are packets, too; the messages are most of them.
    for (now, then) in [(&counters, &before), (&server_counters, &server_before)] {
        let per_send = (now.packets_sent - then.packets_sent) / (now.sends - then.sends);
        let per_receive =
            (now.packets_received - then.packets_received) / (now.receives - then.receives);
        println!("{per_send} packets per send, {per_receive} per receive");
        // Each shard grants its share, in smaller pieces. The last RTTbytes take four sends, one for
        // each level.
        let shards = base_config().shards.unwrap_or(1) as u64;
        assert!(per_send >= 14 / shards, "{per_send} packets per send");
        assert!(
            per_receive >= 8 / shards,
            "{per_receive} packets per receive"
        );
    }

    let before = client.counters(addr);
    for _ in 0..100 {
        client.call(addr, pattern(100).into()).await.unwrap();
    }
    let counters = client.counters(addr);
    let inline = counters.inline_sends - before.inline_sends;
    assert!(
        inline >= 100,
        "{inline} of 100 requests were sent by their caller"
    );
}

/// Tasks whose responses came together send together; the same for those that answer.
#[tokio::test]
async fn many_calls_in_flight_share_sends() {
    const IN_FLIGHT: u64 = 32;
    const CALLS: u64 = 10;
    /// On a busy machine tasks keep their thread for long, and then nobody waits for a while: the
    /// best round tells what a quiet one does.
    const ROUNDS: usize = 50;
    let (server, addr) = echo(&base_config());
    let mut config = base_config();
    config.protocol.max_peers = 101;
    let client = Client::bind(&config).unwrap();
    client.call(addr, pattern(100).into()).await.unwrap();
    if !client.counters(addr).gso {
        println!("skipped: no segmentation offload on this system");
        return;
    }
    let sends = || [client.counters(addr).sends, server.counters().sends];
    let mut best = [u64::MAX; 2];
    for _ in 0..ROUNDS {
        let before = sends();
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let client = client.clone();
            callers.spawn(async move {
                for _ in 0..CALLS {
                    let response = client.call(addr, pattern(100).into()).await.unwrap();
                    assert_eq!(response.len(), 100);
                }
            });
        }
        while let Some(ended) = callers.join_next().await {
            ended.unwrap();
        }
        let after = sends();
        for side in 0..2 {
            best[side] = best[side].min(after[side] - before[side]);
        }
    }
    println!("{best:?} sends for {} messages", IN_FLIGHT * CALLS);
    assert!(
        best.into_iter()
            .all(|sends| sends < IN_FLIGHT * CALLS * 3 / 4)
    );
}

/// Of requests that came together one may be slow; the replies to the others leave all the same.
#[test]
fn replies_do_not_wait_for_a_handler_that_blocks() {
    const FAST: usize = 7;
    const ROUNDS: usize = 9;
    let workers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (go_on, slow) = std::sync::mpsc::channel();
    let slow = Arc::new(std::sync::Mutex::new(slow));
    let addr = workers.block_on(async {
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), &base_config()).unwrap();
        let addr = server.local_addr();
        tokio::spawn(async move {
            while let Some(request) = server.accept().await {
                let slow = slow.clone();
                tokio::spawn(async move {
                    let (message, responder) = request.into_parts();
                    if message == b"slow"[..] {
                        slow.lock().unwrap().recv().unwrap();
                    }
                    let _ = responder.reply(message);
                });
            }
        });
        addr
    });
    let here = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let took = here.block_on(async {
        let client = Client::bind(&base_config()).unwrap();
        let mut took = Vec::new();
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let slow = client.call(addr, Message::from("slow"));
            let fast: Vec<_> = (0..FAST)
                .map(|_| client.call(addr, Message::from("fast")))
                .collect();
            for call in fast {
                call.await.unwrap();
            }
            took.push(started.elapsed());
            go_on.send(()).unwrap();
            slow.await.unwrap();
        }
        took
    });
    // Without another worker's help all would wait for the keeper, 20 ms or more; on a busy machine
    // some take as long by themselves.
    let best = took.iter().min().unwrap();
    assert!(*best < Duration::from_millis(10), "{took:?}");
}

/// Packets leave at the link's speed, not one per tick of the runtime's timers.
#[tokio::test]
async fn pacing_is_finer_than_a_millisecond() {
    let (_server, addr) = echo(&base_config());
    let mut config = base_config();
    config.protocol.link_mbps = Some(100);
    let client = Client::bind(&config).unwrap();
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        client.call(addr, pattern(300_000).into()).await.unwrap();
        best = best.min(start.elapsed());
    }
    // 24 ms on the link, and 211 packets.
    assert!(best > Duration::from_millis(24), "{best:?}");
    assert!(best < Duration::from_millis(150), "{best:?}");
}

#[tokio::test]
async fn nobody_there_is_told_at_once() {
    // Bound and closed again: nobody has that port now.
    let addr = UdpSocket::bind(localhost(0)).unwrap().local_addr().unwrap();
    let client = Client::bind(&base_config()).unwrap();
    let start = Instant::now();
    let error = client.call(addr, "anyone?".into()).await.unwrap_err();
    assert!(
        matches!(error, CallError::PeerUnreachable { reason: Unreachable::Port, peer, .. } if peer == addr),
        "{error:?}"
    );
    assert_eq!(error.executed(), Executed::No);
    assert!(
        start.elapsed() < Duration::from_millis(500),
        "{:?}",
        start.elapsed()
    );
}

/// A failed call must not end another one, nor give it its response.
#[tokio::test]
async fn calls_that_fail_are_dropped_and_started_at_once_do_not_mix() {
    let dead = UdpSocket::bind(localhost(0)).unwrap().local_addr().unwrap();
    let (_server, live) = echo(&base_config());
    let client = Client::bind(&base_config()).unwrap();
    for round in 0..50 {
        let failing = client.call(dead, "a".into());
        let first = client.call(live, format!("first {round}").into());
        drop(failing);
        let second = client.call(live, format!("second {round}").into());
        assert_eq!(first.await.unwrap().into_bytes(), format!("first {round}"));
        assert_eq!(
            second.await.unwrap().into_bytes(),
            format!("second {round}")
        );
    }
}

/// After a shutdown that left nothing undone, the port can be served again at once.
#[tokio::test]
async fn a_port_is_free_after_shutdown() {
    let (server, addr) = echo(&base_config());
    let client = Client::bind(&base_config()).unwrap();
    client.call(addr, "x".into()).await.unwrap();
    assert!(server.shutdown(Duration::from_secs(5)).await);
    // The task that accepted has ended with the server.
    tokio::task::yield_now().await;
    drop(server);
    Server::bind(addr, &base_config()).unwrap();
}

/// A runtime that ends before it has ever driven the endpoint closes it all the same.
#[test]
fn a_runtime_that_ends_early_closes_its_endpoints() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = runtime
        .block_on(async { Client::bind(&base_config()) })
        .unwrap();
    drop(runtime);
    let other = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = other
        .block_on(client.call(localhost(4000), "x".into()))
        .unwrap_err();
    assert!(matches!(error, CallError::Closed), "{error:?}");
}

/// The request had arrived when the server died: nobody knows how far it got.
#[tokio::test]
async fn a_server_that_dies_with_the_request_may_have_run_it() {
    let server = tokio::net::UdpSocket::bind(localhost(0)).await.unwrap();
    let addr = server.local_addr().unwrap();
    let client = Client::bind(&base_config()).unwrap();
    let call = tokio::spawn(client.call(addr, "run this".into()));
    server.recv_from(&mut [0; 1500]).await.unwrap();
    drop(server);
    let error = call.await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            CallError::PeerUnreachable {
                reason: Unreachable::Port,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(error.executed(), Executed::Maybe);
}

/// Requests that nobody has accepted are refused when their server goes away; those that were
/// accepted can still be answered.
#[tokio::test]
async fn a_dropped_server_refuses_what_nobody_has_accepted() {
    let server = Server::bind(localhost(0), &base_config()).unwrap();
    let addr = server.local_addr();
    // On a busy machine the server might be asked before it is dropped, and say that it is at work.
    let mut patient = base_config();
    patient.protocol.timers.resend = patient.protocol.timers.timeout;
    let client = Client::bind(&patient).unwrap();
    let accepted = tokio::spawn(client.call(addr, "accepted".into()));
    let request = server.accept().await.unwrap();
    let waiting = tokio::spawn(client.call(addr, "waiting".into()));
    let monitor = server.monitor();
    while monitor.counters().unwrap().protocol.requests_delivered < 2 {
        tokio::task::yield_now().await;
    }
    drop(server);
    let error = waiting.await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            CallError::PeerUnreachable {
                reason: Unreachable::HomaPort,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(error.executed(), Executed::No);
    request.reply("answered".into()).unwrap();
    assert_eq!(accepted.await.unwrap().unwrap().into_bytes(), "answered");
}

/// A silent host, as behind a firewall: the protocol's own limit ends the call.
#[tokio::test]
async fn a_silent_peer_times_out() {
    let silent = UdpSocket::bind(localhost(0)).unwrap();
    let client = Client::bind(&base_config()).unwrap();
    let error = client
        .call(silent.local_addr().unwrap(), "hello?".into())
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error:?}");
    assert_eq!(error.executed(), Executed::Maybe);
}

/// The server is there, but takes its time: it says so, and is waited for.
#[tokio::test]
async fn a_slow_server_is_waited_for() {
    let server = Server::bind(localhost(0), &base_config()).unwrap();
    let addr = server.local_addr();
    tokio::spawn(async move {
        let request = server.accept().await.unwrap();
        // Longer than the silence limit; the one sleep here is what is tested.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        request.reply("at last".into()).unwrap();
        server.shutdown(Duration::from_secs(5)).await;
    });
    let client = Client::bind(&base_config()).unwrap();
    assert_eq!(
        client.call(addr, "slow".into()).await.unwrap().into_bytes(),
        "at last"
    );
}

#[tokio::test]
async fn bad_messages_and_addresses_are_refused_before_sending() {
    let client = Client::bind(&base_config()).unwrap();
    for len in [0, 1_000_001] {
        let error = client
            .call(localhost(4000), vec![0; len].into())
            .await
            .unwrap_err();
        let CallError::BadSize {
            size,
            limit: 1_000_000,
            message,
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!((size, message.len()), (len, len));
    }
    for addr in ["127.0.0.1:0", "0.0.0.0:4000", "224.0.0.1:4000"] {
        let error = client
            .call(addr.parse().unwrap(), "x".into())
            .await
            .unwrap_err();
        assert!(matches!(error, CallError::BadAddress { .. }), "{error:?}");
        assert_eq!(error.executed(), Executed::No);
    }
}

#[tokio::test]
async fn a_reply_of_the_wrong_size_can_be_replaced() {
    let server = Server::bind(localhost(0), &base_config()).unwrap();
    let addr = server.local_addr();
    tokio::spawn(async move {
        let request = server.accept().await.unwrap();
        let error = request.reply(vec![0; 1_000_001].into()).unwrap_err();
        let homa_client::ReplyError::BadSize {
            size: 1_000_001,
            responder,
            ..
        } = error
        else {
            panic!("{error:?}");
        };
        responder.reply("too long".into()).unwrap();
        server.shutdown(Duration::from_secs(5)).await;
    });
    let client = Client::bind(&base_config()).unwrap();
    assert_eq!(
        client.call(addr, "big".into()).await.unwrap().into_bytes(),
        "too long"
    );
}

/// Replies that are still being sent fill the send buffer: the next is handed back, and says why.
#[tokio::test]
async fn a_reply_that_finds_no_room_is_handed_back() {
    let mut config = base_config();
    config.protocol.send_bytes = 1_000_000;
    let server = Server::bind(localhost(0), &config).unwrap();
    let addr = server.local_addr();
    let client = Client::bind(&base_config()).unwrap();
    let first = tokio::spawn(client.call(addr, "first".into()));
    let second = tokio::spawn(client.call(addr, "second".into()));
    let requests = [
        server.accept().await.unwrap(),
        server.accept().await.unwrap(),
    ];
    let [one, two] = requests;
    one.reply(vec![1; 800_000].into()).unwrap();
    let error = two.reply(vec![2; 800_000].into()).unwrap_err();
    assert!(
        error.to_string().contains("send_bytes is full (1000000)"),
        "{error}"
    );
    let homa_client::ReplyError::Busy {
        responder, reply, ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(reply.len(), 800_000);
    responder.reply("sorry".into()).unwrap();
    let one = first.await.unwrap().unwrap().len();
    let two = second.await.unwrap().unwrap().len();
    assert_eq!(one.min(two), 5);
    assert_eq!(one.max(two), 800_000);
}

#[tokio::test]
async fn servers_want_a_port_of_their_own() {
    let server = Server::bind(localhost(0), &base_config()).unwrap();
    let addr = server.local_addr();
    assert!(addr.port() < 32_768);
    let taken = Server::bind(addr, &base_config()).unwrap_err();
    assert!(matches!(taken, BindError::AddressInUse { .. }), "{taken:?}");
    assert!(taken.to_string().contains(&addr.to_string()), "{taken}");
    let high = Server::bind(localhost(40_000), &base_config()).unwrap_err();
    assert!(
        matches!(high, BindError::PortOutOfRange { port: 40_000 }),
        "{high:?}"
    );
    let foreign = Server::bind("192.0.2.1:4000".parse().unwrap(), &base_config()).unwrap_err();
    assert!(matches!(foreign, BindError::Socket { .. }), "{foreign:?}");
    let mut config = base_config();
    config.mtu = Some(100);
    let bad = Client::bind(&config).unwrap_err();
    assert!(bad.to_string().contains("mtu = 100"), "{bad}");
}

#[test]
fn asynchronous_handles_need_a_runtime() {
    let error = Client::bind(&base_config()).unwrap_err();
    assert!(matches!(error, BindError::NoRuntime), "{error:?}");
}

/// Shutdown refuses new requests, and lets the accepted ones finish.
#[tokio::test]
async fn shutdown_finishes_what_was_accepted() {
    let server = Arc::new(Server::bind(localhost(0), &base_config()).unwrap());
    let addr = server.local_addr();
    let client = Client::bind(&base_config()).unwrap();
    let call = tokio::spawn(client.call(addr, "first".into()));
    let request = server.accept().await.unwrap();
    let stopping = server.clone();
    let stop = tokio::spawn(async move { stopping.shutdown(Duration::from_secs(10)).await });
    assert!(server.accept().await.is_none());
    let refused = client.call(addr, "second".into()).await.unwrap_err();
    assert!(
        matches!(
            refused,
            CallError::PeerUnreachable {
                reason: Unreachable::HomaPort,
                ..
            }
        ),
        "{refused:?}"
    );
    assert_eq!(refused.executed(), Executed::No);
    request.reply("done".into()).unwrap();
    assert_eq!(call.await.unwrap().unwrap().into_bytes(), "done");
    assert!(stop.await.unwrap());
}

/// A dropped call ends at once; the endpoint serves others.
#[tokio::test]
async fn a_dropped_call_leaves_nothing_behind() {
    let (server, addr) = echo(&base_config());
    let mut config = base_config();
    config.protocol.max_peers = 200;
    let client = Client::bind(&config).unwrap();
    for _ in 0..100 {
        drop(client.call(addr, pattern(50_000).into()));
    }
    assert_eq!(client.counters(addr).protocol.live_rpcs, 0);
    client.call(addr, "still there".into()).await.unwrap();
    assert!(server.shutdown(Duration::from_secs(10)).await);
}

#[test]
fn blocking_handles_need_no_runtime() {
    let server = Arc::new(blocking::Server::bind(localhost(0), &base_config()).unwrap());
    let addr = server.local_addr();
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let server = server.clone();
            std::thread::spawn(move || {
                while let Some(request) = server.accept() {
                    let (message, responder) = request.into_parts();
                    if message != *b"never".as_slice() {
                        responder.reply(message).unwrap();
                    }
                }
            })
        })
        .collect();
    let client = blocking::Client::bind(&base_config()).unwrap();
    let callers: Vec<_> = (0..4)
        .map(|thread| {
            let client = client.clone();
            std::thread::spawn(move || {
                for round in 0..100 {
                    let body = pattern(1 + thread * 1000 + round);
                    let response = client.call(addr, body.clone().into()).unwrap();
                    assert_eq!(response.into_bytes(), body);
                }
            })
        })
        .collect();
    callers
        .into_iter()
        .for_each(|caller| caller.join().unwrap());
    let late = client.call_timeout(addr, Message::from("never"), Duration::from_millis(50));
    assert!(late.unwrap().is_none());
    assert!(server.shutdown(Duration::from_secs(5)));
    workers
        .into_iter()
        .for_each(|worker| worker.join().unwrap());
}
