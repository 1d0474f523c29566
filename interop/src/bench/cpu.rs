//! How long processors have worked for the two processes of a benchmark, from `/proc`.

use std::fs;

use serde::{Deserialize, Serialize};

/// `USER_HZ`: what `/proc` counts in a second, wherever Linux runs that tokio runs on. The kernel
/// itself counts finer, so that the error of a long time is at most two of these.
const TICKS_PER_SECOND: u64 = 100;

/// What processors have done for a process so far, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    user: u64,
    system: u64,
}

impl Ticks {
    /// `None`: there is no such process.
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Of `/proc/PID/stat`, see proc_pid_stat(5).
    fn parse(stat: &str) -> Option<Self> {
        // The name of the program may hold anything; nothing behind it has a bracket.
        let (_, fields) = stat.rsplit_once(')')?;
        // The first one is field 3 in the manual, these are 14 and 15.
        let mut fields = fields.split_whitespace().skip(11);
        let mut next = || fields.next()?.parse().ok();
        Some(Self {
            user: next()?,
            system: next()?,
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
        }
    }
}

/// Looks at this process, which calls, and at the one that serves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    server: Option<u32>,
    client_before: Option<Ticks>,
    server_before: Option<Ticks>,
}

impl Meter {
    /// From now on. Without the server's process its work remains unknown.
    pub(crate) fn start(server: Option<u32>) -> Self {
        Self {
            server,
            client_before: Ticks::of(std::process::id()),
            server_before: server.and_then(Ticks::of),
        }
    }

    /// What was done since the start.
    pub(crate) fn used(&self) -> Used {
        let since = |pid: u32, before: Option<Ticks>| Some(Ticks::of(pid)?.since(before?));
        Used {
            client: since(std::process::id(), self.client_before),
            server: self.server.and_then(|pid| since(pid, self.server_before)),
        }
    }
}

/// What was done in some time; adds up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    client: Option<Ticks>,
    server: Option<Ticks>,
}

impl Used {
    /// Of both times; unknown if one of them is.
    pub(crate) fn and(self, other: Self) -> Self {
        let add = |a: Option<Ticks>, b: Option<Ticks>| {
            let (a, b) = a.zip(b)?;
            Some(Ticks {
                user: a.user + b.user,
                system: a.system + b.system,
            })
        };
        Self {
            client: add(self.client, other.client),
            server: add(self.server, other.server),
        }
    }

    /// Divided by the calls of that time; `None` if there was none.
    pub(crate) fn per_call(self, calls: u64) -> Option<CpuPerCall> {
        if calls == 0 {
            return None;
        }
        let us = |ticks: u64| ticks as f64 * 1e6 / (TICKS_PER_SECOND * calls) as f64;
        let work = |ticks: Ticks| Work {
            user_us: crate::report::rounded(us(ticks.user)),
            system_us: crate::report::rounded(us(ticks.system)),
        };
        Some(CpuPerCall {
            client: work(self.client?),
            server: self.server.map(work),
        })
    }
}

/// Microseconds of processors for each call.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CpuPerCall {
    pub(crate) client: Work,
    /// Unknown where the server's process is.
    pub(crate) server: Option<Work>,
}

/// Of one process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Work {
    /// In the program.
    pub(crate) user_us: f64,
    /// In the kernel on its behalf.
    pub(crate) system_us: f64,
}

impl Work {
    pub(crate) fn us(self) -> f64 {
        self.user_us + self.system_us
    }
}

impl CpuPerCall {
    /// Of client and server together.
    pub(crate) fn both_us(self) -> Option<f64> {
        Some(self.client.us() + self.server?.us())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_any_name() {
        let stat = "42 (a) (1 2 3) x) S 1 42 42 0 -1 4194560 1 0 0 0 150 50 7 8 20 0 3 0 9";
        let ticks = Ticks {
            user: 150,
            system: 50,
        };
        assert_eq!(Ticks::parse(stat), Some(ticks));
        assert_eq!(Ticks::parse("42 (short) S 1"), None);
        assert_eq!(Ticks::parse(""), None);
    }

    #[test]
    fn work_is_shared_out_among_calls() {
        let used = |user, system| Used {
            client: Some(Ticks { user, system }),
            server: Some(Ticks {
                user: 2 * user,
                system,
            }),
        };
        let cpu = used(10, 20).and(used(30, 0)).per_call(10_000);
        let cpu = cpu.expect("there were calls");
        assert_eq!((cpu.client.user_us, cpu.client.system_us), (40.0, 20.0));
        assert_eq!(cpu.both_us(), Some(160.0));
        assert_eq!(used(1, 1).per_call(0), None);
        let unknown = Used {
            server: None,
            ..used(1, 1)
        };
        let cpu = unknown.and(used(1, 1)).per_call(1).expect("the client's");
        assert_eq!((cpu.server, cpu.both_us()), (None, None));
    }

    #[test]
    fn a_process_that_works_is_seen_to_and_one_that_is_not_there_is_unknown() {
        let meter = Meter::start(Some(std::process::id()));
        let began = std::time::Instant::now();
        let mut used = meter.used();
        while used.client == Some(Ticks::default()) && began.elapsed().as_secs() < 30 {
            std::hint::black_box((0..std::hint::black_box(100_000u64)).sum::<u64>());
            used = meter.used();
        }
        assert!(used.client.expect("this process") != Ticks::default());
        // No process has this number: it is above any `pid_max`.
        assert_eq!(Meter::start(Some(u32::MAX)).used().server, None);
    }
}
