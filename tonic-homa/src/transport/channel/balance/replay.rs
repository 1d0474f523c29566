//! Bodies of requests that may have to be sent again.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::vec;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use tonic::Status;
use tonic::body::Body;

/// Longer bodies are not kept: some are always ready, and have no end.
const MOST: usize = 1 << 20;

/// A body of which what is ready at once is kept, without copying it.
pub(super) struct Replay {
    parts: Vec<Bytes>,
    whole: bool,
    /// How it failed after the parts.
    failed: Option<Status>,
    /// What comes after the parts: the rest, or only word of the caller's change of mind, which
    /// tonic's bodies give even after their end.
    rest: Arc<Mutex<Body>>,
}

impl Replay {
    /// Takes what is ready without waiting.
    pub(super) async fn of(mut body: Body) -> Self {
        let mut parts = Vec::new();
        let taken = poll_fn(|cx| Poll::Ready(take(&mut body, &mut parts, cx))).await;
        Self {
            parts,
            whole: matches!(taken, Taken::Whole),
            failed: match taken {
                Taken::Failed(status) => Some(status),
                _ => None,
            },
            rest: Arc::new(Mutex::new(body)),
        }
    }

    /// Whether [`body`](Self::body) can be called more than once.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// The body for one attempt.
    pub(super) fn body(&self) -> Body {
        Body::new(Attempt {
            parts: self.parts.clone().into_iter(),
            failed: self.failed.clone(),
            rest: self.rest.clone(),
        })
    }
}

enum Taken {
    Whole,
    Part,
    Failed(Status),
}

fn take(body: &mut Body, parts: &mut Vec<Bytes>, cx: &mut Context<'_>) -> Taken {
    let mut len = 0;
    while !body.is_end_stream() {
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(None) => break,
            // Requests have no trailers, which would be lost here.
            Poll::Ready(Some(Ok(frame))) => parts.extend(frame.into_data()),
            Poll::Ready(Some(Err(status))) => return Taken::Failed(status),
            Poll::Pending => return Taken::Part,
        }
        len += parts.last().map_or(0, Bytes::len);
        if len > MOST {
            return Taken::Part;
        }
    }
    Taken::Whole
}

struct Attempt {
    parts: vec::IntoIter<Bytes>,
    failed: Option<Status>,
    rest: Arc<Mutex<Body>>,
}

impl HttpBody for Attempt {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(part) = self.parts.next() {
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        if let Some(status) = self.failed.take() {
            return Poll::Ready(Some(Err(status)));
        }
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        self.parts.as_slice().is_empty() && self.failed.is_none() && rest.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use super::*;

    /// Frames, then a wait or the end.
    struct Script(VecDeque<Result<Bytes, Status>>, bool);

    impl HttpBody for Script {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self.0.pop_front() {
                Some(part) => Poll::Ready(Some(part.map(Frame::data))),
                None if self.1 => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    async fn replay(script: &[Result<&'static str, Status>], goes_on: bool) -> Replay {
        let parts = script.iter().cloned().map(|part| part.map(Bytes::from));
        Replay::of(Body::new(Script(parts.collect(), goes_on))).await
    }

    /// What an attempt has without waiting: its bytes, and how it goes on.
    fn attempt(replay: &Replay) -> (Vec<u8>, Poll<Result<(), Status>>) {
        let mut body = replay.body();
        let mut bytes = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            match Pin::new(&mut body).poll_frame(&mut cx) {
                Poll::Pending => return (bytes, Poll::Pending),
                Poll::Ready(None) => return (bytes, Poll::Ready(Ok(()))),
                Poll::Ready(Some(Err(status))) => return (bytes, Poll::Ready(Err(status))),
                Poll::Ready(Some(Ok(frame))) => bytes.extend(frame.into_data().unwrap()),
            }
        }
    }

    #[tokio::test]
    async fn a_whole_body_can_be_sent_again() {
        let replay = replay(&[Ok("ab"), Ok("cd")], false).await;
        assert!(replay.is_whole());
        for _ in 0..2 {
            let (bytes, end) = attempt(&replay);
            assert!(bytes == b"abcd" && matches!(end, Poll::Ready(Ok(()))));
        }
    }

    #[tokio::test]
    async fn a_stream_is_sent_once() {
        let replay = replay(&[Ok("ab")], true).await;
        assert!(!replay.is_whole());
        let (bytes, end) = attempt(&replay);
        assert!(bytes == b"ab" && end.is_pending());
    }

    #[tokio::test]
    async fn a_failure_is_passed_on() {
        let failed = Status::cancelled("by its caller");
        let replay = replay(&[Ok("ab"), Err(failed)], false).await;
        assert!(!replay.is_whole());
        let (bytes, end) = attempt(&replay);
        assert_eq!(bytes, b"ab");
        assert!(matches!(end, Poll::Ready(Err(status)) if status.message() == "by its caller"));
    }

    #[tokio::test]
    async fn what_is_always_ready_is_not_kept() {
        let part: &str = "x".repeat(MOST).leak();
        let replay = replay(&[Ok(part), Ok("y"), Ok("z")], false).await;
        assert!(!replay.is_whole());
        assert_eq!(attempt(&replay).0.len(), MOST + 2);
    }
}
