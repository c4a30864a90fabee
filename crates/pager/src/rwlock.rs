//! A readers-writer lock.

use crate::mutex::{Mutex, MutexGuard};
use crate::sync::{Futex, Ordering, fence, mutant, ordering};

/// One reader that holds the lock. There are at most 64 workers, so neither count overflows.
const READER: u32 = 1;
const READERS: u32 = 0x7fff;
/// One reader that waits.
const WAITER: u32 = 1 << 15;
const WAITERS: u32 = READERS * WAITER;
/// Changes when a writer unlocks.
const PHASE: u32 = 1 << 30;
/// A writer has the lock, or waits until the readers have left.
const WRITER: u32 = 1 << 31;

/// A readers-writer lock that prefers writers: a reader that arrives while a writer waits has to wait for it.
/// The writer passes the lock to all waiting readers before the next writer gets it ("phase-fair",
/// Brandenburg and Anderson): a reader waits for at most one writer and the readers before it.
///
/// A waiting thread is woken once, when it has the lock. A thread that holds the lock for reading must not
/// lock it again.
#[derive(Debug)]
pub(crate) struct RwLock {
    /// Both counts and both bits. Readers wait for it.
    state: Futex,
    /// 1 when the last reader has passed the lock to the writer, which waits for this.
    drained: Futex,
    /// Excludes other writers.
    writers: Mutex<()>,
}

/// Held for reading.
#[derive(Debug)]
pub(crate) struct ReadGuard<'l>(&'l RwLock);

/// Held for writing.
#[derive(Debug)]
pub(crate) struct WriteGuard<'l> {
    lock: &'l RwLock,
    /// Unlocked last, after `lock`.
    _writers: MutexGuard<'l, ()>,
}

impl RwLock {
    pub(crate) fn new() -> Self {
        Self {
            state: Futex::new(0),
            drained: Futex::new(0),
            writers: Mutex::new(()),
        }
    }

    #[inline]
    pub(crate) fn read(&self) -> ReadGuard<'_> {
        let arrive = |state| Some(state + if state & WRITER == 0 { READER } else { WAITER });
        let order = ordering(Ordering::Acquire, "lock: relaxed read");
        let (Ok(before) | Err(before)) = self.state.fetch_update(order, Ordering::Relaxed, arrive);
        if before & WRITER != 0 {
            self.wait_for_phase(before);
        }
        ReadGuard(self)
    }

    /// Waits until the writer in `before` has unlocked, which makes this thread a reader. The phase cannot
    /// change twice in the meantime, since the next writer waits for this reader.
    #[cold]
    fn wait_for_phase(&self, before: u32) {
        let order = ordering(Ordering::Acquire, "lock: relaxed look at the phase");
        loop {
            let state = self.state.load(order);
            if (state ^ before) & PHASE != 0 {
                return;
            }
            self.state.wait(state);
        }
    }

    pub(crate) fn write(&self) -> WriteGuard<'_> {
        let writers = self.writers.lock();
        let order = ordering(Ordering::Acquire, "lock: relaxed write");
        let before = self.state.fetch_or(WRITER, order);
        if before & READERS != 0 {
            let order = ordering(Ordering::Acquire, "lock: relaxed look at the last reader");
            while self.drained.load(order) == 0 {
                self.drained.wait(0);
            }
            self.drained.store(0, Ordering::Relaxed);
        }
        WriteGuard {
            lock: self,
            _writers: writers,
        }
    }

    /// Passes the lock to the writer when the last reader has left.
    #[cold]
    fn admit_writer(&self) {
        // The accesses of earlier readers happen before those of the writer, too.
        if !mutant("lock: no fence of the last reader") {
            fence(Ordering::Acquire);
        }
        let order = ordering(Ordering::Release, "lock: relaxed store of the last reader");
        self.drained.store(1, order);
        if !mutant("lock: no wake of the writer") {
            self.drained.wake_one();
        }
    }
}

impl Drop for ReadGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        let order = ordering(Ordering::Release, "lock: relaxed unlock of a reader");
        let before = self.0.state.fetch_sub(READER, order);
        if before & (WRITER | READERS) == WRITER | READER {
            self.0.admit_writer();
        }
    }
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        let lock = self.lock;
        let order = ordering(Ordering::Release, "lock: relaxed unlock of a writer");
        // No reader has the lock; all waiting readers get it.
        let pass = |state: u32| Some((!state & PHASE) | ((state & WAITERS) / WAITER));
        let (Ok(before) | Err(before)) = lock.state.fetch_update(order, Ordering::Relaxed, pass);
        if before & WAITERS != 0 && !mutant("lock: no wake of readers") {
            lock.state.wake_all();
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
    use core::time::Duration;
    use std::fs;
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    const READERS: usize = 16;
    const ROUNDS: usize = 50;

    /// How often this thread has given its CPU away to wait: what `ru_nvcsw` of getrusage(2) tells.
    fn waits() -> u64 {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = |line: &str| {
            line.strip_prefix("voluntary_ctxt_switches:")?
                .trim()
                .parse()
                .ok()
        };
        status.lines().find_map(line).unwrap()
    }

    #[test]
    fn a_reader_waits_once_for_a_writer_however_many_wait_beside_it() {
        let lock = RwLock::new();
        let (begin, end) = (Barrier::new(READERS + 1), Barrier::new(READERS + 1));
        let arrived = AtomicUsize::new(0);
        let waited = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..READERS {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        begin.wait();
                        let before = waits();
                        arrived.fetch_add(1, Ordering::Relaxed);
                        drop(lock.read());
                        waited.fetch_add(waits() - before, Ordering::Relaxed);
                        end.wait();
                    }
                });
            }
            for round in 1..=ROUNDS {
                let writer = lock.write();
                begin.wait();
                while arrived.load(Ordering::Relaxed) != round * READERS {
                    thread::yield_now();
                }
                // Time to wake each other in vain.
                thread::sleep(Duration::from_millis(1));
                drop(writer);
                end.wait();
            }
        });
        let waited = waited.into_inner();
        // Each reader once in each round, and a little for what a page fault may wait for.
        let most = (READERS * ROUNDS) as u64;
        assert!(
            (1..=most + most / 20).contains(&waited),
            "{waited} waits, not {most}"
        );
    }

    #[test]
    fn readers_that_wait_come_before_the_next_writer() {
        let lock = RwLock::new();
        let order = std::sync::Mutex::new(std::vec::Vec::new());
        let waiting = |count: u32| {
            while lock.state.load(Ordering::Relaxed) & WAITERS != count * WAITER {
                thread::yield_now();
            }
        };
        thread::scope(|scope| {
            let writer = lock.write();
            scope.spawn(|| {
                let _lock = lock.read();
                order.lock().unwrap().push("reader");
            });
            waiting(1);
            scope.spawn(|| {
                let _lock = lock.write();
                order.lock().unwrap().push("writer");
            });
            drop(writer);
        });
        assert_eq!(order.into_inner().unwrap(), ["reader", "writer"]);
    }
}
