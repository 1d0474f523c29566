//! One call on the server: from the OPEN to the handler and back to the end of the response.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use homa_client::{Message, Pusher, Responder};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as HttpBody;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;
use tracing::{Instrument, Span};

use super::BoxError;
use super::homa::{FIRST_FLIGHT, SILENT_CLIENT, Shared};
use super::info::HomaConnectInfo;
use crate::deadline;
use crate::frame::{Flight, Frame, HEADER_LEN, Kind, Lengths, ResetReason};
use crate::metadata::{self, RequestHead};
use crate::status;
use crate::transport::body::{Outgoing, Received};
use crate::transport::identity::{CallKey, Places};
use crate::transport::make_way;
use crate::transport::stream::pull::Answerer;
use crate::transport::stream::{
    Over, Piece, Pump, Pumped, START_CREDIT, Stream, Way, begin_frame, joined, reply, reply_lazily,
    sections,
};

/// An OPEN that may run.
pub(super) struct Call {
    pub(super) flight: Flight,
    pub(super) deadline_us: u64,
    pub(super) lengths: Lengths,
    /// The sections.
    pub(super) message: Message,
    pub(super) places: Places,
    pub(super) info: HomaConnectInfo,
    /// How pieces of the response get to the client.
    pub(super) way: Way,
}

/// Why a call has no response of its service.
enum Failure {
    /// It fails with a status.
    Status(Status),
    /// It did not begin.
    Refused(ResetReason, String),
    /// The client wants no more of it.
    Ended,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl Call {
    /// Prepares the call on the thread that has received it, so that pieces of its body find it.
    /// The future runs it to its end; dropping that ends the handler.
    pub(super) fn begin<S, B>(
        self,
        service: S,
        mut answer: Answer,
    ) -> impl Future<Output = ()> + Send
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
        // A request that is there whole can wait for its task.
        let (prepared, rest) = if self.flight.end {
            (None, Some(self))
        } else {
            (Some(self.into_request(&mut answer)), None)
        };
        async move {
            make_way(rest.as_ref().map_or(0, |call| call.message.len())).await;
            let prepared = match (prepared, rest) {
                (Some(prepared), _) => prepared,
                (None, Some(call)) => call.into_request(&mut answer),
                (None, None) => Err(Failure::Ended),
            };
            let outcome = match prepared {
                Err(failure) => Err(failure),
                Ok(prepared) => {
                    let response = prepared.respond(service, &mut answer);
                    match (longest, deadline) {
                        (Some(longest), Some(deadline)) => {
                            match timeout_at(deadline, response).await {
                                Ok(outcome) => outcome,
                                Err(_) => Err(status::deadline_exceeded(longest).into()),
                            }
                        }
                        _ => response.await,
                    }
                }
            };
            match outcome {
                Ok(()) | Err(Failure::Ended) => answer.close(),
                Err(Failure::Status(status)) => answer.fail(status).await,
                Err(Failure::Refused(reason, text)) => answer.refuse(reason, &text),
            }
        }
    }

    fn into_request(mut self, answer: &mut Answer) -> Result<Prepared, Failure> {
        let settings = &answer.shared.settings;
        let head = self.lengths.head as usize;
        if head > settings.max_metadata_bytes {
            let limit = settings.max_metadata_bytes;
            return Err(status::metadata_too_long("request", head, limit).into());
        }
        let protocol = |text: String| {
            answer.shared.counting.protocol_errors.count();
            Failure::Refused(ResetReason::Protocol, text)
        };
        let head = metadata::decode_request(self.message.copy_to_bytes(head));
        let head = head.map_err(|error| protocol(error.to_string()))?;
        let RequestHead {
            path,
            authority,
            scheme,
            headers,
        } = head;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = uri(path, authority, scheme)
            .map_err(|error| protocol(format!("no usable request URI: {error}")))?;
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
        let whole = self.flight.end || self.flight.total == Some(self.message.len() as u64);
        let (body, way) = if whole {
            (Body::new(Received::new(self.message, None)), Some(self.way))
        } else {
            let stream = answer.open(self.flight, self.message, self.way)?;
            (Body::new(Incoming { stream }), None)
        };
        Ok(Prepared {
            request: request.map(|()| body),
            places: self.places,
            way,
        })
    }
}

/// A request that is ready to be served.
struct Prepared {
    request: Request<Body>,
    places: Places,
    /// For the response, if the call has no stream yet.
    way: Option<Way>,
}

impl Prepared {
    async fn respond<S, B>(self, mut service: S, answer: &mut Answer) -> Result<(), Failure>
    where
        S: Service<Request<Body>, Response = Response<B>>,
        S::Error: Into<BoxError>,
        B: HttpBody<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let Self {
            mut request,
            places,
            way,
        } = self;
        let shed = answer.shared.settings.load_shed;
        let _open = permit(places.calls, false).await?;
        let handled = permit(places.handlers, shed).await?;
        let span = match &answer.shared.settings.trace {
            None => Span::none(),
            Some(trace) => {
                let (parts, body) = request.into_parts();
                let bare = Request::from_parts(parts, ());
                let span = trace(&bare);
                request = bare.map(|()| body);
                span
            }
        };
        let response = async {
            poll_fn(|cx| service.poll_ready(cx)).await?;
            service.call(request).await
        };
        let response = response.instrument(span).await;
        drop(handled);
        let (parts, body) = response
            .map_err(|error| Status::from_error(error.into()))?
            .into_parts();
        let body = pin!(body);
        let mut outgoing = Outgoing::new(body);
        let fill = |cx: &mut Context<'_>| {
            let filled = outgoing.poll_first(cx, START_CREDIT as usize);
            Poll::Ready(filled.map_err(|error| Status::from_error(error.into())))
        };
        if let Err(status) = poll_fn(fill).await {
            if outgoing.ready.is_empty() {
                return Err(status.into());
            }
            outgoing.end_with(Some(status_headers(status)));
        }
        answer
            .respond(parts.status, &parts.headers, outgoing, way)
            .await
    }
}

/// Waits for a place among the calls of its client, if these are limited.
async fn permit(
    limit: Option<Arc<Semaphore>>,
    load_shed: bool,
) -> Result<Option<OwnedSemaphorePermit>, Status> {
    Ok(match limit {
        None => None,
        Some(limit) if load_shed => Some(limit.try_acquire_owned().map_err(|_| {
            Status::resource_exhausted("too many calls of this client are running")
        })?),
        Some(limit) => limit.acquire_owned().await.ok(),
    })
}

/// The usual scheme, read once.
static HOMA: LazyLock<Option<Scheme>> = LazyLock::new(|| Scheme::try_from("homa").ok());

fn uri(path: Bytes, authority: Option<Bytes>, scheme: Option<Bytes>) -> Result<Uri, http::Error> {
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(path)?);
    // `Uri` has both or none.
    if let (Some(authority), Some(scheme)) = (authority, scheme) {
        parts.authority = Some(Authority::from_maybe_shared(authority)?);
        parts.scheme = match &*HOMA {
            Some(homa) if scheme == homa.as_str() => Some(homa.clone()),
            _ => Some(Scheme::try_from(&scheme[..])?),
        };
    }
    Ok(Uri::from_parts(parts)?)
}

fn status_headers(status: Status) -> HeaderMap {
    status.into_http::<()>().into_parts().0.headers
}

/// The body of a request that goes on after its OPEN.
struct Incoming {
    stream: Arc<Stream>,
}

impl HttpBody for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        self.stream.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.stream.inlet.is_finished()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.stream.abandon();
    }
}

/// The duty to answer a call, once: also if its handler is dropped or panics.
pub(super) struct Answer {
    shared: Arc<Shared>,
    /// `None` once the OPEN is answered.
    responder: Option<Responder>,
    key: CallKey,
    /// Where the response goes once the OPEN is answered.
    stream: Option<Arc<Stream>>,
    /// The end of the response was sent, or need not be.
    over: bool,
}

impl Answer {
    pub(super) fn new(shared: Arc<Shared>, responder: Responder, key: CallKey) -> Self {
        Self {
            shared,
            responder: Some(responder),
            key,
            stream: None,
            over: false,
        }
    }

    /// The client has heard all that it will hear.
    fn close(&mut self) {
        self.over = true;
    }

    pub(super) fn pusher(&self) -> Option<Pusher> {
        self.responder.as_ref().and_then(Responder::pusher)
    }

    /// Begins a call whose request goes on: the OPEN is answered at once.
    fn open(&mut self, flight: Flight, body: Message, way: Way) -> Result<Arc<Stream>, Failure> {
        let Some(stream) = self.shared.open_stream(self.key, flight.total, way) else {
            self.shared.counting.refused_calls.count();
            let text = "the streams of this client take all the memory that they may \
                        (max_stream_buffer_bytes)";
            return Err(Failure::Refused(ResetReason::Overloaded, text.into()));
        };
        let piece = Piece {
            flight,
            head: None,
            tail: None,
            body,
        };
        let taken = stream.inlet.take(piece).map_err(|error| {
            self.shared.counting.protocol_errors.count();
            Failure::Refused(ResetReason::Protocol, error.to_string())
        })?;
        self.shared.attach(self.key, &stream);
        self.stream = Some(stream.clone());
        let frame = self.frame(Kind::Deferred {
            credit: taken.credit,
            server_epoch: self.shared.server_epoch,
        });
        if let Some(responder) = self.responder.take() {
            let message = frame.emit(Lengths::default()).to_vec();
            // The client only waits for it if it has more to send than it may.
            if taken.credit > START_CREDIT {
                reply(responder, message.into());
            } else {
                drop(reply_lazily(responder, message.into()));
            }
        }
        Ok(stream)
    }

    /// Sends a response, of which all is taken that was ready.
    async fn respond<B>(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        outgoing: Outgoing<B>,
        way: Option<Way>,
    ) -> Result<(), Failure>
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let empty = outgoing.has_ended() && outgoing.ready.is_empty();
        // It failed before it had a body.
        if empty && outgoing.trailers.is_none() && headers.contains_key(Status::GRPC_STATUS) {
            let tail = self.section(headers)?;
            self.trailers_only(tail).await;
            return Ok(());
        }
        if outgoing.has_ended() && outgoing.trailers.is_none() {
            return Err(no_status(status).into());
        }
        if outgoing.has_ended() && self.responder.is_some() {
            let mut out = begin_frame(USUAL_METADATA, &outgoing.ready);
            encode(&self.shared, headers, &mut out)?;
            let head = out.len() - HEADER_LEN;
            let trailers = outgoing.trailers.as_ref();
            encode_tail(&self.shared, trailers, || no_status(status), &mut out);
            if out.len() + outgoing.ready.len() <= self.shared.settings.max_message_bytes {
                let lengths = Lengths {
                    head: head as u32,
                    tail: (out.len() - HEADER_LEN - head) as u32,
                    ..Lengths::default()
                };
                self.send_whole(true, (out, lengths), &outgoing.ready);
                return Ok(());
            }
        }
        let head = self.section(headers)?;
        self.stream_out(status, head, outgoing, way).await
    }

    /// Sends a response in pieces.
    async fn stream_out<B>(
        &mut self,
        http_status: StatusCode,
        head: Vec<u8>,
        mut outgoing: Outgoing<B>,
        way: Option<Way>,
    ) -> Result<(), Failure>
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let max_message_bytes = self.shared.settings.max_message_bytes;
        let mut sent = 0;
        let mut head = Some(head);
        if let Some(responder) = self.responder.take() {
            let Some(way) = way else {
                return Err(Failure::Ended);
            };
            let section = head.take().unwrap_or_default();
            let room = max_message_bytes.saturating_sub(HEADER_LEN + section.len());
            let first = outgoing.ready.split_to(room.min(START_CREDIT as usize));
            sent = first.len() as u64;
            // Known before the client can answer.
            let stream = self.shared.response_stream(self.key, sent, way);
            self.shared.attach(self.key, &stream);
            self.stream = Some(stream);
            let kind = Kind::Reply {
                flight: FIRST_FLIGHT,
                server_epoch: Some(self.shared.server_epoch),
            };
            let sections = sections(&section, &[], &first);
            reply(responder, self.message(kind, sections, &first));
        }
        let Some(stream) = self.stream.clone() else {
            return Err(Failure::Ended);
        };
        let shared = self.shared.clone();
        let mut tail = |trailers: Option<&HeaderMap>| {
            let own = || no_status(http_status);
            let mut tail = Vec::new();
            encode_tail(&shared, trailers, own, &mut tail);
            Some(tail)
        };
        let pumped = match stream.pulls() {
            Some(pulls) => {
                let mut answerer = Answerer::new(outgoing, head, sent, max_message_bytes);
                poll_fn(|cx| {
                    loop {
                        let polled = answerer.poll(cx, &stream, pulls, &mut tail);
                        match polled {
                            Poll::Ready(Pumped::Failed(error)) => {
                                let status = Status::from_error(error.into());
                                answerer.outgoing.end_with(Some(status_headers(status)));
                            }
                            Poll::Ready(Pumped::Ended) => return Poll::Ready(None),
                            Poll::Ready(Pumped::Over(over)) => return Poll::Ready(Some(over)),
                            Poll::Pending => return Poll::Pending,
                        }
                    }
                })
                .await
            }
            None => {
                let mut pump = Pump::new(outgoing, head, max_message_bytes);
                poll_fn(|cx| {
                    loop {
                        let polled = pump.poll(cx, &stream, &mut tail);
                        match polled {
                            Poll::Ready(Pumped::Failed(error)) => {
                                let status = Status::from_error(error.into());
                                pump.outgoing.end_with(Some(status_headers(status)));
                            }
                            Poll::Ready(Pumped::Ended) => return Poll::Ready(None),
                            Poll::Ready(Pumped::Over(over)) => return Poll::Ready(Some(over)),
                            Poll::Pending => return Poll::Pending,
                        }
                    }
                })
                .await
            }
        };
        self.over = true;
        match pumped {
            // The client has gone, or wants no more: nobody is left to be told.
            Some(Over::Unwanted | Over::Failed) => Err(Failure::Ended),
            None => {
                poll_fn(|cx| stream.outlet.poll_landed(cx)).await;
                Ok(())
            }
        }
    }

    /// Ends the call with a status.
    async fn fail(&mut self, status: Status) {
        let mut tail = Vec::new();
        encode_tail(&self.shared, None, || status, &mut tail);
        self.trailers_only(tail).await;
    }

    /// Ends the call with trailers and nothing else.
    async fn trailers_only(&mut self, tail: Vec<u8>) {
        if self.end_now(&tail) {
            return;
        }
        self.over = true;
        if let Some(stream) = &self.stream
            && let Some(pulls) = stream.pulls()
        {
            pulls.last_words(stream, &tail).await;
        }
    }

    /// The same without waiting. Returns whether the client will hear of it.
    fn end_now(&mut self, tail: &[u8]) -> bool {
        if self.responder.is_some() {
            let body = Message::new();
            self.send_whole(false, sections(&[], tail, &body), &body);
            return true;
        }
        let Some(stream) = &self.stream else {
            return true;
        };
        let told = match stream.pulls() {
            Some(pulls) => pulls.end_with(stream, tail),
            None => {
                let flight = Flight {
                    start: false,
                    end: true,
                    trailers: true,
                    total: None,
                    offset: stream.outlet.sent(),
                };
                let sections = (Vec::new(), tail.to_vec());
                stream.send_detached(stream.data(flight, sections, Message::new()));
                true
            }
        };
        self.over = told;
        told
    }

    /// Answers the OPEN with all that there is; `start`: with headers.
    fn send_whole(&mut self, start: bool, sections: (Vec<u8>, Lengths), body: &Message) {
        self.over = true;
        let Some(responder) = self.responder.take() else {
            return;
        };
        let flight = Flight {
            start,
            end: true,
            trailers: true,
            total: None,
            offset: 0,
        };
        let kind = Kind::Reply {
            flight,
            server_epoch: Some(self.shared.server_epoch),
        };
        reply(responder, self.message(kind, sections, body));
    }

    /// Answers a call that does not begin.
    fn refuse(&mut self, reason: ResetReason, text: &str) {
        self.over = true;
        if let Some(responder) = self.responder.take() {
            let frame = self.frame(Kind::Reset { reason });
            self.shared.reset(responder, &frame, reason, text);
        }
    }

    /// Fills in the header of what [`sections`] gave, and adds the body.
    fn message(
        &self,
        kind: Kind,
        (mut out, lengths): (Vec<u8>, Lengths),
        body: &Message,
    ) -> Message {
        out[..HEADER_LEN].copy_from_slice(&self.frame(kind).emit(lengths));
        joined(out, body)
    }

    /// Encodes metadata, unless it is too long.
    fn section(&self, headers: &HeaderMap) -> Result<Vec<u8>, Status> {
        let mut out = Vec::with_capacity(USUAL_METADATA);
        encode(&self.shared, headers, &mut out)?;
        Ok(out)
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

/// The status of a response that has none.
fn no_status(http: StatusCode) -> Status {
    match http {
        StatusCode::OK => Status::unknown("the service sent no grpc-status"),
        other => status::from_http(other),
    }
}

/// Room for the metadata of a usual response.
const USUAL_METADATA: usize = 64;

/// Appends the section of `headers`, unless it is too long.
fn encode(shared: &Shared, headers: &HeaderMap, out: &mut Vec<u8>) -> Result<(), Status> {
    let start = out.len();
    metadata::encode_headers(headers, out)
        .map_err(|error| status::malformed("cannot send this metadata", error))?;
    let settings = &shared.settings;
    // It also has to fit into a message.
    let most = settings.max_message_bytes.saturating_sub(HEADER_LEN);
    let limit = settings.max_metadata_bytes.min(most);
    let len = out.len() - start;
    if len > limit {
        return Err(status::metadata_too_long("reply", len, limit));
    }
    Ok(())
}

/// Appends the last metadata: `trailers`, or those of `instead` where there are none. Trailers that
/// are too long are replaced by a status that says so.
fn encode_tail(
    shared: &Shared,
    trailers: Option<&HeaderMap>,
    instead: impl FnOnce() -> Status,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    let encoded = match trailers {
        Some(trailers) => encode(shared, trailers, out),
        None => encode(shared, &status_headers(instead()), out),
    };
    if let Err(status) = encoded {
        out.truncate(start);
        if encode(shared, &status_headers(status), out).is_err() {
            out.truncate(start);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.over {
            let status = if std::thread::panicking() {
                Some(Status::internal("the handler of this call panicked"))
            } else if self.shared.stopping.load(Ordering::Relaxed) {
                Some(Status::unavailable(
                    "the server was stopped during the call",
                ))
            } else if self
                .stream
                .as_ref()
                .is_some_and(|stream| stream.is_given_up())
            {
                Some(Status::unavailable(SILENT_CLIENT))
            } else {
                None
            };
            match status {
                Some(status) => {
                    let mut tail = Vec::new();
                    encode_tail(&self.shared, None, || status, &mut tail);
                    self.end_now(&tail);
                }
                None => self.refuse(ResetReason::Cancelled, "cancelled"),
            }
        }
        if let Some(stream) = &self.stream {
            // For tasks of the handler that still read the request.
            stream.fail(Status::aborted("the call is over"));
        }
        self.shared.seen.finish(self.key);
    }
}
