//! Client and server whose transport is one line of a file, or a variable of the environment.
//!
//! ```text
//! cargo run -p homa-examples --bin config_switch
//! cargo run -p homa-examples --bin config_switch -- server examples/config_switch/server.toml
//! cargo run -p homa-examples --bin config_switch -- client examples/config_switch/client.toml
//! TONIC_HOMA_URI=http://127.0.0.1:4000 cargo run -p homa-examples --bin config_switch -- server examples/config_switch/server.toml
//! ```

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use homa_examples::{ctrl_c, exit};
use proto::greeter_client::GreeterClient;
use proto::greeter_server::{Greeter, GreeterServer};
use proto::{GreetReply, GreetRequest};
use tonic::{Request, Response, Status};
use tonic_homa::transport::{Endpoint, Listener, Router, Server};
use tonic_homa::{ClientConfig, ServerConfig};

mod proto {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    tonic::include_proto!("greeter");
}

/// Client and server whose transport is one line of a file.
///
/// Variables TONIC_HOMA_... go before the file: TONIC_HOMA_URI, TONIC_HOMA_TIMEOUT and so on.
#[derive(Parser)]
#[command(after_help = "Example: config_switch client examples/config_switch/client.toml")]
struct Cli {
    #[command(subcommand)]
    mode: Option<Mode>,
}

#[derive(Subcommand)]
enum Mode {
    /// Serves as a file says, until Ctrl-C.
    Server {
        /// A TOML file, such as examples/config_switch/server.toml.
        file: PathBuf,
    },
    /// Calls as a file says.
    Client {
        /// A TOML file, such as examples/config_switch/client.toml.
        file: PathBuf,
    },
    /// Switches both from Homa to TCP (the default).
    Demo,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    exit(match Cli::parse().mode.unwrap_or(Mode::Demo) {
        Mode::Server { file } => server(&file).await,
        Mode::Client { file } => client(&file).await,
        Mode::Demo => demo().await,
    })
}

async fn server(file: &Path) -> Result<(), Box<dyn Error>> {
    let config = ServerConfig::from_toml_file(file)?.with_env()?;
    let listener = Listener::bind(&config).await?;
    println!("serving at {}, stop with Ctrl-C", listener.uri());
    let router = router(&config)?;
    Ok(router.serve_on_with_shutdown([listener], ctrl_c()).await?)
}

async fn client(file: &Path) -> Result<(), Box<dyn Error>> {
    greet(&ClientConfig::from_toml_file(file)?.with_env()?).await
}

/// Nothing in here knows what the calls go over.
fn router(config: &ServerConfig) -> Result<Router, Box<dyn Error>> {
    Ok(Server::from_config(config)?.add_service(GreeterServer::new(MyGreeter)))
}

/// Nor here.
async fn greet(config: &ClientConfig) -> Result<(), Box<dyn Error>> {
    let endpoint = Endpoint::from_config(config)?;
    let uri = endpoint.uri().to_string();
    let mut client = GreeterClient::new(endpoint.connect().await?);
    let request = GreetRequest { name: "Ada".into() };
    let reply = client.greet(request).await?.into_inner();
    println!("{}: {}", uri.trim_end_matches('/'), reply.text);
    Ok(())
}

async fn demo() -> Result<(), Box<dyn Error>> {
    for scheme in ["homa", "http"] {
        // Port 0 is any free one, so that this can run anywhere.
        let uri = format!("{scheme}://127.0.0.1:0");
        let config: ServerConfig = with_uri(include_str!("server.toml"), &uri)?.parse()?;
        let listener = Listener::bind(&config).await?;
        let uri = listener.uri();
        println!("with the line uri = \"{scheme}://...\" in both files:");
        let config_of_client = with_uri(include_str!("client.toml"), &uri)?.parse()?;
        tokio::select! {
            served = router(&config)?.serve_on([listener]) => served?,
            greeted = greet(&config_of_client) => greeted?,
        }
    }
    Ok(())
}

/// The same file with another URI.
fn with_uri(file: &str, uri: &str) -> Result<String, Box<dyn Error>> {
    let is_uri = |line: &&str| line.starts_with("uri = ");
    let line = file.lines().find(is_uri).ok_or("the file has no URI")?;
    Ok(file.replace(line, &format!("uri = {uri:?}")))
}

struct MyGreeter;

#[tonic::async_trait]
impl Greeter for MyGreeter {
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<GreetReply>, Status> {
        let text = format!("Hello {}!", request.into_inner().name);
        Ok(Response::new(GreetReply { text }))
    }
}
