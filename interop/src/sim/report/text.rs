//! The report as text: what a run has found, or many runs line by line.

use std::fmt::Write as _;

use super::Report;
use super::rows::{self, Row};
use super::words::{self, Mark};
use crate::page::Section;
use crate::page::format::{count, figure, percent, size, time};
use crate::sim::outcome::{IncastOutcome, MaxLoadOutcome, Outcome, Queue, ScaleOutcome, Verdict};
use crate::table::Table;

/// Everything that one run has found.
pub(super) fn run(outcome: &Outcome) -> String {
    let mut text = format!(
        "{}: {}\n{}\n{}\n\nSlowdown by tenths of the messages: means of their buckets, weighted \
         by messages\n{}\n",
        outcome.name,
        words::run(&outcome.setup),
        words::network(&outcome.setup.topology),
        words::differs(&outcome.differs),
        slowdown(outcome).text(),
    );
    for (name, value) in facts(outcome) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<12}{value}");
    }
    text
}

/// Everything that a search for the highest load has found.
pub(super) fn max_load(outcome: &MaxLoadOutcome) -> String {
    format!(
        "{}: {}\n{}\n{}\n\nWhat arrives in {} at hosts that have a backlog\n{}\n\
         Maximum     {}\nPublished   {}\n",
        outcome.name,
        words::search(&outcome.setup),
        words::network(&outcome.setup.topology),
        words::differs(&outcome.differs),
        time(outcome.window_us),
        probes(outcome).text(),
        words::max_load(outcome),
        words::published_max_load(outcome),
    )
}

/// What a search has tried.
pub(super) fn probes(outcome: &MaxLoadOutcome) -> Table {
    let mut table = Table::new([
        "load",
        "offered Gbit/s",
        "arrived Gbit/s",
        "standard error",
        "downlinks busy",
        "wasted",
        "backlog",
        "verdict",
    ]);
    for probe in &outcome.probes {
        let verdict = if probe.is_carried {
            "carried"
        } else {
            "overload"
        };
        table.row([
            percent(probe.load),
            format!("{:.3}", probe.offered_gbps),
            format!("{:.3}", probe.arrived_gbps),
            format!("{:.3}", probe.error_gbps),
            percent(probe.downlink_gbps / outcome.setup.topology.host_gbps),
            percent(probe.wasted),
            size(probe.backlog_bytes as f64),
            verdict.to_owned(),
        ]);
    }
    table
}

/// Everything that an incast has found.
pub(super) fn incast(outcome: &IncastOutcome) -> String {
    format!(
        "{}: {}\n{}\n{}\n\n{}",
        outcome.name,
        words::incast(outcome),
        words::network(&outcome.setup.topology),
        words::differs(&outcome.differs),
        incast_points(outcome).text(),
    )
}

/// An incast by the number of RPCs at a time.
pub(super) fn incast_points(outcome: &IncastOutcome) -> Table {
    let mut table = Table::new([
        "RPCs at a time",
        "goodput Gbit/s",
        "in warm-up",
        "finished",
        "P50 us",
        "P99 us",
        "failed",
        "dropped",
        "in warm-up",
        "sent again",
        "in warm-up",
        "longest queue",
    ]);
    for point in &outcome.points {
        table.row([
            count(point.concurrent.into()),
            figure(point.goodput_gbps),
            figure(point.goodput_before_gbps),
            count(point.finished),
            figure(point.p50_us),
            figure(point.p99_us),
            count(point.failed),
            count(point.dropped),
            count(point.dropped_before),
            count(point.resends),
            count(point.resends_before),
            size(point.max_queue_bytes as f64),
        ]);
    }
    table
}

/// Everything about the simulator's own speed and memory.
pub(super) fn scale(outcome: &ScaleOutcome) -> String {
    format!(
        "{}: {}\n{}\n{}\n\n{}",
        outcome.name,
        words::run(&outcome.setup),
        words::differs(&outcome.differs),
        words::MACHINE,
        scale_points(outcome).text(),
    )
}

/// Speed and memory by the size of the network.
pub(super) fn scale_points(outcome: &ScaleOutcome) -> Table {
    let mut table = Table::new([
        "hosts",
        "simulated",
        "set up in s",
        "run in s",
        "million events",
        "million events/s",
        "million packet-hops",
        "million packet-hops/s",
        "peak memory",
        "of it a host",
    ]);
    for point in &outcome.points {
        let millions = |number: f64| figure(number / 1e6);
        table.row([
            count(point.hosts.into()),
            time(point.simulated_us),
            figure(point.set_up_s),
            figure(point.run_s),
            millions(point.events as f64),
            millions(point.events_per_s()),
            millions(point.hops as f64),
            millions(point.hops_per_s()),
            size(point.peak_bytes as f64),
            size(point.peak_bytes as f64 / f64::from(point.hosts)),
        ]);
    }
    table
}

/// All experiments: a line each, and what they show together.
pub(super) fn many(report: &Report<'_>, sections: &[Section]) -> String {
    let Report {
        title,
        runs,
        max_loads,
        incasts,
        scales,
        ..
    } = *report;
    let mut text = format!("{title}\n");
    if !runs.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{}", overview(runs).text());
    }
    for Section {
        title,
        text: about,
        panels,
    } in sections
    {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{title}\n{about}\n");
        for panel in panels {
            let _ = write!(text, "\n{}\n{}", panel.caption, panel.table.text());
        }
    }
    for outcome in max_loads {
        let found = words::max_load(outcome);
        let _ = write!(
            text,
            "\n{}: {found}\n{}",
            outcome.name,
            probes(outcome).text()
        );
    }
    for outcome in incasts {
        let _ = write!(text, "\n{}\n", incast(outcome).trim_end());
    }
    for outcome in scales {
        let _ = write!(text, "\n{}\n", scale(outcome).trim_end());
    }
    if runs.is_empty() && max_loads.is_empty() {
        return text;
    }
    text += "\nPublished\n";
    for run in runs {
        let _ = writeln!(text, "{}: {}", run.name, words::comparison(&run.comparison));
    }
    for outcome in max_loads {
        let published = words::published_max_load(outcome);
        let _ = writeln!(text, "{}: {published}", outcome.name);
    }
    text
}

/// All runs in one table.
pub(super) fn overview(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new([
        "run",
        "load",
        "mean slowdown",
        "P99 first tenth",
        "P99 last bucket",
        "Gbit/s",
        "TOR-to-host mean/max",
        "wasted",
        "verdict",
        "published",
    ]);
    for outcome in outcomes {
        let p99 = |row: Option<&Row>| {
            let figures = row.and_then(|row| Some((row, row.figures?)));
            figures.map_or_else(
                || "-".to_owned(),
                |(row, figures)| at_least(row, 990, figures.p99),
            )
        };
        let verdict = match outcome.verdict {
            Verdict::Finished { .. } => "finished".to_owned(),
            Verdict::Overload { backlog_bytes, .. } => {
                format!("overload, {} behind", size(backlog_bytes as f64))
            }
        };
        let all = rows::all(outcome).figures;
        table.row([
            outcome.name.clone(),
            percent(outcome.setup.load),
            all.map_or_else(|| "-".to_owned(), |figures| figure(figures.mean)),
            p99(rows::deciles(outcome).first()),
            p99(rows::last_bucket(outcome).as_ref()),
            figure(outcome.throughput.delivered_gbps),
            queue(&outcome.queues.tor_to_host),
            percent(outcome.wasted),
            verdict,
            Mark::of(&outcome.comparison).text().to_owned(),
        ]);
    }
    table
}

/// A percentile; `>2.5` where so many messages have not finished that it may be any more.
fn at_least(row: &Row, part: u64, value: f64) -> String {
    let sign = if row.is_open(part) { ">" } else { "" };
    format!("{sign}{}", figure(value))
}

/// The slowdown of one run, by tenths of the messages.
pub(super) fn slowdown(outcome: &Outcome) -> Table {
    let compared = matches!(Mark::of(&outcome.comparison), Mark::Pass | Mark::Fail);
    let mut head = vec!["size up to", "messages", "mean", "P50", "P99", "P99.9"];
    if compared {
        head.extend(["P99 by host", "published", "ratio", "limit", "within"]);
        head.push("P99 by published");
    }
    let mut table = Table::new(head);
    let mut add = |label: String, row: &Row| {
        let mut cells = vec![label, count(row.count)];
        cells.extend(match &row.figures {
            Some(figures) => [
                // A mean suffers as soon as a tail does.
                (figures.mean, 990),
                (figures.p50, 500),
                (figures.p99, 990),
                (figures.p999, 999),
            ]
            .map(|(value, part)| at_least(row, part, value)),
            None => ["-"; 4].map(str::to_owned),
        });
        if let Some(published) = &row.published {
            cells.extend([published.by_host, published.p99].map(figure));
            cells.push(format!("{:.3}", published.ratio));
            cells.push(format!("{:.2}", published.limit));
            let is_within = published.ratio <= published.limit;
            cells.push(if is_within { "yes" } else { "no" }.to_owned());
            cells.push(format!("{:.3}", published.ratio_together));
        }
        table.row(cells);
    };
    for row in rows::deciles(outcome) {
        add(size(row.upper_bytes as f64), &row);
    }
    if let Some(row) = rows::last_bucket(outcome) {
        add("last bucket".to_owned(), &row);
    }
    table
}

/// What there is to say beside the slowdown, by name.
pub(super) fn facts(outcome: &Outcome) -> [(&'static str, String); 9] {
    let (throughput, queues, counts) = (&outcome.throughput, &outcome.queues, &outcome.counts);
    let measured = |text: String| match throughput.is_measured {
        true => text,
        false => "not measured: the run ended before its window".to_owned(),
    };
    let carried = format!(
        "{} Gbit/s of payload a host offered, {} delivered; downlinks busy with {} of {}",
        figure(throughput.offered_gbps),
        figure(throughput.delivered_gbps),
        figure(throughput.downlink_gbps),
        outcome.setup.topology.host_gbps,
    );
    let waiting = format!(
        "mean/max TOR to spine {}, spine to TOR {}, TOR to host {}",
        queue(&queues.tor_to_spine),
        queue(&queues.spine_to_tor),
        queue(&queues.tor_to_host),
    );
    let wasted = format!(
        "{} of the downlinks' time they idle while grants are withheld",
        percent(outcome.wasted)
    );
    let messages = format!(
        "{}, of which {} measured, {} of these unfinished",
        count(counts.messages),
        count(counts.measured),
        count(counts.unfinished)
    );
    let packets = format!(
        "{} over {} hops, {} dropped, {} sent again; {} events",
        count(counts.packets),
        count(counts.hops),
        count(counts.dropped),
        count(counts.resends),
        count(counts.events)
    );
    [
        ("Throughput", measured(carried)),
        ("Backlog", measured(words::backlog(&outcome.backlog))),
        ("Queues", measured(waiting)),
        ("Wasted", measured(wasted)),
        (
            "Priorities",
            measured(priorities(&outcome.bytes_by_priority)),
        ),
        ("Messages", messages),
        ("Packets", packets),
        ("Verdict", words::verdict(&outcome.verdict)),
        ("Published", words::comparison(&outcome.comparison)),
    ]
}

/// Mean and maximum: `12.8 KB/118 KB`.
fn queue(queue: &Queue) -> String {
    format!(
        "{}/{}",
        size(queue.mean_bytes),
        size(queue.max_bytes as f64)
    )
}

fn priorities(bytes: &[u64; 8]) -> String {
    let total: u64 = bytes.iter().sum();
    let share = |bytes: &u64| percent(*bytes as f64 / total.max(1) as f64);
    let levels = bytes.iter().enumerate();
    let shares: Vec<_> = levels
        .map(|(level, bytes)| format!("P{level} {}", share(bytes)))
        .collect();
    format!("{} of bytes sent", shares.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use crate::sim::outcome::Comparison;

    #[test]
    fn one_run_tells_all_that_it_has_found() {
        let expected = "\
w3: Homa, W3 at 80 % load, one way, wire as in the paper, seed 1
144 hosts in 9 racks at 10 Gbit/s, 4 spines at 40 Gbit/s, packets sprayed, unbounded buffers
All settings are the defaults

Slowdown by tenths of the messages: means of their buckets, weighted by messages
size up to   messages  mean   P50   P99  P99.9  P99 by host  published  ratio  limit  within  P99 by published
36 B           10,010  1.52  1.52  2.32   2.86         2.25       2.21  1.020   1.15     yes             1.050
77 B           10,050  1.51  1.51  2.28   2.81         2.21       2.17  1.020   1.15     yes             1.050
110 B          10,090  1.49  1.49  2.25   2.77         2.18       2.14  1.020   1.15     yes             1.050
158 B          10,130  1.48  1.48  2.21   2.72         2.14       2.10  1.020   1.15     yes             1.050
268 B          10,170  1.44  1.44  2.12   2.61         2.06       2.02  1.020   1.15     yes             1.050
313 B          10,210  1.43  1.43  2.09   2.57         2.03       1.99  1.020   1.15     yes             1.050
402 B          10,250  1.41  1.41  2.04   2.51         1.98       1.94  1.020   1.15     yes             1.050
573 B          10,290  1.40  1.40  2.10   2.59         2.04       2.00  1.020   1.15     yes             1.050
1.8 KB         10,330  1.25  1.25  1.76   2.17         1.71       1.68  1.020   1.15     yes             1.050
5.1 MB         10,370  6.31  6.31  16.4   20.2         15.9       15.6  1.020   1.15     yes             1.050
last bucket     5,190  6.32  6.32  15.9   20.3         15.9       15.6  1.020   1.30     yes             1.050

Throughput  7.10 Gbit/s of payload a host offered, 7.09 delivered; downlinks busy with 8.00 of 10
Backlog     12 MB under way at the start of the window, 15 MB at its end
Queues      mean/max TOR to spine 1.6 KB/49.8 KB, spine to TOR 1.8 KB/55.6 KB, TOR to host 12.6 KB/117 KB
Wasted      3.1 % of the downlinks' time they idle while grants are withheld
Priorities  P0 30 %, P1 12 %, P2 9 %, P3 6 %, P4 11 %, P5 11 %, P6 11 %, P7 10 % of bytes sent
Messages    203,800, of which 101,900 measured, 3 of these unfinished
Packets     1,234,567 over 4,567,890 hops, 0 dropped, 0 sent again; 9,876,543 events
Verdict     finished at 412.346 ms of simulated time
Published   PASS: P99 by host against Homa, W3 at 80 %: worst decile 1.020 of at most 1.15, up to 5.1 MB; last bucket 1.020 of at most 1.30
";
        let text = run(&sample::outcome("w3"));
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn what_was_not_compared_has_no_columns_for_it_and_settings_are_named() {
        let mut outcome = sample::outcome("w3");
        outcome.differs = vec!["load = 0.5".to_owned(), "topology.racks = 2".to_owned()];
        outcome.comparison = Comparison::Skipped {
            reason: "sizes.txt is not there".to_owned(),
        };
        let text = run(&outcome);
        assert!(text.contains("\nNot the defaults: load = 0.5, topology.racks = 2\n"));
        assert!(text.contains(" P99  P99.9\n56 B"), "{text}");
        assert!(text.ends_with("Published   skipped: sizes.txt is not there\n"));
    }

    #[test]
    fn many_runs_have_a_line_each() {
        let mut overloaded = sample::outcome("w3 at 95 %");
        overloaded.setup.load = 0.95;
        overloaded.verdict = Verdict::Overload {
            why: "too much".to_owned(),
            at_us: 2e6,
            backlog_bytes: 12_345_678,
            backlog_messages: 1_234,
        };
        overloaded.comparison = Comparison::None;
        overloaded.slowdown.clear();
        let expected = "\
run         load  mean slowdown  P99 first tenth  P99 last bucket  Gbit/s  TOR-to-host mean/max  wasted                   verdict  published
w3          80 %           1.93             2.32             15.9    7.09        12.6 KB/117 KB   3.1 %                  finished       PASS
w3 at 95 %  95 %              -                -                -    7.09        12.6 KB/117 KB   3.1 %  overload, 12.3 MB behind          -
";
        let text = overview(&[sample::outcome("w3"), overloaded]).text();
        assert_eq!(text, expected, "\n{text}");
    }
}
