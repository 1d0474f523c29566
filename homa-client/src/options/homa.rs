//! [`HomaOptions`]: the table `[homa]` of a configuration.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::value::duration;
use crate::{BulkPort, Config};

/// Settings of a Homa endpoint: the table `[homa]` of an adapter's configuration.
///
/// These are the ones of [`Config`] that depend on the machine or the network, by the same names;
/// ranges and what else there is to know about them is told there. All are checked when the
/// configuration is used. The kernel module has parameters of its own instead: with it only
/// `kernel_region_bytes` and `linger` count.
///
/// ```
/// use homa_client::Config;
/// use homa_client::options::HomaOptions;
///
/// let options: HomaOptions = toml::from_str("mtu = 9000\nlink_mbps = 25000")?;
/// let mut config = Config::default();
/// options.apply(&mut config);
/// assert_eq!(config.mtu, Some(9000));
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct HomaOptions {
    /// Largest IP packet in bytes. Default: 1,500, and 65,000 to loopback addresses, unless
    /// `link_mbps` is set.
    pub mtu: Option<u16>,
    /// Speed of the uplink in Mbit/s, by which packets are paced. Default: what the devices tell.
    pub link_mbps: Option<u32>,
    /// Whether packets are paced where the speed is known. Default: `true`.
    pub pacing: Option<bool>,
    /// Priority levels in use. Default: 8.
    pub num_priorities: Option<u8>,
    /// Bytes of a message that are sent without waiting for a grant. Default: self-tuned.
    pub unsched_bytes: Option<usize>,
    /// Bytes that all senders together may be granted ahead of what has arrived; four times as many
    /// on loopback, unless `mtu` or `link_mbps` is set. Default: 131,072.
    pub max_incoming: Option<usize>,
    /// Bytes of incoming messages held at once. Default: 64 MiB.
    pub pool_bytes: Option<usize>,
    /// Bytes of outgoing messages held at once. Default: 256 MiB.
    pub send_bytes: Option<usize>,
    /// Receive buffer asked of the system for each socket, in bytes. Default: 4 MiB.
    pub recv_buffer_bytes: Option<usize>,
    /// UDP port of the second socket, which takes long messages, say because a firewall lets it
    /// through; 0: no second socket. Default: any free port.
    pub bulk_port: Option<u16>,
    /// How long to look for the next packet after the last one before going to sleep, at most 1 ms.
    /// Default: 0.
    #[serde(deserialize_with = "duration")]
    pub busy_poll: Option<Duration>,
    /// How long an endpoint stays open after its last use for what is still to be delivered, at most
    /// 60 s. Default: 1 s.
    #[serde(deserialize_with = "duration")]
    pub linger: Option<Duration>,
    /// Engines that share the peers. Default: one for every 4 processors.
    pub shards: Option<usize>,
    /// Memory that the kernel module puts messages into, in bytes. Default: 64 MiB, or more where
    /// many processors need it.
    pub kernel_region_bytes: Option<usize>,
    /// A pcap file into which every packet is written. Default: none.
    pub capture: Option<PathBuf>,
}

impl HomaOptions {
    /// Puts these in the place of what `config` says.
    pub fn apply(&self, config: &mut Config) {
        fn set<T: Clone>(target: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                target.clone_from(value);
            }
        }
        // All of them are named, so that none is forgotten.
        let Self {
            mtu,
            link_mbps,
            pacing,
            num_priorities,
            unsched_bytes,
            max_incoming,
            pool_bytes,
            send_bytes,
            recv_buffer_bytes,
            bulk_port,
            busy_poll,
            linger,
            shards,
            kernel_region_bytes,
            capture,
        } = self;
        config.mtu = mtu.or(config.mtu);
        config.shards = shards.or(config.shards);
        config.kernel_region_bytes = kernel_region_bytes.or(config.kernel_region_bytes);
        config.capture = capture.clone().or(config.capture.take());
        set(&mut config.recv_buffer_bytes, recv_buffer_bytes);
        set(&mut config.busy_poll, busy_poll);
        set(&mut config.linger, linger);
        let bulk_port = bulk_port.map(|port| match port {
            0 => BulkPort::Off,
            port => BulkPort::Fixed(port),
        });
        set(&mut config.bulk_port, &bulk_port);
        let protocol = &mut config.protocol;
        protocol.link_mbps = link_mbps.or(protocol.link_mbps);
        protocol.unsched_bytes = unsched_bytes.or(protocol.unsched_bytes);
        set(&mut protocol.pacing, pacing);
        set(&mut protocol.num_priorities, num_priorities);
        set(&mut protocol.max_incoming, max_incoming);
        set(&mut protocol.pool_bytes, pool_bytes);
        set(&mut protocol.send_bytes, send_bytes);
    }

    /// Puts what `other` has in the place of what this has.
    pub fn put(&mut self, other: Self) {
        macro_rules! put {
            ($($key:ident),* $(,)?) => {{
                let Self { $($key),* } = other;
                $(self.$key = $key.or(self.$key.take());)*
            }};
        }
        put!(
            mtu,
            link_mbps,
            pacing,
            num_priorities,
            unsched_bytes,
            max_incoming,
            pool_bytes,
            send_bytes,
            recv_buffer_bytes,
            bulk_port,
            busy_poll,
            linger,
            shards,
            kernel_region_bytes,
            capture,
        );
    }
}
