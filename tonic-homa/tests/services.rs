//! What else is built on tonic: routes, health, reflection, extensions, compression and limits of
//! messages. Each runs once over Homa and once over TCP, by its URI alone.

mod common;

use std::time::Duration;

use common::*;
use tokio_stream::StreamExt;
use tonic::codec::CompressionEncoding;
use tonic::codegen::http;
use tonic::service::interceptor::InterceptorLayer;
use tonic::service::{Routes, RoutesBuilder};
use tonic::{Code, Request, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as WireStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_homa::transport::{Listener, Router, Server};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

#[tokio::test]
async fn routes_that_were_put_together_elsewhere() {
    for scheme in BOTH {
        let service = Service::default();
        let mut routes = RoutesBuilder::default();
        routes.add_service(TestServer::new(service.clone()));
        routes.add_service(tonic_health::server::health_reporter().1);
        let router = Server::builder().add_routes(routes.routes());
        let host = serve_router(scheme, service, router).await;
        host.client().await.call(ask("x")).await.unwrap();
        let channel = host.endpoint().connect().await.unwrap();
        let request = HealthCheckRequest::default();
        HealthClient::new(channel).check(request).await.unwrap();

        let nothing = Server::builder().add_routes(Routes::default());
        let host = serve_router(scheme, Service::default(), nothing).await;
        let status = host.client().await.call(ask("x")).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{scheme}: {status}");
    }
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.into(),
    }
}

#[tokio::test]
async fn health_is_told() {
    for scheme in BOTH {
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_serving::<TestServer<Service>>().await;
        let name = "tonic_homa.test.v1.Test";
        let router = Server::builder().add_service(health);
        let host = serve_router(scheme, Service::default(), router).await;
        let mut client = HealthClient::new(host.endpoint().connect().await.unwrap());
        let told = client.check(of(name)).await.unwrap().into_inner();
        assert_eq!(told.status(), WireStatus::Serving, "{scheme}");
        reporter
            .set_service_status(name, ServingStatus::NotServing)
            .await;
        let told = client.check(of(name)).await.unwrap().into_inner();
        assert_eq!(told.status(), WireStatus::NotServing, "{scheme}");
        let status = client.check(of("unknown")).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{scheme}");

        if STREAMS.contains(&scheme) {
            let mut told = client.watch(of(name)).await.unwrap().into_inner();
            let first = told.message().await.unwrap().unwrap();
            assert_eq!(first.status(), WireStatus::NotServing, "{scheme}");
            reporter.set_serving::<TestServer<Service>>().await;
            let next = told.message().await.unwrap().unwrap();
            assert_eq!(next.status(), WireStatus::Serving, "{scheme}");
        }
    }
}

#[tokio::test]
async fn reflection_lists_the_services() {
    for scheme in STREAMS.iter().copied() {
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .unwrap();
        let router = Server::builder().add_service(reflection);
        let host = serve_router(scheme, Service::default(), router).await;
        let mut client = ServerReflectionClient::new(host.endpoint().connect().await.unwrap());
        let ask = |request| ServerReflectionRequest {
            host: String::new(),
            message_request: Some(request),
        };
        let requests = tokio_stream::iter([
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol(
                "grpc.health.v1.Health".into(),
            )),
        ]);
        let replies = client.server_reflection_info(requests).await.unwrap();
        let replies: Vec<_> = replies
            .into_inner()
            .map(|reply| reply.unwrap().message_response.unwrap())
            .collect()
            .await;
        let [
            MessageResponse::ListServicesResponse(list),
            MessageResponse::FileDescriptorResponse(file),
        ] = &replies[..]
        else {
            panic!("{scheme}: {replies:?}");
        };
        let names: Vec<_> = list.service.iter().map(|service| &*service.name).collect();
        assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
        assert_eq!(file.file_descriptor_proto.len(), 1);
    }
}

/// What a layer or a caller leaves for those who come after.
#[derive(Clone)]
struct Note(&'static str);

fn leave(mut request: http::Request<tonic::body::Body>) -> http::Request<tonic::body::Body> {
    request.extensions_mut().insert(Note("layer"));
    request
}

/// Makes metadata of a note, which the service sends back.
fn tell(mut request: Request<()>) -> Result<Request<()>, Status> {
    let Some(Note(note)) = request.extensions().get::<Note>().cloned() else {
        return Err(Status::internal("nobody left a note"));
    };
    request
        .metadata_mut()
        .append("x-note", note.parse().unwrap());
    Ok(request)
}

#[tokio::test]
async fn extensions_pass_from_layer_to_interceptor_and_from_caller_to_interceptor() {
    for scheme in BOTH {
        let service = Service::default();
        let router = Server::builder()
            .layer(tower::util::MapRequestLayer::new(leave))
            .layer(InterceptorLayer::new(tell))
            .add_service(TestServer::new(service.clone()));
        let host = serve_future(scheme, service, |listener, stop| async move {
            router.serve_on_with_shutdown([listener], stop).await
        })
        .await;
        let channel = host.endpoint().connect().await.unwrap();
        let mut client = TestClient::with_interceptor(channel, tell);
        let mut request = Request::new(ask("x"));
        request.extensions_mut().insert(Note("caller"));
        let reply = client.call(request).await.unwrap();
        let notes: Vec<_> = reply.metadata().get_all("x-note").iter().collect();
        assert_eq!(notes, ["caller", "layer"], "{scheme}");
    }
}

const ENCODINGS: [CompressionEncoding; 3] = [
    CompressionEncoding::Gzip,
    CompressionEncoding::Deflate,
    CompressionEncoding::Zstd,
];

#[tokio::test]
async fn every_compression_works_in_both_directions() {
    for scheme in BOTH {
        for encoding in ENCODINGS {
            let service = Service::default();
            let compressing = big(service.clone())
                .send_compressed(encoding)
                .accept_compressed(encoding);
            let router = Server::builder().add_service(compressing);
            let host = serve_router(scheme, service, router).await;
            let plain = host.client().await;
            let mut client = plain
                .clone()
                .send_compressed(encoding)
                .accept_compressed(encoding);
            // Far over what one message of Homa holds, but not when it is packed.
            let request = CallRequest {
                payload: vec![7; 3_000_000],
                ..ask("packed")
            };
            let reply = client.call(request).await.unwrap();
            let name = reply.metadata().get("grpc-encoding").unwrap();
            assert_eq!(name, encoding.to_string().as_str(), "{scheme}");
            let reply = reply.into_inner();
            assert!(reply.text == "packed" && reply.payload == vec![7; 3_000_000]);

            // Who does not ask for it gets none.
            let reply = plain.clone().call(ask("x")).await.unwrap();
            assert_eq!(reply.metadata().get("grpc-encoding"), None, "{scheme}");
        }
    }
}

#[tokio::test]
async fn a_compression_that_the_server_does_not_know_is_refused() {
    for scheme in BOTH {
        for encoding in ENCODINGS {
            let host = serve(scheme).await;
            let mut client = host.client().await.send_compressed(encoding);
            let status = client.call(ask("x")).await.unwrap_err();
            assert_eq!(status.code(), Code::Unimplemented, "{scheme}: {status}");
            assert_eq!(host.service.started(), 0);
        }
    }
}

#[tokio::test]
async fn tonics_limits_of_messages_hold_on_all_four_sides() {
    const LIMIT: usize = 10_000;
    for scheme in BOTH {
        let service = Service::default();
        let limited = TestServer::new(service.clone())
            .max_decoding_message_size(LIMIT)
            .max_encoding_message_size(LIMIT);
        let router = Server::builder().add_service(limited);
        let host = serve_router(scheme, service, router).await;
        let channel = host.endpoint().connect().await.unwrap();
        let free = TestClient::new(channel);
        let up = |bytes| CallRequest {
            payload: vec![1; bytes],
            reply_bytes: 1,
            ..ask("")
        };
        let down = |reply_bytes| CallRequest {
            reply_bytes,
            ..ask("")
        };
        for (request, code) in [
            (up(LIMIT - 100), Code::Ok),
            (up(LIMIT), Code::OutOfRange),
            (down(9_000), Code::Ok),
            (down(10_000), Code::OutOfRange),
        ] {
            let outcome = free.clone().call(request).await;
            let found = outcome.map_or_else(|status| status.code(), |_| Code::Ok);
            assert_eq!(found, code, "server, {scheme}");
        }

        let host = serve(scheme).await;
        let channel = host.endpoint().connect().await.unwrap();
        let limited = TestClient::new(channel)
            .max_decoding_message_size(LIMIT)
            .max_encoding_message_size(LIMIT);
        for (request, code) in [
            (up(LIMIT - 100), Code::Ok),
            // tonic's HTTP/2 makes another code of its own refusal.
            (
                up(LIMIT),
                match scheme {
                    "homa" => Code::OutOfRange,
                    _ => Code::Internal,
                },
            ),
            (down(9_000), Code::Ok),
            (down(10_000), Code::OutOfRange),
        ] {
            let outcome = limited.clone().call(request).await;
            let found = outcome.map_or_else(|status| status.code(), |_| Code::Ok);
            assert_eq!(found, code, "client, {scheme}");
        }
    }
}

/// Calls that are open until the host is gone.
fn occupy(client: &TestClient<tonic_homa::transport::Channel>, calls: usize) {
    for _ in 0..calls {
        let mut client = client.clone();
        tokio::spawn(async move {
            let request = CallRequest {
                delay_ms: 60_000,
                ..ask("x")
            };
            client.call(request).await
        });
    }
}

#[tokio::test]
async fn calls_over_max_concurrent_streams_wait() {
    for scheme in BOTH {
        for server in [
            Server::builder().max_concurrent_streams(2),
            // The lesser of the two counts.
            Server::builder()
                .max_concurrent_streams(2)
                .concurrency_limit_per_connection(5),
            Server::builder()
                .max_concurrent_streams(5)
                .concurrency_limit_per_connection(2),
        ] {
            let host = serve_with(scheme, server).await;
            let client = host.client().await;
            // Settles what the server allows, which an HTTP/2 client learns late.
            client.clone().call(ask("first")).await.unwrap();
            occupy(&client, 2);
            let service = host.service.clone();
            eventually("both run", || service.running() == 2).await;
            let mut third = client.clone();
            let third = tokio::time::timeout(Duration::from_millis(100), third.call(ask("third")));
            assert!(third.await.is_err(), "{scheme}");
            assert_eq!(service.started(), 3, "{scheme}");
        }
    }
}

#[tokio::test]
async fn a_router_on_many_uris_is_one_service() {
    let mut listeners = Vec::new();
    for scheme in ["homa", "http", "homa", "http"] {
        let uri = format!("{scheme}://127.0.0.1:0");
        listeners.push(Listener::bind(uri).await.unwrap());
    }
    let uris: Vec<_> = listeners.iter().map(Listener::uri).collect();
    let service = Service::default();
    let router: Router = Server::builder().add_service(TestServer::new(service.clone()));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(router.serve_on_with_shutdown(listeners, async {
        let _ = stopped.await;
    }));
    let mut clients = Vec::new();
    for uri in uris {
        let mut client = TestClient::connect(uri).await.unwrap();
        client.call(ask("x")).await.unwrap();
        clients.push(client);
    }
    assert_eq!(service.started(), 4);
    // One signal stops all of them, after their open calls.
    let calls: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                let request = CallRequest {
                    delay_ms: 200,
                    ..ask("x")
                };
                client.call(request).await.map(drop)
            })
        })
        .collect();
    eventually("all run", || service.running() == 4).await;
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(service.finished(), 8);
}
