//! [`Ledger`]: which calls ran, and how often; and [`Session`], which numbers them.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::ids::{Added, Ids};

/// One call of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallId {
    pub(crate) session: u64,
    pub(crate) number: u64,
}

/// Numbers the calls of a client; dense from 0, so that a server can keep them all.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: u64,
    next: AtomicU64,
}

impl Session {
    pub(crate) fn start() -> Arc<Self> {
        Arc::new(Self {
            id: fastrand::u64(..),
            next: AtomicU64::new(0),
        })
    }

    pub(crate) fn next(&self) -> CallId {
        CallId {
            session: self.id,
            number: self.next.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// How many calls were numbered.
    pub(crate) fn calls_made(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }
}

/// Clients whose calls are told apart; those of more are counted by method only.
const MAX_SESSIONS: usize = 10_000;

/// Methods that are counted by name; others are counted together.
const MAX_METHODS: usize = 100;

/// Where calls of still more methods are counted.
const OTHERS: &str = "others";

/// What a server has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Calls whose handler was run.
    pub(crate) runs: u64,
    /// Those among them that a client has numbered.
    pub(crate) numbered: u64,
    /// Runs of a numbered call beyond its first: none, unless the transport is broken.
    pub(crate) ran_again: u64,
    /// By path.
    pub(crate) methods: BTreeMap<String, u64>,
}

/// How often the calls of one client ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SessionCounts {
    pub(crate) calls: u64,
    pub(crate) again: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    counts: Counts,
    sessions: HashMap<u64, Seen>,
}

/// What one client has called.
#[derive(Debug, Default)]
struct Seen {
    ran: Ids,
    again: u64,
}

impl Ledger {
    /// A handler is about to run.
    pub(crate) fn add(&self, path: &str, id: Option<CallId>) {
        let mut book = self.book();
        let Book { counts, sessions } = &mut *book;
        counts.runs += 1;
        let is_counted = counts.methods.contains_key(path) || counts.methods.len() < MAX_METHODS;
        let method = if is_counted { path } else { OTHERS };
        *counts.methods.entry(method.to_owned()).or_default() += 1;
        let Some(CallId { session, number }) = id else {
            return;
        };
        if !sessions.contains_key(&session) && sessions.len() == MAX_SESSIONS {
            return;
        }
        let session = sessions.entry(session).or_default();
        match session.ran.add(number) {
            Added::New => counts.numbered += 1,
            Added::Again => {
                counts.numbered += 1;
                counts.ran_again += 1;
                session.again += 1;
            }
            Added::Unbelievable => {}
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.book().counts.clone()
    }

    pub(crate) fn session(&self, session: u64) -> SessionCounts {
        let book = self.book();
        let session = book.sessions.get(&session);
        session.map_or_else(SessionCounts::default, |session| SessionCounts {
            calls: session.ran.len(),
            again: session.again,
        })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_runs_again_is_counted_for_its_client_alone() {
        let ledger = Ledger::default();
        for (session, number) in [(1, 0), (1, 1), (2, 1), (1, 1)] {
            ledger.add("/a/B", Some(CallId { session, number }));
        }
        ledger.add("/a/C", None);
        let session = |session| ledger.session(session);
        assert_eq!(session(1), SessionCounts { calls: 2, again: 1 });
        assert_eq!(session(2), SessionCounts { calls: 1, again: 0 });
        assert_eq!(session(3), SessionCounts::default());
        let counts = ledger.counts();
        assert_eq!((counts.runs, counts.numbered, counts.ran_again), (5, 4, 1));
        assert_eq!(counts.methods["/a/B"], 4);
    }

    #[test]
    fn calls_of_ever_new_methods_and_clients_take_no_more_memory() {
        let ledger = Ledger::default();
        for number in 0..20_000 {
            let id = CallId {
                session: number,
                number: 0,
            };
            ledger.add(&format!("/a/{number}"), Some(id));
        }
        let book = ledger.book();
        assert_eq!(book.sessions.len(), MAX_SESSIONS);
        assert_eq!(book.counts.methods.len(), MAX_METHODS + 1);
        assert_eq!(book.counts.runs, 20_000);
    }
}
