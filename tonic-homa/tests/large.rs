//! Messages of all sizes in both directions, over the limit of one Homa message, too.

mod common;

use common::*;
use tonic_homa::transport::Server;

/// Pushed and pulled.
const MODES: [&str; 2] = ["", "?stream=pull"];

async fn echoes(client: &mut TestClient<tonic_homa::transport::Channel>, up: usize, down: usize) {
    let request = CallRequest {
        payload: (0..up).map(|at| (at % 251) as u8).collect(),
        reply_bytes: down as u32,
        ..ask("")
    };
    let reply = client.call(request).await.unwrap().into_inner();
    assert_eq!(reply.received_bytes as usize, up);
    let expected = if down == 0 { up } else { down };
    assert_eq!(reply.payload.len(), expected);
    if down == 0 {
        let same = |(at, byte): (usize, &u8)| *byte == (at % 251) as u8;
        assert!(reply.payload.iter().enumerate().all(same), "{up}");
    }
}

#[tokio::test]
async fn messages_over_one_homa_message_go_in_pieces() {
    for mode in MODES {
        let host = serve("homa").await;
        let mut client = host.client_at(mode).await;
        for size in [999_000, 999_990, 1_000_000, 1_000_001, 4 << 20, 10_000_000] {
            echoes(&mut client, size, 1).await;
            echoes(&mut client, 1, size).await;
            echoes(&mut client, size, 0).await;
        }
        assert_eq!(host.service.finished(), 18, "{mode}");
    }
}

/// Every size around the one at which a second message is needed.
#[tokio::test]
async fn the_change_from_one_message_to_several_is_seamless() {
    let host = serve("homa").await;
    let mut client = host.client().await;
    for size in 999_700..999_960 {
        if size % 13 == 0 {
            echoes(&mut client, size, 0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_mebibytes_work_where_tonics_limits_are_raised() {
    for mode in MODES {
        let host = serve("homa").await;
        let mut client = host.client_at(mode).await;
        echoes(&mut client, 64 << 20, 1).await;
        echoes(&mut client, 1, 64 << 20).await;
    }
}

/// The limit of a Homa message can be lowered: calls are then in more pieces.
#[tokio::test]
async fn pieces_are_as_long_as_either_side_allows() {
    let server = Server::builder().max_message_bytes(5_000).unwrap();
    let host = serve_with("homa", server).await;
    for mode in MODES {
        let endpoint = host.endpoint_at(mode).max_message_bytes(3_000).unwrap();
        let mut client = big_client(endpoint.connect().await.unwrap());
        for size in [100, 2_900, 3_100, 4_900, 5_100, 200_000] {
            echoes(&mut client, size, 0).await;
        }
    }
}
