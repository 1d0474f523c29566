//! From the bytes of a request to the bytes of its reply. No network, no clock, no threads.

mod input;
mod output;

use std::cell::RefCell;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Buf;
use homa_client::Message;
use thrift::protocol::{TInputProtocol, TMessageIdentifier, TMessageType, TOutputProtocol};
use thrift::server::TProcessor;
use thrift::{ApplicationError, ApplicationErrorKind};

pub(crate) use self::output::SharedSink;

use self::input::{Arguments, Decoder};
use self::output::Results;
use crate::bounded::BoundedWriter;
use crate::control;
use crate::error::error_text;
use crate::limits::Limits;
use crate::protocol::{CustomProtocol, Encoding, Protocol};
use crate::server::CallOutcome;

/// What to answer to a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Send these bytes: a Thrift message, or a control reply.
    Message(Message),
    /// Oneway, and executed: the sender should have had its control reply before.
    Oneway,
}

/// Executes one request with `processor` and tells what to answer, without any network. The reply
/// is never longer than the limit, and nothing in the request makes this panic.
///
/// The protocol (strict or old binary, compact) is that of the request. A panic in the handler, or a
/// reply over the limit, becomes an exception of kind `InternalError`; arguments that cannot be
/// decoded one of kind `ProtocolError`; what is no Thrift request gets a control reply that says
/// so. Handlers need unwinding for the first of these: built with `panic = "abort"`, a panic ends
/// the process.
///
/// ```
/// use thrift::protocol::{TInputProtocol, TOutputProtocol};
/// use thrift::server::TProcessor;
/// use thrift_homa::{Limits, Reply, process_message};
///
/// struct Panics;
/// impl TProcessor for Panics {
///     fn process(
///         &self,
///         _: &mut dyn TInputProtocol,
///         _: &mut dyn TOutputProtocol,
///     ) -> thrift::Result<()> {
///         panic!("a bug")
///     }
/// }
///
/// let ping = b"\x80\x01\0\x01\0\0\0\x04ping\0\0\0\x01\0";
/// let Reply::Message(exception) = process_message(&Panics, ping, &Limits::default()) else {
///     panic!("it was no oneway");
/// };
/// assert!(exception.into_bytes().starts_with(b"\x80\x01\0\x03\0\0\0\x04ping"));
/// ```
pub fn process_message(processor: &dyn TProcessor, request: &[u8], limits: &Limits) -> Reply {
    let answer = match Caller::parse(request, None, limits) {
        Ok((caller, body)) => caller.run(body, processor),
        Err(unfit) => unfit.answer,
    };
    match answer.reply {
        Response::Message(reply) => Reply::Message(reply),
        Response::Nothing => Reply::Oneway,
        control => Reply::Message(control.into_control()),
    }
}

/// What became of a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) reply: Response,
    pub(crate) outcome: CallOutcome,
}

/// A request that cannot be executed.
#[derive(Debug)]
pub(crate) struct Unfit {
    /// The method's name, or nothing if its header could not be read.
    pub(crate) method: String,
    pub(crate) answer: Answer,
}

/// What goes back to the caller, and how depends on the transport.
#[derive(Debug)]
pub(crate) enum Response {
    /// A Thrift message.
    Message(Message),
    /// A call for which the processor wrote nothing.
    Accepted,
    /// This is no request.
    NotUnderstood(String),
    /// A oneway that was not executed.
    NotAccepted(String),
    /// A oneway that was.
    Nothing,
}

impl Response {
    /// The control reply that says it over Homa.
    pub(crate) fn into_control(self) -> Message {
        match self {
            Self::Message(message) => message,
            Self::Accepted | Self::Nothing => control::accepted(),
            Self::NotUnderstood(why) => control::not_understood(&why),
            Self::NotAccepted(why) => control::not_accepted(&why),
        }
    }
}

/// How a request is encoded, and so its reply.
#[derive(Debug)]
pub(crate) enum Format {
    Known(Encoding),
    Custom(CustomProtocol),
}

/// What a request's header tells: all that is needed to answer it.
#[derive(Debug)]
pub(crate) struct Caller {
    format: Format,
    limits: Limits,
    header: TMessageIdentifier,
}

/// What follows the header of a request.
pub(crate) enum Body<B> {
    /// The bytes that are left.
    Rest(B),
    /// The protocol that has read the header.
    Custom(Box<dyn TInputProtocol + Send>),
}

impl Caller {
    /// Reads the header of a request, in `protocol` or in the one that its first byte tells. `Err`
    /// holds the answer to one that cannot be executed.
    pub(crate) fn parse<B: Buf>(
        request: B,
        protocol: Option<&Protocol>,
        limits: &Limits,
    ) -> Result<(Self, Body<B>), Unfit> {
        let not_understood = |why: String| Unfit {
            method: String::new(),
            answer: Answer {
                reply: Response::NotUnderstood(why),
                outcome: CallOutcome::Malformed,
            },
        };
        let size = request.remaining();
        let Some(format) = format_of(&request, protocol) else {
            return Err(not_understood("unknown protocol".to_owned()));
        };
        let read = || read_header(&format, request, limits);
        let (header, body) = match catch_unwind(AssertUnwindSafe(read)) {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => {
                let why = format!("bad header: {}", error_text(&error));
                return Err(not_understood(why));
            }
            Err(payload) => {
                forget(payload);
                return Err(not_understood("bad header".to_owned()));
            }
        };
        let caller = Self {
            format,
            limits: *limits,
            header,
        };
        let kind = caller.header.message_type;
        if !matches!(kind, TMessageType::Call | TMessageType::OneWay) {
            let text = format!("a message of type {kind} is no request");
            let reply = caller.exception(ApplicationErrorKind::InvalidMessageType, &text);
            let outcome = CallOutcome::Malformed;
            return Err(caller.unfit(Answer { reply, outcome }));
        }
        if size > limits.message_bytes {
            let answer = caller.too_long(Some(size));
            return Err(caller.unfit(answer));
        }
        Ok((caller, body))
    }

    fn unfit(self, answer: Answer) -> Unfit {
        let method = self.header.name;
        Unfit { method, answer }
    }

    /// The name by which the caller knows the method, with that of the service before it if the
    /// service is multiplexed.
    pub(crate) fn name(&self) -> &str {
        &self.header.name
    }

    pub(crate) fn sequence(&self) -> i32 {
        self.header.sequence_number
    }

    /// Whether the sender wants no reply.
    pub(crate) fn is_oneway(&self) -> bool {
        self.header.message_type == TMessageType::OneWay
    }

    /// The answer to a request that is not executed.
    pub(crate) fn refuse(&self, why: &str) -> Answer {
        self.turn_down(why, CallOutcome::Rejected)
    }

    /// The answer to a request over the limit, of so many bytes if that is known.
    pub(crate) fn too_long(&self, size: Option<usize>) -> Answer {
        let size = size.map_or_else(String::new, |size| format!(" of {size} bytes"));
        let why = format!(
            "the request{size} is over this server's limit of {} bytes: send less, or raise the \
             limit there",
            self.limits.message_bytes
        );
        self.turn_down(&why, CallOutcome::Oversize)
    }

    /// The answer to a request whose arguments make no sense.
    pub(crate) fn malformed(&self, why: &str) -> Answer {
        let outcome = CallOutcome::Malformed;
        let reply = if self.is_oneway() {
            Response::NotAccepted(why.to_owned())
        } else {
            self.undecodable(why)
        };
        Answer { reply, outcome }
    }

    /// The answer to a request that was passed on, which is this.
    pub(crate) fn forwarded(&self, reply: Message) -> Answer {
        let limit = self.limits.message_bytes;
        if reply.len() > limit {
            let size = reply.len();
            let why = format!(
                "the reply of {size} bytes is over the gateway's limit of {limit} bytes: answer \
                 with less, or raise the limit there"
            );
            return self.turn_down(&why, CallOutcome::Oversize);
        }
        let kind = self.header_of(&reply).map(|header| header.message_type);
        let outcome = match kind {
            Some(TMessageType::Reply) => CallOutcome::Reply,
            Some(TMessageType::Exception) => CallOutcome::Exception,
            _ => return self.unavailable("the server answered by something that is no reply"),
        };
        let reply = Response::Message(reply);
        Answer { reply, outcome }
    }

    /// Whether a message can be the reply to this request: not if it is one to another.
    pub(crate) fn may_be_answered_by(&self, reply: &Message) -> bool {
        // Servers of several services tend to leave out the name of theirs.
        let asked = &self.header;
        self.header_of(reply).is_none_or(|header| {
            header.sequence_number == asked.sequence_number
                && method_name(&header.name) == method_name(&asked.name)
        })
    }

    fn header_of(&self, reply: &Message) -> Option<TMessageIdentifier> {
        let read = || read_header(&self.format, reply.clone(), &self.limits);
        let (header, _) = catch_unwind(AssertUnwindSafe(read)).ok()?.ok()?;
        Some(header)
    }

    /// The answer to a request that was passed on and not answered.
    pub(crate) fn unavailable(&self, why: &str) -> Answer {
        self.turn_down(why, CallOutcome::Unavailable)
    }

    fn turn_down(&self, why: &str, outcome: CallOutcome) -> Answer {
        let reply = if self.is_oneway() {
            Response::NotAccepted(why.to_owned())
        } else {
            self.internal(why)
        };
        Answer { reply, outcome }
    }

    /// Executes the request.
    pub(crate) fn run<B: Buf>(&self, body: Body<B>, processor: &dyn TProcessor) -> Answer {
        let rest;
        let decoder = match body {
            Body::Custom(protocol) => Decoder::Custom(protocol),
            Body::Rest(bytes) => {
                rest = RefCell::new(bytes);
                let Format::Known(encoding) = &self.format else {
                    return self.refuse("the server has lost the request's protocol");
                };
                Decoder::new(*encoding, &rest, &self.limits)
            }
        };
        let writer = RefCell::new(BoundedWriter::new(self.limits.message_bytes));
        let mut arguments = Arguments::new(decoder, self.header.clone(), self.limits.depth);
        let mut results = Results::new(&self.format, self.limits, &writer);
        let process = || {
            processor.process(&mut arguments, &mut results)?;
            // For custom transports; nothing is sent.
            results.flush()
        };
        let result = catch_unwind(AssertUnwindSafe(process)).map_err(forget);
        let undecodable = arguments.failure();
        let written = results.finish();
        let last = written.kinds.map(|(_, last)| last);
        if self.is_oneway() {
            // Generated code writes an exception for a failed oneway; nobody reads it.
            let outcome = match result {
                Err(()) => CallOutcome::Panic,
                _ if undecodable.is_some() => CallOutcome::Malformed,
                Ok(Ok(())) if last != Some(TMessageType::Exception) => CallOutcome::Oneway,
                Ok(_) => CallOutcome::Exception,
            };
            let reply = Response::Nothing;
            return Answer { reply, outcome };
        }
        let (reply, outcome) = match (result, undecodable) {
            (Err(()), _) => (self.internal("the handler panicked"), CallOutcome::Panic),
            (Ok(_), _) if written.over => {
                let text = format!(
                    "the reply is over the limit of {} bytes: answer with less, raise the limit, \
                     or use a TCP transport",
                    self.limits.message_bytes
                );
                (self.internal(&text), CallOutcome::Oversize)
            }
            (Ok(_), Some(why)) if last != Some(TMessageType::Reply) => {
                (self.undecodable(&why), CallOutcome::Malformed)
            }
            (Ok(Err(error)), _) => (self.failed(&error), CallOutcome::Exception),
            (Ok(Ok(())), _) => match written.kinds {
                None if written.is_empty => (Response::Accepted, CallOutcome::Oneway),
                Some((_, TMessageType::Reply)) => {
                    let reply = Response::Message(output::take(writer));
                    (reply, CallOutcome::Reply)
                }
                Some((first, TMessageType::Exception)) => {
                    let reply = output::take(writer);
                    match self.missing_field(first, &reply) {
                        Some(why) => (self.undecodable(&why), CallOutcome::Malformed),
                        None => (Response::Message(reply), CallOutcome::Exception),
                    }
                }
                _ => {
                    let text = "the service has written something that is no reply";
                    (self.internal(text), CallOutcome::Exception)
                }
            },
        };
        Answer { reply, outcome }
    }

    /// Generated code checks for required fields when it has read all, and says what is missing as it
    /// says what is wrong inside of it: by an exception of kind `Unknown`.
    fn missing_field(&self, first: TMessageType, reply: &Message) -> Option<String> {
        if first != TMessageType::Exception {
            return None;
        }
        let read = || {
            let (_, body) = read_header(&self.format, reply.clone(), &self.limits).ok()?;
            let rest;
            let mut decoder = match (body, &self.format) {
                (Body::Rest(bytes), Format::Known(encoding)) => {
                    rest = RefCell::new(bytes);
                    Decoder::new(*encoding, &rest, &self.limits)
                }
                (Body::Custom(protocol), _) => Decoder::Custom(protocol),
                _ => return None,
            };
            thrift::Error::read_application_error_from_in_protocol(decoder.protocol()).ok()
        };
        let error = catch_unwind(AssertUnwindSafe(read)).unwrap_or(None)?;
        let is_missing = error.kind == ApplicationErrorKind::Unknown
            && error.message.starts_with("ProtocolError { kind: ");
        is_missing.then_some(error.message)
    }

    fn undecodable(&self, why: &str) -> Response {
        let text = format!("the arguments cannot be decoded: {why}");
        self.exception(ApplicationErrorKind::ProtocolError, &text)
    }

    /// As generated code does it.
    fn failed(&self, error: &thrift::Error) -> Response {
        match error {
            thrift::Error::Application(error) => self.exception(error.kind, &error.message),
            error => self.exception(ApplicationErrorKind::Unknown, &format!("{error:?}")),
        }
    }

    fn internal(&self, text: &str) -> Response {
        self.exception(ApplicationErrorKind::InternalError, text)
    }

    /// An exception in the caller's protocol, under the name by which the caller knows the method.
    fn exception(&self, kind: ApplicationErrorKind, text: &str) -> Response {
        // The name is as long as the caller made it, and the text has to do with what is left.
        let message = self
            .try_exception(kind, text)
            .or_else(|| self.try_exception(kind, ""));
        message.map_or_else(
            || Response::NotUnderstood(format!("the answer is over the limit: {text}")),
            Response::Message,
        )
    }

    fn try_exception(&self, kind: ApplicationErrorKind, text: &str) -> Option<Message> {
        let name = method_name(&self.header.name);
        let number = self.header.sequence_number;
        let header = TMessageIdentifier::new(name, TMessageType::Exception, number);
        let error = ApplicationError::new(kind, text);
        let writer = RefCell::new(BoundedWriter::new(self.limits.message_bytes));
        let mut output = Results::new(&self.format, self.limits, &writer);
        let write = || {
            output.write_message_begin(&header)?;
            thrift::Error::write_application_error_to_out_protocol(&error, &mut output)?;
            output.write_message_end()?;
            output.flush()
        };
        let result: thrift::Result<()> = catch_unwind(AssertUnwindSafe(write)).ok()?;
        let written = output.finish();
        (result.is_ok() && !written.over && !written.is_empty).then(|| output::take(writer))
    }
}

fn format_of(request: &impl Buf, protocol: Option<&Protocol>) -> Option<Format> {
    if let Some(Protocol::Custom(custom)) = protocol {
        return Some(Format::Custom(custom.clone()));
    }
    let encoding = Encoding::of(*request.chunk().first()?)?;
    let taken = match protocol {
        Some(Protocol::Binary) => encoding != Encoding::Compact,
        Some(Protocol::Compact) => encoding == Encoding::Compact,
        Some(Protocol::Custom(_)) | None => true,
    };
    taken.then_some(Format::Known(encoding))
}

fn read_header<B: Buf>(
    format: &Format,
    mut request: B,
    limits: &Limits,
) -> thrift::Result<(TMessageIdentifier, Body<B>)> {
    match format {
        Format::Known(encoding) => {
            let bytes = RefCell::new(request);
            let header = Decoder::new(*encoding, &bytes, limits)
                .protocol()
                .read_message_begin()?;
            Ok((header, Body::Rest(bytes.into_inner())))
        }
        Format::Custom(custom) => {
            // What factories make borrows nothing.
            let bytes = request.copy_to_bytes(request.remaining());
            let mut protocol = custom.request_input(Box::new(Cursor::new(bytes)));
            let header = protocol.read_message_begin()?;
            Ok((header, Body::Custom(protocol)))
        }
    }
}

/// The method's name without that of the service, which callers do not know by it.
fn method_name(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(_, method)| method)
}

/// Drops what a panic carries. That may panic in its turn.
fn forget(payload: Box<dyn std::any::Any + Send>) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        std::mem::forget(payload);
    }
}
