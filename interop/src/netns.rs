//! Network namespaces, for as long as a value lives, and two of them with a link in between.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Output, Stdio};

/// Names of namespaces begin with this; the process that made them and a role follow.
const PREFIX: &str = "homa-interop-";

/// Where `ip netns` keeps them.
const FOLDER: &str = "/run/netns";

/// The link's name on both sides of a pair.
const DEVICE: &str = "homa0";

/// Why there are no namespaces, or not what should be in them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetnsError {
    #[error("the command `{0}` of iproute2 cannot be run: {1}")]
    NoCommand(&'static str, #[source] io::Error),
    #[error("network namespaces cannot be made here ({0}): run this as root")]
    NotAllowed(String),
    #[error("there is a network namespace {0} already: remove it with `ip netns del {0}`")]
    Exists(String),
    #[error("this kernel has no {what} ({option}), `{command}` says: {message}")]
    Lacking {
        what: &'static str,
        option: &'static str,
        command: String,
        message: String,
    },
    #[error("`{command}`: {message}")]
    Failed { command: String, message: String },
}

impl NetnsError {
    /// Whether this host or user just cannot have them.
    pub(crate) fn is_lack(&self) -> bool {
        match self {
            Self::NoCommand(..) | Self::NotAllowed(_) | Self::Lacking { .. } => true,
            Self::Exists(_) | Self::Failed { .. } => false,
        }
    }

    /// What a command has said that failed.
    fn of(command: String, message: String) -> Self {
        match Part::missing(&command, &message) {
            None => Self::Failed { command, message },
            Some(part) => Self::Lacking {
                what: part.what,
                option: part.option,
                command,
                message,
            },
        }
    }
}

/// A part of the kernel that may have been left out when it was built.
#[derive(Debug)]
struct Part {
    /// The word that commands have who use it.
    word: &'static str,
    what: &'static str,
    option: &'static str,
}

const PARTS: [Part; 5] = [
    Part {
        word: "veth",
        what: "veth devices",
        option: "CONFIG_VETH",
    },
    Part {
        word: "bridge",
        what: "bridges",
        option: "CONFIG_BRIDGE",
    },
    Part {
        word: "htb",
        what: "HTB queueing",
        option: "CONFIG_NET_SCH_HTB",
    },
    Part {
        word: "bfifo",
        what: "bfifo queueing",
        option: "CONFIG_NET_SCH_FIFO",
    },
    Part {
        word: "u32",
        what: "u32 classifier",
        option: "CONFIG_NET_CLS_U32",
    },
];

/// How the kernel says that it does not know a kind of device, queueing or classifier.
const UNKNOWN: [&str; 4] = [
    "Unknown device type",
    "kind is unknown",
    "classifier not found",
    "Operation not supported",
];

impl Part {
    fn missing(command: &str, message: &str) -> Option<&'static Self> {
        if !UNKNOWN.iter().any(|unknown| message.contains(unknown)) {
            return None;
        }
        let uses = |part: &&Self| command.split_whitespace().any(|word| word == part.word);
        PARTS.iter().find(uses)
    }
}

/// A network namespace. It is removed, with the devices in it, when this is dropped.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one that is named after this process and a role, of lower-case letters and digits.
    pub(crate) fn create(role: &str) -> Result<Self, NetnsError> {
        let name = format!("{PREFIX}{}-{role}", std::process::id());
        match ip(&["netns", "add", &name]) {
            Ok(()) => Ok(Self { name }),
            // Of an earlier process with this number, or one of another container's.
            Err(NetnsError::Failed { message, .. }) if message.contains("File exists") => {
                Err(NetnsError::Exists(name))
            }
            Err(NetnsError::Failed { message, .. }) => Err(NetnsError::NotAllowed(message)),
            Err(other) => Err(other),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What to put before a command that shall run in it. `ip` becomes that command, so that
    /// killing it kills that.
    pub(crate) fn enter(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    /// Has `ip` run these commands in it.
    pub(crate) fn ip(&self, commands: &[String]) -> Result<(), NetnsError> {
        self.batch("ip", commands)
    }

    /// Has `tc` run these commands in it.
    pub(crate) fn tc(&self, commands: &[String]) -> Result<(), NetnsError> {
        self.batch("tc", commands)
    }

    /// What `tc` prints for these arguments.
    pub(crate) fn tc_output(&self, arguments: &[&str]) -> Result<Vec<u8>, NetnsError> {
        let command = [&["-n", &self.name], arguments].concat();
        let output = Command::new("tc")
            .args(&command)
            .output()
            .map_err(|error| NetnsError::NoCommand("tc", error))?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(NetnsError::of(
                format!("tc {}", arguments.join(" ")),
                message(&output),
            )),
        }
    }

    /// One process for all commands: there may be a hundred. It stops at the first that fails.
    fn batch(&self, tool: &'static str, commands: &[String]) -> Result<(), NetnsError> {
        let run = || -> io::Result<Output> {
            let mut child = Command::new(tool)
                .args(["-n", &self.name, "-batch", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // One that has failed reads no more, and says why.
                let _ = stdin.write_all(commands.join("\n").as_bytes());
            }
            child.wait_with_output()
        };
        let output = run().map_err(|error| NetnsError::NoCommand(tool, error))?;
        if output.status.success() {
            return Ok(());
        }
        let (number, message) = failed_line(&message(&output));
        let command = number
            .and_then(|number| commands.get(number.checked_sub(1)?))
            .map_or(String::new(), |command| format!(" {command}"));
        Err(NetnsError::of(format!("{tool}{command}"), message))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What cannot be removed is found by the next who makes some.
        let _ = ip(&["netns", "del", &self.name]);
    }
}

/// The number that a batch gives to the command that failed, and what is said besides.
fn failed_line(message: &str) -> (Option<usize>, String) {
    const FAILED: &str = "Command failed -:";
    let mut number = None;
    let mut said = Vec::new();
    for line in message.lines() {
        match line.split_once(FAILED) {
            Some((_, count)) => number = count.trim().parse().ok(),
            None => said.push(line.trim()),
        }
    }
    (number, said.join(" "))
}

/// The pair. Both, and the link, are removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Namespaces {
    sides: [Namespace; 2],
}

impl Namespaces {
    /// Makes them, and removes those whose makers were killed before they could.
    pub(crate) fn create() -> Result<Self, NetnsError> {
        remove_orphans();
        let pair = Self {
            sides: [Namespace::create("0")?, Namespace::create("1")?],
        };
        let [left, right] = &pair.sides;
        left.ip(&[format!(
            "link add {DEVICE} type veth peer name {DEVICE} netns {}",
            right.name()
        )])?;
        for (index, side) in pair.sides.iter().enumerate() {
            side.ip(&[
                format!("addr add {}/24 dev {DEVICE}", Self::addr(index)),
                format!("link set {DEVICE} up"),
                "link set lo up".to_owned(),
            ])?;
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
        self.sides[side].enter()
    }
}

/// Removes namespaces of processes that do not live any more.
pub(crate) fn remove_orphans() {
    for (name, maker) in all() {
        if !fs::exists(format!("/proc/{maker}")).unwrap_or(true) {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

/// All namespaces of other processes, or of earlier ones that could not be removed, that have made
/// one with this role.
pub(crate) fn others(role: &str) -> Vec<String> {
    let mut all = all();
    let own = std::process::id();
    let makers: HashSet<u32> = all
        .iter()
        .filter(|(name, maker)| *maker != own && name.ends_with(&format!("-{role}")))
        .map(|(_, maker)| *maker)
        .collect();
    all.retain(|(_, maker)| makers.contains(maker));
    all.into_iter().map(|(name, _)| name).collect()
}

/// All namespaces of ours, each with the process that has made it.
fn all() -> Vec<(String, u32)> {
    let Ok(entries) = fs::read_dir(FOLDER) else {
        return Vec::new();
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    names
        .filter_map(|name| {
            let name = name.into_string().ok()?;
            let maker = maker(&name)?;
            Some((name, maker))
        })
        .collect()
}

/// The process that has made this namespace, if one of ours has.
fn maker(name: &str) -> Option<u32> {
    let (pid, role) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let is_role = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (!role.is_empty() && role.chars().all(is_role)).then(|| pid.parse().ok())?
}

fn ip(arguments: &[&str]) -> Result<(), NetnsError> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|error| NetnsError::NoCommand("ip", error))?;
    if output.status.success() {
        return Ok(());
    }
    let command = format!("ip {}", arguments.join(" "));
    Err(NetnsError::of(command, message(&output)))
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_namespaces_are_taken_for_orphans() {
        assert_eq!(maker("homa-interop-123-0"), Some(123));
        assert_eq!(maker("homa-interop-123-1"), Some(123));
        assert_eq!(maker("homa-interop-123-client3"), Some(123));
        for other in [
            "homa-interop-123-",
            "homa-interop-123-a-b",
            "homa-interop-123-A",
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
            Ok(pair) => pair.sides.each_ref().map(|side| side.name.clone()),
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

    #[test]
    fn one_that_is_there_already_is_named_with_what_removes_it() {
        let made = match Namespace::create("twice") {
            Ok(made) => made,
            Err(error) if error.is_lack() => {
                println!("skipped: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let error = Namespace::create("twice").expect_err("it is there");
        assert!(!error.is_lack(), "{error}");
        let remedy = format!("`ip netns del {}`", made.name());
        assert!(error.to_string().contains(&remedy), "{error}");
    }

    #[test]
    fn what_a_kernel_lacks_is_told_apart_from_what_fails_otherwise() {
        for (command, message, lacking) in [
            (
                "ip link add p1 type veth peer name eth0 netns x",
                "Error: Unknown device type.",
                Some("CONFIG_VETH"),
            ),
            (
                "ip link add b0 type bridge stp_state 0",
                "RTNETLINK answers: Operation not supported",
                Some("CONFIG_BRIDGE"),
            ),
            (
                "tc qdisc add dev p1 root handle 1: htb default 17",
                "Error: Specified qdisc kind is unknown.",
                Some("CONFIG_NET_SCH_HTB"),
            ),
            (
                "tc filter add dev p1 parent 1: protocol ip prio 1 u32 match ip tos 0 0",
                "Error: TC classifier not found.\nWe have an error talking to the kernel",
                Some("CONFIG_NET_CLS_U32"),
            ),
            ("ip netns add x", "Operation not supported", None),
            (
                "tc qdisc add dev p1 root handle 1: htb default 17",
                "Error: Exclusivity flag on, cannot modify.",
                None,
            ),
        ] {
            let error = NetnsError::of(command.to_owned(), message.to_owned());
            assert_eq!(error.is_lack(), lacking.is_some(), "{error}");
            let text = error.to_string();
            assert!(text.contains(command) && text.contains(message), "{text}");
            assert!(lacking.is_none_or(|option| text.contains(option)), "{text}");
        }
    }

    #[test]
    fn the_command_of_a_batch_that_failed_is_found() {
        assert_eq!(
            failed_line("Error: Unknown device type.\nCommand failed -:3"),
            (Some(3), "Error: Unknown device type.".to_owned())
        );
        assert_eq!(failed_line("killed"), (None, "killed".to_owned()));
    }
}
