//! [`Plot`]: curves, marks and bars over two axes, drawn as SVG.
//!
//! What differs by colour differs by its mark or its place too. The colours are few and fixed, so
//! that the page can replace each in its style sheet when the reader prefers a dark one.

use std::io;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::element::ComposedElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::format::size;
use super::look::{GRID, INK, Look, PAPER, SCALE};

/// What can go wrong with a drawing: for the library much, for one in memory nothing known.
pub(crate) type DrawError = DrawingAreaErrorKind<io::Error>;

/// Length of a legend's sample of a line.
const SAMPLE: i32 = 26 * SCALE;

/// Height of a legend's row.
const ROW: i32 = 18 * SCALE;

/// Room for a letter of a legend, whose font is not known.
const LETTER: i32 = 13 * SCALE / 2;

/// Share of an axis that a letter of a label below it needs.
const LABEL_LETTER: f64 = 0.013;

/// What a plot shows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plot {
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Axis {
    pub(crate) title: String,
    /// What is beyond it is drawn at its end.
    pub(crate) range: Range<f64>,
    /// Whether equal distances are equal ratios. The range must then be above 0.
    pub(crate) is_log: bool,
    /// Where there are labels, and what they say.
    pub(crate) ticks: Vec<(f64, String)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    /// Its name in the legend, if it has one.
    pub(crate) label: Option<String>,
    pub(crate) look: Look,
    pub(crate) shape: Shape,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    /// A line through points that rise in x, with marks here and there.
    Line(Vec<(f64, f64)>),
    /// The same, dashed, and with hollow marks.
    Dashed(Vec<(f64, f64)>),
    Marks(Vec<(f64, f64)>),
    HollowMarks(Vec<(f64, f64)>),
    Bars(Vec<Bar>),
    /// Bars of which one sees the outline only.
    HollowBars(Vec<Bar>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bar {
    pub(crate) x: Range<f64>,
    pub(crate) y: Range<f64>,
    /// Printed above it.
    pub(crate) text: String,
}

impl Plot {
    /// The drawing, meant to be seen at `width` by `height` pixels.
    pub(crate) fn svg(&self, width: u32, height: u32) -> Result<String, DrawError> {
        let mut svg = String::new();
        let size = [width, height].map(|pixels| pixels * SCALE.unsigned_abs());
        let root = SVGBackend::with_string(&mut svg, size.into()).into_drawing_area();
        self.draw(&root)?;
        root.present()?;
        drop(root);
        Ok(svg)
    }

    fn draw(&self, root: &Area) -> Result<(), DrawError> {
        let root = root.margin(4 * SCALE, 6 * SCALE, 6 * SCALE, 18 * SCALE);
        let (left, bottom) = (50 * SCALE, 40 * SCALE);
        let room = root.dim_in_pixel().0.cast_signed() - left;
        let (rows, entries) = self.legend(room);
        let (top, below) = root.split_vertically(rows * ROW);
        for Entry { series, label, at } in entries {
            series.draw_sample(&top, &label, (left + at.0, at.1))?;
        }
        let mut chart = ChartBuilder::on(&below)
            .x_label_area_size(bottom)
            .y_label_area_size(left)
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID.line(1))
            .light_line_style(TRANSPARENT)
            .axis_style(INK.line(1))
            .set_all_tick_mark_size(4 * SCALE)
            .x_labels(self.x.ticks.len())
            .y_labels(self.y.ticks.len())
            .label_style(font(11))
            .axis_desc_style(font(12))
            .x_desc(&self.x.title)
            .y_desc(&self.y.title)
            .draw()?;
        for series in &self.series {
            series.draw(&mut chart)?;
        }
        Ok(())
    }

    /// How many rows a legend of this width has, and its entries. A label that is longer than a
    /// row is cut.
    fn legend(&self, width: i32) -> (i32, Vec<Entry<'_>>) {
        let fixed = SAMPLE + 6 * SCALE;
        let fit = usize::try_from((width - fixed) / LETTER).unwrap_or(0);
        let mut entries = Vec::new();
        let (mut x, mut row) = (0, 0);
        for series in &self.series {
            let Some(label) = &series.label else {
                continue;
            };
            let mut label = label.clone();
            let mut letters = label.chars().count();
            if letters > fit {
                label = label.chars().take(fit.saturating_sub(1)).collect();
                label.push('…');
                letters = fit;
            }
            let needed = fixed + LETTER * letters as i32;
            if x > 0 && x + needed > width {
                (x, row) = (0, row + 1);
            }
            let at = (x, row * ROW + ROW / 2);
            entries.push(Entry { series, label, at });
            x += needed + 16 * SCALE;
        }
        (row + 1, entries)
    }
}

/// Of a legend.
struct Entry<'a> {
    series: &'a Series,
    label: String,
    /// Its left end, in the middle of its row.
    at: Pixels,
}

type Backend<'b> = SVGBackend<'b>;
type Area<'b> = DrawingArea<Backend<'b>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, Backend<'b>, Cartesian2d<Axis, Axis>>;
type Pixels = (i32, i32);

impl Series {
    fn draw(&self, chart: &mut Chart) -> Result<(), DrawError> {
        let look = self.look;
        let filled = |at: &(f64, f64)| mark(look, *at, false);
        let hollow = |at: &(f64, f64)| mark(look, *at, true);
        let text = |bar: &Bar| {
            let style = font(9).pos(Pos::new(HPos::Center, VPos::Bottom));
            EmptyElement::at(bar.top()) + Text::new(bar.text.clone(), (0, -SCALE), style)
        };
        match &self.shape {
            Shape::Line(points) => {
                chart.draw_series(LineSeries::new(points.clone(), look.line()))?;
                chart.draw_series(marked(points, look).iter().map(filled))?;
            }
            Shape::Dashed(points) => {
                let (dash, gap) = (6 * SCALE, 4 * SCALE);
                let line = DashedLineSeries::new(points.clone(), dash, gap, look.line());
                chart.draw_series(line)?;
                chart.draw_series(marked(points, look).iter().map(hollow))?;
            }
            Shape::Marks(points) => {
                chart.draw_series(points.iter().map(filled))?;
            }
            Shape::HollowMarks(points) => {
                chart.draw_series(points.iter().map(hollow))?;
            }
            Shape::Bars(bars) => {
                chart.draw_series(bars.iter().map(text))?;
                chart.draw_series(bars.iter().map(|bar| {
                    let [lower, _, upper, _] = bar.corners();
                    Rectangle::new([lower, upper], look.area())
                }))?;
            }
            Shape::HollowBars(bars) => {
                chart.draw_series(bars.iter().map(text))?;
                // The library would draw the border of a rectangle as thin as can be.
                chart.draw_series(bars.iter().map(|bar| {
                    let [a, b, c, d] = bar.corners();
                    PathElement::new(vec![a, b, c, d, a], look.line())
                }))?;
            }
        }
        Ok(())
    }

    /// Its entry in a legend, from its left end and in the middle of its row.
    fn draw_sample(&self, area: &Area, label: &str, (x, y): Pixels) -> Result<(), DrawError> {
        let look = self.look;
        let middle = (x + SAMPLE / 2, y);
        let line = |from: i32, to| PathElement::new(vec![(from, y), (to, y)], look.line());
        // The gap of a dashed line is where its mark is.
        let gap = 8 * SCALE;
        match self.shape {
            Shape::Line(_) => {
                area.draw(&line(x, x + SAMPLE))?;
                if let Look::Ours(_) = look {
                    area.draw(&mark(look, middle, false))?;
                }
            }
            Shape::Dashed(_) => {
                area.draw(&line(x, middle.0 - gap))?;
                area.draw(&line(middle.0 + gap, x + SAMPLE))?;
                area.draw(&mark(look, middle, true))?;
            }
            Shape::Marks(_) => area.draw(&mark(look, middle, false))?,
            Shape::HollowMarks(_) => area.draw(&mark(look, middle, true))?,
            Shape::Bars(_) => area.draw(&patch(middle, look.area()))?,
            Shape::HollowBars(_) => area.draw(&patch(middle, look.line()))?,
        }
        let style = font(11).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(label, (x + SAMPLE + 6 * SCALE, y), style))
    }
}

impl Bar {
    /// All around, from the lower left.
    fn corners(&self) -> [(f64, f64); 4] {
        let (x, y) = (&self.x, &self.y);
        [
            (x.start, y.start),
            (x.start, y.end),
            (x.end, y.end),
            (x.end, y.start),
        ]
    }

    fn top(&self) -> (f64, f64) {
        (f64::midpoint(self.x.start, self.x.end), self.y.end)
    }
}

/// The ratio of the ends of an axis from which on not all steps have labels.
const MANY_DECADES: f64 = 1e3;

impl Axis {
    /// A logarithmic one for ratios from `from` up, with room for `values`. Over many decades only
    /// these have labels, or one would be on the other.
    pub(crate) fn ratios(title: &str, from: f64, values: impl Iterator<Item = f64>) -> Self {
        let most = values.fold(10.0 * from, f64::max);
        let decades = (0..15).map(|decade| 10f64.powi(decade));
        let labelled: &[f64] = match most / from {
            ..=MANY_DECADES => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let steps =
            decades.flat_map(|decade| labelled.iter().map(move |step| from * step * decade));
        let mut ticks: Vec<f64> = steps.clone().take_while(|tick| *tick < most).collect();
        ticks.extend(steps.skip(ticks.len()).take(1));
        let end = ticks.last().copied().unwrap_or(most);
        Self {
            title: title.to_owned(),
            range: from..end,
            is_log: true,
            ticks: ticks
                .into_iter()
                .map(|tick| (tick, tick.to_string()))
                .collect(),
        }
    }

    /// A linear one of percentages from 0 up, with room for `values`.
    pub(crate) fn percentages(title: &str, values: impl Iterator<Item = f64>) -> Self {
        let most = values.fold(1.0, f64::max);
        let steps = [0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0];
        let step = steps
            .into_iter()
            .find(|step| step * 6.0 >= most)
            .unwrap_or(50.0);
        let count = (most / step).ceil() as u32;
        let ticks = (0..=count).map(|at| f64::from(at) * step);
        Self {
            title: title.to_owned(),
            range: 0.0..f64::from(count) * step,
            is_log: false,
            ticks: ticks.map(|tick| (tick, tick.to_string())).collect(),
        }
    }

    /// Room of 1 for each of `names`, in which bars stand.
    pub(crate) fn places(title: &str, names: impl Iterator<Item = String>) -> Self {
        let ticks: Vec<_> = (0..).map(|at| f64::from(at) + 0.5).zip(names).collect();
        Self {
            title: title.to_owned(),
            range: 0.0..ticks.len() as f64,
            is_log: false,
            ticks,
        }
    }

    /// From all down to a share that is below `least`, in factors of ten.
    pub(crate) fn shares(title: &str, least: f64) -> Self {
        let mut ticks = vec![1.0];
        while ticks.last().is_some_and(|last| *last > least) && ticks.len() < 8 {
            ticks.push(10f64.powi(-(ticks.len() as i32)));
        }
        Self {
            title: title.to_owned(),
            range: ticks.last().copied().unwrap_or(0.1).min(0.1)..1.0,
            is_log: true,
            ticks: ticks
                .into_iter()
                .map(|tick| (tick, format!("{} %", tick * 1e2)))
                .collect(),
        }
    }

    /// Sizes of messages, linear in messages: where `ends` are, each with the share of messages that
    /// are not longer, and as far as their labels do not touch.
    pub(crate) fn by_messages(ends: &[(u64, f64)]) -> Self {
        let mut ticks: Vec<(f64, String)> = Vec::new();
        // From the longest on: where labels would touch, the longer sizes are the ones to tell.
        for (bytes, share) in ends.iter().rev() {
            let label = size(*bytes as f64).replace([' ', 'B'], "");
            let is_clear = ticks.last().is_none_or(|(next, next_label)| {
                let letters = f64::midpoint(label.len() as f64, next_label.len() as f64);
                next - share >= LABEL_LETTER * letters
            });
            if is_clear {
                ticks.push((*share, label));
            }
        }
        Self {
            title: "Message size in bytes, linear in messages".to_owned(),
            range: 0.0..1.0,
            is_log: false,
            ticks,
        }
    }

    /// Where a value is on it, 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let scaled = |value: f64| if self.is_log { value.ln() } else { value };
        let (from, to) = (scaled(self.range.start), scaled(self.range.end));
        ((scaled(value) - from) / (to - from)).clamp(0.0, 1.0)
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        from + (f64::from(to - from) * self.place(*value)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.iter().map(|(value, _)| *value).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        let tick = self.ticks.iter().find(|(tick, _)| tick == value);
        tick.map_or_else(String::new, |(_, label)| label.clone())
    }
}

impl Shape {
    /// What the y axis must have room for.
    pub(crate) fn heights(&self) -> impl Iterator<Item = f64> {
        let (points, bars): (&[_], &[_]) = match self {
            Self::Line(points) | Self::Dashed(points) => (points, &[]),
            Self::Marks(points) | Self::HollowMarks(points) => (points, &[]),
            Self::Bars(bars) | Self::HollowBars(bars) => (&[], bars),
        };
        let points = points.iter().map(|(_, y)| *y);
        points.chain(bars.iter().map(|bar: &Bar| bar.y.end))
    }
}

/// The points of a line that have a mark: about ten, evenly over its width, other ones for each.
fn marked(points: &[(f64, f64)], look: Look) -> Vec<(f64, f64)> {
    const MARKS: f64 = 10.0;
    let (Look::Ours(number), [first, .., last]) = (look, points) else {
        return Vec::new();
    };
    let step = (last.0 - first.0) / MARKS;
    let mut next = first.0 + step * (number % 4) as f64 / 4.0;
    let mut marked = Vec::new();
    for point in points {
        if point.0 >= next {
            marked.push(*point);
            next = point.0 + step * 0.99;
        }
    }
    marked
}

/// The mark of a series, at a point of the chart or of the drawing.
fn mark<'b, C>(
    look: Look,
    at: C,
    hollow: bool,
) -> ComposedElement<C, Backend<'b>, Polygon<Pixels>, PathElement<Pixels>> {
    let corners = look.corners();
    let border = corners.iter().chain(corners.first()).copied();
    let border = PathElement::new(border.collect::<Vec<_>>(), look.thin_line());
    let inside = if hollow { PAPER.area() } else { look.area() };
    EmptyElement::at(at) + Polygon::new(corners, inside) + border
}

/// A small area, for a legend.
fn patch((x, y): Pixels, style: ShapeStyle) -> Rectangle<Pixels> {
    let (width, height) = (6 * SCALE, 4 * SCALE);
    Rectangle::new([(x - width, y - height), (x + width, y + height)], style)
}

fn font(pixels: i32) -> TextStyle<'static> {
    // The library draws letters smaller than the size that it is told.
    let size = f64::from(pixels * SCALE) * 1.24;
    ("sans-serif", size).into_font().color(&INK.light)
}

#[cfg(test)]
mod tests {
    use roxmltree::Document;

    use super::super::look::dark_rules;
    use super::*;

    fn axis(range: Range<f64>, is_log: bool) -> Axis {
        let ticks = [range.start, range.end].map(|tick| (tick, tick.to_string()));
        Axis {
            title: "Size & <shape>".to_owned(),
            range,
            is_log,
            ticks: ticks.to_vec(),
        }
    }

    /// One of each, with values beyond the axes.
    fn plot() -> Plot {
        let points = vec![(-5.0, 0.1), (0.0, 1.0), (0.5, 30.0), (1.0, 1e6), (9.0, 2.0)];
        let bars = vec![Bar {
            x: 0.2..0.4,
            y: 0.0..1e9,
            text: "<9>".to_owned(),
        }];
        let shapes = [
            Shape::Line(points.clone()),
            Shape::Dashed(points.clone()),
            Shape::Marks(points.clone()),
            Shape::HollowMarks(points),
            Shape::Bars(bars.clone()),
            Shape::HollowBars(bars),
        ];
        let looks = [Look::Published, Look::Limit];
        let looks = (0..6).map(Look::Ours).chain(looks);
        let series = looks.flat_map(|look| {
            shapes.clone().map(|shape| Series {
                label: Some(format!("\"{look:?}\" & <co>")),
                look,
                shape,
            })
        });
        Plot {
            x: axis(0.0..1.0, false),
            y: axis(1.0..100.0, true),
            series: series.collect(),
        }
    }

    #[test]
    fn a_drawing_is_well_formed_and_labels_are_escaped() {
        let svg = plot().svg(560, 900).expect("drawn in memory");
        let svg = Document::parse(&svg).expect("well-formed");
        let texts: Vec<_> = svg
            .descendants()
            .filter_map(|node| node.text())
            .map(str::trim)
            .collect();
        for text in ["Size & <shape>", "\"Ours(0)\" & <co>", "<9>"] {
            assert!(texts.contains(&text), "{text} is not in {texts:?}");
        }
    }

    #[test]
    fn what_is_drawn_is_within_the_view_box() {
        let svg = plot().svg(560, 900).expect("drawn in memory");
        let svg = Document::parse(&svg).expect("well-formed");
        let (width, height) = (f64::from(560 * SCALE), f64::from(900 * SCALE));
        let view_box = svg.root_element().attribute("viewBox");
        assert_eq!(view_box, Some(format!("0 0 {width} {height}").as_str()));
        let mut seen = 0;
        for node in svg.root_element().descendants().skip(1) {
            let mut check = |x: f64, y: f64| {
                assert!((0.0..=width).contains(&x), "{x} in {node:?}");
                assert!((0.0..=height).contains(&y), "{y} in {node:?}");
                seen += 1;
            };
            let number = |name| {
                node.attribute(name)
                    .and_then(|text| text.parse::<f64>().ok())
            };
            for (x, y) in [("x", "y"), ("x1", "y1"), ("x2", "y2"), ("cx", "cy")] {
                if let (Some(x), Some(y)) = (number(x), number(y)) {
                    check(x, y);
                    check(
                        x + number("width").unwrap_or(0.0),
                        y + number("height").unwrap_or(0.0),
                    );
                }
            }
            for point in node
                .attribute("points")
                .unwrap_or_default()
                .split_whitespace()
            {
                let (x, y) = point.split_once(',').expect("two coordinates");
                check(x.parse().expect("a number"), y.parse().expect("a number"));
            }
        }
        assert!(seen > 500, "{seen}");
    }

    #[test]
    fn every_colour_of_a_drawing_has_one_for_dark_paper() {
        let svg = plot().svg(560, 900).expect("drawn in memory");
        let svg = Document::parse(&svg).expect("well-formed");
        let rules = dark_rules();
        let mut colours = 0;
        for attribute in svg.descendants().flat_map(|node| node.attributes()) {
            if matches!(attribute.name(), "fill" | "stroke") && attribute.value() != "none" {
                let rule = format!("[{}=\"{}\"]", attribute.name(), attribute.value());
                assert!(rules.contains(&rule), "{rule}");
                colours += 1;
            }
        }
        assert!(colours > 100, "{colours}");
    }

    #[test]
    fn equal_ratios_are_equally_far_apart_on_a_logarithmic_axis() {
        let axis = axis(1.0..100.0, true);
        let places = [1.0, 10.0, 100.0, 1e6, 0.5].map(|value| axis.map(&value, (400, 0)));
        assert_eq!(places, [400, 200, 0, 0, 400]);
    }

    #[test]
    fn axes_have_room_for_all_values_and_round_ticks() {
        let axis = Axis::ratios("", 1.0, [3.0, 26.6].into_iter());
        let labels: Vec<_> = axis.ticks.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["1", "2", "5", "10", "20", "50"]);
        assert_eq!(axis.range, 1.0..50.0);
        let axis = Axis::percentages("", [3.0, 26.6].into_iter());
        assert_eq!((axis.range, axis.ticks.len()), (0.0..30.0, 7));
    }

    #[test]
    fn labels_do_not_touch_and_the_longest_size_has_one() {
        let ends = [
            (100, 0.1),
            (123_400, 0.96),
            (5_600_000, 0.98),
            (10_000_000, 1.0),
        ];
        let labels: Vec<_> = Axis::by_messages(&ends)
            .ticks
            .into_iter()
            .map(|(_, label)| label)
            .collect();
        assert_eq!(labels, ["10M", "100"]);
    }

    #[test]
    fn shares_go_down_to_the_least_one() {
        let axis = Axis::shares("", 0.004);
        let labels: Vec<_> = axis.ticks.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["100 %", "10 %", "1 %", "0.1 %"]);
        assert_eq!(axis.range, 0.001..1.0);
        assert_eq!(Axis::shares("", 1.0).range, 0.1..1.0);
    }

    #[test]
    fn a_label_longer_than_a_row_is_cut_and_more_labels_make_more_rows() {
        let mut plot = plot();
        plot.series.truncate(2);
        let room = 500 * SCALE;
        assert_eq!(plot.legend(room).0, 1);
        plot.series[1].label = Some("long ".repeat(40));
        let (rows, entries) = plot.legend(room);
        assert_eq!((rows, entries.len()), (2, 2));
        assert!(entries[1].label.ends_with('…'));
        assert!(entries[1].label.chars().count() < 100);
    }

    #[test]
    fn marks_are_spread_over_a_line_whatever_its_points() {
        // A hundred points, most of them near the end.
        let points: Vec<_> = (0..=100)
            .map(|at| 1.0 - 0.9f64.powi(at))
            .map(|x| (x, x))
            .collect();
        let marked = marked(&points, Look::Ours(0));
        assert!((9..=11).contains(&marked.len()), "{marked:?}");
        assert!(marked.windows(2).all(|pair| pair[1].0 - pair[0].0 > 0.05));
    }
}
