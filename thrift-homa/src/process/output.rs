//! [`Results`]: what a processor writes its reply to.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use homa_client::Message;
use thrift::protocol::{
    TBinaryOutputProtocol, TCompactOutputProtocol, TMessageIdentifier, TMessageType,
    TOutputProtocol,
};

use super::{Format, method_name};
use crate::bounded::BoundedWriter;
use crate::forward::forward_output;
use crate::limits::Limits;
use crate::protocol::Encoding;

/// Where the protocols of this crate write.
pub(super) struct Sink<'a>(&'a RefCell<BoundedWriter>);

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where custom protocols write: what factories make borrows nothing.
#[derive(Clone)]
pub(crate) struct SharedSink(Arc<Mutex<BoundedWriter>>);

impl SharedSink {
    fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(BoundedWriter::new(limit))))
    }

    /// Runs `with` on the writer.
    pub(crate) fn with<T>(&self, with: impl FnOnce(&mut BoundedWriter) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for SharedSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|writer| writer.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Encoder<'a> {
    Binary(TBinaryOutputProtocol<Sink<'a>>),
    Compact(TCompactOutputProtocol<Sink<'a>>),
    Custom(Box<dyn TOutputProtocol + Send>, SharedSink),
}

/// The output of a processor. Each message that begins takes the place of the one before, which
/// failed half way: generated code then goes on to write an exception.
pub(super) struct Results<'a> {
    format: &'a Format,
    limits: Limits,
    writer: &'a RefCell<BoundedWriter>,
    encoder: Encoder<'a>,
    /// The kind of the first message, and of the last.
    kinds: Option<(TMessageType, TMessageType)>,
    /// Whether one of them was too long.
    overflowed: bool,
}

/// What a processor wrote.
pub(super) struct Written {
    /// The kind of the first message, and of the last.
    pub(super) kinds: Option<(TMessageType, TMessageType)>,
    /// Whether the last was too long, or is an exception because one before it was.
    pub(super) over: bool,
    /// Whether there are any bytes, even before the first message.
    pub(super) is_empty: bool,
}

impl<'a> Results<'a> {
    pub(super) fn new(
        format: &'a Format,
        limits: Limits,
        writer: &'a RefCell<BoundedWriter>,
    ) -> Self {
        Self {
            format,
            limits,
            writer,
            encoder: Encoder::new(format, &limits, writer),
            kinds: None,
            overflowed: false,
        }
    }

    /// Tells what was written; the bytes are in the writer then.
    pub(super) fn finish(self) -> Written {
        if let Encoder::Custom(protocol, sink) = self.encoder {
            drop(protocol);
            *self.writer.borrow_mut() = sink.with(std::mem::take);
        }
        let writer = self.writer.borrow();
        let replied = self
            .kinds
            .is_some_and(|(_, last)| last == TMessageType::Reply);
        Written {
            kinds: self.kinds,
            over: writer.is_over() || (self.overflowed && !replied),
            is_empty: writer.len() == 0,
        }
    }

    fn inner(&mut self) -> &mut dyn TOutputProtocol {
        match &mut self.encoder {
            Encoder::Binary(protocol) => protocol,
            Encoder::Compact(protocol) => protocol,
            Encoder::Custom(protocol, _) => protocol,
        }
    }

    #[allow(
        clippy::unused_self,
        reason = "the macro calls it where others look at the result"
    )]
    fn check<T>(&mut self, result: thrift::Result<T>) -> thrift::Result<T> {
        result
    }
}

impl<'a> Encoder<'a> {
    fn new(format: &'a Format, limits: &Limits, writer: &'a RefCell<BoundedWriter>) -> Self {
        match format {
            Format::Known(encoding) => {
                let (sink, configuration) = (Sink(writer), limits.configuration());
                let binary = |strict| {
                    Self::Binary(TBinaryOutputProtocol::with_config(
                        Sink(writer),
                        strict,
                        limits.configuration(),
                    ))
                };
                match encoding {
                    Encoding::Binary => binary(true),
                    Encoding::OldBinary => binary(false),
                    Encoding::Compact => {
                        Self::Compact(TCompactOutputProtocol::with_config(sink, configuration))
                    }
                }
            }
            Format::Custom(custom) => {
                let sink = SharedSink::new(limits.message_bytes);
                let protocol = custom.reply_output(sink.clone(), limits.message_bytes);
                Self::Custom(protocol, sink)
            }
        }
    }

    fn is_over(&self, writer: &RefCell<BoundedWriter>) -> bool {
        match self {
            Self::Custom(_, sink) => sink.with(|writer| writer.is_over()),
            Self::Binary(_) | Self::Compact(_) => writer.borrow().is_over(),
        }
    }
}

impl TOutputProtocol for Results<'_> {
    fn write_message_begin(&mut self, identifier: &TMessageIdentifier) -> thrift::Result<()> {
        let kind = identifier.message_type;
        if self.kinds.is_some() {
            self.overflowed |= self.encoder.is_over(self.writer);
            self.writer.borrow_mut().clear();
            self.encoder = Encoder::new(self.format, &self.limits, self.writer);
        }
        self.kinds = Some((self.kinds.map_or(kind, |(first, _)| first), kind));
        let name = &*identifier.name;
        if kind == TMessageType::Exception && name.contains(':') {
            // The crate's multiplexed processor names the service in errors of its own, and clients
            // then report a wrong name in place of the error.
            let number = identifier.sequence_number;
            let identifier = TMessageIdentifier::new(method_name(name), kind, number);
            return self.inner().write_message_begin(&identifier);
        }
        self.inner().write_message_begin(identifier)
    }

    fn write_message_end(&mut self) -> thrift::Result<()> {
        self.inner().write_message_end()
    }

    /// Sends nothing: the reply leaves once, when the processor has returned.
    fn flush(&mut self) -> thrift::Result<()> {
        self.inner().flush()
    }

    forward_output!();
}

/// The bytes in the writer, as a message.
pub(super) fn take(writer: RefCell<BoundedWriter>) -> Message {
    writer.into_inner().finish()
}
