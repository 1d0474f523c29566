//! Homa ports of this process on IP protocol 146, per network namespace. The system does not know
//! them, so nothing else keeps two servers of a process apart. Two processes on one host have to
//! choose different ports themselves.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use crate::error::BindError;
use crate::user::endpoint::{lock, random};
use crate::user::registry::FIRST_CLIENT_PORT;

/// Tries to find a free port for a client.
const TRIES: usize = 64;

static TAKEN: Mutex<Vec<(Namespace, SocketAddr)>> = Mutex::new(Vec::new());

/// A Homa port that is ours until this is dropped.
#[derive(Debug)]
pub(super) struct Port {
    namespace: Namespace,
    pub(super) addr: SocketAddr,
}

/// The number of a network namespace; `None` where `/proc` is not mounted.
type Namespace = Option<u64>;

/// Where the calling thread opens its sockets.
fn namespace() -> Namespace {
    let found = std::fs::metadata("/proc/thread-self/ns/net");
    found.ok().map(|found| found.ino())
}

impl Port {
    /// Takes the port of `addr`; 0 takes any free one of those that belong to clients.
    pub(super) fn take(addr: SocketAddr) -> Result<Self, BindError> {
        let namespace = namespace();
        let mut taken = lock(&TAKEN);
        let mut free = |port| {
            let addr = SocketAddr::new(addr.ip(), port);
            let clashes =
                |other: &(Namespace, SocketAddr)| other.0 == namespace && overlap(other.1, addr);
            if taken.iter().any(clashes) {
                return None;
            }
            taken.push((namespace, addr));
            Some(Self { namespace, addr })
        };
        if addr.port() != 0 {
            return free(addr.port()).ok_or(BindError::AddressInUse { addr });
        }
        (0..TRIES)
            .find_map(|_| free(FIRST_CLIENT_PORT | random() as u16))
            .ok_or(BindError::NoFreePort { addr })
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        lock(&TAKEN).retain(|other| *other != (self.namespace, self.addr));
    }
}

/// Whether some packet would be for both.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |a: IpAddr, b: IpAddr| match (a, b) {
        (IpAddr::V6(any), _) if any.is_unspecified() => true,
        (IpAddr::V4(any), IpAddr::V4(_)) if any.is_unspecified() => true,
        _ => a == b,
    };
    let (a_ip, b_ip) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port() && (covers(a_ip, b_ip) || covers(b_ip, a_ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_taken_once_per_address() {
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        let first = Port::take(addr("10.0.0.1:7")).unwrap();
        for taken in ["10.0.0.1:7", "0.0.0.0:7", "[::]:7", "[::ffff:10.0.0.1]:7"] {
            let error = Port::take(addr(taken)).unwrap_err();
            assert!(matches!(error, BindError::AddressInUse { .. }), "{taken}");
        }
        for free in ["10.0.0.2:7", "10.0.0.1:8", "[::1]:7"] {
            Port::take(addr(free)).unwrap();
        }
        drop(first);
        let all = Port::take(addr("0.0.0.0:7")).unwrap();
        assert!(Port::take(addr("10.0.0.1:7")).is_err());
        assert!(Port::take(addr("[::1]:7")).is_ok());
        drop(all);
        let clients: Vec<Port> = (0..50)
            .map(|_| Port::take(addr("[::]:0")).unwrap())
            .collect();
        for client in &clients {
            assert!(client.addr.port() >= FIRST_CLIENT_PORT);
            let same = |other: &&Port| other.addr.port() == client.addr.port();
            assert_eq!(clients.iter().filter(same).count(), 1);
        }
    }
}
