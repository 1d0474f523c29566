//! What each policy of the engine does to the tail: runs that differ in the engine's settings
//! alone, by the one that has the defaults.

use super::super::rows;
use super::{FEW_SERIES, Panel, Section, groups, names, sizes, told_singly};
use crate::page::format::{percent, size};
use crate::page::look::Look;
use crate::page::plot::{Axis, Plot, Series, Shape};
use crate::sim::outcome::Outcome;
use crate::sim::setup::{EngineSetup, Setup, TransportName};
use crate::table::Table;

/// One panel for all runs that share everything but the engine's settings.
pub(super) fn figure(runs: &[Outcome]) -> Option<Section> {
    let homa = told_singly(runs)
        .into_iter()
        .filter(|run| run.setup.transport == TransportName::Homa);
    let like = |run: &Outcome| Setup {
        engine: EngineSetup::default(),
        ..run.setup.clone()
    };
    let panels: Vec<Panel> = groups(homa, like)
        .iter()
        .filter_map(|(_, runs)| panel(runs))
        .collect();
    (!panels.is_empty()).then(|| Section {
        title: "Settings of the engine",
        text: "P99 slowdown with another setting by that with the defaults, for each tenth of \
               the messages: above 1 the default is better. Drawn are those that do most."
            .to_owned(),
        panels,
    })
}

fn panel(runs: &[&Outcome]) -> Option<Panel> {
    let base = runs
        .iter()
        .position(|run| run.setup.engine == EngineSetup::default())?;
    let base_rows = rows::deciles(runs[base]);
    let labels = names(runs);
    let mut effects: Vec<(&String, Vec<f64>)> = Vec::new();
    for (at, (run, label)) in runs.iter().zip(&labels).enumerate() {
        if at == base {
            continue;
        }
        let ends: Vec<u64> = base_rows.iter().map(|row| row.upper_bytes).collect();
        let ours = rows::split(&run.slowdown, &ends);
        let ratios = ours
            .zip(&base_rows)
            .map(|(row, base)| match (row.figures, base.figures) {
                (Some(row), Some(base)) => row.p99 / base.p99,
                _ => f64::NAN,
            });
        effects.push((label, ratios.collect()));
    }
    if effects.is_empty() || base_rows.is_empty() {
        return None;
    }

    let heads: Vec<String> = base_rows
        .iter()
        .map(|row| size(row.upper_bytes as f64))
        .collect();
    let mut table = Table::new(std::iter::once("setting").chain(heads.iter().map(String::as_str)));
    for (label, ratios) in &effects {
        let cells = ratios.iter().map(|ratio| match ratio.is_finite() {
            true => format!("{ratio:.2}"),
            false => "-".to_owned(),
        });
        table.row(std::iter::once((*label).clone()).chain(cells));
    }

    let most = |(_, ratios): &(&String, Vec<f64>)| {
        let effects = ratios.iter().filter(|ratio| ratio.is_finite());
        effects.map(|ratio| ratio.ln().abs()).fold(0.0, f64::max)
    };
    effects.sort_by(|a, b| most(b).total_cmp(&most(a)));
    effects.truncate(FEW_SERIES);
    let series: Vec<Series> = effects
        .iter()
        .enumerate()
        .map(|(number, (label, ratios))| {
            let points = (0..)
                .map(|at| f64::from(at) + 0.5)
                .zip(ratios.iter().copied());
            Series {
                label: Some((*label).clone()),
                look: Look::Ours(number),
                shape: Shape::Line(points.filter(|(_, ratio)| ratio.is_finite()).collect()),
            }
        })
        .collect();
    let values = series.iter().flat_map(|series| series.shape.heights());
    let y = Axis::ratios("P99 by that with the defaults", 0.5, values);
    let caption = format!(
        "{} at {} load",
        sizes(runs[base]),
        percent(runs[base].setup.load)
    );
    Some(Panel {
        caption,
        plot: Some(Plot {
            x: Axis::places("Tenth of the messages, up to bytes", heads.into_iter()),
            y,
            series,
        }),
        table,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::sample;
    use super::*;
    use crate::sim::outcome::Comparison;

    fn overcommit(degree: usize, factor: f64) -> Outcome {
        let mut run = sample::overcommit(degree, 0.8);
        run.comparison = Comparison::None;
        for bucket in &mut run.slowdown {
            bucket.p99 *= factor;
        }
        run
    }

    #[test]
    fn each_setting_is_told_by_the_defaults_for_each_tenth() {
        let mut base = sample::outcome("base");
        base.comparison = Comparison::None;
        let runs = [overcommit(7, 1.0), base, overcommit(1, 2.0)];
        let section = figure(&runs).expect("a base and two others");
        let rows = &section.panels[0].table.rows;
        assert_eq!(rows[0], [&["degree 7"][..], &["1.00"; 10]].concat());
        assert_eq!(rows[1], [&["degree 1"][..], &["2.00"; 10]].concat());
        // What does most comes first in the plot.
        let plot = section.panels[0].plot.as_ref().expect("drawn");
        assert_eq!(plot.series[0].label.as_deref(), Some("degree 1"));
    }

    #[test]
    fn without_the_defaults_there_is_nothing_to_compare_with() {
        assert_eq!(figure(&[overcommit(1, 1.0), overcommit(7, 1.0)]), None);
        assert_eq!(figure(&[sample::outcome("alone")]), None);
    }
}
