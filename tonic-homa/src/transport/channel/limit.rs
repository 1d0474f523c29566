//! Limits of a channel: they wait inside the call's future, never in `poll_ready`.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Longer windows count as this one: a clock's time plus it is always a time.
pub(super) const LONGEST_WINDOW: Duration = Duration::from_secs(30 * 365 * 24 * 3_600);

/// At most so many calls in each window of time.
#[derive(Debug)]
pub(super) struct RateLimit {
    calls: u64,
    per: Duration,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    ends: Instant,
    left: u64,
}

impl RateLimit {
    pub(super) fn new(calls: u64, per: Duration) -> Self {
        let per = per.min(LONGEST_WINDOW);
        let window = Window {
            ends: Instant::now() + per,
            left: calls,
        };
        Self {
            calls,
            per,
            window: Mutex::new(window),
        }
    }

    /// Waits until the rate allows one more call.
    pub(super) async fn wait(&self) {
        while let Err(until) = self.try_take() {
            sleep_until(until).await;
        }
    }

    fn try_take(&self) -> Result<(), Instant> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now >= window.ends {
            *window = Window {
                ends: now + self.per,
                left: self.calls,
            };
        }
        match window.left.checked_sub(1) {
            Some(left) => {
                window.left = left;
                Ok(())
            }
            None => Err(window.ends),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_over_the_rate_wait_for_the_next_window() {
        let limit = RateLimit::new(2, Duration::from_secs(1));
        let start = Instant::now();
        for _ in 0..5 {
            limit.wait().await;
        }
        let waited = start.elapsed();
        assert!(
            waited >= Duration::from_secs(2) && waited < Duration::from_secs(3),
            "{waited:?}"
        );
    }
}
