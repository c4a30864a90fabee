//! Refills the pool, with new frames from the kernel and with frames of the region.

use core::ops::Range;

use tablewalk_live::LiveError;
use tablewalk_uapi::Errno;
use tablewalk_uapi::memory::Advice;
use tablewalk_uapi::remap::{self, ExposePgtblTable};
use tablewalk_walker::{Descriptor, Format};

use crate::counts::add;
use crate::kernel;
use crate::pool::Refill;
use crate::region::offset_of;
use crate::{Pager, PagerError, Policy};

/// While a fault waits: maximum number of pages that could not be taken back, before new frames are
/// allocated.
const VICTIMS_WHILE_WAITING: usize = 64;

/// Maximum number of attempts to fill slots if not all their pages could be lent.
const LEND_ATTEMPTS: usize = 4;

/// Maximum number of pages that one call takes back.
const TAKE_AT_ONCE: usize = remap::EXPOSE_PGTBL_RANGE_MOST;

impl<P: Policy> Pager<P> {
    /// Counts an error of work for which no thread waits.
    pub(crate) fn not_fatal<R, E>(&self, result: Result<R, E>) -> Option<R> {
        if result.is_err() {
            add(&self.counters.errors, 1);
        }
        result.ok()
    }

    /// Refills the pool if it is low. For moments when no fault waits.
    pub(crate) fn refill_if_low(&self) {
        if self.ring.available() < self.options.low_water as u64 && self.moves() {
            self.not_fatal(self.refill(u64::MAX, self.options.pages));
        }
    }

    /// Gets frames for a waiting fault of `pages` pages: only as many, and without a long search.
    pub(crate) fn refill_for(&self, pages: usize) {
        self.not_fatal(self.refill(pages as u64, VICTIMS_WHILE_WAITING));
    }

    /// Puts up to `most` frames into the pool: first those of up to `victims` pages that the policy gives
    /// back, then new ones. Other workers may claim frames in the meantime, so the policy is asked before
    /// each part.
    ///
    /// # Errors
    ///
    /// [`PagerError::Tables`], [`PagerError::Call`].
    pub(crate) fn refill(&self, most: u64, victims: usize) -> Result<(), PagerError> {
        // Another worker is refilling already?
        let Some(refill) = self.ring.refill() else {
            return Ok(());
        };
        let Some(format) = &self.format else {
            return Ok(());
        };
        let mut left = most;
        let mut victims = victims;
        while left != 0 {
            let filled = match self.take_victims(&refill, left, &mut victims)? {
                0 => self.populate(format, &refill, left)?,
                filled => filled,
            };
            if filled == 0 {
                break;
            }
            left = left.saturating_sub(filled);
        }
        Ok(())
    }

    /// Takes back up to `most` pages, of up to `victims` that the policy gives. Subtracts from `victims` what
    /// was tried. Returns how many pages were taken.
    fn take_victims(
        &self,
        refill: &Refill<'_>,
        most: u64,
        victims: &mut usize,
    ) -> Result<u64, PagerError> {
        let room = refill.empty(most);
        let room = usize::try_from(room.end - room.start).unwrap_or(usize::MAX);
        while room != 0 && *victims != 0 {
            let Some(pages) = self.policy.victims(room.min(*victims)) else {
                break;
            };
            *victims = victims.saturating_sub(pages.len().max(1));
            let taken = self.take_back_into(refill, pages)?;
            if taken != 0 {
                return Ok(taken);
            }
        }
        Ok(0)
    }

    /// Takes pages of the region back into the pool, as many as it has room for. Skips pages that are not
    /// present, that other processes share, or that are pinned for I/O. The pages are missing then. Returns
    /// how many were taken.
    ///
    /// # Errors
    ///
    /// [`PagerError::Forked`], [`PagerError::Tables`], [`PagerError::Call`].
    pub fn take_back(&self, pages: Range<usize>) -> Result<u64, PagerError> {
        self.check_owner()?;
        match self.ring.refill() {
            Some(refill) => self.take_back_into(&refill, pages),
            None => Ok(0),
        }
    }

    fn take_back_into(&self, refill: &Refill<'_>, pages: Range<usize>) -> Result<u64, PagerError> {
        let mut taken = 0;
        let mut next = pages.start;
        let end = pages.end.min(self.options.pages);
        while next < end && self.moves() {
            let room = refill.empty(TAKE_AT_ONCE as u64);
            if room.is_empty() {
                break;
            }
            let _lock = self.map_lock.write();
            if !self.moves() {
                // The kernel copies, without the lock.
                break;
            }
            let (count, seen) = self.take_some(refill, next..end, room)?;
            taken += count;
            next = seen;
        }
        add(&self.counters.taken_back, taken);
        Ok(taken)
    }

    /// Allocates pages in up to `most` empty slots. Returns how many: fewer if the kernel is short of memory,
    /// 0 if it has none.
    fn populate(&self, format: &Format, refill: &Refill<'_>, most: u64) -> Result<u64, PagerError> {
        let mut most = most;
        loop {
            let slots = refill.empty(most);
            let count = slots.end - slots.start;
            if count == 0 {
                return Ok(0);
            }
            self.flush_slots(format, &slots)?;
            match self.populate_and_lend(&slots) {
                Ok(()) => {
                    refill.filled(count);
                    add(&self.counters.refilled, count);
                    return Ok(count);
                }
                // Pages that were allocated are present at the next attempt.
                Err(PagerError::Call(_, Errno::ENOMEM)) if count > 1 => most = count / 2,
                Err(error) => return Err(error),
            }
        }
    }

    /// Allocates and lends a page in each slot.
    fn populate_and_lend(&self, slots: &Range<u64>) -> Result<(), PagerError> {
        let offset = |slot: u64| offset_of(slot << self.page_shift);
        let bytes = offset(slots.start)..offset(slots.end);
        let count = slots.end - slots.start;
        let mut lent = self.lend_some(slots, &bytes)?;
        for _attempt in 0..LEND_ATTEMPTS {
            // From now on the kernel does not change the entries of these slots.
            if lent == count {
                return Ok(());
            }
            // Some slots had a page that was lent already; or a page is being migrated, and would be present
            // but not lent afterwards. The kernel does not report which, so all are made again.
            kernel::advise(&self.memory, bytes.clone(), Advice::DontNeedLocked)
                .map_err(PagerError::call("MADV_DONTNEED_LOCKED"))?;
            lent = self.lend_some(slots, &bytes)?;
        }
        if lent == count {
            return Ok(());
        }
        Err(PagerError::Call("LEND", Errno::EBUSY))
    }

    /// Allocates a page in each slot, and lends those that are not lent. Returns how many were not.
    fn lend_some(&self, slots: &Range<u64>, bytes: &Range<usize>) -> Result<u64, PagerError> {
        kernel::advise(&self.memory, bytes.clone(), Advice::PopulateWrite)
            .map_err(PagerError::call("MADV_POPULATE_WRITE"))?;
        // SAFETY: the slots are this worker's until `filled`; after that the pages are moved by the workers
        // that claim them.
        unsafe { kernel::lend(self.slot_address(slots.start).0, slots.end - slots.start) }
            .map_err(PagerError::call("LEND"))
    }

    /// Invalidates the TLB entries of the pages that were in the slots.
    fn flush_slots(&self, format: &Format, slots: &Range<u64>) -> Result<(), LiveError> {
        let range = self.slot_address(slots.start)..self.slot_address(slots.end);
        kernel::flush(&format.geometry, range)
    }

    /// Takes pages into the slots `room`. Returns how many, and the page to continue at.
    fn take_some(
        &self,
        refill: &Refill<'_>,
        pages: Range<usize>,
        room: Range<u64>,
    ) -> Result<(u64, usize), PagerError> {
        let Some(format) = &self.format else {
            return Ok((0, pages.end));
        };
        self.flush_slots(format, &room)?;
        let mut places = [ExposePgtblTable::default(); TAKE_AT_ONCE];
        let (places, _) = places.split_at_mut(offset_of(room.end - room.start).min(TAKE_AT_ONCE));
        let from = self.region.address(pages.start).0..self.region.address(pages.end).0;
        let to = self.slot_address(room.start).0;
        // SAFETY: the policy gives the pages away. The slots are this worker's, and flushed.
        let (filled, next) = match unsafe { kernel::take(from.clone(), to, places) } {
            Ok(done) => done,
            // One of the pages, perhaps the first, does not belong to the region any more. The others are
            // tried.
            Err(Errno::EINVAL) => return Ok((0, pages.start + 1)),
            Err(errno) => return Err(PagerError::Call("TAKE", errno)),
        };
        let mut taken = Taken {
            pager: self,
            refill,
            format,
            first: pages.start,
            from: from.start,
            filled: filled as u64,
            count: 0,
            slots: room.zip(&*places).take(filled),
        };
        taken.tell_all();
        let count = taken.count;
        drop(taken);
        let next = pages.start + offset_of((next - from.start) >> self.page_shift);
        Ok((count, next))
    }
}

/// Pages that the kernel has taken. The policy is called for each, even if it panics at one. Then their slots
/// count as filled.
pub(crate) struct Taken<'t, P: Policy, I: Iterator<Item = (u64, &'t ExposePgtblTable)>> {
    pub(crate) pager: &'t Pager<P>,
    pub(crate) refill: &'t Refill<'t>,
    pub(crate) format: &'t Format,
    /// The first page of the range, and its address.
    pub(crate) first: usize,
    pub(crate) from: u64,
    pub(crate) filled: u64,
    /// The pages for which the policy was called.
    pub(crate) count: u64,
    pub(crate) slots: I,
}

impl<'t, P: Policy, I: Iterator<Item = (u64, &'t ExposePgtblTable)>> Taken<'t, P, I> {
    fn tell_all(&mut self) {
        let pager = self.pager;
        for (slot, place) in self.slots.by_ref() {
            // A slot that had kept its page.
            let Some(offset) = place.addr.checked_sub(self.from) else {
                continue;
            };
            self.count += 1;
            let page = self.first + offset_of(offset >> pager.page_shift);
            pager.came.remove(page);
            let dirty = self.format.linux.is_dirty(Descriptor(place.desc));
            // Also if the policy panics.
            let _reused = Reused { pager, slot, page };
            // SAFETY: the slot is this worker's until `filled`, and has a page.
            let bytes = unsafe { pager.slot_bytes(slot) };
            pager.policy.taken_back(page, bytes, dirty);
        }
    }
}

/// Makes a slot ready for its next page when this is dropped, after the policy was called for its page.
struct Reused<'p, P: Policy> {
    pager: &'p Pager<P>,
    slot: u64,
    page: usize,
}

impl<P: Policy> Drop for Reused<'_, P> {
    fn drop(&mut self) {
        let Self { pager, slot, page } = *self;
        // First: the policy may panic.
        if pager.policy.zeros() {
            // SAFETY: as in `Taken::tell_all`, whose slice is not used any more.
            unsafe { pager.slot_bytes(slot) }.fill(0);
        }
        // It was taken between the message and the end of the discard. The policy hears of the discard
        // last, from here or from the handler that has read the message. Nobody makes the page meanwhile.
        if pager.space.discards().made(page) {
            pager.policy.discarded(page..page + 1);
        }
    }
}

impl<'t, P: Policy, I: Iterator<Item = (u64, &'t ExposePgtblTable)>> Drop for Taken<'t, P, I> {
    fn drop(&mut self) {
        self.tell_all();
        self.refill.filled(self.filled);
    }
}

#[cfg(test)]
pub(crate) mod tests;
