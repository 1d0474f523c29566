//! `info`: what this host offers, and what follows from it.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use homa_client::blocking::Server;
use homa_client::{Carrier, Config, network_devices, pacing_mbps};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::report;

/// Prints what this host offers to Homa, and the defaults in force.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  homa-interop info --json info.json")]
pub(crate) struct Arguments {
    /// Write the same to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Exit with status 3 if this one is not available; may be given often.
    #[arg(long, value_name = "ENGINE", value_enum)]
    require: Vec<Name>,
}

/// Status where a required engine is not available.
const MISSING: u8 = 3;

/// What carries Homa, by its name in URIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Name {
    /// The user-space engine over UDP.
    Udp,
    /// The user-space engine on IP protocol 146.
    Raw,
    /// The kernel module.
    Kernel,
}

/// What there is to know about a host.
#[derive(Clone, Debug, Serialize)]
struct Info {
    version: &'static str,
    kernel: Option<String>,
    cores: usize,
    /// Largest receive buffer that a socket may ask for.
    rmem_max: Option<u64>,
    /// Why and how to change that, where it is too small.
    rmem_advice: Option<String>,
    /// What carries Homa here.
    engines: Vec<Engine>,
    /// Network devices with hardware that are up, with their speed in Mbit/s where they tell.
    devices: Vec<(String, Option<u32>)>,
    /// The speed by which endpoints pace what they send: the fastest, if all are known.
    link_mbps: Option<u32>,
    /// Settings of an endpoint that is opened with none, by their place in `Config`.
    defaults: Map<String, Value>,
}

/// One way to carry Homa.
#[derive(Clone, Debug, Serialize)]
struct Engine {
    name: Name,
    #[serde(flatten)]
    probed: Probed,
}

/// What came of opening an endpoint.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Probed {
    Available(Endpoint),
    /// The kernel module, and which one.
    Module(String),
    /// And why.
    Unavailable(String),
}

/// What an endpoint has.
#[derive(Clone, Debug, Serialize)]
struct Endpoint {
    /// Largest IP packet.
    mtu: usize,
    /// Receive buffer that the system grants, which is twice what it was asked for, or less.
    recv_buffer_bytes: u64,
    /// Whether one send may carry several packets (UDP GSO).
    gso: bool,
    /// Whether one receive may bring several packets (UDP GRO).
    gro: bool,
}

/// Why this host does not have an engine, if it does not.
pub(crate) fn why_missing(name: Name) -> Option<String> {
    match Engine::probe(name).probed {
        Probed::Unavailable(why) => Some(why),
        Probed::Available(_) | Probed::Module(_) => None,
    }
}

/// Prints it.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let info = Info::of_this_host();
    if let Some(path) = &arguments.json {
        report::write_json(path, &info)?;
    }
    write!(io::stdout(), "{}", info.to_text())?;
    let mut missing = info.engines.iter().filter(|engine| {
        arguments.require.contains(&engine.name) && matches!(engine.probed, Probed::Unavailable(_))
    });
    Ok(match missing.next() {
        Some(_) => ExitCode::from(MISSING),
        None => ExitCode::SUCCESS,
    })
}

impl Info {
    fn of_this_host() -> Self {
        let config = Config::default();
        let devices = network_devices();
        let rmem_max = read("/proc/sys/net/core/rmem_max").and_then(|text| text.parse().ok());
        Self {
            version: env!("CARGO_PKG_VERSION"),
            kernel: read("/proc/sys/kernel/osrelease"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            rmem_max,
            rmem_advice: rmem_max.and_then(|bytes| rmem_advice(bytes, config.recv_buffer_bytes)),
            engines: [Name::Udp, Name::Raw, Name::Kernel]
                .map(Engine::probe)
                .into(),
            link_mbps: pacing_mbps(&devices),
            devices: devices
                .into_iter()
                .map(|device| (device.name, device.mbps))
                .collect(),
            defaults: settings(&config),
        }
    }

    fn devices_text(&self) -> String {
        if self.devices.is_empty() {
            return "none with hardware that is up".to_owned();
        }
        let text = |(name, mbps): &(String, Option<u32>)| match mbps {
            Some(mbps) => format!("{name} {mbps} Mbit/s"),
            None => format!("{name} does not tell its speed"),
        };
        self.devices.iter().map(text).collect::<Vec<_>>().join(", ")
    }

    fn to_text(&self) -> String {
        let known = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
        let mut text = format!(
            "homa-interop       {}\n\
             kernel             {}\n\
             cores              {}\n\
             net.core.rmem_max  {}\n\
             network devices    {}\n\
             pacing             {}\n",
            self.version,
            known(self.kernel.clone()),
            self.cores,
            known(self.rmem_max.map(|bytes| bytes.to_string())),
            self.devices_text(),
            match self.link_mbps {
                Some(mbps) => format!("{mbps} Mbit/s"),
                None => "off: no device tells its speed; set link_mbps to pace".to_owned(),
            },
        );
        if let Some(advice) = &self.rmem_advice {
            text.push_str(advice);
            text.push('\n');
        }
        text.push_str("\nengines\n");
        for engine in &self.engines {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{engine}");
        }
        text.push_str("\ndefaults of an endpoint, as in homa_client::Config\n");
        for (key, value) in &self.defaults {
            let value = match value {
                Value::Null => "not set".to_owned(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let _ = writeln!(text, "  {key:30} {value}");
        }
        text
    }
}

impl Engine {
    fn probe(name: Name) -> Self {
        let probed = match name {
            Name::Udp => Probed::by_opening(Carrier::Udp),
            Name::Raw => Probed::by_opening(Carrier::Ip),
            Name::Kernel => match homa_sys::probe::probe() {
                Ok(abi) => Probed::Module(abi.to_string()),
                Err(error) => Probed::Unavailable(error.to_string()),
            },
        };
        Self { name, probed }
    }
}

impl Probed {
    /// Opens an endpoint on the loopback device for a moment.
    fn by_opening(carrier: Carrier) -> Self {
        let config = Config::for_carrier(carrier);
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        match Server::bind(any, &config) {
            Ok(server) => {
                let counters = server.counters();
                Self::Available(Endpoint {
                    mtu: config.mtu(),
                    recv_buffer_bytes: counters.recv_buffer_bytes,
                    gso: counters.gso,
                    gro: counters.gro,
                })
            }
            Err(error) => Self::Unavailable(error.to_string()),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.name {
            Name::Udp => "udp",
            Name::Raw => "raw",
            Name::Kernel => "kernel",
        };
        let Endpoint {
            mtu,
            recv_buffer_bytes,
            gso,
            gro,
        } = match &self.probed {
            Probed::Available(endpoint) => endpoint,
            Probed::Module(which) => return write!(f, "{name}: available ({which})"),
            Probed::Unavailable(reason) => return write!(f, "{name}: not available ({reason})"),
        };
        let offload = |has: bool| if has { "yes" } else { "no" };
        write!(
            f,
            "{name}: available (MTU {mtu}, receive buffer {recv_buffer_bytes} bytes: the kernel doubles \
             what it is asked for, to pay for its own records; GSO {}, GRO {})",
            offload(*gso),
            offload(*gro),
        )
    }
}

/// Every setting and its value, each by its place in [`Config`].
fn settings(config: &Config) -> Map<String, Value> {
    let protocol = &config.protocol;
    let timers = &protocol.timers;
    let time = |time: Duration| json!(format!("{time:?}"));
    [
        ("backend", json!(format!("{:?}", config.backend))),
        ("kernel_region_bytes", json!(config.kernel_region_bytes)),
        ("mtu", json!(config.mtu)),
        ("recv_buffer_bytes", json!(config.recv_buffer_bytes)),
        ("busy_poll", json!(format!("{:?}", config.busy_poll))),
        ("linger", time(config.linger)),
        ("shards", json!(config.shards)),
        ("bulk_port", json!(format!("{:?}", config.bulk_port))),
        (
            "faults",
            json!(config.faults.as_ref().map(|faults| format!("{faults:?}"))),
        ),
        ("capture", json!(config.capture)),
        ("protocol.bulk_port", json!(protocol.bulk_port)),
        ("protocol.carrier", json!(format!("{:?}", protocol.carrier))),
        (
            "protocol.max_message_bytes",
            json!(protocol.max_message_bytes),
        ),
        (
            "protocol.unsched_bytes",
            protocol
                .unsched_bytes
                .map_or(json!("self-tuned"), |bytes| json!(bytes)),
        ),
        ("protocol.packet_payload", json!(protocol.packet_payload)),
        (
            "protocol.scheduled_payload",
            json!(protocol.scheduled_payload),
        ),
        (
            "protocol.loopback",
            json!(protocol.loopback.map(|loopback| json!({
                "packet_payload": loopback.packet_payload,
                "max_incoming": loopback.max_incoming,
            }))),
        ),
        ("protocol.max_incoming", json!(protocol.max_incoming)),
        ("protocol.unsched_windows", json!(protocol.unsched_windows)),
        (
            "protocol.prove_addresses",
            json!(format!("{:?}", protocol.prove_addresses)),
        ),
        ("protocol.max_overcommit", json!(protocol.max_overcommit)),
        ("protocol.grant_window", json!(protocol.grant_window)),
        ("protocol.min_grant", json!(protocol.min_grant)),
        ("protocol.fifo_fraction", json!(protocol.fifo_fraction)),
        ("protocol.fifo_increment", json!(protocol.fifo_increment)),
        ("protocol.boost_tail", json!(protocol.boost_tail)),
        (
            "protocol.unsched_by_remaining",
            json!(protocol.unsched_by_remaining),
        ),
        (
            "protocol.scheduled_levels",
            json!(protocol.scheduled_levels),
        ),
        ("protocol.num_priorities", json!(protocol.num_priorities)),
        (
            "protocol.unsched_cutoffs",
            json!(format!("{:?}", protocol.unsched_cutoffs)),
        ),
        ("protocol.tos", json!(protocol.tos)),
        ("protocol.link_mbps", json!(protocol.link_mbps)),
        ("protocol.pacing", json!(protocol.pacing)),
        ("protocol.max_backlog", time(protocol.max_backlog)),
        ("protocol.pool_bytes", json!(protocol.pool_bytes)),
        ("protocol.send_bytes", json!(protocol.send_bytes)),
        ("protocol.max_rpcs", json!(protocol.max_rpcs)),
        (
            "protocol.max_rpcs_per_peer",
            json!(protocol.max_rpcs_per_peer),
        ),
        ("protocol.max_peers", json!(protocol.max_peers)),
        (
            "protocol.main_buffer_bytes",
            json!(protocol.main_buffer_bytes),
        ),
        ("protocol.timers.resend", time(timers.resend)),
        ("protocol.timers.timeout", time(timers.timeout)),
        ("protocol.timers.need_ack", time(timers.need_ack)),
        ("protocol.timers.need_ack_max", time(timers.need_ack_max)),
        ("protocol.timers.give_up", time(timers.give_up)),
        ("protocol.timers.remember", time(timers.remember)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// What to do about a limit on receive buffers below what the driver asks for.
fn rmem_advice(rmem_max: u64, wanted: usize) -> Option<String> {
    (rmem_max < wanted as u64).then(|| {
        format!(
            "Receive buffers are limited to {rmem_max} bytes, {wanted} are wanted: bursts of \
             large messages will lose packets. Raise the limit as root with\n  \
             sysctl -w net.core.rmem_max={wanted}"
        )
    })
}

/// The text of a small file without the white space around it, if it can be read.
fn read(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_is_named_with_the_command_that_raises_it() {
        let advice = rmem_advice(212_992, 4 << 20).expect("too low");
        assert!(advice.contains("212992") && advice.contains("net.core.rmem_max=4194304"));
        assert_eq!(rmem_advice(4 << 20, 4 << 20), None);
    }

    #[test]
    fn what_a_host_does_not_tell_is_printed_as_unknown() {
        let info = Info {
            kernel: None,
            rmem_max: None,
            rmem_advice: None,
            ..Info::of_this_host()
        };
        let text = info.to_text();
        assert_eq!(text.matches(" unknown").count(), 2, "{text}");
    }

    #[test]
    fn an_engine_tells_what_it_has_or_why_it_is_not_available() {
        let udp = Engine::probe(Name::Udp).to_string();
        assert!(
            udp.starts_with("udp: available (MTU 1500, receive buffer "),
            "{udp}"
        );
        // Depends on who runs this, and where.
        let raw = Engine::probe(Name::Raw).to_string();
        assert!(
            raw.ends_with("GSO no, GRO no)")
                || raw.contains("setcap cap_net_raw+ep")
                || raw.contains("rmmod homa"),
            "{raw}"
        );
    }

    #[test]
    fn every_setting_is_listed() {
        let config = Config::default();
        let listed = settings(&config);
        for line in format!("{config:#?}").lines() {
            let Some((key, _)) = line.trim().split_once(": ") else {
                continue;
            };
            // These two hold the other settings.
            if !matches!(key, "protocol" | "timers") {
                let place = match line.len() - line.trim_start().len() {
                    4 => "",
                    8 => "protocol.",
                    _ => "protocol.timers.",
                };
                assert!(
                    listed.contains_key(&format!("{place}{key}")),
                    "{place}{key} is missing"
                );
            }
        }
        assert!(listed.len() > 20);
        for (key, value) in [
            ("mtu", Value::Null),
            ("protocol.max_message_bytes", json!(1_000_000)),
            ("protocol.timers.resend", json!("10ms")),
        ] {
            assert_eq!(listed.get(key), Some(&value), "{key}");
        }
    }
}
