//! [`Plan`]: experiments that a file describes.
//!
//! ```toml
//! title = "Overcommitment"
//! figures = ["waste"]     # what to report; without it all that the runs allow
//!
//! [defaults]              # of all runs; any settings of a `Setup`
//! workload = "w4"
//! topology.hosts_per_rack = 16
//!
//! [[run]]
//! name = "narrow"
//! load = 0.5              # settings of this run
//! engine.grant_window = 10000
//!
//! [[run]]                 # four runs, which the values are added to the names of
//! name = "overcommitment"
//! sweep.load = [0.5, 0.8]
//! sweep.engine.max_overcommit = [1, 7]
//!
//! [[run]]
//! name = "limit"
//! kind.max-load = { from = 0.7, to = 0.95 }   # or just kind = "max-load"
//! ```

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, ValueDeserializer};

use super::check::SetupError;
use super::file;
use super::report::Figure;
use super::setup::Setup;
use super::workload::MAX_BYTES;

/// Most RPCs of an incast at a time: as many as an engine has room for.
const MAX_RPCS: u32 = 1_000_000;

/// Most runs of a plan.
const MAX_RUNS: usize = 1000;

/// Experiments under one title.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// May be empty.
    pub(crate) title: String,
    /// What to report; empty: all that the runs allow.
    pub(crate) figures: Vec<Figure>,
    /// At least one, each with a name of its own.
    pub(crate) runs: Vec<Run>,
}

/// One experiment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Within its ranges.
    pub(crate) setup: Setup,
}

/// What is found out.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Kind {
    /// How much longer messages take than in an empty network.
    Slowdown {},
    MaxLoad(MaxLoad),
    Incast(Incast),
    Scale(Scale),
}

/// The highest load that the network carries.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MaxLoad {
    /// The lowest load tried, above 0.
    pub(crate) from: f64,
    /// The highest, at most 1.
    pub(crate) to: f64,
    /// How exactly, from 0.001.
    pub(crate) step: f64,
}

impl Default for MaxLoad {
    fn default() -> Self {
        Self {
            from: 0.6,
            to: 0.98,
            step: 0.01,
        }
    }
}

/// Many servers answer one client at once.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Incast {
    /// RPCs at a time, each value a point of the curve; 1 to 1,000,000.
    pub(crate) concurrent: Vec<u32>,
    /// Servers that they are spread over; at least 1.
    pub(crate) servers: u32,
    /// Length of the requests, 1 to 32,000,000.
    pub(crate) request_bytes: u32,
    /// Length of the responses, 1 to 32,000,000.
    pub(crate) response_bytes: u32,
}

impl Default for Incast {
    fn default() -> Self {
        Self {
            concurrent: vec![1, 10, 30, 100, 300, 1000, 3000, 10_000],
            servers: 15,
            request_bytes: 100,
            response_bytes: 10_000,
        }
    }
}

/// How the simulator's own speed and memory grow with the network.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Scale {
    /// Hosts, in racks of the set-up's size; 2 to 1,024.
    pub(crate) hosts: Vec<u32>,
}

impl Default for Scale {
    fn default() -> Self {
        Self {
            hosts: vec![16, 64, 144, 256, 512, 1024],
        }
    }
}

/// Two runs of a plan are the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the runs \"{first}\" and \"{second}\" are the same; leave out the option that sets what they \
     differ in, or one of them"
)]
pub(crate) struct Alike {
    first: String,
    second: String,
}

/// What is wrong with a plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("cannot read the plan {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("{}, line {line}: {wrong}", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        wrong: Box<Wrong>,
    },
}

/// What is wrong at a line of a plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Wrong {
    /// It is no TOML, or a value of the wrong type, or an unknown key.
    #[error("{message}")]
    Toml { message: String },
    #[error("unknown key `{key}`, expected `title`, `figures`, `defaults` or `run`")]
    Key { key: String },
    #[error("there is no [[run]]; add one with a name")]
    NoRuns,
    #[error("there are more than {MAX_RUNS} runs; sweep over fewer values")]
    Runs,
    #[error("another run is named \"{name}\"; give each its own name")]
    SameName { name: String },
    #[error("a run has no name, or one with control characters; give it one")]
    Name,
    #[error("sweep.{key} is not a list of numbers, strings or booleans, at least one")]
    Sweep { key: String },
    #[error("the run \"{name}\": {error}")]
    Setup { name: String, error: SetupError },
    #[error("the run \"{name}\": {key} = {value} is out of range: {range}; leave out what is")]
    Kind {
        name: String,
        key: &'static str,
        value: String,
        range: &'static str,
    },
}

/// What is wrong, and which bytes of the file it is about.
#[derive(Debug)]
struct Fault {
    at: Range<usize>,
    wrong: Wrong,
}

impl Fault {
    fn new(at: Range<usize>, wrong: Wrong) -> Self {
        Self { at, wrong }
    }

    /// What the reader of TOML says; it is about `within` where it does not say which bytes.
    fn of_toml(error: &toml::de::Error, within: &Range<usize>) -> Self {
        // It marks unknown keys and wrong values more closely than the table they are in.
        let at = error.span().unwrap_or_else(|| within.clone());
        let message = error.message().to_owned();
        Self::new(at, Wrong::Toml { message })
    }
}

type Table<'a> = DeTable<'a>;
type Item<'a> = Spanned<DeValue<'a>>;

impl Plan {
    /// One run, without a name.
    pub(crate) fn of_one(kind: Kind, setup: Setup) -> Self {
        let run = Run {
            name: String::new(),
            kind,
            setup,
        };
        Self {
            title: String::new(),
            figures: Vec::new(),
            runs: vec![run],
        }
    }

    /// Reads a plan. A relative `cdf` in it starts at the plan's own directory.
    pub(crate) fn read(path: &Path) -> Result<Self, PlanError> {
        let text = file::read(path).map_err(|error| PlanError::Unreadable {
            path: path.to_owned(),
            error,
        })?;
        let mut plan = Self::parse(&text).map_err(|Fault { at, wrong }| PlanError::Line {
            path: path.to_owned(),
            line: 1 + text
                .bytes()
                .take(at.start)
                .filter(|byte| *byte == b'\n')
                .count(),
            wrong: Box::new(wrong),
        })?;
        let directory = path.parent().unwrap_or(Path::new(""));
        for run in &mut plan.runs {
            if let Some(cdf) = &mut run.setup.cdf {
                *cdf = directory.join(&*cdf);
            }
        }
        Ok(plan)
    }

    /// Whether every run is another one: options can make alike what the plan told apart.
    pub(crate) fn check_alike(&self) -> Result<(), Alike> {
        for (number, run) in self.runs.iter().enumerate() {
            let like = |other: &&Run| (&other.kind, &other.setup) == (&run.kind, &run.setup);
            if let Some(other) = self.runs[..number].iter().find(like) {
                return Err(Alike {
                    first: other.name.clone(),
                    second: run.name.clone(),
                });
            }
        }
        Ok(())
    }

    /// Takes the whole distributions of the workloads from `workloads/w1_sim.txt` and so on below
    /// `data`, for the runs that name no other sizes.
    pub(crate) fn take_sizes_from(&mut self, data: &Path) {
        for run in &mut self.runs {
            let name = run.setup.workload.published().name.to_lowercase();
            let whole = data.join(format!("workloads/{name}_sim.txt"));
            if run.setup.cdf.is_none() {
                run.setup.cdf = Some(whole);
            }
        }
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let whole = 0..0;
        let mut document = DeTable::parse(text)
            .map_err(|error| Fault::of_toml(&error, &whole))?
            .into_inner();
        let title = match document.remove("title") {
            Some(title) => value_of(title)?,
            None => String::new(),
        };
        let figures = match document.remove("figures") {
            Some(figures) => value_of(figures)?,
            None => Vec::new(),
        };
        let defaults = match document.remove("defaults") {
            Some(defaults) => table_of("defaults", defaults)?,
            None => Table::new(),
        };
        let Some(listed) = document.remove("run") else {
            return Err(Fault::new(whole, Wrong::NoRuns));
        };
        if let Some((key, _)) = document.iter().next() {
            let wrong = Wrong::Key {
                key: key.get_ref().to_string(),
            };
            return Err(Fault::new(key.span(), wrong));
        }
        let span = listed.span();
        let DeValue::Array(listed) = listed.into_inner() else {
            let message = "`run` is not a list: write [[run]]".to_owned();
            return Err(Fault::new(span, Wrong::Toml { message }));
        };
        let mut runs = Vec::new();
        let mut names = BTreeSet::new();
        for table in listed {
            let span = table.span();
            for run in read_runs(table, &defaults)? {
                if runs.len() == MAX_RUNS {
                    return Err(Fault::new(span, Wrong::Runs));
                }
                if !names.insert(run.name.clone()) {
                    let name = run.name;
                    return Err(Fault::new(span, Wrong::SameName { name }));
                }
                runs.push(run);
            }
        }
        if runs.is_empty() {
            return Err(Fault::new(span, Wrong::NoRuns));
        }
        Ok(Self {
            title,
            figures,
            runs,
        })
    }
}

/// The runs of one `[[run]]`: one, or as many as its sweeps have combinations.
fn read_runs(run: Item<'_>, defaults: &Table<'_>) -> Result<Vec<Run>, Fault> {
    let span = run.span();
    let mut own = table_of("run", run)?;
    let name: String = match own.remove("name") {
        Some(name) => value_of(name)?,
        None => String::new(),
    };
    if name.trim().is_empty() || name.contains(char::is_control) {
        return Err(Fault::new(span, Wrong::Name));
    }
    let kind = match own.remove("kind") {
        Some(kind) => read_kind(kind)?,
        None => Kind::Slowdown {},
    };
    check_kind(&kind).map_err(|(key, range)| {
        let name = name.clone();
        let value = match &kind {
            Kind::Slowdown {} => String::new(),
            Kind::MaxLoad(value) => format!("{value:?}"),
            Kind::Incast(value) => format!("{value:?}"),
            Kind::Scale(value) => format!("{value:?}"),
        };
        let wrong = Wrong::Kind {
            name,
            key,
            value,
            range,
        };
        Fault::new(span.clone(), wrong)
    })?;
    let mut sweeps = Vec::new();
    if let Some(sweep) = own.remove("sweep") {
        collect_sweeps(&[], table_of("sweep", sweep)?, &mut sweeps)?;
        // As in the file; a table does not keep that order.
        sweeps.sort_by_key(|sweep| sweep.key_span.start);
    }
    let combinations: usize = sweeps.iter().fold(1, |product, sweep| {
        product.saturating_mul(sweep.values.len())
    });
    if combinations > MAX_RUNS {
        return Err(Fault::new(span, Wrong::Runs));
    }
    let mut base = defaults.clone();
    merge(&mut base, own);
    (0..combinations)
        .map(|number| {
            let mut name = name.clone();
            let mut settings = base.clone();
            for (sweep, value) in choose(&sweeps, number) {
                name.push_str(&format!(" {}={}", sweep.label(), text_of(value.get_ref())));
                merge(&mut settings, sweep.table_with(value.clone()));
            }
            let setup: Setup = value_of(Spanned::new(span.clone(), DeValue::Table(settings)))?;
            if let Err(error) = setup.check() {
                return Err(Fault::new(span.clone(), Wrong::Setup { name, error }));
            }
            Ok(Run {
                name,
                kind: kind.clone(),
                setup,
            })
        })
        .collect()
}

/// A setting that takes several values in turn.
struct Sweep<'a> {
    /// `["engine", "max_overcommit"]`.
    path: Vec<DeString<'a>>,
    key_span: Range<usize>,
    values: Vec<Item<'a>>,
}

impl<'a> Sweep<'a> {
    /// What it is called in the names of runs.
    fn label(&self) -> &str {
        self.path.last().map_or("", |key| key)
    }

    /// The settings that have only this one, with that value.
    fn table_with(&self, value: Item<'a>) -> Table<'a> {
        let mut item = value;
        let mut table = Table::new();
        for key in self.path.iter().rev() {
            let span = item.span();
            table = Table::new();
            table.insert(Spanned::new(span.clone(), key.clone()), item);
            item = Spanned::new(span, DeValue::Table(table.clone()));
        }
        table
    }
}

fn collect_sweeps<'a>(
    path: &[DeString<'a>],
    table: Table<'a>,
    sweeps: &mut Vec<Sweep<'a>>,
) -> Result<(), Fault> {
    for (key, item) in table {
        let key_span = key.span();
        let mut path = path.to_vec();
        path.push(key.into_inner());
        match item.into_inner() {
            DeValue::Table(table) => collect_sweeps(&path, table, sweeps)?,
            DeValue::Array(values)
                if !values.is_empty() && values.iter().all(|value| is_plain(value.get_ref())) =>
            {
                sweeps.push(Sweep {
                    path,
                    key_span,
                    values: values.into_iter().collect(),
                });
            }
            _ => {
                let key = path.join(".");
                return Err(Fault::new(key_span, Wrong::Sweep { key }));
            }
        }
    }
    Ok(())
}

/// The values of the combination with this number; the last sweep's changes fastest.
fn choose<'a, 'b>(
    sweeps: &'b [Sweep<'a>],
    number: usize,
) -> impl Iterator<Item = (&'b Sweep<'a>, &'b Item<'a>)> {
    let mut later: usize = sweeps.iter().map(|sweep| sweep.values.len()).product();
    sweeps.iter().map(move |sweep| {
        later /= sweep.values.len();
        (sweep, &sweep.values[number / later % sweep.values.len()])
    })
}

/// Puts the settings of `over` in place of those of `into`, table by table.
fn merge<'a>(into: &mut Table<'a>, over: Table<'a>) {
    for (key, item) in over {
        let span = item.span();
        let item = match (into.remove(key.get_ref().as_ref()), item.into_inner()) {
            (Some(before), DeValue::Table(over)) => match before.into_inner() {
                DeValue::Table(mut inner) => {
                    merge(&mut inner, over);
                    DeValue::Table(inner)
                }
                _ => DeValue::Table(over),
            },
            (_, item) => item,
        };
        into.insert(key, Spanned::new(span, item));
    }
}

/// `kind = "max-load"` stands for `kind.max-load = {}`.
fn read_kind(kind: Item<'_>) -> Result<Kind, Fault> {
    let span = kind.span();
    let table = match kind.into_inner() {
        DeValue::String(name) => {
            let mut table = Table::new();
            let empty = Spanned::new(span.clone(), DeValue::Table(Table::new()));
            table.insert(Spanned::new(span.clone(), name), empty);
            DeValue::Table(table)
        }
        other => other,
    };
    value_of(Spanned::new(span, table))
}

/// `Err`: what is out of which range.
fn check_kind(kind: &Kind) -> Result<(), (&'static str, &'static str)> {
    let (is_within, key, range) = match kind {
        Kind::Slowdown {} => return Ok(()),
        Kind::MaxLoad(MaxLoad { from, to, step }) => (
            *from > 0.0 && from <= to && *to <= 1.0 && (0.001..=1.0).contains(step),
            "kind.max-load",
            "0 < from <= to <= 1, and step from 0.001",
        ),
        Kind::Incast(Incast {
            concurrent,
            servers,
            request_bytes,
            response_bytes,
        }) => (
            !concurrent.is_empty()
                && concurrent.iter().all(|rpcs| (1..=MAX_RPCS).contains(rpcs))
                && *servers > 0
                && [request_bytes, response_bytes]
                    .into_iter()
                    .all(|bytes| (1..=MAX_BYTES).contains(bytes)),
            "kind.incast",
            "1 to 1,000,000 concurrent RPCs, one server or more, and messages of 1 to 32,000,000 \
             bytes",
        ),
        Kind::Scale(Scale { hosts }) => (
            !hosts.is_empty() && hosts.iter().all(|hosts| (2..=1024).contains(hosts)),
            "kind.scale",
            "2 to 1,024 hosts",
        ),
    };
    if is_within { Ok(()) } else { Err((key, range)) }
}

fn value_of<T: DeserializeOwned>(item: Item<'_>) -> Result<T, Fault> {
    let span = item.span();
    T::deserialize(ValueDeserializer::from(item)).map_err(|error| Fault::of_toml(&error, &span))
}

fn table_of<'a>(key: &str, item: Item<'a>) -> Result<Table<'a>, Fault> {
    let span = item.span();
    match item.into_inner() {
        DeValue::Table(table) => Ok(table),
        _ => {
            let message = format!("`{key}` is not a table");
            Err(Fault::new(span, Wrong::Toml { message }))
        }
    }
}

fn is_plain(value: &DeValue<'_>) -> bool {
    matches!(
        value,
        DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_)
    )
}

/// A plain value as it is read aloud.
fn text_of(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(truth) => truth.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
