use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::check;
use crate::mutex::Mutex;

fn add(count: &Mutex<UnsafeCell<usize>>) {
    // SAFETY: loom fails if anybody else uses it now.
    count.lock().with_mut(|count| unsafe { *count += 1 });
}

/// `others` threads that count beside the one that starts them.
fn check_threads(others: usize) {
    check(move || {
        let count = Arc::new(Mutex::new(UnsafeCell::new(0)));
        let threads: std::vec::Vec<_> = (0..others)
            .map(|_| {
                let count = count.clone();
                thread::spawn(move || add(&count))
            })
            .collect();
        add(&count);
        for thread in threads {
            thread.join().expect("a thread");
        }
        // SAFETY: as in `add`.
        let sum = count.lock().with(|count| unsafe { *count });
        assert_eq!(sum, 1 + others);
    });
}

#[test]
fn two_threads() {
    check_threads(1);
}

/// One is woken while another one still waits.
#[test]
fn three_threads() {
    check_threads(2);
}
