//! One channel over three servers, of which one is stopped: the calls go on.
//!
//! ```text
//! cargo run -p homa-examples --bin balancing
//! cargo run -p homa-examples --bin balancing -- --uri homa://127.0.0.1:0 --uri http://127.0.0.1:0
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
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};
use tonic_homa::transport::{Channel, Endpoint, Error as TransportError, Listener, Server};

mod proto {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    tonic::include_proto!("greeter");
}

/// One channel over several servers, of which one is stopped.
#[derive(Parser)]
#[command(after_help = "Example: balancing --uri homa://127.0.0.1:0 --uri http://127.0.0.1:0")]
struct Cli {
    /// Where a server listens, once for each of two or more: homa://host:port or
    /// http://host:port; port 0 is any free one.
    #[arg(
        long,
        default_values = ["homa://127.0.0.1:0", "homa://127.0.0.1:0", "homa://127.0.0.1:0"]
    )]
    uri: Vec<String>,
    /// Calls before one server is stopped, and as many after.
    #[arg(long, default_value_t = 60)]
    calls: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    exit(run(Cli::parse()).await)
}

/// Counts its calls.
#[derive(Clone, Default)]
struct MyGreeter {
    calls: Arc<AtomicU32>,
}

#[tonic::async_trait]
impl Greeter for MyGreeter {
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<GreetReply>, Status> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let text = format!("Hello {}!", request.into_inner().name);
        Ok(Response::new(GreetReply { text }))
    }
}

/// A server in this process.
struct Host {
    uri: String,
    greeter: MyGreeter,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), TransportError>>,
}

impl Host {
    async fn start(uri: &str) -> Result<Self, TransportError> {
        let listener = Listener::bind(uri).await?;
        let uri = listener.uri();
        let greeter = MyGreeter::default();
        let router = Server::builder().add_service(GreeterServer::new(greeter.clone()));
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            // A sender that was dropped is as good as one that has sent.
            let _ = stopped.await;
        };
        let serving = tokio::spawn(router.serve_on_with_shutdown([listener], stopped));
        Ok(Self {
            uri,
            greeter,
            stop,
            serving,
        })
    }

    async fn stop(self) -> Result<(), Box<dyn Error>> {
        drop(self.stop);
        Ok(self.serving.await??)
    }
}

async fn run(cli: Cli) -> Result<(), Box<dyn Error>> {
    if cli.uri.len() < 2 {
        return Err("one server cannot be balanced: give --uri twice or more".into());
    }
    let mut hosts = Vec::new();
    for uri in &cli.uri {
        hosts.push(Host::start(uri).await?);
    }
    let endpoints = hosts.iter().map(|host| host.uri.clone());
    let endpoints: Result<Vec<_>, _> = endpoints.map(Endpoint::from_shared).collect();
    let mut client = GreeterClient::new(Channel::balance_list(endpoints?.into_iter()));

    let failed = call(&mut client, cli.calls).await;
    report("with all servers", &hosts, failed);
    if let Some(last) = hosts.pop() {
        println!("\nstopping {}", last.uri);
        last.stop().await?;
    }
    let failed = call(&mut client, cli.calls).await;
    report("with one less", &hosts, failed);
    Ok(())
}

/// Makes calls, and tells how many failed.
async fn call(client: &mut GreeterClient<Channel>, calls: u32) -> u32 {
    let mut failed = 0;
    for _ in 0..calls {
        let request = GreetRequest { name: "Ada".into() };
        if let Err(status) = client.greet(request).await {
            println!("{status}");
            failed += 1;
        }
    }
    failed
}

/// Prints what each server has done since the last time.
fn report(title: &str, hosts: &[Host], failed: u32) {
    println!("\n{title}: {failed} calls failed");
    for host in hosts {
        let calls = host.greeter.calls.swap(0, Ordering::Relaxed);
        println!("  {:<28} {calls:>4} calls", host.uri);
    }
}
