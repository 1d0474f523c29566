//! The cases: every type, every size, every way in which a call can end, and many at once.

mod ends;
mod load;
mod oneway;
mod recovery;
mod services;
mod sizes;
mod types;

use std::fmt::Debug;

use thrift::{ApplicationErrorKind, TransportErrorKind};

use super::context::{Context, describe};
use crate::case::{Failure, ensure};
use crate::suite;

/// One case.
pub(crate) type Case = suite::Case<fn(&Context) -> Outcome>;

type Outcome = Result<(), Failure>;

macro_rules! cases {
    ($($module:ident::$name:ident: $summary:literal,)*) => {
        [$(Case {
            name: stringify!($name),
            summary: $summary,
            run: $module::$name,
        },)*]
    };
}

/// All of them.
pub(crate) const CASES: &[Case] = &cases! {
    types::ping: "no arguments and no result",
    types::numbers: "every base type of a number, least and greatest values",
    types::strings_and_binaries: "empty, every byte, beyond ASCII, 70,000 bytes",
    types::enums_and_typedefs: "enums, one of a number without a name, and typedefs",
    types::structs: "base types, fields that are and are not there, no fields at all",
    types::unions: "each field of a union",
    types::nested: "a structure that contains itself, 30 deep",
    types::containers: "lists, sets and maps in each other and of structures",
    types::empty_containers: "containers without elements, and fields that are not there",
    types::several_arguments: "arguments by their numbers, not by their order",
    sizes::sizes_up: "requests around the lengths of packets and buffers, to the limit",
    sizes::sizes_down: "replies around the lengths of packets and buffers",
    sizes::longest_request: "1,000,000 bytes in all arrive, one more is not sent",
    sizes::longest_reply: "a reply over the limit is an exception that names it",
    ends::declared_exceptions: "both exceptions of a method, with their fields",
    ends::undeclared_exception: "an error that the method does not declare, with its text",
    ends::panicking_handler: "a handler that panics",
    ends::void_ends: "the same for a method without a result",
    ends::unknown_method: "a method that the server does not have",
    services::two_services: "two services behind one port, with methods of one name",
    services::default_service: "a client that names no service",
    services::unknown_service: "a service that the server does not have",
    services::inheritance: "methods that both services inherit",
    oneway::oneway_runs: "a oneway call runs, and the next call is answered",
    oneway::oneway_fails: "nobody sees that a oneway call fails",
    oneway::oneways_in_a_row: "oneway calls one after the other, each runs once",
    oneway::oneway_last_act: "a client that is dropped after a oneway call",
    oneway::oneway_acknowledged: "a oneway call that waits to be accepted, over Homa",
    recovery::timeout_and_late_reply: "a late reply is nobody's, and the client goes on",
    recovery::after_errors: "the same client after each kind of error",
    recovery::too_deep: "a structure that is nested too deep is refused",
    load::many_clients: "calls of many clients at once, each with its own reply",
    load::slow_beside_fast: "fast calls do not wait for slow ones",
    load::runs_once: "calls and oneway calls at once, every one runs exactly once",
};

/// Bytes of which each is one more than the one before.
pub(crate) fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

/// What a call returned; else that it failed, after what it was.
fn returned<T>(what: &str, result: thrift::Result<T>) -> Result<T, Failure> {
    result.map_err(|error| Failure::from(error).during(what))
}

/// Whether a call returned what it should.
fn returned_this<T: Debug + PartialEq>(
    what: &str,
    result: thrift::Result<T>,
    expected: &T,
) -> Outcome {
    let found = returned(what, result)?;
    if found != *expected {
        // Of long values the beginning has to do.
        let text = format!("{found:?} instead of {expected:?}");
        let text: String = text.chars().take(300).collect();
        return Err(Failure::new(text).during(what));
    }
    Ok(())
}

/// The text of the exception of this kind that a call ended with.
fn excepted<T>(
    what: &str,
    result: thrift::Result<T>,
    kind: ApplicationErrorKind,
) -> Result<String, Failure> {
    match result {
        Err(thrift::Error::Application(error)) if error.kind == kind => Ok(error.message),
        other => Err(unexpected(what, other, &format!("Application/{kind:?}"))),
    }
}

/// The text of the transport's error of this kind that a call ended with.
fn not_carried<T>(
    what: &str,
    result: thrift::Result<T>,
    kind: TransportErrorKind,
) -> Result<String, Failure> {
    match result {
        Err(thrift::Error::Transport(error)) if error.kind == kind => Ok(error.message),
        other => Err(unexpected(what, other, &format!("Transport/{kind:?}"))),
    }
}

fn unexpected<T>(what: &str, result: thrift::Result<T>, expected: &str) -> Failure {
    let found = match result {
        Ok(_) => "it returned".to_owned(),
        Err(error) => describe(&error),
    };
    Failure::new(format!("{found}, expected {expected}")).during(what)
}

/// Whether a text has all of these in it.
fn names(text: &str, parts: &[&str]) -> Outcome {
    for part in parts {
        ensure!(text.contains(part), "no {part:?} in {text:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::NAME_WIDTH;

    #[test]
    fn names_are_different_and_fit_their_column() {
        for (at, case) in CASES.iter().enumerate() {
            assert!(case.name.len() <= NAME_WIDTH, "{}", case.name);
            let others = &CASES[at + 1..];
            assert!(others.iter().all(|other| other.name != case.name));
        }
    }

    #[test]
    fn the_guide_has_every_case() {
        let guide = include_str!("../../../../docs/interop.md");
        let (_, ours) = guide.split_once("For Thrift, all ours").expect("a part");
        for case in CASES {
            assert!(ours.contains(&format!("`{}`", case.name)), "{}", case.name);
        }
    }

    #[test]
    fn a_wrong_result_or_error_is_told() {
        assert!(returned_this("a call", Ok(3), &3).is_ok());
        let wrong = returned_this("a call", Ok(4), &3).expect_err("wrong");
        assert_eq!(wrong.to_string(), "a call: 4 instead of 3");
        let error = || thrift::Error::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        let result = || Err::<(), _>(error());
        assert!(not_carried("a call", result(), TransportErrorKind::TimedOut).is_ok());
        let wrong = excepted("a call", result(), ApplicationErrorKind::Unknown);
        let wrong = wrong.expect_err("wrong").to_string();
        assert!(wrong.starts_with("a call: Transport/TimedOut"), "{wrong}");
        assert!(wrong.ends_with("expected Application/Unknown"), "{wrong}");
        assert!(not_carried("a call", Ok(()), TransportErrorKind::TimedOut).is_err());
        assert!(names("ab", &["a", "b"]).is_ok() && names("ab", &["c"]).is_err());
    }
}
