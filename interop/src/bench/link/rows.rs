//! The results as they are kept in a file.

use serde::{Deserialize, Serialize};

use super::figures::Decile;
use super::host::TcpCounters;
use super::switch::Queue;
use crate::bench::cpu::CpuPerCall;
use crate::bench::machine::Machine;
use crate::report::Verdict;

/// All that `bench link` has found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Tells it from other results.
    pub(crate) kind: Kind,
    pub(crate) machine: Machine,
    pub(crate) link: LinkFacts,
    pub(crate) loads: Vec<LoadRow>,
    pub(crate) incast: Option<IncastRow>,
    pub(crate) claims: Vec<Verdict>,
    /// Why rows are not among these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) refused: Vec<String>,
}

impl Outcome {
    /// Nothing has been measured yet.
    pub(super) fn new(link: LinkFacts) -> Self {
        Self {
            kind: Kind::Link,
            machine: Machine::here(),
            link,
            loads: Vec::new(),
            incast: None,
            claims: Vec::new(),
            refused: Vec::new(),
        }
    }
}

/// What every result of `bench link` calls itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Link,
}

/// What it was measured on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LinkFacts {
    /// From the switch to each host.
    pub(crate) mbps: u32,
    pub(crate) priorities: usize,
    /// Bytes that wait at most, of each priority.
    pub(crate) queue_bytes: u32,
    pub(crate) mtu: u16,
    /// Hosts that call; one more serves.
    pub(crate) clients: usize,
    /// The only setting of Homa that is not at its default.
    pub(crate) homa_link_mbps: u32,
    pub(crate) tcp_congestion_control: String,
    /// TCP's packets are not marked.
    pub(crate) tcp_priority: usize,
    /// Requests are cut to this.
    pub(crate) max_bytes: u32,
    pub(crate) response_bytes: u32,
    pub(crate) seed: u64,
}

/// A workload on the link: calls at random times, whatever becomes of those before them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LoadRow {
    pub(crate) workload: String,
    /// Share of the server's downlink, headers included.
    pub(crate) load: f64,
    /// Bytes of requests, in Mbit/s.
    pub(crate) payload_mbps: f64,
    pub(crate) calls_per_s: f64,
    /// Seconds in which the calls of a round were due that count.
    pub(crate) seconds: f64,
    /// Tenths of the calls, the shortest first.
    pub(crate) deciles: Vec<Decile>,
    pub(crate) tcp: Vec<RoundFacts>,
    pub(crate) homa: Vec<RoundFacts>,
}

/// What else there is to say about a round of a stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RoundFacts {
    /// Calls that count.
    pub(crate) calls: u64,
    /// Share of them that were sent later than they were due because of the generator.
    pub(crate) lag: f64,
    /// Turns before it that do not count, because the machine was busy or calls were sent late.
    #[serde(default)]
    pub(crate) refused: u32,
    /// Share of the time in which processors were busy.
    pub(crate) busy: f64,
    /// Share of the server's downlink that was used, as the switch counts bytes.
    pub(crate) used: f64,
    /// Of the clients, and of the server; both for the calls of all clients.
    pub(crate) cpu: Option<CpuPerCall>,
    /// At the switch's port to the server.
    pub(crate) queues: Vec<Queue>,
    /// Of the clients together, and what they sent before and after the calls that count.
    pub(crate) tcp: Option<TcpCounters>,
}

/// All clients call at once, and wait for all responses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct IncastRow {
    pub(crate) clients: usize,
    /// Of each client.
    pub(crate) calls: u32,
    pub(crate) bytes: u64,
    /// The shortest time in which the link can carry the bytes of requests.
    pub(crate) least_ms: f64,
    pub(crate) tcp: IncastSide,
    pub(crate) homa: IncastSide,
    /// Homa divided by TCP.
    pub(crate) ratio: f64,
}

/// One stack's incasts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct IncastSide {
    /// The median of the rounds.
    pub(crate) completion_ms: f64,
    pub(crate) rounds: Vec<Incast>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Incast {
    /// From the time at which all were to begin to the last response.
    pub(crate) completion_ms: f64,
    /// Calls that got no response, of all clients.
    pub(crate) failed: u64,
    /// Incasts before it that do not count, because the machine was busy.
    #[serde(default)]
    pub(crate) refused: u32,
    /// Share of the time in which processors were busy.
    pub(crate) busy: f64,
    /// At the switch's port to the server.
    pub(crate) queues: Vec<Queue>,
    /// Of the clients together, in the round.
    pub(crate) tcp: Option<TcpCounters>,
    pub(crate) homa: Option<HomaCounters>,
}

/// What the Homa endpoints of clients have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HomaCounters {
    /// RPCs that ended because the server was silent for too long.
    pub(crate) timeouts: u64,
    /// RESENDs that the server asked with, after it had missed packets for a while.
    pub(crate) resends: u64,
    /// Packets that were sent again.
    pub(crate) retransmitted: u64,
}

impl HomaCounters {
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            timeouts: self.timeouts.saturating_sub(earlier.timeouts),
            resends: self.resends.saturating_sub(earlier.resends),
            retransmitted: self.retransmitted.saturating_sub(earlier.retransmitted),
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            timeouts: self.timeouts + other.timeouts,
            resends: self.resends + other.resends,
            retransmitted: self.retransmitted + other.retransmitted,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::figures::Figures;
    use super::super::judge;
    use super::*;
    use crate::bench::cpu::Work;

    /// Results as they could be.
    pub(in super::super) fn sample() -> Outcome {
        let queue = Queue {
            priority: 0,
            packets: 10,
            bytes: 9_000,
            drops: 1,
            backlog_bytes: 9_000,
        };
        let tcp = Some(TcpCounters {
            retransmitted: 0,
            timeouts: 0,
        });
        let work = Work {
            user_us: 20.0,
            system_us: 10.0,
        };
        let round = RoundFacts {
            calls: 6_000,
            lag: 0.001,
            refused: 1,
            busy: 0.5,
            used: 0.8,
            cpu: Some(CpuPerCall {
                client: work,
                server: Some(work),
            }),
            queues: vec![queue],
            tcp,
        };
        let decile = |number: u32| {
            let figures = |p50_us, p99_us| Figures {
                samples: 1_200,
                p50_us,
                p99_us: Some(p99_us),
            };
            let us = f64::from(number) * 1_000.0;
            Decile {
                up_to_bytes: number * 300,
                tcp: figures(us, 4.0 * us),
                homa: figures(0.5 * us, 0.4 * us),
                ratio_p50: 0.5,
                ratio_p99: Some(0.1),
                tcp_ccdf: vec![(us, 1.0), (4.0 * us, 0.01)],
                homa_ccdf: vec![(0.5 * us, 1.0), (0.4 * us, 0.01)],
            }
        };
        let loads = vec![LoadRow {
            workload: "W4".to_owned(),
            load: 0.8,
            payload_mbps: 143.7,
            calls_per_s: 298.4,
            seconds: 9.0,
            deciles: (1..=10).map(decile).collect(),
            tcp: vec![round.clone(); 2],
            homa: vec![round; 2],
        }];
        let incast = |completion_ms, homa| Incast {
            completion_ms,
            failed: 0,
            refused: 0,
            busy: 0.6,
            queues: vec![queue; 2],
            tcp,
            homa,
        };
        let counters = HomaCounters {
            timeouts: 0,
            resends: 1,
            retransmitted: 3,
        };
        let side = |homa| IncastSide {
            completion_ms: 900.0,
            rounds: vec![incast(800.0, homa), incast(1_000.0, homa)],
        };
        let incast = Some(IncastRow {
            clients: 3,
            calls: 64,
            bytes: 100_000,
            least_ms: 768.0,
            tcp: side(None),
            homa: side(Some(counters)),
            ratio: 1.0,
        });
        Outcome {
            kind: Kind::Link,
            machine: Machine::here(),
            link: LinkFacts {
                mbps: 200,
                priorities: 8,
                queue_bytes: 250_000,
                mtu: 1500,
                clients: 3,
                homa_link_mbps: 200,
                tcp_congestion_control: "cubic".to_owned(),
                tcp_priority: 0,
                max_bytes: 999_000,
                response_bytes: 100,
                seed: 1,
            },
            claims: judge::judge(200, &loads, incast.as_ref()),
            refused: Vec::new(),
            loads,
            incast,
        }
    }

    #[test]
    fn results_survive_a_file() {
        let outcome = sample();
        let json = serde_json::to_string(&outcome).expect("plain data");
        assert!(json.starts_with(r#"{"kind":"link","machine":"#), "{json}");
        let read: Outcome = serde_json::from_str(&json).expect("ours");
        assert_eq!(read, outcome);
    }
}
