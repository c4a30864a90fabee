//! Keeps one handler free to read events while the others call a policy that may wait for one of these
//! events.

use crate::sync::{AtomicU64, Ordering, has_failed, mutant};

/// The number of handlers, and how many of them are free to read events.
#[derive(Debug)]
pub(crate) struct Readers {
    /// All handlers in the high half, free ones in the low half. No other data depends on the counts.
    state: AtomicU64,
}

const HANDLER: u64 = 1 << 32;
const FREE: u64 = 1;

/// Counts a handler as long as this value lives.
#[derive(Debug)]
pub(crate) struct Handling<'r>(&'r Readers);

/// Counts a handler as busy as long as this value lives.
#[derive(Debug)]
pub(crate) struct Working<'r>(&'r Readers);

impl Readers {
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
        }
    }

    /// Adds a handler, which is free.
    pub(crate) fn handle(&self) -> Handling<'_> {
        self.state.fetch_add(HANDLER + FREE, Ordering::Relaxed);
        Handling(self)
    }

    /// Marks a handler as busy, so that it may wait; `None` for the last free one of several, which must go
    /// on reading events.
    pub(crate) fn work(&self) -> Option<Working<'_>> {
        let keep = u64::from(!mutant("readers: the last free one works"));
        let start = |state: u64| {
            let (handlers, free) = (state / HANDLER, state % HANDLER);
            (handlers == 1 || free > keep).then(|| state - FREE)
        };
        let started = self
            .state
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, start);
        started.is_ok().then(|| Working(self))
    }
}

impl Drop for Handling<'_> {
    fn drop(&mut self) {
        if has_failed() {
            return;
        }
        self.0.state.fetch_sub(HANDLER + FREE, Ordering::Relaxed);
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if has_failed() || mutant("readers: no longer free when done") {
            return;
        }
        self.0.state.fetch_add(FREE, Ordering::Relaxed);
    }
}
