//! Streams: calls that need more than one message in a direction.
//!
//! Both sides of a call have a [`Stream`]. Its [`Inlet`] puts together what arrives, whoever
//! receives it, and lets the other side send as far as the reader keeps up. Its [`Outlet`] knows how
//! far this side may send, and a [`Pump`] does so on the task that has the body. Pieces of a body
//! are Homa requests, up to eight at a time, in any order; their responses carry the credit.
//!
//! A piece that the other side was waiting for is mostly followed by one from there. So its answer
//! waits a moment, and a piece of the other direction goes in its place: messages that alternate
//! are one Homa RPC for both.
//!
//! Servers *push* in this way to clients that take requests. Clients that do not, because their
//! calls go through the kernel module or because they were told so, *pull*: a piece is then the
//! response to a request for it, see [`pull`].

mod assembly;
mod budget;
#[cfg(test)]
mod fuzz;
mod inlet;
mod outlet;
pub(crate) mod pull;

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;
use std::time::{Duration, Instant};

use bytes::Buf;
use homa_client::{CallError, Client, Message, Pusher, ReplyError, Responder, WaitingReply};
use tokio::runtime::{Handle, Id};
use tonic::{Code, Status};

use crate::frame::{Flight, Frame, FrameError, HEADER_LEN, Kind, Lengths, ResetReason, Sender};
use crate::metadata::{self, MetadataError};
use crate::status::{self, ResetError};
use crate::transport::counters::Counting;
pub(crate) use budget::{Budget, START_CREDIT, Share};
pub(crate) use inlet::{Inlet, Piece, Polled, StreamError, Taken};
use outlet::BUSY_PAUSE;
pub(crate) use outlet::{Outlet, Over, Pump, Pumped, begin_frame, joined, sections};
use pull::Pulls;

/// How long the end of a response may take to arrive after the server has forgotten the call.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long an empty piece waits for more credit before it is answered all the same.
const CREDIT_WAIT: Duration = Duration::from_millis(50);

/// One side of a call that needs more than one message in a direction.
pub(crate) struct Stream {
    pub(crate) epoch: u64,
    pub(crate) call: u64,
    pub(crate) inlet: Inlet,
    pub(crate) outlet: Outlet,
    way: Way,
    /// What the other side waits for until there is more credit, where it cannot be told.
    withheld: Mutex<Vec<Responder>>,
    /// An answer that waits for company: a piece can take its place.
    waiting: Mutex<Option<WaitingReply>>,
    /// Set in the frames of a server that stops.
    stopping: Arc<AtomicBool>,
    /// Told of whatever arrives from the other side.
    heard: Arc<Heard>,
    counting: Arc<Counting>,
    max_metadata_bytes: usize,
    /// The server's process, once a client knows it; 0 before.
    server_epoch: AtomicU64,
    /// The other side is taken to be gone.
    given_up: AtomicBool,
    /// Frames are also handled by threads that are outside of it.
    runtime: Handle,
}

/// When the other side was heard of last.
#[derive(Debug)]
pub(crate) struct Heard {
    since: Instant,
    /// Milliseconds after that.
    at: AtomicU64,
}

impl Heard {
    pub(crate) fn now(&self) {
        let at = self.since.elapsed().as_millis() as u64;
        self.at.store(at, Ordering::Relaxed);
    }

    pub(crate) fn at(&self) -> Instant {
        self.since + Duration::from_millis(self.at.load(Ordering::Relaxed))
    }
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            at: AtomicU64::new(0),
        }
    }
}

/// How pieces get to the other side.
pub(crate) enum Way {
    /// From a client: as requests.
    ToServer {
        client: Client,
        addr: SocketAddr,
        /// Whether the server may push.
        pushed: bool,
    },
    /// From a server: as requests.
    Push(Pusher),
    /// From a server: as responses to those who ask for them.
    Pull(Pulls),
}

/// What both sides of a stream are made of.
pub(crate) struct Parts {
    pub(crate) epoch: u64,
    pub(crate) call: u64,
    pub(crate) inlet: Inlet,
    pub(crate) outlet: Outlet,
    pub(crate) way: Way,
    pub(crate) stopping: Arc<AtomicBool>,
    pub(crate) heard: Arc<Heard>,
    pub(crate) counting: Arc<Counting>,
    pub(crate) max_metadata_bytes: usize,
    pub(crate) runtime: Handle,
}

/// How a frame of a stream breaks the protocol.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PieceError {
    /// Its body does not fit in.
    #[error(transparent)]
    Body(#[from] StreamError),
    /// Its metadata cannot be read.
    #[error("its metadata is malformed: {0}")]
    Metadata(#[from] MetadataError),
    /// Its metadata is longer than allowed here.
    #[error("metadata of {size} bytes where {limit} are allowed: raise `max_metadata_bytes`")]
    TooLong {
        /// Encoded length.
        size: usize,
        /// The setting.
        limit: usize,
    },
}

impl Stream {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            epoch,
            call,
            inlet,
            outlet,
            way,
            stopping,
            heard,
            counting,
            max_metadata_bytes,
            runtime,
        } = parts;
        counting.streams.count();
        Arc::new(Self {
            epoch,
            call,
            inlet,
            outlet,
            way,
            withheld: Mutex::default(),
            waiting: Mutex::default(),
            stopping,
            heard,
            counting,
            max_metadata_bytes,
            server_epoch: AtomicU64::new(0),
            given_up: AtomicBool::new(false),
            runtime,
        })
    }

    /// The server's process that has this call, as its answer tells.
    pub(crate) fn learn_epoch(&self, server_epoch: u64) {
        self.server_epoch.store(server_epoch, Ordering::Relaxed);
    }

    /// Whether another process than this one has the call.
    pub(crate) fn is_of_another(&self, server_epoch: u64) -> bool {
        let own = self.server_epoch.load(Ordering::Relaxed);
        own != 0 && own != server_epoch
    }

    /// The other side is taken to be gone.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Which runtime it was begun on.
    pub(crate) fn runtime(&self) -> Id {
        self.runtime.id()
    }

    /// Takes the sections of a frame that has arrived. A stream that it breaks has failed.
    pub(crate) fn take(
        &self,
        flight: Flight,
        lengths: Lengths,
        message: Message,
    ) -> Result<Taken, PieceError> {
        self.take_by(flight, lengths, message, |piece| self.inlet.take(piece))
    }

    /// The same for a piece that came as an answer, and gets none.
    fn accept(
        &self,
        flight: Flight,
        lengths: Lengths,
        message: Message,
    ) -> Result<Taken, PieceError> {
        self.take_by(flight, lengths, message, |piece| self.inlet.accept(piece))
    }

    fn take_by(
        &self,
        flight: Flight,
        lengths: Lengths,
        message: Message,
        take: impl FnOnce(Piece) -> Result<Taken, StreamError>,
    ) -> Result<Taken, PieceError> {
        self.heard.now();
        let taken = piece(flight, lengths, message, self.max_metadata_bytes)
            .and_then(|piece| Ok(take(piece)?));
        taken.inspect_err(|error| {
            self.counting.protocol_errors.count();
            tracing::debug!(call = self.call, %error, "refused a piece of a body");
            self.fail(Status::internal(format!(
                "the other side broke the protocol: {error}"
            )));
        })
    }

    /// A request of the other side: takes and answers it.
    pub(crate) fn receive(
        self: &Arc<Self>,
        frame: &Frame,
        lengths: Lengths,
        message: Message,
        responder: Responder,
    ) {
        match frame.kind {
            Kind::Data { flight, credit } => {
                self.receive_piece(flight, credit, lengths, message, responder);
            }
            Kind::Window { credit, stop } => self.receive_window(credit, stop, responder),
            // Nothing else is about the bodies of a call.
            _ => self.reset(responder, ResetReason::Protocol, "it comes to no stream"),
        }
    }

    fn receive_piece(
        self: &Arc<Self>,
        flight: Flight,
        credit: u64,
        lengths: Lengths,
        message: Message,
        responder: Responder,
    ) {
        self.raise(credit, false);
        let empty = lengths.body == 0 && !flight.end && !flight.start;
        match self.take(flight, lengths, message) {
            Err(error) => self.reset(responder, ResetReason::Protocol, &error.to_string()),
            // It asks for credit, and there is none beyond what it has used.
            Ok(taken) if empty && !taken.stop && taken.credit <= flight.offset => {
                self.withhold(responder);
            }
            Ok(taken) => {
                let kind = Kind::Ack {
                    credit: taken.credit,
                    stop: taken.stop,
                };
                if taken.awaited {
                    let frame = self.frame(kind).emit(Lengths::default());
                    *lock(&self.waiting) = reply_lazily(responder, frame.to_vec().into());
                } else {
                    self.answer(responder, kind);
                }
            }
        }
    }

    /// The other side raises the credit, or wants no more.
    fn receive_window(&self, credit: u64, stop: bool, responder: Responder) {
        self.heard.now();
        self.raise(credit, stop);
        let kind = Kind::Ack {
            credit: 0,
            stop: false,
        };
        self.answer(responder, kind);
    }

    /// Reads on, and tells the other side when it may wait for that.
    pub(crate) fn poll_frame(self: &Arc<Self>, cx: &mut Context<'_>) -> Polled {
        let (polled, window) = self.inlet.poll_frame(cx);
        if let Some(credit) = window {
            self.tell(credit, false);
        }
        polled
    }

    /// Nobody reads any more: the other side need not go on sending.
    pub(crate) fn abandon(self: &Arc<Self>) {
        if !self.inlet.is_complete() {
            self.tell(self.inlet.credit(), true);
        }
        self.inlet.abandon();
    }

    /// Both directions end with an error, unless they are over.
    pub(crate) fn fail(&self, status: Status) {
        self.inlet.fail(status.clone());
        self.outlet.end(Over::Failed);
        self.answer_withheld();
    }

    /// The other side cannot be reached.
    pub(crate) fn lose(&self, error: CallError) {
        self.fail(status::lost(error));
    }

    /// A DATA frame with its sections.
    pub(crate) fn data(
        &self,
        flight: Flight,
        (head, tail): (Vec<u8>, Vec<u8>),
        body: Message,
    ) -> Message {
        let (mut out, lengths) = sections(&head, &tail, &body);
        let credit = self.inlet.tell();
        let header = self.frame(Kind::Data { flight, credit }).emit(lengths);
        out[..HEADER_LEN].copy_from_slice(&header);
        joined(out, &body)
    }

    /// Sends a piece that the outlet counts as in flight.
    pub(crate) fn launch(self: &Arc<Self>, mut message: Message) -> Result<(), CallError> {
        let waiting = lock(&self.waiting).take();
        if let Some(waiting) = waiting {
            match waiting.replace(message) {
                // Nobody answers an answer.
                Ok(()) => {
                    self.outlet.landed();
                    return Ok(());
                }
                Err(back) => message = back,
            }
        }
        let stream = self.clone();
        self.send(message, move |outcome| {
            stream.landed(outcome);
            stream.outlet.landed();
        })
    }

    /// Sends a piece whose fate concerns nobody: the last words of a call that was cut off.
    pub(crate) fn send_detached(&self, message: Message) {
        let sent = match &self.way {
            Way::ToServer { client, addr, .. } => client.call_detached(*addr, message),
            Way::Push(pusher) => pusher.call_detached(message),
            Way::Pull(_) => return,
        };
        if let Err(error) = sent {
            tracing::debug!(call = self.call, %error, "the end of a call could not be sent");
        }
    }

    /// The body that is sent waits for credit. Only clients that are not pushed to have to ask.
    pub(crate) fn ask_for_credit(self: &Arc<Self>) {
        if let Way::ToServer { pushed: false, .. } = self.way
            && let Some(offset) = self.outlet.probe()
        {
            let flight = Flight {
                offset,
                ..Flight::default()
            };
            let message = self.data(flight, Default::default(), Message::new());
            if let Err(error) = self.launch(message) {
                self.lose(error);
            }
        }
    }

    /// Where those are kept who ask for pieces.
    pub(crate) fn pulls(&self) -> Option<&Pulls> {
        match &self.way {
            Way::Pull(pulls) => Some(pulls),
            Way::ToServer { .. } | Way::Push(_) => None,
        }
    }

    pub(crate) fn frame(&self, kind: Kind) -> Frame {
        Frame {
            epoch: self.epoch,
            call: self.call,
            going_away: self.stopping.load(Ordering::Relaxed),
            kind,
        }
    }

    /// Answers with a RESET.
    pub(crate) fn reset(&self, responder: Responder, reason: ResetReason, text: &str) {
        let mut out = self
            .frame(Kind::Reset { reason })
            .emit(Lengths::default())
            .to_vec();
        out.extend_from_slice(text.as_bytes());
        reply(responder, out.into());
    }

    /// The same for what breaks the protocol without harm to the call.
    fn refuse(&self, responder: Responder, text: &str) {
        self.counting.protocol_errors.count();
        self.reset(responder, ResetReason::Protocol, text);
    }

    fn answer(&self, responder: Responder, kind: Kind) {
        let frame = self.frame(kind).emit(Lengths::default());
        reply(responder, frame.to_vec().into());
    }

    fn raise(&self, credit: u64, stop: bool) {
        // Answers to a WINDOW carry none.
        if credit > 0 && self.outlet.raise(credit) {
            self.counting.shrunk_credits.count();
        }
        if stop {
            self.outlet.end(Over::Unwanted);
        }
    }

    /// Tells the other side of a credit, if that has to be told.
    fn tell(self: &Arc<Self>, credit: u64, stop: bool) {
        match self.way {
            Way::Pull(_) => self.answer_withheld(),
            // It asks for as much as it has room for.
            Way::ToServer { pushed: false, .. } if !stop => {}
            Way::ToServer { .. } | Way::Push(_) => self.send_window(credit, stop),
        }
    }

    fn send_window(self: &Arc<Self>, credit: u64, stop: bool) {
        let frame = self.frame(Kind::Window { credit, stop });
        let message = Message::from(frame.emit(Lengths::default()).to_vec());
        let stream = self.clone();
        let told = self.send(message, move |outcome| stream.landed(outcome));
        if let Err(error) = told {
            // The other side waits for it in vain.
            self.lose(error);
        }
    }

    /// Asks whether the other side still knows the call, by repeating what it was told.
    pub(crate) fn check(self: &Arc<Self>) {
        self.send_window(self.inlet.credit(), false);
    }

    fn send(
        &self,
        message: Message,
        then: impl FnOnce(Result<Message, CallError>) + Send + 'static,
    ) -> Result<(), CallError> {
        match &self.way {
            Way::ToServer { client, addr, .. } => client.call_then(*addr, message, then),
            Way::Push(pusher) => pusher.call_then(message, then),
            Way::Pull(_) => Ok(()),
        }
    }

    /// What the other side says to a piece, or to a credit.
    fn landed(self: &Arc<Self>, outcome: Result<Message, CallError>) {
        let from = match self.way {
            Way::ToServer { .. } => Sender::ServerResponse,
            Way::Push(_) | Way::Pull(_) => Sender::ClientResponse,
        };
        let mut message = match outcome {
            Ok(message) => message,
            Err(error) => return self.lose(error),
        };
        self.heard.now();
        match take_header(&mut message, from) {
            Ok((Frame { kind, .. }, lengths)) => match kind {
                Kind::Ack { credit, stop } => self.raise(credit, stop),
                Kind::Data { flight, credit } => {
                    self.raise(credit, false);
                    // One that breaks the protocol has failed the stream.
                    let _ = self.accept(flight, lengths, message);
                }
                Kind::Reset { reason } => {
                    let text = String::from_utf8_lossy(&message.into_bytes()).into_owned();
                    self.refused(ResetError { reason, text });
                }
                other => self.broken(&format!("it answered a piece of a body with {other:?}")),
            },
            Err(error) => self.broken(&error.to_string()),
        }
    }

    fn broken(&self, what: &str) {
        self.counting.malformed_frames.count();
        self.fail(Status::internal(format!(
            "the other side broke the protocol: {what}"
        )));
    }

    fn refused(self: &Arc<Self>, reset: ResetError) {
        self.outlet.end(Over::Unwanted);
        let over = matches!(
            reset.reason,
            ResetReason::UnknownCall | ResetReason::Stopping | ResetReason::Cancelled
        );
        if !over {
            return self.fail(reset.into_status());
        }
        if !matches!(self.way, Way::ToServer { .. }) {
            // The client has ended the call.
            return self.fail(Status::new(Code::Aborted, "the client has ended the call"));
        }
        // A server that has answered forgets the call, and its last words may be on their way.
        if self.inlet.is_complete() {
            return;
        }
        let stream = self.clone();
        self.runtime.spawn(async move {
            tokio::time::sleep(LAST_WORDS).await;
            stream.fail(reset.into_status());
        });
    }

    fn withhold(self: &Arc<Self>, responder: Responder) {
        let mut withheld = lock(&self.withheld);
        withheld.push(responder);
        if withheld.len() > 1 {
            return;
        }
        drop(withheld);
        let stream = Arc::downgrade(self);
        self.runtime.spawn(async move {
            tokio::time::sleep(CREDIT_WAIT).await;
            if let Some(stream) = stream.upgrade() {
                stream.answer_withheld();
            }
        });
    }

    fn answer_withheld(&self) {
        let withheld = std::mem::take(&mut *lock(&self.withheld));
        for responder in withheld {
            let kind = Kind::Ack {
                credit: self.inlet.credit(),
                stop: false,
            };
            self.answer(responder, kind);
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("epoch", &self.epoch)
            .field("call", &self.call)
            .field("inlet", &self.inlet)
            .field("outlet", &self.outlet)
            .finish_non_exhaustive()
    }
}

/// Decodes what comes with a flight.
fn piece(
    flight: Flight,
    lengths: Lengths,
    mut message: Message,
    max_metadata_bytes: usize,
) -> Result<Piece, PieceError> {
    let (head, tail) = (lengths.head as usize, lengths.tail as usize);
    if head.max(tail) > max_metadata_bytes {
        return Err(PieceError::TooLong {
            size: head.max(tail),
            limit: max_metadata_bytes,
        });
    }
    let mut section = |len: usize, here: bool| {
        let bytes = message.copy_to_bytes(len);
        if !here {
            return Ok(None);
        }
        let mut headers = metadata::decode_headers(bytes)?;
        status::sanitize_details(&mut headers);
        Ok::<_, MetadataError>(Some(headers))
    };
    let head = section(head, flight.start)?;
    let tail = section(tail, flight.trailers)?;
    Ok(Piece {
        flight,
        head,
        tail,
        body: message,
    })
}

/// Takes the header off a frame; what is left are the sections.
pub(crate) fn take_header(
    message: &mut Message,
    sender: Sender,
) -> Result<(Frame, Lengths), FrameError> {
    let len = message.len();
    let header = message.copy_to_bytes(len.min(HEADER_LEN));
    let (frame, lengths) = Frame::parse(&header, len, sender)?;
    message.advance(usize::from(lengths.header) - HEADER_LEN);
    Ok((frame, lengths))
}

/// Hands a reply over. That it cannot be sent concerns the other side, which will notice by itself.
pub(crate) fn reply(responder: Responder, message: Message) {
    let peer = responder.peer();
    match responder.reply(message) {
        Ok(()) => {}
        Err(ReplyError::Busy {
            responder, reply, ..
        }) => reply_when_there_is_room(*responder, reply),
        Err(error) => tracing::debug!(%peer, %error, "a reply could not be sent"),
    }
}

/// What is being sent takes all the memory that it may: tries again, for as long as the other side
/// waits without a sign of life.
fn reply_when_there_is_room(mut responder: Responder, mut message: Message) {
    let Ok(runtime) = Handle::try_current() else {
        return;
    };
    runtime.spawn(async move {
        let peer = responder.peer();
        let began = Instant::now();
        while began.elapsed() < LAST_WORDS {
            tokio::time::sleep(BUSY_PAUSE).await;
            match responder.reply(message) {
                Ok(()) => return,
                Err(ReplyError::Busy {
                    responder: back,
                    reply,
                    ..
                }) => (responder, message) = (*back, reply),
                Err(error) => return tracing::debug!(%peer, %error, "a reply could not be sent"),
            }
        }
        tracing::debug!(%peer, "a reply found no room in time");
    });
}

/// The same for one that nobody waits for. Returns it while it waits for others to leave with.
pub(crate) fn reply_lazily(responder: Responder, message: Message) -> Option<WaitingReply> {
    let peer = responder.peer();
    responder.reply_lazily(message).unwrap_or_else(|error| {
        tracing::debug!(%peer, %error, "a reply could not be sent");
        None
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
