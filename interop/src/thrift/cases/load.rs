//! Many calls at once.

use std::thread;
use std::time::{Duration, Instant};

use super::{Context, Outcome, content, returned, returned_this};
use crate::case::{Failure, ensure};
use crate::thrift::suite::{TBaseSyncClient, TSuiteSyncClient};

/// Clients at once, each on a thread of its own.
const CLIENTS: u32 = 16;

/// What a slow handler takes.
const SLOW: Duration = Duration::from_millis(800);

/// Runs `call` on so many threads; tells why the first one failed that did.
fn at_once(count: u32, call: impl Fn(u32) -> Outcome + Sync) -> Outcome {
    thread::scope(|scope| {
        let call = &call;
        let threads: Vec<_> = (0..count).map(|at| scope.spawn(move || call(at))).collect();
        for thread in threads {
            let panicked = |_| Err(Failure::new("a client panicked"));
            thread.join().unwrap_or_else(panicked)?;
        }
        Ok(())
    })
}

/// The same number back that was sent.
fn numbered(context: &Context, client: &mut super::super::context::Suite, size: usize) -> Outcome {
    let id = context.next_id();
    let number = id.number.unwrap_or_default();
    let answered = client.numbered(id, content(size));
    returned_this("a numbered call", answered, &number)
}

pub(super) fn many_clients(context: &Context) -> Outcome {
    let calls = context.amount.calls().div_ceil(CLIENTS);
    at_once(CLIENTS, |at| {
        let mut client = context.suite()?;
        for call in 0..calls {
            // Of every length, and each client's own.
            let size = usize::try_from((at * 7_919 + call * 104_729) % 20_000).unwrap_or(0);
            numbered(context, &mut client, size)?;
            let text = format!("{at}, {call}");
            returned_this("an echo", client.echo_string(text.clone()), &text)?;
        }
        Ok(())
    })?;
    ensure!(
        context.calls_made() == u64::from(CLIENTS * calls),
        "not every client has called"
    );
    context.ran_once()
}

pub(super) fn slow_beside_fast(context: &Context) -> Outcome {
    thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let slow = i32::try_from(SLOW.as_millis()).unwrap_or(i32::MAX);
            let waited = context.suite()?.wait(slow, "slow".to_owned());
            returned_this("slow", waited, &"slow".to_owned())
        });
        let began = Instant::now();
        let mut client = context.suite()?;
        for _ in 0..20 {
            returned("fast", client.ping())?;
        }
        let took = began.elapsed();
        let panicked = |_| Err(Failure::new("the slow client panicked"));
        slow.join().unwrap_or_else(panicked)?;
        ensure!(took < SLOW, "the fast calls took {took:?}");
        Ok(())
    })
}

pub(super) fn runs_once(context: &Context) -> Outcome {
    let calls = context.amount.calls().div_ceil(CLIENTS);
    at_once(CLIENTS, |at| {
        let mut client = context.suite()?;
        for call in 0..calls {
            if (at + call) % 2 == 0 {
                returned("note", client.note(context.next_id(), call % 3 == 0))?;
            } else {
                numbered(context, &mut client, 1_000)?;
            }
        }
        Ok(())
    })?;
    context.ran_once()
}
