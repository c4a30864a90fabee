//! Whoever moves entries.

use core::ops::Range;
use core::sync::atomic::Ordering;

use tablewalk_live::LiveMut;
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::userfault::Waking;
use tablewalk_uapi::{Errno, Mapping, remap};
use tablewalk_walker::{Cache, Descriptor, Format, VirtualAddress};

use crate::counts::add;
use crate::moving::{Moved, Places};
use crate::pool::WORKERS;
use crate::{LEAF, Pager, PagerError, Policy};

/// Leaf tables that stay mapped, of the region and of the pool: 32 MiB each with 4K pages.
pub(crate) const LEAVES: usize = 16;
pub(crate) type Tables = Cache<LiveMut, LEAVES, 4>;

/// Runs of pages that may wait to be adopted, and after how many pages they are.
const PENDING: usize = 8;
const ADOPT_AFTER: u64 = 256;

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
        worker.map_tables()?;
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
    /// Maps the first tables of pool and region, as many as are kept: the first faults need not.
    fn map_tables(&mut self) -> Result<(), PagerError> {
        let pager = self.pager;
        let Some(movable) = &mut self.movable else {
            return Ok(());
        };
        let firsts = |pages: usize| (0..pages).step_by(pager.table_pages()).take(LEAVES);
        for slot in firsts(pager.options.frames) {
            movable.pool.table_mut(pager.slot_address(slot as u64))?;
        }
        for page in firsts(pager.options.pages) {
            movable.region.table_mut(pager.page_address(page))?;
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
                pager.refill(self.around(page).len() as u64)?;
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
        let index = movable
            .format
            .geometry
            .index(LEAF, pager.page_address(page));
        let places = |pages: Range<usize>| Places::new(table, index - page + pages.start, pages);
        if pager.policy.shared_zeros() && !write && movable.zeros != Descriptor::ZERO {
            let count = places(wanted.clone()).share(movable.zeros);
            add(&pager.counters.shared, count);
            return Ok(Some(wanted));
        }
        let mut moved = Moved::default();
        // First the page that is waited for, then those behind it, then those before.
        for pages in [page..wanted.end, wanted.start..page] {
            let mut places = places(pages);
            while places.next_empty().is_some() {
                let most = places.left() as u64;
                let Some(claim) = pager.ring.claim(self.number, most) else {
                    break;
                };
                // Slots that are left keep their pages, and are found full when it is their turn to be
                // filled.
                let slots = claim.slots.clone();
                moved.move_slots(
                    pager,
                    &movable.format,
                    &mut movable.pool,
                    slots,
                    &mut places,
                )?;
            }
        }
        let count = moved.publish();
        add(&pager.counters.moved, count);
        let there = table.entry(index).is_some_and(|entry| !entry.is_empty());
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
            // SAFETY: a page of the region, or what was there: it holds zeros, as the policy says.
            unsafe { pager.uffd.zeropage(address, size as u64, Waking::Wake) }
        } else {
            // SAFETY: the page of this worker, which is borrowed alone.
            let bytes = unsafe { core::slice::from_raw_parts_mut(self.scratch.as_ptr(), size) };
            pager.policy.fill(page, bytes);
            // SAFETY: a page of the region, which holds what the policy says.
            unsafe { pager.uffd.copy(address, bytes, Waking::Wake) }
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
    // SAFETY: the moves are done: entries of the region are put where nothing is, and not changed again.
    match unsafe { remap::adopt(0, start, (end - start) >> pager.page_shift) } {
        Ok(adopted) => add(&pager.counters.adopted, adopted),
        // The region was unmapped or moved meanwhile: nothing is there to be adopted.
        Err(Errno::EINVAL) => {}
        Err(errno) => return Err(PagerError::Call("ADOPT", errno)),
    }
    Ok(())
}
