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

pub use crate::server::{Request, Responder};
use crate::stats::EndpointCounters;
use crate::user::registry::Driven;
use crate::{BindError, CallError, Config, Message};

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
        let outcome = self.inner.call_blocking(to, request, None);
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
        let outcome = self.inner.call_blocking(to, request, deadline);
        outcome.transpose()
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
