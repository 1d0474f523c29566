//! [`Channel`]: the call of one generated client.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use homa_client::Message;

use super::failure::HomaError;
use super::link::{Limit, Link, lock};
use crate::pieces::client::Sent;

/// The RPC under way, shared by the half that sends and the half that receives.
///
/// Each flush begins a new *turn*. What a half has of an earlier turn is of no use any more: a
/// message's end is a point where both sides agree again, whatever went wrong before.
#[derive(Debug)]
pub(crate) struct Channel {
    link: Arc<Link>,
    turn: AtomicU64,
    pending: Mutex<Option<Pending>>,
    /// The last error of a half, for the wrapper above it.
    failure: Mutex<Option<HomaError>>,
}

/// An RPC whose reply nobody has asked for yet.
#[derive(Debug)]
struct Pending {
    sent: Sent,
    limit: Option<Limit>,
}

impl Channel {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self {
            link,
            turn: AtomicU64::new(0),
            pending: Mutex::default(),
            failure: Mutex::default(),
        }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The number of the last flush.
    pub(crate) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }

    /// Sends a request as a new RPC. One that is pending was a oneway message: nobody has asked for
    /// its reply.
    pub(crate) fn send(&self, request: Message) -> Result<(), HomaError> {
        self.detach();
        self.turn.fetch_add(1, Ordering::AcqRel);
        let limit = self.link.limit_from_now();
        let sent = self
            .link
            .send(request, limit)
            .map_err(|error| self.failed(error))?;
        *lock(&self.pending) = Some(Pending { sent, limit });
        Ok(())
    }

    /// Waits for the reply of the pending RPC. Empty: there is none, or it has no message.
    pub(crate) fn receive(&self) -> Result<(u64, Message), HomaError> {
        loop {
            let turn = self.turn();
            // Not while waiting: the other half may be on another thread.
            let pending = lock(&self.pending).take();
            let received = match pending {
                None => Ok(Message::new()),
                Some(Pending { sent, limit }) => self.link.receive(sent, limit),
            };
            if self.turn() == turn {
                let reply = received.map_err(|error| self.failed(error))?;
                return Ok((turn, reply));
            }
        }
    }

    /// Leaves the pending RPC to itself, if there is one.
    pub(crate) fn detach(&self) {
        if let Some(pending) = lock(&self.pending).take() {
            self.link.detach(pending.sent.call);
        }
    }

    /// Keeps an error for the wrapper and the user.
    pub(crate) fn failed(&self, error: HomaError) -> HomaError {
        self.link.note(&error);
        *lock(&self.failure) = Some(error.clone());
        error
    }

    /// The error of a half since the last time.
    pub(crate) fn take_failure(&self) -> Option<HomaError> {
        lock(&self.failure).take()
    }
}

/// A oneway message as the last act has to arrive.
impl Drop for Channel {
    fn drop(&mut self) {
        self.detach();
    }
}
