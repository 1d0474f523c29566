//! gRPC's health and reflection services, which are tonic's own, over Homa or TCP.
//!
//! ```text
//! cargo run -p homa-examples --bin health_reflection
//! cargo run -p homa-examples --bin health_reflection -- --uri http://127.0.0.1:0
//! ```

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use homa_examples::exit;
use proto::greeter_server::{Greeter, GreeterServer};
use proto::{GreetReply, GreetRequest};
use tonic::{Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::server::HealthReporter;
use tonic_homa::transport::{Channel, Endpoint, Listener, Server};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

mod proto {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    tonic::include_proto!("greeter");
}

/// What the services of this build look like; build.rs asks for it.
const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("examples");

/// The service whose health is asked for.
const GREETER: &str = "greeter.Greeter";

/// gRPC's health and reflection services over Homa or TCP.
#[derive(Parser)]
#[command(after_help = "Example: health_reflection --uri http://127.0.0.1:0")]
struct Cli {
    /// Where to listen: homa://host:port or http://host:port; port 0 is any free one.
    #[arg(long, default_value = "homa://127.0.0.1:0")]
    uri: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    exit(run(&Cli::parse().uri).await)
}

struct MyGreeter;

#[tonic::async_trait]
impl Greeter for MyGreeter {
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<GreetReply>, Status> {
        let text = format!("Hello {}!", request.into_inner().name);
        Ok(Response::new(GreetReply { text }))
    }
}

async fn run(uri: &str) -> Result<(), Box<dyn Error>> {
    let listener = Listener::bind(uri).await?;
    let uri = listener.uri();
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<GreeterServer<MyGreeter>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .with_service_name(GREETER)
        .build_v1()?;
    let router = Server::builder()
        .add_service(GreeterServer::new(MyGreeter))
        .add_service(health)
        .add_service(reflection);
    tokio::select! {
        served = router.serve_on([listener]) => Ok(served?),
        asked = ask(&uri, &reporter) => asked,
    }
}

async fn ask(uri: &str, reporter: &HealthReporter) -> Result<(), Box<dyn Error>> {
    println!("calling {uri}");
    let channel = Endpoint::from_shared(uri.to_owned())?.connect().await?;
    watch(channel.clone(), reporter).await?;
    reflect(channel).await
}

/// Health as a stream: the server tells of every change.
async fn watch(channel: Channel, reporter: &HealthReporter) -> Result<(), Box<dyn Error>> {
    println!("\nhealth of {GREETER}:");
    let mut client = HealthClient::new(channel);
    let service = GREETER.into();
    let request = HealthCheckRequest { service };
    let mut health = client.watch(request).await?.into_inner();
    for step in 0..3 {
        let told = health.message().await?.ok_or("the stream has ended")?;
        println!("  {}", told.status().as_str_name());
        match step {
            0 => reporter.set_not_serving::<GreeterServer<MyGreeter>>().await,
            1 => reporter.set_serving::<GreeterServer<MyGreeter>>().await,
            _ => {}
        }
    }
    // Dropping the stream tells the server that nobody listens any more.
    Ok(())
}

/// Reflection: what can be called here?
async fn reflect(channel: Channel) -> Result<(), Box<dyn Error>> {
    println!("\nservices by reflection:");
    let mut client = ServerReflectionClient::new(channel);
    let ask = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..ServerReflectionRequest::default()
    };
    let replies = client.server_reflection_info(tokio_stream::once(ask)).await;
    let reply = replies?.into_inner().message().await?;
    let answer = reply.and_then(|reply| reply.message_response);
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        return Err(format!("reflection answered {answer:?}").into());
    };
    let mut names: Vec<_> = list.service.into_iter().map(|of| of.name).collect();
    names.sort();
    for name in names {
        println!("  {name}");
    }
    Ok(())
}
