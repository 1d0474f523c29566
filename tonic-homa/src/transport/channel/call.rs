//! One unary call over Homa: one OPEN, one REPLY.

use std::fmt;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Buf;
use homa_client::{CallError, Client, Executed, Message};
use http::header::USER_AGENT;
use http::request::Parts;
use http::{HeaderValue, Request, Response, Uri, Version};
use http_body::Body as _;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::{Code, Status};

use super::limit::RateLimit;
use super::peer::Peer;
use crate::deadline;
use crate::error::Error;
use crate::frame::{CancelReason, Flight, Frame, HEADER_LEN, Kind, Lengths, Sender};
use crate::metadata;
use crate::random;
use crate::resolve::{no_address, resolve};
use crate::status::{self, ResetError};
use crate::transport::body::{CollectError, Collected, Received};
use crate::uri::HomaTarget;

/// A channel to one `homa:` URI.
pub(super) struct HomaChannel {
    pub(super) target: HomaTarget,
    pub(super) config: homa_client::Config,
    pub(super) timeout: Option<Duration>,
    pub(super) connect_timeout: Duration,
    /// `:authority` and `:scheme` as they stand in every OPEN.
    pub(super) origin: Vec<u8>,
    pub(super) user_agent: HeaderValue,
    pub(super) max_message_bytes: usize,
    pub(super) max_metadata_bytes: usize,
    pub(super) concurrency: Option<Semaphore>,
    pub(super) rate: Option<RateLimit>,
    /// Found by the first call, looked for again after failures.
    pub(super) route: Mutex<Option<Route>>,
}

/// The way to the server.
#[derive(Clone)]
pub(super) struct Route {
    client: Client,
    peer: Arc<Peer>,
}

/// A call that got no response, and whether another server could be asked.
struct Failure {
    status: Status,
    elsewhere: bool,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self {
            status,
            elsewhere: false,
        }
    }
}

impl HomaChannel {
    pub(super) fn uri(&self) -> &Uri {
        &self.target.uri
    }

    /// One call with its deadline, which covers waiting for limits and for the name server too.
    pub(super) async fn call(
        self: Arc<Self>,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let own = deadline::from_headers(request.headers());
        let timeout = own.into_iter().chain(self.timeout).min();
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let (Some(timeout), Some(deadline)) = (timeout, deadline) else {
            return self.run(request, None).await;
        };
        match timeout_at(deadline, self.run(request, Some(deadline))).await {
            Ok(response) => response,
            Err(_) => Err(status::deadline_exceeded(timeout)),
        }
    }

    /// Finds out that a server is there: one PING to each address of the host until one answers.
    pub(super) async fn probe(&self) -> Result<(), Error> {
        let attempt = async {
            let mut failure = None;
            for addr in self.resolve().await? {
                let route = self.route_to(addr)?;
                match ping(&route).await {
                    Ok(()) => {
                        *self.lock_route() = Some(route);
                        return Ok(());
                    }
                    Err(error) => failure = Some(error),
                }
            }
            Err(failure.unwrap_or_else(|| no_address(&self.target.host)))
        };
        match tokio::time::timeout(self.connect_timeout, attempt).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::ConnectTimeout {
                target: self.target.authority.clone(),
                timeout: self.connect_timeout,
            }),
        }
    }

    async fn run(
        &self,
        request: Request<Body>,
        deadline: Option<Instant>,
    ) -> Result<Response<Body>, Status> {
        let (parts, mut body) = request.into_parts();
        let limit = self.max_message_bytes;
        let collected = poll_fn(|cx| Poll::Ready(Collected::poll(&mut body, cx, limit))).await;
        let collected = collected.map_err(|error| match error {
            CollectError::Streaming => status::streaming_request(),
            CollectError::TooLong { size } => {
                status::message_too_long("request", size + HEADER_LEN, limit)
            }
            CollectError::Failed(status) => status,
        })?;
        let _permit = match &self.concurrency {
            Some(limit) => limit.acquire().await.ok(),
            None => None,
        };
        if let Some(rate) = &self.rate {
            rate.wait().await;
        }
        let route = self.route().await?;
        let failure = match self
            .attempt(&route, &parts, &collected, &mut body, deadline)
            .await
        {
            Err(failure) => failure,
            Ok(response) => return Ok(response),
        };
        // What surely did not run may be tried once more, if there is another place to try.
        if failure.elsewhere
            && let Some(route) = self.other_route(&route).await
        {
            let second = self
                .attempt(&route, &parts, &collected, &mut body, deadline)
                .await;
            return second.map_err(|failure| failure.status);
        }
        Err(failure.status)
    }

    async fn attempt(
        &self,
        route: &Route,
        parts: &Parts,
        collected: &Collected,
        body: &mut Body,
        deadline: Option<Instant>,
    ) -> Result<Response<Body>, Failure> {
        let call = route.peer.next_call();
        let open = self.open(route, call, parts, collected, deadline)?;
        let mut cancel = CancelOnDrop {
            route,
            call,
            deadline,
            armed: true,
        };
        let outcome = {
            let mut reply = pin!(route.client.call(route.peer.addr, open));
            // tonic's request bodies tell of a `CancellationHandle` even after their end.
            let mut watched = !body.is_end_stream();
            poll_fn(|cx| {
                if let Poll::Ready(reply) = reply.as_mut().poll(cx) {
                    return Poll::Ready(Ok(reply));
                }
                if watched {
                    match pin!(&mut *body).poll_frame(cx) {
                        Poll::Ready(Some(Err(status))) => return Poll::Ready(Err(status)),
                        Poll::Ready(Some(Ok(_))) => watched = false,
                        Poll::Ready(None) | Poll::Pending => {}
                    }
                }
                Poll::Pending
            })
            .await?
        };
        cancel.armed = false;
        match outcome {
            Ok(reply) => self.response(route, call, reply, &mut cancel),
            Err(error) => {
                self.forget(route, &error);
                let elsewhere = error.executed() == Executed::No
                    && matches!(error, CallError::PeerUnreachable { .. });
                Err(Failure {
                    status: status::from_call_error(error),
                    elsewhere,
                })
            }
        }
    }

    /// The OPEN: header and metadata in one allocation, then the body as it is.
    fn open(
        &self,
        route: &Route,
        call: u64,
        parts: &Parts,
        body: &Collected,
        deadline: Option<Instant>,
    ) -> Result<Message, Status> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut out = Vec::with_capacity(HEADER_LEN + path.len() + self.origin.len() + 128);
        out.extend_from_slice(&[0; HEADER_LEN]);
        self.encode_head(path, parts, &mut out)
            .map_err(|error| status::malformed("cannot send this metadata", error))?;
        let head_len = out.len() - HEADER_LEN;
        if head_len > self.max_metadata_bytes {
            return Err(status::metadata_too_long(
                "request",
                head_len,
                self.max_metadata_bytes,
            ));
        }
        let size = out.len() + body.len();
        if size > self.max_message_bytes {
            let limit = self.max_message_bytes;
            return Err(status::message_too_long("request", size, limit));
        }
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let frame = Frame {
            epoch: route.peer.epoch,
            call,
            going_away: false,
            kind: Kind::Open {
                flight: Flight {
                    start: true,
                    end: true,
                    ..Flight::default()
                },
                deadline_us: left.map_or(0, deadline::to_micros),
                push: false,
            },
        };
        let lengths = Lengths {
            head: head_len as u32,
            ..Lengths::default()
        };
        out[..HEADER_LEN].copy_from_slice(&frame.emit(lengths));
        let mut message = Message::from(out);
        body.append_to(&mut message);
        Ok(message)
    }

    fn encode_head(
        &self,
        path: &str,
        parts: &Parts,
        out: &mut Vec<u8>,
    ) -> Result<(), metadata::MetadataError> {
        metadata::encode_path(path.as_bytes(), out)?;
        out.extend_from_slice(&self.origin);
        let mut agent = None;
        for (name, value) in &parts.headers {
            if name == USER_AGENT {
                agent = Some(value);
            } else {
                metadata::encode_header(name, value, out)?;
            }
        }
        match agent {
            None => metadata::encode_header(&USER_AGENT, &self.user_agent, out),
            // Like tonic, the caller's own name goes before the channel's.
            Some(agent) => {
                let both = [agent.as_bytes(), b" ", self.user_agent.as_bytes()].concat();
                let both = HeaderValue::from_maybe_shared(bytes::Bytes::from(both));
                metadata::encode_header(&USER_AGENT, &both.unwrap_or_else(|_| agent.clone()), out)
            }
        }
    }

    fn response(
        &self,
        route: &Route,
        call: u64,
        mut reply: Message,
        cancel: &mut CancelOnDrop<'_>,
    ) -> Result<Response<Body>, Failure> {
        let size = reply.len();
        let (frame, lengths) = take_header(&mut reply)
            .map_err(|error| status::malformed("the server's answer is malformed", error))?;
        let answers_this = (frame.epoch, frame.call) == (route.peer.epoch, call);
        if !answers_this && !matches!(frame.kind, Kind::Reset { .. }) {
            return Err(Status::internal("the server answered another call than this one").into());
        }
        if frame.going_away {
            self.clear(route);
        }
        if size > self.max_message_bytes {
            return Err(status::message_too_long("reply", size, self.max_message_bytes).into());
        }
        let flight = match frame.kind {
            Kind::Reply { flight, .. } => flight,
            Kind::Reset { reason } => {
                let text = String::from_utf8_lossy(&reply.into_bytes()).into_owned();
                let reset = ResetError { reason, text };
                let elsewhere = reset.executed() == Executed::No;
                return Err(Failure {
                    status: reset.into_status(),
                    elsewhere,
                });
            }
            other => {
                let status =
                    Status::internal(format!("the server answered an OPEN with {other:?}"));
                return Err(status.into());
            }
        };
        if !(flight.end && flight.trailers) {
            cancel.armed = true;
            return Err(status::streaming_response().into());
        }
        Ok(self.complete(flight, lengths, reply)?)
    }

    /// Makes a response of a REPLY that has everything.
    fn complete(
        &self,
        flight: Flight,
        lengths: Lengths,
        mut reply: Message,
    ) -> Result<Response<Body>, Status> {
        let (head, tail) = (lengths.head as usize, lengths.tail as usize);
        if head.max(tail) > self.max_metadata_bytes {
            let limit = self.max_metadata_bytes;
            return Err(status::metadata_too_long("reply", head.max(tail), limit));
        }
        let malformed = |error| status::malformed("the reply's metadata is malformed", error);
        let mut headers = metadata::decode_headers(reply.copy_to_bytes(head)).map_err(malformed)?;
        let mut trailers =
            metadata::decode_headers(reply.copy_to_bytes(tail)).map_err(malformed)?;
        status::sanitize_details(&mut trailers);
        if !trailers.contains_key(Status::GRPC_STATUS) {
            return Err(Status::unknown("the reply has no grpc-status"));
        }
        let body = if flight.start {
            status::sanitize_details(&mut headers);
            Body::new(Received::new(reply, Some(trailers)))
        } else if reply.is_empty() {
            // A call that failed before it had headers: the trailers are all there is.
            headers = trailers;
            Body::empty()
        } else {
            return Err(Status::internal("a reply without headers has a body"));
        };
        let mut response = Response::new(body);
        *response.version_mut() = Version::HTTP_2;
        *response.headers_mut() = headers;
        Ok(response)
    }

    async fn route(&self) -> Result<Route, Status> {
        if let Some(route) = &*self.lock_route() {
            return Ok(route.clone());
        }
        let addresses = self.resolve().await.map_err(to_status)?;
        let route = self.route_to(addresses[0]).map_err(to_status)?;
        Ok(self.lock_route().insert(route).clone())
    }

    /// Another address of the host than that of `route`, if it has one.
    async fn other_route(&self, route: &Route) -> Option<Route> {
        let addresses = self.resolve().await.ok()?;
        let at = addresses.iter().position(|addr| *addr == route.peer.addr);
        let next = match at {
            Some(at) => addresses
                .iter()
                .cycle()
                .skip(at + 1)
                .take(addresses.len() - 1)
                .next(),
            None => addresses.first(),
        };
        let route = self.route_to(*next?).ok()?;
        Some(self.lock_route().insert(route).clone())
    }

    fn route_to(&self, addr: SocketAddr) -> Result<Route, Error> {
        Ok(Route {
            client: Client::bind(&self.config)?,
            peer: Peer::of(addr),
        })
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, Error> {
        resolve(&self.target.host, self.target.port).await
    }

    /// Lets the next call look for the server again, if that can help.
    fn forget(&self, route: &Route, error: &CallError) {
        match error {
            // The endpoint's runtime has ended, but the channel may be used in another one.
            CallError::Closed => self.clear(route),
            CallError::TimedOut { .. }
            | CallError::PeerUnreachable { .. }
            | CallError::PeerRestarted { .. }
                if self.target.host.parse::<IpAddr>().is_err() =>
            {
                self.clear(route);
            }
            _ => {}
        }
    }

    fn clear(&self, route: &Route) {
        // Somebody else may have found a better route meanwhile.
        let mut current = self.lock_route();
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(&current.peer, &route.peer))
        {
            *current = None;
        }
    }

    fn lock_route(&self) -> std::sync::MutexGuard<'_, Option<Route>> {
        self.route.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for HomaChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HomaChannel")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// Tells the server that nobody waits for the reply any more.
struct CancelOnDrop<'a> {
    route: &'a Route,
    call: u64,
    deadline: Option<Instant>,
    armed: bool,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let late = self
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline);
        let reason = if late {
            CancelReason::DeadlineExceeded
        } else {
            CancelReason::Cancelled
        };
        let frame = Frame {
            epoch: self.route.peer.epoch,
            call: self.call,
            going_away: false,
            kind: Kind::Cancel { reason },
        };
        let message = Message::from(frame.emit(Lengths::default()).to_vec());
        // Best effort: a server that does not hear of it finishes the handler for nothing.
        if let Err(error) = self
            .route
            .client
            .call_detached(self.route.peer.addr, message)
        {
            tracing::debug!(%error, "a CANCEL could not be sent");
        }
    }
}

async fn ping(route: &Route) -> Result<(), Error> {
    let addr = route.peer.addr;
    let nonce = random::nonzero();
    let frame = Frame {
        epoch: route.peer.epoch,
        call: 0,
        going_away: false,
        kind: Kind::Ping { nonce },
    };
    let message = Message::from(frame.emit(Lengths::default()).to_vec());
    let answer = route.client.call(addr, message).await;
    let mut answer = answer.map_err(|source| Error::Connect { addr, source })?;
    let what = match take_header(&mut answer) {
        Ok((
            Frame {
                kind: Kind::Pong { nonce: back, .. },
                ..
            },
            _,
        )) if back == nonce => {
            return Ok(());
        }
        Ok((
            Frame {
                kind: Kind::Reset { reason },
                ..
            },
            _,
        )) => {
            let text = String::from_utf8_lossy(&answer.into_bytes()).into_owned();
            ResetError { reason, text }.to_string()
        }
        Ok((other, _)) => format!("it answered a PING with {:?}", other.kind),
        Err(error) => error.to_string(),
    };
    Err(Error::Handshake { addr, what })
}

/// Takes the header off a server's answer; what is left are the sections.
fn take_header(message: &mut Message) -> Result<(Frame, Lengths), crate::frame::FrameError> {
    let len = message.len();
    let header = message.copy_to_bytes(len.min(HEADER_LEN));
    let (frame, lengths) = Frame::parse(&header, len, Sender::ServerResponse)?;
    message.advance(usize::from(lengths.header) - HEADER_LEN);
    Ok((frame, lengths))
}

/// For failures to find the way to the server.
fn to_status(error: Error) -> Status {
    match error {
        Error::Bind(error) => status::from_bind_error(error),
        error => status::with_source(Code::Unavailable, error),
    }
}
