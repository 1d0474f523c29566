//! Which messages of a stream are compressed. tonic compresses all messages of a stream or none,
//! and tells nobody what it has received, but gRPC decides for each message: [`Noting`] looks at
//! the prefixes of messages, and [`Unpacking`] sends those plain that shall be.

use std::collections::VecDeque;
use std::io::Read;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::read::GzDecoder;
use http_body::{Body, Frame};
use tonic::Status;

/// Bytes before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A mark for each message, in their order; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks(Arc<Mutex<VecDeque<bool>>>);

impl Marks {
    pub(super) fn push(&self, mark: bool) {
        self.queue().push_back(mark);
    }

    /// That of the next message.
    pub(super) fn pop(&self) -> Option<bool> {
        self.queue().pop_front()
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In the extensions of a request or response: fill these with whether messages were compressed.
/// On the server they are in those of each request whose messages may be.
#[derive(Clone, Debug, Default)]
pub(super) struct Note(pub(super) Marks);

/// In the extensions of a request or response: which messages shall be compressed. Those
/// without a mark are sent as tonic made them.
#[derive(Clone, Debug, Default)]
pub(super) struct Compress(pub(super) Marks);

/// A body whose prefixes are looked at as they pass.
pub(super) struct Noting {
    body: tonic::body::Body,
    marks: Marks,
    /// Of the prefix that is not complete.
    prefix: Vec<u8>,
    /// Bytes left of the message after it.
    left: usize,
}

impl Noting {
    pub(super) fn new(body: tonic::body::Body, Note(marks): Note) -> Self {
        Self {
            body,
            marks,
            prefix: Vec::with_capacity(PREFIX),
            left: 0,
        }
    }

    fn look(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let skipped = self.left.min(data.len());
            self.left -= skipped;
            data = &data[skipped..];
            let taken = (PREFIX - self.prefix.len()).min(data.len());
            self.prefix.extend_from_slice(&data[..taken]);
            data = &data[taken..];
            if let [flag, a, b, c, d] = self.prefix[..] {
                self.marks.push(flag == 1);
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                self.prefix.clear();
            }
        }
    }
}

impl Body for Noting {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.look(data);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// A body whose messages leave as they are marked.
pub(super) struct Unpacking {
    body: tonic::body::Body,
    marks: Marks,
    /// Of the message that is not complete.
    partial: BytesMut,
}

impl Unpacking {
    pub(super) fn new(body: tonic::body::Body, Compress(marks): Compress) -> Self {
        Self {
            body,
            marks,
            partial: BytesMut::new(),
        }
    }

    /// What is complete, as it shall leave.
    fn unpack(&mut self, data: Bytes) -> Result<Bytes, Status> {
        self.partial.extend_from_slice(&data);
        let mut out = BytesMut::new();
        while let [flag, a, b, c, d, rest @ ..] = &self.partial[..] {
            let len = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            if rest.len() < len {
                break;
            }
            let flag = *flag;
            let message = self.partial.split_to(PREFIX + len).freeze();
            let mark = self.marks.pop();
            if flag == 1 && mark == Some(false) {
                let mut plain = Vec::new();
                GzDecoder::new(message.slice(PREFIX..).reader())
                    .read_to_end(&mut plain)
                    .map_err(|error| Status::internal(format!("unpacking a message: {error}")))?;
                out.put_u8(0);
                let len = u32::try_from(plain.len())
                    .map_err(|_| Status::internal("a message of 4 GiB or more"))?;
                out.put_u32(len);
                out.put_slice(&plain);
            } else {
                out.put(message);
            }
        }
        Ok(out.freeze())
    }
}

impl Body for Unpacking {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            };
            let data = self.unpack(data)?;
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn message(flag: u8, content: &[u8]) -> Vec<u8> {
        let mut message = vec![flag];
        message.extend(u32::try_from(content.len()).expect("short").to_be_bytes());
        message.extend(content);
        message
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).expect("to memory");
        encoder.finish().expect("to memory")
    }

    #[test]
    fn prefixes_are_seen_wherever_the_parts_of_a_body_end() {
        let stream = [message(1, b"abc"), message(0, b""), message(1, &[1; 300])].concat();
        for size in 1..=stream.len() {
            let note = Note::default();
            let mut noting = Noting::new(tonic::body::Body::empty(), note.clone());
            for part in stream.chunks(size) {
                noting.look(part);
            }
            let marks: Vec<_> = std::iter::from_fn(|| note.0.pop()).collect();
            assert_eq!(marks, [true, false, true], "parts of {size} bytes");
        }
    }

    #[test]
    fn messages_leave_as_marked_wherever_the_parts_of_a_body_end() {
        let packed = [message(1, &gzip(b"first")), message(1, &gzip(b"second"))];
        let stream = packed.concat();
        let expected = [packed[0].clone(), message(0, b"second")].concat();
        for size in 1..=stream.len() {
            let compress = Compress::default();
            compress.0.push(true);
            compress.0.push(false);
            let mut unpacking = Unpacking::new(tonic::body::Body::empty(), compress);
            let mut out = Vec::new();
            for part in stream.chunks(size) {
                let part = Bytes::copy_from_slice(part);
                out.extend(unpacking.unpack(part).expect("it is gzip"));
            }
            assert_eq!(out, expected, "parts of {size} bytes");
        }
    }

    #[test]
    fn what_is_no_gzip_is_refused() {
        let compress = Compress::default();
        compress.0.push(false);
        let mut unpacking = Unpacking::new(tonic::body::Body::empty(), compress);
        let refused = unpacking.unpack(message(1, b"plain").into());
        assert_eq!(refused.expect_err("no gzip").code(), tonic::Code::Internal);
    }
}
