//! [`Capture`]: packets as a pcap file that Wireshark opens.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrayvec::ArrayVec;

use super::endpoint::lock;
use crate::engine::wire::Carrier;
use crate::engine::{Datagram, Segment, Transmit};
use crate::error::BindError;

/// pcap with nanoseconds, in our byte order.
const MAGIC: u32 = 0xa1b2_3c4d;

/// Packets begin with their IP header.
const LINKTYPE_RAW: u32 = 101;

/// The longest packet that is kept whole: all of them.
const SNAP_LEN: u32 = 262_144;

/// Packets are written when there are this many bytes of them, or after [`WRITE_INTERVAL`].
const WRITE_BYTES: usize = 256 * 1024;
const WRITE_INTERVAL: Duration = Duration::from_millis(200);

/// Bytes that wait to be written, at most: a disk that is slower loses packets.
const MAX_PENDING: usize = 16 << 20;

/// Destinations whose source address is remembered.
const MAX_SOURCES: usize = 4096;

const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_HOMA: u8 = 146;
const TTL: u8 = 64;

/// A file that packets are written to, by a thread of its own.
#[derive(Debug)]
pub(super) struct Capture {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    /// For the writer.
    wake: Condvar,
    /// For those who want to write to the same file next.
    closed: Condvar,
}

impl Shared {
    fn close(&self) {
        let mut pending = lock(&self.pending);
        pending.closed = true;
        pending.bytes = Vec::new();
        self.closed.notify_all();
    }

    fn wait_until_closed(&self) {
        let pending = lock(&self.pending);
        let writing = |pending: &mut Pending| !pending.closed;
        drop(self.closed.wait_while(pending, writing));
    }
}

#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    /// How many packets these are.
    packets: u64,
    /// Packets that found no room, or could not be written.
    missed: u64,
    /// Nothing more is written: the capture ends, or the file has failed.
    ended: bool,
    /// The writer is done with the file.
    closed: bool,
    /// From which address the system sends to each.
    sources: HashMap<IpAddr, IpAddr>,
}

/// Those that are open: endpoints with the same file share it.
static OPEN: Mutex<Vec<Open>> = Mutex::new(Vec::new());

/// A capture that is open, or whose last packets are still being written.
struct Open {
    path: PathBuf,
    capture: Weak<Capture>,
    shared: Arc<Shared>,
}

impl Capture {
    /// The capture to this file; begun, and what was in the file lost, if there is none.
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, BindError> {
        let failed = |source| BindError::Capture {
            path: path.to_owned(),
            source,
        };
        let mut open = lock(&OPEN);
        if let Some(same) = open.iter().find(|open| open.path == path) {
            if let Some(capture) = same.capture.upgrade() {
                return Ok(capture);
            }
            // What it still writes would land in the new file.
            same.shared.wait_until_closed();
        }
        open.retain(|open| open.path != path && open.capture.strong_count() > 0);
        let mut file = File::create(path).map_err(failed)?;
        file.write_all(&file_header()).map_err(failed)?;
        let shared = Arc::new(Shared::default());
        let writer = {
            let (shared, path) = (shared.clone(), path.to_owned());
            std::thread::Builder::new()
                .name("homa-pcap".into())
                .spawn(move || {
                    write_all(&shared, file, &path);
                    shared.close();
                })
                .map_err(failed)?
        };
        let capture = Arc::new(Self {
            shared: shared.clone(),
            writer: Some(writer),
        });
        open.push(Open {
            path: path.to_owned(),
            capture: Arc::downgrade(&capture),
            shared,
        });
        Ok(capture)
    }

    /// Packets that are missing because the file could not be written, or not fast enough.
    pub(super) fn missed(&self) -> u64 {
        lock(&self.shared.pending).missed
    }

    /// These were received, each by the socket with that address.
    pub(super) fn received<'a>(
        &self,
        carrier: Carrier,
        datagrams: impl Iterator<Item = (&'a Datagram, SocketAddr)>,
    ) {
        let mut pending = lock(&self.shared.pending);
        let time = since_epoch();
        for (datagram, socket) in datagrams {
            let ip = pending.local_ip(datagram.local, socket, datagram.from);
            let to = SocketAddr::new(ip, socket.port());
            let path = Way {
                carrier,
                from: datagram.from,
                to,
                tos: datagram.tos,
            };
            pending.push(time, path, &[&datagram.data]);
        }
        self.wake_writer(&pending);
    }

    /// These were sent from `local`.
    pub(super) fn sent(&self, carrier: Carrier, local: SocketAddr, transmits: &[Transmit]) {
        let mut pending = lock(&self.shared.pending);
        let time = since_epoch();
        for transmit in transmits {
            let ip = pending.local_ip(transmit.local, local, transmit.to);
            let path = Way {
                carrier,
                from: SocketAddr::new(ip, local.port()),
                to: transmit.to,
                tos: transmit.tos,
            };
            for segment in &transmit.segments {
                let slices: ArrayVec<&[u8], { Segment::MAX_SLICES }> = segment.slices().collect();
                pending.push(time, path, &slices);
            }
        }
        self.wake_writer(&pending);
    }

    fn wake_writer(&self, pending: &Pending) {
        if pending.bytes.len() >= WRITE_BYTES {
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for Capture {
    /// Waits until all is written.
    fn drop(&mut self) {
        lock(&self.shared.pending).ended = true;
        self.shared.wake.notify_one();
        if let Some(writer) = self.writer.take() {
            // It does not panic; if it did, the file is as good as it gets.
            let _ = writer.join();
        }
    }
}

/// The way of a packet.
#[derive(Clone, Copy, Debug)]
struct Way {
    carrier: Carrier,
    from: SocketAddr,
    to: SocketAddr,
    tos: u8,
}

impl Pending {
    /// Adds one packet, given as its parts.
    fn push(&mut self, time: Duration, path: Way, parts: &[&[u8]]) {
        if self.ended || self.bytes.len() >= MAX_PENDING {
            self.missed += 1;
            return;
        }
        self.packets += 1;
        let start = self.bytes.len();
        for word in [
            time.as_secs() as u32,
            time.subsec_nanos(),
            0, // The length, twice, when it is known.
            0,
        ] {
            self.bytes.extend_from_slice(&word.to_ne_bytes());
        }
        let packet = self.bytes.len();
        put_packet(&mut self.bytes, path, parts);
        let len = ((self.bytes.len() - packet) as u32).to_ne_bytes();
        self.bytes[start + 8..start + 12].copy_from_slice(&len);
        self.bytes[start + 12..start + 16].copy_from_slice(&len);
    }

    /// Our address in a packet to or from `peer`: as the packet tells, that of the `socket`, or
    /// the one from which the system sends to `peer`.
    fn local_ip(&mut self, told: Option<IpAddr>, socket: SocketAddr, peer: SocketAddr) -> IpAddr {
        match told {
            Some(ip) => ip,
            None if socket.ip().is_unspecified() => self.source_towards(peer),
            None => socket.ip(),
        }
    }

    fn source_towards(&mut self, to: SocketAddr) -> IpAddr {
        if self.sources.len() >= MAX_SOURCES {
            self.sources.clear();
        }
        *self.sources.entry(to.ip()).or_insert_with(|| {
            let unspecified = match to {
                SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
                SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
            };
            // Connecting a UDP socket sends nothing.
            UdpSocket::bind(unspecified)
                .and_then(|socket| {
                    socket.connect(to)?;
                    socket.local_addr()
                })
                .unwrap_or(unspecified)
                .ip()
        })
    }
}

/// Writes what is pending until the capture ends.
fn write_all(shared: &Shared, mut file: impl Write, path: &Path) {
    let mut chunk = Vec::new();
    loop {
        let mut pending = lock(&shared.pending);
        if !pending.ended && pending.bytes.len() < WRITE_BYTES {
            pending = shared
                .wake
                .wait_timeout(pending, WRITE_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let ended = pending.ended;
        std::mem::swap(&mut chunk, &mut pending.bytes);
        let packets = std::mem::take(&mut pending.packets);
        drop(pending);
        if let Err(error) = file.write_all(&chunk) {
            tracing::warn!(path = %path.display(), %error, "the packet capture ends here");
            let mut pending = lock(&shared.pending);
            pending.ended = true;
            // Where in the chunk the file ends is not known.
            pending.missed += packets + std::mem::take(&mut pending.packets);
            pending.bytes = Vec::new();
            return;
        }
        if ended {
            return;
        }
        chunk.clear();
    }
}

fn file_header() -> [u8; 24] {
    let mut header = [0; 24];
    header[..4].copy_from_slice(&MAGIC.to_ne_bytes());
    header[4..6].copy_from_slice(&2u16.to_ne_bytes());
    header[6..8].copy_from_slice(&4u16.to_ne_bytes());
    header[16..20].copy_from_slice(&SNAP_LEN.to_ne_bytes());
    header[20..].copy_from_slice(&LINKTYPE_RAW.to_ne_bytes());
    header
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// The packet with the headers that it has on the network.
fn put_packet(out: &mut Vec<u8>, path: Way, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let (protocol, len) = match path.carrier {
        Carrier::Udp => (PROTOCOL_UDP, len + 8),
        Carrier::Ip => (PROTOCOL_HOMA, len),
    };
    let addresses = put_ip_header(out, path, protocol, len);
    let start = out.len();
    if path.carrier == Carrier::Udp {
        for word in [path.from.port(), path.to.port(), len as u16, 0] {
            out.extend_from_slice(&word.to_be_bytes());
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    if path.carrier == Carrier::Udp {
        let pseudo = [u32::from(protocol), len as u32].map(u32::to_be_bytes);
        let sum = checksum(&[&addresses, pseudo.as_flattened(), &out[start..]]);
        // Zero means that there is none.
        let sum = if sum == 0 { u16::MAX } else { sum };
        out[start + 6..start + 8].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Returns both addresses, for checksums.
fn put_ip_header(out: &mut Vec<u8>, path: Way, protocol: u8, len: usize) -> Vec<u8> {
    // A socket for both IP versions shows IPv4 addresses as IPv6.
    match (path.from.ip().to_canonical(), path.to.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            let start = out.len();
            out.extend_from_slice(&[0x45, path.tos]);
            out.extend_from_slice(&((20 + len) as u16).to_be_bytes());
            // No id, "don't fragment", and no checksum so far.
            out.extend_from_slice(&[0, 0, 0x40, 0, TTL, protocol, 0, 0]);
            out.extend_from_slice(&addresses);
            let sum = checksum(&[&out[start..]]);
            out[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
            addresses
        }
        (from, to) => {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            let addresses = [octets(from), octets(to)].concat();
            out.extend_from_slice(&(0x6000_0000 | u32::from(path.tos) << 20).to_be_bytes());
            out.extend_from_slice(&(len as u16).to_be_bytes());
            out.extend_from_slice(&[protocol, TTL]);
            out.extend_from_slice(&addresses);
            addresses
        }
    }
}

/// The checksum of IP and UDP; all parts but the last have an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0;
    for part in parts {
        let (pairs, rest) = part.as_chunks::<2>();
        sum += pairs
            .iter()
            .map(|pair| u64::from(u16::from_be_bytes(*pair)))
            .sum::<u64>();
        sum += rest.first().map_or(0, |last| u64::from(*last) << 8);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn path(carrier: Carrier, from: &str, to: &str) -> Way {
        Way {
            carrier,
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            tos: 0xe0,
        }
    }

    #[test]
    fn headers_are_those_of_the_network() {
        let mut packet = Vec::new();
        let way4 = path(Carrier::Udp, "10.0.0.1:40000", "[::ffff:10.0.0.2]:4000");
        put_packet(&mut packet, way4, &[b"abc", b"de"]);
        // Computed by hand from RFC 791 and RFC 768.
        let expect = [
            0x45, 0xe0, 0, 33, 0, 0, 0x40, 0, 64, 17, 0x25, 0xea, 10, 0, 0, 1, 10, 0, 0, 2, 0x9c,
            0x40, 0x0f, 0xa0, 0, 13, 0x16, 0x2a, b'a', b'b', b'c', b'd', b'e',
        ];
        assert_eq!(packet, expect);

        packet.clear();
        let way6 = path(Carrier::Ip, "[fe80::1]:0", "[fe80::2]:0");
        put_packet(&mut packet, way6, &[b"abc"]);
        assert_eq!(packet[..8], [0x6e, 0, 0, 0, 0, 3, 146, 64]);
        assert_eq!((packet.len(), &packet[40..]), (43, &b"abc"[..]));
    }

    fn way() -> Way {
        path(Carrier::Udp, "10.0.0.1:1", "10.0.0.2:2")
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_file_that_fails_ends_the_capture() {
        let shared = Shared::default();
        let one = way();
        lock(&shared.pending).push(Duration::ZERO, one, &[b"x"]);
        write_all(&shared, Full, Path::new("full.pcap"));
        let mut pending = lock(&shared.pending);
        pending.push(Duration::ZERO, one, &[b"x"]);
        assert!(pending.ended && pending.bytes.is_empty());
        assert_eq!(
            pending.missed, 2,
            "the one lost with the file, and the later one"
        );
    }

    /// A disk that writes when it is told to.
    struct Slow(std::sync::mpsc::Receiver<()>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_file_is_not_begun_again_before_the_last_packets_are_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slow.pcap");
        let shared = Arc::new(Shared::default());
        let one = way();
        lock(&shared.pending).push(Duration::ZERO, one, &[b"x"]);
        lock(&shared.pending).ended = true;
        // Its last user is gone, its writer is not.
        lock(&OPEN).push(Open {
            path: path.clone(),
            capture: Weak::new(),
            shared: shared.clone(),
        });
        let (write, told) = std::sync::mpsc::channel();
        let next = std::thread::spawn({
            let path = path.clone();
            move || Capture::open(&path).unwrap()
        });
        let writer = std::thread::spawn({
            let path = path.clone();
            move || {
                write_all(&shared, Slow(told), &path);
                assert!(!path.exists(), "nobody has begun it");
                shared.close();
            }
        });
        write.send(()).unwrap();
        writer.join().unwrap();
        drop(next.join().unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), file_header());
    }

    #[test]
    fn what_a_slow_file_cannot_take_is_counted() {
        let mut pending = Pending::default();
        let one = way();
        let payload = vec![0; 9000];
        for _ in 0..MAX_PENDING / 9000 + 10 {
            pending.push(Duration::ZERO, one, &[&payload]);
        }
        assert!(pending.missed > 0);
        assert!(pending.bytes.len() < MAX_PENDING + 10_000);
    }
}
