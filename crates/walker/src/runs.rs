//! Entries that belong together.

use core::iter::FusedIterator;

use crate::descriptor::AddressBits;
use crate::{
    Descriptor, Format, Found, FrameNumber, Level, Limits, TableSource, VirtualAddress, Visit,
    Walk, WalkError,
};

/// What the entries of a [`Run`] have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Merge {
    /// Consecutive addresses, the same level and the same attributes.
    Attributes,
    /// As well consecutive frames.
    Frames,
}

/// Entries with consecutive addresses that belong together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The first address.
    pub address: VirtualAddress,
    /// Their lookup level.
    pub level: Level,
    /// The first of them.
    pub descriptor: Descriptor,
    /// What the tables above take away.
    pub limits: Limits,
    /// How many there are.
    pub entries: u64,
}

impl Run {
    /// How many bytes they translate.
    #[must_use]
    pub const fn size(&self, format: &Format) -> u64 {
        self.entries << format.geometry.level_shift(self.level)
    }

    /// How many pages they translate.
    #[must_use]
    pub const fn pages(&self, format: &Format) -> u64 {
        self.size(format) >> format.geometry.page_shift()
    }

    /// The address behind the last one.
    #[must_use]
    pub const fn end(&self, format: &Format) -> VirtualAddress {
        self.address.wrapping_add(self.size(format))
    }

    /// The frame that the first of them leads to.
    #[must_use]
    pub const fn frame(&self, format: &Format) -> FrameNumber {
        let address = self.descriptor.output_address(&format.geometry, self.level);
        address.frame(&format.geometry)
    }
}

/// The entries of a [`Walk`] that are not 0, as few [`Run`]s. One load for each entry, and for long
/// runs not much more.
#[derive(Debug)]
pub struct Runs<'s, S: TableSource> {
    walk: Walk<'s, S>,
    format: Format,
    merge: Merge,
    ignored: u64,
    wanted: (u64, u64),
    current: Option<Run>,
    error: Option<WalkError<S::Error>>,
}

impl<'s, S: TableSource> Runs<'s, S> {
    /// The runs of what `walk` comes to.
    pub fn new(walk: Walk<'s, S>, merge: Merge) -> Self {
        let format = walk.source().format();
        Self {
            walk,
            format,
            merge,
            ignored: 0,
            wanted: (0, 0),
            current: None,
            error: None,
        }
    }

    /// Takes entries for equal that differ in the bits of `mask` only. The first of a run tells its own.
    #[must_use]
    pub const fn ignoring(mut self, mask: u64) -> Self {
        self.ignored = mask;
        self
    }

    /// Leaves out entries that do not have `value` in the bits of `mask`.
    #[must_use]
    pub const fn matching(mut self, mask: u64, value: u64) -> Self {
        self.wanted = (mask, value);
        self
    }

    /// `found` and the entries of its table that continue it.
    fn begin(&mut self, found: &Found) -> Run {
        let address_bits = AddressBits::new(&self.format.geometry, found.level).mask();
        let (care, step) = self.comparison(found.descriptor, found.level, address_bits);
        let next = found.descriptor.0.wrapping_add(step);
        // An entry that is left out ends a run, since it differs in a bit of the mask.
        let further = self.walk.pass_over_run(next, step, care | self.wanted.0);
        Run {
            address: found.address,
            level: found.level,
            descriptor: found.descriptor,
            limits: found.limits,
            entries: 1 + further as u64,
        }
    }

    /// The bits in which the entry behind `descriptor` is to be equal, and by how much it is to be
    /// larger.
    const fn comparison(
        &self,
        descriptor: Descriptor,
        level: Level,
        address_bits: u64,
    ) -> (u64, u64) {
        let linux = &self.format.linux;
        let attributes = linux.attribute_bits(descriptor, address_bits) & !self.ignored;
        match self.merge {
            Merge::Frames if linux.is_present(descriptor) => (
                attributes | address_bits,
                self.format.geometry.entry_size(level),
            ),
            Merge::Frames | Merge::Attributes => (attributes, 0),
        }
    }

    /// Whether `next` continues `run`: two tables, or an output address across bit 48 of it.
    fn joins(&self, run: &Run, next: &Run) -> bool {
        let (format, linux) = (&self.format, &self.format.linux);
        let address_bits = AddressBits::new(&format.geometry, run.level).mask();
        let care = linux.attribute_bits(run.descriptor, address_bits) & !self.ignored;
        let frames = run.frame(format).0 + run.pages(format) == next.frame(format).0;
        run.end(format) == next.address
            && run.level == next.level
            && run.limits == next.limits
            && (run.descriptor.0 ^ next.descriptor.0) & care == 0
            && (self.merge == Merge::Attributes || !linux.is_present(run.descriptor) || frames)
    }
}

impl<S: TableSource> Iterator for Runs<'_, S> {
    type Item = Result<Run, WalkError<S::Error>>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.error.take() {
            return Some(Err(error));
        }
        loop {
            let error = match self.walk.next() {
                Some(Ok(Visit::Table(_))) => continue,
                Some(Ok(Visit::Leaf(found) | Visit::NotValid(found))) => {
                    if found.descriptor.0 & self.wanted.0 != self.wanted.1 {
                        continue;
                    }
                    let run = self.begin(&found);
                    match &self.current {
                        Some(current) if self.joins(current, &run) => {
                            let entries = current.entries + run.entries;
                            self.current = Some(Run {
                                entries,
                                ..*current
                            });
                        }
                        _ => {
                            if let Some(done) = self.current.replace(run) {
                                return Some(Ok(done));
                            }
                        }
                    }
                    continue;
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
