//! What was asked for beside command and target.

use core::time::Duration;

use tablewalk_walker::{Level, TableSource, VirtualAddress, Walk};

/// The options, as they were given or by default.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// JSON lines instead of columns.
    pub(crate) json: bool,
    /// The addresses to look at: first, and last.
    pub(crate) range: (VirtualAddress, VirtualAddress),
    /// The lowest level of tables to look at.
    pub(crate) level: Level,
    /// Runs of consecutive frames.
    pub(crate) frames: bool,
    /// Time between two looks.
    pub(crate) interval: Option<Duration>,
    /// How many looks; for ever without.
    pub(crate) count: Option<u32>,
}

impl Options {
    pub(crate) const DEFAULT: Self = Self {
        json: false,
        range: (VirtualAddress(0), VirtualAddress(u64::MAX)),
        level: Level::L3,
        frames: false,
        interval: None,
        count: None,
    };

    /// A walk of the range.
    pub(crate) fn walk<'s, S: TableSource>(&self, source: &'s mut S) -> Walk<'s, S> {
        Walk::new(source)
            .down_to(self.level)
            .within(self.range.0, self.range.1)
    }

    /// Whether addresses from `start` to `last` are partly in the range.
    pub(crate) const fn includes(&self, start: u64, last: u64) -> bool {
        start <= self.range.1.0 && last >= self.range.0.0
    }
}
