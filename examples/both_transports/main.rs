//! One service on Homa and TCP at once, as while a fleet moves from one to the other.
//!
//! ```text
//! cargo run -p homa-examples --bin both_transports
//! cargo run -p homa-examples --bin both_transports -- --homa homa://127.0.0.1:4000 --tcp http://127.0.0.1:4000
//! ```

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use clap::Parser;
use homa_examples::exit;
use proto::greeter_client::GreeterClient;
use proto::greeter_server::{Greeter, GreeterServer};
use proto::{GreetReply, GreetRequest};
use tonic::{Request, Response, Status};
use tonic_homa::transport::{HomaConnectInfo, Listener, Server};

mod proto {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    tonic::include_proto!("greeter");
}

/// One service on Homa and TCP at once.
#[derive(Parser)]
#[command(after_help = "Example: both_transports --tcp http://127.0.0.1:8080")]
struct Cli {
    /// Where to listen over Homa; port 0 is any free one.
    #[arg(long, default_value = "homa://127.0.0.1:0")]
    homa: String,
    /// Where to listen over TCP; it may be the same port.
    #[arg(long, default_value = "http://127.0.0.1:0")]
    tcp: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    exit(run(Cli::parse()).await)
}

/// Counts by which way its calls come.
#[derive(Clone, Default)]
struct MyGreeter {
    over_homa: Arc<AtomicU32>,
    over_tcp: Arc<AtomicU32>,
}

#[tonic::async_trait]
impl Greeter for MyGreeter {
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<GreetReply>, Status> {
        // Only calls over Homa have this.
        let way = match request.extensions().get::<HomaConnectInfo>() {
            Some(_) => &self.over_homa,
            None => &self.over_tcp,
        };
        way.fetch_add(1, Ordering::Relaxed);
        let text = format!("Hello {}!", request.into_inner().name);
        Ok(Response::new(GreetReply { text }))
    }
}

async fn run(cli: Cli) -> Result<(), Box<dyn Error>> {
    let listeners = [
        Listener::bind(&cli.homa).await?,
        Listener::bind(&cli.tcp).await?,
    ];
    let uris = listeners.each_ref().map(Listener::uri);
    let greeter = MyGreeter::default();
    let router = Server::builder().add_service(GreeterServer::new(greeter.clone()));
    tokio::select! {
        served = router.serve_on(listeners) => served?,
        called = call_each(&uris) => called?,
    }
    println!(
        "the handler was called {} time over Homa, {} time over TCP",
        greeter.over_homa.load(Ordering::Relaxed),
        greeter.over_tcp.load(Ordering::Relaxed),
    );
    Ok(())
}

async fn call_each(uris: &[String]) -> Result<(), Box<dyn Error>> {
    let mut replies = Vec::new();
    for uri in uris {
        let mut client = GreeterClient::connect(uri.clone()).await?;
        let request = GreetRequest { name: "Ada".into() };
        let GreetReply { text } = client.greet(request).await?.into_inner();
        println!("{uri}: {text}");
        replies.push(text);
    }
    replies.dedup();
    match replies.as_slice() {
        [_] => println!("both answered the same"),
        _ => return Err("the answers differ".into()),
    }
    Ok(())
}
