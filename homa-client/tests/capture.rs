//! A capture holds every packet that was sent and received, byte for byte.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use homa_client::{BindError, Client, Config, Server};

/// One packet of a capture.
struct Captured {
    time: Duration,
    from: SocketAddr,
    to: SocketAddr,
    data: Vec<u8>,
}

/// Reads a pcap file of raw IPv4 packets that carry UDP, and checks their checksums.
fn parse(file: &[u8]) -> Vec<Captured> {
    let word = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap());
    assert_eq!(word(0), 0xa1b2_3c4d, "nanoseconds");
    assert_eq!(word(20), 101, "raw IP");
    let mut packets = Vec::new();
    let mut at = 24;
    while at < file.len() {
        let time = Duration::new(word(at).into(), word(at + 4));
        let len = word(at + 8) as usize;
        assert_eq!(len, word(at + 12) as usize);
        let ip = &file[at + 16..at + 16 + len];
        at += 16 + len;
        let short = |at: usize| u16::from_be_bytes([ip[at], ip[at + 1]]);
        assert_eq!((ip[0], ip[9]), (0x45, 17));
        assert_eq!(usize::from(short(2)), len);
        assert_eq!(usize::from(short(24)), len - 20);
        assert_eq!(sum(&ip[..20]), 0xffff);
        let pseudo = [&ip[12..20], &[0, 17], &ip[24..26]].concat();
        assert_eq!(sum(&[&pseudo, &ip[20..]].concat()), 0xffff);
        let addr = |at: usize| {
            let octets: [u8; 4] = ip[at..at + 4].try_into().unwrap();
            IpAddr::V4(Ipv4Addr::from(octets))
        };
        packets.push(Captured {
            time,
            from: SocketAddr::new(addr(12), short(20)),
            to: SocketAddr::new(addr(16), short(22)),
            data: ip[28..].to_vec(),
        });
    }
    packets
}

/// One's complement sum; all ones if the checksum in there is right.
fn sum(bytes: &[u8]) -> u32 {
    let mut sum = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

#[test]
fn every_packet_is_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let [client_file, server_file] = ["client", "server"].map(|name| folder.path().join(name));
    let [client_config, server_config] = [&client_file, &server_file].map(|file| {
        let mut config = Config::default();
        config.capture = Some(file.clone());
        config
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let before = SystemTime::now();
    let (addr, client_counters, server_counters) = runtime.block_on(async {
        let server = Arc::new(Server::bind(([127, 0, 0, 1], 0).into(), &server_config).unwrap());
        let addr = server.local_addr();
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Some(request) = accepting.accept().await {
                let (message, responder) = request.into_parts();
                responder.reply(message).unwrap();
            }
        });
        let client = Client::bind(&client_config).unwrap();
        for len in [100, 500_000, 100, 500_000] {
            let response = client.call(addr, vec![7; len].into()).await.unwrap();
            assert_eq!(response.len(), len);
        }
        assert!(server.shutdown(Duration::from_secs(10)).await);
        (addr, client.counters(addr), server.counters())
    });
    // Its endpoints close with it, and so do their captures.
    drop(runtime);

    let after = SystemTime::now();
    let client = parse(&std::fs::read(&client_file).unwrap());
    let server = parse(&std::fs::read(&server_file).unwrap());
    assert_eq!(client_counters.capture_missed, 0);
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    for (packets, counters, own_file) in [
        (&client, &client_counters, "client"),
        (&server, &server_counters, "server"),
    ] {
        for packet in packets {
            assert_eq!(packet.from.ip(), localhost);
            assert_eq!(packet.to.ip(), localhost);
            let time = SystemTime::UNIX_EPOCH + packet.time;
            assert!(before <= time && time <= after);
        }
        let from_server = |packet: &&Captured| packet.from == addr;
        let sent_by_server = packets.iter().filter(from_server).count() as u64;
        let sent_by_client = packets.len() as u64 - sent_by_server;
        let (sent, received) = match own_file {
            "client" => (sent_by_client, sent_by_server),
            _ => (sent_by_server, sent_by_client),
        };
        assert_eq!(sent, counters.packets_sent, "{own_file}");
        assert_eq!(received, counters.packets_received, "{own_file}");
    }
    // What one has received, the other has sent: the same bytes between the same addresses.
    for (receiver, sender, by_server) in [(&client, &server, true), (&server, &client, false)] {
        let sent: HashSet<_> = sender
            .iter()
            .map(|packet| (packet.to, &packet.data))
            .collect();
        let mut received = receiver
            .iter()
            .filter(|packet| (packet.from == addr) == by_server)
            .map(|packet| (packet.to, &packet.data));
        assert!(received.all(|packet| sent.contains(&packet)));
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_made_is_told() {
    let mut config = Config::default();
    config.capture = Some("/nowhere/at/all.pcap".into());
    let error = Client::bind(&config).unwrap_err();
    assert!(matches!(error, BindError::Capture { .. }), "{error:?}");
    assert!(
        error.to_string().contains("/nowhere/at/all.pcap"),
        "{error}"
    );
}
