//! The pages that tables are mapped over.

#![expect(unsafe_code, reason = "replaces pages of the arena by tables")]

use core::ffi::c_void;
use core::sync::atomic::AtomicU64;

use tablewalk_uapi::memory::{MAP_FIXED_NOREPLACE, MAP_SHARED, Protection, mmap_anonymous};
use tablewalk_uapi::remap::{self, ExposePgtblTable};
use tablewalk_uapi::{Errno, Mapping, Sharing};
use tablewalk_walker::{Batched, Descriptor, Format, FrameNumber, Level, TableId, VirtualAddress};

use crate::{LiveError, format};

/// Pages for the tables of one process: one for each slot, and one for each batch slot.
#[derive(Debug)]
pub(crate) struct Arena {
    pid: i32,
    format: Format,
    slots: Pages,
    batch: Option<Batch>,
}

/// Pages that tables are mapped over.
#[derive(Debug)]
struct Pages {
    mapping: Mapping,
    count: usize,
    page_shift: u32,
    protection: Protection,
}

/// Pages for tables that are mapped together, and what is in each.
#[derive(Debug)]
struct Batch {
    pages: Pages,
    /// Room for one [`ExposePgtblTable`] for each page.
    list: Mapping,
}

impl Arena {
    /// Asks the kernel for its format and maps the pages: two system calls, and with batch slots four.
    pub(crate) fn new(
        pid: i32,
        slots: usize,
        batch_slots: usize,
        protection: Protection,
    ) -> Result<Self, LiveError> {
        let format = format()?;
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
            format,
            slots: pages(slots)?,
            batch,
        })
    }

    pub(crate) const fn format(&self) -> &Format {
        &self.format
    }

    pub(crate) const fn slots(&self) -> usize {
        self.slots.count
    }

    pub(crate) fn batch_slots(&self) -> usize {
        self.batch.as_ref().map_or(0, |batch| batch.pages.count)
    }

    /// Maps the table `id` over the page of `slot`: one system call.
    ///
    /// `None` if no table of that level translates the address, or another one than expected.
    pub(crate) fn map(
        &mut self,
        slot: usize,
        id: TableId,
    ) -> Result<Option<FrameNumber>, LiveError> {
        let page = self.slots.page(slot)?;
        let (level, address) = (id.level, id.address);
        // SAFETY: the page is the arena's, and nobody has its words: they borrow the arena.
        let mapped = unsafe { remap::map_by_address(self.pid, number_of(level), address.0, page) };
        match mapped.map(FrameNumber) {
            Ok(frame) => Ok(Some(frame).filter(|&frame| id.frame.is_none_or(|id| id == frame))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => {
                self.slots.close_holes(slot, 1);
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
        let number = number_of(level);
        // SAFETY: there are as many pages behind `page` as elements of `tables`; nobody has the words
        // of either.
        let mapped = unsafe { remap::map_range(self.pid, number, start.0..end, page, tables) };
        mapped.map(|(count, _)| count).map_err(|errno| {
            if let Some(batch) = &self.batch {
                batch
                    .pages
                    .close_holes(slot, remap::EXPOSE_PGTBL_RANGE_MOST);
            }
            self.refused(level, start, errno)
        })
    }

    /// What is in batch slot `slot`.
    pub(crate) fn batched(&self, slot: usize) -> Option<Batched> {
        let table = self.batch.as_ref()?.list().get(slot)?;
        // No descriptor leads to a table and is 0.
        (table.desc != 0).then_some(Batched {
            address: VirtualAddress(table.addr),
            descriptor: Descriptor(table.desc),
        })
    }

    /// The words of the page of `slot`: those of the table mapped there, and zeros behind a root
    /// table smaller than a page. None if there is no such slot.
    #[inline]
    pub(crate) fn words(&self, slot: usize) -> &[AtomicU64] {
        self.slots.words(slot)
    }

    /// As [`Arena::words`], of a batch slot.
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
            mapping,
            count,
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
        Ok(self.start(slot).cast())
    }

    /// Where the page of a slot begins, if there is such a slot.
    #[inline]
    fn start(&self, slot: usize) -> *mut u8 {
        self.mapping.as_ptr().wrapping_add(slot << self.page_shift)
    }

    #[inline]
    fn words(&self, slot: usize) -> &[AtomicU64] {
        if slot >= self.count {
            return &[];
        }
        let start = self.start(slot).cast_const().cast::<AtomicU64>();
        // SAFETY: a page of the mapping, which is readable and aligned to pages as long as it lives.
        // What is mapped there changes in `map` and `map_batch` only, which borrow the arena alone.
        unsafe { core::slice::from_raw_parts(start, 1 << (self.page_shift - 3)) }
    }

    /// Maps empty pages where the kernel took some away and failed then, as `mmap(MAP_FIXED)` may: up
    /// to `count` from `slot` on.
    fn close_holes(&self, slot: usize, count: usize) {
        let flags = MAP_SHARED | MAP_FIXED_NOREPLACE;
        for slot in (slot..self.count).take(count) {
            let page = self.start(slot).cast();
            // SAFETY: replaces nothing. `EEXIST`, the usual answer, says that the page is still there.
            let _ = unsafe { mmap_anonymous(page, 1 << self.page_shift, self.protection, flags) };
        }
    }
}

/// The number of a level in the call, which has none for level -1: 0 is the root, whichever it is.
const fn number_of(level: Level) -> u32 {
    match level {
        Level::LMinus1 => 0,
        _ => level.number().unsigned_abs() as u32,
    }
}

impl Batch {
    fn list(&self) -> &[ExposePgtblTable] {
        let start = self.list.as_ptr().cast_const().cast();
        // SAFETY: as many as the mapping, which is zeros at first, was made for. The kernel writes to
        // them in `map_batch` only, which borrows them alone.
        unsafe { core::slice::from_raw_parts(start, self.pages.count) }
    }

    fn list_mut(&mut self) -> &mut [ExposePgtblTable] {
        let start = self.list.as_ptr().cast();
        // SAFETY: as in `list`; borrowed alone.
        unsafe { core::slice::from_raw_parts_mut(start, self.pages.count) }
    }
}
