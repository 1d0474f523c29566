//! ICMP "port unreachable" for Homa ports that are not open here (`homa-protocol` B.11). The
//! system knows nothing of Homa ports, so on IP protocol 146 we have to say it ourselves.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, sendmsg};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::batch::Marks;
use super::raw::{IPPROTO_HOMA, destination};
use crate::engine::{Datagram, Time};
use crate::user::endpoint::lock;

/// Answers per second, at most; whoever gets none waits for its timeout.
const MAX_PER_SECOND: u32 = 100;

/// How long nothing is said after another socket was found that may own the ports.
const CROWDED: Duration = Duration::from_secs(1);

/// Bytes of a refused packet that come back, so that answers have at most 576 bytes on IPv4
/// (RFC 1812) and 1,280 on IPv6 (RFC 4443).
const QUOTE_V4: usize = 576 - 20 - ICMP_HEADER - 20;
const QUOTE_V6: usize = 1280 - 40 - ICMP_HEADER - 40;

const ICMP_HEADER: usize = 8;

/// Hop limit told in quoted headers; the real one is not known any more, and nobody looks at it.
const HOP_LIMIT: u8 = 64;

/// Tells senders that their port is not open here.
#[derive(Debug)]
pub(super) struct Refuser {
    v4: Option<Socket>,
    v6: Option<Socket>,
    budget: Mutex<Budget>,
}

impl Refuser {
    pub(super) fn open(v4: bool, v6: bool) -> io::Result<Self> {
        let open = |domain, protocol| {
            let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
            socket.set_nonblocking(true)?;
            // "Return 0": it is for sending, and would get a copy of every ICMP message.
            socket.attach_filter(&[SockFilter::new(0x06, 0, 0, 0)])?;
            io::Result::Ok(socket)
        };
        Ok(Self {
            v4: v4
                .then(|| open(Domain::IPV4, Protocol::ICMPV4))
                .transpose()?,
            v6: v6
                .then(|| open(Domain::IPV6, Protocol::ICMPV6))
                .transpose()?,
            budget: Mutex::default(),
        })
    }

    /// Answers `datagram`, which was sent to `local`, if nobody else can have been meant. Returns
    /// whether that is so, `None` if it was not looked up.
    pub(super) fn refuse(&self, now: Time, datagram: &Datagram, local: IpAddr) -> Option<bool> {
        let data = &datagram.data[..];
        let (from, local) = (datagram.from.ip().to_canonical(), local.to_canonical());
        if !lock(&self.budget).take(now) {
            return None;
        }
        let (socket, answer, sockets) = match (from, local) {
            (IpAddr::V4(from), IpAddr::V4(local)) if is_host(from) => {
                let answer = unreachable_v4(from, local, datagram.tos, data);
                (&self.v4, answer, "/proc/thread-self/net/raw")
            }
            (IpAddr::V6(from), IpAddr::V6(local))
                if !from.is_multicast() && !from.is_unspecified() =>
            {
                let answer = unreachable_v6(from, local, datagram.tos, data);
                (&self.v6, answer, "/proc/thread-self/net/raw6")
            }
            _ => return None,
        };
        // Looked up each time: a process that was started meanwhile may own the port.
        let alone = std::fs::read_to_string(sockets)
            .is_ok_and(|list| count_sockets(&list, IPPROTO_HOMA) == 1);
        if !alone {
            lock(&self.budget).be_quiet(now);
            return Some(false);
        }
        let Some(socket) = socket else {
            return Some(true);
        };
        let marks = Marks::new(from, Some(local), 0);
        let result = sendmsg(
            socket.as_raw_fd(),
            &[io::IoSlice::new(&answer)],
            &marks.cmsgs(),
            MsgFlags::MSG_DONTWAIT,
            Some(&destination(datagram.from)),
        );
        if let Err(error) = result {
            tracing::debug!(to = %from, %error, "port unreachable could not be sent");
        }
        Some(true)
    }
}

/// How much may be said.
#[derive(Debug, Default)]
struct Budget {
    second: Time,
    used: u32,
    quiet_until: Time,
}

impl Budget {
    fn take(&mut self, now: Time) -> bool {
        if now < self.quiet_until {
            return false;
        }
        if now.since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.used = 0;
        }
        self.used += 1;
        self.used <= MAX_PER_SECOND
    }

    fn be_quiet(&mut self, now: Time) {
        self.quiet_until = now + CROWDED;
    }
}

/// Whether an address can be that of one host (RFC 1122, 3.2.2).
fn is_host(ip: Ipv4Addr) -> bool {
    !(ip.is_multicast() || ip.is_broadcast() || ip.octets()[0] == 0 || ip.octets()[0] >= 240)
}

/// Sockets of a protocol in a list like `/proc/net/raw`, where it stands in place of the port.
fn count_sockets(list: &str, protocol: u8) -> usize {
    let port = format!(":{protocol:04X}");
    list.lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter(|local| local.ends_with(&port))
        .count()
}

/// ICMP type 3 code 3, quoting the packet with its IP header (RFC 792).
fn unreachable_v4(from: Ipv4Addr, local: Ipv4Addr, tos: u8, data: &[u8]) -> Vec<u8> {
    let mut header = [0; 20];
    header[0] = 0x45;
    header[1] = tos;
    header[2..4].copy_from_slice(&((20 + data.len()) as u16).to_be_bytes());
    header[6] = 0x40; // don't fragment
    header[8] = HOP_LIMIT;
    header[9] = IPPROTO_HOMA;
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&local.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());

    let mut answer = vec![3, 3, 0, 0, 0, 0, 0, 0];
    answer.extend_from_slice(&header);
    answer.extend_from_slice(&data[..data.len().min(QUOTE_V4)]);
    let sum = checksum(&answer);
    answer[2..4].copy_from_slice(&sum.to_be_bytes());
    answer
}

/// ICMPv6 type 1 code 4, quoting the packet with its IP header (RFC 4443). The system adds the
/// checksum.
fn unreachable_v6(from: Ipv6Addr, local: Ipv6Addr, tos: u8, data: &[u8]) -> Vec<u8> {
    let mut answer = vec![1, 4, 0, 0, 0, 0, 0, 0];
    answer.extend_from_slice(&[0x60 | tos >> 4, tos << 4, 0, 0]);
    answer.extend_from_slice(&(data.len() as u16).to_be_bytes());
    answer.extend_from_slice(&[IPPROTO_HOMA, HOP_LIMIT]);
    answer.extend_from_slice(&from.octets());
    answer.extend_from_slice(&local.octets());
    answer.extend_from_slice(&data[..data.len().min(QUOTE_V6)]);
    answer
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_is_what_was_sent() {
        let (from, local) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let data = [0xab; 2000];
        let answer = unreachable_v4(from, local, 0x20, &data);
        assert_eq!(answer.len(), 576 - 20);
        assert_eq!(answer[..2], [3, 3]);
        assert_eq!(checksum(&answer), 0, "of the message");
        assert_eq!(checksum(&answer[8..28]), 0, "of the quoted header");
        assert_eq!(answer[8..12], [0x45, 0x20, 0x07, 0xe4], "2,020 bytes");
        assert_eq!(answer[17], 146);
        assert_eq!(answer[20..28], [10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(answer[28..], data[..528]);
        assert_eq!(unreachable_v4(from, local, 0, &data[..61]).len(), 28 + 61);

        let (from, local) = (Ipv6Addr::LOCALHOST, "fe80::1".parse().unwrap());
        let answer = unreachable_v6(from, local, 0x20, &data);
        assert_eq!(answer.len(), 1280 - 40);
        assert_eq!(answer[..12], [1, 4, 0, 0, 0, 0, 0, 0, 0x62, 0, 0, 0]);
        assert_eq!(answer[12..16], [0x07, 0xd0, 146, 64]);
        assert_eq!(answer[16..32], from.octets());
        assert_eq!(answer[32..48], local.octets());
    }

    #[test]
    fn the_internet_checksum() {
        // The example of RFC 1071, section 3: the sum is 0xddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&bytes), !0xddf2);
        assert_eq!(checksum(&[0xff, 0xff, 0x01]), !0x0100);
    }

    #[test]
    fn only_sockets_of_the_protocol_count() {
        let list = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n\
             1: 00000000:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000\n\
           146: 00000000:0092 00000000:0000 07 00000000:00000000 00:00000000 00000000\n\
           146: 0100007F:0092 00000000:0000 07 00000000:00000000 00:00000000 00000000\n";
        assert_eq!(count_sockets(list, IPPROTO_HOMA), 2);
        assert_eq!(count_sockets(list, 1), 1);
        assert_eq!(count_sockets("", IPPROTO_HOMA), 0);
    }

    #[test]
    fn a_flood_gets_few_answers() {
        let mut budget = Budget::default();
        let at = |millis| Time::ZERO + Duration::from_millis(millis);
        let taken = |budget: &mut Budget, now| (0..1000).filter(|_| budget.take(now)).count();
        assert_eq!(taken(&mut budget, at(0)), 100);
        assert_eq!(taken(&mut budget, at(999)), 0);
        assert_eq!(taken(&mut budget, at(1000)), 100);
        budget.be_quiet(at(3000));
        assert_eq!(taken(&mut budget, at(3999)), 0);
        assert_eq!(taken(&mut budget, at(4000)), 100);
    }

    #[test]
    fn nothing_is_said_to_many() {
        for many in ["224.0.0.1", "255.255.255.255", "0.0.0.0", "240.0.0.1"] {
            assert!(!is_host(many.parse().unwrap()), "{many}");
        }
        assert!(is_host(Ipv4Addr::LOCALHOST));
    }
}
