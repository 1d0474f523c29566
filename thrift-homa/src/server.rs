//! [`HomaServer`]: the server's side.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use homa_client::blocking::Server;
use homa_client::{Config, Message, Request};
use thrift::server::TProcessor;
use thrift::{TransportError, TransportErrorKind};

use crate::control;
use crate::error::not_open;
use crate::process::{Call, Reply};

/// Serves a processor over Homa.
///
/// Each worker takes one request at a time, from whichever client sent it, so `workers` is the
/// number of calls that run at once: make it the concurrency that blocking handlers need. A
/// handler that panics fails its own call and nothing else.
pub struct HomaServer<P> {
    server: Arc<Server>,
    processor: Arc<P>,
    workers: NonZeroUsize,
    max_message_bytes: usize,
}

impl<P: TProcessor + Send + Sync + 'static> HomaServer<P> {
    /// Listens on `addr`, port 1 to 32767 or 0 for any free one, with default settings.
    pub fn bind(addr: SocketAddr, processor: P, workers: NonZeroUsize) -> thrift::Result<Self> {
        Self::bind_with(addr, processor, workers, &Config::default())
    }

    /// Listens on `addr`, port 1 to 32767 or 0 for any free one.
    pub fn bind_with(
        addr: SocketAddr,
        processor: P,
        workers: NonZeroUsize,
        config: &Config,
    ) -> thrift::Result<Self> {
        Ok(Self {
            server: Arc::new(Server::bind(addr, config).map_err(not_open)?),
            processor: Arc::new(processor),
            workers,
            max_message_bytes: config.protocol.max_message_bytes,
        })
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Serves until the endpoint is closed, which without a [`ServerHandle`] only a failure of
    /// its socket does.
    pub fn serve(self) -> thrift::Result<()> {
        self.spawn()?.join();
        Ok(())
    }

    /// Serves on threads of its own.
    pub fn spawn(self) -> thrift::Result<ServerHandle> {
        // Dropping the handle on an error stops the workers that were started.
        let mut handle = ServerHandle {
            server: self.server,
            workers: Vec::new(),
        };
        for index in 0..self.workers.get() {
            let server = handle.server.clone();
            let processor = self.processor.clone();
            let limit = self.max_message_bytes;
            let worker = thread::Builder::new()
                .name(format!("thrift-homa-{index}"))
                .spawn(move || {
                    while let Some(request) = server.accept() {
                        answer(request, &*processor, limit);
                    }
                })
                .map_err(|error| cannot_start(&error))?;
            handle.workers.push(worker);
        }
        Ok(handle)
    }
}

fn cannot_start(error: &io::Error) -> thrift::Error {
    let text = format!("cannot start a worker thread: {error}");
    TransportError::new(TransportErrorKind::Unknown, text).into()
}

fn answer(request: Request, processor: &dyn TProcessor, limit: usize) {
    let (message, responder) = request.into_parts();
    let request = message.into_bytes();
    // A reply fails only if the endpoint is closed; its caller learns that from Homa.
    let _ = match Call::parse(&request, limit) {
        Err(reply) => responder.reply(reply.into()),
        Ok(call) if call.is_oneway() => {
            let accepted = responder.reply(Message::from(control::accepted().to_vec()));
            call.run(processor);
            accepted
        }
        Ok(call) => match call.run(processor) {
            Reply::Message(reply) => responder.reply(reply.into()),
            Reply::Oneway => Ok(()),
        },
    };
}

impl<P> fmt::Debug for HomaServer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HomaServer")
            .field("server", &self.server)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

/// A running server. Dropping it refuses new requests and waits for nothing: those that came
/// before are still answered. It may be dropped anywhere, inside a tokio runtime as well.
#[derive(Debug)]
pub struct ServerHandle {
    server: Arc<Server>,
    workers: Vec<JoinHandle<()>>,
}

impl ServerHandle {
    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Refuses new requests, and waits up to `grace` until those accepted are answered. Tells
    /// whether all were; if not, their handlers still run when this returns.
    ///
    /// This blocks its thread. Inside a tokio runtime, drop the handle, or call this in
    /// `tokio::task::spawn_blocking`.
    pub fn shutdown(mut self, grace: Duration) -> bool {
        let all_answered = self.server.shutdown(grace);
        if all_answered {
            self.join_workers();
        }
        all_answered
    }

    /// Waits until the endpoint is closed.
    fn join(mut self) {
        self.join_workers();
    }

    fn join_workers(&mut self) {
        for worker in self.workers.drain(..) {
            // A worker catches its handlers' panics; there is nothing in it that could fail.
            let _ = worker.join();
        }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.server.stop();
    }
}
