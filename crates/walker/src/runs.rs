//! Runs of equal entries.

use core::iter::FusedIterator;

use crate::descriptor::AddressBits;
use crate::{
    Descriptor, Format, Found, FrameNumber, Level, Limits, TableSource, VirtualAddress, Visit,
    Walk, WalkError,
};

/// The conditions under which entries are joined to a [`Run`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Merge {
    /// Consecutive addresses, the same level and the same attributes.
    Attributes,
    /// Also consecutive frames.
    Frames,
}

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

/// The rules by which entries of one level are joined.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    level: Level,
    /// log2 of the bytes that an entry translates.
    shift: u32,
    /// Mask and value of bits that an entry must have.
    wanted: (u64, u64),
    /// Bits of which an entry with a page has at least one.
    present: u64,
    /// The bits that must be equal, for entries with a page and without.
    care: (u64, u64),
    /// The difference between an entry with a page and the previous one.
    step: u64,
    output: AddressBits,
}

impl Rules {
    fn new(format: &Format, level: Level, merge: Merge, ignored: u64, wanted: (u64, u64)) -> Self {
        let linux = &format.linux;
        let output = AddressBits::new(&format.geometry, level);
        let present = linux.present_bits(level);
        // An entry with a page is never equal to one without.
        let ignored = ignored & !present;
        let attributes = !(output.mask() | Descriptor::CONTIGUOUS) & !ignored;
        let (care, step) = match merge {
            Merge::Attributes => (attributes, 0),
            Merge::Frames => (
                attributes | output.mask(),
                format.geometry.entry_size(level),
            ),
        };
        Self {
            level,
            shift: format.geometry.level_shift(level),
            wanted,
            present,
            // A skipped entry ends a run, since it differs in a bit of the mask.
            care: (
                care | wanted.0,
                linux.absent_bits(level) & !ignored | wanted.0,
            ),
            step,
            output,
        }
    }

    /// Returns whether an entry passes the filter.
    #[inline]
    pub(crate) const fn want(&self, word: u64) -> bool {
        word != 0 && word & self.wanted.0 == self.wanted.1
    }

    /// Returns whether the entry `word` has a page.
    #[inline]
    pub(crate) const fn present(&self, word: u64) -> bool {
        word & self.present != 0
    }

    /// Returns the bits that must be equal in the entry after `word`, and the difference that it must have.
    #[inline]
    pub(crate) const fn comparison(&self, word: u64) -> (u64, u64) {
        if self.present(word) {
            (self.care.0, self.step)
        } else {
            (self.care.1, 0)
        }
    }

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
    current: Option<Run>,
    error: Option<WalkError<S::Error>>,
}

impl<'s, S: TableSource> Runs<'s, S> {
    /// Joins the entries of `walk`.
    pub fn new(walk: Walk<'s, S>, merge: Merge) -> Self {
        let format = walk.source().format();
        Self {
            walk,
            merge,
            ignored: 0,
            wanted: (0, 0),
            rules: Rules::new(&format, Level::L3, merge, 0, (0, 0)),
            format,
            current: None,
            error: None,
        }
    }

    /// Ignores differences in the bits of `mask`. A run has those bits of its first entry.
    #[must_use]
    pub fn ignoring(mut self, mask: u64) -> Self {
        self.ignored = mask;
        self.rules = self.rules_of(Level::L3);
        self
    }

    /// Skips entries whose bits in `mask` are not `value`.
    #[must_use]
    pub fn matching(mut self, mask: u64, value: u64) -> Self {
        self.wanted = (mask, value);
        self.rules = self.rules_of(Level::L3);
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

impl<S: TableSource> Iterator for Runs<'_, S> {
    type Item = Result<Run, WalkError<S::Error>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.error.take() {
            return Some(Err(error));
        }
        loop {
            let rules = &self.rules;
            while let Some((table, run)) = self.walk.next_run(rules) {
                let run = Run {
                    address: table
                        .address
                        .wrapping_add((run.index as u64) << rules.shift),
                    level: rules.level,
                    descriptor: run.first,
                    limits: table.limits,
                    entries: run.entries as u64,
                };
                if let Some(done) = rules.add(&mut self.current, run) {
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

impl<S: TableSource> FusedIterator for Runs<'_, S> {}
