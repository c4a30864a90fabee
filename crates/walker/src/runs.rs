//! Runs of equal entries.

use core::iter::FusedIterator;

use crate::rules::{Merge, Rules, TableRun, TableRuns};
use crate::{
    Descriptor, Format, Found, FrameNumber, Level, Limits, TableSource, VirtualAddress, Visit,
    Walk, WalkError,
};

/// Joined entries with consecutive addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The first address.
    pub address: VirtualAddress,
    /// Their lookup level.
    pub level: Level,
    /// The first descriptor.
    pub descriptor: Descriptor,
    /// The limits of the tables above.
    pub limits: Limits,
    /// The number of entries.
    pub entries: u64,
}

impl Run {
    /// Returns the number of bytes that they translate.
    #[must_use]
    pub const fn size(&self, format: &Format) -> u64 {
        self.entries << format.geometry.level_shift(self.level)
    }

    /// Returns the number of pages that they translate.
    #[must_use]
    pub const fn pages(&self, format: &Format) -> u64 {
        self.size(format) >> format.geometry.page_shift()
    }

    /// Returns the address after the last one.
    #[must_use]
    pub const fn end(&self, format: &Format) -> VirtualAddress {
        self.address.wrapping_add(self.size(format))
    }

    /// Returns the frame of the first entry.
    #[must_use]
    pub const fn frame(&self, format: &Format) -> FrameNumber {
        let address = self.descriptor.output_address(&format.geometry, self.level);
        address.frame(&format.geometry)
    }
}

impl Rules {
    /// Joins `run` to the current one if it continues it. Otherwise returns the current one, and `run`
    /// replaces it.
    #[inline]
    fn add(&self, current: &mut Option<Run>, run: Run) -> Option<Run> {
        if let Some(current) = current
            && current.level == run.level
            && current.limits == run.limits
            && current.address.0 + (current.entries << self.shift) == run.address.0
            && self.join(current, run.descriptor)
        {
            current.entries += run.entries;
            return None;
        }
        current.replace(run)
    }

    /// Returns whether the entry `next` continues `run`.
    #[inline]
    const fn join(&self, run: &Run, next: Descriptor) -> bool {
        let (care, step) = self.comparison(run.descriptor.0);
        // Without a carry out of the low part of a 52-bit address, as between two entries of a table.
        let expected = run.descriptor.0.wrapping_add(step * run.entries);
        (expected ^ next.0) & care == 0 || step != 0 && self.join_far(run, next)
    }

    /// Like [`Rules::join`], where the output address crosses bit 48.
    const fn join_far(&self, run: &Run, next: Descriptor) -> bool {
        let output = self.output.address(run.descriptor).0 + self.step * run.entries;
        let attributes = self.care.0 & !self.output.mask();
        output == self.output.address(next).0 && (run.descriptor.0 ^ next.0) & attributes == 0
    }
}

/// Returns the rules for the entries of one table. Where the walk gathers the state of contiguous entries,
/// these are read block by block.
fn scan_rules<S: TableSource>(walk: &Walk<'_, S>, rules: Rules) -> Rules {
    if walk.is_gathering() {
        rules.apart_if_contiguous()
    } else {
        rules
    }
}

/// The entries of a [`Walk`] that are not 0, joined to [`Run`]s. Costs one load for each entry, and little
/// more for long runs.
///
/// # Examples
///
/// The ranges of dirty pages with contiguous frames, whether they were accessed or not:
///
/// ```
/// use tablewalk_walker::{Descriptor, Merge, Run, Runs, TableSource, Walk, WalkError};
///
/// fn written<S: TableSource>(source: &mut S) -> Result<Vec<Run>, WalkError<S::Error>> {
///     let linux = source.format().linux;
///     Runs::new(Walk::new(source), Merge::Frames)
///         .ignoring(Descriptor::AF)
///         .filter(|run| run.as_ref().map_or(true, |run| linux.is_dirty(run.descriptor)))
///         .collect()
/// }
/// ```
#[derive(Debug)]
pub struct Runs<'s, S: TableSource> {
    walk: Walk<'s, S>,
    format: Format,
    merge: Merge,
    ignored: u64,
    wanted: (u64, u64),
    /// The rules for level 3.
    rules: Rules,
    /// The rules for entries of one table of level 3.
    scan: Rules,
    /// Runs of the current table. Those from `next` on are complete and come before `current`.
    runs: TableRuns,
    next: usize,
    /// Its first address, and the limits of the tables above it.
    table: VirtualAddress,
    limits: Limits,
    current: Option<Run>,
    error: Option<WalkError<S::Error>>,
}

impl<'s, S: TableSource> Runs<'s, S> {
    /// Joins the entries of `walk`.
    pub fn new(walk: Walk<'s, S>, merge: Merge) -> Self {
        let format = walk.source().format();
        let rules = Rules::new(&format, Level::L3, merge, 0, (0, 0));
        Self {
            scan: scan_rules(&walk, rules),
            walk,
            merge,
            ignored: 0,
            wanted: (0, 0),
            rules,
            runs: TableRuns::new(),
            next: 0,
            table: VirtualAddress(0),
            limits: Limits::NONE,
            format,
            current: None,
            error: None,
        }
    }

    /// Ignores differences in the bits of `mask`. A run has those bits of its first entry.
    #[must_use]
    pub fn ignoring(mut self, mask: u64) -> Self {
        self.ignored = mask;
        self.set_rules()
    }

    /// Skips entries whose bits in `mask` are not `value`. These are the bits in the table, also where the
    /// walk is [gathering](Walk::gathering) the state of contiguous entries.
    #[must_use]
    pub fn matching(mut self, mask: u64, value: u64) -> Self {
        self.wanted = (mask, value);
        self.set_rules()
    }

    fn set_rules(mut self) -> Self {
        self.rules = self.rules_of(Level::L3);
        self.scan = scan_rules(&self.walk, self.rules);
        self
    }

    fn rules_of(&self, level: Level) -> Rules {
        Rules::new(&self.format, level, self.merge, self.ignored, self.wanted)
    }

    /// A block, or an entry that is not valid, above level 3.
    fn add_found(&mut self, found: &Found) -> Option<Run> {
        let rules = self.rules_of(found.level);
        if !rules.want(found.descriptor.0) {
            return None;
        }
        let run = Run {
            address: found.address,
            level: found.level,
            descriptor: found.descriptor,
            limits: found.limits,
            entries: 1,
        };
        rules.add(&mut self.current, run)
    }
}

impl<S: TableSource> Runs<'_, S> {
    /// Returns `run` of the current table as a [`Run`].
    #[inline]
    const fn run_of(&self, run: TableRun) -> Run {
        Run {
            address: self
                .table
                .wrapping_add((run.index as u64) << self.rules.shift),
            level: self.rules.level,
            descriptor: run.first,
            limits: self.limits,
            entries: run.entries as u64,
        }
    }

    /// Looks for the next runs of the current table; returns `None` if there are no more. Then returns the
    /// run that comes before those in `runs`, if there is one.
    fn refill(&mut self) -> Option<Option<Run>> {
        self.runs.clear();
        let table = self.walk.next_runs(&self.scan, &mut self.runs)?;
        (self.table, self.limits) = (table.address, table.limits);
        let first = self.run_of(*self.runs.first()?);
        let last = self.runs.pop()?;
        // The first one may continue the run before it.
        let before = self.rules.add(&mut self.current, first);
        if self.runs.is_empty() {
            return Some(before);
        }
        // The last one may continue in the next table; those before it are complete.
        let complete = self.current.replace(self.run_of(last));
        // `runs` has the first one: either it is in `complete`, or `complete` is the same again.
        self.next = usize::from(before.is_none());
        Some(before.or(complete))
    }

    /// Finds the next run if it is not in `runs`.
    #[inline(never)]
    fn advance(&mut self) -> Option<Result<Run, WalkError<S::Error>>> {
        if let Some(error) = self.error.take() {
            return Some(Err(error));
        }
        loop {
            while let Some(done) = self.refill() {
                if let Some(done) = done {
                    return Some(Ok(done));
                }
            }
            let error = match self.walk.next() {
                Some(Ok(Visit::Table(_))) => continue,
                Some(Ok(Visit::Leaf(found) | Visit::NotValid(found))) => {
                    match self.add_found(&found) {
                        Some(done) => return Some(Ok(done)),
                        None => continue,
                    }
                }
                Some(Ok(Visit::Changed(id))) => WalkError::Changed(id),
                Some(Err(error)) => WalkError::Source(error),
                None => return self.current.take().map(Ok),
            };
            let Some(done) = self.current.take() else {
                return Some(Err(error));
            };
            self.error = Some(error);
            return Some(Ok(done));
        }
    }
}

impl<S: TableSource> Iterator for Runs<'_, S> {
    type Item = Result<Run, WalkError<S::Error>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self.runs.get(self.next) {
            Some(&run) => {
                self.next += 1;
                Some(Ok(self.run_of(run)))
            }
            None => self.advance(),
        }
    }
}

impl<S: TableSource> FusedIterator for Runs<'_, S> {}
