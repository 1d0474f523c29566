//! [`CallContext`]: what a handler may know of its call beside the arguments.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::process::Caller;

/// What carries a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallTransport {
    /// Homa, over UDP, on IP protocol 146 or through the kernel module.
    Homa,
    /// A TCP connection.
    Tcp,
    /// A connection to a unix socket.
    Unix,
}

/// What a handler may know of its call beside the arguments; see [`call_context`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallContext {
    /// The client's address; `None` on unix sockets, whose clients have none.
    pub peer: Option<SocketAddr>,
    /// The method by the name in the message: with that of the service and a colon before it where
    /// services are multiplexed.
    pub method: String,
    /// The message's sequence number. Clients choose it, mostly counting from 1.
    pub sequence: i32,
    /// When the message was received, before it waited for a worker.
    pub received_at: Instant,
    /// When `ServerOptions::call_timeout` ends. The caller's own deadline is not known.
    pub deadline: Option<Instant>,
    /// What carries the call.
    pub transport: CallTransport,
}

/// A call that is being handled.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) caller: Caller,
    pub(super) origin: Origin,
    pub(super) started_at: Instant,
    pub(super) deadline: Option<Instant>,
}

/// Where and when a request came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) peer: Option<SocketAddr>,
    pub(super) received_at: Instant,
    pub(super) transport: CallTransport,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Running>>> = const { RefCell::new(None) };
}

/// The call that this thread handles; `None` outside of handlers, and on other threads that a
/// handler starts.
///
/// ```
/// fn handle_whoami() -> thrift::Result<String> {
///     let caller = thrift_homa::call_context().and_then(|call| call.peer);
///     Ok(caller.map_or_else(|| "somebody".to_owned(), |peer| peer.to_string()))
/// }
/// # assert_eq!(handle_whoami().unwrap(), "somebody");
/// ```
pub fn call_context() -> Option<CallContext> {
    CURRENT.with_borrow(|current| {
        let running = current.as_ref()?;
        Some(CallContext {
            peer: running.origin.peer,
            method: running.caller.name().to_owned(),
            sequence: running.caller.sequence(),
            received_at: running.origin.received_at,
            deadline: running.deadline,
            transport: running.origin.transport,
        })
    })
}

/// Has [`call_context`] tell of this call until it is dropped.
pub(super) struct Entered;

impl Entered {
    pub(super) fn new(running: Arc<Running>) -> Self {
        CURRENT.set(Some(running));
        Self
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}
