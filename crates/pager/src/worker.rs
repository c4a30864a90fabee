//! Workers, which resolve faults by moving entries.

use core::ops::Range;
use core::sync::atomic::Ordering;

use tablewalk_live::LiveMut;
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::{Errno, Mapping};
use tablewalk_walker::{Descriptor, Format, VirtualAddress};

use crate::counts::add;
use crate::kernel;
use crate::moving::{Moved, Places};
use crate::pool::WORKERS;
use crate::region::LEAF;
use crate::space::{Fault, Provided};
use crate::sync::mutant;
use crate::tables::{LEAVES, Tables, tables};
use crate::{Pager, PagerError, Policy};

/// Maximum number of runs of pages that wait to be adopted, and the number of pages after which a run is
/// adopted.
const PENDING: usize = 8;
const ADOPT_AFTER: u64 = 256;

/// Resolves faults of a pager, on one thread at a time.
///
/// Dropping it adopts what it has moved.
#[derive(Debug)]
pub struct Worker<'p, P: Policy> {
    pub(crate) pager: &'p Pager<P>,
    number: usize,
    /// `None` if entries cannot be moved.
    movable: Option<Movable>,
    /// A page to copy from, for fallbacks.
    scratch: Mapping,
    pending: [Pending; PENDING],
    pub(crate) in_vain: InVain,
}

/// Counts consecutive faults at the same address at which the page was present already.
#[derive(Default, Debug)]
pub(crate) struct InVain {
    address: u64,
    times: u32,
}

impl InVain {
    /// So many faults are rarely due to other threads that were faster each time: then it is checked whether
    /// the page can be read.
    const MOST: u32 = 64;

    const fn note(&mut self, address: u64) {
        if self.address != address {
            *self = Self { address, times: 0 };
        }
        self.times += 1;
    }

    /// Returns whether the limit is reached, and starts again then.
    pub(crate) fn is_hopeless(&mut self, address: u64) -> bool {
        let too_many = self.address == address && self.times >= Self::MOST;
        if too_many {
            *self = Self::default();
        }
        too_many
    }
}

/// What moving an entry needs.
#[derive(Debug)]
struct Movable {
    format: Format,
    region: Tables,
    pool: Tables,
    /// The entry of the zero page; 0 if it is not used.
    zeros: Descriptor,
}

/// A range of one table with all its pages that were moved and not adopted yet. It may contain other pages.
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

    /// Counts `moved` pages, after [`run_of`] was called for them.
    fn note<P: Policy>(&mut self, pager: &Pager<P>, moved: u64) {
        self.moved = self.moved - 1 + moved;
        if self.moved >= ADOPT_AFTER {
            pager.not_fatal(adopt(pager, self));
        }
    }
}

/// Returns the run that contains `pages`, and counts one of them, so that the run is not empty and gets
/// adopted.
fn run_of<'r, P: Policy>(
    pager: &Pager<P>,
    pending: &'r mut [Pending; PENDING],
    pages: &Range<usize>,
) -> Option<&'r mut Pending> {
    let start = pager.region.address(pages.start).0;
    let end = start + ((pages.len() as u64) << pager.page_shift);
    let span = pager.page_shift + pager.page_shift - 3;
    let table = start >> span;
    let same = |run: &Pending| run.moved != 0 && run.start >> span == table;
    let run = match pending.iter().position(same) {
        Some(place) => pending.get_mut(place)?,
        None => {
            // The last run makes room. If adopting it fails, its pages stay in memory where they are.
            if let Some(last) = pending.last_mut() {
                pager.not_fatal(adopt(pager, last));
            }
            pending.rotate_right(1);
            let first = pending.first_mut()?;
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
    run.moved += 1;
    Some(run)
}

impl<P: Policy> Pager<P> {
    /// Makes a worker, with its own mapped tables.
    ///
    /// # Errors
    ///
    /// [`PagerError::Workers`] if there are 64; [`PagerError::Forked`] in a child of the process that made
    /// the pager; [`PagerError::Tables`], [`PagerError::Call`].
    pub fn worker(&self) -> Result<Worker<'_, P>, PagerError> {
        self.check_owner()?;
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
            in_vain: InVain::default(),
        };
        worker.map_tables()?;
        Ok(worker)
    }
}

/// Linux maps this page where memory is read that was never written.
fn entry_of_zeros(page: &Mapping) -> Result<Descriptor, PagerError> {
    // SAFETY: a page of a mapping.
    unsafe { page.as_ptr().read_volatile() };
    let mut source = LiveMut::new(0, 1)?;
    let path = tablewalk_walker::path(&mut source, VirtualAddress(page.address()))?;
    let leaf = path.steps().last().filter(|step| step.level == LEAF);
    Ok(leaf.map_or(Descriptor::ZERO, |step| step.descriptor))
}

/// The result of a fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Resolved {
    /// The pages at these addresses are present, by entries of this worker or of another one; no thread was
    /// woken.
    Mapped(Range<u64>),
    /// The waiting threads were woken.
    Woken,
    /// The page is refused for good; the waiting threads were woken.
    Refused,
}

impl<P: Policy> Worker<'_, P> {
    /// Maps the first tables of pool and region, as many as stay mapped, so that the first faults need not do
    /// it.
    fn map_tables(&mut self) -> Result<(), PagerError> {
        let pager = self.pager;
        let Some(movable) = &mut self.movable else {
            return Ok(());
        };
        let firsts = |pages: usize| (0..pages).step_by(pager.region.table_pages()).take(LEAVES);
        for slot in firsts(pager.options.frames) {
            movable.pool.table_mut(pager.slot_address(slot as u64))?;
        }
        for page in firsts(pager.options.pages) {
            movable.region.table_mut(pager.region.address(page))?;
        }
        Ok(())
    }

    /// Makes the page of a fault present, and its neighbours if possible.
    pub(crate) fn resolve(&mut self, fault: Fault) -> Result<Resolved, PagerError> {
        let pager = self.pager;
        if pager.moves()
            && let Some(page) = pager.region.page_at(fault.address)
            && let Some(mapped) = self.move_or_refill(page, fault.write)
        {
            let address = |page| pager.region.address(page).0;
            return Ok(Resolved::Mapped(address(mapped.start)..address(mapped.end)));
        }
        self.have_provided(fault)
    }

    /// Like [`Worker::resolve`], by moving entries. Returns the pages that are present now; `None` if `page`
    /// is not.
    fn move_or_refill(&mut self, page: usize, write: bool) -> Option<Range<usize>> {
        let pager = self.pager;
        if let Some(mapped) = self.move_around(page, write) {
            return Some(mapped);
        }
        // Mapped before, no table, or no frame: only a frame can be obtained.
        if pager.came.contains(page) || pager.ring.available() != 0 {
            return None;
        }
        add(&pager.counters.dry, 1);
        pager.refill_for(self.around(page).len());
        self.move_around(page, write)
    }

    /// Like [`Worker::move_or_refill`], with the frames in the pool.
    fn move_around(&mut self, page: usize, write: bool) -> Option<Range<usize>> {
        let pager = self.pager;
        let _lock = pager.map_lock.read();
        let wanted = self.around(page);
        // Checked again under the lock: a writer may have ended moves.
        let movable = self.movable.as_mut().filter(|_| pager.moves())?;
        let table = pager.not_fatal(movable.region.table_mut(pager.region.address(page)))??;
        let index = movable
            .format
            .geometry
            .index(LEAF, pager.region.address(page));
        let places = |pages: Range<usize>| {
            Places::new(table, index + pages.start - page, pages, &pager.came)
        };
        if pager.policy.shared_zeros() && !write && movable.zeros != Descriptor::ZERO {
            let count = places(wanted.clone()).share(movable.zeros, pager.space.discards());
            add(&pager.counters.shared, count);
            let there = table.entry(index).is_some_and(|entry| !entry.is_empty());
            self.note_found(page, there, count);
            return there.then_some(wanted);
        }
        // Before anything is moved, so that moved pages are adopted even if the policy panics.
        let run = run_of(pager, &mut self.pending, &wanted);
        let mut moved = Moved::default();
        // First the page of the fault, then those after it, then those before it.
        for pages in [page..wanted.end, wanted.start..page] {
            let mut places = places(pages);
            while places.next_empty().is_some() {
                // No more than needed: a slot that keeps its page costs time at the next refill.
                let most = places.empty() as u64;
                let Some(claim) = pager.ring.claim(self.number, most) else {
                    break;
                };
                // Unused slots keep their pages, and are found full at the next refill.
                let slots = claim.slots.clone();
                let done = moved.move_slots(
                    pager,
                    &movable.format,
                    &mut movable.pool,
                    slots,
                    &mut places,
                );
                // No table of the pool, or a refused page: pages that were moved stay.
                if pager.not_fatal(done) != Some(true) {
                    break;
                }
            }
        }
        let count = moved.publish();
        add(&pager.counters.moved, count);
        if let Some(run) = run {
            run.note(pager, count);
        }
        let there = table.entry(index).is_some_and(|entry| !entry.is_empty());
        self.note_found(page, there, count);
        there.then_some(wanted)
    }

    /// Counts a fault at which `made` pages were made; 0 if the page was present already.
    fn note_found(&mut self, page: usize, there: bool, made: u64) {
        if made != 0 {
            self.in_vain = InVain::default();
        } else if there {
            self.in_vain.note(self.pager.region.address(page).0);
        }
    }

    /// Returns the pages that the policy wants with `page`, inside the region and the level-3 table.
    fn around(&self, page: usize) -> Range<usize> {
        let pager = self.pager;
        // The region begins where a table does, unless somebody moved it.
        let table = pager.region.table_pages();
        let first = page - page % table;
        let wanted = pager.policy.around(page);
        let start = wanted.start.max(first).min(page);
        let end = wanted.end.min(first + table).min(pager.options.pages);
        start..end.max(page + 1)
    }

    /// Has the kernel make the page of a fault, and wake those that wait for it.
    fn have_provided(&mut self, fault: Fault) -> Result<Resolved, PagerError> {
        let pager = self.pager;
        let lock = pager.map_lock.write();
        // When moves and takes have ended, the policy may wait without blocking others.
        let _lock = pager.moves().then_some(lock);
        if let Some(page) = pager.region.page_at(fault.address) {
            // From now on the entry is the kernel's.
            let _first = pager.came.insert(page);
        }
        let done = pager
            .space
            .provide(&pager.policy, fault, &mut self.scratch, None)
            .map_err(PagerError::call("UFFDIO_COPY"))?;
        match done {
            Provided::Page => {
                self.in_vain = InVain::default();
                add(&pager.counters.fallbacks, 1);
            }
            Provided::There | Provided::Again
                if mutant("handler: no wake after a page was not made") => {}
            Provided::There | Provided::Again => {
                if done == Provided::There {
                    self.in_vain.note(fault.address);
                }
                let end = fault.address + pager.page_size() as u64;
                let woken = pager.space.wake(fault.address..end);
                woken.map_err(PagerError::call("UFFDIO_WAKE"))?;
            }
            Provided::Refused => return Ok(Resolved::Refused),
        }
        Ok(Resolved::Woken)
    }

    /// Has the kernel adopt all pages that this worker has moved. May be called again after an error.
    ///
    /// # Errors
    ///
    /// [`PagerError::Call`]: the first error; the other runs of pages were adopted nevertheless.
    /// [`PagerError::Forked`] in a child of the process that made the pager.
    pub fn settle(&mut self) -> Result<(), PagerError> {
        self.pager.check_owner()?;
        let mut result = Ok(());
        for run in &mut self.pending {
            result = result.and(adopt(self.pager, run));
        }
        result
    }
}

impl<P: Policy> Drop for Worker<'_, P> {
    fn drop(&mut self) {
        if !self.pager.is_owner() {
            // A child has other mappings at the addresses of the tables.
            core::mem::forget(self.movable.take());
            return;
        }
        // The region was unmapped or moved: the pages are safe where they are.
        let _ = self.settle();
        let free = !(1 << self.number);
        self.pager.workers.fetch_and(free, Ordering::AcqRel);
        const { assert!(WORKERS == u64::BITS as usize) };
    }
}

/// Has the kernel adopt a run, which is empty then; after an error the rest of it stays. If a part was
/// unmapped or moved in the meantime, the other parts are adopted: the kernel refuses a range with a hole,
/// which is halved until the hole is a separate range.
fn adopt<P: Policy>(pager: &Pager<P>, run: &mut Pending) -> Result<(), PagerError> {
    let mut most = u64::MAX;
    while run.moved != 0 {
        let pages = ((run.end - run.start) >> pager.page_shift).min(most);
        // SAFETY: the moves are done: entries of the region are put where nothing is, and not changed again.
        match unsafe { kernel::adopt(run.start, pages) } {
            Ok(adopted) => {
                add(&pager.counters.adopted, adopted);
                most = pages.saturating_mul(2);
            }
            Err(Errno::EINVAL) if pages > 1 => {
                most = pages / 2;
                continue;
            }
            // There is no page to adopt.
            Err(Errno::EINVAL) => {}
            Err(errno) => return Err(PagerError::Call("ADOPT", errno)),
        }
        run.start += pages << pager.page_shift;
        if run.start >= run.end {
            *run = Pending::NONE;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
