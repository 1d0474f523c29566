//! From the bytes of a request to the bytes of its reply.

use std::panic::{AssertUnwindSafe, catch_unwind};

use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TCompactInputProtocol, TCompactOutputProtocol,
    TInputProtocol, TMessageIdentifier, TMessageType, TOutputProtocol,
};
use thrift::server::TProcessor;
use thrift::{ApplicationError, ApplicationErrorKind, TConfiguration};

use crate::control;

/// Most elements that a request may claim for one list, set or map. Generated code may reserve
/// memory for what a request claims.
const MAX_CONTAINER: usize = 100_000;
/// How deep structures may be nested.
const MAX_DEPTH: usize = 64;

/// What to answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Send these bytes: a Thrift message, or a control reply.
    Message(Vec<u8>),
    /// Oneway, and executed: the sender should have had its control reply before.
    Oneway,
}

/// The protocols that a server understands, told apart by a message's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// With the version in front.
    Binary,
    /// Of the time before the version.
    OldBinary,
    Compact,
}

impl Protocol {
    fn of(request: &[u8]) -> Option<Self> {
        match request.first()? {
            0x80 => Some(Self::Binary),
            0x00 => Some(Self::OldBinary),
            0x82 => Some(Self::Compact),
            _ => None,
        }
    }

    fn read<'a>(self, from: &'a [u8], limit: usize) -> Box<dyn TInputProtocol + 'a> {
        let config = TConfiguration::builder()
            .max_message_size(Some(limit))
            .max_frame_size(Some(limit))
            .max_string_size(Some(limit))
            .max_container_size(Some(MAX_CONTAINER))
            .max_recursion_depth(Some(MAX_DEPTH))
            .build()
            .unwrap_or_default();
        match self {
            // Strict or not, an input protocol that is not strict reads both.
            Self::Binary | Self::OldBinary => {
                Box::new(TBinaryInputProtocol::with_config(from, false, config))
            }
            Self::Compact => Box::new(TCompactInputProtocol::with_config(from, config)),
        }
    }

    fn write<'a>(self, into: &'a mut Vec<u8>) -> Box<dyn TOutputProtocol + 'a> {
        match self {
            Self::Binary => Box::new(TBinaryOutputProtocol::new(into, true)),
            Self::OldBinary => Box::new(TBinaryOutputProtocol::new(into, false)),
            Self::Compact => Box::new(TCompactOutputProtocol::new(into)),
        }
    }
}

/// A request whose header was read.
pub(crate) struct Call<'a> {
    request: &'a [u8],
    protocol: Protocol,
    header: TMessageIdentifier,
    limit: usize,
}

impl<'a> Call<'a> {
    /// Reads the header. `Err` holds the control reply to what is not a request.
    pub(crate) fn parse(request: &'a [u8], limit: usize) -> Result<Self, Vec<u8>> {
        let Some(protocol) = Protocol::of(request) else {
            return Err(control::not_understood("unknown protocol"));
        };
        let read = || protocol.read(request, limit).read_message_begin();
        let header = match catch_unwind(AssertUnwindSafe(read)) {
            Ok(Ok(header)) => header,
            Ok(Err(error)) => return Err(control::not_understood(&format!("bad header: {error}"))),
            Err(_) => return Err(control::not_understood("bad header")),
        };
        match header.message_type {
            TMessageType::Call | TMessageType::OneWay => Ok(Self {
                request,
                protocol,
                header,
                limit,
            }),
            _ => Err(control::not_understood("a reply is not a request")),
        }
    }

    /// Whether the sender wants no reply.
    pub(crate) fn is_oneway(&self) -> bool {
        self.header.message_type == TMessageType::OneWay
    }

    /// Executes the request.
    pub(crate) fn run(&self, processor: &dyn TProcessor) -> Reply {
        let mut reply = Vec::new();
        let process = || {
            let mut input = self.protocol.read(self.request, self.limit);
            let mut output = self.protocol.write(&mut reply);
            processor.process(&mut *input, &mut *output)
        };
        let result = catch_unwind(AssertUnwindSafe(process));
        if self.is_oneway() {
            // Generated code writes an exception for a failed oneway; nobody reads it.
            return Reply::Oneway;
        }
        let limit = self.limit;
        Reply::Message(match result {
            Ok(Ok(())) if reply.is_empty() => control::accepted().to_vec(),
            Ok(Ok(())) if reply.len() <= limit => reply,
            Ok(Ok(())) => {
                let size = reply.len();
                self.exception(
                    ApplicationErrorKind::InternalError,
                    &format!(
                        "the reply of {size} bytes is over the limit of {limit}: \
                         use a TCP transport for it"
                    ),
                )
            }
            Ok(Err(thrift::Error::Application(error))) => {
                self.exception(error.kind, &error.message)
            }
            Ok(Err(error @ thrift::Error::Protocol(_))) => {
                self.exception(ApplicationErrorKind::ProtocolError, &format!("{error:?}"))
            }
            Ok(Err(error)) => self.exception(ApplicationErrorKind::Unknown, &format!("{error:?}")),
            Err(_) => self.exception(ApplicationErrorKind::InternalError, "the handler panicked"),
        })
    }

    /// An exception in the caller's protocol, under the name by which the caller knows the method.
    fn exception(&self, kind: ApplicationErrorKind, message: &str) -> Vec<u8> {
        let name = self
            .header
            .name
            .rsplit_once(':')
            .map_or(&*self.header.name, |(_, name)| name);
        let number = self.header.sequence_number;
        let header = TMessageIdentifier::new(name, TMessageType::Exception, number);
        let error = ApplicationError::new(kind, message);
        let mut reply = Vec::new();
        let mut write = || {
            let mut output = self.protocol.write(&mut reply);
            output.write_message_begin(&header)?;
            thrift::Error::write_application_error_to_out_protocol(&error, &mut *output)?;
            output.write_message_end()
        };
        match write() {
            Ok(()) if reply.len() <= self.limit => reply,
            // Its texts are as long as the caller made them.
            _ => control::not_understood("the exception is over the limit"),
        }
    }
}

/// Executes one request with `processor` and tells what to answer, without any network. The reply
/// is never longer than `limit` bytes, and nothing in the request makes this panic.
///
/// The protocol (binary or compact) is that of the request. A panic in the handler, or a reply
/// over the limit, becomes an exception of kind `InternalError`; what is no Thrift request gets a
/// control reply that says so.
pub fn process_message(processor: &dyn TProcessor, request: &[u8], limit: usize) -> Reply {
    match Call::parse(request, limit) {
        Ok(call) => call.run(processor),
        Err(reply) => Reply::Message(reply),
    }
}
