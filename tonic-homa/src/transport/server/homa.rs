//! The accept loop over Homa: one task per call, everything else answered at once.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use homa_client::{Message, Request, Responder};
use http_body::Body as HttpBody;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tower_service::Service;

use super::answer::{Answer, Call};
use super::info::{HomaConnectInfo, Wire};
use super::{BoxError, Settings};
use crate::error::Error;
use crate::frame::{Frame, FrameError, HEADER_LEN, Kind, Lengths, ResetReason, Sender};
use crate::transport::identity::{CallKey, Identities, Refusal};
use crate::uri::Engine;

/// Requests taken in a row before other tasks of the thread get a turn.
const BURST: u32 = 32;

/// How long the last replies may take to arrive after the last handler has ended.
const FLUSH: Duration = Duration::from_secs(1);

/// What all calls of a server share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    /// This process, so that clients notice a restart.
    pub(super) server_epoch: u64,
    pub(super) stopping: AtomicBool,
    pub(super) seen: Identities,
    local: SocketAddr,
    engine: Engine,
}

/// Serves until `stopping` says so, then until all calls are answered.
pub(super) async fn serve<S, B>(
    socket: homa_client::Server,
    engine: Engine,
    mut service: S,
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
    let grace = settings.shutdown_grace;
    let shared = Arc::new(Shared {
        seen: Identities::new(settings.concurrency_limit),
        settings,
        server_epoch: crate::random::nonzero(),
        stopping: AtomicBool::new(false),
        local: socket.local_addr(),
        engine,
    });
    let stop = stopping.wait_for(|stop| *stop);
    tokio::select! {
        biased;
        // The sender lives as long as this future, so that this is never an error.
        _ = stop => {}
        () = accept_all(&socket, &shared, &mut service) => return Err(Error::Closed),
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
        // Goes on, to refuse what comes.
        () = accept_all(&socket, &shared, &mut service) => return Err(Error::Closed),
    }
    if !socket.shutdown(FLUSH).await {
        tracing::debug!(local = %shared.local, "some clients have not acknowledged their replies");
    }
    Ok(())
}

async fn accept_all<S, B>(socket: &homa_client::Server, shared: &Arc<Shared>, service: &mut S)
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut burst = 0;
    while let Some(request) = socket.accept().await {
        shared.handle(request, service);
        burst += 1;
        if burst == BURST {
            burst = 0;
            tokio::task::yield_now().await;
        }
    }
}

impl Shared {
    fn handle<S, B>(self: &Arc<Self>, request: Request, service: &S)
    where
        S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError> + Send,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (peer, local) = (request.peer(), request.local_ip());
        let (mut message, responder) = request.into_parts();
        let (frame, lengths) = match take_header(&mut message) {
            Ok(header) => header,
            Err(error) => {
                tracing::debug!(%peer, %error, "refused a request");
                let reason = match error {
                    FrameError::Version(_) => ResetReason::Version,
                    _ => ResetReason::Protocol,
                };
                let nobody = Frame {
                    epoch: 0,
                    call: 0,
                    going_away: false,
                    kind: RESET,
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
                ..
            } => {
                if self.stopping.load(Ordering::Relaxed) {
                    let text = "the server is stopping";
                    return self.reset(responder, &frame, ResetReason::Stopping, text);
                }
                let limit = match self.seen.start(key) {
                    Ok(limit) => limit,
                    Err(refusal) => {
                        let (reason, text) = match refusal {
                            Refusal::Duplicate => (ResetReason::Duplicate, "opened before"),
                            Refusal::Overloaded => (ResetReason::Overloaded, "too many clients"),
                        };
                        return self.reset(responder, &frame, reason, text);
                    }
                };
                let answer = Answer::new(self.clone(), responder, key);
                let info = self.info(peer, local);
                let call = Call {
                    flight,
                    deadline_us,
                    lengths,
                    message,
                    limit,
                    info,
                };
                let task = tokio::spawn(call.run(service.clone(), answer));
                self.seen.running(key, task.abort_handle());
            }
            Kind::Cancel { .. } => {
                self.seen.cancel(key);
                self.reply(
                    responder,
                    &frame,
                    Kind::Ack {
                        credit: 0,
                        stop: false,
                    },
                    &[],
                );
            }
            Kind::Ping { nonce } => {
                let server_epoch = self.server_epoch;
                self.reply(
                    responder,
                    &frame,
                    Kind::Pong {
                        nonce,
                        server_epoch,
                    },
                    &[],
                );
            }
            // Every call here is answered by its REPLY, so that none of these has one to go to.
            _ => self.reset(responder, &frame, ResetReason::UnknownCall, "no such call"),
        }
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
        send(responder, Message::from(bytes));
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

const RESET: Kind = Kind::Reset {
    reason: ResetReason::Protocol,
};

/// Hands a reply over. That it cannot be sent concerns the client, who will notice by itself.
pub(super) fn send(responder: Responder, message: Message) {
    let peer = responder.peer();
    if let Err(error) = responder.reply(message) {
        tracing::debug!(%peer, %error, "a reply could not be sent");
    }
}

/// Takes the header off a client's request; what is left are the sections.
fn take_header(message: &mut Message) -> Result<(Frame, Lengths), FrameError> {
    let len = message.len();
    let header = message.copy_to_bytes(len.min(HEADER_LEN));
    let (frame, lengths) = Frame::parse(&header, len, Sender::ClientRequest)?;
    message.advance(usize::from(lengths.header) - HEADER_LEN);
    Ok((frame, lengths))
}
