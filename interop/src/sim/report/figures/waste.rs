//! Receivers' links that idle while grants are withheld (SIGCOMM'18, figure 13).

use super::{Panel, Section, groups, names, sizes, sweeps};
use crate::page::format::percent;
use crate::page::look::Look;
use crate::page::plot::{Axis, Plot, Series, Shape};
use crate::sim::outcome::Outcome;
use crate::sim::setup::TransportName;
use crate::table::Table;

/// Share of the axis that a label needs.
const LABEL_ROOM: f64 = 0.05;

/// A line for every sweep of Homa over two loads or more.
pub(super) fn figure(runs: &[Outcome]) -> Option<Section> {
    let homa = runs
        .iter()
        .filter(|run| run.setup.transport == TransportName::Homa);
    let panels: Vec<Panel> = groups(homa, sizes)
        .into_iter()
        .filter_map(|(sizes, runs)| {
            let mut sweeps = sweeps(runs);
            let load = |run: Option<&&Outcome>| run.map(|run| run.setup.load);
            sweeps.retain(|sweep| load(sweep.first()) < load(sweep.last()));
            (!sweeps.is_empty()).then(|| panel(sizes, &sweeps))
        })
        .collect();
    (!panels.is_empty()).then(|| Section {
        title: "Wasted bandwidth",
        text: "As SIGCOMM'18, figure 13: the share of their time that receivers' links idle while \
               their host withholds grants. Above the line nothing is left for more load."
            .to_owned(),
        panels,
    })
}

fn panel(sizes: String, sweeps: &[Vec<&Outcome>]) -> Panel {
    let firsts: Vec<&Outcome> = sweeps.iter().map(|sweep| sweep[0]).collect();
    let labels = names(&firsts);
    let mut loads: Vec<f64> = sweeps.iter().flatten().map(|run| run.setup.load).collect();
    loads.sort_by(f64::total_cmp);
    loads.dedup();

    let mut series: Vec<Series> = Vec::new();
    for (number, (sweep, label)) in sweeps.iter().zip(&labels).enumerate() {
        let points = sweep.iter().filter(|run| run.wasted.is_finite());
        let points = points.map(|run| (100.0 * run.setup.load, 100.0 * run.wasted));
        series.push(Series {
            label: Some(label.clone()),
            look: Look::Ours(number),
            shape: Shape::Line(points.collect()),
        });
    }
    let wasted = series.iter().flat_map(|series| series.shape.heights());
    let ends = [loads[0], loads[loads.len() - 1]].map(|load| 100.0 * load);
    let left = 100.0 - ends[1];
    let y = Axis::percentages("Wasted bandwidth (%)", wasted.chain([left]));
    // From where the line enters the plot; it must not run along its upper edge.
    let enters = (100.0 - y.range.end).max(ends[0]);
    series.push(Series {
        label: Some("100 - load".to_owned()),
        look: Look::Limit,
        shape: Shape::Line(vec![(enters, 100.0 - enters), (ends[1], left)]),
    });
    let mut ticks: Vec<(f64, String)> = Vec::new();
    for load in &loads {
        let at = 100.0 * load;
        if ticks
            .last()
            .is_none_or(|(last, _)| at - last >= LABEL_ROOM * (ends[1] - ends[0]))
        {
            ticks.push((at, percent(*load).replace(" %", "")));
        }
    }

    let mut head = vec!["load"];
    head.extend(labels.iter().map(String::as_str));
    let mut table = Table::new(head);
    for load in &loads {
        let of = |sweep: &Vec<&Outcome>| {
            let run = sweep.iter().find(|run| run.setup.load == *load);
            run.map_or_else(|| "-".to_owned(), |run| percent(run.wasted))
        };
        table.row(std::iter::once(percent(*load)).chain(sweeps.iter().map(of)));
    }
    Panel {
        caption: sizes,
        plot: Some(Plot {
            x: Axis {
                title: "Load (%)".to_owned(),
                range: ends[0]..ends[1],
                is_log: false,
                ticks,
            },
            y,
            series,
        }),
        table,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sample;
    use super::*;

    #[test]
    fn every_degree_of_overcommitment_has_a_line() {
        let at = |load, degree, wasted| {
            let mut run = sample::overcommit(degree, load);
            run.wasted = wasted;
            run
        };
        let runs = [
            at(0.6, 1, 0.2),
            at(0.5, 1, 0.1),
            at(0.5, 7, 0.01),
            at(0.6, 7, 0.02),
            at(0.9, 7, 0.03),
            // One load makes no line.
            at(0.5, 2, 0.05),
        ];
        let section = figure(&runs).expect("two sweeps");
        let panel = &section.panels[0];
        let expected = "\
load  degree 1  degree 7
50 %      10 %       1 %
60 %      20 %       2 %
90 %         -       3 %
";
        assert_eq!(panel.table.text(), expected);
        let plot = panel.plot.as_ref().expect("drawn");
        let limit = plot.series.last().expect("the line");
        // The axis ends at 20 %, which is what 80 % leave.
        assert_eq!(plot.y.range, 0.0..20.0);
        assert_eq!(limit.shape, Shape::Line(vec![(80.0, 20.0), (90.0, 10.0)]));
    }

    #[test]
    fn one_load_is_no_line() {
        let mut again = sample::outcome("again");
        again.setup.seed = 2;
        assert_eq!(figure(&[sample::outcome("once"), again]), None);
    }
}
