//! [`Line`]: one connection, one request and one reply at a time.

use std::io::{self, Read as _, Write as _};
use std::mem::{self, MaybeUninit};
use std::time::{Duration, Instant};

use homa_client::{Message, MessageWriter};
use socket2::Socket;
use thrift::{TransportError, TransportErrorKind};

use super::dial::Dial;
use crate::uri::StreamAddr;

/// A frame's length, in front of it.
const HEADER: usize = 4;

/// What is read of the connection at once, at least.
const CHUNK: usize = 8_192;

/// A buffer for requests that is kept has this size at most.
const KEPT: usize = 64 << 10;

/// One connection.
#[derive(Debug)]
pub(crate) struct Line {
    dial: Dial,
    is_framed: bool,
    /// Longest message.
    limit: usize,
    timeout: Option<Duration>,
    /// `None` when something went wrong: the next request opens another.
    socket: Option<Socket>,
    /// The request being written, with room for its length in front.
    request: Vec<u8>,
    /// It got too long; what else is written of it is refused.
    is_refused: bool,
    /// Oneway requests over this connection that may still be answered: nobody should, but when they
    /// fail many servers do, `TServer` of the thrift crate among them.
    oneways: usize,
    reply: Reply,
    /// Of the call under way.
    deadline: Option<Instant>,
    /// What went wrong, with its kind: as an IO error it would lose that on the way.
    fault: Option<TransportError>,
}

/// The reply being read.
#[derive(Debug)]
struct Reply {
    state: State,
    /// Bytes that came, of which those from `at` to `end` were not read.
    chunk: Box<[u8]>,
    at: usize,
    end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is no call, or its reply was read.
    Idle,
    /// Nothing of it has been read.
    Awaited,
    /// So many bytes of it may follow: of a frame, or up to the limit.
    Begun { left: usize },
}

impl Line {
    pub(super) fn open(
        dial: Dial,
        limit: usize,
        timeout: Option<Duration>,
    ) -> Result<Self, TransportError> {
        let socket = dial.dial(dial.deadline())?;
        let mut line = Self::of(dial, limit, timeout);
        line.socket = Some(socket);
        Ok(line)
    }

    /// One whose first request opens a connection.
    pub(crate) fn closed(server: StreamAddr, limit: usize, timeout: Duration) -> Self {
        Self::of(Dial { server, timeout }, limit, Some(timeout))
    }

    fn of(dial: Dial, limit: usize, timeout: Option<Duration>) -> Self {
        Self {
            is_framed: dial.server.is_framed(),
            dial,
            limit,
            timeout,
            socket: None,
            request: Vec::new(),
            is_refused: false,
            oneways: 0,
            reply: Reply {
                state: State::Idle,
                chunk: vec![0; CHUNK].into(),
                at: 0,
                end: 0,
            },
            deadline: None,
            fault: None,
        }
    }

    /// Sends a whole request and reads the whole reply to it, unless it is oneway, in frames and until
    /// the deadline: the end of the line's timeout, which errors name, of whoever has asked for this
    /// line. What comes in between is told from the reply by `is_reply`.
    pub(crate) fn exchange(
        &mut self,
        request: &Message,
        is_oneway: bool,
        is_reply: impl Fn(&Message) -> bool,
        deadline: Instant,
    ) -> Result<Option<Message>, TransportError> {
        self.deadline = Some(deadline);
        self.settle();
        let exchanged = self.try_exchange(request, is_oneway, is_reply, deadline);
        exchanged.map_err(|error| match self.give_up(error.into()) {
            thrift::Error::Transport(error) => error,
            error => TransportError::new(TransportErrorKind::Unknown, format!("{error:?}")),
        })
    }

    fn try_exchange(
        &mut self,
        request: &Message,
        is_oneway: bool,
        is_reply: impl Fn(&Message) -> bool,
        deadline: Instant,
    ) -> io::Result<Option<Message>> {
        self.begin_request();
        for part in request.parts() {
            self.write(part)?;
        }
        self.send_over(is_oneway, Some(deadline))?;
        if is_oneway {
            self.oneways = self.oneways.saturating_add(1);
            return Ok(None);
        }
        let mut reply = MessageWriter::new();
        let mut chunk = [0; CHUNK];
        loop {
            let count = self.read(&mut chunk)?;
            reply.write_all(&chunk[..count])?;
            if !matches!(self.reply.state, State::Begun { left: 0 }) {
                continue;
            }
            let whole = mem::take(&mut reply).finish();
            if is_reply(&whole) {
                self.end_reply();
                return Ok(Some(whole));
            }
            if self.oneways == 0 {
                return Err(self.fails(
                    TransportErrorKind::Unknown,
                    format!("{} answered another call than this one", self.dial.server),
                ));
            }
            // A failed oneway that the server has answered: what was asked for may follow.
            self.oneways -= 1;
            self.reply.state = State::Awaited;
        }
    }

    /// Gives up a connection that the server has closed while nothing was under way, and skips what
    /// it has answered to oneway requests. To hang up then would lose those that it has not read.
    fn settle(&mut self) {
        loop {
            match self.look() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(1..) if self.oneways > 0 && self.skip_answer().is_ok() => {}
                // Closed, broken, or it sends what nobody has asked for.
                _ => return self.hang_up(),
            }
        }
    }

    /// Whether something has come, without waiting for it.
    fn look(&self) -> io::Result<usize> {
        let unread = self.reply.end - self.reply.at;
        if unread > 0 {
            return Ok(unread);
        }
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        socket.set_nonblocking(true)?;
        let come = socket.peek(&mut [MaybeUninit::uninit()]);
        socket.set_nonblocking(false)?;
        come
    }

    fn skip_answer(&mut self) -> io::Result<()> {
        let mut chunk = [0; CHUNK];
        self.reply.state = State::Awaited;
        while self.reply.state != (State::Begun { left: 0 }) {
            self.read(&mut chunk)?;
        }
        self.reply.state = State::Idle;
        self.oneways -= 1;
        Ok(())
    }

    /// Drops whatever is left of the last message.
    pub(super) fn begin_request(&mut self) {
        if self.reply.state != State::Idle {
            // Its reply may still come, and would be taken for that of this one.
            self.hang_up();
        }
        self.request.clear();
        self.request.shrink_to(KEPT);
        self.request.extend([0; HEADER]);
        self.is_refused = false;
        self.fault = None;
    }

    /// Adds to the request.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = self.request.len().saturating_sub(HEADER) + bytes.len();
        if size > self.limit || self.is_refused {
            self.request.clear();
            self.is_refused = true;
            return Err(self.fails(
                TransportErrorKind::SizeLimit,
                format!(
                    "a Thrift message to this server holds up to {} bytes, this one has at least \
                     {size}: raise max_message_bytes on both sides",
                    self.limit
                ),
            ));
        }
        if self.request.is_empty() {
            self.request.extend([0; HEADER]);
        }
        self.request.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    /// Sends the request, if there is one, over a new connection if there is none.
    pub(super) fn send(&mut self, is_oneway: bool) -> io::Result<()> {
        if self.request.len() <= HEADER {
            return Ok(());
        }
        // A time that the clock does not reach is no limit.
        self.deadline = self
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout));
        self.send_over(is_oneway, self.dial.deadline())
    }

    /// Sends the request. If there is no connection, one has to be there by `opened_by`.
    fn send_over(&mut self, is_oneway: bool, opened_by: Option<Instant>) -> io::Result<()> {
        if self.socket.is_none() {
            match self.dial.dial(opened_by) {
                Ok(socket) => self.socket = Some(socket),
                Err(error) => return Err(self.fails(error.kind, error.message)),
            }
        }
        let mut request = mem::take(&mut self.request);
        let size = u32::try_from(request.len() - HEADER).unwrap_or(u32::MAX);
        request[..HEADER].copy_from_slice(&size.to_be_bytes());
        let from = if self.is_framed { 0 } else { HEADER };
        let sent = self.write_all(&request[from..]);
        request.clear();
        self.request = request;
        sent?;
        if !is_oneway {
            self.reply.state = State::Awaited;
        }
        Ok(())
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let left = self.time_left()?;
            let Some(socket) = &mut self.socket else {
                return Err(io::ErrorKind::NotConnected.into());
            };
            let timed = match left {
                Some(_) => socket.set_write_timeout(left),
                None => Ok(()),
            };
            match timed.and_then(|()| socket.write(bytes)) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broke(&error)),
            }
        }
        Ok(())
    }

    /// Reads of the reply. Where there is none, and at the end of a frame, it reads nothing.
    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let left = match self.reply.state {
            State::Idle => return Ok(0),
            State::Begun { left } => left,
            State::Awaited => {
                let size = if self.is_framed {
                    self.frame_size()?
                } else {
                    self.limit
                };
                self.reply.state = State::Begun { left: size };
                size
            }
        };
        if left == 0 && !self.is_framed {
            return Err(self.fails(
                TransportErrorKind::SizeLimit,
                format!(
                    "the reply is over the limit of {} bytes: raise max_message_bytes",
                    self.limit
                ),
            ));
        }
        let wanted = into.len().min(left);
        let count = self.take(&mut into[..wanted])?;
        self.reply.state = State::Begun { left: left - count };
        Ok(count)
    }

    fn frame_size(&mut self) -> io::Result<usize> {
        let mut header = [0; HEADER];
        let mut have = 0;
        while have < HEADER {
            have += self.take(&mut header[have..])?;
        }
        let size = u32::from_be_bytes(header) as usize;
        if size > self.limit {
            return Err(self.fails(
                TransportErrorKind::SizeLimit,
                format!(
                    "the reply of {size} bytes is over the limit of {}: raise max_message_bytes, \
                     and see that the server is framed",
                    self.limit
                ),
            ));
        }
        Ok(size)
    }

    /// Takes at least one byte of what has come, or waits for it. What is wanted is not empty.
    fn take(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if self.reply.at == self.reply.end {
            // Long ones go past the chunk.
            if into.len() >= CHUNK {
                return self.receive(Some(into));
            }
            self.reply.end = 0;
            self.reply.at = 0;
            self.reply.end = self.receive(None)?;
        }
        let have = &self.reply.chunk[self.reply.at..self.reply.end];
        let count = have.len().min(into.len());
        into[..count].copy_from_slice(&have[..count]);
        self.reply.at += count;
        Ok(count)
    }

    /// Receives into `into`, or the chunk.
    fn receive(&mut self, mut into: Option<&mut [u8]>) -> io::Result<usize> {
        loop {
            let left = self.time_left()?;
            let Some(socket) = &mut self.socket else {
                return Err(io::ErrorKind::NotConnected.into());
            };
            let timed = match left {
                Some(_) => socket.set_read_timeout(left),
                None => Ok(()),
            };
            let into = match &mut into {
                Some(into) => &mut **into,
                None => &mut *self.reply.chunk,
            };
            match timed.and_then(|()| socket.read(into)) {
                Ok(0) => {
                    return Err(self.fails(
                        TransportErrorKind::NotOpen,
                        format!("{} closed the connection", self.dial.server),
                    ));
                }
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broke(&error)),
            }
        }
    }

    /// The reply was read as a message. The connection can be used again if nothing is left of it.
    pub(super) fn end_reply(&mut self) {
        let is_whole = match self.reply.state {
            State::Begun { left } => left == 0 || !self.is_framed,
            State::Idle | State::Awaited => false,
        };
        if !is_whole || self.reply.at != self.reply.end {
            self.hang_up();
        }
        self.reply.state = State::Idle;
    }

    /// After any error: the connection is closed, and the error gets its kind.
    pub(super) fn give_up(&mut self, error: thrift::Error) -> thrift::Error {
        self.hang_up();
        self.fault.take().map_or(error, thrift::Error::Transport)
    }

    fn hang_up(&mut self) {
        self.socket = None;
        self.oneways = 0;
        self.reply.state = State::Idle;
        self.reply.at = 0;
        self.reply.end = 0;
    }

    /// `None`: for ever.
    fn time_left(&mut self) -> io::Result<Option<Duration>> {
        let Some(deadline) = self.deadline else {
            return Ok(None);
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.too_late());
        }
        Ok(Some(left))
    }

    fn too_late(&mut self) -> io::Error {
        self.fails(
            TransportErrorKind::TimedOut,
            format!(
                "no reply from {} within {:?}; the request may have run",
                self.dial.server,
                self.timeout.unwrap_or_default()
            ),
        )
    }

    fn broke(&mut self, error: &io::Error) -> io::Error {
        match error.kind() {
            // The former is what Linux says.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.too_late(),
            _ => self.fails(
                TransportErrorKind::NotOpen,
                format!("the connection to {} broke: {error}", self.dial.server),
            ),
        }
    }

    fn fails(&mut self, kind: TransportErrorKind, message: String) -> io::Error {
        let error = io::Error::other(message.clone());
        self.fault = Some(TransportError::new(kind, message));
        error
    }
}
