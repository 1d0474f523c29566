//! Clients over TCP and unix sockets, with the limits, the timeouts and the errors of those over
//! Homa, and the sockets of servers.
//!
//! The [`line`](line::Line) holds one connection and one message each way; the protocols here sit on
//! its ends. Whatever goes wrong, the connection is given up and the next call opens another: on a
//! connection, what is left of one reply would be taken for the beginning of the next.

mod dial;
mod line;
mod listen;

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thrift::protocol::{TInputProtocol, TMessageIdentifier, TMessageType, TOutputProtocol};

use crate::client::ClientOptions;
use crate::forward::{forward_input, forward_output};
use crate::uri::StreamAddr;
use dial::Dial;
pub(crate) use line::Line;
pub(crate) use listen::serve;

/// Opens a connection, and what a generated client needs to use it.
pub(crate) fn connect(
    server: StreamAddr,
    options: &Arc<ClientOptions>,
    connect_timeout: Duration,
) -> thrift::Result<(LineInputProtocol, LineOutputProtocol)> {
    let dial = Dial {
        server,
        timeout: connect_timeout,
    };
    let line = Line::open(dial, options.limits.message_bytes, options.timeout)?;
    let ends = Ends {
        line: Arc::new(Mutex::new(line)),
        options: options.clone(),
    };
    let input = LineInputProtocol {
        inner: ends.input(),
        ends: ends.clone(),
    };
    let output = LineOutputProtocol {
        inner: ends.output(),
        ends,
        is_oneway: false,
    };
    Ok((input, output))
}

/// Both ends of a line.
#[derive(Clone)]
struct Ends {
    line: Arc<Mutex<Line>>,
    options: Arc<ClientOptions>,
}

impl Ends {
    fn line(&self) -> MutexGuard<'_, Line> {
        lock(&self.line)
    }

    fn input(&self) -> Box<dyn TInputProtocol + Send> {
        let half = Half(self.line.clone());
        self.options.protocol.input(half, &self.options.limits)
    }

    fn output(&self) -> Box<dyn TOutputProtocol + Send> {
        let half = Half(self.line.clone());
        self.options.protocol.output(half, &self.options.limits)
    }

    /// Gives errors the kind that they have over Homa.
    fn check<T>(&self, result: thrift::Result<T>) -> thrift::Result<T> {
        result.map_err(|error| self.line().give_up(error))
    }
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    // Nothing panics while it is held; if something did, the line would be opened again.
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A line as the thrift crate's protocols take it.
struct Half(Arc<Mutex<Line>>);

impl Read for Half {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        lock(&self.0).read(into)
    }
}

impl Write for Half {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).write(bytes)
    }

    /// The protocol above it sends.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads replies, each with a new protocol of the configured kind.
pub(crate) struct LineInputProtocol {
    ends: Ends,
    inner: Box<dyn TInputProtocol + Send>,
}

impl LineInputProtocol {
    fn inner(&mut self) -> &mut dyn TInputProtocol {
        &mut *self.inner
    }

    fn inner_ref(&self) -> &dyn TInputProtocol {
        &*self.inner
    }

    fn check<T>(&mut self, result: thrift::Result<T>) -> thrift::Result<T> {
        self.ends.check(result)
    }
}

impl TInputProtocol for LineInputProtocol {
    fn read_message_begin(&mut self) -> thrift::Result<TMessageIdentifier> {
        self.inner = self.ends.input();
        let result = self.inner.read_message_begin();
        self.check(result)
    }

    fn read_message_end(&mut self) -> thrift::Result<()> {
        let result = self.inner.read_message_end();
        self.check(result)?;
        self.ends.line().end_reply();
        Ok(())
    }

    forward_input!(but_end);
}

/// Writes requests, each with a new protocol of the configured kind, and sends them.
pub(crate) struct LineOutputProtocol {
    ends: Ends,
    inner: Box<dyn TOutputProtocol + Send>,
    is_oneway: bool,
}

impl LineOutputProtocol {
    fn inner(&mut self) -> &mut dyn TOutputProtocol {
        &mut *self.inner
    }

    fn check<T>(&mut self, result: thrift::Result<T>) -> thrift::Result<T> {
        self.ends.check(result)
    }
}

impl TOutputProtocol for LineOutputProtocol {
    fn write_message_begin(&mut self, identifier: &TMessageIdentifier) -> thrift::Result<()> {
        self.ends.line().begin_request();
        self.inner = self.ends.output();
        self.is_oneway = identifier.message_type == TMessageType::OneWay;
        let result = self.inner.write_message_begin(identifier);
        self.check(result)
    }

    fn write_message_end(&mut self) -> thrift::Result<()> {
        let result = self.inner.write_message_end();
        self.check(result)
    }

    fn flush(&mut self) -> thrift::Result<()> {
        let result = self.inner.flush();
        self.check(result)?;
        let sent = self.ends.line().send(self.is_oneway);
        self.check(sent.map_err(thrift::Error::from))
    }

    forward_output!();
}

impl fmt::Debug for LineInputProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineInputProtocol").finish_non_exhaustive()
    }
}

impl fmt::Debug for LineOutputProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineOutputProtocol").finish_non_exhaustive()
    }
}
