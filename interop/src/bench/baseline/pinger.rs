//! [`Pinger`]: one message at a time, there and back.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{self, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use homa_client::{Client, Config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::server::Addresses;
use super::{BUFFER, BaselineError, Lane, PATIENCE};
use crate::latency;

/// What carries the messages of a lane, and who waits for them.
pub(super) enum Pinger {
    Homa(Client, SocketAddr),
    TokioUdp(UdpSocket),
    TokioTcp(TcpStream),
    /// On a thread; the flag tells whether it spins.
    Udp(net::UdpSocket, bool),
    Tcp(net::TcpStream, bool),
}

/// What one round saw.
pub(super) struct Pinged {
    /// Of the messages after the warm-up.
    pub(super) latencies: Histogram<u64>,
    /// In all.
    pub(super) messages: u64,
}

impl Pinger {
    pub(super) async fn connect(lane: Lane, to: &Addresses) -> Result<Self, BaselineError> {
        let any = (Ipv4Addr::LOCALHOST, 0);
        Ok(match lane {
            Lane::Homa => Self::Homa(Client::bind(&Config::default())?, to.homa),
            Lane::TokioUdp => {
                let socket = UdpSocket::bind(any).await?;
                socket.connect(to.udp.tokio).await?;
                Self::TokioUdp(socket)
            }
            Lane::TokioTcp => {
                let stream = TcpStream::connect(to.tcp.tokio).await?;
                stream.set_nodelay(true)?;
                Self::TokioTcp(stream)
            }
            Lane::BlockingUdp => Self::udp(to.udp.blocking, false)?,
            Lane::SpinningUdp => Self::udp(to.udp.spinning, true)?,
            Lane::BlockingTcp => Self::tcp(to.tcp.blocking, false)?,
            Lane::SpinningTcp => Self::tcp(to.tcp.spinning, true)?,
        })
    }

    fn udp(to: SocketAddr, spins: bool) -> io::Result<Self> {
        let socket = net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_nonblocking(spins)?;
        Ok(Self::Udp(socket, spins))
    }

    fn tcp(to: SocketAddr, spins: bool) -> io::Result<Self> {
        let stream = net::TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nonblocking(spins)?;
        Ok(Self::Tcp(stream, spins))
    }

    /// One message after the other. Gives itself back for the next round.
    pub(super) async fn round(
        mut self,
        payload: Bytes,
        warm_up: Duration,
        measure: Duration,
    ) -> Result<(Self, Pinged), BaselineError> {
        let blocks = matches!(self, Self::Udp(..) | Self::Tcp(..));
        let pings = async move {
            let pinged = self.pings(&payload, warm_up, measure).await?;
            Ok((self, pinged))
        };
        if blocks {
            let runtime = Handle::current();
            return tokio::task::spawn_blocking(move || runtime.block_on(pings)).await?;
        }
        // On a task, since the thread that blocks on a runtime is none of its workers. One timer
        // for all, not one for each message, which would count.
        let patience = warm_up + measure + PATIENCE;
        let pings = tokio::spawn(async move { timeout(patience, pings).await });
        pings.await?.map_err(|_| BaselineError::Silent)?
    }

    async fn pings(
        &mut self,
        payload: &Bytes,
        warm_up: Duration,
        measure: Duration,
    ) -> Result<Pinged, BaselineError> {
        let mut latencies = latency::empty_histogram();
        let mut messages = 0;
        let mut buffer = [0; BUFFER];
        let begin = Instant::now() + warm_up;
        let end = begin + measure;
        loop {
            let started = Instant::now();
            self.ping(payload, &mut buffer).await?;
            let finished = Instant::now();
            messages += 1;
            if started >= begin {
                latency::record(&mut latencies, finished - started);
            }
            if finished >= end {
                return Ok(Pinged {
                    latencies,
                    messages,
                });
            }
        }
    }

    async fn ping(&mut self, payload: &Bytes, buffer: &mut [u8]) -> Result<(), BaselineError> {
        let back = &mut buffer[..payload.len()];
        match self {
            Self::Homa(client, to) => {
                let response = client.call(*to, payload.clone().into()).await?;
                return if response == **payload {
                    Ok(())
                } else {
                    Err(BaselineError::WrongBytes)
                };
            }
            Self::TokioUdp(socket) => {
                socket.send(payload).await?;
                whole(socket.recv(back).await?, payload)?;
            }
            Self::TokioTcp(stream) => {
                stream.write_all(payload).await?;
                stream.read_exact(back).await?;
            }
            Self::Udp(socket, spins) => {
                socket.send(payload)?;
                whole(wait(*spins, || socket.recv(back))?, payload)?;
            }
            Self::Tcp(stream, spins) => {
                // It is empty, and has room for a message this short.
                stream.write_all(payload)?;
                let mut read = 0;
                while read < back.len() {
                    match wait(*spins, || stream.read(&mut back[read..]))? {
                        0 => return Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
                        more => read += more,
                    }
                }
            }
        }
        if *back == payload[..] {
            Ok(())
        } else {
            Err(BaselineError::WrongBytes)
        }
    }
}

fn whole(len: usize, payload: &Bytes) -> Result<(), BaselineError> {
    if len == payload.len() {
        Ok(())
    } else {
        Err(BaselineError::WrongBytes)
    }
}

/// Reads, over and over if it spins, until something is there.
fn wait(spins: bool, mut read: impl FnMut() -> io::Result<usize>) -> Result<usize, BaselineError> {
    let mut began = None;
    loop {
        match read() {
            // A socket that blocks says this at the end of its time.
            Err(error) if error.kind() == ErrorKind::WouldBlock && !spins => {
                return Err(BaselineError::Silent);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let began: &mut Instant = began.get_or_insert_with(Instant::now);
                if began.elapsed() > PATIENCE {
                    return Err(BaselineError::Silent);
                }
                std::hint::spin_loop();
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                return Err(BaselineError::Silent);
            }
            ended => return Ok(ended?),
        }
    }
}
