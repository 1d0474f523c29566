//! The papers' figures, each made of those runs that have what it shows.
//!
//! A figure is a function from all runs to an optional [`Section`], and a variant of [`Figure`].

mod incast;
mod max_load;
mod priorities;
mod queues;
mod scale;
mod settings;
mod slowdown;
mod waste;

use serde::Deserialize;

use super::{Report, words};
use crate::page::{Panel, Section};
use crate::sim::outcome::{MaxLoadOutcome, Outcome, Verdict};
use crate::sim::setup::{EngineSetup, Mode, Setup, Topology, Wire};

/// A figure that a plan can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Figure {
    /// Median and 99th percentile of the slowdown by size.
    Tail,
    /// Mean slowdown by size.
    Mean,
    /// Highest load that is carried; of searches, and of sweeps that have found one that is not.
    MaxLoad,
    /// Goodput of a client that many servers answer at once.
    Incast,
    /// Links that idle while grants are withheld, by load.
    Waste,
    /// Bytes by priority level.
    Priorities,
    /// Bytes that wait at switches.
    Queues,
    /// The simulator's own speed and memory, by the size of the network.
    Scale,
    /// What each setting of the engine does to the tail.
    Settings,
}

impl Figure {
    /// All of them, in the order of a report.
    const ALL: [Self; 9] = [
        Self::Tail,
        Self::Mean,
        Self::MaxLoad,
        Self::Incast,
        Self::Waste,
        Self::Priorities,
        Self::Queues,
        Self::Scale,
        Self::Settings,
    ];

    /// `None`: the runs do not have what it shows.
    fn section(self, report: &Report<'_>) -> Option<Section> {
        let runs = report.runs;
        match self {
            Self::Tail => slowdown::tail(runs, report.curves),
            Self::Mean => slowdown::mean(runs, report.curves),
            Self::MaxLoad => max_load::figure(runs, report.max_loads),
            Self::Incast => incast::figure(report.incasts),
            Self::Waste => waste::figure(runs),
            Self::Priorities => priorities::figure(runs),
            Self::Queues => queues::figure(runs),
            Self::Scale => scale::figure(report.scales),
            Self::Settings => settings::figure(runs),
        }
    }
}

/// What can be made of the runs: all of it, or what is asked for.
pub(super) fn sections(report: &Report<'_>) -> Vec<Section> {
    let asked = match report.figures {
        [] => &Figure::ALL,
        asked => asked,
    };
    let sections = asked.iter().map(|figure| figure.section(report));
    sections.flatten().collect()
}

/// What every experiment tells of what it was.
trait About {
    fn name(&self) -> &str;
    fn setup(&self) -> &Setup;
    fn published_sizes(&self) -> bool;
}

impl About for Outcome {
    fn name(&self) -> &str {
        &self.name
    }

    fn setup(&self) -> &Setup {
        &self.setup
    }

    fn published_sizes(&self) -> bool {
        self.published_sizes
    }
}

impl About for MaxLoadOutcome {
    fn name(&self) -> &str {
        &self.name
    }

    fn setup(&self) -> &Setup {
        &self.setup
    }

    fn published_sizes(&self) -> bool {
        self.published_sizes
    }
}

/// Runs by what `key` says of them, in the order in which that first comes.
fn groups<'a, T: ?Sized, K: PartialEq>(
    runs: impl IntoIterator<Item = &'a T>,
    key: impl Fn(&'a T) -> K,
) -> Vec<(K, Vec<&'a T>)> {
    let mut groups: Vec<(K, Vec<&T>)> = Vec::new();
    for run in runs {
        let key = key(run);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(run),
            None => groups.push((key, vec![run])),
        }
    }
    groups
}

/// Runs that differ in load (and seed) alone, by rising load.
fn sweeps<'a>(runs: impl IntoIterator<Item = &'a Outcome>) -> Vec<Vec<&'a Outcome>> {
    let key = |run: &Outcome| Setup {
        load: 0.0,
        seed: 0,
        ..run.setup.clone()
    };
    let sweeps = groups(runs, key).into_iter();
    sweeps
        .map(|(_, mut sweep)| {
            sweep.sort_by(|a, b| a.setup.load.total_cmp(&b.setup.load));
            sweep
        })
        .collect()
}

/// Loads of one sweep of which each is worth a plot of its own.
const FEW_LOADS: usize = 3;

/// Series that can be told apart in one plot.
const FEW_SERIES: usize = 6;

/// The runs that are told one by one: of a sweep over many loads, or of a search for the highest,
/// only those at the loads for which there are published slowdowns.
fn told_singly(runs: &[Outcome]) -> Vec<&Outcome> {
    let is_overload = |run: &&&Outcome| matches!(run.verdict, Verdict::Overload { .. });
    let mut sweeps = sweeps(runs);
    sweeps.retain(|sweep| {
        let overloads = sweep.iter().filter(is_overload).count();
        sweep.len() <= FEW_LOADS && (overloads == 0 || overloads == sweep.len())
    });
    let is_told = |run: &&Outcome| {
        let published = run.setup.workload.published().slowdown_at(run.setup.load);
        let mut few = sweeps.iter().flatten();
        published.is_some() || few.any(|few| std::ptr::eq(*few, *run))
    };
    runs.iter().filter(is_told).collect()
}

/// At most as many runs as a plot has room for: first those with the engine's defaults.
fn drawable<'a>(runs: &[&'a Outcome]) -> Vec<&'a Outcome> {
    let is_default = |run: &&&Outcome| run.setup.engine == EngineSetup::default();
    let few = runs.len() <= FEW_SERIES;
    let (first, then): (Vec<_>, Vec<_>) = runs.iter().partition(|run| few || is_default(run));
    first
        .into_iter()
        .chain(then)
        .take(FEW_SERIES)
        .copied()
        .collect()
}

/// A name for each run, or sweep by one of its runs: the plan's, without what a plan adds for the
/// values that a plot is about or runs over, where that is enough to tell them apart. One alone is
/// its transport.
fn names<T: About + ?Sized>(runs: &[&T]) -> Vec<String> {
    const ADDED: [&str; 3] = ["workload=", "cdf=", "load="];
    if let [run] = runs {
        return vec![words::transport(run.setup().transport).to_owned()];
    }
    let is_own = |word: &&str| !ADDED.iter().any(|added| word.starts_with(added));
    let shorten = |run: &&T| {
        let words: Vec<&str> = run.name().split(' ').filter(is_own).collect();
        words.join(" ")
    };
    let names: Vec<String> = runs.iter().map(shorten).collect();
    let is_alone = |name| names.iter().filter(|other| *other == name).count() == 1;
    let own = runs.iter().zip(&names);
    own.map(|(run, name)| if is_alone(name) { name } else { run.name() })
        .map(str::to_owned)
        .collect()
}

/// What sizes a run sends: `W4`, or the name of a user's own file.
fn sizes<T: About + ?Sized>(run: &T) -> String {
    let file = run.setup().cdf.as_ref().and_then(|file| file.file_stem());
    match file.filter(|_| !run.published_sizes()) {
        Some(name) => name.display().to_string(),
        None => words::workload(run.setup().workload).to_owned(),
    }
}

/// Whether it is a run of which SIGCOMM'18 tells results, apart from load and transport.
fn is_published<T: About + ?Sized>(run: &T) -> bool {
    let setup = run.setup();
    run.published_sizes()
        && setup.mode == Mode::OneWay
        && setup.wire == Wire::Paper
        && setup.topology == Topology::default()
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn a_name_leaves_out_what_the_plot_says_unless_it_is_needed() {
        let runs = ["Homa workload=w4", "Homa workload=w4 boost_tail=false"].map(sample::outcome);
        let [default, other] = &runs;
        assert_eq!(names(&[default, other]), ["Homa", "Homa boost_tail=false"]);
        assert_eq!(names(&[other]), ["Homa"]);
        let runs = ["a load=0.5", "a load=0.8", "b load=0.5"].map(sample::outcome);
        let runs: Vec<&Outcome> = runs.iter().collect();
        assert_eq!(names(&runs), ["a load=0.5", "a load=0.8", "b"]);
    }

    #[test]
    fn a_sweep_goes_over_loads_and_a_search_is_not_told_run_by_run() {
        let runs = [0.9, 0.8, 0.85, 0.95].map(|load| sample::at_load(load, 0));
        let sweeps = sweeps(&runs);
        let loads: Vec<_> = sweeps[0].iter().map(|run| run.setup.load).collect();
        assert_eq!((sweeps.len(), loads), (1, vec![0.8, 0.85, 0.9, 0.95]));
        let told = |runs: &[Outcome]| -> Vec<_> {
            told_singly(runs).iter().map(|run| run.setup.load).collect()
        };
        assert_eq!(told(&runs), [0.8]);
        assert_eq!(told(&runs[..3]), [0.9, 0.8, 0.85]);
        let search = [sample::at_load(0.9, 0), sample::at_load(0.92, 1_000_000)];
        assert_eq!(told(&search), [0.0; 0]);
    }

    #[test]
    fn what_is_not_asked_for_is_not_made() {
        let runs = [sample::outcome("any")];
        let titles = |asked: &[Figure]| -> Vec<_> {
            let report = Report {
                title: "",
                runs: &runs,
                figures: asked,
                ..Report::default()
            };
            sections(&report)
                .iter()
                .map(|section| section.title)
                .collect()
        };
        assert_eq!(titles(&[Figure::Queues]), ["Queues"]);
        assert_eq!(titles(&[Figure::MaxLoad]), [""; 0]);
        assert_eq!(
            titles(&[]),
            [
                "Slowdown: median and tail",
                "Slowdown: mean",
                "Priority levels",
                "Queues"
            ]
        );
    }
}
