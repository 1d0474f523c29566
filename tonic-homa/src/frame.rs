//! The native frame, `HGR1`: one Homa message of gRPC over Homa.
//!
//! A frame is a header of 48 bytes, the initial metadata ("head"), the trailing metadata
//! ("tail") and a piece of the body, without padding; all integers are big-endian.
//!
//! | offset | size | field | content |
//! |---|---|---|---|
//! | 0 | 4 | magic | `HGR1` |
//! | 4 | 1 | kind | see [`Kind`] |
//! | 5 | 1 | header length | 48; more is accepted and the excess skipped |
//! | 6 | 2 | flags | undefined ones are ignored |
//! | 8 | 8 | epoch | of the client, in both directions |
//! | 16 | 8 | call | from 1; 0 in PING and PONG |
//! | 24 | 8 | pos | by kind |
//! | 32 | 8 | arg | by kind |
//! | 40 | 4 | head length | |
//! | 44 | 4 | tail length | |
//!
//! [`Frame::parse`] refuses what makes no sense, so that a [`Frame`] can be acted upon without
//! further checks; [`Frame::emit`] cannot fail. Metadata inside is not looked at here, see
//! [`metadata`](crate::metadata).
//!
//! ```
//! use tonic_homa::frame::{Frame, Kind, Lengths, Sender};
//!
//! let ping = Frame { epoch: 7, call: 0, going_away: false, kind: Kind::Ping { nonce: 42 } };
//! let bytes = ping.emit(Lengths::default());
//! let (frame, lengths) = Frame::parse(&bytes, bytes.len(), Sender::ClientRequest)?;
//! assert_eq!(frame, ping);
//! assert_eq!(lengths.body, 0);
//! # Ok::<(), tonic_homa::frame::FrameError>(())
//! ```

/// The first four bytes of every frame; an incompatible version changes the last one.
pub const MAGIC: [u8; 4] = *b"HGR1";

/// The version in [`MAGIC`], as told in `RESET(VERSION)`.
pub const VERSION: u64 = 1;

/// Bytes of the header as this crate writes it.
pub const HEADER_LEN: usize = 48;

mod flag {
    pub(super) const START: u16 = 0x01;
    pub(super) const END: u16 = 0x02;
    pub(super) const TRAILERS: u16 = 0x04;
    pub(super) const TOTAL: u16 = 0x08;
    pub(super) const PUSH: u16 = 0x10;
    pub(super) const STOP: u16 = 0x20;
    pub(super) const GOAWAY: u16 = 0x40;
}

/// A frame's header in a form that cannot express nonsense.
///
/// ```
/// use tonic_homa::frame::{CancelReason, Frame, HEADER_LEN, Kind, Lengths};
///
/// let kind = Kind::Cancel { reason: CancelReason::Cancelled };
/// let cancel = Frame { epoch: 7, call: 1, going_away: false, kind };
/// assert_eq!(cancel.emit(Lengths::default()).len(), HEADER_LEN);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The client's random number for one server address. Zero only in a [`Kind::Reset`] that
    /// answers something unreadable.
    pub epoch: u64,
    /// The call within the epoch, from 1. Zero in PING and PONG, and in a [`Kind::Reset`] that
    /// answers something unreadable.
    pub call: u64,
    /// The server is stopping; set by servers only.
    pub going_away: bool,
    /// What the frame is for.
    pub kind: Kind,
}

/// What a frame is for, with the fields that belong to it.
///
/// ```
/// use tonic_homa::frame::{Flight, Kind};
///
/// // A whole unary call: its body ends here, and there are 50 ms for it.
/// let flight = Flight { start: true, end: true, ..Flight::default() };
/// let open = Kind::Open { flight, deadline_us: 50_000, push: true };
/// # assert_ne!(open, Kind::Ping { nonce: 1 });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 0x01, client's request: opens a call.
    Open {
        /// Metadata and body; `start` is always set and `offset` is 0.
        flight: Flight,
        /// Microseconds until the deadline; 0 if there is none.
        deadline_us: u64,
        /// Whether the client accepts requests of the server.
        push: bool,
    },
    /// 0x02, either side's request: more of a body. Also the response to such a request, in place of
    /// an ACK, with more of the body of the other direction.
    Data {
        /// Metadata (from servers only) and body.
        flight: Flight,
        /// Body offset up to which the other side may send; 0 says nothing of it. Not told together
        /// with `flight.total`.
        credit: u64,
    },
    /// 0x03, client's request: asks for more of a body.
    Pull {
        /// First byte wanted.
        from: u64,
        /// Most body bytes wanted.
        most: u64,
    },
    /// 0x04, request of the side that receives a body: raises the credit.
    Window {
        /// Body offset up to which may be sent.
        credit: u64,
        /// The body is no longer wanted.
        stop: bool,
    },
    /// 0x05, client's request: ends a call.
    Cancel {
        /// Why.
        reason: CancelReason,
    },
    /// 0x06, client's request: asks for a sign of life.
    Ping {
        /// Comes back in the PONG.
        nonce: u64,
    },
    /// 0x81, response to OPEN and PULL.
    Reply {
        /// Metadata and body.
        flight: Flight,
        /// The server's epoch; `None` where `flight.total` takes its place.
        server_epoch: Option<u64>,
    },
    /// 0x82, response to OPEN: the server's first flight comes later.
    Deferred {
        /// Offset up to which the request body may be sent.
        credit: u64,
        /// The server's epoch.
        server_epoch: u64,
    },
    /// 0x83, response to DATA, WINDOW and CANCEL.
    Ack {
        /// Body offset up to which may be sent; 0 if not for DATA.
        credit: u64,
        /// The body is no longer wanted.
        stop: bool,
    },
    /// 0x84, response to PING.
    Pong {
        /// The one of the PING.
        nonce: u64,
        /// The server's epoch.
        server_epoch: u64,
    },
    /// 0x85, response to any request: refused, or the call is over. The body may hold a text.
    Reset {
        /// Why.
        reason: ResetReason,
    },
}

/// What a frame with metadata and body carries.
///
/// ```
/// use tonic_homa::frame::Flight;
///
/// // The last bytes of a response of 100,000, and its status.
/// let last = Flight { end: true, trailers: true, offset: 90_000, ..Flight::default() };
/// assert!(!last.start && last.total.is_none());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flight {
    /// The initial metadata is here (maybe 0 bytes); `offset` is 0.
    pub start: bool,
    /// The body of this direction ends with this frame.
    pub end: bool,
    /// The trailing metadata is here; from servers only.
    pub trailers: bool,
    /// The body's whole length, where it is told.
    pub total: Option<u64>,
    /// Body offset of this frame's first body byte.
    pub offset: u64,
}

/// Why a client ends a call.
///
/// ```
/// use tonic_homa::frame::CancelReason;
///
/// // As it stands in the frame.
/// assert_eq!(CancelReason::DeadlineExceeded as u8, 4);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CancelReason {
    /// The caller lost interest.
    Cancelled = 1,
    /// The deadline has passed.
    DeadlineExceeded = 4,
}

/// Why a request was refused.
///
/// ```
/// use tonic_homa::frame::ResetReason;
///
/// fn can_be_repeated(reason: ResetReason) -> bool {
///     use ResetReason::{Overloaded, Stopping, Version};
///     matches!(reason, Stopping | Overloaded | Version)
/// }
/// assert!(can_be_repeated(ResetReason::Stopping));
/// assert!(!can_be_repeated(ResetReason::Duplicate));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ResetReason {
    /// The receiver knows no such call.
    UnknownCall = 1,
    /// The server is stopping; the call surely did not run.
    Stopping = 2,
    /// The server is overloaded; the call surely did not run.
    Overloaded = 3,
    /// The call was opened before.
    Duplicate = 4,
    /// The call was cancelled.
    Cancelled = 5,
    /// The request broke the protocol.
    Protocol = 6,
    /// The request is of another version; the call surely did not run.
    Version = 7,
}

impl ResetReason {
    fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            1 => Self::UnknownCall,
            2 => Self::Stopping,
            3 => Self::Overloaded,
            4 => Self::Duplicate,
            5 => Self::Cancelled,
            6 => Self::Protocol,
            7 => Self::Version,
            _ => return None,
        })
    }
}

/// How a message came in, which decides about the kinds and flags that fit.
///
/// ```
/// use tonic_homa::frame::{Frame, FrameError, Kind, Lengths, Sender};
///
/// let kind = Kind::Ping { nonce: 1 };
/// let ping = Frame { epoch: 7, call: 0, going_away: false, kind }.emit(Lengths::default());
/// assert!(Frame::parse(&ping, ping.len(), Sender::ClientRequest).is_ok());
/// // No answer is a PING.
/// assert!(Frame::parse(&ping, ping.len(), Sender::ServerResponse).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A Homa request that a client sent.
    ClientRequest,
    /// A Homa request that a server sent.
    ServerRequest,
    /// A server's response to a client's request.
    ServerResponse,
    /// A client's response to a server's request.
    ClientResponse,
}

impl Sender {
    fn is_server(self) -> bool {
        matches!(self, Self::ServerRequest | Self::ServerResponse)
    }
}

/// Where the sections of a message are: head, tail and body follow each other after `header`
/// bytes.
///
/// ```
/// use tonic_homa::frame::{HEADER_LEN, Lengths};
///
/// let lengths = Lengths { head: 120, ..Lengths::default() };
/// assert_eq!(usize::from(lengths.header), HEADER_LEN);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Bytes of the header, 48 to 255. Only parsed: [`Frame::emit`] always writes 48.
    pub header: u8,
    /// Bytes of initial metadata.
    pub head: u32,
    /// Bytes of trailing metadata.
    pub tail: u32,
    /// Bytes of body. Only parsed: on the wire it is what remains of the message.
    pub body: usize,
}

impl Default for Lengths {
    fn default() -> Self {
        Self {
            header: HEADER_LEN as u8,
            head: 0,
            tail: 0,
            body: 0,
        }
    }
}

/// Why bytes are no frame.
///
/// ```
/// use tonic_homa::frame::{Frame, FrameError, Sender};
///
/// let parsed = Frame::parse(b"GET / HTTP/1.1", 14, Sender::ClientRequest);
/// assert_eq!(parsed, Err(FrameError::Short { len: 14 }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Fewer bytes than a header.
    #[error("{len} bytes are no frame: a header has 48")]
    Short {
        /// Bytes in the message.
        len: usize,
    },
    /// Another protocol.
    #[error("it does not begin with HGR1")]
    Magic,
    /// `HGR` of another version. Answered with `RESET(VERSION)`.
    #[error("version byte {0:#04x} is not spoken here")]
    Version(u8),
    /// A kind that does not exist.
    #[error("kind {0:#04x} does not exist")]
    Kind(u8),
    /// A kind that this sender does not use, or not in this Homa role.
    #[error("kind {0:#04x} does not come this way")]
    Role(u8),
    /// A header of less than 48 bytes.
    #[error("a header of {0} bytes is too short")]
    HeaderLen(u8),
    /// The sections are longer than the message.
    #[error("header and metadata are longer than the message")]
    Lengths,
    /// Epoch 0.
    #[error("the epoch is 0")]
    Epoch,
    /// Call 0 in a frame that belongs to a call, or another call in PING and PONG.
    #[error("call {0} does not fit this kind")]
    Call(u64),
    /// Initial metadata without the flag, or from a side that has sent it already.
    #[error("initial metadata where none belongs")]
    Head,
    /// Trailing metadata without the flag, or from a client.
    #[error("trailing metadata where none belongs")]
    Tail,
    /// An OPEN without initial metadata.
    #[error("an OPEN without START")]
    NoStart,
    /// A first flight that does not begin at the body's start.
    #[error("START at body offset {0}")]
    StartOffset(u64),
    /// Trailing metadata before the body's end is known.
    #[error("TRAILERS without END or TOTAL")]
    EarlyTrailers,
    /// Body bytes past the total, or past the range of offsets.
    #[error("body bytes past the end")]
    PastEnd,
    /// Metadata or body in a kind that carries none.
    #[error("kind {0:#04x} carries nothing")]
    Carries(u8),
    /// A reset or cancel code that does not exist.
    #[error("code {0} does not exist")]
    Code(u64),
}

impl Frame {
    /// Writes the header. `lengths.head` and `lengths.tail` have to be those of the sections
    /// that follow.
    pub fn emit(&self, lengths: Lengths) -> [u8; HEADER_LEN] {
        let mut flags = if self.going_away { flag::GOAWAY } else { 0 };
        let (kind, pos, arg) = match self.kind {
            Kind::Open {
                flight,
                deadline_us,
                push,
            } => {
                flags |= flight.flags() | if push { flag::PUSH } else { 0 };
                (0x01, flight.total.unwrap_or(0), deadline_us)
            }
            Kind::Data { flight, credit } => {
                flags |= flight.flags();
                (0x02, flight.offset, flight.total.unwrap_or(credit))
            }
            Kind::Pull { from, most } => (0x03, from, most),
            Kind::Window { credit, stop } => {
                flags |= if stop { flag::STOP } else { 0 };
                (0x04, credit, 0)
            }
            Kind::Cancel { reason } => (0x05, 0, reason as u64),
            Kind::Ping { nonce } => (0x06, nonce, 0),
            Kind::Reply {
                flight,
                server_epoch,
            } => {
                flags |= flight.flags();
                (
                    0x81,
                    flight.offset,
                    flight.total.or(server_epoch).unwrap_or(0),
                )
            }
            Kind::Deferred {
                credit,
                server_epoch,
            } => (0x82, credit, server_epoch),
            Kind::Ack { credit, stop } => {
                flags |= if stop { flag::STOP } else { 0 };
                (0x83, credit, 0)
            }
            Kind::Pong {
                nonce,
                server_epoch,
            } => (0x84, nonce, server_epoch),
            Kind::Reset { reason } => {
                let version = if reason == ResetReason::Version {
                    VERSION
                } else {
                    0
                };
                (0x85, reason as u64, version)
            }
        };
        let mut out = [0; HEADER_LEN];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = kind;
        out[5] = HEADER_LEN as u8;
        out[6..8].copy_from_slice(&flags.to_be_bytes());
        out[8..16].copy_from_slice(&self.epoch.to_be_bytes());
        out[16..24].copy_from_slice(&self.call.to_be_bytes());
        out[24..32].copy_from_slice(&pos.to_be_bytes());
        out[32..40].copy_from_slice(&arg.to_be_bytes());
        out[40..44].copy_from_slice(&lengths.head.to_be_bytes());
        out[44..48].copy_from_slice(&lengths.tail.to_be_bytes());
        out
    }

    /// Reads the header of a message that is `message_len` bytes long; `start` are its first
    /// bytes, of which 48 are enough.
    ///
    /// # Errors
    ///
    /// Whatever the protocol forbids; see [`FrameError`]. Never panics.
    pub fn parse(
        start: &[u8],
        message_len: usize,
        sender: Sender,
    ) -> Result<(Self, Lengths), FrameError> {
        let Some(header) = start.first_chunk::<HEADER_LEN>() else {
            return Err(FrameError::Short {
                len: start.len().min(message_len),
            });
        };
        let raw = RawHeader::split(header, message_len)?;
        raw.check_role(sender)?;
        let kind = raw.kind(sender)?;
        raw.check_call(&kind)?;
        let frame = Self {
            epoch: raw.epoch,
            call: raw.call,
            going_away: raw.has(flag::GOAWAY) && sender.is_server(),
            kind,
        };
        Ok((frame, raw.lengths))
    }
}

impl Flight {
    fn flags(self) -> u16 {
        let mut flags = 0;
        for (set, flag) in [
            (self.start, flag::START),
            (self.end, flag::END),
            (self.trailers, flag::TRAILERS),
            (self.total.is_some(), flag::TOTAL),
        ] {
            if set {
                flags |= flag;
            }
        }
        flags
    }
}

/// The header's fields after the checks that need no knowledge of the kind.
struct RawHeader {
    kind: u8,
    flags: u16,
    epoch: u64,
    call: u64,
    pos: u64,
    arg: u64,
    lengths: Lengths,
}

impl RawHeader {
    fn split(header: &[u8; HEADER_LEN], message_len: usize) -> Result<Self, FrameError> {
        if header[..3] != MAGIC[..3] {
            return Err(FrameError::Magic);
        }
        if header[3] != MAGIC[3] {
            return Err(FrameError::Version(header[3]));
        }
        let header_len = header[5];
        if usize::from(header_len) < HEADER_LEN {
            return Err(FrameError::HeaderLen(header_len));
        }
        let (head, tail) = (be_u32(header, 40), be_u32(header, 44));
        let sections = u64::from(header_len) + u64::from(head) + u64::from(tail);
        let body = usize::try_from(sections)
            .ok()
            .and_then(|used| message_len.checked_sub(used));
        Ok(Self {
            kind: header[4],
            flags: u16::from_be_bytes([header[6], header[7]]),
            epoch: be_u64(header, 8),
            call: be_u64(header, 16),
            pos: be_u64(header, 24),
            arg: be_u64(header, 32),
            lengths: Lengths {
                header: header_len,
                head,
                tail,
                body: body.ok_or(FrameError::Lengths)?,
            },
        })
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    fn check_role(&self, sender: Sender) -> Result<(), FrameError> {
        let fits = match self.kind {
            0x01 | 0x03 | 0x05 | 0x06 => sender == Sender::ClientRequest,
            0x02 => true,
            0x04 => matches!(sender, Sender::ClientRequest | Sender::ServerRequest),
            0x81 | 0x82 | 0x84 => sender == Sender::ServerResponse,
            0x83 | 0x85 => matches!(sender, Sender::ServerResponse | Sender::ClientResponse),
            unknown => return Err(FrameError::Kind(unknown)),
        };
        if fits {
            Ok(())
        } else {
            Err(FrameError::Role(self.kind))
        }
    }

    fn check_call(&self, kind: &Kind) -> Result<(), FrameError> {
        match kind {
            // May answer something whose epoch and call could not be read.
            Kind::Reset { .. } => return Ok(()),
            Kind::Ping { .. } | Kind::Pong { .. } if self.call == 0 => {}
            Kind::Ping { .. } | Kind::Pong { .. } => return Err(FrameError::Call(self.call)),
            _ if self.call == 0 => return Err(FrameError::Call(0)),
            _ => {}
        }
        if self.epoch == 0 {
            Err(FrameError::Epoch)
        } else {
            Ok(())
        }
    }

    fn kind(&self, sender: Sender) -> Result<Kind, FrameError> {
        if !matches!(self.kind, 0x01 | 0x02 | 0x81) {
            self.check_empty()?;
        }
        Ok(match self.kind {
            0x01 => {
                let flight = self.flight(sender, 0, self.pos)?;
                if !flight.start {
                    return Err(FrameError::NoStart);
                }
                Kind::Open {
                    flight,
                    deadline_us: self.arg,
                    push: self.has(flag::PUSH),
                }
            }
            0x02 => {
                let flight = self.flight(sender, self.pos, self.arg)?;
                if flight.start && !sender.is_server() {
                    return Err(FrameError::Head);
                }
                let credit = if flight.total.is_none() { self.arg } else { 0 };
                Kind::Data { flight, credit }
            }
            0x03 => Kind::Pull {
                from: self.pos,
                most: self.arg,
            },
            0x04 => Kind::Window {
                credit: self.pos,
                stop: self.has(flag::STOP),
            },
            0x05 => Kind::Cancel {
                reason: match self.arg {
                    1 => CancelReason::Cancelled,
                    4 => CancelReason::DeadlineExceeded,
                    code => return Err(FrameError::Code(code)),
                },
            },
            0x06 => Kind::Ping { nonce: self.pos },
            0x81 => {
                let flight = self.flight(sender, self.pos, self.arg)?;
                let server_epoch = flight.total.is_none().then_some(self.arg);
                Kind::Reply {
                    flight,
                    server_epoch,
                }
            }
            0x82 => Kind::Deferred {
                credit: self.pos,
                server_epoch: self.arg,
            },
            0x83 => Kind::Ack {
                credit: self.pos,
                stop: self.has(flag::STOP),
            },
            0x84 => Kind::Pong {
                nonce: self.pos,
                server_epoch: self.arg,
            },
            0x85 => {
                let reason = ResetReason::from_code(self.pos);
                Kind::Reset {
                    reason: reason.ok_or(FrameError::Code(self.pos))?,
                }
            }
            unknown => return Err(FrameError::Kind(unknown)),
        })
    }

    fn flight(&self, sender: Sender, offset: u64, total: u64) -> Result<Flight, FrameError> {
        let flight = Flight {
            start: self.has(flag::START),
            end: self.has(flag::END),
            trailers: self.has(flag::TRAILERS),
            total: self.has(flag::TOTAL).then_some(total),
            offset,
        };
        if self.lengths.head > 0 && !flight.start {
            return Err(FrameError::Head);
        }
        if (self.lengths.tail > 0 && !flight.trailers) || (flight.trailers && !sender.is_server()) {
            return Err(FrameError::Tail);
        }
        if flight.start && offset != 0 {
            return Err(FrameError::StartOffset(offset));
        }
        if flight.trailers && !flight.end && flight.total.is_none() {
            return Err(FrameError::EarlyTrailers);
        }
        let end = offset
            .checked_add(self.lengths.body as u64)
            .ok_or(FrameError::PastEnd)?;
        if flight.total.is_some_and(|total| end > total) {
            return Err(FrameError::PastEnd);
        }
        Ok(flight)
    }

    /// Everything but flights carries nothing, except that a RESET may have a text.
    fn check_empty(&self) -> Result<(), FrameError> {
        let Lengths {
            head, tail, body, ..
        } = self.lengths;
        let text = self.kind == 0x85;
        if head == 0 && tail == 0 && (body == 0 || text) {
            Ok(())
        } else {
            Err(FrameError::Carries(self.kind))
        }
    }
}

fn be_u32(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn be_u64(bytes: &[u8; HEADER_LEN], at: usize) -> u64 {
    bytes[at..at + 8]
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
pub(crate) mod tests;
