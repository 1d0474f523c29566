//! What is run, and for how long.

use std::time::Duration;

use super::topology::Port;
use crate::sim::WorkloadName;

/// Longest request; longer ones are cut. With what tonic adds, a message of at most 1 MB, which is
/// the longest of one Homa RPC.
pub(super) const MAX_BYTES: u32 = 999_000;

/// Bytes of each response.
pub(super) const RESPONSE_BYTES: u32 = 100;

/// What each client does in an incast.
pub(super) const INCAST_CALLS: u32 = 64;
pub(super) const INCAST_BYTES: u32 = 100_000;

/// Bytes that wait in a queue of the switch at most, of each priority.
pub(super) const QUEUE_BYTES: u32 = 250_000;

/// Calls of all rounds together that a row should have, so that each tenth has the thousand that a
/// 99th percentile needs, and some more, since they come at random.
const ENOUGH_CALLS: f64 = 12_000.0;

/// Seconds of a round, if nothing else is said.
const LEAST_SECONDS: f64 = 8.0;
const MOST_SECONDS: f64 = 60.0;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum RowName {
    /// Facebook's memcached servers.
    W1,
    /// Google's search application.
    W2,
    /// All applications of a Google data center.
    W3,
    /// Facebook's Hadoop cluster.
    W4,
    /// Web search.
    W5,
    /// All clients call at once.
    Incast,
}

impl RowName {
    /// What is measured if nothing else is said.
    pub(super) const DEFAULT: [Self; 4] = [Self::W3, Self::W4, Self::W5, Self::Incast];

    /// None of the incast.
    pub(super) fn workload(self) -> Option<WorkloadName> {
        match self {
            Self::W1 => Some(WorkloadName::W1),
            Self::W2 => Some(WorkloadName::W2),
            Self::W3 => Some(WorkloadName::W3),
            Self::W4 => Some(WorkloadName::W4),
            Self::W5 => Some(WorkloadName::W5),
            Self::Incast => None,
        }
    }
}

/// Why a turn does not count: its figures would be the machine's and not the link's.
#[derive(Debug, thiserror::Error)]
pub(super) enum Disturbed {
    #[error(
        "{what}: processors were busy for {busy:.1} % of the time, which may be {limit:.0} % at \
         most, or the figures would be theirs and not the link's: end what else runs here, or \
         lower --mbps"
    )]
    Busy { what: String, busy: f64, limit: f64 },
    #[error(
        "{what}: {late:.2} % of the calls were sent late, which has to be less than {limit:.2} %: \
         end what else runs here, or lower --mbps"
    )]
    Late { what: String, late: f64, limit: f64 },
}

/// A turn that does not count is taken again up to so often: nothing is known of its figures then,
/// and the machine may be another's for some seconds.
pub(super) const MOST_AGAIN: u32 = 8;

/// How it is measured.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) port: Port,
    /// Share of the server's downlink that is offered, headers included.
    pub(super) load: f64,
    /// Of each row and stack.
    pub(super) rounds: u32,
    /// In which calls are due that count; `None`: by the row.
    pub(super) seconds: Option<Duration>,
    /// In which calls are due that do not count, before these.
    pub(super) warm_up: Duration,
    pub(super) seed: u64,
    /// Share of the time in which processors may be busy.
    pub(super) most_busy: f64,
    /// A turn of which such a share of the calls were sent late was disturbed.
    pub(super) max_lag: f64,
}

impl Plan {
    /// How long calls of a round are due that count, if so many are due in a second.
    pub(super) fn seconds(&self, calls_per_s: f64) -> Duration {
        self.seconds.unwrap_or_else(|| {
            let seconds = ENOUGH_CALLS / calls_per_s / f64::from(self.rounds);
            Duration::from_secs_f64(seconds.ceil().clamp(LEAST_SECONDS, MOST_SECONDS))
        })
    }

    /// Refuses a run in which processors were busy for a larger share of the time.
    pub(super) fn check_busy(
        &self,
        busy: f64,
        what: impl FnOnce() -> String,
    ) -> Result<(), Disturbed> {
        if busy <= self.most_busy {
            return Ok(());
        }
        Err(Disturbed::Busy {
            what: what(),
            busy: busy * 100.0,
            limit: self.most_busy * 100.0,
        })
    }

    /// Refuses a run of which such a share of the calls were sent late.
    pub(super) fn check_late(
        &self,
        late: f64,
        what: impl FnOnce() -> String,
    ) -> Result<(), Disturbed> {
        if late < self.max_lag {
            return Ok(());
        }
        Err(Disturbed::Late {
            what: what(),
            late: late * 100.0,
            limit: self.max_lag * 100.0,
        })
    }

    /// Of one client in one round; those of both stacks have the same.
    pub(super) fn seed(&self, round: u32, client: usize) -> u64 {
        const ROUNDS: u64 = 1_000;
        const CLIENTS: u64 = 10;
        self.seed
            .wrapping_mul(ROUNDS * CLIENTS)
            .wrapping_add(u64::from(round) * CLIENTS + client as u64)
    }
}

/// A link's speed on the command line.
pub(super) fn parse_mbps(text: &str) -> Result<u32, String> {
    let range = "expected a number of Mbit/s from 10 to 1000; 100 or 200 on a machine with two \
                 cores, where they and not the link would make the figures above some 400";
    text.parse()
        .ok()
        .filter(|mbps| (10..=1_000).contains(mbps))
        .ok_or_else(|| range.to_owned())
}

/// A share of the link on the command line.
pub(super) fn parse_load(text: &str) -> Result<f64, String> {
    let range = "expected a share of the link from 0.01 to 0.95, such as 0.8; with more, calls \
                 wait for longer the longer it takes";
    text.parse()
        .ok()
        .filter(|load| (0.01..=0.95).contains(load))
        .ok_or_else(|| range.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::topology::CLIENTS;
    use super::*;
    use crate::bench::load::MAX_LAG;

    fn plan(seconds: Option<Duration>) -> Plan {
        Plan {
            port: Port {
                mbps: 200,
                queue_bytes: QUEUE_BYTES,
            },
            load: 0.8,
            rounds: 5,
            seconds,
            warm_up: Duration::from_secs(1),
            seed: 1,
            most_busy: 0.85,
            max_lag: MAX_LAG,
        }
    }

    #[test]
    fn rows_with_few_calls_are_measured_for_longer() {
        let of = |calls_per_s| plan(None).seconds(calls_per_s).as_secs();
        assert_eq!((of(7_000.0), of(100.0), of(45.0), of(1.0)), (8, 24, 54, 60));
        let given = Duration::from_secs(2);
        assert_eq!(plan(Some(given)).seconds(45.0), given);
    }

    #[test]
    fn busy_processors_are_refused_with_the_limit_and_the_remedy() {
        let plan = plan(None);
        assert!(plan.check_busy(0.85, String::new).is_ok());
        let error = plan.check_busy(0.91, || "W4, tonic-tcp".to_owned());
        let text = error.expect_err("more").to_string();
        for part in ["W4, tonic-tcp", "91.0 %", "85 %", "--mbps"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn calls_that_were_sent_late_are_refused_from_the_limit_on() {
        let plan = plan(None);
        assert!(plan.check_late(0.0099, String::new).is_ok());
        let error = plan.check_late(0.01, || "W4, tonic-homa".to_owned());
        let text = error.expect_err("as many").to_string();
        assert!(
            text.starts_with("W4, tonic-homa: 1.00 % of the calls were sent late"),
            "{text}"
        );
    }

    #[test]
    fn every_client_of_every_round_has_a_seed_of_its_own() {
        let mut seeds = HashSet::new();
        for seed in [1, 2, u64::MAX] {
            let plan = Plan { seed, ..plan(None) };
            for round in 0..1_000 {
                for client in 0..CLIENTS {
                    assert!(seeds.insert(plan.seed(round, client)), "{round} {client}");
                }
            }
        }
    }

    #[test]
    fn rates_and_loads_out_of_range_are_refused_with_the_range() {
        assert_eq!(parse_mbps("200"), Ok(200));
        for wrong in ["0", "9", "1001", "-1", "1e9", "99999999999", "200mbit", ""] {
            let error = parse_mbps(wrong).expect_err(wrong);
            assert!(error.contains("10 to 1000"), "{error}");
        }
        assert_eq!(parse_load("0.8"), Ok(0.8));
        for wrong in ["0", "0.96", "80", "-0.5", "nan", "inf", "80%", ""] {
            let error = parse_load(wrong).expect_err(wrong);
            assert!(error.contains("0.01 to 0.95"), "{error}");
        }
    }
}
