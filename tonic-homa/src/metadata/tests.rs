use super::*;
use crate::frame::tests::hex;

/// A small generator of pseudo-random numbers, the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit.max(1)
    }
}

fn map(headers: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    map
}

fn encoded(headers: &HeaderMap) -> Vec<u8> {
    let mut out = Vec::new();
    encode_headers(headers, &mut out).unwrap();
    out
}

fn decoded(bytes: &[u8]) -> Result<HeaderMap, MetadataError> {
    decode_headers(Bytes::copy_from_slice(bytes))
}

#[test]
fn the_worked_sections_byte_for_byte() {
    let mut head = Vec::new();
    encode_path(b"/helloworld.Greeter/SayHello", &mut head).unwrap();
    encode_origin(b"10.0.0.1:4000", "homa", &mut head).unwrap();
    let headers = map(&[("te", "trailers"), ("content-type", "application/grpc")]);
    encode_headers(&headers, &mut head).unwrap();
    let e1 = hex(
        "401c2f68656c6c6f776f726c642e477265657465722f53617948656c6c6f
         410d31302e302e302e313a34303030 08 01 02",
    );
    assert_eq!(head, e1);
    let expected = RequestHead {
        path: "/helloworld.Greeter/SayHello".into(),
        authority: Some("10.0.0.1:4000".into()),
        scheme: Some("homa".into()),
        headers,
    };
    assert_eq!(decode_request(head.into()), Ok(expected));

    let e3 = hex("02 15 48106e6f2532307375636825323075736572 80 08782d69642d62696e 0471367572");
    let headers = map(&[
        ("content-type", "application/grpc"),
        ("grpc-status", "5"),
        ("grpc-message", "no%20such%20user"),
        ("x-id-bin", "q6ur"),
    ]);
    assert_eq!((encoded(&headers), decoded(&e3)), (e3, Ok(headers)));
    assert_eq!(encoded(&map(&[("grpc-status", "0")])), [0x10]);
}

#[test]
fn every_constant_id() {
    for (id, name, value) in PAIRS {
        if name.starts_with(':') {
            let head = decode_request(vec![0x40, 1, b'/', id].into()).unwrap();
            assert_eq!(
                (name, head.scheme.unwrap()),
                (":scheme", Bytes::from(value))
            );
            let mut out = Vec::new();
            encode_origin(b"", value, &mut out).unwrap();
            assert_eq!(out, [0x41, 0, id]);
        } else {
            let headers = map(&[(name, value)]);
            assert_eq!(encoded(&headers), [id]);
            assert_eq!(decoded(&[id]), Ok(headers));
        }
    }
    for (id, name) in NAMES {
        if name.starts_with(':') {
            assert_eq!(decoded(&[id, 1, b'/']), Err(MetadataError::Pseudo));
        } else {
            let headers = map(&[(name, "rare value")]);
            let bytes = [&[id, 10], b"rare value".as_slice()].concat();
            assert_eq!((encoded(&headers), decoded(&bytes)), (bytes, Ok(headers)));
        }
    }
    // 0x10 + code.
    for code in 0..=16_u8 {
        assert_eq!(
            decoded(&[0x10 + code]),
            Ok(map(&[("grpc-status", &code.to_string())]))
        );
    }
    let known: Vec<u8> = PAIRS
        .iter()
        .map(|(id, ..)| *id)
        .chain(NAMES.iter().map(|(id, _)| *id))
        .collect();
    for id in (0..=0x7F)
        .filter(|id| !known.contains(id))
        .chain(0x81..=0xFF)
    {
        assert_eq!(decoded(&[id, 0]), Err(MetadataError::Entry(id)), "{id:#x}");
    }
}

#[test]
fn order_repeats_and_long_values_are_kept() {
    let long = "v".repeat(70_000);
    let headers = map(&[
        ("x-a", "1"),
        ("x-b", ""),
        ("x-a", "2"),
        ("authorization", &long),
        ("x-c-bin", "AQID"),
        ("content-type", "application/grpc"),
        ("x-a", "1"),
    ]);
    let back = decoded(&encoded(&headers)).unwrap();
    assert_eq!(back, headers);
    assert_eq!(
        back.get_all("x-a").iter().collect::<Vec<_>>(),
        ["1", "2", "1"]
    );
}

#[test]
fn hop_by_hop_headers_are_dropped_both_ways() {
    for name in DROPPED {
        assert_eq!(encoded(&map(&[(name, "1")])), []);
        let bytes = [&[0x80, name.len() as u8], name.as_bytes(), &[1, b'1']].concat();
        assert_eq!(decoded(&bytes), Ok(HeaderMap::new()));
    }
}

#[test]
fn nonsense_is_refused() {
    use MetadataError::*;
    let cases: [(&[u8], MetadataError); 10] = [
        (&[0x80], Truncated),
        (&[0x80, 2, b'a'], Truncated),
        (&[0x80, 1, b'a'], Truncated),
        (&[0x80, 1, b'a', 1], Truncated),
        (&[0x43, 0x80, 0x80, 0x80, 0], TooLong),
        (&[0x80, 0, 0], Name),
        (&[0x80, 1, b'A', 0], Name),
        (&[0x80, 2, b':', b'x', 0], Name),
        (&[0x80, 1, b'a', 1, b'\n'], Value),
        (&[0x08], Pseudo),
    ];
    for (bytes, error) in cases {
        assert_eq!(decoded(bytes), Err(error), "{bytes:x?}");
    }
    let requests: [(&[u8], MetadataError); 4] = [
        (&[0x01], NoPath),
        (&[], NoPath),
        (&[0x01, 0x40, 1, b'/'], Pseudo),
        (&[0x40, 1, b'/', 0x40, 1, b'/'], Pseudo),
    ];
    for (bytes, error) in requests {
        assert_eq!(
            decode_request(Bytes::copy_from_slice(bytes)),
            Err(error),
            "{bytes:x?}"
        );
    }
    assert_eq!(decoded(&[0x01; MAX_ENTRIES + 1]), Err(TooMany));
    assert!(decoded(&[0x01; MAX_ENTRIES]).is_ok());
    let huge = map(&[("x-a", &"v".repeat(1 << 21))]);
    assert_eq!(encode_headers(&huge, &mut Vec::new()), Err(TooLong));
}

#[test]
fn random_headers_survive_a_round_trip() {
    let mut random = Random(1);
    for _ in 0..2_000 {
        let mut headers = HeaderMap::new();
        for _ in 0..random.below(12) {
            let (name, value) = match random.below(3) {
                0 => {
                    let (_, name, value) = PAIRS[random.below(PAIRS.len())];
                    (name.to_owned(), value.to_owned())
                }
                1 => (
                    NAMES[random.below(NAMES.len())].1.to_owned(),
                    "x".repeat(random.below(300)),
                ),
                _ => (format!("x-{}", random.below(5)), random.next().to_string()),
            };
            if let Ok(name) = name.parse::<HeaderName>() {
                headers.append(name, value.parse().unwrap());
            }
        }
        assert_eq!(decoded(&encoded(&headers)), Ok(headers));
    }
}

#[test]
fn no_bytes_make_the_parser_panic() {
    let mut random = Random(3);
    let headers = map(&[
        ("te", "trailers"),
        ("x-a", "1"),
        ("user-agent", "me"),
        ("x-b-bin", "AA"),
    ]);
    let mut valid = Vec::new();
    encode_path(b"/a.B/C", &mut valid).unwrap();
    encode_origin(b"h:1", "ftp", &mut valid).unwrap();
    encode_headers(&headers, &mut valid).unwrap();
    let mut accepted = 0;
    for round in 0..200_000 {
        let mut bytes = if round % 2 == 0 {
            (0..random.below(40)).map(|_| random.next() as u8).collect()
        } else {
            valid.clone()
        };
        for _ in 0..random.below(3) {
            let at = random.below(bytes.len());
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        bytes.truncate(random.below(bytes.len() + 20));
        let section = Bytes::from(bytes);
        let _ = decode_headers(section.clone());
        accepted += usize::from(decode_request(section).is_ok());
    }
    assert!(accepted > 1_000, "{accepted}");
}
