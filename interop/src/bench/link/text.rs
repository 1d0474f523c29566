//! The results in words and tables.

use super::judge::name;
use super::rows::{Incast, IncastRow, LinkFacts, LoadRow, RoundFacts};
use crate::page::format::{percent, size};
use crate::report::{MIN_SAMPLES_FOR_P99, median};
use crate::table::Table;

impl LinkFacts {
    /// What has to be told with every result.
    pub(super) fn text(&self) -> String {
        format!(
            "Emulated link: {} clients and 1 server, {} Mbit/s from the switch to each, {} queues \
             of {} by the TOS byte, MTU {}. Requests are cut to {}, responses have {}; seed {}. \
             Homa: link_mbps={}, all else at its default. TCP: {}, TCP_NODELAY, not marked and so \
             in the queue of priority {}.",
            self.clients,
            self.mbps,
            self.priorities,
            size(self.queue_bytes.into()),
            self.mtu,
            size(self.max_bytes.into()),
            size(self.response_bytes.into()),
            self.seed,
            self.homa_link_mbps,
            self.tcp_congestion_control,
            self.tcp_priority,
        )
    }
}

impl LoadRow {
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{}\n{}{}",
            self.facts_text(),
            deciles(self).text(),
            self.facts_table().text()
        );
        if self.deciles.iter().any(|decile| decile.ratio_p99.is_none()) {
            text += &format!("no p99 of fewer than {MIN_SAMPLES_FOR_P99} calls\n");
        }
        text
    }

    pub(super) fn facts_text(&self) -> String {
        format!(
            "{} of the server's downlink, headers included: {:.1} calls/s, {:.1} Mbit/s of \
             requests, {} rounds of {} s for each stack",
            name(self),
            self.calls_per_s,
            self.payload_mbps,
            self.tcp.len(),
            self.seconds,
        )
    }

    /// Of both stacks: medians of the rounds, and sums of what is counted.
    pub(super) fn facts_table(&self) -> Table {
        let mut table = Table::new([
            "",
            "link used",
            "processors busy",
            "CPU us/call",
            "sent late",
            "refused",
            "dropped",
            "longest queue seen",
            "TCP sent again",
            "TCP timeouts",
        ]);
        for (stack, rounds) in [("TCP", &self.tcp), ("Homa", &self.homa)] {
            let middle = |figure: fn(&RoundFacts) -> f64| {
                median(rounds.iter().map(figure).collect::<Vec<f64>>())
            };
            let queues = || rounds.iter().flat_map(|round| &round.queues);
            let cpu: Option<Vec<f64>> = rounds.iter().map(|it| it.cpu?.both_us()).collect();
            table.row([
                stack.to_owned(),
                percent(middle(|round| round.used)),
                percent(middle(|round| round.busy)),
                cpu.map_or_else(unknown, |us| format!("{:.0}", median(us))),
                percent(middle(|round| round.lag)),
                sum(rounds, |round| Some(round.refused.into())),
                queues().map(|queue| queue.drops).sum::<u64>().to_string(),
                size(queues().map(|it| it.backlog_bytes).max().unwrap_or(0) as f64),
                sum(rounds, |round| Some(round.tcp?.retransmitted)),
                sum(rounds, |round| Some(round.tcp?.timeouts)),
            ]);
        }
        table
    }
}

/// What tenths of the calls saw.
pub(super) fn deciles(row: &LoadRow) -> Table {
    let mut table = Table::new([
        "calls up to",
        "samples",
        "p50 us TCP",
        "Homa",
        "ratio",
        "p99 us TCP",
        "Homa",
        "ratio",
    ]);
    for decile in &row.deciles {
        table.row([
            size(decile.up_to_bytes.into()),
            decile.tcp.samples.min(decile.homa.samples).to_string(),
            us(Some(decile.tcp.p50_us)),
            us(Some(decile.homa.p50_us)),
            ratio(Some(decile.ratio_p50)),
            us(decile.tcp.p99_us),
            us(decile.homa.p99_us),
            ratio(decile.ratio_p99),
        ]);
    }
    table
}

impl IncastRow {
    pub(super) fn text(&self) -> String {
        format!("{}\n{}", self.caption(), self.table().text())
    }

    pub(super) fn caption(&self) -> String {
        format!(
            "{}, {} rounds for each stack; the link needs {:.0} ms for what requests carry",
            self.name(),
            self.tcp.rounds.len(),
            self.least_ms,
        )
    }

    pub(super) fn name(&self) -> String {
        let bytes = size(self.bytes as f64);
        format!(
            "incast of {} hosts x {} calls of {bytes}",
            self.clients, self.calls
        )
    }

    pub(super) fn table(&self) -> Table {
        let mut table = Table::new([
            "",
            "completed ms",
            "shortest",
            "longest",
            "processors busy",
            "refused",
            "failed",
            "dropped",
            "sent again",
            "timeouts",
            "RESENDs",
        ]);
        for (name, side) in [("TCP", &self.tcp), ("Homa", &self.homa)] {
            let rounds = &side.rounds;
            let times = || rounds.iter().map(|round| round.completion_ms);
            let drops = |round: &Incast| Some(round.queues.iter().map(|queue| queue.drops).sum());
            table.row([
                name.to_owned(),
                format!("{:.0}", side.completion_ms),
                format!("{:.0}", times().fold(f64::INFINITY, f64::min)),
                format!("{:.0}", times().fold(0.0, f64::max)),
                percent(median(rounds.iter().map(|round| round.busy).collect())),
                sum(rounds, |round| Some(round.refused.into())),
                sum(rounds, |round| Some(round.failed)),
                sum(rounds, drops),
                sum(rounds, |round| match (round.homa, round.tcp) {
                    (Some(homa), _) => Some(homa.retransmitted),
                    (None, tcp) => Some(tcp?.retransmitted),
                }),
                sum(rounds, |round| match (round.homa, round.tcp) {
                    (Some(homa), _) => Some(homa.timeouts),
                    (None, tcp) => Some(tcp?.timeouts),
                }),
                sum(rounds, |round| Some(round.homa?.resends)),
            ]);
        }
        table
    }
}

/// Of all rounds, if all of them know it.
fn sum<T>(rounds: &[T], figure: impl Fn(&T) -> Option<u64>) -> String {
    let sum: Option<u64> = rounds.iter().map(figure).sum();
    sum.map_or_else(unknown, |sum| sum.to_string())
}

fn unknown() -> String {
    "-".to_owned()
}

fn us(us: Option<f64>) -> String {
    us.map_or_else(unknown, |us| format!("{us:.0}"))
}

fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(unknown, |ratio| format!("{ratio:.3}"))
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::sample;

    #[test]
    fn what_the_link_was_like_is_told() {
        let text = sample().link.text();
        for fact in [
            "3 clients",
            "200 Mbit/s",
            "8 queues of 250 KB",
            "MTU 1500",
            "cut to 999 KB",
            "responses have 100 B",
            "link_mbps=200",
            "TCP: cubic",
            "queue of priority 0",
            "seed 1",
        ] {
            assert!(text.contains(fact), "{fact}: {text}");
        }
    }

    #[test]
    fn a_row_tells_figures_of_both_stacks_and_what_is_unknown() {
        let mut outcome = sample();
        let text = outcome.loads[0].text();
        let shortest = text.lines().find(|line| line.starts_with("300 B"));
        let cells: Vec<_> = shortest.expect("a line").split_whitespace().collect();
        assert_eq!(
            cells,
            [
                "300", "B", "1200", "1000", "500", "0.500", "4000", "400", "0.100"
            ]
        );
        assert!(!text.contains("no p99"), "{text}");
        let facts = text.lines().find(|line| line.starts_with("Homa "));
        let cells: Vec<_> = facts.expect("a line").split_whitespace().collect();
        assert_eq!(
            cells,
            [
                "Homa", "80", "%", "50", "%", "60", "0.1", "%", "2", "2", "9", "KB", "0", "0"
            ]
        );
        outcome.loads[0].deciles[3].ratio_p99 = None;
        outcome.loads[0].homa[0].cpu = None;
        let text = outcome.loads[0].text();
        assert!(
            text.ends_with("no p99 of fewer than 1000 calls\n"),
            "{text}"
        );
        let facts = text.lines().find(|line| line.starts_with("Homa "));
        assert!(facts.expect("a line").contains("- "), "{text}");
    }

    #[test]
    fn an_incast_tells_what_went_wrong() {
        let row = sample().incast.expect("there is one");
        let text = row.text();
        assert!(
            text.starts_with("incast of 3 hosts x 64 calls of 100 KB, 2 rounds"),
            "{text}"
        );
        let homa = text.lines().find(|line| line.starts_with("Homa"));
        let cells: Vec<_> = homa.expect("a line").split_whitespace().collect();
        assert_eq!(
            cells,
            [
                "Homa", "900", "800", "1000", "60", "%", "0", "0", "4", "6", "0", "2"
            ]
        );
    }
}
