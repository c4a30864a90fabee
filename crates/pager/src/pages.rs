//! Sets of pages of a region.

use core::sync::atomic::{AtomicU64, Ordering};

use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::{Errno, Mapping};

/// A bit for each page of a region, which any thread may change at any time.
#[derive(Debug)]
pub(crate) struct PageSet {
    bits: Mapping,
    pages: usize,
}

impl PageSet {
    /// An empty set. `page` is the page size in bytes.
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

    /// Returns whether `page` is in the set.
    pub(crate) fn contains(&self, page: usize) -> bool {
        let (word, bit) = self.word(page);
        word.load(Ordering::Relaxed) & bit != 0
    }

    /// Returns the first page from `start` on that is in the set.
    pub(crate) fn next(&self, start: usize) -> Option<usize> {
        let mut page = start;
        while page < self.pages {
            let (word, bit) = self.word(page);
            let after = word.load(Ordering::Relaxed) & bit.wrapping_neg();
            let first = page - page % 64;
            if after != 0 {
                return Some(first + after.trailing_zeros() as usize);
            }
            page = first + 64;
        }
        None
    }

    /// Adds `page`. Returns whether it was not in the set: of several callers, one gets true.
    pub(crate) fn insert(&self, page: usize) -> bool {
        let (word, bit) = self.word(page);
        word.fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    /// Removes `page`. Returns whether it was in the set.
    pub(crate) fn remove(&self, page: usize) -> bool {
        let (word, bit) = self.word(page);
        word.fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_page_is_added_once_until_it_is_removed() {
        let set = PageSet::new(130, 1 << 16).unwrap();
        for page in [0, 63, 64, 129] {
            assert!(!set.contains(page) && set.insert(page));
            assert!(set.contains(page) && !set.insert(page));
        }
        assert!(set.remove(64) && !set.remove(64));
        assert_eq!(
            [63, 64, 65].map(|page| set.contains(page)),
            [true, false, false]
        );
        assert!(set.insert(64));
    }

    #[test]
    fn the_next_page_is_the_first_from_there() {
        let set = PageSet::new(200, 1 << 16).unwrap();
        for page in [3, 63, 129] {
            assert!(set.insert(page));
        }
        assert_eq!(
            [0, 3, 4, 63, 64, 129, 130, 200].map(|start| set.next(start)),
            [
                Some(3),
                Some(3),
                Some(63),
                Some(63),
                Some(129),
                Some(129),
                None,
                None
            ]
        );
    }
}
