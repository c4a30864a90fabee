//! The page.

use askama::Template;
use serde::Serialize;
use tablewalk_walker::Level;

use crate::attributes::Attributes;
use crate::error::Error;
use crate::palette::{FILLS, file_css, page_css};
use crate::picture::Picture;
use crate::runs::Run;
use crate::snapshot::printable;
use crate::view::{MOST_RUNS, View, shape};

/// What the page is made of.
#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    title: &'a str,
    shape: String,
    sources: &'a [String],
    numbers: Vec<(&'static str, String)>,
    pictures: &'a [Picture],
    has_tables: bool,
    has_ranges: bool,
    changes: usize,
    note: String,
    colours: String,
    file_css: String,
    style: &'static str,
    scripts: [&'static str; 5],
    data: String,
}

/// What the scripts of the page work on. Lists of columns, since there are many rows.
#[derive(Serialize)]
struct Data<'a> {
    page_shift: u32,
    fills: Vec<&'static str>,
    attributes: &'a [Attributes],
    levels: Vec<Named>,
    runs: Vec<[Column; 7]>,
    /// Level, address in pages, frame, used entries, table above.
    tables: Vec<[i64; 5]>,
    regions: Vec<(u64, u64, &'a str, &'a str)>,
    changes: Vec<Difference<'a>>,
    rounds: Vec<(&'a str, Vec<Look>)>,
    pictures: &'a [Picture],
}

/// Number, time in milliseconds, pages that were looked at.
type Look = (u64, Option<u64>, Option<u64>);

#[derive(Serialize)]
struct Named {
    level: i8,
    name: &'static str,
    entries: usize,
    /// Pages that an entry translates.
    pages: u64,
}

/// A number, or a word of 64 bits, which a number of a script does not hold.
#[derive(Serialize)]
#[serde(untagged)]
enum Column {
    Number(u64),
    Level(i8),
    Word(String),
    None,
}

#[derive(Serialize)]
struct Difference<'a> {
    start: u64,
    end: u64,
    level: i8,
    sort: &'static str,
    what: &'a [&'static str],
    table: bool,
    old: String,
    new: String,
    entries: u64,
}

/// The page for `view` with `pictures`.
///
/// # Errors
///
/// [`Error::Page`] and [`Error::Data`].
pub fn html(view: &View, pictures: &[Picture], title: Option<&str>) -> Result<String, Error> {
    let own = format!("Process {}", view.pid);
    let title = printable(title.unwrap_or(&own));
    // Nothing in it ends the element that it stands in.
    let data = serde_json::to_string(&data(view, pictures))?.replace('<', "\\u003c");
    let page = Page {
        title: &title,
        shape: shape(&view.geometry),
        sources: &view.sources,
        numbers: numbers(view),
        pictures,
        has_tables: tables(view).next().is_some(),
        has_ranges: !view.runs.0.is_empty(),
        changes: view.changes.as_ref().map_or(0, Vec::len),
        note: note(view),
        colours: page_css(),
        file_css: file_css(),
        style: include_str!("../page/page.css"),
        scripts: [
            include_str!("../page/words.js"),
            include_str!("../page/chart.js"),
            include_str!("../page/ranges.js"),
            include_str!("../page/tree.js"),
            include_str!("../page/page.js"),
        ],
        data,
    };
    Ok(page.render()?)
}

fn tables(view: &View) -> impl Iterator<Item = &crate::snapshot::Table> {
    view.snapshot
        .iter()
        .flat_map(|snapshot| snapshot.tables.list())
}

/// What was left out.
fn note(view: &View) -> String {
    let mut notes = Vec::new();
    let (runs, block) = &view.runs;
    if *block > 1 {
        let all: u64 = runs.iter().map(|run| run.joined).sum();
        notes.push(format!(
            "The {all} runs of equal attributes are shown as {}: in blocks of {block} pages those of \
             most pages stand for all.",
            runs.len()
        ));
    }
    let tables = tables(view).count();
    if tables > MOST_RUNS {
        notes.push(format!(
            "Of {tables} tables the first {MOST_RUNS} are listed."
        ));
    }
    if view.left_out > 0 {
        notes.push(format!(
            "The {} smallest mappings are left out: the {MOST_RUNS} largest are shown.",
            view.left_out
        ));
    }
    notes.join(" ")
}

/// What stands at the top.
fn numbers(view: &View) -> Vec<(&'static str, String)> {
    let geometry = &view.geometry;
    let pages = |wanted: &dyn Fn(&Attributes) -> bool| -> u64 {
        let runs = view.runs.0.iter();
        let runs = runs.filter(|run| wanted(view.catalogue.of(run.attributes)));
        runs.map(Run::pages).sum()
    };
    let mut numbers = Vec::new();
    if !view.runs.0.is_empty() {
        let mapped = pages(&Attributes::is_mapped);
        numbers.push(("mapped", size(mapped << geometry.page_shift())));
        numbers.push(("pages", mapped.to_string()));
        numbers.push((
            "not in memory",
            pages(&|said| !said.is_mapped()).to_string(),
        ));
        let both = |said: &Attributes| said.el0.contains('w') && said.el0.contains('x');
        numbers.push(("writable and executable", pages(&both).to_string()));
    }
    let tables = tables(view).count() as u64;
    if tables > 0 {
        let bytes = size(tables << geometry.page_shift());
        numbers.push(("tables", format!("{tables} ({bytes})")));
    }
    if !view.frames.is_empty() {
        numbers.push(("runs of frames", view.frames.len().to_string()));
        numbers.push((
            "longest run",
            size(view.lengths.longest << geometry.page_shift()),
        ));
    }
    numbers
}

/// Bytes in a unit that leaves few digits.
fn size(bytes: u64) -> String {
    let mut unit = "B";
    let mut value = bytes;
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 4096 && (value < 1024 || !value.is_multiple_of(1024)) {
            break;
        }
        value /= 1024;
        unit = next;
    }
    format!("{value} {unit}")
}

fn data<'a>(view: &'a View, pictures: &'a [Picture]) -> Data<'a> {
    let geometry = &view.geometry;
    let levels = Level::ALL;
    let named = |level: Level| Named {
        level: level.number(),
        name: geometry.level_name(level),
        entries: geometry.entries(level),
        pages: geometry.entry_size(level) >> geometry.page_shift(),
    };
    let shift = geometry.page_shift();
    let regions = view.regions().iter();
    let regions = regions.map(|region| {
        let (start, end) = (region.start >> shift, region.end >> shift);
        (
            start,
            end,
            region.permissions.as_str(),
            region.name.as_str(),
        )
    });
    let rounds = view.heats.iter().map(|heat| {
        let rounds = heat.rounds.iter();
        let rounds = rounds.map(|round| (round.number, round.time_ms, round.pages));
        (heat.word(), rounds.collect())
    });
    Data {
        page_shift: shift,
        fills: FILLS.iter().map(|fill| fill.0).collect(),
        attributes: view.catalogue.list(),
        levels: levels.map(named).into(),
        runs: view.runs.0.iter().map(columns).collect(),
        tables: tables(view)
            .take(MOST_RUNS)
            .map(|table| table_columns(table, shift))
            .collect(),
        regions: regions.collect(),
        changes: view.changes.iter().flatten().map(difference).collect(),
        rounds: rounds.collect(),
        pictures,
    }
}

/// Start, end, level, attributes, descriptor, frame, how many it stands for (0: frames that do not
/// follow each other).
fn columns(run: &Run) -> [Column; 7] {
    [
        Column::Number(run.start),
        Column::Number(run.end),
        Column::Level(run.level.number()),
        Column::Number(run.attributes.into()),
        Column::Word(format!("{:#x}", run.descriptor)),
        run.frame.map_or(Column::None, Column::Number),
        Column::Number(if run.consecutive { run.joined } else { 0 }),
    ]
}

fn table_columns(table: &crate::snapshot::Table, shift: u32) -> [i64; 5] {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    [
        table.level.number().into(),
        signed(table.address >> shift),
        signed(table.frame),
        signed(table.used),
        table.parent.map_or(-1, |parent| signed(parent as u64)),
    ]
}

fn difference(change: &crate::difference::Change) -> Difference<'_> {
    Difference {
        start: change.start,
        end: change.end,
        level: change.level.number(),
        sort: change.sort.word(),
        what: &change.what,
        table: change.table,
        old: format!("{:#x}", change.old),
        new: format!("{:#x}", change.new),
        entries: change.entries,
    }
}
