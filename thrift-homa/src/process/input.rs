//! [`Arguments`]: what a processor reads a request from.

use std::cell::RefCell;
use std::io::{self, Read};

use bytes::Buf;
use thrift::protocol::{
    TBinaryInputProtocol, TCompactInputProtocol, TInputProtocol, TListIdentifier, TMapIdentifier,
    TMessageIdentifier, TSetIdentifier,
};
use thrift::{ProtocolError, ProtocolErrorKind};

use crate::bounded::copy_out;
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
        copy_out(&mut *bytes, into);
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
    /// Lists, sets and maps that are open. The thrift crate bounds structures only, which is enough
    /// for generated code, but not for one that reads whatever comes.
    open: usize,
    depth: usize,
}

impl<'a, B: Buf> Arguments<'a, B> {
    pub(super) fn new(decoder: Decoder<'a, B>, header: TMessageIdentifier, depth: usize) -> Self {
        Self {
            decoder,
            header: Some(header),
            failure: None,
            open: 0,
            depth,
        }
    }

    fn begin<T>(
        &mut self,
        read: impl FnOnce(&mut dyn TInputProtocol) -> thrift::Result<T>,
    ) -> thrift::Result<T> {
        if self.open >= self.depth {
            let text = format!("containers are nested deeper than {}", self.depth);
            let error = ProtocolError::new(ProtocolErrorKind::DepthLimit, text);
            return self.check(Err(error.into()));
        }
        self.open += 1;
        let result = read(self.inner());
        self.check(result)
    }

    fn end(
        &mut self,
        read: impl FnOnce(&mut dyn TInputProtocol) -> thrift::Result<()>,
    ) -> thrift::Result<()> {
        self.open = self.open.saturating_sub(1);
        let result = read(self.inner());
        self.check(result)
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

    fn read_list_begin(&mut self) -> thrift::Result<TListIdentifier> {
        self.begin(|input| input.read_list_begin())
    }

    fn read_list_end(&mut self) -> thrift::Result<()> {
        self.end(|input| input.read_list_end())
    }

    fn read_set_begin(&mut self) -> thrift::Result<TSetIdentifier> {
        self.begin(|input| input.read_set_begin())
    }

    fn read_set_end(&mut self) -> thrift::Result<()> {
        self.end(|input| input.read_set_end())
    }

    fn read_map_begin(&mut self) -> thrift::Result<TMapIdentifier> {
        self.begin(|input| input.read_map_begin())
    }

    fn read_map_end(&mut self) -> thrift::Result<()> {
        self.end(|input| input.read_map_end())
    }

    forward_input!(but_containers);
}
