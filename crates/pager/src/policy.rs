//! What comes into a page, how many come with it, and which may go.

use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

/// What a pager is to do. Pages are numbered from the start of the region.
///
/// The methods are called from handler threads or, with signals, from the threads that fault, several
/// at a time, with locks of the pager held; they touch no page of the region, and call nothing of the
/// pager.
///
/// # What they must not wait for
///
/// `fork`, `mremap`, `munmap` and `madvise` of a watched region return when a handler has read their event. So
/// a method waits for nothing that a thread may hold while it makes such a call, or all wait for ever. The
/// allocator of a C library is that: `fork` of glibc holds its locks.
///
/// - [`Policy::fill`], [`Policy::victims`] and [`Policy::taken_back`] may, where [`Policy::waits`] says so and
///   two handlers or more are running, however many threads touch the region: the last one that is free
///   reads events, and leaves faults to the others. With one handler they must not, nor while
///   handlers are stopped until one is left.
/// - [`Policy::discarded`] must not: nobody reads events meanwhile. Nor must the closure of
///   [`Worker::handle`](crate::Worker::handle).
///
/// # When they panic
///
/// The others are called all the same for what was read or taken together, while the panic
/// unwinds: one that panics then ends the process. So does a panic where faults are signals.
pub trait Policy: Sync {
    /// Whether every page is zeros at first: [`Policy::fill`] is not called then. Always the same.
    fn zeros(&self) -> bool {
        false
    }

    /// Whether a read of a page maps the frame of zeros that Linux has, which is shared and read-only; the
    /// first write gets a page of its own, from the kernel. Always the same.
    fn shared_zeros(&self) -> bool {
        false
    }

    /// Whether a method may wait for something that a thread holds while it forks, or changes the region: an
    /// allocator, or a lock. One of several handlers then does nothing but read events while the others
    /// work, and where more faults come than these can take, some wait a millisecond. A policy that allocates
    /// nothing and shares no lock with such a thread says no, and has all handlers resolve faults. Always
    /// the same.
    fn waits(&self) -> bool {
        true
    }

    /// Writes what `page` holds to the start of `bytes`, the frame that it will have, and says how many
    /// bytes it has written: the others become zeros. Before, the frame holds whatever it held last, of
    /// another page maybe. Nobody else sees it yet.
    ///
    /// By default every page is zeros.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] says what the access gets instead of a page.
    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        let _ = (page, bytes);
        Ok(0)
    }

    /// Whether [`Policy::discarded`] is to be called: then `madvise` waits for a handler, and until its event
    /// was read the kernel makes no page of the region. Where one thread discards without a pause, others
    /// may wait long for theirs. Always the same.
    fn hears_of_discards(&self) -> bool {
        false
    }

    /// Takes note that the pages in `pages` were discarded (`MADV_DONTNEED`, `MADV_FREE` or
    /// `MADV_REMOVE`). They are asked for again when they are touched, and hold what [`Policy::fill`] then
    /// writes. By default that is what it wrote before, as with a private mapping of a file; a policy whose
    /// pages are to be zeros from then on, as those of anonymous memory, remembers them here.
    ///
    /// A child that was forked before has its missing pages from the same policy: what is written here changes
    /// what it finds, too, where [`Policy::fill`] is asked after this.
    ///
    /// Called before `madvise` returns, while other handlers wait. With signals nobody is told.
    fn discarded(&self, pages: Range<usize>) {
        let _ = pages;
    }

    /// Which pages to map when `page` is touched; more of them if they are in the same level-3 table
    /// and were not there, and `page` in any case.
    fn around(&self, page: usize) -> Range<usize> {
        page..page + 1
    }

    /// Up to `most` pages that the pool may take back to refill itself; with `None` the kernel gives new
    /// ones.
    ///
    /// Those that I/O of the kernel refers to (`O_DIRECT`, `vmsplice`) stay.
    fn victims(&self, most: usize) -> Option<Range<usize>> {
        let _ = most;
        None
    }

    /// Looks at a page that was taken back, before its frame gets other contents: nobody can write it any
    /// more. `dirty` as hardware or Linux knows it.
    fn taken_back(&self, page: usize, bytes: &[u8], dirty: bool) {
        let _ = (page, bytes, dirty);
    }
}

/// Why there is no page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Not now: the access is tried again, and [`Policy::fill`] is asked again.
    Again,
    /// Never: the access gets `SIGBUS`, or `EFAULT` in a system call, as beyond the end of a file. With
    /// [`Delivery::Threads`](crate::Delivery::Threads) on Linux before 6.6 it gets `SIGSEGV`; no thread may
    /// move the page meanwhile. The page stays like that. In a child it ends
    /// [`Pager::serve_child`](crate::Pager::serve_child) there, with an error.
    Never,
}

/// How many pages come with the one that is touched.
#[derive(Debug)]
pub enum Neighbours {
    /// None.
    Alone,
    /// Those with the same number divided by this one.
    Block(usize),
    /// All of its level-3 table.
    Table,
    /// None at first; twice as many each time that the page behind the last ones is touched.
    Sequential(Sequential),
}

impl Neighbours {
    /// The pages to map with `page`.
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
/// One guess for all threads: a wrong one costs frames, nothing else.
#[derive(Debug)]
pub struct Sequential {
    most: usize,
    next: AtomicUsize,
    window: AtomicUsize,
}

impl Sequential {
    /// Up to `most` pages at a time.
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

/// Goes round the pages of a region: the oldest go first, where they were touched in order.
#[derive(Debug)]
pub struct Clock {
    pages: usize,
    /// Pages that stay behind the hand.
    keep: usize,
    hand: AtomicUsize,
    /// How many were mapped, as [`Clock::mapped`] was told.
    head: AtomicUsize,
}

impl Clock {
    /// For a region of `pages` pages, of which `keep` stay mapped.
    #[must_use]
    pub const fn new(pages: usize, keep: usize) -> Self {
        Self {
            pages,
            keep,
            hand: AtomicUsize::new(0),
            head: AtomicUsize::new(0),
        }
    }

    /// Takes note of pages that were asked for.
    pub fn mapped(&self, pages: usize) {
        self.head.fetch_add(pages, Ordering::Relaxed);
    }

    /// The next pages to go, if more than those to keep are mapped.
    #[must_use]
    pub fn next(&self, most: usize) -> Option<Range<usize>> {
        let (hand, head) = (
            self.hand.load(Ordering::Relaxed),
            self.head.load(Ordering::Relaxed),
        );
        let old = head.checked_sub(hand)?.checked_sub(self.keep)?;
        let start = hand % self.pages.max(1);
        let count = old.min(most).min(self.pages - start);
        if count == 0 {
            return None;
        }
        self.hand.store(hand + count, Ordering::Relaxed);
        Some(start..start + count)
    }
}
