//! Statements 51 to 68: loss recovery.

use std::time::Duration;

use homa_client::engine::wire::{Ack, Carrier, Cutoffs, Kind, Packet, Unknown};
use homa_client::engine::{DropReason, Event, Failure};

use crate::fixture::*;
use crate::net::{CLIENT, Faults, Net, SERVER};

/// "I have nothing: send everything again."
const ALL: (u32, u32) = (0, u32::MAX);

/// Silence before a RESEND, and between two: a kernel's 5 ticks, or what suits user space.
fn resend_interval(carrier: Carrier) -> Duration {
    match carrier {
        Carrier::Ip => ms(5),
        Carrier::Udp => ms(10),
    }
}

fn timeout(carrier: Carrier) -> Duration {
    match carrier {
        Carrier::Ip => ms(100),
        Carrier::Udp => ms(1000),
    }
}

#[test]
fn e051_a_client_without_a_byte_of_its_response_asks_for_all_at_every_interval() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        host.call(1);
        let start = host.now;
        let sent = host.wait(9 * resend_interval(carrier) + ms(1));
        assert_eq!(resends(&sent), [ALL; 9]);
        for (number, sent) in (1..).zip(&sent) {
            // Wake-ups are rounded up to a millisecond.
            let late = sent.at.since(start + number * resend_interval(carrier));
            assert!(sent.at >= start + number * resend_interval(carrier) && late <= ms(1));
        }
    });
}

#[test]
fn e052_each_gap_and_the_granted_rest_is_asked_for_and_no_more() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let client = Remote::client(2);
        for range in [0..1400, 2800..4200, 14_000..15_400] {
            host.hear_range(&client, 900_000, range);
        }
        host.sent();
        let [_, _, granted] = host.incoming(&client).unwrap();
        assert!(granted < 900_000);
        let sent = host.wait(resend_interval(carrier) + ms(1));
        let rest = (15_400, granted - 15_400);
        assert_eq!(resends(&sent), [(1400, 1400), (4200, 9800), rest]);
    });
}

/// A host whose link has this speed, in Mbit/s. A request begins to come and is silent from then on,
/// while others take so many bytes of the link in each millisecond: for `time`, of which the first
/// RESEND of the silent one is returned.
fn asks_beside_others(
    carrier: Carrier,
    link_mbps: Option<u32>,
    bytes: u32,
    time: Duration,
) -> Option<Duration> {
    let mut host = Host::with(carrier, |settings| settings.link_mbps = link_mbps);
    let silent = Remote::client(2);
    host.hear_range(&silent, 30_000, 0..1400);
    let (start, mut other) = (host.now, 4);
    while host.now < start + time {
        let sent = host.wait(ms(1));
        let of_silent = |id: u64| id == silent.route.sender_id ^ 1;
        let asked = only(&sent, Kind::Resend);
        assert!(asked.iter().all(|sent| of_silent(sent.common.sender_id)));
        if let Some(first) = asked.first() {
            return Some(first.at.since(start));
        }
        if bytes > 0 {
            let other = Remote::client(other).at(([10, 0, 0, 3], 7000));
            host.take_request(&other, bytes);
        }
        other += 2;
    }
    None
}

/// The wait of `longest` has begun with the first packet, and wake-ups are rounded up.
#[track_caller]
fn asked_after(asked: Option<Duration>, longest: Duration) {
    let asked = asked.expect("a RESEND");
    assert!((longest..longest + ms(2)).contains(&asked), "{asked:?}");
}

#[test]
fn e052_what_waits_while_others_fill_the_link_is_not_asked_for() {
    both(|carrier| {
        let (resend, third) = (resend_interval(carrier), timeout(carrier) / 3);
        let of = |mbps, bytes| asks_beside_others(carrier, mbps, bytes, timeout(carrier));
        // 25,000 B in each millisecond are 200 Mbit/s.
        for bytes in [15_000, 25_000] {
            let asked = of(Some(200), bytes).expect("a RESEND in the end");
            assert!(
                asked >= third && asked < third + resend + ms(2),
                "{asked:?}"
            );
        }
        asked_after(of(Some(200), 12_000), resend);
        asked_after(of(Some(200), 0), resend);
        asked_after(of(None, 25_000), resend);
        // No switch holds what such a link takes within the interval.
        asked_after(of(Some(20_000), 25_000), resend);
    });
}

/// Copies that others are still sent, of requests that are whole, fill it as well.
#[test]
fn e052_copies_of_what_has_come_fill_the_link_too() {
    both(|carrier| {
        let mut host = Host::with(carrier, |settings| settings.link_mbps = Some(200));
        let (done, silent) = (Remote::client(2), Remote::client(4));
        host.take_request(&done, 25_000);
        host.hear_range(&silent, 30_000, 0..1400);
        let end = host.now + timeout(carrier) / 3;
        while host.now < end {
            let sent = host.wait(ms(1));
            assert!(only(&sent, Kind::Resend).is_empty());
            for start in (0..25_000).step_by(1400) {
                let len = 1400.min(25_000 - start);
                let dropped = host.hear_data(&done, data(start, 25_000), len);
                assert_eq!(dropped, Some(DropReason::Duplicate));
            }
        }
    });
}

/// Nor is it forgotten: RESENDs and the end come as to any other.
#[test]
fn e052_what_never_comes_is_given_up_though_others_fill_the_link() {
    both(|carrier| {
        let mut host = Host::with(carrier, |settings| settings.link_mbps = Some(200));
        let (silent, _) = host.call(1);
        let start = host.now;
        let mut asked = 0;
        let took = loop {
            asked += only(&host.wait(ms(1)), Kind::Resend).len();
            match host.event() {
                Some(Event::Failed { rpc, failure, .. }) => {
                    assert_eq!(rpc.id(), silent.route.sender_id ^ 1);
                    assert!(matches!(failure, Failure::TimedOut(_)), "{failure:?}");
                    break host.now.since(start);
                }
                other => assert!(other.is_none(), "{other:?}"),
            }
            let number = 4 + 2 * host.now.since(start).as_millis() as u64;
            host.take_request(&Remote::client(number), 25_000);
        };
        assert!(
            (timeout(carrier)..timeout(carrier) + ms(12)).contains(&took),
            "{took:?}"
        );
        // In the last two thirds of the time.
        let most = (timeout(carrier).as_millis() / resend_interval(carrier).as_millis()) as usize;
        assert!((most / 2..most * 3 / 4).contains(&asked), "{asked} RESENDs");
    });
}

#[test]
fn e053_a_receiver_that_has_all_it_granted_neither_asks_nor_gives_up() {
    both(|carrier| {
        let mut host = Host::with(carrier, |settings| settings.max_overcommit = 1);
        // The first is shorter and gets all grants; its sender goes on, a byte at a time.
        let (first, second) = (Remote::client(2), Remote::client(4));
        host.hear_data(&first, data(0, 100_000), 1);
        host.hear_range(&second, 900_000, 0..40_000);
        let [_, received, granted] = host.incoming(&second).unwrap();
        assert_eq!((received, granted), (40_000, 40_000));
        let step = resend_interval(carrier) / 2;
        let steps = 3 * timeout(carrier).as_micros() / step.as_micros();
        for byte in 1..=steps as u32 {
            host.hear_range(&first, 100_000, byte..byte + 1);
            let sent = host.wait(step);
            assert!(
                sent.iter()
                    .all(|sent| sent.common.sender_id != second.route.sender_id ^ 1)
            );
        }
        assert_eq!(host.incoming(&second).unwrap()[1], 40_000);
    });
}

#[test]
fn e054_a_client_with_granted_bytes_to_send_asks_for_nothing() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        host.start_call(40_000);
        host.engine.poll_transmit(host.now, 1).unwrap();
        // The driver is on time, but its socket takes nothing.
        let until = host.now + ms(90);
        while let Some((at, _)) = host.engine.poll_timeout()
            && at <= until
        {
            host.now = at;
            host.engine.handle_timeout(at);
        }
        assert!(only(&host.sent(), Kind::Resend).is_empty());
    });
}

#[test]
fn e055_data_grant_and_busy_end_a_silence_and_nothing_else_does() {
    let cutoffs = Cutoffs {
        lengths: [0; 8],
        version: 1,
    };
    let packets = [
        (true, Packet::Data(data(2000, 10_000))),
        (true, Packet::Grant(grant(0))),
        (true, Packet::Busy),
        (false, Packet::Resend(resend(0, 1))),
        (false, Packet::Cutoffs(cutoffs)),
        (false, Packet::Ack(Ack::default())),
        (false, Packet::RpcUnknown(Unknown::default())),
    ];
    both(|carrier| {
        for (ends, packet) in &packets {
            let mut host = Host::new(carrier);
            let (server, _) = host.call(1);
            let start = host.now;
            host.wait(resend_interval(carrier) - ms(2));
            host.hear(&server, packet.clone());
            let sent = only(&host.wait(3 * resend_interval(carrier)), Kind::Resend);
            let expected = match packet {
                // Differs: a peer that is busy is not asked again so soon.
                Packet::Busy => 3 * resend_interval(carrier) - ms(2),
                _ if *ends => 2 * resend_interval(carrier) - ms(2),
                _ => resend_interval(carrier),
            };
            let first = sent[0].at.since(start);
            assert!(
                first >= expected && first <= expected + ms(1),
                "{packet:?}: {first:?}"
            );
        }
        // NEED_ACK is answered by a RESEND at once; the timer's comes when it would have come.
        let mut host = Host::new(carrier);
        let (server, _) = host.call(1);
        host.wait(resend_interval(carrier) - ms(2));
        host.hear(&server, Packet::NeedAck);
        assert_eq!(resends(&host.sent()), [ALL]);
        assert_eq!(resends(&host.wait(ms(3))), [ALL]);
    });
}

#[test]
fn e056_a_server_that_receives_or_works_answers_resend_with_busy() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let client = Remote::client(2);
        for part in [0..1400, 1400..2800] {
            host.hear_range(&client, 2800, part);
            host.event();
            host.sent();
            host.hear(&client, Packet::Resend(resend(0, u32::MAX)));
            assert_eq!(kinds(&host.sent()), [Kind::Busy]);
        }
    });
}

#[test]
fn e057_a_server_that_has_answered_sends_again_at_the_level_asked_for() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let client = Remote::client(2);
        host.serve(&client, 1, 5000);
        for priority in [7, 0, 3] {
            host.wait(ms(2));
            host.hear(
                &client,
                Packet::Resend(homa_client::engine::wire::Resend {
                    priority,
                    ..resend(0, u32::MAX)
                }),
            );
            let sent = host.sent();
            assert_eq!(kinds(&sent), [Kind::Data; 4]);
            assert!(sent.iter().all(|sent| sent.tos == priority << 5));
            assert!(sent.iter().all(|sent| sent.data().incoming == 5000));
        }
    });
}

/// Nor does a server repeat for ever what its client lacks: that waits, rather than being lost.
#[test]
fn e057_the_same_bytes_are_sent_more_rarely_in_the_end() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let client = Remote::client(2);
        host.serve(&client, 1, 30_000);
        let ask = |host: &mut Host, first: u32| -> Vec<u32> {
            let mut gaps = Vec::new();
            for offset in [first, 14_000] {
                host.hear(&client, Packet::Resend(resend(offset, 1)));
                gaps.extend(
                    only(&host.sent(), Kind::Data)
                        .iter()
                        .map(|sent| sent.range().start),
                );
            }
            host.wait(resend_interval(carrier));
            gaps
        };
        let answered: Vec<usize> = (0..26)
            .filter(|_| !ask(&mut host, 2_800).is_empty())
            .collect();
        let expected = match carrier {
            Carrier::Udp => vec![0, 1, 2, 4, 7, 11, 15, 19, 23],
            // So few questions fit into its timeout that each is answered.
            Carrier::Ip => (0..26).collect(),
        };
        assert_eq!(answered, expected);
        // Who gets on is answered at once again.
        assert_eq!(ask(&mut host, 5_600).len(), 2);
    });
}

#[test]
fn e058_a_resend_beyond_the_grant_makes_up_for_a_lost_grant() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let client = Remote::client(2);
        host.serve(&client, 1, 100_000);
        host.hear(&client, Packet::Resend(resend(35_000, 25_000)));
        let sent = only(&host.sent(), Kind::Data);
        let (again, new): (Vec<_>, Vec<_>) = sent.iter().partition(|sent| sent.data().retransmit);
        assert!(again[0].range().contains(&35_000));
        assert_eq!(again.last().unwrap().range().end, 40_000);
        assert_eq!(new[0].range().start, 40_000);
        assert!(new.last().unwrap().range().end >= 60_000);
        assert_eq!(host.outgoing(&client).unwrap()[2], 60_000);
    });
}

#[test]
fn e059_a_resend_for_what_was_not_sent_yet_is_answered_with_busy() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let client = Remote::client(2);
        host.serve(&client, 1, 100_000);
        host.hear(&client, Packet::Resend(resend(40_000, 10_000)));
        let sent = host.sent();
        assert_eq!(only(&sent, Kind::Busy).len(), 1);
        let sent = only(&sent, Kind::Data);
        assert!(sent.iter().all(|sent| !sent.data().retransmit));
        assert_eq!(sent[0].range().start, 40_000);
    });
}

#[test]
fn e060_a_resend_for_an_unknown_rpc_is_answered_with_rpc_unknown() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        host.start_call(1);
        let server = Remote::server(host.start_call(1));
        host.sent();
        let mut stranger = server;
        stranger.route.sender_id += 1000;
        for remote in [Remote::client(2), stranger] {
            host.hear(&remote, Packet::Resend(resend(0, u32::MAX)));
            let sent = host.sent();
            assert_eq!(kinds(&sent), [Kind::RpcUnknown]);
            let common = sent[0].common;
            assert_eq!(common.sender_id, remote.route.sender_id ^ 1);
            assert_eq!(common.source_port, remote.route.dest_port);
            assert_eq!(common.dest_port, remote.route.source_port);
        }
        // Differs: a server without room for the request says that it is busy.
        let mut full = Host::with(carrier, |settings| {
            settings.max_rpcs = 1;
            settings.max_rpcs_per_peer = 1;
        });
        full.take_request(&Remote::client(2), 1);
        full.sent();
        full.hear(&Remote::client(4), Packet::Resend(resend(0, u32::MAX)));
        assert_eq!(kinds(&full.sent()), [Kind::Busy]);
    });
}

#[test]
fn e061_rpc_unknown_makes_a_client_send_its_request_again_until_the_response_comes() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let (server, first) = host.call(100_000);
        assert_eq!(
            host.hear(&server, Packet::RpcUnknown(Unknown::default())),
            None
        );
        let mut again = host.sent();
        let ranges = |sent: &[Sent]| sent.iter().map(Sent::range).collect::<Vec<_>>();
        // Differs: the first packet at once, the rest as it is granted again.
        assert_eq!(ranges(&again), ranges(&first[..1]));
        let start = again[0].data().incoming;
        assert_eq!(start, again[0].range().end);
        for granted in [start + 10_000, first.last().unwrap().range().end] {
            host.hear(&server, Packet::Grant(grant(granted)));
            again.extend(host.sent());
            assert!(again.last().unwrap().range().end >= granted);
        }
        let mut covered = ranges(&again);
        covered.dedup();
        assert_eq!(covered, ranges(&first));
        assert!(again.iter().all(|sent| sent.data().retransmit));

        host.hear_range(&server, 5000, 0..1400);
        host.wait(ms(2));
        host.hear(&server, Packet::RpcUnknown(Unknown::default()));
        assert!(only(&host.sent(), Kind::Data).is_empty());
        assert_eq!(host.incoming(&server), Some([5000, 1400, 5000]));
    });
}

/// A request that waits in the network for long: what its client sends meanwhile would wait there,
/// too, or pass others that wait.
#[test]
fn e061_a_request_on_its_way_is_not_copied_at_every_interval() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let (server, first) = host.call(30_000);
        let mut copies = Vec::new();
        let mut questions = 0;
        let end = host.now + (timeout(carrier) - ms(2));
        while host.now < end {
            let sent = host.wait(ms(1));
            copies.extend(only(&sent, Kind::Data));
            for _ in only(&sent, Kind::Resend) {
                questions += 1;
                let dropped = host.hear(&server, Packet::RpcUnknown(Unknown::default()));
                assert!(matches!(dropped, None | Some(DropReason::Repeated)));
            }
        }
        assert!(questions >= 19, "{questions}");
        let most = match carrier {
            Carrier::Udp => 30,
            Carrier::Ip => questions,
        };
        assert!((5..=most).contains(&copies.len()), "{}", copies.len());
        assert!(
            copies
                .iter()
                .all(|copy| copy.range().end <= first[0].range().end)
        );
    });
}

#[test]
fn e062_rpc_unknown_frees_a_server_rpc() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let clients = [2, 4, 6].map(Remote::client);
        host.hear_range(&clients[0], 2800, 0..1400);
        host.take_request(&clients[1], 1);
        host.serve(&clients[2], 1, 1);
        for (freed, client) in clients.iter().enumerate() {
            assert_eq!(host.live(), 3 - freed);
            assert_eq!(
                host.hear(client, Packet::RpcUnknown(Unknown::default())),
                None
            );
        }
        assert_eq!(host.live(), 0);
    });
}

#[test]
fn e063_absurd_resends_do_no_harm() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let client = Remote::client(2);
        host.serve(&client, 1, 100_000);
        let numbers = [
            0,
            1,
            39_999,
            40_000,
            100_000,
            100_001,
            i32::MAX as u32,
            1 << 31,
            u32::MAX,
        ];
        for offset in numbers {
            for length in numbers {
                host.hear(&client, Packet::Resend(resend(offset, length)));
                for sent in only(&host.wait(ms(2)), Kind::Data) {
                    let range = sent.range();
                    assert!(range.end <= 100_000);
                    assert_eq!(sent.bytes[56..], pattern(range));
                }
            }
        }
        assert_eq!(host.live(), 1);
    });
}

#[test]
fn e064_a_long_silence_fails_a_call_and_frees_an_arriving_request() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        host.call(1);
        host.hear_range(&Remote::client(2), 2800, 0..1400);
        host.wait(timeout(carrier) - ms(1));
        assert!(host.event().is_none() && host.live() == 2);
        host.wait(ms(3));
        let Some(Event::Failed {
            failure, cookie, ..
        }) = host.event()
        else {
            panic!()
        };
        assert!(matches!(failure, Failure::TimedOut(after) if after >= timeout(carrier)));
        assert_eq!(cookie, 99);
        assert!(host.event().is_none() && host.live() == 0);
    });
}

#[test]
fn e065_a_server_that_takes_ten_seconds_loses_no_client() {
    both(|carrier| {
        let mut net = Net::new(carrier, 65);
        net.call(1);
        let done = net.now + Duration::from_secs(10);
        while net.step(done) {}
        let Some(Event::Request { rpc, .. }) = net.event(SERVER) else {
            panic!()
        };
        let counters = net.hosts[SERVER].engine.counters();
        assert!(counters.sent(Kind::Busy) > 20);
        assert_eq!(counters.received(Kind::Data), 1);
        net.reply(rpc, 1);
        let limit = net.now + ms(1);
        while net.step(limit) {}
        assert!(matches!(net.event(CLIENT), Some(Event::Response { .. })));
    });
}

#[test]
fn e066_a_request_of_which_every_packet_is_lost_completes() {
    both(|carrier| {
        let mut net = Net::new(carrier, 66);
        net.loses = |_, packet| matches!(packet, Packet::Data(data) if !data.retransmit);
        for len in [1, 30_000, 200_000] {
            net.run_calls(1, 1, len);
        }
        assert!(net.hosts[SERVER].engine.counters().sent(Kind::RpcUnknown) > 0);
    });
}

#[test]
fn e067_calls_of_all_sizes_survive_the_loss_of_every_tenth_packet() {
    both(|carrier| {
        let mut net = Net::new(carrier, 67);
        net.faults.loss = 10;
        net.run_calls(1000, 32, 1_000_000);
        assert!(net.hosts[CLIENT].engine.counters().retransmitted > 1000);
    });
}

#[test]
fn e068_reordered_and_doubled_packets_change_nothing() {
    both(|carrier| {
        let mut net = Net::new(carrier, 68);
        net.faults = Faults {
            loss: 2,
            double: 20,
            reorder: 20,
        };
        net.run_calls(500, 16, 200_000);
        let counters = net.hosts[SERVER].engine.counters();
        assert_eq!(counters.requests_delivered, 500);
    });
}

/// Besides the statements: what the driver was late is no silence of anybody, and delays nothing
/// that began before the lateness was noticed.
#[test]
fn after_an_hours_suspension_losses_are_repaired_as_soon_as_ever() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        host.call(1);
        host.now += Duration::from_secs(3600);
        let (server, _) = host.call(1);
        host.engine.handle_timeout(host.now);
        assert!(host.event().is_none(), "nobody was silent for an hour");
        let sent = host.wait(resend_interval(carrier) + ms(2));
        let id = server.route.sender_id ^ 1;
        assert!(
            sent.iter().any(|sent| sent.common.sender_id == id),
            "{sent:?}"
        );
    });
}
