//! Which pages of a region have come: their entries are the kernel's.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::{Errno, Mapping};

/// A bit for each page that has come since it was taken back last, if ever.
///
/// An entry that reads 0 is not empty for that: while the kernel unmaps a page, it may be 0 until TLBs are
/// flushed, and become something else then. Whoever put an entry there meanwhile would lose it, with
/// its page. So one is put only where no page has come, which only one worker can say of a place.
#[derive(Debug)]
pub(crate) struct Came {
    bits: Mapping,
    pages: usize,
}

impl Came {
    /// No page has come. `page` is the size of one.
    pub(crate) fn new(pages: usize, page: usize) -> Result<Self, Errno> {
        let bytes = pages.div_ceil(8).next_multiple_of(page);
        let bits = Mapping::reserve(bytes, Protection::READ_WRITE)?;
        Ok(Self { bits, pages })
    }

    /// The word with the bit of `page`, and the bit. The first word's if there is no such page.
    fn word(&self, page: usize) -> (&AtomicU64, u64) {
        let page = if page < self.pages { page } else { 0 };
        let word = self.bits.as_ptr().cast::<u64>().wrapping_add(page / 64);
        // SAFETY: inside a mapping that lives as long, and is used by this only.
        (unsafe { AtomicU64::from_ptr(word) }, 1 << (page % 64))
    }

    /// Whether a page has come. If not, it may at any time.
    pub(crate) fn has(&self, page: usize) -> bool {
        let (word, bit) = self.word(page);
        word.load(Ordering::Relaxed) & bit != 0
    }

    /// A page is about to come; whether none has before. For one caller only it is so.
    pub(crate) fn claim(&self, page: usize) -> bool {
        let (word, bit) = self.word(page);
        // The bit is all that is shared: the entry is written by a compare-and-swap of its own.
        word.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// The pages in `pages` have come, as far as anybody may put an entry.
    pub(crate) fn claim_all(&self, pages: Range<usize>) {
        for page in pages.start..pages.end.min(self.pages) {
            let _first = self.claim(page);
        }
    }

    /// A page was taken back, by the kernel and under the locks of its entry: that is empty.
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
