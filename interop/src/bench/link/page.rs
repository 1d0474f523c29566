//! The results as a part of a page.

use super::figures::Decile;
use super::judge;
use super::rows::{LoadRow, Outcome};
use super::text;
use crate::bench::page::tails;
use crate::page::look::Look;
use crate::page::plot::{Axis, Plot, Series, Shape};
use crate::page::{Panel, Section};

/// Figures are kept in microseconds; on this link they are long.
const US_PER_MS: f64 = 1e3;

/// Below it no axis begins.
const LEAST_MS: f64 = 0.001;

/// A plot by size for each workload, one of its shortest calls, and the tables.
pub(crate) fn section(outcome: &Outcome) -> Section {
    let mut panels = Vec::new();
    for row in &outcome.loads {
        let name = judge::name(row);
        panels.push(by_size(format!("{name}: latency by size"), row));
        if let Some(shortest) = row.deciles.first() {
            let sides = [
                ("TCP".to_owned(), &shortest.tcp_ccdf[..]),
                ("Homa".to_owned(), &shortest.homa_ccdf[..]),
            ];
            panels.extend(tails(
                format!("{name}: latency of the shortest tenth"),
                &sides,
            ));
        }
        panels.push(Panel {
            caption: row.facts_text(),
            plot: None,
            table: row.facts_table(),
        });
    }
    panels.extend(outcome.incast.as_ref().map(|row| Panel {
        caption: row.caption(),
        plot: None,
        table: row.table(),
    }));
    let refused = match &outcome.refused[..] {
        [] => String::new(),
        refused => format!(" Rows that were refused: {}.", refused.join("; ")),
    };
    Section {
        title: "Emulated link",
        text: format!(
            "{} Calls start at random times, whatever became of those before them; latencies count \
             from when they were meant to be sent. Solid lines are the 99th percentile, dashed \
             ones the median, by tenths of the calls, shortest first.{refused}",
            outcome.link.text()
        ),
        panels,
    }
}

fn by_size(caption: String, row: &LoadRow) -> Panel {
    let count = row.deciles.len();
    let share = |at: usize| (at + 1) as f64 / count as f64;
    let ends: Vec<(u64, f64)> = row
        .deciles
        .iter()
        .enumerate()
        .map(|(at, decile)| (decile.up_to_bytes.into(), share(at)))
        .collect();
    let line = |value: &dyn Fn(&Decile) -> Option<f64>| {
        let deciles = row.deciles.iter().enumerate();
        let mut points: Vec<(f64, f64)> = deciles
            .filter_map(|(at, decile)| Some((share(at), value(decile)?)))
            .collect();
        if let Some(first) = points.first() {
            points.insert(0, (0.0, first.1));
        }
        points
    };
    let mut series = Vec::new();
    for (number, label) in ["TCP", "Homa"].into_iter().enumerate() {
        let side = |decile: &Decile| match number {
            0 => decile.tcp.clone(),
            _ => decile.homa.clone(),
        };
        let look = Look::Ours(number);
        series.push(Series {
            label: Some(label.to_owned()),
            look,
            shape: Shape::Line(line(&|decile| Some(side(decile).p99_us? / US_PER_MS))),
        });
        series.push(Series {
            label: None,
            look,
            shape: Shape::Dashed(line(&|decile| Some(side(decile).p50_us / US_PER_MS))),
        });
    }
    let values = || series.iter().flat_map(|series| series.shape.heights());
    let least = values().fold(f64::INFINITY, f64::min).clamp(LEAST_MS, 1e6);
    Panel {
        caption,
        plot: Some(Plot {
            x: Axis::by_messages(&ends),
            y: Axis::ratios(
                "Latency in ms (P99 solid, P50 dashed)",
                10f64.powf(least.log10().floor()),
                values(),
            ),
            series,
        }),
        table: text::deciles(row),
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::sample;
    use super::*;

    #[test]
    fn a_workload_has_a_plot_by_size_and_one_of_its_shortest_calls() {
        let section = section(&sample());
        let plots = section.panels.iter().filter(|panel| panel.plot.is_some());
        assert_eq!(plots.count(), 2);
        let by_size = section.panels[0].plot.as_ref().expect("drawn");
        let Shape::Line(tcp) = &by_size.series[0].shape else {
            panic!("{:?}", by_size.series[0]);
        };
        assert_eq!((tcp[0], tcp[10]), ((0.0, 4.0), (1.0, 40.0)));
        let captions: Vec<_> = section.panels.iter().map(|panel| &panel.caption).collect();
        assert!(
            captions.iter().any(|caption| caption.contains("incast")),
            "{captions:?}"
        );
        assert!(section.text.contains("200 Mbit/s"), "{}", section.text);
    }
}
