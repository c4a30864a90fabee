//! A mutual exclusion lock.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};

use crate::sync::{Futex, Ordering, mutant, ordering};

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Locked, and threads may wait: unlocking wakes one.
const CONTENDED: u32 = 2;

/// A value that one thread uses at a time: the second lock of Drepper's "Futexes Are Tricky".
///
/// A panic unlocks it. A thread that holds the lock must not lock it again.
#[derive(Debug)]
pub(crate) struct Mutex<T> {
    state: Futex,
    value: UnsafeCell<T>,
}

/// Holds the lock as long as this value lives.
#[derive(Debug)]
pub(crate) struct MutexGuard<'l, T>(&'l Mutex<T>);

// SAFETY: only the thread that holds the lock uses the value, so the value moves from thread to thread.
unsafe impl<T: Send> Sync for Mutex<T> {}
// SAFETY: a shared reference gives `&T` and nothing else.
unsafe impl<T: Sync> Sync for MutexGuard<'_, T> {}

impl<T> Mutex<T> {
    #[cfg(not(loom))]
    pub(crate) const fn new(value: T) -> Self {
        Self {
            state: Futex::new(FREE),
            value: UnsafeCell::new(value),
        }
    }

    /// loom's atomics are made when a model runs.
    #[cfg(loom)]
    pub(crate) fn new(value: T) -> Self {
        Self {
            state: Futex::new(FREE),
            value: UnsafeCell::new(value),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let order = ordering(Ordering::Acquire, "mutex: relaxed lock");
        let first = self
            .state
            .compare_exchange(FREE, HELD, order, Ordering::Relaxed);
        if first.is_err() {
            // Other threads may wait too, so the lock is contended from now on, even when this thread holds
            // it.
            let order = ordering(Ordering::Acquire, "mutex: relaxed lock after a wait");
            while self.state.swap(CONTENDED, order) != FREE {
                self.state.wait(CONTENDED);
            }
        }
        MutexGuard(self)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, and the guard is borrowed exclusively.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        let state = &self.0.state;
        let order = ordering(Ordering::Release, "mutex: relaxed unlock");
        if state.swap(FREE, order) == CONTENDED && !mutant("mutex: no wake") {
            state.wake_one();
        }
    }
}
