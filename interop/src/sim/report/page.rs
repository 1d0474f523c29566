//! The report as one HTML page that needs nothing else: no script, no network.

use maud::{Markup, html};

use super::figures;
use super::words::{self, Mark};
use super::{Report, text};
use crate::page::format::percent;
use crate::page::{self, DrawError, table};
use crate::sim::outcome::{IncastOutcome, MaxLoadOutcome, Outcome, ScaleOutcome, Verdict};

/// Runs of which the overview may stand before the figures.
const FEW_RUNS: usize = 20;

/// The whole page.
pub(super) fn page(report: &Report<'_>) -> Result<String, DrawError> {
    let sections = figures::sections(report);
    let sections: Vec<Markup> = sections
        .iter()
        .map(page::section)
        .collect::<Result<_, _>>()?;
    let is_short = report.runs.len() <= FEW_RUNS;
    let body = html! {
        p { (words::SOURCE) }
        @if report.runs.len() > 1 {
            details open=[is_short.then_some("")] {
                summary { (report.runs.len()) " runs" }
                (table(&text::overview(report.runs)))
            }
        }
        // A single run is told before its figures, many after theirs.
        @if let [outcome] = report.runs { section { (run(outcome, true)) } }
        @if !report.max_loads.is_empty() {
            section {
                h2 { "Searches for the highest load" }
                @for outcome in report.max_loads { (max_load(outcome)) }
            }
        }
        @for outcome in report.incasts { section { (incast(outcome)) } }
        @for outcome in report.scales { section { (scale(outcome)) } }
        @for section in sections { (section) }
        @if report.runs.len() > 1 {
            section {
                h2 { "Runs" }
                @for outcome in report.runs { (run(outcome, false)) }
            }
        }
    };
    Ok(page::whole(report.title, &body))
}

/// All that there is to say of one run.
fn run(outcome: &Outcome, is_open: bool) -> Markup {
    html! {
        details.run open=[is_open.then_some("")] {
            summary {
                (outcome.name) " "
                (verdict(&outcome.verdict)) " " (mark(Mark::of(&outcome.comparison)))
            }
            p { (words::run(&outcome.setup)) ": " (words::network(&outcome.setup.topology)) "." }
            p { (words::differs(&outcome.differs)) "." }
            (table(&text::slowdown(outcome)))
            dl {
                @for (name, value) in text::facts(outcome) {
                    dt { (name) } dd { (value) }
                }
            }
        }
    }
}

/// All that there is to say of a search.
fn max_load(outcome: &MaxLoadOutcome) -> Markup {
    html! {
        details.run open {
            summary {
                (outcome.name) ": "
                @match outcome.carried {
                    Some(load) => { span.good { (percent(load)) } },
                    None => { span.bad { "overload" } },
                }
            }
            p { (words::run(&outcome.setup)) ": " (words::network(&outcome.setup.topology)) "." }
            p { (words::differs(&outcome.differs)) "." }
            p { (words::max_load(outcome)) ". " (words::published_max_load(outcome)) "." }
            (table(&text::probes(outcome)))
        }
    }
}

/// All that there is to say of an incast.
fn incast(outcome: &IncastOutcome) -> Markup {
    html! {
        details.run open {
            summary { (outcome.name) }
            p { (words::incast(outcome)) ": " (words::network(&outcome.setup.topology)) "." }
            p { (words::differs(&outcome.differs)) "." }
            (table(&text::incast_points(outcome)))
        }
    }
}

/// All that there is to say of the simulator's own speed and memory.
fn scale(outcome: &ScaleOutcome) -> Markup {
    html! {
        details.run open {
            summary { (outcome.name) }
            p { (words::run(&outcome.setup)) ". " (words::differs(&outcome.differs)) "." }
            p { (words::MACHINE) "." }
            (table(&text::scale_points(outcome)))
        }
    }
}

fn verdict(verdict: &Verdict) -> Markup {
    match verdict {
        Verdict::Finished { .. } => html! { span.good { "finished" } },
        Verdict::Overload { .. } => html! { span.bad { "overload" } },
    }
}

fn mark(mark: Mark) -> Markup {
    match mark {
        Mark::Pass => html! { span.good { (mark.text()) } },
        Mark::Fail => html! { span.bad { (mark.text()) } },
        Mark::Skipped => html! { span.open { "comparison " (mark.text()) } },
        Mark::None => html! {},
    }
}

#[cfg(test)]
mod tests {
    use roxmltree::Document;

    use super::super::sample;
    use super::*;
    use crate::page::as_xml;
    use crate::sim::outcome::Comparison;

    fn page(title: &str, runs: &[Outcome]) -> String {
        let report = Report {
            title,
            runs,
            ..Report::default()
        };
        super::page(&report).expect("drawn in memory")
    }

    #[test]
    fn a_page_is_well_formed_whatever_names_hold() {
        let name = "</title><script>alert(\"1\" & '2')</script>";
        let mut strange = sample::outcome(name);
        strange.setup.cdf = Some("a<b>&c.txt".into());
        strange.comparison = Comparison::Skipped {
            reason: "there is no <file> & nothing else".to_owned(),
        };
        let runs = [strange, sample::at_load(0.5, 0), sample::at_load(0.9, 5)];
        let text = as_xml(&page(name, &runs));
        let page = Document::parse(&text).expect("well-formed");
        let title = page.descendants().find(|node| node.has_tag_name("title"));
        assert_eq!(title.and_then(|title| title.text()), Some(name));
        assert!(!page.descendants().any(|node| node.has_tag_name("script")));
        let images = page
            .descendants()
            .filter(|node| node.attribute("role") == Some("img"));
        let tables = page.descendants().filter(|node| node.has_tag_name("table"));
        let (images, tables) = (images.count(), tables.count());
        assert!(
            images >= 6 && tables > images,
            "{images} plots, {tables} tables"
        );
    }

    #[test]
    fn a_page_needs_no_network() {
        let page = page("title", &[sample::outcome("any")]);
        for link in ["src=", "href=", "url(", "@import", "<script"] {
            assert!(!page.contains(link), "{link}");
        }
        let addresses = page.matches("://").count();
        assert_eq!(
            addresses,
            page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count()
        );
    }

    #[test]
    fn a_page_says_what_was_run_and_how_it_ended() {
        let mut run = sample::at_load(0.9, 12_345_678);
        run.differs.push("topology.racks = 2".to_owned());
        run.setup.seed = 42;
        let page = page("title", &[run]);
        for words in [
            "Homa, W3 at 90 % load, one way, wire as in the paper, seed 42",
            "144 hosts in 9 racks at 10 Gbit/s",
            "Not the defaults: load = 0.9, topology.racks = 2",
            "overload: the measured messages do not finish: at 2.000 s of simulated time the backlog was 12.3 MB in 1,234 messages",
            "PASS: P99 by host against Homa, W3 at 80 %: worst decile 1.020 of at most 1.15",
            "simulations of SIGCOMM'18, section 5.2",
            "<th scope=\"col\">published</th><th scope=\"col\">ratio</th>",
        ] {
            assert!(page.contains(words), "{words} is not in {page}");
        }
    }

    #[test]
    fn the_same_outcomes_give_the_same_page() {
        let runs = [sample::outcome("one"), sample::at_load(0.5, 0)];
        assert_eq!(page("title", &runs), page("title", &runs.clone()));
    }
}
