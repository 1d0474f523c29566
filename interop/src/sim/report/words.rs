//! What is said of a run in sentences, in text and page alike.

use crate::page::format::{count, figure, percent, size, time};
use crate::sim::outcome::{Backlog, Comparison, Decile, IncastOutcome, MaxLoadOutcome, Verdict};
use crate::sim::setup::{Mode, Routing, Setup, Topology, TransportName, Wire, WorkloadName};

/// Where Homa's published values come from.
pub(super) const SOURCE: &str = "Published values of Homa are from the simulations of SIGCOMM'18, \
     section 5.2. Sizes are decimal: 1 KB is 1,000 bytes.";

/// What is special about speed and memory of the simulator.
pub(super) const MACHINE: &str =
    "Each size ran in a process of its own on this machine; another run gives other times";

pub(super) const fn workload(name: WorkloadName) -> &'static str {
    match name {
        WorkloadName::W1 => "W1",
        WorkloadName::W2 => "W2",
        WorkloadName::W3 => "W3",
        WorkloadName::W4 => "W4",
        WorkloadName::W5 => "W5",
    }
}

pub(super) const fn transport(name: TransportName) -> &'static str {
    match name {
        TransportName::Homa => "Homa",
        TransportName::SrptOracle => "SRPT oracle",
        TransportName::Dctcp => "DCTCP",
    }
}

/// What was run: `Homa, W3 at 80 % load, one way, wire as in the paper, seed 1`.
pub(super) fn run(setup: &Setup) -> String {
    described(setup, &format!("at {} load", percent(setup.load)))
}

/// The same of a search for the highest load.
pub(super) fn search(setup: &Setup) -> String {
    described(setup, "at the highest load")
}

fn described(setup: &Setup, load: &str) -> String {
    let mode = match setup.mode {
        Mode::OneWay => "one way",
        Mode::Echo => "echo",
    };
    let wire = match setup.wire {
        Wire::Paper => "wire as in the paper",
        Wire::Real => "wire as it really is",
    };
    let sizes = match &setup.cdf {
        Some(file) => format!("{} from {}", workload(setup.workload), file.display()),
        None => workload(setup.workload).to_owned(),
    };
    format!(
        "{}, {sizes} {load}, {mode}, {wire}, seed {}",
        transport(setup.transport),
        setup.seed
    )
}

/// The network: `144 hosts in 9 racks at 10 Gbit/s, 4 spines at 40 Gbit/s, spraying, ...`.
pub(super) fn network(topology: &Topology) -> String {
    let Topology {
        racks,
        hosts_per_rack,
        spines,
        host_gbps,
        spine_gbps,
        routing,
        buffer_bytes,
        loss,
    } = topology;
    let hosts = u64::from(*racks) * u64::from(*hosts_per_rack);
    let hosts = count(hosts);
    let mut text = if *racks == 1 {
        format!("{hosts} hosts in one rack at {host_gbps} Gbit/s")
    } else {
        let routing = match routing {
            Routing::Spray => "packets sprayed",
            Routing::FlowHash => "flows hashed",
        };
        format!(
            "{hosts} hosts in {racks} racks at {host_gbps} Gbit/s, {spines} spines at \
             {spine_gbps} Gbit/s, {routing}"
        )
    };
    text += &match buffer_bytes {
        Some(bytes) => format!(", {} of buffer a port", size(*bytes as f64)),
        None => ", unbounded buffers".to_owned(),
    };
    if *loss > 0.0 {
        text += &format!(", each port loses {} %", loss * 100.0);
    }
    text
}

/// The settings that are not the defaults: one line, whatever their number.
pub(super) fn differs(differs: &[String]) -> String {
    if differs.is_empty() {
        "All settings are the defaults".to_owned()
    } else {
        format!("Not the defaults: {}", differs.join(", "))
    }
}

/// Where the highest load is.
pub(super) fn max_load(outcome: &MaxLoadOutcome) -> String {
    let carried = outcome
        .carried
        .map(|load| format!("{} load is carried", percent(load)));
    let Some(overload) = outcome.overload() else {
        let carried = carried.unwrap_or_default();
        return format!("{carried}, the highest tried");
    };
    let (load, backlog) = (percent(overload.load), size(overload.backlog_bytes as f64));
    let growth = figure((overload.offered_gbps - overload.arrived_gbps).max(0.0));
    match carried {
        Some(carried) => format!(
            "{carried}; {load} is an overload: the backlog of {backlog} grows by {growth} Gbit/s \
             for each host"
        ),
        None => format!(
            "overload: at {load}, the lowest load tried, the backlog of {backlog} grows by \
             {growth} Gbit/s for each host"
        ),
    }
}

/// What was run: `one client, 15 servers, requests of 100 B, responses of 10 KB, ...`.
pub(super) fn incast(outcome: &IncastOutcome) -> String {
    format!(
        "{}, one client, {} servers, requests of {}, responses of {}, {} after {}, seed {}",
        transport(outcome.setup.transport),
        outcome.servers,
        size(outcome.request_bytes.into()),
        size(outcome.response_bytes.into()),
        time(outcome.window_us),
        time(outcome.warm_up_us),
        outcome.setup.seed,
    )
}

/// How the highest load compares with the published one.
pub(super) fn published_max_load(outcome: &MaxLoadOutcome) -> String {
    let Some((published, holds)) = outcome.published.zip(outcome.holds()) else {
        return "no published value for such a set-up".to_owned();
    };
    let mark = if holds { Mark::Pass } else { Mark::Fail };
    format!("{}: published is {}", mark.text(), percent(published))
}

/// Growth above which it is said that a load may be too high. Chance alone makes a tenth of it in
/// short windows.
const MUCH_GROWTH: f64 = 0.1;

/// What was under way at both ends of the window.
pub(super) fn backlog(backlog: &Backlog) -> String {
    let warning = if backlog.growth > MUCH_GROWTH {
        format!(
            ", {} of what is offered: the network may not carry that, --max-load tells what it does",
            percent(backlog.growth)
        )
    } else {
        String::new()
    };
    format!(
        "{} under way at the start of the window, {} at its end{warning}",
        size(backlog.start_bytes as f64),
        size(backlog.end_bytes as f64)
    )
}

pub(super) fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Finished { at_us } => format!("finished at {} of simulated time", time(*at_us)),
        Verdict::Overload {
            why,
            at_us,
            backlog_bytes,
            backlog_messages,
        } => format!(
            "overload: {why}: at {} of simulated time the backlog was {} in {} messages",
            time(*at_us),
            size(*backlog_bytes as f64),
            count(*backlog_messages)
        ),
    }
}

/// How a comparison ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Pass,
    Fail,
    Skipped,
    None,
}

impl Mark {
    pub(super) fn of(comparison: &Comparison) -> Self {
        match comparison {
            Comparison::None => Self::None,
            Comparison::Skipped { .. } => Self::Skipped,
            Comparison::Done { holds: true, .. } => Self::Pass,
            Comparison::Done { holds: false, .. } => Self::Fail,
        }
    }

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Skipped => "skipped",
            Self::None => "-",
        }
    }
}

/// The comparison with the published curve, with what misses its limit.
pub(super) fn comparison(comparison: &Comparison) -> String {
    let mark = Mark::of(comparison).text();
    let (reference, deciles, last) = match comparison {
        Comparison::None => return "no published curve for such a set-up".to_owned(),
        Comparison::Skipped { reason } => return format!("{mark}: {reason}"),
        Comparison::Done {
            reference,
            deciles,
            last,
            ..
        } => (reference, deciles, last),
    };
    let ratio = |decile: &Decile| format!("{:.3} of at most {:.2}", decile.ratio, decile.limit);
    let worst = deciles
        .iter()
        .max_by(|a, b| (a.ratio / a.limit).total_cmp(&(b.ratio / b.limit)))
        .map_or_else(
            || "none".to_owned(),
            |decile| {
                let at = size(decile.upper_bytes as f64);
                format!("{}, up to {at}", ratio(decile))
            },
        );
    let missed = deciles
        .iter()
        .chain([last])
        // A ratio that is no number is within no limit.
        .filter(|decile| decile.ratio.is_nan() || decile.ratio > decile.limit)
        .count();
    let missed = match missed {
        0 => String::new(),
        missed => format!("; {missed} over their limits"),
    };
    format!(
        "{mark}: P99 by host against {reference}: worst decile {worst}; last bucket {}{missed}",
        ratio(last)
    )
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn a_run_is_named_by_what_it_carried_over_which_network() {
        let mut setup = Setup::default();
        assert_eq!(
            run(&setup),
            "Homa, W3 at 80 % load, one way, wire as in the paper, seed 1"
        );
        assert_eq!(
            network(&setup.topology),
            "144 hosts in 9 racks at 10 Gbit/s, 4 spines at 40 Gbit/s, packets sprayed, \
             unbounded buffers"
        );
        setup.cdf = Some("sizes.txt".into());
        setup.topology.racks = 1;
        setup.topology.buffer_bytes = Some(200_000);
        setup.topology.loss = 0.001;
        assert!(run(&setup).starts_with("Homa, W3 from sizes.txt at 80 % load"));
        assert_eq!(
            network(&setup.topology),
            "16 hosts in one rack at 10 Gbit/s, 200 KB of buffer a port, each port loses 0.1 %"
        );
    }

    #[test]
    fn an_overload_has_that_word_and_the_backlog() {
        let text = verdict(&Verdict::Overload {
            why: "too much".to_owned(),
            at_us: 2e6,
            backlog_bytes: 12_345_678,
            backlog_messages: 1_234,
        });
        assert_eq!(
            text,
            "overload: too much: at 2.000 s of simulated time the backlog was 12.3 MB in 1,234 \
             messages"
        );
    }

    #[test]
    fn a_comparison_says_how_near_its_limits_it_came_and_how_many_it_missed() {
        let mut outcome = sample::outcome("any");
        assert_eq!(
            comparison(&outcome.comparison),
            "PASS: P99 by host against Homa, W3 at 80 %: worst decile 1.020 of at most 1.15, up to 5.1 MB; \
             last bucket 1.020 of at most 1.30"
        );
        let Comparison::Done { deciles, holds, .. } = &mut outcome.comparison else {
            panic!("the sample is compared");
        };
        deciles[4].ratio = 1.5;
        deciles[5].ratio = f64::NAN;
        *holds = false;
        let text = comparison(&outcome.comparison);
        assert!(text.starts_with("FAIL"), "{text}");
        assert!(text.ends_with("; 2 over their limits"), "{text}");
    }

    #[test]
    fn the_highest_load_is_told_with_the_overload_above_it() {
        let mut outcome = sample::max_load("w4");
        let above =
            "93 % is an overload: the backlog of 55.1 GB grows by 0.05 Gbit/s for each host";
        assert_eq!(max_load(&outcome), format!("92 % load is carried; {above}"));
        assert_eq!(published_max_load(&outcome), "PASS: published is 89 %");
        outcome.carried = Some(0.88);
        assert_eq!(published_max_load(&outcome), "FAIL: published is 89 %");
        outcome.probes.pop();
        assert_eq!(
            max_load(&outcome),
            "88 % load is carried, the highest tried"
        );
        let nothing = sample::nothing_carried("w4");
        assert_eq!(
            max_load(&nothing),
            "overload: at 93 %, the lowest load tried, the backlog of 55.1 GB grows by 0.05 \
             Gbit/s for each host"
        );
        assert_eq!(published_max_load(&nothing), "FAIL: published is 89 %");
    }

    #[test]
    fn what_was_not_compared_says_why() {
        let reason = "no such file".to_owned();
        assert_eq!(
            comparison(&Comparison::Skipped { reason }),
            "skipped: no such file"
        );
        assert_eq!(
            comparison(&Comparison::None),
            "no published curve for such a set-up"
        );
    }
}
