//! [`Detached`]: RPCs of oneway messages.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use homa_client::blocking::Call;
use homa_client::{CallError, Message};

use super::failure::HomaError;
use super::link::refusal;

/// Oneway messages of one transport that the server has not accepted yet, at most. A flush beyond
/// waits for one of them: a server that is slower than its clients slows them down, as over TCP.
pub(crate) const MAX_DETACHED: usize = 1_024;

/// Longer than anybody waits.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// RPCs that are kept before those that are over are looked for.
const FIRST_SWEEP: usize = 64;

/// RPCs that nobody waits for. They are kept so that it is known what became of them; whoever drops
/// this leaves them to the endpoint.
#[derive(Debug, Default)]
pub(crate) struct Detached {
    list: Mutex<List>,
    /// Signalled when a call comes back from a thread that waited for it, or does not.
    returned: Condvar,
}

#[derive(Debug, Default)]
struct List {
    /// Oldest first.
    calls: VecDeque<Call>,
    /// So many are being waited for, and not in `calls`.
    in_hand: usize,
    /// When there are so many, those that are over are looked for.
    sweep_at: usize,
    /// What became of those that are over.
    ended: Ended,
}

/// What became of oneway messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ended {
    /// Accepted by the server.
    pub(crate) accepted: u64,
    /// Refused by the server, or not delivered.
    pub(crate) failed: u64,
    /// Why the last of those failed.
    pub(crate) last: Option<HomaError>,
}

impl Ended {
    fn count(&mut self, outcome: Result<Message, CallError>) {
        let failure = match outcome {
            Ok(reply) => refusal(&reply),
            Err(error) => Some(error.into()),
        };
        match failure {
            None => self.accepted += 1,
            Some(failure) => {
                tracing::debug!(%failure, "a oneway message was not delivered");
                self.failed += 1;
                self.last = Some(failure);
            }
        }
    }
}

impl List {
    fn len(&self) -> usize {
        self.calls.len() + self.in_hand
    }

    /// Lets go of those that are over.
    fn sweep(&mut self) {
        let ended = &mut self.ended;
        self.calls.retain_mut(|call| match call.try_wait() {
            None => true,
            Some(outcome) => {
                ended.count(outcome);
                false
            }
        });
        self.sweep_at = (2 * self.calls.len()).max(FIRST_SWEEP);
    }
}

impl Detached {
    /// Keeps a call that nobody waits for.
    pub(crate) fn keep(&self, call: Call) {
        let mut list = self.lock();
        list.calls.push_back(call);
        // Seldom enough that each is looked at a few times at most.
        if list.calls.len() >= list.sweep_at.max(FIRST_SWEEP) {
            list.sweep();
        }
    }

    /// Whether there is room for one more; waits for that until the deadline.
    pub(crate) fn make_room(&self, deadline: Option<Instant>) -> bool {
        while self.lock().len() >= MAX_DETACHED {
            if !self.wait_for_one(deadline) {
                return false;
            }
        }
        true
    }

    /// Waits until the oldest is over. `false`: there is none, or it is not over at the deadline.
    pub(crate) fn wait_for_one(&self, deadline: Option<Instant>) -> bool {
        let deadline = deadline.unwrap_or_else(|| Instant::now() + FOR_EVER);
        let mut list = self.lock();
        let Some(mut oldest) = list.calls.pop_front() else {
            if list.in_hand == 0 {
                return false;
            }
            // Other threads wait for all there are.
            let left = deadline.saturating_duration_since(Instant::now());
            let waited = self.returned.wait_timeout(list, left);
            return !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out();
        };
        list.in_hand += 1;
        drop(list);
        let outcome = oldest.wait_until(deadline);
        let mut list = self.lock();
        list.in_hand -= 1;
        let is_over = outcome.is_some();
        match outcome {
            Some(outcome) => list.ended.count(outcome),
            None => list.calls.push_front(oldest),
        }
        drop(list);
        self.returned.notify_all();
        is_over
    }

    /// Waits until none is left, or the deadline. Returns how many are left.
    pub(crate) fn wait_for_all(&self, deadline: Instant) -> usize {
        loop {
            let mut list = self.lock();
            list.sweep();
            if list.len() == 0 {
                return 0;
            }
            if Instant::now() >= deadline {
                return list.len();
            }
            drop(list);
            self.wait_for_one(Some(deadline));
        }
    }

    /// How many are not over as far as is known, and what became of the others.
    pub(crate) fn ended(&self) -> (usize, Ended) {
        let mut list = self.lock();
        list.sweep();
        (list.len(), list.ended.clone())
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The endpoint goes on delivering them while it lingers.
impl Drop for Detached {
    fn drop(&mut self) {
        for call in self.lock().calls.drain(..) {
            call.detach();
        }
    }
}

/// Oneway messages that are not known to have been accepted.
///
/// Those that wait go on being delivered for as long as the endpoint is open.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
#[error(
    "{waiting} oneway messages were not accepted within the time given, {failed} failed{}",
    .last.as_ref().map(|last| format!(", the last one because {last}")).unwrap_or_default()
)]
pub struct Undelivered {
    /// Not accepted yet.
    pub waiting: usize,
    /// Failed since the transport was opened.
    pub failed: u64,
    /// Why the last of those failed.
    pub last: Option<HomaError>,
}
