//! Bodies: one that is to be sent, as far as it is ready, and one that was received whole.

use std::convert::Infallible;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use homa_client::{Message, MessageWriter};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// A body that is to be sent: what was taken of it, and the rest.
#[derive(Debug)]
pub(crate) struct Outgoing<B> {
    body: B,
    /// Taken, and not sent.
    pub(crate) ready: Message,
    pub(crate) trailers: Option<HeaderMap>,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// There may be more.
    Open,
    /// All was taken.
    Ended,
    /// All was sent.
    Done,
}

impl<B: Body<Data = Bytes> + Unpin> Outgoing<B> {
    pub(crate) fn new(body: B) -> Self {
        Self {
            body,
            ready: Message::new(),
            trailers: None,
            progress: Progress::Open,
        }
    }

    /// Takes what is ready without waiting, until there are at least `most` bytes: some bodies are
    /// always ready.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>, most: usize) -> Result<(), B::Error> {
        let mut taken = Taken::default();
        let filled = self.poll_frames(cx, most, &mut taken);
        taken.finish(&mut self.ready);
        filled
    }

    fn poll_frames(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        taken: &mut Taken,
    ) -> Result<(), B::Error> {
        while self.progress == Progress::Open && self.ready.len() + taken.len() < most {
            // Checked first: some bodies that have ended do not like to be asked.
            if self.body.is_end_stream() {
                self.progress = Progress::Ended;
                break;
            }
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => {
                    self.progress = Progress::Ended;
                    break;
                }
                Poll::Ready(Some(frame)) => frame?,
            };
            match frame.into_data() {
                Ok(data) => taken.push(data, &mut self.ready),
                Err(frame) => {
                    // Nothing comes after trailers, and asking would yield a second set of them
                    // from some bodies.
                    self.end_with(frame.into_trailers().ok());
                }
            }
        }
        Ok(())
    }

    /// Takes what is ready without waiting for a first message that may have to hold all: up to
    /// `most` bytes, and whatever comes next. After a long message that is the end, mostly; streams
    /// that are always ready stop there.
    pub(crate) fn poll_first(&mut self, cx: &mut Context<'_>, most: usize) -> Result<(), B::Error> {
        self.poll_fill(cx, most)?;
        self.poll_fill(cx, self.ready.len() + 1)
    }

    /// Watches a body that was taken whole: tonic's request bodies tell of a
    /// `CancellationHandle` even after their end.
    pub(crate) fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<B::Error> {
        if self.body.is_end_stream() {
            return Poll::Pending;
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Err(error))) => Poll::Ready(error),
            Poll::Ready(_) | Poll::Pending => Poll::Pending,
        }
    }

    /// Whether all was taken.
    pub(crate) fn has_ended(&self) -> bool {
        self.progress != Progress::Open
    }

    /// Whether all was sent.
    pub(crate) fn is_done(&self) -> bool {
        self.progress == Progress::Done
    }

    pub(crate) fn set_done(&mut self) {
        self.progress = Progress::Done;
    }

    /// Nothing more is taken: after what was, these trailers come.
    pub(crate) fn end_with(&mut self, trailers: Option<HeaderMap>) {
        self.trailers = trailers;
        self.progress = Progress::Ended;
    }
}

/// Frames that come one after the other without a wait. Several are copied together: tonic encodes
/// the next one where the last one was, if that is free, while fresh memory for each costs more than
/// the copy.
#[derive(Debug, Default)]
struct Taken {
    /// Alone so far.
    first: Option<Bytes>,
    copies: MessageWriter,
}

/// Longer frames are not copied.
const WORTH_COPYING: usize = 64 << 10;

impl Taken {
    fn len(&self) -> usize {
        self.first.as_ref().map_or(0, Bytes::len) + self.copies.len()
    }

    fn push(&mut self, frame: Bytes, ready: &mut Message) {
        if frame.len() > WORTH_COPYING {
            std::mem::take(self).finish(ready);
            ready.push(frame);
        } else if self.len() == 0 {
            self.first = Some(frame);
        } else {
            for frame in self.first.take().into_iter().chain([frame]) {
                // It cannot fail.
                let _ = self.copies.write_all(&frame);
            }
        }
    }

    fn finish(self, ready: &mut Message) {
        if let Some(first) = self.first {
            ready.push(first);
        }
        let mut copies = self.copies.finish();
        while let Some(part) = copies.pop_part() {
            ready.push(part);
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
pub(crate) mod tests {
    use std::task::Waker;

    use super::*;

    /// Frames, then either the end or a wait.
    pub(crate) struct Script(
        pub(crate) Vec<Result<Frame<Bytes>, &'static str>>,
        pub(crate) bool,
    );

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

    pub(crate) fn data(bytes: &'static [u8]) -> Result<Frame<Bytes>, &'static str> {
        Ok(Frame::data(Bytes::from_static(bytes)))
    }

    fn fill<B: Body<Data = Bytes> + Unpin>(body: B, most: usize) -> Result<Outgoing<B>, B::Error> {
        let mut outgoing = Outgoing::new(body);
        outgoing.poll_fill(&mut Context::from_waker(Waker::noop()), most)?;
        Ok(outgoing)
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
        let outgoing = fill(Script(script, true), 5).unwrap();
        assert!(outgoing.has_ended());
        assert_eq!(outgoing.trailers, Some(trailers.clone()));
        assert_eq!(outgoing.ready.clone().into_bytes(), "abcd");

        let received = fill(Received::new(outgoing.ready, Some(trailers)), 5).unwrap();
        assert_eq!(
            (received.ready.len(), received.trailers.is_some()),
            (4, true)
        );
    }

    #[test]
    fn no_more_is_taken_than_asked_for_and_streams_and_failures_are_told_apart() {
        let stream = fill(Script(vec![data(b"ab")], false), 4).unwrap();
        assert!(!stream.has_ended() && stream.ready.len() == 2);
        let long = fill(
            Script(vec![data(b"\0\0\0\0\x0aabcdefghij"), data(b"x")], false),
            10,
        );
        let long = long.unwrap();
        assert_eq!(long.ready.len(), 15);
        let failed = fill(Script(vec![Err("broken")], false), 4);
        assert_eq!(failed.err(), Some("broken"));
    }
}
