//! [`HomaInputProtocol`] and [`HomaOutputProtocol`]: Thrift's protocols over the halves.

use std::fmt;
use std::sync::Arc;

use thrift::protocol::{TInputProtocol, TMessageIdentifier, TMessageType, TOutputProtocol};

use super::channel::Channel;
use super::halves::{HomaReadTransport, HomaWriteTransport};
use super::options::{ClientOptions, OnewayMode};
use crate::forward::{forward_input, forward_output};

/// Reads replies, each with a new protocol of the configured kind: what an error has left in the
/// last one does no harm. Made by [`HomaTransport::protocols`](crate::HomaTransport::protocols).
pub struct HomaInputProtocol {
    channel: Arc<Channel>,
    options: Arc<ClientOptions>,
    inner: Box<dyn TInputProtocol + Send>,
}

/// Writes requests, each with a new protocol of the configured kind, and sends them. Made by
/// [`HomaTransport::protocols`](crate::HomaTransport::protocols). For multiplexed services put it
/// into Thrift's `TMultiplexedOutputProtocol`.
pub struct HomaOutputProtocol {
    channel: Arc<Channel>,
    options: Arc<ClientOptions>,
    inner: Box<dyn TOutputProtocol + Send>,
    /// Whether the message that is being written is a oneway one.
    is_oneway: bool,
}

impl HomaInputProtocol {
    pub(crate) fn new(channel: Arc<Channel>, options: Arc<ClientOptions>) -> Self {
        Self {
            inner: Self::fresh(&channel, &options),
            channel,
            options,
        }
    }

    fn fresh(channel: &Arc<Channel>, options: &ClientOptions) -> Box<dyn TInputProtocol + Send> {
        let transport = HomaReadTransport::new(channel.clone());
        options.protocol.input(transport, &options.limits)
    }

    fn inner(&mut self) -> &mut dyn TInputProtocol {
        &mut *self.inner
    }

    fn inner_ref(&self) -> &dyn TInputProtocol {
        &*self.inner
    }

    fn check<T>(&mut self, result: thrift::Result<T>) -> thrift::Result<T> {
        check(&self.channel, result)
    }
}

/// Thrift's own conversion of IO errors loses some kinds: the half has kept the error.
fn check<T>(channel: &Channel, result: thrift::Result<T>) -> thrift::Result<T> {
    result.map_err(|error| channel.take_failure().map_or(error, thrift::Error::from))
}

impl TInputProtocol for HomaInputProtocol {
    fn read_message_begin(&mut self) -> thrift::Result<TMessageIdentifier> {
        self.inner = Self::fresh(&self.channel, &self.options);
        let result = self.inner.read_message_begin();
        self.check(result)
    }

    forward_input!();
}

impl HomaOutputProtocol {
    pub(crate) fn new(channel: Arc<Channel>, options: Arc<ClientOptions>) -> Self {
        Self {
            inner: Self::fresh(&channel, &options),
            channel,
            options,
            is_oneway: false,
        }
    }

    fn fresh(channel: &Arc<Channel>, options: &ClientOptions) -> Box<dyn TOutputProtocol + Send> {
        let transport = HomaWriteTransport::new(channel.clone());
        options.protocol.output(transport, &options.limits)
    }

    fn inner(&mut self) -> &mut dyn TOutputProtocol {
        &mut *self.inner
    }

    fn check<T>(&mut self, result: thrift::Result<T>) -> thrift::Result<T> {
        check(&self.channel, result)
    }

    /// A oneway message was sent.
    fn sent_oneway(&mut self) -> thrift::Result<()> {
        if self.options.oneway == OnewayMode::Detach {
            self.channel.detach();
            return Ok(());
        }
        let (_, reply) = self.channel.receive().inspect_err(|_| {
            // It is returned: nobody else is to get it.
            drop(self.channel.take_failure());
        })?;
        if reply.is_empty() {
            return Ok(());
        }
        // Servers of other make may answer with an exception.
        let reply = std::io::Cursor::new(reply.into_bytes());
        let mut input = self.options.protocol.input(reply, &self.options.limits);
        match input.read_message_begin()?.message_type {
            TMessageType::Exception => {
                let error = thrift::Error::read_application_error_from_in_protocol(&mut *input)?;
                Err(thrift::Error::Application(error))
            }
            _ => Ok(()),
        }
    }
}

impl TOutputProtocol for HomaOutputProtocol {
    fn write_message_begin(&mut self, identifier: &TMessageIdentifier) -> thrift::Result<()> {
        // With the last message goes whatever was not sent of it.
        self.inner = Self::fresh(&self.channel, &self.options);
        self.is_oneway = identifier.message_type == TMessageType::OneWay;
        drop(self.channel.take_failure());
        let result = self.inner.write_message_begin(identifier);
        self.check(result)
    }

    fn write_message_end(&mut self) -> thrift::Result<()> {
        let result = self.inner.write_message_end();
        self.check(result)
    }

    fn flush(&mut self) -> thrift::Result<()> {
        let turn = self.channel.turn();
        let result = self.inner.flush();
        self.check(result)?;
        let is_sent = self.channel.turn() != turn;
        if is_sent && std::mem::take(&mut self.is_oneway) {
            return self.sent_oneway();
        }
        Ok(())
    }

    forward_output!();
}

impl fmt::Debug for HomaInputProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HomaInputProtocol")
            .field("peer", &self.channel.link().peer())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for HomaOutputProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HomaOutputProtocol")
            .field("peer", &self.channel.link().peer())
            .finish_non_exhaustive()
    }
}
