//! A mutual exclusion lock.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};

use crate::sync::{Futex, Ordering, mutant, ordering};

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and somebody may wait: whoever unlocks wakes one.
const CONTENDED: u32 = 2;

/// A value that one thread uses at a time: the second lock of Drepper's "Futexes Are Tricky".
///
/// A thread that panics unlocks as any other. A thread that holds the lock must not lock it again.
#[derive(Debug)]
pub(crate) struct Mutex<T> {
    state: Futex,
    value: UnsafeCell<T>,
}

/// The lock is held as long as this lives.
#[derive(Debug)]
pub(crate) struct MutexGuard<'l, T>(&'l Mutex<T>);

// SAFETY: whoever holds the lock uses the value, so that it is sent from thread to thread.
unsafe impl<T: Send> Sync for Mutex<T> {}
// SAFETY: gives out `&T` and nothing else by a shared reference.
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
            // Others may wait as well, so it is contended from now on, even when this thread has it.
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
        // SAFETY: the lock is held, and this guard is borrowed alone.
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
