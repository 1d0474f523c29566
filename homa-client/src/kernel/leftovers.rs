//! [`Leftovers`]: responses that nobody waits for any more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::socket::{Received, Socket};

/// Longest time between two looks at what has come.
pub(super) const MAX_PAUSE: Duration = Duration::from_millis(50);

/// Shortest.
const MIN_PAUSE: Duration = Duration::from_micros(500);

/// Private RPCs of a socket without a driver that were left to themselves. Their responses would
/// fill the region, and to end them could lose their requests, so a thread receives them while there
/// are any. It looks at all of them again and again: polling does not tell of private RPCs, and who
/// waits for one of them would not see the others.
#[derive(Debug)]
pub(super) struct Leftovers {
    socket: Arc<Socket>,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    ids: Vec<u64>,
    has_thread: bool,
}

impl Leftovers {
    pub(super) fn of(socket: Arc<Socket>) -> Self {
        Self {
            socket,
            list: Mutex::default(),
        }
    }

    /// Receives the response of this RPC when it comes.
    pub(super) fn collect(self: &Arc<Self>, id: u64) {
        let mut list = self.lock();
        list.ids.push(id);
        if list.has_thread {
            return;
        }
        let this = self.clone();
        let thread = thread::Builder::new().name("homa-leftovers".to_owned());
        match thread.spawn(move || this.run()) {
            Ok(_) => list.has_thread = true,
            // The next one tries again.
            Err(error) => tracing::warn!(%error, "no thread for responses that nobody waits for"),
        }
    }

    pub(super) fn are_any(&self) -> bool {
        !self.lock().ids.is_empty()
    }

    fn run(&self) {
        let mut pause = MIN_PAUSE;
        loop {
            // Those that are added meanwhile are looked at next time.
            let ids = self.lock().ids.clone();
            let looked_at = ids.len();
            let mut left = ids;
            left.retain(|id| !self.is_over(*id));
            pause = if left.len() < looked_at {
                MIN_PAUSE
            } else {
                (2 * pause).min(MAX_PAUSE)
            };
            let mut list = self.lock();
            left.extend_from_slice(&list.ids[looked_at..]);
            list.ids = left;
            if list.ids.is_empty() {
                list.has_thread = false;
                return;
            }
            drop(list);
            thread::sleep(pause);
        }
    }

    fn is_over(&self, id: u64) -> bool {
        // Also when it has failed, or the socket is shut down.
        !matches!(self.socket.look(id), Ok(Received::Nothing))
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
