//! A kernel of a few pages, for tests of what copies.

#![expect(unsafe_code, reason = "stands in for the ways to a real kernel")]

extern crate std;

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::vec;

use super::program::MOST;
use super::{CopyError, IGNORED, Kernel, Link, OFFSETS, Wanted};

/// An address of the linear map minus the physical address behind it.
pub(super) const OFFSET: u64 = 0xffff_ff80_0000_0000 - 0x4000_0000;
/// Words of a page.
const WORDS: usize = 512;
/// Pages for copies: one for each level, and a batch.
const PAGES: usize = 5 + MOST;

/// The place of a word in its page.
fn index(address: u64) -> usize {
    usize::try_from(address % 4096 / 8).unwrap()
}

/// Memory that is changed by hand.
pub(super) struct Fake {
    memory: BTreeMap<u64, [u64; WORDS]>,
    pages: vec::Vec<AtomicU64>,
    copied: vec::Vec<bool>,
    /// A word that gets this value while the next table is copied, after the first look at its link.
    pub(super) between: Option<(u64, u64)>,
    /// Calls of [`Kernel::copy`].
    pub(super) copies: usize,
}

impl Fake {
    pub(super) fn new() -> Self {
        Self {
            memory: BTreeMap::new(),
            pages: (0..PAGES * WORDS).map(|_| AtomicU64::new(0)).collect(),
            copied: vec![],
            between: None,
            copies: 0,
        }
    }

    /// Writes the word at `address`, whose page is there from then on.
    pub(super) fn write(&mut self, address: u64, word: u64) {
        let page = self.memory.entry(address & !0xfff).or_insert([0; WORDS]);
        page[index(address)] = word;
    }

    fn word(&self, address: u64) -> Option<u64> {
        let page = self.memory.get(&(address & !0xfff))?;
        Some(page[index(address)])
    }

    fn holds(&self, link: Link) -> bool {
        let word = self.word(link.entry);
        word.is_some_and(|word| (word ^ link.descriptor) & !IGNORED == 0)
    }

    fn copy_one(&mut self, wanted: &Wanted, page: usize) -> bool {
        if wanted.link.is_some_and(|link| !self.holds(link)) {
            return false;
        }
        if let Some((address, word)) = self.between.take() {
            self.write(address, word);
        }
        for number in 0..WORDS {
            let Some(word) = self.word(wanted.address + 8 * number as u64) else {
                return false;
            };
            self.pages[page * WORDS + number].store(word, Ordering::Relaxed);
        }
        wanted.link.is_none_or(|link| self.holds(link))
    }
}

// SAFETY: the words are on the heap, and their number does not change.
unsafe impl Kernel for Fake {
    fn own_task(&mut self, _words: &mut [u64]) -> Result<usize, CopyError> {
        Ok(0)
    }

    fn offsets(&mut self, _page_shift: u32) -> Result<heapless::Vec<u64, OFFSETS>, CopyError> {
        // The right one is not the first.
        Ok([OFFSET + (1 << 30), OFFSET].into_iter().collect())
    }

    fn vmcoreinfo(&mut self, _offset: u64, _text: &mut [u8]) -> Result<usize, CopyError> {
        Ok(0)
    }

    fn read(&mut self, address: u64, words: &mut [u64]) -> Result<bool, CopyError> {
        for (place, to) in (address..).step_by(8).zip(words) {
            match self.word(place) {
                Some(word) => *to = word,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn copy(&mut self, chain: &[Link], wanted: &[Wanted], page: usize) -> Result<bool, CopyError> {
        self.copies += 1;
        self.copied.clear();
        if !chain.iter().all(|&link| self.holds(link)) {
            return Ok(false);
        }
        for (number, wanted) in wanted.iter().enumerate() {
            let copied = self.copy_one(wanted, page + number);
            self.copied.push(copied);
        }
        Ok(true)
    }

    fn is_copied(&self, number: usize) -> bool {
        self.copied.get(number) == Some(&true)
    }

    fn pages(&self) -> usize {
        PAGES
    }

    fn batch(&self) -> usize {
        MOST
    }

    fn words(&self, page: usize) -> &[AtomicU64] {
        let words = self.pages.chunks_exact(WORDS).nth(page);
        words.unwrap_or_default()
    }
}
