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
mod pages;
mod policy;
mod pool;
mod readers;
mod refill;
mod rwlock;
mod signal;
mod space;
mod stop;
mod sync;
mod worker;

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tablewalk_live::{flush, format};
use tablewalk_uapi::file::O_NONBLOCK;
use tablewalk_uapi::memory::{self, Advice, Protection, munmap};
use tablewalk_uapi::remap::{self, EXPOSE_PGTBL_ADOPT, EXPOSE_PGTBL_LEND, EXPOSE_PGTBL_TAKE};
use tablewalk_uapi::userfault::{
    UFFD_FEATURE_EVENT_FORK, UFFD_FEATURE_EVENT_REMAP, UFFD_FEATURE_EVENT_REMOVE,
    UFFD_FEATURE_EVENT_UNMAP, UFFD_FEATURE_SIGBUS,
};
use tablewalk_uapi::{Errno, Mapping};
use tablewalk_walker::{Format, Level, VirtualAddress};

pub use crate::child::Child;
use crate::counts::Counters;
pub use crate::counts::Counts;
use crate::discards::Discards;
pub use crate::error::PagerError;
use crate::events::Userfault;
use crate::layout::Layout;
use crate::owner::Owner;
use crate::pages::PageSet;
pub use crate::policy::{Clock, Neighbours, Policy, Refusal, Sequential};
use crate::pool::Ring;
use crate::readers::Readers;
use crate::rwlock::RwLock;
use crate::space::Space;
use crate::stop::Stops;
use crate::worker::LEAVES;
pub use crate::worker::Worker;

/// How faults reach a [`Worker`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// As events, to threads that call [`Worker::handle`].
    Threads,
    /// As signals, to the thread that faults, inside [`Worker::resolve_own`].
    Signals,
}

/// The options of a pager.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Pages of the region.
    pub pages: usize,
    /// Maximum number of frames in the pool.
    pub frames: usize,
    /// A worker refills the pool when it has fewer frames than this and no thread waits.
    pub low_water: usize,
    /// Whether the frames in the pool are locked in memory. Costs some instructions for each page that leaves
    /// the pool.
    pub locked: bool,
    /// How faults are delivered.
    pub delivery: Delivery,
}

/// A region whose missing pages come from a pool.
#[derive(Debug)]
pub struct Pager<P> {
    policy: P,
    /// The pool, a gap, and the region. Unmapped only when no TLB has entries that were moved out of the
    /// pool.
    memory: core::mem::ManuallyDrop<Mapping>,
    page_shift: u32,
    /// Bytes of the memory before the region.
    offset: usize,
    options: Options,
    /// `None` if entries cannot be moved on this kernel.
    format: Option<Format>,
    space: Space,
    /// The number of handlers that should end.
    stop: Stops,
    owner: Owner,
    /// The pages that were mapped, by an entry of ours or by the kernel, and not taken back since: no entry
    /// is installed for them, and one thread can add a page.
    ///
    /// An entry that reads 0 may still be in use: while the kernel unmaps a page, the entry is 0 until the
    /// TLBs are flushed, and the kernel then writes it again. An entry installed in between would be lost,
    /// with its page.
    came: PageSet,
    ring: Ring,
    /// Between the check that a page is missing and the store of its entry, no thread may
    ///
    /// - take pages back: otherwise the page could be mapped, written, taken back, and mapped again with its
    ///   old contents;
    /// - have the kernel copy a page: the kernel checks that the entry is empty and then writes it, and only
    ///   its own lock makes these two steps one.
    ///
    /// So workers that move entries hold this lock for reading, and workers that do either of these hold it
    /// for writing. When moves have ended, copies by the kernel do not need it.
    map_lock: RwLock,
    /// Whether entries may still be moved.
    moving: AtomicBool,
    /// A bit for each worker.
    workers: AtomicU64,
    readers: Readers,
    counters: Counters,
}

/// The features that UFFDIO_API requests if handlers read events.
const EVENTS: u64 =
    (UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP) as u64;

impl<P: Policy> Pager<P> {
    /// Maps and registers an empty region, and fills the pool.
    ///
    /// # Errors
    ///
    /// [`PagerError::Size`] if the number of pages or frames is 0 or too large; [`PagerError::Call`] with the
    /// system call that failed. It is not an error if entries cannot be moved: see [`Pager::moves`].
    pub fn new(options: Options, policy: P) -> Result<Self, PagerError> {
        Self::with_format(options, policy, movable_format()?)
    }

    /// Like [`Pager::new`], for tables of this format.
    fn with_format(
        options: Options,
        policy: P,
        format: Option<Format>,
    ) -> Result<Self, PagerError> {
        let page_shift = match &format {
            Some(format) => format.geometry.page_shift(),
            None => memory::page_shift().map_err(PagerError::call("madvise"))?,
        };
        let size = |pages: usize| {
            let bytes = pages.checked_mul(1 << page_shift);
            bytes.filter(|&bytes| bytes != 0 && bytes <= isize::MAX.cast_unsigned())
        };
        let bad_size = PagerError::Size {
            pages: options.pages,
            frames: options.frames,
        };
        let (Some(pool), Some(region)) = (size(options.frames), size(options.pages)) else {
            return Err(bad_size);
        };
        // Aligned to the span of a level-3 table, so that no block of neighbours crosses two tables.
        let span = 1_usize << (2 * page_shift - 3);
        let total = pool
            .checked_add(2 * span)
            .and_then(|bytes| bytes.checked_add(region))
            .ok_or(bad_size)?;
        let memory =
            Mapping::reserve(total, Protection::READ_WRITE).map_err(PagerError::call("mmap"))?;
        prepare(&memory, pool, 1 << page_shift)?;
        let past_pool = memory.address() + pool as u64;
        let start = past_pool.next_multiple_of(span as u64);
        let offset = pool + offset_of(start - past_pool);
        prepare_tables(&memory, offset..offset + region, span, 1 << page_shift)?;

        let features = match options.delivery {
            Delivery::Threads if policy.hears_of_discards() => {
                EVENTS | u64::from(UFFD_FEATURE_EVENT_REMOVE)
            }
            Delivery::Threads => EVENTS,
            Delivery::Signals => UFFD_FEATURE_SIGBUS.into(),
        };
        // Before the memory is kept for good.
        let stop = Stops::new().map_err(PagerError::call("pipe"))?;
        let owner = Owner::new(1 << page_shift).map_err(PagerError::call("MADV_WIPEONFORK"))?;
        let came =
            PageSet::new(options.pages, 1 << page_shift).map_err(PagerError::call("mmap"))?;
        let discards = match options.delivery {
            Delivery::Threads if policy.hears_of_discards() => {
                Discards::heard(options.pages, 1 << page_shift).map_err(PagerError::call("mmap"))?
            }
            _ => Discards::unheard(),
        };
        let uffd = watch(&memory, offset..offset + region, features)?;
        if options.delivery == Delivery::Signals {
            // There is no event of a fork, and missing pages would be zeros in a child.
            memory
                .advise(offset..offset + region, Advice::DontFork)
                .map_err(PagerError::call("MADV_DONTFORK"))?;
        }
        if options.locked {
            memory
                .lock(0..pool, true)
                .map_err(PagerError::call("mlock"))?;
        }
        let pager = Self {
            policy,
            memory: core::mem::ManuallyDrop::new(memory),
            page_shift,
            offset,
            options,
            moving: AtomicBool::new(format.is_some()),
            format,
            space: Space::new(
                uffd,
                options.delivery,
                Layout::new(start, region as u64, page_shift),
                discards,
                page_shift,
            ),
            stop,
            owner,
            came,
            ring: Ring::new(options.frames as u64),
            map_lock: RwLock::new(),
            workers: AtomicU64::new(0),
            readers: Readers::new(),
            counters: Counters::default(),
        };
        if pager.moves() {
            match pager.refill(u64::MAX, 0) {
                // Without CAP_IPC_LOCK the kernel lends no page.
                Err(PagerError::Call(_, Errno::EPERM)) => {
                    pager.moving.store(false, Ordering::Relaxed);
                }
                result => result?,
            }
        }
        Ok(pager)
    }

    /// Returns a pointer to the first byte of the region.
    ///
    /// As with [`Mapping::as_ptr`], code that makes a reference is responsible for the pages behind it.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.memory.as_ptr().wrapping_add(self.offset)
    }

    /// Returns the address of the first byte of the region.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.as_ptr().expose_provenance() as u64
    }

    /// Returns the size of the region in bytes.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.options.pages << self.page_shift
    }

    /// Returns the page size in bytes.
    #[must_use]
    pub const fn page_size(&self) -> usize {
        1 << self.page_shift
    }

    /// The policy.
    #[must_use]
    pub const fn policy(&self) -> &P {
        &self.policy
    }

    /// Returns the counters, which were 0 when the pager was made.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// Returns the number of frames in the pool.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.ring.available()
    }

    /// Returns whether entries are moved; if not, every page is a fallback.
    #[must_use]
    pub fn moves(&self) -> bool {
        self.moving.load(Ordering::Relaxed)
    }

    /// Calls mprotect(2) for the bytes in `range`, whole pages, relative to the start of the region. From
    /// then on no entry is moved: the kernel makes all further pages, with the protection of their address.
    ///
    /// # Errors
    ///
    /// [`PagerError::Forked`], [`PagerError::Call`]: `EINVAL` for a range that is not inside the region, or
    /// of which a part was moved.
    pub fn protect(&self, range: Range<usize>, protection: Protection) -> Result<(), PagerError> {
        self.check_owner()?;
        let refused = PagerError::Call("mprotect", Errno::EINVAL);
        if range.start > range.end || range.end > self.size() {
            return Err(refused);
        }
        let _lock = self.map_lock.write();
        let layout = self.space.lock();
        let address = |offset: usize| self.address() + offset as u64;
        if !layout.is_original(
            &(address(range.start)..address(range.end)),
            range.start as u64,
        ) {
            return Err(refused);
        }
        let range = self.offset + range.start..self.offset + range.end;
        self.moving.store(false, Ordering::SeqCst);
        self.memory
            .protect(range, protection)
            .map_err(PagerError::call("mprotect"))
    }

    /// Makes `handlers` workers that are in [`Worker::handle`], or will call it, return. Does not wait for
    /// them: the code that has started their threads can join these. Several threads may call this at once,
    /// and any number of times. Do not count a worker that has failed with an error or a panic: another one
    /// would end in its place, perhaps the next that is started.
    pub fn stop(&self, handlers: usize) {
        self.stop.add(handlers as u64);
    }

    /// Returns the addresses of the pool's slots, for tests that look for a frame.
    #[must_use]
    pub fn pool(&self) -> Range<u64> {
        let start = self.memory.address();
        start..start + ((self.options.frames as u64) << self.page_shift)
    }

    /// Returns whether this process made the pager, and is not a child.
    fn is_owner(&self) -> bool {
        self.owner.is_here()
    }

    fn check_owner(&self) -> Result<(), PagerError> {
        if self.is_owner() {
            Ok(())
        } else {
            Err(PagerError::Forked)
        }
    }

    /// Returns the address of page `page` of the region, unless it was moved.
    fn page_address(&self, page: usize) -> VirtualAddress {
        VirtualAddress(self.address() + ((page as u64) << self.page_shift))
    }

    /// Returns the number of the page at `address`, if it is in the region and was not moved.
    fn page_at(&self, address: u64) -> Option<usize> {
        let page = address.wrapping_sub(self.address()) >> self.page_shift;
        let page = usize::try_from(page).ok()?;
        (page < self.options.pages).then_some(page)
    }

    /// Returns the address of slot `slot` of the pool.
    fn slot_address(&self, slot: u64) -> VirtualAddress {
        VirtualAddress(self.memory.address() + (slot << self.page_shift))
    }

    /// Returns the bytes of slot `slot` of the pool.
    ///
    /// # Safety
    ///
    /// The caller has claimed the slot, the slot has a page, and there is no other slice of it.
    #[expect(clippy::mut_from_ref, reason = "the caller's promise")]
    unsafe fn slot_bytes(&self, slot: u64) -> &mut [u8] {
        let offset = offset_of(slot << self.page_shift);
        let start = self.memory.as_ptr().wrapping_add(offset);
        // SAFETY: inside the memory; the rest is the caller's promise.
        unsafe { core::slice::from_raw_parts_mut(start, self.page_size()) }
    }

    /// Returns the number of pages that one level-3 table translates.
    const fn table_pages(&self) -> usize {
        1 << (self.page_shift - 3)
    }
}

/// The forms without which a moved page would not become an ordinary one.
const FORMS: u32 = EXPOSE_PGTBL_ADOPT | EXPOSE_PGTBL_LEND | EXPOSE_PGTBL_TAKE;

/// Returns the format of the tables, if entries can be moved.
fn movable_format() -> Result<Option<Format>, PagerError> {
    match remap::info() {
        // Without permission, or without the call, the kernel's ioctls are used.
        Err(Errno::ENOSYS | Errno::EPERM) => return Ok(None),
        Err(errno) => return Err(PagerError::Call("INFO", errno)),
        Ok(info) if info.flags & FORMS != FORMS => return Ok(None),
        Ok(_) => {}
    }
    format().map(Some).map_err(PagerError::Tables)
}

/// Splits the first `pool` bytes of `memory` off into a separate mapping with the same `anon_vma`, which a
/// child does not inherit. Disables huge pages, and NUMA balancing, which changes entries to find out which
/// CPUs use a page.
fn prepare(memory: &Mapping, pool: usize, page: usize) -> Result<(), PagerError> {
    memory.stay_local().map_err(PagerError::call("mbind"))?;
    memory
        .base_pages_only()
        .map_err(PagerError::call("MADV_NOHUGEPAGE"))?;
    // The first page creates the anon_vma; a mapping that is split off afterwards shares it.
    memory
        .advise(0..page, Advice::PopulateWrite)
        .map_err(PagerError::call("MADV_POPULATE_WRITE"))?;
    memory
        .advise(0..pool, Advice::DontFork)
        .map_err(PagerError::call("MADV_DONTFORK"))
}

/// Has the kernel make the first level-3 tables of `region`, a part of `memory`: as many as workers keep
/// mapped, each for `span` bytes. The tables stay when their pages are discarded.
fn prepare_tables(
    memory: &Mapping,
    region: Range<usize>,
    span: usize,
    page: usize,
) -> Result<(), PagerError> {
    for start in region.clone().step_by(span).take(LEAVES) {
        memory
            .advise(start..start + page, Advice::PopulateRead)
            .map_err(PagerError::call("MADV_POPULATE_READ"))?;
    }
    memory
        .advise(region, Advice::DontNeed)
        .map_err(PagerError::call("MADV_DONTNEED"))
}

/// Returns a userfaultfd for the missing pages of a part of `memory`.
fn watch(memory: &Mapping, part: Range<usize>, features: u64) -> Result<Userfault, PagerError> {
    let uffd = Userfault::open(O_NONBLOCK).map_err(PagerError::call("userfaultfd"))?;
    uffd.enable(features)
        .map_err(PagerError::call("UFFDIO_API"))?;
    uffd.register_part(memory, part)
        .map_err(PagerError::call("UFFDIO_REGISTER"))?;
    Ok(uffd)
}

/// Converts an offset inside a mapping.
#[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits")]
const fn offset_of(distance: u64) -> usize {
    distance as usize
}

impl<P> Drop for Pager<P> {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            // The userfaultfd watches the parent's region, and a child has other mappings at the address of
            // the pool.
            return;
        }
        // SAFETY: the region is not used after this.
        if !unsafe { self.space.unregister(false) } {
            // `munmap` would wait for ever, so the address space is leaked.
            return;
        }
        let layout = self.space.lock();
        // Entries were moved out of the pool, and `munmap` invalidates TLBs only where it finds an entry.
        if let Some(format) = &self.format {
            let start = VirtualAddress(self.memory.address());
            let end = start.wrapping_add((self.options.frames as u64) << self.page_shift);
            if flush(0, &format.geometry, start..end).is_err() {
                // The address space is leaked.
                return;
            }
        }
        let start = self.memory.address() + self.offset as u64;
        let length = (self.options.pages << self.page_shift) as u64;
        if layout.is_original(&(start..start + length), 0) {
            // SAFETY: unmapped once, and not used after this.
            unsafe { core::mem::ManuallyDrop::drop(&mut self.memory) };
            return;
        }
        // The parts that were not moved. A part that was moved belongs to the code that moved it.
        unmap(self.memory.address()..start);
        unmap(start + length..self.memory.address() + self.memory.size() as u64);
        layout.mapped(&mut |range| {
            if layout.is_original(&range, range.start.wrapping_sub(start)) {
                unmap(range);
            }
        });
    }
}

/// Unmaps memory of a pager that is dropped.
fn unmap(range: Range<u64>) {
    if range.is_empty() {
        return;
    }
    let start = core::ptr::with_exposed_provenance_mut(offset_of(range.start));
    // SAFETY: it is not used any more.
    let _ = unsafe { munmap(start, offset_of(range.end - range.start)) };
}

/// The level of leaf tables.
const LEAF: Level = Level::L3;
