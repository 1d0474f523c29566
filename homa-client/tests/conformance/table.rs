//! `docs/conformance.md` is complete, and what it names exists.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// One statement's row.
struct Row {
    tests: Vec<String>,
    functions: Vec<String>,
}

fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// The rows `| number | statement | test | carried by | remarks |`.
fn rows() -> BTreeMap<u32, Row> {
    let text = fs::read_to_string(crate_dir().join("../docs/conformance.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, number, statement, test, carried, _, _] = cells[..] else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        assert!(!statement.is_empty(), "statement {number} says nothing");
        let row = Row {
            tests: quoted(test),
            functions: quoted(carried),
        };
        assert!(
            rows.insert(number, row).is_none(),
            "statement {number} has two rows"
        );
    }
    rows
}

/// Names of the functions in a file that begin like this.
fn functions(path: &Path, prefix: &str) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    text.split("fn ")
        .skip(1)
        .map(|rest| {
            rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .unwrap()
        })
        .filter(|name| name.starts_with(prefix))
        .map(str::to_owned)
        .collect()
}

/// The tests of this crate that are named after a statement.
fn tests() -> Vec<String> {
    let dir = crate_dir().join("tests/conformance");
    let files = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|kind| kind == "rs"))
        .flat_map(|path: PathBuf| functions(&path, "e0"))
        .collect()
}

#[test]
fn every_statement_has_a_row_with_its_tests_and_functions() {
    let (rows, tests) = (rows(), tests());
    let missing: Vec<_> = (1..=83)
        .filter(|number| !rows.contains_key(number))
        .collect();
    assert!(missing.is_empty(), "statements without a row: {missing:?}");
    for (number, row) in &rows {
        assert!(!row.tests.is_empty(), "statement {number} has no test");
        assert!(
            !row.functions.is_empty(),
            "nothing carries statement {number}"
        );
        for test in &row.tests {
            assert!(tests.contains(test), "statement {number}: no test {test}");
            assert!(
                test.starts_with(&format!("e{number:03}_")),
                "{test} is of another statement"
            );
        }
        for function in &row.functions {
            check_function(*number, function);
        }
    }
    let listed: Vec<_> = rows.values().flat_map(|row| &row.tests).collect();
    for test in &tests {
        assert!(listed.contains(&test), "{test} is in no row");
    }
}

/// `function` reads `file.rs: Type::name` or `file.rs: name`, the file below `src/engine`.
#[track_caller]
fn check_function(number: u32, function: &str) {
    let Some((file, path)) = function.split_once(": ") else {
        panic!("statement {number}: {function} is no `file.rs: function`");
    };
    let file = crate_dir().join("src/engine").join(file);
    let name = path.rsplit("::").next().unwrap();
    let known = functions(&file, name).iter().any(|found| found == name);
    assert!(known, "statement {number}: {function} does not exist");
    if let Some((owner, _)) = path.split_once("::") {
        let text = fs::read_to_string(&file).unwrap();
        let owned = text
            .lines()
            .any(|line| line.starts_with("impl") && line.contains(owner));
        assert!(owned, "statement {number}: {function}: no such type there");
    }
}
