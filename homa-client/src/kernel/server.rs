//! [`ServerEndpoint`]: a socket of the module that takes requests.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use homa_sys::HOMA_MAX_MESSAGE_LENGTH;
use nix::libc;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::alarm;
use super::client::{Descriptor, MAX_BATCH, SEND_MEMORY, send_limit};
use super::socket::{Of, Received, Socket};
use crate::engine::SendError;
use crate::message::Message;

/// What a client asks a server of ours to know whether it can be reached through the module, ...
pub(crate) const PROBE: [u8; 16] = *b"homa-rs probe \x01\xff";

/// ... and what that answers, below the application. Not the same: others may be echo services.
pub(crate) const PROBE_ANSWER: [u8; 16] = *b"homa-rs answer\x01\xff";

/// Between two looks whether the last responses have arrived.
const DRAIN_EVERY: Duration = Duration::from_millis(5);

/// How long accepting waits after the module has refused to receive.
pub(super) const BACK_OFF: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct ServerEndpoint {
    socket: Arc<Socket>,
    /// `None`: driven by the threads that accept.
    fd: Option<AsyncFd<Descriptor>>,
    local: SocketAddr,
    /// How long the socket stays open after its end for answers that have not arrived.
    linger: Duration,
    /// No more requests are handed out.
    stopped: AtomicBool,
    stopping: Notify,
    /// Somebody waits for the last answers to arrive, and shuts the socket down then.
    draining: AtomicBool,
    /// Requests that were handed out and are neither answered nor dropped.
    accepted: AtomicUsize,
    /// Requests that nobody will answer, since they came after the end of accepting, or their
    /// [`Reply`] was dropped. They stay open in the module.
    left: AtomicUsize,
}

/// While somebody waits for the last answers; see [`ServerEndpoint::refuse`].
pub(crate) struct Draining<'a>(&'a ServerEndpoint);

impl Drop for Draining<'_> {
    fn drop(&mut self) {
        self.0.draining.store(false, Ordering::Release);
    }
}

/// The right to answer one request.
#[derive(Debug)]
pub(crate) struct Reply {
    endpoint: Arc<ServerEndpoint>,
    id: u64,
    peer: SocketAddr,
    is_sent: AtomicBool,
}

/// A request, and what answers it.
pub(crate) type Accepted = (Message, Reply);

impl ServerEndpoint {
    /// Takes a socket that is bound to the port of `local`.
    pub(super) fn new(
        socket: Socket,
        local: SocketAddr,
        in_runtime: bool,
        linger: Duration,
    ) -> io::Result<Arc<Self>> {
        let socket = Arc::new(socket);
        Ok(Arc::new(Self {
            fd: in_runtime.then(|| Descriptor::watch(&socket)).transpose()?,
            socket,
            local,
            linger,
            stopped: AtomicBool::new(false),
            stopping: Notify::new(),
            draining: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
        }))
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The next request, in a runtime. Nothing is lost when the future is dropped: it receives only
    /// when it can return what it gets.
    pub(crate) async fn accept(self: &Arc<Self>) -> Option<Accepted> {
        let fd = self.fd.as_ref()?;
        loop {
            let stopping = self.stopping.notified();
            if self.stopped.load(Ordering::Acquire) {
                return None;
            }
            let mut ready = tokio::select! {
                ready = fd.readable() => ready.ok()?,
                () = stopping => continue,
            };
            let receiving = self.socket.receiving();
            let mut taken = 0;
            loop {
                taken += 1;
                if taken > MAX_BATCH {
                    drop(receiving);
                    tokio::task::yield_now().await;
                    break;
                }
                match receiving.next() {
                    Ok(Received::Nothing) => {
                        ready.clear_ready();
                        break;
                    }
                    Ok(Received::Closed) => return None,
                    Ok(received) => {
                        if let Some(accepted) = self.take(received) {
                            return Some(accepted);
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "receiving from the homa module failed");
                        drop(receiving);
                        tokio::time::sleep(BACK_OFF).await;
                        break;
                    }
                }
            }
        }
    }

    /// The next request; this thread waits in the module for it, as any number of others may.
    pub(crate) fn accept_blocking(self: &Arc<Self>) -> Option<Accepted> {
        loop {
            match self.socket.wait(Of::Shared) {
                Ok(Received::Closed) => return None,
                Ok(received) => {
                    if let Some(accepted) = self.take(received) {
                        return Some(accepted);
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "receiving from the homa module failed");
                    std::thread::sleep(BACK_OFF);
                }
            }
        }
    }

    /// A request for the application.
    fn take(self: &Arc<Self>, received: Received) -> Option<Accepted> {
        let Received::Message {
            id, from, message, ..
        } = received
        else {
            return None;
        };
        // Before the look at `stopped`: whoever sets that looks at this afterwards.
        self.accepted.fetch_add(1, Ordering::SeqCst);
        if self.stopped.load(Ordering::SeqCst) {
            // Nobody will take it. The client hears so when the socket is shut down.
            self.left.fetch_add(1, Ordering::AcqRel);
            self.finish_one();
            return None;
        }
        if message == PROBE[..] {
            // The client asks again if this does not arrive.
            let answer = Message::from(&PROBE_ANSWER[..]);
            let _ = self.socket.respond(from, id, &answer);
            self.finish_one();
            return None;
        }
        let reply = Reply {
            endpoint: self.clone(),
            id,
            peer: from,
            is_sent: AtomicBool::new(false),
        };
        Some((message, reply))
    }

    /// Hands out no more requests. Whoever waits in the module for one gets it, and it is not
    /// answered.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.stopping.notify_waiters();
        if self.accepted.load(Ordering::SeqCst) == 0 {
            self.close();
        }
    }

    /// A request is done with. The last one closes a server that was stopped meanwhile, unless
    /// somebody waits to do so.
    fn finish_one(&self) {
        let was_last = self.accepted.fetch_sub(1, Ordering::SeqCst) == 1;
        let is_over = self.stopped.load(Ordering::SeqCst) && !self.draining.load(Ordering::Acquire);
        if was_last && is_over {
            self.close();
        }
    }

    /// Shuts the socket down: at once if all answers have arrived, else after a while, since that
    /// ends what is under way.
    fn close(&self) {
        if self.unacknowledged() == 0 {
            self.socket.shutdown();
        } else {
            alarm::shut_down(Instant::now() + self.linger, self.socket.clone());
        }
    }

    /// Answers that are not known to have arrived, and requests that nobody has received.
    fn unacknowledged(&self) -> usize {
        let live = self.socket.info().map_or(0, |info| info.num_rpcs as usize);
        live.saturating_sub(self.left.load(Ordering::Acquire))
    }

    /// Stops, and waits up to `grace` until what was accepted is answered, and the answers have
    /// arrived. Returns whether they have. Then the port is free.
    pub(crate) async fn shutdown(self: &Arc<Self>, grace: Duration) -> bool {
        let _draining = self.refuse();
        let end = Instant::now().checked_add(grace);
        while self.unfinished() > 0 {
            if end.is_some_and(|end| Instant::now() >= end) {
                return false;
            }
            tokio::time::sleep(DRAIN_EVERY).await;
        }
        self.socket.shutdown();
        true
    }

    /// [`ServerEndpoint::shutdown`] on a thread.
    pub(crate) fn shutdown_blocking(self: &Arc<Self>, grace: Duration) -> bool {
        let _draining = self.refuse();
        let end = Instant::now().checked_add(grace);
        while self.unfinished() > 0 {
            if end.is_some_and(|end| Instant::now() >= end) {
                return false;
            }
            std::thread::sleep(DRAIN_EVERY);
        }
        self.socket.shutdown();
        true
    }

    /// Hands out no more requests, and leaves the socket open until what this returns is dropped.
    pub(crate) fn refuse(&self) -> Draining<'_> {
        self.draining.store(true, Ordering::Release);
        self.stopped.store(true, Ordering::SeqCst);
        self.stopping.notify_waiters();
        Draining(self)
    }

    /// Requests that are not answered, or whose answer is not acknowledged. The module counts those
    /// that came too late, too, and tells them apart only when they are received.
    fn unfinished(self: &Arc<Self>) -> usize {
        let receiving = self.socket.receiving();
        for _ in 0..MAX_BATCH {
            match receiving.next() {
                Ok(Received::Nothing | Received::Closed) | Err(_) => break,
                Ok(received) => drop(self.take(received)),
            }
        }
        drop(receiving);
        let accepted = self.accepted.load(Ordering::Acquire);
        if accepted > 0 {
            return accepted;
        }
        self.unacknowledged()
    }
}

impl Drop for ServerEndpoint {
    fn drop(&mut self) {
        self.close();
    }
}

impl Reply {
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Answers. A client that is gone is no error. After one, this can be tried again.
    pub(crate) fn send(&self, message: Message) -> Result<(), SendError> {
        // The module would end the RPC (A.5), and the client send its request again.
        let limit = HOMA_MAX_MESSAGE_LENGTH;
        if !(1..=limit).contains(&message.len()) {
            return Err(SendError::BadSize { limit, message });
        }
        match self.endpoint.socket.respond(self.peer, self.id, &message) {
            Ok(()) => {
                self.is_sent.store(true, Ordering::Release);
                Ok(())
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::ENOMEM) => Err(SendError::Busy {
                    what: SEND_MEMORY,
                    limit: send_limit(),
                    message,
                }),
                _ => {
                    tracing::warn!(peer = %self.peer, %error, "the homa module takes no reply");
                    Err(SendError::Closed { message })
                }
            },
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let endpoint = &self.endpoint;
        if !*self.is_sent.get_mut() {
            endpoint.left.fetch_add(1, Ordering::AcqRel);
        }
        endpoint.finish_one();
    }
}
