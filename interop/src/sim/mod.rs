//! `homa-interop sim`: a data-center network, packet by packet, whose hosts run the engine.
//!
//! A [`Setup`](setup::Setup) says what a run is, a [`Prepared`](run::Prepared) one has been
//! checked, and its [`Outcome`] is what it found. In between, a [`World`](world::World) of
//! [`Node`](node::Node)s and the [`Fabric`](fabric::Fabric) between them live through simulated
//! time. No rule of the protocol is in here: Homa's nodes are engines of `homa-client`.

mod args;
mod baseline;
mod check;
mod compare;
mod curve;
mod events;
mod experiment;
mod fabric;
mod file;
mod homa;
mod ideal;
mod ledger;
mod link;
mod node;
mod outcome;
mod plan;
mod policy;
mod report;
mod run;
mod setup;
mod slowdown;
mod snapshot;
mod time;
mod traffic;
mod workload;
mod world;

use std::cmp::Reverse;
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub(crate) use self::args::Arguments;
use self::experiment::{Experiment, Finding};
pub(crate) use self::experiment::{SIZE_SUBCOMMAND, run_size_from_stdin};
use self::outcome::{Comparison, IncastOutcome, MaxLoadOutcome, Outcome, ScaleOutcome, Verdict};
use self::plan::Plan;
use self::report::{KnownCurve, Report};
use self::run::{RunError, Speed};
pub(crate) use self::setup::WorkloadName;
pub(crate) use self::workload::{MAX_BYTES, Sizes};
use crate::progress::Progress;

/// It could not be run, or not reported; that of a command line that is wrong.
const INVALID: u8 = 2;

/// A comparison that should have been made was not.
const SKIPPED: u8 = 3;

/// Runs what the command line asks for.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    find_out(arguments).unwrap_or_else(|error| {
        tell(&*error);
        ExitCode::from(INVALID)
    })
}

fn find_out(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let Plan {
        title,
        figures,
        runs,
    } = plan(arguments)?;
    if let Some(path) = &arguments.reference {
        // It is read again for each run; this says before anything else if it cannot be.
        curve::Curve::read(path)?;
    }
    let mut experiments = Vec::new();
    for run in runs {
        experiments.push(Experiment::new(run, arguments.reference.as_deref())?);
    }
    let mut files = vec![&arguments.json, &arguments.html];
    files.extend(arguments.accept.then_some(&arguments.snapshot));
    crate::report::check_all_writable(files.into_iter().flatten())?;
    match &arguments.snapshot {
        Some(path) if !arguments.accept => drop(snapshot::read(path)?),
        _ => {}
    }
    let findings = run_all(&experiments, arguments.jobs);
    findings.errors.iter().for_each(|error| tell(error));
    if findings.is_empty() {
        return Ok(findings.status());
    }
    let curves: Vec<KnownCurve<'_>> = experiments
        .iter()
        .filter_map(Experiment::known_curve)
        .collect();
    let report = Report {
        title: &title,
        runs: &findings.runs,
        max_loads: &findings.max_loads,
        incasts: &findings.incasts,
        scales: &findings.scales,
        curves: &curves,
        figures: &figures,
        planned: experiments.len(),
    };
    let text = report.text();
    if let Some(path) = &arguments.json {
        report.write_json(path)?;
    }
    if let Some(path) = &arguments.html {
        report.write_html(path)?;
    }
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| format!("cannot write the report to standard output: {error}"))?;
    match &arguments.snapshot {
        // Of what is not complete there is nothing to review.
        _ if !findings.errors.is_empty() => {}
        Some(path) if arguments.accept => snapshot::accept(path, &text)?,
        Some(path) => {
            if let Err(error) = snapshot::check(path, &text) {
                tell(&error);
                return Ok(ExitCode::FAILURE);
            }
        }
        None => {}
    }
    Ok(findings.status())
}

fn tell(error: &(dyn Error + 'static)) {
    eprintln!("homa-interop: {}", crate::report::with_causes(error));
}

/// What all experiments have found, each kind in the order of the plan.
#[derive(Debug, Default)]
struct Findings {
    runs: Vec<Outcome>,
    max_loads: Vec<MaxLoadOutcome>,
    incasts: Vec<IncastOutcome>,
    scales: Vec<ScaleOutcome>,
    /// Why others have found nothing.
    errors: Vec<RunError>,
}

/// The runs that are asked for, with the command line's changes.
fn plan(arguments: &Arguments) -> Result<Plan, Box<dyn Error>> {
    let mut plan = match &arguments.plan {
        Some(path) => Plan::read(path)?,
        None => Plan::of_one(arguments.kind(), arguments.base()),
    };
    for run in &mut plan.runs {
        run.setup = arguments.apply(&run.setup)?;
        if run.name.is_empty() {
            run.name = run.setup.workload.published().name.to_owned();
        }
        let name = || run.name.clone();
        run.setup.check().map_err(|error| RunError::Setup {
            name: name(),
            error,
        })?;
        arguments.shorten(&mut run.setup)?;
    }
    plan.check_alike()?;
    if let Some(data) = &arguments.data {
        plan.take_sizes_from(data);
    }
    Ok(plan)
}

/// Runs all, some at a time, and tells on standard error how fast.
fn run_all(runs: &[Experiment], jobs: Option<u32>) -> Findings {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let steps = runs.iter().map(Experiment::length_us).sum();
    let progress = Progress::new(steps, Duration::from_secs(steps / 1000));
    let done = Mutex::new(Vec::new());
    let run_one = |index: usize| {
        let (run, length) = (&runs[index], runs[index].length_us());
        let mut told = 0;
        let result = run.run(|now| {
            let now = now.min(length);
            progress.bar.inc(now - told);
            told = now;
        });
        progress.bar.inc(length - told);
        if let Ok((_, speed)) = &result {
            tell_speed(run.name(), speed);
        }
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        done.push((index, result));
    };
    let (alone, mut together): (Vec<_>, Vec<_>) =
        (0..runs.len()).partition(|index| runs[*index].runs_alone());
    // The longest first, so that no processor idles for long while the last one ends.
    together.sort_by_key(|index| Reverse(runs[*index].length_us()));
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(index) = together.get(next.fetch_add(1, Ordering::Relaxed)) {
            run_one(*index);
        }
    };
    std::thread::scope(|scope| {
        let jobs = jobs.map_or(processors, |jobs| jobs as usize);
        for _ in 0..jobs.min(together.len()) {
            scope.spawn(work);
        }
    });
    alone.into_iter().for_each(run_one);
    progress.bar.finish_and_clear();
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    let mut findings = Findings::default();
    for (_, result) in done {
        match result {
            Ok((Finding::Slowdown(outcome), _)) => findings.runs.push(*outcome),
            Ok((Finding::MaxLoad(outcome), _)) => findings.max_loads.push(*outcome),
            Ok((Finding::Incast(outcome), _)) => findings.incasts.push(*outcome),
            Ok((Finding::Scale(outcome), _)) => findings.scales.push(*outcome),
            Err(error) => findings.errors.push(error),
        }
    }
    findings
}

fn tell_speed(name: &str, speed: &Speed) {
    let seconds = speed.took.as_secs_f64().max(1e-9);
    let millions = |number: u64| number as f64 / 1e6;
    eprintln!(
        "{name}: {seconds:.1} s, {:.1} million packet-hops, {:.2} million/s; {:.2} million events/s",
        millions(speed.hops),
        millions(speed.hops) / seconds,
        millions(speed.events) / seconds,
    );
}

impl Findings {
    /// Whether nobody has found anything.
    fn is_empty(&self) -> bool {
        self.runs.is_empty()
            && self.max_loads.is_empty()
            && self.incasts.is_empty()
            && self.scales.is_empty()
    }

    /// Whether all is carried, and as good as what is published.
    fn status(&self) -> ExitCode {
        let is_overload = |run: &Outcome| matches!(run.verdict, Verdict::Overload { .. });
        let fails = |run: &Outcome| matches!(run.comparison, Comparison::Done { holds: false, .. });
        let is_skipped = |run: &Outcome| matches!(run.comparison, Comparison::Skipped { .. });
        let is_too_little =
            |found: &MaxLoadOutcome| found.carried.is_none() || found.holds() == Some(false);
        if !self.errors.is_empty() {
            ExitCode::from(INVALID)
        } else if self.runs.iter().any(|run| is_overload(run) || fails(run))
            || self.max_loads.iter().any(is_too_little)
        {
            ExitCode::FAILURE
        } else if self.runs.iter().any(is_skipped) {
            ExitCode::from(SKIPPED)
        } else {
            ExitCode::SUCCESS
        }
    }
}
