//! Bodies: what is ready of one that is to be sent, and one that was received.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use homa_client::Message;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// A whole body that was ready without waiting.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    /// Nearly every unary body is one part, which costs no allocation here.
    first: Bytes,
    more: Vec<Bytes>,
    len: usize,
    pub(crate) trailers: Option<HeaderMap>,
}

/// Why a body is not [`Collected`].
#[derive(Debug)]
pub(crate) enum CollectError<E> {
    /// It is not complete yet: a stream.
    Streaming,
    /// A message in it, with its prefix, has `size` bytes, more than the limit.
    TooLong { size: usize },
    /// It failed.
    Failed(E),
}

impl Collected {
    /// Takes what is ready of `body` without waiting, up to a bit over `limit` bytes: some
    /// bodies are always ready.
    pub(crate) fn poll<B: Body<Data = Bytes> + Unpin>(
        body: &mut B,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Result<Self, CollectError<B::Error>> {
        let mut collected = Self::default();
        while !body.is_end_stream() {
            let frame = match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => return Err(CollectError::Streaming),
                Poll::Ready(None) => break,
                Poll::Ready(Some(frame)) => frame.map_err(CollectError::Failed)?,
            };
            match frame.into_data() {
                Ok(data) => collected.push(data),
                Err(frame) => {
                    // Nothing comes after trailers, and asking would yield a second set of them
                    // from some bodies.
                    collected.trailers = frame.into_trailers().ok();
                    break;
                }
            }
            if collected.len > limit {
                return Err(collected.too_long(limit));
            }
        }
        Ok(collected)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends the parts to `message` without copying them.
    pub(crate) fn append_to(&self, message: &mut Message) {
        message.push(self.first.clone());
        for part in &self.more {
            message.push(part.clone());
        }
    }

    fn push(&mut self, part: Bytes) {
        self.len += part.len();
        if self.first.is_empty() {
            self.first = part;
        } else {
            self.more.push(part);
        }
    }

    /// Too long can be one message, or a stream of short ones.
    fn too_long<E>(&self, limit: usize) -> CollectError<E> {
        let size = match self.first[..] {
            [_, a, b, c, d, ..] => 5 + u32::from_be_bytes([a, b, c, d]) as usize,
            _ => self.len,
        };
        if size > limit {
            CollectError::TooLong { size }
        } else {
            CollectError::Streaming
        }
    }
}

/// The body of a received message, part by part and without copying, then its trailers.
#[derive(Debug)]
pub(crate) struct Received {
    /// Kept to the end although its parts leave one by one: the endpoint counts the memory of a
    /// message as used until it is dropped.
    message: Message,
    trailers: Option<HeaderMap>,
}

impl Received {
    pub(crate) fn new(message: Message, trailers: Option<HeaderMap>) -> Self {
        Self { message, trailers }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = match self.message.pop_part() {
            Some(part) => Some(Frame::data(part)),
            None => self.trailers.take().map(Frame::trailers),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.message.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn collect<B: Body<Data = Bytes> + Unpin>(
        mut body: B,
        limit: usize,
    ) -> Result<Collected, CollectError<B::Error>> {
        Collected::poll(&mut body, &mut Context::from_waker(Waker::noop()), limit)
    }

    /// Frames, then either the end or a wait.
    struct Script(Vec<Result<Frame<Bytes>, &'static str>>, bool);

    impl Body for Script {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            match (self.0.is_empty(), self.1) {
                (false, _) => Poll::Ready(Some(self.0.remove(0))),
                (true, true) => Poll::Ready(None),
                (true, false) => Poll::Pending,
            }
        }
    }

    fn data(bytes: &'static [u8]) -> Result<Frame<Bytes>, &'static str> {
        Ok(Frame::data(Bytes::from_static(bytes)))
    }

    #[test]
    fn a_ready_body_is_taken_whole_and_in_order() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let script = vec![
            data(b"ab"),
            data(b""),
            data(b"cd"),
            Ok(Frame::trailers(trailers.clone())),
            Err("polled past the trailers"),
        ];
        let collected = collect(Script(script, true), 4).unwrap();
        assert_eq!(collected.len(), 4);
        assert_eq!(collected.trailers, Some(trailers.clone()));
        let mut message = Message::new();
        collected.append_to(&mut message);
        assert_eq!(message.clone().into_bytes(), "abcd");

        let received = collect(Received::new(message, Some(trailers)), 4).unwrap();
        assert_eq!((received.len(), received.trailers.is_some()), (4, true));
    }

    #[test]
    fn streams_long_messages_and_failures_are_told_apart() {
        let error = collect(Script(vec![data(b"ab")], false), 4).unwrap_err();
        assert!(matches!(error, CollectError::Streaming));
        let long = collect(Script(vec![data(b"\0\0\0\0\x0aabcdefghij")], false), 10).unwrap_err();
        assert!(
            matches!(long, CollectError::TooLong { size: 15 }),
            "{long:?}"
        );
        let short = || data(b"\0\0\0\0\x01a");
        let many = collect(Script(vec![short(), short()], false), 10).unwrap_err();
        assert!(matches!(many, CollectError::Streaming), "{many:?}");
        let failed = collect(Script(vec![Err("broken")], false), 4).unwrap_err();
        assert!(
            matches!(failed, CollectError::Failed("broken")),
            "{failed:?}"
        );
    }
}
