//! [`Countdown`]: the time that one message has, as a socket is told it.

use std::io;
use std::time::{Duration, Instant};

/// How long a message may take to come once it has begun, and a reply to be taken by the other side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For any message.
    pub(super) least: Duration,
    /// More for each million bytes of it that has moved.
    pub(super) per_megabyte: Duration,
}

impl Patience {
    /// The time for a message of which so many bytes have moved.
    fn of(&self, moved: usize) -> Duration {
        let megabytes = u32::try_from(moved / 1_000_000).unwrap_or(u32::MAX);
        let more = self.per_megabyte.saturating_mul(megabytes);
        self.least.saturating_add(more)
    }
}

/// The time that a message has to come, or to be taken by the other side.
///
/// A socket's own timeout is for one system call: a peer that moves a byte now and then begins it
/// anew each time. So it is told what is left of the message's time.
#[derive(Debug)]
pub(super) struct Countdown {
    patience: Patience,
    /// What the socket has been told.
    told: Duration,
    began: Instant,
    /// Bytes of the message.
    moved: usize,
}

impl Countdown {
    /// For a socket that has been told `patience.least`.
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
            told: patience.least,
            began: Instant::now(),
            moved: 0,
        }
    }

    /// No message is under way: the next one has the whole time.
    pub(super) fn rest(&mut self, tell: impl FnOnce(Duration) -> io::Result<()>) -> io::Result<()> {
        if self.told != self.patience.least {
            tell(self.patience.least)?;
            self.told = self.patience.least;
        }
        Ok(())
    }

    /// A message begins.
    pub(super) fn start(&mut self) {
        self.began = Instant::now();
        self.moved = 0;
    }

    /// So many more bytes of it have come, or were taken.
    pub(super) fn moved(&mut self, bytes: usize) {
        self.moved = self.moved.saturating_add(bytes);
    }

    /// The time of the message that is under way, as a whole.
    pub(super) fn whole(&self) -> Duration {
        self.patience.of(self.moved)
    }

    /// To be called before each further system call for the same message. `TimedOut`: its time is
    /// over. A call that [only pauses](is_pause) may have been told too little.
    pub(super) fn go_on(
        &mut self,
        tell: impl FnOnce(Duration) -> io::Result<()>,
    ) -> io::Result<()> {
        let left = self.whole().saturating_sub(self.began.elapsed());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // Telling is a system call itself: not worth it for a little.
        if self.told.abs_diff(left) > self.patience.least / 16 {
            tell(left)?;
            self.told = left;
        }
        Ok(())
    }
}

/// Whether a system call only took too long, or was interrupted.
pub(super) fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_once(least: Duration) -> Patience {
        let per_megabyte = Duration::ZERO;
        Patience {
            least,
            per_megabyte,
        }
    }

    #[test]
    fn each_megabyte_that_has_moved_gives_more_time_and_the_next_message_begins_afresh() {
        let (least, per_megabyte) = (Duration::from_secs(64), Duration::from_secs(3_600));
        let mut countdown = Countdown::new(Patience {
            least,
            per_megabyte,
        });
        countdown.start();
        countdown.moved(999_999);
        countdown.go_on(|_| panic!("it knows")).unwrap();
        countdown.moved(1);
        countdown.moved(1_000_000);
        assert_eq!(countdown.whole(), least + 2 * per_megabyte);
        let mut told = Duration::ZERO;
        let tell = |left| {
            told = left;
            Ok(())
        };
        countdown.go_on(tell).unwrap();
        assert!(told > 2 * per_megabyte, "{told:?}");
        countdown.start();
        assert_eq!(countdown.whole(), least);
        countdown.moved(usize::MAX);
        assert!(countdown.whole() > per_megabyte);
    }

    #[test]
    fn the_socket_is_told_less_and_less_and_the_whole_time_again() {
        let whole = Duration::from_millis(64);
        let mut countdown = Countdown::new(at_once(whole));
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
        let mut long = Countdown::new(at_once(Duration::from_secs(3_600)));
        long.start();
        long.go_on(|_| panic!("hardly any time has passed"))
            .unwrap();
    }
}
