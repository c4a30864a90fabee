//! Memory that the programs make pages of.

#![expect(unsafe_code, reason = "writes through the address of a mapping")]

use tablewalk_uapi::memory::Advice;
use tablewalk_uapi::{Errno, Mapping};

/// Keeps huge pages out of `mapping`: each page has an entry of its own, in a table of level 3.
///
/// # Errors
///
/// As madvise(2), but for a kernel that has no huge pages to keep out.
pub fn base_pages_only(mapping: &Mapping) -> Result<(), Errno> {
    match mapping.advise(0..mapping.size(), Advice::NoHugePage) {
        // Without CONFIG_TRANSPARENT_HUGEPAGE the advice is unknown.
        Err(Errno::EINVAL) => Ok(()),
        result => result,
    }
}

/// Writes `value` at `offset`, a multiple of 8, of a mapping that can be written, so that a page is
/// there. Nothing beyond its end is written.
pub fn write(mapping: &Mapping, offset: usize, value: u64) {
    if offset.is_multiple_of(8) && offset < mapping.size() {
        // SAFETY: inside the mapping and aligned, since mappings are whole pages.
        unsafe {
            mapping
                .as_ptr()
                .wrapping_add(offset)
                .cast::<u64>()
                .write_volatile(value)
        };
    }
}

/// The value at `offset`, as [`write()`]; 0 beyond the end.
#[must_use]
pub fn read(mapping: &Mapping, offset: usize) -> u64 {
    if offset.is_multiple_of(8) && offset < mapping.size() {
        // SAFETY: as in `write`.
        unsafe {
            mapping
                .as_ptr()
                .wrapping_add(offset)
                .cast::<u64>()
                .read_volatile()
        }
    } else {
        0
    }
}
