//! `bench load` on the clients of the link: what it is told, and what it tells.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::figures::Call;
use super::plan::{MAX_BYTES, Plan, RESPONSE_BYTES};
use super::run::Stack;
use super::topology::CLIENTS;
use crate::bench::cpu::{CpuPerCall, Work};
use crate::bench::load::Outcome;
use crate::bench::load::traffic::{Lengths, Rate, Traffic};
use crate::report::rounded;
use crate::sim::WorkloadName;

/// Time that clients have to start and to connect.
pub(super) const LEAD: Duration = Duration::from_secs(2);

/// Most calls that a client has in flight. A call that has to wait for its turn counts as late, and
/// a run with many late calls is refused.
const OUTSTANDING: u32 = 10_000;

/// What all clients together offer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offered {
    pub(super) workload: WorkloadName,
    /// Bytes of requests, in Mbit/s.
    pub(super) payload_mbps: f64,
    calls_per_s: f64,
}

impl Offered {
    /// A share of the server's downlink, with the headers that SIGCOMM'18 counts for this workload.
    pub(super) fn of(workload: WorkloadName, plan: &Plan) -> Self {
        let payload_share = workload.published().payload_share;
        let payload_mbps = f64::from(plan.port.mbps) * plan.load * payload_share;
        let lengths = Lengths::of_workload(workload, MAX_BYTES);
        let traffic = Traffic::new(lengths, Rate::Mbps(payload_mbps), plan.seed);
        Self {
            workload,
            payload_mbps,
            calls_per_s: traffic.calls_per_s(),
        }
    }

    pub(super) fn calls_per_s(&self) -> f64 {
        self.calls_per_s
    }

    /// In which calls of a round are due that count.
    pub(super) fn seconds(&self, plan: &Plan) -> Duration {
        plan.seconds(self.calls_per_s)
    }
}

/// What differs from client to client, and from turn to turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arguments<'a> {
    pub(super) uri: &'a str,
    pub(super) stack: Stack,
    pub(super) client: usize,
    pub(super) round: u32,
    pub(super) start_at_ns: u64,
    pub(super) server_pid: u32,
    pub(super) json: &'a Path,
}

impl Arguments<'_> {
    /// The command line, behind the program's name.
    pub(super) fn to_arguments(self, plan: &Plan, offered: &Offered) -> Vec<String> {
        let workload = offered.workload.published().name.to_lowercase();
        let seconds = |time: Duration| time.as_secs_f64();
        vec![
            "bench".to_owned(),
            "load".to_owned(),
            format!("--uri={}", self.uri),
            format!("--stack={}", self.stack.name()),
            format!("--workload={workload}"),
            format!("--max-bytes={MAX_BYTES}"),
            format!("--response-bytes={RESPONSE_BYTES}"),
            format!("--mbps={}", offered.payload_mbps / CLIENTS as f64),
            format!("--seconds={}", seconds(offered.seconds(plan))),
            format!("--warm-up={}", seconds(plan.warm_up)),
            format!("--seed={}", plan.seed(self.round, self.client)),
            format!("--outstanding={OUTSTANDING}"),
            format!("--link-mbps={}", plan.port.mbps),
            format!("--start-at={}", self.start_at_ns),
            format!("--server-pid={}", self.server_pid),
            format!("--json={}", self.json.display()),
            "--raw".to_owned(),
            "--until-stdin-ends".to_owned(),
            // It would be three clients who call alone.
            "--no-unloaded".to_owned(),
            // What is late is judged here, since a client's failure would end all.
            "--max-lag=2".to_owned(),
        ]
    }
}

/// Why what a client has written is not known.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}, which `bench load` has written", path.display())]
pub(super) struct ReadError {
    path: PathBuf,
    source: io::Error,
}

/// What a client saw in a turn.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) calls: Vec<Call>,
    /// Share of them that were sent late.
    lag: f64,
    /// For a call of this client.
    cpu: Option<CpuPerCall>,
}

impl Told {
    /// Share of all calls that were sent late.
    pub(super) fn lag(all: &[Self]) -> f64 {
        rounded(Self::mean(all, |told| Some(told.lag)).unwrap_or(0.0))
    }

    /// For a call of any client, if all of them know it.
    pub(super) fn cpu(all: &[Self]) -> Option<CpuPerCall> {
        let mean = |us: fn(CpuPerCall) -> Option<f64>| {
            Some(rounded(Self::mean(all, |told| us(told.cpu?))?))
        };
        // Each client has seen what the server did for all, and divided it by its own calls.
        let share = all.len() as f64;
        let user_us = mean(|cpu| Some(cpu.server?.user_us));
        let system_us = mean(|cpu| Some(cpu.server?.system_us));
        Some(CpuPerCall {
            client: Work {
                user_us: mean(|cpu| Some(cpu.client.user_us))?,
                system_us: mean(|cpu| Some(cpu.client.system_us))?,
            },
            server: user_us.zip(system_us).map(|(user_us, system_us)| Work {
                user_us: rounded(user_us / share),
                system_us: rounded(system_us / share),
            }),
        })
    }

    /// By calls.
    fn mean(all: &[Self], figure: impl Fn(&Self) -> Option<f64>) -> Option<f64> {
        let calls = |told: &Self| told.calls.len() as f64;
        let sums = all.iter().map(|told| Some(figure(told)? * calls(told)));
        let sum: f64 = sums.sum::<Option<_>>()?;
        Some(sum / all.iter().map(calls).sum::<f64>())
    }
}

/// What a client has written.
pub(super) fn read(path: &Path, client: usize) -> Result<Told, ReadError> {
    let failed = |source: io::Error| ReadError {
        path: path.to_owned(),
        source,
    };
    let json = fs::read(path).map_err(failed)?;
    let outcome: Outcome = serde_json::from_slice(&json).map_err(|error| failed(error.into()))?;
    let calls = outcome.calls.iter().map(|call| Call {
        bytes: call.bytes,
        due_ns: call.intended_ns,
        client,
        took_ns: call.done_ns.saturating_sub(call.intended_ns),
    });
    Ok(Told {
        calls: calls.collect(),
        lag: outcome.lag.share,
        cpu: outcome.cpu_per_call,
    })
}

#[cfg(test)]
mod tests {
    use super::super::plan::QUEUE_BYTES;
    use super::super::topology::Port;
    use super::*;
    use crate::bench::load::MAX_LAG;

    fn plan(load: f64) -> Plan {
        Plan {
            port: Port {
                mbps: 200,
                queue_bytes: QUEUE_BYTES,
            },
            load,
            rounds: 5,
            seconds: None,
            warm_up: Duration::from_secs(1),
            seed: 1,
            most_busy: 0.85,
            max_lag: MAX_LAG,
        }
    }

    #[test]
    fn what_is_offered_counts_headers_and_cut_requests() {
        let offered = Offered::of(WorkloadName::W4, &plan(0.8));
        // SIGCOMM'18 has 0.898 bytes of messages for each on the links.
        assert!((offered.payload_mbps - 200.0 * 0.8 * 0.898).abs() < 1e-9);
        // Of W4 the mean is 127.8 KB; of what is cut to 1 MB it is 60.2 KB.
        let bytes = offered.payload_mbps * 1e6 / 8.0 / offered.calls_per_s();
        assert!((60_000.0..60_400.0).contains(&bytes), "{bytes}");
        let half = Offered::of(WorkloadName::W4, &plan(0.4));
        assert!((half.calls_per_s() * 2.0 / offered.calls_per_s() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn both_stacks_are_told_to_make_the_same_calls() {
        let plan = plan(0.8);
        let offered = Offered::of(WorkloadName::W5, &plan);
        let lines = [(Stack::Tcp, "http://x"), (Stack::Homa, "homa://x")].map(|(stack, uri)| {
            let arguments = Arguments {
                uri,
                stack,
                client: 2,
                round: 3,
                start_at_ns: 77,
                server_pid: 1,
                json: Path::new("file"),
            };
            arguments.to_arguments(&plan, &offered)
        });
        let differ = |(one, other): (&String, &String)| (one != other).then(|| one.clone());
        let differences = lines[0].iter().zip(&lines[1]).filter_map(differ);
        let differences: Vec<_> = differences.collect();
        assert_eq!(differences, ["--uri=http://x", "--stack=tonic-tcp"]);
        for argument in ["--workload=w5", "--link-mbps=200", "--start-at=77"] {
            assert!(lines[1].iter().any(|it| it == argument), "{argument}");
        }
    }

    #[test]
    fn work_is_that_of_a_call_of_any_client() {
        let told = |calls: usize, client_us: f64, server_us: Option<f64>| {
            let work = |us: f64| Work {
                user_us: us,
                system_us: 2.0 * us,
            };
            let call = Call {
                bytes: 1,
                due_ns: 0,
                client: 0,
                took_ns: 1,
            };
            Told {
                calls: vec![call; calls],
                lag: 0.01 * calls as f64,
                cpu: Some(CpuPerCall {
                    client: work(client_us),
                    server: server_us.map(work),
                }),
            }
        };
        // The server worked for 1,200 us, for 4 calls in all.
        let mut all = [told(1, 10.0, Some(1_200.0)), told(3, 30.0, Some(400.0))];
        let cpu = Told::cpu(&all).expect("all know it");
        assert_eq!((cpu.client.user_us, cpu.client.system_us), (25.0, 50.0));
        let server = cpu.server.expect("all know it");
        assert_eq!((server.user_us, server.system_us), (300.0, 600.0));
        assert_eq!(Told::lag(&all), 0.025);
        all[1].cpu = told(3, 30.0, None).cpu;
        assert_eq!(Told::cpu(&all).expect("the clients").server, None);
        all[1].cpu = None;
        assert_eq!(Told::cpu(&all), None);
    }
}
