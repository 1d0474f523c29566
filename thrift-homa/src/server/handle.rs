//! [`ServerHandle`]: a running server.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use homa_client::blocking::Server;
use homa_client::options::Engine;

use super::core::Core;
use super::stream::StreamServer;
use super::{CallOutcome, QueuedAtShutdown, ServerStats, homa};
use crate::protocol::Protocol;

/// A running server, of any transport. Dropping it stops the server and waits for nothing: what it
/// has taken is still answered. It may be dropped anywhere, inside a tokio runtime as well.
#[derive(Debug)]
pub struct ServerHandle {
    inner: Arc<Inner>,
}

/// Stops a server from elsewhere, say on a signal; see [`ServerHandle::stopper`].
#[derive(Clone, Debug)]
pub struct Stopper {
    inner: Weak<Inner>,
}

impl Stopper {
    /// As [`ServerHandle::stop`]. Without effect once the server is gone.
    pub fn stop(&self) {
        if let Some(server) = self.inner.upgrade() {
            server.stop();
        }
    }
}

/// What a shutdown came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Calls that ran or waited when it began, and were answered in time.
    pub answered: u64,
    /// Requests that were answered by "shutting down" instead of being executed.
    pub refused: u64,
    /// Calls whose handlers still ran at the end of the grace. Their callers were told; the handlers
    /// go on, and whatever they answer is thrown away.
    pub abandoned: Vec<AbandonedCall>,
    /// Whether the clients have acknowledged all replies. If not, some may be lost. Over TCP and unix
    /// sockets, where replies are not acknowledged, whether all connections were closed in time.
    pub acknowledged: bool,
    /// What the server has done since it was started, with the calls that ended during the shutdown.
    pub stats: ServerStats,
}

impl ShutdownReport {
    /// Whether every call was answered by its handler and every reply acknowledged.
    pub fn is_clean(&self) -> bool {
        self.refused == 0 && self.abandoned.is_empty() && self.acknowledged
    }
}

/// A call whose handler did not return within the grace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AbandonedCall {
    /// The method by the name in the message.
    pub method: String,
    /// The client's address, if it has one.
    pub peer: Option<SocketAddr>,
    /// How long its handler has run.
    pub running_for: Duration,
    /// Whether it was a oneway, or otherwise answered before.
    pub answered: bool,
}

/// What takes the requests.
#[derive(Debug)]
pub(super) enum Carrier {
    Homa(Arc<Server>),
    Stream(Arc<StreamServer>),
}

#[derive(Debug)]
struct Inner {
    carrier: Carrier,
    core: Arc<Core>,
}

impl ServerHandle {
    pub(super) fn new(carrier: Carrier, core: Arc<Core>) -> Self {
        let inner = Arc::new(Inner { carrier, core });
        Self { inner }
    }

    /// The address it listens on. A server on a unix socket has none: there it is the unspecified
    /// address and port 0, and [`ServerHandle::unix_path`] tells where it is.
    pub fn local_addr(&self) -> SocketAddr {
        match &self.inner.carrier {
            Carrier::Homa(server) => server.local_addr(),
            Carrier::Stream(server) => server
                .local_addr()
                .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0))),
        }
    }

    /// The path of the unix socket that it listens on, if it does.
    pub fn unix_path(&self) -> Option<&Path> {
        match &self.inner.carrier {
            Carrier::Homa(_) => None,
            Carrier::Stream(server) => server.unix_path(),
        }
    }

    /// Where it listens, as an [`Endpoint`](crate::Endpoint) has it: what clients on this host can
    /// call, unless it listens on all addresses. It names the engine and the protocol if there is but
    /// one.
    pub fn uri(&self) -> String {
        let options = &self.inner.core.options;
        let place = match &self.inner.carrier {
            Carrier::Homa(server) => {
                let addr = server.local_addr();
                match Engine::of(&options.homa) {
                    Engine::Auto => format!("homa://{addr}"),
                    engine => format!("homa+{engine}://{addr}"),
                }
            }
            Carrier::Stream(server) => server.uri(),
        };
        match options.protocol {
            Some(Protocol::Binary) => format!("{place}?protocol=binary"),
            Some(Protocol::Compact) => format!("{place}?protocol=compact"),
            Some(Protocol::Custom(_)) | None => place,
        }
    }

    /// What it has done so far.
    pub fn stats(&self) -> ServerStats {
        self.inner.stats()
    }

    /// What the Homa endpoint has counted so far; `None` for servers on TCP and unix sockets.
    pub fn endpoint_counters(&self) -> Option<homa_client::EndpointCounters> {
        match &self.inner.carrier {
            Carrier::Homa(server) => Some(server.counters()),
            Carrier::Stream(_) => None,
        }
    }

    /// Takes no new requests from now on, and does not wait: those that were taken are still
    /// answered. New requests are refused as by a closed port.
    pub fn stop(&self) {
        self.inner.stop();
    }

    /// A way to stop it from elsewhere. It does not keep the server running.
    pub fn stopper(&self) -> Stopper {
        Stopper {
            inner: Arc::downgrade(&self.inner),
        }
    }

    /// Waits until the server was stopped and all its handlers have returned. Tells what it has done.
    pub fn wait(self) -> ServerStats {
        self.inner.core.wait_ended(None);
        self.inner.stats()
    }

    /// Takes no new requests from now on, and waits up to `grace` until those that were taken are
    /// answered and their handlers have returned. What waits for a worker is executed or refused,
    /// as the options say; at the end of the grace it is refused, and calls that still run are
    /// answered by an exception and reported.
    ///
    /// This blocks its thread. Inside a tokio runtime, drop the handle, or call this in
    /// `tokio::task::spawn_blocking`.
    pub fn shutdown(self, grace: Duration) -> ShutdownReport {
        self.inner.shutdown(grace)
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.inner.stop();
    }
}

impl Inner {
    fn stats(&self) -> ServerStats {
        let waiting = match &self.carrier {
            Carrier::Homa(server) => server.waiting(),
            Carrier::Stream(server) => server.waiting(),
        };
        let transfers = self.core.transfers.as_ref();
        let pieces = transfers.map(|transfers| transfers.stats());
        self.core
            .counts
            .snapshot(waiting, pieces.unwrap_or_default())
    }

    fn stop(&self) {
        self.core.stop();
        match &self.carrier {
            Carrier::Homa(server) => server.stop(),
            Carrier::Stream(server) => server.stop(),
        }
    }

    fn shutdown(&self, grace: Duration) -> ShutdownReport {
        let before = self.stats();
        let deadline = Instant::now().checked_add(grace);
        if let Carrier::Homa(server) = &self.carrier {
            homa::deliver_pieces(server, &self.core, deadline);
        }
        self.stop();
        let left = deadline.map_or(grace, |deadline| {
            deadline.saturating_duration_since(Instant::now())
        });
        let (mut acknowledged, ended) = match &self.carrier {
            Carrier::Homa(server) => {
                if self.core.options.queued_at_shutdown == QueuedAtShutdown::Refuse {
                    homa::refuse_waiting(server, &self.core, "shutting down");
                }
                homa::drain(server, &self.core, left)
            }
            Carrier::Stream(_) => (true, self.core.wait_ended(deadline)),
        };
        let mut abandoned = Vec::new();
        if !ended {
            self.core.end_grace();
            match &self.carrier {
                Carrier::Homa(server) => {
                    homa::refuse_waiting(server, &self.core, "shutting down");
                }
                Carrier::Stream(server) => {
                    acknowledged = false;
                    server.end_grace();
                }
            }
            let why = format!(
                "the server shuts down, and the handler has not returned within its grace of {} ms; \
                 it may still complete",
                grace.as_millis()
            );
            let now = Instant::now();
            let of = |call: super::core::Abandoned| AbandonedCall {
                method: call.running.caller.name().to_owned(),
                peer: call.running.origin.peer,
                running_for: now.saturating_duration_since(call.running.started_at),
                answered: call.answered,
            };
            let given_up = self.core.abandon(&why, None);
            abandoned = given_up.into_iter().map(of).collect();
            if let Carrier::Stream(server) = &self.carrier {
                server.close_all();
            }
        }
        let after = self.stats();
        let since = |outcome| after.of(outcome) - before.of(outcome);
        let refused = since(CallOutcome::Rejected);
        let given_up = since(CallOutcome::Abandoned);
        ShutdownReport {
            answered: after.calls() - before.calls() - refused - given_up,
            refused,
            abandoned,
            acknowledged,
            stats: after,
        }
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} calls; at the end {} answered, {} refused, {} abandoned",
            self.stats.calls(),
            self.answered,
            self.refused,
            self.abandoned.len()
        )?;
        let mut before = ":";
        for call in &self.abandoned {
            write!(f, "{before} {} after {:?}", call.method, call.running_for)?;
            before = ",";
        }
        if !self.acknowledged {
            f.write_str(", not all acknowledged")?;
        }
        Ok(())
    }
}
