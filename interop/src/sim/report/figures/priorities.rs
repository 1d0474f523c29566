//! Bytes by priority level (SIGCOMM'18, figure 14).

use super::{FEW_LOADS, Panel, Section, drawable, groups, names, sizes, sweeps};
use crate::page::format::percent;
use crate::page::look::Look;
use crate::page::plot::{Axis, Bar, Plot, Series, Shape};
use crate::sim::outcome::Outcome;
use crate::sim::setup::TransportName;
use crate::table::Table;

const LEVELS: usize = 8;

/// Bars of each level side by side: for the loads of every sweep, and for all runs at the same load
/// that belong to none.
pub(super) fn figure(runs: &[Outcome]) -> Option<Section> {
    let homa = runs.iter().filter(|run| {
        run.setup.transport == TransportName::Homa
            && run.bytes_by_priority.iter().any(|bytes| *bytes > 0)
    });
    let mut panels = Vec::new();
    for (sizes, runs) in groups(homa, sizes) {
        let sweeps = sweeps(runs);
        let firsts: Vec<&Outcome> = sweeps.iter().map(|sweep| sweep[0]).collect();
        let mut single = Vec::new();
        for (sweep, name) in sweeps.iter().zip(names(&firsts)) {
            if let [run] = sweep.as_slice() {
                single.push(*run);
                continue;
            }
            let runs = some_of(sweep);
            let labels = runs
                .iter()
                .map(|run| format!("{} load", percent(run.setup.load)));
            let caption = match sweeps.len() {
                1 => sizes.clone(),
                _ => format!("{sizes}, {name}"),
            };
            panels.push(panel(caption, &runs, &labels.collect::<Vec<_>>()));
        }
        for (load, runs) in groups(single, |run| run.setup.load) {
            let caption = format!("{sizes} at {} load", percent(load));
            let runs = drawable(&runs);
            panels.push(panel(caption, &runs, &names(&runs)));
        }
    }
    (!panels.is_empty()).then(|| Section {
        title: "Priority levels",
        text: "As SIGCOMM'18, figure 14: the share of each level of all bytes on the hosts' \
               uplinks. Bars of one level are in the order of the legend."
            .to_owned(),
        panels,
    })
}

/// Of many loads the lowest, the middle one and the highest.
fn some_of<'a>(sweep: &[&'a Outcome]) -> Vec<&'a Outcome> {
    match sweep {
        few if few.len() <= FEW_LOADS => few.to_vec(),
        many => vec![many[0], many[many.len() / 2], many[many.len() - 1]],
    }
}

fn panel(caption: String, runs: &[&Outcome], labels: &[String]) -> Panel {
    let shares: Vec<[f64; LEVELS]> = runs
        .iter()
        .map(|run| {
            let total: u64 = run.bytes_by_priority.iter().sum();
            run.bytes_by_priority
                .map(|bytes| bytes as f64 / total as f64)
        })
        .collect();
    let width = 0.8 / runs.len() as f64;
    let series: Vec<Series> = shares
        .iter()
        .zip(labels)
        .enumerate()
        .map(|(number, (shares, label))| {
            let bar = |(level, share): (usize, &f64)| {
                let from = level as f64 + 0.1 + width * number as f64;
                Bar {
                    x: from..from + 0.92 * width,
                    y: 0.0..100.0 * share,
                    text: String::new(),
                }
            };
            Series {
                label: Some(label.clone()),
                look: Look::Ours(number),
                shape: Shape::Bars(shares.iter().enumerate().map(bar).collect()),
            }
        })
        .collect();
    let levels = || (0..LEVELS).map(|level| format!("P{level}"));

    let heads: Vec<String> = levels().collect();
    let mut table = Table::new(std::iter::once("run").chain(heads.iter().map(String::as_str)));
    for (label, shares) in labels.iter().zip(&shares) {
        let cells = shares.iter().map(|share| percent(*share));
        table.row(std::iter::once(label.clone()).chain(cells));
    }
    Panel {
        caption,
        plot: Some(Plot {
            x: Axis::places("Priority level", levels()),
            y: Axis::percentages(
                "Share of bytes (%)",
                shares.iter().flatten().map(|share| 100.0 * share),
            ),
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
    fn the_levels_of_a_run_make_up_all_its_bytes() {
        let mut runs = [0.5, 0.8, 0.9].map(|load| sample::at_load(load, 0));
        runs[0].bytes_by_priority = [1, 0, 0, 0, 0, 0, 0, 3];
        let section = figure(&runs).expect("there are bytes");
        let expected = "\
run         P0    P1   P2   P3    P4    P5    P6    P7
50 % load  25 %   0 %  0 %  0 %   0 %   0 %   0 %  75 %
80 % load  30 %  12 %  9 %  6 %  11 %  11 %  11 %  10 %
90 % load  30 %  12 %  9 %  6 %  11 %  11 %  11 %  10 %
";
        let text = section.panels[0].table.text();
        let squeezed = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(squeezed(&text), squeezed(expected), "\n{text}");
    }

    #[test]
    fn runs_at_one_load_stand_side_by_side_and_many_loads_are_three() {
        let section =
            figure(&[sample::outcome("any"), sample::overcommit(1, 0.8)]).expect("there are bytes");
        assert_eq!(section.panels.len(), 1);
        assert_eq!(section.panels[0].table.rows.len(), 2);
        let many = [0.5, 0.6, 0.7, 0.8, 0.9].map(|load| sample::at_load(load, 0));
        let section = figure(&many).expect("there are bytes");
        assert_eq!(section.panels[0].table.rows.len(), 3);
    }

    #[test]
    fn a_run_that_sent_nothing_has_no_bars() {
        let mut silent = sample::outcome("any");
        silent.bytes_by_priority = [0; 8];
        assert_eq!(figure(&[silent]), None);
    }
}
