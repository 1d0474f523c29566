//! [`MessageWriter`]: a message made of copies.

use std::fmt;
use std::io::{self, Write};
use std::sync::LazyLock;

use crate::Message;
use crate::buffers::Buffers;

/// Shared by all writers of the process: who encodes messages on several threads needs them all.
static STOCK: LazyLock<Buffers> = LazyLock::new(Buffers::default);

/// Collects what is written to it as the parts of a [`Message`].
///
/// It copies into buffers of 64 KiB which are used again when the message has been sent, so that
/// many small pieces cost neither an allocation nor a part each, and what they were encoded in is
/// free at once. Push what is long already with [`Message::push`] instead. Writing never fails.
///
/// ```
/// use std::io::Write;
///
/// use homa_client::MessageWriter;
///
/// let mut writer = MessageWriter::new();
/// for number in 0..1000u32 {
///     writer.write_all(&number.to_be_bytes())?;
/// }
/// assert_eq!(writer.len(), 4000);
/// let message = writer.finish();
/// assert_eq!((message.len(), message.parts().count()), (4000, 1));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Default)]
pub struct MessageWriter {
    /// What fills buffers.
    message: Message,
    /// The one that is being filled.
    buffer: Option<Box<[u8]>>,
    filled: usize,
}

impl MessageWriter {
    /// A writer of an empty message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.message.len() + self.filled
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All that was written.
    pub fn finish(mut self) -> Message {
        self.close_buffer();
        std::mem::take(&mut self.message)
    }

    fn close_buffer(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            let part = STOCK.freeze(buffer, std::mem::take(&mut self.filled));
            self.message.push(part);
        }
    }
}

impl Write for MessageWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let buffer = self.buffer.get_or_insert_with(|| STOCK.take());
            let room = &mut buffer[self.filled..];
            let (now, later) = rest.split_at(rest.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            self.filled += now.len();
            rest = later;
            if self.filled == buffer.len() {
                self.close_buffer();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What was written and is not wanted leaves its buffer to others.
impl Drop for MessageWriter {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            STOCK.give_back(buffer);
        }
    }
}

/// Without the buffer: what is not filled yet holds bytes of other messages.
impl fmt::Debug for MessageWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageWriter")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bytes_are_printed() {
        let mut writer = MessageWriter::new();
        writer.write_all(b"secret").unwrap();
        assert_eq!(format!("{writer:?}"), "MessageWriter { len: 6, .. }");
    }
    use crate::buffers::BUFFER_LEN;

    #[test]
    fn what_is_written_comes_out_in_full_buffers_and_a_rest() {
        for len in [
            0,
            1,
            100,
            BUFFER_LEN - 1,
            BUFFER_LEN,
            BUFFER_LEN + 1,
            200_000,
        ] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            for piece in [1, 999, 33_000, 300_000] {
                let mut writer = MessageWriter::new();
                for piece in bytes.chunks(piece) {
                    writer.write_all(piece).unwrap();
                }
                assert_eq!((writer.len(), writer.is_empty()), (len, len == 0));
                let message = writer.finish();
                assert_eq!(message.parts().count(), len.div_ceil(BUFFER_LEN));
                assert_eq!(message.into_bytes(), bytes, "{len} in pieces of {piece}");
            }
        }
    }
}
