//! What a soak has shown: the sums of its processes, and whether it has passed.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use indicatif::HumanCount;
use serde::Serialize;

use super::Arguments;
use super::content::{EVERY_LONGEST, LONGEST};
use super::plan::{Counted, Engine, FaultRates, NODES, NodeReport};
use crate::ids::Ids;
use crate::latency;
use crate::report::{p99_us, quantile_us, rounded};
use crate::workload::W3;

/// The result of a soak.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    passed: bool,
    engine: Engine,
    processes: usize,
    in_flight: u32,
    workers: u32,
    busy: u32,
    seed: u64,
    timeout_ms: u64,
    faults: FaultRates,
    /// Calls that were answered with the right bytes.
    rpcs: u64,
    /// Fewer are a failure.
    at_least: u64,
    /// From the first call to the end of the last.
    seconds: f64,
    rpcs_per_second: f64,
    bytes: u64,
    gbps: f64,
    /// Messages with wrong bytes, and calls that were answered although they have not run.
    wrong: u64,
    /// Calls that failed or did not end, and replies that could not be sent.
    lost: u64,
    run_twice: u64,
    /// Packets lost in all: on purpose, and in full socket buffers.
    lost_packets: u64,
    resends_per_lost_packet: Option<f64>,
    retransmitted_per_lost_packet: Option<f64>,
    packets_per_send: Option<f64>,
    latency: Latency,
    /// Of the RPCs of 1,000,000 bytes both ways.
    longest: Latency,
    /// Sums over all endpoints.
    counted: Counted,
    /// The first things that went wrong.
    notes: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
struct Latency {
    samples: u64,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            samples: histogram.len(),
            p50_us: (!histogram.is_empty()).then(|| quantile_us(histogram, 0.5)),
            p99_us: p99_us(histogram),
        }
    }
}

impl Summary {
    /// Sums up what the processes have reported.
    pub(crate) fn of(arguments: &Arguments, reports: &[NodeReport]) -> Self {
        let sum = |figure: fn(&NodeReport) -> u64| reports.iter().map(figure).sum::<u64>();
        let mut latencies = latency::empty_histogram();
        let mut longest = latency::empty_histogram();
        let mut counted = Counted::default();
        let mut notes = Vec::new();
        for (index, report) in reports.iter().enumerate() {
            latency::add_pairs(&mut latencies, &report.latencies);
            latency::add_pairs(&mut longest, &report.longest_latencies);
            counted.add_all(&report.counted);
            notes.extend(
                report
                    .notes
                    .iter()
                    .map(|note| format!("process {index}: {note}")),
            );
        }
        let ledger = compare_ids(reports);
        let rpcs = sum(|report| report.answered.len());
        let bytes = sum(|report| report.bytes);
        let seconds = reports
            .iter()
            .map(|report| report.seconds)
            .fold(0.0, f64::max);
        let lost_packets = counted.lost + counted.socket_buffer_drops;
        let per = |count: u64, of: u64| (of > 0).then(|| rounded(count as f64 / of as f64));
        let wrong = sum(|report| report.wrong) + ledger.answered_without_run + ledger.of_nobody;
        let lost = sum(|report| report.failed + report.unfinished + report.replies_refused);
        let run_twice = sum(|report| report.run_twice) + ledger.run_in_two_places;
        Self {
            passed: wrong == 0
                && lost == 0
                && run_twice == 0
                && counted.left_over.is_empty()
                && rpcs >= arguments.at_least,
            engine: arguments.engine,
            processes: NODES,
            in_flight: arguments.in_flight,
            workers: arguments.workers,
            busy: arguments.busy,
            seed: arguments.seed,
            timeout_ms: arguments.timeout,
            faults: super::fault_rates(arguments),
            rpcs,
            at_least: arguments.at_least,
            seconds: rounded(seconds),
            rpcs_per_second: rounded(rpcs as f64 / seconds),
            bytes,
            gbps: rounded(bytes as f64 * 8.0 / seconds / 1e9),
            wrong,
            lost,
            run_twice,
            lost_packets,
            resends_per_lost_packet: per(counted.resends, lost_packets),
            retransmitted_per_lost_packet: per(counted.retransmitted, lost_packets),
            packets_per_send: per(counted.packets_sent, counted.sends),
            latency: Latency::of(&latencies),
            longest: Latency::of(&longest),
            counted,
            notes,
        }
    }

    pub(crate) fn passed(&self) -> bool {
        self.passed
    }

    /// The lines that are printed.
    pub(crate) fn to_text(&self) -> String {
        let percent = |ppm: u32| f64::from(ppm) / 10_000.0;
        let engine = match self.engine {
            Engine::Udp => "UDP on loopback",
            Engine::Raw => "IP protocol 146 between two network namespaces",
        };
        let ratio = |value: Option<f64>| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
        };
        let faults = &self.faults;
        let counted = &self.counted;
        let left = &counted.left_over;
        let delay = if faults.delay_ppm == 0 {
            String::new()
        } else {
            let (rate, longest) = (percent(faults.delay_ppm), faults.delay_us as f64 / 1e3);
            format!(", {rate} % late by up to {longest} ms")
        };
        let mut text = format!(
            "{} processes, {} RPCs in flight each, {engine}\n\
             sizes of {} up to {} B both ways, every {EVERY_LONGEST}th {} B\n\
             packets: {} % lost, {} % overtaken, {} % doubled{delay}; seed {}\n",
            self.processes,
            self.in_flight,
            W3.name,
            HumanCount(LONGEST as u64),
            HumanCount(LONGEST as u64),
            percent(faults.loss_ppm),
            percent(faults.reorder_ppm),
            percent(faults.duplicate_ppm),
            self.seed,
        );
        let mut row = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {name:30}{value}");
        };
        let count = |count: u64| HumanCount(count).to_string();
        if self.busy > 0 {
            row("busy processes beside it", count(self.busy.into()));
        }
        row("RPCs", count(self.rpcs));
        row(
            "RPCs/s",
            format!(
                "{} in {:.1} s",
                count(self.rpcs_per_second as u64),
                self.seconds
            ),
        );
        row(
            "bytes",
            format!("{}, {:.2} Gbit/s", count(self.bytes), self.gbps),
        );
        row("latency", latency_text(&self.latency));
        row("latency of the longest", latency_text(&self.longest));
        row("wrong", count(self.wrong));
        row("lost", count(self.lost));
        row("run twice", count(self.run_twice));
        row(
            "left over",
            format!(
                "{} RPCs, {} B received, {} B to send, {} queued",
                count(left.rpcs),
                count(left.receive_bytes),
                count(left.send_bytes),
                count(left.queued)
            ),
        );
        row(
            "timeouts",
            format!(
                "{}, after {} ms",
                count(counted.timeouts),
                count(self.timeout_ms)
            ),
        );
        row(
            "packets sent",
            format!(
                "{}, {} per system call",
                count(counted.packets_sent),
                ratio(self.packets_per_send)
            ),
        );
        row(
            "packets lost on purpose",
            format!(
                "{}, and {} overtaken, {} doubled, {} late",
                count(counted.lost),
                count(counted.reordered),
                count(counted.duplicated),
                count(counted.delayed)
            ),
        );
        row(
            "packets lost in full buffers",
            count(counted.socket_buffer_drops),
        );
        row(
            "RESENDs",
            format!(
                "{}, {} per lost packet",
                count(counted.resends),
                ratio(self.resends_per_lost_packet)
            ),
        );
        row(
            "packets sent again",
            format!(
                "{}, {} per lost packet",
                count(counted.retransmitted),
                ratio(self.retransmitted_per_lost_packet)
            ),
        );
        for note in &self.notes {
            let _ = writeln!(text, "  {note}");
        }
        text.push_str(&self.verdict());
        text.push('\n');
        text
    }

    fn verdict(&self) -> String {
        if self.passed {
            return "passed: nothing wrong, lost, run twice or left over".to_owned();
        }
        let mut reasons = Vec::new();
        for (count, what) in [
            (self.wrong, "wrong"),
            (self.lost, "lost"),
            (self.run_twice, "run twice"),
        ] {
            if count > 0 {
                reasons.push(format!("{count} {what}"));
            }
        }
        if !self.counted.left_over.is_empty() {
            reasons.push("something left over".to_owned());
        }
        if self.rpcs < self.at_least {
            reasons.push(format!("{} RPCs of {}", self.rpcs, self.at_least));
        }
        format!("FAILED: {}", reasons.join(", "))
    }
}

fn latency_text(latency: &Latency) -> String {
    let ms = |us: Option<f64>| {
        us.map_or_else(|| "unknown".to_owned(), |us| format!("{:.2} ms", us / 1e3))
    };
    format!(
        "p50 {}, p99 {} of {}",
        ms(latency.p50_us),
        ms(latency.p99_us),
        HumanCount(latency.samples)
    )
}

/// What the servers ran, held against what the clients were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ledger {
    /// Calls that got an answer though no server has run them.
    answered_without_run: u64,
    /// Requests that ran in two processes.
    run_in_two_places: u64,
    /// Requests that ran though nobody has made them.
    of_nobody: u64,
}

fn compare_ids(reports: &[NodeReport]) -> Ledger {
    let mut ledger = Ledger::default();
    for (caller, report) in reports.iter().enumerate() {
        let mut run = Ids::default();
        for server in reports {
            if let Some(here) = server.run.get(caller) {
                ledger.run_in_two_places += run.add_all(here);
            }
        }
        ledger.answered_without_run += report.answered.missing_from(&run);
        ledger.of_nobody += run.count_from(report.started);
    }
    ledger
}

impl Counted {
    fn add_all(&mut self, other: &Self) {
        // All by name: a new one must not be left out.
        let Self {
            left_over,
            timeouts,
            resends,
            retransmitted,
            packets_sent,
            sends,
            packets_received,
            receives,
            send_errors,
            socket_buffer_drops,
            lost,
            duplicated,
            reordered,
            delayed,
            replies_forgotten,
            finished_forgotten,
            capture_missed,
        } = other;
        self.left_over.add(left_over);
        self.timeouts += timeouts;
        self.resends += resends;
        self.retransmitted += retransmitted;
        self.packets_sent += packets_sent;
        self.sends += sends;
        self.packets_received += packets_received;
        self.receives += receives;
        self.send_errors += send_errors;
        self.socket_buffer_drops += socket_buffer_drops;
        self.lost += lost;
        self.duplicated += duplicated;
        self.reordered += reordered;
        self.delayed += delayed;
        self.replies_forgotten += replies_forgotten;
        self.finished_forgotten += finished_forgotten;
        self.capture_missed += capture_missed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What four processes report of `calls` calls each: process 0 runs those of the others, and
    /// process 1 those of process 0.
    fn reports(calls: u64) -> Vec<NodeReport> {
        let numbers: Ids = (0..calls).collect();
        (0..NODES)
            .map(|index| NodeReport {
                started: calls,
                answered: numbers.clone(),
                run: (0..NODES)
                    .map(|caller| match (index, caller) {
                        (0, 1..) | (1, 0) => numbers.clone(),
                        _ => Ids::default(),
                    })
                    .collect(),
                seconds: 2.0,
                bytes: 1_000,
                latencies: vec![(1_000_000, calls)],
                ..NodeReport::default()
            })
            .collect()
    }

    fn summary(reports: &[NodeReport], at_least: u64) -> Summary {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            arguments: Arguments,
        }
        let at_least = at_least.to_string();
        let line = Line::parse_from(["soak", "--loss", "5", "--at-least", &at_least]);
        Summary::of(&line.arguments, reports)
    }

    #[test]
    fn a_clean_run_passes_and_tells_its_figures() {
        let mut reports = reports(1_000);
        reports[2].counted.lost = 10;
        reports[3].counted.socket_buffer_drops = 10;
        reports[3].counted.resends = 30;
        let summary = summary(&reports, 4_000);
        assert!(summary.passed());
        let text = summary.to_text();
        for part in ["4,000", "5 % lost", "1.50 per lost packet", "passed:"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = serde_json::to_value(&summary).expect("plain data");
        assert_eq!(json["rpcs"], 4_000);
        assert_eq!(json["rpcs_per_second"], 2_000.0);
        assert_eq!(json["counted"]["left_over"]["rpcs"], 0);
        assert_eq!(
            json["latency"]["p50_us"].as_f64().map(f64::round),
            Some(1_000.0)
        );
    }

    #[test]
    fn whatever_is_not_zero_fails_it_and_is_named() {
        type Change = fn(&mut Vec<NodeReport>);
        let changes: [(&str, Change); 9] = [
            ("1 wrong", |reports| reports[0].wrong = 1),
            ("1 wrong", |reports| reports[1].run[0] = (1..100).collect()),
            ("1 wrong", |reports| reports[1].run[0] = (0..101).collect()),
            ("1 lost", |reports| reports[3].failed = 1),
            ("1 lost", |reports| reports[3].unfinished = 1),
            ("1 lost", |reports| reports[3].replies_refused = 1),
            ("1 run twice", |reports| reports[2].run_twice = 1),
            ("1 run twice", |reports| {
                reports[2].run[0] = [7].into_iter().collect()
            }),
            ("left over", |reports| {
                reports[1].counted.left_over.receive_bytes = 1;
            }),
        ];
        assert!(summary(&reports(100), 1).passed());
        for (expected, change) in changes {
            let mut reports = reports(100);
            change(&mut reports);
            let summary = summary(&reports, 1);
            let text = summary.to_text();
            assert!(!summary.passed(), "{expected}");
            assert!(
                text.contains("FAILED: ") && text.contains(expected),
                "{text}"
            );
        }
        let few = summary(&reports(100), 401);
        assert!(!few.passed() && few.to_text().contains("400 RPCs of 401"));
    }
}
