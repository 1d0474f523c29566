//! [`Curve`]: published slowdowns by size of message.

use std::io;
use std::path::{Path, PathBuf};

use super::file;

/// Columns of a published bucket.
const COLUMNS: &str = "upper end in bytes, % of messages, cumulative %, % of bytes, mean, P50 and \
                       P99 of the slowdown";

/// How far the last cumulative percentage may be from 100: published counts do not always add up.
const LAST_WITHIN: f64 = 5.0;

/// What is wrong with a file of published slowdowns.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CurveError {
    #[error(
        "cannot read published slowdowns from {}; give a text file with the columns {COLUMNS}",
        path.display()
    )]
    Unreadable {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("{} has no buckets; give lines with the columns {COLUMNS}", path.display())]
    Empty { path: PathBuf },
    #[error("{}, line {line}: {wrong}", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        wrong: Wrong,
    },
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("there are {columns} columns instead of 7: {COLUMNS}")]
    Columns { columns: usize },
    #[error("\"{text}\" is not a whole number of bytes")]
    Bytes { text: String },
    #[error("\"{text}\" is not a percentage of 0 to 105")]
    Percent { text: String },
    #[error("the slowdown \"{text}\" is neither a number above 0 nor NA")]
    Slowdown { text: String },
    #[error("the bucket does not end above the one before; sort the lines by size")]
    Falls,
    #[error("the cumulative percentage is below that of the line before; add up the shares")]
    CumulativeFalls,
    #[error("the last cumulative percentage is {percent} instead of 100; add what is missing")]
    Last { percent: f64 },
}

/// A published curve, at least one bucket long.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Curve {
    /// Where it is from: the first comment of the file, or else its path.
    pub(crate) source: String,
    /// Shortest messages first.
    pub(crate) buckets: Vec<PublishedBucket>,
}

/// Messages above the end of the bucket before and up to this one's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PublishedBucket {
    pub(crate) upper_bytes: u32,
    /// Share of the messages.
    pub(crate) percent: f64,
    /// With all shorter messages.
    pub(crate) cumulative_percent: f64,
    /// Slowdowns; `None`: not known.
    pub(crate) mean: Option<f64>,
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
}

impl Curve {
    /// Reads a curve: a line for each bucket, shortest messages first. Empty lines, and what
    /// follows a `#`, are passed over. `NA` stands for a slowdown that is not known. A bucket
    /// without a 99th percentile gives way to another one of the same size, as there is in the
    /// published curve of the SRPT oracle for W5 at 50 % load.
    pub(crate) fn read(path: &Path) -> Result<Self, CurveError> {
        let text = file::read(path).map_err(|error| CurveError::Unreadable {
            path: path.to_owned(),
            error,
        })?;
        let at_line = |line| {
            move |wrong| CurveError::Line {
                path: path.to_owned(),
                line,
                wrong,
            }
        };
        let mut source = None;
        let mut buckets: Vec<PublishedBucket> = Vec::new();
        let mut last_line = 0;
        for (number, line) in (1..).zip(text.lines()) {
            let (content, comment) = match line.split_once('#') {
                Some((content, comment)) => (content, Some(comment.trim())),
                None => (line, None),
            };
            source = source.or(comment);
            if content.trim().is_empty() {
                continue;
            }
            let bucket = parse(content, buckets.last()).map_err(at_line(number))?;
            buckets.pop_if(|before| before.upper_bytes == bucket.upper_bytes);
            buckets.push(bucket);
            last_line = number;
        }
        let Some(last) = buckets.last() else {
            return Err(CurveError::Empty {
                path: path.to_owned(),
            });
        };
        let percent = last.cumulative_percent;
        if (percent - 100.0).abs() > LAST_WITHIN {
            return Err(at_line(last_line)(Wrong::Last { percent }));
        }
        let source = source.map_or_else(|| path.display().to_string(), str::to_owned);
        Ok(Self { source, buckets })
    }

    /// Where the buckets end.
    pub(crate) fn edges(&self) -> Vec<u32> {
        self.buckets
            .iter()
            .map(|bucket| bucket.upper_bytes)
            .collect()
    }
}

fn parse(line: &str, before: Option<&PublishedBucket>) -> Result<PublishedBucket, Wrong> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let [upper, percent, cumulative, _bytes, mean, p50, p99] = columns[..] else {
        return Err(Wrong::Columns {
            columns: columns.len(),
        });
    };
    let bucket = PublishedBucket {
        upper_bytes: upper.parse().map_err(|_| Wrong::Bytes {
            text: upper.to_owned(),
        })?,
        percent: parse_percent(percent)?,
        cumulative_percent: parse_percent(cumulative)?,
        mean: parse_slowdown(mean)?,
        p50: parse_slowdown(p50)?,
        p99: parse_slowdown(p99)?,
    };
    if let Some(before) = before {
        let replaces = bucket.upper_bytes == before.upper_bytes && before.p99.is_none();
        if bucket.upper_bytes <= before.upper_bytes && !replaces {
            return Err(Wrong::Falls);
        }
        if bucket.cumulative_percent < before.cumulative_percent {
            return Err(Wrong::CumulativeFalls);
        }
    }
    Ok(bucket)
}

fn parse_percent(text: &str) -> Result<f64, Wrong> {
    text.parse()
        .ok()
        .filter(|percent| (0.0..=100.0 + LAST_WITHIN).contains(percent))
        .ok_or_else(|| Wrong::Percent {
            text: text.to_owned(),
        })
}

fn parse_slowdown(text: &str) -> Result<Option<f64>, Wrong> {
    if text == "NA" {
        return Ok(None);
    }
    text.parse()
        .ok()
        .filter(|slowdown: &f64| slowdown.is_finite() && *slowdown > 0.0)
        .map(Some)
        .ok_or_else(|| Wrong::Slowdown {
            text: text.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    fn curve_of(text: &str) -> Result<Curve, CurveError> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("writable");
        Curve::read(file.path())
    }

    #[test]
    fn seven_columns_make_a_bucket() {
        let text = "# Homa W9; source: nowhere\n# upper ...\n\
                    8 40.5 40.500 1.0 NA 1.2 2.25\n\n16 59.5 100.0 99 1.5 NA NA\n";
        let curve = curve_of(text).expect("right");
        assert_eq!(curve.source, "Homa W9; source: nowhere");
        assert_eq!(curve.edges(), [8, 16]);
        let first = PublishedBucket {
            upper_bytes: 8,
            percent: 40.5,
            cumulative_percent: 40.5,
            mean: None,
            p50: Some(1.2),
            p99: Some(2.25),
        };
        assert_eq!(curve.buckets[0], first);
        assert_eq!(curve.buckets[1].p99, None);
    }

    #[test]
    fn a_bucket_without_a_tail_gives_way_to_one_with_it() {
        let text = "8 40 40 1 1 NA NA\n8 60 100 99 1 1 1\n";
        let curve = curve_of(text).expect("right");
        assert_eq!(curve.edges(), [8]);
        assert_eq!(curve.buckets[0].p99, Some(1.0));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, expected) in [
            ("8 100 100 100 1 1", 1, "there are 6 columns instead of 7"),
            ("x 100 100 100 1 1 1", 1, "\"x\" is not a whole number"),
            ("8 200 100 100 1 1 1", 1, "\"200\" is not a percentage"),
            ("8 100 nan 100 1 1 1", 1, "\"nan\" is not a percentage"),
            ("8 100 100 100 1 1 0", 1, "the slowdown \"0\""),
            ("8 100 100 100 1 inf 1", 1, "the slowdown \"inf\""),
            (
                "#\n8 50 50 50 1 1 1\n8 50 100 50 1 1 1",
                3,
                "sort the lines",
            ),
            (
                "8 50 50 50 1 1 1\n9 50 49 50 1 1 1",
                2,
                "cumulative percentage is below",
            ),
            ("8 0.5 0.5 1 1 1 1\n", 1, "is 0.5 instead of 100"),
        ] {
            let error = curve_of(text).expect_err(text);
            assert!(
                matches!(error, CurveError::Line { line: at, .. } if at == line),
                "{text}: {error}"
            );
            assert!(error.to_string().contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn files_without_buckets_are_refused_by_name() {
        let error = curve_of("# nothing\n").expect_err("empty");
        assert!(matches!(error, CurveError::Empty { .. }), "{error}");
        let error = Curve::read(Path::new("/nowhere/w9.txt")).expect_err("is not there");
        assert!(error.to_string().contains("/nowhere/w9.txt"), "{error}");
        assert!(error.source().is_some());
    }
}
