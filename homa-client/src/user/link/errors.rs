//! What the network and the system say of packets that they refuse.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use tokio::net::UdpSocket;

use super::{QUOTE_LEN, Refused, socket_addr};
use crate::engine::Unreachable;

/// Empties a socket's error queue: what the network has said of destinations.
pub(super) fn drain(socket: &UdpSocket, refused: &mut Vec<Refused>) {
    // Bounded: a flood of errors must not hold the driver.
    for _ in 0..64 {
        let mut cmsgs = cmsg_space!([u8; 128], i32, u32);
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
            let errno = match cmsg {
                ControlMessageOwned::Ipv4RecvErr(error, _)
                | ControlMessageOwned::Ipv6RecvErr(error, _) => error.ee_errno,
                _ => continue,
            };
            let error = io::Error::from_raw_os_error(errno as i32);
            if let Some(reason) = unreachable_reason(&error) {
                let quote = message.iovs().next().unwrap_or_default().iter().copied();
                refused.push(Refused {
                    to,
                    reason,
                    quote: quote.take(QUOTE_LEN).collect(),
                });
            }
        }
    }
}

pub(super) fn unreachable_reason(error: &io::Error) -> Option<Unreachable> {
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
}
