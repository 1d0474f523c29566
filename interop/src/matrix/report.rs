//! [`Matrix`]: what came of all columns, for people and programs.

use std::fmt::Write as _;

use serde::Serialize;

use super::Plan;
use super::column::Column;
use crate::table::Table;

/// All of it. What is serialized is the file of `--json`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Matrix {
    pub(super) suite: &'static str,
    /// Whether everything that was run passed; `None` if nothing was.
    passed: Option<bool>,
    /// The faults that were made; empty if none were.
    pub(super) faults: String,
    #[serde(skip)]
    pub(super) cases: Vec<&'static str>,
    pub(super) transports: Vec<Column>,
}

impl Matrix {
    pub(super) fn new(plan: &Plan, columns: Vec<Column>) -> Self {
        let mut verdicts = columns.iter().filter_map(Column::passed).peekable();
        let passed = verdicts.peek().is_some().then(|| verdicts.all(|it| it));
        Self {
            suite: plan.suite.name(),
            passed,
            faults: plan.faults.describe(),
            cases: plan.cases.clone(),
            transports: columns,
        }
    }

    pub(super) fn passed(&self) -> Option<bool> {
        self.passed
    }

    /// In a few words.
    pub(super) fn verdict(&self) -> String {
        let skipped = self.transports.iter().filter(|it| it.skipped.is_some());
        let skipped: Vec<_> = skipped.map(Column::name).collect();
        let beside = match skipped[..] {
            [] => String::new(),
            _ => format!(" ({} skipped)", skipped.join(", ")),
        };
        match self.passed {
            Some(true) => format!("passed: everything that was run{beside}"),
            Some(false) => format!("FAILED: see the reasons{beside}"),
            None => "skipped: nothing could be run".to_owned(),
        }
    }

    /// What a cell of the table says.
    pub(super) fn cell(column: &Column, case: &str) -> String {
        match column.case(case) {
            Some(ran) if ran.passed => format!("passed {:.3} s", ran.seconds),
            Some(_) => "FAILED".to_owned(),
            None if column.skipped.is_some() || column.left_out(case).is_some() => {
                "skipped".to_owned()
            }
            None => "not run".to_owned(),
        }
    }

    /// Why cases failed or were skipped: transport, case, reason.
    pub(super) fn reasons(&self) -> Vec<(String, &str, String)> {
        let mut reasons = Vec::new();
        for column in &self.transports {
            let mut add = |case, why| reasons.push((column.name(), case, why));
            if let Some(why) = &column.failed {
                add("processes", why.clone());
            }
            for ran in &column.cases {
                if let Some(why) = &ran.why {
                    add(&ran.name, why.clone());
                }
            }
            if column.skipped.is_none() {
                for case in &column.left_out {
                    add(case.name, format!("skipped: {}", case.why));
                }
            }
        }
        reasons
    }

    /// For a terminal.
    pub(super) fn text(&self) -> String {
        let names: Vec<_> = self.transports.iter().map(Column::name).collect();
        let names = names.iter().map(String::as_str);
        let mut table = Table::new(std::iter::once("case").chain(names));
        for case in &self.cases {
            let cells = self.transports.iter().map(|it| Self::cell(it, case));
            table.row(std::iter::once((*case).to_owned()).chain(cells));
        }
        let mut text = format!("\n{}\n", table.text());
        // Writing to a string cannot fail.
        if !self.faults.is_empty() {
            let _ = writeln!(text, "{}", self.faults);
        }
        for (transport, case, why) in self.reasons() {
            let _ = writeln!(text, "{transport}, {case}: {why}");
        }
        let _ = writeln!(text, "{}", self.verdict());
        text
    }
}

#[cfg(test)]
pub(super) mod sample {
    //! A matrix with all that can happen in one.

    use std::time::Duration;

    use clap::Parser;

    use super::*;
    use crate::case::{Failure, Ran};
    use crate::faults::FaultArguments;
    use crate::grpc::Load;
    use crate::matrix::Suite;
    use crate::matrix::transport::{Lane, Transport};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        faults: FaultArguments,
        #[command(flatten)]
        load: Load,
    }

    pub(in crate::matrix) fn plan() -> Plan {
        let Line { faults, load } = Line::parse_from(["homa-interop", "--loss=5"]);
        Plan {
            suite: Suite::Grpc,
            cases: vec!["empty_unary", "ping_pong"],
            case_limit: Duration::from_secs(1),
            faults,
            load,
            python: "python3".into(),
        }
    }

    pub(in crate::matrix) fn column(transport: Transport, outcomes: &[Option<&str>]) -> Column {
        let cases = plan().cases;
        let ran = cases.iter().zip(outcomes).map(|(case, why)| {
            let outcome = why.map_or(Ok(()), |why| Err(Failure::new(why)));
            Ran::new(case, outcome, Duration::from_millis(4))
        });
        Column {
            lane: Lane {
                transport,
                protocol: None,
            },
            uri: "a URI".to_owned(),
            skipped: None,
            failed: None,
            cases: ran.collect(),
            left_out: Vec::new(),
            peer: None,
            server: None,
        }
    }

    pub(in crate::matrix) fn skipped(transport: Transport) -> Column {
        Column {
            skipped: Some("not <here>".to_owned()),
            ..column(transport, &[])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::sample::{column, plan, skipped};
    use super::*;
    use crate::matrix::column::LeftOut;
    use crate::matrix::transport::Transport;

    fn matrix(columns: Vec<Column>) -> Matrix {
        Matrix::new(&plan(), columns)
    }

    #[test]
    fn what_was_skipped_counts_as_neither_passed_nor_failed() {
        let good = || column(Transport::Tcp, &[None, None]);
        let bad = || column(Transport::Udp, &[None, Some("why")]);
        let broken = Column {
            failed: Some("gone".to_owned()),
            ..good()
        };
        let passed = |columns| matrix(columns).passed();
        assert_eq!(passed(vec![good(), skipped(Transport::Raw)]), Some(true));
        assert_eq!(passed(vec![good(), bad()]), Some(false));
        assert_eq!(passed(vec![broken]), Some(false));
        assert_eq!(passed(vec![skipped(Transport::Raw)]), None);
    }

    #[test]
    fn the_text_has_a_row_for_each_case_and_the_reasons_below() {
        let text = matrix(vec![
            column(Transport::Tcp, &[None, None]),
            column(Transport::Udp, &[None, Some("no answer")]),
            skipped(Transport::Raw),
        ])
        .text();
        let rows: Vec<Vec<_>> = text
            .lines()
            .map(|line| line.split("  ").collect())
            .collect();
        let row = |name: &str| {
            let row = rows.iter().find(|row| row[0] == name).expect(name);
            let cells = row[1..].iter().map(|cell| cell.trim());
            cells.filter(|cell| !cell.is_empty()).collect::<Vec<_>>()
        };
        assert_eq!(row("case"), ["tcp", "udp", "raw"]);
        assert_eq!(
            row("empty_unary"),
            ["passed 0.004 s", "passed 0.004 s", "skipped"]
        );
        assert_eq!(row("ping_pong"), ["passed 0.004 s", "FAILED", "skipped"]);
        assert!(text.contains("\nudp, ping_pong: no answer\n"), "{text}");
        assert!(text.contains("loses 5 %"), "{text}");
        assert!(
            text.ends_with("FAILED: see the reasons (raw skipped)\n"),
            "{text}"
        );
    }

    #[test]
    fn a_case_that_a_library_cannot_run_is_told_as_skipped_beside_those_that_passed() {
        let some = Column {
            left_out: vec![LeftOut {
                name: "ping_pong",
                why: "it has none",
            }],
            ..column(Transport::Udp, &[None])
        };
        assert!(
            some.line().contains("1 of 1 cases passed"),
            "{}",
            some.line()
        );
        assert!(some.line().ends_with("1 skipped"), "{}", some.line());
        assert_eq!(Matrix::cell(&some, "ping_pong"), "skipped");
        let matrix = matrix(vec![some]);
        assert_eq!(matrix.passed(), Some(true));
        let text = matrix.text();
        assert!(
            text.contains("\nudp, ping_pong: skipped: it has none\n"),
            "{text}"
        );
    }

    #[test]
    fn the_json_tells_every_case_of_every_transport() {
        let matrix = matrix(vec![
            column(Transport::Udp, &[None, Some("no answer")]),
            skipped(Transport::Kernel),
        ]);
        let json = serde_json::to_value(&matrix).expect("plain data");
        assert_eq!(json["passed"], false);
        let [udp, kernel] = [0, 1].map(|at| &json["transports"][at]);
        assert_eq!(udp["transport"], "udp");
        assert_eq!(udp["cases"][1]["why"], "no answer");
        assert_eq!(kernel["skipped"], "not <here>");
    }
}
