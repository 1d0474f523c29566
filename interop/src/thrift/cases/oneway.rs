//! Oneway calls.

use thrift_homa::OnewayMode;

use super::{Context, Outcome, returned, returned_this};
use crate::thrift::suite::{TBaseSyncClient, TSuiteSyncClient};

pub(super) fn oneway_runs(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    for number in 0..10 {
        returned("note", client.note(context.next_id(), false))?;
        returned_this("echo_int", client.echo_int(number), &number)?;
    }
    context.ran_once()
}

pub(super) fn oneway_fails(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    for _ in 0..5 {
        returned("note", client.note(context.next_id(), true))?;
        returned("ping", client.ping())?;
    }
    context.ran_once()
}

pub(super) fn oneways_in_a_row(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    for _ in 0..context.amount.calls() {
        returned("note", client.note(context.next_id(), false))?;
    }
    returned("ping", client.ping())?;
    context.ran_once()
}

pub(super) fn oneway_last_act(context: &Context) -> Outcome {
    for _ in 0..10 {
        let mut client = context.suite()?;
        returned("note", client.note(context.next_id(), false))?;
        drop(client);
    }
    context.ran_once()
}

pub(super) fn oneway_acknowledged(context: &Context) -> Outcome {
    let context = context.with_oneway(OnewayMode::AwaitAck);
    let mut client = context.suite()?;
    for _ in 0..20 {
        returned("note", client.note(context.next_id(), false))?;
    }
    returned("ping", client.ping())?;
    context.ran_once()
}
