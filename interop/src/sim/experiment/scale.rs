//! [`Scale`]: how the simulator's own speed and memory grow with the network.
//!
//! Each size runs in a process of its own, one after the other and beside nothing else of this
//! program, so that its peak of memory is its own. Larger networks are simulated for a shorter time,
//! so that all have about the same to do. What is found depends on the machine and on what else it
//! does: it is the only report that another run with the same seed does not repeat.

use std::io::{self, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant as Clock};

use crate::sim::outcome::{ScaleOutcome, ScalePoint};
use crate::sim::plan;
use crate::sim::run::{Prepared, RunError, Speed};
use crate::sim::setup::Setup;
use crate::sim::time::{Instant, Span};
use crate::sim::world::Schedule;

/// Simulated time of all hosts together, before events are counted and while they are.
const WARM_UP: Span = Span::from_micros(1_000_000);
const WINDOW: Span = Span::from_micros(4_000_000);

/// The hidden subcommand of the process for one size.
pub(crate) const SIZE_SUBCOMMAND: &str = "sim-size";

/// Why the process for one size has not told what it found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error("cannot start it")]
    Start(#[source] io::Error),
    #[error("it ended with {0}; see its message above")]
    Ended(ExitStatus),
    #[error("what it told cannot be read")]
    Told(#[source] serde_json::Error),
}

/// An experiment that has been checked.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    name: String,
    setup: Setup,
    sizes: Vec<Setup>,
}

impl Scale {
    pub(crate) fn new(name: String, setup: Setup, what: &plan::Scale) -> Result<Self, RunError> {
        let mut sizes = Vec::new();
        for hosts in &what.hosts {
            let size = resized(&name, &setup, *hosts)?;
            // The process would only find out when its turn comes.
            Prepared::new(name.clone(), size.clone(), None)?;
            sizes.push(size);
        }
        Ok(Self { name, setup, sizes })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Simulated time of all sizes together, in microseconds.
    pub(crate) fn length_us(&self) -> u64 {
        self.sizes.iter().map(length_us).sum()
    }

    /// Runs all sizes. `tick` is told the simulated time of those that have been, in microseconds.
    pub(crate) fn run(&self, mut tick: impl FnMut(u64)) -> Result<(ScaleOutcome, Speed), RunError> {
        let began = Clock::now();
        let mut points = Vec::new();
        let mut passed = 0;
        for setup in &self.sizes {
            let point = run_apart(setup).map_err(|error| RunError::Process {
                name: self.name.clone(),
                hosts: setup.topology.hosts(),
                error,
            })?;
            points.push(point);
            passed += length_us(setup);
            tick(passed);
        }
        let speed = Speed {
            took: began.elapsed(),
            hops: points.iter().map(|point| point.hops).sum(),
            events: points.iter().map(|point| point.events).sum(),
        };
        let outcome = ScaleOutcome {
            name: self.name.clone(),
            setup: self.setup.clone(),
            differs: self.setup.differs(),
            points,
        };
        Ok((outcome, speed))
    }
}

/// The set-up with so many hosts in racks of the same size, for as long as the network is worth.
fn resized(name: &str, setup: &Setup, hosts: u32) -> Result<Setup, RunError> {
    let mut size = setup.clone();
    let topology = &mut size.topology;
    let per_rack = topology.hosts_per_rack.min(hosts).max(1);
    if !hosts.is_multiple_of(per_rack) {
        return Err(RunError::Racks {
            name: name.to_owned(),
            hosts,
            per_rack,
        });
    }
    topology.hosts_per_rack = per_rack;
    topology.racks = hosts / per_rack;
    let share = |all: Span| all.as_picos() / u64::from(hosts) / 1_000_000;
    size.warm_up_us = Some(setup.warm_up_us.unwrap_or(share(WARM_UP)));
    size.window_us = Some(setup.window_us.unwrap_or(share(WINDOW)));
    size.check().map_err(|error| RunError::Setup {
        name: name.to_owned(),
        error,
    })?;
    Ok(size)
}

fn length_us(size: &Setup) -> u64 {
    size.warm_up_us.unwrap_or(0) + size.window_us.unwrap_or(0)
}

/// Runs one size in a process of its own.
fn run_apart(setup: &Setup) -> Result<ScalePoint, ProcessError> {
    let program = std::env::current_exe().map_err(ProcessError::Start)?;
    let mut child = Command::new(program)
        .arg(SIZE_SUBCOMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(ProcessError::Start)?;
    if let Some(mut stdin) = child.stdin.take() {
        let setup = serde_json::to_vec(setup).map_err(ProcessError::Told)?;
        stdin.write_all(&setup).map_err(ProcessError::Start)?;
    }
    let output = child.wait_with_output().map_err(ProcessError::Start)?;
    if !output.status.success() {
        return Err(ProcessError::Ended(output.status));
    }
    serde_json::from_slice(&output.stdout).map_err(ProcessError::Told)
}

/// In that process: runs the set-up that standard input has, and tells what it took.
pub(crate) fn run_size_from_stdin() -> Result<(), Box<dyn std::error::Error>> {
    let mut setup = Vec::new();
    io::stdin().read_to_end(&mut setup)?;
    let point = measure(serde_json::from_slice(&setup)?)?;
    let told = serde_json::to_string(&point)?;
    writeln!(io::stdout(), "{told}")?;
    Ok(())
}

fn measure(setup: Setup) -> Result<ScalePoint, Box<dyn std::error::Error>> {
    let hosts = setup.topology.hosts();
    let start = Instant::ZERO + Span::from_micros(setup.warm_up_us.unwrap_or(0));
    let end = start + Span::from_micros(setup.window_us.unwrap_or(0));
    let schedule = Schedule {
        window: (start, end),
        deadline: None,
    };
    let run = Prepared::new(String::new(), setup, None)?.with(schedule, Vec::new());
    let began = Clock::now();
    // The first tick is at time zero, when all hosts know each other.
    let mut set_up = None;
    let ended = run.simulate(&mut |_| (), |_| {
        set_up.get_or_insert_with(|| began.elapsed());
    })?;
    let set_up = set_up.unwrap_or(Duration::ZERO);
    let status = std::fs::read_to_string("/proc/self/status")?;
    Ok(ScalePoint {
        hosts,
        simulated_us: ended.at.as_micros_f64(),
        set_up_s: set_up.as_secs_f64(),
        run_s: (began.elapsed() - set_up).as_secs_f64(),
        events: ended.events,
        hops: ended.hops,
        peak_bytes: peak_bytes(&status).ok_or("/proc/self/status has no line \"VmHWM: ... kB\"")?,
    })
}

/// The most memory that a process had, from its `/proc/self/status`.
fn peak_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes_of(setup: &Setup, hosts: &[u32]) -> Result<Scale, RunError> {
        let what = plan::Scale {
            hosts: hosts.to_vec(),
        };
        Scale::new("growth".to_owned(), setup.clone(), &what)
    }

    #[test]
    fn networks_grow_by_racks_and_all_have_about_the_same_to_do() {
        let scale = sizes_of(&Setup::default(), &[2, 16, 1024]).expect("they can be run");
        let shapes = scale.sizes.iter().map(|size| {
            let topology = &size.topology;
            (topology.racks, topology.hosts_per_rack, size.window_us)
        });
        let expected = [
            (1, 2, Some(2_000_000)),
            (1, 16, Some(250_000)),
            (64, 16, Some(3906)),
        ];
        assert_eq!(shapes.collect::<Vec<_>>(), expected);
        let given = Setup {
            window_us: Some(70),
            ..Setup::default()
        };
        let scale = sizes_of(&given, &[16]).expect("it can be run");
        assert_eq!(scale.sizes[0].window_us, Some(70));
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_runs() {
        let error_of = |setup: &Setup, hosts: u32| {
            let error = sizes_of(setup, &[hosts]).expect_err("it cannot be run");
            error.to_string()
        };
        assert_eq!(
            error_of(&Setup::default(), 100),
            "the run \"growth\": kind.scale.hosts = 100 does not fill racks of 16; take a multiple \
             of topology.hosts_per_rack"
        );
        let mut no_spines = Setup::default();
        no_spines.topology.spines = 0;
        let error = error_of(&no_spines, 32);
        assert!(
            error.starts_with("the run \"growth\": topology.spines = 0"),
            "{error}"
        );
    }

    #[test]
    fn a_size_tells_what_it_took() {
        let mut setup = Setup {
            warm_up_us: Some(10),
            window_us: Some(200),
            ..Setup::default()
        };
        setup.topology.racks = 1;
        setup.topology.hosts_per_rack = 4;
        let point = measure(setup).expect("it runs");
        assert_eq!((point.hosts, point.simulated_us), (4, 210.0));
        assert!(point.hops > 200 && point.events > point.hops, "{point:?}");
        assert!(point.run_s > 0.0 && point.set_up_s > 0.0, "{point:?}");
        assert!(point.peak_bytes > 1 << 20, "{point:?}");
    }

    #[test]
    fn the_peak_of_memory_is_in_kilobytes() {
        let status = "Name:\thoma\nVmPeak:\t  9000 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 99 kB\n";
        assert_eq!(peak_bytes(status), Some(1234 * 1024));
        assert_eq!(peak_bytes("VmRSS:\t 99 kB\n"), None);
    }
}
