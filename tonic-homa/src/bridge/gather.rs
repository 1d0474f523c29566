//! Bodies that came over HTTP/2, where headers, message and end arrive one after the other.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;

/// How long the end of a body may take for the call to count as one without a stream. It comes
/// from a task next door, right after what went before.
const WAIT: Duration = Duration::from_millis(2);
/// More than fits into one message of Homa need not be waited for.
const ENOUGH: usize = 1_000_000;

/// Waits a moment for the whole body: over Homa a call whose bodies are there at once is one
/// message each way, and a stream is several. What has not come by then follows.
pub(super) async fn gather<B>(mut body: B) -> Body
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<tonic::codegen::StdError> + Send,
{
    let deadline = Instant::now() + WAIT;
    let mut first = VecDeque::new();
    let mut len = 0;
    let mut ended = body.is_end_stream();
    while !ended && len < ENOUGH {
        let next = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let Ok(next) = timeout_at(deadline, next).await else {
            break;
        };
        ended = match &next {
            None | Some(Err(_)) => true,
            Some(Ok(frame)) => {
                len += frame.data_ref().map_or(0, Bytes::len);
                frame.is_trailers() || body.is_end_stream()
            }
        };
        first.extend(next);
    }
    Body::new(Gathered {
        first,
        rest: (!ended).then_some(body),
    })
}

struct Gathered<B: HttpBody> {
    first: VecDeque<Result<Frame<Bytes>, B::Error>>,
    rest: Option<B>,
}

// Nothing in it is ever pinned but `rest`, which can be moved itself.
impl<B: HttpBody + Unpin> Unpin for Gathered<B> {}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Gathered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(frame) = self.first.pop_front() {
            return Poll::Ready(Some(frame));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.rest {
            Some(_) => SizeHint::default(),
            None => {
                let data = self.first.iter().flatten().filter_map(Frame::data_ref);
                SizeHint::with_exact(data.map(|data| data.len() as u64).sum())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http::HeaderMap;
    use http_body_util::BodyExt as _;
    use tokio::sync::mpsc;

    use super::*;

    /// Sends what it is told to, and ends with its sender.
    struct Told(mpsc::UnboundedReceiver<Frame<Bytes>>);

    impl HttpBody for Told {
        type Data = Bytes;
        type Error = tonic::Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
            self.0.poll_recv(cx).map(|frame| frame.map(Ok))
        }
    }

    fn told() -> (mpsc::UnboundedSender<Frame<Bytes>>, Told) {
        let (tell, told) = mpsc::unbounded_channel();
        (tell, Told(told))
    }

    fn is_ready(body: &mut Body) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(body).poll_frame(&mut cx).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_is_near_is_waited_for() {
        for trailers in [false, true] {
            let (tell, body) = told();
            let gathering = tokio::spawn(gather(body));
            tell.send(Frame::data("ab".into())).unwrap();
            tokio::time::sleep(WAIT / 2).await;
            tell.send(Frame::data("cd".into())).unwrap();
            if trailers {
                // They are the end, whoever keeps the sender.
                tell.send(Frame::trailers(HeaderMap::new())).unwrap();
                std::mem::forget(tell);
            } else {
                drop(tell);
            }
            let body = gathering.await.unwrap();
            assert_eq!(body.size_hint().exact(), Some(4));
            let all = body.collect().await.unwrap();
            assert_eq!(all.trailers().is_some(), trailers);
            assert_eq!(all.to_bytes(), "abcd");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_goes_on_with_what_it_has() {
        let (tell, body) = told();
        tell.send(Frame::data("ab".into())).unwrap();
        let start = Instant::now();
        let mut body = gather(body).await;
        assert!(start.elapsed() < WAIT * 2, "{:?}", start.elapsed());
        assert!(is_ready(&mut body) && !is_ready(&mut body));
        assert!(!body.is_end_stream());
        tell.send(Frame::data("cd".into())).unwrap();
        drop(tell);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "cd");
    }

    #[tokio::test(start_paused = true)]
    async fn too_much_is_not_gathered() {
        let (tell, body) = told();
        for _ in 0..3 {
            tell.send(Frame::data(vec![0; ENOUGH].into())).unwrap();
        }
        let start = Instant::now();
        let mut body = gather(body).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(body.size_hint().exact(), None);
        assert!((0..3).all(|_| is_ready(&mut body)));
    }
}
