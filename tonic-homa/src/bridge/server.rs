//! tonic's router behind listeners of ours: each client gets an HTTP/2 connection in memory.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri, Version};
use http_body::Body as HttpBody;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{OnceCell, mpsc};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::{Connected, Router, TcpConnectInfo};
use tower_layer::{Identity, Layer};
use tower_service::Service;

use super::gather::gather;
use super::{BoxError, CONNECTION_WINDOW, HEADER_LIST, PIPE, STREAM_WINDOW};
use crate::error::Error;
use crate::transport::{Listener, ServeAddr, Server};

/// A connection in memory that nobody used for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// Most connections in memory that wait for a call of their client.
const MAX_LINKS: usize = 1_024;
/// Connections tried for a call that was surely not sent: the router may close one for its age.
const ATTEMPTS: usize = 3;
/// How long tonic's server may take to end after its last call has ended.
const FLUSH: Duration = Duration::from_secs(1);

/// Takes a router that is finished, layers, limits and all, to serve it over Homa, or on any
/// [`Listener`].
///
/// ```no_run
/// # async fn run(
/// #     router: tonic::transport::server::Router,
/// # ) -> Result<(), tonic_homa::transport::Error> {
/// tonic_homa::bridge::server(router).serve("homa://0.0.0.0:4000").await
/// # }
/// ```
pub fn server<L>(router: Router<L>) -> BridgedRouter<L> {
    BridgedRouter {
        router,
        outside: Server::builder(),
    }
}

/// A finished router of tonic's; see [`server`].
///
/// Each client has a connection in memory of its own, so that `remote_addr()` and limits per
/// connection mean what they did. One that is not used for a minute is closed, and the oldest
/// beyond 1,024.
///
/// ```no_run
/// use std::time::Duration;
/// use tonic_homa::transport::Server;
///
/// # async fn run(
/// #     router: tonic::transport::server::Router,
/// # ) -> Result<(), tonic_homa::transport::Error> {
/// let settings = Server::builder().shutdown_grace(Duration::from_secs(5));
/// let signal = async { /* until the process is told to end */ };
/// tonic_homa::bridge::server(router)
///     .settings(settings)
///     .serve_with_shutdown("homa://0.0.0.0:4000", signal)
///     .await
/// # }
/// ```
pub struct BridgedRouter<L = Identity> {
    router: Router<L>,
    outside: Server,
}

impl<L> BridgedRouter<L> {
    /// Settings of the outer side, such as `shutdown_grace`, `max_message_bytes` or
    /// `homa_config`. Limits and timeouts in there count in addition to the router's.
    #[must_use]
    pub fn settings(mut self, server: Server) -> Self {
        self.outside = server;
        self
    }

    /// Listens at `addr` and serves for ever.
    ///
    /// # Errors
    ///
    /// Those of [`Listener::bind`], and those of [`serve_on`](Self::serve_on).
    pub async fn serve<A, B>(self, addr: A) -> Result<(), Error>
    where
        A: TryInto<ServeAddr>,
        A::Error: Into<Error>,
        L: Layer<Routes>,
        L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError> + Send,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.serve_with_shutdown(addr, pending()).await
    }

    /// Listens at `addr` and serves until `signal` is ready; then open calls are finished, and
    /// new ones refused as surely not run.
    ///
    /// # Errors
    ///
    /// Those of [`serve`](Self::serve).
    pub async fn serve_with_shutdown<A, F, B>(self, addr: A, signal: F) -> Result<(), Error>
    where
        A: TryInto<ServeAddr>,
        A::Error: Into<Error>,
        F: Future<Output = ()>,
        L: Layer<Routes>,
        L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError> + Send,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let listener = self.outside.listen(addr).await?;
        self.serve_on_with_shutdown([listener], signal).await
    }

    /// Serves for ever on sockets that are bound already.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] if the runtime on which a Homa listener was bound has ended,
    /// [`Error::Tcp`] if tonic's server fails.
    pub async fn serve_on<B>(
        self,
        listeners: impl IntoIterator<Item = Listener>,
    ) -> Result<(), Error>
    where
        L: Layer<Routes>,
        L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError> + Send,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.serve_on_with_shutdown(listeners, pending()).await
    }

    /// Serves on sockets that are bound already until `signal` is ready; then open calls are
    /// finished, and new ones refused as surely not run.
    ///
    /// # Errors
    ///
    /// Those of [`serve_on`](Self::serve_on).
    pub async fn serve_on_with_shutdown<F, B>(
        self,
        listeners: impl IntoIterator<Item = Listener>,
        signal: F,
    ) -> Result<(), Error>
    where
        F: Future<Output = ()>,
        L: Layer<Routes>,
        L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError> + Send,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (links, incoming) = Links::new();
        let mut inside = pin!(
            self.router
                .serve_with_incoming(UnboundedReceiverStream::new(incoming))
        );
        let outside = self
            .outside
            .serve_on_with_shutdown(Forward(links), listeners, signal);
        tokio::select! {
            ended = &mut inside => {
                ended?;
                // It ends for itself only if nobody can open a connection any more.
                Err(Error::Closed)
            }
            served = outside => {
                // With the last of the connections tonic's server ends as well.
                let _ = timeout(FLUSH, inside).await;
                served
            }
        }
    }
}

impl<L> std::fmt::Debug for BridgedRouter<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BridgedRouter").finish_non_exhaustive()
    }
}

/// The service that our server sees: it hands every request to tonic's.
#[derive(Clone)]
struct Forward(Arc<Links>);

impl Service<Request<Body>> for Forward {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let links = self.0.clone();
        Box::pin(async move {
            let response = links.forward(request).await;
            Ok(response.unwrap_or_else(|status| status.into_http()))
        })
    }
}

/// Remote and local address.
type Ends = (Option<SocketAddr>, Option<SocketAddr>);

/// The connections in memory, one for each client.
struct Links {
    links: Mutex<HashMap<Ends, Link>>,
    to_router: mpsc::UnboundedSender<Result<Pipe, Infallible>>,
}

struct Link {
    sender: Arc<OnceCell<SendRequest<Body>>>,
    used: Instant,
}

impl Link {
    fn is_closed(&self) -> bool {
        self.sender.get().is_some_and(SendRequest::is_closed)
    }
}

impl Links {
    fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Result<Pipe, Infallible>>) {
        let (to_router, incoming) = mpsc::unbounded_channel();
        let links = Self {
            links: Mutex::default(),
            to_router,
        };
        (Arc::new(links), incoming)
    }

    async fn forward(&self, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        let info = request.extensions_mut().remove::<TcpConnectInfo>();
        let ends = info.map_or((None, None), |info| (info.remote_addr, info.local_addr));
        make_absolute(&mut request);
        for _ in 0..ATTEMPTS {
            let mut sender = self.sender(ends).await?;
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let (parts, body) = response.into_parts();
                    return Ok(Response::from_parts(parts, gather(body).await));
                }
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Status::from_error(Box::new(failed.into_error()))),
                },
            }
        }
        Err(Status::unavailable(
            "the bridged router closes every connection",
        ))
    }

    /// A sender on the connection of these two ends, which is opened if there is none.
    async fn sender(&self, ends: Ends) -> Result<SendRequest<Body>, Status> {
        let cell = self.cell(ends, Instant::now());
        let sender = cell.get_or_try_init(|| self.open(ends)).await?;
        Ok(sender.clone())
    }

    fn cell(&self, ends: Ends, now: Instant) -> Arc<OnceCell<SendRequest<Body>>> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get_mut(&ends)
            && !link.is_closed()
        {
            link.used = now;
            return link.sender.clone();
        }
        // Calls on a connection that leaves here go on: they have senders of their own.
        links.retain(|_, link| !link.is_closed() && now - link.used < IDLE);
        if links.len() >= MAX_LINKS
            && let Some((&oldest, _)) = links.iter().min_by_key(|(_, link)| link.used)
        {
            links.remove(&oldest);
        }
        let sender = Arc::new(OnceCell::new());
        let link = Link {
            sender: sender.clone(),
            used: now,
        };
        links.insert(ends, link);
        sender
    }

    async fn open(&self, ends: Ends) -> Result<SendRequest<Body>, Status> {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let pipe = Pipe {
            stream: theirs,
            ends,
        };
        self.to_router
            .send(Ok(pipe))
            .map_err(|_| Status::unavailable("the bridged router has ended"))?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST)
            .handshake(TokioIo::new(ours))
            .await
            .map_err(|error| Status::from_error(Box::new(error)))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a bridged router ended");
            }
        });
        Ok(sender)
    }
}

/// HTTP/2 needs a scheme and an authority, which a client of Homa may leave out.
fn make_absolute(request: &mut Request<Body>) {
    *request.version_mut() = Version::HTTP_2;
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme.get_or_insert(Scheme::HTTP);
    parts
        .authority
        .get_or_insert(Authority::from_static("bridge.invalid"));
    // With all three there, this is a URI.
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
}

/// The router's end of a connection, which tells whose it is.
struct Pipe {
    stream: DuplexStream,
    ends: Ends,
}

impl Connected for Pipe {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        let (remote_addr, local_addr) = self.ends;
        TcpConnectInfo {
            local_addr,
            remote_addr,
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(port: u16) -> Ends {
        (Some(SocketAddr::from(([192, 0, 2, 1], port))), None)
    }

    #[tokio::test]
    async fn each_client_keeps_its_connection_until_it_is_idle() {
        let (links, mut incoming) = Links::new();
        let now = Instant::now();
        let first = links.cell(ends(1), now);
        let second = links.cell(ends(2), now + IDLE / 2);
        assert!(!Arc::ptr_eq(&first, &second));
        let again = links.cell(ends(1), now + IDLE / 2);
        assert!(Arc::ptr_eq(&first, &again));
        // A third one finds both idle.
        links.cell(ends(3), now + IDLE * 2);
        let new = links.cell(ends(1), now + IDLE * 2);
        assert!(!Arc::ptr_eq(&first, &new));
        assert!(incoming.try_recv().is_err(), "opened without a call");
    }

    #[tokio::test]
    async fn the_oldest_of_too_many_is_closed() {
        let (links, _incoming) = Links::new();
        let now = Instant::now();
        let cell = |port| links.cell(ends(port), now + Duration::from_micros(port.into()));
        let (first, second) = (cell(1), cell(2));
        for port in 3..=1 + MAX_LINKS as u16 {
            cell(port);
        }
        assert_eq!(links.links.lock().unwrap().len(), MAX_LINKS);
        assert!(Arc::ptr_eq(&second, &cell(2)));
        assert!(!Arc::ptr_eq(&first, &cell(1)));
    }
}
