//! A service written by hand, as the Thrift compiler would write it.
//!
//! ```thrift
//! service Echo {
//!   void ping(),
//!   string echo(1: string text),
//!   string repeat(1: i32 times),
//!   void boom(),
//!   void skip(),
//!   string missing(1: required string text),
//!   void fail(),
//!   oneway void zip(),
//! }
//! ```

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use thrift::protocol::{
    TFieldIdentifier, TInputProtocol, TMessageIdentifier, TMessageType, TOutputProtocol,
    TStructIdentifier, TType, verify_required_field_exists,
};
use thrift::server::{TProcessor, handle_process_result};
use thrift::{ApplicationError, ApplicationErrorKind};

/// The service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Echo {
    /// Oneway messages executed.
    pub(crate) zips: Arc<AtomicUsize>,
}

impl TProcessor for Echo {
    fn process(
        &self,
        input: &mut dyn TInputProtocol,
        output: &mut dyn TOutputProtocol,
    ) -> thrift::Result<()> {
        let header = input.read_message_begin()?;
        let result = self.dispatch(&header, input, output);
        handle_process_result(&header, result, output)
    }
}

impl Echo {
    fn dispatch(
        &self,
        header: &TMessageIdentifier,
        input: &mut dyn TInputProtocol,
        output: &mut dyn TOutputProtocol,
    ) -> thrift::Result<()> {
        match header.name.as_str() {
            "ping" => {
                read_arguments(input, |_| Ok(()))?;
                write_result(header, None, output)
            }
            "echo" => {
                let mut text = String::new();
                read_arguments(input, |input| {
                    text = input.read_string()?;
                    Ok(())
                })?;
                write_result(header, Some(&text), output)
            }
            "repeat" => {
                let mut times = 0;
                read_arguments(input, |input| {
                    times = input.read_i32()?;
                    Ok(())
                })?;
                let times = usize::try_from(times).unwrap_or(0);
                write_result(header, Some(&"x".repeat(times)), output)
            }
            "boom" | "Echo:boom" => panic!("asked to"),
            // Reads past all that it is given.
            "skip" => {
                input.skip(TType::Struct)?;
                write_result(header, None, output)
            }
            // Has a required argument, which is told as generated code does.
            "missing" => {
                let mut text = None;
                read_arguments(input, |input| {
                    text = Some(input.read_string()?);
                    Ok(())
                })?;
                verify_required_field_exists("text", &text)?;
                write_result(header, text.as_deref(), output)
            }
            "fail" => {
                read_arguments(input, |_| Ok(()))?;
                Err("not today".into())
            }
            "zip" => {
                read_arguments(input, |_| Ok(()))?;
                self.zips.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
            _ => Err(thrift::Error::Application(ApplicationError::new(
                ApplicationErrorKind::UnknownMethod,
                "no such method",
            ))),
        }
    }
}

/// Waits until it is so.
pub(crate) fn until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "it does not come to pass");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Where handlers wait until a test lets them pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<(Mutex<(bool, usize)>, Condvar)>);

impl Gate {
    /// Waits for [`Gate::open`].
    pub(crate) fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().expect("no panic");
        state.1 += 1;
        changed.notify_all();
        while !state.0 {
            state = changed.wait(state).expect("no panic");
        }
        state.1 -= 1;
    }

    /// Lets all pass, from now on.
    pub(crate) fn open(&self) {
        let (state, changed) = &*self.0;
        state.lock().expect("no panic").0 = true;
        changed.notify_all();
    }

    /// How many wait.
    pub(crate) fn inside(&self) -> usize {
        self.0.0.lock().expect("no panic").1
    }

    /// Waits until so many wait.
    pub(crate) fn wait_for(&self, count: usize) {
        until(|| self.inside() >= count);
    }
}

/// A service of methods that take and return at most one string, made of one function of the
/// method's name and its argument.
#[derive(Clone)]
pub(crate) struct Strings<F>(pub(crate) F);

impl<F: Fn(&str, &str) -> thrift::Result<Option<String>>> TProcessor for Strings<F> {
    fn process(
        &self,
        input: &mut dyn TInputProtocol,
        output: &mut dyn TOutputProtocol,
    ) -> thrift::Result<()> {
        let header = input.read_message_begin()?;
        let mut dispatch = || {
            let mut text = String::new();
            read_arguments(input, |input| {
                text = input.read_string()?;
                Ok(())
            })?;
            let result = (self.0)(&header.name, &text)?;
            if header.message_type == TMessageType::OneWay {
                return Ok(());
            }
            write_result(&header, result.as_deref(), output)
        };
        let result = dispatch();
        handle_process_result(&header, result, output)
    }
}

/// Reads a structure in which every field is the one that `field` reads.
fn read_arguments(
    input: &mut dyn TInputProtocol,
    mut field: impl FnMut(&mut dyn TInputProtocol) -> thrift::Result<()>,
) -> thrift::Result<()> {
    input.read_struct_begin()?;
    while input.read_field_begin()?.field_type != TType::Stop {
        field(input)?;
        input.read_field_end()?;
    }
    input.read_struct_end()?;
    input.read_message_end()
}

fn write_result(
    header: &TMessageIdentifier,
    result: Option<&str>,
    output: &mut dyn TOutputProtocol,
) -> thrift::Result<()> {
    let reply = TMessageIdentifier::new(&*header.name, TMessageType::Reply, header.sequence_number);
    write_message(
        &reply,
        |output| write_string_field(0, result, output),
        output,
    )
}

fn write_string_field(
    id: i16,
    text: Option<&str>,
    output: &mut dyn TOutputProtocol,
) -> thrift::Result<()> {
    let Some(text) = text else { return Ok(()) };
    output.write_field_begin(&TFieldIdentifier::new("text", TType::String, id))?;
    output.write_string(text)?;
    output.write_field_end()
}

fn write_message(
    header: &TMessageIdentifier,
    fields: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<()>,
    output: &mut dyn TOutputProtocol,
) -> thrift::Result<()> {
    output.write_message_begin(header)?;
    output.write_struct_begin(&TStructIdentifier::new("fields"))?;
    fields(output)?;
    output.write_field_stop()?;
    output.write_struct_end()?;
    output.write_message_end()?;
    output.flush()
}

/// A client of the service.
pub(crate) struct EchoClient<I, O> {
    input: I,
    output: O,
    sequence: i32,
}

impl<I: TInputProtocol, O: TOutputProtocol> EchoClient<I, O> {
    /// Over any transport.
    pub(crate) fn new(input: I, output: O) -> Self {
        Self {
            input,
            output,
            sequence: 0,
        }
    }

    /// `void ping()`.
    pub(crate) fn ping(&mut self) -> thrift::Result<()> {
        self.call("ping", |_| Ok(())).map(drop)
    }

    /// `string echo(1: string text)`.
    pub(crate) fn echo(&mut self, text: &str) -> thrift::Result<String> {
        self.call("echo", |output| write_string_field(1, Some(text), output))
    }

    /// `string repeat(1: i32 times)`.
    pub(crate) fn repeat(&mut self, times: i32) -> thrift::Result<String> {
        self.call("repeat", |output| {
            output.write_field_begin(&TFieldIdentifier::new("times", TType::I32, 1))?;
            output.write_i32(times)?;
            output.write_field_end()
        })
    }

    /// `oneway void zip()`.
    pub(crate) fn zip(&mut self) -> thrift::Result<()> {
        self.send("zip", TMessageType::OneWay, |_| Ok(()))
    }

    /// Any oneway method, known or not.
    #[allow(dead_code, reason = "not all tests use it")]
    pub(crate) fn send_oneway(&mut self, name: &str) -> thrift::Result<()> {
        self.send(name, TMessageType::OneWay, |_| Ok(()))
    }

    /// Any method of a string to a string.
    pub(crate) fn call_with(&mut self, name: &str, text: &str) -> thrift::Result<String> {
        self.call(name, |output| write_string_field(1, Some(text), output))
    }

    /// Any oneway method of a string.
    pub(crate) fn send_with(&mut self, name: &str, text: &str) -> thrift::Result<()> {
        self.send(name, TMessageType::OneWay, |output| {
            write_string_field(1, Some(text), output)
        })
    }

    /// Any method without arguments.
    pub(crate) fn call_by_name(&mut self, name: &str) -> thrift::Result<String> {
        self.call(name, |_| Ok(()))
    }

    fn send(
        &mut self,
        name: &str,
        kind: TMessageType,
        fields: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<()>,
    ) -> thrift::Result<()> {
        self.sequence += 1;
        let header = TMessageIdentifier::new(name, kind, self.sequence);
        write_message(&header, fields, &mut self.output)
    }

    fn call(
        &mut self,
        name: &str,
        fields: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<()>,
    ) -> thrift::Result<String> {
        self.send(name, TMessageType::Call, fields)?;
        let header = self.input.read_message_begin()?;
        assert_eq!(
            (&*header.name, header.sequence_number),
            (name, self.sequence)
        );
        if header.message_type == TMessageType::Exception {
            let error = thrift::Error::read_application_error_from_in_protocol(&mut self.input)?;
            self.input.read_message_end()?;
            return Err(thrift::Error::Application(error));
        }
        let mut result = String::new();
        read_arguments(&mut self.input, |input| {
            result = input.read_string()?;
            Ok(())
        })?;
        Ok(result)
    }
}
