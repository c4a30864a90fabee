//! A thread that discards a page, a handler that reads the message, and a worker that installs the page.

use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::check;
use crate::discards::Discards;

const NOTHING: u32 = 0;
const OLD: u32 = 1;
const NEW: u32 = 2;

struct Model {
    discards: Discards,
    /// What the policy knows.
    is_discarded: AtomicBool,
    /// Whether the message was read.
    is_read: Mutex<bool>,
    has_been_read: Condvar,
    entry: AtomicU32,
}

impl Model {
    /// As madvise(2).
    fn discard(&self) {
        let mut is_read = self.is_read.lock().expect("no thread has panicked");
        while !*is_read {
            let woken = self.has_been_read.wait(is_read);
            is_read = woken.expect("no thread has panicked");
        }
        drop(is_read);
        self.entry.swap(NOTHING, Ordering::SeqCst);
    }

    fn read_message(&self) {
        let _installs = self.discards.reading();
        *self.is_read.lock().expect("no thread has panicked") = true;
        self.has_been_read.notify_one();
        let _counted = self.discards.count();
        self.discards.note(0..1);
        self.is_discarded.store(true, Ordering::Relaxed);
    }

    fn install(&self) {
        let seen = self.discards.seen();
        let is_new = self.is_discarded.load(Ordering::Relaxed);
        self.discards.install(seen, 0, || {
            self.entry
                .swap(if is_new { NEW } else { OLD }, Ordering::SeqCst);
            true
        });
    }
}

#[test]
fn a_worker_beside_a_discard() {
    check(|| {
        let model = Arc::new(Model {
            discards: Discards::heard(1, 4096).expect("memory for a bit"),
            is_discarded: AtomicBool::new(false),
            is_read: Mutex::new(false),
            has_been_read: Condvar::new(),
            entry: AtomicU32::new(NOTHING),
        });
        let start = |body: fn(&Model)| {
            let model = model.clone();
            thread::spawn(move || body(&model))
        };
        let threads = [start(Model::read_message), start(Model::install)];
        model.discard();
        for thread in threads {
            thread.join().expect("a thread");
        }
        let entry = model.entry.load(Ordering::SeqCst);
        assert!(entry != OLD, "the old contents came back");
    });
}
