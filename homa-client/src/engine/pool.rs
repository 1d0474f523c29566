//! [`Pool`]: the account of receive memory.

/// Receive memory, as an account: whoever stores bytes charges them first.
#[derive(Debug)]
pub(super) struct Pool {
    limit: usize,
    used: usize,
    /// Whether some was given back since this was last asked.
    returned: bool,
}

/// Who wants memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// A message of one packet. A sixteenth of the pool is kept for these, so that short calls
    /// get through when long messages have filled the rest.
    OnePacket,
    /// The unscheduled part of a longer message. These may fill half of the pool: messages that
    /// hold a part each and find no room for the rest would wait for ever.
    Start,
    /// The rest of a message that has its start.
    Rest,
}

impl Pool {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            used: 0,
            returned: false,
        }
    }

    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Charges `bytes`, or nothing and returns false if there is no room.
    pub(super) fn charge(&mut self, bytes: usize, need: Need) -> bool {
        let fits = self.has_room(bytes, need);
        if fits {
            self.used += bytes;
        }
        fits
    }

    pub(super) fn has_room(&self, bytes: usize, need: Need) -> bool {
        let limit = match need {
            Need::OnePacket => self.limit,
            Need::Start => self.limit / 2,
            Need::Rest => self.limit - self.limit / 16,
        };
        self.used.saturating_add(bytes) <= limit
    }

    pub(super) fn take_returned(&mut self) -> bool {
        std::mem::take(&mut self.returned)
    }

    pub(super) fn release(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.used);
        self.used = self.used.saturating_sub(bytes);
        self.returned |= bytes > 0;
    }
}
