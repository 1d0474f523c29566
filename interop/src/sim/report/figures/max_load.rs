//! The most that is carried (SIGCOMM'18, figure 12).

use super::{About, Panel, Section, groups, is_published, names, sizes, sweeps};
use crate::page::format::percent;
use crate::page::look::Look;
use crate::page::plot::{Axis, Bar, Plot, Series, Shape};
use crate::sim::outcome::{MaxLoadOutcome, Outcome, Verdict};
use crate::table::Table;

/// What one sweep or search has found, in per cent of the hosts' links.
struct Limit<'a> {
    /// The search, or the run at the highest load below all that are too much.
    about: &'a dyn About,
    /// The lowest load that was too much; `None`: the highest tried is carried.
    overload: Option<f64>,
    /// Payload.
    application: f64,
    /// With headers, gaps and control packets.
    total: f64,
}

/// Bars for every search and every sweep that has found a load that is carried, and for a sweep
/// also one that is not.
pub(super) fn figure(runs: &[Outcome], searches: &[MaxLoadOutcome]) -> Option<Section> {
    let sweeps = sweeps(runs);
    let swept = sweeps.iter().filter_map(|sweep| limit(sweep));
    let limits: Vec<Limit> = swept.chain(searches.iter().filter_map(searched)).collect();
    let rows = groups(&limits, |limit| sizes(limit.about));
    if rows.is_empty() {
        return None;
    }
    // The same transport has one name and one colour in all workloads.
    let names_of = |limits: &[&Limit]| {
        let abouts: Vec<&dyn About> = limits.iter().map(|limit| limit.about).collect();
        names(&abouts)
    };
    let labels: Vec<Vec<String>> = rows.iter().map(|(_, limits)| names_of(limits)).collect();
    let mut kinds: Vec<&String> = Vec::new();
    for label in labels.iter().flatten() {
        if !kinds.contains(&label) {
            kinds.push(label);
        }
    }

    let mut table = Table::new([
        "workload",
        "run",
        "application",
        "total",
        "not carried",
        "published application",
        "published total",
    ]);
    let width = 0.84 / (kinds.len() + 1) as f64;
    let place = |row: usize, slot: usize| {
        let from = row as f64 + 0.08 + width * slot as f64;
        from + 0.05 * width..from + 0.95 * width
    };
    let mut bars = vec![(Vec::new(), Vec::new()); kinds.len() + 1];
    let pair = |x: std::ops::Range<f64>, application: f64, total: f64| {
        let bar = |value: f64| Bar {
            x: x.clone(),
            y: 0.0..value,
            text: format!("{value:.0}"),
        };
        (bar(application), bar(total))
    };
    for (row, ((name, limits), labels)) in rows.iter().zip(&labels).enumerate() {
        let mut published = None;
        for (limit, label) in limits.iter().zip(labels) {
            published = published.or_else(|| published_limit(limit.about));
            if let Some(slot) = kinds.iter().position(|kind| *kind == label) {
                let (application, total) = pair(place(row, slot), limit.application, limit.total);
                bars[slot].0.push(application);
                bars[slot].1.push(total);
            }
            let (application, total) = match published_limit(limit.about) {
                Some((application, total)) => (format!("{application} %"), format!("{total} %")),
                None => ("-".to_owned(), "-".to_owned()),
            };
            table.row([
                name.clone(),
                label.clone(),
                percent(limit.application / 100.0),
                percent(limit.total / 100.0),
                limit.overload.map_or_else(|| "-".to_owned(), percent),
                application,
                total,
            ]);
        }
        if let Some((application, total)) = published {
            let slot = kinds.len();
            let (application, total) = pair(place(row, slot), application.into(), total.into());
            bars[slot].0.push(application);
            bars[slot].1.push(total);
        }
    }
    let mut series = Vec::new();
    for (slot, (application, total)) in bars.into_iter().enumerate() {
        let (look, label) = match kinds.get(slot) {
            Some(kind) => (Look::Ours(slot), (*kind).clone()),
            None => (Look::Published, "Homa, published".to_owned()),
        };
        if total.is_empty() {
            continue;
        }
        series.push(Series {
            label: Some(label),
            look,
            shape: Shape::Bars(application),
        });
        series.push(Series {
            label: None,
            look,
            shape: Shape::HollowBars(total),
        });
    }
    let plot = Plot {
        x: Axis::places("Workload", rows.iter().map(|(name, _)| name.clone())),
        y: Axis::percentages("Share of the hosts' links (%)", std::iter::once(100.0)),
        series,
    };
    Some(Section {
        title: "Maximum load",
        text: "As SIGCOMM'18, figure 12. A filled bar is payload, the outline above it adds \
               headers, gaps and control packets. Bars are in the order of the legend."
            .to_owned(),
        panels: vec![Panel {
            caption: "Highest load that is carried".to_owned(),
            plot: Some(plot),
            table,
        }],
    })
}

fn limit<'a>(sweep: &[&'a Outcome]) -> Option<Limit<'a>> {
    let is_overload = |run: &&Outcome| matches!(run.verdict, Verdict::Overload { .. });
    let overload = sweep.iter().position(is_overload)?;
    let carried = *sweep[..overload].last()?;
    let host_gbps = carried.setup.topology.host_gbps;
    Some(Limit {
        about: carried,
        overload: Some(sweep[overload].setup.load),
        application: 100.0 * carried.throughput.delivered_gbps / host_gbps,
        total: 100.0 * carried.setup.load,
    })
}

/// More arrives during a search than the load brings, from the backlog. What counts is what could
/// go on for ever.
fn searched(search: &MaxLoadOutcome) -> Option<Limit<'_>> {
    let best = search.best()?;
    Some(Limit {
        about: search,
        overload: search.overload,
        application: 100.0 * best.offered_gbps / search.setup.topology.host_gbps,
        total: 100.0 * best.load,
    })
}

/// Homa's, application and total.
fn published_limit(run: &dyn About) -> Option<(u32, u32)> {
    let limits = run.setup().workload.published().max_load;
    let homa = limits.iter().find(|limit| limit.transport == "Homa")?;
    is_published(run).then_some((homa.payload_percent, homa.percent))
}

#[cfg(test)]
mod tests {
    use super::super::super::sample;
    use super::*;

    #[test]
    fn the_highest_load_is_the_last_below_the_first_that_is_too_much() {
        let runs = [
            sample::at_load(0.9, 0),
            sample::at_load(0.93, 1_000),
            sample::at_load(0.91, 0),
            // Beyond an overload nothing counts.
            sample::at_load(0.95, 0),
        ];
        let section = figure(&runs, &[]).expect("a search");
        let expected = "\
workload   run  application  total  not carried  published application  published total
W3        Homa       80.7 %   91 %         93 %                   80 %             90 %
";
        assert_eq!(section.panels[0].table.text(), expected);
    }

    #[test]
    fn a_search_has_its_bars_beside_those_of_sweeps() {
        let sweep = [sample::at_load(0.9, 0), sample::at_load(0.91, 1_000)];
        let mut at_least = sample::max_load("narrow workload=w4");
        at_least.setup.engine.max_overcommit = Some(1);
        at_least.overload = None;
        let searches = [
            sample::max_load("Homa workload=w4"),
            at_least,
            sample::nothing_carried("none"),
        ];
        let section = figure(&sweep, &searches).expect("searches");
        let expected = "\
workload     run  application  total  not carried  published application  published total
W3          Homa       79.8 %   90 %         91 %                   80 %             90 %
W4          Homa       82.6 %   92 %         93 %                   79 %             89 %
W4        narrow       82.6 %   92 %            -                   79 %             89 %
";
        let text = section.panels[0].table.text();
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn without_a_load_that_is_too_much_or_one_that_is_carried_there_is_no_limit() {
        let carried = [0.8, 0.9].map(|load| sample::at_load(load, 0));
        assert_eq!(figure(&carried, &[]), None);
        let refused = [0.8, 0.9].map(|load| sample::at_load(load, 1));
        assert_eq!(figure(&refused, &[]), None);
    }
}
