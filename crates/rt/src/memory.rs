//! Memory of a program, by whole pages.

#![expect(unsafe_code, reason = "writes through the address of a mapping")]

use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::{Errno, Mapping};

/// Returns `size` zero bytes that are never freed. They take no memory before they are written.
///
/// # Errors
///
/// As mmap(2).
pub fn leak_zeroed(size: usize) -> Result<&'static mut [u8], Errno> {
    let mapping = Mapping::reserve(size, Protection::READ_WRITE)?;
    let start = mapping.as_ptr();
    core::mem::forget(mapping);
    // SAFETY: memory of that size, that nobody else knows of and nobody unmaps.
    Ok(unsafe { core::slice::from_raw_parts_mut(start, size) })
}

/// As [`leak_zeroed`], for `count` words.
///
/// # Errors
///
/// As mmap(2).
pub fn leak_zeroed_words(count: usize) -> Result<&'static mut [u64], Errno> {
    let bytes = leak_zeroed(count.checked_mul(8).ok_or(Errno::ENOMEM)?)?;
    // SAFETY: any eight bytes are a valid `u64`.
    let (_, words, _) = unsafe { bytes.align_to_mut() };
    Ok(words)
}

/// Writes `value` at `offset`, a multiple of 8, of a writable mapping, which makes the page present. Does
/// nothing beyond the end.
pub fn write(mapping: &Mapping, offset: usize, value: u64) {
    if offset.is_multiple_of(8) && offset < mapping.size() {
        // SAFETY: the word lies inside the mapping and is aligned, since a mapping is whole pages.
        unsafe {
            mapping
                .as_ptr()
                .wrapping_add(offset)
                .cast::<u64>()
                .write_volatile(value)
        };
    }
}

/// Returns the word at `offset`, as [`write()`] wrote it; 0 beyond the end.
#[must_use]
pub fn read(mapping: &Mapping, offset: usize) -> u64 {
    if offset.is_multiple_of(8) && offset < mapping.size() {
        // SAFETY: the word lies inside the mapping and is aligned, since a mapping is whole pages.
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
