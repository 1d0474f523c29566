//! Socket options that both carriers need.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::{setsockopt_impl, sockopt_impl};
use socket2::Socket;

use crate::config::Config;

sockopt_impl!(
    /// What to do with packets that are longer than the path takes.
    Ipv4MtuDiscover,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::c_int
);
sockopt_impl!(
    /// The same of IPv6.
    Ipv6MtuDiscover,
    SetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU_DISCOVER,
    libc::c_int
);

/// Whether a socket of IPv6 on `ip` takes IPv4 as well.
pub(super) fn takes_v4(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(ip) => ip.is_unspecified() || ip.to_ipv4_mapped().is_some(),
    }
}

/// Buffers, and what is to be told of packets and of errors. Never fragments: a lost fragment
/// would cost a whole message, and the path's limit would stay unknown.
pub(super) fn configure(socket: &Socket, addr: SocketAddr, config: &Config) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // What is possible without privilege; more, where that is permitted.
    if setsockopt(socket, sockopt::RcvBufForce, &config.recv_buffer_bytes).is_err() {
        let _ = socket.set_recv_buffer_size(config.recv_buffer_bytes);
    }
    let _ = socket.set_send_buffer_size(config.recv_buffer_bytes);
    let best_effort = |result: nix::Result<()>, what: &str| {
        if let Err(error) = result {
            tracing::debug!(%addr, %error, "{what} is not available");
        }
    };
    let (yes, dont_fragment) = (true, libc::IP_PMTUDISC_DO);
    best_effort(setsockopt(socket, sockopt::RxqOvfl, &1), "SO_RXQ_OVFL");
    if takes_v4(addr.ip()) {
        best_effort(setsockopt(socket, sockopt::IpRecvTos, &yes), "IP_RECVTOS");
        best_effort(setsockopt(socket, sockopt::Ipv4RecvErr, &yes), "IP_RECVERR");
        best_effort(
            setsockopt(socket, Ipv4MtuDiscover, &dont_fragment),
            "IP_MTU_DISCOVER",
        );
    }
    if addr.is_ipv4() && addr.ip().is_unspecified() {
        best_effort(
            setsockopt(socket, sockopt::Ipv4PacketInfo, &yes),
            "IP_PKTINFO",
        );
    }
    if addr.is_ipv6() {
        best_effort(
            setsockopt(socket, sockopt::Ipv6RecvTClass, &yes),
            "IPV6_RECVTCLASS",
        );
        best_effort(
            setsockopt(socket, sockopt::Ipv6RecvErr, &yes),
            "IPV6_RECVERR",
        );
        best_effort(
            setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &yes),
            "IPV6_PKTINFO",
        );
        best_effort(
            setsockopt(socket, Ipv6MtuDiscover, &libc::IPV6_PMTUDISC_DO),
            "IPV6_MTU_DISCOVER",
        );
    }
    Ok(())
}
