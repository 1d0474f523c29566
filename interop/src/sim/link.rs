//! What a packet takes on its way in SIGCOMM'18's simulation: bytes on links, and fixed delays.
//!
//! Source: `dcntopo/DcnTopo.ned` and `homaTransportConfig.ini` of PlatformLab/HomaSimulation,
//! commit `ab09ecb`.

use super::time::Span;

/// From a message's start to the host's link: half a microsecond of software, and another of its
/// network interface.
pub(crate) const HOST_OUT: Span = Span::from_nanos(1000);

/// From the link to the end of the receiver's software.
pub(crate) const HOST_IN: Span = Span::from_nanos(500);

/// On the way out of each switch.
pub(crate) const SWITCH_OUT: Span = Span::from_nanos(250);

/// Bytes that Ethernet adds to an IP packet: header 14, checksum 4, preamble 8, gap 12.
pub(crate) const ETHERNET: u32 = 38;

/// Headers of IP and UDP.
pub(crate) const IP_UDP: u32 = 28;

/// The shortest frame, preamble and gap included. A grant is one.
pub(crate) const SHORTEST: u32 = 84;

/// Most bytes in an IP packet.
pub(crate) const MTU: u32 = 1500;

/// Homa's header of unscheduled data. 1442 bytes of a message are left in a full packet.
pub(crate) const UNSCHEDULED_HEADER: u32 = 30;

/// Homa's header of scheduled data. 1456 bytes of a message are left in a full packet.
pub(crate) const SCHEDULED_HEADER: u32 = 16;

/// What headers leave for payload in the longest packet.
pub(crate) const UNSCHEDULED_PAYLOAD: u32 = MTU - IP_UDP - UNSCHEDULED_HEADER;
pub(crate) const SCHEDULED_PAYLOAD: u32 = MTU - IP_UDP - SCHEDULED_HEADER;

/// Bytes of a message that are sent without waiting for grants: seven packets, which occupy the
/// 10,000 bytes that a link of 10 Gbit/s carries in the 7.7 µs from a packet to its grant
/// (`homaTransportConfig.ini`).
pub(crate) const UNSCHEDULED_BYTES: u32 = 9328;

/// What a UDP datagram of so many bytes occupies on a link.
pub(crate) const fn occupied(datagram: u32) -> u32 {
    let frame = datagram + IP_UDP + ETHERNET;
    if frame < SHORTEST { SHORTEST } else { frame }
}

/// What a message occupies on links in SIGCOMM'18's simulation: its packets, and a grant for each
/// that is scheduled.
pub(crate) fn occupied_by_message(bytes: u32) -> u64 {
    let unscheduled = bytes.min(UNSCHEDULED_BYTES);
    let (data, _) = packets(unscheduled, UNSCHEDULED_HEADER);
    let (scheduled, grants) = packets(bytes - unscheduled, SCHEDULED_HEADER);
    data + scheduled + grants * u64::from(SHORTEST)
}

/// What a message occupies on links if all its packets are unscheduled.
pub(crate) fn occupied_by_unscheduled(bytes: u32) -> u64 {
    packets(bytes, UNSCHEDULED_HEADER).0
}

/// What so many bytes of a message occupy in packets with this header, and how many packets.
fn packets(bytes: u32, header: u32) -> (u64, u64) {
    let full_payload = MTU - IP_UDP - header;
    let full = u64::from(bytes / full_payload);
    let occupied_by_full = full * u64::from(MTU + ETHERNET);
    match bytes % full_payload {
        0 => (occupied_by_full, full),
        rest => (
            occupied_by_full + u64::from(occupied(rest + header)),
            full + 1,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_occupy_what_their_packets_do() {
        // One byte with headers: 1 + 30 + 28 + 38.
        assert_eq!(occupied_by_message(1), 97);
        assert_eq!(occupied_by_message(1442), 1538);
        assert_eq!(occupied_by_message(1443), 1538 + 97);
        // A round trip of them is 10,000 bytes.
        assert_eq!(occupied_by_message(UNSCHEDULED_BYTES), 10_000);
        assert_eq!(
            occupied_by_message(UNSCHEDULED_BYTES + 1456),
            10_000 + 1538 + 84
        );
        assert_eq!(occupied_by_message(UNSCHEDULED_BYTES + 1), 10_000 + 84 + 84);
    }
}
