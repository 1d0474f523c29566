//! Many calls.

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{Outcome, check_response, ended, output_request, unary, zeros};
use crate::case::{Failure, ensure};
use crate::grpc::context::Context;
use crate::grpc::proto::testing::{Empty, StreamingInputCallRequest};

/// Idle times of a long-lived channel.
const IDLE_TIMES: usize = 3;

/// Of each kind of call that has to run once.
const CALLS_OF_A_KIND: u64 = 20;

pub(super) async fn concurrent_large_unary(context: Context) -> Outcome {
    let mut calls = JoinSet::new();
    for _ in 0..context.load.calls() {
        calls.spawn(unary::large_unary(context.clone()));
    }
    let (mut failed, mut first) = (0, None);
    while let Some(call) = calls.join_next().await {
        let outcome = call.unwrap_or_else(|panic| Err(Failure::new(panic.to_string())));
        if let Err(why) = outcome {
            failed += 1;
            first.get_or_insert(why);
        }
    }
    match first {
        Some(why) => Err(why.during(&format!(
            "{failed} of {} calls failed, the first with",
            context.load.calls()
        ))),
        None => Ok(()),
    }
}

pub(super) async fn rpc_soak(context: Context) -> Outcome {
    soak(context, false).await
}

pub(super) async fn channel_soak(context: Context) -> Outcome {
    soak(context, true).await
}

async fn soak(context: Context, new_channels: bool) -> Outcome {
    let load = context.load;
    let (mut failures, mut last) = (0, None);
    for number in 1..=load.soak_iterations() {
        let began = Instant::now();
        let outcome = async {
            let context = if new_channels {
                context.with_new_channel().await?
            } else {
                context.clone()
            };
            unary::large_unary(context).await
        };
        let outcome = outcome.await;
        let took = began.elapsed();
        let why = match outcome {
            Ok(()) if took <= load.soak_latency() => continue,
            Ok(()) => format!("call {number} took {took:?}"),
            Err(why) => format!("call {number}: {why}"),
        };
        failures += 1;
        last = Some(why);
    }
    let last = last.unwrap_or_default();
    ensure!(
        failures <= load.soak_failures(),
        "{failures} of {} calls failed or took longer than {:?}, the last one: {last}",
        load.soak_iterations(),
        load.soak_latency()
    );
    Ok(())
}

pub(super) async fn long_lived_channel(context: Context) -> Outcome {
    unary::large_unary(context.clone()).await?;
    for _ in 0..IDLE_TIMES {
        sleep(context.load.idle()).await;
        unary::large_unary(context.clone()).await?;
    }
    Ok(())
}

pub(super) async fn runs_once(context: Context) -> Outcome {
    let context = context.with_new_session();
    let mut calls = JoinSet::new();
    for _ in 0..CALLS_OF_A_KIND {
        let mut tests = context.tests();
        calls.spawn(async move {
            tests.empty_call(Empty {}).await?;
            Ok(())
        });
        calls.spawn(unary::large_unary(context.clone()));
        let mut tests = context.tests();
        calls.spawn(async move {
            let request = output_request(&[31_415, 9], 0);
            let mut responses = tests.streaming_output_call(request).await?.into_inner();
            check_response(responses.message().await?, 31_415)?;
            check_response(responses.message().await?, 9)?;
            ended(responses.message().await?)
        });
        let mut tests = context.tests();
        calls.spawn(async move {
            let requests = [27_182, 8].map(|size| StreamingInputCallRequest {
                payload: zeros(size),
                ..StreamingInputCallRequest::default()
            });
            let requests = tokio_stream::iter(requests);
            tests.streaming_input_call(requests).await?;
            Ok(())
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap_or_else(|panic| Err(Failure::new(panic.to_string())))?;
    }
    let runs = context.runs().await?;
    let made = context.calls_made();
    ensure!(
        made == 4 * CALLS_OF_A_KIND && runs.calls == made && runs.again == 0,
        "of {made} calls {} ran, and {} ran again",
        runs.calls,
        runs.again
    );
    Ok(())
}
