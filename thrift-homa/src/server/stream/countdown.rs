//! [`Countdown`]: the time that one message has, as a socket is told it.

use std::io;
use std::time::{Duration, Instant};

/// The time that a message has to come, or to be taken by the other side.
///
/// A socket's own timeout is for one system call: a peer that moves a byte now and then begins it
/// anew each time. So it is shortened as the time of the message runs out.
#[derive(Debug)]
pub(super) struct Countdown {
    whole: Duration,
    /// What the socket has been told.
    told: Duration,
    deadline: Instant,
}

impl Countdown {
    /// For a socket that has been told `whole`.
    pub(super) fn new(whole: Duration) -> Self {
        Self {
            whole,
            told: whole,
            deadline: Instant::now(),
        }
    }

    /// No message is under way: the next one has the whole time.
    pub(super) fn rest(&mut self, tell: impl FnOnce(Duration) -> io::Result<()>) -> io::Result<()> {
        if self.told != self.whole {
            tell(self.whole)?;
            self.told = self.whole;
        }
        Ok(())
    }

    /// A message begins.
    pub(super) fn start(&mut self) {
        let now = Instant::now();
        self.deadline = now.checked_add(self.whole).unwrap_or(now);
    }

    /// To be called before each further system call for the same message. `TimedOut`: its time is
    /// over.
    pub(super) fn go_on(
        &mut self,
        tell: impl FnOnce(Duration) -> io::Result<()>,
    ) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // Telling is a system call itself: not worth it for a little.
        if self.told.saturating_sub(left) > self.whole / 16 {
            tell(left)?;
            self.told = left;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_told_less_and_less_and_the_whole_time_again() {
        let whole = Duration::from_millis(64);
        let mut countdown = Countdown::new(whole);
        countdown.rest(|_| panic!("it knows")).unwrap();
        countdown.start();
        let mut told = vec![whole];
        loop {
            let tell = |left| {
                told.push(left);
                Ok(())
            };
            match countdown.go_on(tell) {
                Ok(()) => std::thread::yield_now(),
                Err(error) => break assert_eq!(error.kind(), io::ErrorKind::TimedOut),
            }
        }
        assert!(told.windows(2).all(|pair| pair[0] > pair[1]), "{told:?}");
        assert!((1..=17).contains(&told.len()), "{told:?}");
        let mut again = None;
        let tell = |time| {
            again = Some(time);
            Ok(())
        };
        countdown.rest(tell).unwrap();
        assert_eq!(again, (told.len() > 1).then_some(whole));
        countdown.rest(|_| panic!("it knows")).unwrap();
        let mut long = Countdown::new(Duration::from_secs(3_600));
        long.start();
        long.go_on(|_| panic!("hardly any time has passed"))
            .unwrap();
    }
}
