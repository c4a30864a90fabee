//! What is reported about pages.

use tablewalk_uapi::track::{
    EXPOSE_PGTBL_RUN_ABSENT, EXPOSE_PGTBL_RUN_ACCESSED, EXPOSE_PGTBL_RUN_AWAY,
    EXPOSE_PGTBL_RUN_BLOCK, EXPOSE_PGTBL_RUN_BUSY, EXPOSE_PGTBL_RUN_NEW, EXPOSE_PGTBL_RUN_WRITTEN,
    ExposePgtblRun,
};
use tablewalk_walker::VirtualAddress;

/// Consecutive pages that are reported for the same reasons.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The first address.
    pub start: VirtualAddress,
    /// The address after the last page.
    pub end: VirtualAddress,
    /// Why they are reported.
    pub reasons: Reasons,
}

/// Why a page is reported. [`Reasons::is_written`] and [`Reasons::is_accessed`] are certain, except that a
/// block stands for all of its pages. The other reasons say why the kernel cannot know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reasons(u32);

impl Reasons {
    /// Returns whether the entry was dirty: the page, or a page of the block, was written.
    #[must_use]
    pub const fn is_written(self) -> bool {
        self.0 & EXPOSE_PGTBL_RUN_WRITTEN != 0
    }

    /// Returns whether the entry was young: the page, or a page of the block, was accessed.
    #[must_use]
    pub const fn is_accessed(self) -> bool {
        self.0 & EXPOSE_PGTBL_RUN_ACCESSED != 0
    }

    /// Returns whether the entry was made, or changed by the kernel, since the last round: by a first read
    /// access, by merging pages, by splitting a block or collapsing pages into one, or by `mremap`.
    #[must_use]
    pub const fn is_new(self) -> bool {
        self.0 & EXPOSE_PGTBL_RUN_NEW != 0
    }

    /// Returns whether the page was swapped out before it was known whether it had been written, or is being
    /// migrated. For shared memory: the page exists, and this process has no entry for it. Such a page is
    /// reported until it is mapped or, if swapped out, until it has left the swap cache.
    #[must_use]
    pub const fn is_away(self) -> bool {
        self.0 & EXPOSE_PGTBL_RUN_AWAY != 0
    }

    /// Returns whether the page has a reference besides its mappings, as during I/O. A new page has one for a
    /// while, too, because it waits on a per-CPU list for the LRU. It is reported until the reference is
    /// gone. A huge page that is mapped more than once, after fork or as shared memory, is always reported.
    #[must_use]
    pub const fn is_busy(self) -> bool {
        self.0 & EXPOSE_PGTBL_RUN_BUSY != 0
    }

    /// Returns whether there is no page: reads give zeros, or the contents of the file.
    #[must_use]
    pub const fn is_absent(self) -> bool {
        self.0 & EXPOSE_PGTBL_RUN_ABSENT != 0
    }

    /// Returns whether the pages belong to blocks, each of which has one entry.
    #[must_use]
    pub const fn is_block(self) -> bool {
        self.0 & EXPOSE_PGTBL_RUN_BLOCK != 0
    }
}

impl From<ExposePgtblRun> for Run {
    fn from(run: ExposePgtblRun) -> Self {
        Self {
            start: VirtualAddress(run.start),
            end: VirtualAddress(run.end),
            reasons: Reasons(run.kind),
        }
    }
}
