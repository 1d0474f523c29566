//! Servers: [`HomaServer`], and what it has in common with those on TCP and unix sockets.

mod builder;
mod context;
mod core;
mod handle;
mod homa;
mod observer;
mod options;
mod stats;
mod stream;

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use homa_client::blocking::Server;
use thrift::protocol::{TInputProtocolFactory, TOutputProtocolFactory};
use thrift::server::TProcessor;
use thrift::transport::{TReadTransportFactory, TWriteTransportFactory};
use thrift::{TransportError, TransportErrorKind};

pub use self::builder::ServerBuilder;
pub use self::context::{CallContext, CallTransport, call_context};
pub use self::handle::{AbandonedCall, ServerHandle, ShutdownReport, Stopper};
pub use self::observer::{CallMetrics, CallOutcome, CallRecord, MethodCounts, Observer};
pub use self::options::{OnewayAck, QueuedAtShutdown, ServerOptions};
pub use self::stats::ServerStats;
pub use self::stream::{Framing, serve_tcp, serve_unix};

pub(crate) use self::core::{Forward, Service};
pub(crate) use self::stream::{StreamListener, serve_stream};

use self::core::Core;
use self::handle::Carrier;
use crate::addr::resolve;

/// Serves a processor over Homa.
///
/// Each worker takes one request at a time, from whichever client sent it: `workers` is the number of
/// calls that run at once, and any number of clients share them. Idle workers receive for all, so
/// that a call is not handed from thread to thread. A handler that panics fails its own call and
/// nothing else. Every request gets exactly one reply, whatever is in it.
///
/// ```no_run
/// use std::time::Duration;
/// use thrift_homa::HomaServer;
///
/// # fn main() -> thrift::Result<()> {
/// # let processor = thrift::server::TMultiplexedProcessor::new();
/// let server = HomaServer::builder(processor)
///     .workers(16)
///     .bind("0.0.0.0:4000")?
///     .spawn()?;
/// // Until the service has to end:
/// let report = server.shutdown(Duration::from_secs(10));
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
pub struct HomaServer<P> {
    server: Arc<Server>,
    core: Arc<Core>,
    processor: std::marker::PhantomData<fn() -> P>,
}

impl<P: TProcessor + Send + Sync + 'static> HomaServer<P> {
    /// A server of `processor`, to be bound once its options are set.
    pub fn builder(processor: P) -> ServerBuilder<P> {
        ServerBuilder::new(processor)
    }

    /// A server made of what `TServer::new` takes, to be started by
    /// [`listen`](ServerBuilder::listen), which makes the move from `TServer` mechanical.
    ///
    /// The factories make new transports and protocols for each message, on several threads at once.
    /// So they have to be `Send + Sync`, which those of the thrift crate are. The transports wrap the
    /// bytes of the message: with [`HomaReadTransportFactory`](crate::HomaReadTransportFactory) and
    /// [`HomaWriteTransportFactory`](crate::HomaWriteTransportFactory), or buffered ones, these are
    /// what clients over Homa send; framed ones need clients with framed ones. The thrift crate's
    /// protocol factories keep its default limits, and cost two allocations more for each message than
    /// [`HomaServer::builder`], which also tells the protocol by itself.
    ///
    /// ```no_run
    /// use thrift::protocol::{TBinaryInputProtocolFactory, TBinaryOutputProtocolFactory};
    /// use thrift::transport::{TBufferedReadTransportFactory, TBufferedWriteTransportFactory};
    /// use thrift_homa::HomaServer;
    ///
    /// # fn main() -> thrift::Result<()> {
    /// # let processor = thrift::server::TMultiplexedProcessor::new();
    /// let mut server = HomaServer::new(
    ///     TBufferedReadTransportFactory::new(),
    ///     TBinaryInputProtocolFactory::new(),
    ///     TBufferedWriteTransportFactory::new(),
    ///     TBinaryOutputProtocolFactory::new(),
    ///     processor,
    ///     10,
    /// );
    /// server.listen("0.0.0.0:4000")
    /// # }
    /// ```
    #[allow(
        clippy::new_ret_no_self,
        reason = "it takes what TServer::new takes; what it makes is used like a TServer"
    )]
    pub fn new<RTF, IPF, WTF, OPF>(
        read_transport_factory: RTF,
        input_protocol_factory: IPF,
        write_transport_factory: WTF,
        output_protocol_factory: OPF,
        processor: P,
        num_workers: usize,
    ) -> ServerBuilder<P>
    where
        RTF: TReadTransportFactory + Send + Sync + 'static,
        IPF: TInputProtocolFactory + Send + Sync + 'static,
        WTF: TWriteTransportFactory + Send + Sync + 'static,
        OPF: TOutputProtocolFactory + Send + Sync + 'static,
    {
        let protocol = crate::protocol::CustomProtocol::new(
            Arc::new(input_protocol_factory),
            Arc::new(output_protocol_factory),
        );
        let protocol = protocol.through(
            Arc::new(read_transport_factory),
            Arc::new(write_transport_factory),
        );
        ServerBuilder::new(processor)
            .workers(num_workers)
            .protocol(crate::protocol::Protocol::Custom(protocol))
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }
}

impl<P> HomaServer<P> {
    pub(crate) fn bind(
        service: Service,
        options: ServerOptions,
        addr: impl ToSocketAddrs + fmt::Debug,
    ) -> thrift::Result<Self> {
        options.check()?;
        let addr = resolve(addr)?;
        let mut limits = options.limits;
        // Longer replies could not be sent.
        let sent = options.homa.protocol.max_message_bytes;
        limits.message_bytes = limits.message_bytes.min(sent);
        let core = Arc::new(Core::new(service, options, limits));
        Ok(Self {
            server: homa::bind(addr, &core)?,
            core,
            processor: std::marker::PhantomData,
        })
    }

    /// Serves until the endpoint is closed, which only a failure of its socket does: to stop a server,
    /// [`spawn`](Self::spawn) it.
    ///
    /// # Errors
    /// If its threads cannot be started.
    pub fn serve(self) -> thrift::Result<ServerStats> {
        Ok(self.spawn()?.wait())
    }

    /// Serves on threads of its own, `thrift-homa-0` and so on.
    ///
    /// # Errors
    /// If they cannot be started; those that were, end.
    pub fn spawn(self) -> thrift::Result<ServerHandle> {
        let Self { server, core, .. } = self;
        // Dropping it on an error stops the workers that were started.
        let handle = ServerHandle::new(Carrier::Homa(server.clone()), core.clone());
        for index in 0..core.options.workers {
            let shift = core.thread_starts();
            let (server, core) = (Arc::downgrade(&server), core.clone());
            start(format!("thrift-homa-{index}"), move || {
                homa::work(&server, &core, &shift);
            })?;
        }
        watch_deadlines(&core)?;
        Ok(handle)
    }
}

impl<P> fmt::Debug for HomaServer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HomaServer")
            .field("server", &self.server)
            .field("core", &self.core)
            .finish_non_exhaustive()
    }
}

/// Starts a thread. Nobody joins them: who waits for them waits for their shifts to end, and one
/// that a handler holds for ever must not hold anybody else.
fn start(name: String, run: impl FnOnce() + Send + 'static) -> thrift::Result<()> {
    let started = thread::Builder::new().name(name).spawn(run);
    started.map(drop).map_err(|error: io::Error| {
        let text = format!("cannot start a thread: {error}");
        TransportError::new(TransportErrorKind::Unknown, text).into()
    })
}

/// Between two looks at the deadlines of calls that run.
const LOOKS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(5)..=Duration::from_millis(250);

/// Answers calls whose handlers take longer than the options allow, until the last thread that takes
/// requests has ended. So the first has to be at work before.
fn watch_deadlines(core: &Arc<Core>) -> thrift::Result<()> {
    let Some(timeout) = core.options.call_timeout else {
        return Ok(());
    };
    let pause = (timeout / 4).clamp(*LOOKS.start(), *LOOKS.end());
    let core = core.clone();
    let watch = move || {
        let why = format!(
            "the handler has not returned within the limit of {} ms for a call; it may still \
             complete",
            timeout.as_millis()
        );
        while !core.wait_ended(Instant::now().checked_add(pause)) {
            core.abandon(&why, Some(Instant::now()));
        }
    };
    start("thrift-deadlines".to_owned(), watch)
}
