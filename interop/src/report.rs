//! Results: what a row holds, how rounds become one figure, and how it is printed.

use std::error::Error;
use std::fmt::Write as _;
use std::fs::{OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::bench::CpuPerCall;
use crate::table::Table;

/// A 99th percentile of fewer samples is not told: it would rest on fewer than ten of them.
pub(crate) const MIN_SAMPLES_FOR_P99: u64 = 1_000;

/// One round of one stack.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Round {
    /// Median latency in microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile, where there are enough samples.
    pub(crate) p99_us: Option<f64>,
    /// Measured calls or messages finished per second.
    pub(crate) rate: f64,
    /// Payload carried in one direction, in Gbit/s.
    pub(crate) gbps: f64,
    /// Measured calls or messages.
    pub(crate) samples: u64,
}

impl Round {
    /// Sums a round up.
    pub(crate) fn of(latencies: &Histogram<u64>, rate: f64, gbps: f64) -> Self {
        Self {
            p50_us: quantile_us(latencies, 0.5),
            p99_us: p99_us(latencies),
            rate: rounded(rate),
            gbps: rounded(gbps),
            samples: latencies.len(),
        }
    }
}

/// Where the 99th percentile of several rounds comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tail {
    /// From the rounds' own; none if a round has none.
    MedianOfRounds,
    /// From the samples of all rounds together.
    Pooled(Option<f64>),
}

/// One stack in one row: the medians of its rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Side {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: Option<f64>,
    pub(crate) rate: f64,
    pub(crate) gbps: f64,
    /// Measured calls or messages of all rounds.
    pub(crate) samples: u64,
    /// What the processes did for a call or message, those of the load beside them included.
    pub(crate) cpu_per_call: Option<CpuPerCall>,
    /// Microseconds, and the share of the calls or messages of all rounds that took at least so
    /// long.
    #[serde(default)]
    pub(crate) ccdf: Vec<(f64, f64)>,
    pub(crate) rounds: Vec<Round>,
}

impl Side {
    /// Combines the rounds; there must be at least one.
    pub(crate) fn of(rounds: &[Round], tail: Tail) -> Self {
        let over = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
        let p99_us = match tail {
            Tail::Pooled(p99_us) => p99_us,
            Tail::MedianOfRounds => rounds
                .iter()
                .map(|round| round.p99_us)
                .collect::<Option<_>>()
                .map(median),
        };
        Self {
            p50_us: over(|round| round.p50_us),
            p99_us,
            rate: over(|round| round.rate),
            gbps: over(|round| round.gbps),
            samples: rounds.iter().map(|round| round.samples).sum(),
            cpu_per_call: None,
            ccdf: Vec::new(),
            rounds: rounds.to_vec(),
        }
    }

    /// Of client and server together.
    pub(crate) fn cpu_us(&self) -> Option<f64> {
        self.cpu_per_call?.both_us()
    }
}

/// One row of the comparison. A ratio is Homa divided by TCP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) tcp: Side,
    pub(crate) homa: Side,
    pub(crate) ratio_p50: f64,
    pub(crate) ratio_p99: Option<f64>,
    pub(crate) ratio_rate: f64,
    /// Of what both processes do for a call.
    pub(crate) ratio_cpu: Option<f64>,
}

impl Row {
    /// Relates the two sides.
    pub(crate) fn new(name: &str, tcp: Side, homa: Side) -> Self {
        let ratio = |homa: Option<f64>, tcp: Option<f64>| {
            let (homa, tcp) = homa.zip(tcp)?;
            (tcp > 0.0).then(|| rounded(homa / tcp))
        };
        Self {
            name: name.to_owned(),
            ratio_p50: rounded(homa.p50_us / tcp.p50_us),
            ratio_p99: ratio(homa.p99_us, tcp.p99_us),
            ratio_rate: rounded(homa.rate / tcp.rate),
            ratio_cpu: ratio(homa.cpu_us(), tcp.cpu_us()),
            tcp,
            homa,
        }
    }
}

/// How a claim fared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) row: String,
    pub(crate) what: String,
    /// Homa divided by what it is compared with; `None`: unknown, and so does not hold.
    pub(crate) ratio: Option<f64>,
    pub(crate) claimed: String,
    pub(crate) holds: bool,
}

impl Verdict {
    /// In a word.
    pub(crate) fn mark(&self) -> &'static str {
        if self.holds { "pass" } else { "FALLS SHORT" }
    }

    /// A line for each.
    pub(crate) fn table(verdicts: &[Self]) -> Table {
        let mut table = Table::new(["claim", "of", "ratio", "claimed", ""]);
        for verdict in verdicts {
            // As many decimals as are kept: a ratio must not look like its bound and fall short.
            let ratio = verdict.ratio.map(|ratio| format!("{ratio:.3}"));
            table.row([
                verdict.row.clone(),
                verdict.what.clone(),
                ratio.unwrap_or_else(|| "unknown".to_owned()),
                verdict.claimed.clone(),
                verdict.mark().to_owned(),
            ]);
        }
        table
    }
}

/// The 99th percentile in microseconds, where there are enough samples for one.
pub(crate) fn p99_us(latencies: &Histogram<u64>) -> Option<f64> {
    (latencies.len() >= MIN_SAMPLES_FOR_P99).then(|| quantile_us(latencies, 0.99))
}

/// A quantile in microseconds.
pub(crate) fn quantile_us(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    rounded(latencies.value_at_quantile(quantile) as f64 / 1e3)
}

/// Microseconds, and the share of all that took at least so long; as far as ten did.
pub(crate) fn ccdf(latencies: &Histogram<u64>) -> Vec<(f64, f64)> {
    let all = latencies.len();
    let mut points: Vec<(f64, f64)> = Vec::new();
    let mut below = 0;
    for step in latencies.iter_recorded() {
        let left = all - below;
        let share = left as f64 / all as f64;
        // Points that nobody could tell from the one before are left out.
        let is_apart = points.last().is_none_or(|(_, last)| share < 0.9 * last);
        if left >= MIN_IN_TAIL && (is_apart || points.len() < 2) {
            let us = rounded(step.value_iterated_to() as f64 / 1e3);
            points.push((us, (share * 1e6).round() / 1e6));
        }
        below += step.count_at_value();
    }
    points
}

/// Fewer samples do not make a point of a distribution's tail.
pub(crate) const MIN_IN_TAIL: u64 = 10;

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle) {
        None => f64::NAN,
        Some(upper) if values.len() % 2 == 1 => *upper,
        Some(upper) => rounded(f64::midpoint(values[middle - 1], *upper)),
    }
}

/// Three decimals: more than anything here is repeatable to.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Width of the column of names: the longest one.
const NAME_WIDTH: usize = 43;

/// The two lines above the rows.
pub(crate) fn table_head() -> String {
    let figures =
        ["p50 us", "p99 us", "calls or messages/s", "Gbit/s"].map(|unit| format!("{unit:^26}"));
    let stacks = vec![format!(" {:>8} {:>8} {:>7}", "TCP", "Homa", "ratio"); figures.len()];
    let line = |cells: &[String]| format!("{:NAME_WIDTH$}{}", "", cells.join(" |"));
    format!("{}\n{}", line(&figures).trim_end(), line(&stacks))
}

/// One line of the table.
pub(crate) fn table_line(row: &Row) -> String {
    let cells = figures(row).map(|(tcp, homa, ratio)| {
        let (tcp, homa, ratio) = (figure(tcp), figure(homa), ratio_text(ratio));
        format!(" {tcp:>8} {homa:>8} {ratio:>7}")
    });
    format!("{:NAME_WIDTH$}{}", row.name, cells.join(" |"))
}

/// The rows as a table of a page.
pub(crate) fn rows_table(rows: &[Row]) -> Table {
    let mut table = Table::new([
        "",
        "p50 us TCP",
        "Homa",
        "ratio",
        "p99 us TCP",
        "Homa",
        "ratio",
        "calls or messages/s TCP",
        "Homa",
        "ratio",
        "Gbit/s TCP",
        "Homa",
        "ratio",
    ]);
    for row in rows {
        let mut cells = vec![row.name.clone()];
        for (tcp, homa, ratio) in figures(row) {
            cells.extend([tcp, homa].map(figure));
            cells.push(ratio_text(ratio));
        }
        table.row(cells);
    }
    table
}

/// What the tables tell of a row: of TCP, of Homa, and the ratio.
fn figures(row: &Row) -> [(Option<f64>, Option<f64>, Option<f64>); 4] {
    let (tcp, homa) = (&row.tcp, &row.homa);
    [
        (Some(tcp.p50_us), Some(homa.p50_us), Some(row.ratio_p50)),
        (tcp.p99_us, homa.p99_us, row.ratio_p99),
        (Some(tcp.rate), Some(homa.rate), Some(row.ratio_rate)),
        (Some(tcp.gbps), Some(homa.gbps), Some(homa.gbps / tcp.gbps)),
    ]
}

fn ratio_text(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
}

/// What each row took of the processors, and how often it was measured.
pub(crate) fn cpu_table(rows: &[Row]) -> Table {
    let mut table = Table::new([
        "CPU us per call",
        "TCP client",
        "server",
        "both",
        "Homa client",
        "server",
        "both",
        "ratio",
        "samples TCP",
        "Homa",
    ]);
    for row in rows {
        let mut cells = vec![row.name.clone()];
        for side in [&row.tcp, &row.homa] {
            let cpu = side.cpu_per_call;
            let client = cpu.map(|cpu| cpu.client.us());
            let server = cpu.and_then(|cpu| Some(cpu.server?.us()));
            cells.extend([client, server, side.cpu_us()].map(figure));
        }
        cells.push(ratio_text(row.ratio_cpu));
        cells.extend([row.tcp.samples, row.homa.samples].map(|samples| samples.to_string()));
        table.row(cells);
    }
    table
}

/// About three significant digits, `-` where there is no value.
fn figure(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// A result file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}{}", path.display(), remedy(source))]
pub(crate) struct WriteError {
    path: PathBuf,
    source: io::Error,
}

impl WriteError {
    /// Of what was to be written there.
    pub(crate) fn new(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self { path, source }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; make the folder, or name a file in another one",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; name a file that you may write"
        }
        io::ErrorKind::IsADirectory => "; name a file in it",
        _ => "",
    }
}

/// Finds out before a long run whether its results can be written. Leaves what is there, and
/// nothing that was not.
pub(crate) fn check_writable(path: &Path) -> Result<(), WriteError> {
    let write = || match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            OpenOptions::new().append(true).open(path).map(drop)
        }
        Err(error) => Err(error),
    };
    write().map_err(|source| WriteError::new(path, source))
}

/// The same for all that a run is to write, each of which has to be a file of its own.
pub(crate) fn check_all_writable<'a>(
    paths: impl IntoIterator<Item = &'a PathBuf>,
) -> Result<(), WriteError> {
    let mut named = Vec::new();
    for path in paths {
        check_writable(path)?;
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        // What goes to a pipe or to nowhere does not replace anything.
        let is_special = real.exists() && !real.is_file();
        if named.contains(&real) && !is_special {
            let twice = io::Error::other("it is named for two files; give each its own");
            return Err(WriteError::new(path, twice));
        }
        named.push(real);
    }
    Ok(())
}

/// Writes `value` as JSON, in place of what the file held.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), WriteError> {
    let mut json =
        serde_json::to_vec_pretty(value).map_err(|source| WriteError::new(path, source.into()))?;
    json.push(b'\n');
    write_whole(path, &json)
}

/// The same without white space, for long lists.
pub(crate) fn write_json_compact(path: &Path, value: &impl Serialize) -> Result<(), WriteError> {
    let json = serde_json::to_vec(value).map_err(|source| WriteError::new(path, source.into()))?;
    write_whole(path, &json)
}

/// Writes a file that holds all of `content` or, after an error, what it held before.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> Result<(), WriteError> {
    let write = || {
        // A link stays one. A pipe or a terminal is written to; only a file can be replaced.
        let (path, file) = match path.canonicalize() {
            Ok(path) => {
                let file = path.is_file();
                (path, file)
            }
            Err(_) => (path.to_owned(), true),
        };
        if !file {
            return std::fs::write(path, content);
        }
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let mut whole = tempfile::Builder::new()
            .permissions(permissions(&path))
            .tempfile_in(folder.unwrap_or(Path::new(".")))?;
        whole.write_all(content)?;
        whole.persist(path).map(drop).map_err(|error| error.error)
    };
    write().map_err(|source| WriteError::new(path, source))
}

/// Those of the file that is replaced, or what a new one is given.
fn permissions(path: &Path) -> Permissions {
    path.metadata()
        .map_or_else(|_| Permissions::from_mode(0o666), |held| held.permissions())
}

/// An error and everything that led to it, on one line.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let text_of = |error: &(dyn Error + 'static)| match error.downcast_ref() {
        Some(error) => thrift_homa::error_text(error),
        None => error.to_string(),
    };
    let mut text = text_of(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string cannot fail. Some errors repeat their cause in their own text.
        let this = text_of(error);
        if !text.contains(&this) {
            let _ = write!(text, ": {this}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(nanos: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).expect("3 digits are allowed");
        for value in nanos {
            histogram.record(value).expect("it grows");
        }
        histogram
    }

    fn round(p50_us: f64, p99_us: Option<f64>) -> Round {
        Round {
            p50_us,
            p99_us,
            rate: 1e6 / p50_us,
            gbps: 2.0,
            samples: 1_500,
        }
    }

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_around_it() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![7.0]), 7.0);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn a_round_tells_its_p99_from_a_thousand_samples_on() {
        let short = Round::of(&histogram((1..=999).map(|us| us * 1_000)), 5.0, 1.0);
        assert_eq!((short.p99_us, short.samples), (None, 999));
        let long = Round::of(&histogram((1..=1_000).map(|us| us * 1_000)), 5.0, 1.0);
        let p99 = long.p99_us.expect("1,000 samples");
        assert!((989.0..=992.0).contains(&p99), "{p99}");
        assert!((499.0..=501.0).contains(&long.p50_us), "{}", long.p50_us);
    }

    #[test]
    fn a_row_has_medians_of_rounds_and_no_p99_if_a_round_has_none() {
        let rounds = [
            round(30.0, Some(90.0)),
            round(10.0, Some(50.0)),
            round(20.0, Some(70.0)),
        ];
        let side = Side::of(&rounds, Tail::MedianOfRounds);
        assert_eq!(
            (side.p50_us, side.p99_us, side.rate),
            (20.0, Some(70.0), 50_000.0)
        );
        assert_eq!(side.samples, 4_500);
        let rounds = [rounds[0], round(10.0, None), rounds[2]];
        assert_eq!(Side::of(&rounds, Tail::MedianOfRounds).p99_us, None);
    }

    #[test]
    fn a_pooled_p99_replaces_those_of_the_rounds() {
        let rounds = [round(10.0, None); 3];
        assert_eq!(
            Side::of(&rounds, Tail::Pooled(Some(44.0))).p99_us,
            Some(44.0)
        );
    }

    #[test]
    fn a_row_in_json_has_the_promised_keys_and_homa_over_tcp_ratios() {
        let tcp = Side::of(&[round(100.0, Some(1_000.0)); 3], Tail::MedianOfRounds);
        let homa = Side::of(&[round(50.0, Some(100.0)); 3], Tail::MedianOfRounds);
        let json = serde_json::to_value([Row::new("a row", tcp, homa)]).expect("it is plain data");
        let row = &json[0];
        assert_eq!(row["name"], "a row");
        for side in ["tcp", "homa"] {
            for key in ["p50_us", "p99_us", "rate", "gbps", "samples"] {
                assert!(row[side][key].is_number(), "{side}.{key}");
            }
        }
        let ratios = ["ratio_p50", "ratio_p99", "ratio_rate"].map(|key| row[key].as_f64());
        assert_eq!(ratios, [Some(0.5), Some(0.1), Some(2.0)]);
    }

    #[test]
    fn an_unknown_p99_is_null_and_so_is_its_ratio() {
        let side = |p99_us| Side::of(&[round(10.0, p99_us); 3], Tail::MedianOfRounds);
        let row = Row::new("a row", side(None), side(Some(5.0)));
        let json = serde_json::to_value(&row).expect("it is plain data");
        assert!(json["tcp"]["p99_us"].is_null() && json["ratio_p99"].is_null());
        assert!(json["ratio_p50"].is_number());
        assert!(table_line(&row).contains(" - "));
    }

    #[test]
    fn lines_of_the_table_align_with_its_head() {
        let side = Side::of(&[round(123_456.7, Some(0.5)); 3], Tail::MedianOfRounds);
        let line = table_line(&Row::new("a row", side.clone(), side));
        let bars = |text: &str| -> Vec<_> { text.match_indices('|').map(|(at, _)| at).collect() };
        for head in table_head().lines() {
            assert_eq!(bars(head), bars(&line), "{head}\n{line}");
        }
        for scenario in crate::bench::row_names() {
            assert!(scenario.len() <= NAME_WIDTH, "{scenario}");
        }
    }

    #[test]
    fn a_chain_of_errors_is_told_once_each() {
        let error = WriteError {
            path: "/there/out.json".into(),
            source: io::Error::other("the disk is full"),
        };
        assert_eq!(
            with_causes(&error),
            "cannot write /there/out.json: the disk is full"
        );
    }

    #[test]
    fn checking_a_file_keeps_what_it_holds_and_names_one_that_cannot_be_written() {
        let directory = std::env::temp_dir().join(format!("homa-report-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let file = directory.join("out.json");
        write_json(&file, &[1, 2]).expect("writable");
        check_writable(&file).expect("writable");
        assert_eq!(
            std::fs::read_to_string(&file).expect("readable"),
            "[\n  1,\n  2\n]\n"
        );
        let below = file.join("below-a-file");
        let error = write_whole(&below, b"lost").expect_err("not a directory");
        assert!(with_causes(&error).contains("below-a-file"), "{error}");
        let error = check_writable(&below).expect_err("not a directory");
        assert!(with_causes(&error).contains("below-a-file"), "{error}");
        let new = directory.join("new.json");
        check_writable(&new).expect("writable");
        assert!(!new.exists(), "what is interrupted leaves no empty file");
        check_all_writable([&new, &file]).expect("two files");
        for both in [&new, &file] {
            let error = check_all_writable([both, both]).expect_err("one file");
            assert!(with_causes(&error).contains("give each its own"), "{error}");
        }
        let nowhere = PathBuf::from("/dev/null");
        check_all_writable([&nowhere, &nowhere]).expect("nothing is lost");
        let error = check_writable(&directory.join("nowhere/new.json")).expect_err("no folder");
        assert!(error.to_string().contains("; make the folder"), "{error}");
        let error = check_writable(&directory).expect_err("no file");
        assert!(error.to_string().contains("; name a file in it"), "{error}");
        std::fs::remove_dir_all(&directory).expect("ours");
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_a_link_or_a_pipe_stays_one() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let [file, link, missing] =
            ["file", "link", "missing/file"].map(|name| directory.path().join(name));
        std::fs::write(&file, "much more than before").expect("writable");
        std::fs::set_permissions(&file, Permissions::from_mode(0o640)).expect("ours");
        std::os::unix::fs::symlink(&file, &link).expect("not there yet");
        write_whole(&link, b"new").expect("writable");
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&file).expect("readable"), b"new");
        let mode = file.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        write_whole(Path::new("/dev/null"), b"lost").expect("writable");
        assert!(!Path::new("/dev/null").is_file());
        let error = write_whole(&missing, b"lost").expect_err("no such folder");
        assert!(with_causes(&error).contains("missing/file"), "{error}");
        let names = std::fs::read_dir(directory.path()).expect("readable");
        assert_eq!(names.count(), 2, "nothing is left behind");
    }
}
