//! What the kernel module sent, decoded, encoded again and played to an engine.
//!
//! Parts of captures of HomaModule `9edb958` are kept beside this file. The whole files are read
//! from the directory that `HOMA_CAPTURES` names, if it does.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use homa_client::Message;
use homa_client::engine::wire::{Carrier, Header, Kind, Packet, Route};
use homa_client::engine::{Event, RpcId};

use crate::fixture::*;

const LOST_PACKET: &str = include_str!("captures/lost-packet.txt");
const FIRST_CONTACT: &str = include_str!("captures/first-contact.txt");

/// One packet of a capture.
#[derive(Clone, Debug)]
struct Captured {
    /// The one who calls sent it.
    from_client: bool,
    tos: u8,
    bytes: Bytes,
}

impl Captured {
    fn kind(&self) -> u8 {
        self.bytes[11]
    }

    /// Offset of DATA.
    fn sequence(&self) -> u32 {
        u32::from_be_bytes(self.bytes[4..8].try_into().unwrap())
    }

    /// The same about another RPC.
    fn with_id(&self, id: u64) -> Bytes {
        let mut bytes = self.bytes.to_vec();
        bytes[20..28].copy_from_slice(&id.to_be_bytes());
        bytes.into()
    }
}

/// What the captured program filled a message of `length` bytes with.
fn words(length: u32, range: Range<u32>) -> Bytes {
    let byte = |at: u32| match at / 4 {
        0 | 1 => length.to_le_bytes()[at as usize % 4],
        word => (12_343 + word).to_le_bytes()[at as usize % 4],
    };
    range.map(byte).collect()
}

/// One of its messages of 100,000 bytes.
fn whole() -> Bytes {
    words(100_000, 0..100_000)
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// Reads one of the files kept here; its first lines say how.
fn kept(text: &str) -> Vec<Captured> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let packets = lines.map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        let mut bytes = unhex(fields[2]);
        let payload: u32 = fields[3].parse().unwrap();
        if payload > 0 {
            let sequence = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
            let length = u32::from_be_bytes(bytes[28..32].try_into().unwrap());
            bytes.extend_from_slice(&words(length, sequence..sequence + payload));
        }
        Captured {
            from_client: fields[0] == ">",
            tos: u8::from_str_radix(fields[1], 16).unwrap(),
            bytes: bytes.into(),
        }
    });
    packets.collect()
}

/// The Homa packets of a capture file: classic format, little-endian, Ethernet.
fn read_pcap(path: &Path) -> Vec<Captured> {
    let file = Bytes::from(std::fs::read(path).unwrap());
    assert_eq!(file[..4], 0xa1b2_c3d4_u32.to_le_bytes(), "{path:?}");
    let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!(u32_at(20), 1, "no Ethernet");
    // Whoever sends first calls.
    let mut client = None;
    let mut at = 24;
    let mut packets = Vec::new();
    while at < file.len() {
        let (start, len) = (at + 16, u32_at(at + 8));
        assert_eq!(len, u32_at(at + 12), "cut");
        at = start + len;
        let ip = file.slice(start + 14..at);
        let be_at = |at: usize| usize::from(u16::from_be_bytes([ip[at], ip[at + 1]]));
        let (protocol, tos, from, homa) = match ip[0] >> 4 {
            4 => (ip[9], ip[1], ip[15], 20..be_at(2)),
            _ => (ip[6], ip[0] << 4 | ip[1] >> 4, ip[23], 40..40 + be_at(4)),
        };
        assert_eq!(protocol, 146);
        packets.push(Captured {
            from_client: from == *client.get_or_insert(from),
            tos,
            bytes: ip.slice(homa),
        });
    }
    packets
}

/// The bytes that say something: neither doff, window nor checksum.
fn telling(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[12] = 0;
    bytes[14..18].fill(0);
    bytes
}

/// The packet decodes, and encodes to what it was.
fn check(captured: &Captured) -> Kind {
    let (common, packet) = Packet::parse(Carrier::Ip, &captured.bytes).unwrap();
    let route = Route {
        source_port: common.source_port,
        dest_port: common.dest_port,
        sender_id: common.sender_id,
        incarnation: 0,
    };
    let header = Header::emit(&route, &packet);
    let len = packet.kind().header_len();
    assert_eq!(
        telling(&header),
        telling(&captured.bytes[..len]),
        "{packet:?}"
    );
    if let Packet::Data(data) = &packet {
        let payload = &captured.bytes[len..];
        let range = data.offset()..data.offset() + payload.len() as u32;
        assert_eq!(payload, words(data.message_length, range));
    }
    assert_eq!(common.from_client(), captured.from_client);
    packet.kind()
}

#[test]
fn packets_kept_decode_and_encode_to_the_same_bytes() {
    let mut count = [0; Kind::ALL.len()];
    for captured in kept(LOST_PACKET).iter().chain(&kept(FIRST_CONTACT)) {
        count[check(captured).index()] += 1;
    }
    // DATA, GRANT, RESEND, RPC_UNKNOWN, BUSY, CUTOFFS, FREEZE, NEED_ACK, ACK and those of UDP.
    assert_eq!(count, [147, 11, 2, 0, 1, 2, 0, 9, 0, 0, 0, 0]);
}

#[test]
fn every_packet_of_the_whole_captures_decodes_and_encodes_to_the_same_bytes() {
    let Some(dir) = std::env::var_os("HOMA_CAPTURES") else {
        println!("skipped: HOMA_CAPTURES does not name the directory of the captures");
        return;
    };
    let mut packets = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "pcap") {
            let captured = read_pcap(&path);
            captured.iter().for_each(|captured| {
                check(captured);
            });
            println!("{}: {} packets", path.display(), captured.len());
            packets += captured.len();
        }
    }
    assert!(packets > 0, "no .pcap files there");
}

/// A host with the kernel's limits, so that it grants as far.
fn kernel_like() -> Host {
    Host::with(Carrier::Ip, |settings| {
        settings.max_incoming = 400_000;
        settings.boost_tail = false;
    })
}

/// `sent` is what the kernel sent there, but for the true offset where a kernel leaves it out.
#[track_caller]
fn check_sent(sent: &Sent, captured: &Captured) {
    let mut expected = telling(&captured.bytes);
    expected[20..28].copy_from_slice(&sent.bytes[20..28]);
    if sent.kind() == Kind::Data {
        expected[52..56].copy_from_slice(&captured.sequence().to_be_bytes());
        // Which earlier RPC is acknowledged by the way.
        expected[36..46].fill(0);
    }
    let route = |bytes: &[u8]| bytes[..4].to_vec();
    assert_eq!(route(&sent.bytes), route(&captured.bytes));
    assert_eq!(sent.tos, captured.tos, "{:?}", sent.packet);
    let mut ours = telling(&sent.bytes);
    ours[8..11].fill(0);
    assert_eq!(ours, expected, "{:?}", sent.packet);
}

/// The first packet of a kind that this side sent.
fn first(capture: &[Captured], from_client: bool, kind: Kind) -> &Captured {
    let mut packets = capture.iter();
    let found = packets
        .find(|captured| captured.from_client == from_client && captured.kind() == kind as u8);
    found.unwrap()
}

/// The capture's DATA of one side: first transmissions, and the retransmission.
fn data_of(capture: &[Captured], from_client: bool) -> (Vec<&Captured>, Option<&Captured>) {
    let data = capture.iter().filter(|captured| {
        captured.from_client == from_client && captured.kind() == Kind::Data as u8
    });
    let (again, first): (Vec<_>, Vec<_>) = data.partition(|captured| captured.bytes[48] == 1);
    (first, again.first().copied())
}

/// Tells the host the peer's cutoffs, which were exchanged before the capture began.
fn tell_cutoffs(host: &mut Host, from_client: bool, id: u64) {
    let mut cutoffs = first(&kept(FIRST_CONTACT), from_client, Kind::Cutoffs)
        .with_id(id)
        .to_vec();
    // It is about the call of that id, whose ports are these.
    let ports = if from_client {
        [CLIENT_PORT, SERVER_PORT]
    } else {
        [SERVER_PORT, CLIENT_PORT]
    };
    cutoffs[..2].copy_from_slice(&ports[0].to_be_bytes());
    cutoffs[2..4].copy_from_slice(&ports[1].to_be_bytes());
    let addr = if from_client {
        client_addr()
    } else {
        server_addr()
    };
    assert_eq!(host.hear_bytes(addr, cutoffs), None);
}

#[test]
fn an_engine_serves_the_captured_call_as_the_kernel_did() {
    let capture = kept(LOST_PACKET);
    let mut host = kernel_like();
    host.engine.open_port(4000, true);
    let hear = |host: &mut Host, captured: &Captured| {
        assert_eq!(host.hear_bytes(client_addr(), captured.bytes.clone()), None);
    };
    let ours = |kind| first(&capture, false, kind);
    // The request comes but for the packet that was lost; it is granted like the kernel did.
    let (request, again) = data_of(&capture, true);
    let lost = again.unwrap().sequence();
    let request: Vec<_> = request
        .into_iter()
        .filter(|part| part.sequence() != lost)
        .collect();
    hear(&mut host, request[0]);
    tell_cutoffs(&mut host, true, 900);
    let mut sent = host.sent();
    for captured in &request[1..] {
        hear(&mut host, captured);
        sent.extend(host.sent());
    }
    check_sent(sent.last().unwrap(), ours(Kind::Grant));
    assert!(sent.iter().all(|sent| sent.kind() == Kind::Grant));
    // What is missing is asked for, and comes.
    let asked = host.wait(ms(6));
    assert_eq!(asked.len(), 1);
    check_sent(&asked[0], ours(Kind::Resend));
    hear(&mut host, again.unwrap());
    let Some(Event::Request { rpc, message, .. }) = host.event() else {
        panic!()
    };
    assert!(message.clone().into_bytes() == whole());
    // The client asks how it stands.
    hear(&mut host, first(&capture, true, Kind::Resend));
    let sent = host.sent();
    check_sent(&sent[0], ours(Kind::Busy));
    // The response, granted by the client.
    host.engine.send_reply(host.now, rpc, message).unwrap();
    let mut sent = host.sent();
    hear(&mut host, first(&capture, true, Kind::Grant));
    sent.extend(host.sent());
    let (response, _) = data_of(&capture, false);
    assert_eq!(sent.len(), response.len());
    for (sent, captured) in sent.iter().zip(response) {
        check_sent(sent, captured);
    }
    check_sent(&host.wait(ms(3))[0], ours(Kind::NeedAck));
}

#[test]
fn an_engine_makes_the_captured_call_as_the_kernel_did() {
    let capture = kept(LOST_PACKET);
    let mut host = kernel_like();
    let (request, again) = data_of(&capture, true);
    let port = u16::from_be_bytes([request[0].bytes[0], request[0].bytes[1]]);
    host.engine.open_port(port, false);
    let call = |host: &mut Host, message: Message| -> RpcId {
        let (now, addr) = (host.now, server_addr());
        host.engine
            .send_request(now, port, addr, 4000, message, 0)
            .unwrap()
    };
    // An earlier call has brought the server's cutoffs.
    let earlier = host.start_call(1);
    tell_cutoffs(&mut host, false, earlier.id() ^ 1);
    host.sent();
    let rpc = call(&mut host, whole().into());
    let hear = |host: &mut Host, captured: &Captured| {
        let dropped = host.hear_bytes(server_addr(), captured.with_id(rpc.id() ^ 1));
        assert_eq!(dropped, None);
    };
    let ours = |kind| first(&capture, true, kind);
    let theirs = |kind| first(&capture, false, kind);
    let mut sent = host.sent();
    hear(&mut host, theirs(Kind::Grant));
    sent.extend(host.sent());
    assert_eq!(sent.len(), request.len());
    for (sent, captured) in sent.iter().zip(request) {
        check_sent(sent, captured);
    }
    hear(&mut host, theirs(Kind::Resend));
    let sent = host.sent();
    assert_eq!(sent.len(), 1);
    check_sent(&sent[0], again.unwrap());
    // No word of the response yet.
    let mine = |sent: Vec<Sent>| {
        sent.into_iter()
            .filter(|sent| sent.common.sender_id == rpc.id())
            .collect::<Vec<_>>()
    };
    check_sent(&mine(host.wait(ms(6)))[0], ours(Kind::Resend));
    hear(&mut host, theirs(Kind::Busy));
    let (response, _) = data_of(&capture, false);
    let mut sent = Vec::new();
    for captured in response {
        hear(&mut host, captured);
        sent.extend(mine(host.sent()));
    }
    let last = sent.iter().rfind(|sent| sent.kind() == Kind::Grant);
    check_sent(last.unwrap(), ours(Kind::Grant));
    let Some(Event::Response { message, .. }) = host.event() else {
        panic!()
    };
    assert!(message.into_bytes() == whole());
    hear(&mut host, theirs(Kind::NeedAck));
    let acks = mine(only(&host.sent(), Kind::Ack));
    assert_eq!((acks.len(), acks[0].bytes.len()), (1, 80));
}
