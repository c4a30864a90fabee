//! Pages that the kernel gave out before they are needed.

#![expect(unsafe_code, reason = "makes a slice of a mapping")]

use tablewalk_live::{LiveError, flush};
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::{Mapping, Sharing};
use tablewalk_walker::{Geometry, VirtualAddress};

use crate::error::Error;
use crate::memory::{base_pages_only, write};

/// Where in a donor page its mark is.
pub const MARK_OFFSET: usize = 8;

/// What donor `page` holds: it shows that the page came from there.
#[must_use]
pub const fn mark(page: usize) -> u64 {
    0xd0_0000_0000 | page as u64
}

/// One donor page for each page of the region: private anonymous memory, as the region is.
#[derive(Debug)]
pub struct Donors {
    mapping: Mapping,
}

impl Donors {
    /// Maps the pages and writes a mark into each.
    ///
    /// # Errors
    ///
    /// As mmap(2) and madvise(2).
    pub fn new(pages: usize, page_size: usize) -> Result<Self, Error> {
        let mapping =
            Mapping::anonymous(pages * page_size, Protection::READ_WRITE, Sharing::Private)
                .map_err(Error::call("mmap"))?;
        base_pages_only(&mapping).map_err(Error::call("madvise"))?;
        for page in 0..pages {
            write(&mapping, page * page_size + MARK_OFFSET, mark(page));
        }
        Ok(Self { mapping })
    }

    /// The mapping that the pages come from.
    #[must_use]
    pub const fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// The bytes of the page at `offset`; none if it is not inside.
    #[must_use]
    pub fn page(&self, offset: u64, page_size: u64) -> &[u8] {
        let inside = offset.saturating_add(page_size) <= self.mapping.size() as u64;
        match (usize::try_from(offset), usize::try_from(page_size)) {
            (Ok(offset), Ok(page_size)) if inside => {
                let start = self.mapping.as_ptr().wrapping_add(offset);
                // SAFETY: inside the mapping, which nobody writes to while it is borrowed.
                unsafe { core::slice::from_raw_parts(start, page_size) }
            }
            _ => &[],
        }
    }

    /// Invalidates what TLBs hold of the donors' addresses. Due after entries were taken out and
    /// before the addresses are unmapped: `munmap` flushes only where it finds an entry.
    ///
    /// # Errors
    ///
    /// As [`flush`].
    pub fn flush(&self, geometry: &Geometry) -> Result<(), LiveError> {
        flush_mapping(geometry, &self.mapping)
    }
}

/// Invalidates the TLB entries of all of a mapping.
///
/// # Errors
///
/// As [`flush`].
pub fn flush_mapping(geometry: &Geometry, mapping: &Mapping) -> Result<(), LiveError> {
    let start = VirtualAddress(mapping.address());
    flush(
        0,
        geometry,
        start..start.wrapping_add(mapping.size() as u64),
    )
}
