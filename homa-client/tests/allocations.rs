//! How often a short RPC asks the allocator for memory.

use std::hint::black_box;
use std::net::SocketAddr;

use allocation_counter::measure;
use homa_client::{Client, Config, Server};

const PAYLOAD: [u8; 100] = [7; 100];

/// Calls of one round. What belongs to the machine, such as timers that come while it is busy, only
/// adds: the best of many short rounds is what a call needs.
const CALLS: u32 = 20;
const ROUNDS: usize = 50;

/// On both sides together: the request and the response as the application makes them, the
/// packets as they arrive and what was charged for them, the count of references to what is sent, the
/// control messages of each send, and the channel on which the caller waits. There is no room for a
/// twelfth.
const MOST: f64 = 11.8;

/// Of all of these.
const MOST_BYTES: f64 = 835.0;

/// Both ends are on this thread, the only one that is counted.
#[test]
fn a_short_rpc_makes_eleven_allocations() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (client, to) = runtime.block_on(async {
        let server = Server::bind(any, &Config::default()).unwrap();
        let to = server.local_addr();
        tokio::spawn(async move {
            while let Some(request) = server.accept().await {
                let (_, responder) = request.into_parts();
                responder.reply(PAYLOAD.to_vec().into()).unwrap();
            }
        });
        (Client::bind(&Config::default()).unwrap(), to)
    });
    let round = || {
        runtime.block_on(async {
            for _ in 0..CALLS {
                let request = PAYLOAD.to_vec().into();
                black_box(client.call(to, request).await.unwrap());
            }
        });
    };
    (0..ROUNDS).for_each(|_| round());
    let (mut count, mut bytes) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        let info = measure(round);
        count = count.min(info.count_total as f64 / f64::from(CALLS));
        bytes = bytes.min(info.bytes_total as f64 / f64::from(CALLS));
    }
    println!("an RPC of 100 B each way: {count:.2} allocations, {bytes:.0} B");
    assert!(count <= MOST, "{count} allocations");
    assert!(bytes <= MOST_BYTES, "{bytes} B");
}
