//! The journal of the target: which address had which frame, and when.
//!
//! The target writes it and the walker reads it, in shared memory. A moment is a number that grows with each
//! change. An interval begins before its page is mapped and ends after it is unmapped, so it is never shorter
//! than the truth: each page that a walk finds must be in an interval. `since` tells from when on a page is
//! certainly mapped, and is reset before its address changes: a walk must find each page that is certainly
//! mapped all the time.

#![expect(unsafe_code, reason = "memory that two processes share")]

use core::mem::forget;
use core::sync::atomic::{AtomicU64, Ordering};

use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::{Errno, Mapping, Sharing};

/// Number of addresses at which the target has pages.
pub(crate) const ADDRESSES: usize = 32;

/// Number of intervals kept for each address.
const KEPT: u64 = 512;
/// The same, as an array length.
const KEPT_LENGTH: usize = 512;

/// Maximum number of changes during one walk: each adds at most one interval to an address, so no interval
/// that ended after the walk began is overwritten.
pub(crate) const MOST_CHANGES: u64 = KEPT - 2;

/// A set of addresses, one bit for each number.
pub(crate) type Set = u64;
const _: () = assert!(ADDRESSES <= 64);

/// When an address had a page.
#[repr(C)]
struct Interval {
    frame: AtomicU64,
    from: AtomicU64,
    until: AtomicU64,
}

/// `until` of a page that is still mapped.
const STILL: u64 = u64::MAX;

#[repr(C)]
struct Log {
    written: AtomicU64,
    intervals: [Interval; KEPT_LENGTH],
}

/// The shared memory; all zeros at first.
#[repr(C)]
pub(crate) struct Journal {
    clock: AtomicU64,
    walks: AtomicU64,
    /// Odd while a change is made and noted.
    changes: AtomicU64,
    /// The addresses of that change.
    touched: AtomicU64,
    /// Not 0 once the target begins to end, which unmaps its pages without a change.
    ending: AtomicU64,
    /// For each address, the moment since which its page is certainly mapped; 0 if that is unknown.
    since: [AtomicU64; ADDRESSES],
    logs: [Log; ADDRESSES],
}

impl Journal {
    /// Allocates a journal that children share. It is never freed.
    pub(crate) fn new() -> Result<&'static Self, Errno> {
        let size = size_of::<Self>();
        let mapping = Mapping::anonymous(size, Protection::READ_WRITE, Sharing::Shared)?;
        let start = mapping.as_ptr().cast();
        forget(mapping);
        // SAFETY: zeros, which are a valid journal of atomics, in memory that nobody unmaps.
        Ok(unsafe { &*start })
    }

    /// Resets the journal after a process has ended.
    pub(crate) fn clear(&self) {
        self.changes.store(0, Ordering::SeqCst);
        self.touched.store(0, Ordering::SeqCst);
        self.ending.store(0, Ordering::SeqCst);
        for since in &self.since {
            since.store(0, Ordering::SeqCst);
        }
        for log in &self.logs {
            log.written.store(0, Ordering::SeqCst);
            for interval in &log.intervals {
                // This interval ended before any moment.
                interval.until.store(0, Ordering::SeqCst);
            }
        }
    }

    fn moment(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Returns the number of walks that have begun.
    pub(crate) fn walks(&self) -> u64 {
        self.walks.load(Ordering::SeqCst)
    }

    /// Called by the target before it changes the given addresses. Returns the moment.
    pub(crate) fn begin(&self, set: Set) -> u64 {
        self.touched.store(set, Ordering::SeqCst);
        self.changes.fetch_add(1, Ordering::SeqCst);
        for (number, since) in self.since.iter().enumerate() {
            if set >> number & 1 != 0 {
                since.store(0, Ordering::SeqCst);
            }
        }
        self.moment()
    }

    /// Called by the target before it ends: from now on no page is certain.
    pub(crate) fn begin_to_end(&self) {
        self.ending.store(1, Ordering::SeqCst);
    }

    /// Returns since when each address has had its current page; 0 if that is unknown.
    pub(crate) fn sure(&self) -> [u64; ADDRESSES] {
        let sure = self
            .since
            .each_ref()
            .map(|since| since.load(Ordering::SeqCst));
        match self.ending.load(Ordering::SeqCst) {
            0 => sure,
            _ => [0; ADDRESSES],
        }
    }

    /// Called by the target: notes the frame at an address after a change that began at `from`.
    pub(crate) fn note(&self, number: usize, frame: Option<u64>, from: u64) {
        let (Some(log), Some(since)) = (self.logs.get(number), self.since.get(number)) else {
            return;
        };
        if frame.is_some() {
            since.store(self.moment(), Ordering::SeqCst);
        }
        let written = log.written.load(Ordering::SeqCst);
        let last = written.checked_sub(1).and_then(|last| log.interval(last));
        let open = last.filter(|last| last.until.load(Ordering::SeqCst) == STILL);
        if open.map(|open| open.frame.load(Ordering::SeqCst)) == frame {
            return;
        }
        if let Some(open) = open {
            open.until.store(self.moment(), Ordering::SeqCst);
        }
        if let (Some(frame), Some(next)) = (frame, log.interval(written)) {
            next.frame.store(frame, Ordering::SeqCst);
            next.from.store(from, Ordering::SeqCst);
            next.until.store(STILL, Ordering::SeqCst);
            log.written.store(written + 1, Ordering::SeqCst);
        }
    }

    /// Called by the target when it has noted the whole change.
    pub(crate) fn end(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// Called by the walker at the start of a walk. Returns the moment.
    pub(crate) fn begin_walk(&self) -> u64 {
        let moment = self.moment();
        self.walks.fetch_add(1, Ordering::SeqCst);
        moment
    }

    /// Waits, by calling `wait`, until the current change is noted. `wait` returns whether the target has
    /// ended. Returns the addresses of a change that will never be noted.
    pub(crate) fn settle<E>(&self, mut wait: impl FnMut() -> Result<bool, E>) -> Result<Set, E> {
        let changes = self.changes.load(Ordering::SeqCst);
        if changes.is_multiple_of(2) {
            return Ok(0);
        }
        loop {
            let ended = wait()?;
            if self.changes.load(Ordering::SeqCst) != changes {
                return Ok(0);
            }
            if ended {
                return Ok(self.touched.load(Ordering::SeqCst));
            }
        }
    }

    /// Returns whether an address had a page with this frame at some moment from `start` to `end`.
    pub(crate) fn had(&self, number: usize, frame: u64, (start, end): (u64, u64)) -> bool {
        self.logs.get(number).is_some_and(|log| {
            log.intervals.iter().any(|interval| {
                interval.frame.load(Ordering::SeqCst) == frame
                    && interval.from.load(Ordering::SeqCst) <= end
                    && interval.until.load(Ordering::SeqCst) >= start
            })
        })
    }

    /// Returns the current moment.
    pub(crate) fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }
}

impl Log {
    fn interval(&self, number: u64) -> Option<&Interval> {
        self.intervals.get(usize::try_from(number % KEPT).ok()?)
    }
}
