//! Streams files up and down, over Homa or TCP, with bounded memory and a progress bar.
//!
//! ```text
//! cargo run --release -p homa-examples --bin file_transfer
//! cargo run --release -p homa-examples --bin file_transfer -- demo --mib 256 --uri http://127.0.0.1:0
//! cargo run --release -p homa-examples --bin file_transfer -- server FOLDER --uri homa://0.0.0.0:4000
//! cargo run --release -p homa-examples --bin file_transfer -- put FILE --uri homa://127.0.0.1:4000
//! cargo run --release -p homa-examples --bin file_transfer -- get NAME FILE --uri homa://127.0.0.1:4000
//! ```

mod client;
mod counted;
mod server;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use client::Client;
use homa_examples::{ctrl_c, exit};
use proto::files_server::FilesServer;
use server::Folder;
use tokio::io::AsyncWriteExt;
use tonic_homa::transport::{Listener, Server};

mod proto {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    tonic::include_proto!("files");
}

/// Bytes of a file in one message.
const CHUNK: usize = 256 * 1024;

/// Streams files up and down, over Homa or TCP.
#[derive(Parser)]
#[command(after_help = "Example: file_transfer put notes.txt --uri homa://127.0.0.1:4000")]
struct Cli {
    #[command(subcommand)]
    mode: Option<Mode>,
    /// homa://host:port or http://host:port [default: homa://127.0.0.1:4000; for the demo port 0,
    /// which is any free one].
    #[arg(long, global = true)]
    uri: Option<String>,
}

#[derive(Subcommand)]
enum Mode {
    /// Serves a folder until Ctrl-C.
    Server {
        /// Where the files are and go.
        folder: PathBuf,
    },
    /// Sends a file to a server.
    Put {
        /// The file; its name is kept.
        file: PathBuf,
    },
    /// Gets a file from a server.
    Get {
        /// Its name at the server.
        name: String,
        /// Where it goes. What is there is replaced when all has arrived.
        file: PathBuf,
    },
    /// Sends a made-up file to a server in this process, and gets it back (the default).
    Demo {
        /// Length of the file in MiB.
        #[arg(long, default_value_t = 32)]
        mib: u64,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Cli { mode, uri } = Cli::parse();
    let or = |default: &str| uri.unwrap_or_else(|| default.into());
    exit(match mode.unwrap_or(Mode::Demo { mib: 32 }) {
        Mode::Server { folder } => serve(&folder, &or("homa://127.0.0.1:4000")).await,
        Mode::Put { file } => put(&file, &or("homa://127.0.0.1:4000")).await,
        Mode::Get { name, file } => get(&name, &file, &or("homa://127.0.0.1:4000")).await,
        Mode::Demo { mib } => demo(mib, &or("homa://127.0.0.1:0")).await,
    })
}

async fn serve(folder: &Path, uri: &str) -> Result<(), Box<dyn Error>> {
    let service = FilesServer::new(Folder::open(folder)?);
    let listener = Listener::bind(uri).await?;
    println!("serving {} at {}", folder.display(), listener.uri());
    let router = Server::builder().add_service(service);
    Ok(router.serve_on_with_shutdown([listener], ctrl_c()).await?)
}

async fn put(file: &Path, uri: &str) -> Result<(), Box<dyn Error>> {
    // Whether it can be read is found out before anybody is called.
    let source = client::Source::open(file).await?;
    Client::connect(uri).await?.put(source).await
}

async fn get(name: &str, file: &Path, uri: &str) -> Result<(), Box<dyn Error>> {
    let target = client::Target::create(file)?;
    Client::connect(uri).await?.get(name, target).await
}

async fn demo(mib: u64, uri: &str) -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    let (here, there) = (scratch.path().join("here"), scratch.path().join("there"));
    std::fs::create_dir(&here)?;
    std::fs::create_dir(&there)?;
    let file = here.join("made-up.bin");
    make_up(&file, mib).await?;

    let listener = Listener::bind(uri).await?;
    let uri = listener.uri();
    println!("{mib} MiB to {uri} and back, client and server in one process");
    let service = FilesServer::new(Folder::open(&there)?);
    let serving = Server::builder().add_service(service).serve_on([listener]);
    let transfers = async {
        put(&file, &uri).await?;
        get("made-up.bin", &here.join("back.bin"), &uri).await
    };
    tokio::select! {
        served = serving => Ok(served?),
        transferred = transfers => transferred,
    }
}

/// A file in which no two chunks are alike.
async fn make_up(file: &Path, mib: u64) -> io::Result<()> {
    let mut file = tokio::fs::File::create(file).await?;
    let mut chunk = vec![0x5a; 1 << 20];
    for number in 0..mib {
        chunk[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&chunk).await?;
    }
    file.flush().await
}
