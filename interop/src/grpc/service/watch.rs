//! [`WatchLayer`]: around the services, counts the calls that run, sends metadata back that asks
//! for it, and marks compressed messages.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName, Request, Response};
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::grpc::context::{CALL_ID, call_id};
use crate::grpc::marks::{Compress, Note, Noting, Unpacking};
use crate::grpc::trailers::WithTrailers;
use crate::ledger::Ledger;

/// Metadata that comes back before the first message.
const ECHO_INITIAL: HeaderName = HeaderName::from_static("x-grpc-test-echo-initial");

/// Metadata that comes back after the last one.
const ECHO_TRAILING: HeaderName = HeaderName::from_static("x-grpc-test-echo-trailing-bin");

/// In the extensions of a response: more trailers.
#[derive(Clone, Debug, Default)]
pub(super) struct MoreTrailers(pub(super) HeaderMap);

#[derive(Clone)]
pub(super) struct WatchLayer {
    ledger: Arc<Ledger>,
}

impl WatchLayer {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger }
    }
}

impl<S> Layer<S> for WatchLayer {
    type Service = Watch<S>;

    fn layer(&self, services: S) -> Watch<S> {
        Watch {
            services,
            ledger: Arc::clone(&self.ledger),
        }
    }
}

#[derive(Clone)]
pub(super) struct Watch<S> {
    services: S,
    ledger: Arc<Ledger>,
}

impl<S> Service<Request<Body>> for Watch<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.services.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let headers = request.headers();
        let id = headers.get(CALL_ID).and_then(call_id);
        self.ledger.add(request.uri().path(), id);
        let initial = headers.get(ECHO_INITIAL).cloned();
        let trailing = headers.get(ECHO_TRAILING).cloned();
        if headers.contains_key("grpc-encoding") {
            let note = Note::default();
            request.extensions_mut().insert(note.clone());
            request = request.map(|body| Body::new(Noting::new(body, note)));
        }
        let response = self.services.call(request);
        Box::pin(async move {
            let mut response = response.await?;
            if let Some(value) = initial {
                response.headers_mut().insert(ECHO_INITIAL, value);
            }
            if let Some(compress) = response.extensions_mut().remove::<Compress>() {
                response = response.map(|body| Body::new(Unpacking::new(body, compress)));
            }
            let more = response.extensions_mut().remove::<MoreTrailers>();
            let MoreTrailers(mut more) = more.unwrap_or_default();
            more.extend(trailing.map(|value| (ECHO_TRAILING, value)));
            if !more.is_empty() {
                response = response.map(|body| Body::new(WithTrailers::new(body, more)));
            }
            Ok(response)
        })
    }
}
