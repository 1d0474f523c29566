//! [`PieceOptions`]: how long messages may be that go in pieces.

use crate::limits::Limits;

/// Messages over 1,000,000 bytes, for a client or a server. Off unless given, and both sides must
/// have it: a client finds out with its first call whether its server does, which takes one round
/// trip, and otherwise sends as without it. A message that is too long for the server is then
/// refused with `SizeLimit` before any of it is sent.
///
/// Every call has 44 bytes more. A long message takes a round trip more than its pieces, and
/// the server holds all of it in memory before the call runs; above some megabytes a TCP transport
/// may be the better choice.
///
/// ```
/// use thrift_homa::{ClientOptions, PieceOptions};
///
/// let mut options = ClientOptions::default();
/// options.pieces = Some(PieceOptions::up_to(16 << 20));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PieceOptions {
    /// Longest message in bytes, request or reply: it takes the place of `limits.message_bytes`, and
    /// of `limits.string_bytes` where that is no less. 1 to 1 GiB, at least `limits.message_bytes`:
    /// pieces are for longer messages, and lower no limit. The other limits hold as they are.
    pub max_bytes: usize,
    /// Servers: memory for pieces of requests that are not complete, and of replies that were not
    /// fetched, in bytes. Default 16 times `max_bytes`, at least that. What has no room is refused;
    /// nothing of it was executed then, unless it is a reply. Requests that run are not counted: they
    /// take up to `workers` times `max_bytes`.
    pub memory_bytes: usize,
    /// The same for all clients at one IP address. Default 4 times `max_bytes`, at least that.
    pub memory_bytes_per_peer: usize,
}

/// Longest that can be set.
const MOST: usize = 1 << 30;

impl PieceOptions {
    /// For messages of up to so many bytes.
    pub fn up_to(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            memory_bytes: max_bytes.saturating_mul(16),
            memory_bytes_per_peer: max_bytes.saturating_mul(4),
        }
    }

    /// Which value is out of its range, if one is, beside these limits.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), BadPieces> {
        let max_bytes = self.max_bytes;
        if !(1..=MOST).contains(&max_bytes) {
            return Err(BadPieces::OutOfRange { max_bytes });
        }
        let message_bytes = limits.message_bytes;
        if max_bytes < message_bytes {
            return Err(BadPieces::BelowLimit {
                max_bytes,
                message_bytes,
            });
        }
        for (key, value) in [
            ("pieces.memory_bytes", self.memory_bytes),
            ("pieces.memory_bytes_per_peer", self.memory_bytes_per_peer),
        ] {
            if value < max_bytes {
                return Err(BadPieces::TooLittleMemory {
                    key,
                    value,
                    max_bytes,
                });
            }
        }
        Ok(())
    }

    /// The limits of messages that may go in pieces.
    pub(crate) fn extend(&self, limits: &Limits) -> Limits {
        let mut extended = *limits;
        if limits.string_bytes >= limits.message_bytes {
            extended.string_bytes = self.max_bytes;
        }
        extended.message_bytes = self.max_bytes;
        extended
    }
}

/// Which option is out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPieces {
    #[error("pieces.max_bytes = {max_bytes} is out of range: 1 to {MOST} bytes")]
    OutOfRange { max_bytes: usize },
    /// It would take its place all the same.
    #[error(
        "pieces.max_bytes = {max_bytes} is below limits.message_bytes = {message_bytes}, which it \
         would lower: raise it, or lower that one yourself"
    )]
    BelowLimit {
        max_bytes: usize,
        message_bytes: usize,
    },
    #[error("{key} = {value} is out of range: at least pieces.max_bytes = {max_bytes}")]
    TooLittleMemory {
        key: &'static str,
        value: usize,
        max_bytes: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_named() {
        let check = |options: PieceOptions, message_bytes| {
            let checked = options.check(&Limits::for_messages(message_bytes));
            checked.map_err(|error| error.to_string())
        };
        for max_bytes in [1, MOST] {
            check(PieceOptions::up_to(max_bytes), 1).expect("in range");
            check(PieceOptions::up_to(max_bytes), max_bytes).expect("in range");
        }
        for max_bytes in [0, MOST + 1] {
            let error = check(PieceOptions::up_to(max_bytes), 1).expect_err("out");
            assert!(error.starts_with("pieces.max_bytes = "), "{error}");
        }
        let error = check(PieceOptions::up_to(99), 100).expect_err("below the limit");
        assert!(
            error.starts_with("pieces.max_bytes = 99 is below limits.message_bytes = 100"),
            "{error}"
        );
        let mut options = PieceOptions::up_to(100);
        options.memory_bytes_per_peer = 99;
        assert_eq!(
            check(options, 1).expect_err("too little"),
            "pieces.memory_bytes_per_peer = 99 is out of range: at least pieces.max_bytes = 100"
        );
    }

    #[test]
    fn strings_may_be_as_long_as_messages_unless_they_are_bounded_apart() {
        let options = PieceOptions::up_to(5_000_000);
        assert_eq!(options.extend(&Limits::default()).string_bytes, 5_000_000);
        let limits = Limits {
            string_bytes: 1_000,
            ..Limits::default()
        };
        let extended = options.extend(&limits);
        assert_eq!(
            (extended.string_bytes, extended.message_bytes),
            (1_000, 5_000_000)
        );
    }
}
