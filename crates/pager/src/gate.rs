//! A lock for many who resolve faults or one who takes pages back.

use core::sync::atomic::{AtomicU32, Ordering};

use tablewalk_uapi::futex;

/// Somebody takes pages back, or waits to.
const TAKING: u32 = 1 << 31;

/// Between the moment that a page is found missing and the one at which it is there, nobody takes pages
/// back: otherwise it could come, be written, go, and come again with what it held before.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicU32);

/// A fault is being resolved.
#[derive(Debug)]
pub(crate) struct Resolving<'g>(&'g AtomicU32);

/// Pages are being taken back. One at a time has the right to: see [`Ring::refill`](crate::pool::Ring::refill).
#[derive(Debug)]
pub(crate) struct Taking<'g>(&'g AtomicU32);

impl Gate {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    #[inline]
    pub(crate) fn resolve(&self) -> Resolving<'_> {
        while self.0.fetch_add(1, Ordering::Acquire) & TAKING != 0 {
            self.step_back();
        }
        Resolving(&self.0)
    }

    /// Waits until nobody takes pages back.
    #[cold]
    fn step_back(&self) {
        drop(Resolving(&self.0));
        let state = self.0.load(Ordering::Relaxed);
        if state & TAKING != 0 {
            // A wake, a signal or another state: look again.
            let _ = futex::wait(&self.0, state);
        }
    }

    pub(crate) fn take(&self) -> Taking<'_> {
        let mut state = self.0.fetch_or(TAKING, Ordering::Acquire) | TAKING;
        while state != TAKING {
            let _ = futex::wait(&self.0, state);
            state = self.0.load(Ordering::Acquire);
        }
        Taking(&self.0)
    }
}

impl Drop for Resolving<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.0.fetch_sub(1, Ordering::Release) & TAKING != 0 {
            // Whoever takes pages back waits for the last one; the others wait for it.
            let _ = futex::wake_all(self.0);
        }
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.0.fetch_and(!TAKING, Ordering::Release);
        let _ = futex::wake_all(self.0);
    }
}
