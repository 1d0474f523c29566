//! What the engine finds out and decides by itself while it runs.

use std::time::Duration;

use super::Engine;

/// What the engine has measured, and the values that follow; for diagnosis and tests.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Tuning {
    /// Speed of the uplink in Mbit/s, as set or as the driver told; `None`: unknown.
    pub link_mbps: Option<u32>,
    /// Bytes of a message that leave without waiting for a grant (RTTbytes).
    pub unsched_bytes: usize,
    /// The shortest time from the first packet of a message to its first GRANT, of the last 10 s
    /// in which there was any; `None`: none yet.
    pub grant_delay: Option<Duration>,
    /// How late the engine is called when the link is ready for more, smoothed. Measured only
    /// where packets are paced.
    pub wake_latency: Duration,
    /// Bytes on the wire that may be handed over ahead of the link; `None`: not paced.
    pub backlog_bytes: Option<u64>,
    /// The most that ever was handed over ahead of the link at its present speed. Retransmissions
    /// and messages under 1,000 bytes are never held back, and so may exceed the backlog.
    pub peak_backlog_bytes: u64,
    /// The table of cutoffs that peers are told: per level the longest message, in bytes, whose
    /// unscheduled packets belong there. Entry 0 takes all.
    pub cutoffs: [u32; 8],
    /// Its version, never 0.
    pub cutoff_version: u16,
    /// The highest level for scheduled packets.
    pub max_scheduled_level: u8,
}

impl Engine {
    /// The device runs at `mbps` Mbit/s; `None`: unknown, as for `lo` and for virtual devices,
    /// whatever they claim. RTTbytes follow from the speed, and packets are paced by it
    /// ([`Settings::pacing`](super::Settings::pacing)). A speed in
    /// [`Settings::link_mbps`](super::Settings::link_mbps) has precedence. May be called at any
    /// time; values out of the setting's range are taken as its nearest.
    pub fn set_link(&mut self, mbps: Option<u32>) {
        let known = self.settings.link_mbps.or(mbps);
        self.link_mbps = known.map(|mbps| mbps.clamp(1, 10_000_000));
        self.rtt_bytes.set_speed(self.link_mbps);
        self.downlink.set_speed(self.link_mbps);
        self.pacer
            .set_speed(self.link_mbps.filter(|_| self.settings.pacing));
    }

    /// What the engine has found out and decided so far.
    pub fn tuning(&self) -> Tuning {
        Tuning {
            link_mbps: self.link_mbps,
            unsched_bytes: self.rtt_bytes.bytes(),
            grant_delay: self.rtt_bytes.grant_delay(),
            wake_latency: self.pacer.latency(),
            backlog_bytes: self.pacer.backlog_bytes(),
            peak_backlog_bytes: self.pacer.peak_bytes(),
            cutoffs: self.priorities.cutoffs().lengths,
            cutoff_version: self.priorities.cutoffs().version,
            max_scheduled_level: self.priorities.max_scheduled(),
        }
    }
}
