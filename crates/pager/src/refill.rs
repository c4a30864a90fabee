//! How the pool gets frames: from the kernel, and from pages of the region.

use core::ops::Range;

use tablewalk_live::{LiveError, flush};
use tablewalk_uapi::Errno;
use tablewalk_uapi::memory::Advice;
use tablewalk_uapi::remap::{self, ExposePgtblTable};
use tablewalk_walker::{Descriptor, Format};

use crate::counts::add;
use crate::pool::Refill;
use crate::{Pager, PagerError, Policy, offset_of};

/// Pages that are taken back by one call.
const TAKE_AT_ONCE: usize = remap::EXPOSE_PGTBL_RANGE_MOST;

impl<P: Policy> Pager<P> {
    /// Refills the pool if it is low: to be called when nobody waits.
    ///
    /// # Errors
    ///
    /// [`PagerError::Tables`], [`PagerError::Call`]; `ENOMEM` if the kernel has no frames.
    pub(crate) fn refill_if_low(&self) -> Result<(), PagerError> {
        if self.ring.available() < self.options.low_water as u64 && self.moves() {
            self.refill(u64::MAX)?;
        }
        Ok(())
    }

    /// Puts up to `most` frames into the pool: first those that the policy gives back, then new ones.
    /// Others may claim them meanwhile, so that the policy is asked before each part.
    pub(crate) fn refill(&self, most: u64) -> Result<(), PagerError> {
        // Somebody else does it already?
        let Some(refill) = self.ring.refill() else {
            return Ok(());
        };
        let Some(format) = &self.format else {
            return Ok(());
        };
        let mut left = most;
        while left != 0 {
            let filled = match self.take_victims(&refill, left)? {
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

    /// Takes back up to `most` pages that the policy gives, of those that it gives first: how many.
    fn take_victims(&self, refill: &Refill<'_>, most: u64) -> Result<u64, PagerError> {
        let room = refill.empty(most);
        let room = usize::try_from(room.end - room.start).unwrap_or(usize::MAX);
        // Once round the region, if all stay where they are.
        let mut asked = 0;
        while room != 0 && asked < self.options.pages {
            let Some(victims) = self.policy.victims(room) else {
                break;
            };
            asked += victims.len().max(1);
            let taken = self.take_back_into(refill, victims)?;
            if taken != 0 {
                return Ok(taken);
            }
        }
        Ok(0)
    }

    /// Takes pages of the region back into the pool, as many as it has room for and that can be: those
    /// that are there, that this process alone has, and that I/O of the kernel does not refer to. They
    /// are missing then. How many there were.
    ///
    /// # Errors
    ///
    /// [`PagerError::Tables`], [`PagerError::Call`].
    pub fn take_back(&self, pages: Range<usize>) -> Result<u64, PagerError> {
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
            let _alone = self.gate.be_alone();
            let (count, seen) = self.take_some(refill, next..end, room)?;
            taken += count;
            next = seen;
        }
        add(&self.counters.taken_back, taken);
        Ok(taken)
    }

    /// Has the kernel make pages in up to `most` empty slots; how many.
    fn populate(&self, format: &Format, refill: &Refill<'_>, most: u64) -> Result<u64, PagerError> {
        let slots = refill.empty(most);
        let count = slots.end - slots.start;
        if count == 0 {
            return Ok(0);
        }
        self.flush_slots(format, &slots)?;
        let offset = |slot: u64| offset_of(slot << self.page_shift);
        self.memory
            .advise(
                offset(slots.start)..offset(slots.end),
                Advice::PopulateWrite,
            )
            .map_err(PagerError::call("MADV_POPULATE_WRITE"))?;
        // From now on nobody else changes the entries of these slots.
        // SAFETY: the slots are this worker's until `filled`; those who claim them move them.
        unsafe { remap::lend(0, self.slot_address(slots.start).0, count) }
            .map_err(PagerError::call("LEND"))?;
        refill.filled(count);
        add(&self.counters.refilled, count);
        Ok(count)
    }

    /// Invalidates what TLBs have of the pages that were in slots.
    fn flush_slots(&self, format: &Format, slots: &Range<u64>) -> Result<(), LiveError> {
        let range = self.slot_address(slots.start)..self.slot_address(slots.end);
        flush(0, &format.geometry, range)
    }

    /// Takes pages into the slots `room`. How many, and the page to go on at.
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
        let from = self.page_address(pages.start).0..self.page_address(pages.end).0;
        let to = self.slot_address(room.start).0;
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
            let page = pages.start + offset_of(offset >> self.page_shift);
            // SAFETY: the slot is this worker's until `filled`, and has a page.
            let bytes = unsafe { self.slot_bytes(slot) };
            let dirty = format.linux.is_dirty(Descriptor(place.desc));
            self.policy.taken_back(page, bytes, dirty);
            if self.policy.zeros() {
                bytes.fill(0);
            }
        }
        refill.filled(filled as u64);
        let next = pages.start + offset_of((next - from.start) >> self.page_shift);
        Ok((count, next))
    }
}
