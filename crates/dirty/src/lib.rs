//! Reports which pages of a process were written or accessed, round by round.
//!
//! A [`Tracker`] covers an address range of the calling or of another process: anonymous memory, shmem, and
//! private mappings of files. [`Tracker::start`] starts the first round. [`Tracker::collect`] reports the
//! pages that were written (or accessed) in this round and starts the next one. [`Tracker::stop`] ends
//! tracking: writes then cost what they did before.
//!
//! # Guarantees
//!
//! - No write is missed. A write is reported by the first `collect` that begins after it, or by one that runs
//!   during it; in that case the page has its new contents when `collect` returns. This holds also when
//!   reclaim swaps the page out and back in, when the kernel migrates, merges, splits or collapses pages, and
//!   when a system call or a device writes. `mremap` counts as a write to the pages that it moves.
//! - There are no false positives except for the reasons in [`Reasons`]: a block has one entry for many
//!   pages; a page in swap, or with a new entry, may have been written; a page that is under I/O may be
//!   written at any time.
//! - No contents are lost: the kernel still knows whether it has to write a page to swap.
//!
//! Writes by others are not reported: by another process that maps the same shmem or file, and by a device
//! that has its own address translations and does not write through page references (HMM). Two trackers of
//! the same pages interfere: each consumes state that the other has not read. A child inherits the state;
//! call `start` in it.
//!
//! # How it works
//!
//! The kernel does the work (`EXPOSE_PGTBL_TRACK`): under the locks of memory management it marks the page
//! dirty, clears the dirty state of the entry and sets a mark in it. The entry stays writable. On the next
//! write the CPU makes it dirty (`-cpu max`), or the kernel does, on the fast path of its fault handler
//! (Cortex-A72).
//!
//! [`Entries`] does the same from user space, for memory of the caller that cannot be swapped out. Its
//! documentation explains the race with writers.
//!
//! # Costs
//!
//! A call reads each entry of the range once: about 13 instructions for a page that was not written, 100 to
//! 200 for one that was, and one TLB invalidation at the end. `collect` makes one call for each 512 runs of
//! pages. A write to a page costs nothing extra, or, without hardware management of the dirty state, one
//! fault for each page and round.

#![no_std]
#![deny(unsafe_code)]

mod entries;
mod error;
pub mod only_tracker;
mod round;
mod run;
mod tracker;

pub use crate::entries::Entries;
pub use crate::error::DirtyError;
pub use crate::run::{Reasons, Run};
pub use crate::tracker::{Blocks, Options, Tracker, What};

#[cfg(test)]
mod tests {
    use static_assertions::assert_impl_all;

    use super::*;

    assert_impl_all!(Tracker: Send, Sync);
    assert_impl_all!(Entries<'static>: Send, Sync);
    assert_impl_all!(DirtyError: Send, Sync);
}
