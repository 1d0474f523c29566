//! IP protocol 146 on real raw sockets.

use std::io::{IoSliceMut, Read};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::host::{Host, pattern};
use homa_client::engine::DropReason;
use homa_client::engine::wire::{Data, Header, Kind, Packet, Route};
use homa_client::{
    BindError, CallError, Carrier, Client, Config, Executed, Server, Unreachable, blocking,
};
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::oneshot;

/// The sizes of statement 97.
const SIZES: [usize; 12] = [
    1, 100, 1424, 1425, 39_999, 40_000, 40_001, 65_535, 65_536, 65_537, 100_000, 1_000_000,
];

fn raw() -> Config {
    Config::for_carrier(Carrier::Ip)
}

/// Two hosts with a cable; the first is 10.0.1.1 and fd00:1::1.
fn pair() -> Option<(Host, Host)> {
    let (one, two) = (Host::new()?, Host::new()?);
    one.join(&two, 1);
    Some((one, two))
}

#[test]
fn every_size_comes_back_byte_for_byte() {
    let Some((one, two)) = pair() else { return };
    for (served, called) in [
        ("10.0.1.1:4000", "10.0.1.1:4000"),
        ("[fd00:1::1]:4000", "[fd00:1::1]:4000"),
        ("0.0.0.0:4000", "10.0.1.1:4000"),
        ("[::]:4000", "[fd00:1::1]:4000"),
        // IPv4 peers of an endpoint that takes both, on either side (A.12).
        ("[::]:4000", "10.0.1.1:4000"),
        ("[::]:4000", "[::ffff:10.0.1.1]:4000"),
        ("[::ffff:10.0.1.1]:4000", "[::ffff:10.0.1.1]:4000"),
    ] {
        for mtu in [1500, 9000] {
            for host in [&one, &two] {
                host.ip(&format!("link set veth1 mtu {mtu}"));
            }
            let mut config = raw();
            config.mtu = Some(mtu);
            let echo = one.serve(served, &config);
            assert_eq!(echo.addr, served.parse().unwrap());
            let to: SocketAddr = called.parse().unwrap();
            two.block_on(move || async move {
                let client = Client::bind(&config).unwrap();
                for len in SIZES {
                    let body = pattern(len);
                    let response = client.call(to, body.clone().into()).await;
                    let response = response.unwrap_or_else(|error| panic!("{to} {len}: {error}"));
                    assert!(response.into_bytes() == body, "{to}: {len} bytes");
                }
                let counters = client.counters(to);
                assert_eq!(counters.protocol.live_rpcs, 0);
                println!("{to}: {} RESENDs", counters.protocol.sent(Kind::Resend));
                assert_eq!(counters.send_errors, 0);
            });
            let counters = echo.stop();
            assert_eq!(counters.protocol.requests_delivered, SIZES.len() as u64);
        }
    }
}

/// A thread that waits, waits for the sockets of both IP versions.
#[test]
fn blocking_handles_receive_on_both_sockets() {
    let Some(host) = Host::new() else { return };
    host.block_on(|| async {
        let server = blocking::Server::bind("[::]:4002".parse().unwrap(), &raw()).unwrap();
        let serving = std::thread::spawn(move || {
            for _ in 0..6 {
                let (message, responder) = server.accept().unwrap().into_parts();
                responder.reply(message).unwrap();
            }
            server.shutdown(Duration::from_secs(5))
        });
        let client = blocking::Client::bind(&raw()).unwrap();
        for to in ["127.0.0.1:4002", "[::1]:4002"] {
            let to: SocketAddr = to.parse().unwrap();
            for len in [1, 100_000, 1_000_000] {
                let body = pattern(len);
                let response = client.call(to, body.clone().into()).unwrap();
                assert!(response.into_bytes() == body, "{to}: {len} bytes");
            }
        }
        assert!(serving.join().unwrap());
    });
}

/// Servers see who calls, and answer from the address that was called.
#[test]
fn addresses_are_told_with_homa_ports() {
    let Some(host) = Host::new() else { return };
    host.ip("addr add 10.9.9.9/32 dev lo");
    host.block_on(|| async {
        let server = Server::bind("[::]:4001".parse().unwrap(), &raw()).unwrap();
        let client = Client::bind(&raw()).unwrap();
        for to in ["10.9.9.9:4001", "127.0.0.1:4001", "[::1]:4001"] {
            let to: SocketAddr = to.parse().unwrap();
            let call = client.call(to, "hello".into());
            let request = server.accept().await.unwrap();
            let from = client.local_addr(to).unwrap();
            assert!(from.port() >= 32_768, "{from}");
            assert_eq!(request.peer().port(), from.port());
            assert_eq!(request.local_ip().unwrap().to_canonical(), to.ip());
            request.reply("hi".into()).unwrap();
            assert_eq!(call.await.unwrap().into_bytes(), "hi");
        }
    });
}

#[test]
fn servers_want_a_port_of_their_own() {
    let Some(host) = Host::new() else { return };
    host.block_on(|| async {
        let any = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 0);
        let server = Server::bind(any("127.0.0.1"), &raw()).unwrap();
        let addr = server.local_addr();
        assert!((1..32_768).contains(&addr.port()), "{addr}");
        for taken in [addr.ip(), "0.0.0.0".parse().unwrap()] {
            let taken = SocketAddr::new(taken, addr.port());
            let error = Server::bind(taken, &raw()).unwrap_err();
            assert!(matches!(error, BindError::AddressInUse { .. }), "{error}");
        }
        let error = Server::bind("127.0.0.1:32768".parse().unwrap(), &raw()).unwrap_err();
        assert!(matches!(error, BindError::PortOutOfRange { .. }), "{error}");
        let error = Server::bind("10.1.2.3:4000".parse().unwrap(), &raw()).unwrap_err();
        assert!(matches!(error, BindError::Socket { .. }), "{error}");
        let mut long = raw();
        long.protocol.max_message_bytes = 2_000_000;
        let error = Server::bind(any("127.0.0.1"), &long).unwrap_err();
        assert!(error.to_string().contains("on IP protocol 146"), "{error}");
        // Its port is free again once it is closed.
        assert!(server.shutdown(Duration::from_secs(5)).await);
        drop(server);
        Server::bind(addr, &raw()).unwrap();
    });
}

/// How a call to `to` fails, and after what time.
async fn failure(client: &Client, to: &str) -> (CallError, Duration) {
    let began = Instant::now();
    let result = client.call(to.parse().unwrap(), pattern(100).into()).await;
    (result.unwrap_err(), began.elapsed())
}

fn unreachable(error: &CallError) -> Option<(Unreachable, Executed)> {
    match error {
        CallError::PeerUnreachable {
            reason, executed, ..
        } => Some((*reason, *executed)),
        _ => None,
    }
}

/// Waits until nobody in a namespace has a socket on IP protocol 146. The keeper may hold those of an
/// endpoint that has ended for the rest of a turn, and a new one does not refuse packets beside others.
fn no_sockets(host: &Host) {
    let began = Instant::now();
    let in_use = || {
        let lists = ["raw", "raw6"].map(|list| format!("/proc/thread-self/net/{list}"));
        let lists = lists.map(|list| std::fs::read_to_string(list).unwrap());
        // The protocol stands in place of the port, in hexadecimal.
        lists.iter().any(|list| list.contains(":0092 "))
    };
    while host.run(in_use) {
        assert!(began.elapsed() < Duration::from_secs(10), "a socket stays");
    }
}

/// Statements 30, 31 and 82: ICMP port unreachable, which our own endpoint has to send.
#[test]
fn a_closed_port_is_told_by_icmp() {
    let Some((one, two)) = pair() else { return };
    for (served, to) in [
        ("10.0.1.1:4002", "10.0.1.1:4003"),
        ("0.0.0.0:4002", "10.0.1.1:4003"),
        ("[fd00:1::1]:4002", "[fd00:1::1]:4003"),
        ("[::]:4002", "[fd00:1::1]:4003"),
        ("[::]:4002", "10.0.1.1:4003"),
        ("[::]:4002", "[::ffff:10.0.1.1]:4003"),
    ] {
        no_sockets(&one);
        let echo = one.serve(served, &raw());
        two.block_on(move || async move {
            let client = Client::bind(&raw()).unwrap();
            let open = to.replace("4003", "4002").parse().unwrap();
            client.call(open, "are you there".into()).await.unwrap();
            let (error, took) = failure(&client, to).await;
            let expected = Some((Unreachable::Port, Executed::No));
            assert_eq!(unreachable(&error), expected, "{served} {to}: {error}");
            assert!(took < Duration::from_millis(90), "{took:?}");
            // Nothing happens to the others.
            client.call(open, "still there".into()).await.unwrap();
        });
        assert_eq!(
            echo.stop().protocol.dropped(DropReason::Port),
            1,
            "{served}"
        );
    }
}

/// Statement 31: a client's port takes no requests.
#[test]
fn a_client_is_no_server() {
    let Some((one, two)) = pair() else { return };
    let (port, told) = mpsc::channel();
    let (called, wait) = oneshot::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            one.block_on(|| async move {
                let client = Client::bind(&raw()).unwrap();
                let local = client.local_addr("10.0.1.2:1".parse().unwrap());
                port.send(local.unwrap().port()).unwrap();
                let _ = wait.await;
            });
        });
        let to = format!("10.0.1.1:{}", told.recv().unwrap());
        two.block_on(|| async move {
            let (error, _) = failure(&Client::bind(&raw()).unwrap(), &to).await;
            let expected = Some((Unreachable::Port, Executed::No));
            assert_eq!(unreachable(&error), expected, "{error}");
        });
        drop(called);
    });
}

/// With a second socket on the protocol the port may be another process's. When that is gone, the
/// endpoint notices.
#[test]
fn who_is_not_alone_keeps_silent_and_only_then() {
    let Some((one, two)) = pair() else { return };
    for ip in ["10.0.1.1", "[fd00:1::1]"] {
        let other = one.run(move || homa_socket(ip));
        let echo = one.serve(&format!("{ip}:4004"), &raw());
        two.block_on(move || async move {
            let client = Client::bind(&raw()).unwrap();
            let (error, _) = failure(&client, &format!("{ip}:4005")).await;
            assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
        });
        drop(other);
        two.block_on(move || async move {
            let client = Client::bind(&raw()).unwrap();
            // A sixteenth of the packets is looked at; each call sends some twenty.
            for _ in 0..50 {
                let (error, _) = failure(&client, &format!("{ip}:4005")).await;
                if unreachable(&error) == Some((Unreachable::Port, Executed::No)) {
                    return;
                }
            }
            panic!("alone, and still silent");
        });
        assert!(echo.stop().protocol.dropped(DropReason::Port) > 1);
    }
}

/// The system copies every packet to every socket of the protocol; most copies go no further.
#[test]
fn packets_for_others_are_thrown_away_unseen() {
    const CALLS: u64 = 2_000;
    let Some((one, two)) = pair() else { return };
    for (ip, ours) in [("10.0.1.1", "10.0.1.2"), ("[fd00:1::1]", "[fd00:1::2]")] {
        let echo = one.serve(&format!("{ip}:4006"), &raw());
        let to = echo.addr;
        let (busy, idle) = two.block_on(move || async move {
            let idle = Server::bind(format!("{ours}:4007").parse().unwrap(), &raw()).unwrap();
            let client = Client::bind(&raw()).unwrap();
            for _ in 0..CALLS {
                client.call(to, pattern(100).into()).await.unwrap();
            }
            (client.counters(to), idle.counters())
        });
        assert!(busy.packets_received >= CALLS);
        assert!(idle.packets_received > 0, "the first");
        assert!(
            idle.packets_received < CALLS / 8,
            "{}",
            idle.packets_received
        );
        echo.stop();
    }
}

/// Statement 82: all RPCs with the host fail.
#[test]
fn nobody_on_the_protocol_is_told_by_icmp() {
    let Some((_one, two)) = pair() else { return };
    for ip in ["10.0.1.1", "[fd00:1::1]"] {
        two.block_on(move || async move {
            let client = Client::bind(&raw()).unwrap();
            let [first, second] = [4000, 4001].map(|port| format!("{ip}:{port}"));
            let other = client.call(second.parse().unwrap(), pattern(100_000).into());
            let (error, took) = failure(&client, &first).await;
            let reason = unreachable(&error).map(|(reason, _)| reason);
            assert_eq!(reason, Some(Unreachable::Protocol), "{error}");
            assert!(took < Duration::from_millis(90), "{took:?}");
            let error = other.await.unwrap_err();
            let reason = unreachable(&error).map(|(reason, _)| reason);
            assert_eq!(reason, Some(Unreachable::Protocol), "{error}");
        });
    }
}

/// Another socket on the protocol, which gets a copy of everything.
fn homa_socket(ip: &str) -> Socket {
    let v6 = ip.contains(':');
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(146))).unwrap();
    socket.set_nonblocking(true).unwrap();
    if v6 {
        setsockopt(&socket, sockopt::Ipv6RecvTClass, &true).unwrap();
    } else {
        setsockopt(&socket, sockopt::IpRecvTos, &true).unwrap();
    }
    socket
}

/// TOS bytes and Homa packets that have come to `socket`.
fn overheard(socket: &Socket, v6: bool) -> Vec<(u8, Vec<u8>)> {
    let mut packets = Vec::new();
    loop {
        let mut buffer = [0; 2000];
        let mut cmsgs = cmsg_space!(i32);
        let mut iov = [IoSliceMut::new(&mut buffer)];
        let fd = socket.as_raw_fd();
        let flags = MsgFlags::empty();
        let Ok(message) = recvmsg::<SockaddrStorage>(fd, &mut iov, Some(&mut cmsgs), flags) else {
            return packets;
        };
        let tos = message.cmsgs().unwrap().find_map(|cmsg| match cmsg {
            ControlMessageOwned::Ipv4Tos(tos) => Some(tos),
            ControlMessageOwned::Ipv6TClass(tclass) => Some(tclass as u8),
            _ => None,
        });
        let len = message.bytes;
        let header = if v6 { 0 } else { 20 };
        packets.push((tos.unwrap(), buffer[header..len].to_vec()));
    }
}

/// Statements 13 and 50, and what HEAD leaves at zero, as they are on the wire.
#[test]
fn packets_are_marked_with_their_level() {
    let Some((one, two)) = pair() else { return };
    for ip in ["10.0.1.1", "[fd00:1::1]"] {
        let v6 = ip.contains(':');
        let spies = [
            one.run(move || homa_socket(ip)),
            two.run(move || homa_socket(ip)),
        ];
        let mut config = raw();
        // Every granted packet at the level of its grant.
        config.protocol.boost_tail = false;
        config.protocol.tos = [0, 8, 16, 24, 32, 40, 48, 56];
        let echo = one.serve(&format!("{ip}:4006"), &config);
        let to = echo.addr;
        two.block_on(move || async move {
            let client = Client::bind(&config).unwrap();
            client.call(to, pattern(100_000).into()).await.unwrap();
        });
        echo.stop();
        let mut seen = [0; 2];
        let mut asked_for = 0;
        for spy in spies {
            for (tos, packet) in overheard(&spy, v6) {
                let (common, packet) = Packet::parse(Carrier::Ip, &packet).unwrap();
                match packet {
                    // RESEND asks for a level of its own; on a busy machine before the packet has
                    // left for the first time.
                    Packet::Data(data) if data.retransmit => asked_for += 1,
                    Packet::Data(data) => {
                        assert_eq!(data.sequence, data.segment_offset);
                        assert!(data.offset() < 100_000);
                        // Before any CUTOFFS at level 6; granted bytes at the level of the grant.
                        let level = if data.offset() >= 40_000 { 0 } else { 6 };
                        let first = common.from_client();
                        assert!(!first || tos == level * 8, "{tos} at {}", data.offset());
                        seen[0] += 1;
                    }
                    _ => {
                        assert_eq!(tos, 56, "{:?}", common.kind);
                        seen[1] += 1;
                    }
                }
            }
        }
        let data = seen[0] + asked_for;
        assert!(seen[0] >= 71 && data >= 2 * 71, "{seen:?}, {asked_for}");
        assert!(seen[1] >= 3, "{seen:?}");
    }
}

/// What no endpoint of ours sends, but networks do.
#[test]
fn odd_packets_do_no_harm() {
    let Some((one, two)) = pair() else { return };
    let echo = one.serve("10.0.1.1:4007", &raw());
    let to = echo.addr;
    let route = Route {
        source_port: 40_000,
        dest_port: 4007,
        sender_id: 0x1000,
        incarnation: 0,
    };
    let data = |length| Header::emit(&route, &Packet::Data(Data::new(0, length)));
    let hello = [&data(5)[..], b"hello"].concat();
    // An unsegmented super-packet (B.5): it runs past its message's end.
    let huge = [&data(50_000)[..], &pattern(60_000)].concat();
    let with_options = ipv4_with_options(&hello);
    let answer = two.run(move || {
        let mut socket = homa_socket("10.0.1.1");
        let address = SocketAddr::new(to.ip(), 0).into();
        for packet in [&huge[..], &hello[..27], &[], &[0; 100]] {
            socket.send_to(packet, &address).unwrap();
        }
        let headers = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
        headers.send_to(&with_options, &address).unwrap();
        // The answer to the request within.
        socket.set_nonblocking(false).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        loop {
            let mut buffer = [0; 2000];
            let len = socket.read(&mut buffer).unwrap();
            let packet = &buffer[20..len];
            if let Ok((common, Packet::Data(_))) = Packet::parse(Carrier::Ip, packet) {
                assert_eq!(common.sender_id, 0x1001);
                return packet[56..].to_vec();
            }
        }
    });
    assert_eq!(answer, b"hello");
    two.block_on(move || async move {
        let client = Client::bind(&raw()).unwrap();
        client.call(to, pattern(100_000).into()).await.unwrap();
    });
    let counters = echo.stop().protocol;
    assert_eq!(counters.dropped(DropReason::Offset), 1);
    assert_eq!(counters.dropped(DropReason::Short), 2);
    assert_eq!(counters.requests_delivered, 2);
}

/// From 10.0.1.2 to 10.0.1.1, with four bytes of options that mean nothing.
fn ipv4_with_options(data: &[u8]) -> Vec<u8> {
    // The system fills in length and checksum.
    let mut packet = vec![0x46, 0, 0, 0, 0, 0, 0x40, 0, 64, 146, 0, 0];
    packet.extend_from_slice(&[10, 0, 1, 2, 10, 0, 1, 1]);
    packet.extend_from_slice(&[1, 1, 1, 1]);
    packet.extend_from_slice(data);
    packet
}

/// The error names the capability and what to do.
#[test]
fn without_the_capability_the_error_says_what_to_do() {
    const NOBODY: u32 = 65_534;
    if nix::unistd::geteuid().is_root() {
        // The same test once more, by somebody who may not open raw sockets.
        let this = std::env::current_exe().unwrap();
        let child = Command::new(this)
            .args(["--exact", std::thread::current().name().unwrap()])
            .uid(NOBODY)
            .gid(NOBODY)
            .output();
        match child {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success(), "{text}");
                assert!(text.contains("1 passed"), "{text}");
            }
            Err(error) => println!("skipped: this test cannot be run as another user: {error}"),
        }
        return;
    }
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { Server::bind("127.0.0.1:0".parse().unwrap(), &raw()) });
    match result {
        Ok(_) => println!("skipped: this process has CAP_NET_RAW"),
        Err(error) => {
            assert!(matches!(error, BindError::NoCapability { .. }), "{error}");
            let text = error.to_string();
            assert!(
                text.contains("CAP_NET_RAW") && text.contains("setcap"),
                "{text}"
            );
        }
    }
}
