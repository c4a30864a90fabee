//! A picture: rectangles on two scales. What they mean is decided by [`pictures`](crate::pictures);
//! [`draw`](crate::draw) and the script of the page draw any of them, knowing nothing about tables.

use serde::{Serialize, Serializer, ser::SerializeSeq};

use crate::axis::Axis;
use crate::palette::FILLS;

/// What readers see at once.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Picture {
    /// Its name, also that of its file.
    pub name: &'static str,
    /// Above it.
    pub title: String,
    /// What it shows and how to read it, in a sentence or two.
    pub about: String,
    /// The scale from left to right.
    pub x: Axis,
    /// The scale from top to bottom, or upwards.
    pub y: Axis,
    /// Whether the scale of `y` begins at the bottom.
    pub upwards: bool,
    /// Which scales can be zoomed.
    pub zoom: Zoom,
    /// Height in pixels, without scales and legend.
    pub height: u32,
    /// From the bottom to the top.
    pub layers: Vec<Layer>,
    /// What the fills mean.
    pub legend: Vec<Meaning>,
}

/// Which scales can be zoomed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Zoom {
    /// None.
    No,
    /// That from left to right.
    X,
    /// Both.
    Xy,
}

/// What a fill means.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Meaning {
    /// Its name in the palette.
    pub fill: &'static str,
    /// What it means.
    pub text: String,
}

/// Rectangles of things of one sort.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Layer {
    /// The sort, by which the page says what is under the mouse.
    pub of: &'static str,
    /// What is written into the rectangles of each item, if anything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// In the order in which they are drawn.
    #[serde(serialize_with = "flat")]
    pub rects: Vec<Rect>,
}

/// A rectangle, in the values of the scales.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rect {
    /// From and to, on the scale of `x`.
    pub x: (u64, u64),
    /// From and to, on the scale of `y`.
    pub y: (u64, u64),
    /// The place of the fill in the palette.
    pub fill: usize,
    /// What of its sort it is: a place in a list, or a number.
    pub item: u64,
}

/// The place of the fill `name` in the palette.
#[must_use]
pub fn fill(name: &str) -> usize {
    FILLS.iter().position(|fill| fill.0 == name).unwrap_or(0)
}

/// The steps of warmth, from least to most.
const WARMTH: [&str; 5] = ["h1", "h2", "h3", "h4", "h5"];

/// The least of each step: they grow by the same factor, up to `all`.
fn steps(all: u64) -> [u64; 5] {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a root, rounded up"
    )]
    let least = |step: u32| (all as f64).powf(f64::from(step) / 5.0).ceil() as u64;
    let mut last = 0;
    [0, 1, 2, 3, 4].map(|step| {
        last = least(step).max(last + 1);
        last
    })
}

/// The fill of `share` of `all`.
#[must_use]
pub fn warm(share: u64, all: u64) -> usize {
    let step = steps(all).iter().filter(|least| share >= **least).count();
    fill("h1") + step.saturating_sub(1)
}

/// The meanings of warmth up to `all` of `what`.
#[must_use]
pub fn warm_legend(all: u64, what: &str) -> Vec<Meaning> {
    let steps = steps(all);
    let last = |step: usize| steps.get(step + 1).map_or(all, |next| (next - 1).min(all));
    let meanings = WARMTH.into_iter().zip(steps).enumerate();
    let meanings = meanings.filter(|(_, (_, least))| *least <= all.max(1));
    let meanings = meanings.map(|(step, (fill, least))| Meaning {
        fill,
        text: match last(step) {
            last if last > least => format!("{least} to {last} {what}"),
            _ => format!("{least} {what}"),
        },
    });
    meanings.collect()
}

/// Six numbers for each rectangle, in one list: the page has many of them.
fn flat<S: Serializer>(rects: &[Rect], serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(rects.len() * 6))?;
    for rect in rects {
        for number in [
            rect.x.0,
            rect.x.1,
            rect.y.0,
            rect.y.1,
            rect.fill as u64,
            rect.item,
        ] {
            list.serialize_element(&number)?;
        }
    }
    list.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warmth_has_five_steps_that_grow_by_a_factor() {
        assert_eq!(steps(100), [1, 3, 7, 16, 40]);
        let found = [1, 2, 3, 6, 7, 15, 16, 39, 40, 100].map(|share| warm(share, 100) - fill("h1"));
        assert_eq!(found, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
        let words = |all| -> Vec<_> {
            warm_legend(all, "rounds")
                .into_iter()
                .map(|meaning| meaning.text)
                .collect()
        };
        assert_eq!(words(2), ["1 rounds", "2 rounds"]);
        assert_eq!(
            words(100).last().map(String::as_str),
            Some("40 to 100 rounds")
        );
    }

    #[test]
    fn rectangles_are_flat_in_json() -> Result<(), serde_json::Error> {
        let layer = Layer {
            of: "run",
            labels: Vec::new(),
            rects: vec![Rect {
                x: (1, 2),
                y: (3, 4),
                fill: 5,
                item: 6,
            }],
        };
        let text = serde_json::to_string(&layer)?;
        assert_eq!(text, r#"{"of":"run","rects":[1,2,3,4,5,6]}"#);
        Ok(())
    }
}
