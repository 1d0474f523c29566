//! Pages that need nothing else: no script, no network; with tables and plots.

pub(crate) mod format;
pub(crate) mod look;
pub(crate) mod plot;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::plot::Plot;
use crate::table::Table;

pub(crate) use self::plot::DrawError;

/// Size of a plot where nothing scales it, in pixels.
const WIDTH: u32 = 560;
const HEIGHT: u32 = 340;

/// What is the same on light and on dark paper.
const STYLE: &str = include_str!("page.css");

/// A figure with its plots, or a table on its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Section {
    pub(crate) title: &'static str,
    /// What is to be seen, and where it is from.
    pub(crate) text: String,
    pub(crate) panels: Vec<Panel>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Panel {
    pub(crate) caption: String,
    pub(crate) plot: Option<Plot>,
    /// The figures of the plot.
    pub(crate) table: Table,
}

/// The whole page, below its title.
pub(crate) fn whole(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style {
                    (PreEscaped(STYLE))
                    "@media (prefers-color-scheme: dark) {\n" (PreEscaped(look::dark_rules())) "}\n"
                }
            }
            body {
                main {
                    h1 { (title) }
                    (body)
                }
            }
        }
    };
    page.into_string()
}

pub(crate) fn section(section: &Section) -> Result<Markup, DrawError> {
    let panels: Vec<Markup> = section.panels.iter().map(panel).collect::<Result<_, _>>()?;
    Ok(html! {
        section {
            h2 { (section.title) }
            p { (section.text) }
            div.panels { @for panel in panels { (panel) } }
        }
    })
}

fn panel(panel: &Panel) -> Result<Markup, DrawError> {
    let Some(plot) = &panel.plot else {
        return Ok(html! {
            figure.wide { figcaption { (panel.caption) } (table(&panel.table)) }
        });
    };
    let svg = plot.svg(WIDTH, HEIGHT)?;
    let (x, y) = (&plot.x.title, &plot.y.title);
    Ok(html! {
        figure {
            figcaption { (panel.caption) }
            div role="img" aria-label={ (panel.caption) ": " (y) " by " (x) "; values below" } {
                (PreEscaped(svg))
            }
            details {
                summary { "Values as a table" }
                (table(&panel.table))
            }
        }
    })
}

pub(crate) fn table(table: &Table) -> Markup {
    html! {
        div.scroll {
            table {
                thead { tr { @for cell in &table.head { th scope="col" { (cell) } } } }
                tbody {
                    @for cells in &table.rows {
                        tr {
                            @for (at, cell) in cells.iter().enumerate() {
                                @if at == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A page, which would be XML but for its document type and the tags that end at once.
#[cfg(test)]
pub(crate) fn as_xml(page: &str) -> String {
    let lines = page.replacen("<!DOCTYPE html>", "", 1);
    let (before, meta) = lines
        .split_once("<meta charset=\"utf-8\">")
        .expect("its letters");
    let (viewport, after) = meta.split_once('>').expect("its width");
    format!("{before}<meta/>{viewport}/>{after}")
}
