//! [`Protocol`]: how messages are encoded.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;
use std::sync::Arc;

use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TCompactInputProtocol, TCompactOutputProtocol,
    TInputProtocol, TInputProtocolFactory, TOutputProtocol, TOutputProtocolFactory,
};
use thrift::transport::{TReadTransportFactory, TWriteTransport, TWriteTransportFactory};

use crate::bounded::BoundedWriter;
use crate::limits::Limits;
use crate::process::SharedSink;

/// How messages are encoded.
///
/// ```
/// use thrift_homa::Protocol;
///
/// assert!(matches!("compact".parse(), Ok(Protocol::Compact)));
/// assert!("json".parse::<Protocol>().is_err());
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Protocol {
    /// Thrift's binary protocol. Clients write it strict, with the version in front; servers also
    /// read the old form without, and answer it in kind. The default.
    #[default]
    Binary,
    /// Thrift's compact protocol: numbers take as many bytes as they need.
    Compact,
    /// Any other, or these with settings of your own.
    Custom(CustomProtocol),
}

/// Factories of protocols that this crate does not know.
///
/// They make a new protocol for each message. [`Limits`] but for those on the whole message are up
/// to them: the thrift crate's own factories know the crate's default limits only, so prefer
/// [`Protocol::Binary`] and [`Protocol::Compact`] to those. No message may begin with a byte from
/// 0xF0 on.
///
/// ```
/// use std::sync::Arc;
/// use thrift::protocol::{TBinaryInputProtocolFactory, TBinaryOutputProtocolFactory};
/// use thrift_homa::{CustomProtocol, Protocol};
///
/// let custom = CustomProtocol::new(
///     Arc::new(TBinaryInputProtocolFactory::new()),
///     Arc::new(TBinaryOutputProtocolFactory::new()),
/// );
/// let protocol = Protocol::Custom(custom);
/// ```
#[derive(Clone)]
pub struct CustomProtocol {
    input: Arc<dyn TInputProtocolFactory + Send + Sync>,
    output: Arc<dyn TOutputProtocolFactory + Send + Sync>,
    /// What is between a protocol and the message's bytes, on servers.
    transports: Option<Transports>,
}

/// Factories of transports that wrap the bytes of a message.
#[derive(Clone)]
struct Transports {
    read: Arc<dyn TReadTransportFactory + Send + Sync>,
    write: Arc<dyn TWriteTransportFactory + Send + Sync>,
}

impl CustomProtocol {
    /// A protocol read and written by what these factories make.
    pub fn new(
        input: Arc<dyn TInputProtocolFactory + Send + Sync>,
        output: Arc<dyn TOutputProtocolFactory + Send + Sync>,
    ) -> Self {
        Self {
            input,
            output,
            transports: None,
        }
    }

    /// The same with transports between the protocols and the bytes of the messages.
    pub(crate) fn through(
        mut self,
        read: Arc<dyn TReadTransportFactory + Send + Sync>,
        write: Arc<dyn TWriteTransportFactory + Send + Sync>,
    ) -> Self {
        self.transports = Some(Transports { read, write });
        self
    }

    /// Reads one request.
    pub(crate) fn request_input(
        &self,
        from: Box<dyn Read + Send>,
    ) -> Box<dyn TInputProtocol + Send> {
        match &self.transports {
            Some(transports) => self.input.create(transports.read.create(from)),
            None => self.input(from),
        }
    }

    /// Writes one reply of up to `limit` bytes.
    pub(crate) fn reply_output(
        &self,
        into: SharedSink,
        limit: usize,
    ) -> Box<dyn TOutputProtocol + Send> {
        let Some(transports) = &self.transports else {
            return self.output(Box::new(into));
        };
        let transport = transports.write.create(Box::new(into.clone()));
        self.output.create(Box::new(Gate {
            transport,
            left: limit,
            sink: into,
        }))
    }

    /// Reads one message.
    pub(crate) fn input(&self, from: Box<dyn Read + Send>) -> Box<dyn TInputProtocol + Send> {
        self.input.create(Box::new(from))
    }

    /// Writes one message.
    pub(crate) fn output(&self, into: Box<dyn Write + Send>) -> Box<dyn TOutputProtocol + Send> {
        self.output.create(Box::new(into))
    }
}

/// Keeps a transport that gathers a message from gathering more than may be sent.
struct Gate {
    transport: Box<dyn TWriteTransport + Send>,
    left: usize,
    sink: SharedSink,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(left) = self.left.checked_sub(bytes.len()) else {
            self.sink.with(BoundedWriter::overflow);
            return Err(io::Error::other("the message is over the limit"));
        };
        self.left = left;
        self.transport.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.transport.flush()
    }
}

impl fmt::Debug for CustomProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomProtocol").finish_non_exhaustive()
    }
}

impl Protocol {
    /// What reads one message that is not a request.
    pub(crate) fn input(
        &self,
        from: impl Read + Send + 'static,
        limits: &Limits,
    ) -> Box<dyn TInputProtocol + Send> {
        let configuration = limits.configuration();
        match self {
            Self::Binary => Box::new(TBinaryInputProtocol::with_config(from, true, configuration)),
            Self::Compact => Box::new(TCompactInputProtocol::with_config(from, configuration)),
            Self::Custom(custom) => custom.input(Box::new(from)),
        }
    }

    /// What writes one message.
    pub(crate) fn output(
        &self,
        into: impl Write + Send + 'static,
        limits: &Limits,
    ) -> Box<dyn TOutputProtocol + Send> {
        let configuration = limits.configuration();
        match self {
            Self::Binary => Box::new(TBinaryOutputProtocol::with_config(
                into,
                true,
                configuration,
            )),
            Self::Compact => Box::new(TCompactOutputProtocol::with_config(into, configuration)),
            Self::Custom(custom) => custom.output(Box::new(into)),
        }
    }
}

/// A name that is no protocol's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no protocol {value:?}: use binary or compact")]
pub struct UnknownProtocol {
    /// What was given.
    pub value: String,
}

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(name: &str) -> Result<Self, UnknownProtocol> {
        match name {
            "binary" => Ok(Self::Binary),
            "compact" => Ok(Self::Compact),
            _ => Err(UnknownProtocol {
                value: name.to_owned(),
            }),
        }
    }
}

/// What a request is encoded in, if that is known by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// With the version in front.
    Binary,
    /// Of the time before the version.
    OldBinary,
    Compact,
}

impl Encoding {
    /// Tells by the first byte of a message. The first of the old binary protocol is the high byte
    /// of the name's length.
    pub(crate) fn of(first: u8) -> Option<Self> {
        match first {
            0x80 => Some(Self::Binary),
            0x00 => Some(Self::OldBinary),
            0x82 => Some(Self::Compact),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_first_bytes_are_those_of_messages() {
        let known: Vec<u8> = (0..=255)
            .filter(|first| Encoding::of(*first).is_some())
            .collect();
        assert_eq!(known, [0x00, 0x80, 0x82]);
    }

    #[test]
    fn protocols_are_named_in_lower_case_and_others_are_refused_by_name() {
        assert!(matches!("binary".parse(), Ok(Protocol::Binary)));
        assert!(matches!("compact".parse(), Ok(Protocol::Compact)));
        let error = "JSON".parse::<Protocol>().map(drop).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no protocol \"JSON\": use binary or compact"
        );
    }
}
