//! [`AcceptQueue`]: requests that wait to be accepted, or are handed to whoever takes them at once.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::task::Poll;

use tokio::sync::Notify;

use super::endpoint::lock;
use crate::server::{Request, RequestHandler};

/// Requests in the order of their arrival.
#[derive(Default)]
pub(crate) struct AcceptQueue {
    /// Takes all requests, once it is set.
    handler: OnceLock<RequestHandler>,
    /// How many may wait, and who takes those that come when so many do.
    overflow: OnceLock<(usize, RequestHandler)>,
    requests: Mutex<VecDeque<Request>>,
    arrived: Notify,
    closed: AtomicBool,
}

impl AcceptQueue {
    /// Turns the request down if nobody accepts any more.
    pub(super) fn push(&self, request: Request) {
        if let Some(handler) = self.handler.get() {
            return handler(request);
        }
        let mut requests = lock(&self.requests);
        if let Some(handler) = self.handler.get() {
            drop(requests);
            return handler(request);
        }
        if self.closed.load(Ordering::Acquire) {
            drop(requests);
            return request.refuse();
        }
        if let Some((waiting, handler)) = self.overflow.get()
            && requests.len() >= *waiting
        {
            drop(requests);
            return handler(request);
        }
        requests.push_back(request);
        drop(requests);
        self.arrived.notify_one();
    }

    /// Has `handler` take all requests from now on, and those that wait. The first one stays.
    pub(crate) fn hand_to(&self, handler: RequestHandler) {
        let waiting = {
            // With the lock, so that none is queued after those that wait were taken.
            let mut requests = lock(&self.requests);
            if self.handler.set(handler.clone()).is_err() {
                return;
            }
            std::mem::take(&mut *requests)
        };
        waiting.into_iter().for_each(|request| handler(request));
    }

    /// Has `handler` take the requests that come while so many wait. The first one stays.
    pub(crate) fn refuse_beyond(&self, waiting: usize, handler: RequestHandler) {
        let _ = self.overflow.set((waiting, handler));
    }

    /// Whether there is a handler.
    pub(crate) fn is_handed(&self) -> bool {
        self.handler.get().is_some()
    }

    /// Waits until no more requests will come.
    pub(crate) async fn closed(&self) {
        let mut arrived = std::pin::pin!(self.arrived.notified());
        loop {
            arrived.as_mut().enable();
            if self.closed.load(Ordering::Acquire) {
                self.arrived.notify_one();
                return;
            }
            arrived.as_mut().await;
            arrived.set(self.arrived.notified());
        }
    }

    /// No more requests will come: wakes everybody who waits for one.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.arrived.notify_waiters();
        // For one who is about to wait.
        self.arrived.notify_one();
    }

    pub(super) fn take_all(&self) -> VecDeque<Request> {
        std::mem::take(&mut lock(&self.requests))
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.requests).len()
    }

    /// The next request, or `None` when no more will come. Does not wake: for threads that
    /// [wait](super::lead::wait).
    pub(crate) fn poll_pop(&self) -> Poll<Option<Request>> {
        if let Some(request) = lock(&self.requests).pop_front() {
            return Poll::Ready(Some(request));
        }
        if self.closed.load(Ordering::Acquire) {
            return Poll::Ready(None);
        }
        Poll::Pending
    }

    pub(crate) async fn pop(&self) -> Option<Request> {
        loop {
            let (request, more) = {
                let mut requests = lock(&self.requests);
                (requests.pop_front(), !requests.is_empty())
            };
            if let Some(request) = request {
                // One notification may stand for several requests.
                if more {
                    self.arrived.notify_one();
                }
                return Some(request);
            }
            if self.closed.load(Ordering::Acquire) {
                self.arrived.notify_one();
                return None;
            }
            self.arrived.notified().await;
        }
    }
}

impl fmt::Debug for AcceptQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcceptQueue")
            .field("requests", &self.requests)
            .field("handed", &self.is_handed())
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}
