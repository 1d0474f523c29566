//! What the network and the system say of packets that they refuse.

use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{self, sock_extended_err};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};

use super::batch::socket_addr;
use super::socket::LinkSocket;
use super::{QUOTE_LEN, Refusal, Refused, Sent};
use crate::engine::wire::Carrier;
use crate::engine::{Transmit, Unreachable};

/// Packets of this size pass wherever IPv6 does; taken where the system does not tell.
const SAFE_MTU: usize = 1280;

/// How often a send is tried again that may have failed because of an earlier packet.
const RETRIES: usize = 3;

/// Calls `send` until what it says is about the packets that it sends: the network's answer to an
/// earlier packet, maybe of another peer, is reported by the next call, whatever that is. It is in
/// the error queue, too, and the call has sent nothing.
pub(super) fn past_stale<T>(
    errors_queued: &mut bool,
    mut send: impl FnMut() -> nix::Result<T>,
) -> io::Result<T> {
    let mut result = send();
    for _ in 0..RETRIES {
        match result {
            Err(errno) if may_be_stale(errno) => {
                *errors_queued = true;
                result = send();
            }
            _ => break,
        }
    }
    Ok(result?)
}

fn may_be_stale(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ECONNREFUSED
            | Errno::EHOSTUNREACH
            | Errno::EHOSTDOWN
            | Errno::ENETUNREACH
            | Errno::EMSGSIZE
            | Errno::EPROTO
            | Errno::ENOPROTOOPT
            | Errno::EOPNOTSUPP
            | Errno::EACCES
    )
}

/// Notes in `sent` that `transmit` was refused with `error`, if that says something of its
/// destination.
pub(super) fn note(
    socket: &LinkSocket,
    carrier: Carrier,
    transmit: &Transmit,
    error: &io::Error,
    sent: &mut Sent,
) {
    let refusal = if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) {
        drain(socket, carrier, &mut sent.refused);
        let mtu = told_mtu(&sent.refused, transmit.to.ip()).unwrap_or(SAFE_MTU);
        Refusal::TooLong { mtu }
    } else {
        match unreachable_reason(error) {
            // "Connection refused" is always about an earlier packet.
            None | Some(Unreachable::Port) => return,
            Some(reason) => Refusal::Unreachable(reason),
        }
    };
    sent.refused.push(Refused::of(transmit, refusal));
}

/// The latest that was said of the path to `ip`. The system names no port when it refuses a packet
/// itself.
fn told_mtu(refused: &[Refused], ip: IpAddr) -> Option<usize> {
    let ip = ip.to_canonical();
    refused.iter().rev().find_map(|refused| {
        match (refused.to.ip().to_canonical() == ip, refused.refusal) {
            (true, Refusal::TooLong { mtu }) => Some(mtu),
            _ => None,
        }
    })
}

/// Empties a socket's error queue: what the network has said of destinations.
pub(super) fn drain(socket: &LinkSocket, carrier: Carrier, refused: &mut Vec<Refused>) {
    // Bounded: a flood of errors must not hold the driver.
    for _ in 0..64 {
        let mut cmsgs = cmsg_space!([u8; 128], i32, u32, libc::in6_pktinfo);
        let mut quoted = [0; QUOTE_LEN];
        let mut iov = [IoSliceMut::new(&mut quoted)];
        let message = recvmsg::<SockaddrStorage>(
            socket.as_raw_fd(),
            &mut iov,
            Some(&mut cmsgs),
            MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
        );
        let Ok(message) = message else { return };
        let Some(to) = message.address.as_ref().and_then(socket_addr) else {
            continue;
        };
        for cmsg in message.cmsgs().into_iter().flatten() {
            let refusal = match cmsg {
                ControlMessageOwned::Ipv4RecvErr(error, _)
                | ControlMessageOwned::Ipv6RecvErr(error, _) => refusal(carrier, &error),
                _ => continue,
            };
            if let Some(refusal) = refusal {
                let quote = message.iovs().next().unwrap_or_default().iter().copied();
                refused.push(Refused {
                    to,
                    refusal,
                    quote: quote.take(QUOTE_LEN).collect(),
                });
            }
        }
    }
}

/// What an entry of the error queue means (`homa-protocol` A.10, B.11). Exceeded hop limits and
/// the like may pass and fail nothing.
fn refusal(carrier: Carrier, error: &sock_extended_err) -> Option<Refusal> {
    let too_long = Refusal::TooLong {
        mtu: error.ee_info as usize,
    };
    let protocol = match carrier {
        Carrier::Ip => Unreachable::Protocol,
        // A host without UDP.
        Carrier::Udp => Unreachable::Host,
    };
    let reason = match (error.ee_origin, error.ee_type, error.ee_code) {
        (libc::SO_EE_ORIGIN_LOCAL, _, _) => {
            return (error.ee_errno == Errno::EMSGSIZE as u32).then_some(too_long);
        }
        (libc::SO_EE_ORIGIN_ICMP, 3, 4) | (libc::SO_EE_ORIGIN_ICMP6, 2, _) => {
            return Some(too_long);
        }
        (libc::SO_EE_ORIGIN_ICMP, 3, 2) | (libc::SO_EE_ORIGIN_ICMP6, 4, 1) => protocol,
        (libc::SO_EE_ORIGIN_ICMP, 3, 3) | (libc::SO_EE_ORIGIN_ICMP6, 1, 4) => Unreachable::Port,
        (libc::SO_EE_ORIGIN_ICMP, 3, 0 | 6 | 11) | (libc::SO_EE_ORIGIN_ICMP6, 1, 0) => {
            Unreachable::Network
        }
        (libc::SO_EE_ORIGIN_ICMP, 3, 9 | 10 | 13) | (libc::SO_EE_ORIGIN_ICMP6, 1, 1 | 5 | 6) => {
            Unreachable::Refused
        }
        (libc::SO_EE_ORIGIN_ICMP, 3, _) | (libc::SO_EE_ORIGIN_ICMP6, 1, _) => Unreachable::Host,
        _ => return None,
    };
    Some(Refusal::Unreachable(reason))
}

/// What a send's error says of its destination.
fn unreachable_reason(error: &io::Error) -> Option<Unreachable> {
    match Errno::from_raw(error.raw_os_error()?) {
        Errno::ECONNREFUSED => Some(Unreachable::Port),
        Errno::EHOSTUNREACH | Errno::EHOSTDOWN => Some(Unreachable::Host),
        Errno::ENETUNREACH | Errno::ENETDOWN => Some(Unreachable::Network),
        Errno::EINVAL | Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT => Some(Unreachable::Address),
        Errno::EPERM | Errno::EACCES => Some(Unreachable::Refused),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_from_errors_of_the_moment() {
        let reason = |errno: Errno| unreachable_reason(&io::Error::from(errno));
        assert_eq!(reason(Errno::ECONNREFUSED), Some(Unreachable::Port));
        assert_eq!(reason(Errno::ENETUNREACH), Some(Unreachable::Network));
        assert_eq!(reason(Errno::EINVAL), Some(Unreachable::Address));
        assert_eq!(reason(Errno::EPERM), Some(Unreachable::Refused));
        assert_eq!(reason(Errno::ENOBUFS), None);
        assert_eq!(reason(Errno::EMSGSIZE), None);
    }

    /// Statement 82, for both IP versions; the numbers are those of RFC 792 and RFC 4443.
    #[test]
    fn icmp_is_told_apart() {
        let said = |carrier, origin, kind, code| {
            let error = sock_extended_err {
                ee_errno: Errno::EMSGSIZE as u32,
                ee_origin: origin,
                ee_type: kind,
                ee_code: code,
                ee_pad: 0,
                ee_info: 1400,
                ee_data: 0,
            };
            refusal(carrier, &error)
        };
        let (local, v4, v6) = (
            libc::SO_EE_ORIGIN_LOCAL,
            libc::SO_EE_ORIGIN_ICMP,
            libc::SO_EE_ORIGIN_ICMP6,
        );
        let too_long = Some(Refusal::TooLong { mtu: 1400 });
        let unreachable = |reason| Some(Refusal::Unreachable(reason));
        for (origin, kind, code, expected) in [
            (local, 0, 0, too_long),
            (v4, 3, 4, too_long),
            (v6, 2, 0, too_long),
            (v4, 3, 0, unreachable(Unreachable::Network)),
            (v6, 1, 0, unreachable(Unreachable::Network)),
            (v4, 3, 1, unreachable(Unreachable::Host)),
            (v6, 1, 3, unreachable(Unreachable::Host)),
            (v4, 3, 2, unreachable(Unreachable::Protocol)),
            (v6, 4, 1, unreachable(Unreachable::Protocol)),
            (v4, 3, 3, unreachable(Unreachable::Port)),
            (v6, 1, 4, unreachable(Unreachable::Port)),
            (v4, 3, 13, unreachable(Unreachable::Refused)),
            (v6, 1, 1, unreachable(Unreachable::Refused)),
            // Time exceeded, and a parameter problem that is not about the protocol.
            (v4, 11, 0, None),
            (v6, 3, 0, None),
            (v6, 4, 0, None),
        ] {
            assert_eq!(
                said(Carrier::Ip, origin, kind, code),
                expected,
                "origin {origin} type {kind} code {code}"
            );
        }
        assert_eq!(said(Carrier::Udp, v4, 3, 2), unreachable(Unreachable::Host));
    }
}
