//! The pages of a region that have an entry, or had one: the kernel owns these entries.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::{Errno, Mapping};

/// A bit for each page that was mapped, by an entry of ours or by the kernel, and not taken back since.
///
/// An entry that reads 0 may still be in use: while the kernel unmaps a page, the entry is 0 until the TLBs
/// are flushed, and the kernel then writes it again. An entry installed in between would be lost, with its
/// page. So workers install entries only where the bit is clear, and only one worker can set a bit.
#[derive(Debug)]
pub(crate) struct Came {
    bits: Mapping,
    pages: usize,
}

impl Came {
    /// A map without set bits. `page` is the page size in bytes.
    pub(crate) fn new(pages: usize, page: usize) -> Result<Self, Errno> {
        let bytes = pages.div_ceil(8).next_multiple_of(page);
        let bits = Mapping::reserve(bytes, Protection::READ_WRITE)?;
        Ok(Self { bits, pages })
    }

    /// Returns the word with the bit of `page`, and the bit; those of the first word if there is no such
    /// page.
    fn word(&self, page: usize) -> (&AtomicU64, u64) {
        let page = if page < self.pages { page } else { 0 };
        let word = self.bits.as_ptr().cast::<u64>().wrapping_add(page / 64);
        // SAFETY: inside a mapping that lives as long, and is used by this only.
        (unsafe { AtomicU64::from_ptr(word) }, 1 << (page % 64))
    }

    /// Returns whether the bit of a page is set. Another thread may set it at any time.
    pub(crate) fn has(&self, page: usize) -> bool {
        let (word, bit) = self.word(page);
        word.load(Ordering::Relaxed) & bit != 0
    }

    /// Sets the bit of a page that is about to be mapped. Returns whether it was clear: true for one caller
    /// only.
    pub(crate) fn claim(&self, page: usize) -> bool {
        let (word, bit) = self.word(page);
        // The bit is all that is shared: the entry is written by a compare-and-swap of its own.
        word.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// Sets the bits of `pages`: nobody may install entries there.
    pub(crate) fn claim_all(&self, pages: Range<usize>) {
        for page in pages.start..pages.end.min(self.pages) {
            let _first = self.claim(page);
        }
    }

    /// Clears the bit of a page that the kernel took back, under the locks of its entry: the entry is empty.
    pub(crate) fn taken_back(&self, page: usize) {
        let (word, bit) = self.word(page);
        word.fetch_and(!bit, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_place_is_claimed_once_until_its_page_is_taken_back() {
        let came = Came::new(130, 1 << 16).unwrap();
        for page in [0, 63, 64, 129] {
            assert!(!came.has(page) && came.claim(page));
            assert!(came.has(page) && !came.claim(page));
        }
        came.taken_back(64);
        assert_eq!(
            [63, 64, 65].map(|page| came.has(page)),
            [true, false, false]
        );
        assert!(came.claim(64));
    }
}
