//! Every way in which a call can end.

use std::error::Error;

use thrift::{ApplicationErrorKind, OrderedFloat};

use super::{Context, Outcome, excepted, names, returned, returned_this, unexpected};
use crate::case::{Failure, ensure};
use crate::thrift::suite::{
    Ending, Missing, Point, Refused, SecondSyncClient, TBaseSyncClient, TSecondSyncClient,
    TSuiteSyncClient,
};

/// The declared exception that a call ended with.
fn declared<T, E: Error + Clone + 'static>(
    what: &str,
    result: thrift::Result<T>,
) -> Result<E, Failure> {
    match result {
        Err(thrift::Error::User(error)) if error.is::<E>() => {
            let error = error.downcast_ref::<E>().cloned();
            error.ok_or_else(|| Failure::new("gone"))
        }
        other => Err(unexpected(what, other, "a declared exception")),
    }
}

pub(super) fn declared_exceptions(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    let ended = client.finish(Ending::RETURN);
    returned_this("return", ended, &"returned".to_owned())?;
    let refused: Refused = declared("refused", client.finish(Ending::REFUSED))?;
    let expected = Refused::new(7, "as asked".to_owned());
    ensure!(refused == expected, "{refused:?} instead of {expected:?}");
    let missing: Missing = declared("missing", client.finish(Ending::MISSING))?;
    let near = Point::new(OrderedFloat(1.5), OrderedFloat(-2.5));
    let expected = Missing::new("a key".to_owned(), near);
    ensure!(missing == expected, "{missing:?} instead of {expected:?}");
    returned("afterwards", client.ping())
}

pub(super) fn undeclared_exception(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    let ended = client.finish(Ending::UNDECLARED);
    let text = excepted("undeclared", ended, ApplicationErrorKind::Unknown)?;
    names(&text, &["undeclared, as asked"])?;
    returned("afterwards", client.ping())
}

pub(super) fn panicking_handler(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    for _ in 0..3 {
        let ended = client.finish(Ending::PANIC);
        let text = excepted("panic", ended, ApplicationErrorKind::InternalError)?;
        names(&text, &["panicked"])?;
    }
    returned("afterwards", client.ping())
}

pub(super) fn void_ends(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    returned("return", client.finish_void(Ending::RETURN))?;
    let _: Refused = declared("refused", client.finish_void(Ending::REFUSED))?;
    // Of the two exceptions it declares one.
    let ended = client.finish_void(Ending::MISSING);
    excepted("missing", ended, ApplicationErrorKind::Unknown)?;
    let ended = client.finish_void(Ending::PANIC);
    excepted("panic", ended, ApplicationErrorKind::InternalError)?;
    returned("afterwards", client.finish_void(Ending::RETURN))
}

pub(super) fn unknown_method(context: &Context) -> Outcome {
    // A client of the one service that calls the other.
    let (input, output) = context.protocols_of("Suite")?;
    let mut client = SecondSyncClient::new(input, output);
    for _ in 0..2 {
        let ended = client.twice("x".to_owned());
        let text = excepted("twice", ended, ApplicationErrorKind::UnknownMethod)?;
        names(&text, &["twice"])?;
    }
    returned("afterwards", client.ping())
}
