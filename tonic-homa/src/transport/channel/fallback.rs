//! The step from Homa to TCP that a URI allows with `fallback`.

use std::sync::Arc;

use http::{Request, Response};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::{Code, Status};

use super::call::HomaChannel;
use super::endpoint::{Endpoint, Kind};
use super::{Channel, call_ready};
use crate::deadline;
use crate::error::Error;
use crate::status;

/// A channel that goes over Homa if its first probe is answered, else over TCP.
///
/// Decided once: afterwards it is like a channel of the one or the other kind, so that a server
/// that dies does not move its clients to a transport on which it was slow to be missed.
pub(super) struct Fallback {
    homa: Arc<HomaChannel>,
    endpoint: Endpoint,
    decided: OnceCell<Channel>,
}

impl Fallback {
    pub(super) fn homa(&self) -> &HomaChannel {
        &self.homa
    }

    pub(super) fn new(homa: HomaChannel, endpoint: &Endpoint) -> Self {
        Self {
            homa: Arc::new(homa),
            endpoint: endpoint.clone(),
            decided: OnceCell::new(),
        }
    }

    pub(super) fn uri(&self) -> &http::Uri {
        self.homa.uri()
    }

    /// The channel in use. Asks only if nobody has, or if there was no server on either side.
    pub(super) async fn decide(&self) -> Result<&Channel, Error> {
        self.decided
            .get_or_try_init(|| async {
                let Err(error) = self.homa.probe().await else {
                    return Ok(Channel::of(super::Kind::Homa(self.homa.clone())));
                };
                tracing::warn!(
                    uri = %self.uri(),
                    fallback = self.fallback(),
                    %error,
                    "no server answers over Homa: trying TCP"
                );
                Ok(Channel::tcp(self.endpoint.tcp.connect().await?))
            })
            .await
    }

    pub(super) async fn call(
        self: Arc<Self>,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        if let Some(channel) = self.decided.get() {
            return call_ready(channel.clone(), request).await;
        }
        let own = deadline::from_headers(request.headers());
        let timeout = own.into_iter().chain(self.endpoint.settings.timeout).min();
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let first = async {
            let decided = self.decide().await;
            let channel = decided.map_err(|error| status::with_source(Code::Unavailable, error))?;
            call_ready(channel.clone(), request).await
        };
        match (timeout, deadline) {
            (Some(timeout), Some(deadline)) => timeout_at(deadline, first)
                .await
                .map_err(|_| status::deadline_exceeded(timeout))?,
            _ => first.await,
        }
    }

    fn fallback(&self) -> &str {
        match &self.endpoint.kind {
            Kind::Homa(target) => target.fallback.as_deref().unwrap_or_default(),
            Kind::Tcp | Kind::Refused(..) => "",
        }
    }
}
