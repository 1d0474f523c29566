//! [`Faults`]: a bad network, for tests.

use std::time::Duration;

use crate::ConfigError;

/// What happens to the packets that an endpoint sends, before its link sees them. For tests: a
/// good network has none of it.
///
/// Every packet is judged by itself, also those that leave together in one system call. Rates
/// are in parts per million of the packets, 0 to 1,000,000, default 0: 50,000 is 5 %. The fates
/// are drawn in the order of the fields below. For faults both ways set them on both endpoints.
///
/// ```
/// use homa_client::{Config, Faults};
///
/// let mut faults = Faults::default();
/// faults.loss_ppm = 50_000;
/// faults.reorder_ppm = 10_000;
/// let mut config = Config::default();
/// config.faults = Some(faults);
/// config.check()?;
/// # Ok::<(), homa_client::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Faults {
    /// Seed of the fates. Default 1. The same packets in the same order meet the same fates.
    pub seed: u64,
    /// Packets that disappear.
    pub loss_ppm: u32,
    /// Packets in which one to eight bits are flipped. UDP's checksum is computed afterwards, so
    /// the receiver sees them: what can be told from a good packet only by a checksum is
    /// delivered, wrong bytes of messages included. This tests parsers, not integrity.
    pub corrupt_ppm: u32,
    /// Whether only Homa headers are damaged. Default false: any byte of the packet. A damaged
    /// header can still put the right bytes into the wrong place.
    pub corrupt_headers_only: bool,
    /// Packets that arrive twice.
    pub duplicate_ppm: u32,
    /// Packets that one to eight later ones overtake; after 1 ms without those they leave all the
    /// same.
    pub reorder_ppm: u32,
    /// Packets that wait for a random time of up to `delay`. At most 4,096 wait at a time;
    /// more are not delayed.
    pub delay_ppm: u32,
    /// The longest delay. Default 1 ms, at most 10 s.
    pub delay: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            seed: 1,
            loss_ppm: 0,
            corrupt_ppm: 0,
            corrupt_headers_only: false,
            duplicate_ppm: 0,
            reorder_ppm: 0,
            delay_ppm: 0,
            delay: Duration::from_millis(1),
        }
    }
}

/// All packets.
pub(crate) const MILLION: u32 = 1_000_000;

const MAX_DELAY: Duration = Duration::from_secs(10);

impl Faults {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        for (key, value) in [
            ("faults.loss_ppm", self.loss_ppm),
            ("faults.corrupt_ppm", self.corrupt_ppm),
            ("faults.duplicate_ppm", self.duplicate_ppm),
            ("faults.reorder_ppm", self.reorder_ppm),
            ("faults.delay_ppm", self.delay_ppm),
        ] {
            if value > MILLION {
                return Err(ConfigError {
                    key,
                    value: value.to_string(),
                    range: "0 to 1000000 parts per million, default 0",
                });
            }
        }
        if self.delay > MAX_DELAY {
            return Err(ConfigError {
                key: "faults.delay",
                value: format!("{:?}", self.delay),
                range: "0 to 10 s, default 1 ms",
            });
        }
        Ok(())
    }
}
