//! What runs have found, for people and programs: text, JSON and a page with plots.

mod figures;
mod json;
mod page;
mod rows;
#[cfg(test)]
mod sample;
mod text;
mod words;

use std::path::Path;

pub(crate) use figures::Figure;

use super::curve::Curve;
use super::outcome::{IncastOutcome, MaxLoadOutcome, Outcome, ScaleOutcome};
use super::setup::WorkloadName;
use crate::report::{self, WriteError};

use std::io;

/// One experiment, or those of a plan.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report<'a> {
    /// Of the plan; one run on its own needs none.
    pub(crate) title: &'a str,
    pub(crate) runs: &'a [Outcome],
    pub(crate) max_loads: &'a [MaxLoadOutcome],
    pub(crate) incasts: &'a [IncastOutcome],
    pub(crate) scales: &'a [ScaleOutcome],
    /// Drawn beside the runs of the same workload and load.
    pub(crate) curves: &'a [KnownCurve<'a>],
    /// What to show; nothing: all that the runs allow.
    pub(crate) figures: &'a [Figure],
    /// Experiments that were to be made, of which some may have found nothing.
    pub(crate) planned: usize,
}

/// A published curve, and the runs that it is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownCurve<'a> {
    pub(crate) workload: WorkloadName,
    pub(crate) load: f64,
    pub(crate) curve: &'a Curve,
}

impl Report<'_> {
    /// For a terminal: of one experiment everything; of many a line each, the figures as tables,
    /// and how they compare with what is published.
    pub(crate) fn text(&self) -> String {
        let is_alone = self.is_alone() && self.figures.is_empty();
        let mut text = match *self {
            Report { runs: [one], .. } if is_alone => text::run(one),
            Report {
                max_loads: [one], ..
            } if is_alone => text::max_load(one),
            Report { incasts: [one], .. } if is_alone => text::incast(one),
            Report { scales: [one], .. } if is_alone => text::scale(one),
            _ => text::many(self, &figures::sections(self)),
        };
        text += "\n";
        text += words::SOURCE;
        text += "\n";
        text
    }

    /// Whether it is of one experiment only, of any kind.
    fn is_alone(&self) -> bool {
        let found = self.runs.len() + self.max_loads.len() + self.incasts.len() + self.scales.len();
        found == 1 && self.planned <= 1
    }

    /// Writes it as JSON, in place of what the file held: of one experiment its outcome, of many
    /// `{ "title": ..., "runs": [...], "max_loads": [...] }` and so on.
    pub(crate) fn write_json(&self, path: &Path) -> Result<(), WriteError> {
        report::write_json(path, &json::Json(self))
    }

    /// Writes it as a page with plots, in place of what the file held.
    pub(crate) fn write_html(&self, path: &Path) -> Result<(), WriteError> {
        let page =
            page::page(self).map_err(|error| WriteError::new(path, io::Error::other(error)))?;
        report::write_whole(path, page.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_runs_are_a_line_each_then_figures_then_what_is_published() {
        let runs = [sample::outcome("w3"), sample::at_load(0.5, 0)];
        let report = Report {
            title: "Two loads",
            runs: &runs,
            figures: &[Figure::Waste],
            ..Report::default()
        };
        let expected = "\
Two loads

run            load  mean slowdown  P99 first tenth  P99 last bucket  Gbit/s  TOR-to-host mean/max  wasted   verdict  published
w3             80 %           1.93             2.32             15.9    7.09        12.6 KB/117 KB   3.1 %  finished       PASS
Homa load=0.5  50 %           1.93             2.32             15.9    4.43        12.6 KB/117 KB   3.1 %  finished       PASS

Wasted bandwidth
As SIGCOMM'18, figure 13: the share of their time that receivers' links idle while their host withholds grants. Above the line nothing is left for more load.

W3
load   Homa
50 %  3.1 %
80 %  3.1 %

Published
w3: PASS: P99 by host against Homa, W3 at 80 %: worst decile 1.020 of at most 1.15, up to 5.1 MB; last bucket 1.020 of at most 1.30
Homa load=0.5: PASS: P99 by host against Homa, W3 at 80 %: worst decile 1.020 of at most 1.15, up to 5.1 MB; last bucket 1.020 of at most 1.30

Published values of Homa are from the simulations of SIGCOMM'18, section 5.2. Sizes are decimal: 1 KB is 1,000 bytes.
";
        let text = report.text();
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn files_hold_what_they_are_for_and_a_missing_folder_is_named() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let report = Report {
            title: "One run",
            runs: &[sample::outcome("one")],
            ..Report::default()
        };
        let [json, html] = ["out.json", "out.html"].map(|name| folder.path().join(name));
        report.write_json(&json).expect("writable");
        report.write_html(&html).expect("writable");
        let read = |path| std::fs::read_to_string(path).expect("readable");
        assert!(read(&json).starts_with("{\n  \"name\": \"one\",\n  \"setup\": {"));
        assert!(read(&html).starts_with("<!DOCTYPE html><html lang=\"en\">"));
        let error = report.write_html(&folder.path().join("none/out.html"));
        let error = error.expect_err("no such folder").to_string();
        assert!(error.contains("none/out.html; make the folder"), "{error}");
    }
}
