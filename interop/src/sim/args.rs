//! What `homa-interop sim` is told on its command line.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::plan::{self, Kind};
use super::setup::{Mode, Routing, Setup, TransportName, Wire, WorkloadName};
use super::time::Span;
use super::workload::{CdfError, Workload};

/// Simulates a data center, packet by packet, whose hosts run the engine.
///
/// Without options: workload W3 at 80 % load on the network of SIGCOMM'18's simulation, 144 hosts in
/// 9 racks. The same seed gives the same output, byte for byte. Exits with status 1 if a run is an
/// overload, slower than the published values that it is compared with, or not what --snapshot has;
/// 2 if something could not be run; 3 if a comparison had to be skipped.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Examples:
  homa-interop sim --quick
  homa-interop sim --workload w4 --cdf w4.txt --load 0.8 --json out.json --html out.html
  homa-interop sim --plan interop/plans/figure-10.toml --data DIR --json out.json"
)]
pub(crate) struct Arguments {
    /// Runs the experiments of this file; the options below change the settings of all its runs
    #[arg(long, value_name = "FILE", conflicts_with = "quick")]
    pub(crate) plan: Option<PathBuf>,
    /// One rack of 16 hosts for 100 ms or less, some seconds of work
    #[arg(long)]
    pub(crate) quick: bool,
    /// Message sizes; [default: w3]
    #[arg(long, value_enum)]
    workload: Option<WorkloadName>,
    /// Message sizes from this file, with two columns: bytes, and the share of messages that are
    /// not longer
    #[arg(long, value_name = "FILE")]
    cdf: Option<PathBuf>,
    /// Finds the whole distributions of the five workloads in DIR/workloads/w1_sim.txt and so on,
    /// and the published slowdowns in DIR/slowdown/homa_w1_load80.txt and so on
    #[arg(long, value_name = "DIR", conflicts_with = "cdf")]
    pub(crate) data: Option<PathBuf>,
    /// Share of the hosts' links that is offered, headers and grants included; [default: 0.8]
    #[arg(long, value_name = "SHARE", value_parser = parse_number)]
    load: Option<f64>,
    /// What carries the messages; [default: homa]
    #[arg(long, value_enum)]
    transport: Option<TransportName>,
    /// What a message is; [default: one-way]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// How many bytes a packet occupies; [default: paper]
    #[arg(long, value_enum)]
    wire: Option<Wire>,
    /// Racks; [default: 9]
    #[arg(long, value_name = "N")]
    racks: Option<u32>,
    /// Hosts in each rack; [default: 16]
    #[arg(long, value_name = "N")]
    hosts_per_rack: Option<u32>,
    /// Switches that connect the racks; [default: 4]
    #[arg(long, value_name = "N")]
    spines: Option<u32>,
    /// Speed of the hosts' links; [default: 10]
    #[arg(long, value_name = "GBPS", value_parser = parse_number)]
    host_gbps: Option<f64>,
    /// Speed of the links between switches; [default: 40]
    #[arg(long, value_name = "GBPS", value_parser = parse_number)]
    spine_gbps: Option<f64>,
    /// Which spine a packet passes; [default: spray]
    #[arg(long, value_enum)]
    routing: Option<Routing>,
    /// Bytes that wait at a switch port at most; [default: no limit]
    #[arg(long, value_name = "BYTES")]
    buffer_bytes: Option<u64>,
    /// Share of the packets that each switch port loses; [default: 0]
    #[arg(long, value_name = "SHARE", value_parser = parse_number)]
    loss: Option<f64>,
    /// Priority levels; [default: 8]
    #[arg(long, value_name = "N")]
    priorities: Option<u8>,
    /// Messages granted at the same time; [default: one for each scheduled level]
    #[arg(long, value_name = "N")]
    overcommit: Option<usize>,
    /// Bytes of a message that are sent without a grant; [default: 9328]
    #[arg(long, value_name = "BYTES")]
    unsched_bytes: Option<usize>,
    /// Any setting by its name in the JSON, such as engine.boost_tail=false; may be given often
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_assignment)]
    set: Vec<(String, Value)>,
    /// Makes all that is random; [default: 1]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Simulated time before messages are measured; [default: the workload's, 5 to 200 ms]
    #[arg(long, value_name = "US")]
    warm_up_us: Option<u64>,
    /// Simulated time in which measured messages start; [default: the workload's, 20 ms to 1.9 s]
    #[arg(long, value_name = "US")]
    window_us: Option<u64>,
    /// Searches the highest load that the network carries, from 0.6 to 0.98 in steps of 0.01
    #[arg(long, conflicts_with_all = ["plan", "load", "reference"])]
    max_load: bool,
    /// Compares with the published slowdowns in this file; [default: those of Homa in ../slowdown
    /// beside the file of --cdf]; needs --cdf or --data
    #[arg(long, value_name = "FILE")]
    pub(crate) reference: Option<PathBuf>,
    /// Runs at the same time; [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) jobs: Option<u32>,
    /// Fails if the report differs from the one in this file
    #[arg(long, value_name = "FILE")]
    pub(crate) snapshot: Option<PathBuf>,
    /// Puts the report into the file of --snapshot instead
    #[arg(long, requires = "snapshot")]
    pub(crate) accept: bool,
    /// Writes the results as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Writes the results as a page with plots
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// Times of a quick run at most.
const QUICK_WARM_UP_US: u64 = 5000;
const QUICK_WINDOW_US: u64 = 100_000;

/// A setting that does not exist, or not with such a value.
#[derive(Debug, thiserror::Error)]
#[error("--set {key}={value}: there is no such setting, or no such value of it")]
pub(crate) struct AssignmentError {
    key: String,
    value: Value,
    #[source]
    error: serde_json::Error,
}

impl Arguments {
    /// What is to be found out if there is no plan.
    pub(crate) fn kind(&self) -> Kind {
        if self.max_load {
            Kind::MaxLoad(plan::MaxLoad::default())
        } else {
            Kind::Slowdown {}
        }
    }

    /// The set-up that is meant if there is no plan.
    pub(crate) fn base(&self) -> Setup {
        let mut setup = Setup::default();
        if self.quick {
            setup.topology.racks = 1;
        }
        setup
    }

    /// The set-up of a quick run, if its times have not been given: as long as the workload's own,
    /// but not longer than is some seconds of work.
    pub(crate) fn shorten(&self, setup: &mut Setup) -> Result<(), CdfError> {
        if self.quick && !self.max_load {
            let own = Workload::of(setup)?;
            let micros = |span: Span| span.as_picos() / 1_000_000;
            let (warm_up, window) = (micros(own.warm_up), micros(own.window));
            setup
                .warm_up_us
                .get_or_insert(warm_up.min(QUICK_WARM_UP_US));
            setup.window_us.get_or_insert(window.min(QUICK_WINDOW_US));
        }
        Ok(())
    }

    /// Changes a set-up as the options say.
    pub(crate) fn apply(&self, setup: &Setup) -> Result<Setup, AssignmentError> {
        let mut setup = setup.clone();
        for (key, value) in self.assignments() {
            setup = assign(&setup, &key, &value).map_err(|error| AssignmentError {
                key,
                value,
                error,
            })?;
        }
        Ok(setup)
    }

    fn assignments(&self) -> Vec<(String, Value)> {
        let options = [
            ("workload", json!(self.workload)),
            ("cdf", json!(self.cdf)),
            ("load", json!(self.load)),
            ("transport", json!(self.transport)),
            ("mode", json!(self.mode)),
            ("wire", json!(self.wire)),
            ("topology.racks", json!(self.racks)),
            ("topology.hosts_per_rack", json!(self.hosts_per_rack)),
            ("topology.spines", json!(self.spines)),
            ("topology.host_gbps", json!(self.host_gbps)),
            ("topology.spine_gbps", json!(self.spine_gbps)),
            ("topology.routing", json!(self.routing)),
            ("topology.buffer_bytes", json!(self.buffer_bytes)),
            ("topology.loss", json!(self.loss)),
            ("engine.num_priorities", json!(self.priorities)),
            ("engine.max_overcommit", json!(self.overcommit)),
            ("engine.unsched_bytes", json!(self.unsched_bytes)),
            ("seed", json!(self.seed)),
            ("warm_up_us", json!(self.warm_up_us)),
            ("window_us", json!(self.window_us)),
        ];
        let given = options.into_iter().filter(|(_, value)| !value.is_null());
        given
            .map(|(key, value)| (key.to_owned(), value))
            .chain(self.set.iter().cloned())
            .collect()
    }
}

/// `key` is a path of names with dots between them.
fn assign(setup: &Setup, key: &str, value: &Value) -> Result<Setup, serde_json::Error> {
    let mut whole = serde_json::to_value(setup)?;
    let mut place = &mut whole;
    for name in key.split('.') {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[name];
    }
    *place = value.clone();
    serde_json::from_value(whole)
}

/// JSON has no other numbers.
fn parse_number(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| "expected a finite number".to_owned())
}

fn parse_assignment(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text
        .split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .ok_or("expected a setting and its value, such as engine.boost_tail=false")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
    Ok((key.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn apply(words: &[&str]) -> Result<Setup, AssignmentError> {
        let words = std::iter::once(&"sim").chain(words);
        let line: Line = clap::Parser::parse_from(words);
        line.arguments.apply(&line.arguments.base())
    }

    #[test]
    fn options_change_the_settings_of_their_names() {
        assert_eq!(apply(&[]).expect("nothing to do"), Setup::default());
        let setup = apply(&[
            "--workload",
            "w5",
            "--load",
            "0.5",
            "--racks=2",
            "--routing",
            "flow-hash",
            "--overcommit=3",
            "--set",
            "engine.boost_tail=false",
            "--set",
            "cdf=sizes.txt",
        ])
        .expect("all of them exist");
        assert_eq!(
            (setup.workload, setup.load, setup.topology.racks),
            (WorkloadName::W5, 0.5, 2)
        );
        assert_eq!(setup.topology.routing, Routing::FlowHash);
        assert_eq!(setup.engine.max_overcommit, Some(3));
        assert_eq!(setup.engine.boost_tail, Some(false));
        assert_eq!(setup.cdf, Some("sizes.txt".into()));
        let quick = apply(&["--quick", "--window-us=7"]).expect("all of them exist");
        assert_eq!((quick.topology.racks, quick.window_us), (1, Some(7)));
    }

    #[test]
    fn settings_that_do_not_exist_are_named() {
        for (wrong, names) in [
            ("engine.boost=1", "boost_tail"),
            ("lod=0.5", "load"),
            ("seed.low=1", "invalid type"),
            ("load=much", "invalid type"),
            ("engine.cutoffs=best", "known"),
        ] {
            let error = apply(&["--set", wrong]).expect_err(wrong);
            assert!(
                error
                    .to_string()
                    .contains(wrong.split('=').next().unwrap_or("")),
                "{error}"
            );
            assert!(error.error.to_string().contains(names), "{}", error.error);
        }
    }
}
