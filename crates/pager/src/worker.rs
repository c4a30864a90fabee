//! Whoever moves entries.

use core::ops::Range;
use core::sync::atomic::Ordering;

use tablewalk_live::{LiveError, LiveMut, flush};
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::remap::ExposePgtblTable;
use tablewalk_uapi::userfault::Waking;
use tablewalk_uapi::{Errno, Mapping, remap};
use tablewalk_walker::{Cache, Descriptor, Format, Linux, PublishOwed, TableMut, VirtualAddress};

use crate::counts::add;
use crate::pool::{Refill, WORKERS};
use crate::{LEAF, Pager, PagerError, Policy, offset_of};

/// Leaf tables that stay mapped, of the region and of the pool: 32 MiB each with 4K pages.
type Tables = Cache<LiveMut, LEAVES, 4>;
const LEAVES: usize = 16;

/// Runs of pages that may wait to be adopted, and after how many pages they are.
const PENDING: usize = 8;
const ADOPT_AFTER: u64 = 256;

/// Pages that are taken back by one call.
const TAKE_AT_ONCE: usize = remap::EXPOSE_PGTBL_RANGE_MOST;

/// Resolves faults of a pager, on one thread at a time.
///
/// Dropping it adopts what it has moved.
#[derive(Debug)]
pub struct Worker<'p, P: Policy> {
    pub(crate) pager: &'p Pager<P>,
    number: usize,
    /// Unless entries cannot be moved.
    movable: Option<Movable>,
    /// A page to copy from, for fallbacks.
    scratch: Mapping,
    pending: [Pending; PENDING],
}

/// What moving an entry needs.
#[derive(Debug)]
struct Movable {
    format: Format,
    region: Tables,
    pool: Tables,
    /// The entry of the frame of zeros; 0 if it is not wanted.
    zeros: Descriptor,
}

/// Pages of one table that were moved, and not adopted yet: all in a range, which may have others.
#[derive(Clone, Copy, Debug)]
struct Pending {
    start: u64,
    end: u64,
    moved: u64,
}

impl Pending {
    const NONE: Self = Self {
        start: 0,
        end: 0,
        moved: 0,
    };
}

impl<P: Policy> Pager<P> {
    /// A worker, with tables of its own that stay mapped.
    ///
    /// # Errors
    ///
    /// [`PagerError::Workers`] if there are 64; [`PagerError::Tables`], [`PagerError::Call`].
    pub fn worker(&self) -> Result<Worker<'_, P>, PagerError> {
        let scratch = Mapping::reserve(self.page_size(), Protection::READ_WRITE)
            .map_err(PagerError::call("mmap"))?;
        let movable = match &self.format {
            Some(format) => Some(Movable {
                format: *format,
                region: tables()?,
                pool: tables()?,
                zeros: if self.policy.shared_zeros() {
                    entry_of_zeros(&scratch)?
                } else {
                    Descriptor::ZERO
                },
            }),
            None => None,
        };
        let free = |workers: u64| {
            let number = workers.trailing_ones();
            (number < u64::BITS).then(|| workers | 1 << number)
        };
        let before = self
            .workers
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, free)
            .map_err(|_| PagerError::Workers)?;
        let mut worker = Worker {
            pager: self,
            number: before.trailing_ones() as usize,
            movable,
            scratch,
            pending: [Pending::NONE; PENDING],
        };
        worker.map_pool()?;
        Ok(worker)
    }
}

fn tables() -> Result<Tables, PagerError> {
    let live = LiveMut::new(0, Tables::SLOTS)?;
    // The source was made with the slots that the cache asks for.
    Cache::new(live).map_err(|_| PagerError::Call("cache", Errno::ENOMEM))
}

/// What Linux maps where memory is read that was never written.
fn entry_of_zeros(page: &Mapping) -> Result<Descriptor, PagerError> {
    // SAFETY: a page of a mapping.
    unsafe { page.as_ptr().read_volatile() };
    let mut source = LiveMut::new(0, 1)?;
    let path = tablewalk_walker::path(&mut source, VirtualAddress(page.address()))?;
    let leaf = path.steps().last().filter(|step| step.level == LEAF);
    Ok(leaf.map_or(Descriptor::ZERO, |step| step.descriptor))
}

/// What came of a fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Resolved {
    /// These pages are there, by entries of ours or of somebody else; nobody was woken.
    Mapped(Range<usize>),
    /// The kernel did it, and has woken those that wait.
    Fallback,
}

impl<P: Policy> Worker<'_, P> {
    /// Maps the tables of the pool, as many as are kept: the first faults need not.
    pub(crate) fn map_pool(&mut self) -> Result<(), PagerError> {
        let pager = self.pager;
        if let Some(movable) = &mut self.movable {
            let frames = pager.options.frames;
            for slot in (0..frames).step_by(pager.table_pages()).take(LEAVES) {
                movable.pool.table_mut(pager.slot_address(slot as u64))?;
            }
        }
        Ok(())
    }

    /// Makes `page` be there, and its neighbours if possible.
    pub(crate) fn resolve(&mut self, page: usize, write: bool) -> Result<Resolved, PagerError> {
        let pager = self.pager;
        if page >= pager.options.pages {
            return Err(PagerError::Call(
                "a fault outside the region",
                Errno::EFAULT,
            ));
        }
        if pager.moves() {
            if let Some(mapped) = self.move_around(page, write)? {
                return Ok(Resolved::Mapped(mapped));
            }
            // No frame? No table? The former can be had.
            if pager.ring.available() == 0 {
                add(&pager.counters.dry, 1);
                self.refill(self.around(page).len() as u64)?;
                if let Some(mapped) = self.move_around(page, write)? {
                    return Ok(Resolved::Mapped(mapped));
                }
            }
        }
        self.copy(page)?;
        Ok(Resolved::Fallback)
    }

    /// As [`Worker::resolve`], by entries; the pages that are there now. `None` if `page` is not.
    fn move_around(
        &mut self,
        page: usize,
        write: bool,
    ) -> Result<Option<Range<usize>>, PagerError> {
        let pager = self.pager;
        let _moving = pager.gate.move_entries();
        let wanted = self.around(page);
        // Still: somebody who was alone may have ended it.
        let Some(movable) = self.movable.as_mut().filter(|_| pager.moves()) else {
            return Ok(None);
        };
        let Some(table) = movable.region.table_mut(pager.page_address(page))? else {
            return Ok(None);
        };
        let region = Entries {
            table,
            first: first_index(&movable.format, pager.page_address(wanted.start)),
            start: wanted.start,
        };
        if pager.policy.shared_zeros() && !write && movable.zeros != Descriptor::ZERO {
            let count = region.share(wanted.clone(), movable.zeros);
            add(&pager.counters.shared, count);
            return Ok(Some(wanted));
        }
        // First the page that is waited for, then those behind it, then those before.
        let mut next = Order {
            behind: page..wanted.end,
            before: wanted.start..page,
        };
        let mut moved = Moved::default();
        while let Some(empty) = next.empty(&region) {
            let most = next.left() as u64;
            let Some(claim) = pager.ring.claim(self.number, most) else {
                // The page that is waited for came first.
                break;
            };
            // Slots that are left keep their pages, and are found full when it is their turn to be filled.
            move_claimed(
                pager,
                &movable.format,
                &mut movable.pool,
                &region,
                claim.slots.clone(),
                empty,
                &mut next,
                &mut moved,
            )?;
        }
        let Moved { count, publish } = moved;
        if let Some(publish) = publish {
            publish.publish();
        }
        add(&pager.counters.moved, count);
        let there = !region.is_empty(page);
        if count != 0 {
            self.remember(wanted.clone(), count)?;
        }
        Ok(there.then_some(wanted))
    }

    /// The pages that the policy wants with `page`: inside the region and the level-3 table.
    fn around(&self, page: usize) -> Range<usize> {
        let pager = self.pager;
        // The region begins where a table does, unless somebody moved it.
        let table = pager.table_pages();
        let first = page - page % table;
        let wanted = pager.policy.around(page);
        let start = wanted.start.max(first).min(page);
        let end = wanted.end.min(first + table).min(pager.options.pages);
        start..end.max(page + 1)
    }

    /// Has the kernel make `page`, and wake those that wait for it.
    fn copy(&mut self, page: usize) -> Result<(), PagerError> {
        let pager = self.pager;
        let _alone = pager.gate.be_alone();
        let address = pager.page_address(page).0;
        let size = pager.page_size();
        let done = if pager.policy.zeros() {
            pager.uffd.zeropage(address, size as u64, Waking::Wake)
        } else {
            // SAFETY: the page of this worker, which is borrowed alone.
            let bytes = unsafe { core::slice::from_raw_parts_mut(self.scratch.as_ptr(), size) };
            pager.policy.fill(page, bytes);
            pager.uffd.copy(address, bytes, Waking::Wake)
        };
        match done {
            Ok(_) => {
                add(&pager.counters.fallbacks, 1);
                Ok(())
            }
            // There is one already; or there is no place for it any more, which who waits finds out.
            Err(Errno::EEXIST | Errno::ENOENT | Errno::EAGAIN) => self.wake(page..page + 1),
            Err(errno) => Err(PagerError::Call("UFFDIO_COPY", errno)),
        }
    }

    /// Lets those go on that wait for a page of `pages`.
    pub(crate) fn wake(&self, pages: Range<usize>) -> Result<(), PagerError> {
        let length = (pages.len() as u64) << self.pager.page_shift;
        self.pager
            .uffd
            .wake(self.pager.page_address(pages.start).0, length)
            .map_err(PagerError::call("UFFDIO_WAKE"))
    }

    /// Refills the pool if it is low: to be called when nobody waits.
    ///
    /// # Errors
    ///
    /// [`PagerError::Tables`], [`PagerError::Call`]; `ENOMEM` if the kernel has no frames.
    pub fn refill_if_low(&mut self) -> Result<(), PagerError> {
        let pager = self.pager;
        if pager.ring.available() < pager.options.low_water as u64 && pager.moves() {
            self.refill(u64::MAX)?;
        }
        Ok(())
    }

    /// Puts up to `most` frames into the pool: first those that the policy gives back, then new ones.
    pub(crate) fn refill(&mut self, most: u64) -> Result<(), PagerError> {
        let pager = self.pager;
        // Somebody else does it already?
        let Some(refill) = pager.ring.refill() else {
            return Ok(());
        };
        let mut left = most;
        while left != 0 {
            let room = refill.empty(left);
            let room = usize::try_from(room.end - room.start).unwrap_or(usize::MAX);
            let Some(victims) = pager.policy.victims(room).filter(|_| room != 0) else {
                break;
            };
            let filled = self.take_back_into(&refill, victims)?;
            left = left.saturating_sub(filled);
        }
        if let Some(format) = &pager.format {
            while left != 0 {
                match populate(pager, format, &refill, left)? {
                    0 => break,
                    filled => left = left.saturating_sub(filled),
                }
            }
        }
        Ok(())
    }

    /// Takes pages of the region back into the pool, as many as it has room for and that can be: those
    /// that are there, that this process alone has, and that I/O of the kernel does not refer to. They
    /// are missing then. How many there were.
    ///
    /// # Errors
    ///
    /// [`PagerError::Tables`], [`PagerError::Call`].
    pub fn take_back(&mut self, pages: Range<usize>) -> Result<u64, PagerError> {
        match self.pager.ring.refill() {
            Some(refill) => self.take_back_into(&refill, pages),
            None => Ok(0),
        }
    }

    fn take_back_into(
        &mut self,
        refill: &Refill<'_>,
        pages: Range<usize>,
    ) -> Result<u64, PagerError> {
        let pager = self.pager;
        let mut taken = 0;
        let mut next = pages.start;
        let end = pages.end.min(pager.options.pages);
        while next < end && pager.moves() {
            let room = refill.empty(TAKE_AT_ONCE as u64);
            if room.is_empty() {
                break;
            }
            let _alone = pager.gate.be_alone();
            let (count, seen) = take_some(pager, refill, next..end, room)?;
            taken += count;
            next = seen;
        }
        add(&pager.counters.taken_back, taken);
        Ok(taken)
    }

    /// Takes note of `moved` pages in `pages`, to be adopted later.
    fn remember(&mut self, pages: Range<usize>, moved: u64) -> Result<(), PagerError> {
        let pager = self.pager;
        let start = pager.page_address(pages.start).0;
        let end = start + ((pages.len() as u64) << pager.page_shift);
        let span = pager.page_shift + pager.page_shift - 3;
        let table = start >> span;
        let same = |run: &&mut Pending| run.moved != 0 && run.start >> span == table;
        let run = match self.pending.iter_mut().find(same) {
            Some(run) => run,
            None => {
                // The last one makes room.
                if let Some(last) = self.pending.last_mut() {
                    adopt(pager, last)?;
                }
                self.pending.rotate_right(1);
                let Some(first) = self.pending.first_mut() else {
                    return Ok(());
                };
                *first = Pending {
                    start,
                    end,
                    moved: 0,
                };
                first
            }
        };
        run.start = run.start.min(start);
        run.end = run.end.max(end);
        run.moved += moved;
        if run.moved >= ADOPT_AFTER {
            adopt(pager, run)?;
        }
        Ok(())
    }

    /// Has the kernel make all pages that this worker has moved ones of their place.
    ///
    /// # Errors
    ///
    /// [`PagerError::Call`].
    pub fn settle(&mut self) -> Result<(), PagerError> {
        for run in &mut self.pending {
            adopt(self.pager, run)?;
        }
        Ok(())
    }
}

impl<P: Policy> Drop for Worker<'_, P> {
    fn drop(&mut self) {
        // The region is gone, or was moved: the pages are safe where they are.
        let _ = self.settle();
        let free = !(1 << self.number);
        self.pager.workers.fetch_and(free, Ordering::AcqRel);
        const { assert!(WORKERS == u64::BITS as usize) };
    }
}

/// Has the kernel adopt a run, which is empty then.
fn adopt<P: Policy>(pager: &Pager<P>, run: &mut Pending) -> Result<(), PagerError> {
    let Pending { start, end, moved } = core::mem::replace(run, Pending::NONE);
    if moved == 0 {
        return Ok(());
    }
    match remap::adopt(0, start, (end - start) >> pager.page_shift) {
        Ok(adopted) => add(&pager.counters.adopted, adopted),
        // The region was unmapped or moved meanwhile: nothing is there to be adopted.
        Err(Errno::EINVAL) => {}
        Err(errno) => return Err(PagerError::Call("ADOPT", errno)),
    }
    Ok(())
}

/// Entries of one table of the region, by the number of their page.
#[derive(Clone, Copy)]
struct Entries<'t> {
    table: TableMut<'t>,
    /// Index of the entry of page `start`.
    first: usize,
    start: usize,
}

impl Entries<'_> {
    fn load(&self, page: usize) -> Descriptor {
        let index = self.first + (page - self.start);
        self.table.as_table().load(index)
    }

    fn is_empty(&self, page: usize) -> bool {
        self.load(page) == Descriptor::ZERO
    }

    /// Whether the entry was empty and has `descriptor` now.
    ///
    /// # Safety
    ///
    /// As [`EntryMut::put`](tablewalk_walker::EntryMut::put).
    unsafe fn put(&self, page: usize, descriptor: Descriptor) -> Option<PublishOwed> {
        let entry = self.table.entry(self.first + (page - self.start))?;
        // SAFETY: the caller's.
        unsafe { entry.put(descriptor) }.ok()
    }

    /// Maps the frame of zeros where nothing is; how often.
    fn share(&self, pages: Range<usize>, zeros: Descriptor) -> u64 {
        let mut last = None;
        let mut count = 0;
        for page in pages {
            // SAFETY: the frame that Linux maps itself for a read of private anonymous memory, by the
            // same entry: it counts neither references nor mappings of it.
            if let Some(owed) = unsafe { self.put(page, zeros) } {
                last = Some(owed);
                count += 1;
            }
        }
        if let Some(owed) = last {
            owed.publish();
        }
        count
    }
}

/// The index of the level-3 entry of an address.
const fn first_index(format: &Format, address: VirtualAddress) -> usize {
    format.geometry.index(LEAF, address)
}

/// Pages in the order in which they get frames.
struct Order {
    behind: Range<usize>,
    before: Range<usize>,
}

impl Order {
    /// The next page whose entry is empty; it stays the next one.
    fn empty(&mut self, region: &Entries<'_>) -> Option<usize> {
        for range in [&mut self.behind, &mut self.before] {
            while range.start < range.end {
                if region.is_empty(range.start) {
                    return Some(range.start);
                }
                range.start += 1;
            }
        }
        None
    }

    /// At most that many.
    fn left(&self) -> usize {
        self.behind.len() + self.before.len()
    }
}

/// What was moved so far.
#[derive(Default)]
struct Moved {
    count: u64,
    publish: Option<PublishOwed>,
}

/// Moves the pages of claimed slots to the empty entries from `page` on.
#[expect(clippy::too_many_arguments, reason = "borrows parts of one worker")]
fn move_claimed<P: Policy>(
    pager: &Pager<P>,
    format: &Format,
    pool: &mut Tables,
    region: &Entries<'_>,
    slots: Range<u64>,
    page: usize,
    next: &mut Order,
    moved: &mut Moved,
) -> Result<(), LiveError> {
    let movable = OwnPage::new(&format.linux);
    let mut page = Some(page);
    let entries = format.geometry.entries(LEAF) as u64;
    let mut slot = slots.start;
    while slot < slots.end {
        let address = pager.slot_address(slot);
        let index = first_index(format, address);
        // As far as the table of the pool reaches.
        let end = slots.end.min(slot + entries - index as u64);
        let Some(table) = pool.table_mut(address)? else {
            return Ok(());
        };
        for (slot, index) in (slot..end).zip(index..) {
            let (Some(empty), Some(donor)) = (page, table.entry(index)) else {
                return Ok(());
            };
            if !pager.policy.zeros() {
                if !movable.is(donor.load()) {
                    continue;
                }
                // SAFETY: the slot is claimed, and its page is there.
                let bytes = unsafe { pager.slot_bytes(slot) };
                pager.policy.fill(empty, bytes);
            }
            // SAFETY: nobody but who has claimed a slot uses its memory. It is flushed before it has
            // a page again, or is unmapped.
            let taken =
                unsafe { donor.take_if(pager.slot_address(slot), |found| movable.is(found)) };
            let Some((descriptor, _flushed_before_reuse)) = taken else {
                continue;
            };
            // SAFETY: the contents are complete. Pool and region are private anonymous memory with the
            // same protection: `Pager::protect` ends moves before it changes that of the region.
            if let Some(owed) = unsafe { region.put(empty, descriptor) } {
                moved.count += 1;
                moved.publish = Some(owed);
            } else {
                add(&pager.counters.races, 1);
                // SAFETY: back to where it was, an entry that TLBs may still have.
                let _kept = unsafe { donor.put(descriptor) };
            }
            page = next.empty(region);
        }
        slot = end;
    }
    Ok(())
}

/// What an entry has that maps a page which this process alone has: Linux lets only such be written.
#[derive(Clone, Copy)]
struct OwnPage {
    mask: u64,
    value: u64,
}

impl OwnPage {
    const fn new(linux: &Linux) -> Self {
        let value = Descriptor::VALID | linux.write;
        Self {
            mask: value | linux.special,
            value,
        }
    }

    #[inline]
    const fn is(self, found: Descriptor) -> bool {
        found.0 & self.mask == self.value
    }
}

/// Has the kernel make pages in up to `most` empty slots; how many.
fn populate<P: Policy>(
    pager: &Pager<P>,
    format: &Format,
    refill: &Refill<'_>,
    most: u64,
) -> Result<u64, PagerError> {
    let slots = refill.empty(most);
    let count = slots.end - slots.start;
    if count == 0 {
        return Ok(0);
    }
    flush_slots(pager, format, &slots)?;
    let offset = |slot: u64| offset_of(slot << pager.page_shift);
    pager
        .memory
        .advise(
            offset(slots.start)..offset(slots.end),
            Advice::PopulateWrite,
        )
        .map_err(PagerError::call("MADV_POPULATE_WRITE"))?;
    // From now on nobody else changes the entries of these slots.
    remap::lend(0, pager.slot_address(slots.start).0, count).map_err(PagerError::call("LEND"))?;
    refill.filled(count);
    add(&pager.counters.refilled, count);
    Ok(count)
}

/// Invalidates what TLBs have of the pages that were in slots.
fn flush_slots<P: Policy>(
    pager: &Pager<P>,
    format: &Format,
    slots: &Range<u64>,
) -> Result<(), LiveError> {
    let range = pager.slot_address(slots.start)..pager.slot_address(slots.end);
    flush(0, &format.geometry, range)
}

/// Takes pages into the slots `room`. How many, and the page to go on at.
fn take_some<P: Policy>(
    pager: &Pager<P>,
    refill: &Refill<'_>,
    pages: Range<usize>,
    room: Range<u64>,
) -> Result<(u64, usize), PagerError> {
    let Some(format) = &pager.format else {
        return Ok((0, pages.end));
    };
    flush_slots(pager, format, &room)?;
    let mut places = [ExposePgtblTable::default(); TAKE_AT_ONCE];
    let (places, _) = places.split_at_mut(offset_of(room.end - room.start).min(TAKE_AT_ONCE));
    let from = pager.page_address(pages.start).0..pager.page_address(pages.end).0;
    let to = pager.slot_address(room.start).0;
    // SAFETY: the policy gives the pages away. The slots are this worker's, and flushed.
    let (filled, next) = match unsafe { remap::take(0, from.clone(), to, places) } {
        Ok(done) => done,
        // The region was unmapped or moved meanwhile.
        Err(Errno::EINVAL) => return Ok((0, pages.end)),
        Err(errno) => return Err(PagerError::Call("TAKE", errno)),
    };
    let mut count = 0;
    for (slot, place) in room.zip(&*places).take(filled) {
        // A slot that kept its page needed none.
        let Some(offset) = place.addr.checked_sub(from.start) else {
            continue;
        };
        count += 1;
        let page = pages.start + offset_of(offset >> pager.page_shift);
        // SAFETY: the slot is this worker's until `filled`, and has a page.
        let bytes = unsafe { pager.slot_bytes(slot) };
        let dirty = format.linux.is_dirty(Descriptor(place.desc));
        pager.policy.taken_back(page, bytes, dirty);
        if pager.policy.zeros() {
            bytes.fill(0);
        }
    }
    refill.filled(filled as u64);
    let next = pages.start + offset_of((next - from.start) >> pager.page_shift);
    Ok((count, next))
}
