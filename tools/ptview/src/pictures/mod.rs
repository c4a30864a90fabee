//! The pictures of a view.

mod frames;
mod heat;
mod lengths;
mod map;

use crate::attributes::Attributes;
use crate::axis::Axis;
use crate::heat::Warmth;
use crate::picture::{Layer, Picture, Rect};
use crate::runs;
use crate::view::View;

/// All pictures that can be made of what is known.
#[must_use]
pub fn all(view: &View) -> Vec<Picture> {
    let mut pictures = Vec::new();
    if !view.runs.0.is_empty() {
        pictures.push(map::map(view));
    }
    if !view.frames.is_empty() {
        pictures.push(frames::frames(view));
        pictures.push(lengths::numbers(view));
        pictures.push(lengths::shares(view));
    }
    for heat in &view.heats {
        pictures.extend(heat::heat(view, heat));
    }
    if let Some(changes) = view
        .changes
        .as_deref()
        .filter(|changes| !changes.is_empty())
    {
        pictures.push(map::difference(view, changes));
    }
    pictures
}

/// A row of a picture: from and to in the values of its scale.
const fn row(number: u64) -> (u64, u64) {
    use crate::axis::ROW;
    (number * ROW + 1, (number + 1) * ROW - 1)
}

/// The addresses of everything that is shown.
fn addresses(view: &View) -> Axis {
    let runs = view.runs.0.iter().map(|run| (run.start, run.end));
    let changes = view.changes.iter().flatten().filter(|change| !change.table);
    let changes = changes.map(|change| (change.start, change.end));
    let mut spans: Vec<_> = runs.chain(changes).collect();
    spans.sort_unstable();
    Axis::addresses(spans, view.geometry.page_shift())
}

/// What user space may do with pages, or what they are if it may do nothing.
fn fill_of(attributes: &Attributes) -> &'static str {
    match attributes.kind.as_str() {
        "page" | "block" => match attributes.el0.as_str() {
            "rwx" | "-wx" => "wx",
            "rw-" | "-w-" => "write",
            "r-x" => "exec",
            "--x" => "xonly",
            "r--" => "read",
            _ => "kernel",
        },
        "noacc" => "noacc",
        "swap" => "swap",
        "poison" => "poison",
        "moving" => "moving",
        "device" => "device",
        _ => "other",
    }
}

/// Warmth in one row of a picture with addresses from left to right.
fn warmth_layer(number: u64, warmth: &[Warmth], rounds: u64) -> Layer {
    let rects = warmth.iter().map(|warmth| Rect {
        x: (warmth.start, warmth.end),
        y: row(number),
        fill: crate::picture::warm(warmth.rounds, rounds),
        item: warmth.rounds,
    });
    Layer {
        of: "warmth",
        labels: Vec::new(),
        rects: rects.collect(),
    }
}

/// The spans of tables in one row, without the parts in which there is nothing.
fn table_rects(view: &View, axis: &Axis, level: tablewalk_walker::Level, number: u64) -> Vec<Rect> {
    let tables = view
        .snapshot
        .iter()
        .flat_map(|snapshot| snapshot.tables.list().iter().enumerate());
    let tables = tables.filter(|(_, table)| table.level == level);
    tables
        .flat_map(|(item, table)| {
            let (start, end) = runs::table_span(&view.geometry, level, table.address);
            axis.clip(start, end).map(move |x| Rect {
                x,
                y: row(number),
                fill: crate::picture::fill("table"),
                item: item as u64,
            })
        })
        .collect()
}
