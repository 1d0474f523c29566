//! Two network namespaces with a link between them, for as long as a value lives.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

/// Names of namespaces begin with this; the process that made them and a number follow.
const PREFIX: &str = "homa-interop-";

/// Where `ip netns` keeps them.
const FOLDER: &str = "/run/netns";

/// The link's name on both sides.
const DEVICE: &str = "homa0";

/// Why there are no namespaces.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetnsError {
    #[error("the command `ip` cannot be run: {0}")]
    NoCommand(#[source] io::Error),
    #[error("network namespaces cannot be made here ({0}): run this as root")]
    NotAllowed(String),
    #[error("`ip {arguments}`: {message}")]
    Failed { arguments: String, message: String },
}

impl NetnsError {
    /// Whether this host or user just cannot have them.
    pub(crate) fn is_lack(&self) -> bool {
        matches!(self, Self::NoCommand(_) | Self::NotAllowed(_))
    }
}

/// The pair. Both, and the link, are removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Namespaces {
    names: [String; 2],
}

impl Namespaces {
    /// Makes them, and removes those whose makers were killed before they could.
    pub(crate) fn create() -> Result<Self, NetnsError> {
        remove_orphans();
        let pid = std::process::id();
        let pair = Self {
            names: [0, 1].map(|side| format!("{PREFIX}{pid}-{side}")),
        };
        let [left, right] = &pair.names;
        if let Err(error) = ip(&["netns", "add", left]) {
            return Err(match error {
                NetnsError::Failed { message, .. } => NetnsError::NotAllowed(message),
                other => other,
            });
        }
        ip(&["netns", "add", right])?;
        ip(&[
            "link", "add", DEVICE, "netns", left, "type", "veth", "peer", "name", DEVICE, "netns",
            right,
        ])?;
        for (side, name) in pair.names.iter().enumerate() {
            let addr = format!("{}/24", Self::addr(side));
            ip(&["-n", name, "addr", "add", &addr, "dev", DEVICE])?;
            ip(&["-n", name, "link", "set", DEVICE, "up"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        Ok(pair)
    }

    /// The address of one side of the link.
    pub(crate) fn addr(side: usize) -> IpAddr {
        let host = if side == 0 { 1 } else { 2 };
        Ipv4Addr::new(10, 146, 0, host).into()
    }

    /// What to put before a command that shall run in one of them.
    pub(crate) fn enter(&self, side: usize) -> [&str; 4] {
        ["ip", "netns", "exec", &self.names[side]]
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            // One that was not made yet cannot be removed.
            let _ = ip(&["netns", "del", name]);
        }
    }
}

/// Removes namespaces of processes that do not live any more.
fn remove_orphans() {
    let Ok(entries) = fs::read_dir(FOLDER) else {
        return;
    };
    for name in entries.flatten().map(|entry| entry.file_name()) {
        if let Some(name) = name.to_str()
            && let Some(pid) = maker(name)
            && !fs::exists(format!("/proc/{pid}")).unwrap_or(true)
        {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

/// The process that has made this namespace, if one of ours has.
fn maker(name: &str) -> Option<u32> {
    let (pid, side) = name.strip_prefix(PREFIX)?.split_once('-')?;
    matches!(side, "0" | "1").then(|| pid.parse().ok())?
}

fn ip(arguments: &[&str]) -> Result<(), NetnsError> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(NetnsError::NoCommand)?;
    if output.status.success() {
        return Ok(());
    }
    Err(NetnsError::Failed {
        arguments: arguments.join(" "),
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_namespaces_are_taken_for_orphans() {
        assert_eq!(maker("homa-interop-123-0"), Some(123));
        assert_eq!(maker("homa-interop-123-1"), Some(123));
        for other in [
            "homa-interop-123-2",
            "homa-interop-x-0",
            "homa-interop-",
            "blue",
            "",
        ] {
            assert_eq!(maker(other), None, "{other}");
        }
    }

    #[test]
    fn they_are_gone_after_the_drop() {
        let names = match Namespaces::create() {
            Ok(pair) => pair.names.clone(),
            Err(error) if error.is_lack() => {
                println!("skipped: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        for name in names {
            let left = fs::exists(format!("{FOLDER}/{name}")).expect("readable");
            assert!(!left, "{name}");
        }
    }
}
