//! How often a unary call asks the allocator for memory, and for how much.

mod common;

use std::hint::black_box;

use allocation_counter::measure;
use common::*;
use tonic_homa::transport::Channel;

/// What a call may ask for, both sides together, with all that tonic, axum and prost do.
struct Case {
    /// Bytes of the request's payload and of the response's.
    payload: usize,
    /// Calls of one round.
    calls: u32,
    most: Most,
}

/// What counts for calls of this length.
enum Most {
    /// Their number.
    Allocations(f64),
    /// Bytes for each byte of payload that goes over. Their number depends on how many packets come
    /// at a time.
    PerByte(f64),
}

const CASES: [Case; 2] = [
    Case {
        payload: 100,
        calls: 20,
        most: Most::Allocations(81.8),
    },
    // The application's own bytes, what prost encodes into, what tonic collects to decode, and what
    // that becomes.
    Case {
        payload: 500_000,
        calls: 2,
        most: Most::PerByte(4.9),
    },
];

/// What belongs to the machine, such as timers that come while it is busy, only adds: the best of
/// many short rounds is what a call needs.
const ROUNDS: usize = 50;

/// An echo: the response is as long as the request.
async fn call(client: &mut TestClient<Channel>, payload: usize, times: u32) {
    for _ in 0..times {
        let request = CallRequest {
            payload: vec![7; payload],
            ..CallRequest::default()
        };
        black_box(client.call(request).await.unwrap());
    }
}

/// Both ends are on this thread, the only one that is counted. TCP is there to compare with.
#[test]
fn a_call_allocates_no_more_than_it_did() {
    let mut missed = Vec::new();
    for scheme in BOTH {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let host = runtime.block_on(serve(scheme));
        let mut client = runtime.block_on(host.client());
        for case in &CASES {
            let (payload, calls) = (case.payload, case.calls);
            let mut round = || runtime.block_on(call(&mut client, payload, calls));
            (0..ROUNDS).for_each(|_| round());
            let (mut count, mut bytes) = (f64::INFINITY, f64::INFINITY);
            for _ in 0..ROUNDS {
                let info = measure(&mut round);
                count = count.min(info.count_total as f64 / f64::from(calls));
                bytes = bytes.min(info.bytes_total as f64 / f64::from(calls));
            }
            let per_byte = bytes / (2 * payload) as f64;
            let figures = format!(
                "{scheme}, {payload} B each way: {count:.2} allocations, {bytes:.0} B, \
                 {per_byte:.2} per byte of payload"
            );
            println!("{figures}");
            let exceeds = match case.most {
                Most::Allocations(most) => count > most,
                Most::PerByte(most) => per_byte > most,
            };
            missed.extend(Some(figures).filter(|_| exceeds && scheme == "homa"));
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
}
