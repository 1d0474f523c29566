//! [`Outlet`]: what the sending end of a body has to respect, and [`Pump`], which sends it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use homa_client::{CallError, Message};
use http::HeaderMap;
use http_body::Body;
use tokio::time::{Sleep, sleep};

use super::Stream;
use super::budget::START_CREDIT;
use crate::frame::{Flight, HEADER_LEN, Lengths};
use crate::transport::body::Outgoing;

/// Pieces of one body in flight, at most; what comes meanwhile gathers.
const MAX_IN_FLIGHT: usize = 8;

/// Body bytes that are taken before a piece is sent, unless less is ready: some bodies are always
/// ready. Those that come in longer parts are sent in longer pieces.
pub(crate) const GATHER: usize = 128 << 10;

/// Pause after the endpoint had no room for a piece.
pub(super) const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// The sending end of one direction of a call, as those know it who receive the answers.
#[derive(Debug)]
pub(crate) struct Outlet {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Body offset up to which was sent.
    sent: u64,
    /// The same before the last piece.
    before: u64,
    /// The last piece has not left.
    held: bool,
    /// Body offset up to which may be sent.
    credit: u64,
    in_flight: usize,
    over: Option<Over>,
    /// Whoever sends, or waits for the last piece to land.
    pump: Option<Waker>,
    /// It waits for the last piece.
    landing: bool,
    /// It waits for the last piece, too, because its answer may bring credit.
    probing: bool,
}

/// Why nothing more is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// The receiver wants no more of it; the call goes on.
    Unwanted,
    /// The call has failed.
    Failed,
}

impl Outlet {
    /// A body of which `sent` bytes are on their way already.
    pub(crate) fn new(sent: u64) -> Self {
        Self {
            state: Mutex::new(State {
                sent,
                before: sent,
                held: false,
                credit: START_CREDIT.max(sent),
                in_flight: 0,
                over: None,
                pump: None,
                landing: false,
                probing: false,
            }),
        }
    }

    /// The receiver lets the sender send up to `credit`. Returns whether that was less than before,
    /// which changes nothing.
    pub(crate) fn raise(&self, credit: u64) -> bool {
        let mut state = self.lock();
        let shrunk = credit < state.credit;
        let wake = credit > state.credit && state.credit == state.sent;
        state.credit = state.credit.max(credit);
        if wake {
            wake_unlocked(state);
        }
        shrunk
    }

    /// Nothing more is to be sent. The first reason stays.
    pub(crate) fn end(&self, over: Over) {
        let mut state = self.lock();
        if state.over.is_none() {
            state.over = Some(over);
            wake_unlocked(state);
        }
    }

    /// Body offset up to which was sent, without a piece that is held back.
    pub(crate) fn sent(&self) -> u64 {
        let state = self.lock();
        if state.held { state.before } else { state.sent }
    }

    /// The last piece is held back, because there is no room for it.
    fn hold(&self, held: bool) {
        self.lock().held = held;
    }

    /// A piece was answered.
    pub(super) fn landed(&self) {
        let mut state = self.lock();
        let full = state.in_flight == MAX_IN_FLIGHT;
        state.in_flight = state.in_flight.saturating_sub(1);
        // Otherwise nobody waits for this.
        let last = state.in_flight == 0;
        if full || (last && (state.landing || std::mem::take(&mut state.probing))) {
            wake_unlocked(state);
        }
    }

    /// Waits until all that was sent is answered.
    pub(crate) fn poll_landed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.in_flight == 0 || matches!(state.over, Some(Over::Failed)) {
            return Poll::Ready(());
        }
        state.landing = true;
        state.wait(cx);
        Poll::Pending
    }

    /// Bytes that may be sent, or `None` if another piece has to land first. Wakes when there is
    /// more.
    pub(super) fn room(&self, cx: &mut Context<'_>) -> Result<Option<u64>, Over> {
        let mut state = self.lock();
        if let Some(over) = state.over {
            return Err(over);
        }
        state.wait(cx);
        Ok((state.in_flight < MAX_IN_FLIGHT).then(|| state.credit - state.sent))
    }

    /// Counts an empty piece that asks for credit, unless the answer to another piece will tell.
    /// Its offset.
    pub(super) fn probe(&self) -> Option<u64> {
        let mut state = self.lock();
        if state.credit > state.sent {
            return None;
        }
        state.probing = true;
        if state.in_flight > 0 {
            return None;
        }
        state.in_flight += 1;
        Some(state.sent)
    }

    pub(super) fn launch(&self, bytes: usize) -> u64 {
        let mut state = self.lock();
        let offset = state.sent;
        state.before = offset;
        state.sent += bytes as u64;
        state.in_flight += 1;
        offset
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&mut self, cx: &mut Context<'_>) {
        match &mut self.pump {
            Some(pump) => pump.clone_from(cx.waker()),
            None => self.pump = Some(cx.waker().clone()),
        }
    }
}

/// Wakes whoever sends. That may run other people's code, so not under the lock.
fn wake_unlocked(mut state: MutexGuard<'_, State>) {
    let pump = state.pump.take();
    drop(state);
    if let Some(pump) = pump {
        pump.wake();
    }
}

/// Sends a body as its receiver allows.
pub(crate) struct Pump<B> {
    pub(crate) outgoing: Outgoing<B>,
    /// Initial metadata. Pieces without body repeat it: an end that overtakes the first one would
    /// look like a response that is nothing but trailers.
    head: Option<Vec<u8>>,
    /// A piece has carried it.
    head_told: bool,
    /// Longest Homa message.
    pub(crate) max_message_bytes: usize,
    /// A piece for which the endpoint had no room.
    stuck: Option<(Message, Pin<Box<Sleep>>)>,
}

/// How a body came to its end.
pub(crate) enum Pumped<E> {
    /// It was sent to its end. Trailers were not: see [`Pump::trailers`].
    Ended,
    /// Nothing more is to be sent.
    Over(Over),
    /// The body itself has failed.
    Failed(E),
}

impl<B: Body<Data = Bytes> + Unpin> Pump<B> {
    pub(crate) fn new(
        outgoing: Outgoing<B>,
        head: Option<Vec<u8>>,
        max_message_bytes: usize,
    ) -> Self {
        Self {
            outgoing,
            head_told: head.is_none(),
            head,
            max_message_bytes,
            stuck: None,
        }
    }

    /// Sends what may be sent. `encode_trailers` makes the last metadata of a body that has ended,
    /// on servers.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &Arc<Stream>,
        encode_trailers: &mut dyn FnMut(Option<&HeaderMap>) -> Option<Vec<u8>>,
    ) -> Poll<Pumped<B::Error>> {
        loop {
            if let Some((message, pause)) = &mut self.stuck {
                if pause.as_mut().poll(cx).is_pending() {
                    return match stream.outlet.room(cx) {
                        Err(over) => Poll::Ready(Pumped::Over(over)),
                        Ok(_) => Poll::Pending,
                    };
                }
                let message = std::mem::take(message);
                self.stuck = None;
                if let Err(over) = self.launch(stream, message) {
                    return Poll::Ready(Pumped::Over(over));
                }
                if self.outgoing.is_done() {
                    return Poll::Ready(Pumped::Ended);
                }
                continue;
            }
            let room = match stream.outlet.room(cx) {
                Err(over) => return Poll::Ready(Pumped::Over(over)),
                Ok(None) => return Poll::Pending,
                Ok(Some(room)) => usize::try_from(room).unwrap_or(usize::MAX),
            };
            // One that may not send takes no more than it needs to know whether there is more.
            if let Err(error) = self.outgoing.poll_fill(cx, room.clamp(1, GATHER)) {
                return Poll::Ready(Pumped::Failed(error));
            }
            let ready = self.outgoing.ready.len();
            let last = self.outgoing.has_ended();
            let overhead = HEADER_LEN + self.head.as_ref().map_or(0, Vec::len);
            let fits = room.min(self.max_message_bytes.saturating_sub(overhead));
            let sendable = ready.min(fits);
            if sendable == 0 && self.head_told && !(last && ready == 0) {
                if ready > 0 {
                    // It waits for credit.
                    stream.ask_for_credit();
                }
                return Poll::Pending;
            }
            let mut end = last && sendable == ready;
            let mut tail = Vec::new();
            let mut trailers = false;
            if end && let Some(encoded) = encode_trailers(self.outgoing.trailers.as_ref()) {
                if overhead + encoded.len() + sendable > self.max_message_bytes {
                    // They come by themselves.
                    end = false;
                    if self.head_told && self.head.take().is_some() {
                        continue;
                    }
                } else {
                    tail = encoded;
                    trailers = true;
                }
            }
            let head = if sendable > 0 {
                self.head.take()
            } else {
                self.head.clone()
            };
            self.head_told = true;
            let flight = Flight {
                start: head.is_some(),
                end,
                trailers,
                total: None,
                offset: stream.outlet.launch(sendable),
            };
            let body = self.outgoing.ready.split_to(sendable);
            let sections = (head.unwrap_or_default(), tail);
            let message = stream.data(flight, sections, body);
            if end {
                self.outgoing.set_done();
            }
            if let Err(over) = self.launch(stream, message) {
                return Poll::Ready(Pumped::Over(over));
            }
            if end && self.stuck.is_none() {
                return Poll::Ready(Pumped::Ended);
            }
        }
    }

    fn launch(&mut self, stream: &Arc<Stream>, message: Message) -> Result<(), Over> {
        match stream.launch(message) {
            Ok(()) => {
                stream.outlet.hold(false);
                Ok(())
            }
            Err(CallError::Busy { message, .. }) => {
                stream.outlet.hold(true);
                self.stuck = Some((message, Box::pin(sleep(BUSY_PAUSE))));
                Ok(())
            }
            Err(error) => {
                stream.lose(error);
                Err(Over::Failed)
            }
        }
    }
}

/// Shorter bodies are copied behind their metadata: a packet with a part of each would be a copy of
/// both anyway, and a message of one part needs fewer allocations.
const WORTH_SHARING: usize = 4096;

/// Space for the header of a frame, and room for `metadata` bytes and for `body`, if
/// [`joined`] copies that.
pub(crate) fn begin_frame(metadata: usize, body: &Message) -> Vec<u8> {
    let copied = Some(body.len()).filter(|len| *len < WORTH_SHARING);
    let mut out = Vec::with_capacity(HEADER_LEN + metadata + copied.unwrap_or(0));
    out.extend_from_slice(&[0; HEADER_LEN]);
    out
}

/// Header and metadata, then the body.
pub(crate) fn joined(mut out: Vec<u8>, body: &Message) -> Message {
    if body.len() < WORTH_SHARING {
        body.parts().for_each(|part| out.extend_from_slice(part));
        return Message::from(out);
    }
    let mut message = Message::from(out);
    body.parts().for_each(|part| message.push(part.clone()));
    message
}

/// Header and metadata of a frame in one allocation, the header to be filled in. `body` will be
/// [`joined`] to them.
pub(crate) fn sections(head: &[u8], tail: &[u8], body: &Message) -> (Vec<u8>, Lengths) {
    let mut out = begin_frame(head.len() + tail.len(), body);
    out.extend_from_slice(head);
    out.extend_from_slice(tail);
    let lengths = Lengths {
        head: head.len() as u32,
        tail: tail.len() as u32,
        ..Lengths::default()
    };
    (out, lengths)
}
