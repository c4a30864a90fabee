//! What a page contains, which pages are mapped with it, and which may be taken back.

use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::PagerError;
use crate::pages::PageSet;

/// Bytes of the largest page: memory in units of it is whole pages on every kernel.
const LARGEST_PAGE: usize = 64 << 10;

/// Decides the contents of pages, and which ones to map or take back. Pages are numbered from the start of
/// the region.
///
/// The methods are called from handler threads or, with signals, from the threads that fault. Several may run
/// at a time, and locks of the pager are held: they must not touch pages of the region, nor call the pager.
///
/// # What they must not wait for
///
/// `fork`, `mremap`, `munmap` and `madvise` of a watched region return when a handler has read their event.
/// So a method must not wait for a lock that a thread may hold during such a call: that would be a deadlock.
/// The allocator of a C library has such locks: `fork` of glibc holds them.
///
/// - [`Policy::fill`], [`Policy::victims`] and [`Policy::taken_back`] may wait if [`Policy::waits`] returns
///   true and two or more handlers are running, however many threads touch the region: the last free handler
///   reads events, and leaves faults to the others. With one handler they must not wait, nor while handlers
///   are stopped until one is left.
/// - [`Policy::discarded`] must not wait: no handler reads events during the call. The same holds for the
///   closure of [`Worker::handle`](crate::Worker::handle).
///
/// # When they panic
///
/// While the panic unwinds, the methods are still called for the other events and pages of the same batch: a
/// second panic there ends the process. With signals the first panic does.
pub trait Policy: Sync {
    /// Returns whether every page is zeros at first: [`Policy::fill`] is not called then. Must always return
    /// the same value.
    fn zeros(&self) -> bool {
        false
    }

    /// Returns whether a read maps the zero page of Linux, which is shared and read-only; at the first write
    /// the kernel allocates a page. Must always return the same value.
    fn shared_zeros(&self) -> bool {
        false
    }

    /// Returns whether a method may wait for something that a thread holds while it forks or changes the
    /// region, such as a lock or an allocator. If so, one of several handlers only reads events while the
    /// others work, and some faults wait a millisecond if the others cannot keep up. If a policy allocates
    /// nothing and shares no lock with such a thread, it can return false, and all handlers resolve faults.
    /// Must always return the same value.
    fn waits(&self) -> bool {
        true
    }

    /// Writes the contents of `page` to the start of `bytes`, its future frame, and returns the number of
    /// bytes written; the others become zeros. Before the call the frame may have old contents, even of
    /// another page. No other thread sees the frame yet.
    ///
    /// By default every page is zeros.
    ///
    /// # Errors
    ///
    /// A [`Refusal`], which says what happens to the access.
    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        let _ = (page, bytes);
        Ok(0)
    }

    /// Returns whether [`Policy::discarded`] is to be called. If so, `madvise` waits for a handler, and the
    /// kernel makes no page of the region until its event was read. If one thread discards without pause,
    /// other threads may wait long for their pages. Must always return the same value.
    fn hears_of_discards(&self) -> bool {
        false
    }

    /// Called when `pages` were discarded (`MADV_DONTNEED`, `MADV_FREE` or `MADV_REMOVE`). When they are
    /// touched again, [`Policy::fill`] is called again. By default it writes the same as before, as with a
    /// private mapping of a file; if discarded pages should become zeros, as in anonymous memory, the policy
    /// records them here.
    ///
    /// A child that was forked before gets its missing pages from the same policy: what is recorded here also
    /// changes the pages that the child gets later.
    ///
    /// `madvise` may return before this is called, but no page with contents that were written before is
    /// installed in between. Called with the region locked: other handlers wait. If a page is taken back
    /// while it is discarded, this is called once more, after [`Policy::taken_back`]. Not called with signals.
    fn discarded(&self, pages: Range<usize>) {
        let _ = pages;
    }

    /// Returns the pages to map when `page` is touched. `page` is always mapped, the others only if they are
    /// in the same level-3 table and missing.
    fn around(&self, page: usize) -> Range<usize> {
        page..page + 1
    }

    /// Returns up to `most` pages that the pool may take back to refill itself; with `None` the kernel
    /// allocates new ones.
    ///
    /// Pages that are pinned for I/O (`O_DIRECT`, `vmsplice`) are not taken back.
    fn victims(&self, most: usize) -> Option<Range<usize>> {
        let _ = most;
        None
    }

    /// Called with a page that was taken back, before its frame is reused; no thread can write it any more.
    /// `dirty` is the dirty state that hardware or Linux recorded.
    fn taken_back(&self, page: usize, bytes: &[u8], dirty: bool) {
        let _ = (page, bytes, dirty);
    }
}

/// Why a page is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Not now: the access is repeated, and [`Policy::fill`] is called again.
    Again,
    /// Never: the access gets `SIGBUS`, or `EFAULT` in a system call, as beyond the end of a file. With
    /// [`Delivery::Threads`](crate::Delivery::Threads) on Linux before 6.6 it gets `SIGSEGV`, and no thread
    /// may move the page in the meantime. The refusal is permanent. In a child on such a kernel,
    /// [`Pager::serve_child`](crate::Pager::serve_child) returns an error.
    Never,
}

/// Which pages are mapped together with the one that is touched.
#[derive(Debug)]
pub enum Neighbours {
    /// None.
    Alone,
    /// The aligned block of this many pages around the touched one.
    Block(usize),
    /// All pages of the same level-3 table.
    Table,
    /// None at first; the number doubles each time that the page after the previous block is touched.
    Sequential(Sequential),
}

impl Neighbours {
    /// Returns the pages to map with `page`.
    #[must_use]
    pub fn around(&self, page: usize) -> Range<usize> {
        match self {
            Self::Alone => page..page.saturating_add(1),
            Self::Block(pages) => {
                let start = page - page % (*pages).max(1);
                start..start.saturating_add((*pages).max(1))
            }
            Self::Table => 0..usize::MAX,
            Self::Sequential(sequential) => sequential.around(page),
        }
    }
}

/// Detects that pages are touched in the order of their addresses.
///
/// All threads share one prediction: a wrong one costs frames, nothing else.
#[derive(Debug)]
pub struct Sequential {
    most: usize,
    next: AtomicUsize,
    window: AtomicUsize,
}

impl Sequential {
    /// Predicts up to `most` pages at a time.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self {
            most,
            next: AtomicUsize::new(0),
            window: AtomicUsize::new(1),
        }
    }

    fn around(&self, page: usize) -> Range<usize> {
        let expected = self.next.load(Ordering::Relaxed) == page;
        let window = if expected {
            (2 * self.window.load(Ordering::Relaxed)).min(self.most)
        } else {
            1
        };
        let window = window.max(1);
        self.window.store(window, Ordering::Relaxed);
        let end = page.saturating_add(window);
        self.next.store(end, Ordering::Relaxed);
        page..end
    }
}

/// A clock hand over the pages of a region that are mapped: takes back the oldest first, if they were touched
/// in order.
#[derive(Debug)]
pub struct Clock {
    pages: usize,
    /// Pages that stay mapped.
    keep: usize,
    hand: AtomicUsize,
    mapped: PageSet,
    /// The number of pages in the set.
    count: AtomicUsize,
}

impl Clock {
    /// A clock for a region of `pages` pages, of which `keep` stay mapped. With 0, a page may be taken back
    /// before the thread that has touched it goes on.
    ///
    /// # Errors
    ///
    /// [`PagerError::Call`] if there is no memory for a bit for each page.
    pub fn new(pages: usize, keep: usize) -> Result<Self, PagerError> {
        Ok(Self {
            pages,
            keep,
            hand: AtomicUsize::new(0),
            mapped: PageSet::new(pages.max(1), LARGEST_PAGE).map_err(PagerError::call("mmap"))?,
            count: AtomicUsize::new(0),
        })
    }

    /// Records that `pages` are being mapped. Those outside the region are ignored.
    pub fn mapped(&self, pages: Range<usize>) {
        let added = self
            .mapped
            .insert_all(pages.start..pages.end.min(self.pages));
        self.count.fetch_add(added, Ordering::Relaxed);
    }

    /// Records that `page` is not mapped any more: for [`Policy::taken_back`], and for the pages of
    /// [`Policy::discarded`].
    pub fn taken_back(&self, page: usize) {
        if page < self.pages && self.mapped.remove(page) {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Returns the next pages to take back, if more than `keep` are mapped. They count as mapped until
    /// [`Clock::taken_back`]. Reads a bit for each page of the region at most.
    #[must_use]
    pub fn next(&self, most: usize) -> Option<Range<usize>> {
        let old = self.count.load(Ordering::Relaxed).checked_sub(self.keep)?;
        let most = old.min(most);
        if most == 0 {
            return None;
        }
        let hand = self.hand.load(Ordering::Relaxed);
        let start = self.mapped.next(hand).or_else(|| self.mapped.next(0))?;
        let last = start.saturating_add(most).min(self.pages);
        let end = self.mapped.end_of_run(start..last);
        self.hand.store(end, Ordering::Relaxed);
        Some(start..end)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const PAGES: usize = 450;
    const KEEP: usize = 2;

    /// Touches pages as numbered, and takes back what the clock says after each. Returns the most that were
    /// mapped then.
    fn most_mapped(touches: impl Iterator<Item = usize>) -> usize {
        let clock = Clock::new(PAGES, KEEP).unwrap();
        let mut mapped = [false; PAGES];
        let mut most = 0;
        for page in touches {
            if !mapped[page] {
                mapped[page] = true;
                clock.mapped(page..page + 1);
            }
            while let Some(pages) = clock.next(4) {
                for page in pages {
                    assert!(mapped[page], "{page} is not mapped");
                    mapped[page] = false;
                    clock.taken_back(page);
                }
            }
            most = most.max(mapped.iter().filter(|mapped| **mapped).count());
        }
        most
    }

    #[test]
    fn as_many_stay_mapped_in_any_order() {
        assert_eq!(most_mapped((0..PAGES).cycle().take(3 * PAGES)), KEEP);
        // Every page, in steps that are coprime to their number.
        assert_eq!(most_mapped((0..3 * PAGES).map(|n| n * 191 % PAGES)), KEEP);
    }

    #[test]
    fn a_page_that_is_not_taken_back_is_given_again() {
        let clock = Clock::new(PAGES, 1).unwrap();
        clock.mapped(PAGES - 2..PAGES + 2);
        assert_eq!(clock.next(4), Some(PAGES - 2..PAGES - 1));
        assert_eq!(clock.next(4), Some(PAGES - 1..PAGES));
        assert_eq!(clock.next(4), Some(PAGES - 2..PAGES - 1));
        clock.taken_back(PAGES - 2);
        assert_eq!(clock.next(4), None);
    }
}
