//! The four kinds of gRPC calls, over Homa or TCP: a guide along the Rhine.
//!
//! ```text
//! cargo run -p homa-examples --bin route_guide
//! cargo run -p homa-examples --bin route_guide -- --uri http://127.0.0.1:0
//! cargo run -p homa-examples --bin route_guide -- server --uri homa://0.0.0.0:4000
//! cargo run -p homa-examples --bin route_guide -- client --uri homa://127.0.0.1:4000
//! ```

mod guide;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use guide::{Guide, RHINE};
use homa_examples::{ctrl_c, exit};
use proto::route_guide_client::RouteGuideClient;
use proto::route_guide_server::RouteGuideServer;
use proto::{Point, Rectangle, RouteNote};
use tonic_homa::transport::{Channel, Listener, Server};

mod proto {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    tonic::include_proto!("routeguide");
}

/// The four kinds of gRPC calls, over Homa or TCP.
#[derive(Parser)]
#[command(after_help = "Example: route_guide --uri http://127.0.0.1:0")]
struct Cli {
    #[command(subcommand)]
    mode: Option<Mode>,
    /// homa://host:port or http://host:port [default: port 0 of homa://127.0.0.1, which is any
    /// free one, or port 4000 for server and client alone].
    #[arg(long, global = true)]
    uri: Option<String>,
}

#[derive(Subcommand)]
enum Mode {
    /// Serves until Ctrl-C.
    Server,
    /// Calls a server.
    Client,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Cli { mode, uri } = Cli::parse();
    let or = |default: &str| uri.unwrap_or_else(|| default.into());
    exit(match mode {
        None => both(&or("homa://127.0.0.1:0")).await,
        Some(Mode::Server) => server(&or("homa://127.0.0.1:4000")).await,
        Some(Mode::Client) => client(&or("homa://127.0.0.1:4000")).await,
    })
}

async fn both(uri: &str) -> Result<(), Box<dyn Error>> {
    let listener = Listener::bind(uri).await?;
    let uri = listener.uri();
    let router = Server::builder().add_service(RouteGuideServer::new(Guide::default()));
    let serving = router.serve_on([listener]);
    tokio::select! {
        served = serving => Ok(served?),
        called = client(&uri) => called,
    }
}

async fn server(uri: &str) -> Result<(), Box<dyn Error>> {
    let listener = Listener::bind(uri).await?;
    println!("serving at {}, stop with Ctrl-C", listener.uri());
    let router = Server::builder().add_service(RouteGuideServer::new(Guide::default()));
    Ok(router.serve_on_with_shutdown([listener], ctrl_c()).await?)
}

async fn client(uri: &str) -> Result<(), Box<dyn Error>> {
    println!("calling {uri}");
    let mut client = RouteGuideClient::connect(uri.to_owned()).await?;
    get_feature(&mut client).await?;
    list_features(&mut client).await?;
    record_route(&mut client).await?;
    route_chat(&mut client).await
}

async fn get_feature(client: &mut RouteGuideClient<Channel>) -> Result<(), Box<dyn Error>> {
    println!("\nGetFeature: one request, one reply");
    for point in [RHINE[3].point(), at(0, 0)] {
        let feature = client.get_feature(point).await?.into_inner();
        match feature.name.as_str() {
            "" => println!("  {}: nothing", place(&point)),
            name => println!("  {}: {name}", place(&point)),
        }
    }
    Ok(())
}

async fn list_features(client: &mut RouteGuideClient<Channel>) -> Result<(), Box<dyn Error>> {
    println!("\nListFeatures: one request, many replies");
    let area = Rectangle {
        lo: Some(at(499_000_000, 60_000_000)),
        hi: Some(at(510_000_000, 90_000_000)),
    };
    let mut features = client.list_features(area).await?.into_inner();
    while let Some(feature) = features.message().await? {
        println!("  {}", feature.name);
    }
    Ok(())
}

async fn record_route(client: &mut RouteGuideClient<Channel>) -> Result<(), Box<dyn Error>> {
    println!("\nRecordRoute: many requests, one reply");
    let route = tokio_stream::iter(RHINE.iter().map(guide::Stop::point));
    let summary = client.record_route(route).await?.into_inner();
    println!(
        "  {} points, {} of them with a name, {} km in {} s",
        summary.point_count,
        summary.feature_count,
        summary.distance / 1_000,
        summary.elapsed_time,
    );
    Ok(())
}

async fn route_chat(client: &mut RouteGuideClient<Channel>) -> Result<(), Box<dyn Error>> {
    println!("\nRouteChat: both stream");
    let notes = [
        (0, "the source is far up in the Alps"),
        (4, "mind the rock"),
        (0, "the locks open at six"),
        (4, "she sings again"),
        (0, "fog until noon"),
    ];
    let notes = notes.map(|(stop, message): (usize, &str)| RouteNote {
        location: Some(RHINE[stop].point()),
        message: message.into(),
    });
    let mut replies = client
        .route_chat(tokio_stream::iter(notes))
        .await?
        .into_inner();
    while let Some(RouteNote { location, message }) = replies.message().await? {
        println!("  {}: {message}", place(&location.unwrap_or_default()));
    }
    Ok(())
}

fn at(latitude: i32, longitude: i32) -> Point {
    Point {
        latitude,
        longitude,
    }
}

fn place(point: &Point) -> String {
    let degrees = |value| f64::from(value) / 1e7;
    format!(
        "{:.2}, {:.2}",
        degrees(point.latitude),
        degrees(point.longitude)
    )
}
