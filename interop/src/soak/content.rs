//! What the RPCs of a soak carry: everything about one follows from its id and the run's seed, so
//! that both sides know every byte without telling each other.

use bytes::Bytes;
use homa_client::Message;

use crate::workload::W3;

/// Longest message, Homa's limit.
pub(crate) const LONGEST: usize = 1_000_000;

/// Every so many RPCs of a process have this longest request and response.
pub(crate) const EVERY_LONGEST: u64 = 500;

/// Bytes at the head of each message that hold the id.
const ID_LEN: usize = 8;

/// Messages begin at so many different places of the noise.
const BEGINNINGS: usize = 1 << 16;

/// Bits of an id below the number of the calling process.
const NUMBER_BITS: u32 = 40;

/// Names one RPC of a run, and with it all that it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id {
    /// The calling process, 0 to 3.
    pub(crate) caller: usize,
    /// Counts its RPCs from 0.
    pub(crate) number: u64,
}

impl Id {
    fn as_u64(self) -> u64 {
        (self.caller as u64) << NUMBER_BITS | self.number
    }

    fn from_u64(id: u64) -> Self {
        Self {
            caller: (id >> NUMBER_BITS) as usize,
            number: id & ((1 << NUMBER_BITS) - 1),
        }
    }
}

/// Direction of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Request,
    Response,
}

/// What is drawn about an RPC.
#[derive(Clone, Copy, Debug)]
enum Draw {
    Callee = 0,
    RequestLen = 1,
    ResponseLen = 2,
    RequestBegin = 3,
    ResponseBegin = 4,
}

/// What is wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("{len} bytes are too short for an id")]
    Short { len: usize },
    #[error("it is marked as {marked:?}")]
    Id { marked: Id },
    #[error("it has {len} bytes instead of {expected}")]
    Len { len: usize, expected: usize },
    #[error("it differs at or after byte {at}")]
    Bytes { at: usize },
}

/// Makes messages and checks them.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    seed: u64,
    /// Random bytes, of which each message is a slice. Comparing with them is as fast as memory.
    noise: Bytes,
}

impl Content {
    pub(crate) fn new(seed: u64) -> Self {
        let mut state = seed;
        let mut noise = Vec::with_capacity(BEGINNINGS + LONGEST);
        while noise.len() < BEGINNINGS + LONGEST {
            state = state.wrapping_add(1);
            noise.extend(mix(state).to_le_bytes());
        }
        Self {
            seed,
            noise: noise.into(),
        }
    }

    /// Which of `count` servers the RPC is for.
    pub(crate) fn callee(&self, id: Id, count: usize) -> usize {
        (self.draw(id, Draw::Callee) % count.max(1) as u64) as usize
    }

    /// Length of the request or the response.
    pub(crate) fn len(&self, id: Id, way: Way) -> usize {
        if id.number % EVERY_LONGEST == EVERY_LONGEST - 1 {
            return LONGEST;
        }
        let draw = match way {
            Way::Request => Draw::RequestLen,
            Way::Response => Draw::ResponseLen,
        };
        // 53 bits are what a float holds.
        let quantile = (self.draw(id, draw) >> 11) as f64 / (1_u64 << 53) as f64;
        (W3.size_at(quantile) as usize).clamp(ID_LEN, LONGEST)
    }

    /// The request or the response.
    pub(crate) fn message(&self, id: Id, way: Way) -> Message {
        let body = self.body(id, way);
        let mut bytes = Vec::with_capacity(ID_LEN + body.len());
        bytes.extend(id.as_u64().to_le_bytes());
        bytes.extend(body);
        bytes.into()
    }

    /// Which RPC a message says it belongs to.
    pub(crate) fn id_of(message: &Message) -> Result<Id, Wrong> {
        let mut id = [0; ID_LEN];
        let mut bytes = message.parts().flatten();
        for to in &mut id {
            *to = *bytes.next().ok_or(Wrong::Short { len: message.len() })?;
        }
        Ok(Id::from_u64(u64::from_le_bytes(id)))
    }

    /// Whether a message is the one that belongs to this RPC, in every byte.
    pub(crate) fn check(&self, id: Id, way: Way, message: &Message) -> Result<(), Wrong> {
        let marked = Self::id_of(message)?;
        if marked != id {
            return Err(Wrong::Id { marked });
        }
        let expected = self.len(id, way);
        if message.len() != expected {
            let len = message.len();
            return Err(Wrong::Len { len, expected });
        }
        let mut rest = self.body(id, way);
        let mut skip = ID_LEN;
        let mut at = 0;
        for part in message.parts() {
            let body = &part[skip.min(part.len())..];
            skip -= part.len() - body.len();
            let (same, after) = rest.split_at(body.len());
            if body != same {
                return Err(Wrong::Bytes { at });
            }
            rest = after;
            at += part.len();
        }
        Ok(())
    }

    /// What follows the id.
    fn body(&self, id: Id, way: Way) -> &[u8] {
        let draw = match way {
            Way::Request => Draw::RequestBegin,
            Way::Response => Draw::ResponseBegin,
        };
        let begin = self.draw(id, draw) as usize % BEGINNINGS;
        &self.noise[begin..begin + self.len(id, way) - ID_LEN]
    }

    fn draw(&self, id: Id, draw: Draw) -> u64 {
        mix(mix(self.seed ^ id.as_u64()).wrapping_add(draw as u64))
    }
}

/// SplitMix64: every bit of the result depends on all bits of the argument.
fn mix(value: u64) -> u64 {
    let mut value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAYS: [Way; 2] = [Way::Request, Way::Response];

    fn id(number: u64) -> Id {
        Id { caller: 2, number }
    }

    fn in_parts(message: Message, sizes: &[usize]) -> Message {
        let mut bytes = message.into_bytes();
        let mut parts = Message::new();
        for &size in sizes {
            parts.push(bytes.split_to(size.min(bytes.len())));
        }
        parts.push(bytes);
        parts
    }

    #[test]
    fn both_sides_make_and_accept_the_same_messages_in_any_parts() {
        let (ours, theirs) = (Content::new(7), Content::new(7));
        for number in 490..510 {
            for way in WAYS {
                let message = ours.message(id(number), way);
                assert_eq!(Content::id_of(&message), Ok(id(number)));
                let message = in_parts(message, &[3, 2, 4, 1, 1000]);
                assert_eq!(theirs.check(id(number), way, &message), Ok(()));
            }
        }
    }

    #[test]
    fn every_five_hundredth_is_the_longest_both_ways_and_the_rest_are_w3() {
        let content = Content::new(1);
        let count = 200_000;
        for way in WAYS {
            let mut sum = 0;
            for number in 0..count {
                let len = content.len(id(number), way);
                if (number + 1) % EVERY_LONGEST == 0 {
                    assert_eq!(len, LONGEST);
                } else {
                    sum += len;
                }
            }
            let mean = sum as f64 / count as f64;
            assert!((2_200.0..2_700.0).contains(&mean), "{mean}");
        }
        let differ = (0..1000)
            .filter(|number| {
                content.len(id(*number), Way::Request) != content.len(id(*number), Way::Response)
            })
            .count();
        assert!(differ > 900, "the two ways are drawn apart: {differ}");
    }

    #[test]
    fn callees_share_the_load() {
        let content = Content::new(1);
        let mut counts = [0; 3];
        for number in 0..30_000 {
            counts[content.callee(id(number), 3)] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)));
    }

    #[test]
    fn one_wrong_byte_anywhere_is_found() {
        let content = Content::new(3);
        let good = content.message(id(1), Way::Request).into_bytes();
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            let wrong = content.check(id(1), Way::Request, &bad.into());
            assert!(wrong.is_err(), "byte {at}");
        }
        let longer = [&good[..], &[0]].concat();
        assert!(matches!(
            content.check(id(1), Way::Request, &longer.into()),
            Err(Wrong::Len { .. })
        ));
        assert!(matches!(
            content.check(id(1), Way::Request, &good.slice(..5).into()),
            Err(Wrong::Short { len: 5 })
        ));
    }

    #[test]
    fn the_message_of_another_rpc_or_way_is_wrong() {
        let content = Content::new(3);
        let request = content.message(id(1), Way::Request);
        assert_eq!(
            content.check(id(2), Way::Request, &request),
            Err(Wrong::Id { marked: id(1) })
        );
        let longest = |way| content.message(id(EVERY_LONGEST - 1), way);
        assert!(matches!(
            content.check(id(EVERY_LONGEST - 1), Way::Response, &longest(Way::Request)),
            Err(Wrong::Bytes { .. })
        ));
    }
}
