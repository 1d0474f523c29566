//! One call over Homa, from the request to the beginning of its response; what follows of a stream
//! is a [`ResponseBody`].

use std::fmt;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Buf;
use homa_client::{Call, CallError, Client, Executed, Message};
use http::header::USER_AGENT;
use http::request::Parts as RequestParts;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::{Code, Status};

use super::limit::RateLimit;
use super::peer::{PUSHED, Peer, ping};
use super::response::{OpenCall, ResponseBody};
use crate::deadline;
use crate::error::Error;
use crate::frame::{Flight, Frame, HEADER_LEN, Kind, Lengths, Sender};
use crate::metadata;
use crate::resolve::{no_address, resolve};
use crate::status::{self, ResetError};
use crate::transport::CallCounters;
use crate::transport::body::{Outgoing, Received};
use crate::transport::make_way;
use crate::transport::stream::pull::Puller;
use crate::transport::stream::{
    Inlet, Outlet, Over, Parts, Pump, Pumped, START_CREDIT, Stream, Way, begin_frame, joined,
    take_header,
};
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
    pub(super) max_stream_buffer_bytes: usize,
    /// Whether servers may push the pieces of their responses.
    pub(super) pushed: bool,
    pub(super) concurrency: Option<Semaphore>,
    pub(super) rate: Option<RateLimit>,
    /// Found by the first call, looked for again after failures.
    pub(super) route: Mutex<Option<Route>>,
}

/// The way to the server.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) client: Client,
    pub(super) peer: Arc<Peer>,
    /// Whether it can push.
    pushed: bool,
}

impl Route {
    pub(super) fn is_pushed(&self) -> bool {
        self.pushed
    }
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

/// When a call has to be over, and how long it had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    pub(super) timeout: Duration,
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
        let deadline = timeout.and_then(|timeout| {
            let at = Instant::now().checked_add(timeout)?;
            Some(Deadline { at, timeout })
        });
        let Some(deadline) = deadline else {
            return self.run(request, None).await;
        };
        match timeout_at(deadline.at, self.run(request, Some(deadline))).await {
            Ok(response) => response,
            Err(_) => Err(status::deadline_exceeded(deadline.timeout)),
        }
    }

    /// Finds out that a server is there: one PING to each address of the host until one answers.
    pub(super) async fn probe(&self) -> Result<(), Error> {
        let attempt = async {
            let mut failure = None;
            for addr in self.resolve().await? {
                let route = self.route_to(addr)?;
                match ping(&route.client, &route.peer).await {
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
        deadline: Option<Deadline>,
    ) -> Result<Response<Body>, Status> {
        let (parts, body) = request.into_parts();
        let mut outgoing = Outgoing::new(body);
        poll_fn(|cx| Poll::Ready(outgoing.poll_first(cx, START_CREDIT as usize))).await?;
        let _permit = match &self.concurrency {
            Some(limit) => limit.acquire().await.ok(),
            None => None,
        };
        if let Some(rate) = &self.rate {
            rate.wait().await;
        }
        let route = self.route().await?;
        let mut outgoing = Some(outgoing);
        let failure = match self.attempt(&route, &parts, &mut outgoing, deadline).await {
            Err(failure) => failure,
            Ok(response) => return Ok(response),
        };
        // What surely did not run may be tried once more, if there is another place to try and the
        // request is still here.
        if failure.elsewhere
            && outgoing.is_some()
            && let Some(route) = self.other_route(&route).await
        {
            let second = self.attempt(&route, &parts, &mut outgoing, deadline).await;
            return second.map_err(|failure| failure.status);
        }
        Err(failure.status)
    }

    /// Makes the call. `outgoing` is gone afterwards if more than its beginning was sent.
    async fn attempt(
        &self,
        route: &Route,
        parts: &RequestParts,
        outgoing: &mut Option<Outgoing<Body>>,
        deadline: Option<Deadline>,
    ) -> Result<Response<Body>, Failure> {
        let Some(body) = outgoing else {
            return Err(Status::internal("a request that was sent already").into());
        };
        let mut out = self.encode_head(parts, &body.ready)?;
        let room = self.max_message_bytes.saturating_sub(out.len());
        let whole = body.has_ended() && body.ready.len() <= room;
        let call = route.peer.next_call();
        let mut open = OpenCall::new(route, call, deadline);
        if whole {
            let flight = Flight { end: true, ..START };
            self.emit_open(&mut out, route, call, flight, deadline);
            let message = joined(out, &body.ready);
            open.expect();
            let answer = route.client.call(route.peer.addr, message);
            // Bodies need not bear being asked again after their end. Those of generated clients do.
            let watched = parts
                .extensions
                .get::<tonic::GrpcMethod<'static>>()
                .is_some();
            let failure = |cx: &mut Context<'_>| match watched {
                true => body.poll_failure(cx),
                false => Poll::Pending,
            };
            let outcome = answered(answer, failure).await?;
            make_way(outcome.as_ref().map_or(0, Message::len)).await;
            return self.opened(route, open, None, outcome, deadline).await;
        }
        let total = body.has_ended().then_some(body.ready.len() as u64);
        let first = body.ready.len().min(room).min(START_CREDIT as usize);
        let flight = Flight { total, ..START };
        self.emit_open(&mut out, route, call, flight, deadline);
        let message = joined(out, &body.ready.clone().split_to(first));
        let stream = self.stream(route, call, Outlet::new(first as u64))?;
        open.attach(&stream);
        let answer = route.client.call(route.peer.addr, message);
        let more = |cx: &mut Context<'_>| {
            let Some(body) = outgoing else {
                return Poll::Pending;
            };
            if let Err(status) = body.poll_fill(cx, first + 1) {
                return Poll::Ready(status);
            }
            if body.ready.len() > first || body.has_ended() {
                // There is more to send: from now on that is done beside this.
                if let Some(body) = outgoing.take() {
                    self.pump(body, first, &stream, open.canceller());
                }
            }
            Poll::Pending
        };
        let outcome = answered(answer, more).await?;
        let deferred = self.deferred(route, &stream, &outcome);
        if let Some(credit) = deferred {
            if credit > 0 {
                stream.outlet.raise(credit);
            }
            if let Some(body) = outgoing.take() {
                self.pump(body, first, &stream, open.canceller());
            }
            return Ok(self.awaited(route, open, stream, deadline).await?);
        }
        let opened = self.opened(route, open, Some(stream.clone()), outcome, deadline);
        opened
            .await
            .inspect_err(|failure| stream.fail(failure.status.clone()))
    }

    /// Sends what is left of a request's body, on a task of its own.
    fn pump(
        &self,
        mut body: Outgoing<Body>,
        sent: usize,
        stream: &Arc<Stream>,
        cancel: impl FnOnce() + Send + 'static,
    ) {
        drop(body.ready.split_to(sent));
        let mut pump = Pump::new(body, None, self.max_message_bytes);
        let stream = stream.clone();
        tokio::spawn(async move {
            match poll_fn(|cx| pump.poll(cx, &stream, &mut |_| None)).await {
                Pumped::Ended | Pumped::Over(Over::Unwanted | Over::Failed) => {}
                Pumped::Failed(status) => {
                    cancel();
                    stream.fail(status);
                }
            }
        });
    }

    /// Our side of a call that is a stream.
    fn stream(&self, route: &Route, call: u64, outlet: Outlet) -> Result<Arc<Stream>, Status> {
        let peer = &route.peer;
        let Some(share) = peer.budget.open() else {
            return Err(Status::resource_exhausted(format!(
                "the streams with {} take all the memory that they may: end some, or raise \
                 `max_stream_buffer_bytes`",
                peer.addr
            )));
        };
        Ok(Stream::new(Parts {
            epoch: peer.epoch,
            call,
            inlet: Inlet::new(share, None, true),
            outlet,
            way: Way::ToServer {
                client: route.client.clone(),
                addr: peer.addr,
                pushed: route.pushed,
            },
            stopping: Arc::default(),
            heard: peer.heard.clone(),
            counting: peer.counting.clone(),
            max_metadata_bytes: self.max_metadata_bytes,
            runtime: tokio::runtime::Handle::current(),
        }))
    }

    /// Space for the header, then the metadata of the OPEN, with room for `body`.
    fn encode_head(&self, parts: &RequestParts, body: &Message) -> Result<Vec<u8>, Status> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut out = begin_frame(path.len() + self.origin.len() + 128, body);
        self.encode_metadata(path, parts, &mut out)
            .map_err(|error| status::malformed("cannot send this metadata", error))?;
        let len = out.len() - HEADER_LEN;
        // It also has to fit into a message.
        let most = self.max_message_bytes.saturating_sub(HEADER_LEN);
        let limit = self.max_metadata_bytes.min(most);
        if len > limit {
            return Err(status::metadata_too_long("request", len, limit));
        }
        Ok(out)
    }

    fn encode_metadata(
        &self,
        path: &str,
        parts: &RequestParts,
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

    /// Writes the header of the OPEN.
    fn emit_open(
        &self,
        out: &mut [u8],
        route: &Route,
        call: u64,
        flight: Flight,
        deadline: Option<Deadline>,
    ) {
        let left = deadline.map(|deadline| deadline.at.saturating_duration_since(Instant::now()));
        let frame = Frame {
            epoch: route.peer.epoch,
            call,
            going_away: false,
            kind: Kind::Open {
                flight,
                deadline_us: left.map_or(0, deadline::to_micros),
                push: route.pushed,
            },
        };
        let lengths = Lengths {
            head: (out.len() - HEADER_LEN) as u32,
            ..Lengths::default()
        };
        out[..HEADER_LEN].copy_from_slice(&frame.emit(lengths));
    }

    /// The credit of a call whose response comes later.
    fn deferred(
        &self,
        route: &Route,
        stream: &Stream,
        outcome: &Result<Message, CallError>,
    ) -> Option<u64> {
        let mut message = outcome.as_ref().ok()?.clone();
        let (frame, _) = take_header(&mut message, Sender::ServerResponse).ok()?;
        let Kind::Deferred {
            credit,
            server_epoch,
        } = frame.kind
        else {
            return None;
        };
        if (frame.epoch, frame.call) != (stream.epoch, stream.call) {
            return None;
        }
        stream.learn_epoch(server_epoch);
        route.peer.learn_epoch(server_epoch);
        if frame.going_away {
            self.clear(route);
        }
        Some(credit)
    }

    /// Makes a response of what the OPEN was answered with.
    async fn opened(
        &self,
        route: &Route,
        mut open: OpenCall,
        stream: Option<Arc<Stream>>,
        outcome: Result<Message, CallError>,
        deadline: Option<Deadline>,
    ) -> Result<Response<Body>, Failure> {
        let mut reply = outcome.map_err(|error| {
            // The server cannot be told.
            open.disarm();
            self.forget(route, &error);
            let elsewhere = error.executed() == Executed::No
                && matches!(error, CallError::PeerUnreachable { .. });
            Failure {
                status: status::from_call_error(error),
                elsewhere,
            }
        })?;
        let counting = &route.peer.counting;
        let (frame, lengths) =
            take_header(&mut reply, Sender::ServerResponse).map_err(|error| {
                counting.malformed_frames.count();
                status::malformed("the server's answer is malformed", error)
            })?;
        let answers_this = (frame.epoch, frame.call) == (route.peer.epoch, open.call());
        if !answers_this && !matches!(frame.kind, Kind::Reset { .. }) {
            counting.protocol_errors.count();
            return Err(Status::internal("the server answered another call than this one").into());
        }
        if frame.going_away {
            self.clear(route);
        }
        let learned;
        let flight = match frame.kind {
            Kind::Reply {
                flight,
                server_epoch,
            } => {
                learned = server_epoch.unwrap_or(0);
                if let Some(stream) = &stream {
                    stream.learn_epoch(learned);
                }
                route.peer.learn_epoch(learned);
                flight
            }
            Kind::Reset { reason } => {
                open.disarm();
                let text = String::from_utf8_lossy(&reply.into_bytes()).into_owned();
                let reset = ResetError { reason, text };
                let elsewhere = reset.executed() == Executed::No;
                return Err(Failure {
                    status: reset.into_status(),
                    elsewhere,
                });
            }
            other => {
                counting.protocol_errors.count();
                let status =
                    Status::internal(format!("the server answered an OPEN with {other:?}"));
                return Err(status.into());
            }
        };
        if flight.end && flight.trailers {
            open.disarm();
            if let Some(stream) = stream {
                stream.outlet.end(Over::Unwanted);
            }
            return Ok(self.complete(flight, lengths, reply)?);
        }
        if !flight.start {
            return Err(Status::internal("a response that goes on has no headers").into());
        }
        let stream = match stream {
            Some(stream) => stream,
            None => {
                let stream = self.stream(route, open.call(), Outlet::new(0))?;
                stream.learn_epoch(learned);
                open.attach(&stream);
                stream
            }
        };
        stream
            .take(flight, lengths, reply)
            .map_err(|error| status::malformed("the server's answer is malformed", error))?;
        Ok(self.awaited(route, open, stream, deadline).await?)
    }

    /// Waits for the headers of a stream.
    async fn awaited(
        &self,
        route: &Route,
        mut open: OpenCall,
        stream: Arc<Stream>,
        deadline: Option<Deadline>,
    ) -> Result<Response<Body>, Status> {
        let mut puller = (!route.pushed).then(|| Puller::new(0));
        let to = (&route.client, route.peer.addr);
        let most = self.max_message_bytes;
        let headers = poll_fn(|cx| {
            if let Some(puller) = &mut puller {
                puller.poll(cx, &stream, to, most);
            }
            if let Some(trailers) = stream.inlet.take_trailers_only() {
                return Poll::Ready(Ok((trailers, true)));
            }
            let head = stream.inlet.poll_head(cx);
            head.map_ok(|head| (head, false))
        });
        let headers = headers.await;
        let (headers, over) = headers.inspect_err(|status| stream.fail(status.clone()))?;
        let body = if over {
            open.disarm();
            stream.outlet.end(Over::Unwanted);
            if !headers.contains_key(Status::GRPC_STATUS) {
                return Err(Status::unknown("the response has no grpc-status"));
            }
            Body::empty()
        } else {
            Body::new(ResponseBody::new(stream, open, puller, most, deadline))
        };
        Ok(response(headers, body))
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
        Ok(response(headers, body))
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
        let client = if self.pushed {
            Client::bind_accepting(&self.config, PUSHED.clone())?
        } else {
            Client::bind(&self.config)?
        };
        Ok(Route {
            pushed: client.accepts_from(addr),
            client,
            peer: Peer::of(addr, self.max_stream_buffer_bytes),
        })
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, Error> {
        resolve(&self.target.host, self.target.port).await
    }

    /// What was counted of the calls to the server in use.
    pub(super) fn counters(&self) -> CallCounters {
        let route = self.lock_route();
        let peer = route.as_ref().map(|route| &route.peer);
        peer.map_or_else(Default::default, |peer| {
            peer.counting.read(peer.stream_bytes())
        })
    }

    pub(super) fn monitor(&self) -> Option<homa_client::Monitor> {
        let route = self.lock_route();
        let Route { client, peer, .. } = route.as_ref()?;
        Some(client.monitor(peer.addr))
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

/// The flight of an OPEN.
const START: Flight = Flight {
    start: true,
    end: false,
    trailers: false,
    total: None,
    offset: 0,
};

/// Waits for the answer to an OPEN, or for the request to fail meanwhile.
async fn answered(
    answer: Call,
    mut body: impl FnMut(&mut Context<'_>) -> Poll<Status>,
) -> Result<Result<Message, CallError>, Status> {
    let mut answer = pin!(answer);
    poll_fn(|cx| {
        if let Poll::Ready(outcome) = answer.as_mut().poll(cx) {
            return Poll::Ready(Ok(outcome));
        }
        body(cx).map(Err)
    })
    .await
}

fn response(headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.version_mut() = Version::HTTP_2;
    *response.headers_mut() = headers;
    response
}

/// For failures to find the way to the server.
fn to_status(error: Error) -> Status {
    match error {
        Error::Bind(error) => status::from_bind_error(error),
        error => status::with_source(Code::Unavailable, error),
    }
}
