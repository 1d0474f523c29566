//! Bytes that wait at switch ports (SIGCOMM'18, table 1).

use super::{Panel, Section, is_published, sizes, told_singly};
use crate::page::format::{percent, size};
use crate::sim::outcome::{Outcome, Queue};
use crate::sim::setup::TransportName;
use crate::table::Table;

/// The load of the published queues.
const PUBLISHED_LOAD: f64 = 0.8;

/// Mean and maximum at the three levels, with the published ones of Homa at 80 % load.
pub(super) fn figure(runs: &[Outcome]) -> Option<Section> {
    let runs = told_singly(runs);
    let mut table = Table::new([
        "run",
        "workload",
        "load",
        "TOR to spine",
        "published",
        "spine to TOR",
        "published",
        "TOR to host",
        "published",
    ]);
    for run in runs.iter().copied() {
        let queues = &run.queues;
        let published = Some(&run.setup.workload.published().queues).filter(|_| {
            run.setup.load == PUBLISHED_LOAD
                && run.setup.transport == TransportName::Homa
                && is_published(run)
        });
        let theirs = |queue: Option<&Queue>| queue.map_or_else(|| "-".to_owned(), mean_and_max);
        table.row([
            run.name.clone(),
            sizes(run),
            percent(run.setup.load),
            mean_and_max(&queues.tor_to_spine),
            theirs(published.map(|queues| &queues.tor_to_spine)),
            mean_and_max(&queues.spine_to_tor),
            theirs(published.map(|queues| &queues.spine_to_tor)),
            mean_and_max(&queues.tor_to_host),
            theirs(published.map(|queues| &queues.tor_to_host)),
        ]);
    }
    (!runs.is_empty()).then(|| Section {
        title: "Queues",
        text: "As SIGCOMM'18, table 1: mean and maximum of the bytes that wait at a port, the \
               packet that is being sent left out. The columns of W4 and W5 are not named there \
               and may be exchanged here."
            .to_owned(),
        panels: vec![Panel {
            caption: "Mean/maximum".to_owned(),
            plot: None,
            table,
        }],
    })
}

/// `12.8 KB/118 KB`.
fn mean_and_max(queue: &Queue) -> String {
    format!(
        "{}/{}",
        size(queue.mean_bytes),
        size(queue.max_bytes as f64)
    )
}

#[cfg(test)]
mod tests {
    use super::super::super::sample;
    use super::*;

    #[test]
    fn published_queues_stand_beside_runs_at_their_load_only() {
        let runs = [sample::outcome("w3"), sample::at_load(0.5, 0)];
        let table = &figure(&runs).expect("there are runs").panels[0].table;
        let row = |at: usize| table.rows[at].join(" | ");
        assert_eq!(
            row(0),
            "w3 | W3 | 80 % | 1.6 KB/49.8 KB | 1.6 KB/50.3 KB | 1.8 KB/55.6 KB | 1.8 KB/57.1 KB | \
             12.6 KB/117 KB | 12.8 KB/118 KB"
        );
        assert_eq!(
            row(1),
            "Homa load=0.5 | W3 | 50 % | 1.6 KB/49.8 KB | - | 1.8 KB/55.6 KB | - | 12.6 KB/117 KB | -"
        );
    }
}
