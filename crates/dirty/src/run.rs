//! What is told of pages.

use tablewalk_uapi::track::{
    EXPOSE_PGTBL_RUN_ABSENT, EXPOSE_PGTBL_RUN_ACCESSED, EXPOSE_PGTBL_RUN_AWAY,
    EXPOSE_PGTBL_RUN_BLOCK, EXPOSE_PGTBL_RUN_BUSY, EXPOSE_PGTBL_RUN_NEW, EXPOSE_PGTBL_RUN_WRITTEN,
    ExposePgtblRun,
};
use tablewalk_walker::VirtualAddress;

/// Pages next to each other of which the same is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The first address.
    pub start: VirtualAddress,
    /// The address behind the last page.
    pub end: VirtualAddress,
    /// Why they are told.
    pub why: Why,
}

/// Why a page is told. [`Why::is_written`] and [`Why::is_accessed`] are certain, but for the size of a
/// block; the others say why nothing is certain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Why(u32);

impl Why {
    /// The entry was dirty: the page, or a page of the block, was written.
    #[must_use]
    pub const fn is_written(self) -> bool {
        self.0 & EXPOSE_PGTBL_RUN_WRITTEN != 0
    }

    /// The entry was young: the page, or a page of the block, was accessed.
    #[must_use]
    pub const fn is_accessed(self) -> bool {
        self.0 & EXPOSE_PGTBL_RUN_ACCESSED != 0
    }

    /// The entry has come, or was changed by the kernel, since the last time: first use by a read, a
    /// merger of pages, a block that was split or made, a move by `mremap`.
    #[must_use]
    pub const fn is_new(self) -> bool {
        self.0 & EXPOSE_PGTBL_RUN_NEW != 0
    }

    /// The page went to swap before anybody knew whether it had been written, or is on its way to another
    /// frame. Of shared memory: there is a page, and no entry that knows of it. It is told until it is
    /// mapped, or, in swap, until it has left the swap cache.
    #[must_use]
    pub const fn is_away(self) -> bool {
        self.0 & EXPOSE_PGTBL_RUN_AWAY != 0
    }

    /// Somebody has a reference to the page besides its mappings, as I/O under way has; a page that has
    /// just come is on a list of the kernel's for a while, too. It is told until nobody has. A huge page
    /// that is mapped more than once, after fork or as shared memory, is always told.
    #[must_use]
    pub const fn is_busy(self) -> bool {
        self.0 & EXPOSE_PGTBL_RUN_BUSY != 0
    }

    /// There is no page: what is read there are zeros, or what the file holds.
    #[must_use]
    pub const fn is_absent(self) -> bool {
        self.0 & EXPOSE_PGTBL_RUN_ABSENT != 0
    }

    /// The pages are those of a block, or blocks, of which each has one entry.
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
            why: Why(run.kind),
        }
    }
}
