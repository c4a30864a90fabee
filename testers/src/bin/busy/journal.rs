//! What the target knows of its own pages: which address had which frame, from when until when.
//!
//! The target writes, the walker reads, both by memory that they share. A moment is a number that grows with
//! each change. An interval begins before its page is made and ends after it is gone, so that it is never
//! shorter than the truth: what a walk finds has to be in one. Since when a page is surely there is kept
//! beside: that ends before any change of its address begins, and what is there all the time a walk takes has
//! to be found.

#![expect(unsafe_code, reason = "memory that two processes share")]

use core::mem::forget;
use core::sync::atomic::{AtomicU64, Ordering};

use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::{Errno, Mapping, Sharing};

/// Addresses at which the target has pages.
pub(crate) const ADDRESSES: usize = 32;

/// Intervals that are kept for each address.
const KEPT: u64 = 512;
/// The same, as a length.
const KEPT_LENGTH: usize = 512;

/// Changes that the target may make during one walk: each adds an interval at most to an address, and none
/// that ended after the walk began is overwritten.
pub(crate) const MOST_CHANGES: u64 = KEPT - 2;

/// A set of addresses, by their numbers.
pub(crate) type Set = u64;
const _: () = assert!(ADDRESSES <= 64);

/// When an address had a page.
#[repr(C)]
struct Interval {
    frame: AtomicU64,
    from: AtomicU64,
    until: AtomicU64,
}

/// `until` of a page that is there.
const STILL: u64 = u64::MAX;

#[repr(C)]
struct Log {
    written: AtomicU64,
    intervals: [Interval; KEPT_LENGTH],
}

/// The memory that both share; it begins as zeros.
#[repr(C)]
pub(crate) struct Journal {
    clock: AtomicU64,
    walks: AtomicU64,
    /// Odd while a change is being made and noted.
    changes: AtomicU64,
    /// What that change is about.
    touched: AtomicU64,
    /// Not 0 once the target goes about its end, which takes its pages without a change.
    ending: AtomicU64,
    /// For each address the moment since when its page is there; 0 if that is not sure.
    since: [AtomicU64; ADDRESSES],
    logs: [Log; ADDRESSES],
}

impl Journal {
    /// A journal that children share. It stays until the program ends.
    pub(crate) fn new() -> Result<&'static Self, Errno> {
        let size = size_of::<Self>();
        let mapping = Mapping::anonymous(size, Protection::READ_WRITE, Sharing::Shared)?;
        let start = mapping.as_ptr().cast();
        forget(mapping);
        // SAFETY: zeros, which are a journal, in memory that nobody unmaps; it is made of atomics alone.
        Ok(unsafe { &*start })
    }

    /// Forgets the life of another process, which has ended.
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
                // Ended before there was a moment.
                interval.until.store(0, Ordering::SeqCst);
            }
        }
    }

    fn moment(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// How many walks have begun.
    pub(crate) fn walks(&self) -> u64 {
        self.walks.load(Ordering::SeqCst)
    }

    /// The target begins to change what is at addresses; the moment.
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

    /// The target goes about its end: no page is sure any more.
    pub(crate) fn begin_to_end(&self) {
        self.ending.store(1, Ordering::SeqCst);
    }

    /// Since when each address has had the page that it has; 0 if that is not sure.
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

    /// The target notes what is at an address after a change that began at `from`.
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

    /// The target has noted everything.
    pub(crate) fn end(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// The walker begins a walk; the moment.
    pub(crate) fn begin_walk(&self) -> u64 {
        let moment = self.moment();
        self.walks.fetch_add(1, Ordering::SeqCst);
        moment
    }

    /// Waits, with `wait`, until the change that is being made is noted; `wait` returns whether the target
    /// has ended. Returns the addresses of a change that never will be.
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

    /// Whether an address had a page of this frame at some moment from `start` to `end`.
    pub(crate) fn had(&self, number: usize, frame: u64, (start, end): (u64, u64)) -> bool {
        self.logs.get(number).is_some_and(|log| {
            log.intervals.iter().any(|interval| {
                interval.frame.load(Ordering::SeqCst) == frame
                    && interval.from.load(Ordering::SeqCst) <= end
                    && interval.until.load(Ordering::SeqCst) >= start
            })
        })
    }

    /// The moment now.
    pub(crate) fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }
}

impl Log {
    fn interval(&self, number: u64) -> Option<&Interval> {
        self.intervals.get(usize::try_from(number % KEPT).ok()?)
    }
}
