//! Entries and pages that belong together.

use std::collections::HashMap;

use tablewalk_walker::{Geometry, Level};

use crate::attributes::Catalogue;
use crate::snapshot::Snapshot;

/// Pages next to each other, with entries of one level and the same attributes. Addresses are in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The first page.
    pub start: u64,
    /// The page behind the last.
    pub end: u64,
    /// The lookup level.
    pub level: Level,
    /// The number of their attributes.
    pub attributes: u32,
    /// The first descriptor.
    pub descriptor: u64,
    /// The first frame, if they have any.
    pub frame: Option<u64>,
    /// Whether the frames follow each other.
    pub consecutive: bool,
    /// How many runs these were; more than one where detail was left out.
    pub joined: u64,
}

impl Run {
    /// How many pages.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.end - self.start
    }
}

/// Pages next to each other in frames next to each other. Addresses are in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameRun {
    /// The first page.
    pub start: u64,
    /// The first frame.
    pub frame: u64,
    /// How many pages.
    pub pages: u64,
}

/// The runs of a snapshot: those of its entries, or the ranges that it has.
#[must_use]
pub fn runs(snapshot: &Snapshot) -> Vec<Run> {
    if snapshot.entries.is_empty() {
        return snapshot.ranges.clone();
    }
    let geometry = &snapshot.geometry;
    let mut runs: Vec<Run> = Vec::new();
    for entry in &snapshot.entries {
        let start = entry.address >> geometry.page_shift();
        let pages = geometry.entry_size(entry.level) >> geometry.page_shift();
        if let Some(run) = runs.last_mut()
            && run.end == start
            && run.level == entry.level
            && run.attributes == entry.attributes
        {
            let expected = run.frame.map(|frame| frame + run.pages());
            run.consecutive &= expected.is_none() || entry.frame == expected;
            run.end += pages;
            continue;
        }
        runs.push(Run {
            start,
            end: start + pages,
            level: entry.level,
            attributes: entry.attributes,
            descriptor: entry.descriptor,
            frame: entry.frame,
            consecutive: true,
            joined: 1,
        });
    }
    runs
}

/// The frame runs of what is mapped; nothing if frames are not known.
#[must_use]
pub fn frame_runs(snapshot: &Snapshot, catalogue: &Catalogue) -> Vec<FrameRun> {
    let in_memory = |attributes| {
        let attributes = catalogue.of(attributes);
        attributes.is_mapped() || attributes.kind == "noacc"
    };
    let shift = snapshot.geometry.page_shift();
    let size = |level| snapshot.geometry.entry_size(level) >> shift;
    let entries = snapshot.entries.iter();
    let entries = entries.filter(|entry| in_memory(entry.attributes));
    let entries =
        entries.filter_map(|entry| Some((entry.address >> shift, entry.frame?, size(entry.level))));
    let ranges = snapshot.ranges.iter();
    let ranges = ranges.filter(|run| in_memory(run.attributes) && run.consecutive);
    let ranges = ranges.filter_map(|run| Some((run.start, run.frame?, run.pages())));
    let mut runs: Vec<FrameRun> = Vec::new();
    for (start, frame, pages) in entries.chain(ranges) {
        match runs.last_mut() {
            Some(run) if run.start + run.pages == start && run.frame + run.pages == frame => {
                run.pages += pages;
            }
            _ => runs.push(FrameRun {
                start,
                frame,
                pages,
            }),
        }
    }
    runs
}

/// At most `most` runs: those in the same block of a power of two of pages become one, with the
/// attributes that most of its pages have. Tells the size of the blocks, 1 if all are as they were.
#[must_use]
pub fn coarsen(runs: Vec<Run>, most: usize) -> (Vec<Run>, u64) {
    if runs.len() <= most.max(1) {
        return (runs, 1);
    }
    let mut block = 2;
    loop {
        let coarse = join_blocks(&runs, block);
        if coarse.len() <= most.max(1) || block >= 1 << 52 {
            return (coarse, block);
        }
        block *= 2;
    }
}

fn join_blocks(runs: &[Run], block: u64) -> Vec<Run> {
    runs.chunk_by(|one, next| {
        // A run longer than a block stays by itself.
        one.start / block == (one.end - 1) / block && one.start / block == (next.end - 1) / block
    })
    .filter_map(join)
    .collect()
}

/// One run of several.
fn join(runs: &[Run]) -> Option<Run> {
    let (first, last) = (runs.first()?, runs.last()?);
    if runs.len() == 1 {
        return Some(*first);
    }
    let mut pages: HashMap<(u32, Level), u64> = HashMap::new();
    for run in runs {
        *pages.entry((run.attributes, run.level)).or_default() += run.pages();
    }
    // Of two with as many pages the one with the lower number, whatever the order of the map.
    let most = pages.iter().max_by_key(|((attributes, level), pages)| {
        (**pages, u32::MAX - attributes, level.number())
    });
    let (&(attributes, level), _) = most?;
    Some(Run {
        start: first.start,
        end: last.end,
        level,
        attributes,
        descriptor: first.descriptor,
        frame: first.frame,
        consecutive: false,
        joined: runs.iter().map(|run| run.joined).sum(),
    })
}

/// How the memory of a process is cut into runs of frames.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Lengths {
    /// Runs of 2^n to 2^(n+1) - 1 pages, and the pages in them.
    pub bins: Vec<(u64, u64)>,
    /// The longest run.
    pub longest: u64,
}

impl Lengths {
    /// Of these runs.
    #[must_use]
    pub fn new(runs: &[FrameRun]) -> Self {
        let mut lengths = Self::default();
        for run in runs.iter().filter(|run| run.pages > 0) {
            let bin = usize::try_from(run.pages.ilog2()).unwrap_or(0);
            if lengths.bins.len() <= bin {
                lengths.bins.resize(bin + 1, (0, 0));
            }
            if let Some((number, pages)) = lengths.bins.get_mut(bin) {
                *number += 1;
                *pages += run.pages;
            }
            lengths.longest = lengths.longest.max(run.pages);
        }
        lengths
    }

    /// All pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.bins.iter().map(|(_, pages)| pages).sum()
    }

    /// Pages in runs of at least 2^`bin` pages.
    #[must_use]
    pub fn at_least(&self, bin: usize) -> u64 {
        self.bins.iter().skip(bin).map(|(_, pages)| pages).sum()
    }
}

/// First and last page of what entries of a table translate, in pages.
#[must_use]
pub const fn table_span(geometry: &Geometry, level: Level, address: u64) -> (u64, u64) {
    let shift = geometry.page_shift();
    let start = address >> shift;
    (start, start + (geometry.table_span(level) >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, end: u64, attributes: u32) -> Run {
        Run {
            start,
            end,
            level: Level::L3,
            attributes,
            descriptor: start,
            frame: Some(start),
            consecutive: true,
            joined: 1,
        }
    }

    #[test]
    fn few_runs_stay_as_they_are() {
        let runs = vec![run(0, 1, 0), run(1, 2, 1), run(9, 12, 0)];
        assert_eq!(coarsen(runs.clone(), 3), (runs, 1));
    }

    #[test]
    fn many_runs_become_blocks_of_the_attributes_that_most_pages_have() {
        let runs: Vec<_> = (0..1000)
            .map(|page| run(page, page + 1, u32::from(page % 4 == 0)))
            .collect();
        let (coarse, block) = coarsen(runs, 100);
        assert_eq!((coarse.len(), block), (63, 16));
        assert!(coarse.iter().all(|run| run.attributes == 0));
        assert_eq!(coarse.iter().map(Run::pages).sum::<u64>(), 1000);
        assert_eq!(coarse.iter().map(|run| run.joined).sum::<u64>(), 1000);
    }

    #[test]
    fn a_long_run_is_not_joined_with_short_ones() {
        let mut runs: Vec<_> = (0..8)
            .map(|page| run(page.into(), u64::from(page) + 1, page))
            .collect();
        runs.push(run(8, 5000, 9));
        let (coarse, _) = coarsen(runs, 2);
        assert_eq!(coarse.last(), Some(&run(8, 5000, 9)));
        assert_eq!(coarse.first().map(|run| (run.start, run.end)), Some((0, 8)));
    }

    #[test]
    fn lengths_are_counted_by_powers_of_two() {
        let lengths = [1, 1, 2, 3, 4, 512].map(|pages| FrameRun {
            start: 0,
            frame: 0,
            pages,
        });
        let lengths = Lengths::new(&lengths);
        assert_eq!(lengths.bins.get(..3), Some(&[(2, 2), (2, 5), (1, 4)][..]));
        assert_eq!(lengths.bins.get(9), Some(&(1, 512)));
        assert_eq!((lengths.pages(), lengths.longest), (523, 512));
        assert_eq!(
            [0, 1, 2, 3, 9, 10].map(|bin| lengths.at_least(bin)),
            [523, 521, 516, 512, 512, 0]
        );
    }
}
