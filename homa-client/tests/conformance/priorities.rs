//! Statements 45 to 50: priorities and cutoffs.

use homa_client::engine::wire::{Cutoffs, Data, Kind, Packet};

use crate::fixture::*;

/// The table of the specification's captures, as another host announces it.
fn cutoffs(version: u16) -> Packet {
    Packet::Cutoffs(Cutoffs {
        lengths: [0, 0, 0, 0, 1_000_000, 15_000, 2_800, 200],
        version,
    })
}

/// The levels at which a call of this length leaves.
fn level(host: &mut Host, len: u32) -> u8 {
    let (_, sent) = host.call(len);
    let sent = only(&sent, Kind::Data);
    assert!(sent.iter().all(|other| other.tos == sent[0].tos));
    sent[0].tos >> 5
}

#[test]
fn e045_unscheduled_data_goes_at_level_6_before_any_cutoffs() {
    both(|carrier| {
        for len in [1, 1000, 40_000] {
            assert_eq!(level(&mut Host::new(carrier), len), 6);
        }
    });
}

#[test]
fn e046_cutoffs_give_the_highest_level_whose_entry_the_message_does_not_exceed() {
    both(|carrier| {
        for (len, expected) in [
            (1, 7),
            (200, 7),
            (201, 6),
            (2800, 6),
            (2801, 5),
            (15_001, 4),
        ] {
            let mut host = Host::new(carrier);
            let (server, _) = host.call(1);
            assert_eq!(host.hear(&server, cutoffs(1)), None);
            assert_eq!(level(&mut host, len), expected, "{len} B");
        }
        // Entry 0 is infinite, whatever it says.
        let mut host = Host::new(carrier);
        let (server, _) = host.call(1);
        let none = Cutoffs {
            lengths: [0; 8],
            version: 2,
        };
        host.hear(&server, Packet::Cutoffs(none));
        assert_eq!(level(&mut host, 1), 0);
    });
}

#[test]
fn e047_later_data_carries_the_version_of_the_cutoffs_received() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let (server, sent) = host.call(50_000);
        assert!(sent.iter().all(|sent| sent.data().cutoff_version == 0));
        host.hear(&server, cutoffs(0x0102));
        host.hear(&server, Packet::Grant(grant(50_000)));
        host.hear(&server, Packet::Resend(resend(0, 1)));
        let (_, mut sent) = host.call(1);
        sent.extend(host.serve(&Remote::client(2).at(server_addr()), 1, 1).1);
        let sent = only(&sent, Kind::Data);
        assert!(sent.len() > 3);
        assert!(sent.iter().all(|sent| sent.data().cutoff_version == 0x0102));
    });
}

#[test]
fn e048_data_of_another_version_is_answered_by_our_cutoffs_once_in_a_while() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let client = Remote::client(2);
        let mut answers = |offset, version| {
            let data = Data {
                cutoff_version: version,
                ..data(offset, 40_000)
            };
            host.hear_data(&client, data, 1000);
            only(&host.wait(ms(1)), Kind::Cutoffs)
        };
        let first = answers(0, 0);
        assert_eq!(first.len(), 1);
        let Packet::Cutoffs(ours) = &first[0].packet else {
            panic!()
        };
        assert_ne!(ours.version, 0);
        let more: usize = (1..4).map(|n| answers(n * 1000, 0xffff).len()).sum();
        assert_eq!(more, 0);
        // Much later, but there is nothing to say.
        let known = (10..20).map(|n| answers(n * 1000, ours.version).len());
        assert_eq!(known.sum::<usize>(), 0);
        assert_eq!(answers(20_000, 0).len(), 1);
    });
}

#[test]
fn e049_cutoffs_count_even_if_their_rpc_is_unknown() {
    both(|carrier| {
        let mut host = Host::new(carrier);
        let (server, _) = host.call(1);
        for (version, step) in [(1, 1000), (2, 1001)] {
            let mut unknown = server;
            unknown.route.sender_id += step;
            host.hear(&unknown, cutoffs(version));
            let (_, sent) = host.call(1);
            assert_eq!(sent[0].data().cutoff_version, version);
        }
        assert_eq!(level(&mut host, 1), 7);
    });
}

#[test]
fn e050_control_packets_go_at_the_highest_level() {
    both(|carrier| {
        for levels in 1..=8 {
            let mut host = Host::with(carrier, |settings| settings.num_priorities = levels);
            host.hear_range(&Remote::client(2), 100_000, 0..35_000);
            host.start_call(1);
            let sent = host.wait(ms(20));
            let control: Vec<_> = sent
                .iter()
                .filter(|sent| sent.kind() != Kind::Data)
                .collect();
            assert!(control.iter().any(|sent| sent.kind() == Kind::Grant));
            assert!(control.iter().any(|sent| sent.kind() == Kind::Resend));
            assert!(control.iter().all(|sent| sent.tos == (levels - 1) << 5));
        }
    });
}
