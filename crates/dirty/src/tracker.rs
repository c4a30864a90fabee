//! A range of addresses that is tracked.

use core::ops::Range;

use tablewalk_uapi::track::{
    EXPOSE_PGTBL_TRACK_ABSENT, EXPOSE_PGTBL_TRACK_ACCESSED, EXPOSE_PGTBL_TRACK_ARM,
    EXPOSE_PGTBL_TRACK_SPLIT, EXPOSE_PGTBL_TRACK_STOP, EXPOSE_PGTBL_TRACK_WRITTEN, ExposePgtblRun,
    track,
};
use tablewalk_walker::VirtualAddress;

use crate::{DirtyError, Run};

/// Runs that are asked for with one call.
const RUNS: usize = 512;

/// What is tracked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Pages that were written: by the dirty state.
    Written,
    /// Pages that were read, written or executed: by the Access flag.
    Accessed,
}

/// What is done with blocks, of which one entry is for many pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocks {
    /// They stay: all pages of a block are told together.
    Whole,
    /// They are split when they come in sight, and their pages are told apart from then on. Splitting costs
    /// some 15,000 instructions for each block, and TLB misses afterwards.
    Split,
}

/// How to track.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// What is asked.
    pub what: What,
    /// What is done with blocks.
    pub blocks: Blocks,
    /// Whether to tell where no page is, too: untouched, discarded, or not mapped at all.
    pub absent: bool,
}

impl Options {
    /// Pages that were written, blocks whole, without those that are absent.
    pub const WRITTEN: Self = Self {
        what: What::Written,
        blocks: Blocks::Whole,
        absent: false,
    };

    /// The same of pages that were accessed.
    pub const ACCESSED: Self = Self {
        what: What::Accessed,
        ..Self::WRITTEN
    };
}

/// A range of addresses of a process that is tracked.
///
/// It has no state but that of the entries: one that is dropped without [`Tracker::stop`] leaves marks
/// there, which harm nobody, and writes that cost a little more once for each page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tracker {
    pid: i32,
    range: Range<VirtualAddress>,
    options: Options,
}

impl Tracker {
    /// For the pages in `range` of process `pid` (0: the caller). No system call.
    #[must_use]
    pub const fn new(pid: i32, range: Range<VirtualAddress>, options: Options) -> Self {
        Self {
            pid,
            range,
            options,
        }
    }

    /// The range.
    #[must_use]
    pub const fn range(&self) -> &Range<VirtualAddress> {
        &self.range
    }

    /// Begins: what was written or accessed before is not told. One system call; more if others wait for
    /// the address space.
    ///
    /// # Errors
    ///
    /// [`DirtyError::Track`]; what lies before its address is begun.
    pub fn start(&self) -> Result<(), DirtyError> {
        self.call(EXPOSE_PGTBL_TRACK_ARM, &mut [], &mut |_| {})
    }

    /// Calls `each` with the pages that were written, or accessed, since the start or the last `collect`,
    /// in the order of addresses, and begins anew. One system call for 512 runs.
    ///
    /// # Errors
    ///
    /// [`DirtyError::Track`]; what lies before its address was told.
    pub fn collect(&self, mut each: impl FnMut(Run)) -> Result<(), DirtyError> {
        let mut runs = [ExposePgtblRun::default(); RUNS];
        self.call(EXPOSE_PGTBL_TRACK_ARM, &mut runs, &mut each)
    }

    /// As [`Tracker::collect`], and changes nothing.
    ///
    /// # Errors
    ///
    /// [`DirtyError::Track`].
    pub fn look(&self, mut each: impl FnMut(Run)) -> Result<(), DirtyError> {
        let mut runs = [ExposePgtblRun::default(); RUNS];
        self.call(0, &mut runs, &mut each)
    }

    /// Ends: the marks go, and what could be written without a fault can be so again. One system call.
    ///
    /// # Errors
    ///
    /// [`DirtyError::Track`].
    pub fn stop(&self) -> Result<(), DirtyError> {
        self.call(EXPOSE_PGTBL_TRACK_STOP, &mut [], &mut |_| {})
    }

    fn call(
        &self,
        change: u32,
        runs: &mut [ExposePgtblRun],
        each: &mut dyn FnMut(Run),
    ) -> Result<(), DirtyError> {
        let mode = change | self.mode(change, !runs.is_empty());
        let mut start = self.range.start;
        while start.0 < self.range.end.0 {
            let left = start.0..self.range.end.0;
            let (filled, next) =
                track(self.pid, mode, left, runs).map_err(|errno| DirtyError::Track {
                    pid: self.pid,
                    address: start,
                    errno,
                })?;
            for &run in runs.iter().take(filled) {
                each(run.into());
            }
            start = VirtualAddress(next);
        }
        Ok(())
    }

    fn mode(&self, change: u32, tells: bool) -> u32 {
        let what = match self.options.what {
            What::Written => EXPOSE_PGTBL_TRACK_WRITTEN,
            What::Accessed => EXPOSE_PGTBL_TRACK_ACCESSED,
        };
        let split = change == EXPOSE_PGTBL_TRACK_ARM && self.options.blocks == Blocks::Split;
        let absent = tells && self.options.absent;
        what | [
            (split, EXPOSE_PGTBL_TRACK_SPLIT),
            (absent, EXPOSE_PGTBL_TRACK_ABSENT),
        ]
        .iter()
        .fold(0, |mode, &(set, bit)| if set { mode | bit } else { mode })
    }
}
