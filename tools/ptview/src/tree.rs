//! The tree of tables as a picture of its own.

use svg::Document;
use svg::node::element::{Rectangle, Style, Text, Title};

use crate::palette::file_css;
use crate::snapshot::Table;
use crate::view::View;

/// Most rows of the picture.
const MOST_ROWS: usize = 400;
const ROW: usize = 22;
const WIDTH: usize = 860;
/// Width of the bar that shows how full a table is.
const BAR: usize = 120;

/// The tables, each with its frame, its addresses and how many of its entries are used; none if they
/// are not known.
#[must_use]
pub fn document(view: &View) -> Option<Document> {
    let tables = view.snapshot.as_ref()?.tables.list();
    let shown = tables.len().min(MOST_ROWS);
    let left_out = tables.len() - shown;
    let height = 48 + ROW * (shown + usize::from(left_out > 0)) + 12;
    let mut document = Document::new()
        .set("viewBox", (0, 0, WIDTH, height))
        .set("width", WIDTH)
        .set("height", height)
        .set("role", "img")
        .add(Title::new("Tables"))
        .add(Style::new(file_css()))
        .add(
            Rectangle::new()
                .set("width", WIDTH)
                .set("height", height)
                .set("class", "paper"),
        )
        .add(text(16, 28, "Tables").set("style", "font-size:16px;font-weight:600"));
    for (number, table) in tables.iter().take(shown).enumerate() {
        for node in row(view, table, 48 + number * ROW) {
            document = document.add(node);
        }
    }
    if left_out > 0 {
        let more = format!("… and {left_out} tables more");
        document = document.add(text(16, 62 + shown * ROW, &more).set("class", "faint"));
    }
    (!tables.is_empty()).then_some(document)
}

fn text(x: usize, y: usize, what: &str) -> Text {
    Text::new(what).set("x", x).set("y", y)
}

/// What a table is, in words, and how full.
fn row(view: &View, table: &Table, y: usize) -> [Box<dyn svg::node::Node>; 3] {
    let geometry = &view.geometry;
    let depth = geometry.depth(table.level);
    let entries = geometry.entries(table.level);
    let name = geometry.level_name(table.level);
    let (frame, used) = (table.frame, table.used);
    // That of the kernel's last table is 2^64.
    let end = u128::from(table.address) + u128::from(geometry.table_span(table.level));
    let words = format!(
        "{name}  frame {frame:#x}  {:#x}-{end:#x}  {used} of {entries}",
        table.address
    );
    let used = usize::try_from(used).unwrap_or(usize::MAX).min(entries);
    let bar = |width: usize, class: &str| {
        let bar = Rectangle::new().set("x", WIDTH - BAR - 16).set("y", y + 5);
        bar.set("height", 10)
            .set("width", width)
            .set("class", class)
    };
    let full = (BAR * used).div_ceil(entries.max(1));
    [
        Box::new(text(16 + depth * 24, y + 14, &words).set("class", "mono")),
        Box::new(bar(BAR, "f-table")),
        Box::new(bar(full, "f-flag")),
    ]
}
