//! Resolves userfaultfd faults by moving page-table entries: from a pool of frames, allocated in advance, to
//! the address that was touched.
//!
//! A [`Pager`] has a region of private anonymous memory, and a [`Policy`] that decides the contents of its
//! pages. A page that is touched gets a frame of the pool, which is filled before any thread sees it.
//! [`Worker`]s do that: on threads that read the events of the userfaultfd ([`Worker::handle`]), or in the
//! faulting thread itself ([`Worker::resolve_own`], by `SIGBUS`). Any number of threads may fault, and there
//! may be up to 64 workers. The only allocations are mappings, when a pager or worker is made.
//!
//! # What a moved page is
//!
//! Frames in the pool are lent (`EXPOSE_PGTBL_LEND`): their reverse mapping leads nowhere, so reclaim and
//! migration do not touch their entries. Pool and region are one mapping when their first page is touched, so
//! they share one `anon_vma`, and `EXPOSE_PGTBL_ADOPT` repoints the reverse mapping of a moved page to its
//! new address: from then on it is swapped out, migrated, merged, copied at `fork`, poisoned, locked and
//! unmapped like any other page. Workers adopt the pages of a table together, shortly after they were mapped,
//! and when the worker is dropped; [`Worker::settle`] does it at once. The kernel takes pages back
//! (`EXPOSE_PGTBL_TAKE`) under the locks of its own fault handler.
//!
//! A worker that is killed between the two stores of a move loses the page that it was moving: at most one
//! for each worker. The kernel prints `Bad rss-counter state` then.
//!
//! # When an entry cannot be moved
//!
//! The kernel copies the page (`UFFDIO_COPY`, `UFFDIO_ZEROPAGE`) if it lacks the call or one of those three
//! forms, if there is no level-3 table or no frame, after other code moved or unmapped the region, and for a
//! page that was mapped before and not taken back since, as after `MADV_DONTNEED`. [`Counts::fallbacks`]
//! counts these pages.
//!
//! # What may be done with the region
//!
//! `madvise`, `mlock`, `fork` and reads and writes by system calls work as with other memory; the policy
//! decides the contents of discarded pages ([`Policy::discarded`]). With handlers, contents follow a part
//! that `mremap` moves, into up to 32 pieces; a page of a further piece is refused ([`Refusal::Never`]).
//! Memory that `mremap` adds to the region or leaves behind is zeros; in a child it is refused if the parent
//! has ever moved a part, since the layout of a child that was forked during `mremap` is not known.
//!
//! With signals there are no events of `mremap` or `munmap`, so neither is allowed: the kernel would map
//! zeros at the new address. A system call that touches a missing page fails with `EFAULT`. There are no
//! events of forks either: a child does not inherit the region (`MADV_DONTFORK`). With `MADV_DOFORK` children
//! get the present pages, and zeros for the others.
//!
//! # How long threads wait
//!
//! A thread that waits for a page continues when the page is present, when it is refused, and when a worker
//! fails with an error or a panic: then the access is repeated, and another handler gets the fault. It waits
//! as long as no thread is in [`Worker::handle`], or as long as all such threads wait themselves: see
//! [`Policy`]. The same holds for `fork`, `mremap`, `munmap` and `madvise` of the region, whose events the
//! handlers have to read.
//!
//! When a pager or a [`Child`] is dropped, missing pages become zeros, and no thread waits any more. But memory
//! that `mremap` added to the region stays watched as long as another process has a copy of the userfaultfd:
//! its size is in no event.
//!
//! A forked child waits for its pages until [`Pager::serve_child`] makes them, or its [`Child`] is dropped.
//! If the process with the pager is killed, neither happens, and a waiting child continues only when all
//! children that were forked after it have ended, since they have its userfaultfd too. A child that must not
//! wait in this case can ask for a signal when its parent ends (`PR_SET_PDEATHSIG`).
//!
//! In a forked child the pager is inactive: dropping it, or a worker, does nothing, and faults are resolved
//! only by [`Pager::serve_child`] in the parent.
//!
//! # What must not be done
//!
//! The region belongs to the pager, which gives out only its address; so these calls need `unsafe`:
//!
//! - `munmap`, `mremap` or `mmap` over a part of it while a worker resolves a fault of that part by moving
//!   entries. An entry that is installed at an unmapped address is lost, with its page. The kernel's own
//!   ioctls check for that, but a worker that moves entries cannot know of it in time. Pages must not be
//!   taken back during `mremap` either ([`Pager::take_back`], [`Policy::victims`]): a page that was moved to
//!   the address of another one is taken for that one until a handler has read the event.
//! - `madvise(MADV_HUGEPAGE)`: an entry that is installed while the kernel collapses its neighbours into a
//!   huge page is lost, with its page. The pager sets `MADV_NOHUGEPAGE` for the region, with which
//!   `MADV_COLLAPSE` fails.
//! - `mprotect`: use [`Pager::protect`], after which no entry is moved any more, since it would have the
//!   permissions of the pool.

#![no_std]
#![expect(unsafe_code, reason = "moves page-table entries")]

#[cfg(any(test, loom))]
extern crate std;

#[cfg(not(loom))]
mod check_shared;
mod child;
mod counts;
mod discards;
mod error;
mod events;
mod handled;
mod handler;
mod kernel;
mod layout;
#[cfg(test)]
#[cfg(loom)]
mod models;
mod moving;
mod mutex;
mod owner;
mod pager;
mod pages;
mod policy;
mod pool;
mod readers;
mod refill;
mod region;
mod rwlock;
mod signal;
mod space;
mod stop;
mod sync;
mod tables;
mod worker;

pub use crate::child::Child;
pub use crate::counts::Counts;
pub use crate::error::PagerError;
pub use crate::pager::{Delivery, Options, Pager};
pub use crate::policy::{Clock, Neighbours, Policy, Refusal, Sequential};
pub use crate::worker::Worker;
