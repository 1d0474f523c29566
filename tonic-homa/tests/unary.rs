//! Unary calls: the same service and the same client code, Homa or TCP by the URI alone.

mod common;

use std::time::Duration;

use common::*;
use tonic::metadata::{BinaryMetadataValue, MetadataValue};
use tonic::{Code, Request, Status};
use tonic_homa::transport::{Endpoint, Server};

#[tokio::test]
async fn one_service_over_both_transports_by_uri_alone() {
    for scheme in BOTH {
        let host = serve(scheme).await;
        let mut client = TestClient::connect(host.uri.clone()).await.unwrap();
        let reply = client.call(ask("hello")).await.unwrap().into_inner();
        assert_eq!(reply.text, "hello");
        assert_eq!(reply.over_homa, scheme == "homa");
    }
}

#[tokio::test]
async fn one_router_on_both_transports_at_once() {
    use tonic_homa::transport::Listener;

    let listeners = [
        Listener::bind("homa://127.0.0.1:0").await.unwrap(),
        Listener::bind("http://127.0.0.1:0").await.unwrap(),
    ];
    let uris = listeners.each_ref().map(Listener::uri);
    let router = Server::builder().add_service(TestServer::new(Service::default()));
    let server = tokio::spawn(router.serve_on(listeners));
    for uri in uris {
        let mut client = TestClient::connect(uri.clone()).await.unwrap();
        let reply = client.call(ask("x")).await.unwrap().into_inner();
        assert_eq!(reply.over_homa, uri.starts_with("homa"));
    }
    server.abort();
}

/// On real raw sockets, which need root or a capability.
#[tokio::test]
async fn engine_raw_is_ip_protocol_146() {
    use homa_client::BindError;
    use tonic_homa::transport::{Error, Listener};

    let listener = match Listener::bind("homa://127.0.0.1:0?engine=raw").await {
        Ok(listener) => listener,
        Err(Error::Bind(error @ (BindError::NoCapability { .. } | BindError::ModuleLoaded))) => {
            println!("skipped: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let raw = listener.uri();
    assert!(raw.starts_with("homa+raw://127.0.0.1:"), "{raw}");
    let router = Server::builder().add_service(TestServer::new(Service::default()));
    let server = tokio::spawn(router.serve_on([listener]));
    let mut client = TestClient::connect(raw.clone()).await.unwrap();
    let reply = client.call(ask("raw")).await.unwrap().into_inner();
    assert_eq!((reply.text.as_str(), reply.over_homa), ("raw", true));
    // The other carrier does not get there.
    let udp = raw.replace("homa+raw", "homa+udp");
    assert!(TestClient::connect(udp).await.is_err());
    server.abort();
}

#[tokio::test]
async fn metadata_goes_both_ways() {
    for scheme in BOTH {
        let host = serve(scheme).await;
        let mut client = host.client().await;
        let mut request = Request::new(ask("metadata"));
        let metadata = request.metadata_mut();
        metadata.append("x-text", "one".parse().unwrap());
        metadata.append("x-text", "two".parse().unwrap());
        metadata.insert("x-empty", MetadataValue::from_static(""));
        let binary: Vec<u8> = (0..=255).collect();
        metadata.insert_bin("x-data-bin", BinaryMetadataValue::from_bytes(&binary));
        metadata.insert("x-long", "v".repeat(5_000).parse().unwrap());
        let reply = client.call(request).await.unwrap();
        let metadata = reply.metadata();
        let texts: Vec<_> = metadata.get_all("x-text").iter().collect();
        assert_eq!(texts, ["one", "two"], "{scheme}");
        assert_eq!(metadata.get("x-empty").unwrap(), "");
        assert_eq!(metadata.get("x-long").unwrap().len(), 5_000);
        let data = metadata.get_bin("x-data-bin").unwrap().to_bytes().unwrap();
        assert_eq!(data, binary);
    }
}

#[tokio::test]
async fn a_status_arrives_with_everything() {
    for scheme in BOTH {
        let host = serve(scheme).await;
        let mut client = host.client().await;
        for code in 1..=16 {
            let message = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";
            let details: Vec<u8> = (0..=255).collect();
            let mut request = Request::new(CallRequest {
                text: message.into(),
                fail_code: code,
                payload: details.clone(),
                ..CallRequest::default()
            });
            let trailing = BinaryMetadataValue::from_bytes(&[0xAB; 3]);
            request
                .metadata_mut()
                .insert_bin("x-trailing-bin", trailing);
            let status = client.call(request).await.unwrap_err();
            assert_eq!(status.code(), Code::from_i32(code as i32), "{scheme}");
            assert_eq!(status.message(), message);
            assert_eq!(status.details(), details);
            let trailing = status.metadata().get_bin("x-trailing-bin").unwrap();
            assert_eq!(trailing.to_bytes().unwrap(), vec![0xAB; 3]);
        }
    }
}

#[tokio::test]
async fn a_long_status_message_arrives() {
    // HTTP/2 has a limit of 16 KiB for all headers together.
    let host = serve("homa").await;
    let long = "m".repeat(20_000);
    let request = CallRequest {
        fail_code: 5,
        ..ask(&long)
    };
    let status = host.client().await.call(request).await.unwrap_err();
    assert!(status.code() == Code::NotFound && status.message() == long);
}

#[tokio::test]
async fn unknown_methods_and_services_are_unimplemented() {
    for scheme in BOTH {
        let host = serve(scheme).await;
        let channel = host.endpoint().connect().await.unwrap();
        for path in ["/tonic_homa.test.v1.Test/None", "/no.Such/Service", "/"] {
            let mut grpc = tonic::client::Grpc::new(channel.clone());
            grpc.ready().await.unwrap();
            let codec = tonic_prost::ProstCodec::<CallRequest, CallReply>::default();
            let path = http_path(path);
            let status = grpc
                .unary(Request::new(ask("x")), path, codec)
                .await
                .unwrap_err();
            assert_eq!(status.code(), Code::Unimplemented, "{scheme}: {status}");
        }
    }
}

fn http_path(path: &'static str) -> tonic::codegen::http::uri::PathAndQuery {
    tonic::codegen::http::uri::PathAndQuery::from_static(path)
}

#[tokio::test]
async fn messages_of_all_sizes_arrive_whole() {
    let host = serve("homa").await;
    let mut client = host.client().await;
    let packet = 1_416;
    let sizes = [
        0,
        1,
        2,
        100,
        packet - 200,
        packet - 120,
        packet - 100,
        packet,
        packet + 1,
    ];
    for size in sizes
        .into_iter()
        .chain([2 * packet, 20_000, 60_000, 271_828, 999_000])
    {
        let payload: Vec<u8> = (0..size).map(|at| (at * 7 + at / 251) as u8).collect();
        let request = CallRequest {
            payload: payload.clone(),
            ..ask("")
        };
        let reply = client.call(request).await.unwrap().into_inner();
        assert!(reply.payload == payload, "{size}");
    }
}

#[tokio::test]
async fn metadata_over_the_limit_is_refused_where_it_is() {
    let host = serve("homa").await;
    let mut client = host.client().await;
    let with = |len: usize| {
        let mut request = Request::new(ask("x"));
        request
            .metadata_mut()
            .insert("x-long", "v".repeat(len).parse().unwrap());
        request
    };
    assert!(client.call(with(60_000)).await.is_ok());
    let status = client.call(with(70_000)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("65536"), "{status}");
    assert_eq!(host.service.started(), 1);

    // More than the server takes.
    let endpoint = host.endpoint().max_metadata_bytes(200_000).unwrap();
    let mut client = TestClient::new(endpoint.connect().await.unwrap());
    let status = client.call(with(70_000)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("request metadata"), "{status}");

    // More than the client takes back.
    let server = Server::builder().max_metadata_bytes(200_000).unwrap();
    let host = serve_with("homa", server).await;
    let long = CallRequest {
        fail_code: 5,
        ..ask(&"m".repeat(100_000))
    };
    let status = host.client().await.call(long).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("reply metadata"), "{status}");

    // More than the server sends.
    let host = serve("homa").await;
    let long = CallRequest {
        fail_code: 5,
        ..ask(&"m".repeat(100_000))
    };
    let status = host.client().await.call(long).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("reply metadata"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once() {
    let host = serve("homa").await;
    let client = host.client().await;
    let calls = (0..200_usize).map(|number| {
        let mut client = client.clone();
        tokio::spawn(async move {
            let payload = vec![number as u8; number * 137];
            let request = CallRequest {
                payload: payload.clone(),
                ..ask(&number.to_string())
            };
            let reply = client.call(request).await.unwrap().into_inner();
            assert!(reply.text == number.to_string() && reply.payload == payload);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert_eq!(host.service.finished(), 200);
}

#[tokio::test]
async fn a_panic_fails_its_call_only() {
    let host = serve("homa").await;
    let mut client = host.client().await;
    let mut slow = client.clone();
    let other = tokio::spawn(async move {
        slow.call(CallRequest {
            delay_ms: 100,
            ..ask("other")
        })
        .await
    });
    let status = client
        .call(CallRequest {
            panic: true,
            ..ask("")
        })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().contains("panicked"), "{status}");
    assert_eq!(other.await.unwrap().unwrap().into_inner().text, "other");
    assert_eq!(
        client.call(ask("on")).await.unwrap().into_inner().text,
        "on"
    );
}

#[tokio::test]
async fn a_slow_handler_is_waited_for() {
    let host = serve("homa").await;
    // Longer than the silence after which Homa gives a peer up.
    let request = CallRequest {
        delay_ms: 2_500,
        ..ask("late")
    };
    assert_eq!(
        host.client()
            .await
            .call(request)
            .await
            .unwrap()
            .into_inner()
            .text,
        "late"
    );
}

#[tokio::test]
async fn names_are_resolved() {
    let host = serve("homa").await;
    for lazily in [false, true] {
        let uri = format!("homa://localhost:{}", host.addr.port());
        let endpoint = Endpoint::from_shared(uri).unwrap();
        let channel = if lazily {
            endpoint.connect_lazy()
        } else {
            endpoint.connect().await.unwrap()
        };
        let reply = TestClient::new(channel).call(ask("by name")).await.unwrap();
        assert_eq!(reply.into_inner().text, "by name");
    }
}

#[tokio::test]
async fn ipv6_works_where_the_host_has_it() {
    let Ok(listener) = tonic_homa::transport::Listener::bind("homa://[::1]:0").await else {
        return;
    };
    let uri = listener.uri();
    assert!(uri.starts_with("homa://[::1]:"), "{uri}");
    let router = Server::builder().add_service(TestServer::new(Service::default()));
    let server = tokio::spawn(router.serve_on([listener]));
    let mut client = TestClient::connect(uri).await.unwrap();
    let reply = client.call(ask("v6")).await.unwrap().into_inner();
    assert!(reply.remote_addr.starts_with("[::1]:"), "{reply:?}");
    server.abort();
}

#[tokio::test]
async fn a_channel_outlives_a_restart_of_its_server() {
    let mut host = serve("homa").await;
    let mut client = host.client().await;
    client.call(ask("first")).await.unwrap();
    let addr = host.addr;
    host.stop();
    host.ended().await.unwrap();
    let failed: Status = client.call(ask("nobody")).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable);
    // The socket closes a moment after its last handle.
    let mut bound = Err(None);
    for _ in 0..300 {
        bound = tonic_homa::transport::Listener::bind(format!("homa://{addr}"))
            .await
            .map_err(Some);
        if bound.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let router = Server::builder().add_service(TestServer::new(Service::default()));
    let server = tokio::spawn(router.serve_on([bound.unwrap()]));
    assert_eq!(
        client.call(ask("second")).await.unwrap().into_inner().text,
        "second"
    );
    server.abort();
}
