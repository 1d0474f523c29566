//! Statements 11 to 22: offsets and segmentation.

use std::ops::Range;

use bytes::Bytes;
use homa_client::engine::wire::{Carrier, Data, Kind, Packet, Resend};
use homa_client::engine::{DropReason, Event};

use crate::fixture::*;

#[test]
fn e011_a_segment_offset_of_all_ones_means_the_sequence() {
    let kernel = |offset, len| Data {
        segment_offset: u32::MAX,
        ..data(offset, len)
    };
    let client = Remote::client(2);
    let mut host = Host::new(Carrier::Ip);
    for offset in [1400, 0] {
        let payload = pattern(offset..offset + 1400);
        let packet = Packet::Data(kernel(offset, 2800));
        assert_eq!(
            host.hear_bytes(client.addr, client.emit(&packet, &payload)),
            None
        );
    }
    let Some(Event::Request { message, .. }) = host.event() else {
        panic!()
    };
    check_message(message, 2800);
    // Senders over UDP have no segmentation hardware that would leave it to be filled in.
    let mut host = Host::new(Carrier::Udp);
    let packet = client.emit(&Packet::Data(kernel(0, 1)), &[0]);
    assert_eq!(
        host.hear_bytes(client.addr, packet),
        Some(DropReason::Offset)
    );
}

#[test]
fn e012_any_other_segment_offset_counts_whatever_the_sequence_says() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let client = Remote::client(2);
        for (start, sequence) in [(0, 999_999), (1000, 0)] {
            let data = Data {
                sequence,
                ..data(start, 2000)
            };
            assert_eq!(host.hear_data(&client, data, 1000), None);
        }
        let Some(Event::Request { message, .. }) = host.event() else {
            panic!()
        };
        check_message(message, 2000);
    });
}

#[test]
fn e013_both_offset_fields_are_sent_with_the_true_offset() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let (server, mut sent) = host.call(100_000);
        host.hear(&server, Packet::Grant(grant(100_000)));
        sent.extend(host.sent());
        host.hear(&server, Packet::Resend(resend(0, Resend::ALL)));
        sent.extend(host.sent());
        let mut retransmitted = 0;
        for packet in only(&sent, Kind::Data) {
            let data = packet.data();
            assert_eq!(data.sequence, data.segment_offset);
            let range = packet.range();
            assert_eq!(packet.bytes[56..], pattern(range));
            retransmitted += u32::from(data.retransmit);
        }
        assert_eq!(retransmitted, sent.len() as u32 / 2);
    });
}

/// Hands over the pieces of one request, in this order; it must then be complete.
fn assemble(carrier: Carrier, length: u32, pieces: impl Iterator<Item = Range<u32>>) {
    let mut host = Host::new(carrier);
    let client = Remote::client(2);
    for piece in pieces {
        let len = piece.len() as u32;
        assert_eq!(
            host.hear_data(&client, data(piece.start, length), len),
            None
        );
    }
    let Some(Event::Request { message, .. }) = host.event() else {
        panic!()
    };
    check_message(message, length);
}

#[test]
fn e014_packets_of_any_size_in_any_order_make_the_message() {
    both(|carrier| {
        assemble(carrier, 3000, (0..3000).rev().map(|at| at..at + 1));
        assemble(carrier, 50_000, [40_000..50_000, 0..40_000].into_iter());
        let packets =
            (0..100_000u32.div_ceil(1424)).map(|n| n * 1424..(n * 1424 + 1424).min(100_000));
        // Every third first, then the rest backwards.
        let (third, rest): (Vec<_>, Vec<_>) = packets.partition(|range| range.start % 3 == 0);
        assemble(
            carrier,
            100_000,
            third.into_iter().chain(rest.into_iter().rev()),
        );
        let mixed = [7..8, 3000..9000, 0..7, 9000..9001, 8..3000, 9001..10_000];
        assemble(carrier, 10_000, mixed.into_iter());
    });
}

#[test]
fn e015_data_beyond_its_message_is_dropped_and_the_message_stays_whole() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let client = Remote::client(2);
        host.hear_range(&client, 5000, 0..1400);
        // The last is what a virtual device hands over unsegmented: 5,000 bytes of payload with
        // headers of four bytes between them.
        for (offset, len) in [
            (5000, 0),
            (5001, 1),
            (4999, 2),
            (u32::MAX - 1, 1),
            (0, 5012),
        ] {
            let dropped = host.hear_data(&client, data(offset, 5000), len);
            assert_eq!(dropped, Some(DropReason::Offset), "{offset} {len}");
        }
        host.hear_range(&client, 5000, 1400..5000);
        let Some(Event::Request { message, .. }) = host.event() else {
            panic!()
        };
        check_message(message, 5000);
    });
}

#[test]
fn e016_a_message_over_the_limit_makes_no_rpc() {
    both(|carrier| {
        for limit in [50_000, 1_000_000] {
            let mut host = Host::with(carrier, |settings| settings.max_message_bytes = limit);
            let over = limit as u32 + 1;
            for length in [over, 1 << 31, u32::MAX] {
                let dropped = host.hear_data(&Remote::client(2), data(0, length), 1000);
                assert_eq!(dropped, Some(DropReason::Length));
            }
            assert_eq!(host.live(), 0);
            assert_eq!(
                host.hear_data(&Remote::client(2), data(0, over - 1), 1000),
                None
            );
        }
    });
}

#[test]
fn e017_a_message_of_no_bytes_is_invalid() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        for len in [0, 1, 1000] {
            let empty = Data::new(0, 0);
            assert_eq!(
                host.hear_data(&Remote::client(2), empty, len),
                Some(DropReason::Length)
            );
        }
        assert_eq!(host.live(), 0);
    });
}

#[test]
fn e018_duplicates_change_nothing() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let client = Remote::client(2);
        host.hear_range(&client, 4200, 0..2800);
        for start in [0, 1400, 0] {
            let dropped = host.hear_data(&client, data(start, 4200), 1400);
            assert_eq!(dropped, Some(DropReason::Duplicate));
        }
        assert_eq!(host.incoming(&client), Some([4200, 2800, 4200]));
        host.hear_range(&client, 4200, 2800..4200);
        assert!(matches!(host.event(), Some(Event::Request { .. })));
        for start in [0, 1400, 2800] {
            host.hear_data(&client, data(start, 4200), 1400);
        }
        assert!(host.event().is_none());
    });
}

#[test]
fn e019_retransmissions_use_the_cuts_of_the_first_transmission() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let (server, mut first) = host.call(100_000);
        host.hear(&server, Packet::Grant(grant(100_000)));
        first.extend(host.sent());
        let cuts: Vec<_> = only(&first, Kind::Data).iter().map(Sent::range).collect();
        for (offset, length) in [
            (1, 1),
            (1500, 3000),
            (39_999, 2),
            (99_999, 1),
            (0, Resend::ALL),
        ] {
            host.wait(ms(2));
            host.hear(&server, Packet::Resend(resend(offset, length)));
            let end = offset.saturating_add(length);
            let wanted = cuts
                .iter()
                .filter(|cut| cut.start < end && cut.end > offset);
            let again: Vec<_> = only(&host.sent(), Kind::Data)
                .iter()
                .map(Sent::range)
                .collect();
            assert_eq!(again, wanted.cloned().collect::<Vec<_>>());
        }
    });
}

#[test]
fn e020_of_overlapping_bytes_the_first_win() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let client = Remote::client(2);
        host.hear_data(&client, data(1000, 3000), 1000);
        // Begins in the middle of what is there, and disagrees about that.
        let mut payload = pattern(1500..2200).to_vec();
        payload[..500].fill(0xdd);
        let bytes = client.emit(&Packet::Data(data(1500, 3000)), &payload);
        assert_eq!(host.hear_bytes(client.addr, bytes), None);
        assert_eq!(host.incoming(&client), Some([3000, 1200, 3000]));
        // Reaches over both ends of it.
        let mut payload = pattern(500..2500).to_vec();
        payload[500..1700].fill(0xee);
        let bytes = client.emit(&Packet::Data(data(500, 3000)), &payload);
        assert_eq!(host.hear_bytes(client.addr, bytes), None);
        assert_eq!(host.incoming(&client), Some([3000, 2000, 3000]));
        host.hear_data(&client, data(0, 3000), 600);
        host.hear_data(&client, data(2400, 3000), 600);
        let Some(Event::Request { message, .. }) = host.event() else {
            panic!()
        };
        check_message(message, 3000);
    });
}

#[test]
fn e021_an_empty_packet_announces_a_message() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let client = Remote::client(2);
        let announced = Data {
            incoming: 1400,
            ..data(0, 100_000)
        };
        assert_eq!(host.hear_data(&client, announced, 0), None);
        assert_eq!(host.incoming(&client), Some([100_000, 0, 1400]));
        assert!(grants(&host.sent())[0] > 1400);
    });
}

#[test]
fn e022_retransmissions_are_marked_and_nothing_else() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let (server, sent) = host.call(40_000);
        assert!(sent.iter().all(|sent| !sent.data().retransmit));
        host.hear(&server, Packet::Resend(resend(0, Resend::ALL)));
        let again = only(&host.sent(), Kind::Data);
        assert_eq!(again.len(), sent.len());
        for (first, second) in sent.iter().zip(again) {
            assert!(second.data().retransmit);
            let payload = |sent: &Sent| Bytes::copy_from_slice(&sent.bytes[56..]);
            assert_eq!(payload(first), payload(&second));
        }
    });
}
