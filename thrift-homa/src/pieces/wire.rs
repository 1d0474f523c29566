//! What is on the wire. All numbers are big-endian.
//!
//! A request begins with a header of 44 bytes:
//!
//! | Byte | |
//! |---|---|
//! | 0 | 0xF4 |
//! | 1 | version, 1 |
//! | 2 | kind |
//! | 3 | 0 |
//! | 4–19 | transfer: a random number of the client's, or of the server's for the fetching of a reply |
//! | 20–27 | length of the whole message |
//! | 28–35 | longest reply that the client takes |
//! | 36–39 | bytes in a piece, but for the last |
//! | 40–43 | number of the piece, from 0 |
//!
//! | Kind | Follows | Means | Reply |
//! |---|---|---|---|
//! | 1 hello | nothing | do you take pieces? | welcome |
//! | 2 whole | the message | execute this | that of the message, or `long` |
//! | 3 piece | its bytes | keep this | stored |
//! | 4 run | nothing | execute what was kept | that of the message, or `long` |
//! | 5 fetch | nothing | give me this piece of the reply, and forget it | piece |
//! | 6 drop | nothing | forget this transfer | stored |
//!
//! Numbers that a kind has no use for are 0. Replies of this kind begin with 0xF4, the version, the
//! kind, and a code that is 0 but for `refused`:
//!
//! | Kind | Follows |
//! |---|---|
//! | 1 welcome | longest request (8 bytes), bytes in a piece (4) |
//! | 2 stored | nothing |
//! | 3 long | the reply's transfer (16), its length (8), bytes in a piece (4) |
//! | 4 piece | its bytes |
//! | 5 wrapped | a control reply 0xF2 to the message itself |
//! | 6 refused | a text in UTF-8, at most 1,024 bytes |
//!
//! A bare 0xF2 means that the server knows nothing of all this.

use bytes::Buf;
use homa_client::Message;

use crate::control;

/// The first byte of all of these.
pub(crate) const MARK: u8 = 0xF4;
const VERSION: u8 = 1;

/// Bytes of a request's header.
pub(crate) const HEADER: usize = 44;
/// Bytes of a reply's.
const REPLY_HEADER: usize = 4;

/// Bytes in a piece where Homa messages are as long as they may be.
const PIECE: usize = 512 << 10;
/// Least bytes in a piece: else there would be too many.
pub(crate) const LEAST_PIECE: u32 = 1_024;

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Hello,
    Whole,
    Piece,
    Run,
    Fetch,
    Drop,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Hello,
        Self::Whole,
        Self::Piece,
        Self::Run,
        Self::Fetch,
        Self::Drop,
    ];

    fn number(self) -> u8 {
        self as u8 + 1
    }
}

/// The header of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) transfer: u128,
    pub(crate) total: u64,
    pub(crate) max_reply: u64,
    pub(crate) piece_bytes: u32,
    pub(crate) index: u32,
}

/// Why the server does not do what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusedPiece {
    /// The message is longer than the server takes.
    TooLong,
    /// The server keeps as many pieces as it may.
    NoRoom,
    /// There is no such transfer for this client: it was never begun, is over, or was idle for too
    /// long.
    Unknown,
    /// The numbers in the request make no sense, or do not fit those before.
    Malformed,
    /// Pieces are missing.
    Incomplete,
    /// The server knows another version of this protocol only.
    Version,
}

impl RefusedPiece {
    pub(crate) const ALL: [Self; 6] = [
        Self::TooLong,
        Self::NoRoom,
        Self::Unknown,
        Self::Malformed,
        Self::Incomplete,
        Self::Version,
    ];

    fn number(self) -> u8 {
        self as u8 + 1
    }
}

/// A refusal, and its reason in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) why: RefusedPiece,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(why: RefusedPiece, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { why, text }
    }
}

/// What the server answers in place of a message's reply.
#[derive(Debug)]
pub(crate) enum Answer {
    Welcome { max_request: u64, piece_bytes: u32 },
    Stored,
    Long(Long),
    Piece(Message),
    Wrapped(Message),
    Refused(Refusal),
}

/// A reply that is to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Long {
    pub(crate) transfer: u128,
    pub(crate) total: u64,
    pub(crate) piece_bytes: u32,
}

/// Bytes in a piece where Homa messages have up to `max_message_bytes`.
pub(crate) fn piece_bytes(max_message_bytes: usize) -> u32 {
    // Both bounds fit.
    max_message_bytes.saturating_sub(HEADER).min(PIECE) as u32
}

/// How many pieces a message has; `None`: too many, or they are too small.
pub(crate) fn pieces(total: u64, piece_bytes: u32) -> Option<u32> {
    if piece_bytes < LEAST_PIECE {
        return None;
    }
    u32::try_from(total.div_ceil(u64::from(piece_bytes))).ok()
}

/// How long the piece is, if there is one of that number.
pub(crate) fn piece_len(total: u64, piece_bytes: u32, index: u32) -> Option<usize> {
    let start = u64::from(index) * u64::from(piece_bytes);
    let left = total.checked_sub(start).filter(|left| *left > 0)?;
    usize::try_from(left.min(u64::from(piece_bytes))).ok()
}

impl Header {
    pub(crate) const fn new(kind: Kind, transfer: u128) -> Self {
        Self {
            kind,
            transfer,
            total: 0,
            max_reply: 0,
            piece_bytes: 0,
            index: 0,
        }
    }

    /// A request of this header and these bytes.
    pub(crate) fn with(&self, body: Message) -> Message {
        let mut head = Vec::with_capacity(HEADER);
        head.extend_from_slice(&[MARK, VERSION, self.kind.number(), 0]);
        head.extend_from_slice(&self.transfer.to_be_bytes());
        head.extend_from_slice(&self.total.to_be_bytes());
        head.extend_from_slice(&self.max_reply.to_be_bytes());
        head.extend_from_slice(&self.piece_bytes.to_be_bytes());
        head.extend_from_slice(&self.index.to_be_bytes());
        let mut request = Message::from(head);
        append(&mut request, body);
        request
    }

    /// Takes the header off a request that begins with [`MARK`].
    pub(crate) fn take(request: &mut Message) -> Result<Self, Refusal> {
        let malformed = |text: String| Refusal::new(RefusedPiece::Malformed, text);
        if request.len() < HEADER {
            let text = format!("{} bytes are no header of {HEADER}", request.len());
            return Err(malformed(text));
        }
        let mut head = request.copy_to_bytes(HEADER);
        head.advance(1);
        let version = head.get_u8();
        if version != VERSION {
            return Err(Refusal::new(
                RefusedPiece::Version,
                format!("version {version} is not known here, only {VERSION}"),
            ));
        }
        let number = head.get_u8();
        let kind = Kind::ALL.into_iter().find(|kind| kind.number() == number);
        let reserved = head.get_u8();
        let Some(kind) = kind.filter(|_| reserved == 0) else {
            return Err(malformed(format!("kind {number} is not known")));
        };
        Ok(Self {
            kind,
            transfer: head.get_u128(),
            total: head.get_u64(),
            max_reply: head.get_u64(),
            piece_bytes: head.get_u32(),
            index: head.get_u32(),
        })
    }
}

impl Answer {
    pub(crate) fn into_message(self) -> Message {
        let head = |kind, code| vec![MARK, VERSION, kind, code];
        match self {
            Self::Welcome {
                max_request,
                piece_bytes,
            } => {
                let mut reply = head(1, 0);
                reply.extend_from_slice(&max_request.to_be_bytes());
                reply.extend_from_slice(&piece_bytes.to_be_bytes());
                reply.into()
            }
            Self::Stored => head(2, 0).into(),
            Self::Long(long) => {
                let mut reply = head(3, 0);
                reply.extend_from_slice(&long.transfer.to_be_bytes());
                reply.extend_from_slice(&long.total.to_be_bytes());
                reply.extend_from_slice(&long.piece_bytes.to_be_bytes());
                reply.into()
            }
            Self::Piece(bytes) => joined(head(4, 0), bytes),
            Self::Wrapped(reply) => joined(head(5, 0), reply),
            Self::Refused(Refusal { why, text }) => {
                let mut reply = head(6, why.number());
                reply.extend_from_slice(control::cut(&text));
                reply.into()
            }
        }
    }

    /// Reads a reply that begins with [`MARK`]; `None` if it makes no sense.
    pub(crate) fn read(mut reply: Message) -> Option<Self> {
        if reply.len() < REPLY_HEADER {
            return None;
        }
        let mut head = reply.copy_to_bytes(REPLY_HEADER);
        let (mark, version) = (head.get_u8(), head.get_u8());
        let (kind, code) = (head.get_u8(), head.get_u8());
        let is_plain = code == 0;
        let left = reply.len();
        Some(match kind {
            _ if mark != MARK || version != VERSION => return None,
            1 if is_plain && left == 12 => Self::Welcome {
                max_request: reply.get_u64(),
                piece_bytes: reply.get_u32(),
            },
            2 if is_plain && left == 0 => Self::Stored,
            3 if is_plain && left == 28 => Self::Long(Long {
                transfer: reply.get_u128(),
                total: reply.get_u64(),
                piece_bytes: reply.get_u32(),
            }),
            4 if is_plain => Self::Piece(reply),
            5 if is_plain => Self::Wrapped(reply),
            6 => Self::Refused(Refusal {
                why: RefusedPiece::ALL
                    .into_iter()
                    .find(|why| why.number() == code)?,
                text: control::shown(&reply.into_bytes()),
            }),
            _ => return None,
        })
    }
}

fn joined(head: Vec<u8>, body: Message) -> Message {
    let mut message = Message::from(head);
    append(&mut message, body);
    message
}

/// Appends all parts, without copying them.
pub(crate) fn append(message: &mut Message, mut more: Message) {
    while let Some(part) = more.pop_part() {
        message.push(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_as_it_was_written_and_is_44_bytes() {
        for kind in Kind::ALL {
            let header = Header {
                kind,
                transfer: u128::MAX - 5,
                total: 5_000_000_000,
                max_reply: 7,
                piece_bytes: 524_288,
                index: 3,
            };
            let mut request = header.with("body".into());
            assert_eq!(request.len(), HEADER + 4);
            assert_eq!(Header::take(&mut request), Ok(header));
            assert_eq!(request.into_bytes(), "body");
        }
    }

    #[test]
    fn headers_that_make_no_sense_are_refused_by_kind() {
        let good = Header::new(Kind::Run, 1).with(Message::new()).into_bytes();
        let why = |bytes: Vec<u8>| match Header::take(&mut bytes.into()) {
            Err(refusal) => refusal.why,
            Ok(header) => panic!("{header:?}"),
        };
        for end in 1..HEADER {
            assert_eq!(why(good[..end].to_vec()), RefusedPiece::Malformed);
        }
        let changed = |at: usize, byte| {
            let mut bytes = good.to_vec();
            bytes[at] = byte;
            why(bytes)
        };
        assert_eq!(changed(1, 2), RefusedPiece::Version);
        for kind in [0, 7, 255] {
            assert_eq!(changed(2, kind), RefusedPiece::Malformed);
        }
        assert_eq!(changed(3, 1), RefusedPiece::Malformed);
    }

    #[test]
    fn answers_read_as_they_were_written_and_others_do_not_read() {
        let long = Long {
            transfer: 9,
            total: 5_000_000,
            piece_bytes: 1_024,
        };
        let answers = [
            Answer::Welcome {
                max_request: 1 << 40,
                piece_bytes: 2_000,
            },
            Answer::Stored,
            Answer::Long(long),
            Answer::Piece("bytes".into()),
            Answer::Wrapped(control::not_understood("no")),
            Answer::Refused(Refusal::new(RefusedPiece::NoRoom, "full")),
        ];
        for answer in answers {
            let shown = format!("{answer:?}");
            let bytes = answer.into_message().into_bytes();
            let read = Answer::read(bytes.clone().into()).expect("it makes sense");
            // The debug form of messages tells of their parts.
            let same = |text: &str| text.replace(" in 2 parts", "").replace(" in 1 parts", "");
            assert_eq!(same(&format!("{read:?}")), same(&shown));
            for at in [0, 1, 2] {
                let mut bytes = bytes.to_vec();
                bytes[at] = 0x77;
                assert!(Answer::read(bytes.into()).is_none());
            }
        }
        for wrong in [
            &b"\xF4\x01\x02"[..],
            b"\xF4\x01\x02\x00x",
            b"\xF4\x01\x06\x09x",
        ] {
            assert!(Answer::read(wrong.to_vec().into()).is_none());
        }
    }

    #[test]
    fn pieces_are_counted_and_measured() {
        assert_eq!(piece_bytes(1_000_000), 524_288);
        assert_eq!(piece_bytes(100_000), 99_956);
        assert_eq!(pieces(1, 1_024), Some(1));
        assert_eq!(pieces(2_048, 1_024), Some(2));
        assert_eq!(pieces(2_049, 1_024), Some(3));
        assert_eq!(pieces(2_049, 1_023), None);
        assert_eq!(pieces(u64::MAX, 1_024), None);
        let len = |index| piece_len(2_049, 1_024, index);
        assert_eq!(
            [len(0), len(1), len(2), len(3)],
            [Some(1_024), Some(1_024), Some(1), None]
        );
        assert_eq!(piece_len(2_048, 1_024, 2), None);
        assert_eq!(piece_len(1, 1_024, u32::MAX), None);
    }
}
