//! An outcome as text.

use super::outcome::{Figures, Outcome, Setup};
use crate::bench::cpu::CpuPerCall;
use crate::page::format::{count, figure, percent, size};
use crate::runtime;
use crate::table::Table;

/// All of it.
pub(crate) fn outcome(outcome: &Outcome) -> String {
    let mut text = format!("{}\n", setup(&outcome.setup));
    text += &format!("{}\n\n", achieved(outcome));
    text += &table(outcome).text();
    if let Some(cpu) = &outcome.cpu_per_call {
        text += &format!("\n{}\n", cpu_per_call(cpu));
    }
    text
}

/// What was run.
pub(crate) fn setup(setup: &Setup) -> String {
    let lengths = match setup.workload {
        Some(workload) => format!(
            "{} up to {} B (mean {:.0} B)",
            workload.published().name,
            count(setup.bytes.into()),
            setup.mean_bytes
        ),
        None => format!("{} B", count(setup.bytes.into())),
    };
    let responses = match setup.response_bytes {
        Some(bytes) => format!("responses of {} B", count(bytes.into())),
        None => "responses as long".to_owned(),
    };
    let link = match setup.link_mbps {
        Some(mbps) => format!(", link_mbps={mbps}"),
        None => String::new(),
    };
    let runtime = if setup.stack.blocks() {
        "threads".to_owned()
    } else {
        runtime::describe(setup.workers)
    };
    format!(
        "{}: {lengths}, {responses}, at {} Mbit/s and {} calls/s for {} s after {} s, seed {}, at \
         most {} in flight, {runtime}{link}",
        setup.stack.name(),
        figure(setup.mbps),
        figure(setup.calls_per_s),
        setup.seconds,
        setup.warm_up,
        setup.seed,
        setup.outstanding,
    )
}

/// Whether the load was what it was meant to be.
pub(crate) fn achieved(outcome: &Outcome) -> String {
    format!(
        "{} calls measured; ended {} Mbit/s and {} calls/s; lag {} of the calls ({} held back, {} \
         late)",
        count(outcome.samples as u64),
        figure(outcome.mbps),
        figure(outcome.calls_per_s),
        percent(outcome.lag.share),
        outcome.lag.held,
        outcome.lag.late,
    )
}

/// A row for each tenth, and one for all.
pub(crate) fn table(outcome: &Outcome) -> Table {
    let mut table = Table::new([
        "size up to",
        "samples",
        "alone us",
        "P50 us",
        "P99 us",
        "slowdown P50",
        "P99",
        "sent P50 us",
        "P99 us",
    ]);
    let known = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), figure);
    let mut row = |name: String, samples: usize, alone: Option<f64>, figures: &Figures| {
        table.row([
            name,
            count(samples as u64),
            known(alone),
            figure(figures.p50_us),
            known(figures.p99_us),
            known(figures.slowdown_p50),
            known(figures.slowdown_p99),
            figure(figures.sent_p50_us),
            known(figures.sent_p99_us),
        ]);
    };
    for tenth in &outcome.tenths {
        let name = size(tenth.longest_bytes.into());
        row(name, tenth.samples, tenth.unloaded_us, &tenth.figures);
    }
    row("all".to_owned(), outcome.samples, None, &outcome.all);
    table
}

/// Of both sides.
pub(crate) fn cpu_per_call(cpu: &CpuPerCall) -> String {
    let work = |work: crate::bench::cpu::Work| {
        format!(
            "{} ({} user, {} system)",
            figure(work.us()),
            figure(work.user_us),
            figure(work.system_us)
        )
    };
    let server = cpu.server.map_or_else(|| "unknown".to_owned(), work);
    format!(
        "CPU us per call: client {}, server {server}",
        work(cpu.client)
    )
}

#[cfg(test)]
mod tests {
    use super::super::outcome::sample;
    use super::*;

    #[test]
    fn the_text_tells_the_load_the_lag_and_each_tenth() {
        let text = outcome(&sample::outcome(20_000, false));
        for part in [
            "tonic-homa: W4 up to 999,000 B (mean 50 B), responses of 100 B",
            "at most 64 in flight, tokio's default runtime",
            "20,000 calls measured",
            "lag 0.1 % of the calls (3 held back, 7 late)",
            "\nsize up to",
            "\nall ",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        let rows = text.lines().filter(|line| line.contains("2,000")).count();
        assert!(rows >= 10, "{text}");
    }
}
