//! Pages that are allocated before they are needed.

use tablewalk_live::{LiveError, flush};
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::{Mapping, Sharing};
use tablewalk_walker::{Geometry, VirtualAddress};

use tablewalk_rt::memory::write;
use tablewalk_testkit::error::Error;

/// Offset of the mark in a donor page.
pub(crate) const MARK_OFFSET: usize = 8;

/// Returns the mark of donor `page`. It shows that a page of the region came from there.
#[must_use]
pub(crate) const fn mark(page: usize) -> u64 {
    0xd0_0000_0000 | page as u64
}

/// One donor page for each page of the region: private anonymous memory, like the region.
#[derive(Debug)]
pub(crate) struct Donors {
    mapping: Mapping,
}

impl Donors {
    /// Maps the pages and writes a mark to each.
    ///
    /// # Errors
    ///
    /// As mmap(2) and madvise(2).
    pub(crate) fn new(pages: usize, page_size: usize) -> Result<Self, Error> {
        let mapping =
            Mapping::anonymous(pages * page_size, Protection::READ_WRITE, Sharing::Private)
                .map_err(Error::call("mmap"))?;
        mapping.base_pages_only().map_err(Error::call("madvise"))?;
        for page in 0..pages {
            write(&mapping, page * page_size + MARK_OFFSET, mark(page));
        }
        Ok(Self { mapping })
    }

    /// Returns the mapping of the donor pages.
    #[must_use]
    pub(crate) const fn mapping(&self) -> &Mapping {
        &self.mapping
    }
}

/// Invalidates the TLB entries of a whole mapping.
///
/// # Errors
///
/// As [`flush`].
pub(crate) fn flush_mapping(geometry: &Geometry, mapping: &Mapping) -> Result<(), LiveError> {
    let start = VirtualAddress(mapping.address());
    flush(
        0,
        geometry,
        start..start.wrapping_add(mapping.size() as u64),
    )
}
