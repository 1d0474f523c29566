//! [`Client`]: calls from inside a tokio runtime.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::config::{Backend, Config};
use crate::error::{BindError, CallError};
use crate::kernel;
use crate::kernel::client::{ClientHandle, PrivateCall};
use crate::kernel::routes::{Carrier, Choice, Routes};
use crate::message::Message;
use crate::server::RequestHandler;
use crate::stats::{EndpointCounters, Monitor};
use crate::user::endpoint::{Handle, Outcome, Ticket};
use crate::user::lead::{Wants, make_way, wait};
use crate::user::registry::{self, Driven, Family};

/// Who is called through the module, of all clients of this process.
static ROUTES: LazyLock<Routes> = LazyLock::new(Routes::default);

/// Makes RPCs to any number of servers.
///
/// There are no connections. Clones are cheap, and all clients of one runtime with equal
/// settings share one socket. It is closed a while after the last of them is dropped
/// ([`Config::linger`]).
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
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    driven: Driven,
    config: Config,
    /// Who takes the requests of servers, if anybody does.
    handler: Option<RequestHandler>,
    /// Opened when a server of that IP version is called first.
    v4: OnceLock<Endpoint>,
    v6: OnceLock<Endpoint>,
}

/// What carries the calls to servers of one IP version.
#[derive(Clone, Debug)]
enum Endpoint {
    User(Handle),
    Kernel(ClientHandle),
    /// By peer.
    Both(Handle, ClientHandle),
}

/// The endpoint for one call.
enum Chosen<'a> {
    User(&'a Handle),
    Kernel(&'a ClientHandle),
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

    /// The same, and `handler` takes the requests that servers send with a
    /// [`Pusher`](crate::Pusher), on the thread that receives them. Clients with equal settings share
    /// their endpoint if they have the same handler as well.
    ///
    /// Any host can send such requests: the handler has to check who did. Through the kernel module
    /// there are none; see [`Client::accepts_from`].
    ///
    /// # Errors
    /// Those of [`Client::bind`].
    pub fn bind_accepting(config: &Config, handler: RequestHandler) -> Result<Self, BindError> {
        Self::with(registry::current_runtime()?, config, Some(handler))
    }

    pub(crate) fn on(driven: Driven, config: &Config) -> Result<Self, BindError> {
        Self::with(driven, config, None)
    }

    fn with(
        driven: Driven,
        config: &Config,
        handler: Option<RequestHandler>,
    ) -> Result<Self, BindError> {
        config.check()?;
        let inner = Inner {
            driven,
            config: config.clone(),
            handler,
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
        match self.choose(to) {
            Ok(Chosen::User(endpoint)) => {
                Call::start(endpoint, |endpoint| endpoint.call(to, request))
            }
            Ok(Chosen::Kernel(endpoint)) => {
                let started = endpoint
                    .call(to, request)
                    .inspect_err(|error| ROUTES.ended(to, Some(error), Instant::now()));
                Call::of(started.map(|(ticket, receiver)| Running {
                    rpc: Rpc::Kernel(endpoint.clone(), ticket, to),
                    receiver,
                    is_detached: false,
                }))
            }
            Err(error) => Call::of(Err(error.into())),
        }
    }

    /// Whether requests of the server at `to` reach this client: it has a handler for them, and no
    /// kernel module may carry the calls.
    pub fn accepts_from(&self, to: SocketAddr) -> bool {
        self.inner.handler.is_some()
            && matches!(self.endpoint(Family::of(to)), Ok(Endpoint::User(_)))
    }

    /// One RPC that cannot be cancelled: `then` gets its response, on the thread that receives it.
    /// That saves waking a task, but other packets wait meanwhile: it has to be short and must not
    /// block or panic.
    ///
    /// # Errors
    /// [`CallError`] if it cannot even be sent; `then` does not run in that case.
    pub fn call_then(
        &self,
        to: SocketAddr,
        request: Message,
        then: impl FnOnce(Result<Message, CallError>) + Send + 'static,
    ) -> Result<(), CallError> {
        match self.choose(to)? {
            Chosen::User(endpoint) => endpoint.call_then(to, request, Box::new(then)),
            Chosen::Kernel(_) => {
                let call = self.call(to, request);
                let Driven::Runtime(runtime) = &self.inner.driven else {
                    return Err(CallError::Closed);
                };
                runtime.spawn(async move { then(call.await) });
                Ok(())
            }
        }
    }

    /// Sends a request whose response nobody waits for. The protocol still retransmits it until
    /// it is answered; a failure goes unnoticed.
    ///
    /// # Errors
    /// [`CallError`] if it cannot even be sent.
    pub fn call_detached(&self, to: SocketAddr, request: Message) -> Result<(), CallError> {
        match self.choose(to)? {
            Chosen::User(endpoint) => endpoint.call_detached(to, request),
            Chosen::Kernel(endpoint) => endpoint.call_detached(to, request),
        }
    }

    /// [`Client::call`] on a thread, for clients that are driven by their callers.
    pub(crate) fn start(&self, to: SocketAddr, request: Message) -> Result<Started, CallError> {
        match self.choose(to)? {
            Chosen::User(endpoint) => {
                let (ticket, receiver) = endpoint.call(to, request)?;
                Ok(Started::User(Running {
                    rpc: Rpc::User(endpoint.clone(), ticket),
                    receiver,
                    is_detached: false,
                }))
            }
            Chosen::Kernel(endpoint) => endpoint
                .call_private(to, request)
                .inspect_err(|error| ROUTES.ended(to, Some(error), Instant::now()))
                .map(|call| Started::Kernel(call, to)),
        }
    }

    /// The local address from which `to` is called: unspecified IP, and the UDP port, or on IP
    /// protocol 146 the Homa port.
    pub fn local_addr(&self, to: SocketAddr) -> Option<SocketAddr> {
        Some(match self.endpoint(Family::of(to)).ok()? {
            Endpoint::User(endpoint) | Endpoint::Both(endpoint, _) => endpoint.local_addr(),
            Endpoint::Kernel(endpoint) => {
                let port = u16::try_from(endpoint.info().ok()?.port).ok()?;
                SocketAddr::new(Family::of(to).unspecified(), port)
            }
        })
    }

    /// What the endpoint that calls `to` has counted so far, for all clients that share it. The
    /// kernel module counts for the whole machine, in `/proc/net/homa_metrics`; here all are 0.
    pub fn counters(&self, to: SocketAddr) -> EndpointCounters {
        match self.endpoint(Family::of(to)) {
            Ok(Endpoint::User(endpoint) | Endpoint::Both(endpoint, _)) => endpoint.counters(),
            Ok(Endpoint::Kernel(_)) | Err(_) => EndpointCounters::default(),
        }
    }

    /// A way to read the counters of the endpoint that calls `to` while it is in use elsewhere.
    pub fn monitor(&self, to: SocketAddr) -> Monitor {
        match self.endpoint(Family::of(to)) {
            Ok(Endpoint::User(endpoint) | Endpoint::Both(endpoint, _)) => Monitor::new(endpoint),
            Ok(Endpoint::Kernel(_)) | Err(_) => Monitor::default(),
        }
    }

    /// The endpoint for a call to this peer.
    fn choose(&self, to: SocketAddr) -> Result<Chosen<'_>, BindError> {
        let (user, module) = match self.endpoint(Family::of(to))? {
            Endpoint::User(endpoint) => return Ok(Chosen::User(endpoint)),
            Endpoint::Kernel(endpoint) => return Ok(Chosen::Kernel(endpoint)),
            Endpoint::Both(user, module) => (user, module),
        };
        let Choice { carrier, probe } = ROUTES.choose(to, Instant::now());
        if probe {
            kernel::probe(&self.inner.driven, module, to, move |answered| {
                ROUTES.probed(to, answered, Instant::now());
            });
        }
        Ok(match carrier {
            Carrier::Udp => Chosen::User(user),
            Carrier::Module => Chosen::Kernel(module),
        })
    }

    fn endpoint(&self, family: Family) -> Result<&Endpoint, BindError> {
        let slot = match family {
            Family::V4 => &self.inner.v4,
            Family::V6 => &self.inner.v6,
        };
        if slot.get().is_none() {
            let Inner {
                driven,
                config,
                handler,
                ..
            } = &*self.inner;
            let user = || registry::client(driven, config, family, handler.as_ref());
            let endpoint = match config.backend {
                Backend::User => Endpoint::User(user()?),
                Backend::Kernel => Endpoint::Kernel(kernel::client(driven, config, family)?),
                Backend::Auto => {
                    let user = user()?;
                    match kernel::client(driven, config, family) {
                        Ok(module) => Endpoint::Both(user, module),
                        Err(BindError::NoModule(_)) => Endpoint::User(user),
                        Err(error) => return Err(error),
                    }
                }
            };
            // Another thread may have been faster; both handles are of the same endpoint.
            let _ = slot.set(endpoint);
        }
        slot.get().ok_or(BindError::NoRuntime)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("backend", &self.inner.config.backend)
            .field("accepting", &self.inner.handler.is_some())
            .finish_non_exhaustive()
    }
}

impl Family {
    fn of(addr: SocketAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
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

/// A call that was sent. Dropping it cancels the RPC.
#[derive(Debug)]
pub(crate) struct Running {
    rpc: Rpc,
    receiver: oneshot::Receiver<Outcome>,
    /// Nobody wants the response, but the request is to arrive.
    is_detached: bool,
}

#[derive(Debug)]
enum Rpc {
    User(Handle, Ticket),
    Kernel(ClientHandle, kernel::client::Ticket, SocketAddr),
}

impl Call {
    /// One that an endpoint of this crate's engine carries.
    pub(crate) fn start(
        endpoint: &Handle,
        start: impl FnOnce(&Handle) -> Result<(Ticket, oneshot::Receiver<Outcome>), CallError>,
    ) -> Self {
        Self::of(start(endpoint).map(|(ticket, receiver)| Running {
            rpc: Rpc::User(endpoint.clone(), ticket),
            receiver,
            is_detached: false,
        }))
    }

    fn of(started: Result<Running, CallError>) -> Self {
        Self {
            state: started.map_or_else(|error| State::Failed(Some(error)), State::Running),
        }
    }
}

impl Future for Call {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match &mut self.state {
            State::Running(running) => {
                let outcome = ready!(Pin::new(&mut *running).poll(cx));
                if let Rpc::Kernel(_, _, to) = &running.rpc {
                    ROUTES.ended(*to, outcome.as_ref().err(), Instant::now());
                }
                self.state = State::Failed(None);
                Poll::Ready(outcome)
            }
            State::Failed(error) => Poll::Ready(Err(error.take().unwrap_or(CallError::Closed))),
        }
    }
}

impl Future for Running {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        // Whoever has had the outcome asks in vain.
        if self.receiver.is_terminated() {
            return Poll::Ready(Err(CallError::Closed));
        }
        let outcome = ready!(Pin::new(&mut self.receiver).poll(cx));
        Poll::Ready(outcome.unwrap_or(Err(CallError::Closed)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_detached && !self.receiver.is_terminated() {
            self.receiver.close();
            match &self.rpc {
                Rpc::User(endpoint, ticket) => endpoint.cancel_call(*ticket),
                Rpc::Kernel(endpoint, ticket, to) => {
                    endpoint.cancel_call(*ticket);
                    ROUTES.given_up(*to, Instant::now());
                }
            }
        }
    }
}

/// A call of a client that is driven by its callers. Dropping it cancels the RPC.
#[derive(Debug)]
pub(crate) enum Started {
    User(Running),
    Kernel(PrivateCall, SocketAddr),
}

impl Started {
    /// Waits on this thread; `None` when the deadline has passed, and the RPC is cancelled then.
    pub(crate) fn wait(self, deadline: Option<Instant>) -> Option<Outcome> {
        match self {
            Self::User(running) => running.wait(deadline),
            Self::Kernel(call, to) => {
                let outcome = call.wait(deadline);
                match &outcome {
                    Some(outcome) => ROUTES.ended(to, outcome.as_ref().err(), Instant::now()),
                    None => ROUTES.given_up(to, Instant::now()),
                }
                outcome
            }
        }
    }

    /// The outcome if the RPC is over, or is before `until`.
    pub(crate) fn wait_until(&mut self, until: Option<Instant>) -> Option<Outcome> {
        match self {
            Self::User(running) => running.wait_until(until),
            Self::Kernel(call, to) => {
                let outcome = call.wait_until(until)?;
                ROUTES.ended(*to, outcome.as_ref().err(), Instant::now());
                Some(outcome)
            }
        }
    }

    /// Leaves the RPC to itself: its request goes on being sent, its response is dropped.
    pub(crate) fn detach(self) {
        match self {
            Self::User(mut running) => running.is_detached = true,
            Self::Kernel(call, _) => call.detach(),
        }
    }
}

impl Running {
    /// Waits on this thread; `None` when the deadline has passed.
    fn wait(self, deadline: Option<Instant>) -> Option<Outcome> {
        let endpoint = self.endpoint()?;
        let outcome = wait(&endpoint, Wants::Own, self, deadline)?;
        make_way(outcome.as_ref().map_or(0, Message::len));
        Some(outcome)
    }

    fn wait_until(&mut self, until: Option<Instant>) -> Option<Outcome> {
        let Some(until) = until else {
            return match self.receiver.try_recv() {
                Ok(outcome) => Some(outcome),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Closed) => Some(Err(CallError::Closed)),
            };
        };
        let endpoint = self.endpoint()?;
        let outcome = wait(&endpoint, Wants::Own, self, Some(until))?;
        make_way(outcome.as_ref().map_or(0, Message::len));
        Some(outcome)
    }

    fn endpoint(&self) -> Option<Handle> {
        match &self.rpc {
            Rpc::User(endpoint, _) => Some(endpoint.clone()),
            // Threads wait in the module for their own response.
            Rpc::Kernel(..) => None,
        }
    }
}
