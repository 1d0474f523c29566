//! Whether a gateway would pass calls on to itself.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};

use homa_client::options::Engine;

use crate::addr::{HostPort, resolve};
use crate::uri::{Place, StreamAddr};

/// Whether what is sent to `to` would come to a server on `listen`. Gateways that pass calls on to
/// each other are not found out.
pub(super) fn is_itself(listen: &Place, to: &Place) -> bool {
    match (listen, to) {
        (
            Place::Homa { host, port, engine },
            Place::Homa {
                host: to_host,
                port: to_port,
                engine: to_engine,
            },
        ) => {
            let engines = [engine, to_engine].map(|engine| engine.unwrap_or_default());
            let may_meet = engines[0] == engines[1] || engines.contains(&Engine::Auto);
            may_meet && is_same(HostPort(host, *port), HostPort(to_host, *to_port))
        }
        (Place::Stream(StreamAddr::Unix(listen)), Place::Stream(StreamAddr::Unix(to))) => {
            real(listen) == real(to)
        }
        (
            Place::Stream(StreamAddr::Tcp { host, port, .. }),
            Place::Stream(StreamAddr::Tcp {
                host: to_host,
                port: to_port,
                ..
            }),
        ) => is_same(HostPort(host, *port), HostPort(to_host, *to_port)),
        _ => false,
    }
}

/// The path without links. A socket need not exist yet, only its folder.
fn real(path: &Path) -> PathBuf {
    let in_folder = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    let real = path.canonicalize().ok().or_else(in_folder);
    // What cannot be found is refused where it is needed.
    real.unwrap_or_else(|| path.to_owned())
}

fn is_same(listen: HostPort<'_>, to: HostPort<'_>) -> bool {
    // Port 0 is any that is free.
    if listen.1 == 0 || listen.1 != to.1 {
        return false;
    }
    // What does not resolve is refused where it is needed.
    let (Ok(listen), Ok(mut to)) = (resolve(listen), to.to_socket_addrs()) else {
        return false;
    };
    to.any(|to| is_reached_by(listen.ip().to_canonical(), to))
}

/// Whether a server on `listen` gets what is sent to this address of the same port.
fn is_reached_by(listen: IpAddr, to: SocketAddr) -> bool {
    let to = to.ip().to_canonical();
    if to == listen {
        return true;
    }
    // A socket on all addresses of IPv6 has those of IPv4 as well, but no other has both.
    if listen.is_ipv4() != to.is_ipv4() && listen != IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        return false;
    }
    // Connections to the unspecified address are to this host.
    (listen.is_unspecified() && is_local(to)) || (to.is_unspecified() && listen.is_loopback())
}

/// Sockets can be bound to the addresses of this host only.
fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uri::Target;

    #[test]
    fn only_addresses_that_lead_back_are_its_own() {
        for (listen, to, is) in [
            ("tcp+framed://127.0.0.1:9", "tcp+framed://127.0.0.1:9", true),
            (
                "tcp+buffered://127.0.0.1:9",
                "tcp+framed://localhost:9",
                true,
            ),
            ("tcp+framed://0.0.0.0:9", "tcp+framed://127.0.0.1:9", true),
            ("tcp+framed://[::]:9", "tcp+framed://127.0.0.1:9", true),
            ("tcp+framed://127.0.0.1:9", "tcp+framed://0.0.0.0:9", true),
            (
                "tcp+framed://127.0.0.1:9",
                "tcp+framed://127.0.0.1:8",
                false,
            ),
            (
                "tcp+framed://127.0.0.1:9",
                "tcp+framed://127.0.0.2:9",
                false,
            ),
            (
                "tcp+framed://127.0.0.1:0",
                "tcp+framed://127.0.0.1:9",
                false,
            ),
            ("tcp+framed://0.0.0.0:9", "tcp+framed://0.0.0.0:9", true),
            ("tcp+framed://[::]:9", "tcp+framed://0.0.0.0:9", true),
            // IPv4 and IPv6 do not meet there.
            ("homa://0.0.0.0:9", "homa://[::1]:9", false),
            ("tcp+framed://0.0.0.0:9", "tcp+framed://[::1]:9", false),
            ("tcp+framed://127.0.0.1:9", "tcp+framed://[::]:9", false),
            ("tcp+framed://[::1]:9", "tcp+framed://0.0.0.0:9", false),
            (
                "tcp+framed://0.0.0.0:9",
                "tcp+framed://[::ffff:127.0.0.1]:9",
                true,
            ),
            // Of no host: for documentation.
            ("tcp+framed://0.0.0.0:9", "tcp+framed://192.0.2.1:9", false),
            (
                "tcp+framed://127.0.0.1:9",
                "tcp+framed://no.such.host.invalid:9",
                false,
            ),
            ("tcp+framed://127.0.0.1:9", "homa://127.0.0.1:9", false),
            ("homa://0.0.0.0:9", "homa://127.0.0.1:9", true),
            ("homa://127.0.0.1:9", "homa+udp://127.0.0.1:9", true),
            ("homa+raw://127.0.0.1:9", "homa+udp://127.0.0.1:9", false),
            ("unix+framed:///a", "unix+framed:///a", true),
            ("unix+framed:///a", "unix+framed:///b", false),
        ] {
            let [place, to_place] = [listen, to].map(|uri| Target::parse(uri).unwrap().place);
            assert_eq!(is_itself(&place, &to_place), is, "{listen} {to}");
        }
    }

    #[test]
    fn a_unix_socket_is_its_own_by_whatever_path_before_and_after_it_exists() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        std::fs::create_dir(at("run")).unwrap();
        std::os::unix::fs::symlink(at("run"), at("link")).unwrap();
        std::os::unix::fs::symlink(at("run/a"), at("run/b")).unwrap();
        let is_its_own = |to: &str| {
            let place = |path| Place::Stream(StreamAddr::Unix(path));
            is_itself(&place(at("run/a")), &place(at(to)))
        };
        let paths = ["run/a", "link/a", "run/../run/a", "./link/./a"];
        assert!(paths.iter().all(|path| is_its_own(path)));
        assert!(!is_its_own("a") && !is_its_own("run/c"));
        let _abandoned = std::os::unix::net::UnixListener::bind(at("run/a")).unwrap();
        assert!(paths.iter().all(|path| is_its_own(path)));
        // What is a link itself leads somewhere.
        assert!(is_its_own("run/b") && is_its_own("link/b"));
    }
}
