//! Dirty tracking of an address range.

use core::ops::Range;

use tablewalk_uapi::track::{
    EXPOSE_PGTBL_TRACK_ABSENT, EXPOSE_PGTBL_TRACK_ACCESSED, EXPOSE_PGTBL_TRACK_ARM,
    EXPOSE_PGTBL_TRACK_SPLIT, EXPOSE_PGTBL_TRACK_STOP, EXPOSE_PGTBL_TRACK_WRITTEN, ExposePgtblRun,
    track,
};
use tablewalk_walker::VirtualAddress;

use crate::{DirtyError, Run};

/// Maximum number of runs that one call returns.
const RUNS: usize = 512;

/// What to track.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Pages that were written: by the dirty state.
    Written,
    /// Pages that were read, written or executed: by the Access flag.
    Accessed,
}

/// How to treat blocks, which have one entry for many pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocks {
    /// Keep them: all pages of a block are reported together.
    Whole,
    /// Split each block when it is first seen, and report its pages one by one from then on. A split costs
    /// about 15,000 instructions for each block, and more TLB misses afterwards.
    Split,
}

/// Options of a [`Tracker`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// What to track.
    pub what: What,
    /// How to treat blocks.
    pub blocks: Blocks,
    /// Whether to report addresses without a page, too: never touched, discarded, or not mapped at all.
    pub absent: bool,
}

impl Options {
    /// Tracks writes, keeps blocks, and leaves out absent pages.
    pub const WRITTEN: Self = Self {
        what: What::Written,
        blocks: Blocks::Whole,
        absent: false,
    };

    /// Tracks accesses, keeps blocks, and leaves out absent pages.
    pub const ACCESSED: Self = Self {
        what: What::Accessed,
        ..Self::WRITTEN
    };
}

/// Tracks an address range of a process.
///
/// All state is in the entries. A tracker that is dropped without [`Tracker::stop`] leaves marks there; they
/// are harmless, and the next write to each page costs a little more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tracker {
    pid: i32,
    range: Range<VirtualAddress>,
    options: Options,
}

impl Tracker {
    /// Returns a tracker of `range` in process `pid` (0: the caller). Makes no system call.
    #[must_use]
    pub const fn new(pid: i32, range: Range<VirtualAddress>, options: Options) -> Self {
        Self {
            pid,
            range,
            options,
        }
    }

    /// Returns the range.
    #[must_use]
    pub const fn range(&self) -> &Range<VirtualAddress> {
        &self.range
    }

    /// Starts tracking: earlier writes and accesses are not reported. Makes one system call, or more if
    /// others wait for the mmap lock.
    ///
    /// # Errors
    ///
    /// [`DirtyError::Track`]; tracking of the range below its address has started.
    pub fn start(&self) -> Result<(), DirtyError> {
        self.call(EXPOSE_PGTBL_TRACK_ARM, &mut [], &mut |_| {})
    }

    /// Calls `each` with the pages that were written, or accessed, since `start` or the last `collect`, in
    /// address order, and starts the next round. Makes one system call for each 512 runs.
    ///
    /// # Errors
    ///
    /// [`DirtyError::Track`]; the pages below its address were reported.
    pub fn collect(&self, mut each: impl FnMut(Run)) -> Result<(), DirtyError> {
        let mut runs = [ExposePgtblRun::default(); RUNS];
        self.call(EXPOSE_PGTBL_TRACK_ARM, &mut runs, &mut each)
    }

    /// As [`Tracker::collect`], but does not start the next round: the same pages are reported again.
    ///
    /// # Errors
    ///
    /// [`DirtyError::Track`].
    pub fn look(&self, mut each: impl FnMut(Run)) -> Result<(), DirtyError> {
        let mut runs = [ExposePgtblRun::default(); RUNS];
        self.call(0, &mut runs, &mut each)
    }

    /// Stops tracking: removes the marks, so that writes cost what they did before. Makes one system call.
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

    fn mode(&self, change: u32, reports: bool) -> u32 {
        let what = match self.options.what {
            What::Written => EXPOSE_PGTBL_TRACK_WRITTEN,
            What::Accessed => EXPOSE_PGTBL_TRACK_ACCESSED,
        };
        let split = change == EXPOSE_PGTBL_TRACK_ARM && self.options.blocks == Blocks::Split;
        let absent = reports && self.options.absent;
        what | [
            (split, EXPOSE_PGTBL_TRACK_SPLIT),
            (absent, EXPOSE_PGTBL_TRACK_ABSENT),
        ]
        .iter()
        .fold(0, |mode, &(set, bit)| if set { mode | bit } else { mode })
    }
}
