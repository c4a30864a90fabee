//! A lock for many who move entries, or one who does what must not happen beside that.

use core::sync::atomic::{AtomicU32, Ordering};

use tablewalk_uapi::futex;

/// Somebody is alone, or waits until it is.
const ALONE: u32 = 1 << 31;

/// Between the moment that a page is found missing and the one at which it is there, nobody
///
/// - takes pages back: otherwise it could come, be written, go, and come again with what it held before;
/// - has the kernel copy a page: it looks whether the entry is empty and writes it then, and only its own
///   lock makes one of the two.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicU32);

/// Entries are being moved.
#[derive(Debug)]
pub(crate) struct Moving<'g>(&'g AtomicU32);

/// No entries are being moved.
#[derive(Debug)]
pub(crate) struct Alone<'g>(&'g AtomicU32);

impl Gate {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Waits until nobody is alone.
    #[inline]
    pub(crate) fn move_entries(&self) -> Moving<'_> {
        while self.0.fetch_add(1, Ordering::Acquire) & ALONE != 0 {
            drop(Moving(&self.0));
            self.wait();
        }
        Moving(&self.0)
    }

    /// Waits until nobody moves entries, and nobody else is alone.
    pub(crate) fn be_alone(&self) -> Alone<'_> {
        while self.0.fetch_or(ALONE, Ordering::Acquire) & ALONE != 0 {
            self.wait();
        }
        loop {
            match self.0.load(Ordering::Acquire) {
                ALONE => return Alone(&self.0),
                // A wake, a signal or another state: look again.
                moving => drop(futex::wait(&self.0, moving)),
            }
        }
    }

    /// Waits until nobody is alone, or something else has happened.
    #[cold]
    fn wait(&self) {
        let state = self.0.load(Ordering::Relaxed);
        if state & ALONE != 0 {
            let _ = futex::wait(&self.0, state);
        }
    }
}

impl Drop for Moving<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.0.fetch_sub(1, Ordering::Release) & ALONE != 0 {
            // Who is to be alone waits for the last one.
            let _ = futex::wake_all(self.0);
        }
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.fetch_and(!ALONE, Ordering::Release);
        let _ = futex::wake_all(self.0);
    }
}
