//! Statements 32 to 44: grants.

use homa_client::engine::wire::{Carrier, Data, Grant, Kind, Packet};
use homa_client::engine::{Event, Settings};

use crate::fixture::*;
use crate::net::{CLIENT, Net, SERVER};

/// End of the last byte of DATA sent.
fn end_of(sent: &[Sent]) -> u32 {
    only(sent, Kind::Data)
        .iter()
        .map(|sent| sent.range().end)
        .max()
        .unwrap_or(0)
}

#[test]
fn e032_no_byte_is_sent_beyond_the_grant_but_to_finish_a_packet() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let payload = host.engine.settings().packet_payload as u32;
        let (server, sent) = host.call(100_000);
        assert_eq!(end_of(&sent), 40_000);
        // Offsets in the middle, at the start and at the end of a packet.
        let cut = 40_000 + 10 * payload;
        for (granted, end) in [
            (40_001, 40_000 + payload),
            (cut, cut),
            (cut + 1, cut + payload),
        ] {
            host.hear(&server, Packet::Grant(grant(granted)));
            assert_eq!(end_of(&host.sent()), end);
            assert!(host.wait(ms(3)).is_empty());
        }
    });
}

#[test]
fn e033_the_unscheduled_part_is_sent_at_once_and_announced() {
    both(|carrier| {
        for len in [1, 39_999, 40_000, 40_001, 500_000] {
            let mut host = Host::new(carrier);
            let (server, mut sent) = host.call(len);
            assert_eq!(end_of(&sent), len.min(40_000));
            // Grants do not change what is announced.
            host.hear(&server, Packet::Grant(grant(len)));
            sent.extend(host.sent());
            assert_eq!(end_of(&sent), len);
            assert!(
                sent.iter()
                    .all(|sent| sent.data().incoming == len.min(40_000))
            );
        }
        let mut host = Host::new(carrier);
        let (_, sent) = host.serve(&Remote::client(2), 1, 500_000);
        assert_eq!(end_of(&sent), 40_000);
        // Differs: with that much on the way to one peer twice, a message sends one packet.
        let payload = host.engine.settings().packet_payload as u32;
        for unscheduled in [40_000, 40_000, payload, payload] {
            let (_, sent) = host.call(100_000);
            assert_eq!(end_of(&sent), unscheduled);
            assert!(sent.iter().all(|sent| sent.data().incoming == unscheduled));
        }
    });
}

#[test]
fn e034_a_grant_raises_what_may_be_sent_and_never_lowers_it() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let (server, _) = host.call(100_000);
        let mut granted = |offset| {
            host.hear(&server, Packet::Grant(grant(offset)));
            let packets = host.sent().len();
            (host.outgoing(&server).unwrap()[2], packets > 0)
        };
        assert_eq!(granted(50_000), (50_000, true));
        for offset in [0, 40_000, 49_999, 50_000] {
            assert_eq!(granted(offset), (50_000, false));
        }
        assert!((0..10_000).all(|_| granted(50_000) == (50_000, false)));
        assert_eq!(granted(u32::MAX), (100_000, true));
    });
}

#[test]
fn e035_a_grant_for_what_is_not_being_sent_is_ignored() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        // To a server: unknown, still arriving, being served.
        let client = Remote::client(2);
        for part in [None, Some(0..1400), Some(1400..2800)] {
            if let Some(part) = part {
                host.hear_range(&client, 2800, part);
            }
            host.sent();
            assert!(host.hear(&client, Packet::Grant(grant(100_000))).is_some());
            assert!(host.sent().is_empty());
        }
        // To a client: its response is arriving; and nothing is known of it any more.
        let (server, _) = host.call(100_000);
        host.hear_range(&server, 2800, 0..1400);
        host.sent();
        assert!(host.hear(&server, Packet::Grant(grant(100_000))).is_some());
        assert!(host.sent().is_empty());
        host.hear_range(&server, 2800, 1400..2800);
        assert!(host.hear(&server, Packet::Grant(grant(100_000))).is_some());
        assert_eq!(end_of(&host.sent()), 0);
    });
}

#[test]
fn e036_the_latest_grant_sets_the_level_of_scheduled_packets() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let (server, _) = host.call(200_000);
        // An offset that was granted already changes the level as well; 8 and above mean 7.
        let mut level = |offset, priority| {
            host.hear(
                &server,
                Packet::Grant(Grant {
                    priority,
                    ..grant(offset)
                }),
            );
            let sent = host.sent();
            sent.first().map(|sent| sent.tos >> 5)
        };
        assert_eq!(level(50_000, 3), Some(3));
        assert_eq!(level(60_000, 1), Some(1));
        assert_eq!(level(50_000, 5), None);
        assert_eq!(level(70_000, 2), Some(2));
        assert_eq!(level(80_000, 8), Some(7));
        assert_eq!(level(90_000, 255), Some(7));
    });
}

#[test]
fn e037_the_first_packet_to_arrive_says_what_was_granted() {
    both(|carrier| {
        let first = |offset, incoming, retransmit| Data {
            incoming,
            retransmit,
            ..Data::new(offset, 60_000)
        };
        for (offset, incoming, granted) in [
            (0, 40_000, 40_000),
            (59_000, 40_000, 40_000),
            (14_000, 15_400, 15_400),
            (0, u32::MAX, 60_000),
        ] {
            let mut host = Host::new(carrier);
            let client = Remote::client(2);
            host.hear_data(&client, first(offset, incoming, incoming == 15_400), 1);
            assert_eq!(host.incoming(&client), Some([60_000, 1, granted]));
            host.hear_data(&client, first(1000, 2000, true), 1);
            assert_eq!(host.incoming(&client), Some([60_000, 2, granted]));
        }
    });
}

#[test]
fn e038_the_whole_message_is_granted_in_the_end() {
    both(|carrier| {
        let mut net = Net::new(carrier, 38);
        net.call(1_000_000);
        let limit = net.now + ms(1000);
        let message = loop {
            if let Some(Event::Request { message, .. }) = net.event(SERVER) {
                break message;
            }
            assert!(net.step(limit));
        };
        check_message(message, 1_000_000);
        let sent = net.hosts[CLIENT].engine.counters().retransmitted;
        assert_eq!(sent, 0);
    });
}

#[test]
fn e039_a_fully_unscheduled_message_gets_no_grant() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let client = Remote::client(2);
        host.hear_range(&client, 40_000, 0..39_000);
        let sent = host.wait(ms(50));
        assert!(grants(&sent).is_empty());
        assert!(!resends(&sent).is_empty());
    });
}

/// A host to which `count` clients, each at its own address, have begun to send requests, the
/// later the shorter; it has not granted anything yet.
fn incast(carrier: Carrier, count: u8, change: fn(&mut Settings)) -> (Host, Vec<(Remote, u32)>) {
    let mut host = Host::with(carrier, change);
    let mut clients = Vec::new();
    for number in 0..count {
        let client = Remote::client(2 * u64::from(number) + 2).at(([10, 0, 1, number], 7000));
        let length = 900_000 - 50_000 * u32::from(number);
        host.hear_range(&client, length, 0..40_000);
        clients.push((client, length));
    }
    (host, clients)
}

/// The ids of the RPCs to whose senders grants leave now.
fn granted_to(host: &mut Host) -> Vec<u64> {
    let sent = only(&host.sent(), Kind::Grant);
    sent.iter().map(|sent| sent.common.sender_id ^ 1).collect()
}

#[test]
fn e040_what_may_be_under_way_is_shared_by_the_active_messages() {
    both(|carrier| {
        for count in 1..=8 {
            let (mut host, clients) = incast(carrier, count, |_| {});
            host.sent();
            let most = host.engine.settings().max_incoming;
            let window = most / (usize::from(count) + 1);
            for (client, _) in &clients {
                let [_, received, granted] = host.incoming(client).unwrap();
                assert_eq!((granted - received) as usize, window, "{count} messages");
            }
        }
        // Those that come later find less, and never more than there is.
        let mut host = Host::new(carrier);
        let most = host.engine.settings().max_incoming;
        let mut outstanding = 0;
        for number in 0..8u8 {
            let client = Remote::client(2).at(([10, 0, 1, number], 7000));
            host.hear_range(&client, 500_000, 0..40_000);
            outstanding += grants(&host.sent())
                .iter()
                .map(|end| end - 40_000)
                .sum::<u32>();
            assert!(outstanding as usize <= most, "{outstanding} of {most}");
        }
    });
}

#[test]
fn e041_eight_messages_have_grants_and_a_shorter_one_takes_the_place_of_the_longest() {
    both(|carrier| {
        let (mut host, clients) = incast(carrier, 10, |settings| settings.max_incoming = 1_800_000);
        let ids: Vec<_> = clients
            .iter()
            .map(|(client, _)| client.route.sender_id)
            .collect();
        let mut granted = granted_to(&mut host);
        granted.sort_unstable();
        assert_eq!(granted, ids[2..]);
        let short = Remote::client(900).at(([10, 0, 2, 1], 7000));
        host.hear_range(&short, 300_000, 0..40_000);
        assert_eq!(granted_to(&mut host), [900]);
        // The longest of the eight waits from now on.
        for (client, length) in &clients[2..] {
            host.hear_range(client, *length, 40_000..180_000);
        }
        let mut granted = granted_to(&mut host);
        granted.sort_unstable();
        assert_eq!(granted, ids[3..]);
    });
}

#[test]
fn e042_messages_of_distinct_peers_come_before_a_second_of_one() {
    both(|carrier| {
        let (mut host, clients) = incast(carrier, 3, |settings| settings.max_incoming = 1_800_000);
        for number in 0..20 {
            // More than a window: who is granted all at once leaves its place to the next.
            host.hear_range(&Remote::client(100 + 2 * number), 400_000, 0..40_000);
        }
        let granted = granted_to(&mut host);
        assert_eq!(granted.len(), 8);
        assert!(
            clients
                .iter()
                .all(|(client, _)| granted.contains(&client.route.sender_id))
        );
    });
}

#[test]
fn e043_scheduled_levels_start_from_the_bottom() {
    let expected = [
        vec![0],
        vec![1, 0],
        vec![2, 1, 0],
        vec![3, 2, 1, 0],
        vec![3, 2, 1, 0, 0],
        vec![3, 2, 1, 0, 0, 0],
    ];
    both(|carrier| {
        for (count, expected) in (1..).zip(&expected) {
            let (mut host, clients) = incast(carrier, count, |_| {});
            let sent = host.sent();
            let level = |client: &Remote| {
                let mut grants = sent.iter().filter_map(|sent| match &sent.packet {
                    Packet::Grant(grant) => Some((sent.common.sender_id, grant.priority)),
                    _ => None,
                });
                grants
                    .find(|(id, _)| *id == client.route.sender_id ^ 1)
                    .unwrap()
                    .1
            };
            let shortest_first = clients.iter().rev();
            let levels: Vec<_> = shortest_first.map(|(client, _)| level(client)).collect();
            assert_eq!(levels, *expected);
        }
    });
}

/// A sender at the other end of a link that all share.
struct Sender {
    remote: Remote,
    length: u32,
    sent: u32,
    granted: u32,
    /// From the latest GRANT.
    level: u8,
}

impl Sender {
    fn new(number: u8, length: u32) -> Self {
        let client = Remote::client(2 * u64::from(number) + 2);
        Self {
            remote: client.at(([10, 0, 1, number], 7000)),
            length,
            sent: 0,
            granted: 40_000,
            level: 0,
        }
    }

    /// The level at which its next packet goes.
    fn next_level(&self) -> u8 {
        if self.sent < 40_000 { 5 } else { self.level }
    }
}

#[test]
fn e044_the_shorter_message_wins_and_the_older_still_gets_its_share() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        // The first, and long one after long one that are shorter and newer.
        let mut senders = [Sender::new(0, 1_000_000), Sender::new(1, 700_000)];
        let (mut finished, mut others) = (0, 0);
        while finished < 4 {
            for sent in host.sent() {
                let Packet::Grant(grant) = &sent.packet else {
                    continue;
                };
                let id = sent.common.sender_id ^ 1;
                let mut known = senders.iter_mut();
                if let Some(sender) = known.find(|sender| sender.remote.route.sender_id == id) {
                    sender.granted = sender.granted.max(grant.offset);
                    sender.level = grant.priority;
                }
            }
            // The link's switch serves the highest level first.
            let ready = senders
                .iter_mut()
                .filter(|sender| sender.sent < sender.granted);
            let next = ready.max_by_key(|sender| sender.next_level()).unwrap();
            let end = (next.sent + 1400).min(next.length);
            host.now += std::time::Duration::from_nanos(1200);
            host.hear_range(&next.remote, next.length, next.sent..end);
            next.sent = end;
            if next.remote.addr.ip() != Sender::new(0, 1).remote.addr.ip() {
                others += 1400;
            }
            if let Some(Event::Request {
                message, charged, ..
            }) = host.event()
            {
                assert_eq!(message.len(), 700_000, "the longer one is never first");
                host.engine.release(charged);
                finished += 1;
                senders[1] = Sender::new(finished + 1, 700_000);
            }
        }
        let share =
            f64::from(senders[0].sent.saturating_sub(40_000)) / f64::from(others + senders[0].sent);
        assert!((0.03..0.20).contains(&share), "{share}");
    });
}
