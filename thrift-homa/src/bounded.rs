//! [`BoundedWriter`]: a message that never grows past its limit. And copying in pieces.

use std::io::{self, Write};

use bytes::Buf;
use homa_client::blocking::make_way;
use homa_client::{Message, MessageWriter};

/// Between two pieces of this length a thread lets others run: a short call then waits for one of
/// them, and not for a whole message.
const PIECE: usize = 64 << 10;

/// Writes all of it, in pieces.
pub(crate) fn copy_in(writer: &mut MessageWriter, bytes: &[u8]) -> io::Result<usize> {
    for piece in bytes.chunks(PIECE) {
        writer.write_all(piece)?;
        make_way(piece.len());
    }
    Ok(bytes.len())
}

/// Fills `into`, in pieces; there must be as many bytes.
pub(crate) fn copy_out(bytes: &mut impl Buf, into: &mut [u8]) {
    for piece in into.chunks_mut(PIECE) {
        bytes.copy_to_slice(piece);
        make_way(piece.len());
    }
}

/// Gathers a message. What would pass the limit fails, and what was written before is forgotten at
/// once: nothing of a message that is too long is kept, or sent.
#[derive(Debug, Default)]
pub(crate) struct BoundedWriter {
    writer: MessageWriter,
    limit: usize,
    over: bool,
}

impl BoundedWriter {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Whether the limit was passed since it was last empty.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    pub(crate) fn len(&self) -> usize {
        self.writer.len()
    }

    /// Forgets what was written.
    pub(crate) fn clear(&mut self) {
        if !self.writer.is_empty() {
            self.writer = MessageWriter::new();
        }
        self.over = false;
    }

    /// Notes that the message got too long before it came here.
    pub(crate) fn overflow(&mut self) {
        self.clear();
        self.over = true;
    }

    /// What was written.
    pub(crate) fn finish(self) -> Message {
        self.writer.finish()
    }

    fn too_long(&self) -> io::Error {
        io::Error::other(format!(
            "the message is longer than the limit of {} bytes",
            self.limit
        ))
    }
}

impl Write for BoundedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.over || bytes.len() > self.limit - self.len() {
            self.overflow();
            return Err(self.too_long());
        }
        copy_in(&mut self.writer, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_the_limit_is_forgotten_and_fails_until_it_is_cleared() {
        let mut writer = BoundedWriter::new(4);
        writer.write_all(b"four").expect("it fits");
        assert!(writer.write_all(b"!").is_err());
        assert_eq!((writer.len(), writer.is_over()), (0, true));
        assert!(writer.write_all(b"x").is_err(), "the rest of it as well");
        writer.clear();
        writer.write_all(b"next").expect("another message");
        assert!(!writer.is_over());
        assert_eq!(writer.finish().into_bytes(), "next");
    }
}
