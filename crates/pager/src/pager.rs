//! A pager: its memory, and what its workers share.

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
use tablewalk_walker::{Format, VirtualAddress};

use crate::counts::{Counters, Counts};
use crate::discards::Discards;
use crate::error::PagerError;
use crate::events::Userfault;
use crate::layout::Layout;
use crate::owner::Owner;
use crate::pages::PageSet;
use crate::policy::Policy;
use crate::pool::Ring;
use crate::readers::Readers;
use crate::region::{Region, offset_of};
use crate::rwlock::RwLock;
use crate::space::Space;
use crate::stop::Stops;
use crate::tables::LEAVES;

/// How faults reach a [`Worker`](crate::Worker).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// As events, to threads that call [`Worker::handle`](crate::Worker::handle).
    Threads,
    /// As signals, to the thread that faults, inside [`Worker::resolve_own`](crate::Worker::resolve_own).
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
///
/// Dropping it waits for threads that are in the middle of fork(2) or mremap(2), since they wait for the pager to
/// read the event. A fork needs a free descriptor for that: without one, both wait until one is closed.
#[derive(Debug)]
pub struct Pager<P> {
    pub(crate) policy: P,
    /// The pool, a gap, and the region. Unmapped only when no TLB has entries that were moved out of the
    /// pool.
    pub(crate) memory: core::mem::ManuallyDrop<Mapping>,
    /// Where the region was mapped.
    pub(crate) region: Region,
    pub(crate) page_shift: u32,
    /// Bytes of the memory before the region.
    pub(crate) offset: usize,
    pub(crate) options: Options,
    /// `None` if entries cannot be moved on this kernel.
    pub(crate) format: Option<Format>,
    pub(crate) space: Space,
    /// The number of handlers that should end.
    pub(crate) stop: Stops,
    /// The pages that were mapped, by an entry of ours or by the kernel, and not taken back since: no entry
    /// is installed for them, and one thread can add a page.
    ///
    /// An entry that reads 0 may still be in use: while the kernel unmaps a page, the entry is 0 until the
    /// TLBs are flushed, and the kernel then writes it again. An entry installed in between would be lost,
    /// with its page.
    pub(crate) came: PageSet,
    pub(crate) ring: Ring,
    /// Between the check that a page is missing and the store of its entry, no thread may
    ///
    /// - take pages back: otherwise the page could be mapped, written, taken back, and mapped again with its
    ///   old contents;
    /// - have the kernel copy a page: the kernel checks that the entry is empty and then writes it, and only
    ///   its own lock makes these two steps one.
    ///
    /// So workers that move entries hold this lock for reading, and workers that do either of these hold it
    /// for writing. When moves have ended, copies by the kernel do not need it.
    pub(crate) map_lock: RwLock,
    /// Whether entries may still be moved.
    pub(crate) moving: AtomicBool,
    /// A bit for each worker.
    pub(crate) workers: AtomicU64,
    pub(crate) readers: Readers,
    pub(crate) counters: Counters,
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
    pub(crate) fn with_format(
        options: Options,
        policy: P,
        format: Option<Format>,
    ) -> Result<Self, PagerError> {
        let page_shift = match &format {
            Some(format) => format.geometry.page_shift(),
            None => memory::page_shift().map_err(PagerError::call("madvise"))?,
        };
        let (memory, part) = reserve(&options, page_shift)?;
        // Before the memory is kept for good.
        let stop = Stops::new().map_err(PagerError::call("pipe"))?;
        let owner = Owner::this(1 << page_shift).map_err(PagerError::call("MADV_WIPEONFORK"))?;
        let came =
            PageSet::new(options.pages, 1 << page_shift).map_err(PagerError::call("mmap"))?;
        let discards = discards(&options, &policy, page_shift)?;
        protect_from_others(
            &memory,
            &options,
            options.frames << page_shift,
            part.clone(),
        )?;
        // Last: from now on a fork waits until its event is read, and dropping the pager reads it.
        let uffd = watch(&memory, part.clone(), features(&options, &policy))?;
        let region = Region {
            start: memory.address() + part.start as u64,
            pages: options.pages,
            page_shift,
        };
        let layout = Layout::new(region.start, part.len() as u64, page_shift);
        let pager = Self {
            policy,
            memory: core::mem::ManuallyDrop::new(memory),
            region,
            page_shift,
            offset: part.start,
            options,
            moving: AtomicBool::new(format.is_some()),
            format,
            space: Space::new(uffd, owner, options.delivery, layout, discards, page_shift),
            stop,
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

    /// Makes `handlers` workers that are in [`Worker::handle`](crate::Worker::handle), or will call it, return.
    /// Does not wait for them: the code that has started their threads can join these. Several threads may
    /// call this at once, and any number of times. Do not count a worker that has failed with an error or a
    /// panic: another one would end in its place, perhaps the next that is started.
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
    pub(crate) fn is_owner(&self) -> bool {
        self.space.is_owner()
    }

    pub(crate) fn check_owner(&self) -> Result<(), PagerError> {
        if self.is_owner() {
            Ok(())
        } else {
            Err(PagerError::Forked)
        }
    }

    /// Returns the address of slot `slot` of the pool.
    pub(crate) fn slot_address(&self, slot: u64) -> VirtualAddress {
        VirtualAddress(self.memory.address() + (slot << self.page_shift))
    }

    /// Returns the bytes of slot `slot` of the pool.
    ///
    /// # Safety
    ///
    /// The caller has claimed the slot, the slot has a page, and there is no other slice of it.
    #[expect(clippy::mut_from_ref, reason = "the caller's promise")]
    pub(crate) unsafe fn slot_bytes(&self, slot: u64) -> &mut [u8] {
        let offset = offset_of(slot << self.page_shift);
        let start = self.memory.as_ptr().wrapping_add(offset);
        // SAFETY: inside the memory; the rest is the caller's promise.
        unsafe { core::slice::from_raw_parts_mut(start, self.page_size()) }
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

/// Reserves the pool, a gap, and the region, which begins where a leaf table does, so that no block of
/// neighbours crosses two tables. Returns the memory and which bytes of it are the region.
fn reserve(options: &Options, page_shift: u32) -> Result<(Mapping, Range<usize>), PagerError> {
    let bad_size = PagerError::Size {
        pages: options.pages,
        frames: options.frames,
    };
    let size = |pages: usize| {
        let bytes = pages.checked_mul(1 << page_shift);
        bytes.filter(|&bytes| bytes != 0 && bytes <= isize::MAX.cast_unsigned())
    };
    let (Some(pool), Some(region)) = (size(options.frames), size(options.pages)) else {
        return Err(bad_size);
    };
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
    let part = offset..offset + region;
    prepare_tables(&memory, part.clone(), span, 1 << page_shift)?;
    Ok((memory, part))
}

/// The features that UFFDIO_API requests.
fn features<P: Policy>(options: &Options, policy: &P) -> u64 {
    match options.delivery {
        Delivery::Threads if policy.hears_of_discards() => {
            EVENTS | u64::from(UFFD_FEATURE_EVENT_REMOVE)
        }
        Delivery::Threads => EVENTS,
        Delivery::Signals => UFFD_FEATURE_SIGBUS.into(),
    }
}

fn discards<P: Policy>(
    options: &Options,
    policy: &P,
    page_shift: u32,
) -> Result<Discards, PagerError> {
    if options.delivery == Delivery::Threads && policy.hears_of_discards() {
        Discards::heard(options.pages, 1 << page_shift).map_err(PagerError::call("mmap"))
    } else {
        Ok(Discards::unheard())
    }
}

/// Keeps the region from children that could not get its pages, and the pool from reclaim.
fn protect_from_others(
    memory: &Mapping,
    options: &Options,
    pool: usize,
    region: Range<usize>,
) -> Result<(), PagerError> {
    if options.delivery == Delivery::Signals {
        // There is no event of a fork, and missing pages would be zeros in a child.
        memory
            .advise(region, Advice::DontFork)
            .map_err(PagerError::call("MADV_DONTFORK"))?;
    }
    if options.locked {
        memory
            .lock(0..pool, true)
            .map_err(PagerError::call("mlock"))?;
    }
    Ok(())
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

impl<P> Drop for Pager<P> {
    fn drop(&mut self) {
        if !self.space.is_owner() {
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
