//! The region of a pager.

use tablewalk_walker::{Level, VirtualAddress};

/// The level of leaf tables.
pub(crate) const LEAF: Level = Level::L3;

/// Where the region is, unless a part was moved. It begins where a leaf table does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub(crate) start: u64,
    pub(crate) pages: usize,
    pub(crate) page_shift: u32,
}

impl Region {
    /// Returns the address of a page.
    pub(crate) const fn address(&self, page: usize) -> VirtualAddress {
        VirtualAddress(self.start + ((page as u64) << self.page_shift))
    }

    /// Returns the number of the page at `address`, if it is in the region.
    pub(crate) fn page_at(&self, address: u64) -> Option<usize> {
        let page = address.wrapping_sub(self.start) >> self.page_shift;
        let page = usize::try_from(page).ok()?;
        (page < self.pages).then_some(page)
    }

    /// Returns the number of pages that one leaf table translates.
    pub(crate) const fn table_pages(&self) -> usize {
        1 << (self.page_shift - 3)
    }
}

/// Converts an offset inside a mapping.
#[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits")]
pub(crate) const fn offset_of(distance: u64) -> usize {
    distance as usize
}
