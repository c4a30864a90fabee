//! Resolves userfaultfd faults by moving page-table entries: from a pool of frames that the kernel gave
//! out before to the place that was touched.
//!
//! A [`Pager`] has a region of private anonymous memory, and a [`Policy`] says what its pages hold. A page
//! that is touched gets a frame of the pool, which is filled before anybody sees it. [`Worker`]s do that:
//! on threads that read the events of the userfaultfd ([`Worker::handle`]), or in the thread that
//! touches ([`Worker::resolve_own`], by `SIGBUS`). Any number of threads may fault, and up to 64 may
//! work. Nothing is allocated but mappings, when a pager or worker is made.
//!
//! # What a moved page is
//!
//! Frames in the pool are lent (`EXPOSE_PGTBL_LEND`): their reverse map leads nowhere, so reclaim and
//! migration leave their entries to the workers. Pool and region are one mapping when their first page is
//! touched, so they have one `anon_vma`, and `EXPOSE_PGTBL_ADOPT` makes a moved page one of its place:
//! from then on it is swapped out, migrated, merged, copied at `fork`, poisoned, locked and unmapped as
//! any other page. Workers adopt pages by the table, shortly after they were mapped, and when they are
//! dropped; [`Worker::settle`] does it at once. Pages are taken back by the kernel
//! (`EXPOSE_PGTBL_TAKE`), under the locks that its own fault handler takes.
//!
//! A worker that is killed between the two stores of a move loses the page that it was moving: one for
//! each worker at most. The kernel says `Bad rss-counter state` then.
//!
//! # When an entry cannot be moved
//!
//! Without the call, or without those three forms, without a level-3 table, without a frame, after the
//! region was moved or unmapped by somebody else, and for a page that has been there and was not taken back
//! since, as after `MADV_DONTNEED`, the kernel copies (`UFFDIO_COPY`, `UFFDIO_ZEROPAGE`).
//! [`Counts::fallbacks`] says how often.
//!
//! # What may be done with the region
//!
//! `madvise`, `mlock`, `fork` and reads and writes by system calls are as with other memory; what pages
//! hold that were discarded is the policy's affair ([`Policy::discarded`]). With handlers, contents follow
//! a part that `mremap` moves, into up to 32 pieces; a page of a piece beyond them is refused
//! ([`Refusal::Never`]). What `mremap` adds to the region or leaves behind is zeros; in a child it is
//! refused if the parent has ever moved a part, since what a child has that was forked beside `mremap` is
//! not known.
//!
//! With signals, nobody hears of `mremap` or `munmap`, so that neither may be done: the kernel would have
//! zeros at the new place. A system call that touches a page which is not there fails with `EFAULT`. Nor
//! does anybody hear of a fork: a child has no region at all (`MADV_DONTFORK`). Who says `MADV_DOFORK` gives
//! children the pages that are there, and zeros for the others.
//!
//! # Which waits end
//!
//! A thread that waits for a page goes on when it is there, when it is refused, and when a worker gives up,
//! by an error or a panic: the access is made again, and another handler hears of it. It waits as long as
//! nobody is in [`Worker::handle`], or all that are wait for something themselves: see [`Policy`]. So do
//! `fork`, `mremap`, `munmap` and `madvise` of the region, whose events the handlers have to read.
//!
//! A forked child waits for its pages until [`Pager::serve_child`] makes them, or its [`Child`] is dropped.
//! Where the process with the pager is killed, nobody does either, and each of its children that waits goes
//! on only when all that were forked after it have ended: they have its userfaultfd, too. A child that must
//! not wait so asks for a signal when its parent ends (`PR_SET_PDEATHSIG`).
//!
//! In a forked child a pager is a shell: dropping it, or a worker, does nothing, and nothing is resolved
//! there but by [`Pager::serve_child`] in the parent.
//!
//! # What must not be done
//!
//! The region belongs to the pager, which hands out its address alone; so these need `unsafe`:
//!
//! - `munmap`, `mremap` or `mmap` over a part of it while a worker resolves a fault of that part, where
//!   entries are moved. An entry that is installed where nothing is mapped any more is lost, with its
//!   page. The kernel's own ioctls refuse that, and what moves entries cannot know of it in time. For the
//!   same reason a page that is touched while another thread discards it may keep what it held before.
//!   Nor may pages be taken back meanwhile ([`Pager::take_back`], [`Policy::victims`]): one that was moved to
//!   the place of another is taken for that one until a handler has read of it.
//! - `madvise(MADV_HUGEPAGE)`: an entry that is installed while the kernel makes a huge page of its
//!   neighbours is lost, with its page. The region says `MADV_NOHUGEPAGE`, and `MADV_COLLAPSE` fails.
//! - `mprotect`: [`Pager::protect`] does it, and no entry is moved from then on, since it would have the
//!   permissions of the pool.

#![no_std]
#![expect(unsafe_code, reason = "moves page-table entries")]

#[cfg(any(test, loom))]
extern crate std;

mod came;
#[cfg(not(loom))]
mod check_shared;
mod child;
mod counts;
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

use crate::came::Came;
pub use crate::child::Child;
use crate::counts::Counters;
pub use crate::counts::Counts;
pub use crate::error::PagerError;
use crate::events::Userfault;
use crate::layout::Layout;
use crate::owner::Owner;
pub use crate::policy::{Clock, Neighbours, Policy, Refusal, Sequential};
use crate::pool::Ring;
use crate::readers::Readers;
use crate::rwlock::RwLock;
use crate::space::Space;
use crate::stop::Stops;
use crate::worker::LEAVES;
pub use crate::worker::Worker;

/// How faults get to a [`Worker`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// As events, to threads that call [`Worker::handle`].
    Threads,
    /// As signals, to the thread that faults, inside [`Worker::resolve_own`].
    Signals,
}

/// What a pager is to have.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Pages of the region.
    pub pages: usize,
    /// Frames in the pool at most.
    pub frames: usize,
    /// With fewer than this a worker refills the pool, when those that wait have gone on.
    pub low_water: usize,
    /// Whether the frames in the pool are locked in memory. Costs instructions for each page that leaves.
    pub locked: bool,
    /// How faults are delivered.
    pub delivery: Delivery,
}

/// A region whose missing pages come from a pool.
#[derive(Debug)]
pub struct Pager<P> {
    policy: P,
    /// The pool, a gap, and the region. Gone only when no TLB has what was moved out of the pool.
    memory: core::mem::ManuallyDrop<Mapping>,
    page_shift: u32,
    /// Bytes of the memory before the region.
    offset: usize,
    options: Options,
    /// `None` if entries cannot be moved on this kernel.
    format: Option<Format>,
    space: Space,
    /// How many handlers are to end.
    stop: Stops,
    owner: Owner,
    /// The pages that are there, or have been: no entry is put in their place.
    came: Came,
    ring: Ring,
    /// Between the moment that a page is found missing and the one at which it is there, nobody
    ///
    /// - takes pages back: otherwise it could come, be written, go, and come again with what it held before;
    /// - has the kernel copy a page: it looks whether the entry is empty and writes it then, and only its
    ///   own lock makes one of the two.
    ///
    /// So who moves entries holds this for reading, and who does either holds it for writing. When no entry
    /// is moved any more, nobody needs it to have the kernel copy.
    map_lock: RwLock,
    /// Whether entries may be moved still.
    moving: AtomicBool,
    /// A bit for each worker.
    workers: AtomicU64,
    readers: Readers,
    counters: Counters,
}

/// What UFFDIO_API is asked for beside faults, where handlers read events.
const EVENTS: u64 =
    (UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP) as u64;

impl<P: Policy> Pager<P> {
    /// Maps and registers a region without pages, and fills the pool.
    ///
    /// # Errors
    ///
    /// [`PagerError::Size`] for no pages, no frames, or too many; [`PagerError::Call`] with the system
    /// call that failed. That entries cannot be moved is no error: see [`Pager::moves`].
    pub fn new(options: Options, policy: P) -> Result<Self, PagerError> {
        Self::with_format(options, policy, movable_format()?)
    }

    /// As [`Pager::new`], for tables of that format.
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
        // What one level-3 table translates: blocks of neighbours are not cut by its end.
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
        let came = Came::new(options.pages, 1 << page_shift).map_err(PagerError::call("mmap"))?;
        let uffd = watch(&memory, offset..offset + region, features)?;
        if options.delivery == Delivery::Signals {
            // Nobody hears of a fork: pages that are missing in a child would be zeros.
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
                // Without CAP_IPC_LOCK the kernel lends nothing.
                Err(PagerError::Call(_, Errno::EPERM)) => {
                    pager.moving.store(false, Ordering::Relaxed);
                }
                result => result?,
            }
        }
        Ok(pager)
    }

    /// The first byte of the region.
    ///
    /// As with [`Mapping::as_ptr`], whoever makes a reference answers for the pages behind it.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.memory.as_ptr().wrapping_add(self.offset)
    }

    /// The address of the first byte of the region.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.as_ptr().expose_provenance() as u64
    }

    /// Bytes of the region.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.options.pages << self.page_shift
    }

    /// Bytes of a page.
    #[must_use]
    pub const fn page_size(&self) -> usize {
        1 << self.page_shift
    }

    /// The policy.
    #[must_use]
    pub const fn policy(&self) -> &P {
        &self.policy
    }

    /// What was done since the pager was made.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// Frames in the pool.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.ring.available()
    }

    /// Whether entries are moved; if not, every page is a fallback.
    #[must_use]
    pub fn moves(&self) -> bool {
        self.moving.load(Ordering::Relaxed)
    }

    /// mprotect(2) of the bytes in `range`, relative to the start of the region, whole pages. From now on
    /// the kernel makes the pages that come, with the protection that their place has: no entry is moved.
    ///
    /// # Errors
    ///
    /// [`PagerError::Forked`], [`PagerError::Call`]; `EINVAL` for a range that is not inside the region, or of which a part was
    /// moved.
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

    /// Tells `handlers` workers that are in [`Worker::handle`], or will be, to return. Does not wait for
    /// them: whoever has started their threads does. May be called by several at once, and any number of
    /// times. One that has ended by an error or a panic is not to be counted: another one would end in its
    /// place, the next that is started maybe.
    pub fn stop(&self, handlers: usize) {
        self.stop.add(handlers as u64);
    }

    /// The addresses of the slots of the pool: for tests, which ask who has a frame.
    #[must_use]
    pub fn pool(&self) -> Range<u64> {
        let start = self.memory.address();
        start..start + ((self.options.frames as u64) << self.page_shift)
    }

    /// Whether this process has made the pager, and is not a child.
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

    /// The address of page `page` of the region, unless that was moved.
    fn page_address(&self, page: usize) -> VirtualAddress {
        VirtualAddress(self.address() + ((page as u64) << self.page_shift))
    }

    /// The number of the page at `address`, if it is one of the region, unless that was moved.
    fn page_at(&self, address: u64) -> Option<usize> {
        let page = address.wrapping_sub(self.address()) >> self.page_shift;
        let page = usize::try_from(page).ok()?;
        (page < self.options.pages).then_some(page)
    }

    /// The address of slot `slot` of the pool.
    fn slot_address(&self, slot: u64) -> VirtualAddress {
        VirtualAddress(self.memory.address() + (slot << self.page_shift))
    }

    /// The bytes of slot `slot` of the pool.
    ///
    /// # Safety
    ///
    /// The caller has claimed the slot, it has a page, and there is no other slice of it.
    #[expect(clippy::mut_from_ref, reason = "the caller's promise")]
    unsafe fn slot_bytes(&self, slot: u64) -> &mut [u8] {
        let offset = offset_of(slot << self.page_shift);
        let start = self.memory.as_ptr().wrapping_add(offset);
        // SAFETY: inside the memory; the rest is the caller's promise.
        unsafe { core::slice::from_raw_parts_mut(start, self.page_size()) }
    }

    /// Pages that one level-3 table translates.
    const fn table_pages(&self) -> usize {
        1 << (self.page_shift - 3)
    }
}

/// Without these, pages that were moved are not ordinary ones.
const FORMS: u32 = EXPOSE_PGTBL_ADOPT | EXPOSE_PGTBL_LEND | EXPOSE_PGTBL_TAKE;

/// The format of the tables, if entries can be moved.
fn movable_format() -> Result<Option<Format>, PagerError> {
    match remap::info() {
        // Who may not, or cannot, has the kernel's ioctls.
        Err(Errno::ENOSYS | Errno::EPERM) => return Ok(None),
        Err(errno) => return Err(PagerError::Call("INFO", errno)),
        Ok(info) if info.flags & FORMS != FORMS => return Ok(None),
        Ok(_) => {}
    }
    format().map(Some).map_err(PagerError::Tables)
}

/// Makes `pool` bytes of `memory` a mapping of their own with the same `anon_vma` as the rest, which a
/// child does not get; no huge pages anywhere, and nobody who changes entries to find out who uses them.
fn prepare(memory: &Mapping, pool: usize, page: usize) -> Result<(), PagerError> {
    memory.stay_local().map_err(PagerError::call("mbind"))?;
    memory
        .base_pages_only()
        .map_err(PagerError::call("MADV_NOHUGEPAGE"))?;
    // The first page makes the anon_vma; what is split off afterwards shares it.
    memory
        .advise(0..page, Advice::PopulateWrite)
        .map_err(PagerError::call("MADV_POPULATE_WRITE"))?;
    memory
        .advise(0..pool, Advice::DontFork)
        .map_err(PagerError::call("MADV_DONTFORK"))
}

/// Has the kernel make the first level-3 tables of `region`, a part of `memory`, as many as workers keep:
/// each translates `span` bytes. They stay when their pages go.
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

/// A userfaultfd for the missing pages of a part of `memory`.
fn watch(memory: &Mapping, part: Range<usize>, features: u64) -> Result<Userfault, PagerError> {
    let uffd = Userfault::open(O_NONBLOCK).map_err(PagerError::call("userfaultfd"))?;
    uffd.enable(features)
        .map_err(PagerError::call("UFFDIO_API"))?;
    uffd.register_part(memory, part)
        .map_err(PagerError::call("UFFDIO_REGISTER"))?;
    Ok(uffd)
}

/// A distance in memory that is mapped.
#[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits")]
const fn offset_of(distance: u64) -> usize {
    distance as usize
}

impl<P> Drop for Pager<P> {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            // The userfaultfd watches the parent's region, and a child has other things where the pool was.
            return;
        }
        // SAFETY: nobody uses the region after this.
        if !unsafe { self.space.unregister(false) } {
            // `munmap` would wait for ever: the addresses are not given to anybody else.
            return;
        }
        let layout = self.space.lock();
        // Entries were taken out of the pool: `munmap` invalidates only where it finds one.
        if let Some(format) = &self.format {
            let start = VirtualAddress(self.memory.address());
            let end = start.wrapping_add((self.options.frames as u64) << self.page_shift);
            if flush(0, &format.geometry, start..end).is_err() {
                // The addresses are not given to anybody else.
                return;
            }
        }
        let start = self.memory.address() + self.offset as u64;
        let length = (self.options.pages << self.page_shift) as u64;
        if layout.is_original(&(start..start + length), 0) {
            // SAFETY: once, and nobody uses it after this.
            unsafe { core::mem::ManuallyDrop::drop(&mut self.memory) };
            return;
        }
        // What is left at its place. A part that was moved is whose it is where it is.
        unmap(self.memory.address()..start);
        unmap(start + length..self.memory.address() + self.memory.size() as u64);
        layout.mapped(&mut |range| {
            if layout.is_original(&range, range.start.wrapping_sub(start)) {
                unmap(range);
            }
        });
    }
}

/// Unmaps memory of a pager that ends.
fn unmap(range: Range<u64>) {
    if range.is_empty() {
        return;
    }
    let start = core::ptr::with_exposed_provenance_mut(offset_of(range.start));
    // SAFETY: nobody uses it any more.
    let _ = unsafe { munmap(start, offset_of(range.end - range.start)) };
}

/// Leaf tables are at this level.
const LEAF: Level = Level::L3;
