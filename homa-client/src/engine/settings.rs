//! What can be set on an engine.

use std::net::IpAddr;
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
    /// Bytes of a message that are sent without waiting for a grant ("RTTbytes"), 1 to
    /// `max_message_bytes`. Default `None`: self-tuned to what the link carries between the first
    /// packet of a message and its first GRANT, the minimum of 10 s, from two packets to 60,000
    /// bytes; 40,000 (HEAD's value) where the link's speed is unknown. More saves a round trip for
    /// longer messages, and lets more senders overflow a receiver's socket buffer at once.
    pub unsched_bytes: Option<usize>,
    /// Incast control: unscheduled bytes in flight to one peer, in multiples of `unsched_bytes`;
    /// a message that would exceed it sends one packet and waits for grants (SIGCOMM'18, section
    /// 3.6). Default 2; 1 to 1,000; 0: no limit, like HomaModule.
    pub unsched_windows: usize,
    /// Payload bytes per packet. Default 1,416: a 1,500 byte IPv4 packet; 64 to 65,000.
    pub packet_payload: usize,
    /// Payload bytes per packet beyond the unscheduled part of a message. Default `None`:
    /// `packet_payload`; 64 to 65,000. SIGCOMM'18's simulation has longer headers in unscheduled
    /// packets, so that these carry 1,442 bytes and scheduled ones 1,456.
    pub scheduled_payload: Option<usize>,
    /// What holds for peers with a loopback address. Default `None`: the same as for others.
    pub loopback: Option<Loopback>,
    /// Bytes that all senders together may be granted ahead of what has arrived. Default
    /// 131,072, and by the socket drivers four times that on loopback; at least two packets. More
    /// makes single long messages faster, and lets short ones
    /// wait longer for the processor that the long ones keep busy.
    pub max_incoming: usize,
    /// Messages that are granted to at the same time, of distinct peers as far as there are.
    /// Default 8; 1 to 8. More keep the downlink busy when senders do not answer grants, and
    /// build longer queues when they do.
    pub max_overcommit: usize,
    /// Bytes that one message may be granted ahead of what has arrived. Default `None`:
    /// `max_incoming` / (active messages + 1), as HEAD does it, but half of `max_incoming` where
    /// all are of one peer: they share its link, where the shortest is best sent in one go. Else
    /// one packet to `max_incoming`. A fixed window of RTTbytes is what SIGCOMM'18 describes.
    pub grant_window: Option<usize>,
    /// Least bytes worth a GRANT; the end of a message, and a whole window, are always worth one.
    /// Default `None`: half a window, so that packets leave and arrive in batches worth a system
    /// call. 1 grants whatever has become free, however little, as HEAD does. 1 to `max_incoming`.
    pub min_grant: Option<usize>,
    /// Share of bandwidth that goes to the oldest message instead of the shortest, when granting
    /// and when sending, in per mille. Default 50 (5 %); 0 to 500, 0 switches it off. It keeps
    /// long messages from starving under endless shorter ones, at the price of the latter. Messages
    /// with less than 1,000 bytes left are sent before the oldest all the same.
    pub fifo_fraction: u16,
    /// Bytes that the oldest message is granted at a time, beyond window and `max_incoming`.
    /// Default `None`: an eighth of `max_incoming`, which is the kernel's ratio. One packet to
    /// `max_incoming`. Never more than `max_incoming` and one such increment are outstanding, so
    /// half of the socket's buffer beside `max_incoming` is room enough for it.
    pub fifo_increment: Option<usize>,
    /// Whether the last RTTbytes of a long message leave at the unscheduled level that a message
    /// of that length would have, if that is higher than the granted one (SIGCOMM'18's
    /// simulation). Default true, unlike HEAD: in the simulator the longest tenth of W3's messages
    /// have a 99th percentile 4 % lower, and the others are as fast.
    pub boost_tail: bool,
    /// Whether the level of unscheduled packets follows from what remains of their message when
    /// they leave, as in SIGCOMM'18's simulation, instead of its length. Default false, like HEAD:
    /// in the simulator it makes no difference of 1 %, and packets of one message that differ in
    /// level need a system call each.
    pub unsched_by_remaining: bool,
    /// Priority levels in use. Default 8; 1 to 8.
    pub num_priorities: u8,
    /// How messages are spread over the unscheduled levels by their length; announced to peers.
    /// Default [`UnschedCutoffs::Learned`].
    pub unsched_cutoffs: UnschedCutoffs,
    /// How many levels, from the lowest, are for scheduled packets. Default `None`: in proportion
    /// to bytes. 1 to `num_priorities` - 1. Does not count with [`UnschedCutoffs::Fixed`], where
    /// the table tells.
    pub scheduled_levels: Option<u8>,
    /// The IP TOS byte of each priority level. Default level × 32 (DSCP CS0 to CS7); all zero
    /// switches marking off.
    pub tos: [u8; 8],
    /// Speed of the uplink in Mbit/s, 1 to 10,000,000. Default `None`: what the driver tells by
    /// [`Engine::set_link`](super::Engine::set_link), or unknown. Where it is known, packets are
    /// paced by it; several endpoints on one link pace each for themselves. A speed that is set
    /// here holds for all packets. The driver's does not hold for an endpoint, or one of its
    /// shards, in the second after it has sent something to its own host: such packets pass no
    /// device. An endpoint knows the addresses that its host had when it was opened.
    pub link_mbps: Option<u32>,
    /// Whether packets are paced where the link's speed is known. Default true. Without it, the
    /// queue in front of the link has no bound, and a short message may wait behind long ones.
    pub pacing: bool,
    /// Most that the pacer lets pile up in front of the link beyond one packet, in the link's
    /// time. It decides on twice the wake-up latency that it measures, at least 5 µs. Default 1 ms;
    /// 1 µs to 100 ms. More keeps the link busy on a machine that wakes late, and makes short
    /// messages wait longer.
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

/// Settings in place of those for the network. On loopback nothing queues on the way and nothing is
/// cut or put together, so that more at a time only costs less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Loopback {
    /// Payload bytes per packet, 64 to 65,000.
    pub packet_payload: usize,
    /// Bytes that a sender may be granted ahead of what has arrived from all, two packets to 1 GiB.
    pub max_incoming: usize,
    /// Bytes of a message that are sent without waiting for a grant, 1 to 1 GiB, if that is more than
    /// to others; `None`: as many as to others. Each round of grants wakes both sides, which takes longer than all the copying.
    pub unsched_bytes: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            carrier: Carrier::Udp,
            max_message_bytes: MAX_KERNEL_MESSAGE,
            unsched_bytes: None,
            unsched_windows: 2,
            packet_payload: 1416,
            scheduled_payload: None,
            loopback: None,
            max_incoming: 128 * 1024,
            max_overcommit: 8,
            grant_window: None,
            min_grant: None,
            fifo_fraction: 50,
            fifo_increment: None,
            boost_tail: true,
            unsched_by_remaining: false,
            num_priorities: 8,
            unsched_cutoffs: UnschedCutoffs::Learned,
            scheduled_levels: None,
            tos: [0x00, 0x20, 0x40, 0x60, 0x80, 0xa0, 0xc0, 0xe0],
            link_mbps: None,
            pacing: true,
            max_backlog: Duration::from_millis(1),
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

    /// What holds for a peer with this address, if it is a loopback one.
    pub(super) fn loopback_for(&self, ip: IpAddr) -> Option<Loopback> {
        self.loopback.filter(|_| ip.to_canonical().is_loopback())
    }

    /// Payload bytes of the longest packet to other peers.
    pub(super) fn longest_payload(&self) -> usize {
        let scheduled = self.scheduled_payload.unwrap_or(0);
        self.packet_payload.max(scheduled)
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
            self.unsched_bytes.unwrap_or(1),
            (1, self.max_message_bytes),
            "1 to max_message_bytes, default self-tuned",
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
            "scheduled_payload",
            self.scheduled_payload.unwrap_or(self.packet_payload),
            (64, 65_000),
            "64 to 65000 bytes, default packet_payload",
        )?;
        let packet = self.longest_payload();
        within(
            "max_incoming",
            self.max_incoming,
            (2 * packet, 1 << 30),
            "two packets to 1 GiB, default 131072 bytes",
        )?;
        if let Some(loopback) = self.loopback {
            within(
                "loopback.packet_payload",
                loopback.packet_payload,
                (64, 65_000),
                "64 to 65000 bytes",
            )?;
            within(
                "loopback.max_incoming",
                loopback.max_incoming,
                (2 * loopback.packet_payload, 1 << 30),
                "two packets to 1 GiB",
            )?;
            within(
                "loopback.unsched_bytes",
                loopback.unsched_bytes.unwrap_or(1),
                (1, 1 << 30),
                "1 byte to 1 GiB",
            )?;
        }
        within(
            "max_overcommit",
            self.max_overcommit,
            (1, 8),
            "1 to 8 messages, default 8",
        )?;
        within(
            "grant_window",
            self.grant_window.unwrap_or(self.max_incoming),
            (packet, self.max_incoming),
            "one packet to max_incoming, default max_incoming / (active messages + 1)",
        )?;
        within(
            "min_grant",
            self.min_grant.unwrap_or(1),
            (1, self.max_incoming),
            "1 to max_incoming, default half a window",
        )?;
        within(
            "fifo_fraction",
            usize::from(self.fifo_fraction),
            (0, 500),
            "0 to 500 per mille, default 50",
        )?;
        within(
            "fifo_increment",
            self.fifo_increment.unwrap_or(self.max_incoming),
            (packet, self.max_incoming),
            "one packet to max_incoming, default max_incoming / 8",
        )?;
        within(
            "num_priorities",
            usize::from(self.num_priorities),
            (1, 8),
            "1 to 8 levels, default 8",
        )?;
        within(
            "scheduled_levels",
            usize::from(self.scheduled_levels.unwrap_or(1)),
            (1, usize::from(self.num_priorities).max(2) - 1),
            "1 to num_priorities - 1, default in proportion to bytes",
        )?;
        if let UnschedCutoffs::Fixed(lengths) = &self.unsched_cutoffs
            && !lengths[1..].is_sorted_by(|low, high| low >= high)
        {
            return Err(ConfigError {
                key: "unsched_cutoffs",
                value: format!("{lengths:?}"),
                range: "lengths that do not grow from level 1 to level 7",
            });
        }
        within(
            "link_mbps",
            self.link_mbps.map_or(1, |mbps| mbps as usize),
            (1, 10_000_000),
            "1 to 10000000 Mbit/s, default what the device says",
        )?;
        let range = Duration::from_micros(1)..=Duration::from_millis(100);
        if !range.contains(&self.max_backlog) {
            return Err(ConfigError {
                key: "max_backlog",
                value: format!("{:?}", self.max_backlog),
                range: "1 µs to 100 ms, default 1 ms",
            });
        }
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

/// How an engine spreads the messages that it receives over its unscheduled priority levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UnschedCutoffs {
    /// From the sizes that arrive, at most every 500 ms and from at least 1,000 messages: each
    /// unscheduled level gets an equal share of the bytes that travel on such levels, and the
    /// levels are split between unscheduled and scheduled packets in proportion to bytes
    /// ([`Settings::scheduled_levels`]). [`Self::Default`] until then. Peers are taken to send
    /// with the same [`Settings::unsched_by_remaining`] and [`Settings::boost_tail`].
    /// [`Self::for_lengths`] computes the same table beforehand.
    #[default]
    Learned,
    /// HomaModule's defaults (`homa-protocol` C.13): 200, 2,800, 15,000 and all. With fewer than
    /// 8 levels the upper half takes as many of these, from the longest down.
    Default,
    /// The longest message of each level, in bytes; the highest level that a message fits into is
    /// its own. Must not grow from level 1 to 7; entry 0 and those beyond `num_priorities` do not
    /// count. The highest level that takes the longest message is the lowest unscheduled one, and
    /// those below it are for scheduled packets (the kernel's rule for its sysctl).
    Fixed([u32; 8]),
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
