//! What a thread does later for endpoints that have no runtime. Calls that block have deadlines: the
//! module knows none, and polling does not tell of private RPCs, so the thread ends the RPC when it is
//! time, and the receiver gets [`ERRNO`]. And sockets stay open for a while after their last handle.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Instant;

use nix::libc;

use super::socket::Socket;

/// With which RPCs end whose deadline has passed. The module itself never ends one so (A.10).
pub(super) const ERRNO: i32 = libc::ETIME;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Due {
    /// End this RPC.
    Abort { socket: Weak<Socket>, id: u64 },
    /// End all that is left on this one.
    ShutDown(Arc<Socket>),
}

static ALARMS: Alarms = Alarms {
    planned: Mutex::new(Planned {
        next: 0,
        by_time: BTreeMap::new(),
        has_thread: false,
    }),
    changed: Condvar::new(),
};

struct Alarms {
    planned: Mutex<Planned>,
    changed: Condvar,
}

struct Planned {
    next: u64,
    /// By time, and a number of its own.
    by_time: BTreeMap<(Instant, u64), Due>,
    has_thread: bool,
}

/// Takes the alarm back when it is dropped.
#[derive(Debug)]
pub(super) struct Armed((Instant, u64));

/// Ends an RPC at that time, unless what this returns is dropped before.
pub(super) fn arm(at: Instant, socket: &Arc<Socket>, id: u64) -> Armed {
    let socket = Arc::downgrade(socket);
    Armed(plan(at, Due::Abort { socket, id }))
}

/// Shuts a socket down at that time.
pub(super) fn shut_down(at: Instant, socket: Arc<Socket>) {
    plan(at, Due::ShutDown(socket));
}

fn plan(at: Instant, due: Due) -> (Instant, u64) {
    let mut planned = lock();
    planned.next += 1;
    let key = (at, planned.next);
    let first = planned.by_time.keys().next();
    let is_first = first.is_none_or(|first| key < *first);
    planned.by_time.insert(key, due);
    if !planned.has_thread {
        // Without a thread calls last as long as they do; the next one tries again.
        let spawned = thread::Builder::new()
            .name("homa-alarms".to_owned())
            .spawn(ring);
        match spawned {
            Ok(_) => planned.has_thread = true,
            Err(error) => tracing::warn!(%error, "no thread for the deadlines of blocking calls"),
        }
    } else if is_first {
        ALARMS.changed.notify_one();
    }
    key
}

impl Drop for Armed {
    fn drop(&mut self) {
        lock().by_time.remove(&self.0);
    }
}

fn ring() {
    let mut planned = lock();
    loop {
        let Some(first) = planned.by_time.first_entry() else {
            planned = ALARMS
                .changed
                .wait(planned)
                .unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let now = Instant::now();
        let (at, _) = *first.key();
        if at > now {
            let waited = ALARMS.changed.wait_timeout(planned, at - now);
            planned = waited.unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        let due = first.remove();
        drop(planned);
        match due {
            Due::Abort { socket, id } => {
                if let Some(socket) = socket.upgrade() {
                    // It may be over already.
                    let _ = socket.abort(id, ERRNO as u32);
                }
            }
            Due::ShutDown(socket) => socket.shutdown(),
        }
        planned = lock();
    }
}

fn lock() -> MutexGuard<'static, Planned> {
    ALARMS
        .planned
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}
