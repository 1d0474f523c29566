//! What this machine was doing in the meantime: its processors, and TCP in a namespace.

use std::fs;
use std::io;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::netns::Namespace;

/// Time of all processors, in units of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Processors {
    idle: u64,
    all: u64,
}

impl Processors {
    /// Since the system was started.
    pub(super) fn now() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        Self::parse(&stat).ok_or_else(|| io::Error::other("/proc/stat is not as expected"))
    }

    /// What the hypervisor takes counts as busy: it is not there for others, either.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // User, nice, system, idle, waiting for disks, interrupts (2), stolen; then guests, whose
        // time is in the first two.
        let times: Vec<u64> = line
            .split_whitespace()
            .take(8)
            .map(|time| time.parse().ok())
            .collect::<Option<_>>()?;
        Some(Self {
            idle: times.get(3)? + times.get(4)?,
            all: times.iter().sum(),
        })
    }

    /// The share of the time between the two in which processors were busy.
    pub(super) fn busy_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all);
        let idle = self.idle.saturating_sub(earlier.idle);
        match all {
            0 => 0.0,
            _ => 1.0 - idle as f64 / all as f64,
        }
    }
}

/// What TCP has counted in a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TcpCounters {
    /// Segments that were sent again.
    pub(crate) retransmitted: u64,
    /// Times that a connection heard nothing for so long that it began anew.
    pub(crate) timeouts: u64,
}

impl TcpCounters {
    /// Those of a namespace since it was made; `None` where the kernel does not tell.
    pub(super) fn of(host: &Namespace) -> Option<Self> {
        let [program, arguments @ ..] = host.enter();
        let output = Command::new(program)
            .args(arguments)
            .args(["cat", "/proc/net/snmp", "/proc/net/netstat"])
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Some(Self {
            retransmitted: field(&text, "Tcp:", "RetransSegs")?,
            timeouts: field(&text, "TcpExt:", "TCPTimeouts")?,
        })
    }

    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            retransmitted: self.retransmitted.saturating_sub(earlier.retransmitted),
            timeouts: self.timeouts.saturating_sub(earlier.timeouts),
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            retransmitted: self.retransmitted + other.retransmitted,
            timeouts: self.timeouts + other.timeouts,
        }
    }
}

/// A value of a table whose first line has the names and whose second line has the values.
fn field(text: &str, table: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(table));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(of, _)| *of == name)?.1.parse().ok()
}

/// How TCP decides how fast it sends here.
pub(super) fn congestion_control() -> String {
    fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_busy_in_all_but_idle_time() {
        let at = |line: &str| Processors::parse(&format!("{line}\ncpu0 1 2\n")).expect("a line");
        let before = at("cpu  100 0 50 800 50 0 0 0 0 0");
        // 40 idle or waiting for disks, 60 other, of which 10 are stolen; guests are not counted
        // twice.
        let after = at("cpu  130 0 65 830 60 3 2 10 30 0");
        assert!((after.busy_since(before) - 0.6).abs() < 1e-9);
        assert_eq!(before.busy_since(before), 0.0);
        assert_eq!(Processors::parse("cpu  1 2 x"), None);
        assert!(Processors::now().is_ok());
    }

    #[test]
    fn counters_of_tcp_are_found_by_their_names() {
        let text = "Tcp: RtoMin RetransSegs InErrs\nTcp: 200 17 0\n\
                    TcpExt: SyncookiesSent TCPTimeouts\nTcpExt: 0 5\n";
        assert_eq!(field(text, "Tcp:", "RetransSegs"), Some(17));
        assert_eq!(field(text, "TcpExt:", "TCPTimeouts"), Some(5));
        assert_eq!(field(text, "TcpExt:", "RetransSegs"), None);
        assert_eq!(field("", "Tcp:", "RetransSegs"), None);
    }
}
