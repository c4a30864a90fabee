//! Sets of pages of a region.

use core::ops::Range;
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
        self.words(start..self.pages)
            .find_map(|(page, word, mask)| {
                let found = word.load(Ordering::Relaxed) & mask;
                (found != 0).then(|| page - page % 64 + found.trailing_zeros() as usize)
            })
    }

    /// Returns the end of the pages in the set that follow each other from the start of `range` on.
    pub(crate) fn end_of_run(&self, range: Range<usize>) -> usize {
        let missing = self.words(range.clone()).find_map(|(page, word, mask)| {
            let missing = !word.load(Ordering::Relaxed) & mask;
            (missing != 0).then(|| page - page % 64 + missing.trailing_zeros() as usize)
        });
        missing.unwrap_or(range.end)
    }

    /// Adds the pages of `range`. Returns how many were not in the set.
    pub(crate) fn insert_all(&self, range: Range<usize>) -> usize {
        let added = |(_, word, mask): (usize, &AtomicU64, u64)| {
            (mask & !word.fetch_or(mask, Ordering::AcqRel)).count_ones() as usize
        };
        self.words(range).map(added).sum()
    }

    /// Returns each word with bits of pages in `range`, which ends where the set does or before: the first of these
    /// pages, the word, and the mask of all of them.
    fn words(&self, range: Range<usize>) -> impl Iterator<Item = (usize, &AtomicU64, u64)> {
        let mut page = range.start;
        core::iter::from_fn(move || {
            if page >= range.end {
                return None;
            }
            let (word, bit) = self.word(page);
            let (first, next) = (page, page - page % 64 + 64);
            page = next;
            // Shifted by less than 64.
            let behind =
                u64::MAX.wrapping_shr(u32::try_from(next.saturating_sub(range.end)).unwrap_or(0));
            Some((first, word, bit.wrapping_neg() & behind))
        })
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

    #[test]
    fn ranges_are_added_and_end_where_a_page_is_missing() {
        let set = PageSet::new(200, 1 << 16).unwrap();
        assert_eq!(set.insert_all(60..130), 70);
        assert_eq!(set.insert_all(0..200), 130);
        assert_eq!(set.insert_all(5..5), 0);
        assert_eq!(set.end_of_run(3..200), 200);
        for page in [199, 128, 63] {
            assert!(set.remove(page));
            assert_eq!(set.end_of_run(3..200), page);
            assert_eq!(set.end_of_run(3..page), page);
        }
        assert_eq!(set.end_of_run(63..200), 63);
        assert_eq!(set.end_of_run(64..128), 128);
    }
}
