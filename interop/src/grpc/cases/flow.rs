//! Who waits for whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::ending::LOOK_EVERY;
use super::{Outcome, ended};
use crate::case::{Failure, ensure};
use crate::grpc::content;
use crate::grpc::context::Context;
use crate::grpc::proto::probe::{Piece, PourRequest, TransferRequest};
use crate::grpc::proto::testing::Empty;

/// A transfer that is held up: 32 MiB.
const PIECES: u32 = 512;
const PIECE_BYTES: u32 = 64 << 10;

/// Bytes that may be under way to somebody who does not read: what receivers allow, and what
/// both sides hold.
const HELD_LIMIT: u64 = 16 << 20;

/// Looks at a count that has to stay the same before it counts as stopped.
const SAME_LOOKS: u32 = 15;

/// What a slow reader reads, and how long it waits before each piece.
const SLOW_PIECES: u32 = 100;
const SLOW_PAUSE: Duration = Duration::from_millis(5);

/// How long another call may take meanwhile.
const BESIDE_LIMIT: Duration = Duration::from_secs(1);

/// Streams at the same time, and what each of them has.
const STREAMS: u64 = 50;
const STREAM_PIECES: u32 = 40;
const STREAM_PIECE_BYTES: u32 = 3_000;

pub(super) async fn flow_control_down(context: Context) -> Outcome {
    let key = fastrand::u64(..);
    let request = PourRequest {
        key,
        pieces: PIECES,
        piece_bytes: PIECE_BYTES,
    };
    let mut pieces = context.probe().pour(request).await?.into_inner();
    check_piece(pieces.message().await?, 0)?;
    check_held(|| {
        let mut probe = context.probe();
        async move {
            let watched = probe.watch(TransferRequest { key }).await?;
            Ok(watched.into_inner().pieces)
        }
    })
    .await?;
    for number in 1..PIECES {
        check_piece(pieces.message().await?, number)?;
    }
    ended(pieces.message().await?)
}

pub(super) async fn flow_control_up(context: Context) -> Outcome {
    let key = fastrand::u64(..);
    let taken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&taken);
    let pieces = (0..u64::from(PIECES)).map(move |number| {
        count.fetch_add(1, Ordering::Relaxed);
        content::piece(key, number, PIECE_BYTES as usize)
    });
    let mut calls = JoinSet::new();
    let mut probe = context.probe();
    calls.spawn(async move { probe.drain(tokio_stream::iter(pieces)).await });
    let held = check_held(|| std::future::ready(Ok(taken.load(Ordering::Relaxed))));
    tokio::select! {
        held = held => held?,
        drained = calls.join_next() => {
            if let Some(Ok(Err(status))) = drained {
                return Err(status.into());
            }
            return Err(Failure::new("it ended while it was held up"));
        }
    }
    // Over HTTP/2 a stream that is held up may have used up the credit of its whole connection.
    let aside = context.with_new_channel().await?;
    aside.probe().release(TransferRequest { key }).await?;
    let Some(Ok(drained)) = calls.join_next().await else {
        return Err(Failure::new("the call panicked"));
    };
    let drained = drained?.into_inner();
    ensure!(
        drained.pieces == u64::from(PIECES) && drained.as_sent,
        "{} of {PIECES} pieces arrived, as they were sent: {}",
        drained.pieces,
        drained.as_sent
    );
    Ok(())
}

/// Waits until a sender has stopped, and compares what it has sent by then with the limit.
async fn check_held<F>(mut sent: impl FnMut() -> F) -> Outcome
where
    F: Future<Output = Result<u64, Failure>>,
{
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut last, mut same) = (0, 0);
    while same < SAME_LOOKS {
        looks.tick().await;
        let now = sent().await?;
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
    }
    let bytes = last * u64::from(PIECE_BYTES);
    ensure!(
        bytes <= HELD_LIMIT,
        "{bytes} bytes were sent to somebody who does not read, expected at most {HELD_LIMIT}"
    );
    Ok(())
}

fn check_piece(piece: Option<Piece>, number: u32) -> Outcome {
    let Some(piece) = piece else {
        return Err(Failure::new(format!(
            "the stream ended before piece {number}"
        )));
    };
    ensure!(
        piece.number == u64::from(number),
        "piece {} in place of {number}",
        piece.number
    );
    ensure!(
        content::is_as_sent(&piece),
        "piece {number} has other bytes than were sent"
    );
    Ok(())
}

pub(super) async fn slow_consumer(context: Context) -> Outcome {
    let request = PourRequest {
        key: fastrand::u64(..),
        pieces: SLOW_PIECES,
        piece_bytes: PIECE_BYTES,
    };
    let mut pieces = context.probe().pour(request).await?.into_inner();
    let read = async {
        let mut pauses = interval(SLOW_PAUSE);
        pauses.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 0..SLOW_PIECES {
            pauses.tick().await;
            check_piece(pieces.message().await?, number)?;
        }
        ended(pieces.message().await?)
    };
    let beside = async {
        let mut tests = context.tests();
        loop {
            let began = Instant::now();
            tests.empty_call(Empty {}).await?;
            let took = began.elapsed();
            ensure!(took <= BESIDE_LIMIT, "a call beside it took {took:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        read = read => read,
        failed = beside => failed,
    }
}

pub(super) async fn many_streams(context: Context) -> Outcome {
    let mut streams = JoinSet::new();
    for key in 0..STREAMS {
        let mut probe = context.probe();
        streams.spawn(async move {
            let request = PourRequest {
                key,
                pieces: STREAM_PIECES,
                piece_bytes: STREAM_PIECE_BYTES,
            };
            let mut pieces = probe.pour(request).await?.into_inner();
            for number in 0..STREAM_PIECES {
                let piece = pieces.message().await?;
                let found = piece.as_ref().map(|piece| piece.key);
                ensure!(
                    found.is_none_or(|found| found == key),
                    "stream {key} got a piece of {found:?}"
                );
                check_piece(piece, number)?;
            }
            ended(pieces.message().await?)
        });
    }
    while let Some(stream) = streams.join_next().await {
        stream.map_err(|error| Failure::new(error.to_string()))??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sender_that_does_not_stop_in_time_fails_the_case() {
        let pieces_of_limit = HELD_LIMIT / u64::from(PIECE_BYTES);
        for (stops_at, holds) in [(pieces_of_limit, true), (pieces_of_limit + 1, false)] {
            let mut sent = 0;
            let checked = check_held(|| {
                sent = (sent + 100).min(stops_at);
                std::future::ready(Ok(sent))
            });
            assert_eq!(checked.await.is_ok(), holds, "{stops_at}");
        }
    }

    #[test]
    fn a_piece_out_of_order_or_with_other_bytes_fails_the_case() {
        let piece = content::piece(1, 5, 100);
        assert!(check_piece(Some(piece.clone()), 5).is_ok());
        assert!(check_piece(Some(piece.clone()), 4).is_err());
        assert!(check_piece(None, 0).is_err());
        let data = content::of(6, 100);
        assert!(check_piece(Some(Piece { data, ..piece }), 5).is_err());
    }
}
