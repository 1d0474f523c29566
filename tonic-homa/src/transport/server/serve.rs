//! Where a [`Server`] or a [`Router`] listens, and until when.

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::Bytes;
#[cfg(feature = "tcp")]
use futures_core::Stream;
use http::{Request, Response};
use http_body::Body as HttpBody;
#[cfg(feature = "tcp")]
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::service::Routes;
#[cfg(feature = "tcp")]
use tonic::transport::server::Connected;
use tower_layer::Layer;
use tower_service::Service;

#[cfg(feature = "tcp")]
use super::TcpSettings;
use super::listener::Socket;
use super::{BoxError, Listener, Router, ServeAddr, Server, homa};
use crate::error::Error;

/// One listener being served.
type Serving = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Serving one service, for all paths. With generated services make a [`Router`] instead, by
/// [`add_service`](Server::add_service).
impl<L> Server<L> {
    /// Listens at `addr` and serves for ever.
    ///
    /// # Errors
    ///
    /// Those of [`Listener::bind`], and those of [`serve_on`](Self::serve_on).
    pub async fn serve<A, S, B>(self, addr: A, service: S) -> Result<(), Error>
    where
        A: TryInto<ServeAddr>,
        A::Error: Into<Error>,
        L: Layer<S>,
        L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError> + Send,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.serve_with_shutdown(addr, service, pending()).await
    }

    /// Listens at `addr` and serves until `signal` is ready; then open calls are finished, and
    /// new ones refused as surely not run.
    ///
    /// # Errors
    ///
    /// Those of [`serve`](Self::serve).
    pub async fn serve_with_shutdown<A, S, F, B>(
        self,
        addr: A,
        service: S,
        signal: F,
    ) -> Result<(), Error>
    where
        A: TryInto<ServeAddr>,
        A::Error: Into<Error>,
        F: Future<Output = ()>,
        L: Layer<S>,
        L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError> + Send,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let listener = self.listen(addr).await?;
        self.serve_on_with_shutdown(service, [listener], signal)
            .await
    }

    /// Binds `addr` with these settings.
    pub(crate) async fn listen<A>(&self, addr: A) -> Result<Listener, Error>
    where
        A: TryInto<ServeAddr>,
        A::Error: Into<Error>,
    {
        Listener::bind_with(addr, self.settings.homa.clone()).await
    }

    /// Serves for ever on sockets that are bound already, of one or several transports at once.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] if the runtime on which a Homa listener was bound has ended,
    /// [`Error::Tcp`] if tonic's server fails.
    pub async fn serve_on<S, B>(
        self,
        service: S,
        listeners: impl IntoIterator<Item = Listener>,
    ) -> Result<(), Error>
    where
        L: Layer<S>,
        L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError> + Send,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.serve_on_with_shutdown(service, listeners, pending())
            .await
    }

    /// Serves on sockets that are bound already until `signal` is ready; then open calls are
    /// finished, and new ones refused as surely not run.
    ///
    /// # Errors
    ///
    /// Those of [`serve_on`](Self::serve_on).
    pub async fn serve_on_with_shutdown<S, F, B>(
        self,
        service: S,
        listeners: impl IntoIterator<Item = Listener>,
        signal: F,
    ) -> Result<(), Error>
    where
        F: Future<Output = ()>,
        L: Layer<S>,
        L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError> + Send,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let service = self.layers.layer(service);
        let (stop, stopping) = watch::channel(false);
        let mut servers: Vec<Serving> = Vec::new();
        for listener in listeners {
            let (service, stopping) = (service.clone(), stopping.clone());
            servers.push(match listener.socket {
                Socket::Homa {
                    server: socket,
                    max_message_bytes,
                    engine,
                    monitor,
                } => {
                    let mut settings = self.settings.clone();
                    settings.max_message_bytes = settings.max_message_bytes.min(max_message_bytes);
                    let socket = homa::Socket {
                        server: socket,
                        engine,
                        monitor,
                    };
                    Box::pin(homa::serve(socket, service, settings, stopping))
                }
                #[cfg(feature = "tcp")]
                Socket::Tcp { incoming, .. } => {
                    Box::pin(serve_tcp(self.tcp.clone(), incoming, service, stopping))
                }
            });
        }
        drop(service);
        let mut signal = pin!(signal);
        let mut running = true;
        poll_fn(|cx| {
            if running && signal.as_mut().poll(cx).is_ready() {
                running = false;
                // Wakes the servers, which are polled next anyway.
                stop.send_replace(true);
            }
            let mut failure = None;
            servers.retain_mut(|server| match server.as_mut().poll(cx) {
                Poll::Pending => true,
                Poll::Ready(outcome) => {
                    failure = failure.take().or(outcome.err());
                    false
                }
            });
            match failure {
                Some(error) => Poll::Ready(Err(error)),
                None if servers.is_empty() => Poll::Ready(Ok(())),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Serves for ever on byte streams of the application's own, over HTTP/2 as tonic does.
    ///
    /// Over Homa there are none: see [`serve_on`](Self::serve_on), which takes [`Listener`]s. The
    /// settings of TCP sockets have no effect.
    ///
    /// # Errors
    ///
    /// [`Error::Tcp`] if tonic's server fails.
    #[cfg(feature = "tcp")]
    pub async fn serve_with_incoming<S, I, IO, IE, B>(
        self,
        service: S,
        incoming: I,
    ) -> Result<(), Error>
    where
        I: Stream<Item = Result<IO, IE>>,
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        IE: Into<BoxError>,
        L: Layer<S>,
        L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError> + Send + 'static,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let service = self.layers.layer(service);
        Ok(self
            .tcp
            .server
            .serve_with_incoming(service, incoming)
            .await?)
    }

    /// The same until `signal` is ready; then open calls are finished.
    ///
    /// # Errors
    ///
    /// Those of [`serve_with_incoming`](Self::serve_with_incoming).
    #[cfg(feature = "tcp")]
    pub async fn serve_with_incoming_shutdown<S, I, F, IO, IE, B>(
        self,
        service: S,
        incoming: I,
        signal: F,
    ) -> Result<(), Error>
    where
        F: Future<Output = ()>,
        I: Stream<Item = Result<IO, IE>>,
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        IE: Into<BoxError>,
        L: Layer<S>,
        L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError> + Send + 'static,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let service = self.layers.layer(service);
        let server = self.tcp.server;
        let serving = server.serve_with_incoming_shutdown(service, incoming, signal);
        Ok(serving.await?)
    }
}

impl<L> Router<L> {
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
        self.server.serve(addr, self.routes.prepare()).await
    }

    /// The same as [`serve`](Self::serve).
    ///
    /// # Errors
    ///
    /// Those of [`serve`](Self::serve).
    pub async fn serve_uri<A, B>(self, uri: A) -> Result<(), Error>
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
        self.serve(uri).await
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
        let routes = self.routes.prepare();
        self.server.serve_with_shutdown(addr, routes, signal).await
    }

    /// Serves for ever on sockets that are bound already, of one or several transports at once:
    /// Homa and TCP, while clients move.
    ///
    /// ```no_run
    /// use tonic_homa::transport::{Listener, Router};
    ///
    /// # async fn run(router: Router) -> Result<(), tonic_homa::transport::Error> {
    /// let homa = Listener::bind("homa://0.0.0.0:4000").await?;
    /// let tcp = Listener::bind("http://0.0.0.0:4000").await?;
    /// router.serve_on([homa, tcp]).await
    /// # }
    /// ```
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
        let routes = self.routes.prepare();
        self.server
            .serve_on_with_shutdown(routes, listeners, signal)
            .await
    }

    /// Serves for ever on byte streams of the application's own; see
    /// [`Server::serve_with_incoming`].
    ///
    /// # Errors
    ///
    /// [`Error::Tcp`] if tonic's server fails.
    #[cfg(feature = "tcp")]
    pub async fn serve_with_incoming<I, IO, IE, B>(self, incoming: I) -> Result<(), Error>
    where
        I: Stream<Item = Result<IO, IE>>,
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        IE: Into<BoxError>,
        L: Layer<Routes>,
        L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError> + Send + 'static,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let routes = self.routes.prepare();
        self.server.serve_with_incoming(routes, incoming).await
    }

    /// The same until `signal` is ready; then open calls are finished.
    ///
    /// # Errors
    ///
    /// [`Error::Tcp`] if tonic's server fails.
    #[cfg(feature = "tcp")]
    pub async fn serve_with_incoming_shutdown<I, IO, IE, F, B>(
        self,
        incoming: I,
        signal: F,
    ) -> Result<(), Error>
    where
        F: Future<Output = ()>,
        I: Stream<Item = Result<IO, IE>>,
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        IE: Into<BoxError>,
        L: Layer<Routes>,
        L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError> + Send + 'static,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let routes = self.routes.prepare();
        self.server
            .serve_with_incoming_shutdown(routes, incoming, signal)
            .await
    }
}

#[cfg(feature = "tcp")]
async fn serve_tcp<S, B>(
    settings: TcpSettings,
    incoming: tonic::transport::server::TcpIncoming,
    service: S,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), Error>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let incoming = incoming
        .with_nodelay(Some(settings.nodelay))
        .with_keepalive(settings.keepalive)
        .with_keepalive_interval(settings.keepalive_interval)
        .with_keepalive_retries(settings.keepalive_retries);
    let stop = async move {
        if stopping.wait_for(|stop| *stop).await.is_err() {
            pending::<()>().await;
        }
    };
    Ok(settings
        .server
        .serve_with_incoming_shutdown(service, incoming, stop)
        .await?)
}
