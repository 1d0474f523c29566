//! What runs have found, for people and programs: text, JSON and a page with plots.

mod format;
mod json;
mod rows;
#[cfg(test)]
mod sample;
mod table;
mod text;
mod words;

use std::path::Path;

use super::outcome::Outcome;
use crate::report::{self, WriteError};

/// One run, or the runs of a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report<'a> {
    /// Of the plan; one run on its own needs none.
    pub(crate) title: &'a str,
    pub(crate) runs: &'a [Outcome],
}

impl Report<'_> {
    /// For a terminal: of one run everything, of many a line each and their slowdown.
    pub(crate) fn text(&self) -> String {
        if let [outcome] = self.runs {
            return format!("{}\n{}\n", text::run(outcome), words::SOURCE);
        }
        let mut parts = vec![self.title.to_owned(), text::overview(self.runs).text()];
        for outcome in self.runs {
            parts.push(text::run(outcome));
        }
        parts.push(words::SOURCE.to_owned() + "\n");
        parts.join("\n")
    }

    /// Writes it as JSON, in place of what the file held: of one run the [`Outcome`], of many
    /// `{ "title": ..., "runs": [...] }`.
    pub(crate) fn write_json(&self, path: &Path) -> Result<(), WriteError> {
        let (title, runs) = (self.title, self.runs);
        report::write_json(path, &json::Json { title, runs })
    }
}
