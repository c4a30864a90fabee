//! The options of the command line.

use core::time::Duration;

use tablewalk_walker::{Geometry, Level, TableSource, VirtualAddress, Walk};

use crate::error::Error;

/// A range that cannot be given on the command line, since its end would be 2^64.
const EVERYTHING: (VirtualAddress, VirtualAddress) = (VirtualAddress(0), VirtualAddress(u64::MAX));

/// A source of the tables of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SourceKind {
    /// The system call.
    Call,
    /// The kernel module.
    Module,
    /// A BPF program.
    Bpf,
    /// `/proc/kcore`.
    Kcore,
}

impl SourceKind {
    /// Returns whether tables are mapped, and not copied.
    pub(crate) const fn is_live(self) -> bool {
        matches!(self, Self::Call | Self::Module)
    }
}

/// The options, as given or by default.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// JSON lines instead of columns.
    pub(crate) json: bool,
    /// The first and last address to show.
    pub(crate) range: (VirtualAddress, VirtualAddress),
    /// The top byte of the addresses of the given range.
    pub(crate) tag: u64,
    /// The lowest level of tables to show.
    pub(crate) level: Level,
    /// Runs of consecutive frames.
    pub(crate) frames: bool,
    /// Time between two rounds.
    pub(crate) interval: Option<Duration>,
    /// The number of rounds; `None` is without limit.
    pub(crate) count: Option<u32>,
    /// The source of tables; `None` is the first that works.
    pub(crate) source: Option<SourceKind>,
}

impl Options {
    pub(crate) const DEFAULT: Self = Self {
        json: false,
        range: EVERYTHING,
        tag: 0,
        level: Level::L3,
        frames: false,
        interval: None,
        count: None,
        source: None,
    };

    /// Returns the options for tables of this geometry, without the tags in the range.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] if these tables do not translate all of the range.
    pub(crate) fn fit(mut self, geometry: &Geometry) -> Result<Self, Error> {
        if self.range != EVERYTHING {
            let (start, tag) = untag(geometry, self.range.0);
            let (last, last_tag) = untag(geometry, self.range.1);
            if !geometry.contains(start) {
                return Err(Error::Address(self.range.0, *geometry));
            }
            if last_tag != tag || !geometry.contains(last) {
                // The end as it was given.
                return Err(Error::Address(self.range.1.wrapping_add(1), *geometry));
            }
            (self.range, self.tag) = ((start, last), tag);
        }
        Ok(self)
    }

    /// Returns a walk of the range.
    pub(crate) fn walk<'s, S: TableSource>(&self, source: &'s mut S) -> Walk<'s, S> {
        Walk::new(source)
            .down_to(self.level)
            .within(self.range.0, self.range.1)
    }

    /// Returns whether the addresses from `start` to `last` overlap the range.
    pub(crate) const fn includes(&self, start: u64, last: u64) -> bool {
        start <= self.range.1.0 && last >= self.range.0.0
    }
}

/// Splits an address into the address without its top byte, and that byte: the tag, which hardware ignores in
/// addresses of user space (Linux sets `TCR_EL1.TBI0`). Addresses of the kernel have no tag.
pub(crate) fn untag(geometry: &Geometry, address: VirtualAddress) -> (VirtualAddress, u64) {
    let tag = if geometry.is_kernel() {
        0
    } else {
        address.0 >> 56
    };
    (VirtualAddress(address.0 ^ tag << 56), tag)
}
