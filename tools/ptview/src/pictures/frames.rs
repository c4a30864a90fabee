//! Where in memory the pages are.

use std::collections::HashMap;

use crate::axis::Axis;
use crate::picture::{Layer, Meaning, Picture, Rect, Zoom, fill, warm, warm_legend};
use crate::pictures::addresses;
use crate::runs::FrameRun;
use crate::view::{MOST_RUNS, View};

/// Fills of runs of at least so many pages.
const LENGTHS: [(&str, u64, &str); 5] = [
    ("h5", 512, "512 pages and more"),
    ("h4", 128, "128 to 511"),
    ("h3", 16, "16 to 127"),
    ("h2", 2, "2 to 15"),
    ("h1", 1, "runs of 1 page"),
];

/// Runs of frames: addresses against frame numbers.
pub(super) fn frames(view: &View) -> Picture {
    let mut spans: Vec<_> = view
        .frames
        .iter()
        .map(|run| (run.frame, run.frame + run.pages))
        .collect();
    spans.sort_unstable();
    let mut about = "Each run of pages whose frames follow each other, by address (from left to \
        right) and frame number (upwards). Long rising lines are contiguous memory, scattered dots \
        are fragmented memory."
        .to_owned();
    let (layer, legend) = if view.frames.len() <= MOST_RUNS {
        let meaning = |&(fill, _, text): &(&'static str, u64, &str)| Meaning {
            fill,
            text: text.to_owned(),
        };
        (
            exact(&view.frames),
            LENGTHS.iter().rev().map(meaning).collect(),
        )
    } else {
        let ((layer, cell), runs) = (cells(&view.frames), view.frames.len());
        let most = layer.rects.iter().map(|rect| rect.item).max().unwrap_or(1);
        about.push_str(&format!(
            " The {runs} runs are shown as cells of {} by {} pages.",
            cell.0, cell.1
        ));
        (layer, warm_legend(most, "pages of a cell"))
    };
    Picture {
        name: "frames",
        title: "Frames".to_owned(),
        about,
        x: addresses(view),
        y: Axis::frames(spans),
        upwards: true,
        zoom: Zoom::Xy,
        height: 360,
        layers: vec![layer],
        legend,
    }
}

fn exact(runs: &[FrameRun]) -> Layer {
    let rects = runs.iter().map(|run| {
        let length = LENGTHS.iter().find(|(_, least, _)| run.pages >= *least);
        Rect {
            x: (run.start, run.start + run.pages),
            y: (run.frame, run.frame + run.pages),
            fill: fill(length.map_or("h1", |(name, ..)| name)),
            item: run.pages,
        }
    });
    Layer {
        of: "frame",
        labels: Vec::new(),
        rects: rects.collect(),
    }
}

/// Cells with the number of pages that have both their address and their frame in it; so large that
/// there are not too many. Tells their width and height.
fn cells(runs: &[FrameRun]) -> (Layer, (u64, u64)) {
    let mut shift = 1;
    let counts = loop {
        if let Some(counts) = count(runs, shift) {
            break counts;
        }
        shift += 1;
    };
    let size = 1 << shift;
    let mut cells: Vec<_> = counts.into_iter().collect();
    cells.sort_unstable();
    let most = cells.iter().map(|(_, pages)| *pages).max().unwrap_or(1);
    let rects = cells.into_iter().map(|((x, y), pages)| Rect {
        x: (x << shift, (x + 1) << shift),
        y: (y << shift, (y + 1) << shift),
        fill: warm(pages, most),
        item: pages,
    });
    let layer = Layer {
        of: "cell",
        labels: Vec::new(),
        rects: rects.collect(),
    };
    (layer, (size, size))
}

/// The pages in each cell of 2^`shift` by 2^`shift`; nothing if there are too many cells.
fn count(runs: &[FrameRun], shift: u32) -> Option<HashMap<(u64, u64), u64>> {
    let mut counts = HashMap::new();
    for run in runs {
        let mut done = 0;
        while done < run.pages {
            let (page, frame) = (run.start + done, run.frame + done);
            let left = |value: u64| (((value >> shift) + 1) << shift) - value;
            let pages = (run.pages - done).min(left(page)).min(left(frame));
            *counts.entry((page >> shift, frame >> shift)).or_default() += pages;
            done += pages;
        }
        if counts.len() > MOST_RUNS {
            return None;
        }
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_has_the_pages_of_all_runs_in_it() {
        let runs = [(0, 4, 6), (6, 0, 1)].map(|(start, frame, pages)| FrameRun {
            start,
            frame,
            pages,
        });
        let counts = count(&runs, 2).unwrap_or_default();
        let mut found: Vec<_> = counts.into_iter().collect();
        found.sort_unstable();
        assert_eq!(found, [((0, 1), 4), ((1, 0), 1), ((1, 2), 2)]);
    }

    #[test]
    fn scattered_frames_become_few_cells() {
        let runs: Vec<_> = (0..100_000u64)
            .map(|page| FrameRun {
                start: page,
                // Steps of a prime that divides no power of two.
                frame: page * 48_271 % (1 << 20),
                pages: 1,
            })
            .collect();
        let (layer, _) = cells(&runs);
        assert!(layer.rects.len() <= MOST_RUNS);
        assert_eq!(
            layer.rects.iter().map(|rect| rect.item).sum::<u64>(),
            100_000
        );
    }
}
