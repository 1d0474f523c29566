//! Buffers that are used again when the last bytes in them are dropped.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

/// The longest IP packet, and so the longest run of segments that GRO hands over. Virtual links may
/// hand over on IP protocol 146, too, what a peer's segmentation offload made (`homa-protocol` B.5).
pub(crate) const BUFFER_LEN: usize = 65_536;

/// Buffers kept for use, at most; more are freed.
const MAX_FREE: usize = 64;

/// A stock of buffers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffers {
    free: Arc<Mutex<Vec<Box<[u8]>>>>,
}

impl Buffers {
    pub(crate) fn take(&self) -> Box<[u8]> {
        let recycled = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        recycled.unwrap_or_else(|| vec![0; BUFFER_LEN].into_boxed_slice())
    }

    pub(crate) fn give_back(&self, buffer: Box<[u8]>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < MAX_FREE {
            free.push(buffer);
        }
    }

    /// Whether so many bytes keep their buffer: at least half of one. A message must not pin much
    /// more than its own length.
    pub(crate) fn keeps(len: usize) -> bool {
        len * 2 >= BUFFER_LEN
    }

    /// The first `len` bytes of `buffer`, shared or copied.
    pub(crate) fn freeze(&self, buffer: Box<[u8]>, len: usize) -> Bytes {
        if !Self::keeps(len) {
            let copy = Bytes::copy_from_slice(&buffer[..len]);
            self.give_back(buffer);
            return copy;
        }
        Bytes::from_owner(Lent {
            buffer,
            home: Arc::downgrade(&self.free),
        })
        .slice(..len)
    }
}

/// A buffer that goes home when the last reference to its bytes is dropped.
struct Lent {
    buffer: Box<[u8]>,
    home: Weak<Mutex<Vec<Box<[u8]>>>>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(free) = self.home.upgrade() {
            Buffers { free }.give_back(std::mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_when_their_last_packet_goes() {
        let buffers = Buffers::default();
        let long = buffers.freeze(buffers.take(), BUFFER_LEN);
        let packet = long.slice(100..200);
        drop(long);
        assert_eq!(buffers.free.lock().unwrap().len(), 0);
        drop(packet);
        assert_eq!(buffers.free.lock().unwrap().len(), 1);
        let short = buffers.freeze(buffers.take(), 100);
        assert_eq!(
            buffers.free.lock().unwrap().len(),
            1,
            "a short one is copied at once"
        );
        assert_eq!(short.len(), 100);
    }
}
