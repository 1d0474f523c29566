//! What the switch has counted at the ports that lead to the hosts.

use serde::{Deserialize, Serialize};

use super::topology::{PRIORITIES, handle};
use crate::netns::{Namespace, NetnsError};

/// Why the counters are not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum SwitchError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error("`tc` printed what cannot be understood")]
    Nonsense(#[from] serde_json::Error),
    #[error("`tc` did not print the queue of priority {0}")]
    NoQueue(usize),
}

/// One queue of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Queue {
    /// The top three bits of the TOS byte of what goes there.
    pub(crate) priority: usize,
    /// Packets and their bytes that have left it.
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// Packets that found it full.
    pub(crate) drops: u64,
    /// Bytes that waited in it: the most of those that were looked at.
    pub(crate) backlog_bytes: u64,
}

/// All queues of a port, the lowest priority first.
pub(super) type Queues = [Queue; PRIORITIES];

/// What a port of the switch has counted since it was made, and what waits there.
pub(super) fn queues(switch: &Namespace, port: &str) -> Result<Queues, SwitchError> {
    let printed = switch.tc_output(&["-s", "-j", "qdisc", "show", "dev", port])?;
    parse(&printed)
}

/// What `tc -s -j qdisc show` prints of one queue.
#[derive(Debug, Deserialize)]
struct Printed {
    handle: String,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    packets: u64,
    #[serde(default)]
    drops: u64,
    #[serde(default)]
    backlog: u64,
}

fn parse(json: &[u8]) -> Result<Queues, SwitchError> {
    let printed: Vec<Printed> = serde_json::from_slice(json)?;
    let mut queues = Queues::default();
    for (priority, queue) in queues.iter_mut().enumerate() {
        let handle = format!("{}:", handle(priority));
        let mut of_handle = printed.iter().filter(|printed| printed.handle == handle);
        let printed = of_handle.next().ok_or(SwitchError::NoQueue(priority))?;
        *queue = Queue {
            priority,
            packets: printed.packets,
            bytes: printed.bytes,
            drops: printed.drops,
            backlog_bytes: printed.backlog,
        };
    }
    Ok(queues)
}

/// What a port has counted in some time.
#[derive(Debug)]
pub(super) struct Watch {
    first: Queues,
    last: Queues,
    /// The longest seen, by priority.
    backlog: [u64; PRIORITIES],
}

impl Watch {
    pub(super) fn new(first: Queues) -> Self {
        Self {
            backlog: first.map(|queue| queue.backlog_bytes),
            last: first,
            first,
        }
    }

    pub(super) fn look(&mut self, now: Queues) {
        for (longest, queue) in self.backlog.iter_mut().zip(&now) {
            *longest = queue.backlog_bytes.max(*longest);
        }
        self.last = now;
    }

    /// The differences between the first look and the last one.
    pub(super) fn counted(&self) -> Vec<Queue> {
        let queues = self.first.iter().zip(&self.last).zip(self.backlog);
        queues
            .map(|((first, last), backlog_bytes)| Queue {
                priority: last.priority,
                packets: last.packets.saturating_sub(first.packets),
                bytes: last.bytes.saturating_sub(first.bytes),
                drops: last.drops.saturating_sub(first.drops),
                backlog_bytes,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(bytes: impl Fn(usize) -> u64) -> String {
        let leaf = |priority: usize| {
            format!(
                r#"{{"kind":"bfifo","handle":"{}:","parent":"1:1{}","options":{{"limit":250000}},
                "bytes":{},"packets":3,"drops":{priority},"overlimits":0,"requeues":0,
                "backlog":{},"qlen":1}}"#,
                107 - priority,
                7 - priority,
                bytes(priority),
                1_000 - bytes(priority),
            )
        };
        let leaves: Vec<_> = (0..PRIORITIES).map(leaf).collect();
        format!(
            r#"[{{"kind":"htb","handle":"1:","root":true,"bytes":9,"packets":1}},{}]"#,
            leaves.join(",")
        )
    }

    #[test]
    fn queues_are_found_by_their_priority() {
        let queues = parse(printed(|priority| priority as u64).as_bytes()).expect("as printed");
        for (priority, queue) in queues.into_iter().enumerate() {
            let expected = Queue {
                priority,
                packets: 3,
                bytes: priority as u64,
                drops: priority as u64,
                backlog_bytes: 1_000 - priority as u64,
            };
            assert_eq!(queue, expected);
        }
    }

    #[test]
    fn a_queue_that_is_missing_is_named() {
        let error = parse(b"[]").expect_err("none is there");
        assert!(error.to_string().contains("priority 0"), "{error}");
        assert!(parse(b"qdisc htb 1: root").is_err());
    }

    #[test]
    fn a_watch_tells_differences_and_the_longest_backlog() {
        let looks = [100, 150, 400].map(|bytes| {
            parse(printed(|priority| bytes + priority as u64).as_bytes()).expect("as printed")
        });
        let [first, others @ ..] = looks;
        let mut watch = Watch::new(first);
        others.into_iter().for_each(|look| watch.look(look));
        let counted = watch.counted();
        assert_eq!(counted.len(), PRIORITIES);
        assert_eq!((counted[2].bytes, counted[2].packets), (300, 0));
        // The first look had the most in front of it.
        assert_eq!(counted[2].backlog_bytes, 1_000 - 102);
    }
}
