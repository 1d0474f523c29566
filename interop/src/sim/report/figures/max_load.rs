//! The most that is carried (SIGCOMM'18, figure 12).

use super::super::format::percent;
use super::super::look::Look;
use super::super::plot::{Axis, Bar, Plot, Series, Shape};
use super::super::table::Table;
use super::{Panel, Section, groups, is_published, names, sizes, sweeps};
use crate::sim::outcome::{Outcome, Verdict};

/// What one sweep has found, in per cent of the hosts' links.
struct Limit<'a> {
    /// The run at the highest load below all that are too much.
    carried: &'a Outcome,
    /// The lowest load that was too much.
    refused: f64,
    /// Payload.
    application: f64,
    /// With headers, gaps and control packets.
    total: f64,
}

/// Bars for every sweep that has found both a load that is carried and one that is not.
pub(super) fn figure(runs: &[Outcome]) -> Option<Section> {
    let limits: Vec<Limit> = sweeps(runs)
        .iter()
        .filter_map(|sweep| limit(sweep))
        .collect();
    let carried = limits.iter().map(|limit| limit.carried);
    let rows = groups(carried, sizes);
    if rows.is_empty() {
        return None;
    }
    // The same transport has one name and one colour in all workloads.
    let labels: Vec<Vec<String>> = rows.iter().map(|(_, runs)| names(runs)).collect();
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
    for (row, ((name, _), labels)) in rows.iter().zip(&labels).enumerate() {
        let here = limits.iter().filter(|limit| sizes(limit.carried) == *name);
        let mut published = None;
        for (limit, label) in here.zip(labels) {
            published = published.or_else(|| published_limit(limit.carried));
            if let Some(slot) = kinds.iter().position(|kind| *kind == label) {
                let (application, total) = pair(place(row, slot), limit.application, limit.total);
                bars[slot].0.push(application);
                bars[slot].1.push(total);
            }
            let (application, total) = match published_limit(limit.carried) {
                Some((application, total)) => (format!("{application} %"), format!("{total} %")),
                None => ("-".to_owned(), "-".to_owned()),
            };
            table.row([
                name.clone(),
                label.clone(),
                percent(limit.application / 100.0),
                percent(limit.total / 100.0),
                percent(limit.refused),
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
    let refused = sweep.iter().position(is_overload)?;
    let carried = sweep[..refused].last()?;
    let host_gbps = carried.setup.topology.host_gbps;
    Some(Limit {
        carried,
        refused: sweep[refused].setup.load,
        application: 100.0 * carried.throughput.delivered_gbps / host_gbps,
        total: 100.0 * carried.setup.load,
    })
}

/// Homa's, application and total.
fn published_limit(run: &Outcome) -> Option<(u32, u32)> {
    let limits = run.setup.workload.published().max_load;
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
        let section = figure(&runs).expect("a search");
        let expected = "\
workload   run  application  total  not carried  published application  published total
W3        Homa       80.7 %   91 %         93 %                   80 %             90 %
";
        assert_eq!(section.panels[0].table.text(), expected);
    }

    #[test]
    fn without_a_load_that_is_too_much_or_one_that_is_carried_there_is_no_limit() {
        let carried = [0.8, 0.9].map(|load| sample::at_load(load, 0));
        assert_eq!(figure(&carried), None);
        let refused = [0.8, 0.9].map(|load| sample::at_load(load, 1));
        assert_eq!(figure(&refused), None);
    }
}
