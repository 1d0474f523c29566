//! Whether a [`Setup`] can be run, and what is special about it.

use serde_json::Value;

use super::link;
use super::setup::{EngineSetup, Routing, Setup, Topology, TransportName, Wire};

/// A setting that cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value} is out of range: {range}; {remedy}")]
pub(crate) struct SetupError {
    pub(crate) key: &'static str,
    pub(crate) value: String,
    pub(crate) range: &'static str,
    pub(crate) remedy: &'static str,
}

/// Most hosts of a network. Everybody knows everybody, so that the memory for peers grows with
/// the square of it: a million of them.
const MAX_HOSTS: u64 = 1024;

/// Most spine switches. The switch of each rack has a port for every one.
const MAX_SPINES: u32 = 1024;

/// Most ports from racks to spine switches, each with a queue for every level.
const MAX_UPLINKS: u64 = 1 << 16;

/// Longest span of simulated time, in microseconds. A minute of the usual network is a day's work.
const MAX_SPAN_US: u64 = 60_000_000;

/// Most connections from one host to another.
const MAX_CONNECTIONS: u32 = 64;

/// More than all headers of a packet of any transport.
const HEADERS: usize = 200;

impl Setup {
    /// Whether every setting is within its range. The engine checks its own settings, all but the
    /// numbers of levels, when the hosts are made.
    pub(crate) fn check(&self) -> Result<(), SetupError> {
        within(
            "load",
            self.load,
            self.load > 0.0 && self.load <= 1.0,
            "above 0, at most 1",
            "it is the share of the hosts' links, so write 80 % as 0.8",
        )?;
        check_topology(&self.topology)?;
        if self.transport == TransportName::SrptOracle {
            check_oracle(self)?;
        }
        check_buffer(&self.topology, &self.engine)?;
        check_engine(&self.engine)?;
        within(
            "dctcp.connections",
            self.dctcp.connections,
            (1..=MAX_CONNECTIONS).contains(&self.dctcp.connections),
            "1 to 64",
            "a message needs one, and every host may have as many to every other",
        )?;
        for (key, span, least) in [
            ("warm_up_us", self.warm_up_us, 0),
            ("window_us", self.window_us, 1),
        ] {
            if let Some(span) = span {
                within(
                    key,
                    span,
                    (least..=MAX_SPAN_US).contains(&span),
                    "at most 60,000,000 microseconds, and some to measure in",
                    "leave it out for the workload's own",
                )?;
            }
        }
        Ok(())
    }

    /// Every setting that differs from its default, as `topology.racks = 2`, by name. The values
    /// are written as in JSON. Settings of other transports are left out.
    pub(crate) fn differs(&self) -> Vec<String> {
        let value_of = |setup: &Self| serde_json::to_value(setup).unwrap_or(Value::Null);
        let mut lines = Vec::new();
        note_differences("", &value_of(self), &value_of(&Self::default()), &mut lines);
        lines.retain(|line| {
            (self.transport == TransportName::Homa || !line.starts_with("engine."))
                && (self.transport == TransportName::Dctcp || !line.starts_with("dctcp."))
        });
        lines.sort_unstable();
        lines
    }
}

fn note_differences(key: &str, value: &Value, default: &Value, lines: &mut Vec<String>) {
    if let Value::Object(fields) = value {
        for (name, value) in fields {
            let dot = if key.is_empty() { "" } else { "." };
            note_differences(&format!("{key}{dot}{name}"), value, &default[name], lines);
        }
    } else if value != default {
        lines.push(format!("{key} = {value}"));
    }
}

fn check_topology(topology: &Topology) -> Result<(), SetupError> {
    let Topology {
        racks,
        hosts_per_rack,
        spines,
        host_gbps,
        spine_gbps,
        loss,
        ..
    } = *topology;
    within(
        "topology.racks",
        racks,
        racks >= 1,
        "at least 1",
        "hosts are in racks",
    )?;
    let hosts = u64::from(racks) * u64::from(hosts_per_rack);
    within(
        "topology.racks * topology.hosts_per_rack",
        hosts,
        (2..=MAX_HOSTS).contains(&hosts),
        "2 to 1,024 hosts in all racks together",
        "a host needs another one to send to, and memory for each that it knows",
    )?;
    within(
        "topology.spines",
        spines,
        (u32::from(racks > 1)..=MAX_SPINES).contains(&spines),
        "1 to 1,024 where there are several racks",
        "racks reach each other through them",
    )?;
    within(
        "topology.spines",
        spines,
        u64::from(racks) * u64::from(spines) <= MAX_UPLINKS,
        "65,536 links between racks and spines at most",
        "take fewer spines or racks",
    )?;
    for (key, gbps) in [
        ("topology.host_gbps", host_gbps),
        ("topology.spine_gbps", spine_gbps),
    ] {
        within(
            key,
            gbps,
            (0.001..=1000.0).contains(&gbps),
            "0.001 to 1,000 Gbit/s",
            "time is counted in picoseconds, and a byte has to take some of them",
        )?;
    }
    within(
        "topology.loss",
        loss,
        (0.0..1.0).contains(&loss),
        "0 to below 1",
        "it is a share, so write 1 % as 0.01",
    )
}

/// The oracle has no packets, and takes what the network does to them for granted.
fn check_oracle(setup: &Setup) -> Result<(), SetupError> {
    let Setup { topology, wire, .. } = setup;
    let remedy = "leave it out, or take transport = \"homa\" or \"dctcp\"";
    let without =
        |key, value: String, is_without, range| within(key, value, is_without, range, remedy);
    without(
        "topology.loss",
        topology.loss.to_string(),
        topology.loss == 0.0,
        "the SRPT oracle loses nothing",
    )?;
    without(
        "topology.buffer_bytes",
        topology.buffer_bytes.unwrap_or(0).to_string(),
        topology.buffer_bytes.is_none(),
        "the SRPT oracle has no buffers",
    )?;
    without(
        "topology.routing",
        "flow-hash".to_owned(),
        topology.routing == Routing::Spray,
        "the SRPT oracle has no paths",
    )?;
    without(
        "wire",
        "real".to_owned(),
        *wire == Wire::Paper,
        "the SRPT oracle has the packets of the paper",
    )
}

fn check_buffer(topology: &Topology, engine: &EngineSetup) -> Result<(), SetupError> {
    let Some(buffer) = topology.buffer_bytes else {
        return Ok(());
    };
    let payloads = [engine.packet_payload, engine.scheduled_payload];
    let longest = payloads.into_iter().flatten().max().unwrap_or(0) + HEADERS;
    let packet = (longest as u64).max(u64::from(link::MTU + link::ETHERNET));
    within(
        "topology.buffer_bytes",
        buffer,
        buffer >= packet,
        "at least one packet, 1,538 bytes with the usual payload",
        "leave it out for buffers without bound",
    )
}

fn check_engine(engine: &EngineSetup) -> Result<(), SetupError> {
    let levels = engine.num_priorities.unwrap_or(8);
    within(
        "engine.num_priorities",
        levels,
        (1..=8).contains(&levels),
        "1 to 8",
        "switches have eight queues for each port",
    )?;
    if let Some(resend) = engine.resend_us {
        within(
            "engine.resend_us",
            resend,
            (1000..=MAX_SPAN_US).contains(&resend),
            "1,000 to 60,000,000 microseconds",
            "engines count silence in milliseconds",
        )?;
    }
    let Some(scheduled) = engine.scheduled_levels else {
        return Ok(());
    };
    within(
        "engine.scheduled_levels",
        scheduled,
        (1..levels.max(2)).contains(&scheduled),
        "1 to one less than num_priorities",
        "unscheduled packets need a level of their own, unless there is only one",
    )
}

fn within(
    key: &'static str,
    value: impl ToString,
    is_within: bool,
    range: &'static str,
    remedy: &'static str,
) -> Result<(), SetupError> {
    if is_within {
        return Ok(());
    }
    Err(SetupError {
        key,
        value: value.to_string(),
        range,
        remedy,
    })
}

#[cfg(test)]
mod tests {
    use super::super::setup::Mode;
    use super::*;

    fn error_of(change: impl FnOnce(&mut Setup)) -> SetupError {
        let mut setup = Setup::default();
        change(&mut setup);
        setup.check().expect_err("out of range")
    }

    #[test]
    fn the_defaults_can_be_run() {
        assert_eq!(Setup::default().check(), Ok(()));
    }

    #[test]
    fn edges_of_the_ranges_can_be_run() {
        let mut setup = Setup {
            load: 1.0,
            warm_up_us: Some(0),
            window_us: Some(1),
            ..Setup::default()
        };
        setup.topology = Topology {
            racks: 1,
            hosts_per_rack: 2,
            spines: 0,
            buffer_bytes: Some(1538),
            ..Topology::default()
        };
        setup.engine.num_priorities = Some(1);
        setup.engine.scheduled_levels = Some(1);
        assert_eq!(setup.check(), Ok(()));
        setup.topology.hosts_per_rack = 1024;
        assert_eq!(setup.check(), Ok(()));
    }

    #[test]
    fn what_is_out_of_range_is_named_with_a_remedy() {
        for load in [0.0, -0.5, 1.01, f64::NAN, f64::INFINITY] {
            let error = error_of(|setup| setup.load = load);
            assert_eq!((error.key, error.value), ("load", load.to_string()));
        }
        let key_of = |change: fn(&mut Setup)| error_of(change).key;
        for (key, change) in [
            (
                "racks",
                (|setup| setup.topology.racks = 0) as fn(&mut Setup),
            ),
            ("racks * topology.hosts_per_rack", |setup| {
                setup.topology.hosts_per_rack = 0
            }),
            ("racks * topology.hosts_per_rack", |setup| {
                setup.topology.hosts_per_rack = 1;
                setup.topology.racks = 1;
            }),
            ("racks * topology.hosts_per_rack", |setup| {
                setup.topology.racks = 65
            }),
            ("racks * topology.hosts_per_rack", |setup| {
                setup.topology.racks = u32::MAX
            }),
            ("spines", |setup| setup.topology.spines = 0),
            ("spines", |setup| {
                setup.topology.racks = 512;
                setup.topology.hosts_per_rack = 2;
                setup.topology.spines = 129;
            }),
            ("host_gbps", |setup| setup.topology.host_gbps = 0.0),
            ("host_gbps", |setup| setup.topology.host_gbps = f64::NAN),
            ("spine_gbps", |setup| setup.topology.spine_gbps = -40.0),
            ("loss", |setup| setup.topology.loss = 1.0),
            ("loss", |setup| setup.topology.loss = -0.1),
            ("buffer_bytes", |setup| {
                setup.topology.buffer_bytes = Some(1537)
            }),
            ("buffer_bytes", |setup| {
                setup.engine.packet_payload = Some(9000);
                setup.topology.buffer_bytes = Some(9000);
            }),
        ] {
            assert_eq!(key_of(change), format!("topology.{key}"));
        }
        assert_eq!(key_of(|setup| setup.window_us = Some(0)), "window_us");
        assert_eq!(
            key_of(|setup| setup.warm_up_us = Some(u64::MAX)),
            "warm_up_us"
        );
        for levels in [0, 9] {
            let error = error_of(|setup| setup.engine.num_priorities = Some(levels));
            assert_eq!(error.key, "engine.num_priorities");
        }
        for scheduled in [0, 8] {
            let error = error_of(|setup| setup.engine.scheduled_levels = Some(scheduled));
            assert_eq!(error.key, "engine.scheduled_levels");
        }
        for connections in [0, 65] {
            let error = error_of(|setup| setup.dctcp.connections = connections);
            assert_eq!(error.key, "dctcp.connections");
        }
        assert_eq!(
            error_of(|setup| setup.load = 80.0).to_string(),
            "load = 80 is out of range: above 0, at most 1; it is the share of the hosts' links, \
             so write 80 % as 0.8"
        );
    }

    #[test]
    fn the_documentation_names_every_setting() {
        fn names(key: &str, value: &Value) -> Vec<String> {
            let Value::Object(fields) = value else {
                return vec![key.to_owned()];
            };
            let dot = if key.is_empty() { "" } else { "." };
            let fields = fields.iter();
            fields
                .flat_map(|(name, value)| names(&format!("{key}{dot}{name}"), value))
                .collect()
        }
        let text = include_str!("../../../docs/simulator.md");
        let value = serde_json::to_value(Setup::default()).expect("plain values");
        for name in names("", &value) {
            assert!(text.contains(&format!("| `{name}` |")), "{name}");
        }
    }

    #[test]
    fn the_oracle_refuses_what_it_takes_no_account_of() {
        let key_of = |change: fn(&mut Setup)| {
            error_of(|setup| {
                setup.transport = TransportName::SrptOracle;
                change(setup);
            })
            .key
        };
        assert_eq!(key_of(|setup| setup.topology.loss = 0.01), "topology.loss");
        assert_eq!(
            key_of(|setup| setup.topology.buffer_bytes = Some(100_000)),
            "topology.buffer_bytes"
        );
        assert_eq!(
            key_of(|setup| setup.topology.routing = Routing::FlowHash),
            "topology.routing"
        );
        assert_eq!(key_of(|setup| setup.wire = Wire::Real), "wire");
    }

    #[test]
    fn settings_of_other_transports_are_not_listed() {
        let mut setup = Setup::default();
        setup.engine.boost_tail = Some(false);
        setup.dctcp.connections = 1;
        assert_eq!(setup.differs(), ["engine.boost_tail = false"]);
        setup.transport = TransportName::Dctcp;
        assert_eq!(
            setup.differs(),
            ["dctcp.connections = 1", "transport = \"dctcp\""]
        );
    }

    #[test]
    fn only_what_differs_is_listed() {
        assert!(Setup::default().differs().is_empty());
        let mut setup = Setup {
            load: 0.5,
            cdf: Some("sizes.txt".into()),
            mode: Mode::Echo,
            ..Setup::default()
        };
        setup.topology.routing = Routing::FlowHash;
        setup.engine.boost_tail = Some(false);
        setup.engine.grant_window = Some(10_000);
        assert_eq!(
            setup.differs(),
            [
                "cdf = \"sizes.txt\"",
                "engine.boost_tail = false",
                "engine.grant_window = 10000",
                "load = 0.5",
                "mode = \"echo\"",
                "topology.routing = \"flow-hash\"",
            ]
        );
    }
}
