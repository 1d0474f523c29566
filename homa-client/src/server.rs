//! [`Server`]: accepts requests inside a tokio runtime.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::config::Config;
use crate::engine::SendError;
use crate::error::{BindError, ReplyError};
use crate::message::Message;
use crate::stats::{EndpointCounters, Monitor};
use crate::user::endpoint::Handle;
use crate::user::lead::{Wants, wait};
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
    endpoint: Handle,
}

impl Server {
    /// Opens `addr`, driven by the current tokio runtime. Port 0 takes any free port below 32768,
    /// which [`Server::local_addr`] tells.
    ///
    /// # Errors
    /// [`BindError`]: a setting or the port is out of range, the address is in use or not ours,
    /// or there is no runtime.
    pub fn bind(addr: SocketAddr, config: &Config) -> Result<Self, BindError> {
        Self::on(&registry::current_runtime()?, addr, config)
    }

    pub(crate) fn on(
        driven: &Driven,
        addr: SocketAddr,
        config: &Config,
    ) -> Result<Self, BindError> {
        Ok(Self {
            endpoint: registry::server(driven, addr, config)?,
        })
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }

    /// The next request. `None` after [`Server::shutdown`], or when the runtime has ended.
    /// Cancel safe: no request is lost when the future is dropped.
    pub async fn accept(&self) -> Option<Request> {
        self.endpoint.accepts.pop().await
    }

    /// Refuses new requests from now on, as a closed port does, and waits up to `grace` until
    /// those that were accepted are answered and the answers acknowledged. Returns whether all
    /// were; if so, the port is free again as soon as the server is dropped.
    pub async fn shutdown(&self, grace: Duration) -> bool {
        let drained = self.endpoint.drained.notified();
        tokio::pin!(drained);
        drained.as_mut().enable();
        self.endpoint.drain();
        let _ = timeout(grace, drained).await;
        if self.endpoint.unfinished() > 0 {
            return false;
        }
        self.endpoint.finish().await;
        true
    }

    /// [`Server::accept`] on a thread, for servers that are driven by their callers.
    pub(crate) fn wait_accept(&self) -> Option<Request> {
        let accepts = &self.endpoint.accepts;
        let request = poll_fn(|_| accepts.poll_pop());
        wait(&self.endpoint, Wants::Request, request, None).flatten()
    }

    /// [`Server::shutdown`] on a thread, for servers that are driven by their callers.
    pub(crate) fn wait_shutdown(&self, grace: Duration) -> bool {
        let endpoint = &self.endpoint;
        let mut drained = std::pin::pin!(endpoint.drained.notified());
        drained.as_mut().enable();
        endpoint.drain();
        let deadline = Instant::now().checked_add(grace);
        let _ = wait(endpoint, Wants::Own, drained, deadline);
        if endpoint.unfinished() > 0 {
            return false;
        }
        let _ = wait(endpoint, Wants::Own, endpoint.finish(), None);
        true
    }

    /// Refuses new requests from now on, as a closed port does, and does not wait. Once those that
    /// wait are accepted, [`Server::accept`] returns `None`.
    pub fn stop(&self) {
        self.endpoint.stop();
    }

    /// A way to read the counters while the server is in use elsewhere.
    pub fn monitor(&self) -> Monitor {
        Monitor::new(&self.endpoint)
    }

    /// What the endpoint has counted so far.
    pub fn counters(&self) -> EndpointCounters {
        self.endpoint.counters()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.endpoint.abandon_accepts();
    }
}

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Request {
    message: Message,
    responder: Responder,
}

impl Request {
    pub(crate) fn new(
        endpoint: Handle,
        rpc: LocalRpc,
        peer: SocketAddr,
        local: Option<IpAddr>,
        message: Message,
    ) -> Self {
        Self {
            message,
            responder: Responder {
                endpoint,
                rpc,
                peer,
                local,
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
        self.responder.peer
    }

    /// The local IP address that it was sent to, where the system tells.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.responder.local
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
        self.responder.endpoint.refuse_request(self.responder.rpc);
    }

    /// The bytes, and what is needed to answer.
    pub fn into_parts(self) -> (Message, Responder) {
        (self.message, self.responder)
    }
}

/// The right and the duty to answer one request. When it is dropped unanswered, the caller fails
/// as timed out after the protocol's silence limit (1 s).
#[derive(Debug)]
pub struct Responder {
    endpoint: Handle,
    rpc: LocalRpc,
    peer: SocketAddr,
    local: Option<IpAddr>,
    answered: bool,
}

impl Responder {
    /// Answers, on this thread. A client that is gone meanwhile is no error.
    ///
    /// # Errors
    /// [`ReplyError`]; if the reply has the wrong size or there is no room for it, it comes back
    /// with the responder.
    pub fn reply(mut self, reply: Message) -> Result<(), ReplyError> {
        if self.endpoint.is_closed() {
            self.answered = true;
            return Err(ReplyError::Closed);
        }
        let error = match self.endpoint.reply(self.rpc, reply) {
            Ok(()) => {
                self.answered = true;
                return Ok(());
            }
            Err(error) => error,
        };
        match error {
            SendError::BadSize { limit, message } => Err(ReplyError::BadSize {
                size: message.len(),
                limit,
                responder: Box::new(self),
                reply: message,
            }),
            SendError::Busy {
                what,
                limit,
                message,
            } => Err(ReplyError::Busy {
                what,
                limit,
                responder: Box::new(self),
                reply: message,
            }),
            SendError::Closed { .. } => {
                self.answered = true;
                Err(ReplyError::Closed)
            }
        }
    }

    /// The client's address with its UDP port, or on IP protocol 146 its Homa port.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.answered {
            self.endpoint.abandon(self.rpc);
        }
    }
}
