//! A bad network, made up: every byte still arrives, and every request runs once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use homa_client::{Client, Config, Faults, Message, Server};

fn localhost() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn faulty(change: impl FnOnce(&mut Faults)) -> Config {
    let mut faults = Faults::default();
    change(&mut faults);
    let mut config = Config::default();
    config.faults = Some(faults);
    config
}

/// A message that begins with its number and has a pattern of its own.
fn message(number: u64, len: usize) -> Bytes {
    let rest = (0..len).map(|at| ((at as u64 * (number | 1)) >> 3) as u8);
    number.to_be_bytes().into_iter().chain(rest).collect()
}

fn number(message: &Message) -> u64 {
    let bytes = message.clone().into_bytes();
    u64::from_be_bytes(bytes[..8].try_into().unwrap())
}

/// An echo server that notes how often each request was run.
fn echo(config: &Config) -> (Arc<Server>, Arc<Mutex<HashMap<u64, u32>>>) {
    let server = Arc::new(Server::bind(localhost(), config).unwrap());
    let runs: Arc<Mutex<HashMap<u64, u32>>> = Arc::default();
    let (accepting, counting) = (server.clone(), runs.clone());
    tokio::spawn(async move {
        while let Some(request) = accepting.accept().await {
            let (message, responder) = request.into_parts();
            *counting
                .lock()
                .unwrap()
                .entry(number(&message))
                .or_default() += 1;
            responder.reply(message).unwrap();
        }
    });
    (server, runs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_reorder_delay_and_duplication_are_mended() {
    let config = faulty(|faults| {
        faults.loss_ppm = 50_000;
        faults.reorder_ppm = 50_000;
        faults.duplicate_ppm = 50_000;
        faults.delay_ppm = 20_000;
        faults.delay = Duration::from_millis(5);
    });
    let (server, runs) = echo(&config);
    let addr = server.local_addr();
    let client = Client::bind(&config).unwrap();
    let mut callers = Vec::new();
    for caller in 0..8 {
        let client = client.clone();
        callers.push(tokio::spawn(async move {
            for round in 0..25 {
                let number = caller * 25 + round;
                let len = [1, 1000, 5000, 60_000, 300_000][round as usize % 5];
                let body = message(number, len);
                let response = client.call(addr, body.clone().into()).await.unwrap();
                assert!(response.into_bytes() == body, "message {number}");
            }
        }));
    }
    for caller in callers {
        caller.await.unwrap();
    }
    let runs = runs.lock().unwrap().clone();
    assert_eq!(runs.len(), 200);
    assert!(runs.values().all(|&count| count == 1), "{runs:?}");
    for counters in [client.counters(addr), server.counters()] {
        let faults = &counters.faults;
        assert!(faults.lost > 50, "{faults:?}");
        assert!(
            faults.reordered > 50 && faults.duplicated > 50,
            "{faults:?}"
        );
        assert!(faults.delayed > 20, "{faults:?}");
        assert_eq!(faults.corrupted, 0);
        assert!(counters.protocol.retransmitted > 0);
    }
    assert!(server.shutdown(Duration::from_secs(10)).await);
    assert_eq!(server.counters().protocol.live_rpcs, 0);
}

/// Held packets leave although nothing else happens on the endpoint.
#[tokio::test]
async fn a_delayed_packet_leaves_in_time() {
    let config = faulty(|faults| {
        faults.delay_ppm = 1_000_000;
        faults.delay = Duration::from_millis(2);
    });
    let (server, _) = echo(&Config::default());
    let client = Client::bind(&config).unwrap();
    for number in 0..20 {
        let body = message(number, 100);
        let response = client.call(server.local_addr(), body.clone().into()).await;
        assert_eq!(response.unwrap().into_bytes(), body);
    }
    let counters = client.counters(server.local_addr());
    assert!(counters.faults.delayed >= 20);
    // A RESEND comes after 10 ms of silence: a busy machine may see one, not one per call.
    let again = counters.protocol.retransmitted;
    assert!(again < 10, "{again} of 20 packets waited for a RESEND");
}

/// Damaged packets may end their own RPC, and nobody else's.
#[tokio::test]
async fn damaged_packets_hurt_nobody_else() {
    let bad = faulty(|faults| faults.corrupt_ppm = 200_000);
    let (server, _) = echo(&Config::default());
    let addr = server.local_addr();
    let damaging = Client::bind(&bad).unwrap();
    let clean = Client::bind(&Config::default()).unwrap();
    for round in 0..50 {
        let bad_call = tokio::spawn(tokio::time::timeout(
            Duration::from_millis(20),
            damaging.call(addr, message(round, 20_000).into()),
        ));
        let body = message(round, 20_000);
        let response = clean.call(addr, body.clone().into()).await.unwrap();
        assert!(response.into_bytes() == body);
        // Whether it fails, hangs or gets wrong bytes does not matter.
        let _ = bad_call.await.unwrap();
    }
    assert!(damaging.counters(addr).faults.corrupted > 50);
}

#[test]
fn rates_are_checked() {
    let config = faulty(|faults| faults.loss_ppm = 1_000_001);
    let error = config.check().unwrap_err().to_string();
    assert!(error.contains("faults.loss_ppm = 1000001"), "{error}");
    let config = faulty(|faults| faults.delay = Duration::from_secs(11));
    assert!(config.check().unwrap_err().to_string().contains("11s"));
}
