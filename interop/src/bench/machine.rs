//! [`Machine`]: where and when something was measured.

use std::fs;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// What has to be told with figures, since they depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// When the measuring began.
    pub(crate) date: String,
    /// The processor's name.
    pub(crate) cpu: Option<String>,
    pub(crate) cores: usize,
    pub(crate) kernel: Option<String>,
    pub(crate) memory_mib: Option<u64>,
    /// Of this program.
    pub(crate) version: String,
}

impl Machine {
    /// This one, now.
    pub(crate) fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let kib = field(&read("/proc/meminfo"), "MemTotal").and_then(|text| {
            let (kib, _) = text.split_once(' ')?;
            kib.parse::<u64>().ok()
        });
        Self {
            date: httpdate::fmt_http_date(SystemTime::now()),
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: Some(read("/proc/sys/kernel/osrelease").trim().to_owned())
                .filter(|release| !release.is_empty()),
            memory_mib: kib.map(|kib| kib / 1024),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// On one line.
    pub(crate) fn describe(&self) -> String {
        let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
        let memory = match self.memory_mib {
            Some(mib) => format!("{mib} MiB"),
            None => "unknown".to_owned(),
        };
        format!(
            "{}, cores: {}, kernel: {}, memory: {memory}, homa-interop {}, {}",
            known(&self.cpu),
            self.cores,
            known(&self.kernel),
            self.version,
            self.date
        )
    }
}

/// The first value of this name in lines of `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = pairs.find(|(found, _)| found.trim() == name)?;
    Some(value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: A Processor @ 2 GHz\n";
        let name = field(text, "model name");
        assert_eq!(name.as_deref(), Some("A Processor @ 2 GHz"));
        assert_eq!(field(text, "name"), None);
    }

    #[test]
    fn this_machine_is_described_and_survives_a_file() {
        let machine = Machine::here();
        let json = serde_json::to_string(&machine).expect("plain data");
        let read: Machine = serde_json::from_str(&json).expect("ours");
        assert_eq!(read, machine);
        let words = machine.describe();
        assert!(words.contains("GMT") && words.contains("MiB"), "{words}");
    }
}
