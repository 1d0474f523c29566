//! [`ClientEndpoint`]: a socket of the module that makes calls.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use homa_sys::{HOMA_MAX_MESSAGE_LENGTH, homa_info};
use nix::libc;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot};

use super::alarm;
use super::leftovers::{Leftovers, MAX_PAUSE};
use super::server::BACK_OFF;
use super::socket::{Of, Received, Socket};
use crate::engine::Unreachable;
use crate::error::{CallError, Executed};
use crate::message::Message;

/// What a waiting caller gets.
pub(crate) type Outcome = Result<Message, CallError>;

/// Messages that the driver hands out before it lets other tasks run.
pub(super) const MAX_BATCH: usize = 64;

/// What is exhausted when the module takes no more messages.
pub(super) const SEND_MEMORY: &str = "the socket's send memory (net.homa.wmem_max)";

/// What the module gives up after, unless `net.homa.timeout_ticks` says otherwise.
const SILENCE: Duration = Duration::from_millis(100);

/// Shared by all handles, calls and the driver.
#[derive(Debug)]
pub(crate) struct ClientEndpoint {
    socket: Arc<Socket>,
    /// Whether a task receives the responses; else those that wait for their own.
    has_driver: bool,
    /// How long the socket stays open after the last handle is gone, for messages that have not
    /// arrived.
    linger: Duration,
    waiting: Mutex<Waiting>,
    /// Without a driver: who receives the responses that nobody waits for.
    leftovers: Arc<Leftovers>,
    handles: AtomicUsize,
    closed: AtomicBool,
    /// The last handle is gone.
    closing: Notify,
}

/// Calls by the cookie that their response will have. Cookies are not used again, so that a
/// response that comes while its call is given up finds nobody.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    calls: HashMap<u64, Waiter>,
}

#[derive(Debug)]
struct Waiter {
    to: SocketAddr,
    /// `None`: nobody wants the response.
    caller: Option<oneshot::Sender<Outcome>>,
}

/// A call that was started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    id: u64,
    cookie: u64,
}

impl ClientEndpoint {
    /// Has the current runtime watch its socket.
    pub(super) fn watch(&self) -> io::Result<AsyncFd<Descriptor>> {
        Descriptor::watch(&self.socket)
    }

    pub(super) fn new(socket: Socket, has_driver: bool, linger: Duration) -> Arc<Self> {
        let socket = Arc::new(socket);
        Arc::new(Self {
            leftovers: Arc::new(Leftovers::of(socket.clone())),
            socket,
            has_driver,
            linger,
            waiting: Mutex::default(),
            handles: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
        })
    }

    /// Starts a call whose response the driver will bring.
    pub(crate) fn call(
        &self,
        to: SocketAddr,
        message: Message,
    ) -> Result<(Ticket, oneshot::Receiver<Outcome>), CallError> {
        let (sender, receiver) = oneshot::channel();
        let ticket = self.start(to, message, Some(sender))?;
        Ok((ticket, receiver))
    }

    /// Starts a call whose response nobody waits for.
    pub(crate) fn call_detached(&self, to: SocketAddr, message: Message) -> Result<(), CallError> {
        if self.has_driver {
            return self.start(to, message, None).map(drop);
        }
        let id = self.request_private(to, message)?;
        self.leftovers.collect(id);
        Ok(())
    }

    fn start(
        &self,
        to: SocketAddr,
        message: Message,
        caller: Option<oneshot::Sender<Outcome>>,
    ) -> Result<Ticket, CallError> {
        check(to, &message).map_err(|error| error(message.clone()))?;
        let cookie = {
            let mut waiting = self.waiting();
            waiting.next += 1;
            let cookie = waiting.next;
            waiting.calls.insert(cookie, Waiter { to, caller });
            cookie
        };
        // Not under the lock: the response may come before this returns.
        match self.socket.request(to, &message, cookie, false) {
            Ok(id) => Ok(Ticket { id, cookie }),
            Err(error) => {
                self.waiting().calls.remove(&cookie);
                Err(send_error(to, error, message))
            }
        }
    }

    /// The caller is gone: its RPC ends. The request may still run.
    pub(crate) fn cancel_call(&self, ticket: Ticket) {
        if self.waiting().calls.remove(&ticket.cookie).is_some() {
            // It may be over already.
            let _ = self.socket.abort(ticket.id, 0);
        }
    }

    /// Sends a request whose response is received by its id alone.
    fn request_private(&self, to: SocketAddr, message: Message) -> Result<u64, CallError> {
        check(to, &message).map_err(|error| error(message.clone()))?;
        let sent = self.socket.request(to, &message, 0, true);
        sent.map_err(|error| send_error(to, error, message))
    }

    pub(crate) fn info(&self) -> io::Result<homa_info> {
        self.socket.info()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Hands a message, or a failure, to whoever waits for it.
    fn deliver(&self, received: Received) {
        let (cookie, outcome) = match received {
            Received::Message {
                cookie, message, ..
            } => (cookie, Ok(message)),
            Received::Failed { cookie, errno } => (cookie, Err(errno)),
            Received::Nothing | Received::Closed => return,
        };
        let Some(waiter) = self.waiting().calls.remove(&cookie) else {
            return;
        };
        if let Some(caller) = waiter.caller {
            // It may have gone meanwhile.
            let _ = caller.send(outcome.map_err(|errno| rpc_error(waiter.to, errno)));
        }
    }

    /// Nothing works any more: everybody who waits is told.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.socket.shutdown();
        let waiting = std::mem::take(&mut self.waiting().calls);
        for caller in waiting.into_values().filter_map(|waiter| waiter.caller) {
            let _ = caller.send(Err(CallError::Closed));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brings the responses of an endpoint until its last handle is gone, and a while longer.
pub(super) async fn drive(closer: Closer, fd: AsyncFd<Descriptor>) {
    let endpoint = &closer.0;
    let mut closing = pin!(endpoint.closing.notified());
    let linger = async {
        closing.as_mut().await;
        tokio::time::sleep(endpoint.linger).await;
    };
    let receive = async {
        loop {
            let Ok(mut ready) = fd.readable().await else {
                return;
            };
            match drain(endpoint) {
                // Readiness may be spurious: the module had packets to copy, and no message yet
                // (A.8). What comes from here on is a new edge.
                Drained::All => ready.clear_ready(),
                Drained::Some => tokio::task::yield_now().await,
                Drained::Failed => tokio::time::sleep(BACK_OFF).await,
                Drained::Closed => return,
            }
        }
    };
    tokio::select! {
        () = linger => {}
        () = receive => {}
    }
}

enum Drained {
    All,
    Some,
    /// It may work later.
    Failed,
    Closed,
}

fn drain(endpoint: &ClientEndpoint) -> Drained {
    let receiving = endpoint.socket.receiving();
    for _ in 0..MAX_BATCH {
        match receiving.next() {
            Ok(Received::Nothing) => return Drained::All,
            Ok(Received::Closed) => return Drained::Closed,
            Ok(received) => endpoint.deliver(received),
            Err(error) => {
                tracing::error!(%error, "receiving from the homa module failed");
                return Drained::Failed;
            }
        }
    }
    Drained::Some
}

/// Closes the endpoint when its driver ends, also because its runtime does, even before it has run.
pub(super) struct Closer(pub(super) Arc<ClientEndpoint>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A socket for the runtime to watch, which does not close it.
#[derive(Debug)]
pub(super) struct Descriptor(Arc<Socket>);

impl Descriptor {
    /// Has the current runtime watch the socket.
    pub(super) fn watch(socket: &Arc<Socket>) -> io::Result<AsyncFd<Self>> {
        // SAFETY: it is the same descriptor each time it is asked for, and `Socket`, which this
        // holds, keeps it open.
        unsafe { AsyncFd::register(Self(socket.clone())) }.map_err(io::Error::from)
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Keeps an endpoint open.
#[derive(Debug)]
pub(crate) struct ClientHandle(Arc<ClientEndpoint>);

impl ClientHandle {
    pub(super) fn new(endpoint: Arc<ClientEndpoint>) -> Self {
        endpoint.handles.fetch_add(1, Ordering::AcqRel);
        Self(endpoint)
    }

    /// One more handle of an endpoint that has some; once the last is gone there is no way back.
    pub(super) fn join(endpoint: Arc<ClientEndpoint>) -> Option<Self> {
        let one_more = |handles: usize| handles.checked_add(1).filter(|_| handles > 0);
        let handles = &endpoint.handles;
        let joined = handles.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        let joined = joined.is_ok().then(|| Self(endpoint))?;
        (!joined.is_closed()).then_some(joined)
    }
}

impl ClientHandle {
    /// Starts a call whose response is waited for on a thread. Nobody else is woken for it.
    pub(crate) fn call_private(
        &self,
        to: SocketAddr,
        message: Message,
    ) -> Result<PrivateCall, CallError> {
        Ok(PrivateCall {
            id: self.request_private(to, message)?,
            endpoint: self.clone(),
            to,
            is_over: false,
        })
    }
}

/// A call whose response only [`PrivateCall::wait`] receives. Dropping it ends the RPC.
#[derive(Debug)]
pub(crate) struct PrivateCall {
    endpoint: ClientHandle,
    id: u64,
    to: SocketAddr,
    is_over: bool,
}

impl PrivateCall {
    /// Waits on this thread; `None` when the deadline has passed, and the RPC has ended then.
    pub(crate) fn wait(mut self, deadline: Option<Instant>) -> Option<Outcome> {
        // What has come is there, however late it is asked for.
        if deadline.is_some_and(|at| at <= Instant::now()) {
            return self.try_wait();
        }
        let socket = &self.endpoint.socket;
        // The module ends the wait by itself only with the RPC.
        let armed = deadline.map(|at| alarm::arm(at, socket, self.id));
        let received = if self.is_over {
            Ok(Received::Closed)
        } else {
            socket.wait(Of::Private(self.id))
        };
        drop(armed);
        self.is_over = true;
        match received {
            Ok(Received::Failed { errno, .. }) if errno == alarm::ERRNO => None,
            received => Some(self.outcome(received)),
        }
    }

    /// The outcome if there is one before `until`. The module knows no such wait: this looks again
    /// and again.
    pub(crate) fn wait_until(&mut self, until: Option<Instant>) -> Option<Outcome> {
        let mut pause = Duration::from_micros(100);
        loop {
            if let Some(outcome) = self.try_wait() {
                return Some(outcome);
            }
            let left = until?.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            thread::sleep(pause.min(left));
            pause = (2 * pause).min(MAX_PAUSE);
        }
    }

    fn try_wait(&mut self) -> Option<Outcome> {
        if self.is_over {
            return Some(Err(CallError::Closed));
        }
        match self.endpoint.socket.look(self.id) {
            Ok(Received::Nothing) => None,
            received => {
                self.is_over = true;
                Some(self.outcome(received))
            }
        }
    }

    fn outcome(&self, received: io::Result<Received>) -> Outcome {
        match received {
            Ok(Received::Message { message, .. }) => Ok(message),
            Ok(Received::Failed { errno, .. }) => Err(rpc_error(self.to, errno)),
            Ok(Received::Nothing | Received::Closed) => Err(CallError::Closed),
            Err(error) => Err(CallError::System {
                source: error,
                executed: Executed::Maybe,
            }),
        }
    }

    /// Has somebody else receive the response. To end the RPC could lose its request.
    pub(crate) fn detach(mut self) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.endpoint.leftovers.collect(self.id);
        }
    }
}

impl Drop for PrivateCall {
    fn drop(&mut self) {
        if !self.is_over {
            // It may be over already.
            let _ = self.endpoint.socket.abort(self.id, 0);
        }
    }
}

impl Clone for ClientHandle {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl std::ops::Deref for ClientHandle {
    type Target = Arc<ClientEndpoint>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for ClientHandle {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.closing.notify_one();
            if self.0.leftovers.are_any() {
                alarm::shut_down(Instant::now() + self.0.linger, self.0.socket.clone());
            }
        }
    }
}

/// What the module would refuse with nothing but `EINVAL`; the message goes into the error.
fn check(
    to: SocketAddr,
    message: &Message,
) -> Result<(), impl FnOnce(Message) -> CallError + use<>> {
    let size = message.len();
    let is_bad_size = !(1..=HOMA_MAX_MESSAGE_LENGTH).contains(&size);
    let is_bad_address = to.port() == 0 || to.ip().is_unspecified() || to.ip().is_multicast();
    if !is_bad_size && !is_bad_address {
        return Ok(());
    }
    Err(move |message| {
        if is_bad_address {
            CallError::BadAddress { addr: to }
        } else {
            CallError::BadSize {
                size,
                limit: HOMA_MAX_MESSAGE_LENGTH,
                message,
            }
        }
    })
}

/// Why a request could not be sent (A.5).
fn send_error(to: SocketAddr, error: io::Error, message: Message) -> CallError {
    let unreachable = |reason| CallError::PeerUnreachable {
        peer: to,
        reason,
        executed: Executed::No,
    };
    match error.raw_os_error() {
        Some(libc::EAGAIN) => CallError::Busy {
            what: SEND_MEMORY,
            limit: send_limit(),
            message,
        },
        Some(libc::ESHUTDOWN) => CallError::Closed,
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => unreachable(Unreachable::Host),
        _ => CallError::System {
            source: error,
            executed: Executed::No,
        },
    }
}

/// As the module's parameter says, if that can be seen.
pub(super) fn send_limit() -> usize {
    let parameter = &homa_sys::sysctl::WMEM_MAX;
    let now = parameter
        .read()
        .ok()
        .and_then(|values| values.first().copied());
    let now = now.or_else(|| parameter.default.first().map(|default| i64::from(*default)));
    now.and_then(|bytes| usize::try_from(bytes).ok())
        .unwrap_or(0)
}

/// Why an RPC has failed (A.10).
fn rpc_error(peer: SocketAddr, errno: i32) -> CallError {
    let unreachable = |reason| CallError::PeerUnreachable {
        peer,
        reason,
        executed: Executed::Maybe,
    };
    match errno {
        libc::ETIMEDOUT => CallError::TimedOut {
            peer,
            silence: SILENCE,
        },
        libc::ENOTCONN => unreachable(Unreachable::HomaPort),
        libc::EPROTONOSUPPORT => unreachable(Unreachable::Protocol),
        libc::EHOSTUNREACH => unreachable(Unreachable::Host),
        errno => CallError::System {
            source: io::Error::from_raw_os_error(errno),
            executed: Executed::Maybe,
        },
    }
}
