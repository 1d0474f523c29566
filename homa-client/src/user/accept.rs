//! [`AcceptQueue`]: requests that wait to be accepted.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use tokio::sync::Notify;

use super::endpoint::lock;
use crate::server::Request;

/// Requests in the order of their arrival.
#[derive(Debug, Default)]
pub(crate) struct AcceptQueue {
    requests: Mutex<VecDeque<Request>>,
    arrived: Notify,
    closed: AtomicBool,
}

impl AcceptQueue {
    /// Turns the request down if nobody accepts any more.
    pub(super) fn push(&self, request: Request) {
        let mut requests = lock(&self.requests);
        if self.closed.load(Ordering::Acquire) {
            drop(requests);
            return request.refuse();
        }
        requests.push_back(request);
        drop(requests);
        self.arrived.notify_one();
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
