//! tonic's channel, whose HTTP/2 ends in this process and goes on as calls of ours.

use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::task::{Context, Poll};

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::DuplexStream;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use super::gather::gather;
use super::{BoxError, CONNECTION_WINDOW, HEADER_LIST, PIPE, STREAM_WINDOW};
use crate::error::Error;
use crate::transport::{Channel, Endpoint};

/// tonic's own channel to an endpoint of any transport. Makes sure that a server is there, as
/// [`Endpoint::connect`] does.
///
/// Limits, timeouts and the user agent are those of the endpoint; tonic's name is put before it.
/// Must be called inside a tokio runtime.
///
/// ```no_run
/// use std::time::Duration;
/// use tonic_homa::transport::Endpoint;
///
/// # async fn run() -> Result<(), tonic_homa::transport::Error> {
/// let endpoint = Endpoint::from_static("homa://10.0.0.1:4000").timeout(Duration::from_secs(1));
/// let channel: tonic::transport::Channel = tonic_homa::bridge::client(endpoint).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Those of [`Endpoint::connect`], and what cannot be made an endpoint.
pub async fn client<D>(endpoint: D) -> Result<tonic::transport::Channel, Error>
where
    D: TryInto<Endpoint>,
    D::Error: Into<BoxError>,
{
    Ok(channel(Endpoint::new(endpoint)?.connect().await?))
}

/// The same, but nothing is sent before the first call.
///
/// Must be called inside a tokio runtime.
///
/// # Errors
///
/// What cannot be made an endpoint.
pub fn client_lazy<D>(endpoint: D) -> Result<tonic::transport::Channel, Error>
where
    D: TryInto<Endpoint>,
    D::Error: Into<BoxError>,
{
    Ok(channel(Endpoint::new(endpoint)?.connect_lazy()))
}

/// tonic's own channel over one that is there already, say over several servers.
///
/// Must be called inside a tokio runtime.
///
/// ```no_run
/// use tonic_homa::transport::{Channel, Endpoint};
///
/// # async fn run() {
/// let servers = ["homa://10.0.0.1:4000", "homa://10.0.0.2:4000"].map(Endpoint::from_static);
/// let channel = tonic_homa::bridge::channel(Channel::balance_list(servers.into_iter()));
/// # }
/// ```
pub fn channel(channel: Channel) -> tonic::transport::Channel {
    // Nobody sees this name: a channel of ours has its own origin.
    tonic::transport::Endpoint::from_static("http://bridge.invalid")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(HEADER_LIST)
        .connect_with_connector_lazy(Connector(channel))
}

/// Opens pipes to tasks that make calls of what comes through them.
struct Connector(Channel);

impl Service<Uri> for Connector {
    type Response = TokioIo<DuplexStream>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (theirs, ours) = tokio::io::duplex(PIPE);
        tokio::spawn(serve(self.0.clone(), ours));
        ready(Ok(TokioIo::new(theirs)))
    }
}

async fn serve(channel: Channel, pipe: DuplexStream) {
    let calls = service_fn(|request| forward(channel.clone(), request));
    let connection = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST)
        // The limits against strangers would only hold up the application itself.
        .max_concurrent_streams(None)
        .max_pending_accept_reset_streams(usize::MAX)
        .max_local_error_reset_streams(None)
        .serve_connection(TokioIo::new(pipe), calls);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a bridged channel ended");
    }
}

async fn forward(
    mut channel: Channel,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts, gather(body).await);
    let response = async {
        poll_fn(|cx| channel.poll_ready(cx)).await?;
        channel.call(request).await
    };
    Ok(response
        .await
        .unwrap_or_else(|status: Status| status.into_http()))
}
