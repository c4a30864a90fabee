//! How memory is cut into runs of frames.

use crate::axis::{Axis, ROW};
use crate::picture::{Layer, Meaning, Picture, Rect, Zoom, fill};
use crate::view::View;

/// How many runs there are of each length.
pub(super) fn numbers(view: &View) -> Picture {
    let bins = &view.lengths.bins;
    let values: Vec<u64> = bins.iter().map(|(runs, _)| *runs).collect();
    let names = (0..bins.len()).map(|bin| (1u64 << bin).to_string());
    let labels = values.iter().map(u64::to_string).collect();
    let mut picture = bars(names.collect(), &values, labels);
    picture.name = "lengths";
    picture.title = "Run lengths".to_owned();
    picture.about = "How many runs of consecutive frames there are, by their length.".to_owned();
    picture.x = named(
        picture.x,
        "pages of a run: from this number to below the next",
    );
    picture.y = Axis::Numbers {
        title: "runs".to_owned(),
        end: headroom(values.iter().copied().max().unwrap_or(0)),
        unit: 1,
    };
    picture
}

/// How much of the memory is in runs of at least so many pages.
pub(super) fn shares(view: &View) -> Picture {
    let lengths = &view.lengths;
    let all = lengths.pages().max(1);
    let bins = 0..lengths.bins.len();
    let share = |bin| lengths.at_least(bin) * 100;
    let values: Vec<u64> = bins
        .clone()
        .map(|bin| (share(bin) + all / 2) / all)
        .collect();
    let names = bins.map(|bin| (1u64 << bin).to_string()).collect();
    let labels = values.iter().map(|share| format!("{share}%")).collect();
    let mut picture = bars(names, &values, labels);
    picture.name = "shares";
    picture.title = "Memory in long runs".to_owned();
    picture.about =
        "The share of the pages that are in runs of at least so many pages: what large \
        pages, the Contiguous bit and large transfers of a device could use."
            .to_owned();
    picture.x = named(picture.x, "pages of a run, at least");
    picture.y = Axis::Numbers {
        title: "% of pages".to_owned(),
        end: 112,
        unit: 1,
    };
    picture
}

/// A little more, for the numbers above the bars.
fn headroom(most: u64) -> u64 {
    most + most.div_ceil(8).max(1)
}

fn named(axis: Axis, title: &str) -> Axis {
    match axis {
        Axis::Names { names, .. } => Axis::Names {
            title: title.to_owned(),
            names,
        },
        other => other,
    }
}

/// A bar for each value, with a label above it.
fn bars(names: Vec<String>, values: &[u64], labels: Vec<String>) -> Picture {
    let rects = values.iter().enumerate().map(|(bin, value)| {
        let start = bin as u64 * ROW;
        Rect {
            x: (start + 1, start + ROW - 1),
            y: (0, *value),
            fill: fill("flag"),
            item: bin as u64,
        }
    });
    Picture {
        name: "",
        title: String::new(),
        about: String::new(),
        x: Axis::Names {
            title: String::new(),
            names,
        },
        y: Axis::Numbers {
            title: String::new(),
            end: 0,
            unit: 1,
        },
        upwards: true,
        zoom: Zoom::No,
        height: 200,
        layers: vec![Layer {
            of: "bar",
            labels,
            rects: rects.collect(),
        }],
        legend: Vec::<Meaning>::new(),
    }
}
