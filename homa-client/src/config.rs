//! [`Config`]: what can be set on an endpoint, checked once when it is opened.

use std::path::PathBuf;
use std::time::Duration;

use crate::engine::Settings;
use crate::engine::wire::Carrier;
use crate::faults::Faults;

/// Settings of an endpoint: those of its sockets, and those of the protocol.
///
/// The defaults suit a data center's network and the loopback device; every one can be
/// overridden, and is checked when the endpoint is opened.
///
/// ```
/// use homa_client::{BulkPort, Config};
///
/// let mut config = Config::default();
/// config.mtu = Some(9000);
/// config.protocol.max_overcommit = 4;
/// config.bulk_port = BulkPort::Off;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Config {
    /// Who carries the messages. Default: the engine of this crate.
    pub backend: Backend,
    /// Memory into which the kernel module puts messages until they are dropped, in bytes.
    /// Default `None`: 64 MiB, or more where many processors need it. At least 2,000,000 bytes and
    /// 65,536 for each processor that this machine could have, at most 4 GiB. When it is full,
    /// senders wait. Pages that were never used take no memory. With the module only.
    pub kernel_region_bytes: Option<usize>,
    /// Largest IP packet in bytes. Default `None`: 1,500, and 65,000 to loopback addresses unless
    /// `protocol.link_mbps` or `faults` emulate a network there. 576 to 9,000. Larger packets cost
    /// less; a path that does not take them is noticed, by ICMP or by their loss, which costs some
    /// milliseconds for the first message, and again every 10 minutes.
    pub mtu: Option<u16>,
    /// Receive buffer asked of the system for each socket, in bytes. Default 4 MiB. The system
    /// grants at most `net.core.rmem_max` to processes without CAP_NET_ADMIN; with less, many
    /// senders at once overflow it, which costs retransmissions.
    pub recv_buffer_bytes: usize,
    /// The second socket, which keeps long messages from delaying short ones. Default: any free
    /// port. Peers that cannot reach it use the main port. UDP only.
    pub bulk_port: BulkPort,
    /// How long whoever receives goes on looking for the next packet after the last one, before it
    /// sleeps. Default 0: not at all; up to 1 ms. To wake a thread takes some microseconds, and some
    /// tens where its processor sleeps too, as in virtual machines; this saves them twice for a
    /// call, at the price of a processor that is busy meanwhile. It pays most in a runtime with one
    /// worker: in others the packet wakes a second one for nothing.
    ///
    /// After four looks in a row that found nothing, if the packet came within eight times this value,
    /// looks take four times as long (1 ms at most), long enough to meet a peer that was asleep, and
    /// stay so until eight in a row were in vain. If a long one is in vain, this side may keep the
    /// processor that the peer needs: a thread that looks then goes to another one of those that it
    /// may use, at most once a millisecond. (It asks the system for the processors that it may use at
    /// that time, and keeps to these should its cpuset grow.) Who looks in vain all the same pauses
    /// for 10 ms, or 100 ms after long looks. If nothing is ever found, 50 µs cost a fiftieth of a
    /// processor; with packets that come every some 100 µs it is busy all the time.
    pub busy_poll: Duration,
    /// How long an endpoint stays open after its last handle is gone, for what is still to be
    /// delivered: requests that nobody waits for, and word to servers that their responses have
    /// arrived. Default 1 s, 0 to 60 s. With less, requests are lost whose packets were; with more,
    /// sockets and memory are kept for longer. A server without anything to deliver is closed at
    /// once. It ends with the process or the runtime in any case.
    pub linger: Duration,
    /// Engines that share the peers of an endpoint, so that threads which call different peers do
    /// not wait for each other. Default `None`: one for every 4 processors. 1 to 64. SRPT, grants
    /// and pacing are exact within a shard only, and each gets an equal share of `max_incoming`,
    /// `pool_bytes`, `send_bytes`, `max_rpcs`, `max_peers` and `main_buffer_bytes`, though never
    /// less than one message needs.
    pub shards: Option<usize>,
    /// Faults of the network, made up for a test. Default `None`.
    pub faults: Option<Faults>,
    /// Writes every packet that is sent or received to this file, in the pcap format that
    /// Wireshark opens. Default `None`. A file that is there already is overwritten; endpoints
    /// with the same file share it. It holds the messages' contents. Packets are at most 200 ms
    /// late in it, and the last ones are written when the endpoint closes, `linger` after its
    /// last handle is gone. If writing fails, that is logged, the capture ends, and what is missing
    /// is counted.
    pub capture: Option<PathBuf>,
    /// Settings of the protocol engine. `packet_payload`, `loopback`, `bulk_port` and
    /// `main_buffer_bytes` in there are computed from the ones above when an endpoint is opened, and
    /// `scheduled_payload` is at most that `packet_payload`.
    pub protocol: Settings,
}

/// Who carries the messages of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The engine of this crate, over UDP or on IP protocol 146 ([`Config::for_carrier`]).
    #[default]
    User,
    /// The Homa kernel module, which has to be loaded. Of the other settings only
    /// [`Config::kernel_region_bytes`] and [`Config::linger`] count: the rest are the module's parameters
    /// (`sysctl net.homa`).
    Kernel,
    /// Both, where the module is loaded: servers of an unspecified address (`0.0.0.0`, `::`) take
    /// requests from either, others from UDP only, since the module's are open to every address of
    /// the machine; clients call a peer on UDP until it has answered through the module, which is asked in the background with the
    /// first call. Where there is no module this is [`Backend::User`]. The engine's carrier has to
    /// be UDP.
    Auto,
}

/// UDP port of an endpoint's second socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BulkPort {
    /// Any free port.
    #[default]
    Any,
    /// This one, say because a firewall lets it through.
    Fixed(u16),
    /// No second socket: everything comes to the main one.
    Off,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backend: Backend::default(),
            kernel_region_bytes: None,
            mtu: None,
            recv_buffer_bytes: 4 << 20,
            bulk_port: BulkPort::default(),
            busy_poll: Duration::ZERO,
            linger: DEFAULT_LINGER,
            shards: None,
            faults: None,
            capture: None,
            protocol: Settings::default(),
        }
    }
}

/// Largest packet where nothing is configured: what every Ethernet takes.
const DEFAULT_MTU: u16 = 1500;

/// Largest packet that a network is asked to carry.
const MAX_MTU: usize = 9000;

/// One engine keeps up with the packets that this many processors can make or use.
const CORES_PER_SHARD: usize = 4;

const MAX_SHARDS: usize = 64;

/// Enough for some packets to be lost and sent again.
const DEFAULT_LINGER: Duration = Duration::from_secs(1);

const MAX_LINGER: Duration = Duration::from_secs(60);

/// Sleeps are worth their price from here on at the latest.
pub(crate) const MAX_BUSY_POLL: Duration = Duration::from_millis(1);

impl Config {
    /// The defaults for this carrier: one line to use IP protocol 146, which needs the capability
    /// CAP_NET_RAW, instead of UDP.
    ///
    /// ```
    /// use homa_client::{Carrier, Config};
    ///
    /// let config = Config::for_carrier(Carrier::Ip);
    /// assert_eq!(config.protocol.carrier, Carrier::Ip);
    /// assert_eq!(config.with_carrier(Carrier::Udp), Config::default());
    /// ```
    pub fn for_carrier(carrier: Carrier) -> Self {
        Self::default().with_carrier(carrier)
    }

    /// The same settings on this carrier. Timers that are the defaults of another carrier become
    /// those of this one.
    pub fn with_carrier(mut self, carrier: Carrier) -> Self {
        let before = Settings::for_carrier(self.protocol.carrier);
        let now = Settings::for_carrier(carrier);
        if self.protocol.timers == before.timers {
            self.protocol.timers = now.timers;
        }
        self.protocol.packet_payload = now.packet_payload;
        self.protocol.carrier = carrier;
        self
    }

    /// The largest IP packet in bytes, as set or by default, but for those to loopback addresses.
    pub fn mtu(&self) -> usize {
        usize::from(self.mtu.unwrap_or(DEFAULT_MTU))
    }

    /// Engines per endpoint.
    pub(crate) fn shards(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.shards
            .unwrap_or_else(|| cores().div_ceil(CORES_PER_SHARD).min(MAX_SHARDS))
    }

    /// Whether every value is within its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(576..=MAX_MTU).contains(&self.mtu()) {
            return Err(ConfigError {
                key: "mtu",
                value: self.mtu().to_string(),
                range: "576 to 9000 bytes, default 1500",
            });
        }
        if !(65_536..=1 << 30).contains(&self.recv_buffer_bytes) {
            return Err(ConfigError {
                key: "recv_buffer_bytes",
                value: self.recv_buffer_bytes.to_string(),
                range: "65536 bytes to 1 GiB, default 4 MiB",
            });
        }
        if self.backend == Backend::Auto && self.protocol.carrier != Carrier::Udp {
            return Err(ConfigError {
                key: "backend",
                value: "Auto".into(),
                range: "User or Kernel where the engine's carrier is IP protocol 146",
            });
        }
        if self.bulk_port == BulkPort::Fixed(0) {
            return Err(ConfigError {
                key: "bulk_port",
                value: "0".into(),
                range: "a port of 1 to 65535, Any or Off",
            });
        }
        if self.busy_poll > MAX_BUSY_POLL {
            return Err(ConfigError {
                key: "busy_poll",
                value: format!("{:?}", self.busy_poll),
                range: "0 to 1ms, default 0",
            });
        }
        if self.linger > MAX_LINGER {
            return Err(ConfigError {
                key: "linger",
                value: format!("{:?}", self.linger),
                range: "0 to 60s, default 1s",
            });
        }
        if !(1..=MAX_SHARDS).contains(&self.shards()) {
            return Err(ConfigError {
                key: "shards",
                value: self.shards().to_string(),
                range: "1 to 64, default one for every 4 processors",
            });
        }
        if let Some(faults) = &self.faults {
            faults.check()?;
        }
        self.protocol.check()
    }
}

/// A setting that is out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value} is out of range: {range}")]
pub struct ConfigError {
    /// The setting's name.
    pub key: &'static str,
    /// The value given.
    pub value: String,
    /// What is allowed.
    pub range: &'static str,
}
