//! Keeps the old contents of discarded pages from coming back.

use core::ops::Range;

use tablewalk_uapi::Errno;

use crate::pages::PageSet;
use crate::rwlock::{RwLock, WriteGuard};
use crate::sync::{AtomicU64, Ordering, mutant, ordering};

/// What was discarded.
///
/// A thread that discards waits until a handler has read the message, and then unmaps the pages. So entries
/// that were installed before the message was read are unmapped, too. From then until the policy knows of the
/// discard, none may be installed: a handler that reads messages holds a lock, and other threads hold it for
/// reading while they install an entry. Contents that the policy has written before it knew are given up.
#[derive(Debug)]
pub(crate) struct Discards {
    /// The number of discarded ranges of which the policy knows.
    count: AtomicU64,
    heard: Option<Heard>,
}

/// What a policy needs that hears of discards.
#[derive(Debug)]
struct Heard {
    reading: RwLock,
    /// Pages that were discarded and not made since. They may still be mapped, with their old contents.
    old: PageSet,
}

/// Counts a discard when it is dropped, even if the policy panics.
#[derive(Debug)]
pub(crate) struct Counted<'d>(&'d Discards);

impl Discards {
    /// For a space whose policy does not hear of discards.
    pub(crate) fn unheard() -> Self {
        Self {
            count: AtomicU64::new(0),
            heard: None,
        }
    }

    /// For a region of `pages` pages of `page` bytes.
    pub(crate) fn heard(pages: usize, page: usize) -> Result<Self, Errno> {
        Ok(Self {
            heard: Some(Heard {
                reading: RwLock::new(),
                old: PageSet::new(pages, page)?,
            }),
            ..Self::unheard()
        })
    }

    /// To be held from before messages are read until the policy has heard of all discards among them.
    pub(crate) fn reading(&self) -> Option<WriteGuard<'_>> {
        let heard = self.heard.as_ref()?;
        (!mutant("discards: installed while messages are read")).then(|| heard.reading.write())
    }

    /// Records that `pages` were discarded, before the policy hears of it.
    pub(crate) fn note(&self, pages: Range<usize>) {
        if let Some(heard) = &self.heard {
            for page in pages {
                heard.old.insert(page);
            }
        }
    }

    /// Counts a discard when the policy has heard of it.
    pub(crate) const fn count(&self) -> Counted<'_> {
        Counted(self)
    }

    /// The number of discards. If it has changed since the policy was asked for the contents of a page, these
    /// may be old.
    pub(crate) fn seen(&self) -> u64 {
        let order = ordering(Ordering::Acquire, "discards: relaxed look at the count");
        self.count.load(order)
    }

    /// Calls `install`, which installs an entry with contents that were written after [`Discards::seen`]
    /// returned `seen`, and returns what it returns; false if they may be old.
    #[inline]
    pub(crate) fn install(&self, seen: u64, page: usize, install: impl FnOnce() -> bool) -> bool {
        let Some(heard) = &self.heard else {
            return install();
        };
        let _no_message = heard.reading.read();
        if self.seen() != seen && !mutant("discards: old contents are installed") {
            return false;
        }
        let is_installed = install();
        if is_installed {
            heard.old.remove(page);
        }
        is_installed
    }

    /// Returns whether `page` was discarded and not made since, and counts it as made.
    pub(crate) fn made(&self, page: usize) -> bool {
        self.heard
            .as_ref()
            .is_some_and(|heard| heard.old.remove(page))
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let order = ordering(Ordering::Release, "discards: relaxed count");
        self.0.count.fetch_add(1, order);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
