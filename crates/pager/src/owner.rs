//! Detects a fork: whether this process is the owner of something.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::{Errno, Mapping};

#[cfg(not(loom))]
use crate::mutex::Mutex;

/// What a process does not share with the one that it was forked from. In a forked child the kernel wipes the
/// page (`MADV_WIPEONFORK`).
///
/// # Invariants
///
/// All bytes 0 are a valid value of each field.
#[derive(Debug)]
struct Page {
    /// The number of the process; 0 until it gets one.
    process: AtomicU64,
    /// See [`users`].
    #[cfg(not(loom))]
    users: Mutex<u32>,
}

/// Null until the first pager is made. Never unmapped.
static PAGE: AtomicPtr<Page> = AtomicPtr::new(ptr::null_mut());
/// The largest number that this process, or one that it was forked from, got.
static LAST: AtomicU64 = AtomicU64::new(0);

/// A process, as no forked child of it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner(u64);

impl Owner {
    /// Returns this process. The first call maps a page, which stays; the others do not fail. `size` is the
    /// page size in bytes.
    pub(crate) fn this(size: usize) -> Result<Self, Errno> {
        let page = match page() {
            Some(page) => page,
            None => make_page(size)?,
        };
        let number = match page.process.load(Ordering::Relaxed) {
            0 => {
                let next = LAST.fetch_add(1, Ordering::Relaxed) + 1;
                // Or another thread has stored a number.
                let stored =
                    page.process
                        .compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed);
                stored.err().unwrap_or(next)
            }
            number => number,
        };
        Ok(Self(number))
    }

    /// Returns whether this is the process that runs.
    pub(crate) fn is_here(self) -> bool {
        page().is_some_and(|page| page.process.load(Ordering::Relaxed) == self.0)
    }
}

/// The number of threads of this process that need its `SIGBUS` handler; `None` before the first pager is
/// made. A child that is forked while this is locked or not 0 finds it unlocked and 0.
#[cfg(not(loom))]
pub(crate) fn users() -> Option<&'static Mutex<u32>> {
    page().map(|page| &page.users)
}

fn page() -> Option<&'static Page> {
    // SAFETY: null, or the start of a page that `make_page` has mapped for good.
    unsafe { PAGE.load(Ordering::Acquire).as_ref() }
}

fn make_page(size: usize) -> Result<&'static Page, Errno> {
    let memory = Mapping::reserve(size, Protection::READ_WRITE)?;
    memory.advise(0..size, Advice::WipeOnFork)?;
    let new: *mut Page = memory.as_ptr().cast();
    let stored = PAGE.compare_exchange(ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire);
    let page = match stored {
        Ok(_) => {
            core::mem::forget(memory);
            new
        }
        // Another thread was faster.
        Err(page) => page,
    };
    // SAFETY: as in `page`; zeros are a valid value.
    Ok(unsafe { &*page })
}
