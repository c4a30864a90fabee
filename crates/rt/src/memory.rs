//! Memory that the programs make pages of.

#![expect(unsafe_code, reason = "writes through the address of a mapping")]

use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::{Errno, Mapping};

/// Address space for `size` bytes, which stays until the process ends. It takes memory where it is
/// written; until then it is zeros.
///
/// # Errors
///
/// As mmap(2).
pub fn room(size: usize) -> Result<&'static mut [u8], Errno> {
    let mapping = Mapping::reserve(size, Protection::READ_WRITE)?;
    let start = mapping.as_ptr();
    core::mem::forget(mapping);
    // SAFETY: memory of that size, that nobody else knows of and nobody unmaps.
    Ok(unsafe { core::slice::from_raw_parts_mut(start, size) })
}

/// As [`room`], for `count` words.
///
/// # Errors
///
/// As mmap(2).
pub fn words_room(count: usize) -> Result<&'static mut [u64], Errno> {
    let bytes = room(count.checked_mul(8).ok_or(Errno::ENOMEM)?)?;
    // SAFETY: any eight bytes are a word.
    let (_, words, _) = unsafe { bytes.align_to_mut() };
    Ok(words)
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
