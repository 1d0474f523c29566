//! Serving over Homa: one task per call, everything else answered on the thread that receives.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use homa_client::{Message, Request, RequestHandler, Responder};
use http_body::Body as HttpBody;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use super::answer::{Answer, Call};
use super::info::{HomaConnectInfo, Wire};
use super::{BoxError, Settings};
use crate::error::Error;
use crate::frame::{Flight, Frame, FrameError, Kind, Lengths, ResetReason, Sender};
use crate::transport::counters::{CallMonitor, Counting};
use crate::transport::identity::{CallKey, Early, Found, Identities, Places, Refusal};
use crate::transport::stream::{
    Inlet, Outlet, Parts, Stream, Way, pull::Pulls, reply, take_header,
};
use crate::uri::Engine;

/// How long the last replies may take to arrive after the last handler has ended.
const FLUSH: Duration = Duration::from_secs(1);

/// How often early pieces and silent clients are looked for while there are any.
const LOOK: Duration = Duration::from_millis(500);

/// Why the streams of a client are given up.
pub(super) const SILENT_CLIENT: &str = "the client was not heard of for 10 s";

/// What all calls of a server share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    /// This process, so that clients notice a restart.
    pub(super) server_epoch: u64,
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) seen: Identities,
    pub(super) counting: Arc<Counting>,
    /// The thread that receives may be outside of it.
    pub(super) runtime: Handle,
    local: SocketAddr,
    engine: Engine,
}

/// A listener's socket and what is known of it.
pub(super) struct Socket {
    pub(super) server: homa_client::Server,
    pub(super) engine: Engine,
    pub(super) monitor: CallMonitor,
}

/// Serves until `stopping` says so, then until all calls are answered.
pub(super) async fn serve<S, B>(
    socket: Socket,
    service: S,
    settings: Settings,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), Error>
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let Socket {
        server: socket,
        engine,
        monitor,
    } = socket;
    let grace = settings.shutdown_grace;
    let shared = Arc::new(Shared {
        seen: Identities::new(
            settings.limits(),
            settings.max_stream_buffer_bytes,
            monitor.stream_bytes(),
        ),
        settings,
        server_epoch: crate::random::nonzero(),
        stopping: Arc::default(),
        counting: monitor.counting(),
        runtime: Handle::current(),
        local: socket.local_addr(),
        engine,
    });
    // Services are cloned for each call, and need not be shared between threads.
    let service = Mutex::new(service);
    let handler: RequestHandler = Arc::new({
        let shared = shared.clone();
        move |request| shared.handle(request, &service)
    });
    let _ended = Ended(shared.clone());
    let mut served = pin!(socket.hand_to(handler));
    let mut looked_after = pin!(shared.look_after());
    let stop = stopping.wait_for(|stop| *stop);
    tokio::select! {
        biased;
        // The sender lives as long as this future, so that this is never an error.
        _ = stop => {}
        () = &mut served => return Err(Error::Closed),
        () = &mut looked_after => {}
    }
    shared.stopping.store(true, Ordering::Relaxed);
    tracing::debug!(local = %shared.local, "stopping");
    tokio::select! {
        biased;
        () = shared.seen.idle() => {}
        () = sleep(grace) => {
            shared.seen.cancel_all();
            // Handlers end at their next await; one that never gets there is left behind.
            let _ = timeout(FLUSH, shared.seen.idle()).await;
        }
        () = &mut served => return Err(Error::Closed),
        () = &mut looked_after => {}
    }
    shared.refuse_early();
    if !socket.shutdown(FLUSH).await {
        tracing::debug!(local = %shared.local, "some clients have not acknowledged their replies");
    }
    Ok(())
}

/// Ends what is left of a server, also when its future is dropped.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        let Self(shared) = self;
        shared.stopping.store(true, Ordering::Relaxed);
        shared.seen.cancel_all();
        for stream in shared.seen.streams() {
            stream.fail(Status::unavailable(
                "the server was stopped during the call",
            ));
        }
        shared.refuse_early();
    }
}

impl Shared {
    /// No more calls will come for the pieces that wait for theirs.
    fn refuse_early(&self) {
        for early in self.seen.close() {
            self.unknown(early.responder, &early.frame);
        }
    }

    fn handle<S, B>(self: &Arc<Self>, request: Request, service: &Mutex<S>)
    where
        S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError> + Send,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (peer, local) = (request.peer(), request.local_ip());
        let (mut message, responder) = request.into_parts();
        let (frame, lengths) = match take_header(&mut message, Sender::ClientRequest) {
            Ok(header) => header,
            Err(error) => {
                tracing::debug!(%peer, %error, "refused a request");
                self.counting.malformed_frames.count();
                let reason = match error {
                    FrameError::Version(_) => ResetReason::Version,
                    _ => ResetReason::Protocol,
                };
                let nobody = Frame {
                    epoch: 0,
                    call: 0,
                    going_away: false,
                    kind: Kind::Reset { reason },
                };
                return self.reset(responder, &nobody, reason, &error.to_string());
            }
        };
        let key = CallKey {
            client: peer.ip(),
            epoch: frame.epoch,
            call: frame.call,
        };
        match frame.kind {
            Kind::Open {
                flight,
                deadline_us,
                push,
            } => {
                let Some((answer, places)) = self.admit(&frame, key, responder) else {
                    return;
                };
                let way = match answer.pusher().filter(|_| push) {
                    Some(pusher) => Way::Push(pusher),
                    None => Way::Pull(Pulls::default()),
                };
                let call = Call {
                    flight,
                    deadline_us,
                    lengths,
                    message,
                    places,
                    info: self.info(peer, local),
                    way,
                };
                let service = service.lock().unwrap_or_else(PoisonError::into_inner);
                let service = service.clone();
                // Boxed: a task copies its future whenever it changes state, with all its room.
                let task = self.runtime.spawn(Box::pin(call.begin(service, answer)));
                self.seen.running(key, task.abort_handle());
            }
            Kind::Data { .. } => self.receive(key, frame, lengths, message, responder),
            Kind::Window { .. } => match self.seen.find(key) {
                Found::Stream(stream) => stream.receive(&frame, lengths, message, responder),
                Found::Unknown | Found::Over => self.unknown(responder, &frame),
            },
            Kind::Pull { from, most } => match self.seen.find(key) {
                Found::Stream(stream) => {
                    let asked = match stream.pulls() {
                        Some(pulls) => pulls.ask(from, most, responder),
                        None => Err(responder),
                    };
                    if let Err(responder) = asked {
                        self.counting.protocol_errors.count();
                        let text = "too many questions, or none are needed";
                        self.reset(responder, &frame, ResetReason::Protocol, text);
                    }
                }
                Found::Unknown | Found::Over => self.unknown(responder, &frame),
            },
            Kind::Cancel { .. } => {
                self.counting.cancelled.count();
                if let Some(stream) = self.seen.cancel(key) {
                    // Not `CANCELLED`: tonic takes that for the end of a request.
                    stream.fail(Status::aborted("the client has cancelled the call"));
                }
                let kind = Kind::Ack {
                    credit: 0,
                    stop: false,
                };
                self.reply(responder, &frame, kind, &[]);
            }
            Kind::Ping { nonce } => {
                self.seen.heard(key.client, key.epoch);
                let server_epoch = self.server_epoch;
                let kind = Kind::Pong {
                    nonce,
                    server_epoch,
                };
                self.reply(responder, &frame, kind, &[]);
            }
            // Clients do not send these: the frame would have been refused.
            Kind::Reply { .. }
            | Kind::Deferred { .. }
            | Kind::Ack { .. }
            | Kind::Pong { .. }
            | Kind::Reset { .. } => self.unknown(responder, &frame),
        }
    }

    /// Lets a call in that is seen for the first time, or refuses it.
    fn admit(
        self: &Arc<Self>,
        frame: &Frame,
        key: CallKey,
        responder: Responder,
    ) -> Option<(Answer, Places)> {
        let (reason, text) = if self.stopping.load(Ordering::Relaxed) {
            (ResetReason::Stopping, "the server is stopping")
        } else {
            match self.seen.start(key) {
                Ok(places) => {
                    self.counting.calls.count();
                    return Some((Answer::new(self.clone(), responder, key), places));
                }
                Err(Refusal::Duplicate) => {
                    self.counting.duplicate_calls.count();
                    (ResetReason::Duplicate, "opened before")
                }
                Err(Refusal::Overloaded) => {
                    self.counting.refused_calls.count();
                    (ResetReason::Overloaded, "too many clients")
                }
            }
        };
        self.reset(responder, frame, reason, text);
        None
    }

    /// The stream of a call whose request body goes on after the OPEN; `None` if its client has
    /// used up what it may.
    pub(super) fn open_stream(
        self: &Arc<Self>,
        key: CallKey,
        total: Option<u64>,
        way: Way,
    ) -> Option<Arc<Stream>> {
        let share = self.seen.share(key)?;
        let inlet = Inlet::new(share, total, false);
        Some(self.stream(key, inlet, Outlet::new(0), way))
    }

    /// The stream of a call that has all of its request, and of whose response `sent` bytes are on
    /// their way.
    pub(super) fn response_stream(
        self: &Arc<Self>,
        key: CallKey,
        sent: u64,
        way: Way,
    ) -> Arc<Stream> {
        self.stream(key, Inlet::closed(), Outlet::new(sent), way)
    }

    fn stream(
        self: &Arc<Self>,
        key: CallKey,
        inlet: Inlet,
        outlet: Outlet,
        way: Way,
    ) -> Arc<Stream> {
        Stream::new(Parts {
            epoch: key.epoch,
            call: key.call,
            inlet,
            outlet,
            way,
            stopping: self.stopping.clone(),
            heard: self.seen.heard_of(key),
            counting: self.counting.clone(),
            max_metadata_bytes: self.settings.max_metadata_bytes,
            runtime: self.runtime.clone(),
        })
    }

    /// A piece of a request's body.
    fn receive(
        &self,
        key: CallKey,
        frame: Frame,
        lengths: Lengths,
        message: Message,
        responder: Responder,
    ) {
        match self.seen.find(key) {
            Found::Stream(stream) => {
                stream.receive(&frame, lengths, message, responder);
            }
            Found::Over => self.unknown(responder, &frame),
            // It may have overtaken the OPEN.
            Found::Unknown => {
                let kept = self
                    .seen
                    .keep_early(key, frame, lengths, message, responder);
                match kept {
                    Ok(()) => self.counting.early_pieces.count(),
                    Err(responder) => self.unknown(responder, &frame),
                }
            }
        }
    }

    /// Has the pieces of a call go to its stream, those included that came before it.
    pub(super) fn attach(&self, key: CallKey, stream: &Arc<Stream>) {
        for early in self.seen.attach(key, stream) {
            let Early {
                frame,
                lengths,
                message,
                responder,
                ..
            } = early;
            stream.receive(&frame, lengths, message, responder);
        }
    }

    /// Ends what waits in vain. Never returns.
    async fn look_after(&self) {
        loop {
            self.seen.busy().await;
            sleep(LOOK).await;
            for early in self.seen.late() {
                self.unknown(early.responder, &early.frame);
            }
            let (silent, clients) = self.seen.silent();
            for _ in 0..clients {
                self.counting.lost_peers.count();
            }
            for (key, stream) in silent {
                tracing::debug!(client = %key.client, call = key.call, "its client is silent");
                // Should it be there all the same, it hears of it.
                stream.give_up();
                self.seen.cancel(key);
                stream.fail(Status::unavailable(SILENT_CLIENT));
            }
        }
    }

    fn unknown(&self, responder: Responder, frame: &Frame) {
        self.counting.unknown_calls.count();
        self.reset(responder, frame, ResetReason::UnknownCall, "no such call");
    }

    /// Answers `to` with a RESET.
    pub(super) fn reset(&self, responder: Responder, to: &Frame, reason: ResetReason, text: &str) {
        self.reply(responder, to, Kind::Reset { reason }, text.as_bytes());
    }

    fn reply(&self, responder: Responder, to: &Frame, kind: Kind, body: &[u8]) {
        let frame = Frame {
            kind,
            going_away: self.stopping.load(Ordering::Relaxed),
            ..*to
        };
        let mut bytes = frame.emit(Lengths::default()).to_vec();
        bytes.extend_from_slice(body);
        reply(responder, Message::from(bytes));
    }

    fn info(&self, peer: SocketAddr, local: Option<IpAddr>) -> HomaConnectInfo {
        let local_addr = match local {
            Some(ip) => Some(SocketAddr::new(ip, self.local.port())),
            None => (!self.local.ip().is_unspecified()).then_some(self.local),
        };
        HomaConnectInfo {
            local_addr,
            remote_addr: peer,
            wire: Wire::Native,
            engine: self.engine,
        }
    }
}

/// The first flight of a response whose body goes on.
pub(super) const FIRST_FLIGHT: Flight = Flight {
    start: true,
    end: false,
    trailers: false,
    total: None,
    offset: 0,
};
