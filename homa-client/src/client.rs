//! [`Client`]: calls from inside a tokio runtime.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::config::Config;
use crate::error::{BindError, CallError};
use crate::message::Message;
use crate::stats::EndpointCounters;
use crate::user::endpoint::{Handle, Outcome, Ticket};
use crate::user::lead::{Wants, wait};
use crate::user::registry::{self, Driven, Family};

/// Makes RPCs to any number of servers.
///
/// There are no connections. Clones are cheap, and all clients of one runtime with equal
/// settings share one socket. It is closed a second after the last of them is dropped.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use homa_client::{Client, Config, Server};
///
/// let server = Server::bind("127.0.0.1:0".parse()?, &Config::default())?;
/// let addr = server.local_addr();
/// tokio::spawn(async move {
///     while let Some(request) = server.accept().await {
///         let (message, responder) = request.into_parts();
///         responder.reply(message).unwrap();
///     }
/// });
///
/// let client = Client::bind(&Config::default())?;
/// let response = client.call(addr, "hello".into()).await?;
/// assert_eq!(response.into_bytes(), "hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    driven: Driven,
    config: Config,
    /// Opened when a server of that IP version is called first.
    v4: OnceLock<Handle>,
    v6: OnceLock<Handle>,
}

impl Client {
    /// A client whose endpoint is driven by the current tokio runtime, which needs its IO and
    /// time drivers.
    ///
    /// # Errors
    /// [`BindError`]: a setting is out of range, there is no runtime, or no socket can be opened.
    pub fn bind(config: &Config) -> Result<Self, BindError> {
        Self::on(registry::current_runtime()?, config)
    }

    pub(crate) fn on(driven: Driven, config: &Config) -> Result<Self, BindError> {
        config.check()?;
        let inner = Inner {
            driven,
            config: config.clone(),
            v4: OnceLock::new(),
            v6: OnceLock::new(),
        };
        let client = Self {
            inner: Arc::new(inner),
        };
        // Most hosts have IPv4; on the others the first call opens the other kind.
        if let Err(error) = client.endpoint(Family::V4)
            && client.endpoint(Family::V6).is_err()
        {
            return Err(error);
        }
        Ok(client)
    }

    /// One RPC: `request` goes to the Homa server at `to`.
    ///
    /// What may leave at once is sent before this returns, on the calling thread. The future
    /// resolves to the response; dropping it cancels the RPC, whose request may still run. There
    /// is no deadline: a server that shows signs of life is waited for; wrap the future in
    /// `tokio::time::timeout` to set one.
    ///
    /// # Errors
    /// The future yields a [`CallError`], which tells whether the request may have run.
    pub fn call(&self, to: SocketAddr, request: Message) -> Call {
        let started = self
            .endpoint(Family::of(to))
            .map_err(CallError::from)
            .and_then(|endpoint| {
                let (ticket, receiver) = endpoint.call(to, request)?;
                Ok(Running {
                    endpoint: endpoint.clone(),
                    ticket,
                    receiver,
                })
            });
        Call {
            state: started.map_or_else(|error| State::Failed(Some(error)), State::Running),
        }
    }

    /// Sends a request whose response nobody waits for. The protocol still retransmits it until
    /// it is answered; a failure goes unnoticed.
    ///
    /// # Errors
    /// [`CallError`] if it cannot even be sent.
    pub fn call_detached(&self, to: SocketAddr, request: Message) -> Result<(), CallError> {
        self.endpoint(Family::of(to))?.call_detached(to, request)
    }

    /// The local address from which `to` is called: unspecified IP, and the UDP port, or on IP
    /// protocol 146 the Homa port.
    pub fn local_addr(&self, to: SocketAddr) -> Option<SocketAddr> {
        Some(self.endpoint(Family::of(to)).ok()?.local_addr())
    }

    /// What the endpoint that calls `to` has counted so far, for all clients that share it.
    pub fn counters(&self, to: SocketAddr) -> EndpointCounters {
        self.endpoint(Family::of(to))
            .map(|endpoint| endpoint.counters())
            .unwrap_or_default()
    }

    fn endpoint(&self, family: Family) -> Result<&Handle, BindError> {
        let slot = match family {
            Family::V4 => &self.inner.v4,
            Family::V6 => &self.inner.v6,
        };
        if slot.get().is_none() {
            let handle = registry::client(&self.inner.driven, &self.inner.config, family)?;
            // Another thread may have been faster; both handles are of the same endpoint.
            let _ = slot.set(handle);
        }
        slot.get().ok_or(BindError::NoRuntime)
    }
}

impl Family {
    fn of(addr: SocketAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// The response to come of [`Client::call`]. Dropping it cancels the RPC.
#[derive(Debug)]
#[must_use = "the response is lost, and the RPC cancelled, when this is dropped"]
pub struct Call {
    state: State,
}

#[derive(Debug)]
enum State {
    Running(Running),
    Failed(Option<CallError>),
}

#[derive(Debug)]
struct Running {
    endpoint: Handle,
    ticket: Ticket,
    receiver: oneshot::Receiver<Outcome>,
}

impl Call {
    /// Waits on this thread; `None` when the deadline has passed. For clients that are driven by
    /// their callers.
    pub(crate) fn wait(mut self, deadline: Option<Instant>) -> Option<Outcome> {
        match &mut self.state {
            State::Running(running) => {
                let endpoint = running.endpoint.clone();
                wait(&endpoint, Wants::Own, self, deadline)
            }
            State::Failed(error) => Some(Err(error.take().unwrap_or(CallError::Closed))),
        }
    }
}

impl Future for Call {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match &mut self.state {
            State::Running(running) => {
                let outcome = ready!(Pin::new(&mut running.receiver).poll(cx));
                self.state = State::Failed(None);
                Poll::Ready(outcome.unwrap_or(Err(CallError::Closed)))
            }
            State::Failed(error) => Poll::Ready(Err(error.take().unwrap_or(CallError::Closed))),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.receiver.is_terminated() {
            self.receiver.close();
            self.endpoint.cancel_call(self.ticket);
        }
    }
}
