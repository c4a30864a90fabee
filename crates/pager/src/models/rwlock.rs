use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::check;
use crate::rwlock::RwLock;

/// A count that is read and written as the lock allows. loom sees to it that nobody writes it beside
/// somebody else.
struct Count {
    lock: RwLock,
    count: UnsafeCell<u32>,
}

impl Count {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            lock: RwLock::new(),
            count: UnsafeCell::new(0),
        })
    }

    fn read(&self) -> u32 {
        let _lock = self.lock.read();
        // SAFETY: loom fails if anybody writes it now.
        self.count.with(|count| unsafe { *count })
    }

    fn write(&self) {
        let _lock = self.lock.write();
        // SAFETY: loom fails if anybody else uses it now.
        self.count.with_mut(|count| unsafe { *count += 1 });
    }
}

/// `readers` threads that each read `reads` times, beside `writers` that each write `writes` times, of
/// which one is the thread that starts the others.
fn check_threads((readers, reads): (usize, usize), (writers, writes): (usize, usize)) {
    check(move || {
        let count = Count::new();
        let spawn = |times: usize, step: fn(&Count)| {
            let count = count.clone();
            thread::spawn(move || (0..times).for_each(|_| step(&count)))
        };
        let read: fn(&Count) = |count| {
            count.read();
        };
        let mut threads = std::vec::Vec::new();
        threads.extend((0..readers).map(|_| spawn(reads, read)));
        threads.extend((1..writers).map(|_| spawn(writes, Count::write)));
        (0..writes).for_each(|_| count.write());
        for thread in threads {
            thread.join().expect("a thread");
        }
        assert_eq!(count.read() as usize, writers * writes);
    });
}

#[test]
fn two_readers_beside_a_writer() {
    check_threads((2, 1), (1, 1));
}

/// Who waits in one phase comes again in the next one.
#[test]
fn a_reader_and_a_writer_that_come_again() {
    check_threads((1, 2), (1, 2));
}

#[test]
fn two_writers_beside_a_reader() {
    check_threads((1, 1), (2, 1));
}
