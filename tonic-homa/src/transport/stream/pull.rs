//! Pulling: the response of a call whose client takes no requests.
//!
//! The client asks for a piece at a time, or for several when it knows the body's length; the server
//! keeps the question until it has something to say, though not for longer than [`PATIENCE`].

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use homa_client::{Call, CallError, Client, Message, Responder};
use http::HeaderMap;
use http_body::Body;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tonic::Status;

use super::outlet::{GATHER, Pumped, joined, sections};
use super::{Stream, take_header};
use crate::frame::{Flight, Frame, HEADER_LEN, Kind, Lengths, Sender};
use crate::status::{self, ResetError};
use crate::transport::body::Outgoing;

/// A question is answered after this time, even if there is nothing to say.
const PATIENCE: Duration = Duration::from_millis(50);

/// Questions of one call that wait, at most.
const MAX_WAITING: usize = 16;

/// Questions that a client asks at a time about a body whose length it knows.
const MAX_ASKED: usize = 4;

/// Questions of a client that wait to be answered.
#[derive(Debug, Default)]
pub(crate) struct Pulls {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Pull>,
    answerer: Option<Waker>,
}

#[derive(Debug)]
struct Pull {
    from: u64,
    most: u64,
    until: Instant,
    responder: Responder,
}

impl Pulls {
    /// Takes a question, or gives the responder back if too many wait.
    pub(crate) fn ask(&self, from: u64, most: u64, responder: Responder) -> Result<(), Responder> {
        let mut state = self.lock();
        if state.waiting.len() >= MAX_WAITING {
            return Err(responder);
        }
        state.waiting.push_back(Pull {
            from,
            most,
            until: Instant::now() + PATIENCE,
            responder,
        });
        if let Some(answerer) = state.answerer.take() {
            drop(state);
            answerer.wake();
        }
        Ok(())
    }

    fn take(&self) -> Option<Pull> {
        self.lock().waiting.pop_front()
    }

    /// What the oldest question is about, and until when it waits. It stays until there is an
    /// answer: what fails meanwhile answers it, too.
    fn oldest(&self) -> Option<(u64, Instant)> {
        let state = self.lock();
        state.waiting.front().map(|pull| (pull.from, pull.until))
    }

    fn wait(&self, cx: &Context<'_>) {
        self.lock().answerer = Some(cx.waker().clone());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers the questions about a body.
pub(crate) struct Answerer<B> {
    pub(crate) outgoing: Outgoing<B>,
    /// Initial metadata, for the answer at offset 0. Responses that are nothing but trailers have
    /// none.
    head: Option<Vec<u8>>,
    /// It was told. Answers at offset 0 repeat it, in case that one was lost, but do not leave for it.
    head_told: bool,
    max_message_bytes: usize,
    /// Body offset of what is kept. All before it has arrived.
    base: u64,
    /// The last metadata, once the body has ended.
    tail: Option<Vec<u8>>,
    patience: Option<Pin<Box<Sleep>>>,
}

impl<B: Body<Data = Bytes> + Unpin> Answerer<B> {
    /// The client has the first `base` bytes, and with them the `head`.
    pub(crate) fn new(
        outgoing: Outgoing<B>,
        head: Option<Vec<u8>>,
        base: u64,
        max_message_bytes: usize,
    ) -> Self {
        Self {
            outgoing,
            head,
            head_told: false,
            max_message_bytes,
            base,
            tail: None,
            patience: None,
        }
    }

    /// Answers until the end was told. `encode_trailers` makes the last metadata of a body that has
    /// ended.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &Stream,
        pulls: &Pulls,
        encode_trailers: &mut dyn FnMut(Option<&HeaderMap>) -> Option<Vec<u8>>,
    ) -> Poll<Pumped<B::Error>> {
        loop {
            if let Err(over) = stream.outlet.room(cx) {
                return Poll::Ready(Pumped::Over(over));
            }
            pulls.wait(cx);
            let Some((from, until)) = pulls.oldest() else {
                return Poll::Pending;
            };
            if from < self.base {
                if let Some(pull) = pulls.take() {
                    let text = "what was asked for has arrived before";
                    stream.refuse(pull.responder, text);
                }
                continue;
            }
            let skipped = usize::try_from(from - self.base).unwrap_or(usize::MAX);
            // What is before it would have to be taken, however much that is.
            if skipped > self.outgoing.ready.len() {
                if let Some(pull) = pulls.take() {
                    let text = "asked for what is past the bytes that come next";
                    stream.refuse(pull.responder, text);
                }
                continue;
            }
            if let Err(error) = self.outgoing.poll_fill(cx, skipped.saturating_add(GATHER)) {
                return Poll::Ready(Pumped::Failed(error));
            }
            if self.tail.is_none() && self.outgoing.has_ended() {
                self.tail = encode_trailers(self.outgoing.trailers.as_ref());
            }
            let available = self.outgoing.ready.len().saturating_sub(skipped);
            let start = from == 0 && self.head.is_some() && !self.head_told;
            let nothing = available == 0 && !start && self.tail.is_none();
            if nothing && Instant::now() < until {
                let mut patience = Box::pin(sleep_until(until));
                if patience.as_mut().poll(cx).is_pending() {
                    self.patience = Some(patience);
                    return Poll::Pending;
                }
                continue;
            }
            if let Some(pull) = pulls.take()
                && self.answer(stream, pull, skipped, available)
            {
                return Poll::Ready(Pumped::Ended);
            }
        }
    }

    /// Whether that was the end.
    fn answer(&mut self, stream: &Stream, pull: Pull, skipped: usize, available: usize) -> bool {
        let Pull {
            from,
            most,
            responder,
            ..
        } = pull;
        let whole = self
            .tail
            .is_some()
            .then(|| self.base + self.outgoing.ready.len() as u64);
        let tail_len = self.tail.as_ref().map_or(0, Vec::len);
        // One that was told is repeated only where there is room for it.
        let fits = |head: &&[u8]| {
            !self.head_told || HEADER_LEN + head.len() + tail_len <= self.max_message_bytes
        };
        let head = self.head.as_deref().filter(|_| from == 0).filter(fits);
        let start = head.is_some();
        self.head_told |= start;
        let head = head.unwrap_or_default();
        let tail = self.tail.as_deref().unwrap_or_default();
        let overhead = HEADER_LEN + head.len();
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let fits = self.max_message_bytes.saturating_sub(overhead);
        let len = available.min(most).min(fits);
        let end = whole == Some(from + len as u64) && len + tail.len() <= fits;
        let flight = Flight {
            start,
            end,
            trailers: end,
            total: whole,
            offset: from,
        };
        // What is sent stays until the next question tells that it has arrived.
        let mut rest = self.outgoing.ready.clone();
        drop(rest.split_to(skipped));
        let body = rest.split_to(len);
        let (mut out, lengths) = sections(head, if end { tail } else { &[] }, &body);
        let kind = Kind::Reply {
            flight,
            server_epoch: None,
        };
        out[..HEADER_LEN].copy_from_slice(&stream.frame(kind).emit(lengths));
        super::reply(responder, joined(out, &body));
        if whole.is_none() {
            // Pieces of a body of unknown length are asked for in their order.
            drop(self.outgoing.ready.split_to(skipped));
            self.base = from;
        }
        end
    }
}

impl Pulls {
    /// Answers the next question, or those that wait, with what there is to say instead of a body.
    pub(crate) async fn last_words(&self, stream: &Stream, tail: &[u8]) {
        let asked = poll_fn(|cx| {
            self.wait(cx);
            if self.end_with(stream, tail) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        // Clients ask again at once. One that does not is gone.
        let _ = timeout(super::LAST_WORDS, asked).await;
    }

    /// Answers those that wait. Returns whether there were any.
    pub(crate) fn end_with(&self, stream: &Stream, tail: &[u8]) -> bool {
        let mut any = false;
        while let Some(pull) = self.take() {
            any = true;
            let flight = Flight {
                start: false,
                end: true,
                trailers: true,
                total: None,
                offset: pull.from,
            };
            let (mut out, lengths) = sections(&[], tail, &Message::new());
            let kind = Kind::Reply {
                flight,
                server_epoch: Some(0),
            };
            out[..HEADER_LEN].copy_from_slice(&stream.frame(kind).emit(lengths));
            super::reply(pull.responder, out.into());
        }
        any
    }
}

/// Asks for the pieces of a response.
#[derive(Debug, Default)]
pub(crate) struct Puller {
    asked: Vec<Question>,
    /// Body offset up to which was asked.
    next: u64,
}

#[derive(Debug)]
struct Question {
    from: u64,
    most: u64,
    answer: Call,
}

impl Puller {
    /// For a response whose first `next` bytes are there.
    pub(crate) fn new(next: u64) -> Self {
        Self {
            asked: Vec::new(),
            next,
        }
    }

    /// Asks as far as there is room, and takes what is answered. A failure ends the stream.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &Arc<Stream>,
        to: (&Client, SocketAddr),
        max_message_bytes: usize,
    ) {
        loop {
            self.ask(stream, to, max_message_bytes);
            let mut answered = false;
            let mut at = 0;
            while let Some(question) = self.asked.get_mut(at) {
                let Poll::Ready(outcome) = pin!(&mut question.answer).poll(cx) else {
                    at += 1;
                    continue;
                };
                let Question { from, most, .. } = self.asked.swap_remove(at);
                answered = true;
                match answer(stream, outcome, from) {
                    Err(status) => return stream.fail(status),
                    // Shorter than asked for: the rest is asked for again.
                    Ok(len) if len < most => self.next = self.next.min(from + len),
                    Ok(_) => {}
                }
            }
            if !answered {
                return;
            }
        }
    }

    fn ask(&mut self, stream: &Arc<Stream>, (client, addr): (&Client, SocketAddr), piece: usize) {
        while !stream.inlet.is_complete() && !stream.inlet.is_finished() {
            let (arrived, total) = stream.inlet.progress();
            let most_asked = if total.is_some() { MAX_ASKED } else { 1 };
            if self.asked.len() >= most_asked {
                return;
            }
            if self.asked.is_empty() {
                self.next = self.next.max(arrived);
            }
            let end = total.map_or(u64::MAX, |total| total.max(1));
            let room = stream.inlet.credit().min(end).saturating_sub(self.next);
            let most = room.min((piece - HEADER_LEN) as u64);
            // Trailers need no room.
            if most == 0 && !(self.asked.is_empty() && total == Some(self.next)) {
                return;
            }
            // A server that has told the end forgets the call: it has to have told the rest before.
            if self.next + most >= end && !self.asked.is_empty() {
                return;
            }
            let kind = Kind::Pull {
                from: self.next,
                most,
            };
            let frame = stream.frame(kind).emit(Lengths::default());
            let answer = client.call(addr, Message::from(frame.to_vec()));
            self.asked.push(Question {
                from: self.next,
                most,
                answer,
            });
            self.next += most;
        }
    }
}

/// Body bytes that an answer has brought.
fn answer(stream: &Stream, outcome: Result<Message, CallError>, from: u64) -> Result<u64, Status> {
    let mut message = outcome.map_err(status::lost)?;
    let (frame, lengths) = take_header(&mut message, Sender::ServerResponse)
        .map_err(|error| status::malformed("the server's answer is malformed", error))?;
    match frame {
        Frame {
            kind: Kind::Reply { flight, .. },
            epoch,
            call,
            ..
        } if (epoch, call, flight.offset) == (stream.epoch, stream.call, from) => {
            stream
                .take(flight, lengths, message)
                .map_err(|error| status::malformed("the server's answer is malformed", error))?;
            Ok(lengths.body as u64)
        }
        Frame {
            kind: Kind::Reset { reason },
            ..
        } => {
            let text = String::from_utf8_lossy(&message.into_bytes()).into_owned();
            Err(ResetError { reason, text }.into_status())
        }
        other => Err(Status::internal(format!(
            "the server answered a question for a piece with {:?}",
            other.kind
        ))),
    }
}
