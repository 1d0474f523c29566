//! [`Server`]: accepts requests inside a tokio runtime.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::config::{Backend, Config};
use crate::engine::SendError;
use crate::error::{BindError, ReplyError};
use crate::kernel;
use crate::kernel::server::{Accepted, Reply, ServerEndpoint};
use crate::message::Message;
use crate::push::Pusher;
use crate::stats::{EndpointCounters, Monitor};
use crate::user::endpoint::Handle;
use crate::user::lead::{Wants, make_way, wait};
use crate::user::registry::{self, Driven};
use crate::user::shard::LocalRpc;

/// Accepts requests on one Homa port, whose number is also that of its UDP socket.
///
/// On IP protocol 146 the system knows no ports. Servers of one process cannot have the same, but
/// two processes can by mistake: both then get each request, and answer it. So give the servers of
/// a host different ports.
///
/// All methods take `&self`: put it in an [`Arc`](std::sync::Arc) to accept on several tasks. When
/// it is dropped, requests that nobody has accepted are refused, those that were accepted can still
/// be answered, and the port is closed a second after the last of them. [`Server::shutdown`] waits
/// for that.
#[derive(Debug)]
pub struct Server {
    by: By,
}

/// Who carries its messages.
#[derive(Debug)]
enum By {
    User(Handle),
    Kernel(Arc<ServerEndpoint>),
    Both(Handle, Arc<ServerEndpoint>),
}

impl Server {
    /// Opens `addr`, driven by the current tokio runtime. Port 0 takes any free port below 32768,
    /// which [`Server::local_addr`] tells.
    ///
    /// # Errors
    /// [`BindError`]: a setting or the port is out of range, the address is in use or not ours,
    /// there is no runtime, or no kernel module for [`Backend::Kernel`].
    pub fn bind(addr: SocketAddr, config: &Config) -> Result<Self, BindError> {
        Self::on(&registry::current_runtime()?, addr, config)
    }

    pub(crate) fn on(
        driven: &Driven,
        addr: SocketAddr,
        config: &Config,
    ) -> Result<Self, BindError> {
        let by = match config.backend {
            Backend::User => By::User(registry::server(driven, addr, config)?),
            Backend::Kernel => By::Kernel(kernel::server(driven, addr, config)?),
            Backend::Auto => return Self::auto(driven, addr, config, PORT_TRIES),
        };
        Ok(Self { by })
    }

    /// On UDP and, where it is loaded, through the module.
    fn auto(
        driven: &Driven,
        addr: SocketAddr,
        config: &Config,
        tries: u32,
    ) -> Result<Self, BindError> {
        let user = registry::server(driven, addr, config)?;
        if !addr.ip().is_unspecified() {
            // The module would take requests for all addresses.
            return Ok(Self { by: By::User(user) });
        }
        match kernel::server(driven, user.local_addr(), config) {
            Ok(module) => Self::of_both(driven, user, module),
            Err(BindError::NoModule(_)) => Ok(Self { by: By::User(user) }),
            // Any port will do, and this one is not free in the module.
            Err(BindError::AddressInUse { .. }) if addr.port() == 0 && tries > 1 => {
                Self::auto(driven, addr, config, tries - 1)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes requests from either.
    pub(crate) fn of_both(
        driven: &Driven,
        user: Handle,
        module: Arc<ServerEndpoint>,
    ) -> Result<Self, BindError> {
        if let Driven::Callers = driven {
            forward(&user, &module)?;
        }
        let by = By::Both(user, module);
        Ok(Self { by })
    }

    /// The address it is bound to. The kernel module takes packets for any address of this machine,
    /// whatever the one here is.
    pub fn local_addr(&self) -> SocketAddr {
        match &self.by {
            By::User(endpoint) | By::Both(endpoint, _) => endpoint.local_addr(),
            By::Kernel(endpoint) => endpoint.local_addr(),
        }
    }

    /// The next request. `None` after [`Server::shutdown`], or when the runtime has ended.
    /// Cancel safe: no request is lost when the future is dropped.
    pub async fn accept(&self) -> Option<Request> {
        match &self.by {
            By::User(endpoint) => endpoint.accepts.pop().await,
            By::Kernel(endpoint) => endpoint.accept().await.map(Request::of_kernel),
            // It is over when both are.
            By::Both(user, module) => tokio::select! {
                request = user.accepts.pop() => match request {
                    Some(request) => Some(request),
                    None => module.accept().await.map(Request::of_kernel),
                },
                accepted = module.accept() => match accepted {
                    Some(accepted) => Some(Request::of_kernel(accepted)),
                    None => user.accepts.pop().await,
                },
            },
        }
    }

    /// Hands every request to `handler` from now on, those that wait included, instead of queueing
    /// it for [`Server::accept`], and returns when no more will come: after [`Server::shutdown`], or
    /// when the runtime has ended.
    ///
    /// This saves the way from the thread that receives to a task that accepts. The handler runs on
    /// the receiving thread, and other packets wait meanwhile: it has to be short and must not block
    /// or panic. Only the first handler counts; dropping the future does not take it away.
    pub async fn hand_to(&self, handler: RequestHandler) {
        match &self.by {
            By::User(user) => {
                user.accepts.hand_to(handler);
                user.accepts.closed().await;
            }
            By::Kernel(module) => hand_over_all(module, &handler).await,
            By::Both(user, module) => {
                user.accepts.hand_to(handler.clone());
                tokio::join!(user.accepts.closed(), hand_over_all(module, &handler));
            }
        }
    }

    /// Bounds what waits to be accepted: while so many requests do, a further one goes to `handler`
    /// at once, which may answer it, or drop it as one that nobody answers. Without this the queue
    /// is bounded by `max_rpcs` and `pool_bytes` of the settings only.
    ///
    /// The handler runs on the receiving thread, as that of [`Server::hand_to`] does. Only the first
    /// one counts. Through the kernel module requests wait in the module, where its own memory
    /// bounds them: there this has no effect.
    pub fn refuse_beyond(&self, waiting: usize, handler: RequestHandler) {
        if let By::User(endpoint) | By::Both(endpoint, _) = &self.by {
            endpoint.accepts.refuse_beyond(waiting, handler);
        }
    }

    /// Requests that wait to be accepted. Those that wait in the kernel module do not count.
    pub fn waiting(&self) -> usize {
        match &self.by {
            By::User(endpoint) | By::Both(endpoint, _) => endpoint.accepts.len(),
            By::Kernel(_) => 0,
        }
    }

    /// A request that waits to be accepted, if there is one; does not wait. Those that wait in the
    /// kernel module do not count.
    pub fn try_accept(&self) -> Option<Request> {
        match &self.by {
            By::User(endpoint) | By::Both(endpoint, _) => match endpoint.accepts.poll_pop() {
                Poll::Ready(request) => request,
                Poll::Pending => None,
            },
            By::Kernel(_) => None,
        }
    }

    /// Refuses new requests from now on, as a closed port does, and waits up to `grace` until
    /// those that were accepted are answered and the answers acknowledged. Returns whether all
    /// were; if so, the port is free again as soon as the server is dropped.
    ///
    /// The kernel module cannot refuse requests and still answer others: with it, new ones are
    /// left unanswered until the last answer is acknowledged, and refused then.
    pub async fn shutdown(&self, grace: Duration) -> bool {
        let endpoint = match &self.by {
            By::User(endpoint) => endpoint,
            By::Kernel(endpoint) => return endpoint.shutdown(grace).await,
            By::Both(user, module) => {
                let (user, module) = tokio::join!(drain(user, grace), module.shutdown(grace));
                return user && module;
            }
        };
        drain(endpoint, grace).await
    }

    /// [`Server::accept`] on a thread, for servers that are driven by their callers.
    pub(crate) fn wait_accept(&self) -> Option<Request> {
        let endpoint = match &self.by {
            By::User(endpoint) | By::Both(endpoint, _) => endpoint,
            By::Kernel(endpoint) => return endpoint.accept_blocking().map(Request::of_kernel),
        };
        // Who finds one there needs no place among those that wait.
        if let Poll::Ready(request) = endpoint.accepts.poll_pop() {
            return request;
        }
        let request = poll_fn(|_| endpoint.accepts.poll_pop());
        let request = wait(endpoint, Wants::Request, request, None).flatten()?;
        make_way(request.message().len());
        Some(request)
    }

    /// [`Server::shutdown`] on a thread, for servers that are driven by their callers.
    pub(crate) fn wait_shutdown(&self, grace: Duration) -> bool {
        let deadline = Instant::now().checked_add(grace);
        match &self.by {
            By::User(endpoint) => wait_drained(endpoint, deadline),
            By::Kernel(endpoint) => endpoint.shutdown_blocking(grace),
            By::Both(user, module) => {
                // Both at once.
                let _draining = module.refuse();
                let user = wait_drained(user, deadline);
                let left =
                    deadline.map_or(grace, |end| end.saturating_duration_since(Instant::now()));
                module.shutdown_blocking(left) && user
            }
        }
    }

    /// Refuses new requests from now on, as a closed port does, and does not wait. Once those that
    /// wait are accepted, [`Server::accept`] returns `None`.
    pub fn stop(&self) {
        match &self.by {
            By::User(endpoint) => endpoint.stop(),
            By::Kernel(endpoint) => endpoint.stop(),
            By::Both(user, module) => {
                user.stop();
                module.stop();
            }
        }
    }

    /// A way to read the counters while the server is in use elsewhere.
    pub fn monitor(&self) -> Monitor {
        match &self.by {
            By::User(endpoint) | By::Both(endpoint, _) => Monitor::new(endpoint),
            By::Kernel(_) => Monitor::default(),
        }
    }

    /// What the endpoint has counted so far. The kernel module counts for the whole machine, in
    /// `/proc/net/homa_metrics`; here all are 0.
    pub fn counters(&self) -> EndpointCounters {
        match &self.by {
            By::User(endpoint) | By::Both(endpoint, _) => endpoint.counters(),
            By::Kernel(_) => EndpointCounters::default(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        match &self.by {
            By::User(endpoint) => endpoint.abandon_accepts(),
            By::Kernel(endpoint) => endpoint.stop(),
            By::Both(user, module) => {
                user.abandon_accepts();
                module.stop();
            }
        }
    }
}

/// Tries to find a port that is free on both carriers.
const PORT_TRIES: u32 = 8;

/// Requests from the module that wait for a thread, at most.
const MAX_FORWARDED: usize = 1024;

/// Between two looks whether there are fewer.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// Has threads that wait for requests on UDP get those from the module, too, by a thread that waits
/// there.
fn forward(user: &Handle, module: &Arc<ServerEndpoint>) -> Result<(), BindError> {
    // Not a handle: it would keep the endpoint open.
    let (user, module) = (Arc::downgrade(user), module.clone());
    let forward = move || {
        while let Some(accepted) = module.accept_blocking() {
            let Some(user) = user.upgrade() else { return };
            // What waits in the module takes memory of its region only.
            while user.accepts.len() >= MAX_FORWARDED && !user.is_closed() {
                std::thread::sleep(FULL_PAUSE);
            }
            user.hand_over(Request::of_kernel(accepted));
        }
    };
    std::thread::Builder::new()
        .name("homa-module".to_owned())
        .spawn(forward)
        .map(drop)
        .map_err(|source| BindError::NoThread { source })
}

/// Requests from the module are received by whoever waits for them.
async fn hand_over_all(module: &Arc<ServerEndpoint>, handler: &RequestHandler) {
    while let Some(accepted) = module.accept().await {
        handler(Request::of_kernel(accepted));
    }
}

async fn drain(endpoint: &Handle, grace: Duration) -> bool {
    let drained = endpoint.drained.notified();
    tokio::pin!(drained);
    drained.as_mut().enable();
    endpoint.drain();
    let _ = timeout(grace, drained).await;
    if endpoint.unfinished() > 0 {
        return false;
    }
    endpoint.finish().await;
    true
}

fn wait_drained(endpoint: &Handle, deadline: Option<Instant>) -> bool {
    let mut drained = std::pin::pin!(endpoint.drained.notified());
    drained.as_mut().enable();
    endpoint.drain();
    let _ = wait(endpoint, Wants::Own, drained, deadline);
    if endpoint.unfinished() > 0 {
        return false;
    }
    let _ = wait(endpoint, Wants::Own, endpoint.finish(), None);
    true
}

/// Takes requests on the thread that receives them; has to be short and must not block or panic.
pub type RequestHandler = Arc<dyn Fn(Request) + Send + Sync>;

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Request {
    message: Message,
    received: Instant,
    responder: Responder,
}

impl Request {
    pub(crate) fn new(endpoint: Handle, rpc: LocalRpc, from: Origin, message: Message) -> Self {
        Self {
            message,
            received: Instant::now(),
            responder: Responder {
                rpc: Rpc::User(endpoint, rpc),
                from,
                answered: false,
            },
        }
    }

    fn of_kernel((message, reply): Accepted) -> Self {
        Self {
            message,
            received: Instant::now(),
            responder: Responder {
                from: Origin {
                    peer: reply.peer(),
                    port: reply.peer().port(),
                    local: None,
                },
                rpc: Rpc::Kernel(reply),
                answered: false,
            },
        }
    }

    /// The request's bytes.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The client's address with its UDP port, or on IP protocol 146 its Homa port.
    pub fn peer(&self) -> SocketAddr {
        self.responder.peer()
    }

    /// When its last byte was received, before it waited to be accepted. The time that a request
    /// waits in the kernel module is not known: there it is when it was taken from the module.
    pub fn received_at(&self) -> Instant {
        self.received
    }

    /// The local IP address that it was sent to, where the system tells.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.responder.from.local
    }

    /// Answers it, on this thread.
    ///
    /// # Errors
    /// [`ReplyError`]; if the reply has the wrong size or there is no room for it, it comes back.
    pub fn reply(self, reply: Message) -> Result<(), ReplyError> {
        self.responder.reply(reply)
    }

    /// Turns it down as a closed port would: it surely has not run.
    pub(crate) fn refuse(mut self) {
        self.responder.answered = true;
        if let Rpc::User(endpoint, rpc) = &self.responder.rpc {
            endpoint.refuse_request(*rpc);
        }
    }

    /// The bytes, and what is needed to answer.
    pub fn into_parts(self) -> (Message, Responder) {
        (self.message, self.responder)
    }
}

/// The right and the duty to answer one request. When it is dropped unanswered, the caller fails
/// as timed out after the protocol's silence limit (1 s); through the kernel module it waits for as
/// long as it wants, since that knows no other end of a request than its answer.
#[derive(Debug)]
pub struct Responder {
    rpc: Rpc,
    from: Origin,
    answered: bool,
}

/// Where a request came from, which is where requests to its sender go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// Its sender's address.
    pub(crate) peer: SocketAddr,
    /// Its sender's Homa port.
    pub(crate) port: u16,
    /// The address of this host that it came to, where the system tells.
    pub(crate) local: Option<IpAddr>,
}

#[derive(Debug)]
enum Rpc {
    User(Handle, LocalRpc),
    Kernel(Reply),
}

impl Responder {
    /// Answers, on this thread. A client that is gone meanwhile is no error.
    ///
    /// # Errors
    /// [`ReplyError`]; if the reply has the wrong size or there is no room for it, it comes back
    /// with the responder.
    pub fn reply(self, reply: Message) -> Result<(), ReplyError> {
        let sent = match &self.rpc {
            Rpc::User(endpoint, _) if endpoint.is_closed() => {
                Err(SendError::Closed { message: reply })
            }
            Rpc::User(endpoint, rpc) => endpoint.reply(*rpc, reply),
            Rpc::Kernel(kernel) => kernel.send(reply),
        };
        self.replied(sent)
    }

    /// Answers with the packets that leave next through the endpoint, or at the latest a few
    /// milliseconds from now: for answers that nobody waits for, such as acknowledgments, which cost
    /// no system call then. A second one to the same client has both leave at once. Through the
    /// kernel module it is the same as [`Responder::reply`].
    ///
    /// Returns the answer while it waits: something better to say may come up.
    ///
    /// # Errors
    /// As those of [`Responder::reply`].
    pub fn reply_lazily(self, reply: Message) -> Result<Option<WaitingReply>, ReplyError> {
        let sent = match &self.rpc {
            Rpc::User(endpoint, _) if endpoint.is_closed() => {
                Err(SendError::Closed { message: reply })
            }
            Rpc::User(endpoint, rpc) => {
                endpoint
                    .reply_lazily(*rpc, self.from.peer, reply)
                    .map(|waits| {
                        waits.then(|| WaitingReply {
                            endpoint: endpoint.clone(),
                            rpc: *rpc,
                        })
                    })
            }
            Rpc::Kernel(kernel) => kernel.send(reply).map(|()| None),
        };
        match sent {
            Ok(waiting) => {
                self.replied(Ok(()))?;
                Ok(waiting)
            }
            Err(error) => {
                self.replied(Err(error))?;
                Ok(None)
            }
        }
    }

    fn replied(mut self, sent: Result<(), SendError>) -> Result<(), ReplyError> {
        match sent {
            Ok(()) => {
                self.answered = true;
                Ok(())
            }
            Err(SendError::BadSize { limit, message }) => Err(ReplyError::BadSize {
                size: message.len(),
                limit,
                responder: Box::new(self),
                reply: message,
            }),
            Err(SendError::Busy {
                what,
                limit,
                message,
            }) => Err(ReplyError::Busy {
                what,
                limit,
                responder: Box::new(self),
                reply: message,
            }),
            Err(SendError::Closed { .. }) => {
                self.answered = true;
                Err(ReplyError::Closed)
            }
        }
    }

    /// The client's address with its UDP port, or on IP protocol 146 its Homa port.
    pub fn peer(&self) -> SocketAddr {
        self.from.peer
    }

    /// A way to send requests to the client that sent this one; whether it takes any is up to it,
    /// see [`Client::bind_accepting`](crate::Client::bind_accepting). `None` for requests that came
    /// through the kernel module.
    pub fn pusher(&self) -> Option<Pusher> {
        match &self.rpc {
            Rpc::User(endpoint, _) => Some(Pusher::new(endpoint.clone(), self.from)),
            Rpc::Kernel(_) => None,
        }
    }
}

/// An answer that waits for other packets to leave with; see [`Responder::reply_lazily`]. It leaves
/// all the same when this is dropped.
#[derive(Debug)]
pub struct WaitingReply {
    endpoint: Handle,
    rpc: LocalRpc,
}

impl WaitingReply {
    /// Sends `reply` in its place, on this thread.
    ///
    /// # Errors
    /// Gives `reply` back if the answer has left meanwhile, or there is no room for another.
    pub fn replace(self, reply: Message) -> Result<(), Message> {
        self.endpoint.replace_lazy(self.rpc, reply)
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let (Rpc::User(endpoint, rpc), false) = (&self.rpc, self.answered) {
            endpoint.abandon(*rpc);
        }
    }
}
