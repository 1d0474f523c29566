//! One call on the server: from the OPEN to the handler and back to the REPLY.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::{Buf, Bytes};
use homa_client::{Message, Responder};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as HttpBody;
use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;
use tracing::{Instrument, Span};

use super::BoxError;
use super::homa::{Shared, send};
use super::info::HomaConnectInfo;
use crate::deadline;
use crate::frame::{Flight, Frame, HEADER_LEN, Kind, Lengths, ResetReason};
use crate::metadata::{self, RequestHead};
use crate::status;
use crate::transport::body::{CollectError, Collected, Received};
use crate::transport::identity::CallKey;

/// An OPEN that may run.
pub(super) struct Call {
    pub(super) flight: Flight,
    pub(super) deadline_us: u64,
    pub(super) lengths: Lengths,
    /// The sections.
    pub(super) message: Message,
    /// Shared by the calls of one client, if these are limited.
    pub(super) limit: Option<Arc<Semaphore>>,
    pub(super) info: HomaConnectInfo,
}

/// Why a call has no response of its service.
enum Failure {
    /// It fails with a status.
    Status(Status),
    /// It broke the protocol.
    Protocol(String),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl Call {
    /// Runs the call to its end. Dropping the future ends the handler.
    pub(super) async fn run<S, B>(self, service: S, answer: Answer)
    where
        S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError> + Send,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let settings = &answer.shared.settings;
        let own = (self.deadline_us > 0).then(|| Duration::from_micros(self.deadline_us));
        let longest = own.into_iter().chain(settings.timeout).min();
        let deadline = longest.and_then(|longest| Instant::now().checked_add(longest));
        let call = self.respond(service, &answer);
        let outcome = match (longest, deadline) {
            (Some(longest), Some(deadline)) => match timeout_at(deadline, call).await {
                Ok(outcome) => outcome,
                Err(_) => Err(status::deadline_exceeded(longest).into()),
            },
            _ => call.await,
        };
        match outcome {
            Ok(reply) => answer.send(reply),
            Err(Failure::Status(status)) => answer.fail(status),
            Err(Failure::Protocol(text)) => answer.refuse(&text),
        }
    }

    async fn respond<S, B>(self, mut service: S, answer: &Answer) -> Result<Message, Failure>
    where
        S: Service<Request<Body>, Response = Response<B>>,
        S::Error: Into<BoxError>,
        B: HttpBody<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let settings = &answer.shared.settings;
        let limit = self.limit.clone();
        if self.size() > settings.max_message_bytes {
            let limit = settings.max_message_bytes;
            return Err(status::message_too_long("request", self.size(), limit).into());
        }
        let request = self.into_request(settings.max_metadata_bytes)?;
        let _permit = match limit {
            None => None,
            Some(limit) if settings.load_shed => Some(limit.try_acquire_owned().map_err(|_| {
                Status::resource_exhausted("too many calls of this client are running")
            })?),
            Some(limit) => limit.acquire_owned().await.ok(),
        };
        let (request, span) = match &settings.trace {
            None => (request, Span::none()),
            Some(trace) => {
                let (parts, body) = request.into_parts();
                let request = Request::from_parts(parts, ());
                let span = trace(&request);
                (request.map(|()| body), span)
            }
        };
        let handled = async {
            poll_fn(|cx| service.poll_ready(cx)).await?;
            service.call(request).await
        };
        let response = handled.instrument(span).await;
        let (parts, body) = response
            .map_err(|error| Status::from_error(error.into()))?
            .into_parts();
        let limit = settings.max_message_bytes;
        let mut body = pin!(body);
        let collected = poll_fn(|cx| Poll::Ready(Collected::poll(&mut body, cx, limit))).await;
        let collected = collected.map_err(|error| match error {
            CollectError::Streaming => status::streaming_response(),
            CollectError::TooLong { size } => {
                status::message_too_long("reply", size + HEADER_LEN, limit)
            }
            CollectError::Failed(error) => Status::from_error(error.into()),
        })?;
        Ok(answer.reply(parts.status, &parts.headers, &collected)?)
    }

    fn size(&self) -> usize {
        usize::from(self.lengths.header) + self.message.len()
    }

    fn into_request(mut self, max_metadata_bytes: usize) -> Result<Request<Body>, Failure> {
        let head = self.lengths.head as usize;
        if head > max_metadata_bytes {
            return Err(status::metadata_too_long("request", head, max_metadata_bytes).into());
        }
        if !self.flight.end {
            return Err(status::streaming_request().into());
        }
        let head = metadata::decode_request(self.message.copy_to_bytes(head));
        let head = head.map_err(|error| Failure::Protocol(error.to_string()))?;
        let RequestHead {
            path,
            authority,
            scheme,
            headers,
        } = head;
        let mut request = Request::new(Body::new(Received::new(self.message, None)));
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = uri(path, authority, scheme)
            .map_err(|error| Failure::Protocol(format!("no usable request URI: {error}")))?;
        *request.headers_mut() = headers;
        if self.deadline_us > 0
            && let Some(timeout) = deadline::to_header(self.deadline_us)
        {
            request.headers_mut().insert(deadline::HEADER, timeout);
        }
        #[cfg(feature = "connect-info")]
        request.extensions_mut().insert(super::TcpConnectInfo {
            local_addr: self.info.local_addr,
            remote_addr: Some(self.info.remote_addr),
        });
        request.extensions_mut().insert(self.info);
        Ok(request)
    }
}

fn uri(path: Bytes, authority: Option<Bytes>, scheme: Option<Bytes>) -> Result<Uri, http::Error> {
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(path)?);
    // `Uri` has both or none.
    if let (Some(authority), Some(scheme)) = (authority, scheme) {
        parts.authority = Some(Authority::from_maybe_shared(authority)?);
        parts.scheme = Some(Scheme::try_from(&scheme[..])?);
    }
    Ok(Uri::from_parts(parts)?)
}

/// The duty to answer a call, once: also if its handler is dropped or panics.
pub(super) struct Answer {
    shared: Arc<Shared>,
    /// `None` once it is answered.
    responder: Option<Responder>,
    key: CallKey,
}

impl Answer {
    pub(super) fn new(shared: Arc<Shared>, responder: Responder, key: CallKey) -> Self {
        Self {
            shared,
            responder: Some(responder),
            key,
        }
    }

    fn send(mut self, reply: Message) {
        if let Some(responder) = self.responder.take() {
            send(responder, reply);
        }
    }

    /// Answers with a status and nothing else.
    fn fail(mut self, status: Status) {
        let reply = self.trailers_only(status);
        if let Some(responder) = self.responder.take() {
            send(responder, reply);
        }
    }

    /// Answers what broke the protocol.
    fn refuse(mut self, text: &str) {
        if let Some(responder) = self.responder.take() {
            self.shared
                .reset(responder, &self.frame(RESET), ResetReason::Protocol, text);
        }
    }

    /// The REPLY for a response that is complete: header and metadata in one allocation, then
    /// the body as it is.
    fn reply(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: &Collected,
    ) -> Result<Message, Status> {
        let trailers = match &body.trailers {
            Some(trailers) => trailers,
            // It failed before it had a body.
            None if headers.contains_key(Status::GRPC_STATUS) && body.len() == 0 => {
                return self.encode(None, headers, &Collected::default());
            }
            None if status != StatusCode::OK => return Err(status::from_http(status)),
            None => return Err(Status::unknown("the service sent no grpc-status")),
        };
        self.encode(Some(headers), trailers, body)
    }

    fn trailers_only(&self, status: Status) -> Message {
        let headers = status.into_http::<()>().into_parts().0.headers;
        match self.encode(None, &headers, &Collected::default()) {
            Ok(reply) => reply,
            // The status itself is over a limit. One that says so is not.
            Err(status) => {
                let headers = status.into_http::<()>().into_parts().0.headers;
                self.encode(None, &headers, &Collected::default())
                    .unwrap_or_default()
            }
        }
    }

    fn encode(
        &self,
        head: Option<&HeaderMap>,
        tail: &HeaderMap,
        body: &Collected,
    ) -> Result<Message, Status> {
        let malformed = |error| status::malformed("cannot send this metadata", error);
        let mut out = Vec::with_capacity(2 * HEADER_LEN);
        out.extend_from_slice(&[0; HEADER_LEN]);
        if let Some(head) = head {
            metadata::encode_headers(head, &mut out).map_err(malformed)?;
        }
        let head_len = out.len() - HEADER_LEN;
        metadata::encode_headers(tail, &mut out).map_err(malformed)?;
        let tail_len = out.len() - HEADER_LEN - head_len;
        let limit = self.shared.settings.max_metadata_bytes;
        if head_len.max(tail_len) > limit {
            return Err(status::metadata_too_long(
                "reply",
                head_len.max(tail_len),
                limit,
            ));
        }
        let size = out.len() + body.len();
        if size > self.shared.settings.max_message_bytes {
            let limit = self.shared.settings.max_message_bytes;
            return Err(status::message_too_long("reply", size, limit));
        }
        let flight = Flight {
            start: head.is_some(),
            end: true,
            trailers: true,
            total: None,
            offset: 0,
        };
        let server_epoch = Some(self.shared.server_epoch);
        let frame = self.frame(Kind::Reply {
            flight,
            server_epoch,
        });
        let lengths = Lengths {
            head: head_len as u32,
            tail: tail_len as u32,
            ..Lengths::default()
        };
        out[..HEADER_LEN].copy_from_slice(&frame.emit(lengths));
        let mut message = Message::from(out);
        body.append_to(&mut message);
        Ok(message)
    }

    fn frame(&self, kind: Kind) -> Frame {
        Frame {
            epoch: self.key.epoch,
            call: self.key.call,
            going_away: self.shared.stopping.load(Ordering::Relaxed),
            kind,
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(responder) = self.responder.take() {
            if std::thread::panicking() {
                let status = Status::internal("the handler of this call panicked");
                send(responder, self.trailers_only(status));
            } else if self.shared.stopping.load(Ordering::Relaxed) {
                let status = Status::unavailable("the server was stopped during the call");
                send(responder, self.trailers_only(status));
            } else {
                let reason = ResetReason::Cancelled;
                self.shared
                    .reset(responder, &self.frame(RESET), reason, "cancelled");
            }
        }
        self.shared.seen.finish(self.key);
    }
}

const RESET: Kind = Kind::Reset {
    reason: ResetReason::Cancelled,
};
