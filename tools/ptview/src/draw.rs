//! Pictures as SVG files.

use svg::Document;
use svg::node::element::{Group, Line, Polygon, Rectangle, Style, Text, Title};

use crate::axis::{Axis, ROW};
use crate::palette::{FILLS, file_css};
use crate::picture::{Layer, Meaning, Picture};
use crate::snapshot::printable;

/// The width of a picture, and what surrounds the plot, in pixels.
const WIDTH: f64 = 1200.0;
const LEFT: f64 = 136.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;
/// Height of a line of the legend, and the width of a place in it.
const LINE: f64 = 20.0;
const PLACE: f64 = 175.0;
/// Widths of characters, on average.
const CHARACTER: f64 = 7.0;

/// One end of a scale of the plot to the other, in pixels.
#[derive(Clone, Copy)]
struct Scale<'a> {
    axis: &'a Axis,
    from: f64,
    to: f64,
}

impl Scale<'_> {
    fn at(&self, value: u64) -> f64 {
        self.from + (self.to - self.from) * self.axis.position(value)
    }
}

/// `picture` as an SVG document.
#[must_use]
pub fn document(picture: &Picture) -> Document {
    let height = f64::from(picture.height);
    let x = Scale {
        axis: &picture.x,
        from: LEFT,
        to: WIDTH - RIGHT,
    };
    let (top, bottom) = (TOP, TOP + height);
    let y = Scale {
        axis: &picture.y,
        from: if picture.upwards { bottom } else { top },
        to: if picture.upwards { top } else { bottom },
    };
    let legend = legend(&picture.legend, bottom + BOTTOM);
    let whole = bottom + BOTTOM + LINE * legend_lines(picture.legend.len());
    let mut plot = Group::new();
    for layer in &picture.layers {
        plot = plot.add(rectangles(layer, x, y));
    }
    Document::new()
        .set("viewBox", (0, 0, WIDTH, whole))
        .set("width", WIDTH)
        .set("height", whole)
        .set("role", "img")
        .add(Title::new(printable(&picture.title)))
        .add(Style::new(file_css()))
        .add(rectangle((0.0, WIDTH), (0.0, whole)).set("class", "paper"))
        .add(text(LEFT, 26.0, &picture.title).set("style", "font-size:16px;font-weight:600"))
        .add(ground(x, (top, bottom)))
        .add(plot)
        .add(horizontal(x, bottom))
        .add(vertical(y))
        .add(legend)
}

fn text(x: f64, y: f64, what: &str) -> Text {
    Text::new(printable(what)).set("x", x).set("y", y)
}

fn rectangle(x: (f64, f64), y: (f64, f64)) -> Rectangle {
    let round = |value: f64| (value * 100.0).round() / 100.0;
    let (left, right) = (x.0.min(x.1), x.0.max(x.1));
    let (top, bottom) = (y.0.min(y.1), y.0.max(y.1));
    Rectangle::new()
        .set("x", round(left))
        .set("y", round(top))
        .set("width", round(right - left))
        .set("height", round(bottom - top))
}

/// A bar from the lower left to the upper right: frames that grow with addresses.
fn rising(x: (f64, f64), y: (f64, f64)) -> Polygon {
    let half = 1.8;
    let points = [
        (x.0, y.1 - half),
        (x.1, y.0 - half),
        (x.1, y.0 + half),
        (x.0, y.1 + half),
    ];
    let points = points.map(|(x, y)| format!("{x:.2},{y:.2}"));
    Polygon::new().set("points", points.join(" "))
}

/// Shades the stretches in which something is.
fn ground(x: Scale<'_>, y: (f64, f64)) -> Group {
    let mut group = Group::new();
    if x.axis.pieces().is_empty() {
        return group.add(rectangle((x.from, x.to), y).set("class", "ground"));
    }
    for piece in x.axis.pieces() {
        let span = (x.at(piece.start), x.at(piece.end));
        group = group.add(rectangle(span, y).set("class", "ground"));
    }
    group
}

/// The rectangles of a layer, each a pixel wide at least; those that would hide behind the one before
/// are left out.
fn rectangles(layer: &Layer, x: Scale<'_>, y: Scale<'_>) -> Group {
    let mut group = Group::new();
    let mut last = None;
    for rect in &layer.rects {
        let (left, right) = wide((x.at(rect.x.0), x.at(rect.x.1)));
        let (top, bottom) = wide((y.at(rect.y.0), y.at(rect.y.1)));
        let pixels = [left, right, top, bottom].map(f64::round);
        let key = Some((pixels, rect.fill));
        if key == last && right - left <= 1.5 {
            continue;
        }
        last = key;
        let fill = FILLS.get(rect.fill).map_or("other", |fill| fill.0);
        let class = format!("f-{fill}");
        if layer.of == "frame" && (right - left).max(bottom - top) > 3.0 {
            group = group.add(rising((left, right), (top, bottom)).set("class", class));
        } else {
            group = group.add(rectangle((left, right), (top, bottom)).set("class", class));
        }
        let label = usize::try_from(rect.item).ok();
        let label = label.and_then(|item| layer.labels.get(item));
        let label = label.and_then(|text| label_of(layer.of, text, (left, right), (top, bottom)));
        if let Some(label) = label {
            group = group.add(label);
        }
    }
    group
}

/// At least a pixel, and less than it by a hair's breadth where there is room, so that neighbours can
/// be told apart.
fn wide((from, to): (f64, f64)) -> (f64, f64) {
    let (low, high) = (from.min(to), from.max(to));
    match high - low {
        size if size < 1.0 => (low, low + 1.0),
        size if size > 4.0 => (low, high - 0.6),
        _ => (low, high),
    }
}

/// A label in its rectangle, as much of it as fits; above a bar all of it.
fn label_of(of: &str, label: &str, x: (f64, f64), y: (f64, f64)) -> Option<Text> {
    if of == "bar" {
        let middle = text(f64::midpoint(x.0, x.1), y.0 - 4.0, label);
        return Some(middle.set("text-anchor", "middle"));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of characters that fit"
    )]
    let room = ((x.1 - x.0 - 8.0) / CHARACTER).max(0.0) as usize;
    let label = shorten(label, room)?;
    Some(text(x.0 + 4.0, f64::midpoint(y.0, y.1) + 4.0, &label))
}

/// What of a label has room: of a path its end, which tells most.
fn shorten(label: &str, room: usize) -> Option<String> {
    let length = label.chars().count();
    if length <= room {
        return Some(label.to_owned());
    }
    if room < 4 {
        return None;
    }
    if !label.starts_with('/') {
        let start: String = label.chars().take(room - 1).collect();
        return Some(format!("{start}…"));
    }
    let end: String = label.chars().skip(length - (room - 1)).collect();
    Some(format!("…{end}"))
}

/// What stands on a scale: places, and words.
fn ticks(axis: &Axis) -> Vec<(u64, String)> {
    match axis {
        Axis::Pages { shift, pieces, .. } => {
            let tick = |value: u64| (value, format!("{:#x}", value << shift));
            pieces.iter().map(|piece| tick(piece.start)).collect()
        }
        Axis::Names { names, .. } => {
            let middle = |number: usize| number as u64 * ROW + ROW / 2;
            let names = names.iter().enumerate();
            names
                .map(|(number, name)| (middle(number), name.clone()))
                .collect()
        }
        Axis::Numbers { end, unit, .. } => {
            let step = step(*end);
            let values = (0..=end / step).map(|number| number * step);
            values
                .map(|value| (value, (value / unit).to_string()))
                .collect()
        }
    }
}

/// 1, 2 or 5 times a power of ten: at most six of it to `end`.
fn step(end: u64) -> u64 {
    let mut step = 1;
    loop {
        for factor in [1, 2, 5] {
            if end / (step * factor) <= 6 {
                return step * factor;
            }
        }
        step *= 10;
    }
}

fn title(axis: &Axis) -> &str {
    match axis {
        Axis::Pages { title, .. } | Axis::Names { title, .. } | Axis::Numbers { title, .. } => {
            title
        }
    }
}

/// The scale below the plot.
fn horizontal(x: Scale<'_>, bottom: f64) -> Group {
    let mut group = Group::new();
    let names = matches!(x.axis, Axis::Names { .. });
    let mut free = f64::NEG_INFINITY;
    for (value, word) in ticks(x.axis) {
        let at = x.at(value);
        if !names {
            group = group.add(
                Line::new()
                    .set("x1", at)
                    .set("x2", at)
                    .set("y1", bottom)
                    .set("y2", bottom + 5.0),
            );
        }
        let width = word.chars().count() as f64 * CHARACTER;
        let start = match names {
            true => at - width / 2.0,
            false => at.min(x.to - width),
        };
        if start >= free {
            group = group.add(text(start, bottom + 18.0, &word).set("class", "mono faint"));
            free = start + width + 12.0;
        }
    }
    let title = text(f64::midpoint(x.from, x.to), bottom + 36.0, title(x.axis));
    group.add(title.set("class", "faint").set("text-anchor", "middle"))
}

/// The scale beside the plot.
fn vertical(y: Scale<'_>) -> Group {
    let mut group = Group::new();
    let names = matches!(y.axis, Axis::Names { .. });
    let mut last = None::<f64>;
    for (value, word) in ticks(y.axis) {
        let at = y.at(value);
        if !names {
            group = group.add(
                Line::new()
                    .set("x1", LEFT - 5.0)
                    .set("x2", LEFT)
                    .set("y1", at)
                    .set("y2", at),
            );
        }
        if last.is_none_or(|last| (at - last).abs() >= 14.0) {
            let word = text(LEFT - 8.0, at + 4.0, &word);
            let class = if names { "" } else { "mono faint" };
            group = group.add(word.set("class", class).set("text-anchor", "end"));
            last = Some(at);
        }
    }
    let (middle, title) = (f64::midpoint(y.from, y.to), title(y.axis));
    let turned =
        text(0.0, 0.0, title).set("transform", format!("translate(16 {middle}) rotate(-90)"));
    group.add(turned.set("class", "faint").set("text-anchor", "middle"))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a few"
)]
fn places() -> usize {
    ((WIDTH - LEFT - RIGHT) / PLACE) as usize
}

#[expect(clippy::cast_precision_loss, reason = "a few lines")]
fn legend_lines(meanings: usize) -> f64 {
    meanings.div_ceil(places()) as f64
}

#[expect(clippy::cast_precision_loss, reason = "a few places")]
fn legend(meanings: &[Meaning], top: f64) -> Group {
    let mut group = Group::new();
    for (number, meaning) in meanings.iter().enumerate() {
        let x = LEFT + PLACE * (number % places()) as f64;
        let y = top + LINE * (number / places()) as f64;
        let square = rectangle((x, x + 12.0), (y - 8.0, y + 4.0));
        group = group
            .add(square.set("class", format!("f-{}", meaning.fill)))
            .add(text(x + 18.0, y + 3.0, &meaning.text));
    }
    group
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_few() {
        let ends = [1, 6, 7, 13, 14, 34, 35, 1100];
        assert_eq!(ends.map(step), [1, 1, 2, 2, 5, 5, 10, 200]);
    }

    #[test]
    fn of_a_path_the_end_is_kept() {
        assert_eq!(shorten("/bin/kinds", 10).as_deref(), Some("/bin/kinds"));
        assert_eq!(shorten("/bin/kinds", 6).as_deref(), Some("…kinds"));
        assert_eq!(shorten("/bin/kinds", 3), None);
        assert_eq!(shorten("anonymous", 6).as_deref(), Some("anony…"));
    }
}
