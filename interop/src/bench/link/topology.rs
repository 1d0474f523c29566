//! [`Topology`]: hosts around a switch whose ports are slow and have priorities.

use std::net::Ipv4Addr;

use crate::netns::{self, Namespace, NetnsError};

/// Hosts that call; one more serves.
pub(super) const CLIENTS: usize = 3;

/// Queues of each port of the switch. The top three bits of the TOS byte choose; the highest
/// number goes first.
pub(super) const PRIORITIES: usize = 8;

/// Largest IP packet.
pub(super) const MTU: u16 = 1500;

/// Bytes of a full frame on a veth device.
const FRAME: u16 = MTU + 14;

/// Namespaces of a link are told from those of other commands by this role.
const SWITCH: &str = "switch";

/// The port of the switch that leads to the server.
pub(super) const SERVER_PORT: &str = "p1";

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub(super) enum TopologyError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(
        "another `bench link` runs or could not be removed, and both would measure each other: \
         end it, or remove it with `{}`",
        removal(.0)
    )]
    InUse(Vec<String>),
}

fn removal(names: &[String]) -> String {
    let commands = names.iter().map(|name| format!("ip netns del {name}"));
    commands.collect::<Vec<_>>().join("; ")
}

/// What a port of the switch is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port {
    /// Its speed, towards the host.
    pub(super) mbps: u32,
    /// Bytes that wait in one of its queues at most.
    pub(super) queue_bytes: u32,
}

/// The hosts, the switch and the cables between them, each host and the switch a network
/// namespace. All are removed when this is dropped.
#[derive(Debug)]
pub(super) struct Topology {
    pub(super) server: Namespace,
    pub(super) clients: Vec<Namespace>,
    pub(super) switch: Namespace,
}

impl Topology {
    /// Makes them, and removes what earlier commands have left that were killed.
    pub(super) fn create(port: Port) -> Result<Self, TopologyError> {
        netns::remove_orphans();
        let mut others: Vec<String> = netns::others(SWITCH);
        if !others.is_empty() {
            others.sort();
            return Err(TopologyError::InUse(others));
        }
        let switch = Namespace::create(SWITCH)?;
        let server = Namespace::create("server")?;
        let clients = (1..=CLIENTS).map(|number| Namespace::create(&format!("client{number}")));
        let topology = Self {
            clients: clients.collect::<Result<_, _>>()?,
            server,
            switch,
        };
        topology.connect(port)?;
        Ok(topology)
    }

    /// The server is the first.
    fn hosts(&self) -> impl Iterator<Item = &Namespace> {
        std::iter::once(&self.server).chain(&self.clients)
    }

    fn connect(&self, port: Port) -> Result<(), NetnsError> {
        self.switch.ip(&[
            "link set lo up".to_owned(),
            "link add hmb0 type bridge stp_state 0 mcast_snooping 0".to_owned(),
            "link set hmb0 up".to_owned(),
        ])?;
        for (host, number) in self.hosts().zip(1..) {
            let device = port_name(number);
            self.switch.ip(&[
                format!(
                    "link add {device} type veth peer name eth0 netns {}",
                    host.name()
                ),
                format!("link set {device} master hmb0 up"),
            ])?;
            host.ip(&host_commands(number))?;
            self.switch.tc(&port_commands(&device, port))?;
        }
        Ok(())
    }
}

/// The address of a host; the server's number is 1.
pub(super) const fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

fn port_name(number: u8) -> String {
    format!("p{number}")
}

/// What `ip` is told in a host.
fn host_commands(number: u8) -> Vec<String> {
    vec![
        "link set lo up".to_owned(),
        format!("addr add {}/24 dev eth0", address(number)),
        format!("link set eth0 mtu {MTU} txqueuelen 1000 up"),
        // Packets of 64 KB that nobody cuts would hold a slow port for milliseconds.
        format!("link set eth0 gso_max_segs 1 gso_max_size {FRAME}"),
        format!("link set eth0 gro_max_size {FRAME}"),
    ]
}

/// What `tc` is told about a port of the switch.
///
/// HTB serves a class within its own rate before one that borrows, and those who borrow strictly
/// by `prio`. With next to no rates of their own practically all borrow from the port. A burst is
/// one or two frames, which is as close to one packet after the other as HTB gets.
fn port_commands(device: &str, port: Port) -> Vec<String> {
    let Port { mbps, queue_bytes } = port;
    let mut commands = vec![
        format!("qdisc add dev {device} root handle 1: htb default 17 direct_qlen 1000"),
        format!(
            "class add dev {device} parent 1: classid 1:1 htb rate {mbps}mbit ceil {mbps}mbit \
             burst 3k cburst 3k quantum {FRAME}"
        ),
    ];
    for priority in 0..PRIORITIES {
        let prio = PRIORITIES - 1 - priority;
        let tos = priority << 5;
        commands.extend([
            format!(
                "class add dev {device} parent 1:1 classid 1:1{prio} htb rate 64kbit ceil \
                 {mbps}mbit prio {prio} burst {FRAME}b cburst 3k quantum {FRAME}"
            ),
            format!(
                "qdisc add dev {device} parent 1:1{prio} handle {}: bfifo limit {queue_bytes}",
                handle(priority)
            ),
            format!(
                "filter add dev {device} parent 1: protocol ip prio 1 u32 match ip tos \
                 {tos:#04x} 0xe0 flowid 1:1{prio}"
            ),
        ]);
    }
    commands.push(format!(
        "filter add dev {device} parent 1: protocol arp prio 2 u32 match u32 0 0 flowid 1:10"
    ));
    commands
}

/// The handle of the queue of a priority.
pub(super) const fn handle(priority: usize) -> usize {
    100 + PRIORITIES - 1 - priority
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: Port = Port {
        mbps: 200,
        queue_bytes: 250_000,
    };

    #[test]
    fn a_higher_tos_goes_to_a_queue_that_is_served_first() {
        let commands = port_commands("p1", PORT);
        for (priority, tos, class, handle) in [
            (7, "0xe0", "1:10", "100:"),
            (4, "0x80", "1:13", "103:"),
            (0, "0x00", "1:17", "107:"),
        ] {
            let has = |wanted: &str| commands.iter().any(|command| command.contains(wanted));
            assert!(
                has(&format!("match ip tos {tos} 0xe0 flowid {class}")),
                "{priority}"
            );
            assert!(
                has(&format!(
                    "parent {class} handle {handle} bfifo limit 250000"
                )),
                "{priority}"
            );
            let prio = 7 - priority;
            assert!(
                has(&format!(
                    "classid {class} htb rate 64kbit ceil 200mbit prio {prio} "
                )),
                "{priority}"
            );
        }
        // Where packets without a mark go, TCP's among them.
        assert!(commands[0].ends_with("htb default 17 direct_qlen 1000"));
    }

    #[test]
    fn a_link_in_use_is_named_with_the_commands_that_remove_it() {
        let names = ["homa-interop-1-switch", "homa-interop-2-switch"];
        let error = TopologyError::InUse(names.map(str::to_owned).into());
        let text = error.to_string();
        assert!(
            text.ends_with(
                "`ip netns del homa-interop-1-switch; ip netns del homa-interop-2-switch`"
            ),
            "{text}"
        );
    }
}
