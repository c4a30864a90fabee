//! The pages that tables are mapped over.

#![expect(unsafe_code, reason = "replaces pages of the arena by tables")]

use core::ffi::c_void;
use core::sync::atomic::AtomicU64;

use tablewalk_uapi::memory::{MAP_FIXED_NOREPLACE, MAP_SHARED, Protection, mmap_anonymous};
use tablewalk_uapi::{Errno, Mapping, Sharing, remap};
use tablewalk_walker::{FrameNumber, Geometry, TableId};

use crate::LiveError;

/// One page for each slot, for the tables of one process.
#[derive(Debug)]
pub(crate) struct Arena {
    pid: i32,
    geometry: Geometry,
    slots: usize,
    protection: Protection,
    pages: Mapping,
}

impl Arena {
    /// Asks the kernel for its geometry and maps the pages: two system calls.
    pub(crate) fn new(pid: i32, slots: usize, protection: Protection) -> Result<Self, LiveError> {
        let info = remap::info().map_err(LiveError::Info)?;
        let geometry = Geometry::new(info.page_shift, info.va_bits, info.oa_bits)
            .map_err(LiveError::Geometry)?;
        let pages = slots
            .checked_mul(1 << geometry.page_shift())
            .ok_or(Errno::ENOMEM)
            .and_then(|size| Mapping::anonymous(size, protection, Sharing::Shared))
            .map_err(|errno| LiveError::Arena { slots, errno })?;
        Ok(Self {
            pid,
            geometry,
            slots,
            protection,
            pages,
        })
    }

    pub(crate) const fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(crate) const fn slots(&self) -> usize {
        self.slots
    }

    /// Maps the table `id` over the page of `slot`: one system call.
    ///
    /// `None` if no table of that level translates the address, or another one than expected.
    pub(crate) fn map(
        &mut self,
        slot: usize,
        id: TableId,
    ) -> Result<Option<FrameNumber>, LiveError> {
        let page = self.page(slot)?;
        let (level, address) = (id.level, id.address);
        // SAFETY: the page is the arena's, and nobody has its words: they borrow the arena.
        let mapped =
            unsafe { remap::map_by_address(self.pid, level.number().into(), address.0, page) };
        match mapped.map(FrameNumber) {
            Ok(frame) => Ok(Some(frame).filter(|&frame| id.frame.is_none_or(|id| id == frame))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => {
                self.close_hole(page);
                Err(LiveError::Map {
                    pid: self.pid,
                    level,
                    address,
                    errno,
                })
            }
        }
    }

    /// The words of the page of `slot`: those of the table mapped there, and zeros behind a root
    /// table smaller than a page. None if there is no such slot.
    #[inline]
    pub(crate) fn words(&self, slot: usize) -> &[AtomicU64] {
        if slot >= self.slots {
            return &[];
        }
        let offset = slot << self.geometry.page_shift();
        let start = self
            .pages
            .as_ptr()
            .wrapping_add(offset)
            .cast_const()
            .cast::<AtomicU64>();
        // SAFETY: a page of the arena, which is mapped, readable and aligned to pages as long as the
        // arena lives. What it is mapped to changes in `map` only, which borrows the arena alone.
        unsafe { core::slice::from_raw_parts(start, 1 << (self.geometry.page_shift() - 3)) }
    }

    fn page(&self, slot: usize) -> Result<*mut c_void, LiveError> {
        if slot >= self.slots {
            return Err(LiveError::Slot {
                slot,
                slots: self.slots,
            });
        }
        let offset = slot << self.geometry.page_shift();
        Ok(self.pages.as_ptr().wrapping_add(offset).cast())
    }

    /// Maps an empty page where the kernel took one away and failed then, as `mmap(MAP_FIXED)` may.
    fn close_hole(&self, page: *mut c_void) {
        let flags = MAP_SHARED | MAP_FIXED_NOREPLACE;
        let size = 1 << self.geometry.page_shift();
        // SAFETY: replaces nothing. `EEXIST`, the usual answer, says that the page is still there.
        let _ = unsafe { mmap_anonymous(page, size, self.protection, flags) };
    }
}
