//! A report that was reviewed, and must not change unnoticed.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use super::file;
use crate::report::{self, WriteError};

/// Why a report is not what was reviewed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("cannot read the snapshot {}; --accept makes it", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error(
        "the report differs from the snapshot {}; if that is meant, accept it by --accept and \
         review the change\n{difference}",
        path.display()
    )]
    Differs { path: PathBuf, difference: String },
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The report that was reviewed.
pub(crate) fn read(path: &Path) -> Result<String, SnapshotError> {
    file::read(path).map_err(|error| SnapshotError::Unreadable {
        path: path.to_owned(),
        error,
    })
}

/// Compares a report with the one in a file.
pub(crate) fn check(path: &Path, text: &str) -> Result<(), SnapshotError> {
    let reviewed = read(path)?;
    if reviewed == text {
        return Ok(());
    }
    Err(SnapshotError::Differs {
        path: path.to_owned(),
        difference: difference(&reviewed, text),
    })
}

/// Takes a report for reviewed.
pub(crate) fn accept(path: &Path, text: &str) -> Result<(), SnapshotError> {
    Ok(report::write_whole(path, text.as_bytes())?)
}

/// Lines that differ, by their place: the lines of a table stay where they are.
fn difference(reviewed: &str, text: &str) -> String {
    let mut difference = String::new();
    let (mut before, mut after) = (reviewed.lines(), text.lines());
    loop {
        let pair = (before.next(), after.next());
        if pair == (None, None) {
            return difference;
        }
        if pair.0 != pair.1 {
            for (sign, line) in [('-', pair.0), ('+', pair.1)] {
                if let Some(line) = line {
                    let _ = writeln!(difference, "{sign} {line}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_report_is_shown_line_by_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("report.txt");
        let error = check(&path, "a\n").expect_err("there is none");
        assert!(error.to_string().contains("--accept"), "{error}");
        accept(&path, "head\np99 2.0\nend\n").expect("written");
        check(&path, "head\np99 2.0\nend\n").expect("the same");
        let error = check(&path, "head\np99 2.1\nend\nmore\n").expect_err("another");
        let text = error.to_string();
        assert!(text.contains("\n- p99 2.0\n+ p99 2.1\n+ more\n"), "{text}");
        assert!(!text.contains("head"), "{text}");
    }
}
