//! [`Link`]: the way to one server.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Buf;
use homa_client::blocking::{Call, Client};
use homa_client::{CallError, Message};

use super::detached::{Detached, MAX_DETACHED, Undelivered};
use super::failure::HomaError;
use crate::control::{self, Received};
use crate::pieces::client::{Form, Pieces, Sent, refused};
use crate::pieces::transfers::Transfers;
use crate::pieces::wire::{self, Answer};

/// What all clones of a transport share.
#[derive(Debug)]
pub(crate) struct Link {
    client: Client,
    peer: SocketAddr,
    /// Longest request and reply.
    limit: usize,
    /// How those over one Homa message go, if they do.
    pieces: Option<Pieces>,
    timeout: Mutex<Option<Duration>>,
    counters: Counters,
    detached: Detached,
    last_error: Mutex<Option<HomaError>>,
    /// Whether to look at the first bytes of requests, see [`Link::look_at`].
    suspicious: AtomicBool,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    replies: AtomicU64,
    oneways: AtomicU64,
    failures: AtomicU64,
    timeouts: AtomicU64,
    request_bytes: AtomicU64,
    reply_bytes: AtomicU64,
}

/// What a transport and its clones have done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportStats {
    /// Requests that were sent.
    pub requests: u64,
    /// Replies that were received, also those without a message.
    pub replies: u64,
    /// Requests, of the ones above, whose reply nobody waited for.
    pub oneways: u64,
    /// Those of them that the server is known to have accepted.
    pub oneways_accepted: u64,
    /// Those that it refused, or that could not be delivered.
    pub oneways_failed: u64,
    /// Those that are still under way.
    pub oneways_waiting: usize,
    /// Calls that failed in the transport, those that timed out too. Exceptions are replies.
    pub failures: u64,
    /// Calls whose reply did not come in time.
    pub timeouts: u64,
    /// Requests, of the ones above, that went in pieces.
    pub requests_in_pieces: u64,
    /// Replies, of the ones above, that came in pieces.
    pub replies_in_pieces: u64,
    /// Bytes of all requests that were sent.
    pub request_bytes: u64,
    /// Bytes of all replies that were received.
    pub reply_bytes: u64,
}

/// When a call ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    timeout: Duration,
    /// `None`: a time that the clock does not reach.
    pub(crate) deadline: Option<Instant>,
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

impl Link {
    pub(crate) fn new(
        client: Client,
        peer: SocketAddr,
        (limit, pieces): (usize, Option<Pieces>),
        timeout: Option<Duration>,
        is_suspicious: bool,
    ) -> Self {
        Self {
            client,
            peer,
            limit,
            pieces,
            timeout: Mutex::new(timeout),
            counters: Counters::default(),
            detached: Detached::default(),
            last_error: Mutex::default(),
            suspicious: AtomicBool::new(is_suspicious && cfg!(debug_assertions)),
        }
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Longest request.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        *lock(&self.timeout)
    }

    pub(crate) fn set_timeout(&self, timeout: Option<Duration>) {
        *lock(&self.timeout) = timeout;
    }

    pub(crate) fn last_error(&self) -> Option<HomaError> {
        lock(&self.last_error).clone()
    }

    pub(crate) fn stats(&self) -> TransportStats {
        let counters = &self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (waiting, ended) = self.detached.ended();
        let of_pieces = |counter: fn(&Pieces) -> &AtomicU64| {
            self.pieces
                .as_ref()
                .map_or(0, |pieces| read(counter(pieces)))
        };
        TransportStats {
            requests: read(&counters.requests),
            replies: read(&counters.replies),
            oneways: read(&counters.oneways),
            oneways_accepted: ended.accepted,
            oneways_failed: ended.failed,
            oneways_waiting: waiting,
            failures: read(&counters.failures),
            timeouts: read(&counters.timeouts),
            requests_in_pieces: of_pieces(|pieces| &pieces.requests),
            replies_in_pieces: of_pieces(|pieces| &pieces.replies),
            request_bytes: read(&counters.request_bytes),
            reply_bytes: read(&counters.reply_bytes),
        }
    }

    /// The end of a call that begins now.
    pub(crate) fn limit_from_now(&self) -> Option<Limit> {
        self.timeout().map(|timeout| Limit {
            timeout,
            deadline: Instant::now().checked_add(timeout),
        })
    }

    /// Sends a request.
    pub(crate) fn send(&self, request: Message, limit: Option<Limit>) -> Result<Sent, HomaError> {
        self.look_at(&request);
        let size = request.len();
        let sent = match &self.pieces {
            Some(pieces) => pieces.send(self, request, limit)?,
            None => Sent {
                call: self.start(request, limit)?,
                form: Form::Bare,
            },
        };
        add(&self.counters.requests, 1);
        add(&self.counters.request_bytes, size);
        Ok(sent)
    }

    /// Starts an RPC.
    pub(crate) fn start(&self, request: Message, limit: Option<Limit>) -> Result<Call, HomaError> {
        let deadline = limit.and_then(|limit| limit.deadline);
        if !self.detached.make_room(deadline) {
            return Err(HomaError::TooManyOneways {
                peer: self.peer,
                waiting: MAX_DETACHED,
            });
        }
        let mut request = request;
        loop {
            match self.client.start(self.peer, request) {
                Ok(call) => return Ok(call),
                // What it is full of may be oneway messages of ours.
                Err(CallError::Busy {
                    what,
                    limit,
                    message,
                }) => {
                    if !self.detached.wait_for_one(deadline) {
                        return Err(CallError::Busy {
                            what,
                            limit,
                            message,
                        }
                        .into());
                    }
                    request = message;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Starts an RPC that nobody waits for. Its failure goes unnoticed.
    pub(crate) fn start_detached(&self, request: Message) {
        let _ = self.client.call_detached(self.peer, request);
    }

    /// Waits for the response of an RPC.
    pub(crate) fn wait(&self, call: Call, limit: Option<Limit>) -> Result<Message, HomaError> {
        match call.wait(limit.and_then(|limit| limit.deadline)) {
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err(HomaError::TimedOut {
                peer: self.peer,
                timeout: limit.map(|limit| limit.timeout).unwrap_or_default(),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the reply of a call; empty if it has none.
    pub(crate) fn receive(&self, sent: Sent, limit: Option<Limit>) -> Result<Message, HomaError> {
        let mut reply = self.wait(sent.call, limit)?;
        if let Some(pieces) = &self.pieces {
            reply = match pieces.receive(self, sent.form, reply, limit)? {
                Ok(reply) => reply,
                Err(request) => self.wait(self.start(request, limit)?, limit)?,
            };
        }
        add(&self.counters.replies, 1);
        add(&self.counters.reply_bytes, reply.len());
        if reply
            .chunk()
            .first()
            .is_some_and(|first| control::is(*first))
        {
            return match refusal(&reply) {
                None => Ok(Message::new()),
                Some(error) => Err(error),
            };
        }
        if reply.len() > self.limit {
            return Err(HomaError::ReplyTooLong {
                size: reply.len(),
                limit: self.limit,
            });
        }
        Ok(reply)
    }

    /// Keeps a call that nobody waits for.
    pub(crate) fn detach(&self, call: Call) {
        add(&self.counters.oneways, 1);
        self.detached.keep(call);
    }

    /// Waits until oneway messages are delivered.
    pub(crate) fn close(&self, within: Duration) -> Result<(), Undelivered> {
        let now = Instant::now();
        let waiting = self
            .detached
            .wait_for_all(now.checked_add(within).unwrap_or(now));
        let (_, ended) = self.detached.ended();
        if waiting == 0 && ended.failed == 0 {
            return Ok(());
        }
        Err(Undelivered {
            waiting,
            failed: ended.failed,
            last: ended.last,
        })
    }

    /// A call has failed.
    pub(crate) fn note(&self, error: &HomaError) {
        add(&self.counters.failures, 1);
        if matches!(error, HomaError::TimedOut { .. }) {
            add(&self.counters.timeouts, 1);
        }
        *lock(&self.last_error) = Some(error.clone());
    }

    /// Messages of no known protocol are, more often than not, pieces of longer ones that a buffered
    /// transport has cut. Says so once.
    fn look_at(&self, request: &Message) {
        if !self.suspicious.load(Ordering::Relaxed) {
            return;
        }
        let first = request.chunk().first().copied().unwrap_or_default();
        let is_known = matches!(first, 0x80 | 0x82 | 0x00 | 0x5B);
        if !is_known && self.suspicious.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                peer = %self.peer,
                first,
                "a request begins as no Thrift message does: is there a buffered transport over \
                 HomaTransport? It cuts messages longer than its buffer; leave it out"
            );
        }
    }
}

/// The error that a control reply stands for, if it does.
pub(crate) fn refusal(reply: &Message) -> Option<HomaError> {
    let first = *reply.chunk().first()?;
    if !control::is(first) {
        return None;
    }
    if first == wire::MARK {
        return match Answer::read(reply.clone()) {
            Some(Answer::Wrapped(reply)) if !Transfers::is_for(&reply) => refusal(&reply),
            Some(Answer::Refused(refusal)) => Some(refused(refusal)),
            // A call whose reply nobody fetches.
            Some(Answer::Long(_)) => None,
            _ => Some(HomaError::UnknownControl { kind: first }),
        };
    }
    // Control replies are short: one part, as a rule.
    match control::classify(&reply.clone().into_bytes()) {
        Received::Message | Received::Nothing => None,
        Received::NotUnderstood(text) => Some(HomaError::NotUnderstood { text }),
        Received::NotAccepted(text) => Some(HomaError::NotAccepted { text }),
        Received::Unknown(kind) => Some(HomaError::UnknownControl { kind }),
    }
}

/// Nothing can panic while these are held half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
