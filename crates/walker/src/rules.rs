//! The rules by which entries are joined to runs.

use heapless::Vec;

use crate::descriptor::AddressBits;
use crate::{Descriptor, Format, Level};

/// The conditions under which entries are joined to a [`Run`](crate::Run).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Merge {
    /// Consecutive addresses, the same level and the same attributes.
    Attributes,
    /// Also consecutive frames.
    Frames,
}

/// The rules by which entries of one level are joined.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) level: Level,
    /// log2 of the bytes that an entry translates.
    pub(crate) shift: u32,
    /// Mask and value of bits that an entry must have.
    pub(crate) wanted: (u64, u64),
    /// Bits of which an entry with a page has at least one.
    pub(crate) present: u64,
    /// The bits that must be equal, for entries with a page and without.
    pub(crate) care: (u64, u64),
    /// The difference between an entry with a page and the previous one.
    pub(crate) step: u64,
    pub(crate) output: AddressBits,
}

impl Rules {
    pub(crate) fn new(
        format: &Format,
        level: Level,
        merge: Merge,
        ignored: u64,
        wanted: (u64, u64),
    ) -> Self {
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

    /// The same, but no entry with the Contiguous bit continues one without.
    pub(crate) const fn apart_if_contiguous(mut self) -> Self {
        self.care.0 |= Descriptor::CONTIGUOUS;
        self
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
}

/// Number of runs of one table that are looked for at once.
pub(crate) const AT_ONCE: usize = 32;

/// Runs of one table, in the order of their entries.
pub(crate) type TableRuns = Vec<TableRun, AT_ONCE>;

/// A run of entries of one table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableRun {
    pub(crate) index: usize,
    pub(crate) first: Descriptor,
    pub(crate) entries: usize,
}
