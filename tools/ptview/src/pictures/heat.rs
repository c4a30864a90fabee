//! What happened to pages over time.

use std::collections::HashMap;

use crate::axis::Axis;
use crate::heat::{Heat, Span, SpanKind, Warmth};
use crate::picture::{Layer, Meaning, Picture, Rect, Zoom, fill, warm, warm_legend};
use crate::view::{MOST_RUNS, View};

/// Fills of what did not happen for certain.
const OTHERS: [(&str, SpanKind); 2] = [
    ("uncertain", SpanKind::Uncertain),
    ("absent", SpanKind::Absent),
];

/// Rounds from left to right against addresses, and the pages of each round.
pub(super) fn heat(view: &View, heat: &Heat) -> [Picture; 2] {
    let warmth = heat.warmth();
    let spans = heat.rounds.iter().flat_map(|round| &round.spans);
    let mut spans: Vec<_> = spans.map(|span| (span.start, span.end)).collect();
    spans.sort_unstable();
    let y = Axis::addresses(spans, view.geometry.page_shift());
    let (layer, about) = layer(heat, &warmth);
    let most = layer.rects.iter().map(|rect| rect.item).max().unwrap_or(1);
    let (name, bars) = match heat.command.as_str() {
        "dirty" => ("dirty", "dirty-rounds"),
        "idle" => ("idle", "idle-rounds"),
        _ => ("changing", "changing-rounds"),
    };
    let word = heat.word();
    let (all, of) = match layer.of {
        "span" => (heat.rounds.len() as u64, "rounds"),
        _ => (most, "pages of a cell"),
    };
    let mut legend = warm_legend(all, of);
    for (fill, kind) in OTHERS {
        let text = kind.word().to_owned();
        legend.push(Meaning { fill, text });
    }
    let over_time = Picture {
        name,
        title: format!("Pages {word}, over time"),
        about,
        x: rounds_axis(heat),
        y,
        upwards: false,
        zoom: Zoom::Xy,
        height: 320,
        layers: vec![layer],
        legend,
    };
    [over_time, rounds(heat, bars)]
}

fn rounds_axis(heat: &Heat) -> Axis {
    Axis::Numbers {
        title: "round".to_owned(),
        end: heat.rounds.len() as u64,
        unit: 1,
    }
}

/// How many pages each round has.
fn rounds(heat: &Heat, name: &'static str) -> Picture {
    let values: Vec<u64> = heat
        .rounds
        .iter()
        .map(crate::heat::Round::touched)
        .collect();
    let rects = values.iter().enumerate().map(|(round, pages)| Rect {
        x: (round as u64, round as u64 + 1),
        y: (0, *pages),
        fill: fill("h3"),
        item: round as u64,
    });
    Picture {
        name,
        title: format!("Pages {}, by round", heat.word()),
        about: "How many pages each round has.".to_owned(),
        x: rounds_axis(heat),
        y: Axis::Numbers {
            title: "pages".to_owned(),
            end: values.iter().copied().max().unwrap_or(0).max(1),
            unit: 1,
        },
        upwards: true,
        zoom: Zoom::X,
        height: 90,
        layers: vec![Layer {
            of: "round",
            labels: Vec::new(),
            rects: rects.collect(),
        }],
        legend: Vec::new(),
    }
}

/// The rectangles, and what to say about them.
fn layer(heat: &Heat, warmth: &[Warmth]) -> (Layer, String) {
    let word = heat.word();
    let about = format!(
        "What was {word} in each round, by address (downwards). A colour says in how many of the \
         rounds the same pages were."
    );
    if let Some(layer) = exact(heat, warmth) {
        return (layer, about);
    }
    let (layer, (rounds, pages)) = cells(heat);
    let about = format!(
        "What was {word} in each round, by address (downwards), in cells of {rounds} rounds and \
         {pages} pages. A colour says how much of a cell was {word}."
    );
    (layer, about)
}

/// A rectangle for each span, cut where pages were warm in another number of rounds; nothing if there
/// are too many.
fn exact(heat: &Heat, warmth: &[Warmth]) -> Option<Layer> {
    let mut rects = Vec::new();
    let all = heat.rounds.len() as u64;
    for (round, spans) in heat.rounds.iter().enumerate() {
        let x = (round as u64, round as u64 + 1);
        for span in &spans.spans {
            if let Some((name, _)) = OTHERS.iter().find(|(_, kind)| *kind == span.kind) {
                rects.push(Rect {
                    x,
                    y: (span.start, span.end),
                    fill: fill(name),
                    item: 0,
                });
            } else {
                rects.extend(pieces(span, warmth).map(|(start, end, rounds)| Rect {
                    x,
                    y: (start, end),
                    fill: warm(rounds, all),
                    item: rounds,
                }));
            }
            if rects.len() > MOST_RUNS {
                return None;
            }
        }
    }
    Some(Layer {
        of: "span",
        labels: Vec::new(),
        rects,
    })
}

/// The parts of a span that have the same warmth.
fn pieces(span: &Span, warmth: &[Warmth]) -> impl Iterator<Item = (u64, u64, u64)> {
    let first = warmth.partition_point(|warmth| warmth.end <= span.start);
    let (start, end) = (span.start, span.end);
    let warmth = warmth.iter().skip(first);
    let warmth = warmth.take_while(move |warmth| warmth.start < end);
    warmth.map(move |w| (w.start.max(start), w.end.min(end), w.rounds))
}

/// Cells of rounds and pages, so large that there are not too many. Tells their width and height.
fn cells(heat: &Heat) -> (Layer, (u64, u64)) {
    // More columns than this nobody can see.
    const COLUMNS: usize = 512;
    let width = heat.rounds.len().div_ceil(COLUMNS).next_power_of_two() as u64;
    let mut shift = 1;
    let counts = loop {
        if let Some(counts) = count(heat, width, shift) {
            break counts;
        }
        shift += 1;
    };
    let mut cells: Vec<_> = counts.into_iter().collect();
    cells.sort_unstable();
    let most = cells.iter().map(|(_, pages)| *pages).max().unwrap_or(1);
    let rects = cells.into_iter().map(|((column, row), pages)| Rect {
        x: (
            column * width,
            ((column + 1) * width).min(heat.rounds.len() as u64),
        ),
        y: (row << shift, (row + 1) << shift),
        fill: warm(pages, most),
        item: pages,
    });
    let layer = Layer {
        of: "share",
        labels: Vec::new(),
        rects: rects.collect(),
    };
    (layer, (width, 1 << shift))
}

/// The pages in each cell, over all of its rounds; nothing if there are too many cells.
fn count(heat: &Heat, width: u64, shift: u32) -> Option<HashMap<(u64, u64), u64>> {
    let mut counts = HashMap::new();
    for (round, spans) in heat.rounds.iter().enumerate() {
        let column = round as u64 / width;
        let spans = spans.spans.iter();
        for span in spans.filter(|span| span.kind.is_certain()) {
            for row in span.start >> shift..=(span.end - 1) >> shift {
                let pages = span.end.min((row + 1) << shift) - span.start.max(row << shift);
                *counts.entry((column, row)).or_default() += pages;
                if counts.len() > MOST_RUNS {
                    return None;
                }
            }
        }
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heat::Round;

    /// `rounds` rounds, in each of which every `step`th of `pages` pages was written.
    fn written(rounds: u64, pages: u64, step: usize) -> Heat {
        let round = |number| Round {
            spans: (0..pages)
                .step_by(step)
                .map(|page| Span {
                    start: page,
                    end: page + 1,
                    kind: SpanKind::Dirty,
                })
                .collect(),
            ..Round::new(number)
        };
        Heat::new("dirty".to_owned(), (1..=rounds).map(round))
    }

    #[test]
    fn few_spans_are_shown_as_they_are() {
        let heat = written(10, 100, 2);
        let layer = exact(&heat, &heat.warmth()).map(|layer| layer.rects.len());
        assert_eq!(layer, Some(500));
    }

    #[test]
    fn many_spans_become_cells_that_lose_no_page() {
        let heat = written(2000, 100, 2);
        assert!(exact(&heat, &heat.warmth()).is_none());
        let (layer, (rounds, pages)) = cells(&heat);
        assert_eq!((rounds, pages), (4, 2));
        assert!(layer.rects.len() <= MOST_RUNS);
        assert_eq!(
            layer.rects.iter().map(|rect| rect.item).sum::<u64>(),
            100_000
        );
        assert!(layer.rects.iter().all(|rect| rect.fill == warm(4, 4)));
    }
}
