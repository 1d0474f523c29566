//! The process that answers: with what it gets, each way of waiting at an address of its own.

use std::error::Error;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use homa_client::{Config, Server};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::BUFFER;
use crate::child;
use crate::runtime::{self, MAX_WORKERS};

/// What can be set on it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Threads of the runtime.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=MAX_WORKERS))]
    workers: Option<u16>,
}

/// Where it answers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Addresses {
    pub(super) udp: Ways,
    pub(super) tcp: Ways,
    pub(super) homa: SocketAddr,
    /// Who answers.
    pub(super) pid: u32,
}

/// By how it waits.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Ways {
    pub(super) blocking: SocketAddr,
    pub(super) tokio: SocketAddr,
    pub(super) spinning: SocketAddr,
}

/// Who spins sleeps again after this time without anything to do, so that it does not take a
/// processor from the others.
const SPIN_FOR: Duration = Duration::from_millis(20);

/// Answers.
pub(crate) fn serve_until_stdin_ends(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let runtime = runtime::with_workers(arguments.workers)?;
    let result = runtime.block_on(serve());
    // A thread may still be reading standard input.
    runtime.shutdown_background();
    result
}

async fn serve() -> Result<(), Box<dyn Error>> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let udp = tokio::net::UdpSocket::bind(any).await?;
    let tcp = tokio::net::TcpListener::bind(any).await?;
    let homa = Server::bind(any, &Config::default())?;
    child::tell(&Addresses {
        udp: Ways {
            blocking: udp_thread(any, false)?,
            tokio: udp.local_addr()?,
            spinning: udp_thread(any, true)?,
        },
        tcp: Ways {
            blocking: tcp_thread(any, false)?,
            tokio: tcp.local_addr()?,
            spinning: tcp_thread(any, true)?,
        },
        homa: homa.local_addr(),
        pid: std::process::id(),
    })?;
    let udp = tokio::spawn(answer_datagrams(udp));
    let tcp = tokio::spawn(answer_connections(tcp));
    let homa = tokio::spawn(answer_calls(homa));
    tokio::select! {
        ended = udp => Ok(ended??),
        ended = tcp => Ok(ended??),
        ended = homa => Ok(ended?),
        () = child::stdin_ends() => Ok(()),
    }
}

async fn answer_datagrams(socket: tokio::net::UdpSocket) -> io::Result<()> {
    let mut buffer = [0; BUFFER];
    loop {
        let (len, from) = socket.recv_from(&mut buffer).await?;
        socket.send_to(&buffer[..len], from).await?;
    }
}

async fn answer_connections(listener: tokio::net::TcpListener) -> io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut buffer = [0; BUFFER];
            // It ends with the connection.
            while let Ok(len @ 1..) = stream.read(&mut buffer).await
                && stream.write_all(&buffer[..len]).await.is_ok()
            {}
        });
    }
}

async fn answer_calls(server: Server) {
    while let Some(request) = server.accept().await {
        let (message, responder) = request.into_parts();
        // A client that is gone needs no answer.
        let _ = responder.reply(message);
    }
}

/// Answers datagrams on a thread that lives as long as the process.
fn udp_thread(any: SocketAddr, spins: bool) -> io::Result<SocketAddr> {
    let socket = UdpSocket::bind(any)?;
    let addr = socket.local_addr()?;
    thread::Builder::new().spawn(move || {
        let mut buffer = [0; BUFFER];
        let mut answer = || {
            let (len, from) = socket.recv_from(&mut buffer)?;
            socket.send_to(&buffer[..len], from).map(|_| ())
        };
        let blocks = |blocks: bool| socket.set_nonblocking(!blocks);
        keep_answering(spins, &mut answer, &blocks)
    })?;
    Ok(addr)
}

/// The same with each connection on a thread of its own.
fn tcp_thread(any: SocketAddr, spins: bool) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(any)?;
    let addr = listener.local_addr()?;
    thread::Builder::new().spawn(move || {
        for stream in listener.incoming() {
            let stream = stream?;
            stream.set_nodelay(true)?;
            thread::Builder::new().spawn(move || answer_connection(&stream, spins))?;
        }
        Ok::<_, io::Error>(())
    })?;
    Ok(addr)
}

fn answer_connection(stream: &TcpStream, spins: bool) -> io::Result<()> {
    let mut buffer = [0; BUFFER];
    let mut answer = || {
        let (mut reader, mut writer) = (stream, stream);
        match reader.read(&mut buffer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            // An answer this short has room in the socket's buffer.
            len => writer.write_all(&buffer[..len]),
        }
    };
    let blocks = |blocks: bool| stream.set_nonblocking(!blocks);
    keep_answering(spins, &mut answer, &blocks)
}

/// Answers over and over, until that fails. Who spins sleeps until something comes, and then only
/// after a time without anything.
fn keep_answering(
    spins: bool,
    answer: &mut dyn FnMut() -> io::Result<()>,
    blocks: &dyn Fn(bool) -> io::Result<()>,
) -> io::Result<()> {
    loop {
        blocks(true)?;
        answer()?;
        if !spins {
            continue;
        }
        blocks(false)?;
        let mut last = Instant::now();
        while last.elapsed() < SPIN_FOR {
            match answer() {
                Ok(()) => last = Instant::now(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
                Err(error) => return Err(error),
            }
        }
    }
}
