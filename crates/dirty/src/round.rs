//! One round of tracking through [`Entries`](crate::Entries), on a slice of entries, so that it is tested
//! anywhere.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use tablewalk_uapi::Errno;
use tablewalk_uapi::track::EXPOSE_PGTBL_BIT_TRACK_W;

/// `PTE_VALID`, bit 0.
const VALID: u64 = 1;
/// `PTE_RDONLY`: AP\[2\], bit 7.
const READ_ONLY: u64 = 1 << 7;
/// The mark: the page was not written since the mark was set, unless the entry is dirty.
const MARK: u64 = 1 << EXPOSE_PGTBL_BIT_TRACK_W;
/// State of an entry that was not written since the last round, if it is not dirty.
const CALM: u64 = VALID | READ_ONLY | MARK;

/// One round. No two rounds run at a time on the same entries.
pub(crate) struct Round<'e> {
    /// The entries of the pages, in order.
    pub(crate) entries: &'e [AtomicU64],
    /// A bit for each entry: written, and not reported yet.
    pub(crate) reported: &'e [AtomicU64],
    /// `PTE_DIRTY`.
    pub(crate) dirty: u64,
}

impl Round<'_> {
    /// Clears the dirty state of all entries, invalidates TLBs with `flush`, and calls `each` for each run of
    /// written pages, in order. If `flush` fails, pages whose entries are clean already are reported by the
    /// next call.
    pub(crate) fn collect(
        &self,
        flush: impl FnOnce() -> Result<(), Errno>,
        each: &mut dyn FnMut(Range<u64>),
    ) -> Result<(), Errno> {
        if !self.clean_all() {
            return Ok(());
        }
        fence(Ordering::SeqCst);
        flush()?;
        self.tell(each);
        // Cleared only now: if `each` does not return, the pages are reported again.
        for word in self.reported {
            word.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Notes the written pages and clears their dirty state. Returns whether there is a page to report.
    fn clean_all(&self) -> bool {
        let mut changed = false;
        for (entries, reported) in self.entries.chunks(64).zip(self.reported) {
            let mut bits = reported.load(Ordering::Relaxed);
            for (number, entry) in entries.iter().enumerate() {
                let word = entry.load(Ordering::Relaxed);
                if word & (CALM | self.dirty) != CALM {
                    self.clean(entry, word);
                    bits |= 1_u64 << number;
                }
            }
            reported.store(bits, Ordering::Relaxed);
            changed |= bits != 0;
        }
        changed
    }

    /// Clears the dirty state of one entry while others may write.
    fn clean(&self, entry: &AtomicU64, mut word: u64) {
        while word & VALID != 0 {
            let clean = (word | READ_ONLY | MARK) & !self.dirty;
            let exchanged =
                entry.compare_exchange_weak(word, clean, Ordering::AcqRel, Ordering::Relaxed);
            match exchanged {
                Ok(_) => return,
                Err(found) => word = found,
            }
        }
    }

    fn tell(&self, each: &mut dyn FnMut(Range<u64>)) {
        let mut run = 0..0;
        for (index, word) in (0..).zip(self.reported) {
            let mut bits = word.load(Ordering::Relaxed);
            while bits != 0 {
                let number = index * 64 + u64::from(bits.trailing_zeros());
                bits &= bits - 1;
                if number != run.end {
                    if !run.is_empty() {
                        each(run.clone());
                    }
                    run.start = number;
                }
                run.end = number + 1;
            }
        }
        if !run.is_empty() {
            each(run);
        }
    }
}

/// Restores the dirty state and removes the marks, so that the kernel writes a page back before it drops it.
/// `write` is `PTE_WRITE`.
pub(crate) fn restore(entries: &[AtomicU64], write: u64, dirty: u64) {
    for entry in entries {
        let mut word = entry.load(Ordering::Relaxed);
        while word & VALID != 0 && word & MARK != 0 {
            let writable = if word & write != 0 { READ_ONLY } else { 0 };
            let restored = (word | dirty) & !(MARK | writable);
            match entry.compare_exchange_weak(word, restored, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(found) => word = found,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    extern crate std;
    use std::vec::Vec;

    const WRITE: u64 = 1 << 51;
    const DIRTY: u64 = 1 << 55;

    struct Pages {
        entries: Vec<AtomicU64>,
        reported: [AtomicU64; 3],
    }

    impl Pages {
        /// All entries clean.
        fn new() -> Self {
            let clean = |_| AtomicU64::new(CALM | WRITE);
            Self {
                entries: (0..130).map(clean).collect(),
                reported: [const { AtomicU64::new(0) }; 3],
            }
        }

        /// Does what the CPU does on a write: makes the entry writable again.
        fn write(&self, page: usize) {
            self.entries[page].fetch_and(!READ_ONLY, Ordering::Relaxed);
        }

        fn collect(&self, flush: Result<(), Errno>) -> Result<Vec<(u64, u64)>, Errno> {
            let round = Round {
                entries: &self.entries,
                reported: &self.reported,
                dirty: DIRTY,
            };
            let mut runs = Vec::new();
            round.collect(|| flush, &mut |run| runs.push((run.start, run.end)))?;
            Ok(runs)
        }
    }

    #[test]
    fn a_written_page_is_reported_once() {
        let pages = Pages::new();
        assert_eq!(pages.collect(Err(Errno::ENOMEM)), Ok(Vec::new()));
        // What the kernel does.
        pages.entries[5].fetch_or(DIRTY, Ordering::Relaxed);
        for page in [62, 63, 64, 129] {
            pages.write(page);
        }
        assert_eq!(
            pages.collect(Ok(())).unwrap(),
            [(5, 6), (62, 65), (129, 130)]
        );
        assert_eq!(pages.collect(Ok(())), Ok(Vec::new()));
        pages.write(63);
        assert_eq!(pages.collect(Ok(())).unwrap(), [(63, 64)]);
    }

    #[test]
    fn a_page_written_before_a_failed_flush_is_reported_later() {
        let pages = Pages::new();
        pages.write(7);
        assert_eq!(pages.collect(Err(Errno::EINTR)), Err(Errno::EINTR));
        pages.write(8);
        assert_eq!(pages.collect(Err(Errno::EINTR)), Err(Errno::EINTR));
        // The entry is clean, but a TLB may still have a writable copy: the next round flushes again and
        // reports it.
        assert_eq!(pages.collect(Ok(())).unwrap(), [(7, 9)]);
        assert_eq!(pages.collect(Ok(())), Ok(Vec::new()));
    }

    #[test]
    fn a_page_that_was_not_delivered_is_reported_again() {
        let pages = Pages::new();
        pages.write(7);
        let round = Round {
            entries: &pages.entries,
            reported: &pages.reported,
            dirty: DIRTY,
        };
        let heard = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            round.collect(|| Ok(()), &mut |_| panic!("as a test wants it"))
        }));
        assert!(heard.is_err());
        assert_eq!(pages.collect(Ok(())).unwrap(), [(7, 8)]);
    }

    #[test]
    fn an_entry_without_a_page_is_reported_and_unchanged() {
        let pages = Pages::new();
        pages.entries[3].store(0, Ordering::Relaxed);
        assert_eq!(pages.collect(Ok(())).unwrap(), [(3, 4)]);
        assert_eq!(pages.entries[3].load(Ordering::Relaxed), 0);
    }

    #[test]
    fn restored_entries_are_dirty_and_have_no_mark() {
        let entries = [CALM | WRITE, CALM, 0, VALID | READ_ONLY].map(AtomicU64::new);
        restore(&entries, WRITE, DIRTY);
        let words = entries.map(AtomicU64::into_inner);
        let expected = [
            VALID | WRITE | DIRTY,
            VALID | READ_ONLY | DIRTY,
            0,
            VALID | READ_ONLY,
        ];
        assert_eq!(words, expected);
    }
}
