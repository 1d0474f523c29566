//! `Probe`: what gRPC's own suite has no calls for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_stream::try_stream;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::Responses;
use crate::grpc::MESSAGE_LIMIT;
use crate::grpc::content;
use crate::grpc::proto::probe::probe_server::Probe;
use crate::grpc::proto::probe::{
    CheckResponse, DrainResponse, Piece, PourRequest, ProduceRequest, RunsRequest, RunsResponse,
    TransferRequest, TransferResponse, TransferState,
};
use crate::ledger::Ledger;

/// Transfers that are known at a time; the oldest is forgotten first.
const MAX_TRANSFERS: usize = 1_024;

/// What a piece may have besides its data.
const PIECE_HEAD: usize = 64;

#[derive(Debug)]
pub(super) struct Prober {
    ledger: Arc<Ledger>,
    transfers: Transfers,
}

impl Prober {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Self {
            ledger,
            transfers: Transfers::default(),
        }
    }
}

#[tonic::async_trait]
impl Probe for Prober {
    type GreetStream = Responses<Piece>;
    type PourStream = Responses<Piece>;

    async fn greet(
        &self,
        request: Request<Streaming<Piece>>,
    ) -> Result<Response<Self::GreetStream>, Status> {
        let mut requests = request.into_inner();
        Ok(Response::new(Box::pin(try_stream! {
            yield content::piece(0, 0, 100);
            while let Some(piece) = requests.message().await? {
                yield piece;
            }
        })))
    }

    async fn pour(
        &self,
        request: Request<PourRequest>,
    ) -> Result<Response<Self::PourStream>, Status> {
        let request = request.into_inner();
        let len = checked_len(request.piece_bytes.into())?;
        let running = self.transfers.start(request.key);
        // Always ready, and counted when the transport takes it.
        let pieces = (0..u64::from(request.pieces)).map(move |number| {
            if number + 1 == u64::from(request.pieces) {
                running.finish();
            }
            running.transfer.pieces.fetch_add(1, Ordering::Relaxed);
            Ok(content::piece(request.key, number, len))
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }

    async fn drain(
        &self,
        request: Request<Streaming<Piece>>,
    ) -> Result<Response<DrainResponse>, Status> {
        let mut requests = request.into_inner();
        let mut next = requests.message().await?;
        let Some(first) = &next else {
            return Err(Status::invalid_argument("there is no first piece"));
        };
        let running = self.transfers.start(first.key);
        let mut drained = DrainResponse {
            pieces: 0,
            as_sent: true,
        };
        while let Some(piece) = next {
            drained.as_sent &= piece.number == drained.pieces && content::is_as_sent(&piece);
            drained.pieces += 1;
            running.transfer.pieces.fetch_add(1, Ordering::Relaxed);
            if drained.pieces == 1 {
                running.transfer.released().await;
            }
            next = requests.message().await?;
        }
        running.finish();
        Ok(Response::new(drained))
    }

    async fn release(
        &self,
        request: Request<TransferRequest>,
    ) -> Result<Response<TransferResponse>, Status> {
        let key = request.into_inner().key;
        let transfer = self.transfers.get(key);
        let transfer = transfer.ok_or_else(|| Status::not_found(format!("no transfer {key}")))?;
        transfer.release.send_replace(true);
        Ok(Response::new(transfer.response()))
    }

    async fn watch(
        &self,
        request: Request<TransferRequest>,
    ) -> Result<Response<TransferResponse>, Status> {
        let transfer = self.transfers.get(request.into_inner().key);
        let response = transfer.map_or_else(TransferResponse::default, |known| known.response());
        Ok(Response::new(response))
    }

    async fn produce(&self, request: Request<ProduceRequest>) -> Result<Response<Piece>, Status> {
        let ProduceRequest { number, bytes } = request.into_inner();
        let len = checked_len(bytes)?;
        Ok(Response::new(content::piece(0, number, len)))
    }

    async fn check(&self, request: Request<Piece>) -> Result<Response<CheckResponse>, Status> {
        let piece = request.into_inner();
        Ok(Response::new(CheckResponse {
            as_sent: content::is_as_sent(&piece),
            bytes: piece.data.len() as u64,
        }))
    }

    async fn runs(&self, request: Request<RunsRequest>) -> Result<Response<RunsResponse>, Status> {
        let counts = self.ledger.session(request.into_inner().session);
        Ok(Response::new(RunsResponse {
            calls: counts.calls,
            again: counts.again,
        }))
    }
}

/// The length of a piece that fits into a message.
fn checked_len(bytes: u64) -> Result<usize, Status> {
    let limit = MESSAGE_LIMIT - PIECE_HEAD;
    let len = usize::try_from(bytes).ok().filter(|len| *len <= limit);
    len.ok_or_else(|| {
        Status::invalid_argument(format!("a piece of {bytes} bytes, expected 0 to {limit}"))
    })
}

/// The last transfers, by the keys of their clients.
#[derive(Debug, Default)]
struct Transfers(Mutex<VecDeque<(u64, Arc<Transfer>)>>);

impl Transfers {
    fn start(&self, key: u64) -> Running {
        let transfer = Arc::new(Transfer::default());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == MAX_TRANSFERS {
            known.pop_front();
        }
        known.push_back((key, Arc::clone(&transfer)));
        Running { transfer }
    }

    fn get(&self, key: u64) -> Option<Arc<Transfer>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut latest = known.iter().rev();
        let found = latest.find(|(known, _)| *known == key);
        found.map(|(_, transfer)| Arc::clone(transfer))
    }
}

#[derive(Debug)]
struct Transfer {
    state: Mutex<TransferState>,
    pieces: AtomicU64,
    release: watch::Sender<bool>,
}

impl Default for Transfer {
    fn default() -> Self {
        Self {
            state: Mutex::new(TransferState::Running),
            pieces: AtomicU64::new(0),
            release: watch::Sender::new(false),
        }
    }
}

impl Transfer {
    async fn released(&self) {
        // The sender lives as long as this.
        let _ = self
            .release
            .subscribe()
            .wait_for(|released| *released)
            .await;
    }

    fn end(&self, state: TransferState) {
        let mut now = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *now == TransferState::Running {
            *now = state;
        }
    }

    fn response(&self) -> TransferResponse {
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        TransferResponse {
            state: state.into(),
            pieces: self.pieces.load(Ordering::Relaxed),
        }
    }
}

/// A transfer whose handler runs. It was cancelled if this is dropped before its end.
#[derive(Debug)]
struct Running {
    transfer: Arc<Transfer>,
}

impl Running {
    fn finish(&self) {
        self.transfer.end(TransferState::Finished);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.transfer.end(TransferState::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_whose_handler_is_dropped_was_cancelled_unless_it_had_ended() {
        let transfers = Transfers::default();
        let state = |key| transfers.get(key).map(|known| known.response().state());
        let cancelled = transfers.start(1);
        assert_eq!(state(1), Some(TransferState::Running));
        drop(cancelled);
        assert_eq!(state(1), Some(TransferState::Cancelled));
        let finished = transfers.start(2);
        finished.finish();
        drop(finished);
        assert_eq!(state(2), Some(TransferState::Finished));
        assert_eq!(state(3), None);
    }

    #[test]
    fn only_the_last_transfers_are_remembered() {
        let transfers = Transfers::default();
        for key in 0..=MAX_TRANSFERS as u64 {
            transfers.start(key).finish();
        }
        assert!(transfers.get(0).is_none() && transfers.get(1).is_some());
    }

    #[test]
    fn a_piece_that_fits_into_no_message_is_refused_with_the_range() {
        assert_eq!(checked_len(64 << 20).expect("it fits"), 64 << 20);
        let refused = checked_len(u64::MAX).expect_err("too long");
        assert!(
            refused.message().contains(&u64::MAX.to_string()),
            "{refused}"
        );
    }
}
