//! [`Message`]: the bytes of one request or response.

use std::collections::VecDeque;
use std::fmt;
#[cfg(feature = "user")]
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

#[cfg(feature = "user")]
use crate::charge::Charge;

/// One request or response: a rope of [`Bytes`], so that neither sending nor receiving has to
/// make it contiguous.
///
/// A message is 1 to 1,000,000 bytes long by default; the limit is checked where it is sent.
/// It implements [`Buf`], and clones share their bytes.
///
/// ```
/// use bytes::{Buf, Bytes};
/// use homa_client::Message;
///
/// let mut message = Message::from("head");
/// message.push(Bytes::from_static(b" and body"));
/// assert_eq!(message.len(), 13);
/// assert_eq!(message.parts().count(), 2);
/// message.advance(9);
/// assert_eq!(message.into_bytes(), "body");
/// ```
#[derive(Clone, Default)]
pub struct Message {
    /// The first part, mostly the only one. Empty only if all of it is, so that `chunk()` is empty
    /// only at the end.
    first: Bytes,
    /// Those that follow; none is empty.
    #[expect(
        clippy::box_collection,
        reason = "small, since errors give messages back"
    )]
    rest: Option<Box<VecDeque<Bytes>>>,
    len: usize,
    /// What the receiving endpoint has charged for these bytes; returned when the last clone
    /// is dropped.
    #[cfg(feature = "user")]
    charge: Option<Arc<Charge>>,
}

impl Message {
    /// An empty message. It has to get at least one byte before it can be sent.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `part` without copying it.
    pub fn push(&mut self, part: Bytes) {
        if part.is_empty() {
            return;
        }
        let len = part.len();
        if self.is_empty() {
            self.first = part;
        } else {
            self.rest.get_or_insert_default().push_back(part);
        }
        self.len += len;
    }

    /// Bytes left in the message.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The parts of the rope, in order; none is empty.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &Bytes> {
        let rest = self.rest.as_deref();
        let count = usize::from(!self.is_empty()) + rest.map_or(0, VecDeque::len);
        (0..count).map(move |at| match (at.checked_sub(1), rest) {
            (Some(at), Some(rest)) => &rest[at],
            _ => &self.first,
        })
    }

    /// Takes the first part of the rope, `None` at the end.
    pub fn pop_part(&mut self) -> Option<Bytes> {
        if self.is_empty() {
            return None;
        }
        let next = self.rest.as_mut().and_then(|rest| rest.pop_front());
        let part = std::mem::replace(&mut self.first, next.unwrap_or_default());
        self.len -= part.len();
        Some(part)
    }

    /// Takes the first `count` bytes off as a message of their own, without copying them, or all
    /// that there are.
    pub fn split_to(&mut self, count: usize) -> Self {
        let mut taken = Self::new();
        while taken.len < count {
            let left = count - taken.len;
            if self.first.len() > left {
                let start = self.first.split_to(left);
                self.len -= left;
                taken.push(start);
            } else if let Some(part) = self.pop_part() {
                taken.push(part);
            } else {
                break;
            }
        }
        taken
    }

    /// The whole message as one [`Bytes`]. Copies only if there is more than one part.
    pub fn into_bytes(mut self) -> Bytes {
        if self.first.len() == self.len {
            return std::mem::take(&mut self.first);
        }
        let mut whole = BytesMut::with_capacity(self.len);
        for part in self.parts() {
            whole.extend_from_slice(part);
        }
        whole.freeze()
    }

    /// Attaches what an endpoint has charged for this message.
    #[cfg(feature = "user")]
    pub(crate) fn with_charge(mut self, charge: Charge) -> Self {
        self.charge = Some(Arc::new(charge));
        self
    }
}

impl Buf for Message {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        &self.first
    }

    fn advance(&mut self, mut count: usize) {
        assert!(
            count <= self.len,
            "cannot advance by {count}: {} bytes are left",
            self.len
        );
        while count > 0 {
            if count < self.first.len() {
                self.first.advance(count);
                self.len -= count;
                return;
            }
            count -= self.pop_part().map_or(count, |part| part.len());
        }
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        assert!(
            count <= self.len,
            "cannot take {count} bytes: {} are left",
            self.len
        );
        if count < self.first.len() {
            self.len -= count;
            return self.first.split_to(count);
        }
        if count == self.first.len() {
            return self.pop_part().unwrap_or_default();
        }
        let mut copy = BytesMut::with_capacity(count);
        while copy.len() < count {
            let take = self.chunk().len().min(count - copy.len());
            copy.extend_from_slice(&self.chunk()[..take]);
            self.advance(take);
        }
        copy.freeze()
    }
}

impl From<Bytes> for Message {
    fn from(part: Bytes) -> Self {
        let mut message = Self::new();
        message.push(part);
        message
    }
}

impl From<Vec<u8>> for Message {
    fn from(part: Vec<u8>) -> Self {
        Bytes::from(part).into()
    }
}

impl From<String> for Message {
    fn from(part: String) -> Self {
        Bytes::from(part).into()
    }
}

impl From<&'static [u8]> for Message {
    fn from(part: &'static [u8]) -> Self {
        Bytes::from_static(part).into()
    }
}

impl From<&'static str> for Message {
    fn from(part: &'static str) -> Self {
        part.as_bytes().into()
    }
}

impl FromIterator<Bytes> for Message {
    fn from_iter<I: IntoIterator<Item = Bytes>>(parts: I) -> Self {
        let mut message = Self::new();
        for part in parts {
            message.push(part);
        }
        message
    }
}

impl PartialEq<[u8]> for Message {
    fn eq(&self, mut other: &[u8]) -> bool {
        if self.len != other.len() {
            return false;
        }
        for part in self.parts() {
            let (head, rest) = other.split_at(part.len());
            if part != head {
                return false;
            }
            other = rest;
        }
        true
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} B in {} parts)", self.len, self.parts().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope() -> Message {
        ["ab", "", "cde", "f"]
            .into_iter()
            .map(|part| Bytes::from_static(part.as_bytes()))
            .collect()
    }

    #[test]
    fn a_rope_reads_like_one_buffer() {
        let mut message = rope();
        assert_eq!((message.len(), message.parts().count()), (6, 3));
        assert_eq!(message, *b"abcdef".as_slice());
        assert_eq!(message.copy_to_bytes(1), "a");
        assert_eq!(message.copy_to_bytes(3), "bcd");
        message.advance(1);
        assert_eq!(message.clone().into_bytes(), "f");
        assert_eq!(message.copy_to_bytes(1), "f");
        assert!(message.is_empty() && message.chunk().is_empty());
    }

    #[test]
    fn a_rope_is_split_anywhere_without_copying() {
        for at in 0..=7 {
            let mut rest = rope();
            let start = rest.split_to(at);
            let taken = at.min(6);
            assert_eq!((start.len(), rest.len()), (taken, 6 - taken));
            assert_eq!(start, b"abcdef"[..taken]);
            assert_eq!(rest, b"abcdef"[taken..]);
        }
    }
}
