//! [`CdfError`], and [`Sizes`] from files.

use std::io;
use std::path::{Path, PathBuf};

use super::super::file;
use super::sizes::{MAX_BYTES, Point, Sizes};

/// Most points of a distribution. The published ones have up to 1,244.
const MAX_POINTS: usize = 100_000;

/// How far the last cumulative share may be from 1.
const LAST_WITHIN: f64 = 1e-6;

/// How far a mean that a file states may be from that of its points.
const MEAN_WITHIN: f64 = 0.1;

/// What precedes a mean in the header line of a file.
const OWN_MEAN: &str = "file's own mean ";

/// What is wrong with a file of message lengths.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CdfError {
    #[error(
        "cannot read message sizes from {}; give a text file with a line \"<bytes> <share of \
         messages that are not longer>\" for each size",
        path.display()
    )]
    Unreadable {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error(
        "{} has no sizes; give a line \"<bytes> <share of messages that are not longer>\" for each",
        path.display()
    )]
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
    #[error("\"{text}\" has not two columns; write a size in bytes and a cumulative share")]
    Columns { text: String },
    #[error("the size \"{text}\" is not a whole number of bytes")]
    Size { text: String },
    #[error("the size {bytes} is not within 1 to {MAX_BYTES} bytes; leave it out or shorten it")]
    SizeRange { bytes: u64 },
    #[error("the share \"{text}\" is not a number")]
    Share { text: String },
    #[error("the share {share} is not within 0 to 1; divide percentages by 100")]
    ShareRange { share: f64 },
    #[error("the size {bytes} is not above {before}, the one before; sort the lines by size")]
    SizeFalls { bytes: u32, before: u32 },
    #[error(
        "the share {share} is below {before}, the one before; shares are cumulative, add up those \
         of shorter messages"
    )]
    ShareFalls { share: f64, before: f64 },
    #[error("the last share is {share} instead of 1; add the missing sizes or divide by it")]
    LastShare { share: f64 },
    #[error("there are more than {MAX_POINTS} sizes; merge similar ones")]
    Points,
    #[error("\"{text}\" is neither a size and a share, with a space between, nor a mean above 0")]
    Mean { text: String },
    #[error(
        "the mean {stated} is not within 10 % of {computed:.1}, that of the sizes; correct it, or \
         leave it out"
    )]
    MeanOff { stated: f64, computed: f64 },
}

impl Sizes {
    /// Reads a distribution: a line for each size with two columns, the size in bytes and the
    /// share of messages that are not longer. A size whose share is that of the one before does
    /// not occur. Empty lines, and what follows a `#`, are passed over.
    ///
    /// The mean from which rates follow is that of the points, unless there is another one: a
    /// number alone on the first line, as in the files of HomaSimulation, or `file's own mean
    /// <number>` after a `#`.
    pub(crate) fn read(path: &Path) -> Result<Self, CdfError> {
        let text = file::read(path).map_err(|error| CdfError::Unreadable {
            path: path.to_owned(),
            error,
        })?;
        let at_line = |line| {
            move |wrong| CdfError::Line {
                path: path.to_owned(),
                line,
                wrong,
            }
        };
        let mut points: Vec<Point> = Vec::new();
        let mut mean = None;
        let mut last_line = 0;
        for (number, line) in (1..).zip(text.lines()) {
            let (content, comment) = line.split_once('#').unwrap_or((line, ""));
            if let Some((_, stated)) = comment.split_once(OWN_MEAN) {
                let stated = stated.split_whitespace().next().unwrap_or_default();
                mean = Some((number, parse_mean(stated).map_err(at_line(number))?));
            }
            let columns: Vec<&str> = content.split_whitespace().take(3).collect();
            match columns[..] {
                [] => {}
                [alone] if points.is_empty() && mean.is_none() => {
                    mean = Some((number, parse_mean(alone).map_err(at_line(number))?));
                }
                [size, share] => {
                    let point = parse_point(size, share, points.last()).map_err(at_line(number))?;
                    if points.len() == MAX_POINTS {
                        return Err(at_line(number)(Wrong::Points));
                    }
                    points.push(point);
                    last_line = number;
                }
                _ => {
                    let text = content.trim().chars().take(80).collect();
                    return Err(at_line(number)(Wrong::Columns { text }));
                }
            }
        }
        let Some(last) = points.last_mut() else {
            return Err(CdfError::Empty {
                path: path.to_owned(),
            });
        };
        if (last.cumulative - 1.0).abs() > LAST_WITHIN {
            let share = last.cumulative;
            return Err(at_line(last_line)(Wrong::LastShare { share }));
        }
        last.cumulative = 1.0;
        let sizes = Self::new(points, mean.map(|(_, mean)| mean));
        if let Some((line, stated)) = mean {
            let computed = sizes.step_mean();
            if (stated / computed - 1.0).abs() > MEAN_WITHIN {
                return Err(at_line(line)(Wrong::MeanOff { stated, computed }));
            }
        }
        Ok(sizes)
    }
}

fn parse_mean(text: &str) -> Result<f64, Wrong> {
    text.parse()
        .ok()
        .filter(|mean: &f64| mean.is_finite() && *mean > 0.0)
        .ok_or_else(|| Wrong::Mean {
            text: text.to_owned(),
        })
}

fn parse_point(size: &str, share: &str, before: Option<&Point>) -> Result<Point, Wrong> {
    let bytes: u64 = size.parse().map_err(|_| Wrong::Size {
        text: size.to_owned(),
    })?;
    if !(1..=u64::from(MAX_BYTES)).contains(&bytes) {
        return Err(Wrong::SizeRange { bytes });
    }
    let bytes = bytes as u32;
    let cumulative: f64 = share.parse().map_err(|_| Wrong::Share {
        text: share.to_owned(),
    })?;
    if !(0.0..=1.0 + LAST_WITHIN).contains(&cumulative) {
        return Err(Wrong::ShareRange { share: cumulative });
    }
    if let Some(before) = before {
        if bytes <= before.bytes {
            let before = before.bytes;
            return Err(Wrong::SizeFalls { bytes, before });
        }
        if cumulative < before.cumulative {
            return Err(Wrong::ShareFalls {
                share: cumulative,
                before: before.cumulative,
            });
        }
    }
    Ok(Point { bytes, cumulative })
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    fn sizes_of(text: &str) -> Result<Sizes, CdfError> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("writable");
        Sizes::read(file.path())
    }

    fn wrong_of(text: &str) -> (usize, Wrong) {
        match sizes_of(text) {
            Err(CdfError::Line { line, wrong, .. }) => (line, wrong),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn two_columns_make_a_distribution() {
        let sizes =
            sizes_of("# sizes\n\n10\t0.5 # half\n  20 0.5\n100 0.9999999\n").expect("right");
        assert_eq!(sizes.draw(0.5), 10);
        assert_eq!(sizes.draw(0.6), 100);
        assert_eq!(sizes.draw(1.0), 100);
        assert_eq!(sizes.mean_bytes(), 55.0);
    }

    #[test]
    fn a_stated_mean_makes_the_rate() {
        for text in [
            "# W9; file's own mean 52.50 B (used for the arrival rate), step mean 55\n10 0.5\n100 1",
            "52.5\n10 0.5\n100 1\n",
        ] {
            let sizes = sizes_of(text).expect(text);
            assert_eq!((sizes.mean_bytes(), sizes.step_mean()), (52.5, 55.0));
        }
        let (line, wrong) = wrong_of("80\n10 0.5\n100 1");
        assert_eq!(line, 1);
        assert!(matches!(wrong, Wrong::MeanOff { .. }), "{wrong}");
        assert_eq!(wrong_of("\n-1\n10 1").0, 2);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_a_remedy() {
        let range = format!("the size 0 is not within 1 to {MAX_BYTES} bytes");
        for (text, line, expected) in [
            ("10 0.5\nx 1", 2, "the size \"x\" is not a whole number"),
            ("10 0.5\n-3 1", 2, "the size \"-3\" is not a whole number"),
            ("0 1", 1, &range),
            ("32000001 1", 1, "the size 32000001 is not within"),
            ("10 half", 1, "the share \"half\" is not a number"),
            ("10 NaN", 1, "the share NaN is not within 0 to 1"),
            ("10 -0.1", 1, "the share -0.1 is not within 0 to 1"),
            ("10 50\n20 100", 1, "divide percentages by 100"),
            ("10 0.5\n10 1", 2, "the size 10 is not above 10"),
            ("10 0.5\n9 1", 2, "sort the lines by size"),
            ("#\n10 0.5\n20 0.4\n30 1", 3, "the share 0.4 is below 0.5"),
            ("10 0.5\n20 0.9\n", 2, "the last share is 0.9 instead of 1"),
            ("10 0.5\n20\n", 2, "\"20\" has not two columns"),
            ("10 0.5 7\n", 1, "\"10 0.5 7\" has not two columns"),
        ] {
            let (at, wrong) = wrong_of(text);
            assert_eq!(at, line, "{text}");
            assert!(wrong.to_string().contains(expected), "{text}: {wrong}");
        }
    }

    #[test]
    fn files_without_sizes_are_refused_by_name() {
        for text in ["", "# nothing\n\n", "17\n"] {
            let error = sizes_of(text).expect_err(text);
            assert!(matches!(error, CdfError::Empty { .. }), "{error}");
        }
        let error = Sizes::read(Path::new("/nowhere/w9.txt")).expect_err("is not there");
        assert!(error.to_string().contains("/nowhere/w9.txt"), "{error}");
        assert!(error.source().is_some());
    }

    #[test]
    fn absurdly_many_sizes_are_refused() {
        let mut text = String::new();
        for size in 1..=MAX_POINTS + 1 {
            text.push_str(&format!("{size} 0.5\n"));
        }
        assert_eq!(wrong_of(&text), (MAX_POINTS + 1, Wrong::Points));
        let error = Sizes::read(Path::new("/dev/zero")).expect_err("there is no end");
        assert!(matches!(error, CdfError::Unreadable { .. }), "{error}");
    }
}
