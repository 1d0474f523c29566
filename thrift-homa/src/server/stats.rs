//! [`ServerStats`]: what a server has done.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::CallOutcome;
use crate::pieces::PieceStats;

/// What a server has done since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    outcomes: [u64; CallOutcome::ALL.len()],
    /// Handlers that run now; never more than workers.
    pub in_flight: usize,
    /// Most handlers that ran at once.
    pub peak_in_flight: usize,
    /// Requests that wait for a worker now; without those that wait in the kernel module.
    pub queued: usize,
    /// Of the rejected requests those that came while the queue was full.
    pub overloaded: u64,
    /// Bytes of requests.
    pub bytes_in: u64,
    /// Bytes of replies, control replies included.
    pub bytes_out: u64,
    /// Replies that could not be handed to the transport: the endpoint or the connection was closed,
    /// or, over Homa, there was no room for them.
    pub undelivered: u64,
    /// Connections now, over TCP and unix sockets.
    pub connections: usize,
    /// Connections that were closed because there were `max_connections`, or no thread could be
    /// started.
    pub connections_refused: u64,
    /// Connections that were closed because of what came on them (no message, one in no known
    /// protocol, one whose end could not be found or took too long to come), or because a reply could
    /// not be written, or was not taken in time.
    pub connections_broken: u64,
    /// Messages in pieces, over Homa.
    pub pieces: PieceStats,
}

impl ServerStats {
    /// Requests with this outcome.
    pub fn of(&self, outcome: CallOutcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// Requests that are done with.
    pub fn calls(&self) -> u64 {
        self.outcomes.iter().sum()
    }
}

/// The counters behind it.
#[derive(Debug, Default)]
pub(super) struct Counts {
    outcomes: [AtomicU64; CallOutcome::ALL.len()],
    in_flight: AtomicUsize,
    peak_in_flight: AtomicUsize,
    pub(super) overloaded: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) undelivered: AtomicU64,
    pub(super) connections: AtomicUsize,
    pub(super) connections_refused: AtomicU64,
    pub(super) connections_broken: AtomicU64,
}

impl Counts {
    pub(super) fn started(&self) {
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        // Mostly it is not; a load is cheaper than a maximum.
        if now > self.peak_in_flight.load(Ordering::Relaxed) {
            self.peak_in_flight.fetch_max(now, Ordering::Relaxed);
        }
    }

    pub(super) fn are_running(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    pub(super) fn ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn count(&self, outcome: CallOutcome, bytes_in: usize, bytes_out: usize) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes_in as u64, Ordering::Relaxed);
        self.bytes_out
            .fetch_add(bytes_out as u64, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self, queued: usize, pieces: PieceStats) -> ServerStats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ServerStats {
            outcomes: std::array::from_fn(|outcome| of(&self.outcomes[outcome])),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            peak_in_flight: self.peak_in_flight.load(Ordering::Relaxed),
            queued,
            overloaded: of(&self.overloaded),
            bytes_in: of(&self.bytes_in),
            bytes_out: of(&self.bytes_out),
            undelivered: of(&self.undelivered),
            connections: self.connections.load(Ordering::Relaxed),
            connections_refused: of(&self.connections_refused),
            connections_broken: of(&self.connections_broken),
            pieces,
        }
    }
}
