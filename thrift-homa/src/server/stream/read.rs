//! [`Reader`]: whole messages from a connection, in bounded memory.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thrift::protocol::{
    TBinaryInputProtocol, TCompactInputProtocol, TInputProtocol, TMessageIdentifier, TType,
};

use super::Framing;
use super::connection::Connection;
use super::countdown::{Countdown, is_pause};
use crate::limits::Limits;
use crate::protocol::{Encoding, Protocol};

/// Bytes that are read from a connection at once.
const BUFFER: usize = 8 << 10;

/// The longest frame of the thrift crate and its relatives. What claims to be longer is none, unless
/// the limits allow it.
const MAX_FRAME: usize = 16_384_000;

/// So much of a message that is too long is looked at, to tell its sender.
const START: usize = 4 << 10;

/// What keeps its memory for the next message.
const KEEP: usize = 64 << 10;

/// What came next.
pub(super) enum Next<'a> {
    /// A message.
    Message(&'a [u8]),
    /// The start of a message of so many bytes, more than the limit, or of one that goes on past the
    /// limit to an end that is not known.
    TooLong(&'a [u8], Option<usize>),
    /// The start of something whose end cannot be found, and why.
    Undecodable(&'a [u8], String),
}

/// Why nothing more can be read.
#[derive(Debug)]
pub(super) struct Broken(pub(super) String);

/// Reads messages.
pub(super) struct Reader {
    source: Source,
    limits: Limits,
    protocol: Option<Protocol>,
    message: Vec<u8>,
    /// Bytes of a message that is too long, not read yet.
    rest: usize,
}

impl Reader {
    pub(super) fn new(
        connection: Arc<Connection>,
        limits: &Limits,
        protocol: &Option<Protocol>,
    ) -> Self {
        Self {
            source: Source(Arc::new(Mutex::new(Buffered::new(connection)))),
            limits: *limits,
            protocol: protocol.clone(),
            message: Vec::new(),
            rest: 0,
        }
    }

    /// The next message; `None` at the end of the connection. Waits for its first byte as long as it
    /// takes.
    pub(super) fn next(&mut self, framing: Framing) -> Result<Option<Next<'_>>, Broken> {
        self.message.clear();
        if self.message.capacity() > KEEP {
            self.message = Vec::new();
        }
        if !self.source.lock().begin()? {
            return Ok(None);
        }
        match framing {
            Framing::Framed => self.frame().map(Some),
            Framing::Buffered => self.unframed().map(Some),
        }
    }

    /// Reads past what is left of a message that was too long.
    pub(super) fn skip_rest(&mut self) -> Result<(), Broken> {
        let mut source = self.source.lock();
        while self.rest > 0 {
            self.rest -= source.skip(self.rest)?;
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<Next<'_>, Broken> {
        let mut source = self.source.lock();
        let mut length = [0; 4];
        source.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        let longest = MAX_FRAME.max(self.limits.message_bytes);
        if !(1..=longest).contains(&length) {
            return Err(Broken(format!(
                "a frame of {length} bytes: they have 1 to {longest}, is the client's transport \
                 framed?"
            )));
        }
        let whole = length <= self.limits.message_bytes;
        let start = START.min(self.limits.message_bytes);
        let wanted = if whole { length } else { length.min(start) };
        // Memory grows with what arrives, not with what was announced.
        source.read_to(&mut self.message, wanted)?;
        if whole {
            return Ok(Next::Message(&self.message));
        }
        self.rest = length - wanted;
        Ok(Next::TooLong(&self.message, Some(length)))
    }

    /// Finds the end of a message that only its protocol knows, and keeps its bytes: it is executed
    /// when it is complete, so that a slow client holds up no worker.
    fn unframed(&mut self) -> Result<Next<'_>, Broken> {
        let first = self.source.lock().first()?;
        let encoding = Encoding::of(first);
        let configuration = self.limits.configuration();
        let taped = self.source.tape(self.limits.message_bytes);
        let mut protocol: Box<dyn TInputProtocol> = match (&self.protocol, encoding) {
            (Some(Protocol::Custom(custom)), _) => custom.input(Box::new(taped)),
            (_, Some(Encoding::Binary | Encoding::OldBinary)) => Box::new(
                TBinaryInputProtocol::with_config(taped, false, configuration),
            ),
            (_, Some(Encoding::Compact)) => {
                Box::new(TCompactInputProtocol::with_config(taped, configuration))
            }
            (_, None) => return Err(Broken(format!("no protocol begins with {first:#04x}"))),
        };
        let read = read_past(&mut *protocol, self.limits.depth);
        drop(protocol);
        let mut source = self.source.lock();
        let tape = source.take_tape();
        self.message = tape.bytes;
        if tape.over {
            return Ok(Next::TooLong(&self.message, None));
        }
        if let Some(broken) = source.broken.take() {
            return Err(broken);
        }
        match read {
            Ok(_) => Ok(Next::Message(&self.message)),
            Err(error) => Ok(Next::Undecodable(&self.message, error)),
        }
    }
}

/// Reads a message to its end.
fn read_past(
    protocol: &mut dyn TInputProtocol,
    depth: usize,
) -> Result<TMessageIdentifier, String> {
    let depth = i8::try_from(depth).unwrap_or(i8::MAX);
    let mut read = || {
        let header = protocol.read_message_begin()?;
        protocol.skip_till_depth(TType::Struct, depth)?;
        protocol.read_message_end()?;
        Ok(header)
    };
    read().map_err(|error: thrift::Error| crate::error::error_text(&error))
}

/// Bytes of a connection that were read and are not used yet.
struct Buffered {
    connection: Arc<Connection>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Of the message that is being read.
    countdown: Countdown,
    tape: Tape,
    /// What kept a protocol from reading on.
    broken: Option<Broken>,
}

/// A copy of what a protocol has read.
#[derive(Default)]
struct Tape {
    bytes: Vec<u8>,
    limit: usize,
    /// Whether more than that was asked for.
    over: bool,
}

/// Shared with protocols that custom factories make.
struct Source(Arc<Mutex<Buffered>>);

impl Source {
    fn lock(&self) -> MutexGuard<'_, Buffered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A way to read up to `limit` bytes that keeps them.
    fn tape(&self, limit: usize) -> Self {
        self.lock().tape = Tape {
            limit,
            ..Tape::default()
        };
        Self(self.0.clone())
    }
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut source = self.lock();
        if source.tape.bytes.len() + into.len() > source.tape.limit {
            source.tape.over = true;
            return Err(io::Error::other("the message is over the limit"));
        }
        if let Err(broken) = source.fill() {
            source.broken = Some(broken);
            return Ok(0);
        }
        let count = into.len().min(source.end - source.start);
        let start = source.start;
        into[..count].copy_from_slice(&source.buffer[start..start + count]);
        source.start += count;
        source.tape.bytes.extend_from_slice(&into[..count]);
        Ok(count)
    }
}

impl Buffered {
    fn new(connection: Arc<Connection>) -> Self {
        Self {
            countdown: Countdown::new(connection.patience()),
            connection,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            tape: Tape::default(),
            broken: None,
        }
    }

    /// Waits for the first byte of a message; false at the end of the connection.
    fn begin(&mut self) -> Result<bool, Broken> {
        let rested = self
            .countdown
            .rest(|time| self.connection.set_read_timeout(time));
        rested.map_err(|error| Broken(error.to_string()))?;
        while self.start == self.end {
            match self.connection.read(&mut self.buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => (self.start, self.end) = (0, count),
                Err(error) if is_pause(&error) => {}
                // A client that is gone without a word leaves nothing undone.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(Broken(error.to_string())),
            }
        }
        self.countdown.start();
        Ok(true)
    }

    fn first(&self) -> Result<u8, Broken> {
        let first = self.buffer[self.start..self.end].first();
        first
            .copied()
            .ok_or_else(|| Broken("nothing is there to read".to_owned()))
    }

    /// Has at least one byte, in the middle of a message.
    fn fill(&mut self) -> Result<(), Broken> {
        while self.start == self.end {
            self.go_on()?;
            let read = self.connection.read(&mut self.buffer);
            (self.start, self.end) = (0, check(read)?);
            self.countdown.moved(self.end);
        }
        Ok(())
    }

    fn read_exact(&mut self, into: &mut [u8]) -> Result<(), Broken> {
        let mut filled = 0;
        while filled < into.len() {
            self.fill()?;
            let count = (into.len() - filled).min(self.end - self.start);
            into[filled..filled + count]
                .copy_from_slice(&self.buffer[self.start..self.start + count]);
            self.start += count;
            filled += count;
        }
        Ok(())
    }

    /// Reads `wanted` bytes into `message`.
    fn read_to(&mut self, message: &mut Vec<u8>, wanted: usize) -> Result<(), Broken> {
        while message.len() < wanted {
            let left = wanted - message.len();
            // Past the buffer no more is set aside than has come, should the rest never come.
            if self.start == self.end && left >= BUFFER && message.len() >= BUFFER {
                self.read_straight(message, left)?;
                continue;
            }
            self.fill()?;
            let count = left.min(self.end - self.start);
            message.extend_from_slice(&self.buffer[self.start..self.start + count]);
            self.start += count;
        }
        Ok(())
    }

    /// Reads up to `left` bytes past the buffer.
    fn read_straight(&mut self, message: &mut Vec<u8>, left: usize) -> Result<(), Broken> {
        self.go_on()?;
        let before = message.len();
        message.resize(before + left.min(KEEP).min(before), 0);
        let read = self.connection.read(&mut message[before..]);
        message.truncate(before + *read.as_ref().unwrap_or(&0));
        self.countdown.moved(check(read)?);
        Ok(())
    }

    /// Whether there is time left for another read in the middle of a message.
    fn go_on(&mut self) -> Result<(), Broken> {
        let left = self
            .countdown
            .go_on(|left| self.connection.set_read_timeout(left));
        left.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => Broken(format!(
                "a message has taken {:?} to come",
                self.countdown.whole()
            )),
            _ => Broken(error.to_string()),
        })
    }

    /// Reads past at most `count` bytes; returns how many.
    fn skip(&mut self, count: usize) -> Result<usize, Broken> {
        self.fill()?;
        let count = count.min(self.end - self.start);
        self.start += count;
        Ok(count)
    }

    fn take_tape(&mut self) -> Tape {
        std::mem::take(&mut self.tape)
    }
}

/// What a read in the middle of a message has come to.
fn check(read: io::Result<usize>) -> Result<usize, Broken> {
    match read {
        Ok(0) => Err(Broken("it ended in a message".to_owned())),
        Ok(count) => Ok(count),
        Err(error) if is_pause(&error) => Ok(0),
        Err(error) => Err(Broken(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::server::stream::PATIENCE;
    use crate::server::stream::connection::Stream;

    #[test]
    fn a_message_that_stalls_takes_about_the_memory_of_what_came() {
        for come in [1, 300, 8_191, 8_192, 20_000, 100_000, 999_999] {
            let (here, mut there) = UnixStream::pair().unwrap();
            let connection = Connection::new(Stream::Unix(here), Framing::Framed, PATIENCE);
            let connection = Arc::new(connection.unwrap());
            let mut reader = Reader::new(connection, &Limits::default(), &None);
            let sender = std::thread::spawn(move || {
                there.write_all(&1_000_000_u32.to_be_bytes()).unwrap();
                there.write_all(&vec![0; come]).unwrap();
            });
            // The end shows what would be held if nothing came any more.
            let Err(Broken(why)) = reader.next(Framing::Framed) else {
                panic!("a part of it is missing");
            };
            assert!(why.contains("it ended in a message"), "{why}");
            sender.join().unwrap();
            assert_eq!(reader.message.len(), come);
            let held = reader.message.capacity();
            assert!(held <= 4 * come.max(64), "{held} for {come}");
        }
    }
}
