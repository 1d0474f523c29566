//! The services that the cases call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use thrift::OrderedFloat;
use thrift::server::{TMultiplexedProcessor, TProcessor};

use super::SERVICES;
use super::suite::{
    BaseSyncHandler, Bases, CallId, Color, Containers, Empty, Ending, Missing, Optionals, Point,
    Refused, Runs, SecondSyncHandler, SecondSyncProcessor, Shape, SuiteSyncHandler,
    SuiteSyncProcessor, Tree, UserId,
};
use crate::ledger::{self, Ledger};

/// Longer than any message, so that replies can be too long.
const MAX_MADE: i32 = 10_000_000;

/// Longest that a handler waits, in milliseconds.
const MAX_WAIT: i32 = 60_000;

/// Both services behind one port, of which the first is also found without a name.
pub(crate) fn processor(
    ledger: &Arc<Ledger>,
) -> thrift::Result<impl TProcessor + Send + Sync + 'static> {
    let [suite, second] = SERVICES;
    let mut processor = TMultiplexedProcessor::new();
    let handler = Handler {
        ledger: Arc::clone(ledger),
    };
    let of_suite = Box::new(SuiteSyncProcessor::new(handler.clone()));
    processor.register(suite, of_suite, true)?;
    let of_second = Box::new(SecondSyncProcessor::new(Second(handler)));
    processor.register(second, of_second, false)?;
    Ok(processor)
}

#[derive(Clone)]
struct Handler {
    ledger: Arc<Ledger>,
}

impl Handler {
    /// Counts a numbered call.
    fn ran(&self, method: &str, id: &CallId) -> i64 {
        let number = id.number.unwrap_or_default();
        let id = ledger::CallId {
            session: id.session.unwrap_or_default().cast_unsigned(),
            number: number.cast_unsigned(),
        };
        self.ledger.add(method, Some(id));
        number
    }
}

fn end(how: Ending) -> thrift::Result<()> {
    match how {
        Ending::RETURN => Ok(()),
        Ending::REFUSED => Err(Refused::new(7, "as asked".to_owned()).into()),
        Ending::MISSING => {
            let near = Point::new(OrderedFloat(1.5), OrderedFloat(-2.5));
            Err(Missing::new("a key".to_owned(), near).into())
        }
        // A panic, without a message and a trace on the server's standard error.
        Ending::PANIC => std::panic::resume_unwind(Box::new("as asked")),
        _ => Err(thrift::Error::User("undeclared, as asked".into())),
    }
}

impl BaseSyncHandler for Handler {
    fn handle_ping(&self) -> thrift::Result<()> {
        Ok(())
    }

    fn handle_name(&self) -> thrift::Result<String> {
        Ok(SERVICES[0].to_owned())
    }
}

/// Handlers that return what they got.
macro_rules! echoes {
    ($($name:ident: $type:ty,)*) => {
        $(fn $name(&self, value: $type) -> thrift::Result<$type> {
            Ok(value)
        })*
    };
}

impl SuiteSyncHandler for Handler {
    echoes! {
        handle_echo_bool: bool,
        handle_echo_byte: i8,
        handle_echo_short: i16,
        handle_echo_int: i32,
        handle_echo_long: i64,
        handle_echo_double: OrderedFloat<f64>,
        handle_echo_string: String,
        handle_echo_binary: Vec<u8>,
        handle_echo_color: Color,
        handle_echo_user: UserId,
        handle_echo_bases: Bases,
        handle_echo_containers: Containers,
        handle_echo_optionals: Optionals,
        handle_echo_shape: Shape,
        handle_echo_tree: Tree,
        handle_echo_empty: Empty,
        handle_echo_set: BTreeSet<i32>,
        handle_echo_map: BTreeMap<String, Vec<Point>>,
    }

    fn handle_join(&self, first: String, second: i32, third: String) -> thrift::Result<String> {
        Ok(format!("{first}, {second}, {third}"))
    }

    fn handle_make(&self, size: i32) -> thrift::Result<Vec<u8>> {
        Ok(super::cases::content(
            size.clamp(0, MAX_MADE).unsigned_abs() as usize,
        ))
    }

    fn handle_measure(&self, data: Vec<u8>) -> thrift::Result<Vec<i64>> {
        let sum = data.iter().map(|byte| i64::from(*byte)).sum();
        let size = i64::try_from(data.len()).unwrap_or(i64::MAX);
        Ok(vec![size, sum])
    }

    fn handle_finish(&self, how: Ending) -> thrift::Result<String> {
        end(how).map(|()| "returned".to_owned())
    }

    fn handle_finish_void(&self, how: Ending) -> thrift::Result<()> {
        end(how)
    }

    fn handle_wait(&self, milliseconds: i32, text: String) -> thrift::Result<String> {
        let time = milliseconds.clamp(0, MAX_WAIT).unsigned_abs();
        thread::sleep(Duration::from_millis(time.into()));
        Ok(text)
    }

    fn handle_numbered(&self, id: CallId, _: Vec<u8>) -> thrift::Result<i64> {
        Ok(self.ran("Suite:numbered", &id))
    }

    fn handle_note(&self, id: CallId, fails: bool) -> thrift::Result<()> {
        self.ran("Suite:note", &id);
        if fails {
            return end(Ending::UNDECLARED);
        }
        Ok(())
    }

    fn handle_runs(&self, session: i64) -> thrift::Result<Runs> {
        let counts = self.ledger.session(session.cast_unsigned());
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        Ok(Runs::new(signed(counts.calls), signed(counts.again)))
    }
}

/// The other service.
struct Second(Handler);

impl BaseSyncHandler for Second {
    fn handle_ping(&self) -> thrift::Result<()> {
        Ok(())
    }

    fn handle_name(&self) -> thrift::Result<String> {
        Ok(SERVICES[1].to_owned())
    }
}

impl SecondSyncHandler for Second {
    fn handle_twice(&self, text: String) -> thrift::Result<String> {
        Ok(text.repeat(2))
    }

    fn handle_join(&self, parts: Vec<String>) -> thrift::Result<String> {
        Ok(parts.concat())
    }

    fn handle_note(&self, id: CallId) -> thrift::Result<()> {
        self.0.ran("Second:note", &id);
        Ok(())
    }
}
