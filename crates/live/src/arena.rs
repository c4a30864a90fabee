//! The pages that tables are mapped over.

#![expect(unsafe_code, reason = "replaces pages of the arena by tables")]

use core::ffi::c_void;
use core::mem::ManuallyDrop;
use core::ops::Range;
use core::sync::atomic::AtomicU64;

use tablewalk_uapi::memory::{MAP_FIXED_NOREPLACE, MAP_SHARED, Protection, mmap_anonymous};
use tablewalk_uapi::remap::{self, ExposePgtblInfo, ExposePgtblTable};
use tablewalk_uapi::remap_device::{
    EXPOSE_PGTBL_LEVEL_0, EXPOSE_PGTBL_MOVING_L2, EXPOSE_PGTBL_ROOT_COPY,
};
use tablewalk_uapi::{Errno, Mapping, Sharing};
use tablewalk_walker::{
    Batched, Descriptor, Format, FrameNumber, Geometry, Level, Moves, TableId, VirtualAddress,
};

use crate::LiveError;
use crate::format::full_format_of;

/// Address space for the tables of one process: one page for each slot, and one for each batch slot.
#[derive(Debug)]
pub(crate) struct Arena {
    pid: i32,
    format: Format,
    moves: Moves,
    slots: Pages,
    batch: Option<Batch>,
}

/// Pages that tables are mapped over.
///
/// # Invariants
///
/// This value owns the pages of all slots except those in `lost`.
#[derive(Debug)]
struct Pages {
    mapping: ManuallyDrop<Mapping>,
    count: usize,
    /// Slots whose pages may belong to other code.
    lost: Range<usize>,
    page_shift: u32,
    protection: Protection,
}

/// Pages for tables that are mapped together, and the table in each.
#[derive(Debug)]
struct Batch {
    pages: Pages,
    /// Room for one [`ExposePgtblTable`] for each page.
    list: Mapping,
}

impl Arena {
    /// Gets the format from the kernel and maps the pages: two system calls, and with batch slots four.
    pub(crate) fn new(
        pid: i32,
        slots: usize,
        batch_slots: usize,
        protection: Protection,
    ) -> Result<Self, LiveError> {
        let info = remap::info().map_err(LiveError::Info)?;
        let format = full_format_of(&info)?;
        let page_shift = format.geometry.page_shift();
        let pages = |count| Pages::new(count, page_shift, protection);
        let batch = if batch_slots == 0 {
            None
        } else {
            let size = batch_slots.saturating_mul(size_of::<ExposePgtblTable>());
            let list = Mapping::reserve(size, Protection::READ_WRITE);
            Some(Batch {
                pages: pages(batch_slots)?,
                list: list.map_err(|errno| LiveError::Arena {
                    slots: batch_slots,
                    errno,
                })?,
            })
        };
        Ok(Self {
            pid,
            moves: moves(&info, &format.geometry),
            format,
            slots: pages(slots)?,
            batch,
        })
    }

    pub(crate) const fn format(&self) -> &Format {
        &self.format
    }

    /// Returns whether tables of level 2 are moved.
    pub(crate) const fn moves_level_2(&self) -> Moves {
        self.moves
    }

    pub(crate) const fn slots(&self) -> usize {
        self.slots.count
    }

    pub(crate) fn batch_slots(&self) -> usize {
        self.batch.as_ref().map_or(0, |batch| batch.pages.count)
    }

    /// Maps the table `id` over the page of `slot`: one system call.
    ///
    /// `None` if no table of that level translates the address, or if it is not the expected one.
    pub(crate) fn map(
        &mut self,
        slot: usize,
        id: TableId,
    ) -> Result<Option<FrameNumber>, LiveError> {
        let page = self.slots.page(slot)?;
        let (level, address) = (id.level, id.address);
        let number = number_of(level, self.format.geometry.root_level());
        // SAFETY: the arena owns the page, and its words are not borrowed, since they borrow the arena.
        let mapped = unsafe { remap::map_by_address(self.pid, number, address.0, page) };
        match mapped.map(FrameNumber) {
            Ok(frame) => Ok(Some(frame).filter(|&frame| id.frame.is_none_or(|id| id == frame))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => {
                self.slots.repair(slot..slot + 1, errno);
                Err(self.refused(level, address, errno))
            }
        }
    }

    /// Maps tables of `level` over the pages of batch slots from `slot` on: one system call.
    pub(crate) fn map_batch(
        &mut self,
        slot: usize,
        level: Level,
        start: VirtualAddress,
        last: VirtualAddress,
    ) -> Result<usize, LiveError> {
        let end = last
            .0
            .saturating_add(1)
            .min(1 << self.format.geometry.va_bits());
        let Some(batch) = &mut self.batch else {
            return Ok(0);
        };
        let page = batch.pages.page(slot)?;
        let tables = batch.list_mut().get_mut(slot..).unwrap_or_default();
        let number = number_of(level, self.format.geometry.root_level());
        // SAFETY: there are as many pages from `page` on as elements of `tables`; the words of neither are
        // borrowed.
        let mapped = unsafe { remap::map_range(self.pid, number, start.0..end, page, tables) };
        match mapped {
            Ok((count, _)) => Ok(count),
            Err(errno) => {
                let end = slot.saturating_add(remap::EXPOSE_PGTBL_RANGE_MOST);
                batch.pages.repair(slot..end, errno);
                Err(self.refused(level, start, errno))
            }
        }
    }

    /// Returns the table in batch slot `slot`.
    pub(crate) fn batched(&self, slot: usize) -> Option<Batched> {
        let table = self.batch.as_ref()?.list().get(slot)?;
        // A descriptor that leads to a table is never 0.
        (table.desc != 0).then_some(Batched {
            address: VirtualAddress(table.addr),
            descriptor: Descriptor(table.desc),
        })
    }

    /// Returns the words of the page of `slot`: the table mapped there, and zeros after a root table smaller
    /// than a page. Empty if there is no such slot.
    #[inline]
    pub(crate) fn words(&self, slot: usize) -> &[AtomicU64] {
        self.slots.words(slot)
    }

    /// Like [`Arena::words`], for a batch slot.
    pub(crate) fn batch_words(&self, slot: usize) -> &[AtomicU64] {
        match &self.batch {
            Some(batch) => batch.pages.words(slot),
            None => &[],
        }
    }

    const fn refused(&self, level: Level, address: VirtualAddress, errno: Errno) -> LiveError {
        LiveError::Map {
            pid: self.pid,
            level,
            address,
            errno,
        }
    }
}

impl Pages {
    fn new(count: usize, page_shift: u32, protection: Protection) -> Result<Self, LiveError> {
        let mapping = count
            .checked_mul(1 << page_shift)
            .ok_or(Errno::ENOMEM)
            .and_then(|size| Mapping::anonymous(size, protection, Sharing::Shared))
            .map_err(|errno| LiveError::Arena {
                slots: count,
                errno,
            })?;
        Ok(Self {
            mapping: ManuallyDrop::new(mapping),
            count,
            lost: 0..0,
            page_shift,
            protection,
        })
    }

    fn page(&self, slot: usize) -> Result<*mut c_void, LiveError> {
        if slot >= self.count {
            return Err(LiveError::Slot {
                slot,
                slots: self.count,
            });
        }
        if self.lost.contains(&slot) {
            return Err(LiveError::Lost { slot });
        }
        Ok(self.start(slot).cast())
    }

    /// Returns the address of the page of a slot, if there is such a slot.
    #[inline]
    fn start(&self, slot: usize) -> *mut u8 {
        self.mapping.as_ptr().wrapping_add(slot << self.page_shift)
    }

    #[inline]
    fn words(&self, slot: usize) -> &[AtomicU64] {
        if slot >= self.count || self.lost.contains(&slot) {
            return &[];
        }
        let start = self.start(slot).cast_const().cast::<AtomicU64>();
        // SAFETY: this value owns the page, which is readable and page-aligned as long as the value lives.
        // Only `map` and `map_batch` change what is mapped there, and they borrow the arena exclusively.
        unsafe { core::slice::from_raw_parts(start, 1 << (self.page_shift - 3)) }
    }

    /// Repairs `slots`, as far as they exist, after a call that should have replaced their pages and failed
    /// with `errno`.
    ///
    /// Like `mmap(MAP_FIXED)`, the kernel may have unmapped pages before it ran out of memory. Such a page is
    /// replaced by an empty one. If something is mapped there, it is either the old page, or a mapping that
    /// another thread made in the meantime. The two cannot be told apart, so the slot is lost.
    fn repair(&mut self, slots: Range<usize>, errno: Errno) {
        // All other errors are found before anything is replaced.
        if errno != Errno::ENOMEM {
            return;
        }
        let flags = MAP_SHARED | MAP_FIXED_NOREPLACE;
        for slot in slots.start..slots.end.min(self.count) {
            let page = self.start(slot).cast();
            // SAFETY: replaces nothing.
            let mapped =
                unsafe { mmap_anonymous(page, 1 << self.page_shift, self.protection, flags) };
            if mapped.is_err() {
                self.lose(slot);
            }
        }
    }

    fn lose(&mut self, slot: usize) {
        self.lost = if self.lost.is_empty() {
            slot..slot + 1
        } else {
            self.lost.start.min(slot)..self.lost.end.max(slot + 1)
        };
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // Pages that may belong to other code are not unmapped; the rest is freed when the process ends.
        if self.lost.is_empty() {
            // SAFETY: unmapped once, and not used after this.
            unsafe { ManuallyDrop::drop(&mut self.mapping) };
        }
    }
}

/// Returns what a kernel with this geometry does with tables of level 2: the call leaves them in their places.
fn moves(info: &ExposePgtblInfo, geometry: &Geometry) -> Moves {
    let has = |feature| info.features & feature != 0;
    if !has(EXPOSE_PGTBL_MOVING_L2) {
        Moves::Never
    } else if has(EXPOSE_PGTBL_ROOT_COPY) && geometry.root_level() == Level::L1 {
        Moves::Unseen
    } else {
        Moves::Seen
    }
}

/// The number of a level for the call: 0 is the root, whatever its level.
const fn number_of(level: Level, root: Level) -> u32 {
    match (level, root) {
        (Level::LMinus1, _) => 0,
        (Level::L0, Level::LMinus1) => EXPOSE_PGTBL_LEVEL_0,
        _ => level.number().unsigned_abs() as u32,
    }
}

impl Batch {
    fn list(&self) -> &[ExposePgtblTable] {
        let start = self.list.as_ptr().cast_const().cast();
        // SAFETY: the mapping was made for this number, and is zeros at first. The kernel writes to it only
        // in `map_batch`, which borrows it exclusively.
        unsafe { core::slice::from_raw_parts(start, self.pages.count) }
    }

    fn list_mut(&mut self) -> &mut [ExposePgtblTable] {
        let start = self.list.as_ptr().cast();
        // SAFETY: as in `list`; borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(start, self.pages.count) }
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;

    use tablewalk_uapi::memory::munmap;

    use super::*;

    const PAGE_SHIFT: u32 = 12;
    const PAGE: usize = 1 << PAGE_SHIFT;

    fn four_pages() -> Pages {
        Pages::new(4, PAGE_SHIFT, Protection::READ_WRITE).unwrap()
    }

    /// As the kernel does before it finds that it has no memory.
    fn take_away(pages: &Pages, slot: usize) {
        // SAFETY: nobody has the words of these pages.
        unsafe { munmap(pages.start(slot).cast(), PAGE) }.unwrap();
    }

    #[test]
    fn a_hole_gets_an_empty_page() {
        let mut pages = four_pages();
        pages.words(1)[0].store(7, Ordering::Relaxed);
        take_away(&pages, 1);
        pages.repair(1..2, Errno::ENOMEM);
        assert_eq!(pages.words(1)[0].load(Ordering::Relaxed), 0);
        assert!(pages.lost.is_empty() && pages.page(1).is_ok());
    }

    #[test]
    fn what_another_thread_has_mapped_meanwhile_is_left_alone() {
        let mut pages = four_pages();
        take_away(&pages, 1);
        let place = pages.mapping.address() + PAGE as u64;
        let theirs = Mapping::reserve_at(place, PAGE, Protection::READ_WRITE).unwrap();
        // SAFETY: inside the mapping.
        unsafe { theirs.as_ptr().write_volatile(9) };
        pages.repair(1..2, Errno::ENOMEM);
        assert!(pages.words(1).is_empty());
        assert_eq!(pages.page(1), Err(LiveError::Lost { slot: 1 }));
        assert!(pages.page(0).is_ok() && pages.page(2).is_ok());
        drop(pages);
        // SAFETY: as above; a page that was unmapped would end the test.
        assert_eq!(unsafe { theirs.as_ptr().read_volatile() }, 9);
    }

    #[test]
    fn what_is_refused_before_a_page_is_replaced_loses_none() {
        let mut pages = four_pages();
        for errno in [Errno::EPERM, Errno::ESRCH, Errno::EINVAL, Errno::EAGAIN] {
            pages.repair(0..512, errno);
        }
        assert!((0..4).all(|slot| pages.words(slot).len() == PAGE / 8));
        assert!(pages.words(4).is_empty());
    }

    #[test]
    fn lost_slots_are_lost_with_those_between() {
        let mut pages = four_pages();
        pages.lose(2);
        pages.lose(0);
        let empty = |slot: &usize| pages.words(*slot).is_empty();
        assert_eq!((0..4).filter(empty).count(), 3);
    }
}
