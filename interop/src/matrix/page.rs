//! The matrix as one HTML page that needs nothing else: no script, no network.

use maud::{Markup, html};

use super::column::Column;
use super::report::Matrix;
use crate::page;

/// The whole page.
pub(super) fn page(matrix: &Matrix) -> String {
    let title = format!("Cases of {}, by transport", matrix.suite);
    let body = html! {
        p { (verdict(matrix)) }
        @if !matrix.faults.is_empty() { p { (matrix.faults) "." } }
        (table(matrix))
        (reasons(matrix))
        section {
            h2 { "Transports" }
            dl {
                @for column in &matrix.transports {
                    dt { (column.name()) } dd { (about(column)) }
                }
            }
        }
    };
    page::whole(&title, &body)
}

fn verdict(matrix: &Matrix) -> Markup {
    let class = match matrix.passed() {
        Some(true) => "good",
        Some(false) => "bad",
        None => "open",
    };
    html! { span class=(class) { (matrix.verdict()) } }
}

fn table(matrix: &Matrix) -> Markup {
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        th scope="col" { "case" }
                        @for column in &matrix.transports {
                            th scope="col" { (column.name()) }
                        }
                    }
                }
                tbody {
                    @for case in &matrix.cases {
                        tr {
                            th scope="row" { (case) }
                            @for column in &matrix.transports { (cell(column, case)) }
                        }
                    }
                }
            }
        }
    }
}

fn cell(column: &Column, case: &str) -> Markup {
    let class = match column.case(case) {
        Some(ran) if ran.passed => "good",
        Some(_) => "bad",
        None => "open",
    };
    html! { td class=(class) { (Matrix::cell(column, case)) } }
}

fn reasons(matrix: &Matrix) -> Markup {
    let reasons = matrix.reasons();
    if reasons.is_empty() {
        return html! {};
    }
    html! {
        section {
            h2 { "Why cases failed or were skipped" }
            dl {
                @for (transport, case, why) in reasons {
                    dt { (transport) ", " (case) } dd { (why) }
                }
            }
        }
    }
}

fn about(column: &Column) -> Markup {
    html! {
        @if let Some(why) = &column.skipped {
            span.open { "skipped: " (why) }
        } @else {
            (column.uri)
            @if let Some(counts) = &column.server {
                ": handlers ran " (counts.runs) " times; of " (counts.numbered)
                " numbered calls " (counts.ran_again) " ran again"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use roxmltree::Document;

    use super::super::report::sample::{column, plan, skipped};
    use super::super::transport::Transport;
    use super::*;

    #[test]
    fn the_page_is_well_formed_and_has_every_cell_and_reason() {
        let matrix = Matrix::new(
            &plan(),
            vec![
                column(Transport::Tcp, &[None, Some("a < b & c")]),
                skipped(Transport::Raw),
            ],
        );
        let page = page::as_xml(&page(&matrix));
        let document = Document::parse(&page).expect("well-formed");
        let texts = |name: &'static str| {
            let nodes = document.descendants();
            let nodes = nodes.filter(move |node| node.has_tag_name(name));
            nodes.filter_map(|node| node.text()).collect::<Vec<_>>()
        };
        assert_eq!(
            texts("td"),
            ["passed 0.004 s", "skipped", "FAILED", "skipped"]
        );
        assert!(texts("dd").contains(&"a < b & c"), "{page}");
        assert!(texts("span").contains(&"FAILED: see the reasons (raw skipped)"));
        assert!(page.contains("not &lt;here&gt;"));
    }
}
