//! What comes after something went wrong.

use std::time::{Duration, Instant};

use thrift::{ApplicationErrorKind, TransportErrorKind};

use super::types::tree;
use super::{Context, Outcome, excepted, not_carried, returned, returned_this};
use crate::case::{Failure, ensure};
use crate::thrift::context::describe;
use crate::thrift::suite::{Ending, TBaseSyncClient, TSuiteSyncClient};

/// What an impatient client waits for a reply.
const IMPATIENT: Duration = Duration::from_millis(300);

/// What the handler takes.
const SLOW: Duration = Duration::from_millis(600);

/// Deeper than servers take.
const TOO_DEEP: usize = 200;

pub(super) fn timeout_and_late_reply(context: &Context) -> Outcome {
    let context = context.with_timeout(IMPATIENT);
    let mut client = context.suite()?;
    let began = Instant::now();
    let slow = i32::try_from(SLOW.as_millis()).unwrap_or(i32::MAX);
    let failed = client.wait(slow, "late".to_owned());
    not_carried("a slow call", failed, TransportErrorKind::TimedOut)?;
    let took = began.elapsed();
    ensure!(took >= IMPATIENT, "it gave up after {took:?}");
    ensure!(took < SLOW, "it gave up only after {took:?}");
    // Until long after the late reply has come.
    let mut number = 0;
    while began.elapsed() < 2 * SLOW {
        let text = number.to_string();
        returned_this("the next", client.wait(5, text.clone()), &text)?;
        number += 1;
    }
    Ok(())
}

pub(super) fn after_errors(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    for _ in 0..3 {
        let failed = client.measure(vec![0; 1_000_001]);
        not_carried("too long", failed, TransportErrorKind::SizeLimit)?;
        returned_this("after too long", client.echo_int(1), &1)?;
        let failed = client.make(1_000_001);
        excepted(
            "too long a reply",
            failed,
            ApplicationErrorKind::InternalError,
        )?;
        returned_this("after too long a reply", client.echo_int(2), &2)?;
        let failed = client.finish(Ending::PANIC);
        excepted("panic", failed, ApplicationErrorKind::InternalError)?;
        returned_this("after a panic", client.echo_int(3), &3)?;
        ensure!(client.finish(Ending::REFUSED).is_err(), "refused returned");
        returned_this("after an exception", client.echo_int(4), &4)?;
        ensure!(
            client.echo_tree(tree(TOO_DEEP)).is_err(),
            "too deep returned"
        );
        returned_this("after too deep", client.echo_int(5), &5)?;
    }
    Ok(())
}

pub(super) fn too_deep(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    match client.echo_tree(tree(TOO_DEEP)) {
        Err(thrift::Error::Protocol(error))
            if error.kind == thrift::ProtocolErrorKind::DepthLimit => {}
        Err(thrift::Error::Application(error))
            if error.kind == ApplicationErrorKind::ProtocolError => {}
        Err(other) => return Err(Failure::new(describe(&other)).during("200 levels")),
        Ok(_) => return Err(Failure::new("200 levels were taken")),
    }
    returned("afterwards", client.ping())
}
