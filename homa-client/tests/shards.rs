//! The suite with four engines per endpoint, and what there is to say about shards alone.

mod suite;

use std::sync::Arc;
use std::time::Duration;

use homa_client::{Client, Config, Server};

fn base_config() -> Config {
    let mut config = Config::default();
    config.shards = Some(4);
    config
}

/// Calls among many endpoints, so that every shard has peers; each client is a peer of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_in_all_shards_are_served() {
    const PEERS: usize = 16;
    let mut servers = Vec::new();
    for _ in 0..PEERS {
        let server = Arc::new(Server::bind(([127, 0, 0, 1], 0).into(), &base_config()).unwrap());
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Some(request) = accepting.accept().await {
                let (message, responder) = request.into_parts();
                responder.reply(message).unwrap();
            }
        });
        servers.push(server);
    }
    let clients: Vec<Client> = (0..PEERS)
        .map(|index| {
            let mut config = base_config();
            // Settings of its own make an endpoint of its own.
            config.protocol.max_peers = 1000 + index;
            Client::bind(&config).unwrap()
        })
        .collect();
    let mut calls = Vec::new();
    for (from, client) in clients.iter().enumerate() {
        for (to, server) in servers.iter().enumerate() {
            let (client, addr) = (client.clone(), server.local_addr());
            calls.push(tokio::spawn(async move {
                for len in [10, 3000, 150_000] {
                    let body = vec![(from * PEERS + to) as u8; len];
                    let response = client.call(addr, body.clone().into()).await.unwrap();
                    assert!(response.into_bytes() == body, "{from} to {to}");
                }
            }));
        }
    }
    for call in calls {
        call.await.unwrap();
    }
    let calls = 3 * PEERS as u64;
    for (client, server) in clients.iter().zip(&servers) {
        // Sums over the shards.
        let counters = client.counters(server.local_addr()).protocol;
        assert_eq!(counters.responses_delivered, calls);
        assert_eq!(counters.live_peers, PEERS as u64);
        let counters = server.counters().protocol;
        assert_eq!(counters.requests_delivered, calls);
        assert_eq!(counters.live_peers, PEERS as u64);
    }
    for server in servers {
        assert!(server.shutdown(Duration::from_secs(10)).await);
        assert_eq!(server.monitor().rpcs().unwrap(), []);
    }
}

#[test]
fn their_number_is_checked() {
    for (count, fits) in [(0, false), (1, true), (64, true), (65, false)] {
        let mut config = base_config();
        config.shards = Some(count);
        assert_eq!(config.check().is_ok(), fits, "{count}");
    }
}
