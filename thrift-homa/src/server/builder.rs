//! [`ServerBuilder`]: a server's options, set one by one.

use std::fmt;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::Duration;

use thrift::server::TProcessor;

use super::{HomaServer, Observer, OnewayAck, QueuedAtShutdown, ServerOptions, Service};
use crate::limits::Limits;
use crate::pieces::PieceOptions;
use crate::protocol::Protocol;

/// A [`HomaServer`] before it is bound. Each method sets an option; [`ServerOptions`] says what they
/// do, and what holds where nothing is set.
#[must_use = "it serves once it is bound"]
pub struct ServerBuilder<P> {
    processor: Arc<P>,
    options: ServerOptions,
}

impl<P: TProcessor + Send + Sync + 'static> ServerBuilder<P> {
    pub(super) fn new(processor: P) -> Self {
        Self {
            processor: Arc::new(processor),
            options: ServerOptions::default(),
        }
    }

    /// All options at once, in place of those set before.
    pub fn options(mut self, options: ServerOptions) -> Self {
        self.options = options;
        self
    }

    /// [`ServerOptions::workers`]: calls that run at once.
    pub fn workers(mut self, workers: usize) -> Self {
        self.options.workers = workers;
        self
    }

    /// [`ServerOptions::queue`]: requests that wait for a worker, at most.
    pub fn queue(mut self, queue: usize) -> Self {
        self.options.queue = queue;
        self
    }

    /// [`ServerOptions::protocol`]: takes requests in this protocol only.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.options.protocol = Some(protocol);
        self
    }

    /// [`ServerOptions::limits`]: how much one message may take.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.options.limits = limits;
        self
    }

    /// [`ServerOptions::pieces`]: messages over 1,000,000 bytes.
    pub fn pieces(mut self, pieces: PieceOptions) -> Self {
        self.options.pieces = Some(pieces);
        self
    }

    /// [`ServerOptions::oneway`]: when oneway messages are acknowledged.
    pub fn oneway_ack(mut self, oneway: OnewayAck) -> Self {
        self.options.oneway = oneway;
        self
    }

    /// [`ServerOptions::queued_at_shutdown`]: what happens to requests that wait.
    pub fn queued_at_shutdown(mut self, queued: QueuedAtShutdown) -> Self {
        self.options.queued_at_shutdown = queued;
        self
    }

    /// [`ServerOptions::call_timeout`]: how long a call may take from its reception on.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.options.call_timeout = Some(timeout);
        self
    }

    /// [`ServerOptions::observer`]: is told of every call.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.options.observer = Some(observer);
        self
    }

    /// [`ServerOptions::homa`]: settings of the Homa endpoint.
    pub fn homa(mut self, config: homa_client::Config) -> Self {
        self.options.homa = config;
        self
    }

    /// Listens on the first address that `addr` resolves to, port 1 to 32767 or 0 for any free one.
    ///
    /// # Errors
    /// An option is out of range, the name does not resolve, or the address cannot be had: always
    /// `NotOpen`, with a text that names it.
    pub fn bind(self, addr: impl ToSocketAddrs + fmt::Debug) -> thrift::Result<HomaServer<P>> {
        self.bind_to(addr)
    }

    /// Listens on `addr` and serves, as `TServer::listen` does. Returns when the endpoint is closed.
    ///
    /// # Errors
    /// Those of [`bind`](Self::bind) and [`HomaServer::serve`].
    pub fn listen(&mut self, addr: impl ToSocketAddrs + fmt::Debug) -> thrift::Result<()> {
        self.bind_to(addr)?.serve().map(drop)
    }

    fn bind_to(&self, addr: impl ToSocketAddrs + fmt::Debug) -> thrift::Result<HomaServer<P>> {
        let service = Service::Processor(self.processor.clone());
        HomaServer::bind(service, self.options.clone(), addr)
    }
}

impl<P> fmt::Debug for ServerBuilder<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
