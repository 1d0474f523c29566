//! What a unary call costs on the wire.

mod common;

use common::*;
use homa_client::engine::wire::Kind;

/// After a warm-up call, 100 B there and back are one DATA packet each way; the rest, if any, is
/// acknowledgement.
#[tokio::test]
async fn a_short_unary_call_is_one_packet_each_way() {
    let listener = tonic_homa::transport::Listener::bind("homa://127.0.0.1:0")
        .await
        .unwrap();
    let uri = listener.uri();
    let server = listener.monitor().unwrap();
    let router = tonic_homa::transport::Server::builder().add_service(big(Service::default()));
    tokio::spawn(router.serve_on([listener]));
    let endpoint = tonic_homa::transport::Endpoint::from_shared(uri).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let wire = channel.monitor().unwrap();
    let mut client = big_client(channel);
    let request = || CallRequest {
        payload: vec![7; 100],
        ..CallRequest::default()
    };
    client.call(request()).await.unwrap();

    let client_before = wire.counters().unwrap().protocol;
    let server_before = server.counters().unwrap().protocol;
    let reply = client.call(request()).await.unwrap().into_inner();
    assert_eq!(reply.payload, [7; 100]);
    let client_after = wire.counters().unwrap().protocol;
    let server_after = server.counters().unwrap().protocol;
    for (side, before, after) in [
        ("client", client_before, client_after),
        ("server", server_before, server_after),
    ] {
        for kind in Kind::ALL {
            let sent = after.sent(kind) - before.sent(kind);
            match kind {
                Kind::Data => assert_eq!(sent, 1, "{side}"),
                Kind::Ack | Kind::NeedAck => assert!(sent <= 1, "{side}: {sent} {kind:?}"),
                _ => assert_eq!(sent, 0, "{side}: {kind:?}"),
            }
        }
    }
}
