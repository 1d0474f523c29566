//! The client side: [`Endpoint`] and [`Channel`].

mod balance;
mod call;
mod connect;
mod endpoint;
#[cfg(feature = "tcp")]
mod fallback;
mod limit;
mod peer;
mod response;

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, Uri};
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use crate::error::Error;
use crate::transport::counters::CallCounters;
use balance::Balance;
pub use balance::Change;
use call::HomaChannel;
pub use endpoint::Endpoint;
#[cfg(feature = "tcp")]
use fallback::Fallback;

type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection of generated clients to a server, over Homa or TCP.
///
/// Made by an [`Endpoint`], whose URI decides about the transport. Clones share everything and
/// cost an atomic increment. Over Homa there is neither a task nor a queue behind a channel:
/// [`poll_ready`](Service::poll_ready) is always ready, a call is sent by the thread that polls
/// its future first, and dropping that future cancels the call at the server.
///
/// Errors are [`Status`]es. One that stands for a failure of the transport keeps its
/// [source](std::error::Error::source): a [`homa_client::CallError`], a
/// [`ResetError`](super::ResetError) or a [`PeerLost`](super::PeerLost), which say whether the call
/// may have run.
///
/// ```no_run
/// use tonic_homa::transport::Channel;
///
/// # async fn run() -> Result<(), tonic_homa::transport::Error> {
/// let channel = Channel::from_static("homa://10.0.0.1:4000").connect().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Channel {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Homa(Arc<HomaChannel>),
    #[cfg(feature = "tcp")]
    Tcp(tonic::transport::Channel),
    /// Homa if a server answers there, else TCP.
    #[cfg(feature = "tcp")]
    Fallback(Arc<Fallback>),
    /// Several of these.
    Balance(Arc<Balance>),
    /// Made without a usable URI; every call tells why.
    Refused(Arc<str>),
}

impl Channel {
    /// An [`Endpoint`] from a URI. A URI that cannot be used is refused by
    /// [`connect`](Endpoint::connect), or by the first call.
    pub fn builder(uri: Uri) -> Endpoint {
        Endpoint::from(uri)
    }

    /// An [`Endpoint`] from a constant.
    ///
    /// # Panics
    ///
    /// If the URI cannot be used.
    pub fn from_static(uri: &'static str) -> Endpoint {
        Endpoint::from_static(uri)
    }

    /// An [`Endpoint`] from text.
    ///
    /// # Errors
    ///
    /// [`Error::Uri`] if the URI cannot be used.
    pub fn from_shared(uri: impl Into<Bytes>) -> Result<Endpoint, Error> {
        Endpoint::from_shared(uri)
    }

    fn of(kind: Kind) -> Self {
        Self { kind }
    }

    /// What was counted of the calls to the server in use. All 0 before the first call, over TCP,
    /// and for channels over several servers, where the application has one for each.
    pub fn call_counters(&self) -> CallCounters {
        match &self.kind {
            Kind::Homa(channel) => channel.counters(),
            #[cfg(feature = "tcp")]
            Kind::Fallback(fallback) => fallback.homa().counters(),
            _ => CallCounters::default(),
        }
    }

    /// A way to read the counters of the Homa endpoint in use, which all channels of a runtime with
    /// equal settings share. `None` before the first call, over TCP, and over several servers.
    pub fn monitor(&self) -> Option<homa_client::Monitor> {
        match &self.kind {
            Kind::Homa(channel) => channel.monitor(),
            #[cfg(feature = "tcp")]
            Kind::Fallback(fallback) => fallback.homa().monitor(),
            _ => None,
        }
    }

    fn homa(channel: HomaChannel) -> Self {
        Self::of(Kind::Homa(Arc::new(channel)))
    }

    fn refused(reason: String) -> Self {
        Self::of(Kind::Refused(reason.into()))
    }

    #[cfg(feature = "tcp")]
    fn tcp(channel: tonic::transport::Channel) -> Self {
        Self::of(Kind::Tcp(channel))
    }
}

/// One call, as soon as the channel is ready for it.
async fn call_ready(
    mut channel: Channel,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    poll_fn(|cx| channel.poll_ready(cx)).await?;
    channel.call(request).await
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = ResponseFuture;

    #[cfg_attr(
        not(feature = "tcp"),
        allow(unused_variables, reason = "Homa is always ready")
    )]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        match &mut self.kind {
            #[cfg(feature = "tcp")]
            Kind::Tcp(channel) => channel.poll_ready(cx).map_err(tcp_status),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        let kind = match &mut self.kind {
            Kind::Homa(channel) => FutureKind::Boxed(Box::pin(channel.clone().call(request))),
            #[cfg(feature = "tcp")]
            Kind::Tcp(channel) => FutureKind::Tcp(channel.call(request)),
            #[cfg(feature = "tcp")]
            Kind::Fallback(channel) => FutureKind::Boxed(Box::pin(channel.clone().call(request))),
            Kind::Balance(channel) => FutureKind::Boxed(Box::pin(channel.clone().call(request))),
            Kind::Refused(reason) => FutureKind::Refused(Some(Status::invalid_argument(&**reason))),
        };
        ResponseFuture { kind }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Channel");
        match &self.kind {
            Kind::Homa(channel) => debug.field("uri", channel.uri()).finish(),
            #[cfg(feature = "tcp")]
            Kind::Tcp(_) => debug.finish_non_exhaustive(),
            #[cfg(feature = "tcp")]
            Kind::Fallback(channel) => debug.field("uri", channel.uri()).finish(),
            Kind::Balance(_) => debug.finish_non_exhaustive(),
            Kind::Refused(reason) => debug.field("refused", reason).finish(),
        }
    }
}

/// The response to one call of a [`Channel`]. Dropping it cancels the call.
///
/// ```no_run
/// use tonic::codegen::{Service, http};
/// use tonic_homa::transport::Channel;
/// use tonic_homa::transport::channel::ResponseFuture;
///
/// fn send(channel: &mut Channel, request: http::Request<tonic::body::Body>) -> ResponseFuture {
///     // Nothing is sent before it is polled.
///     channel.call(request)
/// }
/// ```
pub struct ResponseFuture {
    kind: FutureKind,
}

enum FutureKind {
    Boxed(Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>),
    #[cfg(feature = "tcp")]
    Tcp(tonic::transport::channel::ResponseFuture),
    Refused(Option<Status>),
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.kind {
            FutureKind::Boxed(call) => call.as_mut().poll(cx),
            #[cfg(feature = "tcp")]
            FutureKind::Tcp(call) => Pin::new(call).poll(cx).map_err(tcp_status),
            FutureKind::Refused(status) => status
                .take()
                .map_or(Poll::Pending, |status| Poll::Ready(Err(status))),
        }
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// The status that tonic itself would make of this error.
#[cfg(feature = "tcp")]
fn tcp_status(error: tonic::transport::Error) -> Status {
    Status::from_error(Box::new(error))
}
