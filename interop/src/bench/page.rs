//! `bench page`: results of the other benchmarks as a page, from the files that they have written.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use maud::{Markup, html};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::machine::Machine;
use super::{baseline, compare, link, load};
use crate::page::format::{count, figure, size};
use crate::page::look::Look;
use crate::page::plot::{Axis, Plot, Series, Shape};
use crate::page::{self, DrawError, Panel, Section, table};
use crate::report::{self, Row, Verdict, WriteError};
use crate::table::Table;

/// Makes one page of results that were written with --json, with plots and tables.
///
/// Runs of `bench load` with the same calls, on different stacks, share their plots.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  homa-interop bench page compare.json tcp.json homa.json --html a.html"
)]
pub(crate) struct Arguments {
    /// Results of `bench compare`, `bench load`, `bench baseline` and `bench link`.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write the page to this file.
    #[arg(long, value_name = "FILE")]
    html: PathBuf,
    /// Its title.
    #[arg(long, value_name = "TEXT", default_value = "Homa against TCP")]
    title: String,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
enum PageError {
    #[error("cannot read {}: give files that `bench` has written with --json", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{} is no result of a benchmark that this version can read: give files that it has written \
         with --json",
        path.display()
    )]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(
        "{} says that it is a result of kind {kind:?}: give results of `bench compare`, `bench \
         load`, `bench baseline` and `bench link`",
        path.display()
    )]
    Kind { path: PathBuf, kind: String },
}

/// A result, as it was written.
#[derive(Clone, Debug)]
pub(crate) enum Stored {
    Compare(Box<compare::Outcome>),
    Load(Box<load::Outcome>),
    Baseline(Box<baseline::Outcome>),
    Link(Box<link::Outcome>),
}

/// Makes the page.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let results = arguments.files.iter().map(|path| read(path));
    let results: Vec<Stored> = results.collect::<Result<_, _>>()?;
    write(&arguments.html, &arguments.title, &results)?;
    Ok(())
}

fn read(path: &Path) -> Result<Stored, PageError> {
    /// What tells them apart.
    #[derive(Deserialize)]
    struct AnyKind {
        kind: String,
    }

    fn parse<T: DeserializeOwned>(path: &Path, value: Value) -> Result<Box<T>, PageError> {
        let value = serde_json::from_value(value).map_err(|source| PageError::Json {
            path: path.to_owned(),
            source,
        })?;
        Ok(Box::new(value))
    }

    let json = fs::read(path).map_err(|source| PageError::Read {
        path: path.to_owned(),
        source,
    })?;
    let value: Value = serde_json::from_slice(&json).map_err(|source| PageError::Json {
        path: path.to_owned(),
        source,
    })?;
    let AnyKind { kind } = *parse(path, value.clone())?;
    Ok(match kind.as_str() {
        "compare" => Stored::Compare(parse(path, value)?),
        "load" => Stored::Load(parse(path, value)?),
        "baseline" => Stored::Baseline(parse(path, value)?),
        "link" => Stored::Link(parse(path, value)?),
        _ => {
            let path = path.to_owned();
            return Err(PageError::Kind { path, kind });
        }
    })
}

/// Writes the page, in place of what the file held.
pub(crate) fn write(path: &Path, title: &str, results: &[Stored]) -> Result<(), WriteError> {
    let page =
        page(title, results).map_err(|error| WriteError::new(path, io::Error::other(error)))?;
    report::write_whole(path, page.as_bytes())
}

fn page(title: &str, results: &[Stored]) -> Result<String, DrawError> {
    let mut loads = Vec::new();
    let mut sections = Vec::new();
    let mut claims = Vec::new();
    for result in results {
        match result {
            Stored::Compare(outcome) => {
                claims.extend(outcome.claims.iter().cloned());
                sections.push(compared(outcome));
            }
            Stored::Load(outcome) => loads.push(&**outcome),
            Stored::Baseline(outcome) => {
                claims.extend(outcome.claims.iter().cloned());
                sections.push(base(outcome));
            }
            Stored::Link(outcome) => {
                claims.extend(outcome.claims.iter().cloned());
                sections.push(link::section(outcome));
            }
        }
    }
    sections.extend(under_load(&loads));
    let sections = sections.iter().map(page::section);
    let sections: Vec<Markup> = sections.collect::<Result<_, _>>()?;
    let body = html! {
        (machines(results))
        @if !claims.is_empty() {
            section {
                h2 { "Claims" }
                (table(&Verdict::table(&claims)))
            }
        }
        @for section in sections { (section) }
    };
    Ok(page::whole(title, &body))
}

/// Where each result is from; those of one machine and day as a rule.
fn machines(results: &[Stored]) -> Markup {
    html! {
        section {
            h2 { "Where and when" }
            dl {
                @for result in results {
                    dt { (result.name()) } dd { (result.machine().describe()) }
                }
            }
        }
    }
}

impl Stored {
    fn name(&self) -> String {
        match self {
            Self::Compare(outcome) => format!("comparison of {}", outcome.suite),
            Self::Load(outcome) => format!("{} under load", outcome.setup.stack.name()),
            Self::Baseline(_) => "baseline".to_owned(),
            Self::Link(_) => "emulated link".to_owned(),
        }
    }

    fn machine(&self) -> &Machine {
        match self {
            Self::Compare(outcome) => &outcome.machine,
            Self::Load(outcome) => &outcome.machine,
            Self::Baseline(outcome) => &outcome.machine,
            Self::Link(outcome) => &outcome.machine,
        }
    }
}

/// A table of all rows, and a plot for each.
fn compared(outcome: &compare::Outcome) -> Section {
    let mut panels = vec![
        Panel {
            caption: "Latency and rate".to_owned(),
            plot: None,
            table: report::rows_table(&outcome.rows),
        },
        Panel {
            caption: "CPU".to_owned(),
            plot: None,
            table: report::cpu_table(&outcome.rows),
        },
    ];
    panels.extend(outcome.rows.iter().filter_map(distribution));
    Section {
        title: "Closed loops",
        text: format!(
            "{} over TCP and over Homa, two processes on one machine, {} rounds of {} s each in \
             turns, medians of the rounds. A ratio is Homa divided by TCP. Plots show which share \
             of the calls or messages of all rounds took at least how long.",
            outcome.suite, outcome.rounds, outcome.seconds
        ),
        panels,
    }
}

fn distribution(row: &Row) -> Option<Panel> {
    let sides = [
        ("TCP".to_owned(), &row.tcp.ccdf[..]),
        ("Homa".to_owned(), &row.homa.ccdf[..]),
    ];
    tails(row.name.clone(), &sides)
}

/// Lines of the share that took at least so long, and the values at some shares as a table.
pub(super) fn tails(caption: String, sides: &[(String, &[(f64, f64)])]) -> Option<Panel> {
    let points = || sides.iter().flat_map(|(_, points)| points.iter());
    let least_us = points().map(|(us, _)| *us).reduce(f64::min)?;
    let least_share = points().map(|(_, share)| *share).reduce(f64::min)?;
    let from = 10f64.powf(least_us.max(0.001).log10().floor());
    let series = sides.iter().enumerate().map(|(number, (name, points))| {
        let shape = Shape::Line(points.to_vec());
        Series {
            label: Some(name.clone()),
            look: Look::Ours(number),
            shape,
        }
    });
    let plot = Plot {
        x: Axis::ratios("Latency (us)", from, points().map(|(us, _)| *us)),
        y: Axis::shares("Share that took at least so long", least_share),
        series: series.collect(),
    };
    let mut head = vec!["share"];
    head.extend(sides.iter().map(|(name, _)| name.as_str()));
    let mut table = Table::new(head);
    for (share, label) in &plot.y.ticks {
        let mut cells = vec![label.clone()];
        for (_, points) in sides {
            let at = points.iter().find(|(_, at_least)| at_least <= share);
            cells.push(at.map_or_else(|| "-".to_owned(), |(us, _)| figure(*us)));
        }
        table.row(cells);
    }
    Some(Panel {
        caption,
        plot: Some(plot),
        table,
    })
}

fn base(outcome: &baseline::Outcome) -> Section {
    Section {
        title: "Baseline",
        text: format!("{}. {}.", outcome.describe(), outcome.describe_homa()),
        panels: vec![Panel {
            caption: "One message at a time".to_owned(),
            plot: None,
            table: outcome.table(),
        }],
    }
}

/// Runs that made the same calls, each group in plots of its own.
fn under_load(loads: &[&load::Outcome]) -> Option<Section> {
    let mut groups: Vec<Vec<&load::Outcome>> = Vec::new();
    for outcome in loads {
        let same = |group: &&mut Vec<&load::Outcome>| {
            group
                .iter()
                .any(|other| outcome.setup.same_calls(&other.setup))
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(outcome),
            None => groups.push(vec![outcome]),
        }
    }
    let panels = groups.iter().flat_map(|group| load_panels(group));
    let panels: Vec<Panel> = panels.collect();
    (!panels.is_empty()).then(|| Section {
        title: "Open loop",
        text: "Calls start at random times, whatever became of those before them; latencies count \
               from when they were meant to be sent. A slowdown is a latency divided by the time \
               of a call of the same size alone: solid lines are the 99th percentile, dashed ones \
               the median, by tenths of the calls, shortest first."
            .to_owned(),
        panels,
    })
}

fn load_panels(group: &[&load::Outcome]) -> Vec<Panel> {
    let Some(first) = group.first() else {
        return Vec::new();
    };
    let what = load_name(first);
    let sides = |points: fn(&load::Outcome) -> &[(f64, f64)]| -> Vec<(String, &[(f64, f64)])> {
        let side = |outcome: &&'_ load::Outcome| outcome.setup.stack.name().to_owned();
        group.iter().map(|it| (side(it), points(it))).collect()
    };
    let mut panels = Vec::new();
    panels.extend(slowdowns(format!("{what}: slowdown by size"), group));
    let all = sides(|outcome| &outcome.ccdf);
    panels.extend(tails(format!("{what}: latency of all calls"), &all));
    if first.setup.workload.is_some() {
        let shortest = sides(|outcome| &outcome.ccdf_shortest);
        let caption = format!("{what}: latency of the shortest tenth");
        panels.extend(tails(caption, &shortest));
    }
    for outcome in group {
        let mut caption = load::text::setup(&outcome.setup);
        caption += "; ";
        caption += &load::text::achieved(outcome);
        if let Some(cpu) = &outcome.cpu_per_call {
            caption += "; ";
            caption += &load::text::cpu_per_call(cpu);
        }
        panels.push(Panel {
            caption,
            plot: None,
            table: load::text::table(outcome),
        });
    }
    panels
}

fn load_name(outcome: &load::Outcome) -> String {
    let setup = &outcome.setup;
    let lengths = match setup.workload {
        Some(workload) => workload.published().name.to_owned(),
        None => format!("{} B", count(setup.bytes.into())),
    };
    format!("{lengths} at {} Mbit/s", figure(setup.mbps))
}

fn slowdowns(caption: String, group: &[&load::Outcome]) -> Option<Panel> {
    let first = group.first()?;
    let share = |at: usize, of: usize| (at + 1) as f64 / of as f64;
    let ends: Vec<(u64, f64)> = first
        .tenths
        .iter()
        .enumerate()
        .map(|(at, tenth)| (tenth.longest_bytes.into(), share(at, first.tenths.len())))
        .collect();
    let mut series = Vec::new();
    for (number, outcome) in group.iter().enumerate() {
        let count = outcome.tenths.len();
        let line = |value: fn(&load::Figures) -> Option<f64>| {
            let tenths = outcome.tenths.iter().enumerate();
            let points =
                tenths.filter_map(|(at, tenth)| Some((share(at, count), value(&tenth.figures)?)));
            let mut points: Vec<(f64, f64)> = points.collect();
            if let Some(first) = points.first() {
                points.insert(0, (0.0, first.1));
            }
            points
        };
        let look = Look::Ours(number);
        series.push(Series {
            label: Some(outcome.setup.stack.name().to_owned()),
            look,
            shape: Shape::Line(line(|figures| figures.slowdown_p99)),
        });
        series.push(Series {
            label: None,
            look,
            shape: Shape::Dashed(line(|figures| figures.slowdown_p50)),
        });
    }
    let values = || series.iter().flat_map(|series| series.shape.heights());
    let least = values().reduce(f64::min)?;
    // A call among others may be quicker than one alone, whose processors sleep.
    let from = if least < 1.0 { 0.1 } else { 1.0 };
    let plot = Plot {
        x: Axis::by_messages(&ends),
        y: Axis::ratios("Slowdown (P99 solid, P50 dashed)", from, values()),
        series,
    };
    let mut head = vec!["tenth up to".to_owned()];
    for outcome in group {
        let name = outcome.setup.stack.name();
        head.extend([format!("{name} P50"), format!("{name} P99")]);
    }
    let mut table = Table::new(head.iter().map(String::as_str));
    for (at, (bytes, _)) in ends.iter().enumerate() {
        let mut cells = vec![size(*bytes as f64)];
        for outcome in group {
            let figures = outcome.tenths.get(at).map(|tenth| tenth.figures);
            let known = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), figure);
            cells.push(known(figures.and_then(|figures| figures.slowdown_p50)));
            cells.push(known(figures.and_then(|figures| figures.slowdown_p99)));
        }
        table.row(cells);
    }
    Some(Panel {
        caption,
        plot: Some(plot),
        table,
    })
}

#[cfg(test)]
mod tests {
    use roxmltree::Document;

    use super::*;
    use crate::bench::load::sample;
    use crate::page::as_xml;

    #[test]
    fn runs_with_the_same_calls_share_their_plots_and_the_page_is_well_formed() {
        let homa = sample::outcome(20_000, false);
        let mut tcp = homa.clone();
        tcp.setup.stack = serde_json::from_str("\"tonic-tcp\"").expect("a stack");
        let mut other = homa.clone();
        other.setup.seed = 2;
        let stored = [homa, tcp, other].map(|outcome| Stored::Load(Box::new(outcome)));
        let text = as_xml(&page("<All> & more", &stored).expect("drawn in memory"));
        let page = Document::parse(&text).expect("well-formed");
        let images = page
            .descendants()
            .filter(|node| node.attribute("role") == Some("img"));
        // Two groups with two distributions each; nothing was measured alone.
        assert_eq!(images.count(), 4);
        assert!(text.contains("tonic-tcp") && !text.contains("href="));
    }

    #[test]
    fn a_slowdown_is_drawn_by_tenth_and_told_in_a_table() {
        let mut outcome = sample::outcome(20_000, false);
        for (at, tenth) in outcome.tenths.iter_mut().enumerate() {
            tenth.figures.slowdown_p50 = Some(1.0 + at as f64);
            tenth.figures.slowdown_p99 = Some(10.0 + at as f64);
        }
        let panel = slowdowns("any".to_owned(), &[&outcome]).expect("there are some");
        let text = panel.table.text();
        assert!(text.contains("20 KB"), "{text}");
        assert_eq!(panel.table.rows[9][1..], ["10.0", "19.0"]);
        let plot = panel.plot.expect("drawn");
        assert_eq!(plot.y.range.start, 1.0);
        let Shape::Line(points) = &plot.series[0].shape else {
            panic!("{:?}", plot.series[0]);
        };
        assert_eq!((points[0], points[10]), ((0.0, 10.0), (1.0, 19.0)));
    }

    #[test]
    fn a_file_that_is_no_result_is_named_with_the_reason() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let told = |name: &str, content: Option<&str>| {
            let path = folder.path().join(name);
            if let Some(content) = content {
                fs::write(&path, content).expect("writable");
            }
            let error = read(&path).expect_err(name);
            let text = report::with_causes(&error);
            assert!(text.contains(name), "{text}");
            text
        };
        assert!(told("missing.json", None).contains("cannot read"));
        assert!(told("text.json", Some("not JSON")).contains("no result"));
        assert!(told("list.json", Some("[1]")).contains("no result"));
        assert!(told("other.json", Some("{\"kind\": \"sim\"}")).contains("\"sim\""));
        assert!(told("part.json", Some("{\"kind\": \"load\"}")).contains("machine"));
    }

    #[test]
    fn a_result_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("load.json");
        report::write_json(&path, &sample::outcome(1_000, true)).expect("writable");
        let Stored::Load(read) = read(&path).expect("ours") else {
            panic!("another kind");
        };
        assert_eq!(read.samples, 1_000);
    }
}
