//! [`ToStream`]: passes calls on to a server on TCP or a unix socket, framed.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use homa_client::Message;

use crate::connection::Line;
use crate::process::{Answer, Caller, Response};
use crate::server::{CallOutcome, Forward};
use crate::uri::StreamAddr;

/// A server on TCP or a unix socket, and the connections to it.
pub(super) struct ToStream {
    addr: StreamAddr,
    timeout: Duration,
    limit: usize,
    lines: Mutex<Lines>,
    given_back: Condvar,
}

/// The connections that are not in use.
struct Lines {
    idle: Vec<Line>,
    /// How many more may be opened.
    unopened: usize,
}

impl ToStream {
    pub(super) fn new(
        addr: StreamAddr,
        connections: usize,
        limit: usize,
        timeout: Duration,
    ) -> Self {
        let lines = Lines {
            idle: Vec::new(),
            unopened: connections,
        };
        Self {
            lines: Mutex::new(lines),
            addr,
            limit,
            timeout,
            given_back: Condvar::new(),
        }
    }

    /// Waits for a connection that is not in use. The one that was used last comes first, so that
    /// there are no more open than needed.
    fn take(&self, deadline: Instant) -> Option<Line> {
        let mut lines = self.lines();
        loop {
            if let Some(line) = lines.idle.pop() {
                return Some(line);
            }
            if lines.unopened > 0 {
                lines.unopened -= 1;
                return Some(Line::closed(self.addr.clone(), self.limit, self.timeout));
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let waited = self.given_back.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn give_back(&self, line: Line) {
        self.lines().idle.push(line);
        self.given_back.notify_one();
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Forward for ToStream {
    fn forward(&self, caller: &Caller, request: Message) -> Answer {
        // The clock goes on for longer than a gateway may wait.
        let deadline = Instant::now() + self.timeout;
        let Some(mut line) = self.take(deadline) else {
            return caller.refuse(&format!(
                "all connections to {} were busy for {:?}: give the gateway more of them",
                self.addr, self.timeout
            ));
        };
        let is_reply = |reply: &Message| caller.may_be_answered_by(reply);
        let outcome = line.exchange(&request, caller.is_oneway(), is_reply, deadline);
        self.give_back(line);
        match outcome {
            Ok(Some(reply)) => caller.forwarded(reply),
            Ok(None) => Answer {
                reply: Response::Nothing,
                outcome: CallOutcome::Oneway,
            },
            Err(error) => caller.unavailable(&error.message),
        }
    }
}
