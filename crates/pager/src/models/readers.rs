//! Handlers that read what comes, faults and the event of a fork. Who forks holds a lock until the event
//! is read, and the policy needs that lock for each fault.

use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
use loom::thread;

use super::check_with;
use crate::readers::{Readers, Working};

/// What has come and is not read.
struct Pending {
    faults: usize,
    /// Pages that are still to be made.
    missing: usize,
    fork: Event,
}

#[derive(PartialEq)]
enum Event {
    ToCome,
    Unread,
    Read,
}

struct Model {
    readers: Readers,
    pending: Mutex<Pending>,
    event_is_read: Condvar,
    /// Something has come to be read, or a handler is done. In place of a look each millisecond.
    has_changed: Condvar,
    allocator: Mutex<()>,
}

impl Model {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("no thread has panicked")
    }

    /// As [`crate::Worker::handle`], but reads one fault at a time: there is one for each handler.
    fn handle(&self) {
        while let Some(working) = self.find_work() {
            drop(self.allocator.lock());
            self.pending().missing -= 1;
            drop(working);
            self.has_changed.notify_all();
        }
    }

    /// Reads events until there is a fault to resolve. `None` when all is done.
    fn find_work(&self) -> Option<Working<'_>> {
        let mut pending = self.pending();
        loop {
            if pending.fork == Event::Unread {
                pending.fork = Event::Read;
                self.event_is_read.notify_one();
            }
            if pending.missing == 0 && pending.fork == Event::Read {
                return None;
            }
            if pending.faults != 0
                && let Some(working) = self.readers.work()
            {
                pending.faults -= 1;
                return Some(working);
            }
            let changed = self.has_changed.wait(pending);
            pending = changed.expect("no thread has panicked");
        }
    }

    fn fork(&self) {
        let _lock = self.allocator.lock();
        let mut pending = self.pending();
        pending.fork = Event::Unread;
        self.has_changed.notify_all();
        while pending.fork == Event::Unread {
            let woken = self.event_is_read.wait(pending);
            pending = woken.expect("no thread has panicked");
        }
    }
}

/// The last free one never works, and each that is done is free again: the fork and both faults end.
#[test]
fn two_handlers_beside_a_fork() {
    check_with(2, || {
        let model = Arc::new(Model {
            readers: Readers::new(),
            pending: Mutex::new(Pending {
                faults: 2,
                missing: 2,
                fork: Event::ToCome,
            }),
            event_is_read: Condvar::new(),
            has_changed: Condvar::new(),
            allocator: Mutex::new(()),
        });
        let _handlings = [model.readers.handle(), model.readers.handle()];
        let start = |body: fn(&Model)| {
            let model = model.clone();
            thread::spawn(move || body(&model))
        };
        let forker = start(Model::fork);
        let handler = start(Model::handle);
        model.handle();
        handler.join().expect("a handler");
        forker.join().expect("a thread");
    });
}
