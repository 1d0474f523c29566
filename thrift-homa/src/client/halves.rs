//! [`HomaReadTransport`] and [`HomaWriteTransport`]: plain streams of bytes, whose messages are RPCs.
//!
//! There is nothing of Thrift in them: they serve programs on any version of the thrift crate,
//! which takes every `Read` and `Write` for a transport.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Buf;
use homa_client::{Message, MessageWriter};

use super::channel::Channel;
use super::failure::HomaError;
use crate::bounded::{copy_in, copy_out};

/// The half of a [`HomaTransport`](crate::HomaTransport) that is written to.
///
/// What is written is gathered; [`flush`](Write::flush) sends it as one Homa RPC and does not wait
/// for the reply. An RPC that is still pending then is left to itself: it was a oneway message.
pub struct HomaWriteTransport {
    channel: Arc<Channel>,
    request: MessageWriter,
}

/// The half of a [`HomaTransport`](crate::HomaTransport) that is read from.
///
/// The first read after a flush waits for the reply; the others never do. After its last byte, and
/// where there is none, reading reports the end of the stream.
pub struct HomaReadTransport {
    channel: Arc<Channel>,
    /// The turn that `reply` belongs to.
    turn: Option<u64>,
    /// What is left of it.
    reply: Message,
}

impl HomaWriteTransport {
    pub(crate) fn new(channel: Arc<Channel>) -> Self {
        Self {
            channel,
            request: MessageWriter::new(),
        }
    }
}

impl Write for HomaWriteTransport {
    /// Fails if the message gets longer than may be sent; all of it is forgotten then, and what is
    /// written next begins a new one.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = self.request.len().saturating_add(bytes.len());
        let limit = self.channel.link().limit();
        if size > limit {
            self.request = MessageWriter::new();
            let error = self.channel.failed(HomaError::TooLong { size, limit });
            return Err(error.into());
        }
        copy_in(&mut self.request, bytes)
    }

    /// Sends what was written as one RPC. Does nothing if nothing was.
    fn flush(&mut self) -> io::Result<()> {
        if self.request.is_empty() {
            return Ok(());
        }
        let request = std::mem::take(&mut self.request);
        Ok(self.channel.send(request.finish())?)
    }
}

impl HomaReadTransport {
    pub(crate) fn new(channel: Arc<Channel>) -> Self {
        Self {
            channel,
            turn: None,
            reply: Message::new(),
        }
    }
}

impl Read for HomaReadTransport {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let turn = self.channel.turn();
        if self.turn != Some(turn) {
            // Whatever comes of it: it is asked for once.
            self.turn = Some(turn);
            self.reply = Message::new();
            let (turn, reply) = self.channel.receive()?;
            self.turn = Some(turn);
            self.reply = reply;
        }
        let count = into.len().min(self.reply.chunk().len());
        copy_out(&mut self.reply, &mut into[..count]);
        Ok(count)
    }
}

impl fmt::Debug for HomaWriteTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HomaWriteTransport")
            .field("peer", &self.channel.link().peer())
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for HomaReadTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HomaReadTransport")
            .field("peer", &self.channel.link().peer())
            .field("reply", &self.reply)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    /// Programs on another version of the thrift crate use them.
    #[test]
    fn the_halves_and_what_is_below_them_know_nothing_of_thrift() {
        for source in [
            include_str!("halves.rs"),
            include_str!("channel.rs"),
            include_str!("link.rs"),
            include_str!("detached.rs"),
            include_str!("failure.rs"),
            include_str!("../pieces/client.rs"),
            include_str!("../pieces/wire.rs"),
        ] {
            let name = ["thrift", "::"].concat();
            assert!(!source.contains(&name));
        }
    }
}
