//! Handlers that read what comes, faults and the event of a fork. Who forks holds a lock until the event
//! is read, and the policy needs that lock for each fault.

use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
use loom::thread;

use super::check_with;
use crate::readers::Readers;

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
    allocator: Mutex<()>,
}

impl Model {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("no thread has panicked")
    }

    /// Reads what there is, as [`crate::Worker::handle`], but one fault at a time: there is one for each
    /// handler. Whether there may be more.
    fn handle_some(&self) -> bool {
        let mut pending = self.pending();
        if pending.fork == Event::Unread {
            pending.fork = Event::Read;
            self.event_is_read.notify_one();
        }
        if pending.missing == 0 && pending.fork == Event::Read {
            return false;
        }
        let has_fault = pending.faults != 0;
        pending.faults -= usize::from(has_fault);
        drop(pending);
        if has_fault && let Some(_working) = self.readers.work() {
            drop(self.allocator.lock());
            self.pending().missing -= 1;
            return true;
        }
        // The access is made again.
        self.pending().faults += usize::from(has_fault);
        thread::yield_now();
        true
    }

    fn fork(&self) {
        let _lock = self.allocator.lock();
        let mut pending = self.pending();
        pending.fork = Event::Unread;
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
            allocator: Mutex::new(()),
        });
        let _handlings = [model.readers.handle(), model.readers.handle()];
        let start = |body: fn(&Model)| {
            let model = model.clone();
            thread::spawn(move || body(&model))
        };
        let forker = start(Model::fork);
        let handler = start(|model| while model.handle_some() {});
        while model.handle_some() {}
        handler.join().expect("a handler");
        forker.join().expect("a thread");
    });
}
