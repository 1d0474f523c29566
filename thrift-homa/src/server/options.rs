//! [`ServerOptions`]: what can be set on a server.

use std::fmt;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use super::Observer;
use crate::error::not_open;
use crate::limits::Limits;
use crate::pieces::PieceOptions;
use crate::protocol::Protocol;

/// When a oneway message is acknowledged, over Homa. Over TCP and unix sockets nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnewayAck {
    /// When a worker has taken it, before its handler runs: neither side keeps anything for it any
    /// longer. The default.
    #[default]
    OnReceipt,
    /// When its handler has returned: with clients that wait for it, oneways and calls of one client
    /// are executed in their order.
    AfterHandler,
}

/// What a server that shuts down does with requests that wait for a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueuedAtShutdown {
    /// It executes them, within the grace. The default.
    #[default]
    Serve,
    /// It answers at once that it is shutting down.
    Refuse,
}

/// Settings of a server, of any transport.
///
/// ```
/// use thrift_homa::{Protocol, ServerOptions};
///
/// let mut options = ServerOptions::default();
/// options.workers = 64;
/// options.protocol = Some(Protocol::Compact);
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Calls that run at once. Each has a thread to itself while it runs, whichever client made it:
    /// handlers that block need as many as are expected to block at once. Default 4 for each
    /// processor, at least 8; 1 to 65,536.
    pub workers: usize,
    /// Requests that wait for a worker, at most. A further one is answered at once, by an exception
    /// that says so. Default 10,000. A long queue makes callers wait where a short one would tell
    /// them to go elsewhere. What waits in the kernel module is not counted.
    pub queue: usize,
    /// The protocol of requests. Default `None`: it is told by the first byte of each, strict or old
    /// binary or compact. A request in another one is not understood.
    pub protocol: Option<Protocol>,
    /// How much one message may take, request or reply.
    pub limits: Limits,
    /// When oneway messages are acknowledged, over Homa.
    pub oneway: OnewayAck,
    /// What happens at a shutdown to requests that wait for a worker.
    pub queued_at_shutdown: QueuedAtShutdown,
    /// How long a call may take from its reception on. One that still waits for a worker then is not
    /// executed, and one whose handler still runs is given up, which is looked at every quarter of
    /// this time: both are answered by an exception. The handler itself cannot be stopped; it finds
    /// the deadline in its [`CallContext`](super::CallContext). Default `None`: no limit.
    pub call_timeout: Option<Duration>,
    /// Connections at once, over TCP and unix sockets; further ones are closed. Each takes a thread,
    /// and while a message arrives up to `limits.message_bytes`. Default 1,000; 1 to 65,536. Over
    /// Homa there are none.
    pub max_connections: usize,
    /// Is told of every call. Default `None`.
    pub observer: Option<Arc<dyn Observer>>,
    /// Messages over 1,000,000 bytes, over Homa, from and to clients that have set this too. Default
    /// `None`: there are none. A server on TCP or a unix socket takes
    /// them as they are where it is opened by an [`Endpoint`](crate::Endpoint), else `limits` counts.
    pub pieces: Option<PieceOptions>,
    /// Settings of the Homa endpoint.
    pub homa: homa_client::Config,
}

/// Most threads that may be asked for.
const MAX_THREADS: usize = 65_536;

impl Default for ServerOptions {
    fn default() -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self {
            workers: (4 * processors).max(8),
            queue: 10_000,
            protocol: None,
            limits: Limits::default(),
            oneway: OnewayAck::default(),
            queued_at_shutdown: QueuedAtShutdown::default(),
            call_timeout: None,
            max_connections: 1_000,
            observer: None,
            pieces: None,
            homa: homa_client::Config::default(),
        }
    }
}

impl ServerOptions {
    /// Whether every value is within its range; the settings of Homa are checked when its endpoint is
    /// opened.
    pub(super) fn check(&self) -> thrift::Result<()> {
        let within = |key, value: usize, range: &str| -> thrift::Result<()> {
            if (1..=MAX_THREADS).contains(&value) {
                return Ok(());
            }
            Err(not_open(format_args!(
                "{key} = {value} is out of range: {range}"
            )))
        };
        within(
            "workers",
            self.workers,
            "1 to 65536, default 4 per processor",
        )?;
        within(
            "max_connections",
            self.max_connections,
            "1 to 65536, default 1000",
        )?;
        if let Some(pieces) = &self.pieces {
            pieces.check(&self.limits).map_err(not_open)?;
        }
        if self.limits.message_bytes == 0 {
            return Err(not_open(
                "limits.message_bytes = 0 is out of range: at least 1, default 1000000",
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerOptions")
            .field("workers", &self.workers)
            .field("queue", &self.queue)
            .field("protocol", &self.protocol)
            .field("limits", &self.limits)
            .field("oneway", &self.oneway)
            .field("queued_at_shutdown", &self.queued_at_shutdown)
            .field("call_timeout", &self.call_timeout)
            .field("max_connections", &self.max_connections)
            .field("observer", &self.observer.is_some())
            .field("pieces", &self.pieces)
            .field("homa", &self.homa)
            .finish()
    }
}
