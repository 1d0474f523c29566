//! [`Counted`]: by which both ends find out that they have the same.

use crc32fast::Hasher;

use crate::proto::Summary;

/// Length and checksum of what has passed.
#[derive(Default)]
pub(crate) struct Counted {
    length: u64,
    hasher: Hasher,
}

impl Counted {
    pub(crate) fn add(&mut self, content: &[u8]) {
        self.length += content.len() as u64;
        self.hasher.update(content);
    }

    pub(crate) fn summary(&self) -> Summary {
        Summary {
            length: self.length,
            crc32: self.hasher.clone().finalize(),
        }
    }
}
