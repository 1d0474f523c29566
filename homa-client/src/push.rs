//! [`Pusher`]: requests from a server to a client that has called it.

use std::fmt;
use std::net::SocketAddr;

use crate::client::Call;
use crate::error::CallError;
use crate::message::Message;
use crate::server::Origin;
use crate::user::endpoint::Handle;

/// Sends requests to the sender of a request, from the socket that it came by.
///
/// Homa has no roles for good: whoever has a port can send requests, and take some. Clients that
/// take them are made by [`Client::bind_accepting`](crate::Client::bind_accepting); the others fail
/// these calls as unreachable. Keeps the server's endpoint open.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use std::sync::Arc;
/// use homa_client::{Client, Config, RequestHandler, Server};
///
/// let server = Server::bind("127.0.0.1:0".parse()?, &Config::default())?;
/// let addr = server.local_addr();
/// tokio::spawn(async move {
///     let (message, responder) = server.accept().await.unwrap().into_parts();
///     let pusher = responder.pusher().unwrap();
///     responder.reply(message).unwrap();
///     let answer = pusher.call("are you there?".into()).await.unwrap();
///     assert_eq!(answer.into_bytes(), "yes");
/// });
///
/// let (pushed, mut pushes) = tokio::sync::mpsc::unbounded_channel();
/// let handler: RequestHandler = Arc::new(move |request| pushed.send(request).unwrap());
/// let client = Client::bind_accepting(&Config::default(), handler)?;
/// client.call(addr, "hello".into()).await?;
/// let push = pushes.recv().await.unwrap();
/// assert_eq!(push.message().len(), 14);
/// push.reply("yes".into())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Pusher {
    endpoint: Handle,
    to: Origin,
}

impl Pusher {
    pub(crate) fn new(endpoint: Handle, to: Origin) -> Self {
        Self { endpoint, to }
    }

    /// One RPC, as [`Client::call`](crate::Client::call) makes it.
    ///
    /// # Errors
    /// The future yields a [`CallError`], which tells whether the request may have run.
    pub fn call(&self, request: Message) -> Call {
        Call::start(&self.endpoint, |endpoint| {
            endpoint.call_back(self.to, request)
        })
    }

    /// One RPC, as [`Client::call_then`](crate::Client::call_then) makes it.
    ///
    /// # Errors
    /// [`CallError`] if it cannot even be sent; `then` does not run in that case.
    pub fn call_then(
        &self,
        request: Message,
        then: impl FnOnce(Result<Message, CallError>) + Send + 'static,
    ) -> Result<(), CallError> {
        self.endpoint
            .call_back_then(self.to, request, Box::new(then))
    }

    /// Sends a request whose response nobody waits for, as
    /// [`Client::call_detached`](crate::Client::call_detached) does.
    ///
    /// # Errors
    /// [`CallError`] if it cannot even be sent.
    pub fn call_detached(&self, request: Message) -> Result<(), CallError> {
        self.endpoint.call_back_detached(self.to, request)
    }

    /// The client's address with its UDP port, or on IP protocol 146 its Homa port.
    pub fn peer(&self) -> SocketAddr {
        self.to.peer
    }
}

impl fmt::Debug for Pusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pusher")
            .field("peer", &self.to.peer)
            .finish_non_exhaustive()
    }
}
