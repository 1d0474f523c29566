//! [`PaceTimer`]: sleeps of less than a millisecond, for the pacer.

use std::io;
use std::os::fd::AsFd;
use std::task::Context;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::net::unix::pipe;

/// The runtime's own timers tick in milliseconds, this one in nanoseconds.
#[derive(Debug)]
pub(super) struct PaceTimer {
    timer: TimerFd,
    /// The same timer as the runtime sees it. It is no pipe, but it is read like one, and this
    /// type asks for no more than that; `AsyncFd` cannot be had without `unsafe`.
    expired: pipe::Receiver,
}

impl PaceTimer {
    /// Must be called in a runtime.
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let same = timer.as_fd().try_clone_to_owned()?;
        Ok(Self {
            timer,
            expired: pipe::Receiver::from_owned_fd_unchecked(same)?,
        })
    }

    /// Expires once, after `wait`; what was set before is forgotten.
    pub(super) fn set(&self, wait: Duration) -> io::Result<()> {
        // Zero would switch it off.
        let wait = TimeSpec::from_duration(wait.max(Duration::from_nanos(1)));
        self.timer
            .set(Expiration::OneShot(wait), TimerSetTimeFlags::empty())?;
        Ok(())
    }

    /// Whether it has expired since it was asked last; if not, the task is woken when it does.
    pub(super) fn poll_expired(&self, cx: &mut Context<'_>) -> bool {
        while self.expired.poll_read_ready(cx).is_ready() {
            // The number of expirations; reading it makes the timer unreadable again.
            match self.expired.try_read(&mut [0; 8]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return true,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::Instant;

    use super::*;

    async fn expired(timer: &PaceTimer) {
        poll_fn(|cx| match timer.poll_expired(cx) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }

    #[tokio::test]
    async fn it_is_finer_than_a_millisecond_and_can_be_set_again() {
        let timer = PaceTimer::new().unwrap();
        let mut best = Duration::MAX;
        for _ in 0..20 {
            let start = Instant::now();
            timer.set(Duration::from_micros(100)).unwrap();
            expired(&timer).await;
            let waited = start.elapsed();
            assert!(waited >= Duration::from_micros(100), "{waited:?}");
            best = best.min(waited);
        }
        // One of them at least was not held up by other work on this machine.
        assert!(best < Duration::from_micros(900), "{best:?}");
    }

    #[tokio::test]
    async fn the_last_setting_counts() {
        let timer = PaceTimer::new().unwrap();
        timer.set(Duration::from_secs(3600)).unwrap();
        timer.set(Duration::from_micros(50)).unwrap();
        expired(&timer).await;
        // An expiration that nobody has waited for.
        timer.set(Duration::ZERO).unwrap();
        while timer.timer.get().unwrap().is_some() {}
        let start = Instant::now();
        timer.set(Duration::from_millis(3)).unwrap();
        expired(&timer).await;
        assert!(start.elapsed() >= Duration::from_millis(3));
    }
}
