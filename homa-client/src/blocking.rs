//! The same handles for programs without a runtime.
//!
//! Requests and replies are sent on the thread that makes them. Of the threads that wait for a
//! response or a request on one endpoint, one receives for all and keeps time, and passes that on
//! when its own message has come. While none waits, a thread in the background, one per process,
//! does so. All blocking clients with equal settings share one endpoint.
//!
//! Everything here may be called inside a tokio runtime as well, but what waits blocks its thread,
//! and whoever it waits for must not need that thread. Use [`crate::Client`] and
//! [`crate::Server`] there.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::client::Started;
pub use crate::server::{Request, RequestHandler, Responder};
use crate::stats::EndpointCounters;
use crate::user::registry::Driven;
use crate::{BindError, CallError, Config, Message};

/// Lets other threads run if `bytes` is much: 48 KiB or more, the copying of which takes some
/// 10 µs.
///
/// For threads that encode or decode long messages, between one piece and the next. A thread that
/// has just got a short message, or is to receive for all, then waits for one piece at most and not
/// for all of them, also where there are more busy threads than processors. Costs a system call,
/// or nothing if `bytes` is less. The calls of this module do the same between two sends of a long
/// message, and before they return one.
///
/// ```
/// use std::io::Write;
///
/// use homa_client::{MessageWriter, blocking};
///
/// let mut writer = MessageWriter::new();
/// for piece in vec![0; 500_000].chunks(64 << 10) {
///     writer.write_all(piece)?;
///     blocking::make_way(piece.len());
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn make_way(bytes: usize) {
    crate::user::lead::make_way(bytes);
}

/// Makes RPCs, one at a time per thread; share clones among threads. See [`crate::Client`].
///
/// ```
/// use homa_client::{Config, blocking};
///
/// let server = blocking::Server::bind("127.0.0.1:0".parse()?, &Config::default())?;
/// let addr = server.local_addr();
/// std::thread::spawn(move || {
///     while let Some(request) = server.accept() {
///         let (message, responder) = request.into_parts();
///         responder.reply(message).unwrap();
///     }
/// });
///
/// let client = blocking::Client::bind(&Config::default())?;
/// assert_eq!(client.call(addr, "hello".into())?.into_bytes(), "hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    inner: crate::Client,
}

impl Client {
    /// A client with these settings.
    ///
    /// # Errors
    /// [`BindError`]: a setting is out of range, or no socket or thread can be had.
    pub fn bind(config: &Config) -> Result<Self, BindError> {
        Ok(Self {
            inner: crate::Client::on(Driven::Callers, config)?,
        })
    }

    /// One RPC; waits for the response.
    ///
    /// # Errors
    /// [`CallError`], which tells whether the request may have run.
    pub fn call(&self, to: SocketAddr, request: Message) -> Result<Message, CallError> {
        let outcome = self.inner.start(to, request)?.wait(None);
        outcome.unwrap_or(Err(CallError::Closed))
    }

    /// The same with a deadline; `Ok(None)` when it passed. The RPC is cancelled then, but may
    /// have run.
    ///
    /// # Errors
    /// [`CallError`], as [`Client::call`].
    pub fn call_timeout(
        &self,
        to: SocketAddr,
        request: Message,
        timeout: Duration,
    ) -> Result<Option<Message>, CallError> {
        // A time that the clock does not reach is no limit.
        let deadline = Instant::now().checked_add(timeout);
        self.start(to, request)?.wait(deadline)
    }

    /// Sends a request on this thread and returns; what is returned stands for its response.
    ///
    /// Many calls can be under way at once so, without a thread for each.
    ///
    /// # Errors
    /// [`CallError`] if it cannot even be sent.
    pub fn start(&self, to: SocketAddr, request: Message) -> Result<Call, CallError> {
        let started = self.inner.start(to, request)?;
        Ok(Call { started })
    }

    /// Sends a request whose response nobody waits for.
    ///
    /// # Errors
    /// [`CallError`] if it cannot even be sent.
    pub fn call_detached(&self, to: SocketAddr, request: Message) -> Result<(), CallError> {
        self.inner.call_detached(to, request)
    }

    /// What the endpoint that calls `to` has counted so far.
    pub fn counters(&self, to: SocketAddr) -> EndpointCounters {
        self.inner.counters(to)
    }
}

/// The response to come of [`Client::start`]. Dropping it cancels the RPC, whose request may still
/// run; [`Call::detach`] does not.
///
/// ```
/// # use homa_client::{Config, blocking};
/// # let server = blocking::Server::bind("127.0.0.1:0".parse()?, &Config::default())?;
/// # let addr = server.local_addr();
/// # std::thread::spawn(move || {
/// #     while let Some(request) = server.accept() {
/// #         let (message, responder) = request.into_parts();
/// #         responder.reply(message).unwrap();
/// #     }
/// # });
/// let client = blocking::Client::bind(&Config::default())?;
/// let calls = ["a", "b", "c"].map(|text| client.start(addr, text.into()));
/// for (call, text) in calls.into_iter().zip(["a", "b", "c"]) {
///     let response = call?.wait(None)?.expect("there is no deadline");
///     assert_eq!(response.into_bytes(), text);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "the response is lost, and the RPC cancelled, when this is dropped"]
pub struct Call {
    started: Started,
}

impl Call {
    /// Waits for the response; `Ok(None)` when the deadline has passed. The RPC is cancelled then,
    /// but may have run. A response that is there already is returned after the deadline too.
    ///
    /// # Errors
    /// [`CallError`], as [`Client::call`].
    pub fn wait(self, deadline: Option<Instant>) -> Result<Option<Message>, CallError> {
        match self.started.wait(deadline) {
            Some(outcome) => outcome.map(Some),
            // Only a deadline ends a wait.
            None if deadline.is_none() => Err(CallError::Closed),
            None => Ok(None),
        }
    }

    /// The outcome if the RPC is over; does not wait. Once it was returned, the call is at its end:
    /// later ones fail with [`CallError::Closed`].
    pub fn try_wait(&mut self) -> Option<Result<Message, CallError>> {
        self.started.wait_until(None)
    }

    /// The same, and waits up to `until`. The RPC goes on if that passes. Through the kernel module
    /// the outcome is noticed up to 50 ms late.
    pub fn wait_until(&mut self, until: Instant) -> Option<Result<Message, CallError>> {
        self.started.wait_until(Some(until))
    }

    /// Leaves the RPC to itself: its request goes on being sent as long as the endpoint is open
    /// ([`Config::linger`] after its last handle), and its response is dropped when it comes.
    pub fn detach(self) {
        self.started.detach();
    }
}

/// Accepts requests, on any number of threads. See [`crate::Server`].
#[derive(Debug)]
pub struct Server {
    inner: crate::Server,
}

impl Server {
    /// Opens `addr`; port 0 takes any free port below 32768.
    ///
    /// # Errors
    /// [`BindError`], as [`crate::Server::bind`].
    pub fn bind(addr: SocketAddr, config: &Config) -> Result<Self, BindError> {
        Ok(Self {
            inner: crate::Server::on(&Driven::Callers, addr, config)?,
        })
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr()
    }

    /// Waits for the next request; `None` after [`Server::shutdown`].
    pub fn accept(&self) -> Option<Request> {
        self.inner.wait_accept()
    }

    /// A request that waits to be accepted, if there is one; does not wait for any. Those that wait
    /// in the kernel module do not count.
    pub fn try_accept(&self) -> Option<Request> {
        self.inner.try_accept()
    }

    /// Bounds what waits to be accepted: while so many requests do, a further one goes to `handler`
    /// at once, on the thread that receives, so it has to be short and must not block or panic. Only
    /// the first handler counts. What waits in the kernel module is not bounded by this.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use homa_client::{Config, blocking};
    ///
    /// let server = blocking::Server::bind("127.0.0.1:0".parse()?, &Config::default())?;
    /// server.refuse_beyond(0, Arc::new(|request: blocking::Request| {
    ///     let _ = request.reply("come back later".into());
    /// }));
    /// let client = blocking::Client::bind(&Config::default())?;
    /// let response = client.call(server.local_addr(), "hello".into())?;
    /// assert_eq!(response.into_bytes(), "come back later");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn refuse_beyond(&self, waiting: usize, handler: RequestHandler) {
        self.inner.refuse_beyond(waiting, handler);
    }

    /// Requests that wait to be accepted; without those that wait in the kernel module.
    pub fn waiting(&self) -> usize {
        self.inner.waiting()
    }

    /// Refuses new requests from now on and waits up to `grace` for the accepted ones. Returns
    /// whether all were answered and the answers acknowledged.
    pub fn shutdown(&self, grace: Duration) -> bool {
        self.inner.wait_shutdown(grace)
    }

    /// Refuses new requests from now on and does not wait. Once those that wait are accepted,
    /// [`Server::accept`] returns `None`; through the kernel module, where threads wait in the
    /// module itself, not before the last accepted request is answered. May be called anywhere.
    pub fn stop(&self) {
        self.inner.stop();
    }

    /// What the endpoint has counted so far.
    pub fn counters(&self) -> EndpointCounters {
        self.inner.counters()
    }
}
