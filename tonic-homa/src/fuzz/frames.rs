//! Parsing never panics, and what parses comes back from what it is encoded to.

use bytes::Bytes;

use super::{Source, fuzz};
use crate::frame::{Frame, HEADER_LEN, Kind, Lengths, MAGIC, Sender};
use crate::metadata;

const SENDERS: [Sender; 4] = [
    Sender::ClientRequest,
    Sender::ServerRequest,
    Sender::ServerResponse,
    Sender::ClientResponse,
];

const KINDS: [u8; 11] = [
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x81, 0x82, 0x83, 0x84, 0x85,
];

/// Hardly any bytes are a frame: most of the time the header is made to look like one.
fn message(source: &mut Source<'_>) -> Vec<u8> {
    let disguised = !source.once_in(4);
    let [kind, header_len, head, tail, small] = [(); 5].map(|()| source.u8());
    let mut bytes = source.take(usize::MAX).to_vec();
    if disguised && bytes.len() >= HEADER_LEN {
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = KINDS[usize::from(kind) % KINDS.len()];
        bytes[5] = HEADER_LEN as u8 + header_len % 4;
        let (head, tail) = (u32::from(head) % 32, u32::from(tail) % 32);
        bytes[40..44].copy_from_slice(&head.to_be_bytes());
        bytes[44..48].copy_from_slice(&tail.to_be_bytes());
        // Both in `pos` and in `arg` a small number is more often of use than another.
        for at in [24, 32] {
            if bytes[at].is_multiple_of(2) {
                bytes[at..at + 8].copy_from_slice(&u64::from(small % 16).to_be_bytes());
            }
        }
    }
    bytes
}

fn any_bytes(mut source: Source<'_>) {
    let bytes = message(&mut source);
    for sender in SENDERS {
        let Ok((frame, lengths)) = Frame::parse(&bytes, bytes.len(), sender) else {
            continue;
        };
        let (head, tail) = (lengths.head as usize, lengths.tail as usize);
        let sections = bytes.len() - usize::from(lengths.header);
        assert_eq!(head + tail + lengths.body, sections);
        let again = [
            &frame.emit(lengths)[..],
            &bytes[usize::from(lengths.header)..],
        ]
        .concat();
        let header = HEADER_LEN as u8;
        let same = (frame, Lengths { header, ..lengths });
        assert_eq!(Frame::parse(&again, again.len(), sender), Ok(same));
        // What is left is what handlers rely on.
        let flight = match frame.kind {
            Kind::Data { flight, .. } | Kind::Open { flight, .. } | Kind::Reply { flight, .. } => {
                Some(flight)
            }
            _ => None,
        };
        if let Some(flight) = flight {
            let end = flight.offset.checked_add(lengths.body as u64).unwrap();
            assert!(flight.total.is_none_or(|total| end <= total));
            assert!(head == 0 || flight.start);
            assert!(tail == 0 || flight.trailers);
        } else {
            let text = matches!(frame.kind, Kind::Reset { .. });
            assert!(head + tail == 0 && (lengths.body == 0 || text));
        }
    }
}

/// Entries of all forms, some of them broken.
fn section(source: &mut Source<'_>) -> Vec<u8> {
    const NAMES: [&[u8]; 8] = [
        b"x-id",
        b"x-id-bin",
        b"grpc-status",
        b"te",
        b"grpc-timeout",
        b"content-length",
        b"X-Upper",
        b"no name",
    ];
    let mut out = Vec::new();
    while !source.is_empty() {
        match source.below(8) {
            0 => out.push(source.u8()),
            1..=3 => out.push(1 + source.below(0x3F) as u8),
            4 | 5 => {
                out.push(0x40 + source.below(0x10) as u8);
                value(source, &mut out);
            }
            _ => {
                let name = NAMES[source.below(NAMES.len())];
                out.extend_from_slice(&[0x80, name.len() as u8]);
                out.extend_from_slice(name);
                value(source, &mut out);
            }
        }
    }
    out
}

fn value(source: &mut Source<'_>, out: &mut Vec<u8>) {
    let len = source.below(20);
    // Now and then one whose length takes two bytes.
    let times = if source.once_in(16) { 16 } else { 1 };
    let bytes = source.take(len).repeat(times);
    // Mostly the true length, and bytes that headers may have.
    let len = if source.once_in(16) {
        source.below(300)
    } else {
        bytes.len()
    };
    if len >= 0x80 {
        out.push(len as u8 | 0x80);
    }
    out.push(if len >= 0x80 { len >> 7 } else { len } as u8);
    let raw = source.once_in(8);
    let printable = |byte: &u8| if raw { *byte } else { b' ' + byte % 95 };
    out.extend(bytes.iter().map(printable));
}

fn any_metadata(mut source: Source<'_>) {
    let section = if source.once_in(4) {
        source.take(usize::MAX).to_vec()
    } else {
        section(&mut source)
    };
    let section = Bytes::from(section);
    if let Ok(headers) = metadata::decode_headers(section.clone()) {
        assert!(headers.len() <= metadata::MAX_ENTRIES);
        for dropped in metadata::DROPPED {
            assert!(!headers.contains_key(dropped));
        }
        let mut again = Vec::new();
        metadata::encode_headers(&headers, &mut again).unwrap();
        assert_eq!(metadata::decode_headers(again.into()), Ok(headers));
    }
    // The same with a path before it is that of a request.
    let mut request = Vec::new();
    metadata::encode_path(b"/a.B/C", &mut request).unwrap();
    request.extend_from_slice(&section);
    check_request(request.into());
    check_request(section);
}

fn check_request(section: Bytes) {
    let Ok(head) = metadata::decode_request(section) else {
        return;
    };
    let mut again = Vec::new();
    metadata::encode_path(&head.path, &mut again).unwrap();
    let scheme = head.scheme.as_deref().map(str::from_utf8);
    let origin = head.authority.as_deref().zip(scheme.and_then(Result::ok));
    if let Some((authority, scheme)) = origin {
        metadata::encode_origin(authority, scheme, &mut again).unwrap();
    }
    metadata::encode_headers(&head.headers, &mut again).unwrap();
    let mut expected = head.clone();
    if origin.is_none() {
        (expected.authority, expected.scheme) = (None, None);
    }
    assert_eq!(metadata::decode_request(again.into()), Ok(expected));
}

#[test]
fn bytes_that_are_a_frame_mean_what_they_encode_to() {
    fuzz!(any_bytes, 20_000, 160);
}

#[test]
fn metadata_that_decodes_means_what_it_encodes_to() {
    fuzz!(any_metadata, 20_000, 200);
}
