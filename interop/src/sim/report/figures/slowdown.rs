//! Slowdown by size of message (SIGCOMM'18, figure 10): linear in messages, so that each
//! tenth of them has the same room, and labelled with sizes.

use super::super::KnownCurve;
use super::super::rows;
use super::{Panel, Section, drawable, groups, is_published, names, sizes, told_singly};
use crate::page::format::{figure, percent, size};
use crate::page::look::Look;
use crate::page::plot::{Axis, Plot, Series, Shape};
use crate::sim::curve::{Curve, PublishedBucket};
use crate::sim::outcome::{Bucket, Outcome, Verdict};
use crate::sim::workload::P50P99;
use crate::table::Table;

/// Runs in a table of which each has room for more than one column.
const FEW_RUNS: usize = 4;

/// Median and 99th percentile.
pub(super) fn tail(runs: &[Outcome], curves: &[KnownCurve<'_>]) -> Option<Section> {
    section(runs, curves, "Slowdown: median and tail", Kind::Tail)
}

/// The same with means.
pub(super) fn mean(runs: &[Outcome], curves: &[KnownCurve<'_>]) -> Option<Section> {
    section(runs, curves, "Slowdown: mean", Kind::Mean)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tail,
    Mean,
}

fn section(
    runs: &[Outcome],
    curves: &[KnownCurve<'_>],
    title: &'static str,
    kind: Kind,
) -> Option<Section> {
    let measured = told_singly(runs)
        .into_iter()
        .filter(|run| run.slowdown.iter().any(|bucket| bucket.count > 0));
    let panels: Vec<Panel> = groups(measured, |run| {
        let setup = &run.setup;
        (sizes(run), setup.load, setup.mode)
    })
    .into_iter()
    .map(|((sizes, load, _), runs)| {
        let drawn = drawable(&runs);
        let mut caption = format!("{sizes} at {} load", percent(load));
        if drawn.len() < runs.len() {
            caption += &format!(", {} of {} runs", drawn.len(), runs.len());
        }
        panel(caption, &drawn, curves, kind)
    })
    .collect();
    let text = match kind {
        Kind::Tail => {
            "As SIGCOMM'18, figure 10. Solid lines are the 99th percentile, dashed ones the \
             median; diamonds are the published ones of Homa, filled and hollow, and thin lines \
             whole published curves. Beside these the 99th percentile is the mean of the hosts' \
             own, as theirs is. The axis is linear in messages."
        }
        Kind::Mean => "The same with the mean of each size.",
    };
    (!panels.is_empty()).then(|| Section {
        title,
        text: text.to_owned(),
        panels,
    })
}

fn panel(caption: String, runs: &[&Outcome], curves: &[KnownCurve<'_>], kind: Kind) -> Panel {
    let published = published(runs);
    let curves = known(runs, curves);
    let tail = if published.is_none() && curves.is_empty() {
        TOGETHER
    } else {
        BY_HOST
    };
    let ends = ends(runs, published.as_deref());
    let mut labels = names(runs);
    for (label, run) in labels.iter_mut().zip(runs) {
        if matches!(run.verdict, Verdict::Overload { .. }) {
            *label += " (overload)";
        }
    }
    let mut series = Vec::new();
    for (number, (run, label)) in runs.iter().zip(&labels).enumerate() {
        let look = Look::Ours(number);
        let line = |figure| points(&run.slowdown, figure);
        match kind {
            Kind::Tail => {
                series.push((Some(label.clone()), look, Shape::Line(line(tail.1))));
                series.push((None, look, Shape::Dashed(line(|b| b.p50))));
            }
            Kind::Mean => {
                series.push((Some(label.clone()), look, Shape::Line(line(|b| b.mean))));
            }
        }
    }
    for curve in curves {
        let name = curve.source.split(';').next().unwrap_or_default();
        let line = |slowdown: fn(&PublishedBucket) -> Option<f64>| {
            let buckets = curve.buckets.iter();
            let share = |bucket: &PublishedBucket| bucket.cumulative_percent / 100.0;
            let points = buckets.filter_map(|bucket| Some((share(bucket), slowdown(bucket)?)));
            from_the_start(points.collect())
        };
        let label = Some(name.to_owned());
        match kind {
            Kind::Tail => {
                series.push((label, Look::Limit, Shape::Line(line(|b| b.p99))));
                series.push((None, Look::Limit, Shape::Dashed(line(|b| b.p50))));
            }
            Kind::Mean => series.push((label, Look::Limit, Shape::Line(line(|b| b.mean)))),
        }
    }
    if let (Kind::Tail, Some(published)) = (kind, &published) {
        let marks = |figure: fn(&P50P99) -> f64| {
            let points = published
                .iter()
                .map(|(_, share, slowdown)| (*share, figure(slowdown)));
            points.collect()
        };
        let label = Some("Homa, published".to_owned());
        series.push((label, Look::Published, Shape::Marks(marks(|at| at.p99))));
        series.push((
            None,
            Look::Published,
            Shape::HollowMarks(marks(|at| at.p50)),
        ));
    }
    let series: Vec<Series> = series
        .into_iter()
        .map(|(label, look, shape)| Series { label, look, shape })
        .collect();
    let most = series.iter().flat_map(|series| series.shape.heights());
    let title = match kind {
        Kind::Tail => "Slowdown (P99 solid, P50 dashed)",
        Kind::Mean => "Mean slowdown",
    };
    let plot = Plot {
        x: Axis::by_messages(&ends),
        y: Axis::ratios(title, 1.0, most),
        series,
    };
    Panel {
        caption,
        plot: Some(plot),
        table: table(runs, &labels, &ends, published.as_deref(), kind, tail),
    }
}

/// The curves that are about the runs of a panel, each once.
fn known<'a>(runs: &[&Outcome], curves: &[KnownCurve<'a>]) -> Vec<&'a Curve> {
    let mut known: Vec<&Curve> = Vec::new();
    for KnownCurve {
        workload,
        load,
        curve,
    } in curves
    {
        let setups = runs
            .iter()
            .filter(|run| run.published_sizes)
            .map(|run| &run.setup);
        let mut setups = setups.filter(|setup| setup.workload == *workload);
        if setups.any(|setup| setup.load == *load) && !known.contains(curve) {
            known.push(curve);
        }
    }
    known
}

/// Homa's published slowdowns: up to which size, which share of the messages that is, and they.
type PublishedAxis = Vec<(u64, f64, P50P99)>;

fn published(runs: &[&Outcome]) -> Option<PublishedAxis> {
    let run = runs.iter().find(|run| is_published(**run))?;
    let published = run.setup.workload.published();
    let slowdown = published.slowdown_at(run.setup.load)?;
    let sizes = published.axis_bytes.iter().zip(published.axis_shares);
    Some(
        sizes
            .zip(slowdown)
            .map(|((bytes, share), slowdown)| (u64::from(*bytes), share, *slowdown))
            .collect(),
    )
}

/// Where the axis has labels: the published ones, or where tenths of the messages end.
fn ends(runs: &[&Outcome], published: Option<&[(u64, f64, P50P99)]>) -> Vec<(u64, f64)> {
    if let Some(published) = published {
        return published
            .iter()
            .map(|(bytes, share, _)| (*bytes, *share))
            .collect();
    }
    let Some(run) = runs.first() else {
        return Vec::new();
    };
    let ends = rows::tenths(&run.slowdown);
    rows::shares(&run.slowdown)
        .filter(|(bytes, _)| ends.contains(bytes))
        .collect()
}

/// One of a bucket's figures.
type Value = fn(&Bucket) -> f64;

/// The 99th percentile, alone and to be seen beside published ones.
const TOGETHER: (&str, Value) = ("P99", |bucket| bucket.p99);
const BY_HOST: (&str, Value) = ("P99 by host", |bucket| bucket.p99_by_host);

/// The line through the ends of the buckets that have messages.
fn points(buckets: &[Bucket], figure: Value) -> Vec<(f64, f64)> {
    let ends = rows::shares(buckets).zip(buckets);
    let points = ends
        .filter(|(_, bucket)| bucket.count > 0 && figure(bucket).is_finite())
        .map(|((_, share), bucket)| (share, figure(bucket)));
    from_the_start(points.collect())
}

/// The first bucket is about all messages from the shortest on.
fn from_the_start(mut points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if let Some(first) = points.first() {
        points.insert(0, (0.0, first.1));
    }
    points
}

fn table(
    runs: &[&Outcome],
    labels: &[String],
    ends: &[(u64, f64)],
    published: Option<&[(u64, f64, P50P99)]>,
    kind: Kind,
    tail: (&str, Value),
) -> Table {
    let figures: &[(&str, Value)] = match kind {
        Kind::Mean => &[("mean", |bucket| bucket.mean)],
        Kind::Tail if runs.len() > FEW_RUNS => &[tail],
        Kind::Tail => &[("P50", |bucket| bucket.p50), tail],
    };
    let published = published.filter(|_| kind == Kind::Tail);
    let mut head = vec!["bucket up to".to_owned()];
    for label in labels {
        head.extend(figures.iter().map(|(name, _)| format!("{label} {name}")));
    }
    if published.is_some() {
        head.extend(["published P50", "published P99"].map(str::to_owned));
    }
    let mut table = Table::new(head.iter().map(String::as_str));
    for (at, (bytes, _)) in ends.iter().enumerate() {
        let mut cells = vec![size(*bytes as f64)];
        for run in runs {
            let bucket = run
                .slowdown
                .iter()
                .find(|bucket| bucket.upper_bytes >= *bytes);
            let bucket = bucket.filter(|bucket| bucket.count > 0);
            cells.extend(figures.iter().map(|(_, value)| match bucket {
                Some(bucket) => figure(value(bucket)),
                None => "-".to_owned(),
            }));
        }
        if let Some((_, _, slowdown)) = published.and_then(|published| published.get(at)) {
            cells.extend([slowdown.p50, slowdown.p99].map(figure));
        }
        table.row(cells);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::super::sample;
    use super::*;
    use crate::sim::setup::WorkloadName;

    #[test]
    fn transports_share_a_panel_and_homa_is_beside_its_published_values() {
        let mut dctcp = sample::outcome("DCTCP load=0.8");
        dctcp.verdict = sample::at_load(0.8, 1).verdict;
        let runs = [
            sample::outcome("Homa load=0.8"),
            dctcp,
            sample::at_load(0.5, 0),
        ];
        let section = tail(&runs, &[]).expect("there are messages");
        let captions: Vec<_> = section
            .panels
            .iter()
            .map(|panel| panel.caption.as_str())
            .collect();
        assert_eq!(captions, ["W3 at 80 % load", "W3 at 50 % load"]);
        let expected = "\
bucket up to  Homa P50  Homa P99 by host  DCTCP (overload) P50  DCTCP (overload) P99 by host  published P50  published P99
36 B              1.52              2.25                  1.52                          2.25           1.49           2.21
";
        let text = section.panels[0].table.text();
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(text.lines().count(), 11);
    }

    #[test]
    fn a_line_begins_where_messages_do_and_leaves_out_what_is_unknown() {
        let mut buckets = sample::outcome("any").slowdown;
        buckets.truncate(4);
        for (bucket, count) in buckets.iter_mut().zip([10, 0, 20, 10]) {
            bucket.count = count;
        }
        buckets[2].p99 = f64::NAN;
        let p99 = |at: usize| buckets[at].p99;
        assert_eq!(
            points(&buckets, |bucket| bucket.p99),
            [(0.0, p99(0)), (0.25, p99(0)), (1.0, p99(3))]
        );
    }

    #[test]
    fn own_sizes_have_their_own_axis_and_nothing_published() {
        let mut own = sample::outcome("Homa");
        own.setup.cdf = Some("mine.txt".into());
        own.published_sizes = false;
        let section = mean(std::slice::from_ref(&own), &[]).expect("there are messages");
        assert_eq!(section.panels[0].caption, "mine at 80 % load");
        assert_eq!(published(&[&own]), None);
        // Two twentieths of its messages are a little less than a tenth, the first ones being fewer.
        assert_eq!(ends(&[&own], None)[0].0, own.slowdown[2].upper_bytes);
    }

    #[test]
    fn a_run_without_messages_is_not_drawn() {
        let mut empty = sample::outcome("any");
        empty.slowdown.clear();
        assert_eq!(tail(&[empty], &[]), None);
    }

    #[test]
    fn a_whole_curve_is_drawn_once_beside_the_runs_that_it_is_about() {
        let bucket = |cumulative_percent, p99| PublishedBucket {
            upper_bytes: 10,
            percent: 50.0,
            cumulative_percent,
            mean: None,
            p50: Some(1.0),
            p99,
        };
        let curve = Curve {
            source: "pFabric W3; from somewhere".to_owned(),
            buckets: vec![
                bucket(50.0, Some(2.0)),
                bucket(75.0, None),
                bucket(100.0, Some(3.0)),
            ],
        };
        let at = |load| KnownCurve {
            workload: WorkloadName::W3,
            load,
            curve: &curve,
        };
        let runs = [sample::outcome("any")];
        let drawn = |curves: &[KnownCurve<'_>]| -> Vec<Series> {
            let section = tail(&runs, curves).expect("there are messages");
            let plot = section
                .panels
                .into_iter()
                .next()
                .and_then(|panel| panel.plot);
            let series = plot.expect("drawn").series.into_iter();
            series.filter(|series| series.look == Look::Limit).collect()
        };
        let twice = drawn(&[at(0.8), at(0.8)]);
        assert_eq!(twice.len(), 2);
        assert_eq!(twice[0].label.as_deref(), Some("pFabric W3"));
        let p99 = Shape::Line(vec![(0.0, 2.0), (0.5, 2.0), (1.0, 3.0)]);
        assert_eq!(twice[0].shape, p99);
        assert_eq!(drawn(&[at(0.5)]), []);
    }
}
