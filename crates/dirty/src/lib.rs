//! Which pages of a process were written or accessed, round by round.
//!
//! A [`Tracker`] is for a range of addresses of one's own or another process: anonymous memory, shmem,
//! and private mappings of files. [`Tracker::start`] begins, [`Tracker::collect`] tells the pages that
//! were written (or accessed) since the start or the last `collect` and begins anew, and
//! [`Tracker::stop`] ends it: writes cost then what they did before.
//!
//! # What is promised
//!
//! - A write is told by the first `collect` that begins after it, or by the one that it falls into: then
//!   it is in the page when that `collect` has returned. None is missed, also when reclaim takes the page
//!   to swap and back, moves it to another frame, merges it, splits or makes a block of it, and when a
//!   system call or a device writes it. `mremap` counts as a write of what it moves.
//! - No page is told that was not written, but for the causes that [`Why`] gives: a block is one page to
//!   its entry; a page in swap, or whose entry is new, may have been written; one that I/O refers to may
//!   be written at any time.
//! - No contents are lost: what the kernel knows of a page that has to go to swap it knows as before.
//!
//! Not told are writes by somebody else: of another process that maps the same shmem or the same file,
//! and of a device that has translations of its own and does not write by page references (HMM). Two
//! trackers on the same pages take each other's news. A child inherits the state; `start` in it.
//!
//! # How it works
//!
//! The kernel does it (`EXPOSE_PGTBL_TRACK`): under the locks of memory management it marks the page dirty,
//! clears the dirty state of the entry and sets a mark there. The entry stays writable: the CPU makes it
//! dirty when it is written (`-cpu max`), or the kernel does in the shortest of its faults (Cortex-A72).
//!
//! [`Entries`] does the same from user space, for memory of one's own that cannot go to swap; its
//! documentation has the rules of the race with those who write.
//!
//! # Costs
//!
//! A call reads each entry of the range once: some 13 instructions for a page that was not written, 100 to
//! 200 for one that was, and a TLB invalidation at the end, one for all. `collect` makes one call for 512
//! runs of pages. A page that is written costs nothing, or one fault for each round without hardware
//! management of the dirty state.

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
pub use crate::run::{Run, Why};
pub use crate::tracker::{Blocks, Options, Tracker, What};

#[cfg(test)]
mod tests {
    use static_assertions::assert_impl_all;

    use super::*;

    assert_impl_all!(Tracker: Send, Sync);
    assert_impl_all!(Entries<'static>: Send, Sync);
    assert_impl_all!(DirtyError: Send, Sync);
}
