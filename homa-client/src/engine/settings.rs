//! What can be set on an engine.

use std::time::Duration;

use super::proof::ProveAddresses;
use super::wire::Carrier;
use crate::ConfigError;

/// Settings of an engine. [`Settings::default`] is what the UDP carrier uses, and
/// [`Settings::for_carrier`] has those of IP protocol 146.
///
/// The numbers are those of HomaModule where it has them (`homa-protocol` C.13); each field says
/// where we differ.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Settings {
    /// What carries the packets. Default UDP. With IP protocol 146 `timers` should be
    /// [`Timers::IP`], since a kernel gives up on silent peers much sooner.
    pub carrier: Carrier,
    /// Longest message, in bytes, that is sent or accepted. Default 1,000,000, the protocol's
    /// limit; 1 to 32,000,000, but never more than 1,000,000 on IP protocol 146. More than the peers' limit makes them drop such messages.
    pub max_message_bytes: usize,
    /// Bytes of a message that are sent without waiting for a grant. Default 40,000; 1 to
    /// `max_message_bytes`. More saves a round trip for longer messages, and lets more senders
    /// overflow a receiver's socket buffer at once.
    pub unsched_bytes: usize,
    /// Incast control: unscheduled bytes in flight to one peer, in multiples of `unsched_bytes`;
    /// a message that would exceed it sends one packet and waits for grants (SIGCOMM'18, section
    /// 3.6). Default 2; 1 to 1,000; 0: no limit, like HomaModule.
    pub unsched_windows: usize,
    /// Payload bytes per packet. Default 1,416: a 1,500 byte IPv4 packet; 64 to 65,000.
    pub packet_payload: usize,
    /// Bytes that all senders together may be granted ahead of what has arrived. Default
    /// 131,072; at least two packets. More makes single long messages faster, and lets short ones
    /// wait longer for the processor that the long ones keep busy.
    pub max_incoming: usize,
    /// Messages that are granted to at the same time. Default 8; 1 to 8.
    pub max_overcommit: usize,
    /// Priority levels in use. Default 8; 1 to 8.
    pub num_priorities: u8,
    /// The IP TOS byte of each priority level. Default level × 32 (DSCP CS0 to CS7); all zero
    /// switches marking off.
    pub tos: [u8; 8],
    /// Speed of the uplink in Mbit/s, by which packets are paced. Default `None`: not paced.
    pub link_mbps: Option<u32>,
    /// How much the pacer lets pile up in front of the link. Default 5 µs of the link's time, or
    /// one packet if that is more.
    pub max_backlog: Duration,
    /// Bytes of incoming messages held at once, incomplete and not yet dropped by the
    /// application. Default 64 MiB; at least four messages. A sixteenth is kept for messages of
    /// one packet. When it is full, DATA is dropped and asked for again later.
    pub pool_bytes: usize,
    /// Bytes of outgoing messages held at once: not yet sent, or sent and not yet acknowledged.
    /// Default 256 MiB; at least one message. When it is reached, replies that nobody has
    /// acknowledged for longest are given up; if that is not enough, messages are refused as busy.
    pub send_bytes: usize,
    /// RPCs in the table, both roles. Default 65,536; 1 to 1,048,576.
    pub max_rpcs: usize,
    /// RPCs in the table of one peer. Default 16,384; 1 to `max_rpcs`.
    pub max_rpcs_per_peer: usize,
    /// Peers in the table. Default 65,536; 1 to 1,048,576.
    pub max_peers: usize,
    /// Bytes that the main socket's buffer holds, by which a client with many RPCs outstanding
    /// limits the unscheduled part of their responses. Default 4 MiB.
    pub main_buffer_bytes: usize,
    /// UDP port of the endpoint's second socket, to which scheduled DATA is directed. Default
    /// `None`: everything comes to the main socket.
    pub bulk_port: Option<u16>,
    /// Which peers must prove that they receive at their address before a server sends them more
    /// than three times what they sent. Default: those outside of private networks.
    pub prove_addresses: ProveAddresses,
    /// Intervals of the silence timers.
    pub timers: Timers,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            carrier: Carrier::Udp,
            max_message_bytes: MAX_KERNEL_MESSAGE,
            unsched_bytes: 40_000,
            unsched_windows: 2,
            packet_payload: 1416,
            max_incoming: 128 * 1024,
            max_overcommit: 8,
            num_priorities: 8,
            tos: [0x00, 0x20, 0x40, 0x60, 0x80, 0xa0, 0xc0, 0xe0],
            link_mbps: None,
            max_backlog: Duration::from_micros(5),
            pool_bytes: 64 << 20,
            send_bytes: 256 << 20,
            max_rpcs: 65_536,
            max_rpcs_per_peer: 16_384,
            max_peers: 65_536,
            main_buffer_bytes: 4 << 20,
            bulk_port: None,
            prove_addresses: ProveAddresses::Public,
            timers: Timers::UDP,
        }
    }
}

/// The longest message that the kernel module takes.
const MAX_KERNEL_MESSAGE: usize = 1_000_000;

impl Settings {
    /// The defaults for this carrier.
    pub fn for_carrier(carrier: Carrier) -> Self {
        Self {
            carrier,
            packet_payload: match carrier {
                Carrier::Udp => 1416,
                Carrier::Ip => 1424,
            },
            timers: match carrier {
                Carrier::Udp => Timers::UDP,
                Carrier::Ip => Timers::IP,
            },
            ..Self::default()
        }
    }

    /// Whether every value is within its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        fn within(
            key: &'static str,
            value: usize,
            (low, high): (usize, usize),
            range: &'static str,
        ) -> Result<(), ConfigError> {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError {
                    key,
                    value: value.to_string(),
                    range,
                })
            }
        }
        let (longest, range) = match self.carrier {
            Carrier::Udp => (32_000_000, "1 to 32000000 bytes, default 1000000"),
            Carrier::Ip => (MAX_KERNEL_MESSAGE, "1 to 1000000 bytes on IP protocol 146"),
        };
        within(
            "max_message_bytes",
            self.max_message_bytes,
            (1, longest),
            range,
        )?;
        within(
            "unsched_bytes",
            self.unsched_bytes,
            (1, self.max_message_bytes),
            "1 to max_message_bytes, default 40000",
        )?;
        within(
            "unsched_windows",
            self.unsched_windows,
            (0, 1000),
            "0 to 1000 times unsched_bytes, default 2",
        )?;
        within(
            "packet_payload",
            self.packet_payload,
            (64, 65_000),
            "64 to 65000 bytes, default 1416",
        )?;
        within(
            "max_incoming",
            self.max_incoming,
            (2 * self.packet_payload, 1 << 30),
            "two packets to 1 GiB, default 131072 bytes",
        )?;
        within(
            "max_overcommit",
            self.max_overcommit,
            (1, 8),
            "1 to 8 messages, default 8",
        )?;
        within(
            "num_priorities",
            usize::from(self.num_priorities),
            (1, 8),
            "1 to 8 levels, default 8",
        )?;
        within(
            "link_mbps",
            self.link_mbps.map_or(1, |mbps| mbps as usize),
            (1, 10_000_000),
            "1 to 10000000 Mbit/s, default off",
        )?;
        let message = self.max_message_bytes;
        within(
            "pool_bytes",
            self.pool_bytes,
            (message * 4, usize::MAX),
            "at least four messages, default 64 MiB",
        )?;
        within(
            "send_bytes",
            self.send_bytes,
            (message, usize::MAX),
            "at least one message, default 256 MiB",
        )?;
        within(
            "max_rpcs",
            self.max_rpcs,
            (1, 1 << 20),
            "1 to 1048576, default 65536",
        )?;
        within(
            "max_rpcs_per_peer",
            self.max_rpcs_per_peer,
            (1, self.max_rpcs),
            "1 to max_rpcs, default 16384",
        )?;
        within(
            "max_peers",
            self.max_peers,
            (1, 1 << 20),
            "1 to 1048576, default 65536",
        )
    }
}

/// Intervals of the timers that watch for silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Timers {
    /// Silence before the first RESEND, and between unanswered ones.
    pub resend: Duration,
    /// Silence after which an RPC fails.
    pub timeout: Duration,
    /// From the last byte of a response to the first NEED_ACK; the interval doubles from there.
    pub need_ack: Duration,
    /// Longest interval between NEED_ACKs, and the wait of a partly sent response.
    pub need_ack_max: Duration,
    /// Silence after which a server gives up on a client that does not acknowledge.
    pub give_up: Duration,
    /// How long a finished RPC's id is remembered, so that a late packet cannot run it again.
    pub remember: Duration,
}

impl Timers {
    /// Over UDP. User space wakes late: 1 ms sleeps beside busy threads were late by up to
    /// 52 ms, so the intervals are longer than the kernel's.
    pub const UDP: Self = Self {
        resend: Duration::from_millis(10),
        timeout: Duration::from_secs(1),
        need_ack: Duration::from_millis(20),
        need_ack_max: Duration::from_secs(1),
        give_up: Duration::from_secs(10),
        remember: Duration::from_secs(10),
    };

    /// On IP protocol 146: those of HomaModule (`homa-protocol` C.13, statements 51, 64 and 76),
    /// but NEED_ACK backs off and ends.
    pub const IP: Self = Self {
        resend: Duration::from_millis(5),
        timeout: Duration::from_millis(100),
        need_ack: Duration::from_millis(2),
        need_ack_max: Duration::from_millis(100),
        give_up: Duration::from_secs(10),
        remember: Duration::from_secs(1),
    };
}
