//! A tonic service over Homa and over TCP: only the URI says which.
//!
//! ```text
//! cargo run --release -p homa-examples --bin greeter
//! cargo run --release -p homa-examples --bin greeter -- server homa://127.0.0.1:4000
//! cargo run --release -p homa-examples --bin greeter -- client homa://127.0.0.1:4000 Ada
//! ```

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use hdrhistogram::Histogram;
use proto::greeter_client::GreeterClient;
use proto::greeter_server::{Greeter, GreeterServer};
use proto::{GreetReply, GreetRequest};
use tonic::{Request, Response, Status};
use tonic_homa::transport::{Channel, Listener, Server};

mod proto {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    tonic::include_proto!("greeter");
}

/// A greeter over Homa or TCP, by the URI alone.
#[derive(Parser)]
#[command(after_help = "Example: greeter client homa://127.0.0.1:4000 Ada")]
struct Cli {
    #[command(subcommand)]
    mode: Option<Mode>,
}

#[derive(Subcommand)]
enum Mode {
    /// Serves until Ctrl-C.
    Server {
        /// Where to listen: homa://host:port or http://host:port.
        #[arg(default_value = "homa://127.0.0.1:4000")]
        uri: String,
    },
    /// Greets once and measures the latency of calls.
    Client {
        /// Where the server is: homa://host:port or http://host:port.
        #[arg(default_value = "homa://127.0.0.1:4000")]
        uri: String,
        /// Whom to greet.
        #[arg(default_value = "world")]
        name: String,
        /// How many calls to measure.
        #[arg(long, default_value_t = 1_000)]
        calls: u32,
    },
    /// Starts servers and clients for both transports, and compares them (the default).
    Demo {
        /// How many calls to measure over each.
        #[arg(long, default_value_t = 1_000)]
        calls: u32,
    },
}

// With one thread no call waits for another one to wake up, which takes longer than the call.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match Cli::parse().mode.unwrap_or(Mode::Demo { calls: 1_000 }) {
        Mode::Server { uri } => server(&uri).await,
        Mode::Client { uri, name, calls } => client(&uri, &name, calls).await,
        Mode::Demo { calls } => demo(calls).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("greeter: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The service, as it would be written for tonic.
struct MyGreeter;

#[tonic::async_trait]
impl Greeter for MyGreeter {
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<GreetReply>, Status> {
        let caller = request
            .remote_addr()
            .map_or_else(String::new, |addr| addr.to_string());
        let GreetRequest { name } = request.into_inner();
        if name.is_empty() {
            return Err(Status::invalid_argument("whom shall I greet?"));
        }
        Ok(Response::new(GreetReply {
            text: format!("Hello {name}, calling from {caller}!"),
        }))
    }
}

async fn server(uri: &str) -> Result<(), Box<dyn Error>> {
    let listener = Listener::bind(uri).await?;
    println!("serving at {}, stop with Ctrl-C", listener.uri());
    Server::builder()
        .timeout(Duration::from_secs(5))
        .add_service(GreeterServer::new(MyGreeter))
        .serve_on_with_shutdown([listener], async {
            // Without a handler for Ctrl-C the system ends the process.
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    println!("stopped");
    Ok(())
}

async fn client(uri: &str, name: &str, calls: u32) -> Result<(), Box<dyn Error>> {
    let mut client = GreeterClient::connect(uri.to_owned()).await?;
    let latency = greet(&mut client, uri, name, calls).await?;
    println!("{HEADER}\n{}", row(uri, &latency));
    Ok(())
}

async fn demo(calls: u32) -> Result<(), Box<dyn Error>> {
    let mut table = vec![HEADER.to_owned()];
    for uri in ["http://127.0.0.1:0", "homa://127.0.0.1:0"] {
        let listener = Listener::bind(uri).await?;
        let uri = listener.uri();
        let router = Server::builder().add_service(GreeterServer::new(MyGreeter));
        let server = tokio::spawn(router.serve_on([listener]));

        let mut client = GreeterClient::connect(uri.clone()).await?;
        let latency = greet(&mut client, &uri, "world", calls).await?;
        table.push(row(&uri, &latency));
        server.abort();
    }
    println!("\nLatency of {calls} calls, one after the other, client and server in one process:");
    for line in table {
        println!("{line}");
    }
    Ok(())
}

/// Prints one reply, then measures `calls` more.
async fn greet(
    client: &mut GreeterClient<Channel>,
    uri: &str,
    name: &str,
    calls: u32,
) -> Result<Histogram<u64>, Box<dyn Error>> {
    let request = GreetRequest { name: name.into() };
    let reply = client.greet(request.clone()).await?.into_inner();
    println!("{uri}: {}", reply.text);
    // What is measured should be warm.
    for _ in 0..calls / 10 {
        client.greet(request.clone()).await?;
    }
    // Nanoseconds, up to a minute.
    let mut latency = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    for _ in 0..calls {
        let start = Instant::now();
        client.greet(request.clone()).await?;
        latency.saturating_record(u64::try_from(start.elapsed().as_nanos())?);
    }
    Ok(latency)
}

const HEADER: &str = "URI                              p50 µs    p90 µs    p99 µs    max µs";

fn row(uri: &str, latency: &Histogram<u64>) -> String {
    let micros = |quantile| latency.value_at_quantile(quantile) as f64 / 1_000.0;
    let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(micros);
    format!("{uri:<30} {p50:>9.1} {p90:>9.1} {p99:>9.1} {max:>9.1}")
}
