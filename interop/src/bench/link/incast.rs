//! Incast: all clients make many calls at once.

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use homa_client::engine::wire::Kind;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;
use tonic_homa::transport::{Channel, Endpoint};

use super::rows::HomaCounters;
use crate::child;
use crate::echo::proto::Payload;
use crate::echo::proto::echo_client::EchoClient;

/// What one of the clients does: some calls at once, whenever it is told to.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct BurstArguments {
    /// The echo service.
    #[arg(long)]
    pub(super) uri: String,
    /// Calls of each burst.
    #[arg(long)]
    pub(super) calls: u32,
    /// Bytes of each request.
    #[arg(long)]
    pub(super) bytes: u32,
    /// Bytes of each response.
    #[arg(long)]
    pub(super) response_bytes: u32,
    /// Homa's setting link_mbps.
    #[arg(long)]
    pub(super) link_mbps: u32,
}

impl BurstArguments {
    /// As it is written on the command line.
    pub(super) fn to_arguments(&self) -> Vec<String> {
        let Self {
            uri,
            calls,
            bytes,
            response_bytes,
            link_mbps,
        } = self;
        vec![
            format!("--uri={uri}"),
            format!("--calls={calls}"),
            format!("--bytes={bytes}"),
            format!("--response-bytes={response_bytes}"),
            format!("--link-mbps={link_mbps}"),
        ]
    }
}

/// How long the calls of a burst may take.
pub(super) const BURST_TIME: Duration = Duration::from_secs(60);

/// What a client is told, on a line.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// When to begin, in nanoseconds of Unix time.
    pub(super) start_at_ns: u64,
}

/// What it says, on a line.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// It is connected.
    Ready,
    Done(Done),
}

/// What has come of a client's calls.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Done {
    /// When the last one ended, in nanoseconds of Unix time.
    pub(super) last_ns: u64,
    pub(super) failed: u64,
    /// Of its endpoint, since it was opened.
    pub(super) homa: Option<HomaCounters>,
}

/// Nanoseconds of Unix time.
pub(super) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

/// Until that time; none if it has passed.
pub(super) fn until(ns: u64) -> Duration {
    Duration::from_nanos(ns.saturating_sub(now_ns()))
}

/// Such a process.
pub(crate) fn burst_until_stdin_ends(arguments: &BurstArguments) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(bursts(arguments));
    // A thread may still be reading standard input.
    runtime.shutdown_background();
    result
}

async fn bursts(arguments: &BurstArguments) -> Result<(), Box<dyn Error>> {
    let mut homa = homa_client::Config::default();
    homa.protocol.link_mbps = Some(arguments.link_mbps);
    let endpoint = Endpoint::from_shared(arguments.uri.clone())?;
    let channel = endpoint
        .tcp_nodelay(true)
        .homa_config(homa)
        .connect()
        .await?;
    let payload = Bytes::from(vec![b'x'; arguments.bytes as usize]);
    child::tell(&Word::Ready)?;
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = orders.next_line().await? {
        let order: Order = serde_json::from_str(&line)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        tokio::time::sleep(until(order.start_at_ns)).await;
        let done = burst(&channel, &payload, arguments).await;
        child::tell(&Word::Done(done))?;
    }
    Ok(())
}

async fn burst(channel: &Channel, payload: &Bytes, arguments: &BurstArguments) -> Done {
    let mut calls = JoinSet::new();
    for _ in 0..arguments.calls {
        let mut client = EchoClient::new(channel.clone());
        let request = Payload {
            data: payload.clone(),
            response_bytes: Some(arguments.response_bytes),
        };
        let expected = arguments.response_bytes as usize;
        calls.spawn(async move {
            let response = client.call(request).await;
            response.is_ok_and(|response| response.get_ref().data.len() == expected)
        });
    }
    let mut succeeded = 0;
    let all = async {
        while let Some(call) = calls.join_next().await {
            succeeded += u64::from(call.unwrap_or(false));
        }
    };
    // Those that are left count as failed, and end with the set.
    let _ = tokio::time::timeout(BURST_TIME, all).await;
    Done {
        last_ns: now_ns(),
        failed: u64::from(arguments.calls) - succeeded,
        homa: counters(channel),
    }
}

fn counters(channel: &Channel) -> Option<HomaCounters> {
    let counted = channel.monitor()?.counters()?.protocol;
    Some(HomaCounters {
        timeouts: counted.timeouts,
        resends: counted.received(Kind::Resend),
        retransmitted: counted.retransmitted,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn what_a_client_is_to_do_reaches_it_as_it_is() {
        #[derive(Parser)]
        struct Command {
            #[command(flatten)]
            arguments: BurstArguments,
        }
        let arguments = BurstArguments {
            uri: "homa://10.77.0.1:4000".to_owned(),
            calls: 64,
            bytes: 100_000,
            response_bytes: 100,
            link_mbps: 200,
        };
        let line = std::iter::once("link-burst".to_owned()).chain(arguments.to_arguments());
        assert_eq!(Command::parse_from(line).arguments, arguments);
    }

    #[test]
    fn a_time_that_has_passed_is_not_waited_for() {
        assert_eq!(until(now_ns() - 1_000_000), Duration::ZERO);
        let second = until(now_ns() + 1_000_000_000);
        assert!(second > Duration::ZERO && second <= Duration::from_secs(1));
    }
}
