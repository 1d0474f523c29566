//! The network devices of this host, and what they say of their speed.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};

/// A network device that is up and has hardware behind it, be it a virtual machine's, or a bond of
/// several. The loopback device, veth pairs, bridges and tunnels have none: what shapes them, they
/// do not know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct NetworkDevice {
    /// Its name, as in `eth0`.
    pub name: String,
    /// Its speed in Mbit/s; `None` if it does not tell, as most of those in virtual machines.
    pub mbps: Option<u32>,
}

/// The network devices of this network namespace, by name; empty where sysfs cannot be read.
pub fn network_devices() -> Vec<NetworkDevice> {
    devices_in(Path::new("/sys/class/net"))
}

/// The speed by which an endpoint paces that may use any of `devices`: the fastest, since a slow
/// port for management must not hold up the others; unknown if one of them does not tell.
pub fn pacing_mbps(devices: &[NetworkDevice]) -> Option<u32> {
    let speeds: Option<Vec<u32>> = devices.iter().map(|device| device.mbps).collect();
    speeds?.into_iter().max()
}

/// The addresses of this host in this network namespace, as they are now; empty where the system
/// does not tell.
pub(crate) fn own_ips() -> Arc<[IpAddr]> {
    let ip = |address: InterfaceAddress| {
        let address = address.address?;
        let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
    };
    getifaddrs().into_iter().flatten().filter_map(ip).collect()
}

fn devices_in(folder: &Path) -> Vec<NetworkDevice> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut devices: Vec<_> = entries
        .filter(|entry| {
            let text = fs::read_to_string(entry.path().join("operstate"));
            // Some drivers do not say whether there is a carrier.
            let up = text.is_ok_and(|text| matches!(text.trim(), "up" | "unknown"));
            let has = |name: &str| entry.path().join(name).exists();
            let hardware = has("device") && !has("master/bonding");
            up && (hardware || has("bonding"))
        })
        .filter_map(|entry| {
            Some(NetworkDevice {
                name: entry.file_name().into_string().ok()?,
                mbps: fs::read_to_string(entry.path().join("speed"))
                    .ok()
                    .and_then(|text| parse_speed(&text)),
            })
        })
        .collect();
    devices.sort();
    devices
}

/// Unknown speeds are -1, or that as an unsigned number, or 0.
fn parse_speed(text: &str) -> Option<u32> {
    let mbps: i64 = text.trim().parse().ok()?;
    u32::try_from(mbps)
        .ok()
        .filter(|mbps| (1..=10_000_000).contains(mbps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_address_is_one_of_our_own() {
        assert!(own_ips().contains(&[127, 0, 0, 1].into()));
    }

    #[test]
    fn speeds_that_say_nothing_are_unknown() {
        assert_eq!(parse_speed("25000\n"), Some(25_000));
        for unknown in ["-1\n", "0\n", "4294967295\n", "", "fast"] {
            assert_eq!(parse_speed(unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn only_hardware_that_is_up_counts() {
        let folder = tempfile::tempdir().unwrap();
        let device = |name: &str, hardware: bool, state: &str, speed: &str| {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            if hardware {
                fs::create_dir(path.join("device")).unwrap();
            }
            fs::write(path.join("operstate"), state).unwrap();
            fs::write(path.join("speed"), speed).unwrap();
        };
        device("lo", false, "unknown\n", "-1\n");
        device("veth1", false, "up\n", "10000\n");
        device("eth2", true, "down\n", "100\n");
        device("eth1", true, "up\n", "40000\n");
        device("eth0", true, "up\n", "10000\n");
        device("eth3", true, "unknown\n", "-1\n");
        device("bond0", false, "up\n", "50000\n");
        fs::create_dir(folder.path().join("bond0/bonding")).unwrap();
        device("eth4", true, "up\n", "25000\n");
        fs::create_dir_all(folder.path().join("eth4/master/bonding")).unwrap();
        let devices = devices_in(folder.path());
        let found: Vec<_> = devices
            .iter()
            .map(|device| (device.name.as_str(), device.mbps))
            .collect();
        let expect = [
            ("bond0", Some(50_000)),
            ("eth0", Some(10_000)),
            ("eth1", Some(40_000)),
            ("eth3", None),
        ];
        assert_eq!(found, expect);
        assert_eq!(pacing_mbps(&devices[1..3]), Some(40_000));
        assert_eq!(pacing_mbps(&devices), None, "eth3 does not tell");
        assert_eq!(pacing_mbps(&[]), None);
        assert!(devices_in(&folder.path().join("nowhere")).is_empty());
    }
}
