//! [`ResponseBody`]: what follows of a response that is a stream, and [`OpenCall`], which has the
//! server know when nobody wants it any more.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use homa_client::{Client, Message};
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

use super::call::{Deadline, Route};
use super::peer::Peer;
use crate::frame::{self, CancelReason, Kind, Lengths};
use crate::status;
use crate::transport::stream::pull::Puller;
use crate::transport::stream::{Over, Stream};

/// A call that is open at the server. Dropping it cancels the call, unless it is over.
pub(super) struct OpenCall {
    client: Client,
    peer: Arc<Peer>,
    call: u64,
    deadline: Option<Instant>,
    pushed: bool,
    armed: bool,
    /// Whether pieces of the response find the call.
    listed: bool,
    /// Ends with the call, and what is sent of it.
    stream: Option<Arc<Stream>>,
}

impl OpenCall {
    pub(super) fn new(route: &Route, call: u64, deadline: Option<Deadline>) -> Self {
        Self {
            client: route.client.clone(),
            peer: route.peer.clone(),
            call,
            deadline: deadline.map(|deadline| deadline.at),
            pushed: route.is_pushed(),
            armed: true,
            listed: false,
            stream: None,
        }
    }

    pub(super) fn call(&self) -> u64 {
        self.call
    }

    /// The response may be a stream of which pieces come before its beginning.
    pub(super) fn expect(&mut self) {
        if self.pushed {
            self.peer.expect(self.call);
            self.listed = true;
        }
    }

    /// Pieces of the response go to `stream`.
    pub(super) fn attach(&mut self, stream: &Arc<Stream>) {
        self.peer.attach(stream, &self.client);
        self.listed = true;
        self.stream = Some(stream.clone());
    }

    /// The call is over, or cannot be cancelled.
    pub(super) fn disarm(&mut self) {
        self.armed = false;
        if std::mem::take(&mut self.listed) {
            self.peer.forget(self.call);
        }
    }

    /// Cancels the call from elsewhere.
    pub(super) fn canceller(&self) -> impl FnOnce() + Send + 'static {
        let (client, peer, call) = (self.client.clone(), self.peer.clone(), self.call);
        move || cancel(&client, &peer, call, CancelReason::Cancelled)
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if self.listed {
            self.peer.forget(self.call);
        }
        if let Some(stream) = &self.stream {
            stream.fail(Status::cancelled("the caller has dropped the call"));
        }
        if !self.armed {
            return;
        }
        let late = self.deadline.is_some_and(|at| Instant::now() >= at);
        let reason = if late {
            CancelReason::DeadlineExceeded
        } else {
            CancelReason::Cancelled
        };
        cancel(&self.client, &self.peer, self.call, reason);
    }
}

/// Tells the server that nobody waits for the response any more.
fn cancel(client: &Client, peer: &Peer, call: u64, reason: CancelReason) {
    peer.counting.cancelled.count();
    let frame = frame::Frame {
        epoch: peer.epoch,
        call,
        going_away: false,
        kind: Kind::Cancel { reason },
    };
    let message = Message::from(frame.emit(Lengths::default()).to_vec());
    // Best effort: a server that does not hear of it finishes the handler for nothing.
    if let Err(error) = client.call_detached(peer.addr, message) {
        tracing::debug!(%error, "a CANCEL could not be sent");
    }
}

/// The body of a response that goes on after its headers. Dropping it cancels the call.
pub(super) struct ResponseBody {
    stream: Arc<Stream>,
    open: OpenCall,
    /// Asks for the pieces, where the server cannot push them.
    puller: Option<Puller>,
    max_message_bytes: usize,
    deadline: Option<(Pin<Box<Sleep>>, Deadline)>,
}

impl ResponseBody {
    pub(super) fn new(
        stream: Arc<Stream>,
        open: OpenCall,
        puller: Option<Puller>,
        max_message_bytes: usize,
        deadline: Option<Deadline>,
    ) -> Self {
        let deadline = deadline.map(|deadline| (Box::pin(sleep_until(deadline.at)), deadline));
        Self {
            stream,
            open,
            puller,
            max_message_bytes,
            deadline,
        }
    }

    /// The server has said its last word.
    fn end(&mut self) {
        self.open.disarm();
        self.stream.outlet.end(Over::Unwanted);
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self {
            stream,
            open,
            puller,
            max_message_bytes,
            deadline,
        } = &mut *self;
        if let Some((sleep, limit)) = deadline
            && sleep.as_mut().poll(cx).is_ready()
        {
            stream.fail(status::deadline_exceeded(limit.timeout));
            *deadline = None;
        }
        if let Some(puller) = puller {
            puller.poll(
                cx,
                stream,
                (&open.client, open.peer.addr),
                *max_message_bytes,
            );
        }
        let polled = stream.poll_frame(cx);
        match &polled {
            Poll::Ready(None) => self.end(),
            Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => self.end(),
            // The server may be there all the same, and is told when this is dropped.
            Poll::Ready(Some(Ok(_) | Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.stream.inlet.is_finished()
    }
}
