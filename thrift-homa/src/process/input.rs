//! [`Arguments`]: what a processor reads a request from.

use std::cell::RefCell;
use std::io::{self, Read};

use bytes::Buf;
use thrift::protocol::{
    TBinaryInputProtocol, TCompactInputProtocol, TInputProtocol, TMessageIdentifier,
};

use crate::forward::forward_input;
use crate::limits::Limits;
use crate::protocol::Encoding;

/// Reads a request where it lies, however many parts it has.
pub(super) struct Source<'a, B>(&'a RefCell<B>);

impl<B: Buf> Read for Source<'_, B> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut bytes = self.0.borrow_mut();
        let count = into.len().min(bytes.chunk().len());
        into[..count].copy_from_slice(&bytes.chunk()[..count]);
        bytes.advance(count);
        Ok(count)
    }

    fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()> {
        let mut bytes = self.0.borrow_mut();
        let left = bytes.remaining();
        if into.len() > left {
            bytes.advance(left);
            let text = format!("the message ends where {} bytes more belong", into.len());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        bytes.copy_to_slice(into);
        Ok(())
    }
}

/// A protocol over the bytes of a request.
pub(super) enum Decoder<'a, B: Buf> {
    Binary(TBinaryInputProtocol<Source<'a, B>>),
    Compact(TCompactInputProtocol<Source<'a, B>>),
    Custom(Box<dyn TInputProtocol + Send>),
}

impl<'a, B: Buf> Decoder<'a, B> {
    /// Reads from `bytes`, which hold what is left of the request. Nothing in it can claim to be
    /// longer than that: whoever reserves memory for a claim reserves in proportion.
    pub(super) fn new(encoding: Encoding, bytes: &'a RefCell<B>, limits: &Limits) -> Self {
        let left = bytes.borrow().remaining();
        let configuration = Limits {
            message_bytes: limits.message_bytes.min(left),
            string_bytes: limits.string_bytes.min(left),
            ..*limits
        }
        .configuration();
        let source = Source(bytes);
        match encoding {
            // Strict or not, an input protocol that is not strict reads both.
            Encoding::Binary | Encoding::OldBinary => Self::Binary(
                TBinaryInputProtocol::with_config(source, false, configuration),
            ),
            Encoding::Compact => {
                Self::Compact(TCompactInputProtocol::with_config(source, configuration))
            }
        }
    }

    pub(super) fn protocol(&mut self) -> &mut dyn TInputProtocol {
        match self {
            Self::Binary(protocol) => protocol,
            Self::Compact(protocol) => protocol,
            Self::Custom(protocol) => protocol,
        }
    }
}

/// The input of a processor: a request whose header was read before. It notes when reading fails,
/// since generated code makes errors of its own of that.
pub(super) struct Arguments<'a, B: Buf> {
    decoder: Decoder<'a, B>,
    header: Option<TMessageIdentifier>,
    failure: Option<String>,
}

impl<'a, B: Buf> Arguments<'a, B> {
    pub(super) fn new(decoder: Decoder<'a, B>, header: TMessageIdentifier) -> Self {
        Self {
            decoder,
            header: Some(header),
            failure: None,
        }
    }

    /// Why reading failed first, if it did.
    pub(super) fn failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    fn inner(&mut self) -> &mut dyn TInputProtocol {
        self.decoder.protocol()
    }

    fn inner_ref(&self) -> &dyn TInputProtocol {
        match &self.decoder {
            Decoder::Binary(protocol) => protocol,
            Decoder::Compact(protocol) => protocol,
            Decoder::Custom(protocol) => protocol,
        }
    }

    fn check<T>(&mut self, result: thrift::Result<T>) -> thrift::Result<T> {
        if let Err(error) = &result
            && self.failure.is_none()
        {
            self.failure = Some(crate::error::error_text(error));
        }
        result
    }
}

impl<B: Buf> TInputProtocol for Arguments<'_, B> {
    fn read_message_begin(&mut self) -> thrift::Result<TMessageIdentifier> {
        if let Some(header) = self.header.take() {
            return Ok(header);
        }
        let result = self.inner().read_message_begin();
        self.check(result)
    }

    forward_input!();
}
