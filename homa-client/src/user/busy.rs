//! [`BusyPoll`]: whether whoever receives looks for the next packet before it sleeps.

use std::sync::Mutex;
use std::time::Duration;

use nix::sched::{sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use super::endpoint::lock;
use crate::config::MAX_BUSY_POLL;
use crate::engine::Time;

/// After so many looks in a row in which nothing came, they are not what it takes.
const IN_VAIN: u32 = 4;

/// If what was looked for came much later, nobody looks for so long, and again after the next look
/// if that is in vain, too.
const PAUSE: Duration = Duration::from_millis(10);

/// If it came soon after, looks become so many times as long,
const PATIENCE: u32 = 4;

/// until so many in a row are in vain even so,
const LONG_IN_VAIN: u32 = 8;

/// and then nobody looks for so long.
const LONG_PAUSE: Duration = Duration::from_millis(100);

/// A thread stays at least so long where it is.
const SETTLED: Duration = Duration::from_millis(1);

/// It leaves after this part of a look, when what was heard before has probably been answered.
const ANSWERED: u32 = 4;

/// [`Config::busy_poll`](crate::Config::busy_poll) at work.
///
/// To look on is worth a processor if the next packet comes meanwhile. Two things keep it from
/// that, though it would come if both sides looked:
///
/// * The other side sleeps, because the last look of its own was over before this side was awake,
///   and takes longer to wake than the look. One that is long enough meets it. Looks stay long,
///   or the first that is too short would let both sides fall asleep again.
/// * Both sides are on one processor. Then what is looked for is sent when the one that looks has
///   gone to sleep, and the system leaves them there, as each sleeps while the other runs. One of
///   them goes to another processor, once it has sent what the other one waits for, so that both
///   are awake.
#[derive(Debug)]
pub(super) struct BusyPoll {
    /// How long to look; zero: never.
    time: Duration,
    state: Mutex<State>,
    /// Whether this side leaves its processor: if both did, they would meet again.
    coin: fn() -> bool,
}

#[derive(Debug, Default)]
struct State {
    /// When the last packet came, or what else may be followed by one.
    heard: Time,
    /// Until when somebody looks.
    until: Option<Time>,
    /// Looks in a row that were over before anything came.
    in_vain: u32,
    /// Looks are long ones.
    patient: bool,
    paused_until: Time,
    /// In this look the thread leaves its processor.
    leaves: bool,
    /// It does not do so again until then.
    settled_until: Time,
}

impl BusyPoll {
    pub(super) fn new(time: Duration) -> Self {
        Self::with_coin(time, fastrand::bool)
    }

    fn with_coin(time: Duration, coin: fn() -> bool) -> Self {
        let state = Mutex::default();
        Self { time, state, coin }
    }

    /// How long a look is.
    fn look(&self, patient: bool) -> Duration {
        match patient {
            true => (PATIENCE * self.time).min(MAX_BUSY_POLL),
            false => self.time,
        }
    }

    /// Something has happened at `now`: more is likely to come soon.
    pub(super) fn heard(&self, now: Time) {
        if self.time.is_zero() {
            return;
        }
        let state = &mut *lock(&self.state);
        match state.until.take() {
            Some(until) if now > until => self.missed(state, now),
            Some(_) => {
                state.in_vain = 0;
                state.leaves = false;
            }
            None => {}
        }
        state.heard = now;
        if now >= state.paused_until {
            state.until = Some(now + self.look(state.patient));
        }
    }

    /// What was looked for has come at `now`, when the look was over.
    fn missed(&self, state: &mut State, now: Time) {
        state.in_vain = state.in_vain.saturating_add(1);
        // What comes so late was not kept back by a look.
        let soon = now.since(state.heard) <= 2 * self.look(true);
        let pause = match state.patient {
            true if state.in_vain >= LONG_IN_VAIN => Some(LONG_PAUSE),
            false if state.in_vain >= IN_VAIN && !soon => Some(PAUSE),
            _ => None,
        };
        let was_patient = state.patient;
        if let Some(pause) = pause {
            state.paused_until = now + pause;
            state.patient = false;
            state.leaves = false;
            state.in_vain = IN_VAIN;
            return;
        }
        if !state.patient && state.in_vain >= IN_VAIN {
            state.patient = true;
            state.in_vain = 0;
        }
        // A short look misses a peer that sleeps. What misses a long one needs this processor.
        if was_patient && soon && now >= state.settled_until && (self.coin)() {
            state.leaves = true;
            state.settled_until = now + SETTLED;
        }
    }

    /// Whether to look again instead of sleeping.
    pub(super) fn looks(&self, now: impl Fn() -> Time) -> bool {
        if self.time.is_zero() {
            return false;
        }
        let at = now();
        {
            let state = &mut *lock(&self.state);
            let Some(until) = state.until else {
                return false;
            };
            let answered = at.since(state.heard) > self.time / ANSWERED;
            if !(answered && std::mem::take(&mut state.leaves)) {
                return at < until;
            }
        }
        if leave_processor().is_err() {
            return true;
        }
        let at = now();
        let state = &mut *lock(&self.state);
        state.until = Some(at + self.look(state.patient));
        true
    }
}

/// Takes this thread to another one of the processors that it may use; an error if there is none.
/// It may use the same ones afterwards, and keeps to these if its cpuset grows.
fn leave_processor() -> nix::Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let mut others = allowed;
    others.unset(sched_getcpu()?)?;
    sched_setaffinity(this, &others)?;
    sched_setaffinity(this, &allowed)
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;
    use nix::sched::CpuSet;

    use super::*;

    const LOOK: Duration = Duration::from_micros(50);
    const LONG_LOOK: Duration = Duration::from_micros(200);

    /// One that stays where it is.
    fn settled(time: Duration) -> BusyPoll {
        BusyPoll::with_coin(time, || false)
    }

    /// Something comes so often, so long after the last.
    fn hear(busy: &BusyPoll, now: &mut Time, micros: u64, times: u32) {
        for _ in 0..times {
            *now += Duration::from_micros(micros);
            busy.heard(*now);
        }
    }

    fn looks(busy: &BusyPoll, now: Time) -> bool {
        busy.looks(|| now)
    }

    fn looks_for(busy: &BusyPoll, now: Time, time: Duration) -> bool {
        looks(busy, now + (time - Duration::from_nanos(1))) && !looks(busy, now + time)
    }

    #[test]
    fn it_looks_for_its_time_and_not_without_one() {
        let mut now = Time::from_nanos(1);
        let busy = settled(LOOK);
        assert!(!looks(&busy, now));
        hear(&busy, &mut now, 10, 100);
        assert!(looks_for(&busy, now, LOOK));

        let never = settled(Duration::ZERO);
        hear(&never, &mut now, 10, 100);
        assert!(!looks(&never, now));
    }

    #[test]
    fn who_looks_in_vain_stops_and_tries_again_now_and_then() {
        let mut now = Time::from_nanos(1);
        let busy = settled(LOOK);
        hear(&busy, &mut now, 500, 4);
        assert!(looks(&busy, now));
        let start = now;
        let mut looked = 0;
        while now < start + 10 * PAUSE {
            hear(&busy, &mut now, 500, 1);
            looked += u32::from(looks(&busy, now));
        }
        assert!((9..=11).contains(&looked), "{looked}");

        // As soon as it helps it goes on.
        hear(&busy, &mut now, 10_000, 1);
        hear(&busy, &mut now, 20, 100);
        assert!(looks(&busy, now));
        hear(&busy, &mut now, 500, 3);
        assert!(looks(&busy, now));
    }

    #[test]
    fn looks_are_longer_where_that_meets_the_other_side() {
        let mut now = Time::from_nanos(1);
        let busy = settled(LOOK);
        hear(&busy, &mut now, 90, 4);
        assert!(looks_for(&busy, now, LOOK));
        hear(&busy, &mut now, 90, 1);
        assert!(looks_for(&busy, now, LONG_LOOK));
        // It answers from its sleep, then at once: both are met.
        hear(&busy, &mut now, 90, 10);
        hear(&busy, &mut now, 40, 10);
        assert!(looks_for(&busy, now, LONG_LOOK));
        // And now very late.
        hear(&busy, &mut now, 500, 8);
        assert!(!looks(&busy, now));
        hear(&busy, &mut now, 100_000, 1);
        assert!(looks_for(&busy, now, LOOK));

        // Never longer than any look may be.
        let longest = settled(MAX_BUSY_POLL);
        hear(&longest, &mut now, 1_500, 5);
        assert!(looks_for(&longest, now, MAX_BUSY_POLL));
    }

    #[test]
    fn long_looks_in_vain_are_rare() {
        let mut now = Time::from_nanos(1);
        let busy = settled(LOOK);
        let start = now;
        let mut looked = Duration::ZERO;
        while now < start + 10 * LONG_PAUSE {
            // What is kept back comes 30 us after the look.
            let look = [LONG_LOOK, LOOK]
                .into_iter()
                .find(|look| looks_for(&busy, now, *look));
            let look = look.unwrap_or_default();
            looked += look;
            now += look + Duration::from_micros(30);
            busy.heard(now);
        }
        // At most a fiftieth of the time, and again after each pause.
        let range = Duration::from_millis(10)..Duration::from_millis(20);
        assert!(range.contains(&looked), "{looked:?}");
    }

    #[test]
    fn one_of_two_on_the_same_processor_leaves_it_after_a_long_look_in_vain() {
        let mut now = Time::from_nanos(1);
        let busy = BusyPoll::with_coin(LOOK, || true);
        let leaves = |now: Time| {
            // It looks for the whole of its time in the new place.
            let clock = std::cell::Cell::new(now + LOOK / 2);
            let read = || clock.replace(clock.get() + LOOK);
            busy.looks(read) && looks(&busy, now + LOOK / 2 + LONG_LOOK)
        };
        hear(&busy, &mut now, 80, 4);
        assert!(!leaves(now));
        hear(&busy, &mut now, 80, 1);
        assert!(!leaves(now));
        hear(&busy, &mut now, 300, 1);
        // What it heard is to be answered first.
        assert!(looks(&busy, now + LOOK / 5));
        assert!(processors() == 1 || leaves(now));
        // Not again so soon.
        hear(&busy, &mut now, 300, 1);
        assert!(!leaves(now));
    }

    #[test]
    fn a_thread_that_leaves_its_processor_may_use_the_same_ones() {
        let this = Pid::from_raw(0);
        let allowed = sched_getaffinity(this).unwrap();
        if processors() == 1 {
            assert_eq!(leave_processor(), Err(Errno::EINVAL));
            return;
        }
        // The system may take it back at once, but not every time.
        let left = (0..100).any(|_| {
            let before = sched_getcpu().unwrap();
            leave_processor().unwrap();
            sched_getcpu().unwrap() != before
        });
        assert!(left);
        assert_eq!(sched_getaffinity(this), Ok(allowed));
    }

    /// How many of them this thread may use.
    fn processors() -> usize {
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
        (0..CpuSet::count())
            .filter(|cpu| allowed.is_set(*cpu).unwrap())
            .count()
    }
}
