//! A minute of hostile datagrams, and a service that does not care.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::*;
use homa_client::engine::DropReason;
use homa_client::engine::wire::{Cutoffs, Data, Grant, Header, Kind, Packet, Resend, Route};
use prost::Message as _;
use tonic_homa::frame::{CancelReason, Flight, Frame, HEADER_LEN, Lengths};
use tonic_homa::metadata;
use tonic_homa::transport::{Endpoint, Listener, Server};

const MINUTE: Duration = Duration::from_secs(60);
const CALL_INTERVAL: Duration = Duration::from_millis(100);

/// Datagrams per second. The point is what they say, not that they use up the machine.
const RATE: u32 = 10_000;

/// Not to be provoked from one host: it takes as many addresses as the table of peers holds.
const UNUSED: [DropReason; 2] = [
    // Buffers take the longest datagram there is.
    DropReason::Truncated,
    DropReason::PeerLimit,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_of_garbage_leaves_the_service_serving() {
    // Small enough for the flood to reach the limits.
    let mut config = homa_client::Config::default();
    config.protocol.max_rpcs_per_peer = 1000;
    config.protocol.pool_bytes = 16 << 20;
    let listener = Listener::bind_with("homa://127.0.0.1:0", config)
        .await
        .unwrap();
    let (uri, addr) = (listener.uri(), listener.local_addr());
    let monitor = listener.monitor().unwrap();
    let calls = listener.call_monitor();
    let service = Service::default();
    let router = Server::builder().add_service(big(service.clone()));
    tokio::spawn(router.serve_on([listener]));
    let endpoint = Endpoint::from_shared(uri).unwrap();
    let mut client = big_client(endpoint.connect().await.unwrap());
    // Everything that is allocated once is allocated now.
    for _ in 0..100 {
        client.call(ask("warm up")).await.unwrap();
    }
    let before = resident_bytes();

    let stop = Arc::new(AtomicBool::new(false));
    let live = Arc::new(AtomicU64::new(0));
    let flood = std::thread::spawn({
        let (stop, live) = (stop.clone(), live.clone());
        move || flood(addr, &live, &stop)
    });
    let victim = homa_client::Client::bind(&homa_client::Config::default()).unwrap();
    let mut latencies = Vec::new();
    let start = Instant::now();
    let mut ticks = tokio::time::interval(CALL_INTERVAL);
    while start.elapsed() < MINUTE {
        ticks.tick().await;
        // A new stream for the flood to meddle with, by a client that only opens it, and an old one
        // less.
        let number = live.load(Ordering::Relaxed) + 1;
        let opened = open_frame(FIRST_STREAM + number, "Chat", false);
        victim.call(addr, opened.into()).await.unwrap();
        if let Some(old) = number.checked_sub(LIVE_STREAMS) {
            let kind = tonic_homa::frame::Kind::Cancel {
                reason: CancelReason::Cancelled,
            };
            let cancel = frame(FIRST_STREAM + old, kind, 0).to_vec();
            victim.call(addr, cancel.into()).await.unwrap();
        }
        live.store(number, Ordering::Relaxed);
        let call = Instant::now();
        let reply = client.call(ask("still there?")).await.unwrap();
        assert_eq!(reply.into_inner().text, "still there?");
        latencies.push(call.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    let sent = flood.join().unwrap();
    let counters = monitor.counters().unwrap();

    latencies.sort();
    let p99 = latencies[latencies.len() * 99 / 100];
    println!(
        "{sent} datagrams; {} calls, p50 {:?}, p99 {p99:?}, max {:?}",
        latencies.len(),
        latencies[latencies.len() / 2],
        latencies[latencies.len() - 1]
    );
    for reason in DropReason::ALL {
        println!(
            "{:>12}: {}",
            reason.name(),
            counters.protocol.dropped(reason)
        );
    }
    for (name, value) in calls.counters().rows() {
        println!("{name:>17}: {value}");
    }
    assert!(p99 <= Duration::from_millis(50), "p99 {p99:?}");
    let counted = calls.counters();
    for count in [
        counted.streams,
        counted.cancelled,
        counted.malformed_frames,
        counted.unknown_calls,
        counted.protocol_errors,
        counted.duplicate_calls,
        counted.shrunk_credits,
        counted.early_pieces,
    ] {
        assert!(count > 0, "{counted:?}");
    }
    for reason in DropReason::ALL {
        let dropped = counters.protocol.dropped(reason);
        let expected = !UNUSED.contains(&reason);
        assert_eq!(dropped > 0, expected, "{}: {dropped}", reason.name());
    }

    // Clients that never acknowledge are given up after ten seconds, and so is what is kept of
    // finished calls.
    let patience = Instant::now() + Duration::from_secs(30);
    let settled = || {
        let counters = monitor.counters().unwrap();
        counters.protocol.live_rpcs == 0 && counters.protocol.pool_used == 0
    };
    while !settled() {
        assert!(Instant::now() < patience, "{:?}", monitor.counters());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(11)).await;
    client.call(ask("after it")).await.unwrap();
    let left = || (service.running(), calls.counters().stream_bytes);
    eventually("no stream is left", || left() == (0, 0)).await;
    let grown = resident_bytes().saturating_sub(before);
    println!("{} KiB more memory than before", grown / 1024);
    assert!(grown <= 8 << 20, "{grown} bytes more than before");
}

/// Throws datagrams at `to` until told to stop; returns how many.
fn flood(to: SocketAddr, live: &AtomicU64, stop: &AtomicBool) -> u64 {
    let mut random = Random(0x5eed);
    let sockets: Vec<UdpSocket> = (0..4)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let open = open_frame(1, "Call", true);
    let start = Instant::now();
    let mut sent = 0u64;
    let mut packet = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        // In bursts of a millisecond's worth, so that the pace holds.
        for _ in 0..RATE / 1000 {
            let socket = &sockets[random.below(4) as usize];
            if sent.is_multiple_of(2) {
                random_bytes(&mut random, &mut packet);
            } else {
                let live = live.load(Ordering::Relaxed);
                let request = match random.below(2) {
                    0 => open.clone(),
                    _ => stream_frame(&mut random, live),
                };
                bent_packet(&mut random, to.port(), &request, sent, &mut packet);
            }
            // A full socket loses it; so be it.
            let _ = socket.send_to(&packet, to);
            sent += 1;
        }
        let due = Duration::from_secs(1) * sent as u32 / RATE;
        if let Some(early) = due.checked_sub(start.elapsed()) {
            std::thread::sleep(early);
        }
    }
    sent
}

fn random_bytes(random: &mut Random, packet: &mut Vec<u8>) {
    // Now and then longer than any packet of ours.
    let longest = if random.below(20) == 0 { 12_000 } else { 1700 };
    packet.clear();
    packet.extend((0..random.below(longest)).map(|_| random.next() as u8));
}

/// A valid packet, with one of its fields changed.
fn bent_packet(random: &mut Random, port: u16, request: &[u8], number: u64, packet: &mut Vec<u8>) {
    // A few ids come again and again, most are new.
    let id = match random.below(4) {
        0 => 0x7000_0000 + 2 * random.below(200),
        _ => 0x8000_0000 + 2 * number,
    };
    let route = Route {
        source_port: 40_000,
        dest_port: port,
        sender_id: id,
        incarnation: 0x00ab_cdef,
    };
    // A whole request, or the first packet of a long one.
    let (length, incoming) = match random.below(3) {
        0 => (100_000, 40_000),
        _ => (request.len() as u32, request.len() as u32),
    };
    let data = Data {
        incoming,
        ..Data::new(0, length)
    };
    let valid = match random.below(16) {
        0 => Packet::Grant(Grant {
            offset: 60_000,
            priority: 0,
            prove_port: 0,
            bulk_port: 0,
        }),
        1 => Packet::Resend(Resend {
            offset: 0,
            length: Resend::ALL,
            priority: 7,
        }),
        2 => Packet::RpcUnknown(Default::default()),
        3 => Packet::Busy,
        4 => Packet::NeedAck,
        5 => Packet::Cutoffs(Cutoffs {
            lengths: [0, 0, 0, 0, 1_000_000, 15_000, 2800, 200],
            version: 1,
        }),
        6 => Packet::Freeze,
        7 => Packet::Ack(Default::default()),
        _ => Packet::Data(data),
    };
    packet.clear();
    packet.extend_from_slice(&Header::emit(&route, &valid));
    if valid.kind() == Kind::Data {
        packet.extend_from_slice(request);
    }
    // Fields as (offset, bytes); those behind the end of a short packet fall to its last byte.
    let (at, len) = FIELDS[random.below(FIELDS.len() as u64) as usize];
    let value = match random.below(4) {
        0 => [0; 8],
        1 => [0xff; 8],
        2 => (random.below(200_000) as u32)
            .to_be_bytes()
            .repeat(2)
            .try_into()
            .unwrap(),
        _ => random.next().to_be_bytes(),
    };
    for (index, byte) in value.iter().take(len).enumerate() {
        let at = (at + index).min(packet.len() - 1);
        packet[at] = *byte;
    }
    if random.below(20) == 0 {
        packet.truncate(random.below(packet.len() as u64) as usize);
    }
}

/// Source port, destination port, sequence, incarnation, type, doff, flags, version, checksum,
/// urgent, id, message length, incoming, ack, ack's port, cutoff version, retransmit, limit of
/// the response, offset; then of the gRPC frame: magic and kind, epoch, call, position, argument,
/// lengths.
const FIELDS: [(usize, usize); 25] = [
    (0, 2),
    (2, 2),
    (4, 4),
    (8, 3),
    (11, 1),
    (12, 1),
    (13, 1),
    (14, 2),
    (16, 2),
    (18, 2),
    (20, 8),
    (28, 4),
    (32, 4),
    (36, 8),
    (44, 2),
    (46, 2),
    (48, 1),
    (49, 1),
    (52, 4),
    (56, 8),
    (64, 8),
    (72, 8),
    (80, 8),
    (88, 8),
    (96, 8),
];

/// Calls before this one are no streams.
const FIRST_STREAM: u64 = 1_000;

/// Streams that are there to be meddled with at a time.
const LIVE_STREAMS: u64 = 16;

/// Epoch of all that the flood says.
const EPOCH: u64 = 1;

/// A call as the channel would send it, whole or with more to come.
fn open_frame(call: u64, method: &str, end: bool) -> Vec<u8> {
    let mut head = Vec::new();
    let path = format!("/tonic_homa.test.v1.Test/{method}");
    metadata::encode_path(path.as_bytes(), &mut head).unwrap();
    let kind = tonic_homa::frame::Kind::Open {
        flight: Flight {
            start: true,
            end,
            ..Flight::default()
        },
        deadline_us: 0,
        push: false,
    };
    let body = ask("flood").encode_to_vec();
    let prefix = (body.len() as u32).to_be_bytes();
    [
        &frame(call, kind, head.len())[..],
        &head,
        &[0],
        &prefix,
        &body,
    ]
    .concat()
}

/// A frame of one of the last streams, or of one that is about to come.
fn stream_frame(random: &mut Random, live: u64) -> Vec<u8> {
    use tonic_homa::frame::Kind;
    let call = FIRST_STREAM + (live + 2).saturating_sub(random.below(6));
    let number = match random.below(3) {
        0 => random.below(100),
        1 => random.below(200_000),
        _ => random.next(),
    };
    let len = random.below(200) as usize;
    let (kind, len) = match random.below(64) {
        // Rarely: it ends the stream.
        0 => (
            Kind::Cancel {
                reason: CancelReason::Cancelled,
            },
            0,
        ),
        1..16 => (
            Kind::Window {
                credit: number,
                stop: number.is_multiple_of(16),
            },
            0,
        ),
        16..32 => (
            Kind::Pull {
                from: number,
                most: random.next(),
            },
            0,
        ),
        _ => {
            let flight = Flight {
                end: random.below(16) == 0,
                total: (random.below(16) == 0).then_some(number),
                offset: number,
                ..Flight::default()
            };
            (Kind::Data { flight, credit: 0 }, len)
        }
    };
    let mut bytes = frame(call, kind, 0).to_vec();
    bytes.resize(bytes.len() + len, 0);
    bytes
}

fn frame(call: u64, kind: tonic_homa::frame::Kind, head: usize) -> [u8; HEADER_LEN] {
    let frame = Frame {
        epoch: EPOCH,
        call,
        going_away: false,
        kind,
    };
    frame.emit(Lengths {
        head: head as u32,
        ..Lengths::default()
    })
}

/// Memory of this process, flood and client included.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}
