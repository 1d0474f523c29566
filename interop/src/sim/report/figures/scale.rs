//! How the simulator itself grows with the network.

use super::{FEW_SERIES, Panel, Section};
use crate::page::format::{count, size};
use crate::page::look::Look;
use crate::page::plot::{Axis, Plot, Series, Shape};
use crate::sim::outcome::{ScaleOutcome, ScalePoint};
use crate::table::Table;

/// Speed and memory, each with a line for every experiment of two sizes or more.
pub(super) fn figure(scales: &[ScaleOutcome]) -> Option<Section> {
    let mut hosts: Vec<u32> = scales
        .iter()
        .flat_map(|scale| scale.points.iter().map(|point| point.hosts))
        .collect();
    hosts.sort_unstable();
    hosts.dedup();
    let [least, .., most] = hosts[..] else {
        return None;
    };
    let x = Axis {
        title: "Hosts".to_owned(),
        range: least.into()..most.into(),
        is_log: true,
        ticks: hosts
            .iter()
            .map(|hosts| (f64::from(*hosts), count((*hosts).into())))
            .collect(),
    };
    let draw = |caption: &str, y: Axis, value: fn(&ScalePoint) -> f64, told: fn(f64) -> String| {
        panel(scales, &hosts, caption, (x.clone(), y), value, told)
    };
    let points = || scales.iter().flat_map(|scale| &scale.points);
    let speed: fn(&ScalePoint) -> f64 = |point| point.hops_per_s() / 1e6;
    let memory: fn(&ScalePoint) -> f64 = |point| point.peak_bytes as f64 / 1e6;
    Some(Section {
        title: "Size of the network",
        text: "How fast the simulator is, and how much memory it takes. These are figures of the \
               machine: another run gives others."
            .to_owned(),
        panels: vec![
            draw(
                "Speed",
                Axis::percentages("Million packet-hops/s", points().map(speed)),
                speed,
                |value| format!("{value:.2}"),
            ),
            draw(
                "Memory at its peak",
                Axis::ratios("Peak memory (MB)", 1.0, points().map(memory)),
                memory,
                |value| size(value * 1e6),
            ),
        ],
    })
}

fn panel(
    scales: &[ScaleOutcome],
    hosts: &[u32],
    caption: &str,
    (x, y): (Axis, Axis),
    value: fn(&ScalePoint) -> f64,
    told: fn(f64) -> String,
) -> Panel {
    let of = |scale: &ScaleOutcome, hosts: u32| {
        let point = scale.points.iter().find(|point| point.hosts == hosts);
        point.map(value)
    };
    let names = scales.iter().map(|scale| scale.name.as_str());
    let mut table = Table::new(std::iter::once("hosts").chain(names));
    for hosts in hosts {
        let cells = scales
            .iter()
            .map(|scale| of(scale, *hosts).map_or_else(|| "-".to_owned(), told));
        table.row(std::iter::once(count((*hosts).into())).chain(cells));
    }
    let series = scales.iter().take(FEW_SERIES).enumerate();
    let series = series.map(|(number, scale)| {
        let points = hosts
            .iter()
            .filter_map(|hosts| Some((f64::from(*hosts), of(scale, *hosts)?)));
        Series {
            label: Some(scale.name.clone()),
            look: Look::Ours(number),
            shape: Shape::Line(points.collect()),
        }
    });
    Panel {
        caption: caption.to_owned(),
        plot: Some(Plot {
            x,
            y,
            series: series.collect(),
        }),
        table,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sample;
    use super::*;

    #[test]
    fn speed_and_memory_have_a_plot_each() {
        let mut smaller = sample::scale("W1");
        smaller.points.pop();
        let section = figure(&[sample::scale("W3"), smaller]).expect("two sizes");
        let tables = section.panels.iter().map(|panel| panel.table.text());
        let expected = [
            "hosts    W3    W1\n16     2.00  2.00\n1,024  1.00     -\n",
            "hosts       W3       W1\n16     10.2 MB  10.2 MB\n1,024   639 MB        -\n",
        ];
        assert_eq!(tables.collect::<Vec<_>>(), expected);
        let drawn = section
            .panels
            .iter()
            .filter_map(|panel| panel.plot.as_ref());
        for plot in drawn {
            assert_eq!(plot.series.len(), 2);
            assert_eq!((plot.x.range.start, plot.x.range.end), (16.0, 1024.0));
        }
    }

    #[test]
    fn one_size_is_no_growth() {
        let mut alone = sample::scale("W3");
        alone.points.pop();
        assert_eq!(figure(&[alone]), None);
    }
}
