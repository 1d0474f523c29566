use super::*;

const EPOCH: u64 = 0x1122_3344_5566_7788;
const SERVER: u64 = 0x99aa_bbcc_ddee_ff00;

/// E1 to E4 of the specification: OPEN, REPLY, trailers-only REPLY, DATA, ACK, last DATA.
const VECTORS: [(&str, Sender, Frame, [u32; 3]); 6] = [
    (
        "48475231 01 30 0013 1122334455667788 0000000000000001 0000000000000000
         00000000000186a0 00000030 00000000
         401c2f68656c6c6f776f726c642e477265657465722f53617948656c6c6f
         410d31302e302e302e313a34303030 08 01 02 00000000060a04686f6d61",
        Sender::ClientRequest,
        frame(
            1,
            Kind::Open {
                flight: Flight {
                    start: true,
                    end: true,
                    ..NOTHING
                },
                deadline_us: 100_000,
                push: true,
            },
        ),
        [48, 0, 11],
    ),
    (
        "48475231 81 30 0007 1122334455667788 0000000000000001 0000000000000000
         99aabbccddeeff00 00000001 00000001 02 10 00000000090a07686920686f6d61",
        Sender::ServerResponse,
        frame(
            1,
            Kind::Reply {
                flight: Flight {
                    start: true,
                    end: true,
                    trailers: true,
                    ..NOTHING
                },
                server_epoch: Some(SERVER),
            },
        ),
        [1, 1, 14],
    ),
    (
        "48475231 81 30 0006 1122334455667788 0000000000000002 0000000000000000
         99aabbccddeeff00 00000000 00000023
         02 15 48106e6f2532307375636825323075736572 80 08782d69642d62696e 0471367572",
        Sender::ServerResponse,
        frame(
            2,
            Kind::Reply {
                flight: Flight {
                    end: true,
                    trailers: true,
                    ..NOTHING
                },
                server_epoch: Some(SERVER),
            },
        ),
        [0, 35, 0],
    ),
    (
        "48475231 02 30 0001 1122334455667788 0000000000000003 0000000000000000
         0000000000000000 00000001 00000000 02 00000000020807",
        Sender::ServerRequest,
        frame(
            3,
            Kind::Data {
                flight: Flight {
                    start: true,
                    ..NOTHING
                },
                credit: 0,
            },
        ),
        [1, 0, 7],
    ),
    (
        "48475231 83 30 0000 1122334455667788 0000000000000003 0000000000010007
         0000000000000000 00000000 00000000",
        Sender::ClientResponse,
        frame(
            3,
            Kind::Ack {
                credit: 65_536 + 7,
                stop: false,
            },
        ),
        [0, 0, 0],
    ),
    (
        "48475231 02 30 0006 1122334455667788 0000000000000003 0000000000000007
         0000000000000000 00000000 00000001 10",
        Sender::ServerRequest,
        frame(
            3,
            Kind::Data {
                flight: Flight {
                    end: true,
                    trailers: true,
                    offset: 7,
                    ..NOTHING
                },
                credit: 0,
            },
        ),
        [0, 1, 0],
    ),
];

const NOTHING: Flight = Flight {
    start: false,
    end: false,
    trailers: false,
    total: None,
    offset: 0,
};

const fn frame(call: u64, kind: Kind) -> Frame {
    Frame {
        epoch: EPOCH,
        call,
        going_away: false,
        kind,
    }
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect()
}

#[test]
fn the_worked_frames_byte_for_byte() {
    for (text, sender, expected, [head, tail, body]) in VECTORS {
        let bytes = hex(text);
        let (parsed, lengths) = Frame::parse(&bytes, bytes.len(), sender).unwrap();
        assert_eq!(parsed, expected);
        let sections = Lengths {
            header: 48,
            head,
            tail,
            body: body as usize,
        };
        assert_eq!(lengths, sections);
        assert_eq!(expected.emit(lengths), bytes[..48]);
    }
    let sizes = VECTORS.map(|(text, ..)| hex(text).len());
    assert_eq!(sizes, [107, 64, 83, 56, 48, 49]);
}

#[test]
fn every_kind_survives_a_round_trip() {
    let flight = Flight {
        start: true,
        total: Some(1 << 40),
        ..NOTHING
    };
    let later = Flight {
        total: Some(100),
        offset: 90,
        end: true,
        ..NOTHING
    };
    let request = Sender::ClientRequest;
    let response = Sender::ServerResponse;
    let kinds = [
        (
            request,
            1,
            Kind::Open {
                flight,
                deadline_us: 0,
                push: false,
            },
        ),
        (
            request,
            9,
            Kind::Data {
                flight: later,
                credit: 0,
            },
        ),
        (
            Sender::ServerRequest,
            9,
            Kind::Data {
                flight: later,
                credit: 0,
            },
        ),
        (
            request,
            9,
            Kind::Pull {
                from: 5,
                most: u64::MAX,
            },
        ),
        (
            request,
            9,
            Kind::Window {
                credit: u64::MAX,
                stop: true,
            },
        ),
        (
            Sender::ServerRequest,
            9,
            Kind::Window {
                credit: 1,
                stop: false,
            },
        ),
        (
            request,
            9,
            Kind::Cancel {
                reason: CancelReason::Cancelled,
            },
        ),
        (
            request,
            9,
            Kind::Cancel {
                reason: CancelReason::DeadlineExceeded,
            },
        ),
        (request, 0, Kind::Ping { nonce: 77 }),
        (
            response,
            9,
            Kind::Reply {
                flight: later,
                server_epoch: None,
            },
        ),
        (
            response,
            9,
            Kind::Deferred {
                credit: 65_536,
                server_epoch: SERVER,
            },
        ),
        (
            response,
            9,
            Kind::Ack {
                credit: 0,
                stop: true,
            },
        ),
        (
            Sender::ClientResponse,
            9,
            Kind::Ack {
                credit: 3,
                stop: false,
            },
        ),
        (
            response,
            0,
            Kind::Pong {
                nonce: 77,
                server_epoch: SERVER,
            },
        ),
    ];
    for (sender, call, kind) in kinds {
        for going_away in [
            false,
            matches!(sender, Sender::ServerRequest | Sender::ServerResponse),
        ] {
            let frame = Frame {
                going_away,
                ..frame(call, kind)
            };
            let bytes = frame.emit(Lengths::default());
            let (parsed, lengths) = Frame::parse(&bytes, 48, sender).unwrap();
            assert_eq!((parsed, lengths), (frame, Lengths::default()));
        }
    }
    for code in 1..=7 {
        let reason = ResetReason::from_code(code).unwrap();
        // May answer what could not be read, and may have a text.
        let reset = Frame {
            epoch: 0,
            call: 0,
            ..frame(0, Kind::Reset { reason })
        };
        let bytes = reset.emit(Lengths::default());
        let (parsed, lengths) = Frame::parse(&bytes, 50, Sender::ServerResponse).unwrap();
        assert_eq!((parsed, lengths.body), (reset, 2));
        let version = u64::from_be_bytes(bytes[32..40].try_into().unwrap());
        assert_eq!(version, if reason == ResetReason::Version { 1 } else { 0 });
    }
}

/// An OPEN of 10 bytes of head and 20 of body, with changes.
fn open(changes: &[(usize, &[u8])]) -> Vec<u8> {
    let flight = Flight {
        start: true,
        end: true,
        ..NOTHING
    };
    let kind = Kind::Open {
        flight,
        deadline_us: 0,
        push: false,
    };
    let mut bytes = frame(1, kind)
        .emit(Lengths {
            head: 10,
            ..Lengths::default()
        })
        .to_vec();
    bytes.resize(48 + 10 + 20, 0);
    for (at, change) in changes {
        bytes[*at..at + change.len()].copy_from_slice(change);
    }
    bytes
}

fn refused(bytes: &[u8], sender: Sender) -> FrameError {
    Frame::parse(bytes, bytes.len(), sender).unwrap_err()
}

#[test]
fn every_validation_rule_refuses() {
    let client = Sender::ClientRequest;
    assert!(Frame::parse(&open(&[]), 78, client).is_ok());
    for len in 0..48 {
        assert_eq!(
            refused(&open(&[])[..len], client),
            FrameError::Short { len }
        );
    }
    type Change = (usize, &'static [u8]);
    let too_long = &[0, 0, 0, 31];
    let cases: [(&[Change], FrameError); 20] = [
        (&[(0, b"X")], FrameError::Magic),
        (&[(2, b"X")], FrameError::Magic),
        (&[(3, b"2")], FrameError::Version(b'2')),
        (&[(4, &[0])], FrameError::Kind(0)),
        (&[(4, &[7])], FrameError::Kind(7)),
        (&[(4, &[0x80])], FrameError::Kind(0x80)),
        (&[(4, &[0x86])], FrameError::Kind(0x86)),
        (&[(5, &[47])], FrameError::HeaderLen(47)),
        (&[(5, &[69])], FrameError::Lengths),
        (&[(40, too_long)], FrameError::Lengths),
        (&[(40, &[0xFF; 8])], FrameError::Lengths),
        (&[(8, &[0; 8])], FrameError::Epoch),
        (&[(16, &[0; 8])], FrameError::Call(0)),
        // No START.
        (&[(6, &[0, 2])], FrameError::Head),
        (&[(6, &[0, 2]), (40, &[0; 4])], FrameError::NoStart),
        // Trailers from a client, with and without the flag.
        (&[(44, &[0, 0, 0, 1])], FrameError::Tail),
        (&[(6, &[0, 7])], FrameError::Tail),
        // 20 bytes of body and a total of 19.
        (
            &[(6, &[0, 9]), (24, &[0, 0, 0, 0, 0, 0, 0, 19])],
            FrameError::PastEnd,
        ),
        // A CANCEL with sections, and one with a code that does not exist.
        (&[(4, &[5])], FrameError::Carries(5)),
        (&[(4, &[0x81])], FrameError::Role(0x81)),
    ];
    for (changes, error) in cases {
        assert_eq!(refused(&open(changes), client), error, "{changes:?}");
    }
}

#[test]
fn longer_headers_and_unknown_flags_are_accepted() {
    let bytes = open(&[(5, &[60]), (6, &[0xFF, 0x83])]);
    let (frame, lengths) = Frame::parse(&bytes, bytes.len(), Sender::ClientRequest).unwrap();
    assert_eq!((lengths.header, lengths.head, lengths.body), (60, 10, 8));
    let Kind::Open { flight, .. } = frame.kind else {
        panic!("{frame:?}")
    };
    assert_eq!(
        flight,
        Flight {
            start: true,
            end: true,
            ..NOTHING
        }
    );
}

#[test]
fn kinds_come_from_the_right_side_in_the_right_role() {
    let senders = [
        Sender::ClientRequest,
        Sender::ServerRequest,
        Sender::ServerResponse,
        Sender::ClientResponse,
    ];
    let fits: [(u8, [bool; 4]); 11] = [
        (0x01, [true, false, false, false]),
        (0x02, [true, true, true, true]),
        (0x03, [true, false, false, false]),
        (0x04, [true, true, false, false]),
        (0x05, [true, false, false, false]),
        (0x06, [true, false, false, false]),
        (0x81, [false, false, true, false]),
        (0x82, [false, false, true, false]),
        (0x83, [false, false, true, true]),
        (0x84, [false, false, true, false]),
        (0x85, [false, false, true, true]),
    ];
    for (kind, fits) in fits {
        for (sender, fits) in senders.into_iter().zip(fits) {
            let mut bytes = open(&[(4, &[kind])]);
            bytes.truncate(48);
            bytes[40..48].fill(0);
            let refused = Frame::parse(&bytes, 48, sender).err() == Some(FrameError::Role(kind));
            assert_eq!(!refused, fits, "{kind:#x} {sender:?}");
        }
    }
}

#[test]
fn flights_of_either_side_have_their_rules() {
    let server = Sender::ServerResponse;
    let reply = |flight, lengths| {
        frame(
            1,
            Kind::Reply {
                flight,
                server_epoch: Some(1),
            },
        )
        .emit(lengths)
    };
    let refused = |flight, lengths, body: usize| {
        Frame::parse(&reply(flight, lengths), 48 + body, server).unwrap_err()
    };
    let none = Lengths::default();
    // START away from the body's start; trailers before its end; offsets that overflow.
    let away = Flight {
        start: true,
        offset: 1,
        ..NOTHING
    };
    assert_eq!(refused(away, none, 0), FrameError::StartOffset(1));
    let early = Flight {
        trailers: true,
        ..NOTHING
    };
    assert_eq!(refused(early, none, 0), FrameError::EarlyTrailers);
    let total = Flight {
        trailers: true,
        total: Some(9),
        ..NOTHING
    };
    assert!(Frame::parse(&reply(total, none), 48, server).is_ok());
    let end = Flight {
        offset: u64::MAX,
        ..NOTHING
    };
    assert_eq!(refused(end, none, 1), FrameError::PastEnd);
    let past = Flight {
        offset: 9,
        total: Some(9),
        ..NOTHING
    };
    assert_eq!(refused(past, none, 1), FrameError::PastEnd);
    // Metadata without its flag.
    let head = Lengths { head: 1, ..none };
    assert_eq!(refused(NOTHING, head, 1), FrameError::Head);
    let tail = Lengths { tail: 1, ..none };
    assert_eq!(refused(NOTHING, tail, 1), FrameError::Tail);
    // A client's DATA has no metadata; a server's may have.
    let start = frame(
        1,
        Kind::Data {
            flight: Flight {
                start: true,
                ..NOTHING
            },
            credit: 0,
        },
    )
    .emit(none);
    assert_eq!(
        Frame::parse(&start, 48, Sender::ClientRequest).unwrap_err(),
        FrameError::Head
    );
    assert!(Frame::parse(&start, 48, Sender::ServerRequest).is_ok());
}

#[test]
fn control_frames_carry_nothing_and_have_known_codes() {
    let ping = frame(0, Kind::Ping { nonce: 1 }).emit(Lengths::default());
    let refuse = |bytes: &[u8], len| Frame::parse(bytes, len, Sender::ClientRequest).unwrap_err();
    assert_eq!(refuse(&ping, 49), FrameError::Carries(6));
    let mut numbered = ping;
    numbered[23] = 5;
    assert_eq!(refuse(&numbered, 48), FrameError::Call(5));
    let reason = CancelReason::Cancelled;
    let mut cancel = frame(1, Kind::Cancel { reason }).emit(Lengths::default());
    cancel[39] = 2;
    assert_eq!(refuse(&cancel, 48), FrameError::Code(2));
    let reason = ResetReason::Protocol;
    let mut reset = frame(1, Kind::Reset { reason }).emit(Lengths {
        head: 1,
        ..Lengths::default()
    });
    let server = Sender::ServerResponse;
    assert_eq!(
        Frame::parse(&reset, 49, server).unwrap_err(),
        FrameError::Carries(0x85)
    );
    reset[43] = 0;
    for code in [0, 8, 255] {
        reset[31] = code;
        assert_eq!(
            Frame::parse(&reset, 48, server).unwrap_err(),
            FrameError::Code(code.into())
        );
    }
}

#[test]
fn no_bytes_make_the_parser_panic() {
    let mut random = crate::metadata::tests::Random(7);
    let senders = [
        Sender::ClientRequest,
        Sender::ServerRequest,
        Sender::ServerResponse,
        Sender::ClientResponse,
    ];
    let mut accepted = 0;
    for round in 0..200_000 {
        let mut bytes = if round % 4 == 0 {
            (0..random.below(80)).map(|_| random.next() as u8).collect()
        } else {
            hex(VECTORS[random.below(VECTORS.len())].0)
        };
        for _ in 0..random.below(4) {
            if let Some(at) = bytes
                .len()
                .checked_sub(1)
                .map(|last| random.below(last + 1))
            {
                bytes[at] = [0, 1, 0x7F, 0x80, 0xFF, random.next() as u8][random.below(6)];
            }
        }
        let sender = senders[random.below(4)];
        if let Ok((frame, lengths)) = Frame::parse(&bytes, bytes.len(), sender) {
            accepted += 1;
            let used = usize::from(lengths.header) + (lengths.head + lengths.tail) as usize;
            assert_eq!(used + lengths.body, bytes.len());
            let emitted = frame.emit(lengths);
            // What was understood is written again; only a longer header is cut.
            let again = Frame::parse(
                &emitted,
                48 + used + lengths.body - lengths.header as usize,
                sender,
            );
            assert_eq!(again.map(|(frame, _)| frame), Ok(frame));
        }
    }
    assert!(accepted > 1_000, "{accepted}");
}
