//! [`Permits`]: how many calls run at once, and how many wait.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A number of permits, and who waits for one.
#[derive(Debug)]
pub(super) struct Permits {
    state: Mutex<State>,
    changed: Condvar,
    /// Most that may wait.
    queue: usize,
}

#[derive(Debug)]
struct State {
    /// Nobody waits while there are any.
    free: usize,
    waiting: usize,
    /// Given back to those who wait, and not taken yet: nobody who comes later gets them.
    granted: usize,
    closed: bool,
}

/// Why there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// As many wait as may.
    Full,
    /// The time is over.
    Late,
    /// Nobody gets one any more.
    Closed,
}

/// The right to run, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit<'a>(&'a Permits);

impl Permits {
    pub(super) fn new(count: usize, queue: usize) -> Self {
        Self {
            state: Mutex::new(State {
                free: count,
                waiting: 0,
                granted: 0,
                closed: false,
            }),
            changed: Condvar::new(),
            queue,
        }
    }

    /// Waits for a permit, up to the deadline.
    pub(super) fn take(&self, deadline: Option<Instant>) -> Result<Permit<'_>, Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.free > 0 {
            state.free -= 1;
            return Ok(Permit(self));
        }
        if state.waiting >= self.queue {
            return Err(Refused::Full);
        }
        state.waiting += 1;
        let outcome = loop {
            if state.granted > 0 {
                state.granted -= 1;
                break Ok(());
            }
            if state.closed {
                break Err(Refused::Closed);
            }
            let Some(deadline) = deadline else {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break Err(Refused::Late);
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        state.waiting -= 1;
        outcome.map(|()| Permit(self))
    }

    /// Refuses those who wait, and all who come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    pub(super) fn waiting(&self) -> usize {
        let state = self.lock();
        state.waiting - state.granted
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if state.waiting > state.granted {
            state.granted += 1;
            drop(state);
            self.0.changed.notify_one();
        } else {
            state.free += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn never_more_run_than_there_are_permits_and_all_who_wait_get_one() {
        let permits = Permits::new(3, 100);
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let permit = permits.take(None).expect("there is room to wait");
                        let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(now, Ordering::SeqCst);
                        thread::yield_now();
                        running.fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 3);
        let state = permits.lock();
        assert_eq!((state.free, state.waiting, state.granted), (3, 0, 0));
    }

    #[test]
    fn a_full_queue_a_deadline_and_the_end_refuse() {
        let permits = Permits::new(1, 1);
        let held = permits.take(None).expect("it is free");
        let soon = Instant::now() + Duration::from_millis(5);
        assert_eq!(permits.take(Some(soon)).unwrap_err(), Refused::Late);
        thread::scope(|scope| {
            let waits = scope.spawn(|| permits.take(None).map(drop));
            while permits.waiting() == 0 {
                thread::yield_now();
            }
            assert_eq!(permits.take(None).unwrap_err(), Refused::Full);
            permits.close();
            assert_eq!(waits.join().expect("no panic"), Err(Refused::Closed));
        });
        drop(held);
        assert_eq!(permits.take(None).unwrap_err(), Refused::Closed);
    }
}
