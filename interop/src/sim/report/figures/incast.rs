//! What is left of a client's link when many servers answer at once (SIGCOMM'18, figure 9).

use super::{FEW_SERIES, Panel, Section, groups};
use crate::page::format::{count, figure as digits, time};
use crate::page::look::Look;
use crate::page::plot::{Axis, Plot, Series, Shape};
use crate::sim::outcome::{IncastOutcome, IncastPoint};
use crate::sim::setup::{EngineSetup, Setup};
use crate::table::Table;

/// A panel for all incasts that differ in the engine's settings alone, with a line for each.
pub(super) fn figure(incasts: &[IncastOutcome]) -> Option<Section> {
    let like = |incast: &IncastOutcome| {
        let setup = Setup {
            engine: EngineSetup::default(),
            ..incast.setup.clone()
        };
        (setup, incast.servers, incast.response_bytes)
    };
    let panels: Vec<Panel> = groups(incasts, like)
        .into_iter()
        .filter_map(|(_, incasts)| panel(&incasts))
        .collect();
    (!panels.is_empty()).then(|| Section {
        title: "Incast",
        text: "As SIGCOMM'18, figure 9: payload that arrives at a client, by the RPCs that it has \
               outstanding. A new one starts when one has finished."
            .to_owned(),
        panels,
    })
}

/// `None`: there are no two numbers of RPCs to draw a line between.
fn panel(incasts: &[&IncastOutcome]) -> Option<Panel> {
    let points = incasts.iter().flat_map(|incast| &incast.points);
    let mut numbers: Vec<u32> = points.map(|point| point.concurrent).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let [least, .., most] = numbers[..] else {
        return None;
    };
    let first = incasts.first()?;
    let [warm_up, window] = [first.warm_up_us, first.window_us].map(time);
    let point = |incast: &IncastOutcome, number: u32| {
        let mut points = incast.points.iter();
        points.find(|point| point.concurrent == number).copied()
    };
    let head = incasts
        .iter()
        .flat_map(|incast| [incast.name.clone(), format!("first {warm_up}")]);
    let head: Vec<String> = head.collect();
    let mut table =
        Table::new(std::iter::once("RPCs at a time").chain(head.iter().map(String::as_str)));
    for number in &numbers {
        let cells = incasts.iter().flat_map(|incast| {
            let point = point(incast, *number);
            let cell = |goodput: fn(IncastPoint) -> f64| {
                point.map_or_else(|| "-".to_owned(), |point| digits(goodput(point)))
            };
            [
                cell(|point| point.goodput_gbps),
                cell(|point| point.goodput_before_gbps),
            ]
        });
        table.row(std::iter::once(count((*number).into())).chain(cells));
    }
    let mut series = Vec::new();
    for (number, incast) in incasts.iter().take(FEW_SERIES).enumerate() {
        let line = |goodput: fn(IncastPoint) -> f64| {
            let points = numbers
                .iter()
                .filter_map(|number| Some((f64::from(*number), goodput(point(incast, *number)?))));
            points.collect::<Vec<_>>()
        };
        series.push(Series {
            label: Some(incast.name.clone()),
            look: Look::Ours(number),
            shape: Shape::Line(line(|point| point.goodput_gbps)),
        });
        series.push(Series {
            label: Some(format!("{}, first {warm_up}", incast.name)),
            look: Look::Ours(number),
            shape: Shape::Dashed(line(|point| point.goodput_before_gbps)),
        });
    }
    let gbps = first.setup.topology.host_gbps;
    let ticks = (0..=5).map(|fifth| f64::from(fifth) * gbps / 5.0);
    Some(Panel {
        caption: format!(
            "{} servers, {window} after the first {warm_up}",
            first.servers
        ),
        plot: Some(Plot {
            x: Axis {
                title: "RPCs at a time".to_owned(),
                range: least.into()..most.into(),
                is_log: true,
                ticks: numbers
                    .iter()
                    .map(|number| (f64::from(*number), count((*number).into())))
                    .collect(),
            },
            y: Axis {
                title: "Goodput (Gbit/s)".to_owned(),
                range: 0.0..gbps,
                is_log: false,
                ticks: ticks.map(|gbps| (gbps, gbps.to_string())).collect(),
            },
            series,
        }),
        table,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::sample;
    use super::*;

    #[test]
    fn incasts_with_other_settings_of_the_engine_are_lines_of_one_plot() {
        let with = sample::incast("with control", [8.9, 9.0]);
        let mut without = sample::incast("without", [8.9, 2.34]);
        without.setup.engine.unsched_windows = Some(0);
        let mut elsewhere = with.clone();
        elsewhere.setup.topology.racks = 2;
        elsewhere.points.pop();
        let section = figure(&[with, without, elsewhere]).expect("two lines");
        let expected = "\
RPCs at a time  with control  first 100.000 ms  without  first 100.000 ms
10                      8.90              8.01     8.90              8.01
1,000                   9.00              8.10     2.34              2.11
";
        assert_eq!(section.panels[0].table.text(), expected);
        assert_eq!(section.panels.len(), 1, "one point is no line");
        let plot = section.panels[0].plot.as_ref().expect("drawn");
        assert_eq!(
            plot.series[2].shape,
            Shape::Line(vec![(10.0, 8.9), (1000.0, 2.34)])
        );
    }
}
