//! [`Ideal`]: how long a message takes in an empty network, by SIGCOMM'18's own formula.
//!
//! The formula is `idealMsgEndToEndDelay` in `WorkloadSynthesizer.cc` of PlatformLab/HomaSimulation
//! (commit `ab09ecb`), and slowdown is the time that a message took by this one. Two of its quirks
//! are kept, since the published slowdowns have them:
//!
//! * It knows nothing of Homa's header: full packets carry 1472 bytes of a message, where Homa's
//!   carry 1442 or 1456. So a message alone in the network already has a slowdown above 1: 1.01 for
//!   one of a single packet between racks.
//! * Within a rack it leaves out the 0.25 µs of the switch, by a slip of the pen (`=+` where `+=`
//!   was meant): the shortest message is due after 1.63 µs there, and takes at least 1.88.

use super::link::{ETHERNET, HOST_IN, HOST_OUT, IP_UDP, MTU, SWITCH_OUT, occupied};
use super::node::HostId;
use super::setup::{Mode, Topology};
use super::time::Span;

/// Bytes of a message in a full packet without Homa's header.
const FULL_PAYLOAD: u32 = MTU - IP_UDP;

/// Ideal completion times in one network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ideal {
    hosts_per_rack: u32,
    host_picos_per_byte: f64,
    spine_picos_per_byte: f64,
    mode: Mode,
}

impl Ideal {
    /// Speeds have to be above 0.
    pub(crate) fn new(topology: &Topology, mode: Mode) -> Self {
        Self {
            hosts_per_rack: topology.hosts_per_rack,
            host_picos_per_byte: 8000.0 / topology.host_gbps,
            spine_picos_per_byte: 8000.0 / topology.spine_gbps,
            mode,
        }
    }

    /// How long a message of so many bytes takes from one host to another; in echo mode, how long
    /// it and a response of the same length do.
    pub(crate) fn time(&self, from: HostId, to: HostId, bytes: u32) -> Span {
        let one_way = self.one_way(
            from / self.hosts_per_rack == to / self.hosts_per_rack,
            bytes,
        );
        match self.mode {
            Mode::OneWay => one_way,
            Mode::Echo => one_way + one_way,
        }
    }

    fn one_way(&self, same_rack: bool, bytes: u32) -> Span {
        let full = bytes / FULL_PAYLOAD;
        let rest = bytes % FULL_PAYLOAD;
        let last = if rest > 0 || full == 0 {
            occupied(rest)
        } else {
            0
        };
        let all = u64::from(full) * u64::from(MTU + ETHERNET) + u64::from(last);
        // Switches store the first frame before they forward it.
        let first = f64::from(if full > 0 { MTU + ETHERNET } else { last });
        let hosts = HOST_OUT + HOST_IN;
        let on_host_links = (all as f64 + first) * self.host_picos_per_byte;
        if same_rack {
            return hosts + Span::from_picos(on_host_links.round() as u64);
        }
        let on_spine_links = 2.0 * first * self.spine_picos_per_byte;
        let switches = SWITCH_OUT + SWITCH_OUT + SWITCH_OUT;
        hosts + switches + Span::from_picos((on_host_links + on_spine_links).round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(span: Span) -> f64 {
        span.as_secs_f64() * 1e6
    }

    #[test]
    fn the_shortest_messages_take_what_the_paper_says() {
        let ideal = Ideal::new(&Topology::default(), Mode::OneWay);
        // 2 x 67.2 ns at 10 Gbit/s, 2 x 16.8 at 40, and 2.25 us.
        assert_eq!(ideal.time(0, 143, 1), Span::from_picos(2_418_000));
        // The true one has another 0.25 us.
        assert_eq!(ideal.time(0, 15, 1), Span::from_picos(1_634_400));
        let mean =
            (128.0 * micros(ideal.time(0, 16, 1)) + 15.0 * micros(ideal.time(0, 1, 1))) / 143.0;
        assert!((mean - 2.336).abs() < 0.001, "{mean}");
        // The shortest frame holds 18 bytes.
        assert_eq!(ideal.time(0, 16, 18), ideal.time(0, 16, 1));
        assert!(ideal.time(0, 16, 19) > ideal.time(0, 16, 18));
    }

    #[test]
    fn long_messages_take_the_time_of_their_bytes() {
        let ideal = Ideal::new(&Topology::default(), Mode::OneWay);
        // A full frame takes 1230.4 ns at 10 Gbit/s, 307.6 at 40; the last one is not full.
        let full = 1_230_400;
        assert_eq!(
            ideal.time(20, 1, 1472),
            Span::from_picos(2 * full + 2 * 307_600 + 2_250_000)
        );
        assert_eq!(
            ideal.time(20, 1, 2 * 1472 + 1),
            Span::from_picos(3 * full + 67_200 + 2 * 307_600 + 2_250_000)
        );
        // A message's last, partial frame is not the one that is stored on the way.
        assert_eq!(
            ideal.time(20, 16, 1472 + 100),
            Span::from_picos(2 * full + 132_800 + 1_500_000)
        );
    }

    #[test]
    fn speeds_and_the_way_back_count() {
        let fast = Topology {
            host_gbps: 100.0,
            spine_gbps: 400.0,
            ..Topology::default()
        };
        let ideal = Ideal::new(&fast, Mode::OneWay);
        assert_eq!(
            ideal.time(0, 16, 1472),
            Span::from_picos(2 * 123_040 + 2 * 30_760 + 2_250_000)
        );
        let echo = Ideal::new(&fast, Mode::Echo);
        assert_eq!(
            echo.time(0, 16, 1472).as_picos(),
            2 * ideal.time(0, 16, 1472).as_picos()
        );
    }
}
