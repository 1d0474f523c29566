//! [`BoundedWriter`]: a message that never grows past its limit.

use std::io::{self, Write};

use homa_client::{Message, MessageWriter};

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
        self.writer.write(bytes)
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
