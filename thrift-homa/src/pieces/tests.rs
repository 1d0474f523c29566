//! Tests of what a server keeps, without a network, and with a clock of their own.

use super::super::wire::piece_len;
use super::*;

const PIECE: u32 = 1_024;

fn peer(port: u16) -> SocketAddr {
    ([10, 0, 0, 1], port).into()
}

fn server(max_bytes: usize) -> Arc<Transfers> {
    Transfers::new(PieceOptions::up_to(max_bytes), 1_000_000)
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

fn header(kind: Kind, transfer: u128, total: usize, index: u32) -> Header {
    Header {
        total: total as u64,
        max_reply: 1 << 30,
        piece_bytes: PIECE,
        index,
        ..Header::new(kind, transfer)
    }
}

fn answer(opened: Opened) -> Answer {
    match opened {
        Opened::Answer(answer) => Answer::read(answer).expect("it makes sense"),
        Opened::Execute(message, _) => panic!("it executes {message:?}"),
    }
}

fn why(opened: Opened) -> RefusedPiece {
    match answer(opened) {
        Answer::Refused(refusal) => refusal.why,
        other => panic!("{other:?}"),
    }
}

fn send_piece(transfers: &Arc<Transfers>, from: SocketAddr, whole: &[u8], index: u32) -> Opened {
    let start = (index * PIECE) as usize;
    let len = piece_len(whole.len() as u64, PIECE, index).expect("there is one");
    let piece = whole[start..start + len].to_vec();
    let request = header(Kind::Piece, 7, whole.len(), index).with(piece.into());
    transfers.open(from, request)
}

fn run(transfers: &Arc<Transfers>, from: SocketAddr, total: usize) -> Opened {
    transfers.open(from, header(Kind::Run, 7, total, 0).with(Message::new()))
}

fn executed(opened: Opened) -> (Message, Envelope) {
    match opened {
        Opened::Execute(message, envelope) => (message, envelope),
        Opened::Answer(reply) => panic!("{:?}", Answer::read(reply)),
    }
}

/// What is set aside is what is open.
fn check(transfers: &Transfers) {
    let table = transfers.lock();
    let sizes = |table: &Table| -> usize {
        let totals = table.open.values().map(|open| open.total as usize);
        totals.sum()
    };
    assert_eq!(table.stats.reserved_bytes, sizes(&table));
    assert_eq!(table.stats.transfers, table.open.len());
    let shares = table.by_peer.values();
    assert_eq!(
        shares.map(|share| share.bytes).sum::<usize>(),
        sizes(&table)
    );
    let shares = table.by_peer.values();
    assert_eq!(
        shares.map(|share| share.transfers).sum::<usize>(),
        table.open.len()
    );
    assert!(table.stats.reserved_bytes <= transfers.options.memory_bytes);
    assert!(table.ended.len() <= MAX_ENDED);
}

#[test]
fn pieces_in_any_order_are_one_message_that_is_executed_once() {
    let transfers = server(1 << 20);
    let whole = bytes(10 * PIECE as usize + 5);
    for index in [3, 10, 0, 9, 1, 8, 2, 7, 4, 6, 5] {
        let stored = answer(send_piece(&transfers, peer(1), &whole, index));
        assert!(matches!(stored, Answer::Stored));
        check(&transfers);
    }
    assert_eq!(transfers.stats().reserved_bytes, whole.len());
    let (message, _) = executed(run(&transfers, peer(1), whole.len()));
    assert_eq!(message.into_bytes(), whole);
    assert_eq!(
        why(run(&transfers, peer(1), whole.len())),
        RefusedPiece::Unknown
    );
    // What comes again after the end begins nothing.
    let again = send_piece(&transfers, peer(1), &whole, 0);
    assert_eq!(why(again), RefusedPiece::Unknown);
    let stats = transfers.stats();
    assert_eq!(
        (stats.requests, stats.reserved_bytes, stats.transfers),
        (1, 0, 0)
    );
    check(&transfers);
}

#[test]
fn lies_holes_repeats_and_others_transfers_are_refused_by_name() {
    let transfers = server(100_000);
    let whole = bytes(3 * PIECE as usize);
    for index in [0, 1] {
        answer(send_piece(&transfers, peer(1), &whole, index));
    }
    let piece = |change: &dyn Fn(&mut Header), len: usize| {
        let mut header = header(Kind::Piece, 7, whole.len(), 2);
        change(&mut header);
        why(transfers.open(peer(1), header.with(bytes(len).into())))
    };
    let full = PIECE as usize;
    use RefusedPiece::{Incomplete, Malformed, TooLong, Unknown};
    assert_eq!(piece(&|_| (), full - 1), Malformed, "too short");
    assert_eq!(piece(&|_| (), full + 1), Malformed, "too long");
    assert_eq!(piece(&|_| (), 0), Malformed, "empty");
    assert_eq!(
        piece(&|header| header.index = 1, full),
        Malformed,
        "a repeat"
    );
    assert_eq!(piece(&|header| header.index = 3, full), Malformed, "beyond");
    assert_eq!(piece(&|header| header.index = u32::MAX, full), Malformed);
    assert_eq!(
        piece(&|header| header.total += 1_024, full),
        Malformed,
        "another length"
    );
    assert_eq!(piece(&|header| header.total = 0, full), Malformed);
    assert_eq!(piece(&|header| header.total = 100_001, full), TooLong);
    assert_eq!(piece(&|header| header.total = u64::MAX, full), TooLong);
    assert_eq!(piece(&|header| header.piece_bytes = 1, 1), Malformed);
    assert_eq!(piece(&|header| header.piece_bytes = 0, full), Malformed);
    let one = |kind, transfer, from| {
        why(transfers.open(
            from,
            header(kind, transfer, whole.len(), 0).with(Message::new()),
        ))
    };
    assert_eq!(one(Kind::Run, 8, peer(1)), Unknown, "another number");
    assert_eq!(one(Kind::Run, 7, peer(2)), Unknown, "another client");
    assert_eq!(one(Kind::Fetch, 7, peer(1)), Unknown, "it is no reply");
    assert_eq!(
        one(Kind::Whole, 7, peer(1)),
        Malformed,
        "nothing to execute"
    );
    let followed = header(Kind::Run, 7, whole.len(), 0).with("x".into());
    assert_eq!(why(transfers.open(peer(1), followed)), Malformed);
    check(&transfers);
    assert_eq!(
        transfers.stats().transfers,
        1,
        "the good one is still there"
    );
    assert_eq!(one(Kind::Run, 7, peer(1)), Incomplete);
    let refused: u64 = RefusedPiece::ALL
        .iter()
        .map(|why| transfers.stats().refused(*why))
        .sum();
    assert_eq!(refused, 18);
    assert_eq!(transfers.stats().refused(TooLong), 2);
    assert_eq!(transfers.stats().reserved_bytes, 0);
    check(&transfers);
}

#[test]
fn memory_is_bounded_for_each_host_and_in_all() {
    let transfers = server(10_000);
    let begin = |host: u8, port: u16, transfer: u128| {
        let from: SocketAddr = ([10, 0, 0, host], port).into();
        let request = header(Kind::Piece, transfer, 10_000, 0).with(bytes(1_024).into());
        answer(transfers.open(from, request))
    };
    let is_full = |answer| match answer {
        Answer::Refused(refusal) => refusal.why == RefusedPiece::NoRoom,
        Answer::Stored => false,
        other => panic!("{other:?}"),
    };
    // Ports do not make hosts.
    for number in 0..4 {
        assert!(!is_full(begin(1, number, 1)));
    }
    assert!(is_full(begin(1, 9, 1)));
    for host in 2..=4 {
        for number in 0..4 {
            assert!(!is_full(begin(host, 1, number)));
        }
    }
    assert_eq!(transfers.stats().reserved_bytes, 160_000);
    assert!(is_full(begin(5, 1, 1)), "nobody");
    check(&transfers);
    // Who gives up makes room.
    let give_up = Header::new(Kind::Drop, 1).with(Message::new());
    assert!(matches!(
        answer(transfers.open(([10, 0, 0, 1], 0).into(), give_up)),
        Answer::Stored
    ));
    assert!(!is_full(begin(5, 1, 1)));
    assert_eq!(transfers.stats().dropped, 1);
    // A piece that was on the way meanwhile begins nothing.
    let late = begin(1, 0, 1);
    assert!(matches!(late, Answer::Refused(refusal) if refusal.why == RefusedPiece::Unknown));
    // And many small ones are too many.
    let transfers = server(1 << 20);
    let small = |number: u128| {
        let request = header(Kind::Piece, number, 1, 0).with("x".into());
        is_full(answer(transfers.open(peer(1), request)))
    };
    let first = (0..1_000).find(|number| small(*number));
    assert_eq!(first, Some(MAX_PER_PEER as u128));
    check(&transfers);
}

#[test]
fn what_is_idle_for_ten_seconds_is_dropped() {
    let transfers = server(100_000);
    let whole = bytes(3 * PIECE as usize);
    answer(send_piece(&transfers, peer(1), &whole, 0));
    answer(send_piece(&transfers, peer(2), &whole, 0));
    let now = Instant::now();
    let look = |seconds: u64| {
        transfers.lock().look(now + Duration::from_secs(seconds));
        check(&transfers);
        transfers.stats().transfers
    };
    assert_eq!(look(9), 2);
    // A sign of life of one of them.
    let later = now + Duration::from_secs(9);
    let header = header(Kind::Piece, 7, whole.len(), 1);
    let kept = transfers.keep(later, peer(1), &header, &bytes(PIECE as usize).into());
    assert!(kept.is_ok());
    assert_eq!(look(11), 1);
    assert_eq!(look(18), 1);
    assert_eq!(look(20), 0);
    let stats = transfers.stats();
    assert_eq!((stats.expired, stats.reserved_bytes), (2, 0));
    assert_eq!(
        why(run(&transfers, peer(1), whole.len())),
        RefusedPiece::Unknown
    );
}

#[test]
fn a_long_reply_is_fetched_once_by_whom_it_is_for() {
    let transfers = server(5_000_000);
    let call = |max_reply| {
        let mut header = header(Kind::Whole, 1, 0, 0);
        header.max_reply = max_reply;
        executed(transfers.open(peer(1), header.with("call".into()))).1
    };
    let whole = bytes(1_000_000 + 5_000);
    let envelope = call(u64::MAX);
    // Short ones go as they are.
    let short = envelope.seal(bytes(1_000_000).into()).expect("it fits");
    assert_eq!(short.len(), 1_000_000);
    let sealed = envelope.seal(whole.clone().into()).expect("there is room");
    let Some(Answer::Long(long)) = Answer::read(sealed) else {
        panic!("a long reply");
    };
    assert_eq!((long.total, long.piece_bytes), (1_005_000, PIECE));
    assert_eq!(transfers.unfetched(), 1);
    let fetch = |from, index| {
        let mut header = Header::new(Kind::Fetch, long.transfer);
        header.index = index;
        answer(transfers.open(from, header.with(Message::new())))
    };
    let is_refused = |answer, why| matches!(answer, Answer::Refused(refusal) if refusal.why == why);
    assert!(is_refused(fetch(peer(2), 0), RefusedPiece::Unknown));
    assert!(is_refused(fetch(peer(1), 982), RefusedPiece::Malformed));
    let run_it = header(Kind::Run, long.transfer, 1_005_000, 0).with(Message::new());
    assert!(is_refused(
        answer(transfers.open(peer(1), run_it)),
        RefusedPiece::Unknown
    ));
    let mut fetched = vec![Vec::new(); 982];
    for index in (0..982).rev() {
        let Answer::Piece(piece) = fetch(peer(1), index) else {
            panic!("piece {index}");
        };
        fetched[index as usize] = piece.into_bytes().to_vec();
        if index > 0 {
            assert!(is_refused(fetch(peer(1), index), RefusedPiece::Malformed));
        }
    }
    assert!(fetched.concat() == whole);
    assert!(is_refused(fetch(peer(1), 0), RefusedPiece::Unknown));
    let stats = transfers.stats();
    assert_eq!((stats.replies, stats.replies_fetched), (1, 1));
    assert_eq!((stats.reserved_bytes, transfers.unfetched()), (0, 0));
    // The client takes less, or there is no room.
    let error = call(1_004_999).seal(whole.into()).expect_err("too long");
    assert!(error.contains("over the limit of 1004999"), "{error}");
    let most = || bytes(5_000_000).into();
    let sealed = (0..4).all(|_| envelope.seal(most()).is_ok());
    assert!(sealed);
    let error = envelope.seal(most()).expect_err("no room");
    assert!(
        error.starts_with("the call was executed, but its reply is lost"),
        "{error}"
    );
    check(&transfers);
}

#[test]
fn what_the_server_did_not_understand_is_told_from_what_it_does_not_know() {
    let transfers = server(5_000_000);
    let request = header(Kind::Whole, 1, 0, 0).with("{json}".into());
    let (_, envelope) = executed(transfers.open(peer(1), request));
    let sealed = envelope.seal(control::not_understood("unknown protocol"));
    match Answer::read(sealed.expect("it fits")) {
        Some(Answer::Wrapped(reply)) => {
            assert_eq!(reply.into_bytes(), b"\xF2unknown protocol"[..]);
        }
        other => panic!("{other:?}"),
    }
}

/// Whatever comes, the books are right, and nothing panics.
#[test]
fn random_requests_leave_the_books_in_order() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let transfers = server(20_000);
    for round in 0..20_000 {
        let kind =
            [Kind::Whole, Kind::Piece, Kind::Run, Kind::Fetch, Kind::Drop][random(5) as usize];
        let transfer = random(400);
        let total = match random(8) {
            0 => 1 + random(5_000),
            _ => [1, 700, 1_500, 2_048][transfer as usize % 4],
        };
        let index = random(3) as u32;
        let header = Header {
            total,
            piece_bytes: [PIECE, PIECE, PIECE, PIECE, PIECE, PIECE, 2_000, 0][random(8) as usize],
            max_reply: random(30_000),
            index,
            ..Header::new(kind, u128::from(transfer))
        };
        let fitting = piece_len(total, header.piece_bytes.max(1), index).unwrap_or(3);
        let len = match (kind, random(8)) {
            (_, 0) => random(3_000) as usize,
            (Kind::Piece, _) => fitting,
            _ => 0,
        };
        let mut request = header.with(bytes(len).into());
        if random(20) == 0 {
            let mut damaged = request.into_bytes().to_vec();
            let at = 1 + random(damaged.len() as u64 - 1) as usize;
            damaged[at] ^= 1 << random(8);
            damaged.truncate(1 + random(damaged.len() as u64) as usize);
            request = damaged.into();
        }
        if let Opened::Execute(message, envelope) = transfers.open(peer(random(3) as u16), request)
        {
            assert!(!message.is_empty());
            if random(3) == 0 {
                let _ = envelope.seal(bytes(1_000_001).into());
            }
        }
        if round % 50 == 0 {
            check(&transfers);
        }
    }
    check(&transfers);
    assert!(transfers.stats().requests > 0);
}
